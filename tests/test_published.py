"""Published networks: MATLAB layer graphs and ONNX files, on layers small enough to work out by hand."""

import json
import os
import shutil
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from test_channels import masked, relative_difference, some_groups
from torch import nn

from facelib import published
from facelib.channels import ChannelGraph
from facelib.faces.crops import RGB_MEANS
from facelib.networks import descriptors
from facelib.results import read_table

SIZE = 4  # of the small networks' images


# --- .mat files as MATLAB writes them


@pytest.fixture
def matlab(tmp_path, monkeypatch):
    """A function from layers (kind, name, fields) and connections (by default one after the other) to a .mat file."""
    matio = pytest.importorskip("matio", reason="needs mat-io")
    from matio.subsystem.subsys import MatSubsystem
    from matio.utils.matclass import MatlabOpaque, MatlabOpaqueArray

    # mat-io 1.0 takes an array of objects within an object for a cell array when it writes one
    written = MatSubsystem.serialize_nested_props
    monkeypatch.setattr(MatSubsystem, "serialize_nested_props", lambda self, value: self.set_object_metadata(value)
                        if isinstance(value, MatlabOpaqueArray) else written(self, value))

    def struct(**fields):
        made = np.empty((1, 1), dtype=[(name, object) for name in fields])
        for name, value in fields.items():
            made[0, 0][name] = (struct(**value) if isinstance(value, dict)
                                else value if isinstance(value, str) else np.atleast_2d(value))
        return made

    def column(values, width=1):
        made = np.empty(len(values), dtype=object)
        made[:] = values
        return made.reshape(-1, width)

    def write(layers, connections=None, variable="nnet.cnn.LayerGraph", image=(SIZE, SIZE, 3), **fields):
        fields = {"InputSize": np.array(image, float), "Normalization": np.zeros((1, 0))} | fields
        layers = [("ImageInputLayer", "in", fields), *layers]
        names = [name for _, name, _ in layers]
        connections = connections or list(pairwise(names))
        saved = [MatlabOpaque({"Version": 1.0, "any": struct(Name=name, **values)}, f"nnet.cnn.layer.{kind}")
                 for kind, name, values in layers]
        cells = column([column(list(side)) for side in zip(*connections)], 2)
        table = MatlabOpaque({"data": cells}, "table")
        content = np.empty((1, 1), dtype=[("Layers", object), ("Connections", object)])
        content[0, 0]["Layers"] = MatlabOpaqueArray(column(saved), "nnet.cnn.layer.Layer")
        content[0, 0]["Connections"] = table
        path = tmp_path / "network.mat"
        matio.save_to_mat(path, {"graph": MatlabOpaque({"any": content}, variable)}, version="v7")
        return path

    return write


def windowed(window, stride=(1, 1), padding=(0, 0, 0, 0), same=False, field="PoolSize"):
    return {field: np.array(window, float), "Stride": np.array(stride, float),
            "PaddingMode": "same" if same else "manual", "PaddingSize": np.array([] if same else padding, float)}


def convolution(name, weights, bias, groups=None, dilation=(1, 1), **window):
    """weights: height x width x inputs of a group x filters (x groups), as in MATLAB."""
    fields = windowed(weights.shape[:2], field="FilterSize", **window) | {
        "DilationFactor": np.array(dilation, float), "Weights": {"Version": 2.0, "Value": weights.astype(np.float32)},
        "Bias": {"Version": 2.0, "Value": np.reshape(bias, (1, 1, -1)).astype(np.float32)}}
    return ("Convolution2DLayer", name, fields) if groups is None else (
        "GroupedConvolution2DLayer", name, fields | {"NumGroups": float(groups)})


def relu(name):
    return "ReLULayer", name, {"Version": 1.0}


def maps(network, image):
    """What the network makes of one image, height x width x 3: its maps, filters x positions."""
    with torch.inference_mode():
        return network.embed(torch.from_numpy(image.transpose(2, 0, 1)[None]).float())[0].numpy()


def correlated(image, weights, bias, stride, dilation=(1, 1)):
    """Convolution as MATLAB documents it, one filter and position after the other, on MATLAB's order of axes."""
    height, width, _, filters = weights.shape
    down, across = ((extent - 1) * step + 1 for extent, step in zip((height, width), dilation))
    found = [(image[row:row + down:dilation[0], column:column + across:dilation[1]] * weights[..., f]).sum() + bias[f]
             for f in range(filters)
             for row in range(0, image.shape[0] - down + 1, stride[0])
             for column in range(0, image.shape[1] - across + 1, stride[1])]
    return np.array(found)


RANDOM = np.random.default_rng(0)
IMAGE = RANDOM.normal(size=(SIZE, SIZE, 3))
COUNTING = np.repeat(np.arange(16.0).reshape(4, 4, 1), 3, axis=2)  # 0 to 15 row by row, in every channel


@pytest.mark.parametrize("stride, dilation, padding", [
    ((1, 1), (1, 1), (0, 0, 0, 0)), ((2, 1), (1, 1), (0, 0, 0, 0)), ((1, 1), (1, 2), (0, 0, 0, 0)),
    ((1, 2), (1, 1), (1, 1, 2, 2)), ((2, 1), (1, 1), (1, 0, 2, 1))])
def test_convolution(matlab, stride, dilation, padding):
    weights, bias = RANDOM.normal(size=(3, 2, 3, 5)), RANDOM.normal(size=5)
    layer = convolution("conv", weights, bias, stride=stride, dilation=dilation, padding=padding)
    network = published.load(matlab([layer]))
    top, bottom, left, right = padding
    image = np.pad(IMAGE, [(top, bottom), (left, right), (0, 0)])
    assert maps(network, IMAGE) == pytest.approx(correlated(image, weights, bias, stride, dilation), abs=1e-5)


@pytest.mark.parametrize("merged", [False, True], ids=["axis of groups", "groups merged"])
def test_grouped_convolution(matlab, merged):
    """Three groups of one input and two filters; MATLAB saves height x width x 1 x 2 x 3, or with the groups merged."""
    weights, bias = RANDOM.normal(size=(2, 3, 1, 2, 3)), RANDOM.normal(size=(2, 3))
    saved = weights.reshape(2, 3, 1, 6, order="F") if merged else weights
    network = published.load(matlab([convolution("conv", saved, bias.ravel(order="F"), groups=3)]))
    expected = [correlated(IMAGE[:, :, [g]], weights[..., g], bias[:, g], (1, 1)) for g in range(3)]
    assert maps(network, IMAGE) == pytest.approx(np.concatenate(expected), abs=1e-5)


def test_same_padding_with_a_stride_goes_to_the_bottom_and_right(matlab):
    """4 positions at stride 2 give 2; windows of 3 then need 5: one row and column more, after the map's own."""
    weights = np.zeros((3, 3, 3, 1))
    weights[:, :, 0, 0] = 1
    network = published.load(matlab([convolution("conv", weights, [0.0], stride=(2, 2), same=True)]))
    assert maps(network, COUNTING).tolist() == [0 + 1 + 2 + 4 + 5 + 6 + 8 + 9 + 10, 2 + 3 + 6 + 7 + 10 + 11,
                                                8 + 9 + 10 + 12 + 13 + 14, 10 + 11 + 14 + 15]


def test_same_padding_covers_a_dilated_window(matlab):
    """Windows of 3 x 2, every second row: 5 rows reach 2 beyond each end, 2 columns 1 beyond the right."""
    weights = RANDOM.normal(size=(3, 2, 3, 5))
    network = published.load(matlab([convolution("conv", weights, np.zeros(5), dilation=(2, 1), same=True)]))
    image = np.pad(IMAGE, [(2, 2), (0, 1), (0, 0)])
    assert maps(network, IMAGE) == pytest.approx(correlated(image, weights, np.zeros(5), (1, 1), (2, 1)), abs=1e-5)


def test_same_padding_follows_the_maps_that_come_in(matlab):
    """Pooled to 3 x 3 first, stride 2 and windows of 3 need no more than one row and column on each side."""
    layers = [("MaxPooling2DLayer", "pool", windowed((2, 2))),
              ("MaxPooling2DLayer", "same", windowed((3, 3), (2, 2), same=True))]
    assert maps(published.load(matlab(layers)), COUNTING)[:4].tolist() == [10, 11, 14, 15]


@pytest.mark.parametrize("fields, expected", [
    (windowed((3, 3)), [-0, -1, -4, -5]),
    (windowed((3, 3), (2, 2)), [-0]),  # what does not fill a window is left out
    (windowed((3, 3), (2, 2), same=True), [-0, -2, -8, -10]),  # beyond the edge there is nothing, not zeros
    (windowed((2, 2), (2, 2), (1, 1, 1, 1)), [-0, -1, -3, -4, -5, -7, -12, -13, -15])])
def test_max_pooling(matlab, fields, expected):
    found = maps(published.load(matlab([("MaxPooling2DLayer", "pool", fields)])), -COUNTING)
    assert found[:len(expected)].tolist() == expected


@pytest.mark.parametrize("fields, expected", [
    (windowed((2, 2), (2, 2)), [2.5, 4.5, 10.5, 12.5]),
    (windowed((3, 3), (2, 2), same=True), [45 / 9, 39 / 9, 66 / 9, 50 / 9]),  # zeros beyond the edge count
    (windowed((2, 2), (2, 2), (1, 1, 1, 1)), [0, 3 / 4, 3 / 4, 12 / 4, 30 / 4, 18 / 4, 12 / 4, 27 / 4, 15 / 4])])
def test_average_pooling(matlab, fields, expected):
    found = maps(published.load(matlab([("AveragePooling2DLayer", "pool", fields)])), COUNTING)
    assert found[:len(expected)] == pytest.approx(expected)


def test_concatenation_joins_in_the_order_of_its_inputs(matlab):
    """The connections name the second input first; the network is the deeper branch, then the image."""
    layers = [("DepthConcatenationLayer", "joined", {"NumInputs": 2.0}),
              convolution("triple", 3 * np.eye(3).reshape(1, 1, 3, 3), np.zeros(3))]
    network = published.load(matlab(layers, [("in", "joined/in2"), ("in", "triple"), ("triple", "joined/in1")]))
    expected = np.concatenate([3 * IMAGE, IMAGE], 2).transpose(2, 0, 1).ravel()
    assert maps(network, IMAGE) == pytest.approx(expected, abs=1e-5)


def test_addition_normalisation_relu_and_global_pooling(matlab):
    learnt = {"Scale": [2.0, 1, 1], "Offset": [1.0, 0, 0]}
    fields = {name: {"Value": np.reshape(value, (1, 1, 3)).astype(np.float32)} for name, value in learnt.items()}
    statistics = {"TrainedMean": [3.0, 0, 0], "TrainedVariance": [15.0, 0, 0]}
    fields |= {name: np.reshape(value, (1, 1, 3)) for name, value in statistics.items()} | {"Epsilon": 1.0}
    layers = [("BatchNormalizationLayer", "norm", fields), relu("relu"), ("AdditionLayer", "sum", {"NumInputs": 2.0}),
              ("GlobalAveragePooling2DLayer", "pool", {})]
    path = matlab(layers, [("in", "norm"), ("norm", "relu"), ("relu", "sum/in1"), ("in", "sum/in2"), ("sum", "pool")])
    image = np.full((SIZE, SIZE, 3), [7.0, 5, -5])
    # (7 - 3) / sqrt(15 + 1) * 2 + 1 = 3, and 7 of the image; 5 / 1 + 5; relu(-5) - 5
    assert maps(published.load(path), image) == pytest.approx([10, 10, -5])


def test_the_classifier_is_left_out(matlab):
    layers = [relu("relu"), ("DropoutLayer", "drop", {"Probability": 0.5}), ("FullyConnectedLayer", "classes", {}),
              ("SoftmaxLayer", "prob", {}), ("ClassificationOutputLayer", "out", {})]
    network = published.load(matlab(layers))
    assert list(network.trunk._modules) == ["relu"] and not network.training
    assert network.config == {"name": "network", "image_size": SIZE}
    assert maps(network, IMAGE) == pytest.approx(np.maximum(IMAGE, 0).transpose(2, 0, 1).ravel(), abs=1e-6)


def test_removal_from_a_rebuilt_network_equals_masking(matlab):
    layers = [convolution("a", RANDOM.normal(size=(3, 3, 3, 8)), RANDOM.normal(size=8), same=True), relu("relu.a"),
              convolution("b", RANDOM.normal(size=(1, 1, 8, 6)), RANDOM.normal(size=6)),
              convolution("c", RANDOM.normal(size=(3, 3, 1, 2, 8)), RANDOM.normal(size=16), groups=8, same=True),
              ("DepthConcatenationLayer", "cat", {"NumInputs": 2.0}),
              convolution("d", RANDOM.normal(size=(1, 1, 22, 5)), RANDOM.normal(size=5))]
    path = matlab(layers, [("in", "a"), ("a", "relu.a"), ("relu.a", "b"), ("relu.a", "c"), ("b", "cat/in1"),
                           ("c", "cat/in2"), ("cat", "d")])
    check_removal(published.load(path), SIZE)


def check_removal(network, size):
    network = network.double()
    images = torch.randn(1, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    graph = ChannelGraph(network, images)
    going = some_groups(graph, 0.2)
    expected = masked(network, graph, going).embed(images)
    before = graph.parameters
    graph.remove(going)
    assert len(going) and graph.parameters < before
    assert relative_difference(network.embed(images), expected) < 1e-12


# --- .mat files that cannot be used


def test_a_layer_is_known_by_its_class_not_by_what_it_saves(matlab):
    with pytest.raises(ValueError, match=r"network.mat: layer 'squash' is a TanhLayer, which is not known here"):
        published.load(matlab([("TanhLayer", "squash", {"Version": 1.0}), relu("relu")]))


def test_graphs_that_cannot_be_rebuilt(matlab):
    with pytest.raises(ValueError, match="one layer that leads to no other, found a, b"):
        published.load(matlab([relu("a"), relu("b")], [("in", "a"), ("in", "b")]))
    with pytest.raises(ValueError, match=r"'joined' \(AdditionLayer\) cannot be rebuilt: 1 layers lead to it"):
        published.load(matlab([("AdditionLayer", "joined", {"NumInputs": 2.0})], [("in", "joined/in1")]))
    with pytest.raises(ValueError, match="from 'pool/indices' to 'relu' lacks a layer"):
        published.load(matlab([relu("relu")], [("pool/indices", "relu")]))
    fields = convolution("conv", np.ones((1, 1, 3, 2)), [0, 0])[2]
    for wrong, text in [({"PaddingValue": 1.0}, "it pads with other values than zero"),
                        ({"Stride": "two"}, "invalid literal"),
                        ({"NumGroups": 2.0}, "its weights are for 6 channels, and 3 come in")]:
        with pytest.raises(ValueError, match=rf"'conv' \(Convolution2DLayer\) cannot be rebuilt: {text}"):
            published.load(matlab([("Convolution2DLayer", "conv", fields | wrong)]))
    layers = [("MaxPooling2DLayer", "pool", windowed((2, 2))), ("AdditionLayer", "sum", {"NumInputs": 2.0})]
    with pytest.raises(ValueError, match=r"'sum' \(AdditionLayer\) cannot be rebuilt: The size of tensor"):
        published.load(matlab(layers, [("in", "pool"), ("in", "sum/in1"), ("pool", "sum/in2")]))
    tail = [("FullyConnectedLayer", "descriptor", {}), ("DropoutLayer", "drop", {}),
            ("FullyConnectedLayer", "classes", {}), ("SoftmaxLayer", "prob", {})]
    for layers in (tail, tail[:2]):  # only the layer before the softmax is the classifier
        with pytest.raises(ValueError, match="layer 'descriptor' is a FullyConnectedLayer, which is not known here"):
            published.load(matlab(layers))
    with pytest.raises(ValueError, match="expected one image input layer, found 2"):
        published.load(matlab([("ImageInputLayer", "again", {}), ("AdditionLayer", "sum", {"NumInputs": 2.0})],
                              [("in", "sum/in1"), ("again", "sum/in2")]))
    with pytest.raises(ValueError, match="'in' normalises the images itself"):
        published.load(matlab([relu("relu")], Normalization="zerocenter"))
    with pytest.raises(ValueError, match="expected square RGB images, found 4 x 4 x 1"):
        published.load(matlab([relu("relu")], image=(SIZE, SIZE, 1)))
    with pytest.raises(ValueError, match="expected one variable of class nnet.cnn.LayerGraph, found 0; in MATLAB"):
        published.load(matlab([relu("relu")], variable="SeriesNetwork"))


def test_files_that_are_no_networks(tmp_path, monkeypatch):
    for name, text in [("a.mat", "cannot read .*a.mat as a MATLAB file"),
                       ("a.onnx", "cannot read .*a.onnx as an ONNX network")]:
        with pytest.raises(ValueError, match="no file at"):
            published.load(tmp_path / name)
        (tmp_path / name).write_bytes(b"no network" * 100)
        with pytest.raises(ValueError, match=text):
            published.load(tmp_path / name)
    with pytest.raises(ValueError, match="expected a network in a .mat or .onnx file, found the ending '.pt'"):
        published.load(tmp_path / "a.pt")
    for package in ("matio.utils.matheaders", "onnxruntime"):
        monkeypatch.setitem(sys.modules, package, None)  # as if it were not installed
    for name, package in [("a.mat", "mat-io"), ("a.onnx", "onnxruntime")]:
        with pytest.raises(ImportError, match=f"package {package}; .*: pip install {package}$"):
            published.load(tmp_path / name)


# --- the authors' network


@pytest.fixture(scope="module")
def squeezefaceposenet():
    pytest.importorskip("matio", reason="needs mat-io")
    folder = Path(os.environ.get("FACELIB_PUBLISHED", Path(__file__).parents[2] / "shared" / "published"))
    path = folder / "SqueezeFacePoseNet_with_separable_DWC.mat"
    if not path.is_file():
        pytest.skip(f"no published network at {path}; set FACELIB_PUBLISHED to the folder that holds it")
    return path


def test_squeezefaceposenet(squeezefaceposenet):
    network = published.load(squeezefaceposenet)
    assert sum(parameter.numel() for parameter in network.parameters()) == 694_056
    assert network.config["image_size"] == 113
    with torch.inference_mode():
        found = network.embed(torch.zeros(2, 3, 113, 113))
    assert found.shape == (2, 1000) and (found >= 0).all() and found.any()
    check_removal(network, 113)


# --- ONNX


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
                                  nn.Conv2d(6, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    def forward(self, images):
        return self.body(images / 100)


def exported(network, path, batch=None, shape=(3, 16, 16), outputs=("descriptor",), open_axes=(0,)):
    """The network as an ONNX file; batch None leaves open_axes open."""
    pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    names = ["images", *outputs]
    axes = {"images": {axis: f"axis{axis}" for axis in open_axes}, **{name: {0: "axis0"} for name in outputs}}
    torch.onnx.export(network.eval(), (torch.zeros(batch or 1, *shape),), path, input_names=names[:1],
                      output_names=names[1:], dynamic_axes=None if batch else axes, dynamo=False)
    return path


@pytest.mark.parametrize("batch", [None, 2], ids=["any batch", "batches of 2"])
def test_onnx_gives_the_descriptors_of_the_network_it_was_made_from(tmp_path, batch, blobs):
    network = Small()
    found = published.load(exported(network, tmp_path / "small.onnx", batch))
    assert found.config == {"name": "small", "image_size": 16}
    network.config, network.embed = found.config, network.forward
    few = blobs.take(np.arange(5))
    expected = descriptors(network.eval(), few)
    assert descriptors(found, few) == pytest.approx(expected, abs=1e-5) and np.ptp(expected) > 0.01


class Means(nn.Module):
    """The mean of each input channel."""

    def forward(self, images):
        return images.mean((2, 3), keepdim=True)


def test_onnx_colours_means_and_scale(tmp_path):
    path = exported(Means(), tmp_path / "means.onnx", open_axes=(0, 2, 3))
    images = (torch.tensor([10.0, 20, 30]) - torch.tensor(RGB_MEANS)).reshape(1, 3, 1, 1).expand(2, 3, 8, 8)

    def found(**options):
        return published.load(path, image_size=8, **options).embed(images)[1].tolist()

    assert found() == pytest.approx([10 - 131.0912, 20 - 103.8827, 30 - 91.4953], abs=1e-4)
    assert found(means=127.5, scale=2) == pytest.approx([-235, -215, -195], abs=1e-3)
    assert found(means=(1, 2, 3), scale=(1, 2, 3), colours="BGR") == pytest.approx([81, 36, 9], abs=1e-3)
    with pytest.raises(ValueError, match="colours: expected RGB or BGR, found 'rgb'"):
        found(colours="rgb")
    with pytest.raises(ValueError, match="means: expected one number, or three for red, green and blue, found 2"):
        found(means=(1, 2))
    with pytest.raises(ValueError, match="image_size: found None, and the file has left it open"):
        published.load(path)


def test_onnx_inputs_that_are_no_images(tmp_path):
    for shape in [(3,), (1, 16, 16), (16, 16, 3), (3, 16, 8)]:
        path = exported(nn.Flatten(), tmp_path / "flat.onnx", shape=shape)
        with pytest.raises(ValueError, match=r"float32 images \(images, 3, size, size\), found images tensor"):
            published.load(path)
    fixed = exported(Small(), tmp_path / "fixed.onnx")
    with pytest.raises(ValueError, match="image_size: found 112, and the file has 16"):
        published.load(fixed, image_size=112)


class Two(nn.Module):
    def forward(self, images):
        return images.mean((2, 3)), images.amax((2, 3))


def test_onnx_with_several_outputs_needs_the_name_of_one(tmp_path):
    path = exported(Two(), tmp_path / "two.onnx", outputs=("mean", "most"))
    images = torch.zeros(1, 3, 16, 16)
    images[0, :, 0, 0] = 256
    assert published.load(path, output="mean").embed(images).tolist() == [[1, 1, 1]]
    assert published.load(path, output="most").embed(images).tolist() == [[256, 256, 256]]
    for options, name in [({}, "None"), ({"output": "logits"}, "logits")]:
        with pytest.raises(ValueError, match=f"the descriptor, one of mean, most; found {name}"):
            published.load(path, **options)


# --- the command


def test_command(tmp_path, blobs_folder, capsys):
    path = exported(Small(), tmp_path / "small.onnx")
    command = [str(path), "--source", "folder", "--root", str(blobs_folder), "--output", str(tmp_path / "out")]
    options = ["--subjects", "3", "--means", "127.5", "--option", "name", str(tmp_path / "mine")]
    assert published.main([*command, *options]) == 0
    table = read_table(tmp_path / "out" / "verification.csv")
    assert list(table.columns) == published.VERIFICATION
    eer = table[table["metric"] == "eer"].set_index(["pair", "template_size"])
    # 3 subjects with 6 images of each of two poses, or two templates of 3
    assert eer["genuine"].to_dict() == {
        ("frontal-frontal", 1): 45, ("frontal-profile", 1): 108, ("profile-profile", 1): 45,
        ("frontal-frontal", 5): 3, ("frontal-profile", 5): 12, ("profile-profile", 5): 3}
    assert eer["impostor"]["frontal-profile", 1] == 6 * 36 and set(table["metric"]) == {"eer", "frr_at_far_0.001"}
    assert table["value"].between(0, 1).all() and (table["network"] == "small").all()
    text = (tmp_path / "out" / "manifest.json").read_text()
    manifest = json.loads(text)
    assert manifest["config"]["options"] == {"means": [127.5]}
    assert manifest["config"]["source_options"] == {"name": "mine"}
    assert manifest["faces"]["tested"]["subjects"] == 3 and manifest["config"]["network"] == "small.onnx"
    assert not any(str(folder) in text for folder in (tmp_path, blobs_folder, Path.cwd()))
    assert published.main([*command, "--subjects", "9"]) == 1
    assert "expected 2 to 8 subjects, as many as there are, found 9" in capsys.readouterr().err


def test_the_last_subjects_in_name_order(blobs):
    assert published.last_subjects(blobs, 2).subject_names == ["s6", "s7"]


def test_listed_pairs_are_verified_where_there_are_no_poses(tmp_path, blobs_folder):
    rows = ["image_a,image_b,same,fold,subject_a,subject_b"]
    for first, second, fold in [(0, 1, 1), (2, 3, 1), (4, 5, 2), (6, 7, 2)]:
        for other in (first, second):
            rows.append(f"s{first}/frontal/0.png,s{other}/profile/1.png,{int(first == other)},{fold},s{first},s{other}")
    shutil.copytree(blobs_folder, tmp_path / "faces")
    (tmp_path / "faces" / "pairs.csv").write_text("\n".join(rows))
    command = [str(exported(Small(), tmp_path / "small.onnx")), "--source", "pairs", "--root", str(tmp_path / "faces"),
               "--output", str(tmp_path)]
    assert published.main(command) == 0
    table = read_table(tmp_path / "verification.csv")
    assert table["protocol"].tolist() == ["pairs"] * 3
    assert table["metric"].tolist() == ["eer", "frr_at_far_0.001", "accuracy"]
    assert set(table["genuine"]) == set(table["impostor"]) == {4}
    assert published.main([*command, "--subjects", "7"]) == 0  # the pairs of a part would be fewer folds than listed
    assert set(read_table(tmp_path / "verification.csv")["protocol"]) == {"pose_pairs"}

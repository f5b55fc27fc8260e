"""Published networks beside ours: MATLAB layer graphs (.mat) and ONNX face networks, verified on any faces.

python -m facelib.published NETWORK --source cfp --root ROOT [--subjects 100] --output FOLDER

writes FOLDER/verification.csv (error rates with intervals) and FOLDER/manifest.json. The packages that read these
files are not among facelib's own: pip install mat-io onnxruntime.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, fx, nn

from facelib import faces, results, verification
from facelib.faces.crops import RGB_MEANS
from facelib.faces.faceset import FaceSet
from facelib.faces.sources import SOURCES
from facelib.networks import descriptors

VERIFICATION = ["network", "protocol", "pair", "template_size", "metric", "value", "ci_low", "ci_high", "genuine",
                "impostor"]
METRICS = ("eer", "frr_at_far_0.001")
TEMPLATE_SIZES = (1, 5)


def load(path: str | Path, **options) -> nn.Module:
    """A published network in evaluation mode, by its file's ending: .mat (`load_mat`) or .onnx (`OnnxNetwork`).

    The network takes what facelib's own take, images (images, 3, size, size) of 0-255 RGB values less
    facelib.faces.crops.RGB_MEANS; `config["image_size"]` is the size, `embed(images)` gives the descriptors
    (images, descriptor), not normalised. So facelib.networks.descriptors works on it.
    options: of `OnnxNetwork`; a .mat has none.
    Raises ValueError when there is no such file or it cannot be used, ImportError when the package that reads it is
    not installed.
    """
    path = Path(path)
    loaders = {".mat": load_mat, ".onnx": OnnxNetwork}
    if path.suffix.lower() not in loaders:
        raise ValueError(f"{path}: expected a network in a .mat or .onnx file, found the ending '{path.suffix}'")
    if not path.is_file():
        raise ValueError(f"no file at {path}; expected a network in a .mat or .onnx file")
    return loaders[path.suffix.lower()](path, **options).eval()


def _missing(package: str, what: str) -> ImportError:
    return ImportError(f"reading {what} needs the package {package}; install it with: pip install {package}")

# --------------------------------------------------------------------------------------------------------------- MATLAB


@dataclass(frozen=True)
class Layer:
    """A layer as MATLAB saved it: its name, its class (without the package), what its saveobj wrote."""

    name: str
    kind: str
    fields: dict

    def pair(self, field: str) -> tuple[int, int]:
        """A field of (vertical, horizontal) values."""
        vertical, horizontal = np.ravel(self.fields[field]).astype(int)
        return int(vertical), int(horizontal)

    def array(self, field: str) -> np.ndarray:
        """A field's numbers, float32; learnable parameters are saved as a struct with their Value."""
        value = self.fields[field]
        return np.asarray(value["Value"] if isinstance(value, dict) else value, dtype=np.float32)


class MatlabNetwork(nn.Module):
    """A layer graph up to its descriptor. Modules of `trunk` have the layers' names (with _ for a dot)."""

    def __init__(self, name: str, trunk: nn.Module, image_size: int):
        super().__init__()
        self.config = {"name": name, "image_size": image_size}
        self.trunk = trunk
        self.flatten = nn.Flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        return self.embed(images)

    def embed(self, images: Tensor) -> Tensor:
        """Descriptors, (images, descriptor), not normalised."""
        return self.flatten(self.trunk(images))


def load_mat(path: str | Path) -> MatlabNetwork:
    """The network of a .mat file that holds one layer graph (nnet.cnn.LayerGraph), rebuilt layer by layer.

    The descriptor is what goes into the classifier, as in the papers: the output, softmax, fully connected and dropout
    layers at the end are left out.
    The papers subtract their means before the network, as facelib does: a normalisation inside it is not supported.
    Raises ValueError naming the layer that is not known or cannot be rebuilt.
    """
    layers, connections = read_graph(Path(path))
    try:
        return _rebuilt(Path(path).stem, layers, connections)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_graph(path: Path) -> tuple[list[Layer], list[tuple[str, str]]]:
    """The layers of a .mat file's layer graph, and its connections (from "layer", to "layer" or "layer/in2")."""
    graphs = {name: value for name, value in _variables(path).items()
              if getattr(value, "classname", None) == "nnet.cnn.LayerGraph"}
    if len(graphs) != 1:
        raise ValueError(f"{path}: expected one variable of class nnet.cnn.LayerGraph, found {len(graphs)}; in MATLAB: "
                         "graph = layerGraph(network); save('network.mat', 'graph', '-v7')")
    graph = _saved(next(iter(graphs.values())))
    try:
        saved = [(layer.classname.rpartition(".")[2], _saved(layer)) for layer in np.ravel(graph["Layers"])]
        layers = [Layer(fields["Name"], kind, fields) for kind, fields in saved]
        sources, destinations = ([str(_plain(cell)) for cell in np.ravel(column)]
                                 for column in np.ravel(graph["Connections"].properties["data"]))
    except (AttributeError, KeyError) as error:
        raise ValueError(f"{path}: its layer graph is not saved as MATLAB's are known to be here: {error!r}") from error
    return layers, list(zip(sources, destinations, strict=True))


def _variables(path: Path) -> dict:
    """The variables of a .mat file; objects of MATLAB classes as mat-io's MatlabOpaque, each with its own class's name.

    mat-io's load_from_mat gives every object in an array the class of the array, which for layers is their common
    ancestor, and a ReLU cannot be told from a tanh by what it saves. So the file's table of objects is asked.
    """
    try:
        from matio.utils.matheaders import MAT_FILE_VERSIONS, read_mat_header
        from matio.v5.matreader5 import MatFile5Reader, read_subsystem
    except ImportError as error:
        raise _missing("mat-io", "MATLAB's .mat files") from error
    try:
        offset, version, byte_order = read_mat_header(path)
        if version != MAT_FILE_VERSIONS.V5:
            raise ValueError("it is not of version 7; save it in MATLAB with '-v7'")
        with open(path, "rb") as file:
            objects = read_subsystem(file, offset, byte_order, raw_data=True, add_table_attrs=False)
            variables = MatFile5Reader(file, byte_order=byte_order, subsystem=objects).get_variables(None)
    except Exception as error:  # given a damaged file, mat-io raises whatever it stumbles over
        raise ValueError(f"cannot read {path} as a MATLAB file: {error}") from error
    for number, value in objects.mcos_object_cache.items() if objects else ():
        value.classname = objects.get_classname(objects.get_object_metadata(number)[0])
    return variables


def _saved(value) -> dict:
    """What an object saved: its properties, or the struct that its saveobj made of them."""
    return _plain(value.properties.get("any", value.properties))


def _plain(value):
    """MATLAB's single structs as dicts and texts as str, also within; other values as they are."""
    if isinstance(value, np.ndarray) and value.size == 1 and value.dtype.names:
        value = {name: value.flat[0][name] for name in value.dtype.names}
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, np.ndarray) and value.size == 1 and value.dtype.kind in "UO":
        return _plain(value.item())
    return value


def _rebuilt(name: str, layers: list[Layer], connections: list[tuple[str, str]]) -> MatlabNetwork:
    inputs = _inputs(layers, connections)
    by_name = {layer.name: layer for layer in layers if layer.name in inputs}
    images = [layer for layer in by_name.values() if layer.kind == "ImageInputLayer"]
    if len(images) != 1:
        raise ValueError(f"expected one image input layer, found {len(images)}")
    image_size = _image_size(images[0])
    graph, modules = fx.Graph(), {}
    nodes = {images[0].name: graph.placeholder("images")}
    maps = {images[0].name: torch.zeros(1, 3, image_size, image_size)}  # the padding of a layer depends on their size
    for layer in map(by_name.__getitem__, TopologicalSorter(inputs).static_order()):
        if layer.name in nodes:
            continue
        target, sources = layer.name.replace(".", "_"), inputs[layer.name]
        modules[target], maps[layer.name] = _module(layer, [maps[source] for source in sources])
        nodes[layer.name] = graph.call_module(target, tuple(nodes[source] for source in sources))
    graph.output(nodes[layer.name])  # the last in order: all others lead to it
    return MatlabNetwork(name, fx.GraphModule(modules, graph), image_size)


def _inputs(layers: list[Layer], connections: list[tuple[str, str]]) -> dict[str, list[str]]:
    """The layers that each layer takes its inputs from, in the inputs' order; without the tail."""
    kinds = {layer.name: layer.kind for layer in layers}
    ports: dict[str, dict[int, str]] = {name: {} for name in kinds}
    for source, destination in connections:
        target, _, port = destination.partition("/")
        if source not in kinds or target not in kinds:
            raise ValueError(f"the connection from '{source}' to '{destination}' lacks a layer at one end")
        ports[target][int(port.removeprefix("in") or 1)] = source
    inputs = {name: [found[port] for port in sorted(found)] for name, found in ports.items()}
    ends = sorted(set(kinds) - {source for source, _ in connections})
    if len(ends) != 1:
        raise ValueError(f"expected one layer that leads to no other, found {', '.join(ends) or 'none'}")
    end, softmax = ends[0], False
    while kinds[end] in TAIL and len(inputs[end]) == 1:
        if kinds[end] == "FullyConnectedLayer" and not softmax:
            break  # it makes a descriptor, not the softmax's logits
        softmax = kinds[end] == "SoftmaxLayer" or softmax and kinds[end] == "DropoutLayer"
        end = inputs.pop(end)[0]
    return inputs


def _module(layer: Layer, maps: list[Tensor]) -> tuple[nn.Module, Tensor]:
    """The torch module of a layer, and what it makes of the maps that come in."""
    if layer.kind not in KINDS:
        raise ValueError(f"layer '{layer.name}' is a {layer.kind}, which is not known here; known are "
                         f"{', '.join(KINDS)}, and {', '.join(sorted(TAIL))} at the end")
    try:
        if len(maps) != layer.fields.get("NumInputs", 1):
            raise ValueError(f"{len(maps)} layers lead to it")
        module = KINDS[layer.kind](layer, maps[0].shape).eval()
        with torch.inference_mode():
            return module, module(*maps)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"layer '{layer.name}' ({layer.kind}) cannot be rebuilt: {error}") from error


def _image_size(layer: Layer) -> int:
    height, width, channels = np.ravel(layer.fields["InputSize"]).astype(int)
    if height != width or channels != 3:
        raise ValueError(f"layer '{layer.name}': expected square RGB images, found {height} x {width} x {channels}")
    if np.size(layer.fields.get("Normalization", [])):
        raise ValueError(f"layer '{layer.name}' normalises the images itself, which is not supported; set its "
                         "Normalization to 'none' in MATLAB if the papers' means are to be subtracted instead")
    return int(height)


def _padding(layer: Layer, extent: tuple[int, int], shape: torch.Size) -> list[int]:
    """Rows and columns that MATLAB adds to maps of `shape`: top, bottom, left, right.

    "same" gives ceil(size / stride) positions; of an odd number to add, the greater half goes to the bottom or right.
    """
    if np.any(layer.fields.get("PaddingValue", 0) != 0):
        raise ValueError("it pads with other values than zero, which is not supported")
    if layer.fields["PaddingMode"] != "same":
        return np.ravel(layer.fields["PaddingSize"]).astype(int).tolist()
    found = []
    for length, reach, stride in zip(shape[2:], extent, layer.pair("Stride")):
        total = max((-(-length // stride) - 1) * stride + reach - length, 0)
        found += [total // 2, total - total // 2]
    return found


def _windowed(layer: Layer, extent: tuple[int, int], shape: torch.Size, make, outside: float = 0.0) -> nn.Module:
    """The module that `make` makes of a padding, after a padding of its own with `outside` where torch's cannot do it:
    where the sides differ, or a pooling window could lie outside the map by more than half."""
    top, bottom, left, right = _padding(layer, extent, shape)
    if top == bottom <= extent[0] // 2 and left == right <= extent[1] // 2:
        return make((top, left))
    return nn.Sequential(nn.ConstantPad2d((left, right, top, bottom), outside), make((0, 0)))


def _convolution(layer: Layer, shape: torch.Size) -> nn.Module:
    """Plain or grouped. MATLAB's weights are height x width x inputs of a group x filters (x groups, or merged)."""
    kernel, dilation = layer.pair("FilterSize"), layer.pair("DilationFactor")
    weights = layer.array("Weights")
    weights = weights.reshape(*weights.shape[:3], -1, order="F") if weights.ndim != 3 else weights[..., None]
    groups = int(np.ravel(layer.fields.get("NumGroups", 1))[0])
    if weights.shape[2] * groups != shape[1]:
        raise ValueError(f"its weights are for {weights.shape[2] * groups} channels, and {shape[1]} come in")

    def make(padding: tuple[int, int]) -> nn.Conv2d:
        convolution = nn.Conv2d(weights.shape[2] * groups, weights.shape[3], kernel, layer.pair("Stride"), padding,
                                dilation, groups)
        convolution.load_state_dict({"weight": torch.from_numpy(weights.transpose(3, 2, 0, 1).copy()),
                                     "bias": torch.from_numpy(layer.array("Bias").ravel())})
        return convolution

    return _windowed(layer, tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation)), shape, make)


def _max_pool(layer: Layer, shape: torch.Size) -> nn.Module:
    window, stride = layer.pair("PoolSize"), layer.pair("Stride")
    return _windowed(layer, window, shape, lambda padding: nn.MaxPool2d(window, stride, padding), -torch.inf)


def _average_pool(layer: Layer, shape: torch.Size) -> nn.Module:
    """Zeros around the map count, as in MATLAB."""
    window, stride = layer.pair("PoolSize"), layer.pair("Stride")
    return _windowed(layer, window, shape, lambda padding: nn.AvgPool2d(window, stride, padding))


def _batch_normalisation(layer: Layer, shape: torch.Size) -> nn.Module:
    fields = {"weight": "Scale", "bias": "Offset", "running_mean": "TrainedMean", "running_var": "TrainedVariance"}
    found = {ours: torch.from_numpy(layer.array(theirs).ravel()) for ours, theirs in fields.items()}
    made = nn.BatchNorm2d(len(found["weight"]), eps=float(np.ravel(layer.fields["Epsilon"])[0]))
    made.load_state_dict(found | {"num_batches_tracked": torch.tensor(0)})
    return made


class Concatenation(nn.Module):
    """Maps joined along their channels."""

    def forward(self, *maps: Tensor) -> Tensor:
        return torch.cat(maps, 1)


class Addition(nn.Module):
    def forward(self, *maps: Tensor) -> Tensor:
        return sum(maps[1:], start=maps[0])


# by MATLAB's class: what makes a module of a layer and the shape of the (first) maps that come in
KINDS = {
    "Convolution2DLayer": _convolution,
    "GroupedConvolution2DLayer": _convolution,
    "BatchNormalizationLayer": _batch_normalisation,
    "ReLULayer": lambda layer, shape: nn.ReLU(),
    "DropoutLayer": lambda layer, shape: nn.Dropout(float(np.ravel(layer.fields["Probability"])[0])),
    "MaxPooling2DLayer": _max_pool,
    "AveragePooling2DLayer": _average_pool,
    "GlobalAveragePooling2DLayer": lambda layer, shape: nn.AdaptiveAvgPool2d(1),
    "DepthConcatenationLayer": lambda layer, shape: Concatenation(),
    "AdditionLayer": lambda layer, shape: Addition(),
}
TAIL = {"FullyConnectedLayer", "DropoutLayer", "SoftmaxLayer", "ClassificationOutputLayer"}

# ----------------------------------------------------------------------------------------------------------------- ONNX


class OnnxNetwork(nn.Module):
    """A face network in an ONNX file, run by onnxruntime on the CPU.

    image_size: side of the network's square input in pixels; needed where the file leaves it open.
    colours: order of the network's input channels, "RGB" or "BGR".
    means, scale: the network's input is (pixel - mean) * scale of 0-255 pixels, one number or three in the order red,
        green, blue. The defaults are the papers'; InsightFace's networks take means=127.5, scale=1/127.5.
    output: name of the output that is the descriptor; needed where there are several.
    A file with a fixed batch size is run that many images at a time. Outputs of more than two axes are flattened.
    Raises ValueError when the file is no ONNX network, its input is not float32 of (images, 3, size, size), or an
    argument is missing or does not fit.
    """

    def __init__(self, path: str | Path, image_size: int | None = None, colours: str = "RGB",
                 means: float | Sequence[float] = RGB_MEANS, scale: float | Sequence[float] = 1.0,
                 output: str | None = None):
        super().__init__()
        if colours not in ("RGB", "BGR"):
            raise ValueError(f"colours: expected RGB or BGR, found {colours!r}")
        self.colours = colours
        # Parameters, so that whoever looks for the network's device finds one. Nothing here is trained.
        self.shift = nn.Parameter(_three("means", RGB_MEANS) - _three("means", means), requires_grad=False)
        self.scale = nn.Parameter(_three("scale", scale), requires_grad=False)
        self.session = _session(Path(path))
        self.input, self.batch, size = _image_input(Path(path), self.session)
        size = size or image_size
        if size is None or image_size not in (None, size):
            raise ValueError(f"{path}: image_size: found {image_size}, and the file has {size or 'left it open'}")
        self.output = _only_output(Path(path), [found.name for found in self.session.get_outputs()], output)
        self.config = {"name": Path(path).stem, "image_size": size}

    def forward(self, images: Tensor) -> Tensor:
        return self.embed(images)

    def embed(self, images: Tensor) -> Tensor:
        """Descriptors, (images, descriptor), not normalised, of 0-255 RGB values less RGB_MEANS."""
        pixels = (images.float() + self.shift) * self.scale
        if self.colours == "BGR":
            pixels = pixels.flip(1)
        pixels = np.ascontiguousarray(pixels.detach().cpu().numpy())
        size = self.batch or len(pixels)
        found = [self._run(pixels[start:start + size], size) for start in range(0, len(pixels), size)]
        return torch.from_numpy(np.concatenate(found)).to(images.device)

    def _run(self, pixels: np.ndarray, size: int) -> np.ndarray:
        filled = np.pad(pixels, [(0, size - len(pixels)), (0, 0), (0, 0), (0, 0)])
        found, = self.session.run([self.output], {self.input: filled})
        return found[:len(pixels)].reshape(len(pixels), -1)


def _three(name: str, values: float | Sequence[float]) -> Tensor:
    found = torch.as_tensor(values, dtype=torch.float32).flatten()
    if found.numel() not in (1, 3):
        raise ValueError(f"{name}: expected one number, or three for red, green and blue, found {found.numel()}")
    return found.expand(3).reshape(1, 3, 1, 1)


def _session(path: Path):
    try:
        import onnxruntime
    except ImportError as error:
        raise _missing("onnxruntime", "ONNX files") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has an exception for each status, and no common class of its own
        raise ValueError(f"cannot read {path} as an ONNX network: {error}") from error


def _image_input(path: Path, session) -> tuple[str, int | None, int | None]:
    """Name, batch size and image size of the input; None for a size that the file leaves open."""
    inputs = session.get_inputs()
    found = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
    if len(inputs) == 1 and inputs[0].type == "tensor(float)" and len(inputs[0].shape) == 4:
        batch, channels, height, width = (size if isinstance(size, int) else None for size in inputs[0].shape)
        if channels in (3, None) and height == width:
            return inputs[0].name, batch, height
    raise ValueError(f"{path}: expected one input of float32 images (images, 3, size, size), found {found}")


def _only_output(path: Path, names: list[str], wanted: str | None) -> str:
    if wanted is None and len(names) == 1:
        return names[0]
    if wanted not in names:
        raise ValueError(f"{path}: output: expected the name of the descriptor, one of {', '.join(names)}; "
                         f"found {wanted}")
    return wanted

# -------------------------------------------------------------------------------------------------------------- command


def verify(network: nn.Module, tested: FaceSet, whole: bool = True) -> pd.DataFrame:
    """Error rates of a network with intervals, one row per protocol, pair, template size and metric.

    Pose pairs with single images and templates of up to 5, except where poses are unknown and the set lists pairs;
    and the pairs that the set lists, with their accuracy, when `tested` is the whole of it.
    """
    found = descriptors(network, tested)
    listed = tested.pairs if whole else {}
    tables = []
    if not listed or not pd.isna(tested.poses).any():
        tables += [verification.evaluate(protocol, found, METRICS) for size in TEMPLATE_SIZES
                   for protocol in verification.pose_pairs(tested.subjects, tested.poses, size)]
    for name, pairs in listed.items():
        protocol = verification.pair_folds(pairs, tested.subjects, name)
        tables.append(verification.evaluate(protocol, found, (*METRICS, "accuracy")))
    return pd.concat(tables, ignore_index=True).assign(network=network.config["name"])[VERIFICATION]


def last_subjects(tested: FaceSet, count: int) -> FaceSet:
    """The last `count` subjects in name order. Raises FaceError when there are fewer."""
    names = tested.subject_names
    if not 2 <= count <= len(names):
        raise faces.FaceError(f"expected 2 to {len(names)} subjects, as many as there are, found {count}")
    return tested.take(pd.Series(tested.subjects).isin(names[-count:]).to_numpy())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m facelib.published", description="Verify a published network on faces.")
    parser.add_argument("network", type=Path, help="a MATLAB layer graph (.mat) or an ONNX network (.onnx)")
    parser.add_argument("--source", required=True, choices=sorted(SOURCES), help="what the faces are (docs/sources.md)")
    parser.add_argument("--root", help="the folder or file that holds them")
    parser.add_argument("--option", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                        help="an option of the source, such as: part test")
    parser.add_argument("--subjects", type=int, metavar="N", help="only the last N in name order (default: all)")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER",
                        help="for verification.csv and manifest.json")
    onnx = parser.add_argument_group("how an ONNX network takes its images (default: as the papers' do)")
    onnx.add_argument("--image-size", type=int, metavar="PIXELS", help="where the file leaves it open")
    onnx.add_argument("--colours", choices=("RGB", "BGR"))
    onnx.add_argument("--means", type=float, nargs="+", help="one, or red, green, blue; of 0-255 values")
    onnx.add_argument("--scale", type=float, nargs="+", help="what the difference to the mean is multiplied by")
    onnx.add_argument("--descriptor", dest="output_name", metavar="NAME", help="the output to take, of several")
    chosen = parser.parse_args(arguments)
    given = {"image_size": chosen.image_size, "colours": chosen.colours, "means": chosen.means, "scale": chosen.scale,
             "output": chosen.output_name}
    options = {name: value for name, value in given.items() if value is not None}
    if options and chosen.network.suffix.lower() != ".onnx":
        parser.error(f"{', '.join(options)}: only for an ONNX network")
    try:
        start = time.monotonic()
        network = load(chosen.network, **options)
        tested = faces.load(chosen.source, chosen.root, **dict(chosen.option))
        if chosen.subjects is not None:
            tested = last_subjects(tested, chosen.subjects)
        table = verify(network, tested, whole=chosen.subjects is None)
    except (ValueError, ImportError) as error:
        print(error, file=sys.stderr)
        return 1
    config = {"network": chosen.network.name, "hash": results.file_hash(chosen.network), "source": chosen.source,
              "subjects": chosen.subjects, "options": options,
              "source_options": {name: Path(value).name for name, value in chosen.option}}  # no path of this machine
    results.write_table(table, VERIFICATION, chosen.output / "verification.csv")
    results.write_json(chosen.output / "manifest.json", results.manifest(
        config, {"verification": {"seconds": round(time.monotonic() - start, 1), "commits": [results.commit()]}}, fingerprint=tested.fingerprint(),
        faces=faces.counts(tested=tested).to_dict("index")))
    print(table.to_string(index=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())

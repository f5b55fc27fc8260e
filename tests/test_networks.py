"""The networks' sizes against PAPERS, their shapes, ImageNet starts, descriptors."""

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from facelib import networks
from facelib.faces.crops import RGB_MEANS, normalise


def test_squeezenet_is_the_papers_size():
    """1.24M: SqueezeNet 1.1 with its 1000-way conv10 has 1,235,496 parameters; each of its 3,944 biases is now a gamma and a beta."""
    network = networks.build("squeezenet", 10)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert sum(m.out_channels for m in convolutions) == 3944
    assert sum(m.weight.numel() for m in convolutions) + 3944 == 1_235_496
    assert sum(p.numel() for p in network.features.parameters()) == 1_235_496 + 3944
    assert sum(p.numel() for p in network.classifier.parameters()) == 10 * 1001


@pytest.mark.parametrize("name, descriptor, parameters, filters", [("squeezenet", 1000, 1_235_496 + 3944, 3944),
                                                                   ("mobilenetv2", 1280, 2_223_872, 17_056),
                                                                   ("resnet50", 2048, 23_508_032, 26_560)])
def test_sizes_are_those_of_the_papers(name, descriptor, parameters, filters):
    """Parameters without the training classifier. MobileNetV2's 3.5M count a 1000-way head of 1,281,000 besides."""
    network = networks.build(name, 7, image_size=65, stem_stride=2).eval()
    assert sum(p.numel() for p in network.features.parameters()) == parameters
    assert sum(m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d)) == filters
    with torch.inference_mode():
        assert network.embed(torch.zeros(2, 3, 65, 65)).shape == (2, descriptor)
        assert network(torch.zeros(2, 3, 65, 65)).shape == (2, 7)


def test_a_random_resnets_blocks_begin_as_the_identity():
    block = networks.build("resnet50", 2, image_size=65, stem_stride=2).features.layer1[1]
    inputs = torch.rand(2, 256, 8, 8)
    assert torch.equal(block(inputs), inputs)


@pytest.mark.parametrize("name", networks.ARCHITECTURES)
def test_stem_stride_1_keeps_the_input_size(name):
    network = networks.build(name, 2, image_size=65, stem_stride=1)
    stem = next(m for m in network.modules() if isinstance(m, nn.Conv2d))
    same = 65 if stem.padding[0] else 63  # SqueezeNet's first convolution has no padding
    assert stem(torch.zeros(1, 3, 65, 65)).shape[2:] == (same, same)


@pytest.mark.parametrize("name", ["mobilenetv2", "resnet50"])
def test_imagenet_start_is_torchvisions_function(name, tmp_path):
    """Of the same pixels, once the papers' means are exchanged for ImageNet's."""
    torch.manual_seed(0)
    made = networks.ARCHITECTURES[name]
    theirs = torchvision.models.get_model(made.torchvision_model).eval()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    torch.save(theirs.state_dict(), tmp_path / "weights.pth")
    network = networks.build(name, 5, image_size=65, stem_stride=2).eval()
    networks.load_imagenet(network, str(tmp_path / "weights.pth"))
    network, theirs, pixels = network.double(), theirs.double(), torch.rand(2, 3, 65, 65).double()
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), networks.IMAGENET_DEVIATION))
    with torch.inference_mode():
        trunk = theirs.features if name == "mobilenetv2" else nn.Sequential(*list(theirs.children())[:-2])
        torch.testing.assert_close(network.features(255 * (pixels - mean)), trunk((pixels - mean) / deviation), rtol=1e-3, atol=1e-3)


def test_every_convolution_is_followed_by_batch_normalisation_then_relu():
    network = networks.build("squeezenet", 10)
    order = []
    for module in network.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda module, *_: order.append(type(module).__name__))
    network(torch.zeros(2, 3, 113, 113))
    places = [i for i, name in enumerate(order) if name == "Conv2d"]
    assert len(places) == 26
    assert all(order[i + 1:i + 3] == ["BatchNorm2d", "ReLU"] for i in places)


@pytest.mark.parametrize("size, stride, stem", [(113, 1, 111), (224, 2, 111), (113, 2, 56)])
def test_113_at_stride_1_gives_the_map_of_224_at_stride_2(size, stride, stem):
    network = networks.build("squeezenet", 10, image_size=size, stem_stride=stride).eval()
    shapes = []
    network.features.conv1.register_forward_hook(lambda module, inputs, output: shapes.append(output.shape))
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, size, size)).shape == (1, 10)
        assert network.embed(torch.zeros(1, 3, size, size)).shape == (1, 1000)
    assert shapes[0] == (1, 64, stem, stem)


@pytest.mark.parametrize("name", networks.ARCHITECTURES)
def test_every_parameter_learns(name):
    network = networks.build(name, 5, image_size=65, stem_stride=2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # a last gamma of 0 learns first, and lets the rest of its block learn
    network(torch.randn(4, 3, 65, 65) * 50).square().mean().backward()
    assert all(torch.isfinite(p.grad).all() and p.grad.abs().sum() > 0 for p in network.parameters())


def test_imagenet_start_gives_the_first_layer_torchvisions_view_of_the_same_image(tmp_path):
    """The same pixels, in our scale with our weights and in torchvision's with torchvision's, differ by one factor and, for
    the different means, one offset per filter: batch normalisation takes both away."""
    theirs = torchvision.models.squeezenet1_1()
    save_file(theirs.state_dict(), tmp_path / "weights.safetensors")
    network = networks.build("squeezenet", 5)
    networks.load_imagenet(network, str(tmp_path / "weights.safetensors"))
    images = torch.randint(0, 256, (4, 3, 113, 113), dtype=torch.uint8)
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), networks.IMAGENET_DEVIATION))
    there = nn.functional.conv2d((images / 255 - mean) / deviation, theirs.features[0].weight)
    here = network.features.conv1.conv(normalise(images))
    normalised = [nn.functional.batch_norm(x, None, None, training=True, eps=1e-12) for x in (there, here)]
    torch.testing.assert_close(*normalised, rtol=1e-3, atol=1e-3)
    assert torch.equal(network.features.fire9.expand3x3.conv.weight, theirs.features[12].expand3x3.weight)
    assert torch.equal(network.features.conv10.conv.weight, theirs.classifier[1].weight)


def test_wrong_imagenet_files_are_errors(tmp_path):
    network = networks.build("squeezenet", 5)
    save_file({"something": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="other.safetensors.*features.0.weight.*something"):
        networks.load_imagenet(network, str(tmp_path / "other.safetensors"))
    with pytest.raises(ValueError, match="found none at .*missing.pth"):
        networks.load_imagenet(network, str(tmp_path / "missing.pth"))


@pytest.mark.parametrize("wrong, complaint", [({"name": "resnet"}, "unknown network 'resnet'; expected one of squeezenet, mobilenetv2, resnet50"),
                                              ({"subjects": 1}, "at least 2 subjects"), ({"stem_stride": 3}, "1 or 2, found 3"),
                                              ({"image_size": 20}, "at least 32, found 20")])
def test_build_refuses_what_it_cannot_make(wrong, complaint):
    with pytest.raises(ValueError, match=complaint):
        networks.build(**({"name": "squeezenet", "subjects": 5} | wrong))


def test_descriptors_are_those_of_the_centre_crops_in_order_and_leave_the_network_as_it_was(blobs):
    network = networks.build("squeezenet", 8, image_size=33).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = networks.descriptors(network, blobs.take([5, 3, 4]), batch_size=2)
    assert found.shape == (3, 1000) and found.dtype == np.float32
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    image = np.asarray(blobs[3][0].resize((38, 42), 2))[(42 - 33) // 2:, (38 - 33) // 2:][:33, :33]  # 33 * 129 / 113 is 38
    images = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None] - torch.tensor(RGB_MEANS).view(1, 3, 1, 1)
    with torch.no_grad():
        expected = network.eval().embed(images)[0].numpy()
    np.testing.assert_allclose(found[1], expected, rtol=1e-3, atol=1e-4)


def test_imagenet_weights_are_found_in_a_folder(tmp_path):
    for name in ("squeezenet1_1_imagenet.safetensors", "mobilenet_v2.pth", "mobilenet_v2.safetensors", "resnet50.txt"):
        (tmp_path / name).touch()
    assert networks.weights_file("squeezenet", str(tmp_path)).name == "squeezenet1_1_imagenet.safetensors"
    with pytest.raises(ValueError, match="found mobilenet_v2.pth, mobilenet_v2.safetensors at"):
        networks.weights_file("mobilenetv2", str(tmp_path))
    with pytest.raises(ValueError, match="resnet50...; found none"):
        networks.weights_file("resnet50", str(tmp_path))

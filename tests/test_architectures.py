"""ChannelGraph on real architectures: removal equals masking, and the channels left are torch-pruning's.

torch-pruning is an oracle for what is removed only; it finds its own couplings, by its own means.
"""

import copy
import re
from functools import partial
from pathlib import Path

import pytest
import torch
import torch_pruning
import torchvision.models
from test_channels import images, lively, masked, relative_difference, some_groups
from torch import nn
from torchvision.models.squeezenet import Fire

from facelib.channels import ChannelError, ChannelGraph
from facelib.networks import build

pytestmark = pytest.mark.slow


class MobileFaceNet(nn.Module):
    """Chen, Liu, Gao, Han 2018 (arXiv 1804.07573), table 1: descriptors of 128 from faces of 112x112, no classifier."""

    def __init__(self, size=112):
        super().__init__()
        self.features = nn.Sequential(self.unit(3, 64, 3, stride=2), self.unit(64, 64, 3, groups=64))
        channels = 64
        table = (2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1)
        for expansion, width, repeats, stride in table:
            for index in range(repeats):
                self.features.append(self.Bottleneck(channels, expansion, width, 1 if index else stride))
                channels = width
        self.features.append(self.unit(128, 512, 1))
        self.features.append(self.unit(512, 512, size // 16, groups=512, linear=True, padding=0))  # global depthwise
        self.features.append(self.unit(512, 128, 1, linear=True))

    def forward(self, x):
        return self.features(x).flatten(1)

    @staticmethod
    def unit(inputs, outputs, kernel, stride=1, groups=1, linear=False, padding=None):
        padding = kernel // 2 if padding is None else padding
        conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), *([] if linear else [nn.PReLU(outputs)]))

    class Bottleneck(nn.Module):
        def __init__(self, inputs, expansion, outputs, stride):
            super().__init__()
            unit, inner = MobileFaceNet.unit, inputs * expansion
            self.body = nn.Sequential(unit(inputs, inner, 1), unit(inner, inner, 3, stride, groups=inner),
                                      unit(inner, outputs, 1, linear=True))
            self.residual = stride == 1 and inputs == outputs

        def forward(self, x):
            return x + self.body(x) if self.residual else self.body(x)


def squeezefaceposenet():
    """Alonso-Fernandez et al. 2020 (arXiv 2007.08566) as released, without the weights: SqueezeNet whose 3x3
    convolutions are depthwise with four filters for each channel; descriptors of 1000, no classifier."""

    def fire(inputs, squeezed, expanded):
        module = Fire(inputs, squeezed, expanded, expanded)
        module.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1, groups=squeezed)
        return module

    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2), fire(64, 16, 64), fire(128, 16, 64),
        fire(128, 32, 128), nn.MaxPool2d(3, 2), fire(256, 32, 128), fire(256, 48, 192), fire(384, 48, 192),
        fire(384, 64, 256), nn.MaxPool2d(3, 2), fire(512, 64, 256), nn.Dropout(), nn.Conv2d(512, 1000, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten())


def from_torchvision(name, **options):
    return partial(torchvision.models.get_model, name, weights=None, **options)


# name: how to build it, image size
ARCHITECTURES = {
    "facelib squeezenet": (partial(build, "squeezenet", 10), 113),
    "facelib mobilenetv2": (partial(build, "mobilenetv2", 10, stem_stride=2), 64),
    "facelib resnet50": (partial(build, "resnet50", 10, stem_stride=2), 64),
    "squeezenet1_1": (from_torchvision("squeezenet1_1"), 64),
    "mobilenet_v2": (from_torchvision("mobilenet_v2"), 64),
    "resnet50": (from_torchvision("resnet50"), 64),
    "mobilenet_v3_large": (from_torchvision("mobilenet_v3_large"), 64),
    "efficientnet_b0": (from_torchvision("efficientnet_b0"), 64),
    "densenet121": (from_torchvision("densenet121"), 64),
    "vgg16_bn": (from_torchvision("vgg16_bn"), 32),
    "googlenet": (from_torchvision("googlenet", aux_logits=False, init_weights=False), 64),
    "inception_v3": (from_torchvision("inception_v3", aux_logits=False, init_weights=False), 75),
    "mnasnet1_0": (from_torchvision("mnasnet1_0"), 64),
    "regnet_y_400mf": (from_torchvision("regnet_y_400mf"), 64),
    "mobilefacenet": (partial(MobileFaceNet, size=64), 64),
    "squeezefaceposenet": (squeezefaceposenet, 65),
}


def made(name):
    torch.manual_seed(0)
    builder, size = ARCHITECTURES[name]
    return lively(builder(), images((4, 3, size, size))), images((2, 3, size, size), seed=1)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_removal_equals_masking_and_training_goes_on(name):
    network, batch = made(name)
    graph = ChannelGraph(network, batch)
    groups = some_groups(graph, 0.2)
    filters = graph.filters - graph.groups.filters[groups].sum()
    with torch.no_grad():
        before, expected = network(batch), masked(network, graph, groups)(batch)
        graph.remove(groups)
        assert relative_difference(network(batch), expected) < 1e-10
        assert relative_difference(network(batch), before) > 1e-3
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert graph.filters == filters == sum(m.out_channels for m in convolutions)
    assert graph.parameters == sum(p.numel() for p in network.parameters())
    network.train()(batch).square().sum().backward()
    for parameter in network.parameters():
        assert parameter.grad.shape == parameter.shape and parameter.grad.isfinite().all()


# torch-pruning's dependencies take no grouped convolution, nor a depthwise one with a channel multiplier
@pytest.mark.parametrize("name", [n for n in ARCHITECTURES if n not in ("regnet_y_400mf", "squeezefaceposenet")])
def test_channels_left_are_those_of_torch_pruning(name):
    network, batch = made(name)
    oracle = copy.deepcopy(network)
    graph = ChannelGraph(network, batch)
    groups = some_groups(graph, 0.2)
    gone = {name: torch.isin(graph.filter_groups(name), torch.as_tensor(groups)) for name in graph.layers.index}
    layers = {name: layer for name, layer in oracle.named_modules() if name in gone}
    for layer in layers.values():  # each filter carries its number, so that what is left of them can be told
        layer.weight.data[:] = torch.arange(len(layer.weight)).view(-1, 1, 1, 1)
    dependencies = torch_pruning.DependencyGraph().build_dependency(oracle, batch)
    for name, layer in layers.items():
        left = layer.weight[:, 0, 0, 0].long()
        if layer.groups == 1 and gone[name][left].any():  # not yet gone with an earlier layer
            indices = gone[name][left].nonzero().flatten().tolist()
            dependencies.get_pruning_group(layer, torch_pruning.prune_conv_out_channels, indices).prune()
    graph.remove(groups)
    for name, layer in layers.items():
        assert layer.weight[:, 0, 0, 0].tolist() == gone[name].logical_not().nonzero().flatten().tolist()
    ours, theirs = network.state_dict(), oracle.state_dict()
    assert {name: value.shape for name, value in ours.items()} == {name: value.shape for name, value in theirs.items()}


def row(name):
    """An architecture's row in docs/architectures.md, as far as it is numbers."""
    builder, size = ARCHITECTURES[name]
    graph = ChannelGraph(builder(), torch.zeros(1, 3, size, size))
    return f"| {name} | {size} | {graph.filters:,} | {len(graph.groups):,} | {graph.parameters:,} | {graph.macs / 1e9:.3f} |"


def test_the_documented_table_is_computed():
    text = (Path(__file__).parents[1] / "docs" / "architectures.md").read_text()
    documented = re.findall(r"^(\| .* \| \d+ \| [\d,]+ \| [\d,]+ \| [\d,]+ \| [\d.]+ \|)", text, re.MULTILINE)
    assert documented == [row(name) for name in ARCHITECTURES]


def test_mobilefacenet_is_the_papers():
    network = MobileFaceNet()
    filters = sum(m.num_features for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    parameters = sum(p.numel() for p in network.parameters()) - filters  # BN folded into one bias for each filter
    assert round(parameters / 1e6, 2) == 0.99  # "0.99M parameters"
    assert MobileFaceNet().eval()(torch.zeros(1, 3, 112, 112)).shape == (1, 128)


def test_squeezefaceposenet_is_the_authors():
    assert sum(p.numel() for p in squeezefaceposenet().parameters()) == 694_056


def test_a_regnet_group_leaves_whole():
    network, batch = made("regnet_y_400mf")
    graph = ChannelGraph(network, batch)
    grouped = graph.layers.query("kind == 'grouped'").index[0]
    groups = graph.filter_groups(grouped)
    assert groups.tolist() == groups[::8].repeat_interleave(8).tolist()  # groups of 8 channels
    conv = network.get_submodule(grouped)
    before = conv.groups
    graph.remove(groups[:1])
    assert (conv.groups, conv.in_channels, conv.out_channels) == (before - 1, 8 * before - 8, 8 * before - 8)


def test_channel_shuffle_is_refused():
    with pytest.raises(ChannelError, match="view .*mixes channels with other axes.*\n.*shufflenetv2.py"):
        ChannelGraph(torchvision.models.shufflenet_v2_x0_5(), torch.zeros(2, 3, 64, 64))

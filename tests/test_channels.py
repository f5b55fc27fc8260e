"""Removing channel groups, on networks small enough to work out by hand, and on SqueezeNet."""

import copy
import inspect

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from facelib.channels import ChannelError, ChannelGraph

IMAGES = torch.zeros(2, 3, 8, 8)


class Plain(nn.Module):
    """conv - BN - ReLU - conv - pool - classifier."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.two = nn.Conv2d(4, 6, 1, bias=False)
        self.classifier = nn.Linear(6, 5)

    def forward(self, x):
        x = self.two(F.relu(self.norm(self.one(x))))
        return self.classifier(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Residual(nn.Module):
    """Two blocks on one residual stream, with a squeeze-and-excite gate on the second."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.inner = nn.Conv2d(4, 5, 3, padding=1)
        self.outer = nn.Conv2d(5, 4, 1)
        self.squeeze = nn.Conv2d(4, 2, 1)
        self.excite = nn.Conv2d(2, 4, 1)
        self.classifier = nn.Linear(4, 3)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.outer(F.relu(self.inner(x)))
        x = x * self.excite(F.relu(self.squeeze(x.mean([2, 3], keepdim=True)))).sigmoid()
        return self.classifier(x.mean((2, 3)))


class Joined(nn.Module):
    """Two branches concatenated, BN after the concatenation, then flattened positions."""

    def __init__(self):
        super().__init__()
        self.left = nn.Conv2d(3, 3, 3)
        self.right = nn.Conv2d(3, 2, 3)
        self.norm = nn.BatchNorm2d(5)
        self.classifier = nn.Linear(20, 3)

    def forward(self, x):
        x = self.norm(torch.cat([self.left(x), self.right(x)], dim=1))
        return self.classifier(torch.flatten(F.max_pool2d(x, 3), 1))


class Depthwise(nn.Module):
    """Pointwise, PReLU with a slope per channel, depthwise, depthwise with multiplier 2, pointwise, grouped."""

    def __init__(self):
        super().__init__()
        self.expand = nn.Conv2d(3, 4, 1)
        self.slopes = nn.PReLU(4)
        self.depthwise = nn.Conv2d(4, 4, 3, groups=4)
        self.multiplied = nn.Conv2d(4, 8, 3, groups=4)
        self.project = nn.Conv2d(8, 6, 1)
        self.grouped = nn.Conv2d(6, 4, 3, groups=2)
        self.classifier = nn.Linear(4, 3)

    def forward(self, x):
        x = self.multiplied(self.depthwise(self.slopes(self.expand(x))))
        return self.classifier(self.grouped(self.project(x)).amax((2, 3)))


SMALL = [Plain, Residual, Joined, Depthwise]


def lively(network, example, seed=0):
    """`network` in float64 and eval mode, with BN statistics and slopes as different as after training."""
    network = network.double()
    generator = torch.Generator().manual_seed(seed)
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = None
        norm.weight.data.uniform_(0.5, 1.5, generator=generator)
        norm.bias.data.uniform_(-0.5, 0.5, generator=generator)
    for prelu in (m for m in network.modules() if isinstance(m, nn.PReLU)):
        prelu.weight.data.uniform_(0.1, 0.4, generator=generator)
    with torch.no_grad():
        network.train()(example)
    return network.eval()


def masked(network, graph, groups):
    """A copy of `network` in which the filters of `groups`, and their BN scales and shifts, are zero."""
    network = copy.deepcopy(network)
    for name, module in network.named_modules():
        if isinstance(module, (nn.Conv2d, nn.modules.batchnorm._BatchNorm)):
            gone = torch.isin(graph.filter_groups(name), torch.as_tensor(groups))
            for parameter in (module.weight, module.bias):
                if parameter is not None:
                    parameter.data[gone] = 0
    return network


def some_groups(graph, share, seed=0):
    """Random groups, a `share` of them, that leave every layer at least one."""
    last = {graph.filter_groups(name)[-1].item() for name in graph.layers.index}
    ids = np.random.default_rng(seed).permutation(graph.groups.index)
    return np.array([i for i in ids[:round(share * len(ids))] if i not in last], dtype=int)


def relative_difference(a, b):
    return ((a - b).norm() / b.norm()).item()


def images(shape=(2, 3, 8, 8), seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


# --- which channels are one


def test_plain_groups_are_the_filters_counted_through_the_network():
    graph = ChannelGraph(Plain(), IMAGES)
    assert graph.filter_groups("one").tolist() == [1, 2, 3, 4]
    assert graph.filter_groups("norm").tolist() == [1, 2, 3, 4]
    assert graph.filter_groups("two").tolist() == [5, 6, 7, 8, 9, 10]
    assert graph.groups.index.tolist() == list(range(1, 11))
    # a filter of `one` has 27 weights and a bias, BN's scale and shift, and 6 weights that read it in `two`;
    # a filter of `two` has 4 weights, and 5 that read it in the classifier
    assert graph.groups.parameters.tolist() == [27 + 1 + 2 + 6] * 4 + [4 + 5] * 6
    assert graph.groups.filters.tolist() == [1] * 10
    assert graph.groups.layers[1] == ("one",) and graph.groups.layers[10] == ("two",)
    assert graph.batchnorm_after("one") == "norm" and graph.batchnorm_after("two") is None


def test_plain_totals():
    graph = ChannelGraph(Plain(), IMAGES)
    assert graph.filters == 10
    assert graph.parameters == (27 * 4 + 4) + 8 + 24 + (30 + 5)
    assert graph.macs == 36 * 27 * 4 + 36 * 4 * 6 + 30  # 6x6 positions of 8x8 without padding
    graph.remove([2, 5, 6])
    assert graph.filters == 7
    assert graph.parameters == (27 * 3 + 3) + 6 + 12 + (20 + 5)
    assert graph.macs == 36 * 27 * 3 + 36 * 3 * 4 + 20


def test_residual_stream_is_one_group_across_layers():
    graph = ChannelGraph(Residual(), IMAGES)
    for layer in ("stem", "outer", "excite"):
        assert graph.filter_groups(layer).tolist() == [1, 2, 3, 4]
    assert graph.filter_groups("inner").tolist() == [5, 6, 7, 8, 9]
    assert len(graph.filter_groups("squeeze")) == 2 and graph.filter_groups("squeeze").min() > 9
    stream = graph.groups.loc[1]
    assert stream.filters == 3 and stream.layers == ("stem", "outer", "excite")
    # stem 27+1, read by inner 5*9; outer 5+1; read by squeeze 2; excite 2+1; read by the classifier 3
    assert stream.parameters == 28 + 45 + 6 + 2 + 3 + 3


def test_concatenation_joins_and_flatten_repeats():
    network = Joined()
    graph = ChannelGraph(network, IMAGES)
    assert graph.filter_groups("norm").tolist() == [1, 2, 3, 4, 5]
    assert graph.batchnorm_after("left") is None
    assert graph.groups.parameters[1] == 27 + 1 + 2 + 4 * 3  # 2x2 positions feed the classifier
    weight = network.classifier.weight.detach().clone()
    graph.remove([2, 5])
    assert network.norm.num_features == 3 and network.classifier.in_features == 12
    assert torch.equal(network.classifier.weight, weight[:, [0, 1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15]])


def test_depthwise_multiplier_and_grouped():
    network = Depthwise()
    graph = ChannelGraph(network, IMAGES)
    assert graph.layers.kind.tolist() == ["pointwise", "depthwise", "depthwise", "pointwise", "grouped"]
    assert graph.layers.kernel.tolist() == ["1x1", "3x3", "3x3", "1x1", "3x3"]
    assert graph.layers.depth.tolist() == [0, 1, 2, 3, 4]
    assert graph.filter_groups("multiplied").tolist() == [1, 1, 2, 2, 3, 3, 4, 4]
    one, other = graph.filter_groups("grouped").unique().tolist()
    assert graph.filter_groups("project").tolist() == [one] * 3 + [other] * 3
    assert graph.groups.filters.tolist() == [4] * 4 + [5] * 2  # expand, depthwise, 2 multiplied; 3 project, 2 grouped
    graph.remove([2, other])
    assert (network.depthwise.groups, network.depthwise.in_channels, network.depthwise.out_channels) == (3, 3, 3)
    assert (network.multiplied.groups, network.multiplied.in_channels, network.multiplied.out_channels) == (3, 3, 6)
    assert (network.grouped.groups, network.grouped.in_channels, network.grouped.out_channels) == (1, 3, 2)
    assert network.slopes.num_parameters == 3
    assert graph.layers.out_channels.tolist() == [3, 3, 6, 3, 2]
    assert graph.layers.out_channels_original.tolist() == [4, 4, 8, 6, 4]
    assert graph.layers.in_channels.tolist() == [3, 3, 3, 6, 3]


def test_a_layer_called_twice_and_a_tied_weight_are_cut_once():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = nn.Conv2d(3, 4, 3, padding=1)
            self.shared = nn.Conv2d(4, 4, 1)
            self.tied = nn.Conv2d(4, 4, 1)
            self.tied.weight = self.shared.weight
            self.last = nn.Conv2d(4, 2, 1)

        def forward(self, x):
            return self.last(self.tied(F.relu(self.shared(F.relu(self.shared(self.stem(x)))))))

    network = lively(Twice(), images())
    graph = ChannelGraph(network, IMAGES)
    assert graph.groups.filters.tolist() == [3, 3, 3, 3]  # stem, shared, tied
    assert graph.groups.parameters[1] == 28 + (4 + 4 - 1) + 1 + 1 + 2  # shared weight once, the two biases, last
    assert graph.macs == 64 * (108 + 2 * 16 + 16 + 8)
    expected = masked(network, graph, [1, 3])(images())
    graph.remove([1, 3])
    assert network.tied.weight is network.shared.weight and network.tied.in_channels == 2
    assert relative_difference(network(images()), expected) < 1e-12


def test_outputs_inputs_and_kept_layers_stay():
    headless = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert ChannelGraph(headless, IMAGES).layers.prunable.to_dict() == {"0": True, "2": False}
    kept = ChannelGraph(Plain(), IMAGES, keep=["two"])
    assert kept.groups.index.tolist() == [1, 2, 3, 4]
    with pytest.raises(ValueError, match="no removable group has the id 0"):
        kept.remove(kept.filter_groups("two"))
    with pytest.raises(ValueError, match="no layer 'conv9'; it has one, norm, two, classifier"):
        ChannelGraph(Plain(), IMAGES, keep=["conv9"])

    class OnImage(nn.Module):  # depthwise on the image, a constant, an addition of the image itself
        def __init__(self):
            super().__init__()
            self.register_buffer("mean", torch.ones(1, 3, 1, 1))
            self.first, self.second = nn.Conv2d(3, 6, 3, padding=1, groups=3), nn.Conv2d(6, 3, 1)
            self.third = nn.Conv2d(3, 2, 1)

        def forward(self, x):
            return self.third(x + self.second(self.first(x - self.mean)))

    graph = ChannelGraph(OnImage(), IMAGES)
    assert not graph.layers.prunable.any() and graph.groups.empty


# --- removal


@pytest.mark.parametrize("build", SMALL)
@pytest.mark.parametrize("seed", range(3))
def test_removal_equals_masking(build, seed):
    network = lively(build(), images())
    graph = ChannelGraph(network, IMAGES)
    groups = some_groups(graph, 0.6, seed)
    assert len(groups)
    before = network(images(seed=1))
    expected = masked(network, graph, groups)
    graph.remove(groups)
    assert relative_difference(network(images(seed=1)), expected(images(seed=1))) < 1e-12
    assert relative_difference(network(images(seed=1)), before) > 1e-3
    assert relative_difference(network.train()(images(seed=1)), expected.train()(images(seed=1))) < 1e-12


@st.composite
def small_networks(draw):
    """Random stacks of convolution, BN, depthwise, residual, gate and branch blocks, with their classifier."""

    class Block(nn.Module):
        def __init__(self, kind, channels, width):
            super().__init__()
            self.kind = kind
            self.one = nn.Conv2d(channels, width if kind in ("plain", "branch") else channels, 3, padding=1,
                                 groups=channels if kind == "depthwise" else 1)
            self.two = nn.Conv2d(channels, width, 1)
            self.norm = nn.BatchNorm2d(self.one.out_channels)
            self.out = {"plain": width, "branch": 2 * width}.get(kind, channels)

        def forward(self, x):
            y = F.hardswish(self.norm(self.one(x)))
            if self.kind == "residual":
                return x + y
            if self.kind == "gate":
                return x * F.adaptive_avg_pool2d(y, 1).sigmoid()
            if self.kind == "branch":
                return torch.cat([y, self.two(x)], 1)
            return y

    width, blocks = draw(st.integers(2, 5)), []
    channels = width
    for kind in draw(st.lists(st.sampled_from(["plain", "residual", "gate", "depthwise", "branch"]), max_size=5)):
        blocks.append(Block(kind, channels, width := draw(st.integers(2, 5))))
        channels = blocks[-1].out
        if kind != "branch":
            del blocks[-1].two
    return nn.Sequential(nn.Conv2d(3, blocks[0].one.in_channels if blocks else channels, 3), *blocks,
                         nn.AdaptiveMaxPool2d(2), nn.Flatten(), nn.Linear(4 * channels, 3))


@settings(max_examples=40, deadline=None)
@given(network=small_networks(), share=st.floats(0, 1), seed=st.integers(0, 1000))
def test_removal_equals_masking_on_random_networks(network, share, seed):
    network = lively(network, images(seed=seed))
    graph = ChannelGraph(network, IMAGES)
    groups = some_groups(graph, share, seed)
    removed = graph.groups.loc[groups].filters.sum()
    filters = graph.filters
    expected = masked(network, graph, groups)(images())
    graph.remove(groups)
    assert relative_difference(network(images()), expected) < 1e-10
    assert graph.filters == filters - removed == sum(m.out_channels for m in network.modules() if type(m) is nn.Conv2d)


def test_counts_are_those_of_the_network_at_every_step():
    network = Residual()
    graph = ChannelGraph(network, IMAGES)
    for group in (1, 6, 3):
        row, filters, parameters = graph.groups.loc[group], graph.filters, graph.parameters
        graph.remove([group])
        assert graph.filters == filters - row.filters
        assert graph.parameters == parameters - row.parameters == sum(p.numel() for p in network.parameters())
        assert group not in graph.groups.index
    assert graph.filter_groups("stem").tolist() == [2, 4]
    assert graph.removed.tolist() == [1, 3, 6]


def test_momentum_statistics_and_weights_follow_the_survivors():
    network = Plain()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for parameter in network.parameters():
        values = torch.arange(float(parameter.numel())).view_as(parameter)
        parameter.data.copy_(values)
        optimizer.state[parameter]["momentum_buffer"] = values + 0.5
    network.norm.running_mean.copy_(torch.tensor([10.0, 11, 12, 13]))
    network.norm.running_var.copy_(torch.tensor([20.0, 21, 22, 23]))
    same = dict(network.named_parameters())
    # leaves filters 1 and 3 of `one`, 0 and 4 of `two`
    ChannelGraph(network, IMAGES).remove(torch.tensor([1, 3, 6, 7, 8, 10]), optimizer)
    two = [[[[1.0]], [[3.0]]], [[[17.0]], [[19.0]]]]  # rows 0 and 4 of 4 columns, columns 1 and 3
    assert network.two.weight.tolist() == two
    assert optimizer.state[network.two.weight]["momentum_buffer"].sub(0.5).tolist() == two
    assert network.classifier.weight.tolist() == [[6.0 * row, 6.0 * row + 4] for row in range(5)]
    assert network.one.bias.tolist() == network.norm.weight.tolist() == [1.0, 3.0]
    assert optimizer.state[network.one.bias]["momentum_buffer"].tolist() == [1.5, 3.5]
    assert network.norm.running_mean.tolist() == [11.0, 13.0] and network.norm.running_var.tolist() == [21.0, 23.0]
    assert all(parameter is same[name] for name, parameter in network.named_parameters())
    network(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_training_goes_on_with_any_state_of_the_parameters_shape(optimizer):
    network = Depthwise()
    optimizer = optimizer(network.parameters(), lr=0.01)
    loss = network(torch.randn(2, 3, 8, 8)).sum()
    loss.backward()  # this loss stays in scope, and with it the old shapes in its graph
    optimizer.step()
    graph = ChannelGraph(network, IMAGES)
    graph.remove([1, 3], optimizer)
    assert all(parameter.grad is None for parameter in network.parameters())
    network(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    for parameter in network.parameters():
        assert parameter.grad.shape == parameter.shape
        assert all(value.shape == parameter.shape for value in optimizer.state[parameter].values() if value.dim())


def test_hooks_modes_frozen_parameters_and_layout_stay():
    network = Depthwise().to(memory_format=torch.channels_last).train()
    network.depthwise.eval()
    network.project.weight.requires_grad_(False)
    calls = []
    network.expand.register_forward_hook(lambda *_: calls.append("module"))
    network.expand.weight.register_hook(lambda gradient: calls.append(tuple(gradient.shape)))
    graph = ChannelGraph(network, IMAGES)
    graph.remove([1, 2])
    assert calls == []
    network(torch.randn(2, 3, 8, 8)).sum().backward()
    assert calls == ["module", (2, 3, 1, 1)]
    assert network.training and not network.depthwise.training
    assert not network.project.weight.requires_grad and network.expand.weight.requires_grad
    for conv in (m for m in network.modules() if isinstance(m, nn.Conv2d)):
        assert conv.weight.stride() == conv.weight.contiguous().to(memory_format=torch.channels_last).stride()


def test_tracing_changes_nothing():
    network = nn.Sequential(Plain(), nn.Dropout()).train()
    calls = []
    for module in network.modules():
        module.register_forward_hook(lambda *_: calls.append("called"))
    network[0].one.bias.grad = torch.ones(4)
    state, rng = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    ChannelGraph(network, torch.ones(2, 3, 8, 8))
    assert calls == [] and all(module.training for module in network.modules())
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())
    assert network[0].one.bias.grad.tolist() == [1, 1, 1, 1] and network[0].one.weight.grad is None


# --- ids that last


def test_ids_are_the_same_when_traced_again():
    one, other = ChannelGraph(Depthwise(), IMAGES), ChannelGraph(Depthwise(), torch.zeros(1, 3, 11, 9))
    assert one.groups.equals(other.groups)
    assert all(torch.equal(one.filter_groups(name), other.filter_groups(name)) for name in one.layers.index)


@pytest.mark.parametrize("build", SMALL)
def test_two_goes_equal_one(build):
    network = build()
    twin = copy.deepcopy(network)
    at_once, in_turn = ChannelGraph(network, IMAGES), ChannelGraph(twin, IMAGES)
    groups = some_groups(at_once, 0.6)
    at_once.remove(groups)
    in_turn.remove(groups[:2])
    in_turn.remove(groups[2:].tolist())
    assert torch.equal(at_once.removed, in_turn.removed) and at_once.removed.tolist() == sorted(groups)
    assert at_once.groups.equals(in_turn.groups)
    for name, value in network.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name])


def test_rebuilt_from_removed_ids_and_state():
    network = torchvision.models.squeezenet1_1(num_classes=7)
    graph = ChannelGraph(network, torch.zeros(1, 3, 64, 64))
    graph.remove(some_groups(graph, 0.4))
    fresh = torchvision.models.squeezenet1_1(num_classes=7)
    ChannelGraph(fresh, torch.zeros(1, 3, 64, 64)).remove(graph.removed)
    fresh.load_state_dict(network.state_dict())
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(network.eval()(image), fresh.eval()(image))


def test_squeezenet_counts():
    graph = ChannelGraph(torchvision.models.squeezenet1_1(), torch.zeros(1, 3, 224, 224))
    assert graph.filters == 3944  # with conv10, which is the classifier here and therefore stays
    assert graph.parameters == 1_235_496
    assert len(graph.groups) == 2944 and not graph.layers.prunable["classifier.1"]
    assert graph.macs == 349_151_936


# --- errors


@pytest.mark.parametrize("groups, message", [
    ([99], "no removable group has the id 99"), ([-1], "no removable group has the id -1"),
    ([0, 1], "no removable group has the id 0"), ([11], "no removable group has the id 11"),  # a classifier's output
    ([1, 2], "already removed: group 2"), ([1.0], "group ids are integers, found float64"),
    ([True, False], "group ids are integers, found bool"), ([[1], [3]], "a flat list of integers, found an array of shape"),
    ([1, 3, 4], "no filter would be left in one;")])
def test_refused_before_anything_changes(groups, message):
    network = Plain()
    graph = ChannelGraph(network, IMAGES)
    graph.remove([2])
    state = copy.deepcopy(network.state_dict())
    with pytest.raises(ValueError, match=message):
        graph.remove(groups)
    assert graph.removed.tolist() == [2] and network.one.out_channels == 3
    assert all(torch.equal(value, state[name]) for name, value in network.state_dict().items())


def test_removing_nothing_changes_nothing():
    graph = ChannelGraph(Plain(), IMAGES)
    graph.remove([])
    assert graph.filters == 10 and graph.removed.tolist() == []


def test_state_that_cannot_be_cut_is_refused():
    network = Plain()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    optimizer.state[network.two.weight]["row_factors"] = torch.zeros(6)
    with pytest.raises(ValueError, match=r"the optimiser's row_factors of a parameter of shape \(6, 4, 1, 1\)"):
        ChannelGraph(network, IMAGES).remove([1], optimizer)
    assert network.one.out_channels == 4


def test_a_network_changed_behind_the_graphs_back_is_refused():
    network = Plain()
    first, second = ChannelGraph(network, IMAGES), ChannelGraph(network, IMAGES)
    first.remove([1])
    with pytest.raises(ValueError, match="changed since it was traced"):
        second.remove([2])


class Unknown(nn.Module):
    def __init__(self, operation):
        super().__init__()
        self.conv, self.norm, self.operation = nn.Conv2d(3, 4, 1), nn.GroupNorm(2, 4), operation

    def forward(self, x):
        x = self.conv(x)
        return self.operation(self, x)  # the line to be named


@pytest.mark.parametrize("operation, name", [
    (lambda self, x: x.softmax(1), "softmax"), (lambda self, x: self.norm(x), "GroupNorm 'norm'"),
    (lambda self, x: torch.cumsum(x, 1), "cumsum"), (lambda self, x: x.mean(1), "mean .*over dims .1."),
    (lambda self, x: x.mean(), "mean .*over dims"), (lambda self, x: x.sum(dim=-3), "sum .*over dims .1."),
    (lambda self, x: torch.cat([x, x], dim=2), "cat .*along dim 2"), (lambda self, x: x / x[0], "getitem"),
    (lambda self, x: x.view(2, 2, 2, 8, 8), r"view .*\(2, 4, 8, 8\) to \(2, 2, 2, 8, 8\) mixes"),
    (lambda self, x: x.view(2, -1, 2, 8, 8).transpose(1, 2), r"view .*to \(2, 2, 2, 8, 8\) mixes channels"),  # shuffle
    (lambda self, x: x.mean((2, 3)).view(-1, 4), "view .*number of channels, 4, is written out"),
    (lambda self, x: x / x.sigmoid(), "truediv .*expected one tensor with channels, found 2"),
    (lambda self, x: x.chunk(2, 1)[0], "chunk"), (lambda self, x: x[:, :2], "getitem"),
    (lambda self, x: x + torch.ones(8), "add .*not aligned by channel|cannot follow"),
    (lambda self, x: F.conv2d(x, self.conv.weight[:, :1], groups=4), "getitem"),
    (lambda self, x: F.max_pool2d(x, 2, return_indices=True), "max_pool2d"),
])
def test_unknown_operations_are_named_with_their_line(operation, name):
    with pytest.raises(ChannelError, match=name) as error:
        ChannelGraph(Unknown(operation), IMAGES)
    line = inspect.getsourcelines(operation)[1]
    assert f'{__file__}", line {line}' in str(error.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    network = lively(Residual(), images())
    graph = ChannelGraph(network, IMAGES)
    expected = masked(network, graph, [1, 6])(images())
    network.cuda()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0, momentum=0.9)
    network(images().cuda()).sum().backward()
    optimizer.step()
    graph = ChannelGraph(network, IMAGES.cuda())
    graph.remove(torch.tensor([1, 6]).cuda(), optimizer)
    assert relative_difference(network(images().cuda()).cpu(), expected) < 1e-10
    network(images().cuda()).sum().backward()
    optimizer.step()

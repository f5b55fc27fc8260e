"""Layers stored at multiples of 8: dead filters are exactly zero, stay so, and count for nothing."""

import copy
import itertools
import subprocess
import sys
from contextlib import ExitStack

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_channels import Depthwise, Joined, Plain, Residual, images, lively, relative_difference, some_groups
from torch import nn

from facelib import networks, pruning
from facelib.aligned import choose_multiple
from facelib.channels import ChannelGraph
from facelib.importance import CRITERIA, Importance
from facelib.networks import build
from facelib.training import Recipe


class Gated(nn.Module):
    """A linear bottleneck, squeeze and excite, a residual stream, and a sigmoid that a convolution reads: 0.5 for a
    dead filter."""

    def __init__(self):
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 19, 3, padding=1, bias=False), nn.BatchNorm2d(19)
        self.expand, self.expand_norm = nn.Conv2d(19, 33, 1), nn.BatchNorm2d(33)
        self.depthwise, self.depthwise_norm = nn.Conv2d(33, 33, 3, padding=1, groups=33), nn.BatchNorm2d(33)
        self.squeeze, self.excite = nn.Conv2d(33, 12, 1), nn.Conv2d(12, 33, 1)
        self.project, self.project_norm = nn.Conv2d(33, 19, 1), nn.BatchNorm2d(19)
        self.last = nn.Conv2d(19, 21, 1)
        self.read = nn.Conv2d(21, 10, 1)
        self.classifier = nn.Linear(10, 4)

    def forward(self, x):
        x = F.relu6(self.stem_norm(self.stem(x)))
        y = F.hardswish(self.depthwise_norm(self.depthwise(F.silu(self.expand_norm(self.expand(x))))))
        y = y * self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))).sigmoid()
        x = x + self.project_norm(self.project(y))
        return self.classifier(self.read(self.last(x).sigmoid()).mean((2, 3)))


# name: how to build it, side of the images
NETWORKS = {
    "squeezenet": (lambda: build("squeezenet", 5, 32, 2), 32),
    "mobilenetv2": (lambda: build("mobilenetv2", 5, 32, 2), 32),
    "resnet50": (lambda: build("resnet50", 5, 32, 2), 32),
    "gated": (Gated, 8),
}


def made(name, share=0.3, seed=0):
    """A network in float64 with all channels in use, images, its graph, and random groups to remove."""
    torch.manual_seed(seed)
    builder, side = NETWORKS[name]
    batch = images((8, 3, side, side), seed=1)
    network = lively(builder(), images((8, 3, side, side)))
    for norm in (module for module in network.modules() if isinstance(module, nn.BatchNorm2d)):
        norm.momentum = 0.1
    graph = ChannelGraph(network, batch)
    return network, batch, graph, some_groups(graph, share, seed)


def sgd(network):
    return torch.optim.SGD(network.parameters(), lr=0.001, momentum=0.9, weight_decay=0.1)


def train(network, optimizer, batch, steps):
    network.train()
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(network(batch), torch.arange(len(batch)) % 4).backward()
        optimizer.step()
    network.eval()


def dead_parts(network, graph):
    """What is stored for dead filters: of every layer's parameters, their rows, and the columns that read them."""
    for layer in graph._layers.values():
        for axis, number in enumerate((layer.outputs, layer.inputs)):
            dead = torch.from_numpy(graph._dead[graph._stored[number]])
            for parameter in layer.module.parameters(recurse=False):
                if axis < min(parameter.dim(), 2) and len(dead) == parameter.shape[axis]:
                    yield parameter, dead, axis


def assert_dead_are_zero(network, graph, optimizer=None):
    found = 0
    for parameter, dead, axis in dead_parts(network, graph):
        stored = [parameter, *(optimizer.state[parameter].values() if optimizer else [])]
        if parameter.grad is not None:
            stored.append(parameter.grad)
        for tensor in stored:
            assert (tensor.transpose(0, axis)[dead] == 0).all()
        found += int(dead.sum())
    assert found > 0
    assert all(buffer.isfinite().all() for buffer in network.buffers())


def twins(name):
    """The same network trained, pruned and trained on, with exact widths and with aligned ones."""
    network, batch, exact, groups = made(name)
    other = copy.deepcopy(network)
    both = []
    for version, graph in ((network, exact), (other, ChannelGraph(other, batch, multiple=8))):
        optimizer = sgd(version)
        train(version, optimizer, batch, 1)
        graph.remove(groups, optimizer)
        both.append((version, graph, optimizer))
    return *both, batch


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name == "resnet50" else name for name in NETWORKS])
def test_aligned_training_is_the_exact_networks_and_dead_filters_stay_zero(name):
    (exact, _, optimizer), (aligned, aligned_graph, aligned_optimizer), batch = twins(name)
    assert_dead_are_zero(aligned, aligned_graph, aligned_optimizer)
    assert relative_difference(aligned(batch), exact(batch)) < 1e-10
    train(exact, optimizer, batch, 2)
    train(aligned, aligned_optimizer, batch, 2)
    assert_dead_are_zero(aligned, aligned_graph, aligned_optimizer)
    assert relative_difference(aligned(batch), exact(batch)) < 1e-10
    aligned_graph.align(1, aligned_optimizer)
    assert not any(dead.any() for _, dead, _ in dead_parts(aligned, aligned_graph))
    for one, other in zip(exact.parameters(), aligned.parameters()):
        assert one.shape == other.shape
        assert relative_difference(other, one) < 1e-8
        momentum, again = optimizer.state[one]["momentum_buffer"], aligned_optimizer.state[other]["momentum_buffer"]
        assert relative_difference(again, momentum) < 1e-5  # small where batch normalisation cancels it
    for one, other in zip(exact.buffers(), aligned.buffers()):
        assert relative_difference(other.double(), one.double()) < 1e-8


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name == "resnet50" else name for name in NETWORKS])
def test_counts_and_tables_are_the_exact_networks(name):
    (exact, graph, _), (aligned, aligned_graph, _), _ = twins(name)
    assert sum(p.numel() for p in aligned.parameters()) > sum(p.numel() for p in exact.parameters()) == graph.parameters
    for count in ("filters", "parameters", "macs"):
        assert getattr(aligned_graph, count) == getattr(graph, count)
    for table in ("groups", "layers"):
        assert getattr(aligned_graph, table).equals(getattr(graph, table))
    assert torch.equal(aligned_graph.removed, graph.removed)
    for layer, row in graph.layers.iterrows():
        assert torch.equal(aligned_graph.filter_groups(layer), graph.filter_groups(layer))
        assert len(aligned_graph.live(layer)) == row.out_channels == exact.get_submodule(layer).out_channels
        stored = min(-(-row.out_channels // 8) * 8, row.out_channels_original)
        assert aligned.get_submodule(layer).out_channels == stored


def test_scores_are_the_exact_networks():
    *both, batch = twins("mobilenetv2")
    scores = []
    for network, graph, _ in both:
        with ExitStack() as stack:
            every = [stack.enter_context(Importance(network, graph, criterion, seed=3)) for criterion in CRITERIA]
            F.cross_entropy(network(batch), torch.arange(8) % 4).backward()
            for importance in every:
                importance.collect()
        scores.append([importance.scores() for importance in every])
        assert all(groups.tolist() == graph.groups.index.tolist() for groups, _ in scores[-1])
    for criterion, (_, exact), (_, aligned) in zip(CRITERIA, *scores):
        tolerance = 1e-4 if criterion == "taylor_activation" else 1e-8  # it works in float32
        torch.testing.assert_close(aligned, exact, rtol=tolerance, atol=1e-12, msg=criterion)


def test_coupled_layers_are_widened_together_and_kept_layers_not_at_all():
    network = Depthwise()  # expand, depthwise and two filters of `multiplied` are one group; three of `project` another
    graph = ChannelGraph(network, torch.zeros(2, 3, 8, 8), multiple=2)
    graph.remove([1])
    assert (network.expand.out_channels, network.depthwise.out_channels, network.multiplied.out_channels) == (4, 4, 8)
    assert graph.layers.out_channels.tolist() == [3, 3, 6, 6, 4]
    graph.remove([2])
    assert (network.expand.out_channels, network.depthwise.groups, network.multiplied.out_channels) == (2, 2, 4)
    residual = Residual()
    graph = ChannelGraph(residual, torch.zeros(2, 3, 8, 8), keep=["inner"], multiple=3)
    graph.remove([2, 3])
    assert (residual.stem.out_channels, residual.excite.out_channels, residual.inner.out_channels) == (3, 3, 5)


def test_a_sigmoid_gives_a_dead_filter_no_gradient():
    """0.5 leaves the sigmoid of a dead filter; what reads it would have a gradient, were it not cleared."""
    network, batch, graph, _ = made("gated")
    graph.align(8)
    graph.remove(graph.filter_groups("last")[:3])
    dead = torch.isin(torch.arange(21), graph.live("last"), invert=True)
    assert network.last.out_channels == 21 and int(dead.sum()) == 3
    network(batch).square().sum().backward()
    assert (network.read.weight.grad[:, dead] == 0).all() and (network.read.weight.grad[:, ~dead] != 0).any()
    copied, _ = copy.deepcopy((network, graph))  # copied with its graph, it clears the gradient; alone, it does not
    alone = copy.deepcopy(network)
    for other in (copied, alone):
        other.zero_grad()
        other(batch).square().sum().backward()
    assert torch.equal(copied.read.weight.grad, network.read.weight.grad)
    assert (alone.read.weight.grad[:, dead] != 0).all()


@pytest.mark.parametrize("network", [Plain, Residual, Joined, Depthwise])
def test_goes_one_by_one_equal_all_at_once_for_any_multiple(network):
    network = lively(network(), images())
    graph = ChannelGraph(network, images())
    order = some_groups(graph, 0.7)
    for multiple in (2, 3, 8):
        at_once, in_turn, back = (copy.deepcopy(network) for _ in range(3))
        ChannelGraph(at_once, images(), multiple=multiple).remove(order)
        steps = ChannelGraph(in_turn, images(), multiple=multiple)
        for group in order:
            steps.remove([group])
        forth = ChannelGraph(back, images(), multiple=5)
        forth.remove(order)
        forth.align(1)
        forth.align(multiple)
        for other in (in_turn, back):
            for (name, one), two in zip(at_once.state_dict().items(), other.state_dict().values()):
                assert torch.equal(one, two), name


def test_removal_one_step_after_another_while_training():
    network, batch, graph, groups = made("mobilenetv2", share=0.6)
    graph.align(8)
    optimizer = sgd(network)
    for part in np.array_split(groups, 4):
        before = graph.filters - graph.groups.filters[part].sum()
        graph.remove(part, optimizer)
        assert graph.filters == before
        train(network, optimizer, batch, 1)
        assert_dead_are_zero(network, graph, optimizer)
        aligned = network(batch)
        graph.align(1, optimizer)
        assert relative_difference(network(batch), aligned) < 1e-10
        assert graph.filters == before == sum(m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d))
        graph.align(8, optimizer)


def test_there_and_back_changes_no_bit():
    network, batch, graph, groups = made("mobilenetv2")
    optimizer = sgd(network)
    train(network, optimizer, batch, 1)
    graph.remove(groups, optimizer)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    momentum = [optimizer.state[p]["momentum_buffer"].clone() for p in network.parameters()]
    graph.align(8, optimizer)
    assert any(tensor.shape != before[name].shape for name, tensor in network.state_dict().items())
    graph.align(1, optimizer)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert all(torch.equal(optimizer.state[p]["momentum_buffer"], kept) for p, kept in zip(network.parameters(), momentum))


def test_a_fresh_process_goes_on_with_the_same_bits(tmp_path):
    """The groups removed, the multiple, the weights and the momentum are all that it needs."""
    code = f"""
import sys
import torch
sys.path.insert(0, {str(sys.path[0])!r})
from test_aligned import ChannelGraph, images, made, sgd, train
network, batch, graph, _ = made("squeezenet")
graph = ChannelGraph(network, batch, multiple=8)
optimizer = sgd(network)
kept = torch.load({str(tmp_path / "kept.pt")!r}, weights_only=True)
graph.remove(kept["removed"], optimizer)
network.load_state_dict(kept["network"])
for parameter, momentum in zip(network.parameters(), kept["momentum"]):
    optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(momentum)
train(network, optimizer, batch, 2)
torch.save(network.state_dict(), {str(tmp_path / "there.pt")!r})
"""
    network, batch, _, groups = made("squeezenet")
    graph, optimizer = ChannelGraph(network, batch, multiple=8), sgd(network)
    for part in np.array_split(groups, 3):
        graph.remove(part, optimizer)
        train(network, optimizer, batch, 1)
    torch.save({"removed": graph.removed, "network": network.state_dict(),
                "momentum": [optimizer.state[p]["momentum_buffer"] for p in network.parameters()]}, tmp_path / "kept.pt")
    subprocess.run([sys.executable, "-c", code], check=True)
    train(network, optimizer, batch, 2)
    there = torch.load(tmp_path / "there.pt", weights_only=True)
    assert all(torch.equal(tensor, there[name]) for name, tensor in network.state_dict().items())


def test_layers_are_emptied_of_live_filters_only_by_mistake():
    graph = ChannelGraph(Plain(), torch.zeros(2, 3, 8, 8), multiple=8)
    graph.remove([1, 2, 3])
    with pytest.raises(ValueError, match="no filter would be left in one"):
        graph.remove([4])
    with pytest.raises(ValueError, match="already removed: group 2"):
        graph.remove([2])
    with pytest.raises(ValueError, match="at least 1, found 0"):
        graph.align(0)


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
def test_other_optimizers_leave_dead_filters_zero(optimizer):
    network, batch, graph, groups = made("gated")
    graph.align(8)
    optimizer = optimizer(network.parameters(), lr=0.01, weight_decay=0.1)
    train(network, optimizer, batch, 1)
    graph.remove(groups, optimizer)
    train(network, optimizer, batch, 3)
    for parameter, dead, axis in dead_parts(network, graph):
        assert (parameter.transpose(0, axis)[dead] == 0).all()


def test_the_choice_is_measured_and_changes_nothing_else():
    torch.manual_seed(0)
    network = build("squeezenet", 5, 33, 2)
    graph = ChannelGraph(network, torch.zeros(1, 3, 33, 33))
    recipe = Recipe(batch_size=2, precision="float32")
    assert choose_multiple(network, graph, recipe, "float32") == 1  # nothing removed, nothing to measure
    graph.remove(some_groups(graph, 0.3))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    random = torch.get_rng_state()
    multiple = choose_multiple(network, graph, recipe, "float32", repeats=1)
    assert multiple == graph.multiple and multiple in (1, 8)
    assert network.training and torch.equal(torch.get_rng_state(), random)
    graph.align(1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_kept_networks_are_exact_and_load_either_way(tmp_path):
    torch.manual_seed(0)
    network = networks.build("squeezenet", 5, 49, 2).eval()
    graph = pruning.graph_of(network, multiple=8)
    order = pruning.ranked(graph, graph.groups.index.to_numpy(), np.random.default_rng(0).random(len(graph.groups)), minimum=3)
    graph.remove([group for group, _ in itertools.islice(order, 1500)])
    pruning.save_network(tmp_path / "pruned.safetensors", network, graph, keep_descriptor=False)
    images = torch.randn(4, 3, 49, 49)
    for multiple in (1, 8):
        loaded, found = pruning.load(tmp_path / "pruned.safetensors", multiple)
        wide = [loaded.get_submodule(layer).out_channels % 8 == 0 for layer in found.layers.index]
        assert all(wide) == (multiple == 8) and found.filters == 3944 - 1500
        assert pruning.size_columns(loaded, found) == pruning.size_columns(network, graph)
        assert torch.allclose(loaded.eval()(images), network(images), rtol=1e-4, atol=1e-5)

"""Layers stored at multiples of 8: zeros stay zeros, and the network is the exact one."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from facelib import networks, pruning
from facelib.channels import ChannelGraph
from facelib.importance import CRITERIA, Importance
from facelib.pruning import graph_of
from facelib.training import load_momentum, momentum

SIZES = {"squeezenet": 49, "mobilenetv2": 33, "resnet50": 33}


class Gated(nn.Module):
    """Squeeze and excite, a sigmoid that is read directly, and a linear bottleneck with a residual."""

    def __init__(self):
        super().__init__()
        self.expand, self.bn1 = nn.Conv2d(3, 40, 3), nn.BatchNorm2d(40)
        self.squeeze, self.excite = nn.Conv2d(40, 12, 1), nn.Conv2d(12, 40, 1)
        self.project, self.bn2 = nn.Conv2d(40, 20, 1), nn.BatchNorm2d(20)
        self.again, self.bn3 = nn.Conv2d(20, 20, 1), nn.BatchNorm2d(20)
        self.classifier = nn.Linear(20, 5)

    def forward(self, images):
        hidden = torch.nn.functional.silu(self.bn1(self.expand(images)))
        gate = torch.sigmoid(self.excite(torch.relu(self.squeeze(hidden.mean((2, 3), keepdim=True)))))
        stream = self.bn2(self.project(hidden * gate))
        stream = stream + self.bn3(self.again(torch.sigmoid(stream)))
        return self.classifier(stream.mean((2, 3)))


def both(name: str) -> tuple[list, torch.Tensor]:
    """The same network twice, double precision: with its graph of exact and of aligned storage; images to try them on."""
    torch.manual_seed(0)
    size = SIZES.get(name, 9)
    network = Gated() if name == "gated" else networks.build(name, 5, size, 2)
    for module in network.modules():  # else what batch normalisation leaves zero hides what removal forgets
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.bias)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    network.double()
    example = torch.zeros(1, 3, size, size, dtype=torch.float64)
    found = []
    for multiple in (1, 8):
        one = copy.deepcopy(network)
        found.append((one, ChannelGraph(one, example, multiple=multiple)))
    return found, torch.randn(6, 3, size, size, dtype=torch.float64)


def drawn(graph: ChannelGraph, share: float, seed: int) -> np.ndarray:
    """Some groups, no more than two thirds of any layer's."""
    groups = graph.groups
    random = np.random.default_rng(seed)
    scores = random.random(len(groups))
    order = pruning.ranked(graph, groups.index.to_numpy(), scores, minimum=3)
    return np.array(order[:int(share * len(order))])


def step(network: nn.Module, optimizer, images) -> None:
    nn.functional.cross_entropy(network(images), torch.arange(len(images)) % 5).backward()
    optimizer.step()
    optimizer.zero_grad()


@pytest.mark.parametrize("name", ["squeezenet", "mobilenetv2", "resnet50", "gated"])
def test_training_an_aligned_network_is_training_the_exact_one(name):
    pairs, images = both(name)
    optimizers = [torch.optim.SGD(network.parameters(), 0.01, momentum=0.9, weight_decay=1e-2) for network, _ in pairs]
    for round in range(3):
        for (network, graph), optimizer in zip(pairs, optimizers):
            network.train()
            step(network, optimizer, images)
            graph.remove(drawn(graph, 0.2, round), optimizer)
            step(network, optimizer, images)
        (exact, exact_graph), (aligned, graph) = pairs
        assert len(graph.dead) > 0 and torch.equal(graph.removed, exact_graph.removed)
        for layer in graph.layers.index:
            width = exact.get_submodule(layer).out_channels
            assert graph.layers.loc[layer, "out_channels"] == width
            assert aligned.get_submodule(layer).out_channels == min(-(-width // 8) * 8, graph.layers.loc[layer, "out_channels_original"])
        for count in ("filters", "parameters", "macs"):
            assert getattr(graph, count) == getattr(exact_graph, count)
        assert graph.layers.equals(exact_graph.layers) and graph.groups.equals(exact_graph.groups)
        kept = graph.exact(aligned.state_dict())
        for key, tensor in exact.state_dict().items():
            assert torch.allclose(kept[key], tensor, rtol=1e-6, atol=1e-8), key
        for key, tensor in graph.padded(kept).items():
            if aligned.state_dict()[key].is_floating_point():
                assert torch.equal(tensor, aligned.state_dict()[key]), f"{key}: what is dead is not zero"
        buffers = momentum(optimizers[1], aligned)
        assert all(torch.equal(graph.padded(graph.exact(buffers))[key], buffer) for key, buffer in buffers.items())
        for network in (exact, aligned):
            network.eval()
        assert torch.allclose(aligned(images), exact(images), rtol=1e-6, atol=1e-8)
        aligned.load_state_dict(graph.padded(exact.state_dict()))  # training lets rounding errors grow
        load_momentum(optimizers[1], aligned, graph.padded(momentum(optimizers[0], exact)))
        assert torch.allclose(aligned(images), exact(images), rtol=1e-10, atol=1e-10)
    graph.drop_dead(optimizers[1])
    assert len(graph.dead) == 0 and [tuple(p.shape) for p in aligned.parameters()] == [tuple(p.shape) for p in exact.parameters()]
    assert torch.allclose(aligned(images), exact(images), rtol=1e-10, atol=1e-10)
    for (network, _), optimizer in zip(pairs, optimizers):
        network.train()
        step(network, optimizer, images)
    assert all(torch.allclose(p, q, rtol=1e-6, atol=1e-8) for p, q in zip(aligned.parameters(), exact.parameters()))


@pytest.mark.parametrize("criterion", sorted(set(CRITERIA) - {"random"}))
def test_scores_are_those_of_the_exact_network(criterion):
    pairs, images = both("mobilenetv2")
    found = []
    for network, graph in pairs:
        graph.remove(drawn(graph, 0.3, 0))
        network.train()
        with Importance(network, graph, criterion) as importance:
            nn.functional.cross_entropy(network(images), torch.arange(6) % 5).backward()
            importance.collect()
        found.append(importance.scores())
    assert torch.equal(found[0][0], found[1][0])
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-7, atol=1e-14)


def test_a_copy_keeps_its_dead_filters_dead():
    (_, (network, graph)), images = both("gated")
    graph.remove(drawn(graph, 0.3, 0))
    other, other_graph = copy.deepcopy((network, graph))
    optimizer = torch.optim.SGD(other.parameters(), 0.1, momentum=0.9)
    for _ in range(3):
        step(other.train(), optimizer, images)
    state = other.state_dict()
    padded = other_graph.padded(other_graph.exact(state))
    assert all(torch.equal(padded[key], tensor) for key, tensor in state.items())


def test_storage_is_restored_as_it_was():
    pairs, images = both("squeezenet")
    network, graph = pairs[1]
    for round in range(3):
        graph.remove(drawn(graph, 0.1, round))
    other, _ = both("squeezenet")[0][1]
    restored = graph_of(other, multiple=8)
    restored.remove(graph.removed, stored=graph.dead)
    other.load_state_dict(restored.padded(graph.exact(network.state_dict())))
    assert torch.equal(other.eval()(images), network.eval()(images))
    with pytest.raises(ValueError, match="stored: expected groups that are removed"):
        restored.remove([], stored=[int(restored.groups.index[0])])


def test_checkpoints_are_exact_in_a_fresh_process(tmp_path):
    pairs, images = both("squeezenet")
    network, graph = pairs[1]
    graph.remove(drawn(graph, 0.4, 0))
    path, found = tmp_path / "pruned.safetensors", tmp_path / "logits.pt"
    pruning.save_network(path, network, graph, keep_descriptor=False)
    torch.save(images.float(), tmp_path / "images.pt")
    code = ("import sys, torch; from facelib import pruning\n"
            "network, graph = pruning.load(sys.argv[1]); aligned, padded = pruning.load(sys.argv[1], 8)\n"
            "assert len(graph.dead) == 0 and len(padded.dead) > 0\n"
            "images = torch.load(sys.argv[2], weights_only=True)\n"
            "torch.save([network(images), aligned.eval()(images)], sys.argv[3])")
    subprocess.run([sys.executable, "-c", code, str(path), str(tmp_path / "images.pt"), str(found)], check=True)
    exact, aligned = torch.load(found, weights_only=True)
    expected = network.eval()(images).detach().float()
    assert torch.allclose(exact, expected, rtol=1e-3, atol=1e-4) and torch.allclose(aligned, expected, rtol=1e-3, atol=1e-4)


def test_a_multiple_below_one_is_refused():
    with pytest.raises(ValueError, match="multiple is a number of filters, at least 1, found 0"):
        graph_of(networks.build("squeezenet", 3, 33), multiple=0)

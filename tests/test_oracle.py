"""The oracle against removal and by hand; correlations against scipy."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import spearmanr
from torch import nn

from facelib import networks, oracle, pruning
from facelib.channels import ChannelGraph
from facelib.importance import CRITERIA, Importance
from facelib.training import Recipe, backward

RECIPE = Recipe(batch_size=4, label_smoothing=0.1, precision="float32")


def batches(number=2, size=4, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return [(torch.randint(0, 256, (size, 3, 33, 33), dtype=torch.uint8, generator=draw), torch.arange(size) % 3)
            for _ in range(number)]


@pytest.fixture(scope="module", params=list(networks.ARCHITECTURES))
def network(request):
    """A network whose batch normalisation has statistics of its images, and biases: nothing hides behind zeros."""
    torch.manual_seed(0)
    made = networks.build(request.param, 3, 33, 2)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    pruning.reestimate(made, batches())
    return made.eval()


def test_change_is_that_of_removal_and_nothing_stays_changed(network):
    graph = pruning.graph_of(network)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    groups = oracle.sample(graph, 1, 0).index[::6].tolist()
    changes = oracle.loss_changes(network, graph, batches(), groups, label_smoothing=0.1)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    loss = oracle.mean_loss(network, batches(), 0.1)
    for group in groups:
        smaller, trial = copy.deepcopy((network, graph))
        trial.remove([group])
        assert changes[group] == pytest.approx(oracle.mean_loss(smaller, batches(), 0.1) - loss, abs=2e-5)
    assert changes.abs().max() > 1e-4


def test_change_by_hand(monkeypatch):
    """One pixel, two filters, two subjects: the loss is log(1 + exp(-margin)), and each filter gives its part of it."""
    monkeypatch.setattr(oracle, "normalise", lambda images, where: images.float())
    made = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.Flatten(), nn.Linear(2, 2, bias=False))
    made[0].weight.data[:] = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    made[2].weight.data = torch.tensor([[1.0, -1.0], [0.0, 0.0]])  # the margin of subject 0: x - 2x
    graph = ChannelGraph(made, torch.zeros(1, 1, 1, 1))
    first, second = graph.filter_groups("0").tolist()
    changes = oracle.loss_changes(made, graph, [(torch.ones(1, 1, 1, 1), torch.tensor([0]))], [first, second])

    def loss(margin):
        return np.log1p(np.exp(-margin))

    assert changes[first] == pytest.approx(loss(-2) - loss(-1), abs=1e-6)
    assert changes[second] == pytest.approx(loss(1) - loss(-1), abs=1e-6) and changes[second] < 0  # better without


def test_scores_are_those_of_pruning_and_leave_the_network(network):
    graph = pruning.graph_of(network)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    found = oracle.scores(network, graph, batches(), RECIPE, 5)
    assert list(found) == list(CRITERIA) and not network.training
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert all(p.grad is None for p in network.parameters())
    for criterion in CRITERIA:
        again = copy.deepcopy(network).train()
        with Importance(again, pruning.graph_of(again), criterion, 5) as importance:
            for images, labels in batches():
                backward(again, images, labels, RECIPE, "float32")
                importance.collect()
                again.zero_grad()
        np.testing.assert_allclose(found[criterion], importance.scores()[1], rtol=1e-5)


def test_sample_takes_as_many_of_every_layer():
    graph = pruning.graph_of(networks.build("resnet50", 3, 33, 2))
    layers = oracle.sample(graph, 5, 0)
    assert set(layers.value_counts()) == {5} and layers.index.is_monotonic_increasing
    assert set(layers) == set(graph.groups["layers"].str[0])
    assert (graph.groups.loc[layers.index, "layers"].str[0] == layers).all()
    assert layers.equals(oracle.sample(graph, 5, 0)) and not layers.index.equals(oracle.sample(graph, 5, 1).index)


@pytest.fixture(scope="module")
def table():
    random = np.random.default_rng(0)
    groups = pd.Index(range(100, 160), name="group")
    layers = pd.Series(np.repeat(["a", "b", "c"], 20), index=groups)
    changes = pd.Series(random.normal(size=60), index=groups)
    scores = pd.DataFrame({"perfect": changes**2, "signed": changes.round(1), "noise": random.normal(size=60)}, index=groups)
    return scores, changes, layers, oracle.correlations(scores.sample(frac=1, random_state=0), changes, layers, 500)


def test_rho_is_scipys(table):
    scores, changes, layers, found = table
    for row in found.itertuples():
        truth = changes.abs() if row.against == "absolute change" else changes
        rhos = [spearmanr(scores[row.criterion][part], truth[part]).statistic for part in
                ([layers == layer for layer in "abc"] if row.over == "layers" else [layers != ""])]
        assert row.rho == pytest.approx(np.median(rhos), abs=1e-12)
        assert -1 - 1e-12 <= row.ci_low <= row.rho + 1e-12 and row.rho - 1e-12 <= row.ci_high <= 1 + 1e-12


def test_intervals_say_what_is_chance(table):
    found = table[3].set_index(["criterion", "against", "over"])
    assert found.loc[("perfect", "absolute change", "all groups"), "ci_low"] == pytest.approx(1)
    noise = found.loc[("noise", "absolute change", "all groups")]
    assert noise["ci_low"] < 0 < noise["ci_high"] and noise["ci_high"] - noise["ci_low"] == pytest.approx(0.5, abs=0.15)
    assert len(found) == 12 and set(found["groups"]) == {60} and set(found["layers"]) == {3}


def test_layers_of_few_groups_and_constant_scores_count_for_nothing():
    groups = pd.Index(range(9), name="group")
    layers = pd.Series(list("aaaabbbcc"), index=groups)
    changes = pd.Series([1.0, 2, 3, 4, 1, 2, 3, 1, 2], index=groups)
    scores = pd.DataFrame({"x": [1.0, 2, 4, 3, 5, 5, 5, 2, 1]}, index=groups)
    row = oracle.correlations(scores, changes, layers, 50).set_index(["against", "over"]).loc[("absolute change", "layers")]
    assert row["rho"] == pytest.approx(0.8) and row["layers"] == 1  # b is constant, c has two groups

"""Scores against hand-computed values, and against what really happens to the loss."""

import pytest
import torch
from torch import nn

from facelib.channels import ChannelGraph
from facelib.importance import CRITERIA, Importance, ScoreError, gate_term, Filters


class Tiny(nn.Module):
    """Two 1x1 filters on one pixel with one channel, so that every number can be worked out by hand."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 2, 1, bias=False)
        self.classifier = nn.Linear(2, 1, bias=False)
        self.conv.weight.data = torch.tensor([[[[2.0]]], [[[-1.0]]]])
        self.classifier.weight.data = torch.tensor([[3.0, 5.0]])

    def forward(self, images):
        return self.classifier(torch.flatten(self.conv(images), 1))


class Blocks(nn.Module):
    """Convolutions before batch normalisation and ReLU, as in the study's networks."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.pool, self.classifier = nn.AdaptiveAvgPool2d(1), nn.Linear(8, 4)
        for bn in (self.bn1, self.bn2):
            nn.init.uniform_(bn.weight, 0.5, 1.5)
            nn.init.uniform_(bn.bias, -0.5, 0.5)

    def forward(self, images):
        x = torch.relu(self.bn1(self.conv1(images)))
        x = torch.relu(self.bn2(self.conv2(x)))
        return self.classifier(torch.flatten(self.pool(x), 1))


def loss_of(network, images, labels):
    return nn.functional.cross_entropy(network(images), labels)


@pytest.fixture
def blocks():
    network = Blocks().double()
    images = torch.randn(8, 3, 9, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return network, images, torch.arange(8) % 4


def scored(network, images, labels, criterion, **options):
    graph = ChannelGraph(network, images[:1].float())
    with Importance(network, graph, criterion, **options) as importance:
        loss_of(network, images, labels).backward()
        importance.collect()
    return graph, importance


def test_taylor_weight_by_hand():
    """Loss = (3*2*x + 5*-1*x) with x = 2 and x = 4: dL/dw is 3x and 5x, so (g w)^2 is (6x)^2 and (5x)^2."""
    network = Tiny()
    graph = ChannelGraph(network, torch.zeros(1, 1, 1, 1))
    with Importance(network, graph, "taylor_weight") as importance:
        for x in (2.0, 4.0):
            network.zero_grad()
            network(torch.full((1, 1, 1, 1), x)).sum().backward()
            importance.collect()
    groups, scores = importance.scores()
    assert groups.tolist() == graph.filter_groups("conv").tolist()
    assert scores.tolist() == [(12**2 + 24**2) / 2, (10**2 + 20**2) / 2]  # averaged over the two mini-batches


def test_taylor_weight_sums_squares_over_all_weights_of_a_filter(blocks):
    network, images, labels = blocks
    graph, importance = scored(network, images, labels, "taylor_weight")
    expected = [sum((w.grad[f] * w[f]).reshape(-1)[i].item() ** 2 for i in range(w[f].numel()))
                for w in (network.conv1.weight, network.conv2.weight) for f in range(len(w))]
    torch.testing.assert_close(importance.scores()[1], torch.tensor(expected, dtype=torch.float64))


def test_squared_sum_before_batch_normalisation_is_rounding_noise(blocks):
    """Batch normalisation makes the loss blind to a filter's scale: the plain sum of g x w says nothing."""
    network, images, labels = blocks
    network.bn1.eps = 1e-15  # it is what keeps the sum from being exactly zero
    loss_of(network, images, labels).backward()
    weight = network.conv1.weight
    products = weight.grad * weight
    assert products.flatten(1).sum(1).square().max() < 1e-12 * products.square().flatten(1).sum(1).min()


def test_taylor_gate_is_gamma_and_beta_form(blocks):
    network, images, labels = blocks
    graph, importance = scored(network, images, labels, "taylor_gate")
    bn = network.bn2
    expected = (bn.weight * bn.weight.grad + bn.bias * bn.bias.grad).square()
    by_group = dict(zip(*(values.tolist() for values in importance.scores())))
    assert [by_group[g] for g in graph.filter_groups("conv2").tolist()] == pytest.approx(expected.tolist(), rel=1e-12)


@pytest.mark.parametrize("filter", [0, 3, 7])
def test_gate_term_predicts_the_loss_of_closing_a_gate_a_little(blocks, filter):
    """Finite difference: scaling a filter's gamma and beta by 1 - e changes the loss by -e times the signed gate term."""
    network, images, labels = blocks
    before = loss_of(network, images, labels)
    before.backward()
    term = gate_term(Filters("conv2", network.conv2, network.bn2, torch.Generator()))[filter].item()
    epsilon = 1e-6
    with torch.no_grad():
        network.bn2.weight[filter] *= 1 - epsilon
        network.bn2.bias[filter] *= 1 - epsilon
        after = loss_of(network, images, labels)
    assert (after - before).item() / -epsilon == pytest.approx(term, rel=1e-4, abs=1e-9)


def test_taylor_activation_equals_its_formula_per_example(blocks):
    """Against gradients of each example's own loss, taken one by one (evaluation mode, where examples do not mix)."""
    network, images, labels = blocks
    network.eval()
    graph, importance = scored(network, images, labels, "taylor_activation")
    found = torch.zeros(8, dtype=torch.float64)
    for image, label in zip(images, labels):
        activation = network.bn2(network.conv2(torch.relu(network.bn1(network.conv1(image[None])))))
        activation.retain_grad()
        pooled = torch.flatten(network.pool(torch.relu(activation)), 1)
        nn.functional.cross_entropy(network.classifier(pooled), label[None]).backward()
        found += (activation.grad * activation).mean((2, 3))[0].detach().abs() / len(images)
    by_group = dict(zip(*(values.tolist() for values in importance.scores())))
    got = [by_group[g] for g in graph.filter_groups("conv2").tolist()]
    assert got == pytest.approx((found / found.norm()).tolist(), rel=1e-5)


def test_taylor_activation_sees_through_in_place_relu6(blocks):
    """A ReLU6 in place changes the activation after the hook: gradient and value must still be of the same moment."""

    class InPlace(Blocks):
        def forward(self, images):
            x = nn.functional.relu6(self.bn1(self.conv1(images)) * 1.0, inplace=self.in_place)
            x = self.bn2(self.conv2(x))
            x = nn.functional.hardtanh(x, 0.0, 0.5, inplace=self.in_place)
            return self.classifier(torch.flatten(self.pool(x), 1))

    _, images, labels = blocks
    results = []
    for in_place in (False, True):
        network = InPlace().double()
        network.in_place = in_place
        results.append(scored(network, images, labels, "taylor_activation")[1].scores()[1])
    torch.testing.assert_close(results[0], results[1], rtol=1e-6, atol=0)


def test_coupled_filters_score_the_sum_of_their_layers():
    network = nn.Sequential(nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.AdaptiveAvgPool2d(1),
                            nn.Flatten(), nn.Linear(4, 2))
    graph = ChannelGraph(network, torch.zeros(1, 3, 5, 5))
    with Importance(network, graph, "magnitude") as importance:
        importance.collect()
    groups, scores = importance.scores()
    sums = network[0].weight.square().flatten(1).sum(1) + network[1].weight.square().flatten(1).sum(1)
    assert len(groups) == 4
    torch.testing.assert_close(scores, sums.detach().double())


class Coupled(nn.Module):
    """Two layers that write to one stream of four channels, which lose filters together, and one of four for itself."""

    def __init__(self):
        super().__init__()
        self.one, self.other, self.single = nn.Conv2d(1, 4, 1), nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1)
        self.classifier = nn.Linear(4, 2)

    def forward(self, images):
        return self.classifier(torch.flatten(self.single(self.one(images) + self.other(images)), 1))


def test_at_random_every_group_is_as_likely_to_leave_first_however_many_filters_it_has():
    network, draws = Coupled(), 400
    graph = ChannelGraph(network, torch.zeros(1, 1, 1, 1))
    assert sorted(graph.groups["filters"]) == [1] * 4 + [2] * 4
    first = []
    for seed in range(draws):
        importance = Importance(network, graph, "random", seed)
        for _ in range(3):
            importance.collect()
        groups, scores = importance.scores()
        first.append(groups[scores.argmin()].item())
    coupled = graph.groups.index[graph.groups["filters"] == 2]
    assert abs(sum(group in coupled for group in first) - draws / 2) < 4 * (draws / 4) ** 0.5  # four standard deviations


def test_random_scores_are_the_same_for_the_same_seed_only(blocks):
    network, images, labels = blocks
    first, again, other = (scored(network, images, labels, "random", seed=seed)[1].scores()[1] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_nan_and_missing_gradients_are_errors_naming_the_layer(blocks):
    network, images, labels = blocks
    graph = ChannelGraph(network, images[:1].float())
    with pytest.raises(ScoreError, match="no gradient in conv1"):
        Importance(network, graph, "taylor_weight").collect()
    loss_of(network, images, labels).backward()
    network.conv2.weight.grad[3] = float("nan")
    importance = Importance(network, graph, "taylor_weight")
    importance.collect()
    with pytest.raises(ScoreError, match="conv2"):
        importance.scores()


def test_gate_without_batch_normalisation_and_unknown_criterion_are_errors():
    network = Tiny()
    graph = ChannelGraph(network, torch.zeros(1, 1, 1, 1))
    network(torch.ones(1, 1, 1, 1)).sum().backward()
    with pytest.raises(ScoreError, match="conv has none"):
        Importance(network, graph, "taylor_gate").collect()
    with pytest.raises(ValueError, match="taylor_weight.*random"):
        Importance(network, graph, "taylor")
    assert set(CRITERIA) == {"taylor_weight", "taylor_gate", "taylor_activation", "magnitude", "random"}

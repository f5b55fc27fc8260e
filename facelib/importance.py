"""How much a filter matters: Taylor estimates of the loss it carries, and their controls.

Every criterion gives each filter of each convolution a score per mini-batch, from the gradients *before* the
optimiser's step. `Importance` averages the scores over mini-batches. One rule for coupled filters, which leave together
(a depthwise filter with the one that feeds it, the layers of a residual stream): a group's score is the sum of its
filters' scores, the estimate of what is lost when all of them go. But for `random`, whose groups are drawn, not summed: the
sum of many draws is never small, and large groups would never leave.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from facelib.channels import ChannelGraph


class ScoreError(RuntimeError):
    """Scores cannot be computed: a gradient is missing or not a number."""


@dataclass
class Filters:
    """What a criterion may look at: a convolution's filters after a backward pass."""

    layer: str
    convolution: nn.Conv2d
    batchnorm: nn.BatchNorm2d | None  # directly after the convolution
    random: torch.Generator
    activation: Tensor | None = field(default=None, repr=False)  # output after batch normalisation, (images, filters, h, w)
    live: Tensor | slice = field(default_factory=lambda: slice(None))  # where filters are not dead, see ChannelGraph.align


def taylor_weight(filters: Filters) -> Tensor:
    """Sum over the filter's weights of (gradient x weight)^2: every weight's own first-order estimate of the loss
    change when it is set to zero, squared (Molchanov et al. 2019, equation 7; the papers' text)."""
    weight = filters.convolution.weight
    return (gradient(filters, weight) * weight.detach()).square().flatten(1).sum(1)


def taylor_gate(filters: Filters) -> Tensor:
    """(gamma dL/dgamma + beta dL/dbeta)^2 at the batch normalisation after the filter: the squared first-order loss
    change when a gate there closes, which scales gamma and beta together (Molchanov et al. 2019, section 3.2)."""
    return gate_term(filters).square()


def gate_term(filters: Filters) -> Tensor:
    """Signed derivative of the loss by a gate (1 = open) after the batch normalisation: gamma dL/dgamma + beta dL/dbeta."""
    bn = filters.batchnorm
    if bn is None:
        raise ScoreError(f"taylor_gate needs batch normalisation directly after every convolution; {filters.layer} has none")
    return bn.weight.detach() * gradient(filters, bn.weight) + bn.bias.detach() * gradient(filters, bn.bias)


def taylor_activation(filters: Filters) -> Tensor:
    """|mean over positions of gradient x activation| of each example's own loss, averaged over examples, then divided
    by the layer's L2 norm (Molchanov et al. 2017, equations 8 and 10: the family of MATLAB's tool). The activation is
    taken after the batch normalisation that follows the convolution."""
    activation = filters.activation
    if activation is None or activation.grad is None:
        raise ScoreError(f"taylor_activation found no gradient of the output of {filters.layer}; is it used in the loss?")
    per_example = (activation.grad.float() * activation.detach().float()).mean((2, 3)) * len(activation)  # of a mean loss
    return nn.functional.normalize(per_example.abs().mean(0), dim=0)


def magnitude(filters: Filters) -> Tensor:
    """Sum of the filter's squared weights: no data (Li et al. 2017 take absolute values)."""
    return filters.convolution.weight.detach().square().flatten(1).sum(1)


def random(filters: Filters) -> Tensor:
    """Uniform random numbers: what any criterion has to beat; that of a group's first filter is the group's. The same ones
    whether or not dead filters stand between."""
    weight = filters.convolution.weight
    scores = torch.zeros(len(weight))
    scores[filters.live] = torch.rand(len(scores[filters.live]), generator=filters.random)
    return scores.to(weight.device)


CRITERIA = {f.__name__: f for f in (taylor_weight, taylor_gate, taylor_activation, magnitude, random)}


def gradient(filters: Filters, parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        raise ScoreError(f"no gradient in {filters.layer}: call collect() after backward() and before the gradients are "
                         "cleared, and leave the layer trainable")
    return parameter.grad


class Importance:
    """Scores of a graph's groups by one criterion, averaged over the mini-batches since it was made.

        with Importance(network, graph, "taylor_weight") as importance:
            for images, labels in batches:
                loss(network(images), labels).backward()
                importance.collect()                     # before optimizer.step()
        groups, scores = importance.scores()
    """

    def __init__(self, network: nn.Module, graph: ChannelGraph, criterion: str, seed: int = 0):
        if criterion not in CRITERIA:
            raise ValueError(f"unknown criterion '{criterion}'; expected one of {', '.join(CRITERIA)}")
        self.graph, self.criterion = graph, CRITERIA[criterion]
        modules = dict(network.named_modules())
        generator = torch.Generator().manual_seed(seed)
        self.filters = [Filters(layer, modules[layer], modules.get(graph.batchnorm_after(layer)), generator,
                                live=graph.live(layer)) for layer in graph.layers.index]
        self.sums = [0.0] * len(self.filters)
        self.batches = 0
        self.hooks = []

    def __enter__(self) -> Importance:
        if self.criterion is taylor_activation:
            for filters in self.filters:
                def keep(module, inputs, output, filters=filters):
                    filters.activation = output
                    output.retain_grad()
                    return output.clone()  # the next operation may work in place
                self.hooks.append((filters.batchnorm or filters.convolution).register_forward_hook(keep))
        return self

    def __exit__(self, *_) -> None:
        for hook in self.hooks:
            hook.remove()
        for filters in self.filters:
            filters.activation = None

    def collect(self) -> None:
        """Adds one mini-batch's scores. Raises ScoreError naming the layer whose scores are missing."""
        for index, filters in enumerate(self.filters):
            score = self.criterion(filters)
            self.sums[index] = self.sums[index] + score
            filters.activation = None
        self.batches += 1

    def scores(self) -> tuple[Tensor, Tensor]:
        """Group ids and their scores (float64), both of shape (groups,): every group that still has filters."""
        if self.batches == 0:
            raise ScoreError("no mini-batch was collected")
        for filters, total in zip(self.filters, self.sums):
            if not torch.isfinite(total).all():
                raise ScoreError(f"the scores of {filters.layer} are not finite: its gradients are NaN or infinite")
        ids = torch.cat([self.graph.filter_groups(filters.layer) for filters in self.filters])
        values = torch.cat([total.double().cpu()[filters.live] for filters, total in zip(self.filters, self.sums)]) / self.batches
        if self.criterion is random:
            groups, first = np.unique(ids.numpy(), return_index=True)
            return torch.from_numpy(groups), values[torch.from_numpy(first)]
        groups, inverse = ids.unique(return_inverse=True)
        return groups, torch.zeros(len(groups), dtype=torch.float64).index_add_(0, inverse, values)

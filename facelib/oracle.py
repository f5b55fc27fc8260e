"""How well criteria foresee what removing a filter does: rank correlation with the oracle, the true change of the loss.

What Molchanov et al. measured (2017, section 3.1; 2019, section 4.1), on a network that is trained and not yet pruned.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import pandas as pd
import torch
from scipy.stats import ConstantInputWarning, spearmanrho
from torch import Tensor, nn

from facelib.channels import ChannelGraph
from facelib.faces.crops import normalise
from facelib.importance import CRITERIA, Importance
from facelib.networks import FaceNetwork
from facelib.training import Recipe, backward

Batches = Sequence[tuple[Tensor, Tensor]]  # images (batch, 3, size, size) uint8, labels (batch,)


@contextmanager
def masked(network: nn.Module, graph: ChannelGraph, group: int) -> Iterator[None]:
    """Within the block the network computes what is left when the group is removed: its filters, and the batch
    normalisation after them, are zero, which holds where what follows leaves a zero alone, as in the study's networks. The
    weights come back afterwards, bit for bit."""
    kept = []
    for name, module in network.named_modules():
        if isinstance(module, (nn.Conv2d, nn.BatchNorm2d)):
            here = graph.filter_groups(name) == group
            parameters = [p for p in (module.weight, module.bias) if p is not None] if here.any() else []
            kept += [(p, p.detach().clone()) for p in parameters]
            for p in parameters:
                p.data[here.to(p.device)] = 0
    try:
        yield
    finally:
        for p, values in kept:
            p.data.copy_(values)


def mean_loss(network: FaceNetwork, batches: Batches, label_smoothing: float = 0.0) -> float:
    """Mean cross-entropy over all images, in evaluation mode and float32, summed in float64."""
    where, training = next(network.parameters()).device, network.training
    network.eval()
    with torch.inference_mode():
        losses = [nn.functional.cross_entropy(network(normalise(images, where)), labels.to(where), reduction="none",
                                              label_smoothing=label_smoothing).double() for images, labels in batches]
    network.train(training)
    return torch.cat(losses).mean().item()


def loss_changes(network: FaceNetwork, graph: ChannelGraph, batches: Batches, groups: Sequence[int],
                 label_smoothing: float = 0.0) -> pd.Series:
    """The oracle: by how much the mean loss over the mini-batches rises when a group is masked, alone; by group id.

    Negative where the loss falls. One pass over the mini-batches for each group.
    """
    before = mean_loss(network, batches, label_smoothing)
    changes = []
    for group in groups:
        with masked(network, graph, group):
            changes.append(mean_loss(network, batches, label_smoothing) - before)
    return pd.Series(changes, index=pd.Index(groups, name="group"), name="change", dtype=float)


def sample(graph: ChannelGraph, per_layer: int, seed: int) -> pd.Series:
    """At most `per_layer` groups of every layer, drawn at random: the layer's name by group id. The layer of coupled
    filters is the first of theirs."""
    layers = graph.groups["layers"].str[0].rename("layer")
    return layers.sample(frac=1, random_state=seed).groupby(layers).head(per_layer).sort_index()


def scores(network: FaceNetwork, graph: ChannelGraph, batches: Batches, recipe: Recipe, seed: int) -> pd.DataFrame:
    """The scores of every group by every criterion, in a column each, as pruning takes them: in training mode, averaged
    over the mini-batches, here without updates. The network stays as it is."""
    network, graph = copy.deepcopy((network, graph))
    network.train()
    with ExitStack() as stack:
        found = {name: stack.enter_context(Importance(network, graph, name, seed)) for name in CRITERIA}
        for images, labels in batches:
            backward(network, images, labels, recipe, "float32")
            for importance in found.values():
                importance.collect()
            network.zero_grad(set_to_none=True)
    groups = next(iter(found.values())).scores()[0]
    return pd.DataFrame({name: importance.scores()[1].numpy() for name, importance in found.items()},
                        index=pd.Index(groups.numpy(), name="group"))


def correlations(scores: pd.DataFrame, changes: pd.Series, layers: pd.Series, resamples: int = 1000,
                 seed: int = 0) -> pd.DataFrame:
    """Spearman's rho of each criterion with the oracle, over the groups of `changes`; intervals by bootstrap.

    layers: the layer of each group, by group id. One row for each criterion, what it is held `against` ("absolute
    change", whose ranks are also those of its square, or "signed change") and `over` what ("all groups", or "layers":
    the median of the layers' own rhos: of layers with three groups or more that differ). Columns criterion, against, over, rho,
    ci_low, ci_high (95 %, percentiles; drawn again are groups, or for "layers" whole layers), groups, layers.
    """
    scores, layers = scores.loc[changes.index], layers.loc[changes.index]
    positions = [np.flatnonzero(layers == layer) for layer in layers.unique()]
    positions = [found for found in positions if len(found) >= 3]
    rows = []
    for criterion in scores:
        for against, truth in (("absolute change", changes.abs()), ("signed change", changes)):
            pairs, random = np.stack([scores[criterion], truth]), np.random.default_rng(seed)
            whole = random.integers(0, len(changes), (resamples, len(changes)))
            rhos = np.array([_rho(pairs[:, found]) for found in positions])
            rhos = rhos[np.isfinite(rhos)]
            drawn = rhos[random.integers(0, len(rhos), (resamples, len(rhos)))]
            for over, rho, draws in (("all groups", _rho(pairs), _rho(pairs[:, whole])),
                                     ("layers", np.median(rhos), np.median(drawn, axis=1))):
                low, high = np.nanpercentile(draws, [2.5, 97.5])
                rows.append({"criterion": criterion, "against": against, "over": over, "rho": float(rho), "ci_low": low,
                             "ci_high": high, "groups": len(changes), "layers": len(rhos)})
    return pd.DataFrame(rows)


def _rho(pairs: np.ndarray) -> np.ndarray:
    """Spearman's rho along the last axis of pairs (2, ..., groups); NaN where one of both is constant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConstantInputWarning)
        return spearmanrho(*pairs, axis=-1).statistic

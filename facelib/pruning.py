"""Score, remove, repeat: iterative filter pruning that can be killed at any moment and goes on to the same bits."""

from __future__ import annotations

import contextlib
import copy
import math
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from facelib import networks
from facelib.aligned import choose_multiple
from facelib.channels import ChannelGraph
from facelib.faces.crops import normalise, training_batches
from facelib.faces.faceset import FaceSet
from facelib.importance import CRITERIA, Importance
from facelib.networks import FaceNetwork
from facelib.progress import progress
from facelib.storage import check_same_run, fingerprint, load_checkpoint, prefixed, save_checkpoint, under
from facelib.training import (
    Recipe,
    backward,
    check_finite,
    check_state,
    choose_precision,
    device,
    keep_freed_memory,
    load_momentum,
    momentum,
    optimizer_for,
    seed_of,
    train,
)

# of a network, its stage and step: rows of protocol, pair, template_size, metric, value, ...; it may verify more at some steps
Evaluate = Callable[[FaceNetwork, str, int], pd.DataFrame]

UNITS = ("filters", "parameters", "macs")  # columns of the tables


@dataclass(frozen=True)
class Schedule:
    """How filters are removed, step by step.

    criterion: one of importance.CRITERIA, or "none": the control arm, which removes nothing, and else is the same (the
        same mini-batches, updates and evaluations).
    step_share: of the unpruned network's `unit` that leaves at each step. last_share: where to stop (the last step may
        be smaller).
    batches_per_step: mini-batches whose scores are averaged for a step; 0 is one epoch, as in the papers.
    learning_rate: of the updates; 0 scores only.
    evaluate_every: steps between two evaluations.
    keep_descriptor: whether the last convolution, whose pooled output is the descriptor, keeps all its filters.
    unit: what shares are shares of: "filters" (the papers), "parameters" or "macs", without the training classifier.
        At the end of a step it is exact up to the last group of coupled filters.
    minimum: filters that every layer keeps at least.
    scoring: "training" scores the mini-batches that train, each before its update; "separate" trains on
        batches_per_step mini-batches, then scores as many of the next ones, in training mode but without updates.
    multiple: of filters, at which layers are stored, which makes them faster than their exact widths on most processors
        (channels: Aligned storage); 1 stores exact widths; 0 takes, after every evaluation, whichever of 1 and 8 measures
        faster, so that rounding is no longer the same in every run. The function, the counts and the kept networks are the same.
    reestimate_batches: before each evaluation the running statistics of batch normalisation are made anew from so many
        training mini-batches; 0 leaves the moving averages, which still remember the network before the step.
    """

    criterion: str = "taylor_weight"
    step_share: float = 0.01
    last_share: float = 0.60
    batches_per_step: int = 0
    learning_rate: float = 0.002
    evaluate_every: int = 1
    keep_descriptor: bool = False
    unit: str = "filters"
    minimum: int = 1
    scoring: str = "training"
    reestimate_batches: int = 0
    multiple: int = 1

    def __post_init__(self):
        if self.criterion not in (*CRITERIA, "none"):
            raise ValueError(f"criterion is one of {', '.join(CRITERIA)} or none, found '{self.criterion}'")
        if not 0 < self.step_share <= self.last_share < 1:
            raise ValueError("step_share and last_share are shares with 0 < step_share <= last_share < 1, "
                             f"found {self.step_share} and {self.last_share}")
        if self.unit not in UNITS:
            raise ValueError(f"unit is one of {', '.join(UNITS)}, found '{self.unit}'")
        if self.minimum < 1:
            raise ValueError(f"minimum is a number of filters, at least 1, found {self.minimum}")
        if self.scoring not in ("training", "separate"):
            raise ValueError(f"scoring is training or separate, found '{self.scoring}'")
        if self.scoring == "separate" and self.learning_rate == 0:
            raise ValueError("scoring separate from training needs a learning_rate above 0; scoring 'training' with 0 only scores")
        for name, least in {"batches_per_step": 0, "learning_rate": 0, "evaluate_every": 1, "reestimate_batches": 0,
                            "multiple": 0}.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is at least {least}, found {getattr(self, name)}")

    @property
    def steps(self) -> int:
        return math.ceil(self.last_share / self.step_share - 1e-9)

    def step_of(self, share: float) -> int:
        """The step that ends with this share removed."""
        return round(share / self.step_share)

    @property
    def stage(self) -> str:
        """What the rows and the kept networks of a run are called: "pruned", or "control" where nothing is removed."""
        return "control" if self.criterion == "none" else "pruned"

    def passes(self, step: int, batches: int) -> list[tuple[int, bool, bool]]:
        """The passes of a step over so many mini-batches each: the first one's number, whether it updates, and scores."""
        if self.scoring == "training":
            return [((step - 1) * batches, self.learning_rate > 0, True)]
        return [((2 * step - 2) * batches, True, False), ((2 * step - 1) * batches, False, True)]

    def evaluated(self, step: int) -> bool:
        return step % self.evaluate_every == 0 or step == self.steps


@dataclass
class Tables:
    """What a pruning run found. curve: one row per stage, step and metric; layers: one per stage, step and layer."""

    curve: pd.DataFrame
    layers: pd.DataFrame


def graph_of(network: FaceNetwork, keep_descriptor: bool = False, multiple: int = 1) -> ChannelGraph:
    """The network's channel graph; the layer that makes the descriptor may be kept whole. multiple: as in `Schedule`."""
    size = network.config["image_size"]
    example = torch.zeros(1, 3, size, size, device=next(network.parameters()).device)
    last = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)][-1]
    return ChannelGraph(network, example, (last,) if keep_descriptor else (), multiple)


def choose(graph: ChannelGraph, groups: Sequence[int], scores: Sequence[float], count: int, minimum: int = 1,
           unit: str = "filters", network: FaceNetwork | None = None) -> list[int]:
    """The groups with the lowest scores that together hold `count` of `unit`, up to the last group.

    The fewest groups of `ranked` that reach it. What leaves with a group depends on what left before (a weight of two
    filters leaves once), so parameters and MACs are counted after removal from a copy without values.
    network: the graph's; needed for parameters and MACs. Raises ValueError when less than `count` can be removed.
    """
    ranking = ranked(graph, groups, scores, minimum)
    order, removed = [], 0
    if unit == "filters":
        while removed < count and (found := next(ranking, None)):
            order.append(found[0])
            removed += found[1]
    else:
        before, outline = size_columns(network, graph)[unit], _outline(network, graph)

        def leaving(number: int) -> int:
            smaller, trial = copy.deepcopy(outline)
            trial.remove(order[:number])
            return before - size_columns(smaller, trial)[unit]

        order = [group for group, _ in ranking]
        order = order[:bisect_left(range(len(order) + 1), count, key=leaving)]
        removed = leaving(len(order))
    if removed < count:
        raise ValueError(f"asked to remove {count} {unit}, but only {removed} can go while every layer keeps {minimum} filters")
    return order


def ranked(graph: ChannelGraph, groups: Sequence[int], scores: Sequence[float], minimum: int = 1) -> Iterator[tuple[int, int]]:
    """The groups in the order in which they leave, each with its number of filters: one ranking over all layers, lowest
    score first.

    Equal scores go by group id. A group whose layer would keep fewer than `minimum` filters stays, and is left out.
    """
    groups, scores = np.asarray(groups), np.asarray(scores)
    removable = graph.groups["layers"]
    layers_of = dict(zip(removable.index.tolist(), removable))
    filters = {layer: np.bincount(graph.filter_groups(layer)) for layer in graph.layers.index}  # by group id
    left = {layer: int(count.sum()) for layer, count in filters.items()}
    for group in groups[np.lexsort((groups, scores))].tolist():
        layers = layers_of.get(group, ())  # what may never leave has none there
        leaving = {layer: int(filters[layer][group]) for layer in layers}
        if layers and all(left[layer] - leaving[layer] >= minimum for layer in layers):
            for layer in layers:
                left[layer] -= leaving[layer]
            yield group, sum(leaving.values())


def _outline(network: FaceNetwork, graph: ChannelGraph) -> tuple[FaceNetwork, ChannelGraph]:
    """Copies of a network and its graph whose tensors have shapes but no values."""
    shapes = {id(p): nn.Parameter(torch.empty_like(p, device="meta"), p.requires_grad) for p in network.parameters()}
    shapes |= {id(b): torch.empty_like(b, device="meta") for b in network.buffers()}
    return copy.deepcopy((network, graph), shapes)


def prune(network: FaceNetwork, training: FaceSet, schedule: Schedule, recipe: Recipe, evaluate: Evaluate, seed: int,
          folder: Path) -> Tables:
    """Prunes a trained network in place, step by step: average the scores of a step's mini-batches (and train on them),
    remove the filters that matter least, evaluate. With criterion "none" the step ends with nothing removed.

    Step 0 is the network as it came. After every step folder/pruning.safetensors holds all that is needed to go on,
    and every evaluated network stays as folder/STAGE-STEP.safetensors, for `load`. A finished run is not repeated.
    Returns the tables of the schedule's stage. Raises TrainingError when the loss, a gradient or the network is no
    longer finite, ValueError when the folder holds the run of another network, schedule, recipe or seed, or the schedule would remove
    more than may leave.
    """
    folder = Path(folder)
    path = folder / "pruning.safetensors"
    keep_freed_memory()
    network.to(device())
    graph = graph_of(network, schedule.keep_descriptor, schedule.multiple or 1)
    total, origin = size_columns(network, graph)[schedule.unit], fingerprint(network.state_dict())
    optimizer = optimizer_for(network, recipe, schedule.learning_rate)
    curve, layers = [], []
    if path.exists():
        tensors, saved = load_checkpoint(path)
        check_same_run(path, saved, schedule=asdict(schedule), recipe=asdict(recipe), seed=seed, origin=origin)
        graph.align(saved["multiple"])
        graph.remove(tensors["removed"], optimizer)
        network.load_state_dict(under("network", tensors))
        load_momentum(optimizer, network, under("momentum", tensors))
        first, precision, curve, layers = saved["step"] + 1, saved["precision"], saved["curve"], saved["layers"]
    else:
        first, precision = 0, choose_precision(network, recipe)
        if schedule.stage == "pruned":  # raises now when so much could not leave at the end
            groups = graph.groups.index
            choose(graph, groups, np.zeros(len(groups)), round(schedule.last_share * total), schedule.minimum, schedule.unit, network)

    size = network.config["image_size"]
    per_step = schedule.batches_per_step or -(-len(training) // recipe.batch_size)
    about = {"network": network.config["name"], "criterion": schedule.criterion, "seed": seed, "stage": schedule.stage}
    with progress(range(first, schedule.steps + 1), schedule.stage, schedule.steps + 1, "steps", first) as bar:
        for step in bar:
            if step > 0:
                torch.manual_seed(seed_of(seed, 3, step))
                importance = None
                if schedule.stage == "pruned":
                    importance = Importance(network, graph, schedule.criterion, seed_of(seed, 4, step))
                for start, updates, scores in schedule.passes(step, per_step):
                    batches = training_batches(training, size, recipe.batch_size, seed, start, start + per_step)
                    learn(network, batches, recipe, precision, f"{schedule.stage} step {step}", path,
                          optimizer if updates else None, importance if scores else None)
                if importance is not None:
                    asked = round(min(step * schedule.step_share, schedule.last_share) * total)
                    asked -= total - size_columns(network, graph)[schedule.unit]
                    chosen = choose(graph, *importance.scores(), asked, schedule.minimum, schedule.unit, network)
                    graph.remove(chosen, optimizer)
            check_state(network, f"{schedule.stage} step {step}", path)
            if schedule.evaluated(step):
                if schedule.reestimate_batches:
                    reestimate(network, training_batches(training, size, recipe.batch_size, seed, 0,
                                                         schedule.reestimate_batches))
                found = {"step": step} | size_columns(network, graph)
                rows = evaluate(network, schedule.stage, step)
                curve += (pd.DataFrame([about | found]).merge(rows, how="cross")).to_dict("records")
                layers += layer_rows(graph, about, step)
                if schedule.multiple == 0:
                    choose_multiple(network, graph, recipe, precision, optimizer)
                save_network(folder / f"{schedule.stage}-{step:03d}.safetensors", network, graph, schedule.keep_descriptor)
                row = rows.iloc[0]
                bar.set_postfix_str(f"{graph.filters} filters, {row['pair']} {row['metric']} {row['value']:.4f}",
                                    refresh=False)
            tensors = prefixed("network", network.state_dict()) | prefixed("momentum", momentum(optimizer, network))
            save_checkpoint(path, tensors | {"removed": graph.removed},
                            {"network": network.config, "schedule": asdict(schedule), "recipe": asdict(recipe), "seed": seed,
                             "origin": origin, "step": step, "precision": precision, "multiple": graph.multiple, "curve": curve, "layers": layers})
    return Tables(pd.DataFrame(curve), pd.DataFrame(layers))


def learn(network: FaceNetwork, batches: Iterable, recipe: Recipe, precision: str, moment: str, checkpoint: Path,
          optimizer: torch.optim.Optimizer | None, importance: Importance | None) -> None:
    """One pass over mini-batches in training mode: each one's scores are collected, then the weights updated."""
    network.train()
    with importance or contextlib.nullcontext():
        for number, (images, labels) in enumerate(batches, 1):
            loss = backward(network, images, labels, recipe, precision)
            check_finite(network, loss, f"{moment}, mini-batch {number}", checkpoint)
            if importance is not None:
                importance.collect()
            if optimizer is not None:
                optimizer.step()
            network.zero_grad(set_to_none=True)


def reestimate(network: FaceNetwork, batches: Iterable) -> None:
    """Makes the running statistics of batch normalisation anew: the mean over mini-batches of their means and
    (unbiased) variances, in float32. Weights, momentum and training's own updates are not affected."""
    where = next(network.parameters()).device
    torch.optim.swa_utils.update_bn((normalise(images, where) for images, _ in batches), network)


def size_columns(network: FaceNetwork, graph: ChannelGraph) -> dict:
    """Filters, groups, parameters and MACs of the network that makes descriptors: without the training classifier."""
    classifier = graph.exact({f"classifier.{name}": tensor for name, tensor in network.classifier.state_dict().items()})
    total = graph.layers["out_channels_original"].sum()
    return {"filters": graph.filters, "groups": len(graph.groups), "filters_removed_pct": 100 * (1 - graph.filters / total),
            "parameters": graph.parameters - sum(tensor.numel() for tensor in classifier.values()),
            "macs": graph.macs - classifier["classifier.weight"].numel()}


def layer_rows(graph: ChannelGraph, about: dict, step: int) -> list[dict]:
    table = graph.layers.rename_axis("layer").reset_index()
    table["coupling"] = table["layer"].map(couplings(graph))
    columns = ["layer", "kind", "depth", "coupling", "out_channels_original", "out_channels"]
    return [about | {"step": step} | row for row in table[columns].to_dict("records")]


def couplings(graph: ChannelGraph) -> dict[str, int]:
    """For each layer the depth of the first layer with which it shares groups, itself or through others: layers with the
    same number lose filters together."""
    first = graph.layers["depth"].to_dict()
    for layers in set(graph.groups["layers"]):
        together = {first[layer] for layer in layers}
        first = {layer: min(together) if depth in together else depth for layer, depth in first.items()}
    return first


def save_network(path: Path, network: FaceNetwork, graph: ChannelGraph, keep_descriptor: bool, **more) -> None:
    """Writes what `load` needs: the constructor's arguments, the groups removed and the weights; and more, if given."""
    save_checkpoint(path, prefixed("network", graph.exact(network.state_dict())) | {"removed": graph.removed},
                    {"network": network.config, "keep_descriptor": keep_descriptor, "multiple": graph.multiple} | more)


def load(path: Path, multiple: int = 1) -> tuple[FaceNetwork, ChannelGraph]:
    """A pruned network from its checkpoint, rebuilt through its constructor: same logits, bit for bit. multiple: as in
    `Schedule`, where 0 is that of the run when it was kept; above 1, they are the same up to rounding."""
    network, graph, tensors, kept = _rebuilt(path)
    network.load_state_dict(under("network", tensors))
    graph.align(multiple or kept)
    return network, graph


def fresh(path: Path, seed: int, multiple: int = 1) -> tuple[FaceNetwork, ChannelGraph]:
    """The pruned shape of a checkpoint with random weights: a new network, never trained, cut to that shape.

    The draw is that of the seed and of nothing else; it is not the one the pruned network once started from.
    """
    torch.manual_seed(seed_of(seed, 5))
    network, graph, _, kept = _rebuilt(path)
    graph.align(multiple or kept)
    return network, graph


def _rebuilt(path: Path) -> tuple[FaceNetwork, ChannelGraph, dict[str, Tensor], int]:
    """Network and graph of a checkpoint, its tensors, which are not loaded yet, and the multiple of the run that kept it."""
    tensors, saved = load_checkpoint(path)
    network = networks.build(**saved["network"]).eval()
    graph = graph_of(network, saved["keep_descriptor"])
    graph.remove(tensors["removed"])
    return network, graph, tensors, saved["multiple"]


def fine_tune(folder: Path, share: float, training: FaceSet, validation: FaceSet, schedule: Schedule, recipe: Recipe,
              evaluate: Evaluate, seed: int) -> Tables:
    """Retrains the network that `prune` left in `folder` with `share` removed, from there. Of a control run it is the network
    of the same step, whole.

    It stays as folder/fine-tuned-STEP.safetensors, for `load`. Returns the tables of stage "fine-tuned". Resumable, as
    training is. Raises ValueError when the share was not evaluated.
    """
    return _retrain("fine-tuned", lambda path: load(path, schedule.multiple), folder, share, training, validation, schedule,
                    recipe, evaluate, seed)


def from_scratch(folder: Path, share: float, training: FaceSet, validation: FaceSet, schedule: Schedule, recipe: Recipe,
                 evaluate: Evaluate, seed: int) -> Tables:
    """Trains the shape that `prune` left in `folder` with `share` removed from random weights: what is it worth to
    inherit weights, and not the shape alone (Liu et al. 2019, Rethinking the Value of Network Pruning)?

    Returns the tables of stage "from-scratch"; else as `fine_tune`.
    """
    return _retrain("from-scratch", lambda path: fresh(path, seed, schedule.multiple), folder, share, training, validation,
                    schedule, recipe, evaluate, seed)


def _retrain(stage: str, start: Callable[[Path], tuple[FaceNetwork, ChannelGraph]], folder: Path, share: float,
             training: FaceSet, validation: FaceSet, schedule: Schedule, recipe: Recipe, evaluate: Evaluate, seed: int) -> Tables:
    step = schedule.step_of(share)
    path = Path(folder) / f"{schedule.stage}-{step:03d}.safetensors"
    if not path.exists():
        raise ValueError(f"no network was kept with {share:.0%} of the {schedule.unit} removed (step {step}); take a share "
                         f"that is evaluated: every {schedule.evaluate_every * schedule.step_share:.0%}")
    done, origin = path.with_name(f"{stage}-{step:03d}.safetensors"), fingerprint(load_checkpoint(path)[0])
    if not done.exists():
        network, graph = start(path)
        train(network, training, validation, recipe, seed, done.with_suffix(""))
        about = {"network": network.config["name"], "criterion": schedule.criterion, "seed": seed, "stage": stage}
        found = about | {"step": step} | size_columns(network, graph)
        rows = pd.DataFrame([found]).merge(evaluate(network, stage, step), how="cross").to_dict("records")
        save_network(done, network, graph, schedule.keep_descriptor, origin=origin, curve=rows, layers=layer_rows(graph, about, step))
    saved = load_checkpoint(done)[1]
    check_same_run(done, saved, origin=origin)
    return Tables(pd.DataFrame(saved["curve"]), pd.DataFrame(saved["layers"]))

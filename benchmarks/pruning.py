"""Speed and memory of pruning: python benchmarks/pruning.py [PART ...] [--networks NAME ...] [--shares PCT ...] [--threads N]

Every part takes its ratios in one run, by turns, and writes results/benchmarks/pruning_PART.csv; with --threads N,
which `memory` does not heed, pruning_PART_threads_N.csv (1: what each part of `make study` has on two cores). Faces are random
numbers, 113 x 113; SqueezeNet's stem stride is 1, MobileNetV2's and ResNet50's 2.

removal     1 % of the filters removed, momentum included, against the step of torch-pruning's pruner on the same
            network, which also scores and chooses them, removes about as many by its own rule and leaves the optimiser
            alone. What it takes here to score and choose is given beside.
scoring     a training step with and without the scores of every criterion; collect_ms is what collect() takes of it.
throughput  images/s of training and inference with exact widths and with widths at multiples of 8, against the
            unpruned network, beside what multiply-accumulates promise; with as many filters in every layer as a study's
            network had at the --shares of filters removed (2, 8, 20 and 40 %, the other parts 40; --study). Which ones they are
            makes no difference to speed. Also in bfloat16 where the hardware has it. Speed-ups are medians over rounds,
            with 95 % intervals (bootstrap over rounds).
profile     where the milliseconds of those training steps go: convolutions, whose multiply-accumulates are promised,
            and all else.
convolutions
            every convolution of those networks by itself, forward and backward: milliseconds unpruned and aligned, beside
            what its own multiply-accumulates promise; in all, also what these promises come to when each is weighed by the
            time that its convolution takes (promised_weighed_by_time): those that lose few filters may take longer than
            their multiply-accumulates tell.
schedule    steps of 1 % up to the largest of --shares, each of two scored training steps and a removal, against the same steps with masks: an
            unpruned network, scored too, in which what is removed is set to zero after every update. Layers lose as many
            filters as they did in the study. A training step's time is the median of three after one that warms up, since
            the study takes twenty between removals, of which the first one at new shapes takes longer; the arms take turns
            in being first.
memory      peak of a pruning step (a mini-batch with scores, then removal) over that of a training step, each in a
            fresh process: MB above what the process held before.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import platform
import resource
import time
from collections import Counter, deque
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import torch
import torch_pruning
from scipy.stats import bootstrap

from facelib import networks, pruning
from facelib.channels import ChannelGraph
from facelib.faces.crops import normalise
from facelib.importance import CRITERIA, Importance
from facelib.networks import FaceNetwork
from facelib.results import read_table
from facelib.training import Recipe, backward, device, has_bfloat16, keep_freed_memory, optimizer_for

SUBJECTS = 100
STEM_STRIDES = {"squeezenet": 1, "mobilenetv2": 2, "resnet50": 2}
RECIPE = Recipe(batch_size=32, precision="float32")
SHARE = 0.01  # of the filters, in a step of the study
SHARES = {"throughput": [2.0, 8.0, 20.0, 40.0], "profile": [40.0], "convolutions": [40.0], "schedule": [40.0]}  # by default, %


def made(name: str) -> tuple[FaceNetwork, ChannelGraph, torch.optim.SGD]:
    torch.manual_seed(0)
    network = networks.build(name, SUBJECTS, stem_stride=STEM_STRIDES[name]).to(device()).train()
    return network, pruning.graph_of(network), optimizer_for(network, RECIPE, 0.01)


def mini_batch(number: int, images: int = RECIPE.batch_size) -> tuple[torch.Tensor, torch.Tensor]:
    """Random images (images, 3, 113, 113), uint8, and labels."""
    generator = torch.Generator().manual_seed(number)
    return (torch.randint(256, (images, 3, 113, 113), dtype=torch.uint8, generator=generator),
            torch.randint(SUBJECTS, (images,), generator=generator))


def step(network: FaceNetwork, optimizer: torch.optim.SGD, batch, importance: Importance | None = None,
         precision: str = "float32") -> float:
    """A training step; returns the seconds that collect() took."""
    backward(network, *batch, RECIPE, precision)
    start = now()
    if importance is not None:
        importance.collect()
    seconds = now() - start
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return seconds


def now() -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def in_rounds(works: dict, rounds: int, warm_ups: int = 0, each: int = 1) -> pd.DataFrame:
    """Median seconds of each piece of work (columns) in each round (rows) after a first one, which is left out. In a round
    it is done `each` times, after `warm_ups` that bring its memory back."""
    found = [{name: median([timed(work) for _ in range(warm_ups + each)][warm_ups:]) for name, work in works.items()}
             for _ in range(rounds + 1)]
    return pd.DataFrame(found[1:])


def timed(work: Callable) -> float:
    start = now()
    work()
    return now() - start


def removal(name: str, repeats: int = 7) -> list[dict]:
    network, graph, optimizer = made(name)
    batch = mini_batch(0, 4)
    step(network, optimizer, batch)
    backward(network, *batch, RECIPE, "float32")
    example = torch.zeros(1, 3, 113, 113, device=device())
    seconds: dict[str, list[float]] = {"scores and choice": [], "removal": [], "torch-pruning": []}
    for _ in range(repeats + 1):
        start = now()
        importance = Importance(network, graph, "taylor_weight")
        importance.collect()
        chosen = pruning.choose(graph, *importance.scores(), round(SHARE * graph.filters))
        seconds["scores and choice"].append(now() - start)
        ours, ours_graph, ours_optimizer = copied(network, graph, optimizer)
        start = now()
        ours_graph.remove(chosen, ours_optimizer)
        seconds["removal"].append(now() - start)
        theirs = copy.deepcopy(network)
        for one, other in zip(network.parameters(), theirs.parameters()):
            other.grad = one.grad.clone()
        taylor = torch_pruning.importance.GroupTaylorImportance()
        pruner = torch_pruning.pruner.BasePruner(theirs, example, taylor, global_pruning=True, pruning_ratio=SHARE,
                                                 ignored_layers=[theirs.classifier])
        start = now()
        pruner.step()
        seconds["torch-pruning"].append(now() - start)
    left = sum(m.out_channels for m in theirs.modules() if isinstance(m, torch.nn.Conv2d))
    choice, ours, other = (1000 * median(found[1:]) for found in seconds.values())
    return [{"network": name, "filters": graph.filters, "removed": graph.filters - ours_graph.filters,
             "removed_by_torch_pruning": graph.filters - left, "scores_and_choice_ms": choice, "removal_ms": ours,
             "torch_pruning_step_ms": other, "torch_pruning_over_removal": other / ours,
             "torch_pruning_over_all": other / (choice + ours)}]


def copied(network: FaceNetwork, graph: ChannelGraph, optimizer: torch.optim.SGD):
    """The network, its graph and its optimiser, all of them copies that belong together."""
    twin, twin_graph = copy.deepcopy((network, graph))
    twin_optimizer = optimizer_for(twin, RECIPE, 0.01)
    for one, other in zip(network.parameters(), twin.parameters()):
        twin_optimizer.state[other]["momentum_buffer"] = optimizer.state[one]["momentum_buffer"].clone()
    return twin, twin_graph, twin_optimizer


def scoring(name: str, repeats: int = 5) -> list[dict]:
    network, graph, optimizer = made(name)
    batch = mini_batch(0)
    collected: dict[str, list[float]] = {criterion: [] for criterion in CRITERIA}

    def scored(criterion: str) -> None:
        with Importance(network, graph, criterion) as importance:
            collected[criterion].append(step(network, optimizer, batch, importance))

    works: dict[str, Callable] = {"none": partial(step, network, optimizer, batch)}
    works |= {criterion: partial(scored, criterion) for criterion in CRITERIA}
    seconds = in_rounds(works, repeats).median()
    plain, rows = seconds["none"], []
    for criterion in CRITERIA:
        collect = median(collected[criterion][1:])
        rows.append({"network": name, "criterion": criterion, "batch_size": RECIPE.batch_size, "step_ms": 1000 * plain,
                     "scored_step_ms": 1000 * seconds[criterion], "collect_ms": 1000 * collect,
                     "overhead_pct": 100 * (seconds[criterion] / plain - 1), "collect_pct": 100 * collect / plain})
    return rows


def throughput(name: str, study: Path, shares: list[float], rounds: int = 6) -> list[dict]:
    batch, rows = mini_batch(0), []
    images = normalise(batch[0], device())

    def infer(network: FaceNetwork, precision: str) -> None:
        with torch.inference_mode(), torch.autocast(device().type, torch.bfloat16, enabled=precision == "bfloat16"):
            network.eval().embed(images)
        network.train()

    for share in shares:
        stored = in_storages(name, study, share)
        total, macs = stored["unpruned"][1].filters, stored["unpruned"][1].macs
        for precision in ["float32"] + ["bfloat16"] * has_bfloat16(device()):
            works = {"training": {storage: partial(step, network, optimizer, batch, None, precision)
                                  for storage, (network, _, optimizer) in stored.items()},
                     "inference": {storage: partial(infer, network, precision)
                                   for storage, (network, *_) in stored.items()}}
            for work, by_storage in works.items():
                seconds = in_rounds(by_storage, rounds, warm_ups=1, each=2)
                for storage in ("exact", "aligned"):
                    graph = stored[storage][1]
                    speedups, promised = (seconds["unpruned"] / seconds[storage]).to_numpy(), macs / graph.macs
                    interval = bootstrap((speedups,), np.median, rng=np.random.default_rng(0)).confidence_interval
                    rows.append({"network": name, "stem_stride": STEM_STRIDES[name], "precision": precision, "work": work,
                                 "storage": storage, "filters_removed_pct": 100 * (1 - graph.filters / total),
                                 "gmacs": graph.macs / 1e9, "unpruned_gmacs": macs / 1e9,
                                 "images_per_s": len(images) / seconds[storage].median(),
                                 "unpruned_images_per_s": len(images) / seconds["unpruned"].median(),
                                 "speedup": np.median(speedups), "ci_low": interval.low, "ci_high": interval.high,
                                 "promised_by_macs": promised, "share_of_promise": np.median(speedups) / promised})
    return rows


def in_storages(name: str, study: Path, share: float) -> dict[str, tuple]:
    """Network, graph and optimiser: unpruned, and as the study had it at that share, at exact and at aligned widths."""
    found = {"unpruned": made(name)}
    left = filters_left(name, study)
    for storage, multiple in (("exact", 1), ("aligned", 8)):
        _, graph, _ = found[storage] = made(name)
        graph.remove(groups_beyond(graph, left(share)))
        assert {layer: len(graph.filter_groups(layer)) for layer in left(share)} == left(share)
        graph.align(multiple)
    return found


def filters_left(name: str, study: Path) -> Callable[[float], dict[str, int]]:
    """From the percentage of filters removed to the filters in every layer of the study's network, by interpolation between the
    steps that it evaluated."""
    layers = read_table(study / name / "layers.csv")
    layers = layers[(layers["stage"] == "pruned") & (layers["criterion"] == "taylor_weight") & (layers["seed"] == 0)]
    counts = layers.pivot(index="step", columns="layer", values="out_channels")
    removed = 100 * (1 - counts.sum(axis=1) / counts.loc[0].sum())

    def left(share: float) -> dict[str, int]:
        if not 0 <= share <= removed.max() + 0.1:
            raise ValueError(f"{study / name} has networks with 0 to {removed.max():.1f} % of the filters removed, found {share:g}")
        return {layer: round(np.interp(share, removed, counts[layer])) for layer in counts}

    return left


def groups_beyond(graph: ChannelGraph, left: dict[str, int]) -> list[int]:
    """The groups of the last filters of every layer, all but so many. Where layers share groups, the first one's are the others'."""
    gone: set[int] = set()
    for layer, count in left.items():
        gone.update([group for group in graph.filter_groups(layer).tolist() if group not in gone][count:])
    return sorted(gone)


KINDS = {"convolution": "convolutions", "batch_norm": "batch normalisation", "threshold": "ReLU", "clamp": "ReLU",
         "hardtanh": "ReLU", "pool": "pooling", "mean": "pooling", "cat": "concatenation"}


def profile(name: str, study: Path, shares: list[float], rounds: int = 5, each: int = 2) -> list[dict]:
    batch, rows = mini_batch(0), []
    for share in shares:
        stored = in_storages(name, study, share)
        found = {storage: Counter() for storage in stored}
        for _ in range(rounds):
            for storage, (network, _, optimizer) in stored.items():
                step(network, optimizer, batch)
                with torch.profiler.profile() as profiler:
                    for _ in range(each):
                        step(network, optimizer, batch)
                for event in profiler.key_averages():
                    kind = next((kind for word, kind in KINDS.items() if word in event.key), "all else")
                    found[storage][kind] += event.self_cpu_time_total / 1000 / rounds / each
        unpruned = stored["unpruned"][1]
        for storage, (_, graph, _) in stored.items():
            found[storage]["in all"] = found[storage].total()
            for kind, milliseconds in found[storage].items():
                rows.append({"network": name, "filters_removed_pct": 100 * (1 - graph.filters / unpruned.filters),
                             "storage": storage, "kind": kind, "step_ms": milliseconds,
                             "speedup": found["unpruned"][kind] / milliseconds if milliseconds else np.nan,
                             "promised_by_macs": unpruned.macs / graph.macs})
    return rows


def convolutions(name: str, study: Path, shares: list[float], rounds: int = 5) -> list[dict]:
    rows = []
    for share in shares:
        stored = in_storages(name, study, share)
        shapes = {storage: shapes_of(network) for storage, (network, *_) in stored.items()}
        removed, of_share = 100 * (1 - stored["exact"][1].filters / stored["unpruned"][1].filters), []
        for layer in shapes["unpruned"]:
            works = {storage: alone(stored[storage][0].get_submodule(layer), shapes[storage][layer], first=not of_share)
                     for storage in ("unpruned", "aligned")}
            milliseconds = 1000 * in_rounds(works, rounds, warm_ups=1, each=2).min()
            work = {storage: stored[storage][0].get_submodule(layer).weight.numel() for storage in ("unpruned", "exact")}
            of_share.append({"layer": layer, **milliseconds.add_suffix("_ms"), "promised_by_macs": work["unpruned"] / work["exact"]})
        table = pd.DataFrame(of_share)
        unpruned, aligned = table["unpruned_ms"].sum(), table["aligned_ms"].sum()
        of_share.append({"layer": "in all", "unpruned_ms": unpruned, "aligned_ms": aligned,
                         "promised_by_macs": stored["unpruned"][1].macs / stored["exact"][1].macs,
                         "promised_weighed_by_time": unpruned / (table["unpruned_ms"] / table["promised_by_macs"]).sum()})
        rows += [{"network": name, "filters_removed_pct": removed, **row, "speedup": row["unpruned_ms"] / row["aligned_ms"]}
                 for row in of_share]
    return rows


def shapes_of(network: FaceNetwork) -> dict[str, tuple[int, ...]]:
    """The shape of every convolution's input in a training step, the first convolution first."""
    found: dict[str, tuple[int, ...]] = {}
    hooks = [module.register_forward_pre_hook(lambda _, given, name=name: found.update({name: tuple(given[0].shape)}))
             for name, module in network.named_modules() if isinstance(module, torch.nn.Conv2d)]
    with torch.no_grad():
        network(normalise(mini_batch(0)[0], device()))
    for hook in hooks:
        hook.remove()
    return found


def alone(convolution: torch.nn.Conv2d, shape: tuple[int, ...], first: bool) -> Callable[[], None]:
    """A forward and a backward pass of a convolution by itself; first: no gradient goes back to its input."""
    images = torch.randn(shape, device=device()).to(memory_format=torch.channels_last).requires_grad_(not first)
    gradient = torch.randn_like(convolution(images))

    def passes() -> None:
        convolution(images).backward(gradient)
        convolution.weight.grad = images.grad = None

    return passes


def schedule(name: str, study: Path, shares: list[float], batches: int = 2, repeats: int = 3) -> list[dict]:
    """Step by step. Every arm pays for a choice; what leaves are as many filters of every layer as left the study's."""
    arms, left = {arm: made(name) for arm in ("masks", "exact", "aligned")}, filters_left(name, study)
    arms["aligned"][1].align(8)
    total, seconds, gone, macs = arms["masks"][1].filters, Counter(), [], []
    in_turn, steps = deque(arms), round(max(shares) / (100 * SHARE))
    for number in range(1, steps + 1):
        collected = {}
        in_turn.rotate()
        macs.append(arms["exact"][1].macs)
        for arm in in_turn:
            network, graph, optimizer = arms[arm]
            places = masked_places(network, graph, gone) if arm == "masks" else []
            collected[arm] = Importance(network, graph, "taylor_weight")
            found = []
            for batch in (mini_batch(number * (1 + repeats) + i) for i in range(1 + repeats)):
                start = now()
                step(network, optimizer, batch, collected[arm])
                for parameter, rows in places:
                    parameter.data[rows] = 0
                found.append(now() - start)
            seconds[arm] += batches * median(found[1:])
        beyond = groups_beyond(arms["masks"][1], left(100 * number * SHARE))
        chosen, gone = sorted(set(beyond) - set(gone)), beyond
        for arm in in_turn:
            network, graph, optimizer = arms[arm]
            start = now()
            pruning.choose(graph, *collected[arm].scores(), round(SHARE * total))
            if arm != "masks":
                graph.remove(chosen, optimizer)
            seconds[arm] += now() - start
    return [{"network": name, "steps": steps, "storage": arm,
             "filters_removed_pct": 100 * (1 - arms[arm][1].filters / total), "seconds": seconds[arm],
             "masks_seconds": seconds["masks"], "share_of_masks": seconds[arm] / seconds["masks"],
             "promised_by_macs": np.mean(macs) / macs[0]}
            for arm in ("exact", "aligned")]


def masked_places(network: FaceNetwork, graph: ChannelGraph, gone: list[int]) -> list[tuple]:
    """Parameters of filters and of the batch normalisation after them, and the rows in them that are masked."""
    places = []
    for name, module in network.named_modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.BatchNorm2d)):
            rows = torch.isin(graph.filter_groups(name), torch.tensor(gone, dtype=torch.long)).to(device())
            places += [(parameter, rows) for parameter in (module.weight, module.bias) if parameter is not None]
    return places


def memory(name: str) -> list[dict]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        training, pruned = pool.map(peak, [name, name], [False, True])
    return [{"network": name, "batch_size": RECIPE.batch_size, "training_step_mb": training, "pruning_step_mb": pruned,
             "ratio": pruned / training}]


def peak(name: str, with_removal: bool) -> float:
    """MB that training steps, or pruning steps, hold at most, above what the process held when the network was made."""
    keep_freed_memory()
    network, graph, optimizer = made(name)
    on_gpu = device().type == "cuda"
    before = torch.cuda.memory_allocated() / 2**20 if on_gpu else resident()
    for number in range(3):
        importance = Importance(network, graph, "taylor_weight") if with_removal else None
        step(network, optimizer, mini_batch(number), importance)
        if importance is not None:
            graph.remove(pruning.choose(graph, *importance.scores(), round(SHARE * graph.filters)), optimizer)
    return (torch.cuda.max_memory_allocated() / 2**20 if on_gpu else resident()) - before


def resident() -> float:
    """The largest resident size of this process so far, in MB."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would start from the size of the process that started this one
        return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if platform.system() == "Darwin" else 2**10)


PARTS = {part.__name__: part for part in (removal, scoring, throughput, profile, convolutions, schedule, memory)}


def main(parts: list[str], names: list[str], study: Path, shares: list[float] | None, threads: int | None) -> None:
    keep_freed_memory()
    torch.set_num_threads(threads or torch.get_num_threads())
    print(f"{torch.get_num_threads()} threads, {device()}")
    folder = Path("results/benchmarks")
    folder.mkdir(parents=True, exist_ok=True)
    shares_of = {part: shares or SHARES[part] for part in parts if part in SHARES}
    for name in names:
        for share in set().union(*shares_of.values()):
            filters_left(name, study)(share)  # a study that is not there, or too short, is found out before the first part
    for part in parts:
        rows = []
        for name in names:
            rows += PARTS[part](name, study, shares_of[part]) if part in SHARES else PARTS[part](name)
        table = pd.DataFrame(rows)
        numbers = table.select_dtypes(np.floating).columns
        table[numbers] = table[numbers].round(3)
        table.to_csv(folder / f"pruning_{part}{f'_threads_{threads}' if threads else ''}.csv", index=False)
        print(f"\n{part}\n{table.to_string(index=False)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--networks", nargs="+", default=list(STEM_STRIDES), choices=list(STEM_STRIDES), metavar="NAME")
    parser.add_argument("--study", type=Path, default=Path("results/real-faces"), metavar="FOLDER",
                        help="results that throughput, profile, convolutions and schedule follow")
    parser.add_argument("--shares", nargs="+", type=float, metavar="PCT",
                        help="filters removed, %%; by default 40, of throughput 2, 8, 20 and 40")
    parser.add_argument("--threads", type=int, metavar="N", help="as many as torch takes, by default")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"a part is one of {', '.join(PARTS)}, found {', '.join(sorted(unknown))}")
    main(given.parts or list(PARTS), given.networks, given.study, given.shares, given.threads)

"""Speed and memory of pruning: python benchmarks/pruning.py [removal scoring throughput memory] [--networks NAME ...]

Every part takes its ratios in one run, by turns, and writes results/benchmarks/pruning_PART.csv. Sizes are those of the
study: SqueezeNet at 113 x 113 and stem stride 1, MobileNetV2 and ResNet50 at stride 2. Faces are random numbers.

removal     1 % of the filters removed, momentum included, against the step of torch-pruning's pruner on the same
            network, which also chooses them, removes about as many by its own rule and leaves the optimiser alone.
            What it takes here to choose is given beside.
scoring     a training step with and without the scores of every criterion; collect_ms is what collect() takes of it.
throughput  images/s of training and inference at 40 % of the filters removed by taylor_weight, with exact widths and
            with widths at multiples of 8, against the unpruned network, beside what multiply-accumulates promise.
            --checkpoint FILE takes the network that a study kept (pruned-040.safetensors) instead of one that is
            pruned here after few mini-batches. Also in bfloat16 where the hardware has it.
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
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import torch
import torch_pruning

from facelib import networks, pruning
from facelib.channels import ChannelGraph
from facelib.faces.crops import normalise
from facelib.importance import CRITERIA, Importance
from facelib.networks import FaceNetwork
from facelib.training import Recipe, backward, device, has_bfloat16, keep_freed_memory, optimizer_for

SUBJECTS = 100
STEM_STRIDES = {"squeezenet": 1, "mobilenetv2": 2, "resnet50": 2}
RECIPE = Recipe(batch_size=32, precision="float32")
SHARE = 0.01  # of the filters, in a step of the study
STEPS, REMOVED = 20, 0.40  # for throughput


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


def by_turns(works: dict, repeats: int) -> dict:
    """Median seconds of each piece of work, done one after the other `repeats` times after one to warm up."""
    seconds = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            start = now()
            work()
            seconds[name].append(now() - start)
    return {name: median(found[1:]) for name, found in seconds.items()}


def removal(name: str, repeats: int = 7) -> list[dict]:
    network, graph, optimizer = made(name)
    batch = mini_batch(0, 4)
    step(network, optimizer, batch)
    backward(network, *batch, RECIPE, "float32")
    importance = Importance(network, graph, "taylor_weight")
    importance.collect()
    example = torch.zeros(1, 3, 113, 113, device=device())
    seconds: dict[str, list[float]] = {"scores and choice": [], "removal": [], "torch-pruning": []}
    for _ in range(repeats + 1):
        start = now()
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
    seconds = by_turns(works, repeats)
    plain, rows = seconds["none"], []
    for criterion in CRITERIA:
        collect = median(collected[criterion][1:])
        rows.append({"network": name, "criterion": criterion, "batch_size": RECIPE.batch_size, "step_ms": 1000 * plain,
                     "scored_step_ms": 1000 * seconds[criterion], "collect_ms": 1000 * collect,
                     "overhead_pct": 100 * (seconds[criterion] / plain - 1), "collect_pct": 100 * collect / plain})
    return rows


def throughput(name: str, checkpoint: Path | None, repeats: int = 5) -> list[dict]:
    network, graph, optimizer = made(name)
    total, macs = graph.filters, graph.macs
    if checkpoint:
        pruned, pruned_graph = pruning.load(checkpoint)
        if pruned.config["name"] != name:
            raise SystemExit(f"{checkpoint}: expected {name}, found {pruned.config['name']}; name it by --networks")
        removed = pruned_graph.removed
    else:
        removed = pruned_by_taylor(network, graph, optimizer)
    networks_by_storage = {"unpruned": made(name)[::2]}
    for storage, multiple in (("exact", 1), ("aligned", 8)):
        other, stored, optimizer = made(name)
        stored.remove(removed)
        stored.align(multiple)
        networks_by_storage[storage] = other, optimizer
    batch, rows = mini_batch(0), []
    images = normalise(batch[0], device())

    def infer(network: FaceNetwork, precision: str) -> None:
        with torch.inference_mode(), torch.autocast(device().type, torch.bfloat16, enabled=precision == "bfloat16"):
            network.eval().embed(images)
        network.train()

    for precision in ["float32"] + ["bfloat16"] * has_bfloat16(device()):
        training = {storage: partial(step, other, optimizer, batch, None, precision)
                    for storage, (other, optimizer) in networks_by_storage.items()}
        inference = {storage: partial(infer, other, precision) for storage, (other, _) in networks_by_storage.items()}
        found = {"training": by_turns(training, repeats), "inference": by_turns(inference, 2 * repeats)}
        for work, seconds in found.items():
            for storage in ("exact", "aligned"):
                speedup, promised = seconds["unpruned"] / seconds[storage], macs / stored.macs
                rows.append({"network": name, "stem_stride": STEM_STRIDES[name], "precision": precision, "work": work,
                             "storage": storage, "filters_removed_pct": 100 * (1 - stored.filters / total),
                             "gmacs": stored.macs / 1e9, "unpruned_gmacs": macs / 1e9,
                             "images_per_s": len(images) / seconds[storage],
                             "unpruned_images_per_s": len(images) / seconds["unpruned"],
                             "speedup": speedup, "promised_by_macs": promised, "share_of_promise": speedup / promised})
    return rows


def pruned_by_taylor(network: FaceNetwork, graph: ChannelGraph, optimizer: torch.optim.SGD) -> torch.Tensor:
    """The groups that leave a network in STEPS steps, each scored and trained on one small mini-batch."""
    total = graph.filters
    for number in range(1, STEPS + 1):
        importance = Importance(network, graph, "taylor_weight")
        step(network, optimizer, mini_batch(number, 16), importance)
        asked = round(number / STEPS * REMOVED * total) - (total - graph.filters)
        graph.remove(pruning.choose(graph, *importance.scores(), asked), optimizer)
    return graph.removed


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


PARTS = {"removal": removal, "scoring": scoring, "throughput": throughput, "memory": memory}


def main(parts: list[str], names: list[str], checkpoint: Path | None) -> None:
    keep_freed_memory()
    print(f"{torch.get_num_threads()} threads, {device()}")
    folder = Path("results/benchmarks")
    folder.mkdir(parents=True, exist_ok=True)
    for part in parts:
        rows = []
        for name in names:
            rows += PARTS[part](name, checkpoint) if part == "throughput" else PARTS[part](name)
        table = pd.DataFrame(rows)
        numbers = table.select_dtypes(np.floating).columns
        table[numbers] = table[numbers].round(3)
        table.to_csv(folder / f"pruning_{part}.csv", index=False)
        print(f"\n{part}\n{table.to_string(index=False)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--networks", nargs="+", default=list(STEM_STRIDES), choices=list(STEM_STRIDES), metavar="NAME")
    parser.add_argument("--checkpoint", type=Path, help="of a pruned network, for throughput")
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"a part is one of {', '.join(PARTS)}, found {', '.join(sorted(unknown))}")
    main(given.parts or list(PARTS), given.networks, given.checkpoint)

"""Whether a pruned network is faster here with its layers stored at multiples of 8 (see ChannelGraph.align)."""

from __future__ import annotations

import time

import torch

from facelib.channels import ChannelGraph
from facelib.faces.crops import normalise
from facelib.networks import FaceNetwork
from facelib.training import Recipe, backward

MULTIPLE = 8  # channels that processors take at once, and few enough dead ones


def choose_multiple(network: FaceNetwork, graph: ChannelGraph, recipe: Recipe, precision: str,
                    optimizer: torch.optim.Optimizer | None = None, repeats: int = 4) -> int:
    """Stores the network as it is faster, exactly (1) or aligned (8), and returns the multiple.

    Measured by turns, `repeats` times each after one to warm up: a training step and a pass without gradients of a
    mini-batch of the recipe's size, at most 32 images. Weights, statistics and momentum (in `optimizer`) stay what they
    are, all gradients are dropped. A network that lost nothing stays exact. Timing decides: who resumes a run has to be
    told the choice.
    """
    graph.align(1, optimizer)
    if not len(graph.removed):
        return 1
    size = network.config["image_size"]
    shape = (min(recipe.batch_size, 32), 3, size, size)
    images = torch.randint(256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(len(images), dtype=torch.long)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    mode = network.training
    seconds: dict[int, list[float]] = {1: [], MULTIPLE: []}
    for _ in range(repeats + 1):
        for multiple, found in seconds.items():
            graph.align(multiple, optimizer)
            start = time.perf_counter()
            backward(network.train(), images, labels, recipe, precision).item()
            with torch.inference_mode():
                network.eval()(normalise(images, next(network.parameters()).device)).sum().item()
            found.append(time.perf_counter() - start)
    network.train(mode)
    graph.align(1, optimizer)
    network.load_state_dict(state)
    network.zero_grad(set_to_none=True)
    graph.align(min(seconds, key=lambda multiple: min(seconds[multiple][1:])), optimizer)
    return graph.multiple

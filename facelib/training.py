"""The papers' training recipe: softmax cross-entropy, SGD with momentum, learning rate lowered at plateaus."""

from __future__ import annotations

import contextlib
import ctypes
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from facelib.faces.crops import centre_batches, normalise, training_batches
from facelib.faces.faceset import FaceSet
from facelib.networks import FaceNetwork
from facelib.progress import progress
from facelib.storage import check_same_run, load_checkpoint, prefixed, save_checkpoint, under


class TrainingError(RuntimeError):
    """Training cannot go on: the message says where it stopped and what is left to go back to."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. The defaults are the papers' (PAPERS: batch, rates, plateau); epochs is an upper limit.

    schedule: "plateau" takes the next of learning_rates whenever the validation loss has not fallen for `patience`
        epochs, and ends after the last; "one-cycle" warms up to learning_rates[0] and falls to zero over `epochs`,
        which gets more out of a budget that is too short for plateaus.
    precision: "float32", "bfloat16" (autocast) or "auto": the faster of both, measured, where the hardware has bfloat16.
    """

    batch_size: int = 128
    epochs: int = 60
    schedule: str = "plateau"
    learning_rates: tuple[float, ...] = (0.01, 0.005, 0.001, 0.0001)
    patience: int = 2
    momentum: float = 0.9
    weight_decay: float = 1e-4
    label_smoothing: float = 0.0
    precision: str = "auto"

    def __post_init__(self):
        object.__setattr__(self, "learning_rates", tuple(float(rate) for rate in self.learning_rates))
        if self.schedule not in ("plateau", "one-cycle"):
            raise ValueError(f"schedule is plateau or one-cycle, found '{self.schedule}'")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"precision is auto, float32 or bfloat16, found '{self.precision}'")
        if not self.learning_rates or min(self.learning_rates) <= 0:
            raise ValueError(f"learning_rates are one or more numbers above 0, found {self.learning_rates}")
        for name in ("batch_size", "epochs", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is at least 1, found {getattr(self, name)}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing is a share, at least 0 and below 1, found {self.label_smoothing}")


def keep_freed_memory() -> None:
    """Tells glibc to keep large freed blocks: else every large tensor goes back to the kernel, and half the training
    time into page faults. Elsewhere it does nothing."""
    if platform.libc_ver()[0] == "glibc":
        M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)
        libc.mallopt(M_ARENA_MAX, 1)  # threads of their own arenas would still map and unmap


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def optimizer_for(network: nn.Module, recipe: Recipe, learning_rate: float) -> torch.optim.SGD:
    """SGD with momentum; no weight decay on batch normalisation and biases."""
    decayed = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=learning_rate, momentum=recipe.momentum)


def has_bfloat16(where: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16 (a processor without it emulates it many times slower)."""
    if where.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def choose_precision(network: FaceNetwork, recipe: Recipe) -> str:
    """The recipe's precision; for "auto" the faster one, measured on a few training steps of a copy's size."""
    where = next(network.parameters()).device
    if recipe.precision != "auto":
        return recipe.precision
    if not has_bfloat16(where):
        return "float32"
    size = network.config["image_size"]
    images = torch.zeros(min(recipe.batch_size, 32), 3, size, size, dtype=torch.uint8)
    labels = torch.zeros(len(images), dtype=torch.long)
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    seconds = {}
    for precision in ("float32", "bfloat16"):
        for repeat in range(4):  # the first one warms up
            start = time.perf_counter()
            backward(network, images, labels, recipe, precision).item()
            seconds[precision] = min(seconds.get(precision, float("inf")), time.perf_counter() - start)
    network.zero_grad(set_to_none=True)
    network.load_state_dict(state)
    return min(seconds, key=seconds.get)


def backward(network: FaceNetwork, images: Tensor, labels: Tensor, recipe: Recipe, precision: str) -> Tensor:
    """Adds the gradients of a mini-batch's loss to the network's; returns the loss, a scalar without graph."""
    where = next(network.parameters()).device
    autocast = torch.autocast(where.type, torch.bfloat16) if precision == "bfloat16" else contextlib.nullcontext()
    with autocast:
        logits = network(normalise(images, where))
    loss = nn.functional.cross_entropy(logits.float(), labels.to(where), label_smoothing=recipe.label_smoothing)
    loss.backward()
    return loss.detach()


def check_finite(network: nn.Module, loss: Tensor, moment: str, checkpoint: Path) -> None:
    """Raises TrainingError when the loss or a gradient is NaN or infinite: call it before the optimiser's step.

    Names the moment, the last good checkpoint, and the first parameter whose gradient went bad in the backward pass:
    the last bad one in the network's order, since a bad gradient spoils all that come after it, towards the input.
    """
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    if torch.isfinite(loss + nn.utils.get_total_norm(list(gradients.values()))):
        return
    bad = [name for name, gradient in gradients.items() if not torch.isfinite(gradient).all()]
    if bad or not torch.isfinite(loss):  # else only their norm is too large for a float32
        parts = [f"the loss is {loss.item():.6g} at {moment}"]
        parts += [f"the first gradient that went bad in the backward pass is that of {bad[-1]}"] if bad else []
        raise _trouble(network, parts, checkpoint)


def check_state(network: nn.Module, moment: str, checkpoint: Path) -> None:
    """Raises TrainingError when a weight or statistic is NaN or infinite: call it before the network is saved."""
    if _first_bad(network):
        raise _trouble(network, [f"the network went bad at {moment}"], checkpoint)


def _first_bad(network: nn.Module) -> str | None:
    return next((name for name, tensor in network.state_dict().items() if not torch.isfinite(tensor).all()), None)


def _trouble(network: nn.Module, parts: list[str], checkpoint: Path) -> TrainingError:
    bad = _first_bad(network)
    if bad:  # as the statistics of a layer whose output is NaN
        parts.append(f"the first tensor of the network that is not finite is {bad}")
    parts.append(f"the last good checkpoint is {checkpoint}" if checkpoint.exists() else "there is no checkpoint yet")
    return TrainingError("; ".join(parts) + ". A lower learning rate may help.")


def validate(network: FaceNetwork, faces: FaceSet, recipe: Recipe, subjects: dict[str, int]) -> tuple[float, float]:
    """Mean cross-entropy and accuracy of classifying the faces' subjects, on centre crops, in evaluation mode."""
    where = next(network.parameters()).device
    labels = torch.tensor([subjects[name] for name in faces.subjects])
    found, right = [], []  # of every image its own subject's log-probability: all logits of so many subjects may not fit
    network.eval()
    with torch.inference_mode():
        batches = centre_batches(faces, network.config["image_size"], recipe.batch_size)
        for (images, _), own in zip(batches, labels.split(recipe.batch_size), strict=True):
            logits = network(normalise(images, where)).float().cpu()
            found.append(logits.log_softmax(1).gather(1, own[:, None]))
            right.append(logits.argmax(1) == own)
    network.train()
    loss = nn.functional.nll_loss(torch.cat(found), torch.zeros_like(labels)).item()
    return loss, torch.cat(right).float().mean().item()


class Plateau:
    """The learning rates in turn: the next one when the validation loss has not fallen for `patience` epochs."""

    def __init__(self, rates: tuple[float, ...], patience: int):
        self.rates, self.patience = rates, patience
        self.state = {"rate": 0, "best": float("inf"), "bad": 0}

    @property
    def rate(self) -> float:
        return self.rates[min(self.state["rate"], len(self.rates) - 1)]

    @property
    def finished(self) -> bool:
        return self.state["rate"] >= len(self.rates)

    def epoch_ended(self, loss: float) -> None:
        if loss < self.state["best"]:
            self.state.update(best=loss, bad=0)
        else:
            self.state["bad"] += 1
            if self.state["bad"] >= self.patience:
                self.state.update(rate=self.state["rate"] + 1, bad=0)


def one_cycle(rate: float, position: float) -> float:
    """Learning rate at `position` (0 to 1) of a run: linear warm-up over its first 15 %, then a cosine to zero."""
    warm_up = 0.15
    if position < warm_up:
        return rate * (0.04 + 0.96 * position / warm_up)
    return rate * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * (position - warm_up) / (1 - warm_up))).item())


def train(network: FaceNetwork, training: FaceSet, validation: FaceSet, recipe: Recipe, seed: int,
          folder: Path) -> pd.DataFrame:
    """Trains the network in place and leaves it with the weights of the epoch with the lowest validation loss.

    Writes folder/training.safetensors after every epoch and goes on from it when it is there; a finished training is
    not repeated, and leaves the weights of that epoch alone. Returns one row per epoch: epoch, learning_rate, training_loss, validation_loss,
    validation_accuracy (a fraction), images_per_second, precision.
    Raises TrainingError when the loss, a gradient or the network is no longer finite, ValueError when the network
    classifies other subjects, or the folder holds the training of another recipe or seed.
    """
    names = training.subject_names
    if len(names) != network.config["subjects"]:
        raise ValueError(f"the network classifies {network.config['subjects']} subjects, the faces have {len(names)}")
    subjects = {name: label for label, name in enumerate(names)}
    keep_freed_memory()
    network.to(device())
    path = Path(folder) / "training.safetensors"
    optimizer = optimizer_for(network, recipe, recipe.learning_rates[0])
    plateau = Plateau(recipe.learning_rates, recipe.patience)
    precision, history, best = None, [], None
    if path.exists():
        tensors, saved = load_checkpoint(path)
        check_same_run(path, saved, recipe=asdict(recipe), seed=seed)
        best, history, precision, plateau.state = under("best", tensors), saved["history"], saved["precision"], saved["plateau"]
        network.load_state_dict(under("network", tensors) or best)  # a finished training has the best alone
        load_momentum(optimizer, network, under("momentum", tensors))
    precision = precision or choose_precision(network, recipe)
    steps = -(-len(training) // recipe.batch_size)  # an epoch's mini-batches

    for epoch in range(len(history), recipe.epochs):
        if recipe.schedule == "plateau" and plateau.finished:
            break
        torch.manual_seed(seed_of(seed, 2, epoch))  # what dropout draws does not depend on where training was resumed
        start, total = time.perf_counter(), 0.0
        network.train()
        batches = training_batches(training, network.config["image_size"], recipe.batch_size, seed,
                                   epoch * steps, (epoch + 1) * steps)
        with progress(batches, f"epoch {epoch + 1} of at most {recipe.epochs}", unit="batches") as bar:
            for step, (images, labels) in enumerate(bar, epoch * steps):
                rate = one_cycle(recipe.learning_rates[0], step / (recipe.epochs * steps))
                set_rate(optimizer, plateau.rate if recipe.schedule == "plateau" else rate)
                loss = backward(network, images, labels, recipe, precision)
                check_finite(network, loss, f"epoch {epoch + 1}, mini-batch {step - epoch * steps + 1} of {steps}", path)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
                total += loss.item()
                bar.set_postfix_str(f"loss {loss.item():.3f}", refresh=False)
        speed = steps * recipe.batch_size / (time.perf_counter() - start)
        loss, accuracy = validate(network, validation, recipe, subjects)
        check_finite(network, torch.tensor(loss), f"the validation of epoch {epoch + 1}", path)
        check_state(network, f"epoch {epoch + 1}", path)
        if best is None or loss < min(row["validation_loss"] for row in history):
            best = {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}
        history.append({"epoch": epoch + 1, "learning_rate": optimizer.param_groups[0]["lr"], "training_loss": total / steps,
                        "validation_loss": loss, "validation_accuracy": accuracy, "images_per_second": speed,
                        "precision": precision})
        plateau.epoch_ended(loss)
        going_on = {} if epoch + 1 == recipe.epochs or (recipe.schedule == "plateau" and plateau.finished) else (
            prefixed("network", network.state_dict()) | prefixed("momentum", momentum(optimizer, network)))
        save_checkpoint(path, prefixed("best", best) | going_on,
                        {"network": network.config, "recipe": asdict(recipe), "seed": seed, "history": history,
                         "precision": precision, "plateau": plateau.state})
    network.load_state_dict(best)
    return pd.DataFrame(history)


def seed_of(*numbers: int) -> int:
    """One seed of several numbers (a run's seed, the number of a use, ...): no two uses share one, as by addition.

    Uses: 2 epochs of training, 3 steps of pruning, 4 random scores, 5 weights from scratch (0 and 1 are the crops').
    """
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = rate


def momentum(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """The optimiser's momentum by parameter name."""
    buffers = {n: optimizer.state[p].get("momentum_buffer") for n, p in network.named_parameters() if p in optimizer.state}
    return {name: buffer for name, buffer in buffers.items() if buffer is not None}


def load_momentum(optimizer: torch.optim.Optimizer, network: nn.Module, buffers: dict[str, Tensor]) -> None:
    for name, parameter in network.named_parameters():
        if name in buffers:
            optimizer.state[parameter]["momentum_buffer"] = torch.empty_like(parameter).copy_(buffers[name])

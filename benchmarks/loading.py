"""Share of training that waits for images: python benchmarks/loading.py [SOURCE ROOT].

Each network trains on the images of a source (the built-in faces by default) as `training.train` does, decoding and
cropping in its own processes. A step's wait is the time until its mini-batch is there. The first steps, in which the
processes start, are left out. Writes results/benchmarks/loading.csv.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pandas as pd
import torch

from facelib import faces, networks, training
from facelib.faces.crops import training_batches

CASES = pd.DataFrame([("squeezenet", 113, 1), ("mobilenetv2", 113, 2), ("resnet50", 113, 2)],
                     columns=["network", "image_size", "stem_stride"])
BATCH, FIRST, STEPS = 64, 3, 15


def waits(name: str, image_size: int, stem_stride: int, known: faces.FaceSet) -> dict:
    """Milliseconds of a training step and of waiting for its images, on average."""
    recipe = training.Recipe(batch_size=BATCH)
    network = networks.build(name, len(known.subject_names), image_size, stem_stride).to(training.device())
    optimizer = training.optimizer_for(network, recipe, 0.01)
    precision = training.choose_precision(network, recipe)
    waited = 0.0
    batches = iter(training_batches(known, image_size, BATCH, 0, 0, FIRST + STEPS))
    for step in range(FIRST + STEPS):
        if step == FIRST:
            waited, start = 0.0, time.perf_counter()
        before = time.perf_counter()
        images, labels = next(batches)
        waited += time.perf_counter() - before
        loss = training.backward(network, images, labels, recipe, precision)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
    step = (time.perf_counter() - start) / STEPS
    return {"precision": precision, "images_per_second": BATCH / step, "step_ms": 1000 * step,
            "wait_ms": 1000 * waited / STEPS, "waiting_pct": 100 * waited / STEPS / step}


def main(source: str = "synthetic", root: str = "") -> None:
    training.keep_freed_memory()
    torch.manual_seed(0)
    options = {"subjects": 60, "images_per_pose": 8} if source == "synthetic" else {}
    known = faces.load(source, root, **options)
    rows = [case | waits(*case.values(), known) for case in CASES.to_dict("records")]
    table = pd.DataFrame(rows).assign(images=len(known), source=source).round(1)
    folder = Path("results/benchmarks")
    folder.mkdir(parents=True, exist_ok=True)
    table.to_csv(folder / "loading.csv", index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main(*sys.argv[1:])

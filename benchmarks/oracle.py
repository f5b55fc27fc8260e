"""Criteria against the oracle: python benchmarks/oracle.py [network] [--checkpoint FILE] [--faces FOLDER].

Spearman's rank correlation of each criterion's scores with the true change of the loss when a group is removed. The
network is the unpruned one of a study (--checkpoint RUN/pruned-000.safetensors, with the faces of that study), or is
trained first: by the laptop preset's recipe, on its synthetic faces or on a folder with one folder for each subject.
Scores and losses come from the same training mini-batches; groups are drawn at random, as many from every layer.
Killed, it goes on where it was, in runs/. Writes results/oracle/NETWORK.csv.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch

from facelib import faces, networks, oracle, pruning, results, training
from facelib.faces.crops import training_batches
from facelib.progress import progress

SEED = 0
IMAGE_SIZE, STEM_STRIDE = 81, 2
BATCHES, PER_LAYER, AT_ONCE = 4, 12, 20  # mini-batches; groups of each layer; groups between two savings
RECIPE = training.Recipe(64, 10, "one-cycle", (0.05,), label_smoothing=0.1, precision="float32")
SYNTHETIC = {"source": "synthetic", "subjects": 150, "images_per_pose": 8}


def main(name: str, checkpoint: Path | None, folder: str | None) -> None:
    learning, *_ = faces.load_split(**({"source": "folder", "root": folder} if folder else SYNTHETIC), test_share=0.2)
    learning, validation = faces.hold_out_images(learning, 0.1, SEED)
    about = {"network": name, "recipe": asdict(RECIPE), "faces": learning.fingerprint(),
             "checkpoint": results.file_hash(checkpoint) if checkpoint else None,
             "sample": [IMAGE_SIZE, STEM_STRIDE, BATCHES, PER_LAYER, SEED]}
    run = results.Run.open(Path("runs"), f"{name}-oracle", about)
    if checkpoint:
        network, graph = pruning.load(checkpoint)
        network.to(training.device())
        if (network.config["name"], network.config["subjects"]) != (name, len(set(learning.subjects))):
            raise SystemExit(f"{checkpoint}: expected a {name} of {len(set(learning.subjects))} subjects, as the faces "
                             f"have, found {network.config}")
    else:
        torch.manual_seed(SEED)
        network = networks.build(name, len(set(learning.subjects)), IMAGE_SIZE, STEM_STRIDE)
        training.train(network, learning, validation, RECIPE, SEED, run.folder)
        graph = pruning.graph_of(network)

    batches = list(training_batches(learning, network.config["image_size"], RECIPE.batch_size, SEED, 0, BATCHES))
    layers = oracle.sample(graph, PER_LAYER, SEED)
    path = run.folder / "changes.csv"
    changes = results.read_table(path).set_index("group")["change"] if path.exists() else pd.Series(dtype=float)
    left = layers.index.difference(changes.index)
    for start in progress(range(0, len(left), AT_ONCE), "oracle", unit=f"x {AT_ONCE} groups"):
        found = oracle.loss_changes(network, graph, batches, left[start:start + AT_ONCE].tolist(), RECIPE.label_smoothing)
        changes = pd.concat([changes, found]) if len(changes) else found
        results.write_table(changes.rename_axis("group").reset_index(name="change"), ["group", "change"], path)

    scores = oracle.scores(network, graph, batches, RECIPE, SEED)
    table = oracle.correlations(scores, changes.sort_index(), layers, seed=SEED)
    table.insert(0, "network", name)
    table["images"] = sum(len(labels) for _, labels in batches)
    table["loss"] = oracle.mean_loss(network, batches, RECIPE.label_smoothing)
    results.write_table(table, list(table), Path("results/oracle") / f"{name}.csv")
    print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", nargs="?", default="squeezenet", choices=list(networks.ARCHITECTURES))
    parser.add_argument("--checkpoint", type=Path, help="the study's network before pruning, pruned-000.safetensors")
    parser.add_argument("--faces", help="a folder of faces; else synthetic ones")
    given = parser.parse_args()
    main(given.network, given.checkpoint, given.faces)

"""Criteria against the oracle: python benchmarks/oracle.py [NETWORK ...] [--preset NAME].

Spearman's rank correlation of each criterion's scores with the true change of the loss when a group is removed. The
networks are the unpruned ones of a preset's study: those in runs/, else they are trained first. Scores and losses come
from the same training mini-batches; groups are drawn at random, as many from every layer. Killed, it goes on where it
was, in runs/. Writes results/oracle/NETWORK.csv.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from facelib import batch, networks, oracle, pruning, results
from facelib.faces.crops import training_batches
from facelib.progress import progress
from facelib.study import Study
from facelib.training import device

IMAGES, PER_LAYER, AT_ONCE = 256, 12, 20  # to measure the loss on; groups of each layer; groups between two savings


def main(name: str, preset: str) -> None:
    notebook = next(Path("notebooks").glob(f"*_{name}.ipynb"))
    given = batch.given(notebook, [Path("notebooks/presets") / f"{preset}.yaml"], [])
    study = Study.from_parameters(batch.declared(notebook) | given | {"results": "runs/oracle"})  # results/ stays as is
    network, _ = study.trained()
    network.to(device())
    graph = pruning.graph_of(network)
    size, smoothing = study.recipe.batch_size, study.recipe.label_smoothing
    batches = list(training_batches(study.training, study.image_size, size, study.seed, 0, IMAGES // size))
    layers = oracle.sample(graph, PER_LAYER, study.seed)

    run = results.Run.open(Path("runs"), f"{name}-oracle", {"baseline": study.baseline_run.folder.name,
                                                            "sample": [IMAGES, PER_LAYER]})
    path = run.folder / "changes.csv"
    changes = results.read_table(path).set_index("group")["change"] if path.exists() else pd.Series(dtype=float)
    left = layers.index.difference(changes.index)
    for start in progress(range(0, len(left), AT_ONCE), "oracle", unit=f"x {AT_ONCE} groups"):
        found = oracle.loss_changes(network, graph, batches, left[start:start + AT_ONCE].tolist(), smoothing)
        changes = pd.concat([changes, found]) if len(changes) else found
        results.write_table(changes.rename_axis("group").reset_index(name="change"), ["group", "change"], path)

    scores = oracle.scores(network, graph, batches, study.recipe, study.seed)
    table = oracle.correlations(scores, changes.sort_index(), layers, seed=study.seed)
    table.insert(0, "network", name)
    table["images"] = sum(len(labels) for _, labels in batches)
    table["loss"] = oracle.mean_loss(network, batches, smoothing)
    results.write_table(table, list(table), Path("results/oracle") / f"{name}.csv")
    print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", metavar="NETWORK",
                        help=f"{', '.join(networks.ARCHITECTURES)}; all by default")
    parser.add_argument("--preset", default="laptop")
    chosen = parser.parse_args()
    if unknown := set(chosen.networks) - set(networks.ARCHITECTURES):
        parser.error(f"a network is one of {', '.join(networks.ARCHITECTURES)}, found {', '.join(sorted(unknown))}")
    for one in chosen.networks or networks.ARCHITECTURES:
        main(one, chosen.preset)

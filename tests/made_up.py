"""Made-up tables of a study, for tests of what is computed and drawn from tables. No network was trained for them: rates
follow smooth curves with some noise, and are not results."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from facelib.results import CURVE, DET, LAYERS, SCORES, write_table

POSE_PAIRS = ("frontal-frontal", "frontal-profile", "profile-profile")
WIDTHS = pd.DataFrame({"layer": ["features.conv1.conv", "features.fire2.squeeze.conv", "features.fire2.expand1x1.conv",
                                 "features.fire2.expand3x3.conv", "features.fire3.squeeze.conv", "features.fire3.expand1x1.conv",
                                 "features.fire3.expand3x3.conv", "features.conv10.conv"],
                       "kind": ["conv", "pointwise", "pointwise", "conv", "pointwise", "pointwise", "conv", "pointwise"],
                       "depth": range(8), "width": [64, 16, 64, 128, 32, 128, 192, 376], "coupling": range(8)})


def tables(network="squeezenet", widths=WIDTHS, steps=range(0, 61, 2), chosen=(0, 20, 40, 60), arm_steps=range(0, 13),
           pairs=POSE_PAIRS, parameters=1_240_000, macs=349_000_000, unpruned=0.15, seed=0):
    """Every table of one study by name: curve, layers, arms, arms_layers, det, scores."""
    rng = np.random.default_rng(seed)
    total = int(widths["width"].sum())
    easiness = {pair: 1 + 0.25 * place for place, pair in enumerate(pairs)}

    def rows(criterion, run_seed, stage, step, removed, sizes, loss, closely=False):
        left = 1 - removed
        about = {"network": network, "criterion": criterion, "seed": run_seed, "stage": stage, "step": step,
                 "filters": round(total * left), "groups": round(total * left), "filters_removed_pct": 100 * removed,
                 "parameters": round(parameters * left**1.6), "macs": round(macs * left**1.2)}
        for size in sizes:
            for pair, times in easiness.items():
                before = unpruned * times / (1 if size == 1 else 1 + size)
                change = before * loss * (1 + 0.1 * rng.standard_normal()) if step or stage != "pruned" else 0.0
                value, half = before + change, 0.15 * (before + change)
                common = about | {"protocol": "pose_pairs", "pair": pair, "template_size": size, "genuine": 3600, "impostor": 316_000}
                yield common | {"metric": "eer", "value": value, "ci_low": value - half, "ci_high": value + half}
                frr = min(5 * value, 0.95)
                yield common | {"metric": "frr_at_far_0.001", "value": frr, "ci_low": 0.9 * frr, "ci_high": min(1.1 * frr, 1)}
                if step:
                    yield common | {"metric": "eer_change", "value": change, "ci_low": change - 0.08 * before,
                                    "ci_high": change + 0.08 * before}
        if closely:
            common = about | {"protocol": "view2", "pair": "any-any", "template_size": 1, "genuine": 3000, "impostor": 3000}
            value = 0.9 * unpruned * (1 + loss)
            yield common | {"metric": "accuracy", "value": 1 - value, "ci_low": 0.99 - value, "ci_high": 1.01 - value}
            yield common | {"metric": "eer", "value": value, "ci_low": 0.9 * value, "ci_high": 1.1 * value}

    def left_at(removed, preference):
        """Filters left in every layer: the wider, the more leave, by the power `preference`."""
        weight = widths["width"].to_numpy(float) ** preference
        weight = 1 + (weight / weight.mean() - 1) * min(1, 1.2 - removed)
        share = np.clip(removed * weight * total / (widths["width"] * weight).sum(), 0, 0.97)
        return np.maximum(np.round(widths["width"] * (1 - share)).astype(int), 1)

    def layer_rows(criterion, run_seed, stage, step, removed, preference):
        left = left_at(removed, preference)
        for (_, layer), count in zip(widths.iterrows(), left):
            yield {"network": network, "criterion": criterion, "seed": run_seed, "stage": stage, "step": step, "layer": layer["layer"],
                   "kind": layer["kind"], "depth": layer["depth"], "out_channels_original": layer["width"], "out_channels": count,
                   "coupling": layer["coupling"]}

    curve, layers, arms, arms_layers, det = [], [], [], [], []
    far = np.append(np.geomspace(1, 1e-5, 60), 0)
    for step in steps:
        removed, close = step / 100, step in chosen
        sizes = (1, 2, 3, 5) if close else (1, 5)
        stages = [("pruned", 1.6 * removed**2)]
        if close and step:
            stages += [("fine-tuned", 0.7 * removed**2), ("from-scratch", 0.4 + removed**2)]
        for stage, loss in stages:
            curve += rows("taylor_weight", 0, stage, step, removed, sizes, loss, close)
            layers += layer_rows("taylor_weight", 0, stage, step, removed, 0.7)
            if close:
                for size in (1, 5):
                    for place, pair in enumerate(pairs):
                        frr = 1 / (1 + (far / (0.01 * (1 + place) * (1 + loss) / size)) ** 0.6)
                        det += [dict(zip(DET, (network, "taylor_weight", 0, stage, step, 100 * removed, "pose_pairs", pair, size, a, b,
                                               3600, 316_000))) for a, b in zip(far, frr)]
    for criterion, seeds, times, preference in (("taylor_weight", 3, 1.8, 0.7), ("magnitude", 1, 2.6, 0.3), ("random", 1, 3.5, 0.0)):
        for run_seed in range(seeds):
            for step in arm_steps:
                arms += rows(criterion, run_seed, "pruned", step, step / 20, (1, 5), times * (step / 20) ** 2)
                arms_layers += layer_rows(criterion, run_seed, "pruned", step, step / 20, preference + 0.02 * run_seed)
    for step in arm_steps:
        arms += rows("none", 0, "control", step, 0.0, (1, 5), -0.04)
    scores = []
    edges = np.linspace(-0.4, 1, 51)
    middle = (edges[1:] + edges[:-1]) / 2
    for size in (1, 5):
        for place, pair in enumerate(pairs):
            genuine = np.exp(-((middle - 0.6 + 0.08 * place - 0.04 * size) / 0.15) ** 2 / 2)
            impostor = np.exp(-((middle - 0.05) / 0.12) ** 2 / 2)
            scores += [dict(zip(SCORES, (network, "pose_pairs", pair, size, low, high, round(1e4 * g), round(1e5 * i))))
                       for low, high, g, i in zip(edges, edges[1:], genuine, impostor)]
    return {"curve": pd.DataFrame(curve)[CURVE], "layers": pd.DataFrame(layers)[LAYERS], "arms": pd.DataFrame(arms)[CURVE],
            "arms_layers": pd.DataFrame(arms_layers)[LAYERS], "det": pd.DataFrame(det)[DET], "scores": pd.DataFrame(scores)}


def write(folder: Path, **options) -> dict[str, pd.DataFrame]:
    """Writes the tables as a study leaves them into folder/NETWORK. Returns them."""
    found = tables(**options)
    folder = Path(folder) / found["curve"]["network"].iloc[0]
    files = {"curve": "curve", "layers": "layers", "arms": "arms/curve", "arms_layers": "arms/layers", "det": "det", "scores": "scores"}
    for name, file in files.items():
        write_table(found[name], list(found[name]), folder / f"{file}.csv")
    epochs = np.arange(1, 11)
    history = pd.DataFrame({"epoch": epochs, "training_loss": 5 / epochs**0.5, "validation_loss": 5.2 / epochs**0.4,
                            "validation_accuracy": 0.8 - 0.7 / epochs})
    write_table(history, list(history), folder / "training.csv")
    faces = {"training": {"images": 1000, "subjects": 50}, "test": {"images": 300, "subjects": 20}}
    (folder / "manifest.json").write_text(json.dumps({"faces": faces, "made_up": True}))
    return found

"""All figures of a folder of results, and of all folders."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import pandas as pd

from facelib import comparison
from facelib.figures.curves import Arms, PruningCurve, SizeCurve, TemplateCurve
from facelib.figures.faces import TrainingCurve
from facelib.figures.layers import FiltersLeft, WidthLoss, WidthsBeforeAfter
from facelib.figures.networks import (
    DetOfNetworks,
    ErrorAgainstSize,
    ErrorOfNetworks,
    FiltersLeftOfNetworks,
    SizeOfNetworks,
    TemplatesOfNetworks,
    main_rows,
)
from facelib.figures.scores import DetCurves, ScoreHistogram
from facelib.figures.style import ONE_COLUMN, of_first_criterion, save
from facelib.results import StudyTables, load_studies, read_table, summary_markdown
from facelib.storage import replacing

PANELS = (PruningCurve, TemplateCurve, Arms, DetCurves, ScoreHistogram, ErrorOfNetworks, SizeOfNetworks, ErrorAgainstSize,
          FiltersLeft, FiltersLeftOfNetworks)  # two columns wide by themselves, or one


def figures_of(curve: pd.DataFrame, layers: pd.DataFrame, study: StudyTables | None = None) -> dict[str, object]:
    """A display for every figure that the tables of one network hold, by file name; study: its other tables.

    Where the tables hold several criteria, the first one's figures have the plain names, the others' end in their own.
    """
    displays = {}
    criteria = list(dict.fromkeys(curve.loc[curve["stage"] != "control", "criterion"]))
    for criterion in criteria:
        end = "" if criterion == criteria[0] else f"_{criterion}"
        rows = curve[(curve["criterion"] == criterion) | (curve["stage"] == "control")]
        of_criterion = layers[layers["criterion"] == criterion]
        found = {metric: PruningCurve.from_table(rows, metric) for metric in rows.loc[rows["stage"] == "pruned", "metric"].unique()}
        if _has_template_sizes(rows):
            found["templates"] = TemplateCurve.from_table(rows)
        found["size"] = SizeCurve.from_table(rows)
        found["filters_left"] = FiltersLeft.from_table(of_criterion)
        if (of_criterion["out_channels"] < of_criterion["out_channels_original"]).any():
            found["width_loss"] = WidthLoss.from_table(of_criterion)
            found["widths"] = WidthsBeforeAfter.from_table(of_criterion)
        displays |= {name + end: display for name, display in found.items()}
    if study is None:
        return displays
    if len(study.arms):
        displays["arms"] = Arms.from_table(study.arms)
    if len(study.scores):
        displays["scores"] = ScoreHistogram.from_table(study.scores)
    det = of_first_criterion(study.det)
    for size in sorted(det["template_size"].unique()):
        displays[_det_name(size)] = DetCurves.from_table(det, size)
    return displays


def _has_template_sizes(curve: pd.DataFrame) -> bool:
    """Whether more template sizes than two were measured, which two panels of a `PruningCurve` do not show."""
    pruned = curve[(curve["stage"] == "pruned") & (curve["metric"] == "eer") & (curve["protocol"] == "pose_pairs")]
    return pruned["template_size"].nunique() > 2


def _det_name(template_size: int) -> str:
    return "det" if template_size == 1 else f"det_{template_size}"


def figures_of_networks(studies: Sequence[StudyTables]) -> dict[str, object]:
    """A display for every figure that shows all networks of a preset, by file name."""
    metrics = set.intersection(*(set(study.curve.loc[study.curve["stage"] == "pruned", "metric"]) for study in studies)) - {"accuracy"}
    displays = {metric: ErrorOfNetworks.from_studies(studies, metric) for metric in sorted(metrics)}
    displays |= {"size": SizeOfNetworks.from_studies(studies), "eer_against_size": ErrorAgainstSize.from_studies(studies),
                 "filters_left": FiltersLeftOfNetworks.from_studies(studies)}
    if measured := [study for study in studies if _has_template_sizes(main_rows(study))]:
        displays["templates"] = TemplatesOfNetworks.from_studies(measured)
    sizes = {study.network: set(of_first_criterion(study.det)["template_size"]) for study in studies}
    for size in sorted(set.union(*sizes.values())):
        displays[_det_name(size)] = DetOfNetworks.from_studies([study for study in studies if size in sizes[study.network]], size)
    return displays


def draw(folder: Path, one_column: bool = False) -> None:
    """Draws the figures of one network's folder into folder/figures, and writes the EER at round shares of filters removed, with
    its interval, into folder/summary.md. The folder holds curve.csv and layers.csv, and the study's other tables if any."""
    study = StudyTables.load(folder)
    displays = figures_of(study.curve, study.layers, study)
    with replacing(Path(folder) / "summary.md") as temporary:
        temporary.write_text(summary_markdown(study.curve), encoding="utf-8")
    if (history := Path(folder) / "training.csv").exists():
        displays["training"] = TrainingCurve.from_table(read_table(history))
    save_all(displays, Path(folder) / "figures", one_column)


def draw_comparison(preset: Path, one_column: bool = False) -> None:
    """Writes the tables and draws the figures of all networks of results/PRESET into results/PRESET/comparison.

    Raises FileNotFoundError when there is no network.
    """
    studies = list(load_studies(preset).values())
    if not studies:
        raise FileNotFoundError(f"{preset}: expected folders of networks with curve.csv, found none; run a study first")
    comparison.write(comparison.compare(studies), Path(preset) / "comparison")
    save_all(figures_of_networks(studies), Path(preset) / "comparison" / "figures", one_column)


def save_all(displays: dict[str, object], folder: Path, one_column: bool = False) -> None:
    """Draws and saves displays by name; one_column: those two columns wide a second time, as NAME_one_column."""
    for name, display in displays.items():
        save(display.plot().figure_, folder / name, display.caption)
        if one_column and isinstance(display, PANELS) and display.figure_.get_figwidth() > ONE_COLUMN:
            save(display.plot(width=ONE_COLUMN).figure_, folder / f"{name}_one_column", display.caption)


def regenerate(results: Path = Path("results"), one_column: bool = False) -> list[Path]:
    """Redraws the figures of every folder under `results` that holds curve.csv and layers.csv, and the comparison of every
    preset. Returns the folders that were drawn. one_column: as `save_all`.

    Raises FileNotFoundError when there is none.
    """
    folders = sorted(path.parent for path in Path(results).rglob("curve.csv") if path.parent.name != "arms")
    if not folders:
        raise FileNotFoundError(f"{results}: expected folders with curve.csv and layers.csv, found none; run a study first")
    presets = sorted({folder.parent for folder in folders if folder != Path(results)})
    parts = [(draw, folder) for folder in folders] + [(draw_comparison, preset) for preset in presets]
    workers = min(os.cpu_count() or 1, len(parts))
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as processes:  # forks may inherit locked threads
        for done in [processes.submit(part, folder, one_column) for part, folder in parts]:
            done.result()
    return folders + [preset / "comparison" for preset in presets]

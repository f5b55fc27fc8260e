"""Curves and histograms of similarity scores."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.scale import FuncScale
from scipy.special import ndtr, ndtri

from facelib.figures.style import (
    INTERVAL,
    MARKS,
    ONE_COLUMN,
    TWO_COLUMNS,
    Figure,
    grid_of,
    line_names,
    lowest_of_column,
    pair_order,
    panels_of,
    percent_axis,
    share_marks,
    size_title,
    style,
)
from facelib.layers import check_table, the_only
from facelib.results import DET, SCORES
from facelib.verification import det_curve

LINES = {"pruned": "-", "fine-tuned": "--", "from-scratch": ":"}  # of the stages
LOOKS = {"pruned": "Solid: pruned", "fine-tuned": "dashed: fine-tuned", "from-scratch": "dotted: the same shape trained from scratch"}


def lines_mean(points: pd.DataFrame) -> str:
    """What a caption says of the lines of the stages that are drawn."""
    drawn = [look for stage, look in LOOKS.items() if (points["stage"] == stage).any()]
    return "; ".join([*drawn, "the grey diagonal is where they are equal"]) + "."


@dataclass
class _ErrorCurve:
    """Error rates of a verification at every threshold, fractions: far falls from 1 to 0 while frr rises from 0 to 1.

    low, high: ends of an interval of frr at each far, or None. name: in the legend.
    After `plot`: line_ is the drawn curve, its data fractions too; drawn into the same axes, curves get marks of their own.
    A curve is a staircase: at a FAR between two achieved ones, the FRR is that of the lower.
    """

    far: np.ndarray
    frr: np.ndarray
    name: str | None = None
    low: np.ndarray | None = None
    high: np.ndarray | None = None

    @classmethod
    def from_scores(cls, genuine: np.ndarray, impostor: np.ndarray, name: str | None = None) -> _ErrorCurve:
        """genuine, impostor: 1-D similarity scores. Raises ValueError when either is empty or holds NaN."""
        far, frr, _ = det_curve(genuine, impostor)
        kept = _visible(far, frr)
        return cls(far[kept], frr[kept], name)

    def _draw(self, axes, rate) -> None:
        self.axes_ = axes
        self.figure_ = axes.figure
        before = sum(line.get_drawstyle() == "steps-pre" for line in axes.lines)
        colour = MARKS[before % len(MARKS)][0]
        dashes = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 2))][before % len(MARKS)]
        if self.low is not None:
            axes.fill_between(self.far, rate(self.low), rate(self.high), step="pre", color=colour, alpha=0.15, linewidth=0)
        [self.line_] = axes.plot(self.far, rate(self.frr), drawstyle="steps-pre", color=colour, linestyle=dashes, label=self.name)


class DetDisplay(_ErrorCurve):
    """Detection error trade-off: FRR against FAR on normal deviate axes that reach FAR 0.01 %."""

    @property
    def caption(self) -> str:
        return "FRR against FAR (%, normal deviate axes); the diagonal is where they are equal." + _band_meaning(self)

    def plot(self, axes=None) -> DetDisplay:
        with style():
            axes = axes or Figure(figsize=(ONE_COLUMN, ONE_COLUMN)).subplots()
            if not axes.lines:
                _deviate_axes(axes)
                axes.set(xlabel="FAR (%)", ylabel="FRR (%)")
            self._draw(axes, lambda frr: frr)
            if self.name:
                axes.legend(loc="upper right")  # where only a verification worse than chance would be
        return self


class RocDisplay(_ErrorCurve):
    """Receiver operating characteristic: genuine comparisons accepted (1 - FRR) against FAR, from FAR 0.01 % on."""

    @property
    def caption(self) -> str:
        return "Genuine comparisons accepted (100 % - FRR) against FAR (%, logarithmic)." + _band_meaning(self)

    def plot(self, axes=None) -> RocDisplay:
        with style():
            axes = axes or Figure(figsize=(ONE_COLUMN, 2.8)).subplots()
            if not axes.lines:
                percent_axis(axes, "x", "log", 1e-4, 1, (1e-4, 1e-3, 0.01, 0.1, 1))
                percent_axis(axes, "y", "linear", 0, 1.01, (0, 0.2, 0.4, 0.6, 0.8, 1))
                axes.set(xlabel="FAR (%)", ylabel="Genuine accepted, 100 − FRR (%)")
            self._draw(axes, lambda frr: 1 - frr)
            if self.name:
                axes.legend(loc="lower right")
        return self


@dataclass
class DetCurves:
    """DET curves of a network at chosen shares of filters removed, a panel for each pose pair, for one template size.

    points: rows of det.csv, of the first of `seeds` seeds. After `plot`: lines_ holds the drawn curve of every (line, stage, step), axes_ one axes per line.
    """

    points: pd.DataFrame
    template_size: int
    network: str
    criterion: str
    seeds: int

    @classmethod
    def from_table(cls, det: pd.DataFrame, template_size: int = 1) -> DetCurves:
        """det: det.csv of one network and criterion; of several seeds, the first is drawn.

        Raises ValueError when columns or rows of the template size are missing.
        """
        check_table(det, DET, "det")
        points = det[det["template_size"] == template_size]
        check_table(points, DET, f"det of template size {template_size}")
        network, criterion = (the_only(points, column, "det") for column in ("network", "criterion"))
        first = points[points["seed"] == points["seed"].min()]
        return cls(first.assign(line=line_names(first)), int(template_size), network, criterion, points["seed"].nunique())

    @property
    def caption(self) -> str:
        return (f"FRR against FAR (%, normal deviate axes) of {self.network}, {size_title(self.template_size).lower()}, with shares of its "
                f"filters removed by {self.criterion}{', the first seed' * (self.seeds > 1)}. {lines_mean(self.points)} "
                f"Genuine and impostor comparisons: {self.comparisons}. No intervals are drawn.")

    @property
    def comparisons(self) -> str:
        """How many genuine and impostor comparisons every line has, in words."""
        counts = self.points.drop_duplicates("line")
        return "; ".join(f"{row.line} {row.genuine:,} and {row.impostor:,}" for row in counts.itertuples())

    def plot(self, width: float = TWO_COLUMNS) -> DetCurves:
        names = sorted(self.points["line"].unique(), key=pair_order)
        rows, columns = grid_of(len(names), width, 3)
        with style():
            self.figure_ = Figure(figsize=(width, (width / columns - 0.1) * rows + (0.4 if width > ONE_COLUMN else 0.7)))
            self.axes_, self.lines_, handles = panels_of(self.figure_, len(names), rows, columns, sharex=True, sharey=True), {}, {}
            for place, (axes, name) in enumerate(zip(self.axes_, names)):
                lines, legend = self.draw(axes, name, share_marks(self.points))
                self.lines_ |= lines
                handles |= legend
                axes.set_title(name, fontweight="bold")
                if lowest_of_column(place, len(names), columns):
                    axes.set_xlabel("FAR (%)")
                if place % columns == 0:
                    axes.set_ylabel("FRR (%)")
            self.figure_.legend(handles=[handles[key] for key in sorted(handles)], loc="outside lower center",
                                ncols=4 if width > ONE_COLUMN else 2)
        return self

    def draw(self, axes, name: str, marks: dict[int, tuple[str, str]]) -> tuple[dict[tuple[str, str, int], Line2D], dict[tuple[int, int], Line2D]]:
        """Draws a line's curves into axes, in the colours of their shares. Returns them by (line, stage, step), and what a legend
        shows of them, by order."""
        _deviate_axes(axes)
        lines, handles = {}, {}
        for (step, stage), curve in self.points[self.points["line"] == name].groupby(["step", "stage"]):
            share = round(curve["filters_removed_pct"].iloc[0])
            look = {"color": marks[share][0], "linestyle": LINES[stage]}
            curve = curve.sort_values(["far", "frr"], ascending=[False, True])
            [lines[name, stage, step]] = axes.plot(curve["far"], curve["frr"], drawstyle="steps-pre", **look)
            label = f"{share} % removed" + f", {stage.replace('from-', 'from ')}" * (stage != "pruned")
            handles[list(LINES).index(stage), share] = Line2D([], [], label=label, **look)
        return lines, handles


@dataclass
class ScoreHistogram:
    """Similarity scores of genuine and impostor comparisons, a panel for each pose pair, single images and templates.

    bins: columns line, template_size, low, high, genuine, impostor (density: the bins' areas sum to 1).
    After `plot`: axes_ one axes per line.
    """

    bins: pd.DataFrame
    network: str

    @classmethod
    def from_table(cls, scores: pd.DataFrame) -> ScoreHistogram:
        """scores: scores.csv of one network; genuine and impostor are counts or shares of each bin.

        Drawn are single images and the largest templates. Raises ValueError when columns or rows are missing.
        """
        check_table(scores, SCORES, "scores")
        network = the_only(scores, "network", "scores")
        bins = scores[scores["template_size"].isin([scores["template_size"].min(), scores["template_size"].max()])]
        bins = bins.assign(line=line_names(bins))
        for side in ("genuine", "impostor"):
            total = bins.groupby(["line", "template_size"])[side].transform("sum")
            bins[side] = bins[side] / total / (bins["high"] - bins["low"])
        return cls(bins[["line", "template_size", "low", "high", "genuine", "impostor"]], network)

    @property
    def caption(self) -> str:
        sizes = sorted(self.bins["template_size"].unique())
        return (f"Cosine similarity of genuine and impostor comparisons of unpruned {self.network}, as density. Filled: "
                f"{size_title(sizes[0]).lower()}" + (f"; lines: {size_title(sizes[-1]).lower()}" if len(sizes) > 1 else "") + ".")

    def plot(self, width: float = TWO_COLUMNS) -> ScoreHistogram:
        names = sorted(self.bins["line"].unique(), key=pair_order)
        sizes = sorted(self.bins["template_size"].unique())
        rows, columns = grid_of(len(names), width, 3)
        sides = {"impostor": MARKS[2][0], "genuine": MARKS[1][0]}
        with style():
            self.figure_ = Figure(figsize=(width, 1.6 * rows + 0.5))
            self.axes_ = panels_of(self.figure_, len(names), rows, columns, sharex=True, sharey=True)
            for place, (axes, name) in enumerate(zip(self.axes_, names)):
                for size, bins in self.bins[self.bins["line"] == name].groupby("template_size"):
                    edges = np.append(bins["low"], bins["high"].iloc[-1])
                    for side, colour in sides.items():
                        if size == sizes[0]:
                            axes.stairs(bins[side], edges, fill=True, color=colour, alpha=0.35, linewidth=0)
                        else:
                            axes.stairs(bins[side], edges, color=colour, linewidth=1, linestyle="-" if side == "genuine" else "--")
                axes.set_title(name, fontweight="bold")
                axes.set_ylim(0, None)
                if lowest_of_column(place, len(names), columns):
                    axes.set_xlabel("Cosine similarity")
                if place % columns == 0:
                    axes.set_ylabel("Density")
            handles = [Patch(color=colour, alpha=0.35, linewidth=0, label=f"{side}, single" if sizes[0] == 1 else side)
                       for side, colour in sides.items()]
            if len(sizes) > 1:
                handles += [Line2D([], [], color=colour, linewidth=1, linestyle="-" if side == "genuine" else "--",
                                   label=f"{side}, templates") for side, colour in sides.items()]
            self.figure_.legend(handles=handles, loc="outside lower center", ncols=4 if width > ONE_COLUMN else 2)
        return self


def _deviate_axes(axes) -> None:
    """Normal deviate axes in percent, FAR from 0.01 % and FRR from 0.1 % on, and the diagonal."""
    deviate = FuncScale(None, (lambda rate: ndtri(np.clip(rate, 1e-9, 1 - 1e-9)), ndtr))
    percent_axis(axes, "x", deviate, 1e-4, 0.6, (1e-4, 1e-3, 0.01, 0.05, 0.2, 0.4, 0.6))
    percent_axis(axes, "y", deviate, 1e-3, 0.995, (1e-3, 0.01, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 0.99))
    axes.plot([1e-4, 0.6], [1e-4, 0.6], color="0.4", linewidth=0.6)


def _band_meaning(display: _ErrorCurve) -> str:
    return "" if display.low is None else f" Band: {INTERVAL}, at each FAR."


def _visible(far: np.ndarray, frr: np.ndarray) -> np.ndarray:
    """The points of a curve that differ from their neighbours at the resolution of print, its ends included."""
    cells = [np.round(150 * ndtri(np.clip(rate, 1e-6, 1 - 1e-6))) for rate in (far, frr)]
    moved = (np.diff(cells[0]) != 0) | (np.diff(cells[1]) != 0)
    return np.flatnonzero(np.append(True, moved) | np.append(moved, True))

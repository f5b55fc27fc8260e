"""The study's figures, drawn from saved tables alone; `python -m facelib.figures [results]` redraws all of them.

One class per figure, after scikit-learn's displays: `from_table(...)` checks and computes, `plot(...)` draws, keeps
`figure_`, `axes_` and the drawn artists, and returns the display; `caption` says what is shown, in which units, and
what the interval is. Figures of tables need no torch. Rates are fractions in tables, percent on axes.
"""

from __future__ import annotations

import io
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import matplotlib.figure
import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.scale import FuncScale
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from scipy.special import ndtr, ndtri

from facelib.layers import Association, WidthEffect, check_table, filters_left, removed_pct, the_only, width_effect
from facelib.results import read_table, summary_markdown
from facelib.storage import replacing
from facelib.verification import det_curve

ONE_COLUMN, TWO_COLUMNS = 3.5, 7.16  # widths of a journal's columns, inches

# Okabe and Ito's colours without yellow (too pale for a line), each with a marker of its own for greyscale.
MARKS = [("#000000", "o"), ("#0072B2", "s"), ("#D55E00", "^"), ("#009E73", "D"), ("#56B4E9", "v"), ("#CC79A7", "P"), ("#E69F00", "X")]
PAIRS = ("frontal-frontal", "frontal-three-quarter", "frontal-profile",
         "three-quarter-three-quarter", "three-quarter-profile", "profile-profile")  # easiest first; fixes their marks
POSES = ("frontal", "three-quarter", "profile")
SHARES = "cividis_r"  # of a whole, 0 pale, 1 dark; even steps in greyscale and to colour-blind readers
INTERVAL = "95 % interval over subjects (their resampling)"


@contextmanager
def style():
    """The one style of all figures, for the width of a journal's column without rescaling."""
    settings = {"font.family": "DejaVu Sans", "font.size": 7, "axes.titlesize": 7, "axes.labelsize": 7, "legend.fontsize": 6.5,
                "xtick.labelsize": 6.5, "ytick.labelsize": 6.5, "axes.linewidth": 0.6, "lines.linewidth": 1.1,
                "lines.markersize": 3.2, "xtick.major.width": 0.6, "ytick.major.width": 0.6, "xtick.major.size": 2.5,
                "ytick.major.size": 2.5, "axes.grid": True, "axes.axisbelow": True, "grid.linewidth": 0.4,
                "grid.color": "0.88", "legend.frameon": False, "figure.dpi": 150, "savefig.dpi": 300, "pdf.fonttype": 42,
                "figure.constrained_layout.use": True}
    with matplotlib.rc_context(settings):
        yield


class Figure(matplotlib.figure.Figure):
    """A figure outside pyplot, so that it is shown once, where a notebook's cell ends with it."""

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.savefig(png, format="png", dpi=150)
        return png.getvalue()


def save(figure: Figure, path_stem: Path, caption: str) -> None:
    """Writes PNG (300 dpi), PDF and the caption (.txt) beside each other; the same figure gives the same bytes."""
    path_stem = Path(path_stem)
    path_stem.parent.mkdir(parents=True, exist_ok=True)
    with style():
        figure.savefig(f"{path_stem}.png", metadata={"Software": None})
        figure.savefig(f"{path_stem}.pdf", metadata={"CreationDate": None, "Producer": None, "Creator": None})
    Path(f"{path_stem}.txt").write_text(caption + "\n", encoding="utf-8")

# --------------------------------------------------------------------------------------------- curves of the pruned network

CURVE = ["network", "criterion", "seed", "stage", "step", "filters_removed_pct", "parameters", "macs", "protocol", "pair",
         "template_size", "metric", "value", "ci_low", "ci_high"]


@dataclass
class PruningCurve:
    """A verification error (or accuracy) against the share of filters removed, one line per pose pair.

    points: columns template_size, line, stage, seed, step, filters_removed_pct, value, ci_low, ci_high, rates in percent.
    parameters: millions of parameters, indexed by filters removed (%).
    After `plot`: lines_ holds the drawn curve of every (template_size, line), axes_ one axes per template size.
    """

    points: pd.DataFrame
    parameters: pd.Series
    metric: str
    network: str
    criterion: str

    @classmethod
    def from_table(cls, curve: pd.DataFrame, metric: str = "eer") -> PruningCurve:
        """curve: rows of one network and criterion (and of its control, whatever criterion that names).

        A control has all its filters; its rows stand where the pruned network was at the same step.
        Raises ValueError when columns, rows or the metric are missing, or there are several networks or criteria.
        """
        pruned, network, criterion = _pruned(curve)
        if metric not in set(pruned["metric"]):
            raise ValueError(f"curve: expected metric {metric}, found {', '.join(sorted(set(pruned['metric'])))}")
        removed = pruned.groupby("step")["filters_removed_pct"].mean()
        points = curve[curve["metric"] == metric].copy()
        control = points["stage"] == "control"
        points.loc[control, "filters_removed_pct"] = np.interp(points.loc[control, "step"], removed.index, removed)
        points["line"] = np.where(points["pair"] == "any-any", points["protocol"], points["pair"])
        points[["value", "ci_low", "ci_high"]] *= 100
        parameters = pruned.groupby("step")["parameters"].mean().set_axis(removed) / 1e6
        columns = ["template_size", "line", "stage", "seed", "step", "filters_removed_pct", "value", "ci_low", "ci_high"]
        return cls(points[columns].sort_values(columns[:5], ignore_index=True), parameters, metric, network, criterion)

    @property
    def caption(self) -> str:
        stages, seeds = set(self.points["stage"]), self.points.loc[self.points["stage"] == "pruned", "seed"].nunique()
        parts = [f"{_metric_label(self.metric)} of {self.network} against convolution filters removed (% of all), by "
                 f"{self.criterion}; top axis: millions of parameters left, without the training classifier.",
                 "Lines: pruned network" + (f", mean of {seeds} seeds (thin lines: each seed)" if seeds > 1 else "") + ".",
                 f"Bands{' and bars' * ('fine-tuned' in stages)}: {INTERVAL}{', mean of the seeds' * (seeds > 1)}."]
        if "fine-tuned" in stages:
            parts.append("Open markers: retrained after pruning.")
        if "control" in stages:
            parts.append("Dashed: control, trained as long with nothing removed.")
        return " ".join(parts)

    def plot(self, figure: Figure | None = None) -> PruningCurve:
        sizes = sorted(self.points["template_size"].unique())
        columns = min(len(sizes), 2)
        rows = -(-len(sizes) // columns)
        names = sorted(self.points["line"].unique(), key=_pair_order)
        with style():
            height = 2.6 * rows + 0.13 * -(-(len(names) + 3) // (2 * columns))
            self.figure_ = figure or Figure(figsize=(ONE_COLUMN if columns == 1 else TWO_COLUMNS, height))
            grid = self.figure_.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
            for unused in grid.flat[len(sizes):]:
                unused.set_axis_off()
            self.axes_, self.lines_ = list(grid.flat[:len(sizes)]), {}
            for axes, size in zip(self.axes_, sizes):
                of_size = self.points[self.points["template_size"] == size]
                for name in names:
                    if (of_size["line"] == name).any():
                        self.lines_[size, name] = _draw_line(axes, of_size[of_size["line"] == name], *_marks(name, names))
                title = "Single images" if size == 1 else f"Templates of up to {size} images"
                self._finish(axes, title, bottom=axes in grid[-1], left=axes in grid[:, 0])
            self._legend(names)
        return self

    def _finish(self, axes, title: str, bottom: bool, left: bool) -> None:
        last = max(self.parameters.index.max(), 1)
        axes.set_xlim(-0.02 * last, 1.02 * last)
        ticks = _share_ticks(last)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        _rate_axis(axes, self.points, log=self.metric != "accuracy")
        axes.set_title(title, fontweight="bold")
        if bottom:
            axes.set_xlabel("Filters removed (%)")
        if left:
            axes.set_ylabel(_metric_label(self.metric))
        top = axes.secondary_xaxis("top")
        left_at = np.interp(ticks, self.parameters.index, self.parameters)
        top.set_xticks(ticks, [f"{millions:.{2 if self.parameters.max() < 10 else 1}f}" for millions in left_at])
        top.set_xlabel("Parameters (millions)")

    def _legend(self, names: list[str]) -> None:
        handles = [Line2D([], [], color=colour, marker=marker, label=name)
                   for name in names for colour, marker in [_marks(name, names)]]
        grey = {"color": "0.4", "linestyle": "none"}
        stages = set(self.points["stage"])
        if "fine-tuned" in stages:
            handles.append(Line2D([], [], marker="o", markerfacecolor="white", markersize=5, label="fine-tuned (open)", **grey))
        if "control" in stages:
            handles.append(Line2D([], [], color="0.4", linewidth=0.8, linestyle=(0, (4, 2)), label="control, nothing removed"))
        columns = 2 if len(self.axes_) == 1 else len(handles) if len(handles) <= 4 else -(-len(handles) // 2)
        self.figure_.legend(handles=handles, loc="outside lower center", ncols=columns)


def _pruned(curve: pd.DataFrame) -> tuple[pd.DataFrame, str, str]:
    """The rows of the pruned network, its name and its criterion."""
    check_table(curve, CURVE, "curve")
    pruned = curve[curve["stage"] == "pruned"]
    check_table(pruned, CURVE, "curve of stage pruned")
    return pruned, the_only(curve, "network", "curve"), the_only(curve[curve["stage"] != "control"], "criterion", "curve")


def _draw_line(axes, points: pd.DataFrame, colour: str, marker: str) -> Line2D:
    """Draws one line's pruned curve with its band, and its fine-tuned and control points. Returns the curve."""
    stages = dict(list(points.groupby("stage")))
    pruned = stages.get("pruned", points.iloc[:0])  # a protocol may be kept for the fine-tuned networks
    mean = _mean_of_seeds(pruned)
    if pruned["seed"].nunique() > 1:
        for _, seed in pruned.groupby("seed"):
            axes.plot(seed["filters_removed_pct"], seed["value"], color=colour, linewidth=0.4, alpha=0.7)
    x = mean["filters_removed_pct"]
    axes.fill_between(x, mean["ci_low"], mean["ci_high"], color=colour, alpha=0.13, linewidth=0)
    [line] = axes.plot(x, mean["value"], color=colour, marker=marker, markevery=max(len(mean) // 8, 1))
    if "fine-tuned" in stages:
        tuned = stages["fine-tuned"]
        bars = np.abs(tuned[["ci_low", "ci_high"]].to_numpy() - tuned[["value"]].to_numpy()).T
        axes.errorbar(tuned["filters_removed_pct"], tuned["value"], bars, color=colour, linestyle="none", marker=marker,
                      markersize=5, markerfacecolor="white", elinewidth=0.7, zorder=3, label="fine-tuned")
    if "control" in stages:
        control = _mean_of_seeds(stages["control"])
        axes.plot(control["filters_removed_pct"], control["value"], color=colour, linewidth=0.8, linestyle=(0, (4, 2)),
                  label="control")
    return line


def _mean_of_seeds(points: pd.DataFrame) -> pd.DataFrame:
    """The mean over seeds at every step that all seeds have."""
    steps = points.groupby("step")
    complete = steps["seed"].nunique() == points["seed"].nunique()
    return steps[["filters_removed_pct", "value", "ci_low", "ci_high"]].mean()[complete]


def _rate_axis(axes, points: pd.DataFrame, log: bool) -> None:
    """A rate axis in percent on which 1 % and 20 % are both legible: logarithmic, with a linear foot when a rate is 0."""
    values = points["value"]
    low, high = values.min(), np.nanmax(points[["value", "ci_high"]])
    if not log or high == 0:
        return
    positive = values[values > 0].min() if (values > 0).any() else high
    if low > 0:
        axes.set_yscale("log")
        axes.set_ylim(low / 1.4, high * 1.1)
    else:
        axes.set_yscale("symlog", linthresh=positive, linscale=0.4)
        axes.set_ylim(-0.1 * positive, high * 1.1)
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        ticks = [step * 10.0**power for power in range(-4, 3) for step in steps]
        ticks = [tick for tick in ticks if max(low / 1.4, positive / 1.4) <= tick <= min(high * 1.1, 100)]
        if len(ticks) >= 3:
            break
    axes.yaxis.set_major_locator(FixedLocator(ticks if low > 0 else [0, *ticks]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def _share_ticks(last: float) -> list[float]:
    """Round percentages from 0 to `last`; half a percent beyond still counts, since groups of filters seldom add up exactly."""
    return [tick for tick in MaxNLocator(7, steps=[1, 2, 5, 10]).tick_values(0, last) if tick <= last + 0.5]


def _metric_label(metric: str) -> str:
    if metric.startswith("frr_at_far_"):
        return f"FRR at FAR {100 * float(metric.removeprefix('frr_at_far_')):g} % (%)"
    return {"eer": "EER (%)", "accuracy": "Accuracy (%)"}.get(metric, f"{metric} (%)")


def _pair_order(pair: str) -> tuple[int, str]:
    return (PAIRS.index(pair) if pair in PAIRS else len(PAIRS), pair)


def _marks(pair: str, pairs: list[str]) -> tuple[str, str]:
    """Colour and marker of a line: a pose pair's are the same in every figure, the others share what is left."""
    others = [name for name in pairs if name not in PAIRS]
    position = PAIRS.index(pair) if pair in PAIRS else len(PAIRS) + others.index(pair)
    return MARKS[position % len(MARKS)]


@dataclass
class SizeCurve:
    """Parameters and MACs against filters removed, in percent of the unpruned network's.

    table: index step; columns filters_removed_pct, parameters, macs (counts), the mean over seeds.
    After `plot`: lines_ holds the drawn curves of "parameters" and "macs".
    """

    table: pd.DataFrame
    network: str
    criterion: str

    @classmethod
    def from_table(cls, curve: pd.DataFrame) -> SizeCurve:
        """curve: rows of one network and criterion. Raises as `PruningCurve.from_table`."""
        pruned, network, criterion = _pruned(curve)
        return cls(pruned.groupby("step")[["filters_removed_pct", "parameters", "macs"]].mean(), network, criterion)

    @property
    def caption(self) -> str:
        return (f"Parameters and multiply-accumulate operations (MACs) for one image of {self.network} left (% of the unpruned "
                f"network's) against convolution filters removed (% of all), by {self.criterion}; without the training "
                "classifier. Dotted: in proportion to the filters.")

    def plot(self, axes=None) -> SizeCurve:
        with style():
            self.axes_ = axes or Figure(figsize=(ONE_COLUMN, 2.6)).subplots()
            self.figure_ = self.axes_.figure
            x, self.lines_ = self.table["filters_removed_pct"], {}
            for (column, unit), (colour, marker) in zip({"parameters": "parameters", "macs": "MACs"}.items(), MARKS[1:]):
                values, full = self.table[column], self.table[column].iloc[0]
                [self.lines_[column]] = self.axes_.plot(
                    x, 100 * values / full, color=colour, marker=marker, markevery=max(len(x) // 8, 1),
                    label=f"{unit} (100 % = {_count(full)}, last {_count(values.iloc[-1])})")
            self.axes_.plot([0, x.max()], [100, 100 - x.max()], color="0.4", linewidth=0.8, linestyle=":",
                            label="in proportion to the filters")
            self.axes_.set(xlabel="Filters removed (%)", ylabel="Left (% of unpruned)", ylim=(0, 103))
            self.figure_.legend(loc="outside lower center")
        return self


def _count(number: float) -> str:
    """A count as people write it: 1.24 million, 350 million, 1.24 billion."""
    return f"{number / 1e9:.3g} billion" if number >= 1e9 else f"{number / 1e6:.3g} million"

# ------------------------------------------------------------------------------------------------------ figures of layers


@dataclass
class FiltersLeft:
    """Heat map of filters left: layers by depth, the first on top, against filters removed of the whole network.

    left: filters left (share of the original), index layer, kind, depth, width, one column per step.
    removed: filters removed of the whole network (%), by step.
    """

    left: pd.DataFrame
    removed: pd.Series
    network: str
    criterion: str

    @classmethod
    def from_table(cls, layers: pd.DataFrame) -> FiltersLeft:
        """layers: rows of one network and criterion; several seeds are averaged. Raises as `layers.filters_left`."""
        left = filters_left(layers)
        share = left.div(left.index.get_level_values("width").to_numpy(), axis=0)
        return cls(share, removed_pct(left), layers["network"].iloc[0], layers["criterion"].iloc[0])

    @property
    def caption(self) -> str:
        return (f"Filters left in every convolution of {self.network} (% of the layer's own) against filters removed of the "
                f"whole network (%), by {self.criterion}. Layers by depth, the first on top, with their names and the "
                "number of filters before pruning.")

    def plot(self, axes=None) -> FiltersLeft:
        with style():
            self.axes_ = axes or Figure(figsize=(TWO_COLUMNS * 0.7, 0.9 + 0.125 * len(self.left))).subplots()
            self.figure_ = self.axes_.figure
            at = self.removed.to_numpy()
            between = (at[1:] + at[:-1]) / 2
            edges = np.concatenate([at[:1], between, at[-1:]]) if len(at) > 1 else np.array([at[0] - 0.5, at[0] + 0.5])
            self.mesh_ = self.axes_.pcolormesh(edges, np.arange(len(self.left) + 1), 100 * self.left, cmap=SHARES, vmin=0,
                                               vmax=100, rasterized=True)
            self.axes_.grid(False)
            self.axes_.invert_yaxis()
            widths = self.left.index.get_level_values("width")
            names = short_names(self.left.index.get_level_values("layer"))
            self.axes_.set_yticks(np.arange(len(self.left)) + 0.5, [f"{n}  {w}" for n, w in zip(names, widths)])
            self.axes_.tick_params("y", length=0)
            self.axes_.set_xticks([tick for tick in _share_ticks(edges[-1]) if tick >= edges[0]])
            self.axes_.set_xlabel("Filters removed of the whole network (%)")
            self.axes_.set_ylabel("Layer and its width, by depth")
            self.figure_.colorbar(self.mesh_, ax=self.axes_, label="Filters left (% of the layer's own)", pad=0.02, aspect=30)
        return self


def short_names(layers) -> list[str]:
    """Module names without the leading and the trailing parts that all of them share (features. ... .conv), at most 22
    characters long."""
    parts = [name.split(".") for name in layers]
    while len(parts) > 1 and all(len(p) > 1 for p in parts) and len({p[0] for p in parts}) == 1:
        parts = [p[1:] for p in parts]
    while len(parts) > 1 and all(len(p) > 1 for p in parts) and len({p[-1] for p in parts}) == 1:
        parts = [p[:-1] for p in parts]
    names = [".".join(p) for p in parts]
    return [name if len(name) <= 22 else f"{name[:12]}…{name[-9:]}" for name in names]


@dataclass
class WidthLoss:
    """Share removed of every layer against its width, with what chance would do.

    After `plot`: points_ holds the drawn layers of every kind, band_ the chance interval.
    """

    effect: WidthEffect
    network: str
    criterion: str

    @classmethod
    def from_table(cls, layers: pd.DataFrame, near_pct: float = 20) -> WidthLoss:
        """layers: rows of one network and criterion; drawn is the step nearest to `near_pct` of all filters removed.

        Raises ValueError as `layers.width_effect`.
        """
        step = (removed_pct(filters_left(layers)) - near_pct).abs().idxmin()
        return cls(width_effect(layers, step), layers["network"].iloc[0], layers["criterion"].iloc[0])

    @property
    def caption(self) -> str:
        effect = self.effect
        return (f"Filters removed of every convolution of {self.network} (% of the layer's own) against its filters before "
                f"pruning (logarithmic), with {effect.removed_pct:.1f} % of all filters removed by {self.criterion}. Grey: where "
                "95 % of the layers of a width lie if every filter is equally likely to leave; dashed: the whole network. "
                f"Spearman's rho {_in_words(effect.simple)}; with depth and kind of layer held constant "
                f"{_in_words(effect.partial)}.")

    def plot(self, axes=None) -> WidthLoss:
        shares, simple = self.effect.shares, self.effect.simple
        with style():
            self.axes_ = axes or Figure(figsize=(ONE_COLUMN, 2.8)).subplots()
            self.figure_ = self.axes_.figure
            chance = shares.drop_duplicates("width").sort_values("width")
            self.band_ = self.axes_.fill_between(chance["width"], 100 * chance["chance_low"], 100 * chance["chance_high"],
                                                 color="0.85", linewidth=0, label="95 % by chance")
            self.axes_.axhline(self.effect.removed_pct, color="0.4", linewidth=0.8, linestyle="--", label="whole network")
            self.points_ = {kind: self.axes_.plot(rows["width"], 100 * rows["removed"], color=colour, marker=marker,
                                                  linestyle="none", alpha=0.75, markeredgecolor="white", markeredgewidth=0.4,
                                                  markersize=5, label=kind)[0]
                            for (kind, rows), (colour, marker) in zip(shares.groupby("kind"), MARKS[1:])}
            self.axes_.set_xscale("log", base=2)
            self.axes_.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
            top = 105 * shares[["removed", "chance_high"]].max(axis=None)
            self.axes_.set(xlabel="Width: the layer's filters before pruning", ylabel="Removed (% of the layer's filters)",
                           ylim=(-0.03 * top, top))
            self.axes_.set_title(f"Spearman's ρ = {simple.rho:.2f}; by chance {simple.chance_low:.2f} to "
                                 f"{simple.chance_high:.2f}".replace("-", "−"))
            self.figure_.legend(loc="outside lower center", ncols=3)
        return self


def _in_words(found: Association) -> str:
    return (f"{found.rho:.2f} (permutation p {found.p_value:.2g}; filters leaving at random: {found.chance_low:.2f} to "
            f"{found.chance_high:.2f}, 95 %)")

# ---------------------------------------------------------------------------------------------------- curves of scores


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
                deviate = FuncScale(None, (lambda rate: ndtri(np.clip(rate, 1e-9, 1 - 1e-9)), ndtr))
                _percent_axis(axes, "x", deviate, 1e-4, 0.6, (1e-4, 1e-3, 0.01, 0.05, 0.2, 0.4, 0.6))
                _percent_axis(axes, "y", deviate, 1e-3, 0.995, (1e-3, 0.01, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 0.99))
                axes.plot([1e-4, 0.6], [1e-4, 0.6], color="0.4", linewidth=0.6)
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
                _percent_axis(axes, "x", "log", 1e-4, 1, (1e-4, 1e-3, 0.01, 0.1, 1))
                _percent_axis(axes, "y", "linear", 0, 1.01, (0, 0.2, 0.4, 0.6, 0.8, 1))
                axes.set(xlabel="FAR (%)", ylabel="Genuine accepted, 100 − FRR (%)")
            self._draw(axes, lambda frr: 1 - frr)
            if self.name:
                axes.legend(loc="lower right")
        return self


def _band_meaning(display: _ErrorCurve) -> str:
    return "" if display.low is None else f" Band: {INTERVAL}, at each FAR."


def _visible(far: np.ndarray, frr: np.ndarray) -> np.ndarray:
    """The points of a curve that differ from their neighbours at the resolution of print, its ends included."""
    cells = [np.round(150 * ndtri(np.clip(rate, 1e-6, 1 - 1e-6))) for rate in (far, frr)]
    moved = (np.diff(cells[0]) != 0) | (np.diff(cells[1]) != 0)
    return np.flatnonzero(np.append(True, moved) | np.append(moved, True))


def _percent_axis(axes, side: str, scale, low: float, high: float, ticks: tuple[float, ...]) -> None:
    """Makes the x or y axis one of fractions, labelled in percent."""
    axes.set(**{f"{side}scale": scale, f"{side}lim": (low, high)})
    axis = axes.xaxis if side == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda rate, _: f"{100 * rate:g}"))

# ------------------------------------------------------------------------------------------------- training, and the faces


@dataclass
class TrainingCurve:
    """Loss of training and validation images, and validation accuracy, by epoch. table: what training.train returns."""

    table: pd.DataFrame

    @classmethod
    def from_table(cls, table: pd.DataFrame) -> TrainingCurve:
        check_table(table, ["epoch", "training_loss", "validation_loss", "validation_accuracy"], "training history")
        return cls(table)

    @property
    def caption(self) -> str:
        best = self.table.loc[self.table["validation_loss"].idxmin()]
        return ("Cross-entropy (nats) of the training images, mean over each epoch's mini-batches, and of the validation images, "
                "other images of the same subjects, after it; right: share of the validation images whose subject is found (%). "
                f"Kept: epoch {best['epoch']:.0f}, with the lowest validation loss.")

    def plot(self) -> TrainingCurve:
        with style():
            self.figure_ = Figure(figsize=(TWO_COLUMNS, 1.9))
            self.axes_ = self.figure_.subplots(1, 2)
            marks = {"markevery": max(len(self.table) // 10, 1)}
            self.lines_ = [axes.plot(self.table["epoch"], values, color=colour, marker=marker, label=label, **marks)[0]
                           for axes, values, label, (colour, marker) in [
                               (self.axes_[0], self.table["training_loss"], "training", MARKS[0]),
                               (self.axes_[0], self.table["validation_loss"], "validation", MARKS[2]),
                               (self.axes_[1], 100 * self.table["validation_accuracy"], "validation", MARKS[2])]]
            self.axes_[0].set(xlabel="Epoch", ylabel="Cross-entropy (nats)", ylim=(0, None))
            self.axes_[1].set(xlabel="Epoch", ylabel="Subject found (%)", ylim=(0, 100))
            self.axes_[0].legend()
            for axes in self.axes_:
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        return self


@dataclass
class ImagesPerSubject:
    """How many subjects have how many images. counts: images of every subject, by the name of the set."""

    counts: dict[str, np.ndarray]

    @classmethod
    def from_faces(cls, **sets) -> ImagesPerSubject:
        """sets: a FaceSet by each name, for instance training=..., test=..."""
        return cls({name: np.unique(chosen.labels, return_counts=True)[1] for name, chosen in sets.items()})

    @property
    def caption(self) -> str:
        return "Images of each subject, in the " + " and the ".join(f"{name} set" for name in self.counts) + "."

    def plot(self) -> ImagesPerSubject:
        with style():
            self.figure_ = Figure(figsize=(TWO_COLUMNS, 1.7))
            self.axes_ = np.atleast_1d(self.figure_.subplots(1, len(self.counts)))
            for axes, (name, counts) in zip(self.axes_, self.counts.items()):
                axes.hist(counts, bins=np.arange(counts.min(), counts.max() + 2) - 0.5 if np.ptp(counts) < 40 else 30, color="#0072B2")
                axes.set(xlabel="Images of a subject", ylabel="Subjects", title=f"{name}: {len(counts)} subjects")
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        return self


@dataclass
class ContactSheet:
    """Images in rows. images: each (height, width, 3) uint8; a row's are those of one subject."""

    rows: list[list[np.ndarray]]
    titles: list[str]
    caption: str

    @classmethod
    def from_faces(cls, faces, per_pose: int = 3) -> ContactSheet:
        """One row per subject, `per_pose` images of each pose, from frontal to profile."""
        poses = sorted(set(faces.poses), key=lambda pose: (POSES.index(pose) if pose in POSES else len(POSES), pose))
        places = pd.Series(range(len(faces))).groupby([faces.subjects, faces.poses]).indices
        rows = [[np.asarray(faces[i][0]) for pose in poses for i in places[subject, pose][:per_pose]]
                for subject in dict.fromkeys(faces.subjects)]
        return cls(rows, [pose for pose in poses for _ in range(per_pose)],
                   f"Synthetic faces: one subject per row, {per_pose} images of each pose.")

    @classmethod
    def of_crops(cls, faces, image_size: int, draws: int = 5) -> ContactSheet:
        """For every image of `faces`: the image, its centre crop and random crops as training draws them."""
        from facelib.faces.crops import Crops  # loads torch, which the figures of tables do without

        crops = Crops(faces, image_size)
        rows = [[np.asarray(faces[i][0])] + [crops[i, draw][0].permute(1, 2, 0).numpy()
                                             for draw in (None, *((0, d) for d in range(draws)))] for i in range(len(faces))]
        return cls(rows, ["image", "centre (test)"] + ["random (training)"] * draws,
                   f"Synthetic faces as they are, and the {image_size} x {image_size} pixels that the network sees of them.")

    def plot(self) -> ContactSheet:
        with style():
            columns = max(map(len, self.rows))
            self.figure_ = Figure(figsize=(TWO_COLUMNS, (TWO_COLUMNS / columns) * len(self.rows) + 0.25))
            self.axes_ = self.figure_.subplots(len(self.rows), columns, squeeze=False)
            for axes_row, row in zip(self.axes_, self.rows):
                for axes, image in zip(axes_row, row):
                    axes.imshow(image)
                    axes.set_axis_off()
            before = None
            for axes, title in zip(self.axes_[0], self.titles):
                axes.set_title(title if title != before else "", loc="left")
                before = title
            self.figure_.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
        return self

# ---------------------------------------------------------------------------------------------------------- all of them


def figures_of(curve: pd.DataFrame, layers: pd.DataFrame) -> dict[str, tuple[Figure, str]]:
    """Every figure that the two tables of one network hold, by file name, with its caption.

    Where the tables hold several criteria, the first one's figures have the plain names, the others' end in their own.
    """
    figures = {}
    criteria = list(dict.fromkeys(curve.loc[curve["stage"] != "control", "criterion"]))
    for criterion in criteria:
        end = "" if criterion == criteria[0] else f"_{criterion}"
        rows = curve[(curve["criterion"] == criterion) | (curve["stage"] == "control")]
        of_criterion = layers[layers["criterion"] == criterion]
        displays = {metric: PruningCurve.from_table(rows, metric) for metric in rows.loc[rows["stage"] == "pruned", "metric"].unique()}
        displays["size"] = SizeCurve.from_table(rows)
        displays["filters_left"] = FiltersLeft.from_table(of_criterion)
        if (of_criterion["out_channels"] < of_criterion["out_channels_original"]).any():
            displays["width_loss"] = WidthLoss.from_table(of_criterion)
        figures |= {name + end: (display.plot().figure_, display.caption) for name, display in displays.items()}
    return figures


def draw(folder: Path) -> None:
    """Draws the figures of one network's folder, which holds curve.csv, layers.csv and training.csv, into folder/figures,
    and writes the EER at round shares of filters removed, with its interval, into folder/summary.md."""
    curve, layers = (read_table(Path(folder) / f"{name}.csv") for name in ("curve", "layers"))
    drawn = figures_of(curve, layers)
    with replacing(Path(folder) / "summary.md") as temporary:
        temporary.write_text(summary_markdown(curve), encoding="utf-8")
    if (history := Path(folder) / "training.csv").exists():
        display = TrainingCurve.from_table(read_table(history)).plot()
        drawn["training"] = display.figure_, display.caption
    for name, (figure, caption) in drawn.items():
        save(figure, Path(folder) / "figures" / name, caption)


def regenerate(results: Path = Path("results")) -> list[Path]:
    """Redraws the figures of every folder under `results` that holds curve.csv and layers.csv. Returns the folders.

    Raises FileNotFoundError when there is none.
    """
    folders = sorted(path.parent for path in Path(results).rglob("curve.csv"))
    if not folders:
        raise FileNotFoundError(f"{results}: expected folders with curve.csv and layers.csv, found none; run a study first")
    for folder in folders:
        draw(folder)
    return folders


if __name__ == "__main__":
    for drawn in regenerate(*map(Path, sys.argv[1:2])):
        print(f"drawn: {drawn / 'figures'}")

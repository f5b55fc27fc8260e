"""Curves of one network while it is pruned: error, size, images per template, and the controls beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator

from facelib.figures.style import (
    INTERVAL,
    MARKS,
    ONE_COLUMN,
    TWO_COLUMNS,
    Figure,
    count_text,
    grid_of,
    line_names,
    lowest_of_column,
    metric_label,
    pair_marks,
    pair_order,
    panels_of,
    rate_axis,
    share_marks,
    share_ticks,
    size_title,
    style,
)
from facelib.hypotheses import Terms
from facelib.layers import check_table, the_only

CURVE = ["network", "criterion", "seed", "stage", "step", "filters_removed_pct", "parameters", "macs", "protocol", "pair",
         "template_size", "metric", "value", "ci_low", "ci_high"]
LINEAR = ("accuracy", "eer_change")  # metrics on linear axes
STAR = {"marker": "*", "markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.4, "zorder": 4}  # a network from scratch


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

        A control has all its filters; its rows stand where the pruned network was at the same step. Template sizes that
        were measured at few of the steps are left to `TemplateCurve`.
        Raises ValueError when columns, rows or the metric are missing, or there are several networks or criteria.
        """
        pruned, network, criterion = pruned_rows(curve)
        if metric not in set(pruned["metric"]):
            raise ValueError(f"curve: expected metric {metric}, found {', '.join(sorted(set(pruned['metric'])))}")
        removed = pruned.groupby("step")["filters_removed_pct"].mean()
        points = curve[curve["metric"] == metric].copy()
        control = points["stage"] == "control"
        points.loc[control, "filters_removed_pct"] = np.interp(points.loc[control, "step"], removed.index, removed)
        steps = pruned[pruned["metric"] == metric].groupby("template_size")["step"].nunique()
        points = points[points["template_size"].isin(steps.index[steps == steps.max()])]
        points["line"] = line_names(points)
        points[["value", "ci_low", "ci_high"]] *= 100
        parameters = pruned.groupby("step")["parameters"].mean().set_axis(removed) / 1e6
        columns = ["template_size", "line", "stage", "seed", "step", "filters_removed_pct", "value", "ci_low", "ci_high"]
        return cls(points[columns].sort_values(columns[:5], ignore_index=True), parameters, metric, network, criterion)

    @property
    def caption(self) -> str:
        stages, seeds = set(self.points["stage"]), self.points.loc[self.points["stage"] == "pruned", "seed"].nunique()
        parts = [f"{metric_label(self.metric)} of {self.network} against convolution filters removed (% of all), by "
                 f"{self.criterion}; top axis: millions of parameters left, without the training classifier.",
                 "Lines: pruned network" + (f", mean of {seeds} seeds (thin lines: each seed)" if seeds > 1 else "") + ".",
                 f"Bands{' and bars' * ('fine-tuned' in stages)}: {INTERVAL}{', mean of the seeds' * (seeds > 1)}."]
        if "fine-tuned" in stages:
            parts.append("Open markers: retrained after pruning, beside each other for one share.")
        if "from-scratch" in stages:
            parts.append("Stars: the same shape, trained from random weights; their intervals are in the table.")
        if "control" in stages:
            parts.append("Dashed: control, trained as long with nothing removed.")
        return " ".join([*parts, about_axis(self.metric)])

    def plot(self, width: float | None = None) -> PruningCurve:
        """width: of the figure, inches; by itself, one column for one panel, else two."""
        sizes = sorted(self.points["template_size"].unique())
        width = width or (ONE_COLUMN if len(sizes) == 1 else TWO_COLUMNS)
        rows, columns = grid_of(len(sizes), width, 2)
        names = sorted(self.points["line"].unique(), key=pair_order)
        with style():
            height = 2.6 * rows + 0.13 * -(-(len(names) + 3) // (2 * columns))
            self.figure_ = Figure(figsize=(width, height))
            self.axes_, self.lines_ = panels_of(self.figure_, len(sizes), rows, columns, sharex=True,
                                                  sharey=self.metric != "eer_change"), {}
            for place, (axes, size) in enumerate(zip(self.axes_, sizes)):
                of_size = self.points[self.points["template_size"] == size]
                for name in names:
                    if (of_size["line"] == name).any():
                        self.lines_[size, name] = draw_line(axes, of_size[of_size["line"] == name], name, names, self._last)
                self._finish(axes, size, lowest_of_column(place, len(sizes), columns), left=place % columns == 0)
            self._legend(names, width)
        return self

    @property
    def _last(self) -> float:
        return max(self.parameters.index.max(), 1)

    def _finish(self, axes, size: int, bottom: bool, left: bool) -> None:
        last = self._last
        axes.set_xlim(-0.06 * last, 1.06 * last)
        ticks = share_ticks(last)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        metric_axis(axes, self.metric, size, self.points)
        axes.set_title(size_title(size), fontweight="bold")
        if bottom:
            axes.set_xlabel("Filters removed (%)")
        if left:
            axes.set_ylabel(metric_label(self.metric))
        top = axes.secondary_xaxis("top")
        left_at = np.interp(ticks, self.parameters.index, self.parameters)
        top.set_xticks(ticks, [f"{millions:.{2 if self.parameters.max() < 10 else 1}f}" for millions in left_at])
        top.set_xlabel("Parameters (millions)")

    def _legend(self, names: list[str], width: float) -> None:
        handles = [Line2D([], [], color=colour, marker=marker, label=name)
                   for name in names for colour, marker in [pair_marks(name, names)]]
        handles += stage_handles(self.points)
        if (self.points["stage"] == "control").any():
            handles.append(Line2D([], [], color="0.4", linewidth=0.8, linestyle=(0, (4, 2)), label="control, nothing removed"))
        columns = 2 if width < TWO_COLUMNS else len(handles) if len(handles) <= 4 else -(-len(handles) // 2)
        self.figure_.legend(handles=handles, loc="outside lower center", ncols=columns)


def pruned_rows(curve: pd.DataFrame) -> tuple[pd.DataFrame, str, str]:
    """The rows of the pruned network, its name and its criterion."""
    check_table(curve, CURVE, "curve")
    pruned = curve[curve["stage"] == "pruned"]
    check_table(pruned, CURVE, "curve of stage pruned")
    return pruned, the_only(curve, "network", "curve"), the_only(curve[curve["stage"] != "control"], "criterion", "curve")


def metric_axis(axes, metric: str, size: int, points: pd.DataFrame) -> None:
    """The y axis of a metric in percent: of error rates logarithmic, of their change linear, with lines at no change and at the margin
    up to which the verdicts take a loss to be minimal."""
    rate_axis(axes, points, log=metric not in LINEAR)
    if metric == "eer_change":
        axes.axhline(0, color="0.4", linewidth=0.6)
        axes.axhline(100 * Terms().margin(size), color="0.4", linewidth=0.8, linestyle=(0, (1, 1)))


def about_axis(metric: str) -> str:
    """What a caption says of `metric_axis`."""
    if metric == "eer_change":
        return (f"Change from the unpruned network, paired on the same subjects; below 0: better than unpruned. Dotted: the margin of minimal "
                f"loss, {100 * Terms().single:g} points for single images, {100 * Terms().templates:g} for templates.")
    return "Linear scale." if metric in LINEAR else "Logarithmic scale."


def stage_handles(points: pd.DataFrame) -> list[Line2D]:
    """For a legend: what marks the networks that are not on the lines, if there are any."""
    markers = {"fine-tuned": ("fine-tuned (open)", {"marker": "o", "markerfacecolor": "white"}), "from-scratch": ("from scratch", {"marker": "*"})}
    return [Line2D([], [], color="0.4", linestyle="none", markersize=5, label=label, **marker)
            for stage, (label, marker) in markers.items() if (points["stage"] == stage).any()]


def draw_line(axes, points: pd.DataFrame, name: str, names: list[str], last: float, markersize: float = 5) -> Line2D:
    """Draws one line's pruned curve with its band, and its other stages' points, those of all lines, `names`, beside each other. last: the
    largest share of filters removed (%) of any line. Returns the curve."""
    colour, marker = pair_marks(name, names)
    stages = dict(list(points.groupby("stage")))
    pruned = stages.get("pruned", points.iloc[:0])  # a protocol may be kept for the fine-tuned networks
    mean = _mean_of_seeds(pruned)
    if pruned["seed"].nunique() > 1:
        for _, seed in pruned.groupby("seed"):
            axes.plot(seed["filters_removed_pct"], seed["value"], color=colour, linewidth=0.4, alpha=0.7)
    x = mean["filters_removed_pct"]
    beside = 0.014 * last * (names.index(name) - (len(names) - 1) / 2)
    axes.fill_between(x, mean["ci_low"], mean["ci_high"], color=colour, alpha=0.13 if len(names) <= 4 else 0.07, linewidth=0)
    [line] = axes.plot(x, mean["value"], color=colour, marker=marker, markevery=max(len(mean) // 8, 1))
    if "fine-tuned" in stages:
        tuned = stages["fine-tuned"]
        bars = np.abs(tuned[["ci_low", "ci_high"]].to_numpy() - tuned[["value"]].to_numpy()).T
        axes.errorbar(tuned["filters_removed_pct"] + beside, tuned["value"], bars, color=colour, linestyle="none", marker=marker,
                      markersize=markersize, markerfacecolor="white", elinewidth=0.7, zorder=3, label="fine-tuned")
    if "from-scratch" in stages:
        scratch = _mean_of_seeds(stages["from-scratch"])
        axes.plot(scratch["filters_removed_pct"] + beside, scratch["value"], color=colour, linestyle="none",
                  label="from scratch", **STAR)
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
        pruned, network, criterion = pruned_rows(curve)
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
                    label=f"{unit} (100 % = {count_text(full)}, last {count_text(values.iloc[-1])})")
            self.axes_.plot([0, x.max()], [100, 100 - x.max()], color="0.4", linewidth=0.8, linestyle=":",
                            label="in proportion to the filters")
            self.axes_.set(xlabel="Filters removed (%)", ylabel="Left (% of unpruned)", ylim=(0, 103))
            self.figure_.legend(loc="outside lower center")
        return self


@dataclass
class TemplateCurve:
    """EER against the number of images per template, a line for each chosen share of filters removed, a panel for each pair.

    points: columns pair, stage, step, template_size, filters_removed_pct, value, ci_low, ci_high, rates in percent, mean over seeds.
    After `plot`: lines_ holds the drawn line of every (pair, stage, step), axes_ one axes per pair.
    """

    points: pd.DataFrame
    network: str
    criterion: str

    @classmethod
    def from_table(cls, curve: pd.DataFrame) -> TemplateCurve:
        """curve: rows of one network and criterion. The steps drawn are those at which most template sizes were measured.

        Raises ValueError as `PruningCurve.from_table`, and when there is one template size only.
        """
        _, network, criterion = pruned_rows(curve)
        rows = curve[(curve["metric"] == "eer") & curve["stage"].isin(["pruned", "fine-tuned"]) & (curve["protocol"] == "pose_pairs")]
        sizes = rows.groupby(["stage", "step"])["template_size"].transform("nunique")
        rows = rows[sizes == sizes.max()]
        if len(rows) == 0 or sizes.max() == 1:
            raise ValueError("curve: expected the EER of several template sizes, found one")
        steps = sorted(rows["step"].unique())
        rows = rows[rows["step"].isin([steps[round(i)] for i in np.linspace(0, len(steps) - 1, min(len(steps), 4))])]
        points = rows.groupby(["pair", "stage", "step", "template_size"], as_index=False)[
            ["filters_removed_pct", "value", "ci_low", "ci_high"]].mean()
        points[["value", "ci_low", "ci_high"]] *= 100
        return cls(points, network, criterion)

    @property
    def caption(self) -> str:
        return (f"EER (%) of {self.network} against the images per template (at most so many: half of a subject's images of the pose "
                f"where they are fewer), for shares of the filters removed by {self.criterion}. Filled markers and solid lines: pruned; "
                f"open markers and dashed lines: fine-tuned. Bars, for the unpruned network: {INTERVAL}.")

    def plot(self, width: float = TWO_COLUMNS) -> TemplateCurve:
        pairs = sorted(self.points["pair"].unique(), key=pair_order)
        rows, columns = grid_of(len(pairs), width, 3)
        with style():
            self.figure_ = Figure(figsize=(width, 2.0 * rows + 0.45))
            self.axes_, self.lines_, handles = panels_of(self.figure_, len(pairs), rows, columns, sharex=True, sharey=True), {}, {}
            for place, (axes, pair) in enumerate(zip(self.axes_, pairs)):
                lines, legend = self.draw(axes, pair, share_marks(self.points))
                self.lines_ |= lines
                handles |= legend
                rate_axis(axes, self.points, log=True)
                axes.set_title(pair, fontweight="bold")
                if lowest_of_column(place, len(pairs), columns):
                    axes.set_xlabel("Images per template")
                if place % columns == 0:
                    axes.set_ylabel("EER (%)")
            self.figure_.legend(handles=[handles[key] for key in sorted(handles)], loc="outside lower center",
                                ncols=4 if width > ONE_COLUMN else 2)
        return self

    def draw(self, axes, pair: str, marks: dict[int, tuple[str, str]]) -> tuple[dict[tuple[str, str, int], Line2D], dict[tuple[int, int], Line2D]]:
        """Draws a pair's lines into axes, with the marks of their shares. Returns them by (pair, stage, step), and what a legend
        shows of them, by order."""
        sizes, lines, handles = sorted(self.points["template_size"].unique()), {}, {}
        for (step, stage), line in self.points[self.points["pair"] == pair].groupby(["step", "stage"]):
            share = round(line["filters_removed_pct"].iloc[0])
            colour, marker = marks[share]
            tuned = stage == "fine-tuned"
            at = [sizes.index(size) for size in line["template_size"]]
            look = dict(color=colour, marker=marker, linestyle="--" if tuned else "-", markerfacecolor="white" if tuned else colour)
            [lines[pair, stage, step]] = axes.plot(at, line["value"], **look)
            if step == 0 and not tuned:
                bars = np.abs(line[["ci_low", "ci_high"]].to_numpy() - line[["value"]].to_numpy()).T
                axes.errorbar(at, line["value"], bars, color=colour, linestyle="none", elinewidth=0.7)
            handles[int(tuned), share] = Line2D([], [], label=f"{share} % removed" + ", fine-tuned" * tuned, **look)
        axes.set_xticks(range(len(sizes)), [f"{size:g}" for size in sizes])
        return lines, handles


ARM_MARKS = {"taylor_weight": MARKS[1], "taylor_gate": MARKS[4], "taylor_activation": MARKS[5], "magnitude": MARKS[2],
             "random": MARKS[6], "control": MARKS[0]}


@dataclass
class Arms:
    """The mean EER over pose pairs against filters removed, a line for each way to choose them and for the control.

    points: columns template_size, arm, seed, step, filters_removed_pct, value (percent). The control, which keeps its
    filters, stands where the others were at the same step.
    After `plot`: lines_ holds the drawn mean of every (template_size, arm), axes_ one axes per template size.
    """

    points: pd.DataFrame
    network: str

    @classmethod
    def from_table(cls, curve: pd.DataFrame) -> Arms:
        """curve: arms/curve.csv of one network. Raises ValueError when columns or rows are missing."""
        check_table(curve, CURVE, "curve of the arms")
        network = the_only(curve, "network", "curve of the arms")
        rows = curve[(curve["metric"] == "eer") & (curve["protocol"] == "pose_pairs")]
        check_table(rows, CURVE, "curve of the arms, protocol pose_pairs")
        rows = rows.assign(arm=rows["criterion"].mask(rows["stage"] == "control", "control"))
        points = rows.groupby(["template_size", "arm", "seed", "step"], as_index=False)[["filters_removed_pct", "value"]].mean()
        control = points["arm"] == "control"
        if not control.all():
            removed = points[~control].groupby("step")["filters_removed_pct"].mean()
            points.loc[control, "filters_removed_pct"] = np.interp(points.loc[control, "step"], removed.index, removed)
        return cls(points.assign(value=100 * points["value"]), network)

    @property
    def caption(self) -> str:
        seeds = self.points.groupby("arm")["seed"].nunique()
        several = ", ".join(f"{arm}: {count}" for arm, count in seeds.items() if count > 1)
        return (f"EER (%), mean over the pose pairs, of {self.network} against convolution filters removed (% of all): the same steps, "
                "mini-batches and learning rate for all arms. Dashed: control, trained as long with nothing removed."
                + (f" Lines: mean of the seeds ({several}; others 1); bands: from the lowest to the highest seed." if several else
                   " One seed each."))

    def plot(self, width: float = TWO_COLUMNS) -> Arms:
        sizes = sorted(self.points["template_size"].unique())
        arms = sorted(self.points["arm"].unique(), key=lambda arm: (list(ARM_MARKS).index(arm) if arm in ARM_MARKS else -1, arm))
        rows, columns = grid_of(len(sizes), width, 2)
        with style():
            self.figure_ = Figure(figsize=(width, 2.3 * rows + 0.35))
            self.axes_, self.lines_ = panels_of(self.figure_, len(sizes), rows, columns, sharex=True), {}
            for place, (axes, size) in enumerate(zip(self.axes_, sizes)):
                for arm in arms:
                    rows_of = self.points[(self.points["arm"] == arm) & (self.points["template_size"] == size)]
                    steps = rows_of.groupby("step")
                    x, value = steps["filters_removed_pct"].mean(), steps["value"]
                    colour, marker = ARM_MARKS.get(arm, MARKS[3])
                    axes.fill_between(x, value.min(), value.max(), color=colour, alpha=0.2, linewidth=0)
                    [self.lines_[size, arm]] = axes.plot(x, value.mean(), color=colour, marker=marker, label=arm,
                                                         linestyle=(0, (4, 2)) if arm == "control" else "-")
                rate_axis(axes, self.points[self.points["template_size"] == size].assign(ci_high=np.nan), log=True)
                axes.set_title(size_title(size), fontweight="bold")
                if lowest_of_column(place, len(sizes), columns):
                    axes.set_xlabel("Filters removed (%)")
                if place % columns == 0:
                    axes.set_ylabel("EER (%), mean over pose pairs")
            self.figure_.legend(handles=[self.lines_[sizes[0], arm] for arm in arms], loc="outside lower center",
                                ncols=len(arms) if width > ONE_COLUMN else 3)
        return self

"""All networks of a preset in one figure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from facelib.comparison import BYTES_PER_PARAMETER
from facelib.figures.curves import STAR, PruningCurve, TemplateCurve, about_axis, draw_line, metric_axis, stage_handles
from facelib.figures.layers import FiltersLeft
from facelib.figures.scores import DetCurves, lines_mean
from facelib.figures.style import (
    INTERVAL,
    ONE_COLUMN,
    TWO_COLUMNS,
    Figure,
    log_ticks,
    metric_label,
    network_marks,
    network_name,
    of_first_criterion,
    pair_marks,
    pair_order,
    panels_of,
    rate_axis,
    share_marks,
    share_ticks,
    size_title,
    style,
)
from facelib.results import StudyTables

EVALUATED = ("pruned", "fine-tuned", "from-scratch")


@dataclass
class ErrorOfNetworks:
    """A verification error against filters removed, networks side by side, template sizes below each other.

    curves: a `PruningCurve` of each network. After `plot`: lines_ holds the drawn curve of every (network, template_size,
    line), axes_ the axes of every (network, template_size).
    """

    curves: dict[str, PruningCurve]
    metric: str

    @property
    def points(self) -> pd.DataFrame:
        points = pd.concat(curve.points.assign(network=network) for network, curve in self.curves.items())
        return points[points["stage"].isin(EVALUATED)]

    @classmethod
    def from_studies(cls, studies: Sequence[StudyTables], metric: str = "eer") -> ErrorOfNetworks:
        """Raises ValueError as `PruningCurve.from_table`."""
        return cls({study.network: PruningCurve.from_table(main_rows(study), metric) for study in studies}, metric)

    @property
    def caption(self) -> str:
        return (f"{metric_label(self.metric)} of each network against convolution filters removed (% of all), by {_criteria(self.curves)}. Lines: pruned"
                f"{_other_stages(self.points)}. Bands and bars: {INTERVAL}"
                + ("; those of stars are in the table. " if (self.points["stage"] == "from-scratch").any() else ". ") + about_axis(self.metric))

    def plot(self, width: float = TWO_COLUMNS) -> ErrorOfNetworks:
        networks, points = list(self.curves), self.points
        sizes, names = sorted(points["template_size"].unique()), sorted(points["line"].unique(), key=pair_order)
        narrow = width <= ONE_COLUMN  # networks below each other, template sizes side by side
        rows, columns = (len(networks), len(sizes)) if narrow else (len(sizes), len(networks))
        with style():
            self.figure_ = Figure(figsize=(width, 1.9 * rows + 0.5))
            grid = self.figure_.subplots(rows, columns, sharex=True, sharey="col" if narrow else "row", squeeze=False)
            self.axes_, self.lines_ = {}, {}
            for row, column in np.ndindex(rows, columns):
                network, size = (networks[row], sizes[column]) if narrow else (networks[column], sizes[row])
                axes = self.axes_[network, size] = grid[row, column]
                of_panel = points[(points["network"] == network) & (points["template_size"] == size)]
                for name, line in of_panel.groupby("line"):
                    self.lines_[network, size, name] = draw_line(axes, line, name, names, points["filters_removed_pct"].max(), markersize=4)
                metric_axis(axes, self.metric, size, points[points["template_size"] == size])
                if row == 0:
                    axes.set_title(size_title(size).replace(" images", "") if narrow and size > 1 else
                                   size_title(size) if narrow else network_name(network), fontweight="bold")
                if row == rows - 1:
                    axes.set_xlabel("Filters removed (%)")
                if column == 0:
                    axes.set_ylabel(f"{network_name(network)}\n{metric_label(self.metric)}" if narrow else
                                    f"{size_title(size)}\n{metric_label(self.metric)}")
            handles = [Line2D([], [], color=colour, marker=marker, label=name)
                       for name in names for colour, marker in [pair_marks(name, names)]]
            handles += stage_handles(points)
            self.figure_.legend(handles=handles, loc="outside lower center", ncols=2 if narrow else 4)
        return self


def main_rows(study: StudyTables) -> pd.DataFrame:
    """The rows of the first criterion in curve.csv."""
    criterion = study.curve.loc[study.curve["stage"] == "pruned", "criterion"].iloc[0]
    return study.curve[(study.curve["criterion"] == criterion) | (study.curve["stage"] == "control")]


def _other_stages(points: pd.DataFrame) -> str:
    """What a caption says of networks that are not on the lines."""
    words = {"fine-tuned": "; open markers: retrained after pruning", "from-scratch": "; stars: the same shape, trained from random weights"}
    return "".join(text for stage, text in words.items() if (points["stage"] == stage).any())


def _criteria(curves: dict[str, PruningCurve] | dict[str, TemplateCurve] | dict[str, DetCurves]) -> str:
    return ", ".join(dict.fromkeys(curve.criterion for curve in curves.values()))


@dataclass
class SizeOfNetworks:
    """Parameters (left, with megabytes as float32 on the right) and MACs for one image against filters removed.

    tables: index step, columns filters_removed_pct, parameters, macs, of each network. After `plot`: lines_ holds the drawn line
    of every (network, "parameters" or "macs").
    """

    tables: dict[str, pd.DataFrame]

    @classmethod
    def from_studies(cls, studies: Sequence[StudyTables]) -> SizeOfNetworks:
        columns = ["filters_removed_pct", "parameters", "macs"]
        return cls({study.network: (rows := main_rows(study))[rows["stage"] == "pruned"].groupby("step")[columns].mean() for study in studies})

    @property
    def caption(self) -> str:
        return ("Parameters, their size as float32 (megabytes, 10^6 bytes), and multiply-accumulate operations (MACs) for one image of each "
                "network against convolution filters removed (% of all), on logarithmic axes; without the training classifier. "
                "MACs are those of the image size and stride at which the network was run.")

    def plot(self, width: float = TWO_COLUMNS) -> SizeOfNetworks:
        narrow = width <= ONE_COLUMN
        with style():
            self.figure_ = Figure(figsize=(width, 4.6 if narrow else 2.5))
            panels = self.figure_.subplots(2 if narrow else 1, 2 - narrow, sharex=True, squeeze=False).flat
            self.axes_, self.lines_ = dict(zip(("parameters", "macs"), panels)), {}
            for column, axes in self.axes_.items():
                for network, (colour, marker) in network_marks(self.tables).items():
                    table = self.tables[network]
                    [self.lines_[network, column]] = axes.plot(table["filters_removed_pct"], table[column] / 1e6, color=colour, marker=marker,
                                                               markevery=max(len(table) // 8, 1), label=network_name(network))
                values = pd.concat([table[column] for table in self.tables.values()]) / 1e6
                _log_axis(axes, "y", values.min() / 1.2, values.max() * 1.2)
                axes.set_xticks(share_ticks(max(table["filters_removed_pct"].max() for table in self.tables.values())))
                if column == "macs" or not narrow:
                    axes.set_xlabel("Filters removed (%)")
            self.axes_["parameters"].set_ylabel("Parameters (millions)")
            self.axes_["macs"].set_ylabel("MACs for one image (millions)")
            right = self.axes_["parameters"].secondary_yaxis(
                "right", functions=(lambda millions: millions * BYTES_PER_PARAMETER, lambda size: size / BYTES_PER_PARAMETER))
            low, high = self.axes_["parameters"].get_ylim()
            right.yaxis.set_major_locator(FixedLocator(log_ticks(low * BYTES_PER_PARAMETER, high * BYTES_PER_PARAMETER)))
            right.yaxis.set_minor_locator(NullLocator())
            right.yaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
            right.set_ylabel("Size (MB, float32)")
            self.figure_.legend(handles=[self.lines_[network, "macs"] for network in self.tables], loc="outside lower center", ncols=3)
        return self


def _log_axis(axes, side: str, low: float, high: float) -> None:
    axes.set(**{f"{side}scale": "log", f"{side}lim": (low, high)})
    axis = axes.xaxis if side == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator(log_ticks(low, high)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))


@dataclass
class ErrorAgainstSize:
    """EER, mean over pose pairs, against parameters and against MACs: which network, pruned how far, is best at a given size.

    points: columns network, stage, step, filters_removed_pct, parameters, macs (millions), template_size, value (percent).
    After `plot`: lines_ holds the drawn line of every (network, size, column), fronts_ the drawn front of every (size, column).
    """

    points: pd.DataFrame

    @classmethod
    def from_studies(cls, studies: Sequence[StudyTables]) -> ErrorAgainstSize:
        """Pruned and fine-tuned networks and those from scratch, mean over seeds, of the template sizes that every evaluated step has."""
        tables = []
        for study in studies:
            rows = main_rows(study)
            rows = rows[(rows["metric"] == "eer") & rows["stage"].isin(EVALUATED) & (rows["protocol"] == "pose_pairs")]
            steps = rows[rows["stage"] == "pruned"].groupby("template_size")["step"].nunique()
            rows = rows[rows["template_size"].isin(steps.index[steps == steps.max()])]
            table = rows.groupby(["network", "stage", "step", "template_size"], as_index=False)[
                ["filters_removed_pct", "parameters", "macs", "value"]].mean()
            tables.append(table.assign(parameters=table["parameters"] / 1e6, macs=table["macs"] / 1e6, value=100 * table["value"]))
        return cls(pd.concat(tables, ignore_index=True))

    def front(self, template_size: int, column: str) -> pd.DataFrame:
        """The points that no other one beats in both size and error, smallest first."""
        points = self.points[self.points["template_size"] == template_size].sort_values([column, "value"])
        return points[points["value"] < points["value"].cummin().shift(fill_value=np.inf)]

    @property
    def caption(self) -> str:
        return ("EER (%), mean over the pose pairs, against millions of parameters and against millions of multiply-accumulate operations "
                "(MACs) for one image, logarithmic; without the training classifier. Lines: pruned step by step, from right to left, "
                f"with filters removed (%) beside{_other_stages(self.points)}. Grey: the front, below and left of which no evaluated network "
                "lies. No intervals are drawn: those of single networks are in the table.")

    def plot(self, width: float = TWO_COLUMNS) -> ErrorAgainstSize:
        sizes = sorted(self.points["template_size"].unique())
        networks = list(dict.fromkeys(self.points["network"]))
        labels = {"parameters": "Parameters (millions)", "macs": "MACs for one image (millions)"}
        narrow = width <= ONE_COLUMN
        rows, columns = (2 * len(sizes), 1) if narrow else (len(sizes), 2)
        with style():
            self.figure_ = Figure(figsize=(width, (2.0 if narrow else 2.35) * rows + 0.35))
            grid = np.array(panels_of(self.figure_, 2 * len(sizes), rows, columns)).reshape(len(sizes), 2)
            self.axes_, self.lines_, self.fronts_ = {}, {}, {}
            for (size, axes_row), (place, (column, label)) in ((a, b) for a in zip(sizes, grid) for b in enumerate(labels.items())):
                axes = self.axes_[size, column] = axes_row[place]
                of_size = self.points[self.points["template_size"] == size]
                front = self.front(size, column)
                front = pd.concat([front, front.tail(1).assign(**{column: 1.25 * of_size[column].max()})])  # up to the edge
                [self.fronts_[size, column]] = axes.plot(front[column], front["value"], drawstyle="steps-post", color="0.75", linewidth=3.5,
                                                         solid_joinstyle="miter", zorder=1)
                for network, (colour, marker) in network_marks(networks).items():
                    rows_of = of_size[of_size["network"] == network]
                    pruned, tuned, scratch = (rows_of[rows_of["stage"] == stage].sort_values("step") for stage in EVALUATED)
                    [self.lines_[network, size, column]] = axes.plot(pruned[column], pruned["value"], color=colour, linewidth=0.9,
                                                                     label=network_name(network))
                    marked = pruned.iloc[[(pruned["filters_removed_pct"] - pct).abs().argmin()
                                          for pct in share_ticks(pruned["filters_removed_pct"].max())[::2]]]
                    axes.plot(marked[column], marked["value"], color=colour, marker=marker, linestyle="none")
                    for point in marked.itertuples():
                        axes.annotate(f"{point.filters_removed_pct:.0f}", (getattr(point, column), point.value), (0, 3.5),
                                      textcoords="offset points", ha="center", va="bottom", fontsize=5.5, color=colour, zorder=4,
                                      path_effects=[withStroke(linewidth=1.5, foreground="white")])
                    axes.plot(tuned[column], tuned["value"], color=colour, marker=marker, markerfacecolor="white", linestyle="none",
                              markersize=4, zorder=3)
                    axes.plot(scratch[column], scratch["value"], color=colour, linestyle="none", **STAR)
                _log_axis(axes, "x", of_size[column].min() / 1.25, of_size[column].max() * 1.25)
                rate_axis(axes, of_size.assign(ci_high=np.nan), log=True)
                axes.set_ylim(of_size["value"].min() / 1.08, of_size["value"].max() * 1.12)
                axes.set_xlabel(label)
                if place == 0 or narrow:
                    axes.set_ylabel("EER (%), mean over pose pairs")
                axes.set_title(size_title(size), fontweight="bold")
            handles = [Line2D([], [], color=colour, marker=marker, label=network_name(network))
                       for network, (colour, marker) in network_marks(networks).items()]
            handles += [*stage_handles(self.points), Line2D([], [], color="0.75", linewidth=3.5, label="best at its size")]
            self.figure_.legend(handles=handles, loc="outside lower center", ncols=3 if narrow else len(handles))
        return self


@dataclass
class _PanelsOfNetworks:
    """What a display of one network shows, for all networks: one column for each network, one row for each pair or line.

    curves: the display of each network. After `plot`: axes_ holds the axes of every (network, line), lines_ the drawn line of every
    (network, line, stage, step).
    """

    curves: dict[str, TemplateCurve] | dict[str, DetCurves]

    @property
    def points(self) -> pd.DataFrame:
        return pd.concat([curve.points for curve in self.curves.values()])

    def _plot(self, line: str, xlabel: str, ylabel: str, sharey: bool | str) -> None:
        """line: a column of `points`; each of its values has a row of panels. All rows together fit on a page; one network
        takes one column of it."""
        names, networks, marks = sorted(self.points[line].unique(), key=pair_order), list(self.curves), share_marks(self.points)
        width = TWO_COLUMNS if len(networks) > 1 else ONE_COLUMN
        with style():
            self.figure_ = Figure(figsize=(width, min(2.0 * len(names), 8.5) + 0.5))
            grid = self.figure_.subplots(len(names), len(networks), sharex="col", sharey=sharey, squeeze=False)
            self.axes_, self.lines_, handles = {}, {}, {}
            for row, column in np.ndindex(grid.shape):
                axes, network, name = grid[row, column], networks[column], names[row]
                self.axes_[network, name] = axes
                lines, legend = self.curves[network].draw(axes, name, marks)
                self.lines_ |= {(network, *key): drawn for key, drawn in lines.items()}
                handles |= legend
                if row == 0:
                    axes.set_title(network_name(network), fontweight="bold")
                if row == len(names) - 1:
                    axes.set_xlabel(xlabel)
                if column == 0:
                    axes.set_ylabel(f"{name}\n{ylabel}")
            self.figure_.legend(handles=[handles[key] for key in sorted(handles)], loc="outside lower center",
                                ncols=4 if width > ONE_COLUMN else 2)


class TemplatesOfNetworks(_PanelsOfNetworks):
    """EER against the number of images per template, networks side by side, pose pairs below each other; several networks have too
    many panels for one column of a journal. curves: a `TemplateCurve` of each network."""

    @classmethod
    def from_studies(cls, studies: Sequence[StudyTables]) -> TemplatesOfNetworks:
        """Raises ValueError as `TemplateCurve.from_table`."""
        return cls({study.network: TemplateCurve.from_table(main_rows(study)) for study in studies})

    @property
    def caption(self) -> str:
        return ("EER (%) of each network against the images per template (at most so many: half of a subject's images of the pose where "
                f"they are fewer), for shares of the filters removed by {_criteria(self.curves)}. Filled markers and solid lines: pruned; open "
                f"markers and dashed lines: fine-tuned. Bars, for the unpruned network: {INTERVAL}.")

    def plot(self) -> TemplatesOfNetworks:
        self._plot("pair", "Images per template", "EER (%)", sharey="row")
        points = self.points
        for (_, pair), axes in self.axes_.items():
            rate_axis(axes, points[points["pair"] == pair], log=True)
        return self


class DetOfNetworks(_PanelsOfNetworks):
    """DET curves at chosen shares of filters removed, networks side by side, pose pairs and protocols below each other; several
    networks have too many panels for one column of a journal. curves: `DetCurves` of each network, of one template size."""

    @classmethod
    def from_studies(cls, studies: Sequence[StudyTables], template_size: int = 1) -> DetOfNetworks:
        """Raises ValueError as `DetCurves.from_table`."""
        return cls({study.network: DetCurves.from_table(of_first_criterion(study.det), template_size) for study in studies})

    @property
    def caption(self) -> str:
        [size] = {curve.template_size for curve in self.curves.values()}
        seeds = ", the first seed" if any(curve.seeds > 1 for curve in self.curves.values()) else ""
        return (f"FRR against FAR (%, normal deviate axes) of each network, {size_title(size).lower()}, with shares of its filters removed by "
                f"{_criteria(self.curves)}{seeds}. {lines_mean(self.points)} Genuine and impostor comparisons: {self._comparisons}. No intervals are drawn.")

    @property
    def _comparisons(self) -> str:
        found = {network_name(network): curve.comparisons for network, curve in self.curves.items()}
        same = set(found.values())
        return same.pop() if len(same) == 1 else ". ".join(f"{network}: {counts}" for network, counts in found.items())

    def plot(self) -> DetOfNetworks:
        self._plot("line", "FAR (%)", "FRR (%)", sharey=True)
        return self


@dataclass
class FiltersLeftOfNetworks:
    """Heat maps of filters left, networks side by side: layers by depth, the first on top, against filters removed of the whole network.

    maps: a `FiltersLeft` of each network. After `plot`: meshes_ holds each network's drawn map.
    """

    maps: dict[str, FiltersLeft]

    @classmethod
    def from_studies(cls, studies: Sequence[StudyTables]) -> FiltersLeftOfNetworks:
        """Raises as `FiltersLeft.from_table`."""
        return cls({study.network: FiltersLeft.from_table(of_first_criterion(study.layers)) for study in studies})

    @property
    def caption(self) -> str:
        return ("Filters left in every convolution (% of the layer's own) against filters removed of the whole network (%). Layers by depth, "
                "the first on top, with their position and, in brackets, the number of filters before pruning of some.")

    def plot(self, width: float = TWO_COLUMNS) -> FiltersLeftOfNetworks:
        narrow = width <= ONE_COLUMN
        with style():
            self.figure_ = Figure(figsize=(width, 1.9 * len(self.maps) + 0.4 if narrow else 3.0))
            panels = self.figure_.subplots(len(self.maps) if narrow else 1, 1 if narrow else len(self.maps), squeeze=False).flat
            self.axes_, self.meshes_ = dict(zip(self.maps, panels)), {}
            for network, axes in self.axes_.items():
                found = self.maps[network]
                self.meshes_[network] = found.draw_map(axes)
                widths = found.left.index.get_level_values("width")
                places = np.unique(np.linspace(0, len(widths) - 1, 7).round().astype(int))
                axes.set_yticks(places + 0.5, [f"{place + 1} ({widths[place]})" for place in places])
                axes.set_title(network_name(network), fontweight="bold")
                if not narrow or axes is list(self.axes_.values())[-1]:
                    axes.set_xlabel("Filters removed (%)")
                if narrow or axes is next(iter(self.axes_.values())):
                    axes.set_ylabel("Layer (its filters before)")
            self.figure_.colorbar(self.meshes_[network], ax=list(self.axes_.values()), label="Filters left (% of the layer's own)",
                                  pad=0.02, aspect=30)
        return self

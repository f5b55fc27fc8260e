"""What all figures share: one style, colours, axes, and how they are saved."""

from __future__ import annotations

import io
from contextlib import contextmanager
from pathlib import Path

import matplotlib
import matplotlib.figure
import numpy as np
import pandas as pd
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from facelib.results import pair_name

ONE_COLUMN, TWO_COLUMNS = 3.5, 7.2  # widths of a journal's columns, inches

# Okabe and Ito's colours without yellow (too pale for a line), each with a marker of its own for greyscale.
MARKS = [("#000000", "o"), ("#0072B2", "s"), ("#D55E00", "^"), ("#009E73", "D"), ("#56B4E9", "v"), ("#CC79A7", "P"), ("#E69F00", "X")]
PAIRS = ("frontal-frontal", "frontal-three-quarter", "frontal-profile",
         "three-quarter-three-quarter", "three-quarter-profile", "profile-profile")  # easiest first; fixes their marks
NETWORK_MARKS = {"squeezenet": MARKS[1], "mobilenetv2": MARKS[2], "resnet50": MARKS[3]}
NETWORK_NAMES = {"squeezenet": "SqueezeNet", "mobilenetv2": "MobileNetV2", "resnet50": "ResNet50"}
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
                "figure.constrained_layout.use": True, "figure.autolayout": False}
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
    with style(), matplotlib.rc_context({"figure.constrained_layout.use": False}):
        if layout := figure.get_layout_engine():  # laid out once, for both files; savefig draws twice where there is an engine
            layout.execute(figure)
            figure.set_layout_engine(None)
        figure.savefig(f"{path_stem}.png", metadata={"Software": None})
        figure.savefig(f"{path_stem}.pdf", metadata={"CreationDate": None, "Producer": None, "Creator": None})
    Path(f"{path_stem}.txt").write_text(caption + "\n", encoding="utf-8")


def rate_axis(axes, points: pd.DataFrame, log: bool) -> None:
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
    ticks = log_ticks(max(low, positive) / 1.4, min(high * 1.1, 100), at_least=3)
    axes.yaxis.set_major_locator(FixedLocator(ticks if low > 0 else [0, *ticks]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def share_ticks(last: float) -> list[float]:
    """Round percentages from 0 to `last`; half a percent beyond still counts, since groups of filters seldom add up exactly."""
    return [tick for tick in MaxNLocator(7, steps=[1, 2, 5, 10]).tick_values(0, last) if tick <= last + 0.5]


def of_first_criterion(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the criterion that a table names first: what a figure of one criterion shows."""
    return table[table["criterion"] == table["criterion"].iloc[0]] if len(table) else table


def share_marks(points: pd.DataFrame) -> dict[int, tuple[str, str]]:
    """Colour and marker of every share of filters removed that a figure shows, whole percent: no two have the same colour."""
    shares = sorted(points["filters_removed_pct"].round().astype(int).unique())
    if len(shares) <= len(MARKS):
        return dict(zip(shares, MARKS))
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.8, len(shares)))
    return {share: (matplotlib.colors.to_hex(colour), MARKS[place % len(MARKS)][1]) for place, (share, colour) in enumerate(zip(shares, colours))}


def metric_label(metric: str) -> str:
    if metric == "eer_change":
        return "Change of EER (percentage points)"
    if metric.startswith("frr_at_far_"):
        return f"FRR at FAR {100 * float(metric.removeprefix('frr_at_far_')):g} % (%)"
    return {"eer": "EER (%)", "accuracy": "Accuracy (%)"}.get(metric, f"{metric} (%)")


def line_names(table: pd.DataFrame) -> list[str]:
    """What a row's comparisons are called in a legend."""
    return [pair_name(*row) for row in zip(table["protocol"], table["pair"])]


def size_title(size: int) -> str:
    return "Single images" if size == 1 else f"Templates of up to {size} images"


def network_name(network: str) -> str:
    return NETWORK_NAMES.get(network, network)


def network_marks(networks) -> dict[str, tuple[str, str]]:
    """Colour and marker of every network; the papers' keep theirs in every figure."""
    others = [network for network in networks if network not in NETWORK_MARKS]
    return {network: NETWORK_MARKS.get(network) or MARKS[(4 + others.index(network)) % len(MARKS)] for network in networks}


def count_text(number: float) -> str:
    """A count as people write it: 1.24 million, 350 million, 1.24 billion."""
    return f"{number / 1e9:.3g} billion" if number >= 1e9 else f"{number / 1e6:.3g} million"


def log_ticks(low: float, high: float, at_least: int = 4) -> list[float]:
    """Round numbers for a logarithmic axis: of every decade as few as make `at_least`; in less than a decade, evenly spaced."""
    for steps in ((1,), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 6, 8)):
        ticks = [step * 10.0**power for power in range(-4, 12) for step in steps if low <= step * 10.0**power <= high]
        if len(ticks) >= at_least:
            return ticks
    return [tick for tick in MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(low, high) if low <= tick <= high]


def grid_of(panels: int, width: float, across: int) -> tuple[int, int]:
    """Rows and columns of so many panels, at most `across` in a figure of two columns' width, half as many in one's."""
    columns = max(min(panels, across if width > ONE_COLUMN else -(-across // 2)), 1)
    return -(-panels // columns), columns


def panels_of(figure: Figure, panels: int, rows: int, columns: int, **shared) -> list:
    """The axes of the panels, row by row; those left over are switched off."""
    grid = figure.subplots(rows, columns, squeeze=False, **shared)
    for unused in grid.flat[panels:]:
        unused.set_axis_off()
    for column in range(columns):  # the lowest panel of a column has its tick labels, also where the last row is short
        lowest = [row for row in range(rows) if row * columns + column < panels]
        if lowest:
            grid[lowest[-1], column].tick_params(labelbottom=True)
    return list(grid.flat[:panels])


def lowest_of_column(place: int, panels: int, columns: int) -> bool:
    return place + columns >= panels


def pair_order(pair: str) -> tuple[int, str]:
    return (PAIRS.index(pair) if pair in PAIRS else len(PAIRS), pair)


def pair_marks(pair: str, pairs: list[str]) -> tuple[str, str]:
    """Colour and marker of a line: a pose pair's are the same in every figure, the others share what is left."""
    others = [name for name in pairs if name not in PAIRS]
    position = PAIRS.index(pair) if pair in PAIRS else len(PAIRS) + others.index(pair)
    return MARKS[position % len(MARKS)]


def percent_axis(axes, side: str, scale, low: float, high: float, ticks: tuple[float, ...]) -> None:
    """Makes the x or y axis one of fractions, labelled in percent."""
    axes.set(**{f"{side}scale": scale, f"{side}lim": (low, high)})
    axis = axes.xaxis if side == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda rate, _: f"{100 * rate:g}"))

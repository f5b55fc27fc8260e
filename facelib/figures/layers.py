"""Which layers lose their filters: heat map, widths before and after, share removed against width."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter

from facelib.figures.style import MARKS, ONE_COLUMN, SHARES, TWO_COLUMNS, Figure, share_ticks, style
from facelib.layers import Association, WidthEffect, filters_left, removed_pct, width_effect


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

    def plot(self, axes=None, width: float = TWO_COLUMNS) -> FiltersLeft:
        with style():
            self.axes_ = axes or Figure(figsize=(width, 0.9 + 0.125 * len(self.left))).subplots()
            self.figure_ = self.axes_.figure
            self.mesh_ = self.draw_map(self.axes_)
            widths = self.left.index.get_level_values("width")
            names = short_names(self.left.index.get_level_values("layer"))
            self.axes_.set_yticks(np.arange(len(self.left)) + 0.5, [f"{n}  {w}" for n, w in zip(names, widths)])
            self.axes_.set_xlabel("Filters removed of the whole network (%)")
            self.axes_.set_ylabel("Layer and its width, by depth")
            self.figure_.colorbar(self.mesh_, ax=self.axes_, label="Filters left (% of the layer's own)", pad=0.02, aspect=30)
        return self

    def draw_map(self, axes):
        """Draws the map alone into the axes, one unit of height per layer. Returns the mesh."""
        at = self.removed.to_numpy()
        between = (at[1:] + at[:-1]) / 2
        edges = np.concatenate([at[:1], between, at[-1:]]) if len(at) > 1 else np.array([at[0] - 0.5, at[0] + 0.5])
        mesh = axes.pcolormesh(edges, np.arange(len(self.left) + 1), 100 * self.left, cmap=SHARES, vmin=0, vmax=100, rasterized=True)
        axes.grid(False)
        axes.invert_yaxis()
        axes.tick_params("y", length=0)
        axes.set_xticks([tick for tick in share_ticks(edges[-1]) if tick >= edges[0]])
        return mesh


@dataclass
class WidthsBeforeAfter:
    """Filters of every layer before pruning and with a share of all filters removed; layers by depth, the first on top.

    widths: index layer; columns before, after (filters).
    After `plot`: before_ and after_ are the drawn markers.
    """

    widths: pd.DataFrame
    removed_pct: float
    network: str
    criterion: str

    @classmethod
    def from_table(cls, layers: pd.DataFrame, near_pct: float = 40) -> WidthsBeforeAfter:
        """layers: rows of one network and criterion; drawn is the step nearest to `near_pct` of all filters removed, of those
        that removed any.

        Raises as `layers.filters_left`.
        """
        left = filters_left(layers)
        overall = removed_pct(left)
        step = (overall - near_pct).abs().idxmin()
        widths = pd.DataFrame({"before": left.index.get_level_values("width"), "after": left[step].to_numpy()},
                              index=left.index.get_level_values("layer"))
        return cls(widths, float(overall[step]), layers["network"].iloc[0], layers["criterion"].iloc[0])

    @property
    def caption(self) -> str:
        return (f"Filters (logarithmic) of every convolution of {self.network} before pruning (open) and with {self.removed_pct:.1f} % of "
                f"all filters removed by {self.criterion} (filled). Layers by depth, the first on top.")

    def plot(self, axes=None) -> WidthsBeforeAfter:
        with style():
            self.axes_ = axes or Figure(figsize=(ONE_COLUMN, 0.8 + 0.125 * len(self.widths))).subplots()
            self.figure_ = self.axes_.figure
            at, (colour, _) = np.arange(len(self.widths)), MARKS[1]
            self.axes_.hlines(at, self.widths["after"], self.widths["before"], color=colour, linewidth=1.8, alpha=0.45)
            [self.before_] = self.axes_.plot(self.widths["before"], at, "o", color=colour, markerfacecolor="white", label="before")
            [self.after_] = self.axes_.plot(self.widths["after"], at, "o", color=colour,
                                            label=f"with {self.removed_pct:.0f} % of all filters removed")
            self.axes_.set_ylim(len(at) - 0.4, -0.6)
            self.axes_.set_yticks(at, short_names(self.widths.index))
            self.axes_.tick_params("y", length=0)
            self.axes_.set_xscale("log", base=2)
            self.axes_.xaxis.set_major_formatter(FuncFormatter(lambda tick, _: f"{tick:g}"))
            self.axes_.set(xlabel="Filters of the layer", ylabel="Layer, by depth")
            self.figure_.legend(loc="outside lower center", ncols=2)
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
        """layers: rows of one network and criterion; drawn is the step nearest to `near_pct` of all filters removed, of those
        that removed any.

        Raises ValueError as `layers.width_effect`.
        """
        removed = removed_pct(filters_left(layers))
        step = (removed[removed > 0] - near_pct).abs().idxmin()
        return cls(width_effect(layers, step), layers["network"].iloc[0], layers["criterion"].iloc[0])

    @property
    def caption(self) -> str:
        effect = self.effect
        return (f"Filters removed of every convolution of {self.network} (% of the layer's own) against its filters before "
                f"pruning (logarithmic), with {effect.removed_pct:.1f} % of all filters removed by {self.criterion}. Grey: where "
                "95 % of the layers of a width lie if every filter is equally likely to leave; dashed: the drawn layers together. "
                f"Spearman's rho {_in_words(effect.simple)}; with depth and kind of layer held constant "
                f"{_in_words(effect.partial)}. Layers that lose the same filters stand as one, where layers.csv couples them.")

    def plot(self, axes=None) -> WidthLoss:
        shares, simple = self.effect.shares, self.effect.simple
        with style():
            self.axes_ = axes or Figure(figsize=(ONE_COLUMN, 2.8)).subplots()
            self.figure_ = self.axes_.figure
            chance = shares.drop_duplicates("width").sort_values("width")
            self.band_ = self.axes_.fill_between(chance["width"], 100 * chance["chance_low"], 100 * chance["chance_high"],
                                                 color="0.85", linewidth=0, label="95 % by chance")
            together = 100 * (1 - shares["left"].sum() / shares["width"].sum())
            self.axes_.axhline(together, color="0.4", linewidth=0.8, linestyle="--", label="all together")
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

"""Which layers lose their filters first, and whether width decides it, against what chance would do.

The papers' claim: "filters with the highest amount of output channels tend to be removed first" (Alonso-Fernandez et
al., Deep network pruning: a comparative study on CNNs in face recognition, 2025).

Every function takes the table layers.csv of one network and criterion, reads its rows of stage "pruned" and averages
over seeds. "Width" is a layer's number of filters (output channels) before pruning; shares are fractions.
Layers with the same number in the column `coupling` share all their filters' groups (a depthwise convolution and what feeds it,
the layers that add into one residual stream): they lose the same filters. Without the column, every layer stands alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

COLUMNS = ["network", "criterion", "seed", "stage", "step", "layer", "kind", "depth", "out_channels_original", "out_channels"]


def check_table(table: pd.DataFrame, columns: list[str], name: str) -> None:
    """Raises ValueError when the table has no rows or lacks a column."""
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(f"{name}: expected the columns {', '.join(columns)}; missing {', '.join(missing)}; "
                         f"found {', '.join(map(str, table.columns)) or 'none'}")
    if table.empty:
        raise ValueError(f"{name}: expected at least one row, found none; was the run finished?")


def the_only(table: pd.DataFrame, column: str, name: str) -> str:
    """The one value that a column holds. Raises ValueError when there are several."""
    found = table[column].unique()
    if len(found) != 1:
        raise ValueError(f"{name}: expected one {column}, found {', '.join(map(str, found))}; select the rows of one")
    return found[0]


def filters_left(layers: pd.DataFrame) -> pd.DataFrame:
    """Filters left in every layer after every step of stage "pruned", the mean over seeds.

    One row per layer, by depth; index layer, kind, depth, width; columns are the steps that all seeds have.
    Raises ValueError when columns or rows are missing, or the table holds several networks or criteria.
    """
    check_table(layers, COLUMNS, "layers")
    pruned = layers[layers["stage"] == "pruned"]
    check_table(pruned, COLUMNS, "layers of stage pruned")
    for column in ("network", "criterion"):
        the_only(pruned, column, "layers")
    complete = pruned.groupby("step")["seed"].nunique() == pruned["seed"].nunique()
    left = pruned.pivot_table("out_channels", ["layer", "kind", "depth", "out_channels_original"], "step").loc[:, complete]
    return left.rename_axis(index={"out_channels_original": "width"}).sort_index(level="depth")


def removed_pct(left: pd.DataFrame) -> pd.Series:
    """Filters removed of all the network's, in percent, after every step; left: see `filters_left`."""
    return 100 * (1 - left.sum() / left.index.get_level_values("width").to_numpy().sum())


def removed_share(layers: pd.DataFrame, step: int | None = None) -> pd.DataFrame:
    """Share of every layer's filters that is gone after `step`, or after the last one.

    Index layer, by depth; columns kind, depth, width, left (filters), removed (fraction).
    Raises ValueError as `filters_left` does, and when the table does not hold the step.
    """
    return _removed_share(filters_left(layers), step)


def _removed_share(left: pd.DataFrame, step: int | None) -> pd.DataFrame:
    step = left.columns[-1] if step is None else step
    if step not in left.columns:
        raise ValueError(f"layers: expected step {step}, found steps {', '.join(map(str, left.columns))}")
    table = left[step].rename("left").reset_index(["kind", "depth", "width"])
    return table.assign(removed=1 - table["left"] / table["width"])


def uncoupled(layers: pd.DataFrame) -> pd.DataFrame:
    """One row in place of those of layers that are coupled, so that no decision counts twice.

    It has the first layer's name and depth, and a kind of its own: "depthwise pair" (a depthwise convolution and what
    feeds it) or "residual stream". SqueezeNet's squeeze layers, its narrow necks, become a kind of their own, too.
    Raises ValueError when coupled layers differ in width.
    """
    table = layers.assign(kind=layers["kind"].mask(layers["layer"].str.contains(".squeeze", regex=False), "squeeze"))
    if "coupling" not in table.columns:
        return table
    keys = ["network", "criterion", "seed", "stage", "step", "coupling"]
    table = table.sort_values([*keys, "depth"])
    groups = table.groupby(keys)
    ragged = groups["out_channels_original"].transform("nunique") > 1
    if ragged.any():
        raise ValueError("layers: expected coupled layers of the same width, found different ones in "
                         f"{', '.join(table.loc[ragged, 'layer'].unique())}")
    depthwise = (table["kind"] == "depthwise").groupby([table[key] for key in keys]).transform("any")
    table["kind"] = np.select([groups["layer"].transform("size") == 1, depthwise], [table["kind"], "depthwise pair"],
                              "residual stream")
    return table.groupby(keys, as_index=False).first()[layers.columns]


def without_descriptor(layers: pd.DataFrame) -> pd.DataFrame:
    """The rows without the last convolution's, which makes the descriptor, and without those of layers coupled with it."""
    last = layers["depth"] == layers["depth"].max()
    if "coupling" not in layers.columns:
        return layers[~last]
    return layers[~layers["coupling"].isin(layers.loc[last, "coupling"])]


def first_to_lose(layers: pd.DataFrame) -> pd.DataFrame:
    """When every layer had lost a tenth and half of its own filters, the first to lose half on top.

    Index layer; columns kind, depth, width, lost_tenth, lost_half: filters removed of the whole network (%) at the first
    such step, NaN where none was.
    """
    left = filters_left(layers)
    overall = removed_pct(left)
    table = left.index.to_frame(index=False).set_index("layer")
    for name, share in (("lost_tenth", 0.1), ("lost_half", 0.5)):
        reached = left.le((1 - share) * table["width"].to_numpy() + 1e-9, axis=0)
        table[name] = np.where(reached.any(axis=1), overall[reached.idxmax(axis=1)], np.nan)
    return table.sort_values(["lost_half", "lost_tenth", "depth"])


@dataclass(frozen=True)
class Association:
    """Spearman's rho of width and share removed over the layers.

    p_value: share of permutations of the layers with a rho as far from 0 (two-sided).
    chance_low, chance_high: 95 % of the rhos of networks whose filters leave at random.
    All NaN where width has nothing to vary.
    """

    rho: float
    p_value: float
    chance_low: float
    chance_high: float


@dataclass(frozen=True)
class WidthEffect:
    """Do wide layers lose more? The correlation of width and share removed, against chance.

    removed_pct: filters removed of the whole network (%).
    shares: as `removed_share` of `uncoupled` layers, with chance_low and chance_high, between which 95 % of the layer's
        shares lie if every group of filters is equally likely to leave (hypergeometric).
    simple: the correlation as it is. partial: the same with depth and kind of layer held constant (ranks, least squares).
    depth: that of depth and share removed, with width and kind of layer held constant.
    """

    step: int
    removed_pct: float
    shares: pd.DataFrame
    simple: Association
    partial: Association
    depth: Association


def width_effect(layers: pd.DataFrame, step: int | None = None, permutations: int = 9999, seed: int = 0) -> WidthEffect:
    """Tests the papers' claim on the network after `step`, or after the last one; see `WidthEffect`.

    The network is the layers in the table: take the widest one's rows out to see whether it carries the effect alone.
    Narrow layers' shares scatter more, which permutations do not know: with SqueezeNet's widths and filters leaving at
    random, p_value is below 0.05 in 5 to 9 % of networks. So ask that rho be beyond chance_high, too.
    Coupled layers count once (see `uncoupled`); where the table lacks the column `coupling`, they count as separate
    layers, and p-values come out too small. Chance may empty a layer. It is that of one network: the mean over several
    seeds varies less.
    Raises ValueError as `removed_share` does, and when nothing is removed, or all layers have the same width.
    """
    whole = removed_pct(filters_left(layers))
    left = filters_left(uncoupled(layers))
    shares = _removed_share(left, step)
    step = int(left.columns[-1] if step is None else step)
    width = shares["width"].to_numpy()
    total, gone = width.sum(), round((width - shares["left"]).sum())
    if gone == 0 or np.ptp(width) == 0:
        raise ValueError(f"layers: expected filters removed from layers of several widths, found {gone} removed at step "
                         f"{step} from layers of {len(set(width))} width(s)")
    shares["chance_low"], shares["chance_high"] = stats.hypergeom(total, width, gone).ppf([[0.025], [0.975]]) / width

    rng = np.random.default_rng(seed)
    drawn = rng.multivariate_hypergeometric(width, gone, size=permutations, method="marginals") / width
    ranks = {name: stats.rankdata(shares[name]) for name in ("width", "removed", "depth")}
    by_chance, constant, kind = stats.rankdata(drawn, axis=1), np.ones((len(shares), 1)), pd.get_dummies(shares["kind"], dtype=float)
    simple, partial, depth = (
        _association(ranks[cause], ranks["removed"], by_chance, np.column_stack([constant, *held]), rng)
        for cause, held in (("width", []), ("width", [ranks["depth"], kind]), ("depth", [ranks["width"], kind])))
    return WidthEffect(step, float(whole[step]), shares, simple, partial, depth)


def _association(x: np.ndarray, y: np.ndarray, by_chance: np.ndarray, controls: np.ndarray, rng) -> Association:
    """The correlation of x and y, (layers,), given controls, (layers, controls), one of them constant.

    by_chance: what y is by chance, (draws, layers). As many permutations as draws are made of what the controls leave
    of y (Freedman and Lane, 1983).
    """
    [rho] = _correlations(x, y[None], controls)
    if np.isnan(rho):
        return Association(*[np.nan] * 4)
    rest = y - controls @ np.linalg.lstsq(controls, y)[0]
    permuted = _correlations(x, rng.permuted(np.tile(rest, (len(by_chance), 1)), axis=1), controls)
    as_far = np.count_nonzero(np.abs(permuted) >= abs(rho) - 1e-12)
    low, high = np.nanquantile(_correlations(x, by_chance, controls), [0.025, 0.975])
    return Association(float(rho), (1 + as_far) / (1 + len(by_chance)), float(low), float(high))


def _correlations(x: np.ndarray, rows: np.ndarray, controls: np.ndarray) -> np.ndarray:
    """Correlation of x, (layers,), with every row, (rows, layers), given the controls; NaN where nothing is left to vary."""
    residual = np.eye(len(x)) - controls @ np.linalg.pinv(controls)
    a, b = residual @ x, rows @ residual
    nothing = 1e-9 * len(x)
    lengths = np.linalg.norm(a) * np.linalg.norm(b, axis=1)
    lengths[(np.linalg.norm(b, axis=1) < nothing) | (np.linalg.norm(a) < nothing)] = np.nan
    return b @ a / lengths

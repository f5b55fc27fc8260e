"""Which layers lose their filters first, and whether width decides it, against what chance would do.

The papers' claim: "filters with the highest amount of output channels tend to be removed first" (Alonso-Fernandez et
al., Deep network pruning: a comparative study on CNNs in face recognition, 2025).

Every function takes the table layers.csv of one network and criterion, reads its rows of stage "pruned" and averages
over seeds. "Width" is a layer's number of filters (output channels) before pruning; shares are fractions.
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

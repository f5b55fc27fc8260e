"""EER of one network less another's, with intervals that are paired on the same subjects.

Every network that a study verifies leaves the EERs of its resamples of subjects in its run's folder. The same resample draws
the same subjects for every network and every pose pair of a test set, so that any two networks can be compared later, and
their mean over pose pairs, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from facelib import results, verification

LINE = ["protocol", "pair", "template_size"]  # what names a line of a curve
CHANGE = "eer_change"


class Verified(NamedTuple):
    """A network: its run's folder, and its rows of the curve, all of one stage and step."""

    folder: Path
    rows: pd.DataFrame


def keep(folder: Path, stage: str, step: int, found: Iterable[verification.Measurement]) -> None:
    """Writes the EERs of the resamples, one row for each line of the curve and resample."""
    tables = [pd.DataFrame({"protocol": one.protocol.name, "pair": one.protocol.pair, "template_size": one.protocol.template_size,
                            "eer": one.draws("eer")}) for one in found]
    results.write_table(pd.concat(tables), None, _file(folder, stage, step))


def with_changes(curve: pd.DataFrame, folder: Path, people: dict[tuple, int]) -> pd.DataFrame:
    """A run's curve with rows of `eer_change` added: the EER less that of the run's first network, which is the unpruned one.

    people: subjects with a genuine comparison, by line. The first network's own change is 0, exactly.
    """
    networks = [Verified(folder, rows) for _, rows in curve.groupby(["stage", "step"], sort=False)]
    first = networks[0]
    tables = []
    for network in networks:
        rows = network.rows[network.rows["metric"] == "eer"].assign(metric=CHANGE).set_index(LINE)
        if network is first:
            rows[["value", "ci_low", "ci_high"]] = 0.0
        else:
            found = less(network, first, people).set_index(LINE)
            rows = rows.loc[found.index]
            rows[["value", "ci_low", "ci_high"]] = found[["value", "ci_low", "ci_high"]]
        tables += [network.rows, rows.reset_index()[curve.columns]]
    return pd.concat(tables, ignore_index=True)


def less(one: Verified, other: Verified, people: dict[tuple, int], protocol: str | None = None) -> pd.DataFrame:
    """One network's EER less the other's on every line that both have. Columns: LINE, value, ci_low, ci_high.

    protocol: where given, besides the mean over this protocol's pose pairs, as pair "all pose pairs", for every template size.
    """
    values = [of.rows[of.rows["metric"] == "eer"].set_index(LINE)["value"] for of in (one, other)]
    draws = [_draws(of) for of in (one, other)]
    lines = [line for line in values[0].index if line in values[1].index]
    genuine = one.rows[one.rows["metric"] == "eer"].set_index(LINE)["genuine"]
    groups = [[line] for line in lines]
    if protocol:
        groups += [[line for line in lines if line[0] == protocol and line[2] == size]
                   for size in sorted({line[2] for line in lines if line[0] == protocol})]
    rows = []
    for number, group in enumerate(groups):
        low, high = verification.interval_of_difference(
            *[_mean([of[line] for line in group]) for of in values], *[_mean([of.get(line, np.empty(0)) for line in group]) for of in draws],
            people=min(people[line] for line in group), genuine=sum(genuine[line] for line in group))
        name, pair, size = group[0]
        rows.append({"protocol": name, "pair": pair if number < len(lines) else results.EVERY_PAIR, "template_size": size,
                     "value": _mean([values[0][line] - values[1][line] for line in group]), "ci_low": low, "ci_high": high})
    return pd.DataFrame(rows, columns=[*LINE, "value", "ci_low", "ci_high"])


def table(pairs: Iterable[tuple[Verified, Verified]], people: dict[tuple, int], protocol: str = "pose_pairs") -> pd.DataFrame:
    """`less` of each of the pairs of networks. Columns: results.DIFFERENCES."""
    tables = [pd.DataFrame(columns=results.DIFFERENCES)]
    for one, other in pairs:
        about, beside = one.rows.iloc[0], other.rows.iloc[0]
        found = less(one, other, people, protocol)
        for name in ("network", "criterion", "seed", "stage", "step", "filters_removed_pct"):
            found[name] = about[name]
        for name in ("criterion", "seed", "stage", "step"):
            found[f"other_{name}"] = beside[name]
        tables.append(found[results.DIFFERENCES])
    return pd.concat(tables[1:] or tables, ignore_index=True)


def at_steps(folder: Path, curve: pd.DataFrame) -> dict[int, Verified]:
    """The networks of one stage of a run, by step."""
    return {int(step): Verified(folder, rows) for step, rows in curve.groupby("step")}


def _file(folder: Path, stage: str, step: int) -> Path:
    return Path(folder) / f"{stage}-{step:03d}-resamples.csv"


def _draws(network: Verified) -> dict[tuple, np.ndarray]:
    """By line."""
    about = network.rows.iloc[0]
    table = results.read_table(_file(network.folder, about["stage"], about["step"]))
    return {line: rows.to_numpy() for line, rows in table.groupby(LINE)["eer"]}


def _mean(values: Sequence):
    """Of numbers, or of arrays of one length: an empty array where lengths differ."""
    return np.mean(values, axis=0) if len({np.shape(value) for value in values}) == 1 else np.empty(0)

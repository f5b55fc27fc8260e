"""All networks of a preset side by side: tables worked out from what their studies left, as CSV, Markdown and LaTeX.

The CSV of a table holds numbers (rates as fractions, counts); the Markdown and LaTeX hold the same as people read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from facelib import hypotheses
from facelib.hypotheses import Terms
from facelib.results import EVERY_PAIR, StudyTables, in_percent, line_name, write_readable, write_table

PUBLISHED = Path(__file__).parents[1] / "docs" / "published.csv"
BYTES_PER_PARAMETER = 4  # float32
SHARES_PCT = (0, 20, 40, 60)


SINGLE, TEMPLATES = "single images", "templates"
# What is claimed; what the papers' own text says of it; and the answer to it among `hypotheses.verdicts`: hypothesis and key,
# the stage, and for single images or for the largest templates.
CLAIMS = [
    ("20 % of the filters can go with minimal loss: single images", "a substantial percentage", "H1 share", "pruned", SINGLE),
    ("... templates", "a substantial percentage", "H1 share", "pruned", TEMPLATES),
    ("... single images, retrained", "a substantial percentage", "H1 share", "fine-tuned", SINGLE),
    ("... templates, retrained", "a substantial percentage", "H1 share", "fine-tuned", TEMPLATES),
    ("SqueezeNet: 40 % of the filters can go, single images", "up to 40 %", "H2 share", "pruned", SINGLE),
    ("SqueezeNet: 40 % of the filters can go, templates", "up to 40 %", "H2 share", "pruned", TEMPLATES),
    ("SqueezeNet: 40 % of the filters can go, single images, retrained", "up to 40 %", "H2 share", "fine-tuned", SINGLE),
    ("SqueezeNet: 40 % of the filters can go, templates, retrained", "up to 40 %", "H2 share", "fine-tuned", TEMPLATES),
    ("SqueezeNet: fewer than a million parameters do, single images", "fewer than 1M", "H2 parameters", "pruned", SINGLE),
    ("SqueezeNet: fewer than a million parameters do, templates, retrained", "fewer than 1M", "H2 parameters", "fine-tuned", TEMPLATES),
    ("SqueezeNet: templates hold longer than single images", "", "H2 templates", "pruned", TEMPLATES),
    ("SqueezeNet: removing 10 to 15 % lowers the EER, single images", "", "H2 improvement", "pruned", SINGLE),
    ("layers with most channels lose filters first", "tend to", "H3 width-simple", "pruned", ""),
    ("... with depth and kind of layer held constant", "", "H3 width-partial", "pruned", ""),
    ("... without the descriptor layer", "", "H3 width-simple-no-descriptor", "pruned", ""),
    ("... both", "", "H3 width-partial-no-descriptor", "pruned", ""),
    ("... more than by random removal", "", "H3 width-random", "pruned", ""),
    ("... more than by magnitude removal", "", "H3 width-magnitude", "pruned", ""),
    ("Taylor better than random at 40 %, single images", "", "H4 random-40", "pruned", SINGLE),
    ("Taylor better than magnitude at 40 %, single images", "", "H4 magnitude-40", "pruned", SINGLE),
    ("retrained at 40 %: better than from scratch, single images", "", "H4 scratch-40", "fine-tuned", SINGLE),
    ("seeds scatter less than subjects, single images", "", "H4 seeds", "pruned", SINGLE),
]


@dataclass(frozen=True)
class Comparison:
    """One table. tidy: numbers. readable: text, in the same order. wide: columns of long text."""

    tidy: pd.DataFrame
    readable: pd.DataFrame
    wide: tuple[str, ...] = ()


def compare(studies: Sequence[StudyTables], terms: Terms = Terms()) -> dict[str, Comparison]:
    """Every table, by the name of its files. Raises ValueError when there is no study."""
    answers = hypotheses.verdicts(studies, terms)
    return {"summary": summary(studies), "sizes": sizes(studies), "hypotheses": verdicts(answers),
            "published": published(studies, answers), "claims": claims(answers)}


def write(tables: dict[str, Comparison], folder: Path) -> None:
    """Writes every table into the folder: NAME.csv, NAME.md and NAME.tex."""
    for name, table in tables.items():
        write_table(table.tidy, list(table.tidy), Path(folder) / f"{name}.csv")
        write_readable(table.readable, Path(folder) / name, table.wide)


def summary(studies: Sequence[StudyTables], shares_pct: Sequence[float] = SHARES_PCT) -> Comparison:
    """EER of every network near each share of filters removed: pruned, fine-tuned, from scratch. tidy: rows of curve.csv."""
    rows = []
    for study in studies:
        curve = study.curve[study.curve["metric"] == "eer"]
        evaluated = curve[curve["stage"] == "pruned"].drop_duplicates("step").set_index("step")["filters_removed_pct"]
        for pct in shares_pct:
            step = (evaluated - pct).abs().idxmin()
            if abs(evaluated[step] - pct) < 5:
                rows.append(curve[curve["step"] == step].assign(near_pct=pct))
    tidy = pd.concat(rows, ignore_index=True).drop(columns="metric")
    tidy = tidy[tidy["seed"] == tidy.groupby("network")["seed"].transform("min")]
    columns = tidy.apply(lambda row: f"{row['near_pct']:g} %" + ("" if row["stage"] == "pruned" else f", {row['stage']}"), axis=1)
    cells = pd.DataFrame({
        "network": tidy["network"], "EER (%)": [line_name(*row) for row in zip(tidy["protocol"], tidy["pair"], tidy["template_size"])],
        "column": columns, "cell": [in_percent(row) for row in tidy.itertuples()]})
    order = list(dict.fromkeys(tidy.assign(column=columns).sort_values(["stage", "near_pct"], key=_stages_in_order)["column"]))
    wide = cells.drop_duplicates(["network", "EER (%)", "column"]).pivot(index=["network", "EER (%)"], columns="column", values="cell")
    lines = cells[["network", "EER (%)"]].drop_duplicates()
    readable = lines.merge(wide[order].reset_index(), how="left").fillna("–")
    return Comparison(tidy, readable)


def sizes(studies: Sequence[StudyTables], shares_pct: Sequence[float] = SHARES_PCT) -> Comparison:
    """Filters, parameters, MACs for one image and megabytes (10^6 bytes, float32) near each share of filters removed; descriptor network,
    without the training classifier."""
    rows = []
    for study in studies:
        steps = study.curve[study.curve["stage"] == "pruned"].drop_duplicates("step").set_index("step")
        for pct in shares_pct:
            row = steps.loc[(steps["filters_removed_pct"] - pct).abs().idxmin()]
            if abs(row["filters_removed_pct"] - pct) < 5:
                rows.append({"network": study.network} | row[["filters_removed_pct", "filters", "parameters", "macs"]].to_dict())
    tidy = pd.DataFrame(rows).astype({"filters": int, "parameters": int, "macs": int})
    tidy["megabytes"] = tidy["parameters"] * BYTES_PER_PARAMETER / 1e6
    readable = pd.DataFrame({
        "network": tidy["network"], "filters removed": [f"{pct:.1f} %" for pct in tidy["filters_removed_pct"]],
        "filters": [f"{count:,}" for count in tidy["filters"]], "parameters": [f"{count:,}" for count in tidy["parameters"]],
        "MACs (millions)": [f"{count / 1e6:,.1f}" for count in tidy["macs"]],
        "size (MB, float32)": [f"{size:.2f}" for size in tidy["megabytes"]]})
    return Comparison(tidy, readable)


def verdicts(answers: pd.DataFrame) -> Comparison:
    """answers: `hypotheses.verdicts`. readable: those about all pose pairs together."""
    found = [hypotheses.shown(answers, name).assign(hypothesis=name) for name in sorted(answers["hypothesis"].unique())]
    readable = pd.concat(found, ignore_index=True)[["network", "hypothesis", "question", "where", "found", "verdict", "why"]]
    return Comparison(answers, readable, wide=("question", "why"))


def claims(answers: pd.DataFrame) -> Comparison:
    """The claims, one row each, with every network's verdict and the value that it follows from; where a claim has several
    answers (at 10 and at 15 % removed), all of them; "not run" where it has none, blank where its hypothesis is not about the
    network. answers: `hypotheses.verdicts`."""
    answers, rows = hypotheses.headlines(answers), []
    largest = answers.groupby("network")["template_size"].transform("max")
    for claim, papers, name, stage, which in CLAIMS:
        found = answers[(answers["hypothesis"] + " " + answers["key"] == name) & (answers["stage"] == stage)]
        size = found["template_size"]
        right = {SINGLE: size == 1, TEMPLATES: (size == largest[found.index]) & (size > 1), "": size == 0}[which]
        found = found[right | (size == 0)]  # 0: not run, or not about templates
        rows += [{"claim": claim, "papers": papers} | row for row in
                 found[["network", "question", "verdict", "value", "low", "high", "unit", "why"]].to_dict("records")]
    tidy = pd.DataFrame(rows)
    one_of_several = tidy.duplicated(["claim", "network"], keep=False)
    cells = tidy.assign(cell=[("not run" if "not run: " in row.why else f"{row.verdict}: {hypotheses.statement(row)}")
                              + (f" {row.question.rpartition(': ')[2]}" if several else "")
                              for row, several in zip(tidy.itertuples(), one_of_several)])
    found = cells.pivot_table(index=["claim", "papers"], columns="network", values="cell", aggfunc="; ".join)
    asked = set(zip(answers["network"], answers["hypothesis"]))
    wide = pd.DataFrame({network: {(claim, papers): "not run" if (network, name.split()[0]) in asked else "" for claim, papers, name, *_ in CLAIMS}
                         for network in answers["network"].unique()}).rename_axis(["claim", "papers"])
    wide = found.reindex_like(wide).fillna(wide).reset_index()
    return Comparison(tidy.drop(columns="why"), wide, wide=tuple(wide.columns.drop("papers")))


def published(studies: Sequence[StudyTables], answers: pd.DataFrame, source: Path = PUBLISHED) -> Comparison:
    """The papers' figures beside ours, with what makes them differ.

    docs/published.csv gives each figure with its status: V, verified in the authors' own text; D, derived by
    arithmetic; S, from somebody's notes only, which stand in a column of their own: they are not the papers' word.
    """
    known = pd.read_csv(source, dtype=str, keep_default_na=False)
    if (wrong := known["status"].eq("S") & known["papers"].ne("")).any():
        raise ValueError(f"{source}: status S is not the papers' figure; move it to the column notes: "
                         + ", ".join(known.loc[wrong, "item"]))
    by_network = {study.network: study for study in studies}
    rows = []
    for entry in known.itertuples():
        study = by_network.get(entry.network)
        value, low, high = (np.nan,) * 3 if study is None else _ours(study, answers[answers["network"] == study.network], entry.ours)
        rows.append({"item": entry.item, "network": entry.network, "papers": entry.papers, "notes": entry.notes, "status": entry.status,
                     "value": value, "low": low, "high": high, "unit": entry.unit,
                     "data": "" if study is None else _data(study), "why": entry.why})
    tidy = pd.DataFrame(rows)
    readable = pd.DataFrame({
        "item": tidy["item"], "network": tidy["network"], "unit": tidy["unit"], "papers": tidy["papers"].replace("", "–"),
        "notes, not verified": tidy["notes"].replace("", "–"), "status": tidy["status"],
        "ours": [_number(row) if row.data else "not run" for row in tidy.itertuples()], "our data": tidy["data"].replace("", "–"),
        "why they differ": tidy["why"]})
    return Comparison(tidy, readable, wide=("item", "our data", "why they differ"))


def _ours(study: StudyTables, answers: pd.DataFrame, key: str) -> tuple[float, float, float]:
    """Our value for a key of docs/published.csv, with its interval; all NaN where the tables do not hold it."""
    unpruned = study.curve[(study.curve["stage"] == "pruned") & (study.curve["step"] == 0)]
    if key == "parameters":
        return unpruned["parameters"].iloc[0] / 1e6, np.nan, np.nan
    what, *about = key.split()
    if what == "eer":
        rows = unpruned[(unpruned["metric"] == "eer") & (unpruned["pair"] == about[0]) & (unpruned["template_size"] == 5)]
        return tuple(100 * rows[["value", "ci_low", "ci_high"]].mean())
    if what in ("share", "parameters"):
        hypothesis = "H2" if what == "parameters" else "H1"
        size = 1 if about[-1] == "singles" else 5
        rows = answers[(answers["stage"] == "pruned") & (answers["pair"] == EVERY_PAIR) & (answers["template_size"] == size)]
        rows = rows[(rows["hypothesis"] == hypothesis) & (rows["key"] == what)]
    elif what == "width":
        rows = answers[answers["key"] == "width-simple"]
    elif what == "improvement":
        return (np.nan,) * 3  # a yes or no, in the table of hypotheses
    else:
        raise ValueError(f"docs/published.csv: no such figure of ours: {key}")
    return tuple(rows[["value", "low", "high"]].iloc[0]) if len(rows) else (np.nan,) * 3


def _number(row) -> str:
    if np.isnan(row.value):
        return "see hypotheses"
    digits = 2 if row.unit in ("million", "rho") else 0 if row.unit == "% of filters" else 1
    text = f"{row.value:.{digits}f}"
    return text if np.isnan(row.low) else f"{text} ({hypotheses.interval_text(row.low, row.high, digits)})"


def _data(study: StudyTables) -> str:
    """How much was trained and tested on, from the manifest."""
    faces = study.manifest.get("faces", {})
    if not {"training", "test"} <= set(faces):
        return "not stated"
    training, test = faces["training"], faces["test"]
    return (f"{training['images']:,.0f} training images of {training['subjects']:,.0f} subjects; {test['images']:,.0f} test images of "
            f"{test['subjects']:,.0f} others")


def _stages_in_order(column: pd.Series) -> pd.Series:
    if column.name != "stage":
        return column
    order = {"pruned": 0, "fine-tuned": 1, "from-scratch": 2, "control": 3}
    return column.map(lambda stage: order.get(stage, len(order)))

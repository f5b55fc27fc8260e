"""The papers' claims as hypotheses, and verdicts that follow from the saved tables by rules stated beforehand.

H1  A substantial share of the filters can be removed with minimal loss.
H2  SqueezerFaceNet: up to 40 % less of SqueezeNet without appreciable loss, to fewer than a million parameters; templates
    of several images hold longer than single images; 10 to 15 % fewer filters may even improve it.
H3  Layers with more output channels lose their filters first.
H4  Ours: Taylor scores earn their cost, against magnitude and random removal and against a thinner network trained from
    scratch; and more of the answer than of its uncertainty is about the network, not about the seed.

Every answer is a value with a 95 % interval, held against a line that `Terms` draws: "supported" when the whole interval is
on the hypothesis' side, "not supported" when it is wholly on the other, "undecided" when the line is within it, the
runs that would tell are missing, or the unpruned network recognises nobody. Chance draws the line of H3: a rho is "supported"
when it is above the 95 % range of those of random removal, with a permutation p below `Terms.significance`, and "not supported" when its
whole interval does not. Intervals of error rates are over subjects. Verdicts are not corrected for their number: each answers
its own question, and of those that hang on chance alone some go wrong.

The tables hold intervals of each network, of its change from the unpruned one (`eer_change`), and of differences between two
pruned ones (differences.csv), the last two paired on the same subjects. Where a study has no differences.csv, they are
worked out from both networks' own intervals as if these were independent (Newcombe's square-and-add, 1998), which is rather
too wide: it leaves undecided what a paired one might decide. Where several seeds were run, their scatter is added the same way.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from facelib import layers as layer_analysis
from facelib.results import EVERY_PAIR, StudyTables, pair_name, row_name, size_name

SUPPORTED, NOT_SUPPORTED, UNDECIDED = "supported", "not supported", "undecided"
COLUMNS = ["network", "hypothesis", "key", "question", "stage", "pair", "template_size", "value", "low", "high", "unit", "verdict", "why"]
STATEMENTS = {
    "H1": "A substantial share of the filters can be removed with minimal loss.",
    "H2": "SqueezeNet can do with up to 40 % fewer filters and fewer than a million parameters without appreciable loss, templates "
          "hold longer than single images, and removing 10 to 15 % may even improve it.",
    "H3": "Layers with more output channels lose their filters first.",
    "H4": "Taylor scores earn their cost: better than magnitude or random removal at the same budget, and better than a thinner "
          "network trained from scratch."}


@dataclass(frozen=True)
class Terms:
    """Where the lines are drawn, before the data is seen.

    single, templates: largest rise of the EER that counts as minimal loss, fractions: two percentage points for single
        images and one for templates, whose errors are fewer. On faces as hard as CFP's frontal-profile pairs, two points are a
        tenth of the errors of single images; with some 80 test subjects, much less could not be told from none.
    substantial_pct: filters (%) that are a substantial share.
    claimed_pct: filters (%) that SqueezerFaceNet does without.
    recogniser: EER above which an unpruned network is no recogniser, half of what guessing makes: with little to lose, it cannot
        tell what pruning costs. Of single images of the pose pair that is easiest.
    parameters: below which a network counts as SqueezerFaceNet's size.
    improving_pct: filters removed (%) between which pruning may improve a network.
    layers_pct: filters removed (%), of the layers that are compared, at which they are: enough for differences, before most layers are thin.
    budgets_pct: filters removed (%) at which criteria are compared.
    significance: of permutation tests.
    """

    single: float = 0.02
    templates: float = 0.01
    substantial_pct: float = 20
    claimed_pct: float = 40
    recogniser: float = 0.25
    parameters: float = 1e6
    improving_pct: tuple[float, float] = (10, 15)
    layers_pct: float = 20
    budgets_pct: tuple[float, ...] = (20, 40, 60)
    significance: float = 0.05

    def margin(self, template_size: int) -> float:
        return self.single if template_size == 1 else self.templates


def verdicts(studies: Sequence[StudyTables], terms: Terms = Terms()) -> pd.DataFrame:
    """The answers to all hypotheses for all networks. Columns: COLUMNS; value, low and high in `unit`, NaN where unknown.

    Of a network that is no recogniser (see `Terms`), or whose single images were not tested, nothing is decided.
    Raises ValueError when there is no study.
    """
    if not studies:
        raise ValueError("no network to judge: expected results/PRESET/NETWORK/curve.csv, found none; run a study first")
    found = [test(study, terms) for test in (minimal_loss, squeezer, wide_layers_first, taylor_earns_its_cost) for study in studies]
    table = _table([row for table in found for row in table.to_dict("records")])
    for study in studies:
        least = least_eer(study)
        if not least <= terms.recogniser:
            found = "was not measured" if np.isnan(least) else f"is {100 * least:.1f} %, of {100 * terms.recogniser:g} % at most"
            known = "no recogniser" if least > terms.recogniser else "not known to be a recogniser"
            rows = table["network"] == study.network
            table.loc[rows, "verdict"] = UNDECIDED
            table.loc[rows, "why"] = f"the unpruned network is {known}: its lowest EER of single images {found}; " + table.loc[rows, "why"]
    return table


def shown(table: pd.DataFrame, hypothesis: str) -> pd.DataFrame:
    """One hypothesis' answers as people read them: network, question, where, found, verdict, why."""
    rows = headlines(table[table["hypothesis"] == hypothesis])
    where = [", ".join([row.stage] * bool(row.stage) + [size_name(row.template_size)] * bool(row.template_size))
             for row in rows.itertuples()]
    table = pd.DataFrame({"network": rows["network"], "question": rows["question"], "where": where,
                         "found": [statement(row) for row in rows.itertuples()], "verdict": rows["verdict"], "why": rows["why"]})
    return table.reset_index(drop=True)


def headlines(table: pd.DataFrame) -> pd.DataFrame:
    """The answers without those for single pose pairs."""
    return table[table["pair"].isin(["", EVERY_PAIR])]


def statement(answer) -> str:
    """An answer's value and interval as text; answer: a row of `verdicts` as a named tuple."""
    if pd.isna(answer.value):
        return "–"
    digits = 2 if answer.unit in ("rho", "million parameters", "share") else 1
    text = f"{answer.value:.{digits}f}"
    if pd.notna(answer.low) and pd.notna(answer.high):
        text += f" ({interval_text(answer.low, answer.high, digits)})"
    return text.replace("-", "−") + {"points": " points", "% of filters": " %", "million parameters": " M"}.get(answer.unit, "")


def interval_text(low: float, high: float, digits: int) -> str:
    """An interval's ends; an infinite one is open: no loss was shown, as far as anybody looked."""
    return " to ".join(f"{end:.{digits}f}" if np.isfinite(end) else "open" for end in (low, high))

# ------------------------------------------------------------------------------------------------------------- changes


def changes(curve: pd.DataFrame) -> pd.DataFrame:
    """Change of the EER from the unpruned network's, a fraction, of every evaluated network: mean over its seeds.

    One row per criterion, stage, protocol, pair, template size and step (after the first); columns seeds, spread (standard deviation
    of the seeds, NaN for one), filters_removed_pct, parameters, value, ci_low, ci_high. Template sizes that were measured at
    few of the steps are left out. Where the table lacks
    `eer_change`, values are differences of EERs, and intervals, being unpaired, are left out (NaN).
    """
    lines = ["protocol", "pair", "template_size"]
    rows = curve[curve["metric"] == "eer_change"]
    if rows.empty:
        rows = curve[curve["metric"] == "eer"]
        unpruned = rows[(rows["stage"] == "pruned") & (rows["step"] == 0)].drop_duplicates(lines)
        rows = rows.merge(unpruned[[*lines, "value"]].rename(columns={"value": "unpruned"}), on=lines)
        rows = rows.assign(value=rows["value"] - rows["unpruned"], ci_low=np.nan, ci_high=np.nan)
    rows = rows[rows["step"] > 0]
    steps = rows.groupby("template_size")["step"].nunique()
    rows = rows[rows["template_size"].isin(steps.index[steps == steps.max()])]
    keys = ["criterion", "stage", *lines, "step"]
    found = rows.groupby(keys)
    table = found[["filters_removed_pct", "parameters", "value"]].mean()
    known = found["ci_low"].count() == found.size()  # where a seed has no interval, the mean has none
    table[["ci_low", "ci_high"]] = found[["ci_low", "ci_high"]].mean().where(known)
    table["seeds"], table["spread"] = found["seed"].nunique(), found["value"].std()
    complete = table["seeds"] == table.groupby(keys[:-1])["seeds"].transform("max")
    return table[complete].reset_index()


def share_held(line: pd.DataFrame, margin: float) -> tuple[float, float, float]:
    """Filters removed (%) up to which no step's EER rises by more than the margin: by its value; by its interval's upper end
    (held for sure); and the first share at which, by its interval's lower end, a loss is shown: infinite when at none.

    line: rows of `changes`, one per step. Ends are NaN where the table has no intervals. Returns value, low, high.
    """
    line = line.sort_values("filters_removed_pct")
    shares, found = line["filters_removed_pct"], []
    for column in ("value", "ci_high"):
        held = (line[column] <= margin).cummin()
        found.append(np.nan if line[column].isna().any() else float(shares[held].max()) if held.any() else 0.0)
    lost = shares[line["ci_low"] > margin]
    found.append(np.nan if line["ci_low"].isna().any() else float(lost.min()) if len(lost) else np.inf)
    return tuple(found)

# ---------------------------------------------------------------------------------------------------------- hypotheses


def minimal_loss(study: StudyTables, terms: Terms = Terms()) -> pd.DataFrame:
    """H1: the largest share of filters removed up to which every evaluated network's EER is within the margin.

    For pruned and for fine-tuned networks, each pose pair and template size, and for all pose pairs together, where the
    pair that gives way first decides. Supported when the share held for sure is substantial.
    """
    question = f"at least {terms.substantial_pct:g} % of the filters removed, EER not more than the margin higher"
    rows = []
    for stage in ("pruned", "fine-tuned"):
        held = _shares_held(study, stage, terms)
        if held.empty:
            rows.append(_missing(study, "H1 share", question, f"no network of stage {stage}", stage))
        for line in held.itertuples():
            verdict = _verdict_of_share(line.low, line.high, terms.substantial_pct)
            rows.append(_row(study, "H1 share", question, line.value, line.low, line.high, "% of filters", verdict,
                             _why_held(line, terms), stage, line.pair, line.template_size))
    return _table(rows)


def squeezer(study: StudyTables, terms: Terms = Terms()) -> pd.DataFrame:
    """H2, about SqueezeNet alone: empty for other networks.

    Fewer than a million parameters, and 40 % of the filters, within the margin on every pose pair; templates of the largest size
    against single images, each by its own margin; and the EER with 10 to 15 % of the filters removed against the control
    that trained as long with all of them (mean over pose pairs; the ends of the pairs' intervals are averaged, as if the
    same subjects were hard on all).
    """
    if study.network != "squeezenet":
        return _table([])
    rows = []
    size = f"fewer than {terms.parameters / 1e6:g} million parameters, EER not more than the margin higher"
    share = f"{terms.claimed_pct:g} % of the filters removed, EER not more than the margin higher"
    longer = "templates hold for a larger share removed than single images"
    for stage in ("pruned", "fine-tuned"):
        held = _shares_held(study, stage, terms)
        held = held[held["pair"] == EVERY_PAIR] if len(held) else held
        if held.empty:
            rows += [_missing(study, name, question, f"no network of stage {stage}", stage)
                     for name, question in (("H2 parameters", size), ("H2 share", share), ("H2 templates", longer))]
            continue
        for line in held.itertuples():
            value, most, fewest = (_parameters_at(study, stage, pct) / 1e6 for pct in (line.value, line.low, line.high))
            rows.append(_row(study, "H2 parameters", size, value, fewest, most, "million parameters",
                             _verdict(-most, -fewest, -terms.parameters / 1e6, strictly=True), _why_held(line, terms), stage, EVERY_PAIR,
                             line.template_size))
            rows.append(_row(study, "H2 share", share, line.value, line.low, line.high, "% of filters",
                             _verdict_of_share(line.low, line.high, terms.claimed_pct), _why_held(line, terms), stage, EVERY_PAIR,
                             line.template_size))
        rows.append(_templates_against_singles(study, longer, stage, held.set_index("template_size"), terms))
    return _table(rows + _improvement(study, terms))


def wide_layers_first(study: StudyTables, terms: Terms = Terms(), permutations: int = 9999, resamples: int = 2000) -> pd.DataFrame:
    """H3: Spearman's rho of a layer's width and the share of its filters removed, at `terms.layers_pct` of the filters of the
    layers that are compared.

    Coupled layers count once where layers.csv has the column `coupling` (an integer; layers with the same one lose the
    same filters). Supported when rho exceeds all that 97.5 % of networks reach by chance and the permutation test is
    significant; not supported when rho's interval (Bonett and Wright, 2000, over layers) stays within chance; also with depth
    and kind of layer held constant, and without the descriptor layer; with it, not where `keep_descriptor` kept it whole, since chance
    would take filters from it. Last, rho less that of the random and the magnitude
    arm at the same budget; its interval resamples layers, the same ones for both.
    """
    rows = []
    main = study.layers[study.layers["stage"] == "pruned"]
    kept = study.manifest.get("config", {}).get("parameters", {}).get("keep_descriptor", False)
    for about, alone, table in (("", "", main),
                                (", without the descriptor layer", "-no-descriptor", layer_analysis.without_descriptor(main))):
        step = _nearest_step(table, terms.layers_pct)
        whole = kept and table is main
        found = None if step is None or whole else layer_analysis.width_effect(table, step, permutations)
        questions = {"simple": f"wide layers lose a larger share of their filters{about}",
                     "partial": f"wide layers lose a larger share, with depth and kind of layer held constant{about}"}
        for kind, question in questions.items():
            name = f"H3 width-{kind}{alone}"
            if found is None:
                why = "keep_descriptor kept the descriptor layer whole" if whole else "no filters removed in layers.csv"
                rows.append(_missing(study, name, question, why, "pruned"))
                continue
            rows.append(_of_association(study, name, question, found, kind, "coupling" in table.columns, terms))
    for arm in ("random", "magnitude"):
        rows.append(_against_arm(study, arm, terms, resamples))
    return _table(rows)


def taylor_earns_its_cost(study: StudyTables, terms: Terms = Terms()) -> pd.DataFrame:
    """H4: EER of the Taylor arm less that of the other at the same step, mean over pose pairs, for every budget.

    Supported when it is below 0 with its whole interval, which holds the seeds' scatter where several were run. From
    scratch: the fine-tuned network less one of the same shape that was trained from random weights. Seed noise:
    variance over the Taylor arm's seeds as a share of that and the variance over subjects together; its interval is the
    seeds' (chi-square); supported when it is below one half.
    """
    rows = []
    curve = _arms(study)
    taylor = _taylor(study)
    for other in ("random", "magnitude"):
        for budget in terms.budgets_pct:
            question = f"Taylor's EER is below that of {other} removal at {budget:g} % of the filters removed"
            rows += _compare_at(study, f"H4 {other}-{budget:g}", question, curve, (taylor, "pruned"), (other, "pruned"), budget)
    rows += _seed_noise(study, curve, taylor, terms)
    main = changes(study.curve)
    question = "fine-tuned after pruning, the EER is below that of the same shape trained from scratch"
    scratch = main[main["stage"] == "from-scratch"]
    criterion = _taylor(study)
    for pct in scratch.groupby("step")["filters_removed_pct"].mean():
        rows += _compare_at(study, f"H4 scratch-{pct:.0f}", f"{question}, {pct:.0f} % removed", main, (criterion, "fine-tuned"),
                            (criterion, "from-scratch"), pct)
    if scratch.empty:
        rows.append(_missing(study, f"H4 scratch-{terms.claimed_pct:g}", question, "no network of stage from-scratch", "fine-tuned"))
    return _table(rows)

# --------------------------------------------------------------------------------------------------------------- rows


def _table(rows: list[dict]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=COLUMNS)


def _row(study, name, question, value, low, high, unit, verdict, why, stage="", pair="", template_size=0) -> dict:
    """name: the hypothesis and the question's key in it, as "H1 share". template_size 0: not about templates."""
    hypothesis, key = name.split()
    return {"network": study.network, "hypothesis": hypothesis, "key": key, "question": question, "stage": stage, "pair": pair,
            "template_size": template_size, "value": value, "low": low, "high": high, "unit": unit, "verdict": verdict, "why": why}


def _missing(study, name, question, what, stage="") -> dict:
    return _row(study, name, question, *[np.nan] * 3, "", UNDECIDED, f"not run: {what}", stage)


def least_eer(study: StudyTables) -> float:
    """The unpruned network's EER of single images on the pose pair that is easiest, a fraction; NaN where curve.csv has none."""
    curve = study.curve
    return curve.loc[(curve["metric"] == "eer") & (curve["stage"] == "pruned") & (curve["step"] == 0)
                     & (curve["protocol"] == "pose_pairs") & (curve["template_size"] == 1), "value"].min()


def _verdict(low: float, high: float, line: float, strictly: bool = False) -> str:
    """Is a value with this interval at or above the line (`strictly`: above it)?"""
    if np.isnan(low) or np.isnan(high):
        return UNDECIDED
    if low > line or (low == line and not strictly):
        return SUPPORTED
    return NOT_SUPPORTED if high < line or (high == line and strictly) else UNDECIDED


def _verdict_of_share(held: float, lost: float, line: float) -> str:
    """Is the share (%) that holds for sure at least the line, or is a loss shown at the line already? Shares are of whole
    filters: half a percent is no difference."""
    if np.isnan(held) or np.isnan(lost):
        return UNDECIDED
    return SUPPORTED if held >= line - 0.5 else NOT_SUPPORTED if lost <= line + 0.5 else UNDECIDED


def _changes(study: StudyTables) -> pd.DataFrame:
    """`changes` of the main run. Fine-tuned networks are held against the unpruned one that was fine-tuned as long, where there
    is one, so that the benefit of training longer is not taken for one of pruning."""
    found = changes(study.curve)
    tuned = study.differences[(study.differences[["stage", "other_stage"]] == "fine-tuned").all(axis=1)
                              & (study.differences["pair"] != EVERY_PAIR)]
    if tuned.empty:
        return found.assign(against="unpruned")
    keys = ["criterion", "stage", "protocol", "pair", "template_size", "step"]
    found = found.merge(tuned[[*keys, "value", "ci_low", "ci_high"]], on=keys, how="left", suffixes=("", "_tuned"))
    replaced = found["value_tuned"].notna()
    for column in ("value", "ci_low", "ci_high"):
        found[column] = found[column].mask(replaced, found.pop(f"{column}_tuned"))
    return found.assign(against=np.where(replaced, "unpruned, fine-tuned as long", "unpruned"))


def _shares_held(study: StudyTables, stage: str, terms: Terms) -> pd.DataFrame:
    """`share_held` of every line of a stage, and of all pose pairs together; columns template_size, pair, value, low, high,
    last, the largest share evaluated, steps, their number, and against, what the networks are held against."""
    found = _changes(study)
    found = found[(found["stage"] == stage) & (found["filters_removed_pct"] > 0)]
    rows = []
    for (protocol, size, pair), line in found.groupby(["protocol", "template_size", "pair"]):
        value, low, high = share_held(line, terms.margin(size))
        rows.append({"template_size": size, "pair": pair_name(protocol, pair), "value": value, "low": low, "high": high,
                     "last": line["filters_removed_pct"].max(), "steps": len(line), "poses": protocol == "pose_pairs",
                     "against": line["against"].iloc[0]})
    table = pd.DataFrame(rows, columns=["template_size", "pair", "value", "low", "high", "last", "steps", "poses", "against"])
    worst = table[table["poses"].astype(bool)].groupby(["template_size", "against"], as_index=False)[
        ["value", "low", "high", "last", "steps"]].agg(lambda column: column.min(skipna=False))
    return pd.concat([worst.assign(pair=EVERY_PAIR), table.drop(columns="poses")], ignore_index=True)


def _why_held(line, terms: Terms) -> str:
    margin = f"margin {100 * terms.margin(line.template_size):g} points over the network {line.against}"
    if np.isnan(line.low):
        return f"{margin}; no paired intervals of the change in curve.csv"
    return (f"{margin}; within it for sure up to {line.low:.0f} %, shown to be beyond it "
            + (f"at {line.high:.0f} %" if np.isfinite(line.high) else f"nowhere up to {line.last:.0f} %, the last")
            + f"; {line.steps} shares evaluated")


def _parameters_at(study: StudyTables, stage: str, pct: float) -> float:
    """Parameters with `pct` percent of the filters removed, an evaluated share (or 0, or NaN)."""
    rows = study.curve[study.curve["stage"].isin([stage, "pruned"])].drop_duplicates("filters_removed_pct")
    if not np.isfinite(pct):
        return -np.inf if pct > 0 else np.nan  # nothing says how few would be too few
    return float(rows.loc[(rows["filters_removed_pct"] - pct).abs().idxmin(), "parameters"])


def _templates_against_singles(study: StudyTables, question: str, stage: str, held: pd.DataFrame, terms: Terms) -> dict:
    largest = held.index.max()
    if 1 not in held.index or largest == 1:
        return _missing(study, "H2 templates", question, "single images and templates are needed", stage)
    single, templates = held.loc[1], held.loc[largest]
    value = templates["value"] - single["value"]
    low, high = templates["low"] - single["high"], templates["high"] - single["low"]
    # where a loss is shown, the share held is smaller: ends that meet decide
    verdict = UNDECIDED if np.isnan([low, high]).any() else SUPPORTED if low >= 0 else NOT_SUPPORTED if high <= 0 else UNDECIDED
    why = (f"templates of up to {largest} hold up to {templates['value']:.0f} % (margin {100 * terms.templates:g} points), single "
           f"images up to {single['value']:.0f} % (margin {100 * terms.single:g} points)")
    return _row(study, "H2 templates", question, value, low, high, "% of filters", verdict, why, stage, EVERY_PAIR, largest)


def _improvement(study: StudyTables, terms: Terms) -> list[dict]:
    curve = _arms(study)
    low, high = terms.improving_pct
    question = f"removing {low:g} to {high:g} % of the filters lowers the EER below the control's, trained as long"
    taylor = _taylor(study)
    shares = curve[(curve["criterion"] == taylor) & (curve["stage"] == "pruned")].groupby("step")["filters_removed_pct"].mean()
    shares = shares[shares.between(low - 0.5, high + 0.5)]
    rows = [row for pct in shares for row in _compare_at(study, "H2 improvement", f"{question}: at {pct:.0f} %", curve, (taylor, "pruned"),
                                                         ("none", "control"), pct)]
    return rows or [_missing(study, "H2 improvement", question, "no arm evaluated there", "pruned")]


def _arms(study: StudyTables) -> pd.DataFrame:
    """`changes` of the arms, with paired intervals where the table has them, else with none."""
    return changes(study.arms)


def _taylor(study: StudyTables) -> str:
    """The study's criterion; where that is no Taylor score, the first that its arms have."""
    pruned = [table.loc[table["stage"] == "pruned", "criterion"] for table in (study.curve, study.arms)]
    criteria = [criterion for criterion in pd.concat(pruned).unique() if str(criterion).startswith("taylor")]
    return criteria[0] if criteria else "taylor_weight"


def _compare_at(study, name, question, found, one: tuple[str, str], other: tuple[str, str], pct: float) -> list[dict]:
    """A row per template size: EER of one (criterion, stage) less that of the other at the step nearest to `pct`."""
    arms = [found[(found["criterion"] == criterion) & (found["stage"] == stage) & (found["protocol"] == "pose_pairs")]
            for criterion, stage in (one, other)]
    for (criterion, stage), arm in zip((one, other), arms):
        if arm.empty:
            what = "control arm" if stage == "control" else f"{criterion} arm" if stage == "pruned" else f"network of stage {stage}"
            return [_missing(study, name, question, f"no {what}", one[1])]
    shares = arms[0].groupby("step")["filters_removed_pct"].mean()
    step = (shares - pct).abs().idxmin()
    if abs(shares[step] - pct) > 5 or step not in set(arms[1]["step"]):
        return [_missing(study, name, question, f"no network near {pct:g} % of the filters removed in both", one[1])]
    rows = []
    a, b = (arm[arm["step"] == step].set_index(["template_size", "pair"]) for arm in arms)
    asked = {"criterion": one[0], "stage": one[1], "other_criterion": other[0], "other_stage": other[1], "step": step,
             "other_step": step, "pair": EVERY_PAIR}
    paired = study.differences[(study.differences[list(asked)] == pd.Series(asked)).all(axis=1)].dropna(subset="ci_low")
    for size in sorted(set(a.index.get_level_values(0)) & set(b.index.get_level_values(0))):
        here = paired[paired["template_size"] == size]
        value, low, high = difference(a.loc[size], b.loc[size]) if here.empty else paired_difference(here)
        seeds = f"{a.loc[size, 'seeds'].max():.0f} and {b.loc[size, 'seeds'].max():.0f} seed(s)"
        why = (f"at {shares[step]:.1f} % removed, {row_name(EVERY_PAIR, size)}, mean; {seeds}; "
               + ("no paired intervals of the change" if np.isnan(low) else "interval: " +
                  ("the two networks' own, squared and added" if here.empty else "paired on the same subjects")))
        rows.append(_row(study, name, question, 100 * value, 100 * low, 100 * high, "points",
                         _verdict(-high, -low, 0, strictly=True), why, one[1], EVERY_PAIR, size))
    return rows


def paired_difference(seeds: pd.DataFrame) -> tuple[float, float, float]:
    """Mean of one network's EER less the other's over the seeds of both, with its interval; seeds: rows of differences.csv.

    The intervals are averaged; the scatter of either network's seeds, the mean over the other's, counts as in `difference`.
    """
    value = seeds["value"].mean()
    means = [seeds.groupby(column)["value"].mean() for column in ("seed", "other_seed")]
    degrees = sum(len(of) - 1 for of in means)
    squares = sum(((of - of.mean()) ** 2).sum() for of in means)
    scatter = stats.t.ppf(0.975, degrees) ** 2 * squares / degrees * sum(1 / len(of) for of in means) if degrees else 0.0
    low, high = (np.sqrt((seeds["value"] - seeds[end]).mean() ** 2 + scatter) for end in ("ci_low", "ci_high"))
    return float(value), float(value - low), float(value + high)


def difference(a: pd.DataFrame, b: pd.DataFrame) -> tuple[float, float, float]:
    """Mean over pairs of a's value less b's, with its interval (see the module's docstring). a, b: rows of `changes` by pair.

    The pairs' intervals are averaged as if their errors went together. The seeds' scatter, pooled over a and b, counts with
    Student's t for as many seeds as tell of it; where none does, with one seed each, it does not count.
    """
    pairs = a.index.intersection(b.index)
    a, b = a.loc[pairs], b.loc[pairs]
    value = a["value"] - b["value"]
    degrees = (a["seeds"] - 1) + (b["seeds"] - 1)
    variance = (a["spread"].fillna(0) ** 2 * (a["seeds"] - 1) + b["spread"].fillna(0) ** 2 * (b["seeds"] - 1)) / degrees.where(degrees > 0)
    scatter = (stats.t.ppf(0.975, degrees.clip(lower=1)) ** 2 * variance * (1 / a["seeds"] + 1 / b["seeds"])).fillna(0)
    low = value - np.sqrt((a["value"] - a["ci_low"]) ** 2 + (b["ci_high"] - b["value"]) ** 2 + scatter)
    high = value + np.sqrt((a["ci_high"] - a["value"]) ** 2 + (b["value"] - b["ci_low"]) ** 2 + scatter)
    return float(value.mean()), float(low.mean(skipna=False)), float(high.mean(skipna=False))


def _seed_noise(study: StudyTables, found: pd.DataFrame, taylor: str, terms: Terms) -> list[dict]:
    question = "seed noise is less than half of the variance of the change in EER"
    arm = found[(found["criterion"] == taylor) & (found["stage"] == "pruned") & (found["protocol"] == "pose_pairs") & (found["seeds"] > 1)]
    if arm.empty:
        return [_missing(study, "H4 seeds", question, "no arm with several seeds", "pruned")]
    rows = []
    for size, of_size in arm.groupby("template_size"):
        seeds = int(of_size["seeds"].iloc[0])
        noise = (of_size["spread"] ** 2).mean()
        subjects = (((of_size["ci_high"] - of_size["ci_low"]) / (2 * stats.norm.ppf(0.975))) ** 2).mean(skipna=False)
        degrees = seeds - 1
        value, low, high = (part / (part + subjects) if part + subjects else np.nan for part in
                            (noise, *(noise * degrees / stats.chi2.ppf([0.975, 0.025], degrees))))
        why = (f"standard deviation over {seeds} seeds {100 * np.sqrt(noise):.2f} points, over subjects {100 * np.sqrt(subjects):.2f} "
               "points; mean over all steps and pose pairs, the interval as if they were one")
        rows.append(_row(study, "H4 seeds", question, value, low, high, "share", _verdict(-high, -low, -0.5, strictly=True), why, "pruned",
                         EVERY_PAIR, size))
    return rows

# -------------------------------------------------------------------------------------------------------- H3 in detail


def _nearest_step(table: pd.DataFrame, pct: float) -> int | None:
    """The step, after which any filters are gone, that is nearest to a share of them; None where none is."""
    if table.empty:
        return None
    removed = layer_analysis.removed_pct(layer_analysis.filters_left(table))
    removed = removed[removed > 0]
    return None if removed.empty else (removed - pct).abs().idxmin()


def _of_association(study, name, question, effect, kind: str, coupled: bool, terms: Terms) -> dict:
    found = getattr(effect, kind)
    controls = 0 if kind == "simple" else 1 + effect.shares["kind"].nunique() - 1
    low, high = rho_interval(found.rho, len(effect.shares), controls)
    if np.isnan(found.rho):
        verdict = UNDECIDED
    elif found.rho > found.chance_high and found.p_value < terms.significance:
        verdict = SUPPORTED
    else:
        verdict = NOT_SUPPORTED if high <= found.chance_high else UNDECIDED
    layers = "layers, coupled ones counted once" if coupled else "layers, each counted singly"
    why = (f"{len(effect.shares)} {layers}; {effect.removed_pct:.0f} % of their filters removed; "
           f"permutation p {found.p_value:.2g}; by chance {found.chance_low:.2f} to {found.chance_high:.2f}")
    if kind == "partial":
        why += f"; depth, with width and kind held constant: rho {effect.depth.rho:.2f}"
    return _row(study, name, question, found.rho, low, high, "rho", verdict, why, "pruned")


def rho_interval(rho: float, count: int, controls: int = 0) -> tuple[float, float]:
    """95 % interval of Spearman's rho of `count` layers, given some controls (Bonett and Wright, 2000); NaN for too few."""
    if np.isnan(rho) or count - 3 - controls < 1:
        return np.nan, np.nan
    half = stats.norm.ppf(0.975) * np.sqrt((1 + rho**2 / 2) / (count - 3 - controls))
    with np.errstate(divide="ignore"):
        return tuple(np.tanh(np.arctanh(np.clip(rho, -1, 1)) + np.array([-half, half])))


def _against_arm(study: StudyTables, arm: str, terms: Terms, resamples: int) -> dict:
    name, question = f"H3 width-{arm}", f"width decides more for Taylor than for {arm} removal at the same budget"
    table = study.arms_layers[study.arms_layers["stage"] == "pruned"]
    taylor = table[table["criterion"] == _taylor(study)]
    other = table[table["criterion"] == arm]
    step = _nearest_step(taylor, terms.layers_pct)
    if step is None or other.empty:
        return _missing(study, name, question, f"no {arm} arm" if other.empty else "no Taylor arm", "pruned")
    if step not in set(other["step"]):
        return _missing(study, name, question, f"no {arm} arm at step {step}", "pruned")
    shares = [layer_analysis.removed_share(layer_analysis.uncoupled(rows), step) for rows in (taylor, other)]
    width, removed = shares[0]["width"].to_numpy(), [share["removed"].to_numpy() for share in shares]
    rhos = [stats.spearmanr(width, share).statistic for share in removed]
    low, high = _resampled_difference(width, *removed, resamples)
    why = (f"rho {rhos[0]:.2f} ({taylor['seed'].nunique()} seed(s)) less {rhos[1]:.2f} ({other['seed'].nunique()} seed(s)), "
           f"{len(width)} layers, {resamples} resamples of them")
    return _row(study, name, question, rhos[0] - rhos[1], low, high, "rho", _verdict(low, high, 0, strictly=True), why, "pruned")


def _resampled_difference(width, removed, other, resamples: int, seed: int = 0) -> tuple[float, float]:
    """95 % interval of the difference of two rhos with width, over resamples of the layers."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(width), size=(resamples, len(width)))
    with warnings.catch_warnings():  # a resample may hold one width alone: NaN
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        rhos = [stats.spearmanrho(width[chosen], share[chosen], axis=1).statistic for share in (removed, other)]
    return tuple(np.nanquantile(rhos[0] - rhos[1], [0.025, 0.975]))

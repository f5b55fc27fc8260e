"""Verdicts follow from the tables by the stated rules: by hand, on made-up studies, and where runs are missing."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import made_up
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from facelib import comparison, hypotheses, layers
from facelib.hypotheses import EVERY_PAIR, NOT_SUPPORTED, SUPPORTED, UNDECIDED, Terms
from facelib.layers import Association
from facelib.results import CURVE, DIFFERENCES, LAYERS, StudyTables, load_studies

ROOT = Path(__file__).parents[1]


def curve_of(shares, changes, half=0.002, stage="pruned", pair="frontal-frontal", size=1, criterion="taylor_weight", seed=0):
    """Rows of eer_change, step = share removed in percent; the interval is the value and half to either side."""
    rows = [dict.fromkeys(CURVE, 0) | {
        "network": "squeezenet", "criterion": criterion, "seed": seed, "stage": stage, "step": share, "filters_removed_pct": float(share),
        "parameters": 1_240_000 - 10_000 * share, "protocol": "pose_pairs", "pair": pair, "template_size": size, "metric": "eer_change",
        "value": change, "ci_low": change - half, "ci_high": change + half} for share, change in zip(shares, changes)]
    return pd.DataFrame(rows)[CURVE]


def study_of(curve, arms=None, layer_table=None, arms_layers=None, network="squeezenet", differences=None):
    nothing = pd.DataFrame(columns=CURVE)
    no_layers = pd.DataFrame(columns=LAYERS)
    return StudyTables(network, curve, no_layers if layer_table is None else layer_table, nothing if arms is None else arms,
                       no_layers if arms_layers is None else arms_layers,
                       pd.DataFrame(columns=DIFFERENCES) if differences is None else differences, pd.DataFrame(), pd.DataFrame(), {})


def the_row(table, question="", **where):
    rows = table[table["question"].str.contains(question, regex=False)]
    for column, value in where.items():
        rows = rows[rows[column] == value]
    assert len(rows) == 1, rows
    return rows.iloc[0]

# -------------------------------------------------------------------------------------------------------------- shares


@pytest.mark.parametrize("changes, half, expected", [
    ([0.0, 0.01, 0.015, 0.03], 0.002, (30, 30, 40)),
    ([0.0, 0.01, 0.019, 0.03], 0.002, (30, 20, 40)),   # at 30 % the interval straddles the margin
    ([0.0, 0.01, 0.021, 0.03], 0.002, (20, 20, 40)),
    ([0.03, 0.0, 0.0, 0.0], 0.002, (0, 0, 10)),        # what fails once does not hold later
    ([0.0, 0.0, 0.0, 0.0], 0.002, (40, 40, np.inf))])  # no loss is shown anywhere
def test_share_held_by_hand(changes, half, expected):
    line = curve_of([10, 20, 30, 40], changes, half)
    assert hypotheses.share_held(line, 0.02) == expected


def test_share_held_has_no_ends_without_intervals():
    line = curve_of([10, 20], [0.0, 0.03]).assign(ci_low=np.nan, ci_high=np.nan)
    value, low, high = hypotheses.share_held(line, 0.02)
    assert value == 10 and np.isnan(low) and np.isnan(high)


@pytest.mark.parametrize("changes, verdict", [([0.0, 0.01, 0.03], SUPPORTED), ([0.0, 0.019, 0.03], UNDECIDED), ([0.03, 0.04, 0.05], NOT_SUPPORTED)])
def test_minimal_loss_by_the_first_pair_that_gives_way(changes, verdict):
    easy = curve_of([10, 20, 30], [0, 0, 0], pair="frontal-profile")
    table = hypotheses.minimal_loss(study_of(pd.concat([easy, curve_of([10, 20, 30], changes)])))
    assert the_row(table, stage="pruned", pair=EVERY_PAIR)["verdict"] == verdict
    assert the_row(table, stage="pruned", pair="frontal-profile")["verdict"] == SUPPORTED
    tuned = the_row(table, stage="fine-tuned")
    assert tuned["verdict"] == UNDECIDED and tuned["why"].startswith("not run")


@pytest.mark.parametrize("shares, changes, verdict", [
    ([5, 10, 15], [0, 0, 0], UNDECIDED),              # nobody looked at 20 %
    ([15, 30], [0, 0.05], UNDECIDED),                 # lost somewhere between
    ([10, 20, 25], [0, 0, 0.05], SUPPORTED),
    ([10, 19.9988, 25], [0, 0, 0.05], SUPPORTED),     # 20 % of 17,056 filters are 3,411.2
    ([10, 20, 25], [0, 0.05, 0.05], NOT_SUPPORTED)])
def test_what_was_not_evaluated_is_open(shares, changes, verdict):
    row = the_row(hypotheses.minimal_loss(study_of(curve_of(shares, changes))), pair=EVERY_PAIR, stage="pruned")
    assert row["verdict"] == verdict
    assert hypotheses.statement(row).endswith("to open) %") == (max(changes) == 0)


def test_fine_tuned_is_held_against_the_unpruned_network_fine_tuned_as_long():
    curve = pd.concat([curve_of([0, 20], [0.0, 0.0]), curve_of([0, 20], [-0.04, -0.01], stage="fine-tuned")])
    pairs = {"network": "squeezenet", "criterion": "taylor_weight", "seed": 0, "stage": "fine-tuned", "step": 20, "filters_removed_pct": 20.0,
             "other_criterion": "taylor_weight", "other_seed": 0, "other_stage": "fine-tuned", "other_step": 0, "protocol": "pose_pairs",
             "template_size": 1, "value": 0.03, "ci_low": 0.028, "ci_high": 0.032}
    differences = pd.DataFrame([pairs | {"pair": pair} for pair in ("frontal-frontal", EVERY_PAIR)])[DIFFERENCES]
    for known, verdict in ((None, SUPPORTED), (differences, NOT_SUPPORTED)):
        row = the_row(hypotheses.minimal_loss(study_of(curve, differences=known)), pair=EVERY_PAIR, stage="fine-tuned")
        assert row["verdict"] == verdict and ("fine-tuned as long" in row["why"]) == (known is not None)


def test_the_margin_is_the_callers():
    study = study_of(curve_of([20], [0.03]))
    assert the_row(hypotheses.minimal_loss(study), pair=EVERY_PAIR, stage="pruned")["verdict"] == NOT_SUPPORTED
    assert the_row(hypotheses.minimal_loss(study, Terms(single=0.04)), pair=EVERY_PAIR, stage="pruned")["verdict"] == SUPPORTED


@pytest.mark.parametrize("easiest, verdict", [(0.24, SUPPORTED), (0.26, UNDECIDED)])
def test_nothing_is_decided_of_a_network_that_recognises_nobody(easiest, verdict):
    unpruned = curve_of([0, 0], [easiest, 0.45]).assign(metric="eer", pair=["frontal-frontal", "frontal-profile"])
    table = hypotheses.verdicts([study_of(pd.concat([unpruned, curve_of([0, 20], [0.0, 0.0])]))])
    row = the_row(table, stage="pruned", pair=EVERY_PAIR, key="share", hypothesis="H1")
    assert row["verdict"] == verdict and row["why"].startswith("the unpruned network is no recogniser: its lowest EER") == (easiest > 0.25)
    if easiest > 0.25:
        assert set(table["verdict"]) == {UNDECIDED}


def test_nothing_is_decided_where_no_single_images_tell_a_recogniser():
    unpruned = curve_of([0], [0.01], size=5).assign(metric="eer")
    table = hypotheses.verdicts([study_of(pd.concat([unpruned, curve_of([0, 20], [0.0, 0.0], size=5)]))])
    assert set(table["verdict"]) == {UNDECIDED} and table["why"].str.startswith("the unpruned network is not known to be a recogniser").all()


def test_templates_have_the_narrower_margin():
    curve = pd.concat([curve_of([20], [0.015], size=size) for size in (1, 5)])
    table = hypotheses.minimal_loss(study_of(curve))
    assert the_row(table, pair=EVERY_PAIR, stage="pruned", template_size=1)["verdict"] == SUPPORTED
    assert the_row(table, pair=EVERY_PAIR, stage="pruned", template_size=5)["verdict"] == NOT_SUPPORTED

# ------------------------------------------------------------------------------------------------------- SqueezerFaceNet


def test_a_million_parameters_and_templates_against_singles():
    single = curve_of([10, 20, 30, 40], [0, 0.03, 0.04, 0.05])
    templates = curve_of([10, 20, 30, 40], [0, 0, 0, 0.03], size=5)
    table = hypotheses.squeezer(study_of(pd.concat([single, templates])))
    fewer = the_row(table, "fewer than", stage="pruned", template_size=5)
    assert fewer["value"] == pytest.approx(0.94) and fewer["verdict"] == SUPPORTED
    assert the_row(table, "fewer than", stage="pruned", template_size=1)["verdict"] == NOT_SUPPORTED, "1.14 million left at 10 %"
    longer = the_row(table, "templates hold", stage="pruned")
    assert (longer["value"], longer["low"], longer["high"], longer["verdict"]) == (20, 10, 30, SUPPORTED)
    assert the_row(table, "40 %", stage="pruned", template_size=5)["verdict"] == NOT_SUPPORTED


def test_other_networks_are_not_squeezer_face_net():
    assert hypotheses.squeezer(study_of(curve_of([10], [0]), network="resnet50")).empty


def test_improvement_is_held_against_the_control():
    steps = [10, 15, 20]
    control = curve_of(steps, [-0.02] * 3, stage="control", criterion="none").assign(filters_removed_pct=0.0)
    for change, verdict in ((-0.03, SUPPORTED), (-0.02, UNDECIDED), (-0.01, NOT_SUPPORTED)):
        arms = pd.concat([curve_of(steps, [change] * 3), control])
        table = hypotheses.squeezer(study_of(curve_of(steps, [0] * 3), arms))
        for share in (10, 15):
            row = the_row(table, f"at {share} %", template_size=1)
            assert row["verdict"] == verdict and row["value"] == pytest.approx(100 * (change + 0.02))

# --------------------------------------------------------------------------------------------------------------- arms


def test_difference_is_newcombes_by_hand():
    a, b = (hypotheses.changes(curve_of([20], [value], half)).set_index("pair") for value, half in ((0.03, 0.003), (0.05, 0.004)))
    assert hypotheses.difference(a, b) == pytest.approx((-0.02, -0.025, -0.015))
    b = b.assign(ci_low=0.047, ci_high=0.058)  # the end of b that is far from a's counts
    assert hypotheses.difference(a, b) == pytest.approx((-0.02, -0.02 - np.hypot(0.003, 0.008), -0.02 + np.hypot(0.003, 0.003)))


def test_seeds_scatter_widens_the_difference():
    seeds = pd.concat([curve_of([20], [value], 0.0, seed=seed) for seed, value in enumerate([0.02, 0.03, 0.04])])
    a = hypotheses.changes(seeds).set_index("pair")
    b = hypotheses.changes(curve_of([20], [0.05], 0.0, criterion="random")).set_index("pair")
    value, low, high = hypotheses.difference(a, b)
    half = stats.t.ppf(0.975, 2) * 0.01 * np.sqrt(1 / 3 + 1)
    assert (value, low, high) == pytest.approx((-0.02, -0.02 - half, -0.02 + half))


def test_paired_differences_decide_what_independent_ones_leave_open():
    arms = pd.concat([curve_of([20], [0.010], 0.02), curve_of([20], [0.018], 0.02, criterion="random")])
    paired = pd.DataFrame([{"network": "squeezenet", "criterion": "taylor_weight", "seed": 0, "stage": "pruned", "step": 20,
                            "filters_removed_pct": 20.0, "other_criterion": "random", "other_seed": 0, "other_stage": "pruned",
                            "other_step": 20, "protocol": "pose_pairs", "pair": EVERY_PAIR, "template_size": 1, "value": -0.008,
                            "ci_low": -0.012, "ci_high": -0.003}])[DIFFERENCES]
    for differences, expected in ((None, UNDECIDED), (paired, SUPPORTED), (paired.assign(ci_low=np.nan, ci_high=np.nan), UNDECIDED),
                                  (paired.assign(step=40, other_step=40), UNDECIDED), (paired.assign(other_criterion="magnitude"), UNDECIDED)):
        table = hypotheses.taylor_earns_its_cost(study_of(curve_of([20], [0]), arms, differences=differences))
        row = the_row(table, "random removal at 20 %")
        assert row["verdict"] == expected and row["value"] == pytest.approx(-0.8)
        assert ("paired on the same subjects" in row["why"]) == (expected == SUPPORTED)


def test_seeds_scatter_widens_a_paired_difference():
    seeds = pd.DataFrame({"seed": [0, 1, 2], "other_seed": 0, "value": [-0.02, -0.03, -0.04], "ci_low": [-0.025, -0.035, -0.045],
                          "ci_high": [-0.017, -0.027, -0.037]})
    scatter = (stats.t.ppf(0.975, 2) * 0.01) ** 2 * (1 / 3 + 1)
    expected = -0.03, -0.03 - np.sqrt(0.005**2 + scatter), -0.03 + np.sqrt(0.003**2 + scatter)
    assert hypotheses.paired_difference(seeds) == pytest.approx(expected)
    assert hypotheses.paired_difference(seeds[:1]) == pytest.approx((-0.02, -0.025, -0.017))
    # one's seeds do not scatter, the other's do: each of both is paired with each
    both = pd.DataFrame({"seed": [0, 0, 1, 1], "other_seed": [0, 1, 0, 1], "value": [0.01, 0.03] * 2, "ci_low": [0.009, 0.029] * 2,
                         "ci_high": [0.011, 0.031] * 2})
    half = np.sqrt(0.001**2 + stats.t.ppf(0.975, 2) ** 2 * 0.0002 / 2 * (1 / 2 + 1 / 2))
    assert hypotheses.paired_difference(both) == pytest.approx((0.02, 0.02 - half, 0.02 + half))


def test_of_several_taylor_arms_the_studys_own_counts():
    arms = pd.concat([curve_of([20], [0.05], criterion="taylor_activation"), curve_of([20], [0.0]), curve_of([20], [0.02], criterion="random")])
    layer_tables = pd.concat([layers_of([8, 16, 32, 64], left, criterion=criterion) for criterion, left in (
        ("taylor_activation", [1, 8, 16, 32]), ("taylor_weight", [8, 14, 20, 30]), ("random", [7, 10, 24, 48]))])
    study = study_of(curve_of([20], [0]), arms, layers_of([8, 16, 32, 64], [8, 14, 20, 30]), layer_tables)
    assert the_row(hypotheses.taylor_earns_its_cost(study), "random removal at 20 %")["verdict"] == SUPPORTED
    assert the_row(hypotheses.wide_layers_first(study), "than for random")["why"].startswith("rho 1.00 (1 seed(s))")


def test_taylor_against_the_others_at_equal_budget():
    steps = [20, 40, 60]
    arms = pd.concat([curve_of(steps, [0.0, 0.01, 0.02]), curve_of(steps, [0.0, 0.03, 0.01], criterion="random")])
    table = hypotheses.taylor_earns_its_cost(study_of(curve_of(steps, [0] * 3), arms))
    found = [the_row(table, f"random removal at {share} %")["verdict"] for share in steps]
    assert found == [UNDECIDED, SUPPORTED, NOT_SUPPORTED]
    missing = table[table["question"].str.contains("magnitude")]
    assert set(missing["verdict"]) == {UNDECIDED} and missing["why"].str.startswith("not run: no magnitude arm").all()


def test_from_scratch_is_compared_where_it_was_run():
    curve = pd.concat([curve_of([20], [0.01]), curve_of([20], [0.0], stage="fine-tuned"), curve_of([20], [0.05], stage="from-scratch")])
    row = the_row(hypotheses.taylor_earns_its_cost(study_of(curve)), "from scratch")
    assert row["verdict"] == SUPPORTED and row["value"] == pytest.approx(-5)


@pytest.mark.parametrize("scatter, half, verdict", [(1e-5, 0.01, SUPPORTED), (0.05, 0.001, NOT_SUPPORTED)])
def test_share_of_seed_noise(scatter, half, verdict):
    arms = pd.concat([curve_of([20], [0.01 + scatter * seed], half, seed=seed) for seed in range(3)])
    row = the_row(hypotheses.taylor_earns_its_cost(study_of(curve_of([20], [0]), arms)), "seed noise")
    subjects = (2 * half / (2 * stats.norm.ppf(0.975))) ** 2
    assert row["value"] == pytest.approx(scatter**2 / (scatter**2 + subjects)) and row["verdict"] == verdict
    ends = [scatter**2 * 2 / chi2 for chi2 in (7.377759, 0.050636)]  # its 97.5 and 2.5 % points for two degrees of freedom
    assert (row["low"], row["high"]) == pytest.approx([noise / (noise + subjects) for noise in ends], rel=1e-4)

# -------------------------------------------------------------------------------------------------------------- layers


def layers_of(widths, left, coupling=None, criterion="taylor_weight", kinds=None):
    rows = [{"network": "squeezenet", "criterion": criterion, "seed": 0, "stage": "pruned", "step": step, "layer": f"layer{depth}",
             "kind": kinds[depth] if kinds else "conv", "depth": depth, "out_channels_original": width, "out_channels": count}
            for step, counts in enumerate([widths, left]) for depth, (width, count) in enumerate(zip(widths, counts))]
    table = pd.DataFrame(rows)
    return table if coupling is None else table.assign(coupling=coupling * 2)


WIDTHS = [16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1000]


@pytest.mark.parametrize("rho, p_value, verdict", [(0.5, 0.01, SUPPORTED), (0.5, 0.2, UNDECIDED), (0.2, 0.01, UNDECIDED), (-0.5, 0.01, NOT_SUPPORTED)])
def test_the_rule_for_width_by_hand(rho, p_value, verdict):
    """Chance reaches 0.3; of 30 layers, rho's interval is about 0.3 to either side."""
    found, shares = Association(rho, p_value, -0.3, 0.3), pd.DataFrame({"kind": ["conv", "linear"] * 15})
    effect = SimpleNamespace(simple=found, partial=found, depth=found, shares=shares, removed_pct=20.0)
    for kind, controls in (("simple", 0), ("partial", 2)):  # depth, and one of two kinds
        row = hypotheses._of_association(study_of(curve_of([20], [0])), f"H3 width-{kind}", "?", effect, kind, False, Terms())
        half = 1.959964 * np.sqrt((1 + rho**2 / 2) / (30 - 3 - controls))
        assert row["verdict"] == verdict
        assert (row["low"], row["high"]) == pytest.approx((np.tanh(np.arctanh(rho) - half), np.tanh(np.arctanh(rho) + half)), rel=1e-6)


@pytest.mark.parametrize("taylor, other, verdict", [(-0.02, 0.02, SUPPORTED), (0.02, -0.02, NOT_SUPPORTED)])
def test_width_decides_more_for_one_arm_than_for_the_other(taylor, other, verdict):
    arms = pd.concat([layers_of(WIDTHS, [round(w * (0.7 + slope * place)) for place, w in enumerate(WIDTHS)], criterion=criterion)
                      for criterion, slope in (("taylor_weight", taylor), ("random", other))])
    row = the_row(hypotheses.wide_layers_first(study_of(curve_of([20], [0]), arms_layers=arms), resamples=200), "than for random")
    assert row["verdict"] == verdict and row["low"] <= row["value"] <= row["high"] and abs(row["value"]) > 1.9


def test_wide_layers_first_where_they_are_and_where_they_are_not():
    wide_first = layers_of(WIDTHS, [round(w * (1 - 0.02 * place)) for place, w in enumerate(WIDTHS)])
    narrow_first = layers_of(WIDTHS, [round(w * (0.7 + 0.02 * place)) for place, w in enumerate(WIDTHS)])
    for table, verdict in ((wide_first, SUPPORTED), (narrow_first, NOT_SUPPORTED)):
        found = hypotheses.wide_layers_first(study_of(curve_of([20], [0]), layer_table=table), permutations=499)
        simple = found[found["question"].str.startswith("wide layers lose a larger share of their filters")]
        assert len(simple) == 2 and set(simple["verdict"]) == {verdict}
        assert the_row(found, "random")["why"].startswith("not run")


def test_an_effect_of_the_descriptor_layer_alone_vanishes_without_it():
    table = layers_of(WIDTHS, [round(w * 0.88) for w in WIDTHS[:-1]] + [300])
    found = hypotheses.wide_layers_first(study_of(curve_of([20], [0]), layer_table=table), permutations=499)
    assert the_row(found, "their filters, without the descriptor layer")["verdict"] != SUPPORTED


def test_a_descriptor_layer_kept_whole_is_no_evidence_against_width():
    """The widest layer, which may lose nothing, would turn a perfect rho of the others' into a weak one."""
    table = layers_of(WIDTHS, [round(w * (1 - 0.02 * place)) for place, w in enumerate(WIDTHS[:-1])] + WIDTHS[-1:])
    study = study_of(curve_of([20], [0]), layer_table=table)
    kept = replace(study, manifest={"config": {"parameters": {"keep_descriptor": True}}})
    counted, left_out = (hypotheses.wide_layers_first(one, permutations=499) for one in (study, kept))
    for kind in ("simple", "partial"):
        with_it, without = (left_out[left_out["key"] == f"width-{kind}{key}"].squeeze() for key in ("", "-no-descriptor"))
        assert with_it["verdict"] == UNDECIDED and with_it["why"] == "not run: keep_descriptor kept the descriptor layer whole"
        pd.testing.assert_series_equal(without, counted[counted["key"] == f"width-{kind}-no-descriptor"].squeeze(), check_names=False)
    simple = counted.set_index("key")["value"]
    assert simple["width-simple"] < 0.9 < simple["width-simple-no-descriptor"]


def test_coupled_layers_count_once():
    coupled = layers_of([10, 40, 40, 90], [9, 30, 30, 50], [0, 1, 1, 2], kinds=["conv", "pointwise", "depthwise", "pointwise"])
    once = layers.uncoupled(coupled)
    last = once[once["step"] == 1]
    assert last["layer"].tolist() == ["layer0", "layer1", "layer3"] and last["kind"].tolist() == ["conv", "depthwise pair", "pointwise"]
    stream = layers.uncoupled(coupled.assign(kind="pointwise"))
    assert stream.loc[stream["layer"] == "layer1", "kind"].unique().tolist() == ["residual stream"]
    effect = layers.width_effect(coupled, permutations=99)
    assert len(effect.shares) == 3
    assert effect.removed_pct == pytest.approx(100 * (1 - 119 / 180)), "of all filters, coupled ones included"
    assert len(layers.width_effect(coupled.drop(columns="coupling"), permutations=99).shares) == 4


def test_coupled_layers_of_unequal_width_are_refused():
    with pytest.raises(ValueError, match="same width, found different ones in layer0, layer1"):
        layers.uncoupled(layers_of([10, 40], [9, 30], [0, 0]))


def test_without_the_descriptor_layer_go_those_coupled_with_it():
    table = layers_of([10, 40, 90, 90], [9, 30, 50, 50], [0, 1, 2, 2])
    assert set(layers.without_descriptor(table)["layer"]) == {"layer0", "layer1"}
    assert set(layers.without_descriptor(table.drop(columns="coupling"))["layer"]) == {"layer0", "layer1", "layer2"}


def test_rho_interval_of_bonett_and_wright():
    low, high = hypotheses.rho_interval(0.5, 28)
    assert np.arctanh(high) - np.arctanh(low) == pytest.approx(2 * 1.959964 * np.sqrt(1.125 / 25))
    assert all(np.isnan(hypotheses.rho_interval(0.5, 5, controls=2)))
    assert hypotheses.rho_interval(1.0, 20) == (1, 1)

# ---------------------------------------------------------------------------------------------------- whole studies


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preset")
    for network in ("resnet50", "squeezenet"):
        made_up.write(folder, network=network, steps=range(0, 61, 10))
    return folder


def test_every_hypothesis_has_an_answer_with_its_reason(preset):
    studies = list(load_studies(preset).values())
    assert [study.network for study in studies] == ["squeezenet", "resnet50"]
    table = hypotheses.verdicts(studies)
    assert list(table) == hypotheses.COLUMNS and set(table["hypothesis"]) == {"H1", "H2", "H3", "H4"} == set(hypotheses.STATEMENTS)
    assert set(table["verdict"]) <= {SUPPORTED, NOT_SUPPORTED, UNDECIDED} and (table["why"] != "").all()
    decided = table[table["verdict"] != UNDECIDED]
    assert decided[["value"]].notna().all(axis=None) and not decided["why"].str.startswith("not run").any()
    assert not table["why"].str.startswith("not run").any(), "these made-up studies have every run"


@pytest.mark.parametrize("missing", ["arms", "arms_layers", "det", "scores"])
def test_what_was_not_run_is_undecided_never_an_error(preset, missing):
    study = load_studies(preset)["squeezenet"]
    empty = getattr(study, missing).iloc[:0]
    table = hypotheses.verdicts([replace(study, **{missing: empty})])
    if missing.startswith("arms"):
        assert table.loc[table["why"].str.startswith("not run"), "verdict"].eq(UNDECIDED).all()
        assert table["why"].str.startswith("not run").any()


def test_tables_are_written_in_three_forms(preset, tmp_path):
    studies = list(load_studies(preset).values())
    tables = comparison.compare(studies)
    comparison.write(tables, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.{kind}" for name in ("summary", "sizes", "hypotheses", "published", "claims")
                                                        for kind in ("csv", "md", "tex")}
    for name in tables:
        tex = (tmp_path / f"{name}.tex").read_text()
        assert "\\toprule" in tex and "\\bottomrule" in tex and tex.isascii()
        assert len((tmp_path / f"{name}.md").read_text().splitlines()) == 2 + len(tables[name].readable)
        assert len(pd.read_csv(tmp_path / f"{name}.csv")) == len(tables[name].tidy)


def test_sizes_by_hand(preset):
    sizes = comparison.sizes([load_studies(preset)["squeezenet"]]).tidy
    assert sizes["filters_removed_pct"].tolist() == [0, 20, 40, 60]
    assert sizes["megabytes"].tolist() == pytest.approx((sizes["parameters"] * 4 / 1e6).tolist())


def test_every_claim_is_answered_for_every_network(preset):
    answers = hypotheses.verdicts(list(load_studies(preset).values()))
    found = comparison.claims(answers)
    assert list(found.readable) == ["claim", "papers", "squeezenet", "resnet50"] and found.readable["claim"].tolist() == [
        claim for claim, *_ in comparison.CLAIMS]
    about_squeezenet = found.readable["claim"].str.startswith("SqueezeNet")
    assert (found.readable.loc[about_squeezenet, "resnet50"] == "").all()
    assert (found.readable[["squeezenet"]] != "").all(axis=None) and (found.readable.loc[~about_squeezenet, "resnet50"] != "").all()
    rows = found.tidy[found.tidy["claim"] == "... templates"].set_index("network")
    for network, row in rows.iterrows():
        asked = the_row(answers[answers["network"] == network], "at least", stage="pruned", template_size=5, pair=EVERY_PAIR)
        assert (row["value"], row["verdict"]) == (asked["value"], asked["verdict"])


def test_a_claim_without_an_answer_is_still_there(preset):
    answers = hypotheses.verdicts(list(load_studies(preset).values()))
    answers = answers[(answers["template_size"] != 5) & ~answers["key"].str.startswith("scratch")]
    shown = comparison.claims(answers).readable.set_index("claim")
    assert shown.index.tolist() == [claim for claim, *_ in comparison.CLAIMS]
    for claim in ("... templates", "retrained at 40 %: better than from scratch, single images"):
        assert shown.loc[claim, ["squeezenet", "resnet50"]].tolist() == ["not run"] * 2
    assert shown.loc["SqueezeNet: 40 % of the filters can go, templates", ["squeezenet", "resnet50"]].tolist() == ["not run", ""]


def test_published_figures_of_templates_are_ours_of_as_many_images(preset):
    studies = list(load_studies(preset).values())
    answers = hypotheses.verdicts(studies)
    asked = "share up to which templates of 5 hold"
    ours = comparison.published(studies, answers).tidy.set_index("item")["value"]
    held = the_row(answers, "at least 20 %", network="squeezenet", stage="pruned", template_size=5, pair=EVERY_PAIR)
    assert ours[asked] == held["value"]
    assert np.isnan(comparison.published(studies, answers[answers["template_size"] != 5]).tidy.set_index("item").loc[asked, "value"])


def test_a_claim_shows_all_its_answers():
    steps = [10, 15]
    arms = pd.concat([curve_of(steps, [-0.03, -0.01]), curve_of(steps, [-0.02] * 2, stage="control", criterion="none").assign(filters_removed_pct=0.0)])
    found = comparison.claims(hypotheses.squeezer(study_of(curve_of(steps, [0] * 2), arms))).readable.set_index("claim")
    cell = found.loc["SqueezeNet: removing 10 to 15 % lowers the EER, single images", "squeezenet"]
    first, second = cell.split("; ")
    assert first.startswith("supported: −1.0 (") and first.endswith(" points at 10 %")
    assert second.startswith("not supported: 1.0 (") and second.endswith(" points at 15 %")


def test_hearsay_is_never_the_papers_figure(preset, tmp_path):
    known = pd.read_csv(comparison.PUBLISHED, dtype=str, keep_default_na=False)
    assert set(known["status"]) <= {"V", "D", "S"} and known.loc[known["status"] == "S", "papers"].eq("").all()
    assert known.loc[known["status"] != "S", "papers"].ne("").all()
    studies = list(load_studies(preset).values())
    shown = comparison.published(studies, hypotheses.verdicts(studies)).readable
    assert shown.loc[shown["status"] == "S", "papers"].eq("–").all() and shown["why they differ"].ne("").all()
    assert shown.loc[shown["network"] == "mobilenetv2", "ours"].eq("not run").all()
    known.loc[0, "status"] = "S"
    known.to_csv(tmp_path / "published.csv", index=False)
    with pytest.raises(ValueError, match="status S is not the papers' figure"):
        comparison.published(studies, hypotheses.verdicts(studies), tmp_path / "published.csv")


def test_verdicts_need_no_torch():
    code = "import sys; from facelib import comparison, hypotheses, layers, results; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_without_a_network_there_is_nothing_to_judge():
    with pytest.raises(ValueError, match="no network to judge.*run a study first"):
        comparison.compare([])

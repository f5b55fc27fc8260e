"""Which layers lose filters first: by hand, against scipy, and against networks whose filters leave at random."""

from itertools import permutations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from facelib import layers


def table_of(widths, left, kinds=None, seed=0, **about):
    """layers.csv of a network of these widths; left: filters left of each layer, one row per step."""
    rows = [{"network": "net", "criterion": "random", "seed": seed, "stage": "pruned", "step": step, "layer": f"layer{depth}",
             "kind": (kinds or ["conv"] * len(widths))[depth], "depth": depth, "out_channels_original": width,
             "out_channels": now} | about
            for step, counts in enumerate(left) for depth, (width, now) in enumerate(zip(widths, counts))]
    return pd.DataFrame(rows, columns=layers.COLUMNS)


def removed_at_random(widths, gone, rng):
    return table_of(widths, [widths, np.array(widths) - rng.multivariate_hypergeometric(widths, gone)])


BY_HAND = table_of([4, 16], [[4, 16], [4, 12], [3, 8], [2, 8]])


def test_removed_share_by_hand():
    second = layers.removed_share(BY_HAND, 2)
    assert second["removed"].to_dict() == {"layer0": 0.25, "layer1": 0.5}
    assert second["width"].tolist() == [4, 16] and second["left"].tolist() == [3, 8] and second["depth"].tolist() == [0, 1]
    assert layers.removed_share(BY_HAND)["removed"].to_dict() == {"layer0": 0.5, "layer1": 0.5}
    assert layers.removed_share(BY_HAND, 0)["removed"].eq(0).all()


def test_first_to_lose_by_hand():
    first = layers.first_to_lose(BY_HAND)
    assert first.index.tolist() == ["layer1", "layer0"]
    assert first["lost_tenth"].to_dict() == pytest.approx({"layer1": 20, "layer0": 45})
    assert first["lost_half"].to_dict() == pytest.approx({"layer1": 45, "layer0": 50})


def test_a_layer_that_loses_exactly_a_tenth_has_lost_a_tenth():
    for width in (10, 30, 70, 110):
        lost = layers.first_to_lose(table_of([width, 100], [[width, 100], [width - width // 10, 100]]))
        assert lost.loc["layer0", "lost_tenth"] == pytest.approx(100 * (width // 10) / (width + 100))
        assert np.isnan(lost.loc["layer0", "lost_half"]) and np.isnan(lost.loc["layer1", "lost_tenth"])


def test_seeds_are_averaged_where_all_were_evaluated():
    both = pd.concat([BY_HAND, table_of([4, 16], [[4, 16], [4, 10], [1, 8]], seed=1)])
    assert layers.filters_left(both).loc["layer1"].iloc[0].tolist() == [16, 11, 8]
    assert layers.filters_left(both).loc["layer0"].iloc[0].tolist() == [4, 4, 2]


def test_layers_go_by_depth_not_by_name_and_other_stages_are_left_out():
    table = table_of([4, 16], [[4, 16]]).assign(layer=["stem", "a"])
    tuned = table.assign(stage="fine-tuned", out_channels=1)
    left = layers.filters_left(pd.concat([table.iloc[::-1], tuned]))
    assert left.index.get_level_values("layer").tolist() == ["stem", "a"] and left[0].tolist() == [4, 16]


def test_rho_is_scipys_and_p_counts_permutations():
    widths, left = [8, 16, 32, 64, 128], [8, 15, 31, 40, 100]
    effect = layers.width_effect(table_of(widths, [widths, left]), permutations=4999)
    share = 1 - np.array(left) / widths
    assert effect.simple.rho == pytest.approx(stats.spearmanr(widths, share).statistic)
    rhos = [stats.spearmanr(order, share).statistic for order in permutations(widths)]
    exact = np.mean(np.abs(rhos) >= effect.simple.rho - 1e-9)
    assert effect.simple.p_value == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 4999))
    assert effect.removed_pct == pytest.approx(100 * (248 - 194) / 248) and effect.step == 1


def test_partial_correlation_is_the_closed_form_for_one_control():
    rng = np.random.default_rng(0)
    widths = rng.integers(20, 300, 30)
    left = widths - rng.integers(0, 20, 30)
    effect = layers.width_effect(table_of(widths, [widths, left]), permutations=99)
    ws, wd, sd = (stats.spearmanr(a, b).statistic for a, b in [
        (widths, 1 - left / widths), (widths, np.arange(30)), (1 - left / widths, np.arange(30))])
    assert effect.partial.rho == pytest.approx((ws - wd * sd) / np.sqrt((1 - wd**2) * (1 - sd**2)))


def test_an_effect_of_depth_alone_is_not_blamed_on_width():
    rng = np.random.default_rng(1)
    depth = np.arange(40)
    widths = 100 + 5 * depth + rng.integers(-40, 40, 40)  # deeper layers are wider
    left = np.round(widths * (0.95 - 0.015 * depth - rng.uniform(0, 0.05, 40))).astype(int)
    effect = layers.width_effect(table_of(widths, [widths, left]))
    assert effect.simple.rho > 0.7 and effect.simple.p_value < 0.001 and effect.simple.rho > effect.simple.chance_high
    ranks = effect.shares[["depth", "removed", "width"]].corr("spearman")  # the textbook's partial correlation, width held constant
    (with_depth, depth_width), with_width = ranks.loc["depth", ["removed", "width"]], ranks.loc["removed", "width"]
    assert effect.depth.rho == pytest.approx((with_depth - depth_width * with_width) / np.sqrt((1 - depth_width**2) * (1 - with_width**2)))
    assert abs(effect.partial.rho) < 0.4 and effect.partial.p_value > 0.01


def test_an_effect_of_kind_alone_is_not_blamed_on_width():
    rng = np.random.default_rng(2)
    kinds = ["pointwise", "conv"] * 15
    widths = np.where(np.arange(30) % 2, 300, 100) + rng.integers(-30, 30, 30)
    left = np.round(widths * (np.where(np.arange(30) % 2, 0.6, 0.9) - rng.uniform(0, 0.05, 30))).astype(int)
    effect = layers.width_effect(table_of(widths, [widths, left], kinds))
    assert effect.simple.rho > 0.6 and abs(effect.partial.rho) < 0.45 and effect.partial.p_value > 0.01


def test_partial_is_nan_where_kind_decides_width():
    widths, left = [10, 10, 50, 50, 50], [9, 8, 30, 31, 32]
    effect = layers.width_effect(table_of(widths, [widths, left], ["a", "a", "b", "b", "b"]), permutations=99)
    assert np.isnan(effect.partial.rho) and np.isnan(effect.partial.p_value) and np.isfinite(effect.simple.rho)


SQUEEZENET = [64] + [16, 64, 64] * 2 + [32, 128, 128] * 2 + [48, 192, 192] * 2 + [64, 256, 256] * 2 + [1000]


def test_chance_covers_random_removal():
    rng = np.random.default_rng(3)
    effects = [layers.width_effect(removed_at_random(SQUEEZENET, 800, rng), permutations=199) for _ in range(30)]
    shares = pd.concat([effect.shares for effect in effects])
    assert 0.94 <= shares.eval("chance_low <= removed <= chance_high").mean() <= 0.99  # whole filters: 95 % or a little more
    for found in ([effect.simple for effect in effects], [effect.partial for effect in effects]):
        assert np.mean([one.chance_low <= one.rho <= one.chance_high for one in found]) > 0.8
        assert abs(np.mean([one.rho for one in found])) < 0.15


@pytest.mark.parametrize("held", [["constant"], ["constant", "depth"]])
def test_p_values_of_random_removal_are_near_uniform(held):
    rng = np.random.default_rng(4)
    drawn = rng.multivariate_hypergeometric(SQUEEZENET, 800, size=400) / SQUEEZENET
    ranks = stats.rankdata(drawn, axis=1)
    controls = pd.DataFrame({"constant": 1.0, "depth": np.arange(len(SQUEEZENET))})[held].to_numpy()
    p_values = np.array([layers._association(stats.rankdata(SQUEEZENET), row, ranks[:199], controls, rng).p_value for row in ranks])
    assert 0.02 < np.mean(p_values <= 0.05) < 0.12 and 0.4 < p_values.mean() < 0.55


def test_wide_layers_first_is_found():
    widths = [16, 64, 128, 256, 512, 1000]
    effect = layers.width_effect(table_of(widths, [widths, [16, 60, 115, 220, 400, 600]]))
    assert effect.simple.rho == pytest.approx(1) and effect.simple.p_value < 0.01 and effect.simple.rho > effect.simple.chance_high
    widest = effect.shares.loc["layer5"]
    assert widest["removed"] > widest["chance_high"]


def test_same_seed_same_numbers():
    table = removed_at_random([16, 32, 64, 128], 60, np.random.default_rng(0))
    first, second = (layers.width_effect(table, permutations=99) for _ in range(2))
    pd.testing.assert_frame_equal(first.shares, second.shares)
    assert (first.simple, first.partial) == (second.simple, second.partial)


@pytest.mark.parametrize("table, message", [
    (BY_HAND.iloc[:0], "at least one row, found none"),
    (BY_HAND.drop(columns=["depth", "kind"]), "missing kind, depth"),
    (BY_HAND.assign(stage="fine-tuned"), "stage pruned: expected at least one row"),
    (pd.concat([BY_HAND, BY_HAND.assign(network="other")]), "one network, found net, other"),
    (pd.concat([BY_HAND, BY_HAND.assign(criterion="magnitude")]), "one criterion, found random, magnitude")])
def test_tables_that_cannot_be_analysed_are_named(table, message):
    with pytest.raises(ValueError, match=message):
        layers.removed_share(table)


def test_an_unknown_step_and_nothing_removed_are_named():
    with pytest.raises(ValueError, match="expected step 9, found steps 0, 1, 2, 3"):
        layers.removed_share(BY_HAND, 9)
    with pytest.raises(ValueError, match="found 0 removed at step 0"):
        layers.width_effect(BY_HAND, 0)
    with pytest.raises(ValueError, match="1 width"):
        layers.width_effect(table_of([8, 8], [[8, 6]]))

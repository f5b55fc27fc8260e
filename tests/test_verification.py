"""Error rates against hand counts, scikit-learn and brute force; protocols by counting; intervals by simulation."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from facelib import verification
from facelib.verification import (
    all_against_all, auc, chi_square, compare, cosine, det_curve, equal_error_rate, evaluate, frr_at_far, operating_point,
    pair_folds, pose_pairs, protocol_det, score_histogram, scores,
)

settings.register_profile("verification", deadline=None)  # time depends on the machine's load
settings.load_profile("verification")

# Few distinct values, so that ties within and between the sides are common; infinities rank like any other score.
tied = st.lists(st.sampled_from([-np.inf, -2.0, 0.0, 0.25, 1.0, 3.0, np.inf]), min_size=1, max_size=12).map(np.array)
spread = st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=30).map(np.array)
sides = st.one_of(st.tuples(tied, tied), st.tuples(spread, spread), st.tuples(tied, spread))


def brute_curve(genuine, impostor):
    """FAR and FRR counted one threshold at a time, ending where nothing is accepted."""
    thresholds = sorted({*genuine, *impostor})
    far = [sum(score >= t for score in impostor) / len(impostor) for t in thresholds] + [0.0]
    frr = [sum(score < t for score in genuine) / len(genuine) for t in thresholds] + [1.0]
    return far, frr


def brute_equal_error(genuine, impostor):
    far, frr = brute_curve(genuine, impostor)
    for k in range(1, len(far)):
        if frr[k] >= far[k]:
            # from (frr, far)[k-1] a straight line to (frr, far)[k]; where on it are the two equal?
            share = (far[k - 1] - frr[k - 1]) / ((far[k - 1] - frr[k - 1]) + (frr[k] - far[k]))
            return frr[k - 1] + share * (frr[k] - frr[k - 1])


def brute_frr_at_far(genuine, impostor, target):
    far, frr = brute_curve(genuine, impostor)
    largest = max(rate for rate in far if rate <= target)
    return largest, min(miss for rate, miss in zip(far, frr, strict=True) if rate == largest)


# ------------------------------------------------------------------------------------------------------ by hand


def test_equal_error_rate_by_hand():
    # Threshold 0.4 accepts 2 of 4 impostors (0.4, 0.6) and rejects 1 of 4 genuine (0.3);
    # threshold 0.5 accepts 1 of 4 (0.6) and rejects 1 of 4 (0.3): equal, at 1/4.
    assert equal_error_rate([0.3, 0.5, 0.7, 0.9], [0.1, 0.2, 0.4, 0.6]) == 0.25


def test_equal_error_rate_between_thresholds_by_hand():
    # 2 genuine (0.4, 0.8), 3 impostors (0.1, 0.4, 0.6). At 0.4: FAR 2/3, FRR 0. At 0.6: FAR 1/3, FRR 1/2.
    # On the line between, FRR = s/2 and FAR = 2/3 - s/3 are equal at s = 4/5: both 2/5.
    assert equal_error_rate([0.4, 0.8], [0.1, 0.4, 0.6]) == pytest.approx(0.4, abs=1e-15)


@pytest.mark.parametrize("genuine, impostor, expected", [
    ([1.0], [0.0], 0.0),  # separated
    ([0.0], [1.0], 1.0),  # separated the wrong way round
    ([5.0] * 3, [5.0] * 7, 0.5),  # constant: from (FRR 0, FAR 1) straight to (1, 0)
    ([0.5], [0.0, 1.0], 0.5),  # one genuine between two impostors
    ([np.inf], [-np.inf], 0.0),
])
def test_equal_error_rate_at_the_extremes(genuine, impostor, expected):
    assert equal_error_rate(genuine, impostor) == expected


def test_frr_at_far_takes_the_largest_far_not_above_the_target():
    impostor = np.arange(10) / 10  # 0.0 ... 0.9
    genuine = [0.65, 0.75, 0.85, 0.95]
    # FAR 0.2 accepts 0.8 and 0.9: the lowest threshold that does so is 0.75, which rejects 0.65.
    assert operating_point(genuine, impostor, 0.2) == (0.75, 0.2, 0.25)
    # 0.29 is nearest to FAR 0.3, but that is above it.
    assert operating_point(genuine, impostor, 0.29) == (0.75, 0.2, 0.25)
    assert operating_point(genuine, impostor, 0.3) == (0.65, 0.3, 0.0)
    # Nothing accepted: above 0.9 is the genuine 0.95.
    assert operating_point(genuine, impostor, 0.0) == (0.95, 0.0, 0.75)
    assert operating_point(genuine, impostor, 1.0) == (0.0, 1.0, 0.0)
    assert frr_at_far(genuine, impostor, 0.29) == 0.25


def test_ties_make_the_target_unreachable():
    # The three highest impostors are equal: FAR is 0 or 3/4, nothing between; FAR 0 also rejects the tied genuine.
    assert operating_point([1.0, 2.0], [0.0, 1.0, 1.0, 1.0], 0.5) == (2.0, 0.0, 0.5)
    assert operating_point([1.0], [1.0, 1.0], 0.5) == (np.inf, 0.0, 1.0)


@pytest.mark.parametrize("n", [3, 7, 10, 30, 49, 100, 1000, 12_640])
def test_a_far_that_is_achieved_exactly_is_used(n):
    impostor = np.arange(n, dtype=float)
    for k in range(n + 1) if n <= 100 else [n // 1000, n // 10, n // 3]:
        assert operating_point([n + 1.0], impostor, k / n).far == k / n


def test_det_curve_by_hand():
    far, frr, thresholds = det_curve([0.4, 0.8], [0.1, 0.4, 0.6])
    assert thresholds.tolist() == [0.1, 0.4, 0.6, 0.8, np.inf]
    assert far.tolist() == [1, 2 / 3, 1 / 3, 0, 0]
    assert frr.tolist() == [0, 0, 0.5, 0.5, 1]


def test_auc_by_hand():
    # of 2 x 3 pairs, genuine 0.4 beats 0.1 and ties with 0.4, genuine 0.8 beats all three: 4.5 / 6
    assert auc([0.4, 0.8], [0.1, 0.4, 0.6]) == pytest.approx(0.75, abs=1e-15)


def test_score_histogram_shares():
    edges, genuine, impostor = score_histogram([0.0, 1.0, 1.0, 1.0], [0.0, 0.0], bins=2)
    assert edges.tolist() == [0, 0.5, 1]
    assert genuine.tolist() == [0.25, 0.75]
    assert impostor.tolist() == [1, 0]


@pytest.mark.parametrize("genuine, impostor, message", [
    ([], [1.0], "genuine scores: expected .* at least one score"),
    ([1.0], [], "impostor scores: expected .* at least one score"),
    ([1.0, np.nan], [0.0], "1 of 2 genuine scores are NaN"),
    ([1.0], [np.nan], "1 of 1 impostor scores are NaN"),
    ([[1.0]], [0.0], "1-D"),
])
def test_scores_that_say_nothing_are_refused(genuine, impostor, message):
    for measure in (equal_error_rate, det_curve, auc, score_histogram, lambda *sides: frr_at_far(*sides, 0.1)):
        with pytest.raises(ValueError, match=message):
            measure(genuine, impostor)


@pytest.mark.parametrize("far", [-0.1, 1.1, np.nan])
def test_a_far_that_is_no_fraction_is_refused(far):
    with pytest.raises(ValueError, match="fraction from 0 to 1"):
        frr_at_far([1.0], [0.0], far)


# ------------------------------------------------------------------------------------------- independent oracles


@given(sides)
def test_error_rates_equal_brute_force(both):
    genuine, impostor = both
    far, frr, _ = det_curve(genuine, impostor)
    assert (far.tolist(), frr.tolist()) == brute_curve(genuine, impostor)
    assert equal_error_rate(genuine, impostor) == pytest.approx(brute_equal_error(genuine, impostor), abs=1e-12)
    for target in (0, 0.1, 1 / 3, 0.5, 1):
        found = operating_point(genuine, impostor, target)
        assert (found.far, pytest.approx(found.frr, abs=1e-12)) == brute_frr_at_far(genuine, impostor, target)
        assert found.far == 0 or found.far == np.mean(impostor >= found.threshold)


def random_scores(seed: int, kind: str) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    genuine, impostor = random.normal(1, 1, 400), random.normal(-1, 1, 3000)
    if kind == "ties":
        return genuine.round(1), impostor.round(1)
    if kind == "constant":
        return np.zeros(400), np.zeros(3000)
    if kind == "one genuine":
        return genuine[:1], impostor
    if kind == "reversed":
        return impostor[:500], genuine
    return genuine.astype(kind), impostor.astype(kind)


@pytest.mark.parametrize("kind", ["float32", "float64", "float16", "ties", "constant", "one genuine", "reversed"])
@pytest.mark.parametrize("seed", range(5))
def test_error_rates_equal_scikit_learn(kind, seed):
    genuine, impostor = random_scores(seed, kind)
    label = np.repeat([1, 0], [genuine.size, impostor.size])
    fpr, tpr, _ = sk.roc_curve(label, np.concatenate([genuine, impostor]), drop_intermediate=False)
    far, frr, thresholds = det_curve(genuine, impostor)
    np.testing.assert_allclose(far, fpr[::-1], atol=1e-15)
    np.testing.assert_allclose(1 - frr, tpr[::-1], atol=1e-15)
    assert auc(genuine, impostor) == pytest.approx(sk.roc_auc_score(label, np.concatenate([genuine, impostor])), abs=1e-12)
    assert equal_error_rate(genuine, impostor) == pytest.approx(np.interp(0, fpr + tpr - 1, fpr), abs=1e-12)
    for target in (0.001, 0.01, 0.1):
        assert frr_at_far(genuine, impostor, target) == pytest.approx(1 - tpr[fpr <= target].max(), abs=1e-12)


def test_det_curve_is_scikit_learns_where_that_has_points():
    genuine, impostor = random_scores(0, "ties")
    label = np.repeat([1, 0], [genuine.size, impostor.size])
    sk_far, sk_frr, sk_thresholds = sk.det_curve(label, np.concatenate([genuine, impostor]))
    found = {t: (a, b) for a, b, t in zip(*det_curve(genuine, impostor), strict=True)}
    assert len(sk_thresholds) > 50
    for a, b, t in zip(sk_far, sk_frr, sk_thresholds, strict=True):
        assert found[t] == pytest.approx((a, b), abs=1e-12)


# --------------------------------------------------------------------------------------------------- properties


@given(sides)
def test_only_the_order_of_scores_matters(both):
    genuine, impostor = both
    rank = {score: float(k) ** 3 for k, score in enumerate(sorted({*genuine, *impostor}))}
    ranked = [np.array([rank[score] for score in side]) for side in both]
    assert equal_error_rate(*ranked) == equal_error_rate(genuine, impostor)
    assert auc(*ranked) == auc(genuine, impostor)
    assert operating_point(*ranked, 0.2)[1:] == operating_point(genuine, impostor, 0.2)[1:]


@given(sides)
def test_swapped_and_negated_sides_give_the_same_error(both):
    genuine, impostor = both
    assert equal_error_rate(-impostor, -genuine) == pytest.approx(equal_error_rate(genuine, impostor), abs=1e-12)
    assert equal_error_rate(impostor, genuine) == pytest.approx(1 - equal_error_rate(genuine, impostor), abs=1e-12)
    assert auc(impostor, genuine) == pytest.approx(1 - auc(genuine, impostor), abs=1e-12)


@given(sides, st.integers(2, 5))
def test_repeating_every_score_changes_nothing(both, times):
    genuine, impostor = both
    repeated = equal_error_rate(np.repeat(genuine, times), np.tile(impostor, times))
    assert repeated == pytest.approx(equal_error_rate(genuine, impostor), abs=1e-12)


def test_blocks_do_not_change_the_result(monkeypatch):
    genuine, impostor = random_scores(3, "ties")
    whole = equal_error_rate(genuine, impostor), auc(genuine, impostor)
    monkeypatch.setattr(verification, "BLOCK", 7)
    assert (equal_error_rate(genuine, impostor), auc(genuine, impostor)) == whole

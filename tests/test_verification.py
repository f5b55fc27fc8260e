"""Error rates against hand counts, scikit-learn and brute force; protocols by counting; intervals by simulation."""

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from sklearn import metrics as sk

from facelib import verification
from facelib.verification import (
    all_against_all, auc, chi_square, compare, cosine, det_curve, equal_error_rate, evaluate, frr_at_far,
    interval_of_difference, measure, operating_point, pair_folds, pose_pairs, protocol_det, protocol_scores, score_histogram,
)

any_time = settings(deadline=None)  # the first example imports and warms up

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


@any_time
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
    area = sk.roc_auc_score(label, np.concatenate([genuine, impostor]))
    assert auc(genuine, impostor) == pytest.approx(area, abs=1e-12)
    assert equal_error_rate(genuine, impostor) == pytest.approx(np.interp(0, fpr + tpr - 1, fpr), abs=1e-12)
    for target in (0.001, 0.01, 0.1):
        assert frr_at_far(genuine, impostor, target) == pytest.approx(1 - tpr[fpr <= target].max(), abs=1e-12)


def test_det_curve_is_scikit_learns_where_that_has_points():
    genuine, impostor = random_scores(0, "ties")
    label = np.repeat([1, 0], [genuine.size, impostor.size])
    sk_far, sk_frr, sk_thresholds = sk.det_curve(label, np.concatenate([genuine, impostor]))
    found = {t: (a, b) for a, b, t in zip(*det_curve(genuine, impostor), strict=True)}
    assert len(sk_thresholds) > 40
    for a, b, t in zip(sk_far, sk_frr, sk_thresholds, strict=True):
        assert found[t] == pytest.approx((a, b), abs=1e-12)


# --------------------------------------------------------------------------------------------------- properties


@any_time
@given(sides)
def test_only_the_order_of_scores_matters(both):
    genuine, impostor = both
    rank = {score: float(k) ** 3 for k, score in enumerate(sorted({*genuine, *impostor}))}
    ranked = [np.array([rank[score] for score in side]) for side in both]
    assert equal_error_rate(*ranked) == equal_error_rate(genuine, impostor)
    assert auc(*ranked) == auc(genuine, impostor)
    assert operating_point(*ranked, 0.2)[1:] == operating_point(genuine, impostor, 0.2)[1:]


@any_time
@given(sides)
def test_swapped_and_negated_sides_give_the_same_error(both):
    genuine, impostor = both
    assert equal_error_rate(-impostor, -genuine) == pytest.approx(equal_error_rate(genuine, impostor), abs=1e-12)
    assert equal_error_rate(impostor, genuine) == pytest.approx(1 - equal_error_rate(genuine, impostor), abs=1e-12)
    assert auc(impostor, genuine) == pytest.approx(1 - auc(genuine, impostor), abs=1e-12)


@any_time
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


# ------------------------------------------------------------------------------------------------- similarities


def test_cosine_by_hand():
    np.testing.assert_allclose(cosine(np.array([[3.0, 4.0]]), np.array([[30.0, 40.0], [4.0, -3.0], [1.0, 0.0]])),
                               [[1, 0, 0.6]], atol=1e-15)


def test_chi_square_by_hand():
    # Shares (1/4, 3/4) with (3/4, 1/4): (1/2)^2 / 1 twice; with itself: 0; with (0, 1): 1/4 + (1/16) / (7/4) = 2/7.
    found = chi_square(np.array([[1.0, 3.0], [2.0, 0.0]]), np.array([[6.0, 2.0], [10.0, 30.0], [0.0, 1.0]]))
    np.testing.assert_allclose(found[0], [-1 / 2, 0, -2 / 7], atol=1e-12)
    # (1, 0) with (3/4, 1/4): (1/16) / (7/4) + 1/4 = 2/7; with (1/4, 3/4): (9/16) / (5/4) + 3/4 = 6/5; with (0, 1): 2.
    np.testing.assert_allclose(found[1], [-2 / 7, -6 / 5, -2], atol=1e-12)


def test_descriptors_of_zeros_are_similar_to_nothing():
    """As a network gives that has lost too much: verified at chance, not refused after hours."""
    assert cosine(np.ones((1, 2)), np.array([[1.0, 1.0], [0.0, 0.0]])).tolist() == [[pytest.approx(1), 0]]
    assert chi_square(np.ones((1, 2)), np.zeros((1, 2))).tolist() == [[-1]]
    subjects, poses, descriptors = made_faces(8)
    found = evaluate(pose_pairs(subjects, poses, 1)[0], 0 * descriptors, resamples=50).set_index("metric")
    assert found.loc["eer", "value"] == 0.5 and found.loc["eer", "ci_low"] <= 0.5 <= found.loc["eer", "ci_high"]
    assert found.loc["frr_at_far_0.001", "value"] == 1


# ---------------------------------------------------------------------------------------------------- protocols


def faces_of(people: int, **images: int) -> tuple[np.ndarray, np.ndarray]:
    """Subjects and poses of `people` with so many images of each pose each, as a FaceSet gives them."""
    poses = np.repeat(list(images), list(images.values()))
    return np.repeat([f"s{k:03d}" for k in range(people)], poses.size), np.tile(poses, people).astype(object)


def test_the_papers_numbers_of_comparisons():
    subjects, poses = faces_of(368, frontal=10, **{"three-quarter": 10}, profile=10)
    protocols = pose_pairs(subjects, poses, 5)
    assert [protocol.pair for protocol in protocols] == [
        "frontal-frontal", "frontal-three-quarter", "frontal-profile", "three-quarter-three-quarter",
        "three-quarter-profile", "profile-profile"]
    descriptors = np.random.default_rng(0).normal(size=(11_040, 2))
    for protocol in protocols:
        genuine, impostor = protocol_scores(protocol, descriptors)
        if protocol.second is None:  # 2 templates each: 368 pairs, and of all 736 * 735 / 2 pairs the others
            assert (genuine.size, impostor.size) == (368, 736 * 735 // 2 - 368)
        else:
            assert (genuine.size, impostor.size) == (1472, 736 * 736 - 1472)


def test_cfp_templates():
    subjects, poses = faces_of(2, frontal=10, profile=4)
    same, cross, profile = pose_pairs(subjects, poses, 5)
    assert [same.templates[k].tolist() for k in same.first] == [
        [0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [14, 15, 16, 17, 18], [19, 20, 21, 22, 23]]
    assert [profile.templates[k].tolist() for k in profile.first] == [[10, 11], [12, 13], [24, 25], [26, 27]]
    assert (cross.first.tolist(), cross.second.tolist()) == (same.first.tolist(), profile.first.tolist())
    assert same.subjects[same.first].tolist() == ["s000", "s000", "s001", "s001"]
    assert same.second is None and profile.second is None


def test_single_images():
    subjects, poses = faces_of(3, frontal=3, profile=2)
    subjects, poses = subjects[:-2], poses[:-2]  # the third subject has no profile
    descriptors = np.random.default_rng(0).normal(size=(13, 4))
    same, cross, profile = (tuple(map(len, protocol_scores(protocol, descriptors)))
                            for protocol in pose_pairs(subjects, poses, 1))
    assert same == (9, 27)  # 3 pairs of each of 3 subjects; 3 x 3 of each of 3 pairs of subjects
    assert cross == (12, 24)  # 9 frontal x 4 profile images, of one subject 3 x 2 twice
    assert profile == (2, 4)


def test_poses_that_are_not_known_are_one_pose():
    [protocol] = pose_pairs(["a", "a", "b"], [None] * 3, 1)
    assert protocol.pair == "any-any"
    assert [len(side) for side in protocol_scores(protocol, np.ones((3, 2)))] == [1, 2]
    assert [len(side) for side in protocol_scores(all_against_all(["a", "a", "b"]), np.ones((3, 2)))] == [1, 2]


def test_other_poses_come_last_in_the_alphabets_order():
    subjects, poses = faces_of(2, up=2, profile=2, down=2, frontal=2)
    assert [protocol.pair for protocol in pose_pairs(subjects, poses, 1)] == [
        "frontal-frontal", "frontal-profile", "frontal-down", "frontal-up", "profile-profile", "profile-down",
        "profile-up", "down-down", "down-up", "up-up"]


@pytest.mark.parametrize("subjects, poses, size, message", [
    (["a", "a"], ["frontal"] * 2, 1, "frontal-frontal, template size 1: found 1 subjects"),
    (["a", "b"], ["frontal"] * 2, 1, "found 2 subjects and no genuine comparisons"),
    (["a", "a", "b", "b", "a"], ["frontal"] * 4 + ["profile"], 1, "profile-profile"),
    (["a", "a"], ["frontal", None], 1, "1 of 2 images have no pose"),
    (["a", "a"], ["frontal"], 1, "1 poses for 2 images"),
    (["a", "a"], ["frontal"] * 2, 0, "template_size=0"),
])
def test_faces_that_make_no_protocol_are_refused(subjects, poses, size, message):
    with pytest.raises(ValueError, match=message):
        pose_pairs(subjects, poses, size)


def test_two_images_make_two_templates_of_one():
    [protocol] = pose_pairs(["a", "a", "b", "c", "c"], ["frontal"] * 5, 5)
    assert [images.tolist() for images in protocol.templates] == [[0], [1], [3], [4]]  # b's single image is left out


# --------------------------------------------------------------------------------------------------- evaluation


def nearness(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Similarity of descriptors of one number, so that scores can be written down."""
    return -np.abs(a - b.T)


def evaluated_by_hand(**options) -> pd.DataFrame:
    # Subject a at 0 and 40, b at 50 and 62: genuine -40, -12; impostor -50, -62, -10, -22.
    return evaluate(all_against_all(["a", "a", "b", "b"]), np.array([[0.0], [40.0], [50.0], [62.0]]),
                    ("eer", "frr_at_far_0.25", "frr_at_far_0.001"), similarity=nearness, **options)


def test_evaluate_by_hand():
    found = evaluated_by_hand()
    # At -22: impostors -10, -22 of 4 accepted, genuine -40 of 2 rejected: both 1/2.
    # FAR 1/4 accepts -10, just above -22, and rejects -40. FAR 0 rejects -12 too.
    assert found["value"].tolist() == [0.5, 0.5, 1.0]
    assert found.columns.tolist() == ["protocol", "pair", "template_size", "metric", "value", "ci_low", "ci_high",
                                      "genuine", "impostor"]
    assert found["metric"].tolist() == ["eer", "frr_at_far_0.25", "frr_at_far_0.001"]
    assert set(found["genuine"]) == {2} and set(found["impostor"]) == {4}
    assert (found["ci_low"] <= found["value"]).all() and (found["value"] <= found["ci_high"]).all()
    assert evaluated_by_hand(resamples=0)[["ci_low", "ci_high"]].isna().all(axis=None)


def made_faces(people: int = 12, seed: int = 0, noise: float = 0.8, **images: int):
    """Subjects, poses and descriptors (images, 16) that hold their subject, and for each image something else."""
    subjects, poses = faces_of(people, **(images or {"frontal": 4, "profile": 3}))
    random = np.random.default_rng(seed)
    centres = random.normal(size=(people, 16))
    return subjects, poses, (np.repeat(centres, len(subjects) // people, axis=0)
                             + noise * random.normal(size=(len(subjects), 16)))


@pytest.mark.parametrize("similarity", ["cosine", "chi_square"])
@pytest.mark.parametrize("size", [1, 2])
def test_evaluate_equals_comparing_templates_one_by_one(size, similarity):
    subjects, poses, descriptors = made_faces(5)
    descriptors = np.abs(descriptors)
    measure = {"cosine": cosine, "chi_square": chi_square}[similarity]
    for protocol in pose_pairs(subjects, poses, size):
        means = [descriptors[images].mean(axis=0, keepdims=True) for images in protocol.templates]
        second = protocol.first if protocol.second is None else protocol.second
        pairs = [(a, b) for a in protocol.first for b in second if protocol.second is not None or a < b]
        values = np.array([measure(means[a], means[b])[0, 0] for a, b in pairs])
        same = np.array([protocol.subjects[a] == protocol.subjects[b] for a, b in pairs])
        found = evaluate(protocol, descriptors, ("eer", "frr_at_far_0.05"), 20, similarity=similarity)
        sides = values[same], values[~same]
        expected = [brute_equal_error(*sides), brute_frr_at_far(*sides, 0.05)[1]]
        assert found["value"].tolist() == pytest.approx(expected, abs=1e-12)
        assert (found["genuine"] == same.sum()).all() and (found["impostor"] == (~same).sum()).all()


def test_the_order_of_images_and_the_names_of_subjects_do_not_matter():
    subjects, poses, descriptors = made_faces()
    shuffled = np.random.default_rng(5).permutation(len(subjects))
    renamed = np.array([name[::-1] for name in subjects])  # s001 becomes 100s: another order
    for kept, mixed, named in zip(pose_pairs(subjects, poses, 1), pose_pairs(subjects[shuffled], poses[shuffled], 1),
                                  pose_pairs(renamed, poses, 1), strict=True):
        found = evaluate(kept, descriptors, resamples=50)
        pd.testing.assert_frame_equal(evaluate(mixed, descriptors[shuffled], resamples=50), found)
        pd.testing.assert_series_equal(evaluate(named, descriptors, resamples=50)["value"], found["value"])


@pytest.mark.parametrize("descriptors, message", [
    (np.ones(4), "expected shape"),
    (np.ones((3, 2)), "for [49] images or more, found 3"),
    (np.array([[1.0], [2.0], [np.nan], [np.inf]]), "2 of 4 descriptors hold NaN or infinity, first image 2"),
])
def test_descriptors_that_cannot_be_compared_are_refused(descriptors, message):
    for protocol in (all_against_all(["a", "a", "b", "b"]), PAIRS):
        with pytest.raises(ValueError, match=message):
            evaluate(protocol, descriptors)


@pytest.mark.parametrize("metric", ["EER", "frr_at_far_", "frr_at_far_10%", "0.1", "accuracy"])
def test_unknown_metrics_and_similarities_are_refused(metric):
    protocol = all_against_all(["a", "a", "b", "b"])
    with pytest.raises(ValueError, match="metric"):
        evaluate(protocol, np.eye(4), [metric])
    with pytest.raises(ValueError, match="similarity: expected cosine or chi_square"):
        evaluate(protocol, np.eye(4), similarity=metric)


def test_the_curve_of_a_protocol_has_the_error_rates_of_its_scores():
    subjects, _, descriptors = made_faces()
    protocol = all_against_all(subjects)
    far, frr, thresholds = protocol_det(protocol, descriptors)
    genuine, impostor = protocol_scores(protocol, descriptors)
    np.testing.assert_allclose(far[1:-1], [np.mean(impostor >= t) for t in thresholds[1:-1]], atol=1e-12)
    np.testing.assert_allclose(frr[1:-1], [np.mean(genuine < t) for t in thresholds[1:-1]], atol=1e-12)
    every_far, every_frr, _ = det_curve(genuine, impostor)
    corner = every_frr - every_far
    np.testing.assert_allclose(np.interp(corner, frr - far, frr), every_frr, atol=1e-12)  # the same line


# -------------------------------------------------------------------------------------------------- pairs in folds

# Nearness to position 0: in fold 0 genuine -1, -2, impostor -5, -6; in fold 1 genuine -3, -4, impostor -3.2, -9.
POSITIONS = np.array([0, 1, 2, 5, 6, 3, 4, 3.2, 9])[:, None]
PAIRS = pair_folds(pd.DataFrame({"image_a": 0, "image_b": range(1, 9), "same": [1, 1, 0, 0] * 2,
                                 "fold": [0] * 4 + [1] * 4}))


def test_fold_accuracy_by_hand():
    # Fold 0 by fold 1: of -9, -4, -3.2, -3 most are right (3 of 4) at -6.5 and at -3.1; of two the higher, -3.1: all 4
    # of fold 0 right. Fold 1 by fold 0: right between -5 and -2, midway -3.5: genuine -4, impostor -3.2 wrong, 2 of 4.
    found = evaluate(PAIRS, POSITIONS, ("accuracy", "eer"), similarity=nearness)
    assert found["value"][0] == 0.75
    # t of one degree of freedom at 97.5 % is tan(0.475 pi); standard error of the mean of 1 and 1/2 is 1/4.
    assert found["ci_high"][0] - 0.75 == pytest.approx(np.tan(0.475 * np.pi) / 4)
    assert found["value"][1] == equal_error_rate([-1, -2, -3, -4], [-5, -6, -3.2, -9])
    assert found["ci_low"].isna().tolist() == [False, True]  # whose images these are is not known
    assert (found["genuine"][0], found["impostor"][0]) == (4, 4)


def test_accuracy_is_not_measured_on_the_fold_that_chose_the_threshold():
    # Each fold is separable, by a threshold that is wrong for the other: chance, where one threshold for all gives 3/4.
    positions = np.array([0, 1, 3, 5, 8])[:, None]
    pairs = pair_folds(pd.DataFrame({"image_a": 0, "image_b": [1, 2, 3, 4], "same": [1, 0] * 2, "fold": [0, 0, 1, 1]}))
    assert evaluate(pairs, positions, ["accuracy"], similarity=nearness)["value"][0] == 0.5


def test_a_pair_protocol_of_all_pairs_equals_all_against_all():
    subjects, _, descriptors = made_faces(frontal=3)
    first, second = np.triu_indices(len(subjects), 1)
    same = subjects[first] == subjects[second]
    pairs = pd.DataFrame({"image_a": second, "image_b": first, "same": same, "fold": first % 5})
    columns = ["metric", "value", "ci_low", "ci_high", "genuine", "impostor"]
    pd.testing.assert_frame_equal(evaluate(pair_folds(pairs, subjects), descriptors)[columns],
                                  evaluate(all_against_all(subjects), descriptors)[columns])


@pytest.mark.parametrize("change, message", [
    ({"fold": 0}, "found 1 genuine and 1 impostor pairs in 1 folds"),
    ({"same": True}, "found 2 genuine and 0 impostor pairs"),
    ({"same": [False, True]}, "contradicts the subjects in 2 rows, first row 0: a and a with same=False"),
])
def test_pairs_that_contradict_themselves_are_refused(change, message):
    pairs = pd.DataFrame({"image_a": [0, 0], "image_b": [1, 2], "same": [True, False], "fold": [0, 1]})
    with pytest.raises(ValueError, match=message):
        pair_folds(pairs.assign(**change), ["a", "a", "b"])
    with pytest.raises(ValueError, match=r"missing \['fold'\]"):
        pair_folds(pairs.drop(columns="fold"))


# ------------------------------------------------------------------------------------------------------ intervals


def some_protocols():
    subjects, poses, descriptors = made_faces(9, 3)
    first, second = np.random.default_rng(1).integers(0, len(subjects), (2, 150))
    same = subjects[first] == subjects[second]
    pairs = pd.DataFrame({"image_a": first, "image_b": second, "same": same, "fold": first % 2})
    protocols = [*pose_pairs(subjects, poses, 1), *pose_pairs(subjects, poses, 2), pair_folds(pairs, subjects)]
    return [pytest.param(protocol, descriptors.round(digits), id=f"{protocol.pair}-{protocol.template_size}-{digits}")
            for protocol in protocols for digits in (9, 0)]  # whole numbers make ties


@pytest.mark.parametrize("protocol, descriptors", some_protocols())
def test_a_resample_is_the_protocol_with_subjects_repeated(protocol, descriptors):
    """A subject drawn w times brings each genuine score w times and meets v copies of another w * v times."""
    metrics = ("eer", "frr_at_far_0.1")
    found = verification._comparisons(protocol, descriptors, "cosine")
    curves, possible = verification._resampled(found, metrics, 30, seed=4)
    assert possible.all()
    drawn = np.random.default_rng(4).multinomial(9, np.full(9, 1 / 9), 30)
    blocks = list(found.impostors())
    impostor = np.concatenate([block.scores for block in blocks])
    first, second = (np.concatenate([side[block.pair] for side, block in zip(sides, blocks, strict=True)])
                     for sides in ([block.first for block in blocks], [block.second for block in blocks]))
    assert (first != second).all()
    for row, times in enumerate(drawn):
        genuine = np.repeat(found.genuine, times[found.genuine_subject])
        others = np.repeat(impostor, times[first] * times[second])
        resampled = [verification._metric(metric, *curves[metric])[row] for metric in metrics]
        expected = [equal_error_rate(genuine, others), frr_at_far(genuine, others, 0.1)]
        assert resampled == pytest.approx(expected, abs=1e-12)


def test_subjects_of_comparisons_are_right():
    subjects, poses, descriptors = made_faces(5)
    codes = np.unique(subjects, return_inverse=True)[1]
    number = np.arange(len(subjects), dtype=float)[:, None]

    def pair_of_subjects(a, b):  # a score that says who was compared
        return codes[a[:, 0].astype(int)][:, None] * 10.0 + codes[b[:, 0].astype(int)]

    for protocol in pose_pairs(subjects, poses, 1):
        found = verification._comparisons(protocol, number, pair_of_subjects)
        assert (found.genuine == found.genuine_subject * 11).all()
        for block in found.impostors():
            assert (block.scores == block.first[block.pair] * 10 + block.second[block.pair]).all()


def test_small_blocks_give_the_same_table(monkeypatch):
    subjects, poses, descriptors = made_faces()
    descriptors = descriptors.round()  # products of whole numbers do not depend on the order of summation
    protocols = pose_pairs(subjects, poses, 1)

    def table():
        return pd.concat([evaluate(protocol, descriptors, resamples=40, similarity=lambda a, b: a @ b.T)
                          for protocol in protocols])

    whole = table()
    monkeypatch.setattr(verification, "BLOCK", 100)
    monkeypatch.setattr(verification, "PAIRS", 5)
    pd.testing.assert_frame_equal(table(), whole)


def test_intervals_depend_on_the_seed_alone():
    subjects, _, descriptors = made_faces()
    protocol = all_against_all(subjects)
    one, again, other = (evaluate(protocol, descriptors, resamples=100, seed=seed) for seed in (1, 1, 2))
    pd.testing.assert_frame_equal(one, again)
    assert (one["value"] == other["value"]).all()
    assert (one["ci_high"] != other["ci_high"]).any()


@settings(max_examples=10, deadline=None)
@given(st.integers(3, 10), st.integers(0, 1000), st.sampled_from([0.1, 0.6, 2.0]), st.sampled_from([0.5, 0.95]))
def test_an_interval_holds_its_value(people, seed, noise, confidence):
    subjects, poses, descriptors = made_faces(people, seed, noise)
    for protocol in pose_pairs(subjects, poses, 2):
        found = evaluate(protocol, descriptors, resamples=40, confidence=confidence)
        assert (0 <= found["ci_low"]).all() and (found["ci_low"] <= found["value"] + 1e-12).all()
        assert (found["value"] <= found["ci_high"] + 1e-12).all() and (found["ci_high"] <= 1).all()


def test_no_errors_are_not_certainty():
    subjects, _, descriptors = made_faces(20, noise=0.01)
    found = evaluate(all_against_all(subjects), descriptors)
    assert (found["value"] == 0).all() and (found["ci_low"] == 0).all()
    # Wilson's upper limit for no error in 20 trials, one per subject
    z = stats.norm.ppf(0.975)
    assert found["ci_high"].tolist() == pytest.approx([z**2 / (20 + z**2)] * 2, abs=1e-5)


def test_a_higher_confidence_gives_a_wider_interval():
    subjects, _, descriptors = made_faces()
    narrow, wide = (evaluate(all_against_all(subjects), descriptors, resamples=200, confidence=c) for c in (0.8, 0.99))
    assert (wide["ci_low"] < narrow["ci_low"]).all() and (narrow["ci_high"] < wide["ci_high"]).all()


def test_counting_at_chosen_scores_is_near_counting_at_all(monkeypatch):
    subjects, _, descriptors = made_faces(30, noise=1.5, frontal=8)
    protocol = all_against_all(subjects)
    chosen = evaluate(protocol, descriptors, resamples=300)
    monkeypatch.setattr(verification, "FINE", 10_000)
    every = evaluate(protocol, descriptors, resamples=300)
    width = every["ci_high"] - every["ci_low"]
    assert (abs(chosen["ci_low"] - every["ci_low"]) < 0.02 * width).all()
    assert (abs(chosen["ci_high"] - every["ci_high"]) < 0.02 * width).all()


def test_compare_is_the_difference_on_the_same_subjects():
    subjects, poses, a = made_faces(30, noise=1.2, frontal=3)
    b = a + 0.2 * np.random.default_rng(1).normal(size=a.shape)
    protocol = pose_pairs(subjects, poses, 1)[0]
    found, alone_a, alone_b = compare(protocol, a, b), evaluate(protocol, a), evaluate(protocol, b)
    assert found["value_a"].tolist() == alone_a["value"].tolist()
    assert found["value_b"].tolist() == alone_b["value"].tolist()
    assert found["value"].tolist() == (alone_a["value"] - alone_b["value"]).tolist()
    assert (found["ci_low"] <= found["value"]).all() and (found["value"] <= found["ci_high"]).all()
    # pairing takes out what makes subjects hard for both: far narrower than either alone
    assert (found["ci_high"] - found["ci_low"] < 0.8 * (alone_a["ci_high"] - alone_a["ci_low"])).all()
    swapped = compare(protocol, b, a)
    assert swapped["ci_low"].tolist() == pytest.approx((-found["ci_high"]).tolist())
    nothing = compare(protocol, a, 2 * a)  # cosine knows no scale
    assert nothing["value"].abs().max() < 1e-12
    # no trial on which they differ, which is no proof that there is none: as the rule of Agresti and Min
    assert (nothing["ci_low"] < 0).all() and (0 < nothing["ci_high"]).all()


def test_compare_accuracies_of_folds():
    found = compare(PAIRS, POSITIONS, -3 * POSITIONS, ["accuracy", "eer"], similarity=nearness)
    assert found["value"].tolist() == [0, 0]
    assert found["ci_high"].isna().tolist() == [False, True]


@pytest.mark.slow
@pytest.mark.parametrize("case", [(80, 2, 0.02, 0.01), (80, 2, 0.1, 0.01), (40, 5, 0.1, 0.01)])
def test_intervals_hold_the_true_rate_as_often_as_they_say(case):
    coverage = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "coverage.py"))["coverage"]
    found = coverage(*case, repeats=500, resamples=300)
    assert found["covered"].between(0.92, 0.98).all(), found.to_string()


def test_a_thinned_det_curve_keeps_the_largest_fars_below_a_grid():
    random = np.random.default_rng(0)
    far, frr, _ = verification.det_curve(random.normal(1, 1, 300), random.normal(0, 1, 5000))
    few_far, few_frr = verification.thinned(far, frr, 50)
    assert 30 < few_far.size <= 50 and set(zip(few_far, few_frr)) <= set(zip(far, frr))
    for target in np.geomspace(1 / 5000, 1, 50):
        assert far[far <= target].max() in few_far


def test_a_det_band_is_the_interval_of_frr_at_each_far():
    random = np.random.default_rng(0)
    people = np.repeat(np.arange(12), 4)
    descriptors = random.normal(size=(12, 8))[people] + random.normal(size=(48, 8))
    protocol = verification.all_against_all(people)
    band = verification.det_band(protocol, descriptors, (1e-5, 0.01, 0.1), 200)
    assert band["far"].tolist() == [0.01, 0.1]  # 1,056 impostor comparisons resolve no FAR of 0.001 %
    alone = verification.evaluate(protocol, descriptors, ("frr_at_far_0.1",), 200).iloc[0]
    assert band["frr"].iloc[1] == alone["value"]
    assert band[["ci_low", "ci_high"]].iloc[1].to_numpy() == pytest.approx(alone[["ci_low", "ci_high"]].to_numpy(float), abs=0.02)
    assert (band["ci_low"] <= band["frr"]).all() and (band["frr"] <= band["ci_high"]).all()


def test_scores_that_are_all_alike_have_a_histogram():
    alike = np.full(4, 1, np.float32)
    alike[0] = np.nextafter(np.float32(1), np.float32(0))
    edges, genuine, impostor = verification.score_histogram(alike, alike[1:], 50)
    assert len(edges) == 51 and genuine.sum() == impostor.sum() == 1


def test_pairs_with_unknown_people_have_no_intervals_over_subjects():
    pairs = pd.DataFrame({"image_a": [0, 1, 2, 3], "image_b": [1, 2, 3, 0], "same": [True, False, True, False], "fold": [1, 1, 2, 2]})
    assert verification.pair_folds(pairs, ["a", "a", "b", None]).subjects is None
    assert verification.pair_folds(pairs, ["a", "a", "b", "b"]).subjects.tolist() == ["a", "a", "b", "b"]


def test_interval_of_difference_by_hand():
    """Agresti and Min: with no trial of n on which they differ, one in n + 2 is put in, half to either side."""
    draws = np.zeros(100)
    half = stats.norm.ppf(0.975) * np.sqrt(1 / 82 / 82)
    assert interval_of_difference(0.0, 0.0, draws, draws, 80, 80) == pytest.approx((-half, half))
    assert interval_of_difference(0.0, 0.0, draws, draws, 8, 80)[1] > 2 * half, "fewer people say less"
    assert np.isnan(interval_of_difference(0.0, 0.0, draws, draws[:-1], 80, 80)).all()
    assert np.isnan(interval_of_difference(0.0, 0.0, draws[:0], draws[:0], 80, 80)).all()
    # resamples with few errors vary little: however little, they are no more trials than there are comparisons
    few = np.array([0.002, 0.001] * 50)
    low, high = interval_of_difference(0.001, 0.0, few, few, 30, 30)
    assert high - low > 1.96 / 32
    # errors enough: the normal interval of the resampled differences
    random = np.random.default_rng(0)
    a = 0.3 + 0.0005 * random.normal(size=5000)
    b = a - 0.1 + 0.0003 * random.normal(size=5000)
    low, high = interval_of_difference(0.3, 0.2, a, b, 100, 10**7)
    assert (low, high) == pytest.approx((0.1 - 1.96 * 0.0003, 0.1 + 1.96 * 0.0003), abs=2e-5)


@pytest.mark.parametrize("eers", [(0.005, 0.015), *(pytest.param(eers, marks=pytest.mark.slow) for eers in (
    (0.01, 0.03), (0.05, 0.08), (0.02, 0.02)))])
def test_intervals_of_differences_hold_the_truth(eers):
    """Of networks that share half of what makes their scores, on 30 people with 2 images: above all where errors are few."""
    coverage = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "coverage.py"))
    table = coverage["coverage_of_difference"](30, 2, eers, repeats=200, resamples=200)
    assert 0.93 <= table["covered"].iloc[0] <= 1


def test_resamples_that_lack_a_comparison_keep_their_place():
    """Few subjects have profiles: the draws of both protocols must stay those of the same subjects."""
    subjects, poses, descriptors = made_faces(12, frontal=3, profile=2)
    few = np.flatnonzero((poses != "profile") | np.isin(subjects, np.unique(subjects)[:2]))
    subjects, poses, descriptors = np.asarray(subjects)[few], np.asarray(poses)[few], descriptors[few]
    by_pair = {protocol.pair: measure(protocol, descriptors, resamples=300).draws("eer") for protocol in pose_pairs(subjects, poses, 1)}
    assert {len(draws) for draws in by_pair.values()} == {300}
    assert np.isfinite(by_pair["frontal-frontal"]).all() and 0 < np.isnan(by_pair["profile-profile"]).sum() < 300
    mean = (by_pair["frontal-frontal"] + by_pair["profile-profile"]) / 2
    assert np.isfinite(interval_of_difference(0.2, 0.1, mean, by_pair["frontal-frontal"], 2, 6)).all()


def test_people_compared_are_those_with_a_genuine_comparison():
    subjects = ["a", "a", "a", "b", "b", "c"]
    poses = ["frontal", "frontal", "profile", "frontal", "profile", "frontal"]
    found = {protocol.pair: verification.people_compared(protocol) for protocol in (
        verification.Protocol("x", "frontal-frontal", 1, tuple(np.array([i]) for i in range(6)), np.array(subjects), np.array([0, 1, 3, 5]), None),
        verification.Protocol("x", "frontal-profile", 1, tuple(np.array([i]) for i in range(6)), np.array(subjects), np.array([0, 1, 3, 5]),
                              np.array([2, 4])))}
    assert found == {"frontal-frontal": 1, "frontal-profile": 2}, poses
    assert verification.people_compared(PAIRS) == 0

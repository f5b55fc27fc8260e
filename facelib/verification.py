"""Verification as biometrics does it: protocols, scores, error rates, intervals over subjects.

Terms of ISO/IEC 19795-1, at comparison level: FAR is its FMR (impostor comparisons accepted), FRR its FNMR (genuine
comparisons rejected). A comparison is accepted when its similarity score >= threshold. Rates are fractions.

Every error rate is exact whatever the number of comparisons. FRR changes only at genuine scores, so the whole curve of
error rates is known from the number of impostor scores below each of them (and at it); those are counted block by
block, and neither the impostor scores nor their order is ever held in memory.

Intervals resample subjects, never comparisons: comparisons that share a person are not independent. A resample draws
as many subjects as there are, with replacement; a subject drawn w times counts w times. A genuine comparison of subject
s then weighs w_s, because each copy brings its own genuine comparisons, and an impostor comparison of a and b weighs
w_a * w_b, because every copy of a meets every copy of b. Copies of one subject are not compared with each other: such a
comparison is neither genuine (w_s**2 would count it as one) nor impostor.

The variance over resamples says how many independent trials the comparisons are worth, and Wilson's score interval for
that many trials is the interval of FRR at a FAR, as Fogliato, Patil and Perona recommend ("Confidence intervals for
error rates in 1:1 matching tasks", 2023, arXiv 2306.01198): quantiles of resamples shrink to nothing where errors are
few. With no error, or nothing but errors, each subject with a genuine comparison is one trial. The EER is the rate p
with FRR = p at FAR = p; its interval holds every p that lies in the interval of the FRR at FAR = p.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.metrics.pairwise import additive_chi2_kernel

POSES = ("frontal", "three-quarter", "profile")
BLOCK = 2**22  # scores held at a time
PAIRS = 2**13  # pairs of subjects whose scores are counted at a time
UNKNOWN = (np.nan, np.nan)  # interval
FINE = 256  # genuine scores, at most, at which the error rates of resamples are counted

# ------------------------------------------------------------------------------------------ error rates of given scores


class OperatingPoint(NamedTuple):
    """Accepting scores >= threshold gives these error rates (fractions). An infinite threshold accepts nothing."""

    threshold: float
    far: float
    frr: float


def equal_error_rate(genuine: np.ndarray, impostor: np.ndarray) -> float:
    """Error rate at the threshold where false rejections equal false acceptances.

    genuine, impostor: 1-D similarity scores, higher = more alike, any range.
    Returns a fraction in [0, 1]; linear interpolation between the two thresholds around the crossing
    (ISO/IEC 19795-1 terms: FRR is FNMR, FAR is FMR at comparison level).
    Raises ValueError when either is empty or holds NaN.
    """
    genuine, impostor = _checked(genuine, impostor)
    far, frr, _ = _corners(genuine, _slices(impostor))
    return float(_equal_error(far, frr))


def frr_at_far(genuine: np.ndarray, impostor: np.ndarray, far: float) -> float:
    """FRR at the largest achieved FAR that is not above `far`; see `operating_point`."""
    return operating_point(genuine, impostor, far).frr


def operating_point(genuine: np.ndarray, impostor: np.ndarray, far: float) -> OperatingPoint:
    """The lowest threshold whose FAR is not above `far`, with the FAR achieved there and the FRR.

    genuine, impostor: 1-D similarity scores; far: target in [0, 1].
    The threshold is a score, or infinite when only rejecting everything keeps to the target.
    Raises ValueError when a side is empty or holds NaN, or the target is not a fraction.
    """
    genuine, impostor = _checked(genuine, impostor)
    _check_far(far)
    n = impostor.size
    allowed = int(far * n)
    allowed += (allowed + 1) / n <= far  # far * n may round below the whole number that it is
    if allowed >= n:
        return OperatingPoint(float(min(genuine.min(), impostor.min())), 1.0, 0.0)
    highest_rejected = np.partition(impostor, n - 1 - allowed)[n - 1 - allowed]
    accepted, matched = impostor > highest_rejected, genuine > highest_rejected
    threshold = min(np.min(impostor, where=accepted, initial=np.inf), np.min(genuine, where=matched, initial=np.inf))
    missed = genuine.size - np.count_nonzero(matched)
    return OperatingPoint(float(threshold), np.count_nonzero(accepted) / n, missed / genuine.size)


def det_curve(genuine: np.ndarray, impostor: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """FAR and FRR at every distinct score as threshold, and at infinity, where nothing is accepted.

    genuine, impostor: 1-D similarity scores. Returns far (falling from 1 to 0), frr (rising from 0 to 1), thresholds
    (ascending), all 1-D. The ROC curve is (far, 1 - frr). Raises ValueError when either side is empty or holds NaN.
    """
    genuine, impostor = _checked(genuine, impostor)
    scores = np.union1d(genuine, impostor)
    accepted = impostor.size - np.searchsorted(np.sort(impostor), scores)
    rejected = np.searchsorted(np.sort(genuine), scores)
    far, frr = np.append(accepted / impostor.size, 0.0), np.append(rejected / genuine.size, 1.0)
    return far, frr, np.append(scores, np.inf)


def thinned(far: np.ndarray, frr: np.ndarray, points: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """About `points` of a DET curve's points, for tables and figures: the largest achieved FAR not above each of so many
    evenly spread on a logarithmic scale, from the lowest that was achieved. far falls, as `det_curve` gives it."""
    grid = np.geomspace(far[far > 0].min(), 1, points)
    kept = np.unique(np.searchsorted(-far, -grid))
    return far[kept], frr[kept]


def auc(genuine: np.ndarray, impostor: np.ndarray) -> float:
    """Area under the ROC curve: chance that a genuine score exceeds an impostor score, ties counted as half."""
    genuine, impostor = _checked(genuine, impostor)
    far, frr, _ = _corners(genuine, _slices(impostor))
    return float(-np.trapezoid(1 - frr, far))


def score_histogram(genuine: np.ndarray, impostor: np.ndarray, bins: int = 100):
    """Share of the genuine and of the impostor scores in `bins` equal bins over all finite scores.

    Returns edges (bins + 1,), genuine (bins,), impostor (bins,); each share sums to 1.
    """
    genuine, impostor = _checked(genuine, impostor)
    low, high = float(min(genuine.min(), impostor.min())), float(max(genuine.max(), impostor.max()))
    if high - low < 1e-6 * max(abs(low), abs(high), 1e-300):  # all alike, as of a network that knows nothing
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, bins + 1)
    return edges, *(np.histogram(scores, edges)[0] / scores.size for scores in (genuine, impostor))


def _checked(genuine, impostor) -> tuple[np.ndarray, np.ndarray]:
    genuine, impostor = np.asarray(genuine), np.asarray(impostor)
    for side, found in (("genuine", genuine), ("impostor", impostor)):
        if found.ndim != 1 or found.size == 0:
            raise ValueError(f"{side} scores: expected a 1-D array of at least one score, found shape {found.shape}")
        if np.isnan(found).any():
            raise ValueError(f"{np.isnan(found).sum()} of {found.size} {side} scores are NaN; "
                             "look for NaN in the descriptors they come from")
    dtype = np.result_type(genuine, impostor, np.float32)
    return genuine.astype(dtype, copy=False), impostor.astype(dtype, copy=False)


def _check_far(far: float) -> None:
    if not 0 <= far <= 1:
        raise ValueError(f"far: expected a fraction from 0 to 1, found {far}")


def _slices(scores: np.ndarray) -> Iterator[np.ndarray]:
    return (scores[start:start + BLOCK] for start in range(0, scores.size, BLOCK))


def _corners(genuine: np.ndarray, impostor: Iterator[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """FAR and FRR at and just above every distinct genuine score; straight lines between them are the whole curve.

    impostor: blocks of scores. Returns far, frr, thresholds, starting at (1, 0) and ending at (0, 1).
    """
    scores, counts = np.unique(genuine, return_counts=True)
    thresholds = _at_and_above(scores)
    rejected, total = np.zeros(thresholds.size, np.int64), 0
    for block in impostor:
        block = np.sort(block)
        rejected[::2] += np.searchsorted(block, scores)
        rejected[1::2] += np.searchsorted(block, scores, side="right")
        total += block.size
    above = np.cumsum(counts)
    frr = np.stack([above - counts, above], axis=1).ravel() / genuine.size
    return _with_ends((total - rejected) / total, frr, thresholds)


def _at_and_above(scores: np.ndarray) -> np.ndarray:
    """Each score followed by the next larger number, the lowest threshold that rejects it."""
    return np.stack([scores, np.nextafter(scores, scores.dtype.type(np.inf))], axis=-1).ravel()


def _with_ends(far: np.ndarray, frr: np.ndarray, thresholds: np.ndarray):
    """The curve, (..., thresholds), between the threshold that accepts everything and the one that accepts nothing."""
    pad = [(0, 0)] * (far.ndim - 1) + [(1, 1)]
    return (np.pad(far, pad, constant_values=(1, 0)), np.pad(frr, pad, constant_values=(0, 1)),
            np.pad(thresholds, 1, constant_values=(-np.inf, np.inf)))


def _metric(metric: str, far: np.ndarray, frr: np.ndarray) -> np.ndarray:
    return _equal_error(far, frr) if metric == "eer" else _frr_at(far, frr, _target(metric))


def _equal_error(far: np.ndarray, frr: np.ndarray) -> np.ndarray:
    """Where curves, (..., thresholds), cross FAR = FRR; linear between thresholds."""
    high = np.argmax(frr >= far, axis=-1)[..., None]
    far_low, far_high = (np.take_along_axis(far, i, -1)[..., 0] for i in (high - 1, high))
    frr_low, frr_high = (np.take_along_axis(frr, i, -1)[..., 0] for i in (high - 1, high))
    share = (far_low - frr_low) / (far_low - frr_low + frr_high - far_high)
    return frr_low + share * (frr_high - frr_low)


def _frr_at(far: np.ndarray, frr: np.ndarray, target: float) -> np.ndarray:
    """FRR of curves, (..., thresholds), at the lowest threshold whose FAR is not above the target."""
    return np.take_along_axis(frr, _reached(far, target)[..., None], -1)[..., 0]


def _reached(far: np.ndarray, target: float) -> np.ndarray:
    """The position of that threshold."""
    return np.argmax(far <= target, axis=-1)


def _target(metric: str) -> float:
    """The target FAR in a metric's name, such as frr_at_far_0.001; of eer, none (NaN)."""
    if metric == "eer":
        return np.nan
    try:
        if not metric.startswith("frr_at_far_"):
            raise ValueError(metric)
        far = float(metric.removeprefix("frr_at_far_"))
    except ValueError:
        raise ValueError(f"metric: expected eer, frr_at_far_<fraction> or accuracy, found {metric!r}") from None
    _check_far(far)
    return far

# --------------------------------------------------------------------------------------------------------- similarities


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Cosine of every row of a, (m, d), with every row of b, (n, d): (m, n), 1 = same direction.

    A row of zeros, as a network gives that has lost too much, is similar to nothing: 0 with every row.
    """
    return _dot(_scaled(a, 2), _scaled(b, 2))


def chi_square(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Minus the chi-square distance sum (x - y)^2 / (x + y) of every row of a, (m, d), with every row of b, (n, d).

    Rows are divided by their sums first, as histograms are; 0 = same, -2 = nothing in common.
    A row of zeros is at -1 from every other row. Raises ValueError when a value is negative.
    """
    return additive_chi2_kernel(_scaled(a, 1), _scaled(b, 1))


def _scaled(rows: np.ndarray, order: int) -> np.ndarray:
    norms = np.linalg.norm(rows, order, axis=1, keepdims=True)
    return rows / np.where(norms > 0, norms, 1)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a @ b.T


# What to do to the descriptors once, then to every pair of blocks of them.
SIMILARITIES = {"cosine": (lambda rows: _scaled(rows, 2), _dot),
                "chi_square": (lambda rows: _scaled(rows, 1), additive_chi2_kernel)}

# ------------------------------------------------------------------------------------------------------------ protocols


@dataclass(frozen=True)
class Protocol:
    """Which templates there are, and which are compared with which.

    templates: the image indices of each template; subjects: the subject of each template.
    first, second: indices of templates; each in `first` is compared with each in `second`, or, when `second` is None,
        with each other in `first` once. Two templates of one subject make a genuine comparison, others an impostor one.
    """

    name: str
    pair: str
    template_size: int
    templates: tuple[np.ndarray, ...]
    subjects: np.ndarray
    first: np.ndarray
    second: np.ndarray | None


@dataclass(frozen=True)
class PairProtocol:
    """Listed comparisons in folds: image first[i] with image second[i], genuine when same[i], in fold[i].

    subjects: the subject of every image, or None where only `same` is known (then only the accuracy has an interval).
    """

    name: str
    pair: str
    first: np.ndarray
    second: np.ndarray
    same: np.ndarray
    fold: np.ndarray
    subjects: np.ndarray | None
    template_size: int = 1


def people_compared(protocol: Protocol | PairProtocol) -> int:
    """How many subjects have a genuine comparison; 0 where subjects are unknown."""
    if isinstance(protocol, PairProtocol):
        return 0 if protocol.subjects is None else np.unique(protocol.subjects[protocol.first[protocol.same]]).size
    first = protocol.subjects[protocol.first]
    if protocol.second is None:
        return np.count_nonzero(np.unique(first, return_counts=True)[1] > 1)
    return np.intersect1d(first, protocol.subjects[protocol.second]).size


def pose_pairs(subjects: Sequence, poses: Sequence, template_size: int) -> list[Protocol]:
    """One protocol for every unordered pair of poses, from frontal-frontal on.

    subjects, poses: one entry per image; poses all None stand for one pose called "any".
    template_size 1: every image is a template. Otherwise a subject's images of one pose make, in their order, templates
        of min(template_size, images // 2), so that there are two at least; images left over are not used, nor is a pose
        of which a subject has a single image.
    Same pose: unordered pairs of templates; two poses: each template of the one with each of the other. So 368 subjects
    with 2 templates of each of 3 poses give 368 genuine comparisons for each pose and 1,472 for each pair of poses.
    Raises ValueError when a pair of poses has fewer than two subjects or no genuine comparison.
    """
    subjects, poses = np.asarray(subjects).astype(str), _named(poses)
    if template_size < 1 or len(subjects) != len(poses):
        raise ValueError(f"expected template_size >= 1 and one pose per image, found template_size={template_size} and "
                         f"{len(poses)} poses for {len(subjects)} images")
    names = sorted(set(poses), key=lambda pose: (POSES.index(pose) if pose in POSES else len(POSES), pose))
    templates, owners, pose_of = [], [], []
    for (subject, pose), images in pd.Series(range(len(subjects))).groupby([subjects, poses]).indices.items():
        size = 1 if template_size == 1 else min(template_size, len(images) // 2)
        count = len(images) // size if size else 0
        templates += [images[k * size:(k + 1) * size] for k in range(count)]
        owners += [subject] * count
        pose_of += [pose] * count
    pose_of = np.array(pose_of)
    protocols = [Protocol("pose_pairs", f"{a}-{b}", template_size, tuple(templates), np.array(owners),
                          np.flatnonzero(pose_of == a), None if a == b else np.flatnonzero(pose_of == b))
                 for a, b in combinations_with_replacement(names, 2)]
    for protocol in protocols:
        _check_comparable(protocol)
    return protocols


def all_against_all(subjects: Sequence) -> Protocol:
    """Every image with every other, once. subjects: one entry per image. Raises as `pose_pairs` does."""
    subjects = np.asarray(subjects).astype(str)
    images = np.arange(len(subjects))
    protocol = Protocol("all_against_all", "any-any", 1, tuple(images[:, None]), subjects, images, None)
    _check_comparable(protocol)
    return protocol


def pair_folds(pairs: pd.DataFrame, subjects: Sequence | None = None, name: str = "pair_folds") -> PairProtocol:
    """Listed pairs in folds, such as the 10 folds of LFW View 2.

    pairs: columns image_a, image_b (positions of images), same (true or false), fold.
    subjects: the subject of every image; None, or with an image whose subject is unknown, they are not used.
    Raises ValueError when a column is missing, `same` contradicts the subjects, there are fewer than two folds, or a
    side has no pairs.
    """
    missing = {"image_a", "image_b", "same", "fold"} - set(pairs.columns)
    if missing:
        raise ValueError(f"pairs: expected columns image_a, image_b, same, fold; missing {sorted(missing)}")
    first, second = (pairs[column].to_numpy(dtype=np.int64) for column in ("image_a", "image_b"))
    same, fold = pairs["same"].to_numpy(dtype=bool), pairs["fold"].to_numpy()
    if same.all() or not same.any() or len(set(fold)) < 2:
        raise ValueError(f"pairs: expected genuine and impostor pairs in two folds or more, found {same.sum()} genuine "
                         f"and {(~same).sum()} impostor pairs in {len(set(fold))} folds")
    if subjects is not None and pd.isna(np.asarray(subjects, dtype=object)).any():
        subjects = None
    if subjects is not None:
        subjects = np.asarray(subjects).astype(str)
        wrong = np.flatnonzero((subjects[first] == subjects[second]) != same)
        if wrong.size:
            row = wrong[0]
            raise ValueError(f"pairs: `same` contradicts the subjects in {wrong.size} rows, first row {row}: "
                             f"{subjects[first[row]]} and {subjects[second[row]]} with same={same[row]}")
    return PairProtocol(name, "any-any", first, second, same, fold, subjects)


def _named(poses: Sequence) -> np.ndarray:
    poses = np.asarray(poses, dtype=object)
    unknown = pd.isna(poses)
    if unknown.any() and not unknown.all():
        raise ValueError(f"{unknown.sum()} of {poses.size} images have no pose; give every image a pose, or none")
    return np.full(poses.shape, "any") if unknown.all() else poses.astype(str)


def _check_comparable(protocol: Protocol) -> None:
    first = protocol.subjects[protocol.first]
    second = first if protocol.second is None else protocol.subjects[protocol.second]
    people = len(set(first) | set(second))
    genuine = len(set(first) & set(second)) if protocol.second is not None else len(first) - len(set(first))
    if people < 2 or not genuine:
        raise ValueError(f"{protocol.pair}, template size {protocol.template_size}: found {people} subjects and "
                         f"{'some' if genuine else 'no'} genuine comparisons; expected 2 subjects or more, and one of "
                         "them with two templates to compare. Add images or leave this pose out")

# -------------------------------------------------------------------------------------------------- scores of protocols


class Impostors(NamedTuple):
    """A block of impostor scores, (n,): score k compares subject first[pair[k]] with subject second[pair[k]]."""

    scores: np.ndarray
    pair: np.ndarray
    first: np.ndarray
    second: np.ndarray


@dataclass(frozen=True)
class Comparisons:
    """The scores of a protocol: genuine ones held, each with its subject (numbered from 0), impostor ones as blocks."""

    subjects: int
    genuine: np.ndarray
    genuine_subject: np.ndarray
    impostors: Callable[[], Iterator[Impostors]]


def protocol_scores(protocol: Protocol | PairProtocol, descriptors: np.ndarray,
                    similarity: str | Callable = "cosine") -> tuple[np.ndarray, np.ndarray]:
    """All genuine and all impostor scores of a protocol; see `evaluate` for the arguments."""
    found = _comparisons(protocol, descriptors, similarity)
    return found.genuine, np.concatenate([block.scores for block in found.impostors()])


def protocol_det(protocol: Protocol | PairProtocol, descriptors: np.ndarray, similarity: str | Callable = "cosine"):
    """The DET curve of a protocol as far, frr, thresholds, exact for any number of comparisons in little memory.

    The points are the ends of the curve's straight pieces: at every distinct genuine score and just above it.
    """
    found = _comparisons(protocol, descriptors, similarity)
    return _corners(found.genuine, (block.scores for block in found.impostors()))


def _comparisons(protocol: Protocol | PairProtocol, descriptors: np.ndarray, similarity: str | Callable) -> Comparisons:
    descriptors = np.asarray(descriptors)
    if descriptors.dtype != np.float64:
        descriptors = descriptors.astype(np.float32, copy=False)
    if descriptors.ndim != 2:
        raise ValueError(f"descriptors: expected shape (images, dimensions), found {descriptors.shape}")
    bad = ~np.isfinite(descriptors).all(axis=1)
    if bad.any():
        raise ValueError(f"{bad.sum()} of {len(bad)} descriptors hold NaN or infinity, first image {bad.argmax()}")
    if not callable(similarity) and similarity not in SIMILARITIES:
        raise ValueError(f"similarity: expected {' or '.join(SIMILARITIES)} or a callable, found {similarity!r}")
    prepare, compare_rows = (np.asarray, similarity) if callable(similarity) else SIMILARITIES[similarity]
    if isinstance(protocol, PairProtocol):
        return _listed(protocol, prepare(descriptors), compare_rows)
    return _crossed(protocol, prepare(_means(protocol.templates, descriptors)), compare_rows)


def _means(templates: tuple[np.ndarray, ...], descriptors: np.ndarray) -> np.ndarray:
    """A template is the mean of its images' descriptors: (templates, dimensions)."""
    images, sizes = np.concatenate(templates), np.array([len(template) for template in templates])
    if images.max() >= len(descriptors):
        raise ValueError(f"the protocol is for {images.max() + 1} images or more, found {len(descriptors)} descriptors")
    sums = np.add.reduceat(descriptors[images], np.cumsum(sizes) - sizes, axis=0)
    return sums / sizes[:, None].astype(sums.dtype)


def _crossed(protocol: Protocol, templates: np.ndarray, compare_rows: Callable) -> Comparisons:
    _, codes = np.unique(protocol.subjects, return_inverse=True)
    subjects = codes.max() + 1
    once = protocol.second is None

    def sorted_by_subject(chosen: np.ndarray):
        order = chosen[np.argsort(codes[chosen], kind="stable")]
        return templates[order], codes[order]

    rows, row_codes = sorted_by_subject(protocol.first)
    columns, column_codes = (rows, row_codes) if once else sorted_by_subject(protocol.second)

    genuine, genuine_subject = [], []
    for subject in np.intersect1d(row_codes, column_codes):
        block = compare_rows(rows[row_codes == subject], columns[column_codes == subject])
        genuine.append(block[np.triu_indices(len(block), 1)] if once else block.ravel())
        genuine_subject.append(np.full(genuine[-1].size, subject))

    def impostors() -> Iterator[Impostors]:
        step = max(1, BLOCK // len(columns))
        for start in range(0, len(rows), step):
            left = row_codes[start:start + step]
            skip = start if once else 0
            right = column_codes[skip:]
            block = compare_rows(rows[start:start + step], columns[skip:])
            # In subject order, a later subject in the columns is each unordered pair once.
            kept = right > left[:, None] if once else right != left[:, None]
            if kept.any():
                many = left[-1] - left[0] + 1
                pair = ((left - left[0]) * subjects)[:, None] + right
                yield Impostors(block[kept], pair[kept], np.repeat(np.arange(left[0], left[-1] + 1), subjects),
                                np.tile(np.arange(subjects), many))

    return Comparisons(subjects, np.concatenate(genuine), np.concatenate(genuine_subject), impostors)


def _listed(protocol: PairProtocol, images: np.ndarray, compare_rows: Callable) -> Comparisons:
    values = _pair_scores(protocol, images, compare_rows)
    if protocol.subjects is None:
        codes, subjects = np.zeros(len(images), np.int64), 0
    else:
        names, codes = np.unique(protocol.subjects, return_inverse=True)
        subjects = names.size
    pairs, pair = np.unique(np.stack([codes[protocol.first], codes[protocol.second]])[:, ~protocol.same], axis=1,
                            return_inverse=True)
    impostors = Impostors(values[~protocol.same], pair.ravel(), *pairs)
    return Comparisons(subjects, values[protocol.same], codes[protocol.first][protocol.same], lambda: iter([impostors]))


def _pair_scores(protocol: PairProtocol, images: np.ndarray, compare_rows: Callable) -> np.ndarray:
    highest = max(protocol.first.max(), protocol.second.max())
    if highest >= len(images):
        raise ValueError(f"the protocol is for {highest + 1} images or more, found {len(images)} descriptors")
    return np.array([compare_rows(images[a:a + 1], images[b:b + 1])[0, 0]
                     for a, b in zip(protocol.first, protocol.second, strict=True)])

# ----------------------------------------------------------------------------------------------- error rates, intervals


def evaluate(protocol: Protocol | PairProtocol, descriptors: np.ndarray,
             metrics: Sequence[str] = ("eer", "frr_at_far_0.001"), resamples: int = 1000, seed: int = 0,
             similarity: str | Callable = "cosine", confidence: float = 0.95) -> pd.DataFrame:
    """Error rates of descriptors on a protocol, with intervals over subjects (see the module's docstring).

    descriptors: (images, dimensions), not normalised, one row per image that the protocol was made for.
    metrics: eer; frr_at_far_<fraction>; accuracy (a PairProtocol's).
    similarity: cosine, chi_square, or a callable from (m, dimensions), (n, dimensions) to (m, n) scores.
    Returns one row per metric: protocol, pair, template_size, metric, value, ci_low, ci_high, genuine, impostor
    (numbers of comparisons). Rates are fractions. An interval is NaN where subjects are unknown or resamples is 0.
    Raises ValueError for an unknown metric or similarity, and for descriptors that are not finite or too few.
    """
    return measure(protocol, descriptors, metrics, resamples, seed, similarity).table(confidence)


def compare(protocol: Protocol | PairProtocol, descriptors_a: np.ndarray, descriptors_b: np.ndarray,
            metrics: Sequence[str] = ("eer", "frr_at_far_0.001"), resamples: int = 1000, seed: int = 0,
            similarity: str | Callable = "cosine", confidence: float = 0.95) -> pd.DataFrame:
    """Error rates of a minus those of b on the same comparisons, with intervals over subjects.

    Both are measured on the same resamples of subjects, so what makes a subject hard for both cancels; the interval is
    `interval_of_difference` (for accuracy, the t interval of the folds' differences).
    Arguments and rows are those of `evaluate`; value is the difference, value_a and value_b stand before it.
    """
    a, b = (measure(protocol, descriptors, metrics, resamples, seed, similarity)
            for descriptors in (descriptors_a, descriptors_b))
    return a.minus(b, confidence)


def interval_of_difference(value_a: float, value_b: float, draws_a: np.ndarray, draws_b: np.ndarray, people: int, genuine: int,
                           confidence: float = 0.95) -> tuple[float, float]:
    """Interval of a's error rate less b's, measured on the same comparisons; rates may be means over protocols.

    draws_a, draws_b: the rates in the same resamples of subjects (`Measurement.draws`). people: subjects with a genuine
    comparison. genuine: genuine comparisons, of all the protocols of a mean. The variance over resamples says on which
    share of so many independent trials the two differ, and the interval is that of Agresti and Min for a difference of paired proportions (Statistics in Medicine 24, 2005): quantiles
    of resamples would shrink to nothing where both make few errors. The trials are those that the rates themselves are worth,
    one for each of `people` at least, one for each genuine comparison at most: resamples of few errors vary less than other
    people would. NaN where there are no draws, or not as many of both.
    """
    if len(draws_a) != len(draws_b) or np.count_nonzero(known := np.isfinite(draws_a) & np.isfinite(draws_b)) < 2:
        return UNKNOWN
    draws_a, draws_b = draws_a[known], draws_b[known]
    difference = value_a - value_b
    trials = max(people, *(_trials(value, draws, people) for value, draws in ((value_a, draws_a), (value_b, draws_b))))
    trials = min(trials, genuine)
    differing = trials * (draws_a - draws_b).var(ddof=1) + difference**2
    centre, differing = difference * trials / (trials + 2), (differing * trials + 1) / (trials + 2)
    half = stats.norm.ppf((1 + confidence) / 2) * np.sqrt(max(differing - centre**2, 0) / (trials + 2))
    return float(min(centre - half, difference)), float(max(centre + half, difference))


BAND = (0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 5e-3, 2e-3, 1e-3, 5e-4, 2e-4, 1e-4)  # falling, as in a DET curve


def det_band(protocol: Protocol | PairProtocol, descriptors: np.ndarray, fars: Sequence[float] = BAND,
             resamples: int = 1000, seed: int = 0, similarity: str | Callable = "cosine", confidence: float = 0.95) -> pd.DataFrame:
    """FRR at each of `fars` with its interval over subjects: columns far, frr, ci_low, ci_high, in the order of fars.

    The intervals are those of `evaluate`, each for its own FAR: figures.DetDisplay(far, frr, name, ci_low, ci_high) draws them. FARs that the protocol cannot resolve, below one of its
    impostor comparisons, are left out. Raises as `evaluate` does.
    """
    impostors = measure(protocol, descriptors, (), 0, seed, similarity).impostor
    fars = [far for far in fars if far * impostors >= 1]
    table = evaluate(protocol, descriptors, [f"frr_at_far_{far!r}" for far in fars], resamples, seed, similarity, confidence)
    return table.assign(far=fars).rename(columns={"value": "frr"})[["far", "frr", "ci_low", "ci_high"]]


@dataclass(frozen=True)
class Measurement:
    """A protocol's error rates on descriptors, and what their intervals and differences are worked out from.

    values: each metric's. curve: FAR and FRR, (thresholds,), exact.
    resampled: for each metric, FAR and FRR of the resamples, (resamples, thresholds around its operating points): of those that
        are `possible`, (all resamples,), and have both kinds of comparison.
    folds: accuracy of each fold.
    """

    protocol: Protocol | PairProtocol
    values: dict[str, float]
    curve: tuple[np.ndarray, np.ndarray]
    resampled: dict[str, tuple[np.ndarray, np.ndarray]]
    possible: np.ndarray
    folds: np.ndarray
    genuine: int
    impostor: int

    def table(self, confidence: float = 0.95) -> pd.DataFrame:
        """The rows of `evaluate`."""
        intervals = [_interval(self, metric, confidence) for metric in self.values]
        return self._table(intervals, value=list(self.values.values()))

    def minus(self, other: Measurement, confidence: float = 0.95) -> pd.DataFrame:
        """The rows of `compare`, for another measurement of the same protocol, metrics, resamples and seed."""
        intervals = [self._interval_of_difference(other, metric, confidence) for metric in self.values]
        mine, others = np.array(list(self.values.values())), np.array([other.values[metric] for metric in self.values])
        return self._table(intervals, value_a=mine, value_b=others, value=mine - others)

    def _interval_of_difference(self, other: Measurement, metric: str, confidence: float) -> Sequence[float]:
        if metric == "accuracy":
            return _t_interval(self.folds - other.folds, confidence)
        return interval_of_difference(self.values[metric], other.values[metric], self.draws(metric), other.draws(metric),
                                      people_compared(self.protocol), self.genuine, confidence)

    def draws(self, metric: str) -> np.ndarray:
        """The metric in every resample of subjects, (resamples,): NaN in those that lack a kind of comparison, none where
        subjects are unknown.

        Measurements with the same seed, of protocols over the same subjects, draw the same subjects: their draws, and means
        and differences of those, belong together (`interval_of_difference`).
        """
        found = np.full(len(self.possible), np.nan)
        if self.resampled:
            found[self.possible] = _metric(metric, *self.resampled[metric])
        return found

    def _table(self, intervals: list, **values) -> pd.DataFrame:
        low, high = np.array(intervals).T
        return pd.DataFrame({"protocol": self.protocol.name, "pair": self.protocol.pair,
                             "template_size": self.protocol.template_size, "metric": list(self.values), **values,
                             "ci_low": low, "ci_high": high, "genuine": self.genuine, "impostor": self.impostor})


def measure(protocol: Protocol | PairProtocol, descriptors: np.ndarray,
            metrics: Sequence[str] = ("eer", "frr_at_far_0.001"), resamples: int = 1000, seed: int = 0,
            similarity: str | Callable = "cosine") -> Measurement:
    """What `evaluate` and `compare` are worked out from, so that one measurement can serve several of them.

    Arguments and errors are those of `evaluate`.
    """
    rates = [metric for metric in metrics if metric != "accuracy"]
    for metric in rates:
        _target(metric)
    found = _comparisons(protocol, descriptors, similarity)
    counted = 0

    def blocks() -> Iterator[np.ndarray]:
        nonlocal counted
        for block in found.impostors():
            counted += block.scores.size
            yield block.scores

    far, frr, _ = _corners(found.genuine, blocks())
    values = {metric: float(_metric(metric, far, frr)) for metric in rates}
    folds = np.empty(0)
    if "accuracy" in metrics:
        folds = _fold_accuracies(protocol, found)
        values["accuracy"] = folds.mean()
    return Measurement(protocol, {metric: values[metric] for metric in metrics}, (far, frr),
                       *_resampled(found, rates, resamples, seed), folds,
                       found.genuine.size, counted)


def _resampled(found: Comparisons, metrics: Sequence[str], resamples: int, seed: int) -> tuple[dict, np.ndarray]:
    """For each metric, FAR and FRR of the resamples that are possible, (resamples, thresholds); and which of all are.

    In two rounds: a coarse one finds the range of thresholds where resamples have their operating points, a fine one
    counts at the genuine scores in it. Where these are too many, FINE are taken, evenly spread: intervals then end
    within 1 % of their width of where all would put them, those of differences within 3 % (measured).
    """
    if not found.subjects or not resamples or not metrics:
        return {}, np.empty(0, bool)
    equal = np.full(found.subjects, 1 / found.subjects)
    weights = np.random.default_rng(seed).multinomial(found.subjects, equal, resamples).astype(float)
    distinct = np.unique(found.genuine)
    far, frr, thresholds = _rates(found, weights, _spread(distinct, FINE // 4))
    possible = ~np.isnan(far + frr).any(axis=1)  # of very few subjects, a resample may lack a kind of comparison
    if possible.sum() < 2:
        return {}, np.empty(0, bool)
    far, frr, weights = far[possible], frr[possible], weights[possible]
    ranges, chosen = {}, []
    for metric in metrics:
        targets = [_target(metric)] * 2
        if metric == "eer":  # whose interval looks at FARs beside it, as far away as it can reach
            found_eer, people = _equal_error(far, frr), np.unique(found.genuine_subject).size
            targets = [_wilson(found_eer.min(), people, 0.999)[0], _wilson(found_eer.max(), people, 0.999)[1]]
        low = thresholds[max(_reached(far, targets[1]).min() - 1, 0)]
        low, high = np.nextafter(low, thresholds[0]), thresholds[_reached(far, targets[0]).max()]
        ranges[metric] = low, high
        chosen.append(_spread(distinct[(distinct >= low) & (distinct <= high)], max(FINE // len(metrics), 2)))
    far, frr, thresholds = _rates(found, weights, np.unique(np.concatenate(chosen)))
    inside = {metric: (thresholds >= low) & (thresholds <= high) for metric, (low, high) in ranges.items()}
    return {metric: (far[:, columns], frr[:, columns]) for metric, columns in inside.items()}, possible


def _spread(values: np.ndarray, count: int) -> np.ndarray:
    """At most `count` of the values, evenly spread, both ends included."""
    return values[np.unique(np.linspace(0, len(values) - 1, min(count, len(values))).round().astype(int))]


def _rates(found: Comparisons, weights: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """FAR and FRR for each row of weights, (rows, thresholds), at and just above the chosen scores; the thresholds.

    Sums of whole numbers below 2^53: exact in float64, in whatever order the matrix products add them.
    """
    thresholds = _at_and_above(chosen)
    bins = thresholds.size + 1

    def histograms(values: np.ndarray, group: np.ndarray, groups: int) -> np.ndarray:
        passed = np.searchsorted(thresholds, values, side="right")  # how many thresholds accept the score
        return np.bincount(group * bins + passed, minlength=groups * bins).reshape(groups, bins)

    genuine = weights @ histograms(found.genuine, found.genuine_subject, found.subjects)
    impostor = np.zeros((len(weights), bins))
    for block in found.impostors():
        for start in range(0, block.first.size, PAIRS):
            first, second = block.first[start:start + PAIRS], block.second[start:start + PAIRS]
            here = (block.pair >= start) & (block.pair < start + PAIRS)
            histogram = histograms(block.scores[here], block.pair[here] - start, first.size)
            met = np.flatnonzero(histogram.any(axis=1))
            impostor += (weights[:, first[met]] * weights[:, second[met]]) @ histogram[met]
    genuine_total, impostor_total = (histogram.sum(axis=1, keepdims=True) for histogram in (genuine, impostor))
    with np.errstate(invalid="ignore"):  # 0 / 0 where a resample has no comparison of a kind
        frr = genuine.cumsum(axis=1)[:, :-1] / genuine_total
        far = (impostor_total - impostor.cumsum(axis=1)[:, :-1]) / impostor_total
    return _with_ends(far, frr, thresholds)


def _interval(found: Measurement, metric: str, confidence: float) -> tuple[float, float]:
    if metric == "accuracy":
        return _t_interval(found.folds, confidence)
    if not found.resampled:
        return UNKNOWN
    value, curves, people = found.values[metric], found.resampled[metric], people_compared(found.protocol)
    if metric != "eer":
        return _wilson(value, _trials(value, _metric(metric, *curves), people), confidence)
    least = max(people, _trials(_frr_at(*found.curve, value), _frr_at(*curves, value), people))

    def plausible(rate: float) -> bool:
        frr = _frr_at(*found.curve, rate)
        low, high = _wilson(frr, _trials(frr, _frr_at(*curves, rate), least), confidence)
        return low <= rate <= high

    # Beyond these rates some resample would have its operating point outside the thresholds counted.
    smallest, largest = curves[0][:, -1].max(), curves[0][:, 0].min()
    return _last(plausible, value, min(smallest, value)), _last(plausible, value, max(largest, value))


def _trials(rate: float, resampled: np.ndarray, without_errors: float) -> float:
    """How many independent trials would vary as the resampled rate does; without errors (or successes), as given."""
    variance = resampled.var(ddof=1)
    return rate * (1 - rate) / variance if variance > 0 and 0 < rate < 1 else without_errors


def _wilson(rate: float, trials: float, confidence: float) -> tuple[float, float]:
    """Wilson's score interval of a rate in so many independent trials."""
    z = stats.norm.ppf((1 + confidence) / 2)
    centre = (rate + z**2 / (2 * trials)) / (1 + z**2 / trials)
    half = z / (1 + z**2 / trials) * np.sqrt(rate * (1 - rate) / trials + z**2 / (4 * trials**2))
    return max(min(centre - half, rate), 0.0), min(max(centre + half, rate), 1.0)  # rounding must not exclude the rate


def _last(plausible: Callable[[float], bool], inside: float, outside: float) -> float:
    """The end of the plausible rates on the way from one inside to one outside, to a 2^-20 of the way."""
    for _ in range(20):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if plausible(middle) else (inside, middle)
    return inside


def _fold_accuracies(protocol: PairProtocol, found: Comparisons) -> np.ndarray:
    """Share of right decisions in each fold, at the threshold that is best in the other folds."""
    if not isinstance(protocol, PairProtocol):
        raise ValueError(f"metric accuracy: expected pairs in folds (pair_folds), found protocol {protocol.name!r}")
    genuine, [(impostor, *_)] = found.genuine, found.impostors()
    genuine_fold, impostor_fold = protocol.fold[protocol.same], protocol.fold[~protocol.same]
    accuracies = []
    for fold in np.unique(protocol.fold):
        mated, other = genuine_fold == fold, impostor_fold == fold
        threshold = _most_accurate(genuine[~mated], impostor[~other])
        right = np.count_nonzero(genuine[mated] >= threshold) + np.count_nonzero(impostor[other] < threshold)
        accuracies.append(right / (mated.sum() + other.sum()))
    return np.array(accuracies)


def _most_accurate(genuine: np.ndarray, impostor: np.ndarray) -> float:
    """The threshold, midway between two scores, with the most right decisions; of several the middle one."""
    values = np.union1d(genuine, impostor).astype(float)
    thresholds = np.concatenate([[-np.inf], (values[1:] + values[:-1]) / 2, [np.inf]])
    right = np.searchsorted(np.sort(impostor), thresholds) - np.searchsorted(np.sort(genuine), thresholds)
    best = np.flatnonzero(right == right.max())
    return thresholds[best[best.size // 2]]


def _t_interval(folds: np.ndarray, confidence: float) -> tuple[float, float]:
    """Student's interval of the mean over folds that share no subject."""
    half = stats.t.ppf((1 + confidence) / 2, folds.size - 1) * folds.std(ddof=1) / np.sqrt(folds.size)
    return folds.mean() - half, folds.mean() + half

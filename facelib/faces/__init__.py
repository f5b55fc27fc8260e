"""Faces from any source, as one FaceSet; the papers' crops; the built-in synthetic faces."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from facelib.faces.faceset import FaceError, FaceSet, assert_disjoint, hold_out_images, split_subjects, union
from facelib.faces.sources import SOURCES, read_overlaps
from facelib.storage import user_path

__all__ = ["FaceError", "FaceSet", "Split", "assert_disjoint", "counts", "examples", "hold_out_images", "load", "load_split",
           "split_subjects", "union", "untested"]


def load(source: str, root=None, minimum_images: int = 1, **options) -> FaceSet:
    """Faces from `source`, one of synthetic, folder, vggface2, cfp, lfw, pairs, recordio, insightface_bin.

    root: the folder (or file) that holds them. minimum_images: only subjects with at least so many images (the papers'
    "more than 70" is 71). options: what the source's function in facelib.faces.sources takes besides (for instance
    subjects=100 for synthetic).
    Raises FaceError when the source or an option is unknown, or the folder is not as the source expects.
    """
    if source not in SOURCES:
        raise FaceError(f"unknown source '{source}'; expected one of {', '.join(SOURCES)}")
    known = list(inspect.signature(SOURCES[source]).parameters)[1:]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise FaceError(f"the source '{source}' has no option {', '.join(unknown)}; it takes {', '.join(known)} "
                        "and minimum_images")
    faces = SOURCES[source](user_path(root) if root else root, **options)
    return faces.with_images(minimum_images) if minimum_images > 1 else faces


class Split(NamedTuple):
    """Faces to learn from, to verify by pose, and sets with pairs of their own to verify; nobody is on two sides."""

    training: FaceSet
    test: FaceSet
    more_tests: dict[str, FaceSet]


def load_split(source: str, root=None, test_share: float = 0.2, more_training: list[dict] | None = None,
               overlaps: str = "", more_tests: list[dict] | None = None, **options) -> Split:
    """Training and test faces that share no subject.

    The test subjects come from `source`, which also trains with the others, unless test_share is 1. more_training: sets to train on besides,
    each the arguments of `load`, for instance {"source": "vggface2", "root": "..."}. overlaps: a CSV file with the
    columns set_a, subject_a, set_b, subject_b that lists the same person under two names; whoever is tested is left
    out of training under every name, and whoever trains under two names is one subject. more_tests: sets to test on
    besides, whole, such as {"source": "lfw", "root": "..."}; they have to list pairs.
    Raises FaceError when sets are named twice, or one of more_tests lists no pairs.
    """
    first = load(source, root, **options)
    for what, extra in [*(("more_training", extra) for extra in more_training or []),
                        *(("more_tests", extra) for extra in more_tests or [])]:
        if "source" not in extra:
            raise FaceError(f"{what}: expected the arguments of load, source among them, found {extra}")
        if root and extra.get("root") and user_path(extra["root"]).resolve() == user_path(root).resolve() \
                and {name: value for name, value in extra.items() if name not in ("source", "root")} == options:
            raise FaceError(f"{what} names {extra['root']}, from which the test subjects come, too; leave it out")
    if test_share == 1 and not more_training:
        raise FaceError("test_share=1 keeps every subject of the source for testing, and more_training names none to train on")
    training, test = (None, first) if test_share == 1 else split_subjects(first, test_share)
    if not more_training and not more_tests and not overlaps:
        return Split(training, test, {})
    training = union(*([training] if training else []), *(load(**extra) for extra in more_training or []))
    test = union(test)
    others = {name: union(faces) for faces in (load(**extra) for extra in more_tests or []) for name in faces.readers}
    for name, faces in others.items():
        if not faces.pairs:
            raise FaceError(f"more_tests: the set {name} lists no pairs to verify, as lfw and pairs do")
    return Split(untested(training, (test, *others.values()), overlaps), test, others)


def untested(training: FaceSet, tests: Iterable[FaceSet], overlaps: str = "") -> FaceSet:
    """The training faces of people who are in none of the test sets, by an overlaps table as `load_split` takes it; whoever
    has two names in training is one subject. Raises FaceError when a subject of a test set is left under the same name."""
    tests = list(tests)
    if overlaps:
        people = same_people(user_path(overlaps))
        tested = {people.get(name, name) for faces in tests for name in faces.subject_names}
        training = training.renamed(people)
        training = training.take(~pd.Series(training.subjects).isin(tested).to_numpy())
    for faces in tests:
        assert_disjoint(training, faces)
    return training


def same_people(overlaps: Path) -> dict[str, str]:
    """Every name (set/subject) in a table of set_a, subject_a, set_b, subject_b, and the one name of that person: the
    first in name order of all that the table, followed from name to name, says are the same person."""
    members: dict[str, set[str]] = {}
    for pair in read_overlaps(overlaps):
        group = set().union(*(members.get(name, {name}) for name in pair))
        members |= dict.fromkeys(group, group)
    return {name: min(group) for name, group in members.items()}


def counts(**sets: FaceSet) -> pd.DataFrame:
    """Subjects, images and images of each pose of the sets, one row each by the name given."""
    rows = {name: {"subjects": len(faces.subject_names), "images": len(faces)}
            | pd.Series(faces.poses).fillna("any").value_counts(sort=False).to_dict() for name, faces in sets.items()}
    return pd.DataFrame.from_dict(rows, orient="index").fillna(0).astype(int)


def examples() -> FaceSet:
    """Some synthetic faces to look at, 3 images of each pose of 8 subjects."""
    return load("synthetic", subjects=8, images_per_pose=3)

"""Faces from any source, as one FaceSet; the papers' crops; the built-in synthetic faces."""

from __future__ import annotations

import inspect

import pandas as pd

from facelib.faces.faceset import FaceError, FaceSet, assert_disjoint, hold_out_images, split_subjects, union
from facelib.faces.sources import SOURCES

__all__ = ["FaceError", "FaceSet", "assert_disjoint", "hold_out_images", "load", "load_split", "split_subjects", "union"]


def load(source: str, root=None, **options) -> FaceSet:
    """Faces from `source`: one of synthetic, folder, vggface2, cfp; `root` is the folder that holds them.

    options: what the source's function in facelib.faces.sources takes (for instance subjects=100 for synthetic).
    Raises FaceError when the source or an option is unknown, or the folder is not as the source expects.
    """
    if source not in SOURCES:
        raise FaceError(f"unknown source '{source}'; expected one of {', '.join(SOURCES)}")
    known = list(inspect.signature(SOURCES[source]).parameters)[1:]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise FaceError(f"the source '{source}' has no option {', '.join(unknown)}; it takes {', '.join(known)}")
    return SOURCES[source](root, **options)


def load_split(source: str, root=None, test_share: float = 0.2, more_training: list[dict] | None = None,
               overlaps: str = "", **options) -> tuple[FaceSet, FaceSet]:
    """Training and test faces that share no subject.

    The test subjects come from `source`, which also trains with the others. more_training: sets to train on besides,
    each the arguments of `load`, for instance {"source": "vggface2", "root": "..."}. overlaps: a CSV file with the
    columns set_a, subject_a, set_b, subject_b that lists the same person under two names; whoever is tested is left
    out of training under every name.
    """
    training, test = split_subjects(load(source, root, **options), test_share)
    if not more_training:
        return training, test
    training = union(training, *(load(**extra) for extra in more_training))
    test = union(test)
    if overlaps:
        training = training.take(~pd.Series(training.subjects).isin(same_people(test, overlaps)).to_numpy())
    assert_disjoint(training, test)
    return training, test


def same_people(faces: FaceSet, overlaps: str) -> set[str]:
    """Every name (set/subject) of a person in `faces`, by a table of set_a, subject_a, set_b, subject_b."""
    table = pd.read_csv(overlaps, dtype=str)
    expected = ["set_a", "subject_a", "set_b", "subject_b"]
    if list(table.columns[:4]) != expected:
        raise FaceError(f"{overlaps}: expected the columns {','.join(expected)}, found {','.join(table.columns)}")
    pairs = list(zip(table["set_a"] + "/" + table["subject_a"], table["set_b"] + "/" + table["subject_b"]))
    people = set(faces.subjects)
    size = 0
    while size < len(people):  # a person may have more than two names
        size = len(people)
        people |= {name for pair in pairs if set(pair) & people for name in pair}
    return people

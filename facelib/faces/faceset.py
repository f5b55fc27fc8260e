"""A set of face images from any source: who is on each image, in which pose, and how to read it."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from facelib.progress import progress

COLUMNS = ["image", "subject", "pose", "set", "x", "y", "w", "h"]
BOX = ["x", "y", "w", "h"]
PAIRS = ["image_a", "image_b", "same", "fold"]
FORMATS = ("JPEG", "PNG", "BMP", "WEBP")  # no others: some of Pillow's readers start programs


class FaceError(ValueError):
    """Something is wrong with the faces given: the message says what, where and what to do."""


@dataclass(frozen=True)
class Files:
    """Reads images that are files below one folder."""

    root: Path

    def __call__(self, image: str) -> bytes:
        return (self.root / image).read_bytes()

    def where(self, image: str) -> str:
        return str(self.root / image)


def decoded(image: bytes) -> Image.Image:
    """The RGB image in the bytes of a JPEG, PNG, BMP or WebP file. Raises FaceError when it is none, or cut short."""
    try:
        return Image.open(io.BytesIO(image), formats=FORMATS).convert("RGB")
    except Exception as error:  # given damaged bytes, decoders raise whatever they stumble over
        raise FaceError(str(error) or type(error).__name__) from error


@dataclass(frozen=True)
class FaceSet:
    """Face images, one row of `table` each; nothing is decoded before it is asked for.

    table: columns `image` (text: what the reader of its set takes, for instance a path below the root), `subject`
        and `pose` (missing where unknown), `set` (which collection it comes from), all three categories, and
        `x, y, w, h`, the face's box in pixels of the image (NaN where unknown).
    readers: for every set, the callable that turns `image` into the bytes of an encoded image.
    pairs: the comparisons that the source lists, by protocol (for instance FF and FP of CFP), each a table of
        `image_a`, `image_b` (positions in this set), `same` (bool), `fold` (int), as verification.pair_folds takes it.
    """

    table: pd.DataFrame
    readers: dict[str, Callable[[str], bytes]]
    pairs: dict[str, pd.DataFrame] = field(default_factory=dict)

    @classmethod
    def from_rows(cls, rows: Sequence[dict] | pd.DataFrame, name: str, reader: Callable) -> FaceSet:
        """The set `name` from rows of image, subject and, where known, pose, x, y, w, h."""
        table = pd.DataFrame(rows).reindex(columns=COLUMNS)
        table["set"] = pd.Categorical.from_codes(np.zeros(len(table), np.int8), [name])
        table[BOX] = table[BOX].astype("float32")
        table["image"] = table["image"].astype("string[pyarrow]")
        for column in ("subject", "pose"):
            table[column] = table[column].astype("category")
        return cls(table.reset_index(drop=True), {name: reader})

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> tuple[Image.Image, str | None]:
        """Image `index`, decoded as RGB, and its subject. Raises FaceError naming the file when it cannot be read."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of a set of {len(self)}")
        codes, names = self._coded("subject")
        return self.read(index), names[codes[index]]

    def _coded(self, column: str) -> tuple[np.ndarray, np.ndarray]:
        """A category column as codes (images,) and the names they stand for; the last name, code -1, is None."""
        values = self.table[column].cat
        return values.codes.to_numpy(), np.array([*values.categories, None], dtype=object)

    @property
    def subjects(self) -> np.ndarray:
        """The subject of every image, shape (images,), None where unknown."""
        codes, names = self._coded("subject")
        return names[codes]

    @property
    def subject_names(self) -> list[str]:
        """Every subject once, in name order."""
        codes, names = self._coded("subject")
        return sorted(names[code] for code in np.unique(codes) if code >= 0)

    @property
    def poses(self) -> np.ndarray:
        """The pose of every image, shape (images,), None where unknown."""
        codes, names = self._coded("pose")
        return names[codes]

    @property
    def labels(self) -> np.ndarray:
        """Every image's subject as an integer from 0 to subjects - 1, subjects in name order.

        Raises FaceError when an image has no subject.
        """
        codes, names = self._coded("subject")
        if (codes < 0).any():
            raise FaceError(f"{np.count_nonzero(codes < 0)} of {len(self)} images have no subject, as in lists of "
                            "pairs that say only who is the same; they serve to verify, not to train")
        label = {name: number for number, name in enumerate(self.subject_names)}
        return np.array([label.get(name, -1) for name in names])[codes]

    @cached_property
    def _reader_of(self) -> tuple[np.ndarray, list[Callable]]:
        codes, names = self._coded("set")
        return codes, [self.readers.get(name) for name in names]

    @cached_property
    def _boxes(self) -> np.ndarray:
        return self.table[BOX].to_numpy(dtype="float32")

    def where(self, index: int) -> str:
        """A name for image `index` that a person can look up."""
        codes, readers = self._reader_of
        return readers[codes[index]].where(self.table["image"].array[index])

    def box(self, index: int) -> np.ndarray | None:
        """Face box x, y, w, h in pixels, or None where unknown."""
        box = self._boxes[index].astype(float)
        return None if np.isnan(box).any() else box

    def encoded(self, index: int) -> bytes:
        """The bytes of image `index` as they are stored. Raises OSError or FaceError when they cannot be read."""
        codes, readers = self._reader_of
        return readers[codes[index]](self.table["image"].array[index])

    def read(self, index: int) -> Image.Image:
        """Image `index`, decoded as RGB. Raises FaceError naming the file when it cannot be read."""
        try:
            return decoded(self.encoded(index))
        except (OSError, FaceError) as error:
            raise FaceError(
                f"cannot read the image {self.where(index)}: {error}. Expected a whole JPEG or PNG file; "
                "replace it or remove it."
            ) from error

    def take(self, indices: np.ndarray) -> FaceSet:
        """The images at `indices` (positions or a boolean mask), in that order, and the pairs among them."""
        indices = np.flatnonzero(indices) if np.asarray(indices).dtype == bool else np.asarray(indices, dtype=int)
        place = np.full(len(self), -1)
        place[indices] = np.arange(len(indices))
        pairs = {}
        for name, listed in self.pairs.items():
            moved = listed.assign(image_a=place[listed["image_a"]], image_b=place[listed["image_b"]])
            pairs[name] = moved[(moved["image_a"] >= 0) & (moved["image_b"] >= 0)].reset_index(drop=True)
        return FaceSet(self.table.iloc[indices].reset_index(drop=True), self.readers,
                       {name: listed for name, listed in pairs.items() if len(listed)})

    def renamed(self, names: dict[str, str]) -> FaceSet:
        """The same images with subjects renamed: old name to new; two that get one name become one subject."""
        codes, old = self._coded("subject")
        subjects = np.array([names.get(name, name) for name in old], dtype=object)[codes]
        return FaceSet(self.table.assign(subject=pd.Categorical(subjects)), self.readers, self.pairs)

    def with_images(self, minimum: int) -> FaceSet:
        """The subjects that have at least `minimum` images. Raises FaceError when nobody has."""
        codes, _ = self._coded("subject")
        counts = np.bincount(codes + 1)
        counts[0] = 0  # images of unknown people
        if counts.max() < minimum:
            raise FaceError(f"no subject has {minimum} images; the most are {counts.max()}. Lower minimum_images.")
        return self.take(counts[codes + 1] >= minimum)

    def fingerprint(self, pairs: bool = False) -> str:
        """A hash of what the set holds, the same wherever its folder lies: every image's name, subject, pose and box, and
        the bytes of 64 images spread evenly, so that other images under the same names are noticed without reading
        all; and, where asked, the listed pairs."""
        found = hashlib.sha256()
        codes, readers = self._reader_of
        for index in np.linspace(0, len(self) - 1, min(64, len(self))).astype(int):
            with contextlib.suppress(OSError, FaceError):  # `verify` and the check report what cannot be read
                found.update(readers[codes[index]](self.table["image"].array[index]))
        for start in range(0, len(self), 100_000):
            images = self.table["image"].iloc[start:start + 100_000].to_numpy(dtype=object)
            found.update("\0".join(images).encode() + b"\0")
        for column in ("subject", "pose", "set"):
            codes, names = self._coded(column)
            found.update(pd.util.hash_array(np.array([str(name) for name in names], dtype=object))[codes].tobytes())
        found.update(np.nan_to_num(self._boxes, nan=-1e9).tobytes())
        for name, listed in self.pairs.items() if pairs else ():
            found.update(name.encode() + listed.to_csv(index=False).encode())
        return found.hexdigest()[:16]

    def verify(self, threads: int = 2) -> None:
        """Decodes every image once. Raises FaceError that lists all unreadable ones, before an hour of training."""

        def complaint(index: int) -> str | None:
            try:
                self.read(index)
            except FaceError as error:
                return f"{error.__cause__} in {self.where(index)}"
            return None

        with ThreadPoolExecutor(threads) as pool:
            found = progress(pool.map(complaint, range(len(self))), "reading every image", len(self), unit="image")
            bad = [text for text in found if text]
        if bad:
            listed = "\n  ".join(bad[:50]) + (f"\n  ... and {len(bad) - 50} more" if len(bad) > 50 else "")
            raise FaceError(f"{len(bad)} of {len(self)} images cannot be read; replace or remove them:\n  {listed}")


def union(*sets: FaceSet) -> FaceSet:
    """One FaceSet of several; a subject's name is preceded by its set's, so that equal names stay two people."""
    names = [name for faces in sets for name in faces.readers]
    if len(set(names)) < len(names):
        raise FaceError(f"the sets to join need different names, found {names}; load them with name=...")
    tables, pairs, start = [], {}, 0
    for faces in sets:
        table = faces.table.astype({"set": str, "pose": object})
        subjects = table["set"] + "/" + table["subject"].astype(str)
        tables.append(table.assign(subject=subjects.where(faces.table["subject"].notna())))
        for name, listed in faces.pairs.items():
            moved = listed.assign(image_a=listed["image_a"] + start, image_b=listed["image_b"] + start)
            pairs[f"{'+'.join(faces.readers)}/{name}"] = moved
        start += len(faces)
    table = pd.concat(tables, ignore_index=True)
    for column in ("subject", "pose", "set"):
        table[column] = table[column].astype("category")
    return FaceSet(table, {name: reader for faces in sets for name, reader in faces.readers.items()}, pairs)


def split_subjects(faces: FaceSet, test_share: float) -> tuple[FaceSet, FaceSet]:
    """Training and test faces with no subject in both.

    The test subjects are the last `test_share` of the subjects in name order: the same whatever the seed, so that
    runs can be compared (of CFP's 400 subjects, 0.2 gives 321 to 400).
    Raises FaceError when either side would have fewer than two subjects.
    """
    labels = faces.labels
    subjects = labels.max(initial=-1) + 1
    count = round(subjects * test_share)
    if count < 2 or subjects - count < 2:
        raise FaceError(
            f"test_share={test_share} of {subjects} subjects leaves {subjects - count} to train and {count} to "
            "test on; both need at least 2. Change test_share or add subjects."
        )
    tested = labels >= subjects - count
    training, test = faces.take(~tested), faces.take(tested)
    assert_disjoint(training, test)
    return training, test


def assert_disjoint(training: FaceSet, test: FaceSet) -> None:
    """Raises FaceError naming the subjects, or the images, that are in both."""
    both = sorted(set(training.subject_names) & set(test.subject_names))
    if both:
        raise FaceError(
            f"{len(both)} subjects are in both the training and the test faces ({', '.join(map(str, both[:5]))}"
            f"{', ...' if len(both) > 5 else ''}); verification must be on unseen people. Remove them from one side."
        )
    of_training, of_test = ({os.path.abspath(faces.where(index)) for index in range(len(faces))} for faces in (training, test))
    if images := of_training & of_test:  # of one folder read twice, under different names
        raise FaceError(f"{len(images)} images are in both the training and the test faces, such as {min(images)}; verification "
                        "must be on unseen people. Take the folder on one side alone.")


def hold_out_images(faces: FaceSet, share: float, seed: int) -> tuple[FaceSet, FaceSet]:
    """Training and validation images of the same subjects: `share` of each subject's images is held out.

    A subject whose share is not a whole number of images gives the next smaller or larger number, drawn so that the
    share is right on average; every subject keeps at least one image to train on. At least one image is held out.
    Raises FaceError when no subject has two images.
    """
    random = np.random.default_rng([seed, 2])
    held = np.zeros(len(faces), dtype=bool)
    for rows in pd.Series(range(len(faces))).groupby(faces.labels).indices.values():
        count = min(int(share * len(rows) + random.random()), len(rows) - 1)
        held[random.choice(rows, count, replace=False)] = True
    if not held.any():
        most = np.flatnonzero(faces.labels == np.bincount(faces.labels).argmax())
        if len(most) < 2:
            raise FaceError(f"none of the {len(faces)} training images can be held out for validation: every subject has "
                            "only one; add images")
        held[most[-1]] = True
    return faces.take(~held), faces.take(held)

"""A set of face images from any source: who is on each image, in which pose, and how to read it."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, UnidentifiedImageError
from tqdm.auto import tqdm

COLUMNS = ["image", "subject", "pose", "set", "x", "y", "w", "h"]
BOX = ["x", "y", "w", "h"]


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


@dataclass(frozen=True)
class FaceSet:
    """Face images, one row of `table` each; nothing is decoded before it is asked for.

    table: columns `image` (what the reader of its set takes, for instance a path below the root), `subject`,
        `pose` (None where unknown), `set` (which collection it comes from) and `x, y, w, h`, the face's box in
        pixels of the image (NaN where unknown).
    readers: for every set, the callable that turns `image` into the bytes of an encoded image.
    """

    table: pd.DataFrame
    readers: dict[str, Callable[[object], bytes]]

    @classmethod
    def from_rows(cls, rows: Sequence[dict] | pd.DataFrame, name: str, reader: Callable) -> FaceSet:
        table = pd.DataFrame(rows).reindex(columns=COLUMNS).assign(set=name)
        table[BOX] = table[BOX].astype("float32")
        table["pose"] = table["pose"].astype(object).where(table["pose"].notna(), None)
        for column in ("subject", "pose", "set"):
            table[column] = table[column].astype("category")
        return cls(table.reset_index(drop=True), {name: reader})

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> tuple[Image.Image, str]:
        """Image `index`, decoded as RGB, and its subject. Raises FaceError naming the file when it cannot be read."""
        if not 0 <= index < len(self):
            raise IndexError(f"image {index} of a set of {len(self)}")
        return self.read(index), self.table["subject"].iat[index]

    @property
    def subjects(self) -> np.ndarray:
        """The subject of every image, shape (images,)."""
        return self.table["subject"].to_numpy(dtype=object)

    @property
    def poses(self) -> np.ndarray:
        """The pose of every image, shape (images,), None where unknown."""
        poses = self.table["pose"].to_numpy(dtype=object)
        return np.where(pd.isna(poses), None, poses)

    @property
    def labels(self) -> np.ndarray:
        """Every image's subject as an integer from 0 to subjects - 1, subjects in name order."""
        return np.unique(self.subjects.astype(str), return_inverse=True)[1]

    def where(self, index: int) -> str:
        """A name for image `index` that a person can look up."""
        row = self.table.iloc[index]
        reader = self.readers[row["set"]]
        return reader.where(row["image"]) if hasattr(reader, "where") else f"{row['set']}: {row['image']}"

    def box(self, index: int) -> np.ndarray | None:
        """Face box x, y, w, h in pixels, or None where unknown."""
        box = self.table[BOX].iloc[index].to_numpy(dtype=float)
        return None if np.isnan(box).any() else box

    def read(self, index: int) -> Image.Image:
        image, name = self.table["image"].iat[index], self.table["set"].iat[index]
        try:
            return Image.open(io.BytesIO(self.readers[name](image))).convert("RGB")
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
            raise FaceError(
                f"cannot read the image {self.where(index)}: {error}. Expected a whole JPEG or PNG file; "
                "replace it or remove it."
            ) from error

    def take(self, indices: np.ndarray) -> FaceSet:
        """The images at `indices` (positions or a boolean mask), in that order."""
        indices = np.flatnonzero(indices) if np.asarray(indices).dtype == bool else np.asarray(indices, dtype=int)
        return FaceSet(self.table.iloc[indices].reset_index(drop=True), self.readers)

    def fingerprint(self) -> str:
        """A hash of what the set holds (names, subjects, poses, boxes), the same wherever its folder lies."""
        plain = self.table.astype({"subject": str, "pose": str, "set": str, "image": str})
        return hashlib.sha256(pd.util.hash_pandas_object(plain, index=False).to_numpy().tobytes()).hexdigest()[:16]

    def verify(self, threads: int = 2) -> None:
        """Decodes every image once. Raises FaceError that lists all unreadable ones, before an hour of training."""

        def complaint(index: int) -> str | None:
            try:
                self.read(index)
            except FaceError as error:
                return str(error.__cause__) + " in " + self.where(index)
            return None

        with ThreadPoolExecutor(threads) as pool:
            found = tqdm(pool.map(complaint, range(len(self))), "reading every image", len(self), unit="image",
                         leave=False, mininterval=1)
            bad = [text for text in found if text]
        if bad:
            listed = "\n  ".join(bad[:50]) + (f"\n  ... and {len(bad) - 50} more" if len(bad) > 50 else "")
            raise FaceError(f"{len(bad)} of {len(self)} images cannot be read; replace or remove them:\n  {listed}")


def union(*sets: FaceSet) -> FaceSet:
    """One FaceSet of several; a subject's name is preceded by its set's, so that equal names stay two people."""
    names = [name for faces in sets for name in faces.readers]
    if len(set(names)) < len(names):
        raise FaceError(f"the sets to join need different names, found {names}; load them with name=...")
    tables = []
    for faces in sets:
        table = faces.table.astype({"subject": str, "set": str, "pose": object})
        tables.append(table.assign(subject=table["set"] + "/" + table["subject"]))
    table = pd.concat(tables, ignore_index=True)
    for column in ("subject", "pose", "set"):
        table[column] = table[column].astype("category")
    return FaceSet(table, {name: reader for faces in sets for name, reader in faces.readers.items()})


def split_subjects(faces: FaceSet, test_share: float) -> tuple[FaceSet, FaceSet]:
    """Training and test faces with no subject in both.

    The test subjects are the last `test_share` of the subjects in name order: the same whatever the seed, so that
    runs can be compared (of CFP's 400 subjects, 0.2 gives 321 to 400).
    Raises FaceError when either side would have fewer than two subjects.
    """
    names = np.unique(faces.subjects.astype(str))
    count = round(len(names) * test_share)
    if count < 2 or len(names) - count < 2:
        raise FaceError(
            f"test_share={test_share} of {len(names)} subjects leaves {len(names) - count} to train and {count} to "
            "test on; both need at least 2. Change test_share or add subjects."
        )
    tested = np.isin(faces.subjects.astype(str), names[-count:])
    training, test = faces.take(~tested), faces.take(tested)
    assert_disjoint(training, test)
    return training, test


def assert_disjoint(training: FaceSet, test: FaceSet) -> None:
    """Raises FaceError naming the subjects that are in both."""
    both = sorted(set(training.subjects) & set(test.subjects))
    if both:
        raise FaceError(
            f"{len(both)} subjects are in both the training and the test faces ({', '.join(map(str, both[:5]))}"
            f"{', ...' if len(both) > 5 else ''}); verification must be on unseen people. Remove them from one side."
        )


def hold_out_images(faces: FaceSet, share: float, seed: int) -> tuple[FaceSet, FaceSet]:
    """Training and validation images of the same subjects: `share` of each subject's images is held out.

    A subject whose share is not a whole number of images gives the next smaller or larger number, drawn so that the
    share is right on average; every subject keeps at least one image to train on.
    """
    random = np.random.default_rng([seed, 2])
    held = np.zeros(len(faces), dtype=bool)
    for rows in pd.Series(range(len(faces))).groupby(faces.labels).indices.values():
        count = min(int(share * len(rows) + random.random()), len(rows) - 1)
        held[random.choice(rows, count, replace=False)] = True
    if not held.any():
        raise FaceError(f"holding out {share:.1%} of each subject's images for validation leaves none of "
                        f"{len(faces)}; raise validation_share or add images.")
    return faces.take(~held), faces.take(held)

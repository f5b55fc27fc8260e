"""InsightFace's training sets, read without MXNet: one RecordIO file of images (train.rec) and its index (train.idx).

A RecordIO file is a row of records: a magic number, a word with a flag (3 bits) and a length (29 bits), the bytes, and
padding to a multiple of 4. A record whose bytes hold the magic number at a multiple of 4 is cut there into parts
(flags 1, 2 ..., 3), and the number itself is left out. MXNet puts before each image a header: a flag, a label, two ids
and, when the flag is above 0, that many labels more (little-endian u32, f32, u64, u64, f32 ...). InsightFace writes,
besides the images, header records without image: record 0 with the keys where images end and where identities end, and
one for each identity.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa

from facelib.faces.faceset import FaceError
from facelib.progress import progress

MAGIC = 0xCED7230A
PART, HEADER = struct.Struct("<II"), struct.Struct("<IfQQ")
START = PART.size + HEADER.size + 4  # bytes of a record up to its first label
CHUNK = 100_000  # records read at a time


@dataclass(frozen=True)
class Records:
    """Reads the images of a RecordIO file; an image is named by the byte at which its record begins."""

    path: Path

    def __call__(self, image: str) -> bytes:
        with open(self.path, "rb") as file:
            return unpacked(read_record(file, int(image)))[1]

    def where(self, image: str) -> str:
        return f"{self.path}, record at byte {image}"


def read_record(file: BinaryIO, offset: int) -> bytes:
    """The record that begins at `offset`, its parts joined. Raises FaceError when there is none, or half of one."""
    file.seek(offset)
    parts: list[bytes] = []
    while True:
        head = file.read(PART.size)
        magic, word = PART.unpack(head) if len(head) == PART.size else (None, 0)
        flag, length = word >> 29, word & (1 << 29) - 1
        if magic != MAGIC or flag not in ((2, 3) if parts else (0, 1)):
            what = "next part of a record" if parts else "record"
            raise FaceError(f"no {what} of a RecordIO file at byte {file.tell() - len(head)}")
        part = file.read(length + -length % 4)
        if len(part) < length:
            raise FaceError(f"a record of {length} bytes ends with the file after {len(part)}")
        parts.append(part[:length])
        if flag in (0, 3):
            return struct.pack("<I", MAGIC).join(parts)


def unpacked(record: bytes) -> tuple[np.ndarray, bytes]:
    """The labels of a record, shape (labels,), and its image (empty in InsightFace's header records)."""
    if len(record) < HEADER.size:
        raise FaceError(f"expected a record with an image header of {HEADER.size} bytes, found {len(record)} bytes")
    labels, label, _, _ = HEADER.unpack_from(record)
    end = HEADER.size + 4 * labels
    if len(record) < end:
        raise FaceError(f"expected a record with {labels} labels, found {len(record)} bytes")
    return np.frombuffer(record, "<f4", labels, HEADER.size) if labels else np.float32([label]), record[end:]


def read_index(path: Path, size: int) -> pd.Series:
    """Where each record begins, by key, from a .idx file for a .rec file of `size` bytes."""
    try:
        table = pd.read_csv(path, sep="\t", header=None, names=["key", "offset"], dtype=np.int64, index_col=False)
    except (ValueError, OverflowError, OSError) as error:
        raise FaceError(f"{path}: expected lines of key, tab, byte of the record: {error}") from error
    offsets = table.set_index("key")["offset"]
    wrong = ~table["offset"].between(0, size - PART.size) | table["key"].duplicated() | (table["key"] < 0)
    if len(table) == 0 or wrong.any():
        found = f"line {np.flatnonzero(wrong)[0] + 1} is otherwise" if wrong.any() else "it is empty"
        raise FaceError(f"{path}: expected each key once, with a byte inside the records' {size} bytes; {found}. "
                        "Is this the index of another file, or the .rec file cut short?")
    return offsets


def first_labels(path: Path, offsets: np.ndarray) -> np.ndarray:
    """The first label of every record, shape (records,). Raises FaceError when a record is not where it should be."""
    data = np.memmap(path, np.uint8, "r")
    labels = np.empty(len(offsets), np.float32)
    for start in progress(range(0, len(offsets), CHUNK), f"indexing {path.name}", unit="chunk of 100,000"):
        chunk = offsets[start:start + CHUNK]
        heads = data[np.minimum(chunk[:, None] + np.arange(START), len(data) - 1)].view("<u4")  # (records, 9)
        plain = (heads[:, 0] == MAGIC) & (heads[:, 1] >> 29 == 0)  # whole records; the others are read one by one
        plain &= heads[:, 1] >= HEADER.size + 4 * heads[:, 2].astype(int)
        plain &= chunk + heads[:, 1] <= len(data) - PART.size
        found = np.where(heads[:, 2] > 0, heads[:, 8], heads[:, 3]).view("<f4")
        with open(path, "rb") as file:
            for row in np.flatnonzero(~plain):
                try:
                    found[row] = unpacked(read_record(file, int(chunk[row])))[0][0]
                except FaceError as error:
                    raise FaceError(f"{path}: {error}, though its index has a record at byte {chunk[row]}; "
                                    "copy both files again") from error
        labels[start:start + CHUNK] = found
    return labels


def image_keys(path: Path, offsets: pd.Series) -> pd.Series:
    """The part of an index that points to images: without InsightFace's header records, where there are any."""
    if 0 not in offsets.index:
        return offsets
    with open(path, "rb") as file:
        try:
            labels, image = unpacked(read_record(file, int(offsets[0])))
        except FaceError as error:
            raise FaceError(f"{path}: {error}, where its index has record 0; copy both files again") from error
    if image:
        return offsets
    if len(labels) != 2 or not 1 < labels[0] <= labels[1] < np.inf:
        raise FaceError(f"{path}: record 0 has no image, so it should say where images and identities end; "
                        f"found {labels.tolist()}")
    return offsets[(offsets.index > 0) & (offsets.index < labels[0])]


def rows(path: Path, index: Path, property_file: Path) -> pd.DataFrame:
    """One row of image (byte of its record) and subject (its label, seven digits) for every image of path.

    property_file: InsightFace's `classes,height,width`, checked where it is there.
    """
    offsets = image_keys(path, read_index(index, path.stat().st_size)).to_numpy()
    labels = first_labels(path, offsets)
    wrong = np.flatnonzero(~np.isfinite(labels) | (labels < 0) | (labels != np.round(labels)))
    if len(wrong):
        raise FaceError(f"{path}: {len(wrong)} records have no subject's number for a label, the first at byte "
                        f"{offsets[wrong[0]]}: {labels[wrong[0]]}")
    subjects, codes = np.unique(labels.astype(np.int64), return_inverse=True)
    if property_file.is_file():
        classes = property_file.read_text(errors="replace").split(",")[0].strip()
        if not classes.isdecimal() or len(subjects) > int(classes):
            raise FaceError(f"{property_file}: expected classes,height,width with at least {len(subjects)} classes, "
                            f"as {path.name} has; found {classes[:20]!r} classes")
    return pd.DataFrame({"image": pd.Series(pa.array(offsets).cast(pa.string()), dtype="string[pyarrow]"),
                         "subject": pd.Categorical.from_codes(codes, [f"{number:07d}" for number in subjects])})

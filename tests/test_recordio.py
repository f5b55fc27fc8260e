"""RecordIO as MXNet and InsightFace write it, against a writer of our own made from the format's description."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facelib.faces import FaceError, load
from facelib.faces.recordio import read_record, unpacked

MAGIC = struct.pack("<I", 0xCED7230A)


def record(content: bytes) -> bytes:
    """As dmlc's writer: cut where the magic number stands at a multiple of 4, which is dropped there."""
    cuts = [at for at in range(0, len(content) - 3, 4) if content[at:at + 4] == MAGIC]
    parts = [content[start:end] for start, end in zip([0, *(at + 4 for at in cuts)], [*cuts, len(content)])]
    flags = [0] if len(parts) == 1 else [1] + [2] * (len(parts) - 2) + [3]
    return b"".join(MAGIC + struct.pack("<I", flag << 29 | len(part)) + part + b"\0" * (-len(part) % 4)
                    for flag, part in zip(flags, parts))


def packed(labels: list[float], image: bytes, several: bool = False) -> bytes:
    """With MXNet's header; several: labels as an array, even if there is only one."""
    if len(labels) == 1 and not several:
        return struct.pack("<IfQQ", 0, labels[0], 7, 0) + image
    return struct.pack("<IfQQ", len(labels), 0, 7, 0) + np.float32(labels).tobytes() + image


def write(folder: Path, contents: dict[int, bytes], property_text: str = "") -> Path:
    """train.rec and train.idx with these records, by key."""
    data, index = b"", ""
    for key, content in contents.items():
        index += f"{key}\t{len(data)}\n"
        data += record(content)
    (folder / "train.rec").write_bytes(data)
    (folder / "train.idx").write_text(index)
    if property_text:
        (folder / "property").write_text(property_text)
    return folder


def picture(shade: int, comment: bytes = b"") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(file, "PNG")
    return file.getvalue() + comment


def insightface_set(labels: list[float]) -> dict[int, bytes]:
    """Images 1 to n, and header records: 0, and n + 1 onwards for each identity."""
    images = {key: packed([label], picture(10 * key)) for key, label in enumerate(labels, 1)}
    end = len(labels) + 1
    people = sorted(set(labels))
    firsts = [1 + labels.index(who) for who in people]
    headers = {end + n: packed([firsts[n], firsts[n] + labels.count(who)], b"") for n, who in enumerate(people)}
    return {0: packed([end, end + len(people)], b"")} | images | headers


def shades(faces) -> list[int]:
    return [faces[number][0].getpixel((0, 0))[0] for number in range(len(faces))]


def test_with_header_records(tmp_path):
    faces = load("recordio", write(tmp_path, insightface_set([0, 0, 1, 1, 1]), "2,112,112"))
    assert list(faces.subjects) == ["0000000"] * 2 + ["0000001"] * 3
    assert shades(faces) == [10, 20, 30, 40, 50]


def test_without_header_records(tmp_path):
    contents = {0: packed([3], picture(0)), 9: packed([12], picture(90)), 4: packed([3, 1.5], picture(40))}
    faces = load("recordio", write(tmp_path, contents))
    assert list(faces.subjects) == ["0000003", "0000012", "0000003"]
    assert shades(faces) == [0, 90, 40]


def test_only_subjects_with_enough_images(tmp_path):
    faces = load("recordio", write(tmp_path, insightface_set([0, 0, 1, 1, 1])), minimum_images=3)
    assert set(faces.subjects) == {"0000001"} and shades(faces) == [30, 40, 50]


@pytest.mark.parametrize("several", [False, True])
def test_records_in_parts(tmp_path, several):
    """The magic number behind a picture, once and three times, cuts its record in two and four."""
    start = picture(0)
    pad = b"x" * (-(len(start) + 24 + 4 * several) % 4)
    contents = {1: packed([0], start), 2: packed([1], picture(80, pad + MAGIC), several),
                3: packed([1], picture(90, pad + MAGIC * 2 + b"data" + MAGIC + b"a"), several),
                4: packed([2], picture(100))}
    faces = load("recordio", write(tmp_path, contents))
    flags = {word >> 29 for at in range(0, (tmp_path / "train.rec").stat().st_size, 4)
             for magic, word in [struct.unpack_from("<II", (tmp_path / "train.rec").read_bytes() + b"\0" * 4, at)]
             if magic == 0xCED7230A}
    assert flags == {0, 1, 2, 3}
    assert list(faces.subjects) == ["0000000", "0000001", "0000001", "0000002"]
    assert shades(faces) == [0, 80, 90, 100]


@settings(deadline=None)
@given(st.lists(st.lists(st.sampled_from([MAGIC, MAGIC[:2], b"\0", b"abcd", b"xyz"]), max_size=8).map(b"".join),
                min_size=1))
def test_records_come_back_as_they_were(contents):
    data = b"".join(map(record, contents))
    at = 0
    for content in contents:
        assert read_record(io.BytesIO(data), at) == content
        at += len(record(content))


@settings(deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=5), st.binary())
def test_labels_come_back_as_they_were(labels, image):
    found, rest = unpacked(packed(labels, image))
    assert found.tolist() == labels and rest == image


def replaced(folder: Path, name: str, change) -> None:
    path = folder / name
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize("name, change, found", [
    ("train.idx", lambda idx: b"", "empty"), ("train.idx", lambda idx: idx + b"1\t0\n", "line 9 is otherwise"),
    ("train.idx", lambda idx: idx.replace(b"\t0\n", b"\t-4\n"), "line 1 is otherwise"),
    ("train.idx", lambda idx: b"\xff\xfe" + idx, "key, tab"), ("train.idx", lambda idx: b"a,b\n1,2\n", "key, tab"),
    ("train.idx", lambda idx: idx.replace(b"\t0\n", b"\t99999999999999999999999\n"), "key, tab"),
    ("train.idx", lambda idx: b"1\t12\n2\t20\n3\t28\n", "no record"),
    ("train.rec", lambda rec: rec[:-50], "cut short|ends with the file"), ("train.rec", lambda rec: b"", "cut short"),
    ("train.rec", lambda rec: rec[:40] + b"\0" + rec[41:], "no record of a RecordIO file at byte 40"),
    ("train.rec", lambda rec: rec[:47] + bytes([rec[47] | 0x40]) + rec[48:], "no record"),  # the flag of a middle part
    ("train.rec", lambda rec: rec[:47] + bytes([rec[47] | 0x20]) + rec[48:], "no next part"),  # of a first part
    ("train.rec", lambda rec: rec[:32] + struct.pack("<f", np.nan) + rec[36:], "record 0 has no image"),
    ("train.rec", lambda rec: rec[:52] + struct.pack("<f", 0.5) + rec[56:],
     "1 records have no subject's number .* 0.5"),
    ("train.rec", lambda rec: rec[:52] + struct.pack("<f", -1) + rec[56:], "no subject's number"),
    ("train.rec", lambda rec: rec[:48] + struct.pack("<I", 2**31) + rec[52:], "2147483648 labels"),
    ("property", lambda text: b"1,112,112", "at least 2 classes"), ("property", lambda text: b"nonsense", "nonsense")])
def test_damaged_files_are_refused(tmp_path, name, change, found):
    replaced(write(tmp_path, insightface_set([0, 0, 1, 1, 1]), "2,112,112"), name, change)
    with pytest.raises(FaceError, match=found) as refused:
        load("recordio", tmp_path)
    assert name.split(".")[0] in str(refused.value)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FaceError, match="found nothing"):
        load("recordio", tmp_path)
    write(tmp_path, insightface_set([0, 1])).joinpath("train.idx").unlink()
    with pytest.raises(FaceError, match="needs its index beside it, train.idx"):
        load("recordio", tmp_path)
    with pytest.raises(FaceError, match="a .rec file"):
        load("recordio")


def test_an_image_that_went_bad_is_named(tmp_path):
    faces = load("recordio", write(tmp_path, insightface_set([0, 0, 1])))
    at = int(faces.table["image"][1])
    replaced(tmp_path, "train.rec", lambda rec: rec[:at + 40] + b"\0" * 20 + rec[at + 60:])
    with pytest.raises(FaceError, match=f"train.rec, record at byte {at}: cannot identify image"):
        faces[1]
    assert faces[2][1] == "0000001"


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 2**20), min_size=1, max_size=6))
def test_any_labels(tmp_path_factory, labels):
    faces = load("recordio", write(tmp_path_factory.mktemp("records"),
                                   {n: packed([label], b"") for n, label in enumerate(labels, 1)}))
    assert [int(name) for name in faces.subjects] == labels


def test_what_mxnet_wrote(real_faces):
    faces = load("recordio", real_faces / "formats")
    assert len(faces) == 300 and faces.table["subject"].value_counts().to_list() == [15] * 20
    assert faces.subject_names == [f"{number:07d}" for number in range(20)]
    assert {faces[number][0].size for number in range(0, 300, 30)} == {(112, 112)}
    assert faces.encoded(299)[:3] == b"\xff\xd8\xff"


def test_a_damaged_first_record_is_named_with_its_file(tmp_path):
    write(tmp_path, insightface_set([0, 0, 1, 1]), "2,8,8")
    whole = (tmp_path / "train.rec").read_bytes()
    (tmp_path / "train.rec").write_bytes(b"none" + whole[4:])
    with pytest.raises(FaceError, match=r"train\.rec: no record of a RecordIO file at byte 0"):
        load("recordio", tmp_path)

"""Verification pickles: what InsightFace writes is read, what else a pickle can do is refused and does not happen."""

import contextlib
import io
import os
import pickle
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facelib.faces import FaceError, load
from facelib.faces.insightface import read_pickle


def jpeg(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (6, 5), (shade, 255 - shade, 128)).save(file, "JPEG")
    return file.getvalue()


IMAGES = [jpeg(shade) for shade in (0, 60, 120, 180)]


def written(folder: Path, content) -> Path:
    path = folder / "faces.bin"
    path.write_bytes(content if isinstance(content, bytes) else pickle.dumps(content, 4))
    return path


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", ["bytes", "encoded", "pixels"])
def test_every_protocol_and_kind_of_image(tmp_path, protocol, kind):
    pixels = [np.asarray(Image.open(io.BytesIO(image))) for image in IMAGES]
    images = {"bytes": IMAGES, "encoded": [np.frombuffer(image, np.uint8) for image in IMAGES],
              "pixels": [array.copy() for array in pixels]}[kind]
    faces = load("insightface_bin", written(tmp_path, pickle.dumps((images, [True, False]), protocol)), folds=2)
    for number, expected in enumerate(pixels):
        assert np.array_equal(np.asarray(faces[number][0]), expected)
    assert faces.pairs["faces"].to_dict("list") == {"image_a": [0, 2], "image_b": [1, 3], "same": [True, False],
                                                    "fold": [1, 2]}
    assert set(faces.subjects) == {None}


@pytest.mark.parametrize("same", [np.array([True, False]), [np.True_, np.False_], (1, 0), np.array([1, 0])])
def test_ways_to_say_same(tmp_path, same):
    _, found = read_pickle(written(tmp_path, (IMAGES, same)))
    assert found.tolist() == [True, False]


def test_what_python_2_wrote(tmp_path):
    """Instruction by instruction as Python 2's pickle and numpy put them: str is bytes, True is I01 or NEWTRUE."""
    strings = b"".join(b"T" + struct.pack("<i", len(image)) + image for image in IMAGES[:2])
    images, same = read_pickle(written(tmp_path, b"\x80\x02]q\x00(" + strings + b"e]q\x01\x88a\x86q\x02."))
    assert images == IMAGES[:2] and same.tolist() == [True]

    text = b"".join(b"S" + repr(image)[1:].encode() + b"\na" for image in IMAGES[:2])  # protocol 0
    images, same = read_pickle(written(tmp_path, b"((lp0\n" + text + b"(lp1\nI01\natp2\n."))
    assert images == IMAGES[:2] and same.tolist() == [True]

    array = (b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01(M"
             + struct.pack("<H", len(IMAGES[0])) + b"tcnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNN"
             + b"J\xff\xff\xff\xff" * 2 + b"K\x00tb\x89T"
             + struct.pack("<i", len(IMAGES[0])) + IMAGES[0] + b"tb")
    images, same = read_pickle(written(tmp_path, b"\x80\x02](" + array + array + b"e]\x89a\x86."))
    assert bytes(images[1]) == IMAGES[0] and images[1].dtype == np.uint8 and same.tolist() == [False]


def exploit(name: bytes, arguments: bytes) -> bytes:
    return b"\x80\x02c" + name + b"\n(" + arguments + b"tR."


class _Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(marker: str) -> dict[str, bytes]:
    """Pickles that would leave a file at `marker`, or worse."""
    touch = b"X" + struct.pack("<I", len(marker) + 6) + f"touch {marker}".encode()
    write = b"X" + struct.pack("<I", len(marker) + 12) + f"open({marker!r},'w')".encode()
    shell = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
    dtype = b"cnumpy\ndtype\n(X\x02\x00\x00\x00%sK\x00K\x01tR"

    def filling(shape: bytes, code: bytes, data: bytes) -> bytes:
        return b"(K\x01(" + shape + b"t" + dtype % code + b"\x89C" + bytes([len(data)]) + data + b"tb"

    def array_of(shape: bytes, code: bytes, data: bytes) -> bytes:
        return b"\x80\x02](" + shell + filling(shape, code, data) + b"h\x00e]\x88a\x86."

    nested = pickle.dumps(([_Calls(os.system, f"touch {marker}")] * 2, [True]), 4)
    deep = pickle.dumps(_Calls(_Calls, _Calls(eval, f"open({marker!r}, 'w')")), 2)
    return {
        "os.system": exploit(b"os\nsystem", touch),
        "posix.system": exploit(b"posix\nsystem", touch),
        "builtins.eval": exploit(b"builtins\neval", write),
        "builtins.exec": exploit(b"__builtin__\nexecfile", write),
        "subprocess": pickle.dumps(_Calls(subprocess.check_output, ["touch", marker]), 2),
        "reduce inside the images": nested,
        "reduce inside a reduce": deep,
        "getattr": exploit(b"builtins\ngetattr", b"cos\nsystem\nX\x04\x00\x00\x00name"),
        "dotted name": b"\x80\x04\x8c\x02os\x8c\x06system\x93(" + touch + b"tR.",
        "dotted name below numpy": exploit(b"numpy\nndarray.__class__", touch),
        "inst": b"(" + touch + b"ios\nsystem\n.",
        "obj": b"(cos\nsystem\n" + touch + b"o.",
        "newobj": b"\x80\x02cos\n_wrap_close\n)\x81.",
        "persistent id": b"Pos.system\n.",
        "extension code": b"\x80\x02\x82\x01.",
        "numpy object array": pickle.dumps(([np.array([_Calls(os.system, f"touch {marker}")], object)] * 2, [True]), 4),
        "numpy object dtype": array_of(b"K\x01", b"O8", b"aaaaaaaa"),
        "numpy record dtype": array_of(b"K\x01", b"V8", b"aaaaaaaa"),
        "dtype with fields": b"\x80\x02](" + dtype % b"u1" + b"(K\x03U\x01|NU\x01aN"
        + b"J\xff\xff\xff\xff" * 2 + b"K\x00tbe]\x88a\x86.",
        "numpy.load": exploit(b"numpy\nload", touch),
        "numpy memmap": exploit(b"numpy\nmemmap", write),
        "numpy runstring": exploit(b"numpy.testing._private.utils\nrunstring", write + b"}"),
        "reconstruct something else": exploit(b"numpy.core.multiarray\n_reconstruct",
                                              b"cos\n_wrap_close\n(K\x00tC\x01b"),
        "huge shape": array_of(b"\x8a\x08" + struct.pack("<q", 2**60), b"u1", b"x"),
        "huge empty shape": array_of(b"K\x00\x8a\x08" + struct.pack("<q", 2**60), b"u1", b""),
        "negative shape": array_of(b"J\xff\xff\xff\xffJ\xff\xff\xff\xff", b"u1", b"x"),
        "huge bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b"x.",
        "huge bytes": b"\x80\x05\x8e" + struct.pack("<Q", 2**40) + b"x.",
        "bytes of a number": exploit(b"builtins\nbytes", b"J\xff\xff\xff\x7f"),
        "huge memo": b"\x80\x02]r\xff\xff\xff\x7f.",
        "text encoded over and over": b"\x80\x04X" + struct.pack("<I", 2**20) + b"x" * 2**20 + b"\x94]("
        + b"c_codecs\nencode\n(h\x00X\x06\x00\x00\x00latin1tR" * 1000 + b"e]\x86.",
        "another codec": exploit(b"_codecs\nencode", b"X\x01\x00\x00\x00xX\x03\x00\x00\x00zip"),
        "state for a name": b"\x80\x02cnumpy\ndtype\n}X\x04\x00\x00\x00nameX\x01\x00\x00\x00xsb.",
        "state for an array twice": b"\x80\x02](" + shell + filling(b"K\x01", b"u1", b"x") * 2 + b"e]\x88a\x86.",
        "set, dict": b"\x80\x04\x8f}\x86.",
        "itself, endlessly": b"\x80\x02]q\x00h\x00a]\x88a\x86.",
        "no end": b"\x80\x04" + b"](" * 100_000,
    }


@pytest.mark.parametrize("name", hostile(""))
def test_hostile_pickles_are_refused_and_run_nothing(tmp_path, name):
    marker = tmp_path / "marker"
    with pytest.raises(FaceError, match="faces.bin"):
        read_pickle(written(tmp_path, hostile(str(marker))[name]))
    assert not marker.exists()


@pytest.mark.parametrize("name", ["os.system", "subprocess", "reduce inside the images", "numpy object array",
                                  "dotted name", "inst", "obj"])
def test_the_exploits_are_real(tmp_path, name):
    """Python's own reader falls for them: the test above would notice if ours did."""
    marker = tmp_path / "marker"
    with contextlib.suppress(Exception):  # what comes after the damage does not matter
        pickle.loads(hostile(str(marker))[name])
    assert marker.exists()


@pytest.mark.parametrize("content, found", [
    ((IMAGES, [True]), "4 images for 1 pairs"), (([], []), "0 images for 0 pairs"),
    (("ab", [True]), "images are neither"),
    ((IMAGES, [1, 2]), "true or false"), ((IMAGES, [b"", b""]), "true or false"), (IMAGES, "no pickle of images"),
    ((IMAGES[:3] + ["text"], [True, False]), "1 of 4 images .* image 3: str"), (b"", "no pickle"),
    (b"not a pickle", "no pickle"),
    (([np.zeros((2, 2), np.uint8)] * 2, [True]), "2 of 2 images"), (([np.zeros(4)] * 2, [True]), "f8"),
    (pickle.dumps((IMAGES, [True, False]))[:-200], "no pickle")])
def test_other_content_is_refused(tmp_path, content, found):
    with pytest.raises(FaceError, match=found):
        read_pickle(written(tmp_path, content))


def test_real_files(real_faces):
    images, same = read_pickle(real_faces / "formats" / "lfw_fold1.bin")
    assert len(images) == 1200 and same.tolist() == [True] * 300 + [False] * 300
    arrays, first = read_pickle(real_faces / "formats" / "lfw_fold1_numpy.bin")
    assert len(arrays) == 40 and all(isinstance(array, np.ndarray) for array in arrays) and len(first) == 20
    faces = load("insightface_bin", real_faces / "formats" / "lfw_fold1_numpy.bin")
    assert {faces[number][0].size for number in range(40)} == {(112, 112)}
    with pytest.raises(FaceError, match="lfw_fold1.bin, lfw_fold1_numpy.bin"):
        load("insightface_bin", real_faces / "formats")

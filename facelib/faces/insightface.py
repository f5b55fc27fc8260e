"""InsightFace's verification sets (lfw.bin, cfp_fp.bin ...): pickles from strangers, read without running any of them.

Such a file pickles ([image, ...], [same, ...]): images 2 i and 2 i + 1 are a pair, same[i] says whether of one person.
An image is the bytes of an encoded image, or a numpy array of these bytes or of pixels. A pickle is a program; the one
here may make lists, tuples, numbers, text, bytes and arrays of them, and every other instruction is refused.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from facelib.faces.faceset import FaceError

# Instructions of pickle that are followed, besides REDUCE, BUILD and BYTEARRAY8, which are written anew below.
INSTRUCTIONS = ["PROTO", "FRAME", "STOP", "MARK", "POP", "POP_MARK", "NONE", "NEWTRUE", "NEWFALSE", "INT", "LONG",
                "BININT", "BININT1", "BININT2", "LONG1", "LONG4", "STRING", "BINSTRING", "SHORT_BINSTRING",
                "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
                "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3",
                "PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE", "GET", "BINGET", "LONG_BINGET", "GLOBAL", "STACK_GLOBAL"]
DTYPES = {"u1": np.uint8, "b1": np.bool_, "?": np.bool_, "i4": np.dtype("<i4"), "i8": np.dtype("<i8")}


@dataclass(frozen=True)
class _Name:
    """What a pickle names: a mere word, that nothing is looked up by."""

    name: str


class _Array:
    """An array while it is being read: the pickle makes it empty first, and fills it later."""

    content = None


class _Reader(pickle._Unpickler):  # the one written in Python: the other takes memory by numbers it finds in the file
    """Reads a pickle of lists, tuples, numbers, text, bytes and numpy arrays of numbers; refuses any other."""

    def __init__(self, content: bytes):
        super().__init__(io.BytesIO(content), encoding="bytes")
        self.left = len(content)  # bytes that may still be made of text: a file holds each of its own once

    def find_class(self, module: str, name: str) -> _Name:
        return _Name(f"{module.replace('numpy._core', 'numpy.core').replace('__builtin__', 'builtins')}.{name}")

    def make(self, name: _Name, arguments: tuple):
        """What a pickle's call of `name` stands for."""
        match name, arguments:
            case _Name("numpy.core.multiarray._reconstruct"), (_Name("numpy.ndarray"), (0,), b"b" | "b"):
                return _Array()
            case _Name("numpy.dtype"), (bytes() | str() as code, *_):
                return _dtype(code)
            case _Name("numpy.core.multiarray.scalar"), (np.dtype() as dtype, bytes() as data):
                return self.array((), dtype, data).item()
            case _Name("numpy.core.numeric._frombuffer"), (bytes() as data, np.dtype() as dtype, tuple() as shape, "C"):
                return self.array(shape, dtype, data)
            case _Name("_codecs.encode"), (str() as text, "latin1" | "latin-1"):
                self.left -= len(text)
                if self.left < 0:
                    raise pickle.UnpicklingError("it makes more bytes than it holds")
                return text.encode("latin-1")
            case _Name("builtins.bytes"), ():
                return b""
        raise pickle.UnpicklingError(f"it calls {getattr(name, 'name', 'something')}")

    def array(self, shape: tuple, dtype: np.dtype, data: bytes) -> np.ndarray:
        sides = len(shape) <= 3 and all(type(side) is int and 0 <= side <= len(data) for side in shape)
        if not sides or math.prod(shape) * dtype.itemsize != len(data):
            raise pickle.UnpicklingError(f"it gives an array {len(data)} bytes, which is not what its shape needs")
        return np.frombuffer(data, dtype).reshape(shape)

    def load_reduce(self):
        arguments = self.stack.pop()
        self.stack[-1] = self.make(self.stack[-1], arguments)

    def load_build(self):
        state, target = self.stack.pop(), self.stack[-1]
        match target, state:
            case _Array(content=None), (1, tuple() as shape, np.dtype() as dtype, False | 0, bytes() as data):
                target.content = self.array(shape, dtype, data)
            case np.dtype(), (3 | 4, "|" | b"|" | "<" | b"<", None, None, None, *_):
                pass
            case _:
                raise pickle.UnpicklingError("it gives a state to something other than an array of numbers")

    def load_bytearray8(self):
        (length,) = struct.unpack("<Q", self.read(8))
        self.append(self.read(length))

    def refuse(self):
        raise pickle.UnpicklingError("it has instructions that images need not")

    dispatch = dict.fromkeys(range(256), refuse)
    dispatch |= {code: pickle._Unpickler.dispatch[code] for code in (getattr(pickle, name)[0] for name in INSTRUCTIONS)}
    dispatch |= {pickle.REDUCE[0]: load_reduce, pickle.BUILD[0]: load_build, pickle.BYTEARRAY8[0]: load_bytearray8}


def _dtype(code: str | bytes) -> np.dtype:
    code = code.decode("latin-1") if isinstance(code, bytes) else code
    if code not in DTYPES:
        raise pickle.UnpicklingError(f"it makes an array of {code!r}")
    return np.dtype(DTYPES[code])


@dataclass(frozen=True)
class Pickled:
    """Reads the images of a verification pickle, which are held in memory; an image is named by its position."""

    path: Path
    images: list

    def __call__(self, image: str) -> bytes:
        found = self.images[int(image)]
        if isinstance(found, np.ndarray) and found.ndim == 3:
            png = io.BytesIO()
            Image.fromarray(found).save(png, "PNG", compress_level=1)
            return png.getvalue()
        return bytes(found)

    def where(self, image: str) -> str:
        return f"{self.path}, image {image}"


def read_pickle(path: Path) -> tuple[list, np.ndarray]:
    """The images (bytes, or uint8 arrays of encoded bytes or of (height, width, 3) pixels) and same, shape (pairs,).

    Pickles of Python 2 and 3, every protocol. Raises FaceError when the file is no such pickle, or would do anything
    but hold images: nothing in it is run, nothing is imported for it.
    """
    try:
        content = path.read_bytes()
        images, same = _Reader(content).load()
        images = [image.content if isinstance(image, _Array) else image for image in images]
        same = same.content.tolist() if isinstance(same, _Array) else list(same)
    except Exception as error:  # damaged bytes make the reader stumble over anything
        raise FaceError(f"{path} is no pickle of images and same-or-not that can be trusted: "
                        f"{error or type(error).__name__}. Expected an InsightFace verification set, "
                        "([image, ...], [same, ...])") from error
    if len(images) != 2 * len(same) or len(same) == 0:
        raise FaceError(f"{path}: expected two images for each pair, found {len(images)} images for {len(same)} pairs")
    wrong = [number for number, image in enumerate(images) if not _is_image(image)]
    if wrong:
        raise FaceError(f"{path}: {len(wrong)} of {len(images)} images are neither bytes nor arrays of uint8, "
                        f"the first is image {wrong[0]}: {type(images[wrong[0]]).__name__}")
    if not all(isinstance(value, int) and value in (0, 1) for value in same):
        raise FaceError(f"{path}: expected true or false for each pair, found something else")
    return images, np.array(same, dtype=bool)


def _is_image(image) -> bool:
    if isinstance(image, np.ndarray):
        return image.dtype == np.uint8 and (image.ndim == 1 or image.ndim == 3 and image.shape[2] == 3)
    return isinstance(image, bytes)

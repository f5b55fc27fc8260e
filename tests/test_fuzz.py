"""Damaged and made-up files are read or refused with FaceError: none crashes, hangs or starts a program."""

import pickle
import resource
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_faces import LFW
from test_recordio import insightface_set, write

from facelib.faces import FaceError, FaceSet, load
from facelib.faces.sources import read_names, read_overlaps

SECONDS = 10  # of processor time, for a file of some kB
MEMORY = 2 * 2**30
STARTED = []  # what the interpreter reports: programs started, connections made
FORBIDDEN = {"os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "subprocess.Popen",
             "pty.spawn", "socket.connect",
             "pickle.find_class", "webbrowser.open"}


def every_image(faces: FaceSet) -> None:
    for index in range(len(faces)):
        try:
            faces[index]
        except FaceError as error:
            assert faces.where(index) in str(error)
    for listed in faces.pairs.values():
        ends = listed[["image_a", "image_b"]]
        assert ends.max(axis=None) < len(faces) and ends.min(axis=None) >= 0
    assert len(faces.fingerprint()) == 16


# The files to damage, and how each is read from their folder.
READ: dict[str, Callable[[Path], object]] = {
    "records/train.rec": lambda root: every_image(load("recordio", root / "records")),
    "records/train.idx": lambda root: every_image(load("recordio", root / "records")),
    "records/property": lambda root: every_image(load("recordio", root / "records")),
    "bytes.bin": lambda root: every_image(load("insightface_bin", root / "bytes.bin")),
    "arrays.bin": lambda root: every_image(load("insightface_bin", root / "arrays.bin")),
    "python2.bin": lambda root: every_image(load("insightface_bin", root / "python2.bin")),
    "folder/a/0.jpg": lambda root: every_image(load("folder", root / "folder")),
    "folder/a/1.png": lambda root: every_image(load("folder", root / "folder")),
    "folder/boxes.csv": lambda root: every_image(load("folder", root / "folder")),
    "folder/pairs.csv": lambda root: every_image(load("pairs", root / "folder")),
    "vggface2/list.txt": lambda root: every_image(load("vggface2", root / "vggface2", pose_list="list.txt")),
    "lfw/pairs.txt": lambda root: every_image(load("lfw", root / "lfw")),
    "cfp/Protocol/image_list_F.txt": lambda root: every_image(load("cfp", root / "cfp")),
    "cfp/Protocol/Split/FF/02/diff.txt": lambda root: every_image(load("cfp", root / "cfp")),
    "identity_meta.csv": lambda root: read_names(root / "identity_meta.csv"),
    "overlaps.csv": lambda root: read_overlaps(root / "overlaps.csv"),
}


def picture(path: Path, seed: int) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 10, 3)).astype(np.uint8)).save(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A folder where every file of READ is whole, and read without complaint."""
    root = tmp_path_factory.mktemp("fuzz")
    (root / "records").mkdir()
    write(root / "records", insightface_set([0, 0, 1, 1]), "2,8,8")
    names = ["a/0.jpg", "a/1.png", "b/2.webp", "b/3.bmp"]
    images = [picture(root / "folder" / name, number) for number, name in enumerate(names)]
    for name, content in {"bytes.bin": pickle.dumps((images, [True, False]), 4),
                          "arrays.bin": pickle.dumps(([np.frombuffer(image, np.uint8) for image in images],
                                                      np.array([True, False])), 2),
                          "python2.bin": pickle.dumps((images, [True, False]), 0)}.items():
        (root / name).write_bytes(content)
    (root / "folder" / "boxes.csv").write_text('NAME_ID,X,Y,W,H\n"a/0",1,2,3,4\n"b/3",-1,2.5,3,4\n')
    (root / "folder" / "pairs.csv").write_text("image_a,image_b,same,fold\na/0.jpg,a/1.png,1,1\na/0.jpg,b/2.webp,0,2\n")
    for number in range(30):
        picture(root / "vggface2" / "train" / "n000001" / f"{number:02d}.jpg", number)
    (root / "vggface2" / "list.txt").write_text("\n".join(f"n000001/{number:02d}.jpg" for number in range(30)))
    for name, count in (("Ann", 2), ("Bob", 3), ("Cy", 2)):
        for number in range(1, count + 1):
            picture(root / "lfw" / "lfw" / name / f"{name}_{number:04d}.jpg", number)
    (root / "lfw" / "pairs.txt").write_text(LFW)
    for number in (1, 2):
        picture(root / "cfp" / "Data" / "Images" / "001" / "frontal" / f"{number:02d}.jpg", number)
    for letter in "FP":
        path = root / "cfp" / "Protocol" / f"image_list_{letter}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("1 Data/Images/001/frontal/01.jpg\n2 Data/Images/001/frontal/02.jpg\n")
        for fold in range(1, 11):
            folder = path.parent / "Split" / f"F{letter}" / f"{fold:02d}"
            folder.mkdir(parents=True)
            (folder / "same.txt").write_text("1,2\n")
            (folder / "diff.txt").write_text("2,1\n1,2\n")
    (root / "identity_meta.csv").write_text("Class_ID, Name, Sample_Num, Flag, Gender\n"
                                            'n000001, "Zoë,_Jr", 2, 1, f\nn000002, "B", 2, 1, f\n')
    (root / "overlaps.csv").write_text("set_a,subject_a,set_b,subject_b,found_by\nlfw,Ann,cfp,001,name\n")
    for name, read in READ.items():
        read(root)
    sys.addaudithook(lambda event, _: STARTED.append(event) if event in FORBIDDEN else None)
    STARTED.clear()
    return root


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """The content cut short, with some bits flipped, bytes replaced, added, removed or repeated, or nothing like it."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=200))
    changed = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(changed) - 1)))
        match draw(st.sampled_from(["cut", "flip", "flip", "flip", "replace", "insert", "remove", "repeat", "number"])):
            case "cut":
                del changed[at:]
            case "flip" if changed:
                changed[at] ^= 1 << draw(st.integers(0, 7))
            case "replace":
                new = draw(st.binary(min_size=1, max_size=8))
                changed[at:at + len(new)] = new
            case "insert":
                changed[at:at] = draw(st.binary(min_size=1, max_size=8)
                                      | st.sampled_from([b"\n", b",", b"\t", b"-1", b"9" * 30, b"nan", b'"', b"\0"]))
            case "remove":
                del changed[at:at + draw(st.integers(1, 50))]
            case "repeat":
                changed[at:at] = changed[at:at + draw(st.integers(1, 200))]
            case "number":
                changed[at:at + 4] = draw(st.sampled_from([b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\0\x80",
                                                           b"\0\0\0\0", b"\0\0\xc0\x7f"]))
    return bytes(changed)


class Hang(BaseException):
    """Raised from outside: too much processor time was used."""


@contextmanager
def bounded():
    """Limits on processor time and memory."""

    def stop(*_):
        raise Hang

    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else None
    before = resource.getrlimit(resource.RLIMIT_AS)
    previous = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, SECONDS)
    if pages:
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, previous)


def read_or_refused(sound: Path, data) -> None:
    name = data.draw(st.sampled_from(list(READ)))
    path = sound / name
    whole = path.read_bytes()
    path.write_bytes(data.draw(damaged(whole)))
    try:
        with warnings.catch_warnings(), bounded():
            warnings.simplefilter("ignore")
            READ[name](sound)
    except FaceError as error:
        assert str(sound / Path(name).parts[0]) in str(error), "the error names the file, or its folder"
    finally:
        path.write_bytes(whole)
    assert not STARTED


CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]


@settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=CHECKS)
@given(data=st.data())
def test_some_damaged_files(sound, data):
    read_or_refused(sound, data)


@pytest.mark.slow
@settings(max_examples=10_000, deadline=None, suppress_health_check=CHECKS)
@given(data=st.data())
def test_ten_thousand_damaged_files(sound, data):
    read_or_refused(sound, data)

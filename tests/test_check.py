"""The check of one's own faces: every fault is found and named, sound faces pass, and the exit status tells."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from facelib.faces import check
from facelib.faces.check import CHUNK, guessed_source, look_at_all, main, parts, plain


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FACELIB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(check, "ProcessPoolExecutor", InThisProcess)


class InThisProcess:
    """In place of a pool of processes, which take seconds to start."""

    def __init__(self, workers, mp_context):
        assert workers >= 1

    def __enter__(self):
        return self

    def __exit__(self, *error):
        pass

    map = staticmethod(map)


def picture(path: Path, seed: int, size: int = 80, grey: bool = False) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3)).astype(np.uint8)
    image = Image.fromarray(pixels).resize((size, size + 10))
    (image.convert("L") if grey else image).save(path)


def sound(root: Path, subjects: str = "ab", seed: int = 0) -> Path:
    for number, subject in enumerate(subjects):
        for image in range(3):
            picture(root / subject / f"{image}.jpg", 100 * seed + 10 * number + image)
    return root


def run(capsys, *arguments) -> tuple[int, str]:
    status = main([str(argument) for argument in arguments])
    return status, capsys.readouterr().out


def test_sound_faces_pass(tmp_path, capsys):
    status, text = run(capsys, sound(tmp_path / "mine"))
    assert status == 0 and "no problems found" in text
    assert f"mine (folder, {tmp_path / 'mine'}): 6 images, 2 subjects with 3 to 3 images" in text
    assert not list((tmp_path / "cache").iterdir())


def test_every_fault_of_a_folder_is_named(tmp_path, capsys):
    root = sound(tmp_path / "mine")
    noise = root / "a" / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (80, 80, 3)).astype(np.uint8)).save(noise)
    noise.write_bytes(noise.read_bytes()[:-5000])
    (root / "b" / "text.jpg").write_text("text")
    picture(root / "a" / "grey.jpg", 50, grey=True)
    picture(root / "b" / "tiny.png", 51, size=63)
    picture(root / "alone" / "0.png", 52)
    picture(root / "b" / "again.png", 54), picture(root / "b" / "again.bmp", 54)  # another file, the same picture
    picture(root / "a" / "also b's.png", 54)
    (root / "boxes.csv").write_text("NAME_ID,X,Y,W,H\na/0,1,1,5,5\na/99,1,1,5,5\n")
    report = tmp_path / "report.csv"
    status, text = run(capsys, root, "--report", report)
    found = pd.read_csv(report)
    found["image"] = found["image"].fillna(found["subject"]).str.removeprefix(f"{root}/")
    named = {kind: sorted(rows["image"]) for kind, rows in found.groupby("kind")}
    assert status == 1
    assert named == {"unreadable": ["a/noise.png", "b/text.jpg"], "grey": ["a/grey.jpg"], "tiny": ["b/tiny.png"],
                     "few images": ["alone"],
                     "two subjects": ["b/again.bmp", "b/again.png"], "missing": ["a/99"]}
    assert "PROBLEM: 2 images that cannot be read" in text and f"{root}/a/noise.png, " in text and "truncated" in text
    assert "note: 1 images with fewer than 64 pixels on their shortest side" in text and "63 pixels" in text
    assert f"named by {root}/boxes.csv" in text


def test_notes_are_no_problem(tmp_path, capsys):
    root = sound(tmp_path / "mine")
    for number in range(15):
        picture(root / "a" / f"grey{number}.png", 60 + number, grey=True)
    picture(root / "a" / "again.png", 60, grey=True)
    status, text = run(capsys, root)
    assert status == 0 and "note: 16 grey images" in text and "... and 6 more (all of them with --report FILE)" in text
    assert "note: 1 pictures that a subject has more than once" in text and "PROBLEM" not in text


def vggface2(root: Path) -> Path:
    for part, subjects in (("train", ["n000001", "n000002"]), ("test", ["n000003", "n000002"])):
        for subject in subjects:
            for image in range(2):
                picture(root / part / subject / f"{image:04d}_01.jpg", hash((part, subject, image)) % 2**32)
    (root / "test" / "n000003" / "0001_01.jpg").write_bytes((root / "train" / "n000001" / "0000_01.jpg").read_bytes())
    (root / "identity_meta.csv").write_text("Class_ID, Name, Sample_Num, Flag, Gender\n"
                                            'n000001, "Zoë_O\'Hara", 2, 1, f\nn000003, "B", 2, 1, f\n')
    (root / "test_posetemp_imglist.txt").write_text("n000003/0000_01.jpg\nn000003/0009_01.jpg\n")
    return root


def test_parts_of_one_set_and_other_sets(tmp_path, capsys):
    lfw = tmp_path / "lfw"
    for image in (1, 2):
        picture(lfw / "lfw" / "Zoe_O_Hara" / f"Zoe_O_Hara_{image:04d}.jpg", 30 + image)
        picture(lfw / "lfw" / "Ann" / f"Ann_{image:04d}.jpg", 40 + image)
    (lfw / "pairs.txt").write_text("1 1\nAnn 1 2\nAnn 1 Zoe_O_Hara 7\n")
    mine = sound(tmp_path / "mine")
    overlaps = tmp_path / "overlaps.csv"
    overlaps.write_text("set_a,subject_a,set_b,subject_b\n"
                        "mine,a,vggface2,n000003\nmine,a,vggface2,n000099\nmine,a,lfw,Nobody\n")
    report = tmp_path / "report.csv"
    status, _ = run(capsys, vggface2(tmp_path / "vgg"), "--against", lfw, f"folder={mine}", "--overlaps", overlaps,
                    "--report", report)
    assert status == 1
    found = pd.read_csv(report).fillna("")
    assert found[found["kind"] == "same person"][["set", "subject", "detail"]].values.tolist() == [
        ["vggface2/test", "n000002", "also in vggface2/train"],
        ["lfw", "Zoe_O_Hara", "has the name of n000001 in vggface2/train"],
        ["mine", "a", "is vggface2/n000003 by overlaps.csv"]]
    assert found[found["kind"] == "missing"]["image"].tolist() == ["n000003/0009_01.jpg",
                                                                   "Zoe_O_Hara/Zoe_O_Hara_0007.jpg"]
    assert found[found["kind"] == "two subjects"][["set", "subject"]].values.tolist() == [["vggface2/test", "n000003"]]
    assert set(found["kind"]) == {"same person", "missing", "two subjects"}


def test_own_pairs_that_miss_an_image(tmp_path, capsys):
    sound(tmp_path)
    (tmp_path / "pairs.csv").write_text("image_a,image_b,same\na/0.jpg,a/1.jpg,1\na/0.jpg,b/9.jpg,0\n")
    status, text = run(capsys, tmp_path / "pairs.csv", "--source", "pairs")
    assert status == 1 and "PROBLEM: 1 images that a list names" in text and "b/9.jpg, named by" in text
    assert run(capsys, tmp_path)[1] == text.replace("/pairs.csv):", "):")


@pytest.mark.parametrize("one, two, same", [("Aarón_Díaz", "aaron diaz", True), ("Zoë O'Hara", "Zoe_O_Hara", True),
                                            ("Ann", "Anna", False),
                                            ("Łukasz", "łukasz", True), ("李_明", "李 明", True), ("李_明", "王_明", False)])
def test_plain_names(one, two, same):
    assert (plain(one) == plain(two)) == same


def test_interrupted_it_goes_on(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(check, "CHUNK", 2)
    root = sound(tmp_path / "mine")
    looked, real = [], check.looked_at

    def until_the_fourth(faces, index):
        looked.append(faces.where(index))
        if len(looked) == 4:
            raise KeyboardInterrupt
        return real(faces, index)

    monkeypatch.setattr(check, "looked_at", until_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        main([str(root)])
    capsys.readouterr()
    status, text = run(capsys, root)
    assert status == 0 and "going on after 1 of 3 chunks" in text and "no problems" in text
    assert looked[4:] == [str(root / "a" / "2.jpg"), *(str(root / "b" / f"{number}.jpg") for number in range(3))]
    (root / "a" / "0.jpg").write_text("text")
    assert run(capsys, root)[0] == 1  # finished, nothing is remembered


def test_an_image_that_vanishes_is_a_finding(tmp_path, capsys, monkeypatch):
    (part,) = parts(None, sound(tmp_path / "mine"))
    (tmp_path / "mine" / "a" / "0.jpg").unlink()
    monkeypatch.setattr(check, "parts", lambda source, root: [part])
    status, text = run(capsys, tmp_path / "mine")
    assert status == 1 and "PROBLEM: 1 images that cannot be read" in text and "a/0.jpg, [Errno 2] No such file" in text


def test_what_stops_loading_is_a_problem(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    status, text = run(capsys, tmp_path / "mine")
    assert status == 1 and "PROBLEM" in text and "holds no images" in text


@pytest.mark.parametrize("arguments", [[], ["nowhere"], ["mine", "--source", "imagenet"],
                                       ["mine", "--against", "celeba=mine"], ["mine", "--against", "nowhere"]])
def test_wrong_usage(tmp_path, monkeypatch, arguments):
    sound(tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2


def test_guessed_sources(tmp_path):
    for source, name in {"recordio": "train.rec", "insightface_bin": "lfw.bin", "pairs": "pairs.csv",
                         "lfw": "pairs.txt", "cfp": "Data",
                         "vggface2": "identity_meta.csv", "folder": "subject"}.items():
        (tmp_path / source).mkdir()
        (tmp_path / source / name).touch()
        assert guessed_source(tmp_path / source) == source
    assert guessed_source(tmp_path / "recordio" / "train.rec") == "recordio"


@pytest.mark.slow
def test_in_processes_of_its_own(tmp_path):
    picture(sound(tmp_path / "mine") / "b" / "copy.png", 90)
    picture(tmp_path / "mine" / "a" / "copy.png", 90)
    done = subprocess.run([sys.executable, "-m", "facelib.faces.check", tmp_path / "mine", "--workers", "2"],
                          capture_output=True, text=True, check=False,
                          env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])})
    assert done.returncode == 1 and "PROBLEM: 1 pictures that stand under two subjects" in done.stdout
    assert "Traceback" not in done.stderr


def test_real_faces(real_faces, tmp_path, monkeypatch):
    """The overlaps among sets that are here, and the lists of CFP, which name 100 subjects that are not."""
    def without_reading(part, workers):
        digests = [f"{part.name}{number}" for number in range(len(part.faces))]
        return pd.DataFrame({"error": "", "digest": digests, "grey": False, "side": 100})

    monkeypatch.setattr(check, "look_at_all", without_reading)
    checked = [part for name in ("vggface2", "cfp", "celeba", "lfw") for part in parts(None, real_faces / name)]
    assert [part.name for part in checked] == ["vggface2/train", "cfp", "celeba", "lfw"]
    found = check.check(checked, real_faces / "overlaps.csv", 1)
    kinds = found["kind"].value_counts().to_dict()
    assert kinds["missing"] == 100 * 14 and set(kinds) == {"missing", "same person", "few images"}
    overlaps = pd.read_csv(real_faces / "overlaps.csv")
    same = found[found["kind"] == "same person"]["detail"]
    assert same.str.contains("overlaps.csv").sum() == len(overlaps)
    by_name = (overlaps["set_a"] == "vggface2") & (overlaps["set_b"] == "lfw")  # of CFP's subjects no names are here
    assert same.str.contains("has the name of").sum() == by_name.sum()


@pytest.mark.slow
def test_real_images(real_faces):
    (part,) = parts(None, real_faces / "vggface2")
    found = look_at_all(part, 1)
    assert len(found) == 5270 > CHUNK and (found["error"] == "").all() and found["side"].max() == 144

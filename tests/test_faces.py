"""Faces from folders and lists: who and what is read, what is refused with which words, and sets that share nobody."""

import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facelib import faces as facelib_faces
from facelib.faces import FaceError, FaceSet, assert_disjoint, counts, load, load_split, union
from facelib.faces.faceset import Files, hold_out_images, split_subjects
from facelib.faces.index import indexed
from facelib.faces.sources import read_names
from facelib.verification import pair_folds, pose_pairs


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FACELIB_CACHE", str(tmp_path / "cache"))


def image(path: Path, shade: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 8), (shade, shade, shade)).save(path)


def people(root: Path, **images: int) -> Path:
    """A folder for each subject with so many images."""
    for subject, number in images.items():
        for count in range(number):
            image(root / subject / f"{count}.png", count)
    return root


# ------------------------------------------------------------------------------------------------------------- folder


def test_folder_with_and_without_poses(tmp_path):
    for name in ("b/2.jpg", "b/10.JPEG", "a/profile/1.png", "a/frontal/1.webp", "a/frontal/2.bmp", "a/.hidden.jpg",
                 ".git/x.jpg"):
        image(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("not an image")
    faces = load("folder", tmp_path)
    assert faces.table["image"].tolist() == ["a/frontal/1.webp", "a/frontal/2.bmp", "a/profile/1.png", "b/10.JPEG",
                                             "b/2.jpg"]
    assert faces.subjects.tolist() == ["a", "a", "a", "b", "b"]
    assert faces.poses.tolist() == ["frontal", "frontal", "profile", None, None]
    picture, subject = faces[3]
    assert (picture.mode, picture.size, subject) == ("RGB", (6, 8), "b")
    assert faces.where(2) == str(tmp_path / "a" / "profile" / "1.png")
    for wrong in (-1, 5):
        with pytest.raises(IndexError):
            faces[wrong]


def test_folders_without_faces(tmp_path):
    with pytest.raises(FaceError, match="holds no images; expected one folder per subject: SUBJECT/"):
        load("folder", tmp_path)
    (tmp_path / "subject").mkdir()
    with pytest.raises(FaceError, match="holds no images"):
        load("folder", tmp_path)
    image(tmp_path / "1.jpg")
    with pytest.raises(FaceError, match="holds 1 images directly in it; expected one folder per subject"):
        load("folder", tmp_path)
    with pytest.raises(FaceError, match="no folder at .*nowhere"):
        load("folder", tmp_path / "nowhere")
    for root in (None, ""):
        with pytest.raises(FaceError, match="'folder' needs root"):
            load("folder", root)


def test_a_folder_one_level_too_high(tmp_path):
    people(tmp_path / "train", **{f"n{number:06d}": 1 for number in range(30)})
    with pytest.raises(FaceError, match=r"1 subjects in 30 poses \(n000000, .*Did you mean a folder in it"):
        load("folder", tmp_path)
    assert len(load("folder", tmp_path / "train").subject_names) == 30


def test_unknown_source_and_option(tmp_path):
    with pytest.raises(FaceError,
                       match="unknown source 'imagenet'; expected one of synthetic, folder, vggface2, cfp, lfw"):
        load("imagenet", tmp_path)
    with pytest.raises(FaceError, match="'folder' has no option subject; it takes name and minimum_images"):
        load("folder", tmp_path, subject=3)


def test_unreadable_images_are_named(tmp_path):
    people(tmp_path, a=3, b=2)
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "a" / "0.jpg")
    (tmp_path / "a" / "0.jpg").write_bytes((tmp_path / "a" / "0.jpg").read_bytes()[:-300])
    (tmp_path / "a" / "2.png").write_text("text")
    (tmp_path / "b" / "1.png").write_bytes(b"")
    (tmp_path / "b" / "2.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")  # for Ghostscript
    faces = load("folder", tmp_path)
    with pytest.raises(FaceError, match=r"cannot read the image .*a/0.jpg: .*truncated.*replace it or remove it"):
        faces[0]
    with pytest.raises(FaceError, match="4 of 7 images cannot be read") as refused:
        faces.verify()
    for name in ("a/0.jpg", "a/2.png", "b/1.png", "b/2.png"):
        assert str(tmp_path / name) in str(refused.value)
    (tmp_path / "b" / "0.png").unlink()
    with pytest.raises(FaceError, match="cannot read the image .*b/0.png: .*No such file"):
        faces[4]


def test_only_subjects_with_enough_images(tmp_path):
    faces = load("folder", people(tmp_path, a=3, b=2, c=4), minimum_images=3)
    assert faces.subjects.tolist() == ["a"] * 3 + ["c"] * 4 and faces.labels.tolist() == [0] * 3 + [1] * 4
    with pytest.raises(FaceError, match="no subject has 5 images; the most are 4"):
        load("folder", tmp_path, minimum_images=5)


def test_counts(tmp_path):
    for name in ("a/frontal/1.png", "a/profile/1.png", "a/profile/2.png"):
        image(tmp_path / "posed" / name)
    table = counts(posed=load("folder", tmp_path / "posed"), loose=load("folder", people(tmp_path / "loose", b=2, c=1)))
    assert table.loc["posed"].to_dict() == {"subjects": 1, "images": 3, "frontal": 1, "profile": 2, "any": 0}
    assert table.loc["loose"].to_dict() == {"subjects": 2, "images": 3, "frontal": 0, "profile": 0, "any": 3}


# -------------------------------------------------------------------------------------------------------------- boxes


def boxes(root: Path, *lines: str) -> Path:
    (root / "boxes.csv").write_text("\n".join(['NAME_ID,X,Y,W,H', *lines]))
    return root


def test_boxes(tmp_path):
    faces = load("folder", boxes(people(tmp_path, a=2, b=1), '"a/1",-60,2.5,79,109', '"z/1",1,1,1,1'))
    assert faces.box(0) is None and faces.box(2) is None
    assert faces.box(1).tolist() == [-60, 2.5, 79, 109]


@pytest.mark.parametrize("lines, found", [
    (['"a/1",1,1,0,5'], r"boxes.csv, line 2: .*width and height above 0, found \['a/1', '1', '1', '0', '5'\]"),
    (['"a/1",1,1,5,5', '"a/0",1,x,5,5'], "boxes.csv, line 3"), (['"a/1",1,1,5,inf'], "line 2"),
    (['"a/1",1,1,5,5', '"a/1",1,1,5,6'], "a/1 has more than one box"),
    (['"x/1",1,1,5,5'], "none of its 1 boxes names an image .*x/1.*a/0"), ([], "found 0 rows")])
def test_wrong_boxes(tmp_path, lines, found):
    with pytest.raises(FaceError, match=found):
        load("folder", boxes(people(tmp_path, a=2), *lines))


def test_boxes_with_other_columns(tmp_path):
    (people(tmp_path, a=1) / "boxes.csv").write_text("image,left,top\na/0,1,1\n")
    with pytest.raises(FaceError, match="boxes.csv: expected rows of NAME_ID,X,Y,W,H, found 1 rows of image,left,top"):
        load("folder", tmp_path)


# ---------------------------------------------------------------------------------------------- sets, splits and unions


def made(subjects: list[str | None], poses: list[str | None] | None = None, name: str = "made") -> FaceSet:
    rows = {"image": [f"{name}{number}" for number in range(len(subjects))], "subject": subjects, "pose": poses}
    return FaceSet.from_rows(pd.DataFrame(rows), name, Files(Path("nowhere")))


NAMES = st.lists(st.sampled_from(["10", "9", "a", "B", "é", "b/c", "zoë"]), min_size=1, max_size=30)


@settings(deadline=None)
@given(NAMES, st.randoms())
def test_labels_number_the_subjects_in_name_order(subjects, random):
    faces = made(subjects)
    assert faces.labels.tolist() == [sorted(set(subjects)).index(name) for name in subjects]
    assert faces.subject_names == sorted(set(subjects))
    chosen = [random.randrange(len(subjects)) for _ in range(5)]
    some = faces.take(chosen)
    assert some.subjects.tolist() == [subjects[index] for index in chosen]
    assert some.labels.tolist() == np.unique([subjects[index] for index in chosen], return_inverse=True)[1].tolist()


@settings(deadline=None)
@given(NAMES, st.floats(0.05, 0.95))
def test_splits_share_nobody_and_lose_nobody(subjects, share):
    faces = made(subjects)
    names = sorted(set(subjects))
    count = round(len(names) * share)
    if min(count, len(names) - count) < 2:
        with pytest.raises(FaceError, match="both need at least 2"):
            split_subjects(faces, share)
        return
    training, test = split_subjects(faces, share)
    assert training.subject_names + test.subject_names == names and len(test.subject_names) == count
    assert sorted([*training.table["image"], *test.table["image"]]) == sorted(faces.table["image"])


def test_a_subject_on_both_sides_is_named():
    with pytest.raises(FaceError, match=r"2 subjects are in both the training and the test faces \(b, c\)"):
        assert_disjoint(made(["a", "b", "c"]), made(["c", "b", "d"], name="other"))
    assert_disjoint(made(["a", "b"]), made(["c", "c"], name="other"))


def test_one_folder_under_two_names_is_refused(tmp_path, monkeypatch):
    """Subjects get their set's name, so that the same people would stand on both sides under names that differ."""
    for subject in "abcdefgh":
        (tmp_path / "faces" / subject).mkdir(parents=True)
        for number in range(2):
            Image.new("RGB", (40, 40)).save(tmp_path / "faces" / subject / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FaceError, match="images are in both the training and the test faces, such as .*faces.[gh].[01].png"):
        load_split("folder", str(tmp_path / "faces"), 0.25, more_training=[{"source": "folder", "root": "faces", "name": "again"}])


def test_images_held_out():
    faces = made([f"s{number}" for number in range(50) for _ in range(30)] + ["alone"])
    training, validation = hold_out_images(faces, 0.05, seed=1)
    assert sorted([*training.table["image"], *validation.table["image"]]) == sorted(faces.table["image"])
    assert "alone" in training.subjects and "alone" not in validation.subjects
    assert set(pd.Series(validation.subjects).value_counts()) <= {1, 2} and 50 <= len(validation) <= 100
    assert hold_out_images(faces, 0.05, seed=1)[1].table.equals(validation.table)
    assert not hold_out_images(faces, 0.05, seed=2)[1].table.equals(validation.table)
    assert len(hold_out_images(made(["a", "b", "b"]), 0.001, seed=0)[1]) == 1
    with pytest.raises(FaceError, match="none of the 2 training images can be held out.*only one"):
        hold_out_images(made(["a", "b"]), 0.5, seed=0)


def test_union_keeps_equal_names_apart():
    both = union(made(["a", "b"], ["frontal", None], "x"), made(["a", None], name="y"))
    assert both.subjects.tolist() == ["x/a", "x/b", "y/a", None]
    assert both.poses.tolist() == ["frontal", None, None, None]
    assert both.table["set"].tolist() == ["x", "x", "y", "y"]
    with pytest.raises(FaceError, match="need different names, found .*'x', 'x'"):
        union(made(["a"], name="x"), made(["b"], name="x"))


def test_union_reads_each_set_with_its_own_reader(tmp_path):
    one, two = (load("folder", people(tmp_path / name, a=2), name=name) for name in ("one", "two"))
    image(tmp_path / "two" / "a" / "1.png", 200)
    both = union(one, two)
    assert [both[number][0].getpixel((0, 0))[0] for number in range(4)] == [0, 1, 0, 200]
    assert both.where(3) == str(tmp_path / "two" / "a" / "1.png")


def test_training_and_test_people_differ_under_every_name(tmp_path):
    people(tmp_path / "mine", **{f"m{number}": 2 for number in range(10)})
    people(tmp_path / "more", **{f"n{number}": 2 for number in range(6)})
    overlaps = tmp_path / "overlaps.csv"
    overlaps.write_text("set_a,subject_a,set_b,subject_b,found_by\nmore,n1,folder,m9,name\n"
                        "more,n4,more,n1,face\nmore,n2,folder,m0,name\nfolder,m8,folder,m3,face\n")
    more = [{"source": "folder", "root": tmp_path / "more", "name": "more"}]
    training, test, _ = load_split("folder", tmp_path / "mine", 0.2, more, overlaps)
    assert test.subject_names == ["folder/m8", "folder/m9"]
    mine, more_people = [f"folder/m{n}" for n in (0, 1, 2, 4, 5, 6, 7)], [f"more/n{n}" for n in (0, 3, 5)]  # n2 is m0
    assert training.subject_names == mine + more_people
    training, *_ = load_split("folder", tmp_path / "mine", 0.2, overlaps=overlaps)
    assert "folder/m3" not in training.subject_names and len(training.subject_names) == 7
    training, test, _ = load_split("folder", tmp_path / "mine", 0.2)
    assert training.subject_names == [f"m{n}" for n in range(8)] and test.subject_names == ["m8", "m9"]
    with pytest.raises(FaceError, match="source among them"):
        load_split("folder", tmp_path / "mine", 0.2, [{"root": "more"}])
    overlaps.write_text("a,b\n1,2\n")
    with pytest.raises(FaceError, match="overlaps.csv: expected rows of set_a,subject_a,set_b,subject_b"):
        load_split("folder", tmp_path / "mine", 0.2, more, overlaps)


def test_fingerprint_tells_what_not_where(tmp_path):
    first = load("folder", boxes(people(tmp_path / "one", a=2, b=1), '"a/1",1,2,3,4'))
    again = load("folder", boxes(people(tmp_path / "two", a=2, b=1), '"a/1",1,2,3,4'))
    assert again.fingerprint() == first.fingerprint()
    others = [people(tmp_path / "renamed", a=2, c=1), people(tmp_path / "fewer", a=1, b=1),
              people(tmp_path / "unboxed", a=2, b=1),
              boxes(people(tmp_path / "moved", a=2, b=1), '"a/1",1,2,3,5')]
    prints = {load("folder", root).fingerprint() for root in others} | {first.take([1, 0, 2]).fingerprint()}
    assert len(prints) == 5 and first.fingerprint() not in prints


# ----------------------------------------------------------------------------------------------------------- large sets


def test_a_large_set_is_listed_once(tmp_path):
    root = boxes(people(tmp_path / "faces", a=2, b=1), '"a/1",1,2,3,4')
    plain = load("folder", root)
    listings = []

    def build():
        listings.append(1)
        return plain.table, [root, root / "a", root / "b", root / "boxes.csv"]

    def opened():
        return indexed("folder", root, plain.readers["folder"], build, large=3)

    time.sleep(0.02)  # younger than the folders: a time of change has its grain
    for faces in (opened(), opened(), opened()):
        assert faces.table.astype(object).equals(plain.table.astype(object))
        assert faces.fingerprint() == plain.fingerprint()
        assert faces.subjects.tolist() == ["a", "a", "b"] and faces[2][1] == "b"
        assert faces.poses.tolist() == [None] * 3 and faces.box(1).tolist() == [1, 2, 3, 4]
    assert len(listings) == 1
    for number, change in enumerate([lambda: image(root / "b" / "new.png"), lambda: boxes(root, '"a/0",1,2,3,4'),
                                     lambda: (root / "boxes.csv").unlink(), lambda: people(root, c=1)], 2):
        change()
        time.sleep(0.02)
        opened(), opened()
        assert len(listings) == number
    (file,) = (tmp_path / "cache").iterdir()
    for damaged in (file.read_bytes()[:100], b"", file.read_bytes()[:-20] + b"\0" * 20):
        file.write_bytes(damaged)
        assert len(opened()) == 3
    assert len(listings) == 8


def test_a_small_set_leaves_no_index(tmp_path):
    load("folder", people(tmp_path / "faces", a=2))
    assert not (tmp_path / "cache").exists()


# ----------------------------------------------------------------------------------------------------------- vggface2


def vggface2_pose(root: Path) -> Path:
    """Two test subjects with 31 images each, and the list of 30 of them."""
    people(root / "test", n000009=31, n000001=31)
    order = np.random.default_rng(0).permutation(30)
    lines = [f"{subject}/{number}.png" for subject in ("n000009", "n000001") for number in order]
    (root / "test_posetemp_imglist.txt").write_text("\r\n".join(lines) + "\r\n")
    return root


def test_vggface2_pose(tmp_path):
    faces = load("vggface2", vggface2_pose(tmp_path), part="test", pose_list="test_posetemp_imglist.txt")
    lines = (tmp_path / "test_posetemp_imglist.txt").read_text().split()
    assert faces.table["image"].tolist() == lines
    assert faces.poses.tolist() == (["frontal"] * 10 + ["three-quarter"] * 10 + ["profile"] * 10) * 2
    protocols = pose_pairs(faces.subjects, faces.poses, 5)
    assert [protocol.pair for protocol in protocols][:2] == ["frontal-frontal", "frontal-three-quarter"]
    templates = [[lines[index] for index in template] for template in protocols[0].templates]
    for start in range(0, 60, 5):  # the list's own templates: each five lines one
        assert lines[start:start + 5] in templates
    assert len(templates) == 12


@pytest.mark.parametrize("change, found", [
    (lambda lines: lines[:-1], "30 images for each subject"), (lambda lines: lines[::2], "the poses is test_posetemp"),
    (lambda lines: lines[:59] + ["n000001/99.png"], "1 images that are not there, the first is n000001/99.png"),
    (lambda lines: lines[:30] * 2, "30 images for each subject"), (lambda lines: [], "is empty")])
def test_other_pose_lists(tmp_path, change, found):
    path = vggface2_pose(tmp_path) / "test_posetemp_imglist.txt"
    path.write_text("\n".join(change(path.read_text().split())))
    with pytest.raises(FaceError, match=found):
        load("vggface2", tmp_path, part="test", pose_list=path.name)


def test_vggface2_parts_and_boxes(tmp_path):
    people(tmp_path / "train", n000002=2)
    (tmp_path / "bb_landmark").mkdir()
    (tmp_path / "bb_landmark" / "loose_bb_train.csv").write_text('NAME_ID,X,Y,W,H\n"n000002/1",60,60,79,109\n')
    faces = load("vggface2", tmp_path)
    assert faces.box(0) is None and faces.box(1).tolist() == [60, 60, 79, 109]
    with pytest.raises(FaceError, match="no folder at .*test"):
        load("vggface2", tmp_path, part="test")
    with pytest.raises(FaceError, match="cannot read the list .*missing.txt"):
        load("vggface2", tmp_path, pose_list="missing.txt")


@pytest.mark.parametrize("content", [
    'Class_ID, Name, Sample_Num, Flag, Gender\nn000001, "14th_Dalai_Lama", 424, 0, m\nn000002, "A,_B", 315, 1, f\n',
    '\ufeffClass_ID,Name,Sample_Num,Flag,Gender\r\nn000001,14th_Dalai_Lama,424,0,m\r\nn000002,"A,_B",315,1,f\r\n',
    'Class_ID, Name, Sample_Num, Flag\r\nn000001," ""14th_Dalai_Lama""",424,0\r\nn000002," ""A","_B""",315,1\r\n',
    'Class_ID;Name;Sample_Num;Flag;Gender\r\nn000001;"14th_Dalai_Lama";424;0;m\r\nn000002;A,_B;315;1;f\r\n',
    'Class_ID, Name, Sample_Num, Flag, Gender\nn000001, 14th_Dalai_Lama, 424, 0, m\n\nn000002, A,_B, 315, 1, f'])
def test_identity_meta_in_its_dialects(tmp_path, content):
    path = tmp_path / "identity_meta.csv"
    path.write_bytes(content.encode())
    assert read_names(path) == {"n000001": "14th_Dalai_Lama", "n000002": "A,_B"}


def test_identity_meta_in_another_encoding_and_none(tmp_path):
    path = tmp_path / "identity_meta.csv"
    path.write_bytes('Class_ID, Name, Sample_Num, Flag, Gender\nn1, "José", 1, 1, m\n'.encode("cp1252"))
    assert read_names(path) == {"n1": "José"}
    for content, found in [("", "expected the columns Class_ID"), ("a,b\n", "found a, b"),
                           ("Class_ID, Name, Sample_Num, Flag, Gender\nn1, \"A\", 3\n", "line 2")]:
        path.write_text(content)
        with pytest.raises(FaceError, match=found):
            read_names(path)
    with pytest.raises(FaceError, match="cannot read"):
        read_names(tmp_path / "none.csv")


# ------------------------------------------------------------------------------------------------------ cfp, lfw, pairs


def cfp(root: Path, subjects: int = 4) -> Path:
    """CFP with 2 frontal images and 1 profile image of each subject; every fold pairs 1 with 2, and 1 with 3."""
    frontal = [f"{s:03d}/frontal/{n:02d}.jpg" for s in range(1, subjects + 1) for n in (1, 2)]
    profile = [f"{s:03d}/profile/01.jpg" for s in range(1, subjects + 1)]
    for name in frontal + profile:
        image(root / "Data" / "Images" / name)
    for letter, names in (("F", frontal), ("P", profile)):
        path = root / "Protocol" / f"image_list_{letter}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(f"{n} ../Data/Images/{name}" for n, name in enumerate(names, 1)))
    for pair, same, diff in (("FF", "1,2\n3,4\n", "1,3\n"), ("FP", "1,1\n", "1,2\n7,1\n")):
        for fold in range(1, 11):
            (root / "Protocol" / "Split" / pair / f"{fold:02d}").mkdir(parents=True)
            for side, text in (("same", same), ("diff", diff)):
                (root / "Protocol" / "Split" / pair / f"{fold:02d}" / f"{side}.txt").write_text(text)
    return root


def named(faces: FaceSet, pair: str) -> list[tuple]:
    listed = faces.pairs[pair]
    images = faces.table["image"].to_numpy()
    return list(zip(images[listed["image_a"]], images[listed["image_b"]], listed["same"], listed["fold"]))


def test_cfp_folds(tmp_path):
    faces = load("cfp", cfp(tmp_path))
    assert set(faces.poses) == {"frontal", "profile"} and len(faces) == 12
    assert named(faces, "FF")[:3] == [("001/frontal/01.jpg", "001/frontal/02.jpg", True, 1),
                                      ("002/frontal/01.jpg", "002/frontal/02.jpg", True, 1),
                                      ("001/frontal/01.jpg", "002/frontal/01.jpg", False, 1)]
    assert named(faces, "FP")[-1] == ("004/frontal/01.jpg", "001/profile/01.jpg", False, 10)
    for listed in faces.pairs.values():
        assert pair_folds(listed, faces.subjects).fold.tolist() == sorted(list(range(1, 11)) * 3)


def test_pairs_follow_their_images(tmp_path):
    faces = load("cfp", cfp(tmp_path))
    shuffled = faces.take(np.random.default_rng(0).permutation(len(faces)))
    assert {name: named(shuffled, name) for name in ("FF", "FP")} == {name: named(faces, name) for name in ("FF", "FP")}
    some = faces.take(faces.subjects == "001")
    assert named(some, "FF") == [("001/frontal/01.jpg", "001/frontal/02.jpg", True, fold) for fold in range(1, 11)]
    assert some.take(some.poses == "profile").pairs == {}
    both = union(made(["x"]), faces)
    assert both.pairs["cfp/FP"]["image_b"].tolist() == (faces.pairs["FP"]["image_b"] + 1).tolist()


def test_cfp_in_part(tmp_path):
    (cfp(tmp_path) / "Data" / "Images" / "002" / "frontal" / "02.jpg").unlink()
    with pytest.warns(UserWarning, match="10 of the 30 pairs of FF .* such as 002/frontal/02.jpg"):
        faces = load("cfp", tmp_path)
    assert len(faces.pairs["FF"]) == 20 and len(faces.pairs["FP"]) == 30
    (tmp_path / "Protocol" / "Split" / "FP" / "03" / "diff.txt").write_text("1,2\n7,99\n")
    with pytest.raises(FaceError,
                       match="03/diff.txt, line 2: .* numbers of image_list_F.txt and image_list_P.txt, found '7,99'"):
        load("cfp", tmp_path)


LFW = "2\t2\nAnn\t1\t2\nBob\t1\t2\nAnn\t1\tBob\t2\nAnn\t2\tCy\t1\nCy\t1\t2\nBob\t1\t3\nBob\t3\tCy\t2\nAnn\t1\tCy\t1\n"


def lfw(root: Path) -> Path:
    for name, number in (("Ann", 2), ("Bob", 3), ("Cy", 2)):
        for count in range(1, number + 1):
            image(root / "lfw_funneled" / name / f"{name}_{count:04d}.jpg")
    (root / "pairs.txt").write_text(LFW)
    return root


def test_lfw_view_2(tmp_path):
    faces = load("lfw", lfw(tmp_path))
    assert faces.subject_names == ["Ann", "Bob", "Cy"] and len(faces) == 7
    pairs = named(faces, "view2")
    assert pairs[0] == ("Ann/Ann_0001.jpg", "Ann/Ann_0002.jpg", True, 1)
    assert pairs[3] == ("Ann/Ann_0002.jpg", "Cy/Cy_0001.jpg", False, 1)
    assert [fold for *_, fold in pairs] == [1] * 4 + [2] * 4
    assert pair_folds(faces.pairs["view2"], faces.subjects).same.tolist() == [True, True, False, False] * 2


def test_lfws_faces_are_in_the_middle_of_its_images(tmp_path):
    root = lfw(tmp_path)
    (root / "lfw_funneled" / "Ann" / "Ann_0001.jpg").write_bytes(b"damaged")
    faces = load("lfw", root)
    width, height = faces[1][0].size
    assert faces.box(0).tolist() == pytest.approx([0.26 * width, 0.26 * height, 0.48 * width, 0.48 * height], rel=1e-5)
    assert load("lfw", root, face_share=1).box(1) is None
    with pytest.raises(FaceError, match="face_share is a share .* found 0"):
        load("lfw", root, face_share=0)


@pytest.mark.parametrize("change, found", [
    (lambda text: text.replace("2\t2\n", "1100\n", 1), "expected `folds  n` .* found '1100' and 8 pairs"),
    (lambda text: text[:-10], "found '2 2' and 7 pairs|line 9"), (lambda text: "", "is empty"),
    (lambda text: text.replace("Cy\t1\t2", "Cy\t1\tx"), "line 6"),
    (lambda text: text.replace("Ann", "A").replace("Bob", "B").replace("Cy", "C"), "no pair has both")])
def test_other_pair_lists(tmp_path, change, found):
    path = lfw(tmp_path) / "pairs.txt"
    path.write_text(change(LFW))
    with warnings.catch_warnings(), pytest.raises(FaceError, match=found):
        warnings.simplefilter("ignore")
        load("lfw", tmp_path)


def test_lfw_from_scikit_learn(tmp_path, monkeypatch):
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))
    monkeypatch.setattr("sklearn.datasets.fetch_lfw_pairs", lambda **options: lfw(tmp_path / "lfw_home"))
    assert len(load("lfw").pairs["view2"]) == 8

    def offline(**options):
        raise OSError("no route to host")

    monkeypatch.setattr("sklearn.datasets.fetch_lfw_pairs", offline)
    with pytest.raises(FaceError, match="no route to host.*name root"):
        load("lfw")


def own_pairs(root: Path, text: str) -> Path:
    (people(root, a=2, b=2) / "pairs.csv").write_text(text)
    return root


def test_own_pairs(tmp_path):
    text = "image_a,image_b,same,fold,subject_a,subject_b\na/0.png,a/1.png,1,1,a,a\nb/1.png,a/0.png,FALSE,2,NA,a\n"
    for root in (own_pairs(tmp_path, text), tmp_path / "pairs.csv"):
        faces = load("pairs", root)
        assert named(faces, "pairs") == [("a/0.png", "a/1.png", True, 1), ("b/1.png", "a/0.png", False, 2)]
        assert sorted(faces.subjects) == ["NA", "a", "a"] and faces[0][0].size == (6, 8)


def test_own_pairs_without_folds_and_subjects(tmp_path):
    rows = ["a/0.png,a/1.png,true"] * 15 + ["a/0.png,b/1.png,false"] * 25
    faces = load("pairs", own_pairs(tmp_path, "\n".join(["image_a,image_b,same", *rows])))
    assert set(faces.subjects) == {None} and faces.subject_names == []
    dealt = faces.pairs["pairs"].groupby(["fold", "same"]).size().unstack()
    assert dealt[True].tolist() == [2] * 5 + [1] * 5 and dealt[False].tolist() == [3] * 5 + [2] * 5
    with pytest.raises(FaceError, match="3 of 3 images have no subject"):
        _ = faces.labels
    with pytest.raises(FaceError, match="no subject"):
        split_subjects(faces, 0.5)
    with pytest.raises(FaceError, match="no subject has 2 images"):
        load("pairs", tmp_path, minimum_images=2)


@pytest.mark.parametrize("text, found", [
    ("image_a,image_b\na,b\n", "expected rows of image_a,image_b,same"), ("", "cannot read the table"),
    ("image_a,image_b,same\na/0.png,a/1.png,maybe\n", "line 2: .*maybe"),
    ("image_a,image_b,same\na/0.png,,1\n", "line 2"),
    ("image_a,image_b,same,fold\na/0.png,a/1.png,1,x\n", "whole number for every fold"),
    ("image_a,image_b,same,fold\na/0.png,a/1.png,1,inf\n", "whole number for every fold"),
    ("image_a,image_b,same\na/0.png,c/1.png,1\na/7.png,a/0.png,0\n", "no pair has both its images"),
    ("image_a,image_b,same,subject_a,subject_b\na/0.png,a/1.png,1,a,a\na/0.png,b/0.png,0,c,b\n",
     "a/0.png has more than one subject")])
def test_wrong_own_pairs(tmp_path, text, found):
    with pytest.raises(FaceError, match=found):
        load("pairs", own_pairs(tmp_path, text))


# --------------------------------------------------------------------------------------------------------- real faces


def test_real_vggface2(real_faces):
    faces = load("vggface2", real_faces / "vggface2")
    assert len(faces) == 5270 and faces.table["subject"].value_counts().tolist() == [85] * 62
    assert faces[0][0].size == (144, 148)
    names = read_names(real_faces / "vggface2" / "identity_meta.csv")
    assert len(names) == 9131 and names["n000001"] == "14th_Dalai_Lama" and names["n000023"] == "Aarón_Díaz"
    assert not any(set(name) & set('" ') for name in names.values()) and set(faces.subject_names) < set(names)


def test_real_cfp(real_faces):
    with pytest.warns(UserWarning, match="1400 of the 7000 pairs of F[FP]"):
        faces = load("cfp", real_faces / "cfp")
    assert len(faces) == 5600 and faces.subject_names == [f"{number:03d}" for number in range(1, 401)]
    assert pd.Series(faces.poses).value_counts().to_dict() == {"frontal": 4000, "profile": 1600}
    poses = faces.poses
    for pair in ("FF", "FP"):
        listed = pair_folds(faces.pairs[pair], faces.subjects)
        assert len(listed.same) == 5600 and listed.same.sum() == 2800 and sorted(set(listed.fold)) == list(range(1, 9))
        assert set(poses[listed.first]) == {"frontal"}
        assert set(poses[listed.second]) == {"frontal" if pair == "FF" else "profile"}
        people = [set(faces.subjects[listed.first[listed.fold == fold]]) for fold in range(1, 9)]
        assert sum(map(len, people)) == len(set().union(*people))  # no fold shares a subject with another
    _, test = split_subjects(faces, 0.2)
    assert test.subject_names == [f"{number:03d}" for number in range(321, 401)] and len(test.pairs) == 2


def test_real_lfw(real_faces):
    faces = load("lfw", real_faces / "lfw")
    assert len(faces) == 7701 and len(faces.subject_names) == 4281
    listed = pair_folds(faces.pairs["view2"], faces.subjects)
    assert pd.Series(listed.fold).value_counts().to_dict() == dict.fromkeys(range(1, 11), 600)
    assert listed.same.sum() == 3000


def test_real_boxes(real_faces):
    faces = load("folder", real_faces / "celeba")
    assert len(faces) == 3855 and len(faces.subject_names) == 281
    assert faces.table["x"].notna().all()
    for index in range(0, 3855, 300):
        x, y, w, h = faces.box(index)
        picture = faces[index][0]
        assert 0 <= x < x + w <= picture.width and 0 <= y < y + h <= picture.height


def test_a_whole_set_can_be_kept_for_testing(tmp_path):
    for part, names in {"train": ("n1", "n2"), "test": ("n3", "n4")}.items():
        people(tmp_path / part, **dict.fromkeys(names, 2))
    own, more = {"part": "test"}, [{"source": "vggface2", "root": tmp_path, "part": "train"}]
    training, test, _ = load_split("vggface2", tmp_path, 1, more, **own)
    assert training.subject_names == ["vggface2/n1", "vggface2/n2"] and test.subject_names == ["vggface2/n3", "vggface2/n4"]
    with pytest.raises(FaceError, match="more_training names none"):
        load_split("vggface2", tmp_path, 1, **own)
    with pytest.raises(FaceError, match="from which the test subjects come"):
        load_split("vggface2", tmp_path, 1, [more[0] | own], **own)
    people(tmp_path / "train", n3=1)
    with pytest.raises(FaceError, match="vggface2/n3"):
        load_split("vggface2", tmp_path, 1, more, **own)


def test_people_left_out_of_real_training(real_faces):
    more = [{"source": "vggface2", "root": real_faces / "vggface2"},
            {"source": "folder", "root": real_faces / "celeba", "name": "celeba"}]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        training, test, _ = load_split("cfp", real_faces / "cfp", 0.2, more, real_faces / "overlaps.csv")
    overlaps = pd.read_csv(real_faces / "overlaps.csv", dtype=str)
    tested = overlaps[(overlaps["set_b"] == "cfp") & (overlaps["subject_b"] >= "321")]
    assert len(test.subject_names) == 80 and len(tested) > 0
    assert not set(tested["set_a"] + "/" + tested["subject_a"]) & set(training.subject_names)
    assert len(training.subject_names) == 320 + 62 + 281 - len(overlaps[overlaps["set_b"] != "lfw"])


def test_people_of_lfw_left_out_of_real_training(real_faces):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        training, _, more = load_split("cfp", real_faces / "cfp", 0.2, overlaps=real_faces / "overlaps.csv",
                                       more_tests=[{"source": "lfw", "root": real_faces / "lfw"}])
    overlaps = pd.read_csv(real_faces / "overlaps.csv", dtype=str)
    in_lfw = overlaps[(overlaps["set_a"] == "cfp") & (overlaps["set_b"] == "lfw") & (overlaps["subject_a"] < "321")]
    assert len(more["lfw"].pairs["lfw/view2"]) == 6000
    assert len(training.subject_names) == 320 - len(in_lfw) == 222


def test_everything_public_is_there():
    assert all(hasattr(facelib_faces, name) for name in facelib_faces.__all__)

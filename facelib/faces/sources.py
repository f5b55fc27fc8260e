"""Where faces come from: one function per source, each returning a FaceSet. docs/sources.md has them in a table."""

from __future__ import annotations

import contextlib
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from facelib.faces import insightface as bins
from facelib.faces import recordio as records
from facelib.faces import synthetic as renderer
from facelib.faces.faceset import PAIRS, FaceError, FaceSet, Files
from facelib.faces.index import cache_folder, indexed
from facelib.progress import progress

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
MOST_POSES = 20  # more kinds of pose than this, and than subjects: the folder given is probably one level too high
POSE_LIST = [("frontal", 10), ("three-quarter", 10), ("profile", 10)]  # a subject's lines in VGGFace2-Pose
FOLDS = 10  # into which pairs are dealt when their list says nothing of folds


def listed(folder: Path) -> tuple[list[str], list[str]]:
    """The names of the image files and of the folders directly in a folder, in name order, without hidden ones."""
    with os.scandir(folder) as entries:
        shown = [entry for entry in entries if not entry.name.startswith(".")]
    return (sorted(entry.name for entry in shown if entry.name.lower().endswith(SUFFIXES)),
            sorted(entry.name for entry in shown if entry.is_dir()))


def existing(root, source: str, layout: str) -> Path:
    """`root` as a path; raises FaceError when it is no folder, saying which layout is expected."""
    if root is None or str(root) == "":
        raise FaceError(f"the source '{source}' needs root, the folder that holds its images ({layout})")
    root = Path(root).expanduser()
    if not root.is_dir():
        raise FaceError(f"no folder at {root}; the source '{source}' expects {layout}")
    return root


def existing_file(root, source: str, suffix: str) -> Path:
    """The file that `root` names, or the only one with this ending in the folder that it names."""
    path = Path(root or ".").expanduser()
    found = sorted(path.glob(f"*{suffix}")) if path.is_dir() else [path] if path.is_file() else []
    if not root or len(found) != 1:
        names = ", ".join(file.name for file in found) or "nothing"
        raise FaceError(f"the source '{source}' expects root to be a {suffix} file, or a folder with one; "
                        f"found {names} at {root or 'no root'}")
    return found[0]


def folder(root, name: str = "folder") -> FaceSet:
    """One folder per subject: root/SUBJECT/*.jpg, or root/SUBJECT/POSE/*.jpg where poses are known.

    An optional root/boxes.csv (NAME_ID,X,Y,W,H; NAME_ID is the image's path without its ending) gives face boxes.
    """
    layout = "one folder per subject: SUBJECT/*.jpg or SUBJECT/POSE/*.jpg"
    root = existing(root, name, layout)
    return subjects_below(root, name, layout, [root / "boxes.csv"])


def subjects_below(root: Path, name: str, layout: str, boxes: list[Path]) -> FaceSet:
    """The images of one folder per subject, with face boxes from the first of `boxes` that is there."""

    def build() -> tuple[pd.DataFrame, list[Path]]:
        images, subjects, poses, folders = [], [], [], [root]
        for subject in progress(listed(root)[1], f"listing {root.name}", unit="subject"):
            loose, inner = listed(root / subject)
            groups = [(None, f"{subject}/", loose)]
            groups += [(pose, f"{subject}/{pose}/", listed(root / subject / pose)[0]) for pose in inner]
            for pose, prefix, files in groups:
                images += [prefix + file for file in files]
                subjects += [subject] * len(files)
                poses += [pose] * len(files)
            folders += [root / prefix for _, prefix, _ in groups]
        _check_layout(root, layout, images, set(subjects), set(poses) - {None})
        rows = pd.DataFrame({"image": images, "subject": pd.Categorical(subjects), "pose": pd.Categorical(poses)})
        found = next((file for file in boxes if file.is_file()), None)
        return rows if found is None else with_boxes(rows, found), folders + boxes

    return indexed(name, root, Files(root), build)


def _check_layout(root: Path, layout: str, images: list[str], subjects: set[str], poses: set[str]) -> None:
    if not images:
        loose = len(listed(root)[0])
        found = f"{loose} images directly in it" if loose else "no images"
        raise FaceError(f"{root} holds {found}; expected {layout} ({', '.join(SUFFIXES)})")
    if len(poses) > max(MOST_POSES, len(subjects)):
        raise FaceError(f"{root} looks like {len(subjects)} subjects in {len(poses)} poses "
                        f"({', '.join(sorted(poses)[:3])}, ...); expected {layout}. Did you mean a folder in it?")


def vggface2(root, part: str = "train", pose_list: str = "", name: str = "vggface2") -> FaceSet:
    """VGGFace2: root/{train,test}/n000001/0001_01.jpg, with loose_bb_{train,test}.csv beside or in bb_landmark/.

    pose_list: test_posetemp_imglist.txt (below root, or a path of its own) gives the images of VGGFace2-Pose, in its
        order, with their poses: for each of 368 subjects 10 frontal, 10 three-quarter and 10 profile images, each ten
        two templates of five, which verification.pose_pairs makes in this order.
    """
    layout = "train/n000001/0001_01.jpg (and test/...)"
    root = existing(root, name, layout)
    faces = subjects_below(existing(root / part, name, layout), name, layout, box_files(root, part))
    return with_poses(faces, root / pose_list) if pose_list else faces


def box_files(root: Path, part: str) -> list[Path]:
    """Where VGGFace2's face boxes may lie."""
    return [root / f"loose_bb_{part}.csv", root / "bb_landmark" / f"loose_bb_{part}.csv"]


def with_poses(faces: FaceSet, path: Path) -> FaceSet:
    """The images that VGGFace2-Pose lists, in its order, with their poses. Raises FaceError when one is missing."""
    lines = read_lines(path)
    images = pd.Series(["/".join(line.split("/")[-2:]) for line in lines], dtype="string[pyarrow]")
    each = sum(count for _, count in POSE_LIST)
    blocks = images.str.split("/").str[0].to_numpy(dtype=object)
    starts = blocks[::each]
    if len(blocks) % each or len(set(starts)) < len(starts) or (blocks != np.repeat(starts, each)[:len(blocks)]).any():
        raise FaceError(f"{path}: expected {each} images for each subject, one subject after the other, found "
                        f"{len(lines)} lines with {len(set(blocks))} subjects. The list with the poses is "
                        "test_posetemp_imglist.txt")
    chosen = faces.take(positions(faces, images, path))
    pose = [pose for pose, count in POSE_LIST for _ in range(count)] * len(starts)
    return FaceSet(chosen.table.assign(pose=pd.Categorical(pose)), chosen.readers)


def cfp(root, name: str = "cfp") -> FaceSet:
    """Celebrities in Frontal-Profile: root/Data/Images/001/{frontal,profile}/01.jpg; poses are the folders' names.

    pairs: FF and FP, the 10 folds of root/Protocol/Split, where they are there.
    """
    layout = "Data/Images/001/{frontal,profile}/01.jpg"
    root = existing(root, name, layout)
    images = root / "Data" / "Images"
    faces = subjects_below(images if images.is_dir() else root, name, layout, [])
    protocol = root / "Protocol"
    return with_pairs(faces, cfp_pairs(protocol), protocol) if (protocol / "Split").is_dir() else faces


def cfp_pairs(protocol: Path) -> dict[str, pd.DataFrame]:
    """CFP's protocols FF and FP: image_a, image_b (paths below Data/Images), same, fold (1 to 10).

    image_list_{F,P}.txt number the frontal and profile images; Split/{FF,FP}/01..10/{same,diff}.txt pair the numbers.
    """
    numbered = {letter: cfp_images(protocol / f"image_list_{letter}.txt") for letter in "FP"}
    found = {}
    for pair in ("FF", "FP"):
        rows = []
        for fold, side in [(fold, side) for fold in range(1, 11) for side in ("same", "diff")]:
            path = protocol / "Split" / pair / f"{fold:02d}" / f"{side}.txt"
            for number, line in enumerate(read_lines(path), 1):
                words = line.replace(" ", "").split(",")
                ends = [numbered[letter].get(int(word) if word.isdecimal() else -1)
                        for letter, word in zip(pair, words)]
                if len(words) != 2 or None in ends:
                    raise FaceError(f"{path}, line {number}: expected two numbers of image_list_{pair[0]}.txt and "
                                    f"image_list_{pair[1]}.txt, found {line!r}")
                rows.append((*ends, side == "same", fold))
        found[pair] = pd.DataFrame(rows, columns=PAIRS)
    return found


def cfp_images(path: Path) -> dict[int, str]:
    """The images of image_list_{F,P}.txt (paths below Data/Images) by their numbers."""
    split = [line.split() for line in read_lines(path)]
    if not all(len(words) == 2 and words[0].isdecimal() for words in split):
        raise FaceError(f"{path}: expected lines of a number and an image's path")
    return {int(number): "/".join(image.split("/")[-3:]) for number, image in split}


def lfw(root=None, face_share: float = 0.48, name: str = "lfw") -> FaceSet:
    """Labeled Faces in the Wild: root/pairs.txt and root/{lfw-deepfunneled,lfw_funneled,lfw}/Name/Name_0001.jpg.

    Without root, scikit-learn's copy, downloaded when it is not there yet (233 MB). face_share: the side of the face's
        box, about the centre of the aligned images, as a share of theirs; 1 for images that are cut already. pairs: view2,
        10 folds.
    """
    if not 0 < face_share <= 1:
        raise FaceError(f"face_share is a share of the image's side, above 0 and at most 1, found {face_share}")
    if root is None or str(root) == "":
        root = _downloaded_lfw()
    root = existing(root, name, "pairs.txt and lfw-deepfunneled/Name/Name_0001.jpg")
    known = [root / folder for folder in ("lfw-deepfunneled", "lfw_funneled", "lfw")]
    images = next((folder for folder in known if folder.is_dir()), root)
    faces = subjects_below(images, name, "Name/Name_0001.jpg", [])
    if face_share < 1:
        faces = with_central_boxes(faces, face_share)
    return with_pairs(faces, {"view2": lfw_pairs(root / "pairs.txt")}, root / "pairs.txt")


def with_central_boxes(faces: FaceSet, share: float) -> FaceSet:
    """Images of one size, that of the first that can be read, with a face box of this share of their sides in the middle."""
    for index in range(len(faces)):
        with contextlib.suppress(FaceError):  # the check reports it
            width, height = faces.read(index).size
            box = {"x": width * (1 - share) / 2, "y": height * (1 - share) / 2, "w": width * share, "h": height * share}
            return FaceSet(faces.table.assign(**{side: np.float32(length) for side, length in box.items()}), faces.readers)
    return faces


def _downloaded_lfw() -> Path:
    from sklearn.datasets import fetch_lfw_pairs, get_data_home

    try:
        fetch_lfw_pairs(subset="10_folds", resize=0.1)  # loads the pairs too, as small as it can
    except OSError as error:
        raise FaceError(f"scikit-learn could not download LFW ({error}); name root, a folder with pairs.txt and "
                        "lfw-deepfunneled/ or lfw_funneled/") from error
    return Path(get_data_home()) / "lfw_home"


def lfw_pairs(path: Path) -> pd.DataFrame:
    """LFW's View 2: image_a, image_b (paths), same, fold (from 1).

    pairs.txt: `folds  n`, then for each fold n lines `name  i  j` and n lines `name  i  other  j`.
    """
    lines = [line.split() for line in read_lines(path)]
    head = lines[0] if all(word.isdecimal() for word in lines[0]) else []
    if len(head) != 2 or int(head[0]) * 2 * int(head[1]) != len(lines) - 1 or len(lines) == 1:
        raise FaceError(f"{path}: expected `folds  n` and then folds x 2 n pairs, as in View 2's pairs.txt; found "
                        f"{' '.join(lines[0])[:40]!r} and {len(lines) - 1} pairs")
    rows = []
    for number, words in enumerate(lines[1:]):
        if len(words) == 3:
            words = [*words[:2], words[0], words[2]]
        if len(words) != 4 or not (words[1].isdecimal() and words[3].isdecimal()):
            raise FaceError(f"{path}, line {number + 2}: expected `name  i  j` or `name  i  other  j`, found "
                            f"{' '.join(words)[:80]!r}")
        ends = [f"{name}/{name}_{int(image):04d}.jpg" for name, image in (words[:2], words[2:])]
        rows.append((*ends, words[0] == words[2], number // (2 * int(head[1])) + 1))
    return pd.DataFrame(rows, columns=PAIRS)


def pairs(root, name: str = "pairs") -> FaceSet:
    """Anybody's own pairs: root/pairs.csv (or root itself, a .csv file) with image_a,image_b,same and, optionally,
    fold,subject_a,subject_b; images are paths below the file's folder, same is 1 or 0 (or true, false).

    pairs: pairs. Without folds the genuine and the impostor pairs are dealt into 10 in turn; without subjects the
    images have none.
    """
    path = existing_file(root, name, "pairs.csv" if Path(root or ".").expanduser().is_dir() else ".csv")
    listed = read_pairs(path)
    ends = pd.DataFrame({"image": pd.concat([listed["image_a"], listed["image_b"]], ignore_index=True)})
    if {"subject_a", "subject_b"} <= set(listed.columns):
        ends["subject"] = pd.concat([listed["subject_a"], listed["subject_b"]], ignore_index=True)
    people = ends.drop_duplicates()
    twice = people["image"].duplicated()
    if twice.any():
        raise FaceError(f"{path}: {people.loc[twice, 'image'].iloc[0]} has more than one subject")
    there = people[[(path.parent / image).is_file() for image in people["image"]]]
    faces = FaceSet.from_rows(there, name, Files(path.parent))
    return with_pairs(faces, {"pairs": listed[PAIRS]}, path)


def read_pairs(path: Path) -> pd.DataFrame:
    """The table of pairs of `pairs`, with same as bool and fold filled in."""
    table = read_csv(path, PAIRS[:3])
    same = table["same"].str.strip().str.lower().map({"1": True, "0": False, "true": True, "false": False})
    if same.isna().any() or table[["image_a", "image_b"]].isna().any(axis=None):
        row = np.flatnonzero(same.isna() | table[["image_a", "image_b"]].isna().any(axis=1))[0]
        raise FaceError(f"{path}, line {row + 2}: expected two images and same as 1 or 0, found "
                        f"{table.iloc[row].tolist()}")
    table["same"] = same.astype(bool)
    if "fold" not in table:
        return table.assign(fold=table.groupby("same").cumcount() % FOLDS + 1)
    fold = pd.to_numeric(table["fold"], errors="coerce")
    if not ((fold == fold.round()) & (fold.abs() < 1e9)).all():
        raise FaceError(f"{path}: expected a whole number for every fold")
    return table.assign(fold=fold.astype(int))


def recordio(root, name: str = "recordio") -> FaceSet:
    """InsightFace's RecordIO: root/train.rec with train.idx beside it (or root itself, the .rec file).

    Subjects are the records' labels, as seven digits. Header records are left out.
    """
    path = existing_file(root, name, ".rec")
    index, property_file = path.with_suffix(".idx"), path.parent / "property"
    if not index.is_file():
        raise FaceError(f"{path} needs its index beside it, {index.name}; MXNet's rec2idx.py makes one")
    return indexed(name, path, records.Records(path),
                   lambda: (records.rows(path, index, property_file), [path, index, property_file]))


def insightface_bin(root, folds: int = FOLDS, name: str = "insightface_bin") -> FaceSet:
    """An InsightFace verification set: root is lfw.bin, cfp_fp.bin ... (or a folder with one), held in memory.

    pairs: the file's name without ending, in `folds` blocks of equal length, as InsightFace evaluates it. Images have
    no subjects.
    """
    path = existing_file(root, name, ".bin")
    images, same = bins.read_pickle(path)
    first = np.arange(0, len(images), 2)
    fold = np.repeat(np.arange(1, folds + 1), [len(block) for block in np.array_split(first, folds)])
    rows = pd.DataFrame({"image": [str(number) for number in range(len(images))]})
    faces = FaceSet.from_rows(rows, name, bins.Pickled(path, images))
    table = pd.DataFrame({"image_a": first, "image_b": first + 1, "same": same, "fold": fold})
    return FaceSet(faces.table, faces.readers, {path.stem: table})


def synthetic(root=None, subjects: int = 100, images_per_pose: int = 10, seed: int = 0,
              name: str = "synthetic") -> FaceSet:
    """The built-in faces, rendered once into a folder (by default below FACELIB_CACHE or ~/.cache/facelib)."""
    if root is None or str(root) == "":
        root = cache_folder() / f"synthetic-{renderer.VERSION}-{subjects}x{images_per_pose}-seed{seed}"
    return folder(renderer.write(Path(root), subjects, images_per_pose, seed), name)


SOURCES = {"synthetic": synthetic, "folder": folder, "vggface2": vggface2, "cfp": cfp, "lfw": lfw, "pairs": pairs,
           "recordio": recordio, "insightface_bin": insightface_bin}

# ---------------------------------------------------------------------------------------------- lists beside the images


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that are not empty. Raises FaceError when there is none, or no such file."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise FaceError(f"cannot read the list {path}: {error}") from error
    lines = [line for line in lines if line]
    if not lines:
        raise FaceError(f"{path} is empty")
    return lines


def read_csv(path: Path, columns: list[str]) -> pd.DataFrame:
    """A CSV file, all text, with at least these columns. Raises FaceError when it is none."""
    try:
        table = pd.read_csv(path, dtype=str, skipinitialspace=True, encoding="utf-8-sig", na_values="",
                            keep_default_na=False)  # NA may be somebody's name
    except (OSError, ValueError, OverflowError) as error:
        raise FaceError(f"cannot read the table {path}: {error}") from error
    missing = [column for column in columns if column not in table.columns]
    if missing or table.empty:
        raise FaceError(f"{path}: expected rows of {','.join(columns)}, found {len(table)} rows of "
                        f"{','.join(map(str, table.columns))}")
    return table


def positions(faces: FaceSet, images: pd.Series, path: Path) -> np.ndarray:
    """Where the images that the list at `path` names are in the set. Raises FaceError when some are not."""
    found = pd.Index(faces.table["image"]).get_indexer(images)
    if (found < 0).any():
        raise FaceError(f"{path} names {np.count_nonzero(found < 0)} images that are not there, the first is "
                        f"{images[np.flatnonzero(found < 0)[0]]}; python -m facelib.faces.check lists them")
    return found


def with_pairs(faces: FaceSet, pairs: dict[str, pd.DataFrame], path: Path) -> FaceSet:
    """The faces with the pairs that a list at `path` names by image; a pair of which an image is missing is left out,
    with a warning, so that a part of a set is of use. Raises FaceError when none remains."""
    place = pd.Index(faces.table["image"])
    kept = {}
    for name, listed in pairs.items():
        ends = listed.assign(image_a=place.get_indexer(listed["image_a"]), image_b=place.get_indexer(listed["image_b"]))
        kept[name] = ends[(ends["image_a"] >= 0) & (ends["image_b"] >= 0)].reset_index(drop=True)
    if not any(map(len, kept.values())):
        raise FaceError(f"{path}: no pair has both its images; is it the list of another set?")
    for name, listed in pairs.items():
        if len(kept[name]) < len(listed):
            named = pd.concat([listed["image_a"], listed["image_b"]])
            warnings.warn(f"{path}: {len(listed) - len(kept[name])} of the {len(listed)} pairs of {name} name images "
                          f"that are not there, such as {named[~named.isin(place)].iloc[0]}, and are left out; "
                          "python -m facelib.faces.check lists them", stacklevel=4)
    return FaceSet(faces.table, faces.readers, {name: table for name, table in kept.items() if len(table)})


def read_boxes(path: Path) -> pd.DataFrame:
    """Face boxes X, Y, W, H in pixels by NAME_ID, the image's path without its ending (VGGFace2's loose_bb files)."""
    boxes = read_csv(path, ["NAME_ID", "X", "Y", "W", "H"])
    sizes = boxes[["X", "Y", "W", "H"]].apply(pd.to_numeric, errors="coerce").astype("float32")
    sound = np.isfinite(sizes).all(axis=1) & (sizes["W"] > 0) & (sizes["H"] > 0) & boxes["NAME_ID"].notna()
    wrong = np.flatnonzero(~sound)
    if len(wrong):
        raise FaceError(f"{path}, line {wrong[0] + 2}: expected numbers with a width and height above 0, "
                        f"found {boxes.iloc[wrong[0]].tolist()}")
    sizes.index = boxes["NAME_ID"]
    if not sizes.index.is_unique:
        raise FaceError(f"{path}: {sizes.index[sizes.index.duplicated()][0]} has more than one box")
    return sizes


def with_boxes(rows: pd.DataFrame, path: Path) -> pd.DataFrame:
    """Rows of images with their boxes from a NAME_ID,X,Y,W,H table; an image that it does not name has none."""
    sizes = read_boxes(path)
    keys = rows["image"].str.rsplit(".", n=1).str[0]
    known = sizes.reindex(keys)
    if known["X"].notna().sum() == 0:
        raise FaceError(f"{path}: none of its {len(sizes)} boxes names an image that is there (first: "
                        f"{sizes.index[0]}; an image there: {keys.iloc[0]})")
    return rows.assign(**{a: known[b].to_numpy() for a, b in zip("xywh", "XYWH")})


def read_names(path: Path) -> dict[str, str]:
    """The subjects' names by their ids, from VGGFace2's identity_meta.csv (Class_ID, Name, Sample_Num, Flag, Gender).

    Reads the file as published (a space after each comma, quoted names, some with commas) and as spreadsheets save it
    again (doubled quotes, CRLF, semicolons, another encoding). Raises FaceError when it is no such file.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise FaceError(f"cannot read {path}: {error}") from error
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("cp1252", errors="replace")  # what spreadsheets in the West write
    lines = [line for line in text.splitlines() if line.strip()]
    separator = ";" if lines and lines[0].count(";") > lines[0].count(",") else ","
    header = [word.strip().strip('"') for word in lines[0].split(separator)] if lines else []
    if header[:2] != ["Class_ID", "Name"]:
        raise FaceError(f"{path}: expected the columns Class_ID, Name, Sample_Num, Flag, Gender, found "
                        f"{', '.join(header)[:80]}")
    after = len(header) - 2
    names = {}
    for number, line in enumerate(lines[1:], 2):
        words = line.split(separator)
        name = separator.join(words[1:len(words) - after]).replace('"', "").strip()
        if len(words) < len(header) or not name:
            raise FaceError(f"{path}, line {number}: expected {separator.join(header)}, found {line[:80]!r}")
        names[words[0].strip().strip('"')] = name
    return names


def read_overlaps(path: Path) -> list[tuple[str, str]]:
    """Pairs of names (set/subject) that are one person, from a table of set_a, subject_a, set_b, subject_b."""
    table = read_csv(path, ["set_a", "subject_a", "set_b", "subject_b"])
    return list(zip(table["set_a"] + "/" + table["subject_a"], table["set_b"] + "/" + table["subject_b"]))

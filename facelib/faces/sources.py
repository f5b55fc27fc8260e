"""Where faces come from: one function per source, each returning a FaceSet."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd

from facelib.faces import synthetic as renderer
from facelib.faces.faceset import FaceError, FaceSet, Files

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


def image_paths(folder: Path) -> list[Path]:
    """The image files directly in a folder, by name."""
    return sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and not p.name.startswith("."))


def subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def existing(root, source: str, layout: str) -> Path:
    """`root` as a path; raises FaceError when it is no folder, saying which layout is expected."""
    if root is None or str(root) == "":
        raise FaceError(f"the source '{source}' needs root, the folder that holds its images ({layout})")
    root = Path(root).expanduser()
    if not root.is_dir():
        raise FaceError(f"no folder at {root}; the source '{source}' expects {layout}")
    return root


def folder(root, name: str = "folder") -> FaceSet:
    """One folder per subject: root/SUBJECT/*.jpg, or root/SUBJECT/POSE/*.jpg where poses are known.

    An optional root/boxes.csv (NAME_ID,X,Y,W,H; NAME_ID is the image's path without its ending) gives face boxes.
    """
    layout = "one folder per subject: SUBJECT/*.jpg or SUBJECT/POSE/*.jpg"
    root = existing(root, name, layout)
    rows = []
    for subject in subfolders(root):
        for image in image_paths(subject):
            rows.append({"image": str(image.relative_to(root)), "subject": subject.name})
        for pose in subfolders(subject):
            for image in image_paths(pose):
                rows.append({"image": str(image.relative_to(root)), "subject": subject.name, "pose": pose.name})
    if not rows:
        loose = len(image_paths(root))
        found = f"{loose} images directly in it" if loose else "no images"
        raise FaceError(f"{root} holds {found}; expected {layout} ({', '.join(sorted(SUFFIXES))})")
    faces = FaceSet.from_rows(rows, name, Files(root))
    boxes = root / "boxes.csv"
    return with_boxes(faces, boxes) if boxes.is_file() else faces


def vggface2(root, part: str = "train", name: str = "vggface2") -> FaceSet:
    """VGGFace2: root/{train,test}/n000001/0001_01.jpg, with loose_bb_{train,test}.csv beside or in bb_landmark/."""
    layout = "train/n000001/0001_01.jpg (and test/...)"
    root = existing(root, name, layout)
    images = existing(root / part, name, layout)
    faces = folder(images, name)
    for boxes in (root / f"loose_bb_{part}.csv", root / "bb_landmark" / f"loose_bb_{part}.csv"):
        if boxes.is_file():
            return with_boxes(faces, boxes)
    return faces


def cfp(root, name: str = "cfp") -> FaceSet:
    """Celebrities in Frontal-Profile: root/Data/Images/001/{frontal,profile}/01.jpg; poses are the folders' names."""
    root = existing(root, name, "Data/Images/001/{frontal,profile}/01.jpg")
    images = root / "Data" / "Images"
    return folder(images if images.is_dir() else root, name)


def synthetic(root=None, subjects: int = 100, images_per_pose: int = 10, seed: int = 0, name: str = "synthetic") -> FaceSet:
    """The built-in faces, rendered once into a folder (by default below FACELIB_CACHE or ~/.cache/facelib)."""
    if root is None or str(root) == "":
        cache = Path(os.environ.get("FACELIB_CACHE", Path.home() / ".cache" / "facelib"))
        root = cache / f"synthetic-{renderer.VERSION}-{subjects}x{images_per_pose}-seed{seed}"
    return folder(renderer.write(Path(root), subjects, images_per_pose, seed), name)


def with_boxes(faces: FaceSet, path: Path) -> FaceSet:
    """The faces with their boxes from a NAME_ID,X,Y,W,H table in pixels, as VGGFace2's loose_bb files have it."""
    expected = ["NAME_ID", "X", "Y", "W", "H"]
    boxes = pd.read_csv(path, skipinitialspace=True)
    if list(boxes.columns) != expected:
        raise FaceError(f"{path}: expected the columns {','.join(expected)}, found {','.join(map(str, boxes.columns))}")
    sizes = boxes[["X", "Y", "W", "H"]].apply(pd.to_numeric, errors="coerce")
    wrong = boxes.index[sizes.isna().any(axis=1) | (sizes["W"] <= 0) | (sizes["H"] <= 0)]
    if len(wrong):
        raise FaceError(f"{path}, line {wrong[0] + 2}: expected numbers with a width and height above 0, "
                        f"found {boxes.loc[wrong[0]].tolist()}")
    sizes.index = boxes["NAME_ID"].astype(str)
    if not sizes.index.is_unique:
        raise FaceError(f"{path}: {sizes.index[sizes.index.duplicated()][0]} has more than one box")
    keys = faces.table["image"].str.rsplit(".", n=1).str[0]
    known = sizes.reindex(keys)
    if known["X"].notna().sum() == 0:
        raise FaceError(f"{path}: none of its {len(sizes)} boxes names an image that is there (first: "
                        f"{sizes.index[0]}; an image there: {keys.iloc[0]})")
    table = faces.table.assign(**{a: known[b].to_numpy("float32") for a, b in zip("xywh", "XYWH")})
    return FaceSet(table, faces.readers)


SOURCES = {"synthetic": synthetic, "folder": folder, "vggface2": vggface2, "cfp": cfp}

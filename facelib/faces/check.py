"""What is wrong with my faces, before training: python -m facelib.faces.check ROOT [--source SOURCE] [--overlaps FILE]
[--against [SOURCE=]ROOT ...] [--report FILE]

Reads every image once. Problems: images that cannot be read; one picture under two subjects or in two sets; one person
in two sets (by a table of overlaps, or by name) or under two names; lists that name images that are not there. Notes:
subjects with few images, the same picture twice, grey or tiny images. Exit status: 0 no problem, 1 problems found,
2 wrong usage. Interrupted, it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import sys
import unicodedata
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from facelib.faces import load, sources
from facelib.faces.faceset import FaceError, FaceSet, decoded
from facelib.faces.index import cache_folder
from facelib.progress import progress

FEW = 2  # images: with fewer, a subject has no genuine comparison
TINY = 64  # pixels on the shortest side: with fewer, the papers' crop enlarges the image to more than twice its size
GREY = 6  # largest difference between an image's red, green and blue, after shrinking it, up to which it counts as grey
CHUNK = 1_000  # images checked at a time, and lost at most when interrupted
SHOWN = 10  # notes of a kind that are printed; problems are all printed

KINDS = {"unreadable": "images that cannot be read",
         "two subjects": "pictures that stand under two subjects or in two sets",
         "same person": "people in two sets or under two names",
         "missing": "images that a list names and that are not there",
         "few images": f"subjects with fewer than {FEW} images", "twice": "pictures that a subject has more than once",
         "grey": "grey images", "tiny": f"images with fewer than {TINY} pixels on their shortest side"}
PROBLEMS = list(KINDS)[:4]


@dataclass(frozen=True)
class Part:
    """One set to check: name is its collection, with its part where it has several (vggface2/train)."""

    name: str
    source: str
    root: Path
    faces: FaceSet

    @property
    def collection(self) -> str:
        return self.name.split("/")[0]


# -------------------------------------------------------------------------------------------------------- what to check


def guessed_source(root: Path) -> str:
    """The source whose layout `root` has."""
    files = [root.name] if root.is_file() else os.listdir(root)
    layouts = {"recordio": r".*\.rec", "insightface_bin": r".*\.bin", "pairs": r"pairs\.csv", "lfw": r"pairs\.txt",
               "cfp": "Data", "vggface2": r"train|test|identity_meta\.csv"}
    for source, pattern in layouts.items():
        if any(re.fullmatch(pattern, name) for name in files):
            return source
    return "folder"


def parts(source: str | None, root: Path) -> list[Part]:
    """The sets below `root`; VGGFace2 may have two, others have one."""
    source = source or guessed_source(root)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of missing images, which are all listed in the end
        if source == "vggface2":
            there = [part for part in ("train", "test") if (root / part).is_dir()] or ["train"]
            return [Part(f"vggface2/{part}", source, root, load(source, root, part=part)) for part in there]
        name = root.resolve().name if source == "folder" else source
        return [Part(name, source, root, load(source, root, name=name))]


# ---------------------------------------------------------------------------------------------------------- every image


def looked_at(faces: FaceSet, index: int) -> dict:
    """What one image is: error (why it cannot be read), digest of its pixels, grey, shortest side."""
    try:
        image = decoded(faces.encoded(index))
    except (OSError, FaceError) as error:
        return {"error": str(error), "digest": "", "grey": False, "side": 0}
    digest = hashlib.blake2b(image.tobytes() + repr(image.size).encode(), digest_size=16).hexdigest()
    small = np.asarray(image.resize((16, 16), Image.Resampling.BOX), dtype=int)
    return {"error": "", "digest": digest, "grey": bool(np.ptp(small, axis=2).max() <= GREY), "side": min(image.size)}


def _look_at_chunk(faces: FaceSet, path: Path) -> None:
    """Looks at every image and leaves what it found at `path`, whole or not at all."""
    passing = path.with_name(path.name + ".part")
    pd.DataFrame([looked_at(faces, index) for index in range(len(faces))]).to_parquet(passing, index=False)
    os.replace(passing, path)


def look_at_all(part: Part, workers: int) -> pd.DataFrame:
    """One row for every image, as `looked_at` gives it; what is done is kept below the cache folder until all is."""
    name = hashlib.sha256(f"{part.root.resolve()} {part.faces.fingerprint()}".encode()).hexdigest()[:16]
    folder = cache_folder() / f"check-{name}"
    chunks = {start: folder / f"{start:09d}.parquet" for start in range(0, len(part.faces), CHUNK)}
    left = {start: path for start, path in chunks.items() if not path.exists()}
    if len(left) < len(chunks):
        print(f"{part.name}: going on after {len(chunks) - len(left)} of {len(chunks)} chunks; "
              f"delete {folder} to begin anew")
    folder.mkdir(parents=True, exist_ok=True)
    images = (part.faces.take(np.arange(start, min(start + CHUNK, len(part.faces)))) for start in left)
    with ProcessPoolExecutor(min(workers, len(left) or 1), mp_context=get_context("spawn")) as pool:
        done = pool.map(_look_at_chunk, images, left.values())
        for _ in progress(done, f"reading {part.name}", len(left), f"{CHUNK} images"):
            pass
    found = pd.concat([pd.read_parquet(path) for path in chunks.values()], ignore_index=True)
    shutil.rmtree(folder)
    return found


def image_findings(checked: list[Part], workers: int) -> Iterator[tuple]:
    """Findings (kind, set, subject, image, detail) from reading every image of every set."""
    looked = [look_at_all(part, workers).assign(part=part, index=np.arange(len(part.faces))) for part in checked]
    table = pd.concat(looked, ignore_index=True)
    table["same"] = (table["error"] == "") & table["digest"].duplicated(keep=False)
    table = table[(table["error"] != "") | table["grey"] | (table["side"] < TINY) | table["same"]].copy()
    table["set"] = [part.name for part in table["part"]]
    table["subject"] = [part.faces.table["subject"].array[index] for part, index in zip(table["part"], table["index"])]
    table["image"] = [part.faces.where(index) for part, index in zip(table["part"], table["index"])]
    for row in table.itertuples():
        if row.error:
            yield "unreadable", row.set, row.subject, row.image, row.error
        elif row.side < TINY:
            yield "tiny", row.set, row.subject, row.image, f"{row.side} pixels"
        if row.grey:
            yield "grey", row.set, row.subject, row.image, ""
    for _, same in table[table["same"]].groupby("digest", sort=False):
        first, *others = same.itertuples()
        for row in others:
            two = row.set != first.set or row.subject != first.subject and pd.notna(row.subject)
            yield "two subjects" if two else "twice", row.set, row.subject, row.image, f"same picture as {first.image}"


# ----------------------------------------------------------------------------------------------- people and their lists


def few_images(part: Part) -> Iterator[tuple]:
    counts = pd.Series(part.faces.subjects).value_counts()
    for subject, count in counts[counts < FEW].items():
        yield "few images", part.name, subject, "", f"{count} image"


def known_names(part: Part) -> dict[str, str]:
    """The plain names of a set's subjects, by subject; empty where nothing tells them."""
    if part.source == "lfw":
        names = {subject: subject for subject in part.faces.subject_names}
    elif part.source == "vggface2" and (part.root / "identity_meta.csv").is_file():
        names = sources.read_names(part.root / "identity_meta.csv")
    elif part.source == "cfp" and (part.root / "Data" / "list_name.txt").is_file():
        lines = sources.read_lines(part.root / "Data" / "list_name.txt")
        names = {f"{number:03d}": name for number, name in enumerate(lines, 1)}
    else:
        return {}
    there = set(part.faces.subject_names)
    return {subject: plain(name) for subject, name in names.items() if subject in there}


def plain(name: str) -> str:
    """A name without accents, case and signs, so that Aarón_Díaz is aaron diaz."""
    letters = unicodedata.normalize("NFKD", name.casefold())
    return " ".join(re.findall(r"[^\W_]+", "".join(letter for letter in letters if not unicodedata.combining(letter))))


def same_people(checked: list[Part], overlaps: Path | None) -> Iterator[tuple]:
    """One person in two sets or under two names: by the same subject in two parts, by name, by a table of overlaps."""
    people = {f"{part.collection}/{subject}": part.name for part in checked for subject in part.faces.subject_names}
    by_name: dict[str, tuple[str, str]] = {}
    by_subject: dict[str, str] = {}
    for part in checked:
        for subject in part.faces.subject_names:
            other = by_subject.setdefault(f"{part.collection}/{subject}", part.name)
            if other != part.name:
                yield "same person", part.name, subject, "", f"also in {other}"
        for subject, name in known_names(part).items():
            other, there = by_name.setdefault(name, (part.name, subject))
            if (other, there) != (part.name, subject):
                yield "same person", part.name, subject, "", f"has the name of {there} in {other}"
    for one, two in sources.read_overlaps(overlaps) if overlaps else []:
        if one in people and two in people:
            yield "same person", people[one], one.split("/", 1)[1], "", f"is {two} by {overlaps.name}"


def listed_images(part: Part) -> Iterator[tuple[Path, pd.Series]]:
    """The lists that come with a set, each with the images that it names, as the set names them."""
    root = part.root
    if part.source == "cfp" and (root / "Protocol" / "Split").is_dir():
        for letter in "FP":
            path = root / "Protocol" / f"image_list_{letter}.txt"
            yield path, pd.Series(list(sources.cfp_images(path).values()))
    if part.source == "lfw":
        pairs = sources.lfw_pairs(root / "pairs.txt")
        yield root / "pairs.txt", pd.concat([pairs["image_a"], pairs["image_b"]])
    if part.source == "pairs":
        path = sources.existing_file(root, "pairs", ".csv")
        pairs = sources.read_pairs(path)
        yield path, pd.concat([pairs["image_a"], pairs["image_b"]])
    boxes = [root / "boxes.csv"] if part.source == "folder" else []
    if part.source == "vggface2":
        split = part.name.split("/")[1]
        boxes = sources.box_files(root, split)
        for path in [root / f"{split}_list.txt"] + [root / "test_posetemp_imglist.txt"] * (split == "test"):
            if path.is_file():
                yield path, pd.Series(sources.read_lines(path)).str.split("/").str[-2:].str.join("/")
    for path in boxes:
        if path.is_file():
            yield path, pd.Series(sources.read_boxes(path).index)


def missing_images(part: Part) -> Iterator[tuple]:
    there = part.faces.table["image"]
    there = pd.Index(there).append(pd.Index(there.str.rsplit(".", n=1).str[0]))  # lists of boxes leave the ending out
    for path, images in listed_images(part):
        for image in images[~images.isin(there)].drop_duplicates():
            yield "missing", part.name, None, image, f"named by {path}"


def check(checked: list[Part], overlaps: Path | None, workers: int) -> pd.DataFrame:
    """Every finding, one row each: kind (of KINDS), set, subject, image, detail."""
    found = [*image_findings(checked, workers), *same_people(checked, overlaps)]
    for part in checked:
        found += [*few_images(part), *missing_images(part)]
    return pd.DataFrame(found, columns=["kind", "set", "subject", "image", "detail"])


# ------------------------------------------------------------------------------------------------------------- printing


def described(part: Part) -> str:
    faces = part.faces
    counts = pd.Series(faces.subjects).value_counts()
    people = f"{len(counts):,} subjects with {counts.min()} to {counts.max()} images" if len(counts) else "no subjects"
    poses = pd.Series(faces.poses).value_counts()
    lines = [f"{part.name} ({part.source}, {part.root}): {len(faces):,} images, {people}"]
    lines += ["  poses: " + ", ".join(f"{count:,} {pose}" for pose, count in poses.items())] if len(poses) else []
    for name, listed in faces.pairs.items():
        genuine = listed["same"].sum()
        lines.append(f"  pairs {name}: {genuine:,} genuine, {len(listed) - genuine:,} impostor, "
                     f"{listed['fold'].nunique()} folds")
    return "\n".join(lines)


def printed(found: pd.DataFrame) -> str:
    lines = []
    for kind, what in KINDS.items():
        rows = found[found["kind"] == kind]
        if rows.empty:
            continue
        problem = kind in PROBLEMS
        lines.append(f"\n{'PROBLEM' if problem else 'note'}: {len(rows):,} {what}")
        for row in rows.head(None if problem else SHOWN).itertuples():
            subject = "" if row.subject is None or pd.isna(row.subject) else f"{row.set}/{row.subject}"
            lines.append("  " + ", ".join(text for text in (row.image or subject, row.detail) if text))
        if not problem and len(rows) > SHOWN:
            lines.append(f"  ... and {len(rows) - SHOWN:,} more (all of them with --report FILE)")
    return "\n".join(lines) or "\nno problems found"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m facelib.faces.check", description="What is wrong with my faces.",
                                     epilog="Exit status: 0 no problem, 1 problems found, 2 wrong usage.")
    parser.add_argument("root", type=Path, help="the folder or file that holds the faces")
    parser.add_argument("--source", choices=sorted(sources.SOURCES),
                        help="what they are (default: guessed from layout)")
    parser.add_argument("--overlaps", type=Path, metavar="FILE",
                        help="table set_a,subject_a,set_b,subject_b of the same person in two sets")
    parser.add_argument("--against", nargs="+", default=[], metavar="[SOURCE=]ROOT", help="sets to share nobody with")
    parser.add_argument("--report", type=Path, metavar="FILE", help="CSV file: kind, set, subject, image, detail")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="processes that read images (default: all)")
    chosen = parser.parse_args(arguments)
    others = [text.rpartition("=") for text in chosen.against]
    asked = [(chosen.source, chosen.root), *((source or None, Path(root)) for source, _, root in others)]
    for source, root in asked:
        if source not in (None, *sources.SOURCES) or not root.exists():
            parser.error(f"no source '{source}'" if root.exists() else f"no file or folder at {root}")
    try:
        checked = [part for source, root in asked for part in parts(source, root)]
        print("\n".join(map(described, checked)), flush=True)
        found = check(checked, chosen.overlaps, chosen.workers)
    except FaceError as error:  # what stops training stops checking
        print(f"\nPROBLEM: {error}")
        return 1
    print(printed(found))
    if chosen.report:
        found.to_csv(chosen.report, index=False)
    return 1 if found["kind"].isin(PROBLEMS).any() else 0


if __name__ == "__main__":
    sys.exit(main())

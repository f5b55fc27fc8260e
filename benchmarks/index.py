"""How long a large set takes to open again, and what it weighs: python benchmarks/index.py [images].

Makes the folders of 9,131 subjects, lists 3 million images in them (by name only: no files), and opens the index that
was left. Seconds of processor time, so that other work on the machine does not count; MB of memory that opening added.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

SUBJECTS = 9_131  # of VGGFace2


def rows(images: int) -> pd.DataFrame:
    subjects = np.arange(images) * SUBJECTS // images
    names = [f"n{subject:06d}" for subject in range(SUBJECTS)]
    images = [f"{names[subject]}/{number % 1000:04d}_01.jpg" for number, subject in enumerate(subjects)]
    return pd.DataFrame({"image": images, "subject": pd.Categorical.from_codes(subjects, names),
                         "x": 1.0, "y": 2.0, "w": 79.0, "h": 109.0})


def peak() -> float:
    """The most memory this process has held, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measured(what: str, work):
    wall, processor, before = time.perf_counter(), time.process_time(), peak()
    result = work()
    print(f"{what}: {time.process_time() - processor:.2f} s of processor time, {time.perf_counter() - wall:.2f} s, "
          f"{peak() - before:.0f} MB more at the peak", flush=True)
    return result


def main(images: int) -> None:
    from facelib.faces.faceset import Files
    from facelib.faces.index import indexed

    with tempfile.TemporaryDirectory() as folder:
        os.environ["FACELIB_CACHE"] = f"{folder}/cache"
        root = Path(folder, "faces")
        folders = [root / f"n{subject:06d}" for subject in range(SUBJECTS)]
        for subject in folders:
            subject.mkdir(parents=True)
        if os.fork() == 0:  # the memory of making the index is not that of opening it
            measured(f"making an index of {images:,} images",
                     lambda: indexed("faces", root, Files(root), lambda: (rows(images), folders)))
            os._exit(0)
        os.wait()

        def forbidden():
            raise AssertionError("the index was not used")

        faces = measured("opening it again", lambda: indexed("faces", root, Files(root), forbidden))
        assert len(faces) == images
        print(f"the table holds {faces.table.memory_usage(deep=True).sum() / 2**20:.0f} MB")
        measured("labels", lambda: faces.labels)
        measured("half of the images", lambda: faces.take(np.arange(0, images, 2)))
        measured("fingerprint", faces.fingerprint)
        chosen = np.random.default_rng(0).integers(0, images, 10_000)
        measured("looking up 10,000 images (name and box)",
                 lambda: [(faces.where(index), faces.box(index)) for index in chosen])


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3_000_000)

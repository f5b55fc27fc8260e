"""Fixtures shared by the tests."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from facelib.faces import FaceSet, load


@pytest.fixture(scope="session")
def real_faces() -> Path:
    """Folder of real research faces, or a skip: the tests that need them run only where somebody holds them."""
    folder = Path(os.environ.get("FACELIB_FACES", Path(__file__).parents[2] / "shared" / "faces"))
    if not folder.is_dir():
        pytest.skip(f"no real faces at {folder}; set FACELIB_FACES to the folder that holds cfp/, vggface2/ ...")
    return folder


@pytest.fixture(scope="session")
def blobs_folder(tmp_path_factory) -> Path:
    """A folder of tiny images that a network can learn in seconds: 8 subjects are 8 colours, two poses 6 times each."""
    root = tmp_path_factory.mktemp("blobs")
    random = np.random.default_rng(0)
    for subject in range(8):
        colour = random.integers(40, 216, 3)
        for pose in ("frontal", "profile"):
            for number in range(6):
                folder = root / f"s{subject}" / pose
                folder.mkdir(parents=True, exist_ok=True)
                pixels = colour + random.normal(0, 25, (44, 40, 3)) + random.normal(0, 30, 3)
                Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.png")
    return root


@pytest.fixture(scope="session")
def blobs(blobs_folder) -> FaceSet:
    return load("folder", blobs_folder)

"""Fixtures shared by the tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_faces() -> Path:
    """Folder of real research faces, or a skip: the tests that need them run only where somebody holds them."""
    folder = Path(os.environ.get("FACELIB_FACES", Path(__file__).parents[2] / "shared" / "faces"))
    if not folder.is_dir():
        pytest.skip(f"no real faces at {folder}; set FACELIB_FACES to the folder that holds cfp/, vggface2/ ...")
    return folder

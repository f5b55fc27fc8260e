"""Synthetic faces: reproducible to the byte, poses that differ as heads do, a folder that survives interruption."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from facelib.faces import synthetic
from facelib.faces.synthetic import EXPRESSION, SHAPE, YAW, Subject, View, render, write

SMALL = {"images_per_pose": 1, "size": 48}


def average_subject(**changes) -> Subject:
    """The average head, bare of hair and beard below the crown, with nothing painted red or dark."""
    subject = Subject.draw(np.random.default_rng(1))
    subject = replace(subject, shape=(0.0,) * len(SHAPE), scale=(1.0, 1.0, 1.0), hair_line=(0.0, 0.0, 0.0),
                      hair_length=-1.0, beard=0.0, freckles=0.0, redness=0.0)
    return replace(subject, **changes)


def plain_view(yaw: float, **changes) -> View:
    """Soft white light from everywhere, a sharp and noiseless camera, a neutral expression."""
    view = View.draw(np.random.default_rng(2), "frontal")
    view = replace(view, yaw=yaw, pitch=0.0, roll=0.0, expression=(0.0,) * len(EXPRESSION), eyes_open=1.0,
                   gaze=(0.0, 0.0), hair_bulk=1.0, hair_shift=0.0, key_colour=(0.0, 0.0, 0.0),
                   ambient=(1.0, 1.0, 1.0), exposure=1.0, frame=27.0, shift=(0.0, 0.0), blur=0.0, noise=0.0)
    return replace(view, **changes)


def silhouette(subject: Subject, view: View) -> np.ndarray:
    """Pixels (size, size) that stay the same before four backgrounds."""
    images = [render(subject, replace(view, background=seed), 144) for seed in range(4)]
    return (np.ptp(np.stack(images), axis=0) <= 2).all(-1)


def changed_pixels(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a.astype(int) - b).max(-1) > 10


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return (a & b).sum() / (a | b).sum()


def files(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*.jpg")}


@pytest.fixture(scope="module")
def two_subjects(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("faces") / "two", subjects=2, **SMALL)


# --- the picture ---

@pytest.mark.parametrize("size", [48, 113, 144])
def test_an_image_has_the_asked_size_and_uses_the_range(size):
    image = render(Subject.draw(np.random.default_rng(3)), View.draw(np.random.default_rng(4), "frontal"), size)
    assert image.shape == (size, size, 3) and image.dtype == np.uint8
    assert image.std() > 20


def test_same_arguments_same_pixels():
    subject, view = Subject.draw(np.random.default_rng(5)), View.draw(np.random.default_rng(6), "profile")
    assert np.array_equal(render(subject, view, 96), render(subject, view, 96))


def test_subject_and_view_are_drawn_from_their_own_numbers_alone():
    assert Subject.draw(np.random.default_rng(7)) == Subject.draw(np.random.default_rng(7))
    assert Subject.draw(np.random.default_rng(7)) != Subject.draw(np.random.default_rng(8))
    assert View.draw(np.random.default_rng(7), "profile") == View.draw(np.random.default_rng(7), "profile")


@pytest.mark.parametrize("pose, yaw", YAW.items())
def test_a_pose_is_its_yaw_to_either_side_with_a_few_degrees_of_jitter(pose, yaw):
    drawn = np.array([View.draw(np.random.default_rng(seed), pose).yaw for seed in range(200)])
    assert np.abs(np.abs(drawn).mean() - yaw) < 5 and np.abs(np.abs(drawn) - yaw).max() < 20
    assert 60 < (drawn > 0).sum() < 140


@pytest.mark.parametrize("yaw, eyes", [(0, 2), (40, 2), (90, 1), (-90, 1), (180, 0)])
def test_an_eye_behind_the_nose_is_hidden(yaw, eyes):
    seen = [render(average_subject(eye=colour), plain_view(yaw), 192) for colour in [(0, 0, 0), (1.0, 1.0, 1.0)]]
    assert ndimage.label(changed_pixels(*seen), np.ones((3, 3)))[1] == eyes


def test_only_the_frontal_silhouette_is_symmetrical():
    symmetry = {yaw: overlap(shape, shape[:, ::-1]) for yaw in (0, 45, 90)
                for shape in [silhouette(average_subject(), plain_view(yaw))]}
    assert symmetry[0] > .97
    assert symmetry[90] < symmetry[45] < .93


def test_a_turn_to_the_other_side_is_the_mirror_image():
    left, right = (silhouette(average_subject(), plain_view(yaw)) for yaw in (90, -90))
    assert overlap(left, right[:, ::-1]) > .97
    assert overlap(left, right) < .93


def test_a_longer_nose_shows_in_the_profile_silhouette_where_the_nose_points():
    nose = [3.0 * (name == "nose projection") for name in SHAPE]
    shapes = (0.0,) * len(SHAPE), tuple(nose)
    short, long = (silhouette(average_subject(shape=shape), plain_view(90)) for shape in shapes)
    grown = long & ~short
    assert grown.sum() > 10
    assert np.nonzero(grown)[1].min() > 100  # at yaw 90 the face looks to the right of the 144 columns


@pytest.mark.parametrize("yaw", [0, 45, 90])
def test_the_skin_has_the_same_colour_from_every_side(yaw):
    skin = np.array([.4, .3, .2])
    image = render(average_subject(skin=tuple(skin)), plain_view(yaw), 144)
    mask = changed_pixels(image, render(average_subject(skin=(.2, .3, .4)), plain_view(yaw), 144))
    linear = (image[mask] / 255) ** 2.2
    chroma = np.median(linear / linear.sum(1, keepdims=True), 0)
    assert np.allclose(chroma, skin / skin.sum(), atol=.02)


def test_light_from_the_left_makes_the_left_half_brighter():
    lit = plain_view(0, key=(-.8, 0, .6), key_colour=(1.0, 1.0, 1.0), ambient=(.2, .2, .2))
    image = render(average_subject(), lit, 144).astype(float)[50:110]
    assert image[:, 40:72].mean() > 1.3 * image[:, 72:104].mean()


def test_every_row_of_the_tables_moves_the_surface_and_keeps_it_symmetrical():
    mesh = synthetic._mesh()
    assert len(mesh.pulls) == len(SHAPE) + len(EXPRESSION)
    assert (np.abs(mesh.pulls).max((1, 2)) > .05).all()
    assert np.allclose(mesh.points[:, 0].sum(), 0, atol=.05 * len(mesh.points))
    assert np.allclose(mesh.pulls[:, :, 0].sum(1), 0, atol=8)


def test_triangle_in_front_wins_and_the_weights_find_the_pixel():
    points = np.array([[0, 0, 0], [0, 8, 0], [8, 0, 0], [0, 0, 1], [0, 4, 1], [4, 0, 1]], "f4")
    depth, pixel, triangle, weights = synthetic._rasterise(points, np.array([[0, 1, 2], [3, 4, 5]]), 8)
    found = dict(zip(pixel.tolist(), triangle.tolist()))
    centres = {8 * row + column: (column + .5) + (row + .5) for row in range(8) for column in range(8)}
    assert set(found) == {index for index, total in centres.items() if total <= 8}
    assert {index for index in found if found[index] == 1} == {index for index, total in centres.items() if total <= 4}
    at = np.einsum("pk,pkc->pc", weights, points[np.array([[0, 1, 2], [3, 4, 5]])[triangle]])
    assert np.allclose(at[:, 0], pixel % 8 + .5, atol=1e-3) and np.allclose(at[:, 1], pixel // 8 + .5, atol=1e-3)
    assert np.allclose(depth[pixel], at[:, 2])


# --- the folder ---

def test_the_layout(two_subjects):
    expected = {f"{subject}/{pose}/01.jpg" for subject in ("s00001", "s00002") for pose in YAW}
    assert set(files(two_subjects)) == expected
    assert not list(two_subjects.rglob("*.part"))
    assert json.loads((two_subjects / "synthetic.json").read_text())["subjects"] == 2
    with Image.open(two_subjects / "s00002" / "profile" / "01.jpg") as image:
        assert image.size == (48, 48) and image.mode == "RGB" and image.format == "JPEG"


def test_an_image_does_not_depend_on_process_number_of_subjects_or_of_images(two_subjects, tmp_path):
    synthetic._write_subject(tmp_path, number=2, images_per_pose=2, seed=0, size=48)  # here; the others in workers
    here, workers = files(tmp_path), files(two_subjects)
    assert all(here[name] == workers[name] for name in workers if name.startswith("s00002"))
    more = files(write(tmp_path / "three", subjects=3, **SMALL))
    assert len(more) == 9 and all(more[name] == workers[name] for name in workers)
    assert len(set(more.values())) == 9


def test_another_seed_gives_other_faces(two_subjects, tmp_path):
    synthetic._write_subject(tmp_path, number=1, images_per_pose=1, seed=1, size=48)
    assert not set(files(tmp_path).values()) & set(files(two_subjects).values())


def test_an_interrupted_call_continues(two_subjects, tmp_path):
    root = tmp_path / "faces"
    shutil.copytree(two_subjects, root)
    marker = root / "synthetic.json"
    marker.write_text(json.dumps({**json.loads(marker.read_text()), "finished": False}))
    (root / "s00001" / "frontal" / "01.jpg").unlink()
    last = root / "s00002" / "profile" / "01.jpg"
    last.write_bytes(last.read_bytes()[:-100])
    kept = root / "s00001" / "profile" / "01.jpg"
    before = kept.stat().st_mtime_ns
    write(root, subjects=2, **SMALL)
    assert files(root) == files(two_subjects)
    assert kept.stat().st_mtime_ns == before
    assert json.loads(marker.read_text())["finished"]


def test_a_finished_folder_is_left_alone(two_subjects, tmp_path):
    root = tmp_path / "faces"
    shutil.copytree(two_subjects, root)
    shutil.rmtree(root / "s00001")
    assert write(root, subjects=2, **SMALL) == root
    assert not (root / "s00001").exists()


@pytest.mark.parametrize("change", [{"subjects": 3}, {"seed": 5}, {"size": 64}, {"images_per_pose": 2}])
def test_other_parameters_in_the_same_folder_are_refused(two_subjects, change):
    with pytest.raises(ValueError, match="asked for"):
        write(two_subjects, **{"subjects": 2, **SMALL, **change})


def test_a_file_or_a_folder_of_somebody_else_is_refused(tmp_path):
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        write(tmp_path, subjects=2, **SMALL)
    with pytest.raises(NotADirectoryError, match="note.txt"):
        write(tmp_path / "note.txt", subjects=2, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["note.txt"]


def test_a_call_stopped_before_its_first_file_continues(tmp_path):
    (tmp_path / "synthetic.json.4711.part").write_text("{")
    assert len(files(write(tmp_path, subjects=1, **SMALL))) == 3


@pytest.mark.parametrize("change", [{"subjects": 0}, {"images_per_pose": 0}, {"size": 8}, {"seed": -1}])
def test_impossible_parameters_are_refused_before_anything_is_written(tmp_path, change):
    with pytest.raises(ValueError, match="at least"):
        write(tmp_path / "faces", **{"subjects": 2, **SMALL, **change})
    assert not (tmp_path / "faces").exists()


@pytest.mark.slow
def test_killed_while_writing_and_called_again_gives_the_same_files(two_subjects, tmp_path):
    root = tmp_path / "faces"
    code = f"from facelib.faces.synthetic import write\nif __name__ == '__main__': write({str(root)!r}, 2, 1, size=48)"
    script = tmp_path / "run.py"
    script.write_text(code)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen([sys.executable, script], env=environment, start_new_session=True)
    while process.poll() is None and not list(root.rglob("*.jpg")):
        time.sleep(.01)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert files(write(root, subjects=2, **SMALL)) == files(two_subjects)

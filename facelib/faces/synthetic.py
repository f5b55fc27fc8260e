"""Synthetic faces: a parametric 3-D head, drawn in three poses, free of licences and of anybody's rights.

A `Subject` is what stays (shape and reflectance); a `View` is what changes from image to image (pose, light,
expression, framing, camera). They are drawn independently. `render` is a pure function of both, `write` fills a folder.

Lengths are centimetres on the average head: x to the subject's left, y up, z to the front; the origin lies between the
ears at the height of the eyes. Paint is laid on in the coordinates of the average head, so that whatever moves the
surface (a longer nose, a smile, a turn of the head) carries its paint along. To change what subjects look like,
edit the tables `SHAPE` and `EXPRESSION`: one row is one direction in which the surface may be pulled.
"""

import json
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from io import BytesIO
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from facelib.progress import progress

YAW = {"frontal": 0.0, "three-quarter": 45.0, "profile": 90.0}  # degrees
VERSION = 2  # of the pictures: raise it whenever the same parameters give other bytes
MARKER = "synthetic.json"

# Horizontal sections of head, neck and shoulders from the crown down:
# height at front, side and back; half width; front and back end in z.
SECTIONS = np.array([
    [11.3, 11.3, 11.3, 0.0, -1.0, -1.0], [10.9, 10.8, 10.9, 3.2, 3.2, -4.4], [9.6, 9.3, 9.4, 5.6, 6.3, -7.2],
    [7.2, 7.0, 7.0, 7.0, 8.5, -9.1], [4.5, 4.5, 4.5, 7.5, 9.5, -9.9], [2.2, 2.0, 2.0, 7.5, 9.9, -10.0],
    [0.2, 0.0, 0.0, 7.3, 9.4, -9.7], [-2.2, -1.8, -2.0, 7.0, 9.3, -9.0], [-4.6, -3.6, -4.2, 6.7, 9.5, -8.0],
    [-6.8, -5.0, -6.0, 6.4, 9.5, -7.0], [-8.8, -6.2, -7.2, 6.1, 9.1, -6.4], [-10.6, -7.4, -8.0, 5.8, 8.9, -6.1],
    [-11.7, -8.4, -8.8, 5.3, 7.9, -6.0], [-12.1, -9.4, -9.6, 5.0, 6.2, -5.9], [-12.9, -10.8, -10.6, 5.0, 4.0, -5.9],
    [-16.0, -15.0, -13.0, 5.3, 3.4, -6.3], [-18.5, -17.3, -15.0, 8.5, 4.3, -7.0],
    [-20.5, -18.8, -17.0, 15.0, 6.0, -8.0], [-28.0, -25.0, -25.0, 21.0, 9.0, -9.0]])

# A pull: centre (x, y), spread (x, y), move (x, y, z), acting on the front of the head; x > 0 is mirrored.
FEATURES = [
    (0.0, 1.0, 0.9, 1.2, 0, 0, 0.15), (0.0, -1.2, 0.85, 1.4, 0, 0, 0.75), (0.0, -2.8, 0.95, 1.0, 0, 0, 0.8),
    (0.0, -3.6, 0.95, 0.65, 0, -0.15, 1.45), (1.3, -3.9, 0.55, 0.5, 0.15, 0, 0.8), (0.0, -4.9, 0.5, 0.6, 0, 0, 0.25),
    (3.1, 0.1, 1.5, 1.0, 0, 0, -0.95), (3.15, 0.0, 0.95, 0.65, 0, 0, 0.55), (2.6, 2.2, 2.2, 0.7, 0, 0, 0.25),
    (1.4, 0.2, 0.6, 1.0, 0, 0, -0.35), (4.8, -2.2, 1.6, 1.3, 0.15, 0, 0.35), (0.0, -6.4, 1.9, 1.5, 0, 0, 0.45),
    (0.0, -6.2, 1.6, 0.38, 0, 0, 0.38), (0.0, -7.25, 1.4, 0.42, 0, 0, 0.42), (0.0, -6.72, 2.2, 0.16, 0, 0, -0.22),
    (0.0, -8.4, 1.5, 0.5, 0, 0, -0.35), (0.0, -10.3, 1.5, 1.0, 0, 0, 0.55), (0.0, -5.4, 0.28, 0.6, 0, 0, -0.14),
    (2.7, -6.8, 0.5, 0.5, 0, 0, -0.3)]

# What one standard deviation of a subject's shape does: pulls as above, in the same columns.
SHAPE = {
    "jaw width": (5.5, -8.0, 2.6, 2.6, 0.45, 0, 0), "jaw height": (5.0, -8.0, 2.5, 2.5, 0, 0.5, 0),
    "chin length": (0.0, -11.0, 3.0, 2.0, 0, -0.55, 0), "chin projection": (0.0, -10.5, 2.0, 1.6, 0, 0, 0.5),
    "chin width": (1.9, -10.6, 1.3, 1.3, 0.35, 0, 0.1), "chin cleft": (0.0, -10.4, 0.35, 0.7, 0, 0, -0.12),
    "cheekbone": (5.0, -2.0, 1.6, 1.2, 0.3, 0, 0.3), "cheek fullness": (4.2, -5.5, 1.6, 1.8, 0.25, 0, 0.4),
    "brow ridge": (2.4, 2.1, 2.0, 0.7, 0, 0, 0.28), "brow height": (3.0, 1.9, 2.2, 0.8, 0, 0.2, 0),
    "brow tilt": (4.4, 1.9, 1.1, 0.8, 0, 0.18, 0), "forehead bulge": (0.0, 5.5, 4.0, 2.5, 0, 0, 0.4),
    "temple": (6.3, 4.0, 2.0, 2.5, 0.3, 0, 0), "nose length": (0.0, -3.8, 1.6, 1.2, 0, -0.35, 0),
    "nose projection": (0.0, -3.6, 0.9, 1.0, 0, 0, 0.4), "nose width": (1.3, -4.0, 0.7, 0.7, 0.25, 0, 0),
    "nose bridge": (0.0, -1.2, 0.8, 1.1, 0, 0, 0.3), "bridge width": (0.9, -1.5, 0.6, 1.4, 0.14, 0, 0.1),
    "nasion": (0.0, 0.8, 0.9, 0.8, 0, 0, 0.22), "nose tip up": (0.0, -3.9, 0.8, 0.6, 0, 0.22, 0.05),
    "eye spacing": (3.15, 0.0, 1.5, 1.2, 0.2, 0, 0), "eye depth": (3.1, 0.0, 1.3, 0.9, 0, 0, -0.25),
    "eye height": (3.1, 0.0, 2.0, 1.0, 0, 0.2, 0), "eye tilt": (4.5, 0.0, 0.8, 0.8, 0, 0.14, 0),
    "mouth width": (2.3, -6.7, 1.0, 0.9, 0.25, 0, 0), "mouth height": (0.0, -6.7, 3.0, 1.2, 0, 0.25, 0),
    "mouth projection": (0.0, -6.6, 1.8, 1.0, 0, 0, 0.28), "lip relief": (0.0, -6.7, 1.5, 0.7, 0, 0, 0.15),
    "neck width": (6.0, -13.5, 3.0, 3.0, 0.4, 0, 0), "ear height": (8.5, 2.0, 1.2, 1.6, 0, 0.4, 0),
    "ear lobe": (8.0, -3.4, 1.2, 1.2, 0, -0.3, 0), "ear flare": (9.2, 0.0, 1.0, 3.0, 0.4, 0, 0)}

# What an expression of strength 1 does.
EXPRESSION = {
    "mouth open": (0.0, -10.0, 4.0, 2.4, 0, -1.3, -0.25), "smile": (2.7, -6.5, 1.1, 1.0, 0.5, 0.35, -0.25),
    "cheek raise": (4.0, -3.6, 1.4, 1.2, 0, 0.2, 0.3), "brow raise": (2.8, 2.2, 2.2, 1.0, 0, 0.5, 0),
    "brow knit": (1.2, 1.8, 0.9, 0.7, -0.2, -0.3, 0.05), "pucker": (0.0, -6.7, 1.5, 0.8, 0, 0, 0.4)}

# Natural hair colours, linear RGB.
HAIR = np.array([[.012, .010, .009], [.035, .020, .012], [.09, .045, .022], [.20, .11, .05], [.42, .27, .12],
                 [.16, .055, .02], [.33, .32, .31]])


@dataclass(frozen=True)
class Subject:
    """What identifies a face: independent of how it is pictured."""

    shape: tuple[float, ...]  # one coefficient per row of SHAPE, in standard deviations
    scale: tuple[float, float, float]  # width, height, depth of the head against the average
    skin: tuple[float, float, float]  # linear RGB albedo
    hair: tuple[float, float, float]  # linear RGB albedo
    eye: tuple[float, float, float]  # linear RGB albedo of the iris
    redness: float  # of cheeks, nose and lips
    lips: float  # darkness of the lips
    lip_height: tuple[float, float]  # upper, lower, against the average
    eye_size: float  # against the average
    lid_fold: float  # cm between lid edge and crease
    brow: tuple[float, float, float, float]  # thickness (cm), arch (cm), length against the average, darkness
    hair_line: tuple[float, float, float]  # cm up at the middle, at the temples, down at the side-burns
    hair_thickness: float  # cm
    hair_length: float  # cm below the nape; negative: cropped
    beard: float  # 0 none, 1 full
    freckles: float
    folds: float  # depth of the lines from nose to mouth and under the eyes
    pattern: int  # which patch of the noise sheet colours the skin

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Subject":
        melanin = rng.beta(1.2, 1.6)
        light, dark = np.array([.72, .48, .37]), np.array([.12, .065, .042])
        skin = light * (dark / light) ** melanin * np.exp(rng.normal(0, .06, 3))
        black = .14 + .5 * melanin
        hair = HAIR[rng.choice(7, p=[black, *((1 - black) * np.array([.3, .25, .18, .1, .07, .1]))])]
        iris = np.array([[.05, .025, .012], [.09, .05, .02], [.10, .10, .05], [.12, .19, .28], [.18, .22, .22]])
        iris = iris[min(rng.integers(5), 4 if melanin < .45 else 1)]
        long = rng.random() < .45
        return cls(
            shape=tuple(rng.normal(size=len(SHAPE)).clip(-2.2, 2.2)), scale=tuple(rng.normal(1, (.035, .03, .03))),
            skin=tuple(skin), hair=tuple(hair * np.exp(rng.normal(0, .2))), eye=tuple(iris * np.exp(rng.normal(0, .2))),
            redness=rng.uniform(.2, 1), lips=rng.uniform(.2, 1), lip_height=tuple(rng.normal(1, .2, 2).clip(.5, 1.6)),
            eye_size=rng.normal(1, .07), lid_fold=rng.uniform(.12, .5),
            brow=(rng.uniform(.3, .75), rng.uniform(.0, .55), rng.normal(1, .08), rng.uniform(.5, 1)),
            hair_line=(rng.normal(0, .7), max(0, rng.normal(.3, .6)), rng.uniform(0, 2.5)),
            hair_thickness=rng.uniform(.5, 2.0) + .5 * long,
            hair_length=rng.uniform(0, 12) if long else -rng.uniform(0, 2),
            beard=0.0 if long else max(0, rng.uniform(-1, 1)), freckles=max(0, rng.normal(0, .5)),
            folds=rng.uniform(0, 1), pattern=int(rng.integers(2**16)))


@dataclass(frozen=True)
class View:
    """What makes one image of a subject: pose, expression, light, framing and camera."""

    yaw: float  # degrees, positive: the subject turns to its left
    pitch: float
    roll: float
    expression: tuple[float, ...]  # one strength per row of EXPRESSION
    eyes_open: float  # 1 is neutral
    gaze: tuple[float, float]  # cm, of the iris
    hair_bulk: float  # factor on the subject's hair thickness
    hair_shift: float  # cm, of the hair line
    key: tuple[float, float, float]  # unit vector towards the main light, camera coordinates
    key_colour: tuple[float, float, float]
    ambient: tuple[float, float, float]
    exposure: float
    frame: float  # cm across the image
    shift: tuple[float, float]  # cm
    cloth: tuple[float, float, float]
    background: int  # seed of the background
    blur: float  # radius as a fraction of the image
    noise: float  # standard deviation, grey levels
    quality: int  # of the JPEG

    @classmethod
    def draw(cls, rng: np.random.Generator, pose: str) -> "View":
        side = rng.choice([-1, 1])
        azimuth, height = np.deg2rad([rng.normal(0, 50), rng.normal(25, 20)])
        key = np.cos(height) * np.sin(azimuth), np.sin(height), np.cos(height) * np.cos(azimuth)
        warmth, tint = rng.normal(0, .14), rng.normal(0, .04)
        colour = np.exp([warmth, tint, -warmth])
        contrast = rng.uniform(.35, .9)
        return cls(
            yaw=side * YAW[pose] + rng.normal(0, 4), pitch=rng.normal(0, 5), roll=rng.normal(0, 4),
            expression=tuple(.45 * rng.normal(size=len(EXPRESSION)).clip(0, 2)),
            eyes_open=rng.uniform(.65, 1.15), gaze=tuple(rng.normal(0, (.15, .06))),
            hair_bulk=rng.uniform(.75, 1.25), hair_shift=rng.normal(0, .35), key=key,
            key_colour=tuple(1.6 * contrast * colour), ambient=tuple((1.15 - contrast) * colour[::-1] ** .5),
            exposure=np.exp(rng.normal(.3, .25)), frame=rng.normal(27.5, 1.4), shift=tuple(rng.normal(0, .8, 2)),
            cloth=tuple(rng.uniform(.02, .6) * rng.uniform(.3, 1, 3)), background=int(rng.integers(2**31)),
            blur=max(0, rng.normal(.002, .003)), noise=rng.uniform(0, 5), quality=int(rng.integers(55, 96)))

    def strength(self, name: str) -> float:
        """How strongly the expression `name` of EXPRESSION is worn."""
        return self.expression[list(EXPRESSION).index(name)]


@dataclass(frozen=True)
class Mesh:
    """The average head: grids for the head and the two ears, and a shell of hair over part of the head's grid."""

    points: np.ndarray  # (vertices, 3) cm
    pulls: np.ndarray  # (rows of SHAPE and EXPRESSION, vertices, 3) cm per unit
    grids: tuple[tuple[int, int], ...]  # (rows, columns) of head, left ear, right ear, hair; columns close to a ring
    hair: np.ndarray  # indices of the head's vertices under the hair's
    outward: np.ndarray  # (hair vertices, 3) in which direction hair grows thick
    paint: np.ndarray  # (all vertices, 3) where paint is looked up: x, y and azimuth (0 front, pi back)
    triangles: np.ndarray  # (triangles, 3)
    part: np.ndarray  # (triangles,) 0 head, 1 ear, 2 hair


def _pull(points: np.ndarray, row: tuple) -> np.ndarray:
    """Displacement (vertices, 3) that one unit of a table's row causes."""
    x, y, spread_x, spread_y, *move = row
    front = np.clip((points[:, 2] + 4) / 3, 0, 1)
    total = np.zeros_like(points)
    for side in (1, -1) if x else (1,):
        weight = np.exp(-((points[:, 0] - side * x) / spread_x) ** 2 / 2 - ((points[:, 1] - y) / spread_y) ** 2 / 2)
        total += (front * weight)[:, None] * np.multiply(move, (side, 1, 1))
    return total


def _grid_triangles(rows: int, columns: int, first: int) -> np.ndarray:
    index = first + np.arange(rows * columns).reshape(rows, columns)
    a, b = index[:-1], index[1:]
    c, d = np.roll(a, -1, 1), np.roll(b, -1, 1)
    return np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([c, b, d], -1).reshape(-1, 3)])


def _grid_normals(points: np.ndarray) -> np.ndarray:
    """Unit outward normals of a grid (rows, columns, 3) whose columns close."""
    down = np.gradient(points, axis=0)
    round_ = np.roll(points, -1, 1) - np.roll(points, 1, 1)
    normal = np.cross(down, round_)
    normal[0] = normal[1].mean(0)
    return normal / (np.linalg.norm(normal, axis=-1, keepdims=True) + 1e-9)


@cache
def _mesh() -> Mesh:
    rows_to = np.cumsum([0, 4, 4, 6, 8, 8, 8, 10, 10, 10, 9, 8, 6, 5, 4, 4, 3, 3, 3])  # fine where the face is
    rows = np.stack([np.interp(np.arange(114), rows_to, column) for column in SECTIONS.T])
    rows = sum(np.pad(rows, ((0, 0), (3, 3)), mode="reflect", reflect_type="odd")[:, k:k + 114] for k in range(7)) / 7
    front_y, side_y, back_y, width, front_z, back_z = rows[:, :, None]
    around = np.linspace(-1, 1, 84, endpoint=False)
    azimuth = np.pi * (.45 * around + .55 * around**3)
    front, back = np.cos(azimuth).clip(0), -np.cos(azimuth).clip(None, 0)
    skull = np.stack([width * np.sin(azimuth),
                      side_y + (front_y - side_y) * front**1.5 + (back_y - side_y) * back**1.5,
                      -1 + (front_z + 1) * front**.9 + (back_z + 1) * back], -1)
    head = skull.reshape(-1, 3)
    head = head + sum(_pull(head, row) for row in FEATURES)

    radius, angle = np.meshgrid(np.linspace(0, 1, 7), np.linspace(0, 2 * np.pi, 24, endpoint=False), indexing="ij")
    back_of_ear = -radius * np.sin(angle) * 1.9 * (1 + .25 * np.cos(angle))
    rim = .4 * np.exp(-((radius - .83) / .12) ** 2) - .55 * np.exp(-((radius - .2) / .4) ** 2)
    ear = np.stack([7.8 - .5 * back_of_ear + rim - .9 * (radius == 1), 3.1 * radius * np.cos(angle) - .9,
                    -1.2 + back_of_ear - .25 * radius * np.cos(angle)], -1).reshape(-1, 3)
    turned = ear.reshape(7, 24, 3)[:, ::-1].reshape(-1, 3)
    points = np.concatenate([head, turned, ear * (-1, 1, 1)])

    under_hair = np.arange(len(head)).reshape(114, 84)[:108:2, ::2]
    paint = np.concatenate([points, head[under_hair.ravel()]])
    turn = np.abs(np.arctan2(paint[:, 0], paint[:, 2] + 1))
    turn[:len(head)] = np.broadcast_to(np.abs(azimuth), (114, 84)).ravel()
    turn[len(points):] = turn[under_hair.ravel()]
    grids = (114, 84), (7, 24), (7, 24), under_hair.shape
    firsts = np.cumsum([0] + [r * c for r, c in grids])
    triangles = [_grid_triangles(r, c, first) for (r, c), first in zip(grids, firsts)]
    return Mesh(
        points=points.astype("f4"),
        pulls=np.stack([_pull(points, row) for row in (*SHAPE.values(), *EXPRESSION.values())]).astype("f4"),
        grids=grids, hair=under_hair.ravel(), outward=_grid_normals(skull)[:108:2, ::2].reshape(-1, 3).astype("f4"),
        paint=np.column_stack([paint[:, :2], turn]).astype("f4"), triangles=np.concatenate(triangles),
        part=np.repeat([0, 1, 1, 2], [len(t) for t in triangles]))


def _step(x: np.ndarray, width: float = .12) -> np.ndarray:
    """0 below, 1 above, a ramp of this width around 0."""
    return np.clip(x / width + .5, 0, 1)


def _hair_line(azimuth: np.ndarray, subject: Subject, view: View) -> np.ndarray:
    """Height (cm) above which hair grows, by azimuth."""
    middle, temple, burns = subject.hair_line
    nape = -8 - max(subject.hair_length, -2)
    line = [7 + middle, 6.9 + middle, 6.4 + temple, 5.3 + .6 * temple, 3.2, -burns, -burns, 1.8, 1.2, nape, nape]
    if subject.hair_length > 0:  # over the ears
        line[6:9] = nape + 4, nape + 1, nape
    return np.interp(azimuth, [0, .3, .65, .85, 1.03, 1.2, 1.31, 1.42, 1.8, 1.95, np.pi], line) + view.hair_shift


def _vertices(subject: Subject, view: View) -> np.ndarray:
    """All vertices (head, ears, hair) in cm, before the head is turned."""
    mesh = _mesh()
    strengths = np.array([*subject.shape, *view.expression], "f4")
    points = mesh.points + np.einsum("k,kvc->vc", strengths, mesh.pulls)  # not BLAS, whose sums vary with its threads
    points *= np.array(subject.scale, "f4")
    x, y, azimuth = mesh.paint[len(points):].T
    above = y - _hair_line(azimuth, subject, view)
    waves = 1 + .12 * np.sin(9 * azimuth + subject.pattern) * np.sin(1.3 * y + x)
    thick = subject.hair_thickness * view.hair_bulk * waves * (1 + .25 * np.clip(y / 10, 0, 1))
    hanging = np.clip((-y - 1) / 6, 0, 1) * np.clip(azimuth - .9, 0, 1) * (subject.hair_length > 0)
    if subject.hair_length < 0:  # short at the sides
        thick = np.minimum(thick, .35 + (2 + subject.hair_length) * np.clip(y / 6, 0, 1))
    thick = np.where(above > 0, thick * np.clip(above / 1.6, 0, 1) + 2.6 * hanging, .4 * np.clip(above, -2, 0)) - .03
    return np.concatenate([points, points[mesh.hair] + thick[:, None].astype("f4") * mesh.outward])


def _rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    (cy, cp, cr), (sy, sp, sr) = np.cos(np.deg2rad([yaw, pitch, roll])), np.sin(np.deg2rad([yaw, pitch, roll]))
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    return (about_z @ about_x @ about_y).astype("f4")


def _rasterise(points: np.ndarray, triangles: np.ndarray, size: int):
    """Which triangle is in front at each pixel.

    points: (vertices, 3), x and y in pixels (y down), z towards the viewer. Triangles that face away are left out.
    Returns depth (size * size,), -inf where empty; and of the filled pixels index, triangle and weights (n, 3).
    """
    (ax, ay, _), (bx, by, _), (cx, cy, _) = (points[corner].T for corner in triangles.T)
    towards = np.flatnonzero((bx - ax) * (cy - ay) - (by - ay) * (cx - ax) < -1e-6)
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = (points[corner].T for corner in triangles[towards].T)
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)

    def extent(a, b, c):
        low = np.ceil(np.minimum(np.minimum(a, b), c) - .5).clip(0, size)
        high = np.floor(np.maximum(np.maximum(a, b), c) - .5).clip(-1, size - 1)
        return low.astype(np.int32), (high - low + 1).clip(0).astype(np.int32)
    (left, width), (top, height) = extent(ax, bx, cx), extent(ay, by, cy)
    counts = width * height
    which = np.repeat(np.arange(len(counts)), counts)
    offset = (np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)).astype("f4")
    row = np.floor((offset + .5) / width.astype("f4")[which])  # within the triangle's box
    column = offset - row * width.astype("f4")[which]

    def weight(x1, y1, x2, y2):  # affine in the pixel's position
        x1, y1, x2, y2 = x1 - left - .5, y1 - top - .5, x2 - left - .5, y2 - top - .5
        p, q, r = ((v / area).astype("f4") for v in (y1 - y2, x2 - x1, x1 * y2 - x2 * y1))
        return p[which] * column + q[which] * row + r[which]
    first, second = weight(bx, by, cx, cy), weight(cx, cy, ax, ay)
    third = 1 - first - second
    inside = np.flatnonzero((first > -1e-4) & (second > -1e-4) & (third > -1e-4))
    first, second, third, triangle = first[inside], second[inside], third[inside], which[inside]
    pixel = (row[inside].astype(int) + top[triangle]) * size + column[inside].astype(int) + left[triangle]
    z = (first * az[triangle] + second * bz[triangle] + third * cz[triangle]).astype("f4")
    depth = np.full(size * size, -np.inf, "f4")
    np.maximum.at(depth, pixel, z)
    front = np.flatnonzero(z == depth[pixel])
    return depth, pixel[front], towards[triangle[front]], np.stack([first[front], second[front], third[front]], 1)


@cache
def _noise() -> np.ndarray:
    """Sheet (512, 512, 3) of standard noise at three scales: fine, medium, coarse; it tiles."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(512), np.fft.fftfreq(512)))
    sheets = []
    for scale in (2, 8, 40):
        sheet = np.fft.ifft2(np.fft.fft2(rng.normal(size=(512, 512))) * np.exp(-(scale * frequency) ** 2)).real
        sheets.append(sheet / sheet.std())
    return np.stack(sheets, -1).astype("f4")


def _mix(colour: np.ndarray, other, weight: np.ndarray) -> np.ndarray:
    return colour + (np.asarray(other, "f4") - colour) * weight[:, None]


def _paint_eye(colour, gloss, x, y, subject: Subject, view: View) -> None:
    """Lids, white and iris, in place, for pixels near an eye; x > 0 on the subject's left."""
    side = np.sign(x)
    dx, dy = (np.abs(x) - 3.15) / subject.eye_size, y / subject.eye_size
    arch = np.clip(1 - (dx / 1.55) ** 2, 0, 1)
    upper, lower = (.74 * view.eyes_open - .08) * arch**.7 - .05, -.42 * arch**.9 - .02
    fold = upper + subject.lid_fold * arch**.5
    colour[:] = _mix(colour, colour * .55, .8 * np.exp(-((dy - fold) / .09) ** 2) * _step(1.75 - np.abs(dx), .4))
    colour[:] = _mix(colour, colour * .75, np.exp(-((dy - lower + .35) / .15) ** 2) * _step(1.5 - np.abs(dx), .6))
    opening = _step(upper - dy) * _step(dy - lower) * (arch > 0)
    ex, ey = dx - side * view.gaze[0], dy - .08 - view.gaze[1]
    radius = np.hypot(ex, ey)
    ball = np.full_like(colour, .68) * (1 - .45 * np.abs(dx / 1.6) ** 2)[:, None]
    ball = _mix(ball, np.array(subject.eye), _step(.59 - radius))
    ball = _mix(ball, [.01, .01, .01], np.maximum(_step(.26 - radius), .6 * np.exp(-((radius - .57) / .07) ** 2)))
    ball *= (1 - .6 * np.exp(-((upper - dy) / .2).clip(0)))[:, None]
    colour[:] = _mix(colour, ball, opening)
    lash = np.exp(-((dy - upper) / .1) ** 2) * _step(1.6 - np.abs(dx), .2)
    colour[:] = _mix(colour, [.015, .01, .01], .85 * lash)
    gloss[:] = np.maximum(gloss * (1 - opening), 3 * opening * np.exp(-(np.hypot(ex + .18 * side, ey - .2) / .12) ** 2))


def _paint_mouth(colour, x, y, subject: Subject, view: View) -> None:
    """Lips, and teeth between them, in place, for pixels near the mouth."""
    wide = np.clip(1 - (x / 2.55) ** 2, 0, 1)
    opened = (.9 * view.strength("mouth open") + .3 * view.strength("smile")) * wide
    seam = -6.72 + .1 * np.cos(2.2 * x) * wide
    bow = .62 * wide**.6 - .16 * np.exp(-(x / .38) ** 2)
    upper, lower = seam + subject.lip_height[0] * bow, seam - opened - .85 * subject.lip_height[1] * wide**.8
    lips = _step(upper - y, .2) * _step(y - lower, .3) * (wide > 0)
    tint = np.array([.85, .52, .5]) * (1 - .35 * subject.lips) * (1, 1 - .2 * subject.redness, 1 - .1 * subject.redness)
    colour[:] = _mix(colour, colour * tint, lips)
    gap = _step(seam - y) * _step(y - (seam - opened)) * (opened > .03)
    teeth = _step(y - (seam - .75), .2) * _step(2.1 - np.abs(x), .5)
    colour[:] = _mix(colour, np.where(teeth[:, None] > .5, [.5, .47, .4], [.05, .012, .012]), gap)
    line = np.exp(-((y - seam) / .09) ** 2) + .6 * np.exp(-((y - seam + opened) / .09) ** 2) * (opened > .1)
    colour[:] = _mix(colour, colour * .25, np.clip(.85 * line, 0, 1) * _step(2.7 - np.abs(x), .3))


def _paint_skin(paint: np.ndarray, subject: Subject, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Albedo (n, 3) and gloss (n,) of pixels on head and neck."""
    x, y, azimuth = paint.T
    across = np.abs(x)
    fine, medium, coarse = _noise_at(azimuth * np.sign(x) * 9, y, subject.pattern).T
    colour = np.array(subject.skin, "f4") * (1 + .05 * medium + .05 * coarse + .02 * fine)[:, None]
    blush = np.exp(-((across - 4.2) / 1.8) ** 2 - ((y + 3) / 1.8) ** 2)
    blush += np.exp(-(x / 1.1) ** 2 - ((y + 3.9) / .8) ** 2)
    colour *= 1 - (.25 * subject.redness * blush)[:, None] * np.array([.1, 1, .9], "f4")
    under_eye = np.exp(-((across - 2.8) / 1.1) ** 2 - ((y + 1.1) / .45) ** 2)
    fold = np.exp(-((across - 1.9 - .45 * (-4 - y)) / .22) ** 2) * _step(-3.9 - y, .8) * _step(y + 7, 1.2)
    depth = .12 + .3 * subject.folds
    lines = depth * under_eye + (depth + .3 * view.strength("smile")) * fold
    colour *= 1 - lines[:, None] * np.array([.7, 1, 1], "f4")
    colour *= 1 - (.35 * subject.freckles * (medium > 1.1) * _step(4.5 - azimuth * 3, 2) * _step(y + 5.5, 3))[:, None]

    thickness, arch, length, darkness = subject.brow
    along = (across - 1.15) / (3.9 * length)
    line = 1.75 + arch * np.sin(np.pi * along.clip(0, 1) * .85) + .25 * along
    brow = _step(thickness * (.8 - .45 * along.clip(0, 1)) - np.abs(y - line), .3)
    brow *= darkness * (1 + .25 * fine) * _step(along, .2) * _step(1 - along, .3)
    colour = _mix(colour, np.array(subject.hair, "f4") * .6, brow.clip(0, 1))

    beard = _step(-4.5 - y - .28 * (across - 2).clip(0) + .8 * (across - 2.8).clip(0), 2) * _step(y + 13, 1.5)
    beard *= _step(1.35 - azimuth, .3) * (1 - .95 * np.exp(-(x / 2.6) ** 2 - ((y + 7) / .9) ** 2))
    colour = _mix(colour, np.array(subject.hair, "f4") * .8, (beard * subject.beard * (.75 + .2 * fine)).clip(0, 1))
    nostril = np.exp(-((across - .68) / .38) ** 2 - ((y + 4.45) / .2) ** 2)
    colour *= 1 - .85 * nostril[:, None]
    gloss = .18 + .25 * np.exp(-(x / 1.2) ** 2 - ((y + 2) / 4) ** 2) + .03 * fine

    near = np.flatnonzero((np.abs(across - 3.15) < 2.2) & (np.abs(y) < 1.6) & (azimuth < 1.3))
    part, part_gloss = colour[near], gloss[near]
    _paint_eye(part, part_gloss, x[near], y[near], subject, view)
    colour[near], gloss[near] = part, part_gloss
    near = np.flatnonzero((across < 2.9) & (np.abs(y + 7.2) < 2.2) & (azimuth < 1.3))
    part = colour[near]
    _paint_mouth(part, x[near], y[near], subject, view)
    colour[near] = part

    stubble = _step(y - _hair_line(azimuth, subject, view) + .15 * medium, .8)
    colour = _mix(colour, np.array(subject.hair, "f4"), .9 * stubble)
    cloth = _step(-16.5 - 2.2 * np.cos(azimuth) - y, .15)
    return _mix(colour, np.array(view.cloth) * (1 + .08 * medium[:, None]), cloth), gloss * (1 - cloth)


def _noise_at(x: np.ndarray, y: np.ndarray, pattern: int, scale: tuple[float, float] = (12, 12)) -> np.ndarray:
    """Noise (n, 3) at positions in cm, `scale` cells a cm."""
    column, row = (x * scale[0]).astype(np.int32) + pattern, (y * scale[1]).astype(np.int32) + (pattern >> 8) * 37
    return _noise()[row % 512, column % 512]


def _paint_hair(paint: np.ndarray, subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    x, y, azimuth = paint.T
    _, strands, locks = _noise_at(azimuth * np.sign(x) * 9, y, subject.pattern, (45, 6)).T
    return np.array(subject.hair, "f4") * np.exp(.2 * strands + .15 * locks)[:, None], .22 + .08 * strands


def _background(view: View, size: int) -> np.ndarray:
    rng = np.random.default_rng(view.background)
    tone = rng.uniform(20, 235) + rng.normal(0, 12, 3)
    cells = rng.integers(1, 9, 2)
    sheet = tone + rng.uniform(0, 60) * rng.normal(size=(*cells, 1)) + rng.uniform(0, 15) * rng.normal(size=(*cells, 3))
    method = rng.choice([Image.Resampling.BICUBIC, Image.Resampling.NEAREST], p=[.7, .3])
    image = Image.fromarray(sheet.clip(0, 255).astype(np.uint8)).resize((64, 64), method)
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(.6, 4)))
    return np.array(image.resize((size, size), Image.Resampling.BICUBIC))


def render(subject: Subject, view: View, size: int = 144) -> np.ndarray:
    """One image (size, size, 3), uint8 RGB, before JPEG; the same arguments give the same pixels."""
    mesh = _mesh()
    rotation = _rotation(view.yaw, -view.pitch, view.roll)
    points = np.einsum("vc,dc->vd", _vertices(subject, view) - np.array([0, -.8, 2.5], "f4"), rotation)
    firsts = np.cumsum([0] + [r * c for r, c in mesh.grids])
    parts = [points[first:first + r * c].reshape(r, c, 3) for first, (r, c) in zip(firsts, mesh.grids)]
    normals = [_grid_normals(part) for part in parts]
    key = np.array(view.key, "f4")
    shade = np.concatenate([_cavity(part, normal).ravel() for part, normal in zip(parts, normals)])
    attributes = np.column_stack([mesh.paint, np.concatenate([n.reshape(-1, 3) for n in normals]), shade,
                                  _lit(points, mesh.triangles, key)])

    fine = size * 3 // 2  # drawn larger, averaged at the end
    zoom = 80 / (80 - points[:, 2]) * fine / view.frame  # the camera stands 80 cm away
    screen = np.column_stack([fine / 2 + (points[:, 0] + view.shift[0]) * zoom,
                              fine / 2 - (points[:, 1] + view.shift[1]) * zoom, points[:, 2]])
    _, pixel, triangle, weights = _rasterise(screen, mesh.triangles, fine)
    values = np.einsum("pk,pkc->pc", weights, attributes[mesh.triangles[triangle]])
    is_hair = mesh.part[triangle] == 2
    colour, gloss = np.empty((len(pixel), 3), "f4"), np.empty(len(pixel), "f4")
    colour[~is_hair], gloss[~is_hair] = _paint_skin(values[~is_hair, :3], subject, view)
    colour[is_hair], gloss[is_hair] = _paint_hair(values[is_hair, :3], subject)

    normal = values[:, 3:6] / (np.linalg.norm(values[:, 3:6], axis=1, keepdims=True) + 1e-9)
    facing = np.einsum("pc,c->p", normal, key)
    half = (key + (0, 0, 1)) / np.linalg.norm(key + (0, 0, 1))
    shine = gloss * np.einsum("pc,c->p", normal, half.astype("f4")).clip(0) ** 18
    wrap = np.array([.25, .1, .06], "f4")  # light bleeds through skin, red most
    direct = ((facing[:, None] + wrap) / (1 + wrap)).clip(0) * values[:, 7:8]
    ambient = (.8 + .25 * normal[:, 1:2]) * values[:, 6:7] * (.6 + .4 * normal[:, 2:3])
    light = direct * np.array(view.key_colour, "f4") * values[:, 6:7] ** .5 + ambient * np.array(view.ambient, "f4")
    linear = colour * light + (.25 * shine * values[:, 7])[:, None] * np.array(view.key_colour, "f4")

    layer = _background(view, fine).reshape(-1, 3)
    layer[pixel] = 255 * (linear * view.exposure).clip(0, 1) ** (1 / 2.2)
    image = Image.fromarray(layer.reshape(fine, fine, 3)).resize((size, size), Image.Resampling.BOX)
    image = np.asarray(image.filter(ImageFilter.GaussianBlur(view.blur * size)), "f4")
    grain = _noise()[:, :, 0].ravel()[np.arange(size * size * 3) * 7 % 512**2].reshape(size, size, 3)
    return (image + view.noise * np.roll(grain, view.background)).clip(0, 255).astype(np.uint8)


def _cavity(points: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Share of ambient light that reaches each vertex of a grid: less in hollows."""
    reach = 4 if len(points) > 20 else 2
    rows = np.pad(points, ((reach, reach), (0, 0), (0, 0)), mode="edge")
    around = rows[2 * reach:] + rows[:-2 * reach] + np.roll(points, reach, 1) + np.roll(points, -reach, 1)
    hollow = np.einsum("rcx,rcx->rc", around / 4 - points, normal)
    return np.clip(1 - .9 * hollow, .35, 1.1)


def _lit(points: np.ndarray, triangles: np.ndarray, key: np.ndarray, size: int = 80) -> np.ndarray:
    """Share of the main light that reaches each vertex past the rest of the head (a shadow map)."""
    right = np.cross([0, 1, 0], key)
    right /= np.linalg.norm(right)
    towards = np.stack([right, -np.cross(key, right), key]).astype("f4")
    seen = np.einsum("vc,dc->vd", points, towards)
    seen[:, :2] = (seen[:, :2] + 20) * size / 40
    depth = _rasterise(seen, triangles, size)[0].reshape(size, size)
    column, row = (seen[:, :2] - .5).clip(0, size - 1.001).T
    total = np.zeros(len(points), "f4")
    for dx in (0, 1):
        for dy in (0, 1):
            x, y = np.minimum(column.astype(int) + dx, size - 1), np.minimum(row.astype(int) + dy, size - 1)
            share = np.abs(1 - dx - column % 1) * np.abs(1 - dy - row % 1)
            total += share * (1 - _step(depth[y, x] - seen[:, 2] - .9, .8))
    return total


def _write_subject(root: Path, number: int, images_per_pose: int, seed: int, size: int) -> None:
    """The images of subject `number` that are not there yet."""
    subject = Subject.draw(np.random.default_rng([seed, number, 0]))
    for pose, name in enumerate(YAW):
        folder = root / f"s{number:05d}" / name
        folder.mkdir(parents=True, exist_ok=True)
        for image in range(1, images_per_pose + 1):
            path = folder / f"{image:02d}.jpg"
            if not _is_complete(path):
                view = View.draw(np.random.default_rng([seed, number, pose + 1, image]), name)
                jpeg = BytesIO()
                Image.fromarray(render(subject, view, size)).save(jpeg, "JPEG", quality=view.quality)
                _write_whole(path, jpeg.getvalue())


def _is_complete(path: Path) -> bool:
    """Whether a JPEG is there to its end-of-image mark: a machine that lost power may have kept less."""
    return path.exists() and path.read_bytes()[-2:] == b"\xff\xd9"


def _write_whole(path: Path, content: bytes) -> None:
    """Under a name of this process first: what bears its final name is complete, even with two calls at once."""
    passing = path.with_name(f"{path.name}.{os.getpid()}.part")
    passing.write_bytes(content)
    os.replace(passing, path)


def write(root: Path, subjects: int, images_per_pose: int = 10, seed: int = 0, size: int = 144) -> Path:
    """Renders into root/<subject>/<pose>/<nn>.jpg (s00001 ..., three poses, 01 ...) and returns root.

    An image depends on (seed, subject, pose, nn, size) alone: more subjects or more images leave the others' bytes as
    they are, given the same versions of NumPy and Pillow on the same kind of processor. Interrupted, it continues when
    called again; finished, it returns at once. root/synthetic.json holds the parameters.
    Raises ValueError when root holds faces of other parameters or files of another origin, NotADirectoryError when
    root is a file.
    """
    root = Path(root)
    asked = {"subjects": subjects, "images_per_pose": images_per_pose, "seed": seed, "size": size, "version": VERSION}
    if subjects < 1 or images_per_pose < 1 or size < 16 or seed < 0:
        raise ValueError(f"expected subjects, images_per_pose of at least 1, size 16, seed 0; found {asked}")
    if root.exists() and not root.is_dir():
        raise NotADirectoryError(f"expected a folder for synthetic faces, found a file: {root}; name another place")
    root.mkdir(parents=True, exist_ok=True)
    marker = root / MARKER
    if marker.exists():
        found = json.loads(marker.read_text())
        if found.pop("finished") and found == asked:
            return root
        if found != asked:
            raise ValueError(f"{root} holds faces made with {found}, asked for {asked}: delete it or name another")
    elif any(path.suffix != ".part" for path in root.iterdir()):  # .part: a call stopped before its first file
        raise ValueError(f"{root} is not empty and has no {MARKER}, so holds something else: name a new folder")
    _write_whole(marker, json.dumps({**asked, "finished": False}, indent=1).encode())
    work = partial(_write_subject, root, images_per_pose=images_per_pose, seed=seed, size=size)
    workers = min(os.cpu_count() or 1, subjects)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        done = pool.map(work, range(1, subjects + 1))
        for _ in progress(done, "rendering synthetic faces", subjects, "subjects"):
            pass
    _write_whole(marker, json.dumps({**asked, "finished": True}, indent=1).encode())
    return root

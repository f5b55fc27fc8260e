"""The papers' crops, and batches of them.

Face box + 30 % where boxes are known; shortest side to 129 pixels; a random 113 x 113 crop and flip in training, the
centre at test; RGB means subtracted from 0-255 values, no scaling (PAPERS: SqueezerFaceNet, SqueezeFacePoseNet).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from facelib.faces.faceset import FaceSet

MARGIN = 0.30  # of the box's width and height, half of it on each side
SHORTEST_SIDE = 129 / 113  # of the network's input size
RGB_MEANS = (131.0912, 103.8827, 91.4953)


def loose(image: Image.Image, box: np.ndarray | None) -> Image.Image:
    """The face with its margin: the box grown by 30 % about its centre, as far as the image reaches."""
    if box is None:
        return image
    x, y, w, h = box
    dx, dy = w * MARGIN / 2, h * MARGIN / 2
    corners = max(0, x - dx), max(0, y - dy), min(image.width, x + w + dx), min(image.height, y + h + dy)
    left, top, right, bottom = (round(float(c)) for c in corners)
    if right - left < 2 or bottom - top < 2:
        raise ValueError(f"the face box x={x}, y={y}, w={w}, h={h} lies outside an image of {image.width}x{image.height}")
    return image.crop((left, top, right, bottom))


def resized(image: Image.Image, image_size: int) -> Image.Image:
    """The image with its shortest side at 129/113 of the network's input size."""
    side = round(image_size * SHORTEST_SIDE)
    scale = side / min(image.size)
    return image.resize((max(side, round(image.width * scale)), max(side, round(image.height * scale))),
                        Image.Resampling.BILINEAR)


def crop(image: Image.Image, image_size: int, random: np.random.Generator | None = None) -> np.ndarray:
    """A crop of (3, image_size, image_size), uint8: random place and flip with a generator, else the centre."""
    slack = np.array([image.width, image.height]) - image_size
    left, top = slack // 2 if random is None else random.integers(0, slack + 1)
    pixels = np.asarray(image)[top:top + image_size, left:left + image_size]
    if random is not None and random.random() < 0.5:
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


class Crops(Dataset):
    """Crops of a FaceSet by (index, draw): draw None gives the centre crop, a tuple of ints seeds a random one."""

    def __init__(self, faces: FaceSet, image_size: int):
        self.faces, self.image_size = faces, image_size
        known = all(subject is not None for subject in faces.subjects)
        self.labels = faces.labels if known else np.full(len(faces), -1)  # pairs alone are verified, not learnt

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, key: tuple[int, tuple[int, ...] | None]) -> tuple[Tensor, int]:
        index, draw = key
        image = resized(loose(self.faces.read(index), self.faces.box(index)), self.image_size)
        random = None if draw is None else np.random.default_rng(draw)
        return torch.from_numpy(crop(image, self.image_size, random)), int(self.labels[index])


class _Order:
    """Batches of (index, draw) for the steps start to stop of an endless reshuffled pass over the images.

    What a step holds depends on (seed, step) alone, so a run that was killed goes on with the batches it would have had.
    """

    def __init__(self, images: int, batch_size: int, seed: int, start: int, stop: int):
        self.images, self.batch_size, self.seed, self.start, self.stop = images, batch_size, seed, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list]:
        epoch, order = -1, None
        for step in range(self.start, self.stop):
            batch = []
            for position in range(step * self.batch_size, (step + 1) * self.batch_size):
                if position // self.images != epoch:
                    epoch = position // self.images
                    order = np.random.default_rng([self.seed, 0, epoch]).permutation(self.images)
                index = int(order[position % self.images])
                batch.append((index, (self.seed, 1, epoch, index)))
            yield batch


def default_workers() -> int:
    """Decoding processes: one beside a processor that trains, most cores beside a GPU."""
    return max(1, (os.cpu_count() or 2) - 1) if torch.cuda.is_available() else 1


def training_batches(faces: FaceSet, image_size: int, batch_size: int, seed: int, start: int, stop: int,
                     workers: int | None = None) -> DataLoader:
    """Random crops for the training steps start to stop: images (batch, 3, size, size) uint8, labels (batch,)."""
    order = _Order(len(faces), batch_size, seed, start, stop)
    return _loader(faces, image_size, order, workers)


def centre_batches(faces: FaceSet, image_size: int, batch_size: int, workers: int | None = None) -> DataLoader:
    """Centre crops of every image once, in order."""
    keys = [(index, None) for index in range(len(faces))]
    return _loader(faces, image_size, [keys[i:i + batch_size] for i in range(0, len(keys), batch_size)], workers)


def _loader(faces: FaceSet, image_size: int, order, workers: int | None) -> DataLoader:
    workers = default_workers() if workers is None else workers
    return DataLoader(Crops(faces, image_size), batch_sampler=order, num_workers=workers,
                      pin_memory=torch.cuda.is_available(), prefetch_factor=4 if workers else None)


def normalise(images: Tensor, device: torch.device | str = "cpu") -> Tensor:
    """uint8 (images, 3, size, size) to what networks take: float32, RGB means subtracted, channels_last, on `device`."""
    images = images.to(device, non_blocking=True).to(torch.float32, memory_format=torch.channels_last)
    return images.sub_(torch.tensor(RGB_MEANS, device=device).view(1, 3, 1, 1))

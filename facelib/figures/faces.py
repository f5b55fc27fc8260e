"""Training, and the faces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from facelib.figures.style import MARKS, POSES, TWO_COLUMNS, Figure, style
from facelib.layers import check_table


@dataclass
class TrainingCurve:
    """Loss of training and validation images, and validation accuracy, by epoch. table: what training.train returns."""

    table: pd.DataFrame

    @classmethod
    def from_table(cls, table: pd.DataFrame) -> TrainingCurve:
        check_table(table, ["epoch", "training_loss", "validation_loss", "validation_accuracy"], "training history")
        return cls(table)

    @property
    def caption(self) -> str:
        best = self.table.loc[self.table["validation_loss"].idxmin()]
        return ("Cross-entropy (nats) of the training images, mean over each epoch's mini-batches, and of the validation images, "
                "other images of the same subjects, after it; right: share of the validation images whose subject is found (%). "
                f"Kept: epoch {best['epoch']:.0f}, with the lowest validation loss.")

    def plot(self) -> TrainingCurve:
        with style():
            self.figure_ = Figure(figsize=(TWO_COLUMNS, 1.9))
            self.axes_ = self.figure_.subplots(1, 2)
            marks = {"markevery": max(len(self.table) // 10, 1)}
            self.lines_ = [axes.plot(self.table["epoch"], values, color=colour, marker=marker, label=label, **marks)[0]
                           for axes, values, label, (colour, marker) in [
                               (self.axes_[0], self.table["training_loss"], "training", MARKS[0]),
                               (self.axes_[0], self.table["validation_loss"], "validation", MARKS[2]),
                               (self.axes_[1], 100 * self.table["validation_accuracy"], "validation", MARKS[2])]]
            self.axes_[0].set(xlabel="Epoch", ylabel="Cross-entropy (nats)", ylim=(0, None))
            self.axes_[1].set(xlabel="Epoch", ylabel="Subject found (%)", ylim=(0, 100))
            self.axes_[0].legend()
            for axes in self.axes_:
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        return self


@dataclass
class ImagesPerSubject:
    """How many subjects have how many images. counts: images of every subject, by the name of the set."""

    counts: dict[str, np.ndarray]

    @classmethod
    def from_faces(cls, **sets) -> ImagesPerSubject:
        """sets: a FaceSet by each name, for instance training=..., test=..."""
        return cls({name: np.unique(chosen.labels, return_counts=True)[1] for name, chosen in sets.items()})

    @property
    def caption(self) -> str:
        return "Images of each subject, in the " + " and the ".join(f"{name} set" for name in self.counts) + "."

    def plot(self) -> ImagesPerSubject:
        with style():
            self.figure_ = Figure(figsize=(TWO_COLUMNS, 1.7))
            self.axes_ = np.atleast_1d(self.figure_.subplots(1, len(self.counts)))
            for axes, (name, counts) in zip(self.axes_, self.counts.items()):
                axes.hist(counts, bins=np.arange(counts.min(), counts.max() + 2) - 0.5 if np.ptp(counts) < 40 else 30, color="#0072B2")
                axes.set(xlabel="Images of a subject", ylabel="Subjects", title=f"{name}: {len(counts)} subjects")
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        return self


@dataclass
class ContactSheet:
    """Images in rows. images: each (height, width, 3) uint8; a row's are those of one subject."""

    rows: list[list[np.ndarray]]
    titles: list[str]
    caption: str

    @classmethod
    def from_faces(cls, faces, per_pose: int = 3) -> ContactSheet:
        """One row per subject, `per_pose` images of each pose, from frontal to profile."""
        poses = sorted(set(faces.poses), key=lambda pose: (POSES.index(pose) if pose in POSES else len(POSES), pose))
        places = pd.Series(range(len(faces))).groupby([faces.subjects, faces.poses]).indices
        rows = [[np.asarray(faces[i][0]) for pose in poses for i in places[subject, pose][:per_pose]]
                for subject in dict.fromkeys(faces.subjects)]
        return cls(rows, [pose for pose in poses for _ in range(per_pose)],
                   f"Synthetic faces: one subject per row, {per_pose} images of each pose.")

    @classmethod
    def of_crops(cls, faces, image_size: int, draws: int = 5) -> ContactSheet:
        """For every image of `faces`: the image, its centre crop and random crops as training draws them."""
        from facelib.faces.crops import Crops  # loads torch, which the figures of tables do without

        crops = Crops(faces, image_size)
        rows = [[np.asarray(faces[i][0])] + [crops[i, draw][0].permute(1, 2, 0).numpy()
                                             for draw in (None, *((0, d) for d in range(draws)))] for i in range(len(faces))]
        return cls(rows, ["image", "centre (test)"] + ["random (training)"] * draws,
                   f"Synthetic faces as they are, and the {image_size} x {image_size} pixels that the network sees of them.")

    def plot(self) -> ContactSheet:
        with style():
            columns = max(map(len, self.rows))
            self.figure_ = Figure(figsize=(TWO_COLUMNS, (TWO_COLUMNS / columns) * len(self.rows) + 0.25))
            self.axes_ = self.figure_.subplots(len(self.rows), columns, squeeze=False)
            for axes_row, row in zip(self.axes_, self.rows):
                for axes, image in zip(axes_row, row):
                    axes.imshow(image)
                    axes.set_axis_off()
            before = None
            for axes, title in zip(self.axes_[0], self.titles):
                axes.set_title(title if title != before else "", loc="left")
                before = title
            self.figure_.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
        return self

"""One study of one network: a notebook's parameters, checked, and the steps that follow from them.

The notebooks of all networks share it. Every step finds what an earlier execution left in the run's folder and goes on
from there.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import pandas as pd
import torch

from facelib import faces, figures, networks, pruning, results, training, verification
from facelib.faces import FaceSet
from facelib.networks import FaceNetwork
from facelib.pruning import Schedule, Tables
from facelib.storage import user_path
from facelib.training import Recipe


@dataclass(frozen=True)
class Study:
    """The parameters of a study; the notebooks' parameters cells say what each means.

    Raises ValueError when one does not fit, before anything is computed.
    """

    network: str
    preset: str
    seed: int
    source: str
    root: str
    source_options: dict
    test_share: float
    more_training: list
    overlaps: str
    more_tests: list
    image_size: int
    stem_stride: int
    imagenet: str
    validation_share: float
    batch_size: int
    epochs: int
    schedule: str
    learning_rates: list
    patience: int
    label_smoothing: float
    precision: str
    criterion: str
    step_share: float
    last_share: float
    batches_per_step: int
    pruning_learning_rate: float
    evaluate_every: int
    keep_descriptor: bool
    finetune_shares: list
    finetune_epochs: int
    finetune_learning_rate: float
    template_sizes: list
    resamples: int
    runs: str
    results: str

    @classmethod
    def from_parameters(cls, network: str, names: dict) -> Study:
        """The study that a notebook's parameters cell describes; names: the notebook's globals()."""
        return cls(network=network, **{field.name: names[field.name] for field in fields(cls) if field.name != "network"})

    def __post_init__(self):
        self.recipe, self.pruning_schedule, self.finetune_recipe  # noqa: B018  each checks its own
        steps = {share: share / self.step_share for share in self.finetune_shares}
        wrong = [share for share, step in steps.items() if not 0 <= share <= self.last_share
                 or abs(step - round(step)) > 1e-6 or not self.pruning_schedule.evaluated(round(step))]
        if wrong:
            raise ValueError(f"finetune_shares has {wrong[0]}, where pruning does not evaluate: it does every "
                             f"{self.evaluate_every * self.step_share:g} up to {self.last_share:g}")
        if not self.template_sizes or min(self.template_sizes) < 1:
            raise ValueError(f"template_sizes are numbers of images, at least 1, found {self.template_sizes}")

    @cached_property
    def recipe(self) -> Recipe:
        return Recipe(self.batch_size, self.epochs, self.schedule, tuple(self.learning_rates), self.patience,
                      label_smoothing=self.label_smoothing, precision=self.precision)

    @cached_property
    def finetune_recipe(self) -> Recipe:
        return Recipe(self.batch_size, self.finetune_epochs, "one-cycle", (self.finetune_learning_rate,),
                      label_smoothing=self.label_smoothing, precision=self.precision)

    @cached_property
    def pruning_schedule(self) -> Schedule:
        return Schedule(self.criterion, self.step_share, self.last_share, self.batches_per_step,
                        self.pruning_learning_rate, self.evaluate_every, self.keep_descriptor)

    @cached_property
    def _faces(self) -> tuple[FaceSet, FaceSet, FaceSet, dict[str, FaceSet]]:
        learning, test, more = faces.load_split(self.source, self.root, self.test_share, self.more_training,
                                                self.overlaps, self.more_tests, **self.source_options)
        return *faces.hold_out_images(learning, self.validation_share, self.seed), test, more

    @property
    def training(self) -> FaceSet:
        """The images that train and prune the network."""
        return self._faces[0]

    @property
    def validation(self) -> FaceSet:
        """Images of the training subjects, held out to steer the learning rate and to choose the best epoch."""
        return self._faces[1]

    @property
    def test(self) -> FaceSet:
        """Images of people that training never saw."""
        return self._faces[2]

    @property
    def more_faces(self) -> dict[str, FaceSet]:
        """Sets that are verified besides, by the pairs that they list."""
        return self._faces[3]

    @cached_property
    def protocols(self) -> list[verification.Protocol]:
        """Every pose pair of the test faces, for every template size."""
        return [protocol for size in self.template_sizes
                for protocol in verification.pose_pairs(self.test.subjects, self.test.poses, size)]

    @cached_property
    def baseline_run(self) -> results.Run:
        """Where the unpruned network is: named by all that decides its weights."""
        weights = user_path(self.imagenet)
        imagenet = results.file_hash(weights) if weights.is_file() else self.imagenet
        config = {"network": self.network, "seed": self.seed, "image_size": self.image_size, "stem_stride": self.stem_stride,
                  "imagenet": imagenet, "recipe": asdict(self.recipe), "training": self.training.fingerprint(),
                  "validation": self.validation.fingerprint()}
        return results.Run.open(user_path(self.runs), f"{self.network}-baseline", config)

    @cached_property
    def run(self) -> results.Run:
        """Where the pruned networks are: named by all that decides the tables."""
        config = {"baseline": self.baseline_run.folder.name, "pruning": asdict(self.pruning_schedule),
                  "finetune_shares": self.finetune_shares, "finetune": asdict(self.finetune_recipe),
                  "template_sizes": self.template_sizes, "resamples": self.resamples, "test": self.test.fingerprint()}
        return results.Run.open(user_path(self.runs), f"{self.network}-pruning", config)

    @property
    def folder(self) -> Path:
        """Where tables and figures go."""
        return user_path(self.results) / self.preset / self.network

    def sizes(self) -> pd.DataFrame:
        """Images, subjects and images per pose of every set. Reads every image once, and raises FaceError that
        lists those that cannot be read: better now than after an hour of training."""
        for chosen in (self.training, self.validation, self.test, *self.more_faces.values()):
            chosen.verify()
        return self._counts()

    def _counts(self) -> pd.DataFrame:
        return faces.counts(training=self.training, validation=self.validation, test=self.test, **self.more_faces)

    def trained(self) -> tuple[FaceNetwork, pd.DataFrame]:
        """The unpruned network and its training history, one row per epoch."""
        torch.manual_seed(self.seed)
        network = networks.build(self.network, len(set(self.training.subjects)), self.image_size, self.stem_stride)
        if self.imagenet:
            networks.load_imagenet(network, self.imagenet)
        with self.baseline_run.timed("training"):
            history = training.train(network, self.training, self.validation, self.recipe, self.seed, self.baseline_run.folder)
        results.write_table(history, list(history), self.folder / "training.csv")
        return network, history

    def verify(self, network: FaceNetwork) -> pd.DataFrame:
        """EER and FRR at FAR 0.1 % of the test faces on every protocol, with intervals over subjects."""
        found = networks.descriptors(network, self.test)
        return pd.concat([verification.evaluate(protocol, found, resamples=self.resamples) for protocol in self.protocols],
                         ignore_index=True)

    def pruned(self, network: FaceNetwork) -> Tables:
        """Prunes a copy of the network step by step, fine-tunes where asked, and saves tables and manifest.

        Everything runs in the precision in which the network was trained.
        """
        precision = results.read_table(self.folder / "training.csv")["precision"].iloc[0]
        recipe, finetune_recipe = (replace(r, precision=precision) for r in (self.recipe, self.finetune_recipe))
        with self.run.timed("pruning"):
            tables = pruning.prune(deepcopy(network), self.training, self.pruning_schedule, recipe, self.verify, self.seed,
                                   self.run.folder)
        with self.run.timed("fine-tuning"):
            tuned = pruning.fine_tune(self.run.folder, self.finetune_shares, self.training, self.validation,
                                      self.pruning_schedule, finetune_recipe, self.verify, self.seed)
        tables = Tables(pd.concat([tables.curve, tuned.curve], ignore_index=True),
                        pd.concat([tables.layers, tuned.layers], ignore_index=True))
        self.save(tables)
        return tables

    def save(self, tables: Tables) -> None:
        """Writes curve.csv, layers.csv and manifest.json into the results folder."""
        results.write_table(tables.curve, results.CURVE, self.folder / "curve.csv")
        results.write_table(tables.layers, results.LAYERS, self.folder / "layers.csv")
        private = ("root", "more_training", "overlaps", "more_tests", "imagenet", "runs", "results")  # paths of one machine
        parameters = {name: value for name, value in asdict(self).items() if name not in private}
        config = {"parameters": parameters, "baseline": self.baseline_run.config, "pruning": self.run.config}
        counts = self._counts().to_dict("index")
        results.write_json(self.folder / "manifest.json", results.manifest(
            config, self.baseline_run.durations() | self.run.durations(), faces=counts))

    def draw(self) -> None:
        """Draws every figure of the saved tables into the results folder."""
        figures.draw(self.folder)

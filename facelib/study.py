"""One study of one network: a notebook's parameters, checked, and the steps that follow from them.

    python -m facelib.study NOTEBOOK PART [-p name value]... [-f file.yaml]...    computes one part
    python -m facelib.study NOTEBOOK parts [-p name value]... [-f file.yaml]...   lists them

The notebooks of all networks share it. A part is what can be computed by itself: `baseline` (the unpruned network), `pruning`
(step by step), `fine-tuned:SHARE` and `from-scratch:SHARE` (of a network that pruning left), and `arm:NAME:SEED`, each of the
controls. Every part finds what an earlier execution left in its run's folder and goes on from there, and computes what it needs
and does not find; a notebook computes those that are not there yet.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import signal
import sys
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from facelib import batch, differences, faces, figures, networks, pruning, results, training, verification
from facelib.faces import FaceError, FaceSet
from facelib.networks import FaceNetwork
from facelib.progress import BATCH
from facelib.pruning import Evaluate, Schedule, Tables
from facelib.storage import CheckpointError, user_path
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
    pretraining: list
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
    unit: str
    minimum_filters: int
    scoring: str
    reestimate_batches: int
    multiple: int
    finetune_shares: list
    finetune_epochs: int
    finetune_learning_rate: float
    scratch_shares: list
    arms: dict
    arm_step_share: float
    template_sizes: list
    more_template_sizes: list
    resamples: int
    runs: str
    results: str

    @classmethod
    def from_parameters(cls, names: dict) -> Study:
        """The study that a notebook's parameters cell describes; names: the notebook's globals().

        Raises ValueError when one is missing or does not fit the others."""
        if missing := [field.name for field in fields(cls) if field.name not in names]:
            raise ValueError(f"a study's notebook has the parameters {', '.join(missing)}, too; those of notebooks 2 to 4 do")
        return cls(**{field.name: names[field.name] for field in fields(cls)})

    def __post_init__(self):
        self.recipe, self.pruning_schedule, self.finetune_recipe, self.arm_schedules  # noqa: B018  each checks its own
        schedule = self.pruning_schedule
        for name, amounts in {"finetune_shares": self.finetune_shares, "scratch_shares": self.scratch_shares}.items():
            shares = [self._share(amount) for amount in amounts]
            if len({schedule.step_of(share) for share in shares}) < len(shares):
                raise ValueError(f"{name} names a share twice: {amounts}")
            for amount, share in zip(amounts, shares):
                step = schedule.step_of(share)
                if not 0 <= share <= schedule.last_share or abs(share / schedule.step_share - step) > 1e-6 or not schedule.evaluated(step):
                    raise ValueError(f"{name} has {amount}, where pruning does not evaluate: it does every "
                                     f"{self.evaluate_every * self.step_share:g} up to {self.last_share:g}")
        if self.network not in networks.ARCHITECTURES:
            raise ValueError(f"network is one of {', '.join(networks.ARCHITECTURES)}, found '{self.network}'")
        if "none" in (self.criterion, *self.arms):
            raise ValueError("'none' removes nothing; the arm that trains and removes nothing is called control")
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share is a share of the images between 0 and 1, found {self.validation_share}")
        if self.resamples < 0:
            raise ValueError(f"resamples is a number, at least 0, found {self.resamples}")
        if not self.template_sizes or min(self.template_sizes + self.more_template_sizes) < 1:
            raise ValueError("template_sizes and more_template_sizes are numbers of images, at least 1, found "
                             f"{self.template_sizes} and {self.more_template_sizes}")
        if len(set(self.template_sizes)) < len(self.template_sizes):
            raise ValueError(f"template_sizes names a size twice: {self.template_sizes}")

    @cached_property
    def recipe(self) -> Recipe:
        return Recipe(self.batch_size, self.epochs, self.schedule, tuple(self.learning_rates), self.patience,
                      label_smoothing=self.label_smoothing, precision=self.precision)

    @cached_property
    def finetune_recipe(self) -> Recipe:
        try:
            return Recipe(self.batch_size, self.finetune_epochs, "one-cycle", (self.finetune_learning_rate,),
                          label_smoothing=self.label_smoothing, precision=self.precision)
        except ValueError as error:
            raise ValueError(f"finetune_epochs {self.finetune_epochs}, finetune_learning_rate {self.finetune_learning_rate}: {error}"
                             ) from error

    @cached_property
    def _whole(self) -> int:
        """How much of `unit` the unpruned network has; its number of classes does not matter."""
        network = networks.build(self.network, 2, self.image_size, self.stem_stride)
        return pruning.size_columns(network, pruning.graph_of(network))[self.unit]

    def _share(self, amount: float) -> float:
        """An amount to remove as a share of the unpruned network: below 1 it is one, from 1 on a count of `unit`."""
        if type(amount) not in (int, float):
            raise ValueError(f"an amount to remove is a share (0.4 is 40 %) or, from 1 on, a number of {self.unit}, found {amount!r}")
        return amount if amount < 1 or self.unit not in pruning.UNITS else amount / self._whole

    @cached_property
    def pruning_schedule(self) -> Schedule:
        return Schedule(self.criterion, self._share(self.step_share), self._share(self.last_share), self.batches_per_step,
                        self.pruning_learning_rate, self.evaluate_every, self.keep_descriptor, self.unit,
                        self.minimum_filters, self.scoring, self.reestimate_batches, self.multiple)

    @cached_property
    def arm_schedules(self) -> dict[tuple[str, int], Schedule]:
        """The schedule of every control, by name and seed. All take the same, coarser steps, each with as many
        mini-batches as one of the study's own; `control` trains as they do and removes nothing."""
        wrong = [name for name, seeds in self.arms.items() if type(seeds) is not int or seeds < 1]
        if wrong:
            raise ValueError(f"arms are a criterion or control, and its number of seeds, found {wrong[0]}: {self.arms[wrong[0]]!r}")
        return {(name, seed): replace(self.pruning_schedule, criterion="none" if name == "control" else name,
                                      step_share=self._share(self.arm_step_share), evaluate_every=1)
                for name, seeds in self.arms.items() for seed in range(seeds)}

    @property
    def chosen_steps(self) -> set[int]:
        """Steps whose networks are looked at more closely: unpruned, and those that are fine-tuned."""
        return {0} | {self.pruning_schedule.step_of(self._share(amount)) for amount in self.finetune_shares + self.scratch_shares}

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

    def _protocols(self, closely: bool) -> Iterable[tuple[FaceSet, list, tuple[str, ...]]]:
        """Faces, their protocols and the metrics: the pose pairs of the test faces; looked at closely, more template
        sizes, and the pairs of the other sets."""
        sizes = self.template_sizes + [size for size in self.more_template_sizes if closely and size not in self.template_sizes]
        yield self.test, [protocol for size in sizes for protocol in
                          verification.pose_pairs(self.test.subjects, self.test.poses, size)], ("eer", "frr_at_far_0.001")
        for others in self.more_faces.values() if closely else ():
            yield others, [verification.pair_folds(pairs, others.subjects, name.split("/")[-1])
                           for name, pairs in others.pairs.items()], ("accuracy", "eer")

    @cached_property
    def _pretraining_faces(self) -> tuple[FaceSet, FaceSet]:
        """Images that train first, and those held out of them."""
        known = faces.union(*(faces.load(**extra) for extra in self.pretraining))
        known = faces.untested(known, (self.test, *self.more_faces.values()), self.overlaps)
        return faces.hold_out_images(known, self.validation_share, self.seed)

    @cached_property
    def baseline_run(self) -> results.Run:
        """Where the unpruned network is: named by all that decides its weights. What took a night may be kept beside the tables."""
        local = self.imagenet not in ("", "torchvision")
        imagenet = results.file_hash(networks.weights_file(self.network, self.imagenet)) if local else self.imagenet
        config = {"network": self.network, "seed": self.seed, "image_size": self.image_size, "stem_stride": self.stem_stride,
                  "imagenet": imagenet, "recipe": asdict(self.recipe), "training": self.training.fingerprint(),
                  "validation": self.validation.fingerprint()}
        if self.pretraining:
            config["pretraining"] = [chosen.fingerprint() for chosen in self._pretraining_faces]
        return results.Run.open(user_path(self.runs), f"{self.network}-baseline", config, self.folder / "kept")

    @cached_property
    def run(self) -> results.Run:
        """Where the pruned networks are: named by all that decides the tables."""
        config = {"baseline": self.baseline_run.folder.name, "pruning": asdict(self.pruning_schedule),
                  "finetune_shares": self.finetune_shares, "finetune": asdict(self.finetune_recipe),
                  "scratch_shares": self.scratch_shares,
                  "more_template_sizes": self.more_template_sizes} | self._tested
        return results.Run.open(user_path(self.runs), f"{self.network}-pruning", config)

    def arm_run(self, name: str, seed: int) -> results.Run:
        """Where a control is."""
        config = {"baseline": self.baseline_run.folder.name, "pruning": asdict(self.arm_schedules[name, seed]), "seed": seed}
        return results.Run.open(user_path(self.runs), f"{self.network}-{name}-{seed}", config | self._tested)

    @property
    def _tested(self) -> dict:
        return {"template_sizes": self.template_sizes, "resamples": self.resamples, "test": self.test.fingerprint(),
                "more_tests": {name: faces.fingerprint(pairs=True) for name, faces in self.more_faces.items()}}

    @property
    def folder(self) -> Path:
        """Where tables and figures go."""
        return user_path(self.results) / self.preset / self.network

    def sizes(self) -> pd.DataFrame:
        """Images, subjects and images per pose of every set. Reads every image once, and raises FaceError that
        lists those that cannot be read, and ValueError when the test faces are too few to compare: better now than after
        an hour of training."""
        self._people  # noqa: B018  makes every protocol
        for chosen in (self.training, self.validation, self.test, *self.more_faces.values(),
                       *(self._pretraining_faces if self.pretraining else ())):
            chosen.verify()
        return self._counts()

    def _counts(self) -> pd.DataFrame:
        return faces.counts(training=self.training, validation=self.validation, test=self.test, **self.more_faces,
                            **({"pretraining": self._pretraining_faces[0]} if self.pretraining else {}))

    def trained(self) -> tuple[FaceNetwork, pd.DataFrame]:
        """The unpruned network and its training history, one row per epoch; where asked, its trunk learnt other faces first."""
        begun = (self.baseline_run.folder / "training.safetensors").exists()  # and goes on from there, whatever it began with
        network = self._initial(self.training, "" if begun else self.imagenet)
        if self.pretraining and not begun:
            before, held_out = self._pretraining_faces
            first = self._initial(before, self.imagenet)
            with self.baseline_run.timed("pretraining"):
                training.train(first, before, held_out, self.recipe, self.seed, self.baseline_run.folder / "pretraining")
            network.features.load_state_dict(first.features.state_dict())
        with self.baseline_run.timed("training"):
            history = training.train(network, self.training, self.validation, self.recipe, self.seed, self.baseline_run.folder)
        results.write_table(history, list(history), self.folder / "training.csv")
        return network, history

    def verifier(self, run: results.Run, chosen_steps: Iterable[int] = ()) -> Evaluate:
        """What gives a network's rows of the curve: its error rates, with intervals over subjects. The EERs of the resamples stay
        in the run's folder, for differences between any two networks, and so do the DET curves at the chosen steps."""

        def verify(network: FaceNetwork, stage: str, step: int) -> pd.DataFrame:
            closely, found = step in chosen_steps, []
            for chosen, protocols, metrics in self._protocols(closely):
                described = networks.descriptors(network, chosen)
                found += [verification.measure(protocol, described, metrics, self.resamples) for protocol in protocols]
                if closely and chosen is self.test:
                    results.write_table(self._det_of(described), None, _det_file(run, stage, step))
            differences.keep(run.folder, stage, step, found)
            return pd.concat([one.table() for one in found], ignore_index=True)

        return verify

    @cached_property
    def _people(self) -> dict[tuple, int]:
        """Subjects with a genuine comparison, by line of the curve. Raises ValueError when two lines have one name."""
        found = [((protocol.name, protocol.pair, protocol.template_size), verification.people_compared(protocol))
                 for _, protocols, _ in self._protocols(closely=True) for protocol in protocols]
        lines = [line for line, _ in found]
        if twice := {line[0] for line in lines if lines.count(line) > 1}:
            raise ValueError(f"more_tests: two sets list pairs under the name {', '.join(sorted(twice))}; rename one's file, or test "
                             "them in studies of their own")
        return dict(found)

    @cached_property
    def _recipes(self) -> tuple[Recipe, Recipe]:
        """Of training and of fine-tuning, in the precision in which the network was trained."""
        precision = results.read_table(self.folder / "training.csv")["precision"].iloc[0]
        return replace(self.recipe, precision=precision), replace(self.finetune_recipe, precision=precision)

    def _pruned(self, network: FaceNetwork) -> Tables:
        """Prunes a copy of the network step by step."""
        with self.run.timed("pruning", "pruning.safetensors"):
            return pruning.prune(deepcopy(network), self.training, self.pruning_schedule, self._recipes[0],
                                 self.verifier(self.run, self.chosen_steps), self.seed, self.run.folder)

    @property
    def _retrainings(self) -> dict[str, tuple[str, float]]:
        """Parts that retrain a network that pruning left, or train its shape from random weights for as long as the unpruned
        network was: stage and share, by name."""
        asked = {"fine-tuned": self.finetune_shares, "from-scratch": self.scratch_shares}
        return {f"{stage}:{amount}": (stage, self._share(amount)) for stage, amounts in asked.items() for amount in amounts}

    def _retrained(self, part: str) -> Tables:
        stage, share = self._retrainings[part]
        recipe, finetune_recipe = self._recipes
        retrain, recipe = (pruning.fine_tune, finetune_recipe) if stage == "fine-tuned" else (pruning.from_scratch, recipe)
        with self.run.timed(part.replace(":", " "), f"{stage}-{self.pruning_schedule.step_of(share):03d}"):
            return retrain(self.run.folder, share, self.training, self.validation, self.pruning_schedule, recipe,
                           self.verifier(self.run, self.chosen_steps), self.seed)

    def arm(self, network: FaceNetwork, name: str, seed: int) -> Tables:
        """Prunes a copy of the network as the control `name` says."""
        run = self.arm_run(name, seed)
        with run.timed(f"{name} {seed}"):
            found = pruning.prune(deepcopy(network), self.training, self.arm_schedules[name, seed], self._recipes[0],
                                  self.verifier(run), seed, run.folder)
        return Tables(differences.with_changes(found.curve, run.folder, self._people), found.layers)

    def computed(self, network: FaceNetwork) -> Tables:
        """Computes every part that is not there yet, saves tables, curves and manifest, and returns the tables of the main run:
        pruned, and retrained."""
        main = together([self._pruned(network), *map(self._retrained, self._retrainings)])
        tables = Tables(differences.with_changes(main.curve, self.run.folder, self._people), main.layers)
        arms = [self.arm(network, *arm) for arm in self.arm_schedules]
        results.write_table(tables.curve, results.CURVE, self.folder / "curve.csv")
        results.write_table(tables.layers, results.LAYERS, self.folder / "layers.csv")
        shutil.rmtree(self.folder / "arms", ignore_errors=True)  # of a study with other parameters
        if arms:
            controls = together(arms)
            results.write_table(controls.curve, results.CURVE, self.folder / "arms" / "curve.csv")
            results.write_table(controls.layers, results.LAYERS, self.folder / "arms" / "layers.csv")
        results.write_table(self._differences(tables, arms), results.DIFFERENCES, self.folder / "differences.csv")
        results.write_table(self._det(tables.curve), None, self.folder / "det.csv")
        self._save_manifest()
        return tables

    def _initial(self, known: FaceSet, imagenet: str) -> FaceNetwork:
        """The network before training, to classify the subjects of `known`."""
        torch.manual_seed(self.seed)
        network = networks.build(self.network, len(known.subject_names), self.image_size, self.stem_stride)
        if imagenet:
            networks.load_imagenet(network, imagenet)
        return network

    def scores(self, network: FaceNetwork) -> pd.DataFrame:
        """Histograms of the network's genuine and impostor scores, for every protocol; saved as scores.csv."""
        chosen, protocols, _ = next(iter(self._protocols(closely=False)))
        found = networks.descriptors(network, chosen)
        tables = []
        for protocol in protocols:
            edges, genuine, impostor = verification.score_histogram(*verification.protocol_scores(protocol, found), 50)
            tables.append(pd.DataFrame({"network": self.network, "protocol": protocol.name, "pair": protocol.pair,
                                        "template_size": protocol.template_size, "low": edges[:-1], "high": edges[1:],
                                        "genuine": genuine, "impostor": impostor}))
        table = pd.concat(tables, ignore_index=True)
        results.write_table(table, list(table), self.folder / "scores.csv")
        return table

    def sanity(self, network: FaceNetwork) -> pd.DataFrame:
        """What guessing would reach and what the network does: classifying known people, and telling strangers apart."""
        history = results.read_table(self.folder / "training.csv")
        best = history.loc[history["validation_loss"].idxmin()]
        chosen, protocols, _ = next(iter(self._protocols(closely=False)))
        genuine, impostor = verification.protocol_scores(protocols[0], networks.descriptors(network, chosen))
        subjects = network.config["subjects"]
        first = f"EER of strangers, {results.line_name(protocols[0].name, protocols[0].pair, protocols[0].template_size)}"
        return pd.DataFrame({
            "validation loss": {"guessing": f"{math.log(subjects):.2f}", "this network": f"{best['validation_loss']:.2f}"},
            "validation accuracy": {"guessing": f"{100 / subjects:.1f} %", "this network": f"{100 * best['validation_accuracy']:.1f} %"},
            first: {"guessing": "50 %", "this network": f"{100 * verification.equal_error_rate(genuine, impostor):.1f} %"}}).T

    def _det_of(self, described: np.ndarray) -> pd.DataFrame:
        """DET curves on the pose pairs of the test faces, which a network described so."""
        curves = []
        _, protocols, _ = next(iter(self._protocols(closely=False)))
        for protocol in protocols:
            genuine, impostor = verification.protocol_scores(protocol, described)
            far, frr = verification.thinned(*verification.det_curve(genuine, impostor)[:2])
            curves.append(pd.DataFrame({
                "protocol": protocol.name, "pair": protocol.pair, "template_size": protocol.template_size, "far": far, "frr": frr,
                "genuine": genuine.size, "impostor": impostor.size}))
        return pd.concat(curves, ignore_index=True)

    def _det(self, curve: pd.DataFrame) -> pd.DataFrame:
        """DET curves of the networks at the chosen steps, in every stage, as they were kept when their rows of `curve` were made."""
        about = ["network", "criterion", "seed", "stage", "step", "filters_removed_pct"]
        chosen = curve.loc[curve["step"].isin(self.chosen_steps), about].drop_duplicates().sort_values("step", kind="stable")
        return pd.concat([pd.DataFrame([network]).merge(results.read_table(_det_file(self.run, network["stage"], network["step"])), how="cross")
                          for network in chosen.to_dict("records")], ignore_index=True)

    def _differences(self, main: Tables, arms: list[Tables]) -> pd.DataFrame:
        """EER of one network less another's: at every step of the arms, the study's criterion less every other arm, every seed
        against every seed; of the fine-tuned networks, each less the unpruned one that was fine-tuned as long, and less the
        same shape from scratch."""
        curves = {arm: differences.at_steps(self.arm_run(*arm).folder, found.curve) for arm, found in zip(self.arm_schedules, arms)}
        pairs = [(network, others[step]) for (name, _), networks in curves.items() if name == self.criterion
                 for (other, _), others in curves.items() if other != self.criterion
                 for step, network in networks.items() if step and step in others]
        tuned, scratch = (differences.at_steps(self.run.folder, main.curve[main.curve["stage"] == stage])
                          for stage in ("fine-tuned", "from-scratch"))
        pairs += [(network, tuned[0]) for step, network in tuned.items() if step and 0 in tuned]
        pairs += [(network, scratch[step]) for step, network in tuned.items() if step in scratch]
        return differences.table(pairs, self._people)

    def _save_manifest(self) -> None:
        private = ("root", "more_training", "overlaps", "more_tests", "pretraining", "imagenet", "runs", "results")  # paths of one machine
        parameters = {name: value for name, value in asdict(self).items() if name not in private}
        config = {"parameters": parameters, "baseline": self.baseline_run.config, "pruning": self.run.config}
        runs = [self.baseline_run, self.run, *(self.arm_run(*arm) for arm in self.arm_schedules)]
        parts = {part: how for run in runs for part, how in run.parts().items()}
        results.write_json(self.folder / "manifest.json",
                           results.manifest(config, parts, faces=self._counts().to_dict("index")))

    def draw(self) -> None:
        """Draws every figure of the saved tables into the results folder."""
        figures.draw(self.folder)

    @property
    def parts(self) -> list[str]:
        return ["baseline", "pruning", *self._retrainings, *(f"arm:{name}:{seed}" for name, seed in self.arm_schedules)]

    def check(self, part: str) -> None:
        """Raises ValueError when there is no such part, or when the faces do not fit: before anything is computed."""
        if part not in self.parts:
            raise ValueError(f"no part '{part}'; expected one of {', '.join(self.parts)}")
        self._people, self.run  # noqa: B018  the first as in `sizes`

    def compute(self, part: str) -> None:
        """Computes one of `parts`. Raises ValueError as `check` does."""
        self.check(part)
        network, _ = self.trained()
        if part == "pruning":
            self._pruned(network)
        elif part in self._retrainings:
            self._pruned(network)
            self._retrained(part)
        elif part != "baseline":
            _, name, seed = part.split(":")
            self.arm(network, name, int(seed))


def _det_file(run: results.Run, stage: str, step: int) -> Path:
    return run.folder / f"det-{stage}-{step:03d}.csv"


def together(tables: list[Tables]) -> Tables:
    return Tables(*(pd.concat([getattr(table, name) for table in tables], ignore_index=True) for name in ("curve", "layers")))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m facelib.study", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", type=Path)
    parser.add_argument("part")
    batch.add_options(parser)
    options = parser.parse_args(arguments)
    try:
        parameters = batch.declared(options.notebook) | batch.given(options.notebook, options.f, options.p)
        study = Study.from_parameters(parameters)
        if options.part == "parts":
            print("\n".join(study.parts))
            return
        study.check(options.part)
    except ValueError as error:
        parser.exit(2, f"{error}\n")
    os.environ.setdefault(BATCH, batch.SECONDS_BETWEEN_LINES)
    try:
        study.compute(options.part)
    except (FaceError, CheckpointError) as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # a scheduler's: what was computed so far is timed
    main()

"""The recipe: schedules by hand, learning something, resuming to the same bits, errors before an hour of training."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from facelib import networks, training
from facelib.faces import hold_out_images
from facelib.faces.crops import centre_batches, normalise, training_batches
from facelib.training import Plateau, Recipe, one_cycle, train

RECIPE = Recipe(batch_size=16, epochs=4, schedule="one-cycle", learning_rates=(0.05,), precision="float32")


def network(subjects=8):
    torch.manual_seed(0)
    return networks.build("squeezenet", subjects, image_size=33, stem_stride=2)


@pytest.fixture(scope="module")
def sets(blobs):
    return hold_out_images(blobs, 0.2, 0)


@pytest.fixture(scope="module")
def trained(sets, tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    learner = network()
    return learner, train(learner, *sets, RECIPE, 0, folder), folder


def test_training_learns_the_blobs(trained):
    history = trained[1]
    assert list(history["epoch"]) == [1, 2, 3, 4]
    assert history["training_loss"].iloc[-1] < 0.8 * np.log(8)  # chance is log 8


def test_the_best_epoch_is_what_is_left(trained, sets):
    learner, history, _ = trained
    names = {name: label for label, name in enumerate(sorted(set(sets[0].subjects)))}
    loss, _ = training.validate(learner, sets[1], RECIPE, names)
    assert loss == pytest.approx(history["validation_loss"].min(), rel=1e-6)


def test_the_validation_loss_is_that_of_all_logits_to_the_last_bit(trained, sets):
    learner, faces = trained[0], sets[1]
    names = {name: label for label, name in enumerate(sorted(set(sets[0].subjects)))}
    labels = torch.tensor([names[name] for name in faces.subjects])
    learner.eval()
    with torch.inference_mode():
        logits = torch.cat([learner(normalise(images, "cpu")) for images, _ in centre_batches(faces, 33, 7)])
    recipe = replace(RECIPE, batch_size=7)  # which does not divide the images
    expected = torch.nn.functional.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).float().mean().item()
    assert len(faces) % 7 and training.validate(learner, faces, recipe, names) == expected


def test_killed_in_an_epoch_it_resumes_to_the_same_bits(trained, sets, tmp_path, monkeypatch):
    calls, backward = [], training.backward

    def dying(*arguments):
        calls.append(1)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return backward(*arguments)

    monkeypatch.setattr(training, "backward", dying)
    with pytest.raises(KeyboardInterrupt):
        train(network(), *sets, RECIPE, 0, tmp_path)
    monkeypatch.undo()
    resumed = network()
    history = train(resumed, *sets, RECIPE, 0, tmp_path)
    expected, full, _ = trained
    assert history.drop(columns="images_per_second").equals(full.drop(columns="images_per_second"))
    assert all(torch.equal(a, b) for a, b in zip(resumed.state_dict().values(), expected.state_dict().values()))


def with_dropout():
    made = network()
    made.features.conv10.add_module("dropout", torch.nn.Dropout(0.5))
    return made


@pytest.mark.parametrize("recipe", [replace(RECIPE, epochs=3),
                                    Recipe(16, 5, "plateau", (0.05, 1e-9, 1e-10), patience=1, precision="float32")])
def test_stopped_after_every_epoch_it_leaves_the_same_bytes(sets, tmp_path, monkeypatch, recipe):
    """Weights, momentum, the place in the schedule, the best epoch; and what dropout draws."""
    monkeypatch.setattr(training.time, "perf_counter", iter(range(10_000)).__next__)  # the same speed every time
    whole = train(with_dropout(), *sets, recipe, 0, tmp_path / "whole")

    def stopping(*arguments, plain=training.save_checkpoint):
        plain(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_checkpoint", stopping)
    for _ in range(len(whole)):
        torch.manual_seed(99)  # whatever was drawn before
        with pytest.raises(KeyboardInterrupt):
            train(with_dropout(), *sets, recipe, 0, tmp_path / "stopped")
    resumed = with_dropout()
    assert train(resumed, *sets, recipe, 0, tmp_path / "stopped").equals(whole)
    assert (tmp_path / "stopped/training.safetensors").read_bytes() == (tmp_path / "whole/training.safetensors").read_bytes()
    if recipe.schedule == "plateau":
        assert whole["learning_rate"].nunique() > 1 and len(whole) < 6


def test_finished_training_is_not_repeated(trained, sets, monkeypatch):
    monkeypatch.setattr(training, "backward", None)  # would fail when called
    again = network()
    assert train(again, *sets, RECIPE, 0, trained[2]).equals(trained[1])
    assert torch.equal(again.classifier.weight, trained[0].classifier.weight)
    tensors, _ = training.load_checkpoint(trained[2] / "training.safetensors")  # momentum and last weights are of no more use
    assert {name: tensor.shape for name, tensor in tensors.items()} == {f"best/{name}": tensor.shape for name, tensor in again.state_dict().items()}


ANOTHER = f"recipe {{'epochs': {RECIPE.epochs}}}, not {{'epochs': {RECIPE.epochs + 1}}}: "  # what differs, and nothing else


@pytest.mark.parametrize("recipe, seed, named", [(replace(RECIPE, epochs=RECIPE.epochs + 1), 0, ANOTHER), (RECIPE, 1, "seed 0, not 1")])
def test_folder_of_another_training_is_an_error(trained, sets, recipe, seed, named):
    with pytest.raises(ValueError, match=f"run with {named}.*every run has its folder"):
        train(network(), *sets, recipe, seed, trained[2])


def test_plateau_takes_the_next_rate_when_the_loss_has_not_fallen_for_patience_epochs():
    plateau = Plateau((0.01, 0.005), patience=2)
    rates = []
    for loss in (3.0, 2.0, 2.5, 2.0, 1.5, 1.6, 1.7):  # plateaus after the 4th and the 7th
        rates.append(plateau.rate)
        plateau.epoch_ended(loss)
    assert rates == [0.01, 0.01, 0.01, 0.01, 0.005, 0.005, 0.005]
    assert plateau.finished


def test_plateau_schedule_ends_the_training(sets, tmp_path):
    recipe = Recipe(batch_size=64, epochs=9, learning_rates=(1e-9, 1e-10), patience=1, precision="float32")
    history = train(network(), *sets, recipe, 0, tmp_path)
    assert list(history["learning_rate"])[0] == 1e-9 and list(history["learning_rate"])[-1] == 1e-10
    assert len(history) < 9


def test_one_cycle_warms_up_peaks_and_ends_at_zero():
    assert one_cycle(0.1, 0.0) == pytest.approx(0.004)
    assert one_cycle(0.1, 0.15) == pytest.approx(0.1)
    assert one_cycle(0.1, 0.575) == pytest.approx(0.05)
    assert one_cycle(0.1, 1.0) == pytest.approx(0.0, abs=1e-9)


def test_what_a_step_sees_depends_on_seed_and_step_alone(blobs):
    def batches(seed, start, stop):
        return [images for images, _ in training_batches(blobs, 33, 10, seed, start, stop, workers=0)]

    whole = batches(0, 0, 12)
    assert all(torch.equal(a, b) for a, b in zip(whole[5:], batches(0, 5, 12)))
    assert not torch.equal(whole[0], batches(1, 0, 1)[0])


def test_an_epoch_holds_every_image_once(blobs):
    labels = torch.cat([labels for _, labels in training_batches(blobs, 33, 12, 0, 0, 8, workers=0)])
    assert torch.bincount(labels).tolist() == [12] * 8


def test_batch_normalisation_and_biases_have_no_weight_decay():
    groups = training.optimizer_for(network(), Recipe(), 0.01).param_groups
    assert [group["weight_decay"] for group in groups] == [1e-4, 0.0]
    assert {p.ndim for p in groups[0]["params"]} == {2, 4} and {p.ndim for p in groups[1]["params"]} == {1}


def test_other_subjects_than_the_network_classifies_are_an_error(sets, tmp_path):
    with pytest.raises(ValueError, match="classifies 5 subjects, the faces have 8"):
        train(network(5), *sets, RECIPE, 0, tmp_path)


@pytest.mark.parametrize("wrong", [{"schedule": "step"}, {"precision": "half"}, {"learning_rates": ()}, {"epochs": 0},
                                   {"label_smoothing": 1.5}])
def test_recipe_refuses_what_makes_no_sense(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Recipe(**wrong)

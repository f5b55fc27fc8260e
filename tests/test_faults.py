"""What goes wrong while a run computes or saves: it stops where it went wrong, and nothing saved before is lost."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import safetensors.torch
import torch
from test_pruning import RECIPE, SCHEDULE, network, run, unverified

from facelib import pruning, results, training
from facelib.faces import hold_out_images, load, split_subjects
from facelib.storage import CheckpointError, load_checkpoint, save_checkpoint
from facelib.training import Recipe, TrainingError, check_finite, train

TRAINING = Recipe(batch_size=8, epochs=2, schedule="one-cycle", learning_rates=(0.02,), precision="float32")
LAYER = "features.fire6.squeeze.conv"


@pytest.fixture(scope="module")
def sets(blobs):
    return hold_out_images(blobs, 0.2, 0)


def poisoned(made, call, forward):
    """The network; in its call-th mini-batch of training the output of LAYER, or the loss's gradient of it, is NaN."""
    calls = []

    def hook(module, inputs, output):
        calls.append(module.training)
        if sum(calls) != call or not module.training:
            return None
        if forward:
            return output * float("nan")
        output = output.clone()
        output.register_hook(lambda gradient: gradient * float("nan"))
        return output

    made.get_submodule(LAYER).register_forward_hook(hook)
    return made


def all_finite(path):
    return all(torch.isfinite(tensor).all() for tensor in load_checkpoint(path)[0].values())


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}


def test_gradient_that_turns_nan_under_a_finite_loss_stops_before_the_update(sets, tmp_path):
    made = poisoned(network(8), 1, forward=False)
    before = {name: p.detach().clone() for name, p in made.named_parameters()}
    with pytest.raises(TrainingError, match=rf"the loss is \d+\.\d+ at epoch 1, mini-batch 1 of \d+; the first gradient that went "
                       rf"bad in the backward pass is that of {LAYER}\.weight; there is no checkpoint yet"):
        train(made, *sets, TRAINING, 0, tmp_path)
    assert all(torch.equal(before[name], p) for name, p in made.named_parameters())
    assert not list(tmp_path.iterdir())


def test_loss_that_turns_nan_names_where_the_network_went_bad_and_the_last_good_checkpoint(sets, tmp_path):
    per_epoch = -(-len(sets[0]) // TRAINING.batch_size)
    path = tmp_path / "training.safetensors"
    with pytest.raises(TrainingError, match=rf"the loss is nan at epoch 2, mini-batch 3 of {per_epoch}; .*first tensor of the "
                       rf"network that is not finite is features\.fire6\.squeeze\.bn\.running_mean; .*checkpoint is {path}"):
        train(poisoned(network(8), per_epoch + 3, forward=True), *sets, TRAINING, 0, tmp_path)
    assert all_finite(path) and len(load_checkpoint(path)[1]["history"]) == 1


@pytest.mark.parametrize(("forward", "found"), [(False, rf"loss is \d.* of {LAYER}\.weight"), (True, "loss is nan.*fire6.squeeze.bn")])
def test_pruning_stops_at_the_step_with_the_last_good_checkpoint(blobs, tmp_path, monkeypatch, forward, found):
    monkeypatch.setattr("test_pruning.network", lambda: poisoned(network(), 4, forward))
    with pytest.raises(TrainingError, match=rf"{found}") as raised:
        run(blobs, tmp_path, evaluate=unverified)
    assert "pruned step 2, mini-batch 2" in str(raised.value) and f"checkpoint is {tmp_path}" in str(raised.value)
    assert load_checkpoint(tmp_path / "pruning.safetensors")[1]["step"] == 1
    assert all(all_finite(path) for path in tmp_path.iterdir())


def test_network_that_its_last_update_broke_is_not_saved(blobs, tmp_path, monkeypatch):
    step = torch.optim.SGD.step

    def overflowing(optimizer, *arguments):
        step(optimizer, *arguments)
        optimizer.param_groups[1]["params"][7].data[0] = float("inf")

    schedule = pruning.Schedule(step_share=0.05, last_share=0.2, batches_per_step=1)
    monkeypatch.setattr(torch.optim.SGD, "step", overflowing)
    with pytest.raises(TrainingError, match="went bad at pruned step 1; .* not finite is features.*last good checkpoint"):
        run(blobs, tmp_path, schedule, unverified)
    assert sorted(files(tmp_path)) == ["pruned-000.safetensors", "pruning.safetensors"]
    assert all(all_finite(path) for path in tmp_path.iterdir())


def test_training_that_its_last_update_broke_is_not_saved(sets, tmp_path, monkeypatch):
    step, per_epoch, calls = torch.optim.SGD.step, -(-len(sets[0]) // TRAINING.batch_size), []

    def overflowing(optimizer, *arguments):
        step(optimizer, *arguments)
        calls.append(1)
        if len(calls) == 2 * per_epoch:
            optimizer.param_groups[0]["params"][0].data[0] = float("nan")

    monkeypatch.setattr(torch.optim.SGD, "step", overflowing)
    with pytest.raises(TrainingError, match="nan at the validation of epoch 2; .* not finite is features.conv1.conv.weight"):
        train(network(8), *sets, TRAINING, 0, tmp_path)
    assert all_finite(tmp_path / "training.safetensors")


def test_large_finite_gradients_are_no_fault(tmp_path):
    made = torch.nn.Linear(4, 4)
    made.weight.grad = torch.full_like(made.weight, 3e38)  # their norm is beyond float32
    check_finite(made, torch.tensor(1.0), "now", tmp_path / "none")


@pytest.mark.parametrize("number", [1, pytest.param(2, marks=pytest.mark.slow), 4, pytest.param(5, marks=pytest.mark.slow)])  # of the writes: kept networks of steps 0, 2 and 4, a checkpoint each step
def test_disk_full_while_saving_loses_nothing_and_room_is_all_it_takes(blobs, tmp_path, monkeypatch, number):
    whole = run(blobs, tmp_path / "whole", evaluate=unverified)
    writes, before, save_file = [], {}, safetensors.torch.save_file

    def filling(tensors, path, metadata):
        writes.append(path)
        if len(writes) == number:
            before.update(files(tmp_path / "full"))
            save_file(tensors, path, metadata)
            os.truncate(path, os.path.getsize(path) // 2)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save_file(tensors, path, metadata)

    monkeypatch.setattr(safetensors.torch, "save_file", filling)
    with pytest.raises(OSError, match="cannot write the checkpoint .*No space left.*make room"):
        run(blobs, tmp_path / "full", evaluate=unverified)
    assert {name for name in before if name.endswith(".tmp")} == set() and len(before) <= number - 1
    assert files(tmp_path / "full") == before
    assert run(blobs, tmp_path / "full", evaluate=unverified) == whole
    assert files(tmp_path / "full") == files(tmp_path / "whole")


@pytest.fixture
def small_disk():
    """Files of more than 64 KB cannot be written, by anybody: the limit is the system's."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (65536, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_checkpoint_and_table_that_do_not_fit_leave_what_was_there(tmp_path, small_disk):
    checkpoint, table = tmp_path / "x.safetensors", tmp_path / "x.csv"
    save_checkpoint(checkpoint, {"a": torch.ones(9)}, {})
    results.write_table(pd.DataFrame({"a": range(9)}), ["a"], table)
    before = files(tmp_path)
    with pytest.raises(OSError, match="cannot write the checkpoint .*x.safetensors: .*File too large"):
        save_checkpoint(checkpoint, {"a": torch.ones(99_999)}, {})
    with pytest.raises(OSError, match="File too large"):
        results.write_table(pd.DataFrame({"a": range(99_999)}), ["a"], table)
    with pytest.raises(OSError, match="File too large"):
        results.write_json(tmp_path / "y.json", {"a": "b" * 99_999})
    assert files(tmp_path) == before


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_checkpoint_is_an_error_that_names_the_file(blobs, tmp_path, share):
    run(blobs, tmp_path, pruning.Schedule(step_share=0.05, last_share=0.05, batches_per_step=1), unverified)
    path = tmp_path / "pruning.safetensors"
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(CheckpointError, match=f"cannot read the checkpoint {path}: .*Delete it"):
        run(blobs, tmp_path, pruning.Schedule(step_share=0.05, last_share=0.05, batches_per_step=1), unverified)


def pruned_and_tuned(blobs_folder, folder):
    """A pruning run with verification at every step, and two fine-tunings, its tables written: what the child runs."""
    faces = load("folder", blobs_folder)
    run(faces, folder, SCHEDULE)
    learning, validation = hold_out_images(split_subjects(faces, 0.25)[0], 0.1, 0)
    tuned = [pruning.fine_tune(folder, share, learning, validation, SCHEDULE, RECIPE, unverified, 0) for share in (0.1, 0.2)]
    curve, layers = run(faces, folder, SCHEDULE)
    (folder / "curve.csv").write_text(curve + "".join(found.curve.to_csv(index=False) for found in tuned))
    (folder / "layers.csv").write_text(layers + "".join(found.layers.to_csv(index=False) for found in tuned))


def child(blobs_folder, folder):
    """A process that runs `pruned_and_tuned`, and says on its output when it has loaded everything and begins."""
    code = (f"import sys; from pathlib import Path; sys.path[:0] = [{str(Path(training.__file__).parents[1])!r}, "
            f"{str(Path(__file__).parent)!r}]\nimport test_faults; print('begins', flush=True)\n"
            f"test_faults.pruned_and_tuned(Path({str(blobs_folder)!r}), Path({str(folder)!r}))\n")
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, start_new_session=True,
                               stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout.readline() == "begins\n"
    return process


@pytest.mark.slow
def test_kill_9_at_20_random_moments_changes_no_byte(blobs_folder, tmp_path):
    process, start = child(blobs_folder, tmp_path / "whole"), time.monotonic()
    assert process.wait() == 0
    duration = time.monotonic() - start
    chance, kills, rounds = random.Random(0), 0, 0
    while kills < 20:
        rounds += 1
        folder, finished = tmp_path / f"killed-{rounds}", False
        while not finished:
            process = child(blobs_folder, folder)
            try:
                assert process.wait(chance.uniform(0, duration / 2) if kills < 20 else None) == 0
                finished = True
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
        left = {name: found for name, found in files(folder).items() if not name.endswith(".tmp")}  # a kill cannot clean up
        assert left == files(tmp_path / "whole")

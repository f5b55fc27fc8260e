"""The pruning loop: exact counts, resumption to the same bits, checkpoints that rebuild the same network."""

import copy
import functools
import io
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from facelib import networks, pruning, storage, training, verification
from facelib.channels import ChannelGraph
from facelib.faces import hold_out_images, split_subjects
from facelib.faces.crops import training_batches
from facelib.networks import descriptors
from facelib.pruning import Schedule, choose, graph_of, prune
from facelib.storage import load_checkpoint
from facelib.training import Recipe

RECIPE = Recipe(batch_size=8, epochs=1, schedule="one-cycle", learning_rates=(0.02,), precision="float32")
SCHEDULE = Schedule(step_share=0.05, last_share=0.2, batches_per_step=2, evaluate_every=2)


def network(subjects=6):
    torch.manual_seed(0)
    return networks.build("squeezenet", subjects, image_size=33, stem_stride=2)


def unverified(pruned, stage, step):
    return pd.DataFrame([{"pair": "all", "metric": "eer", "value": 0.5}])


def run(blobs, folder, schedule=SCHEDULE, evaluate=None):
    """A short run on the blobs: its two tables as CSV text. The default evaluation verifies."""
    learning, test = split_subjects(blobs, 0.25)
    protocols = verification.pose_pairs(test.subjects, test.poses, 2)

    def verify(pruned, stage, step):
        found = descriptors(pruned, test)
        return pd.concat([verification.evaluate(p, found, resamples=20) for p in protocols], ignore_index=True)

    tables = prune(network(), learning, schedule, RECIPE, evaluate or verify, 0, folder)
    return tables.curve.to_csv(index=False), tables.layers.to_csv(index=False)


def tables(found):
    return [pd.read_csv(io.StringIO(text)) for text in found]


@pytest.fixture(scope="module")
def never_killed(blobs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return run(blobs, folder), folder


def test_every_step_removes_what_was_asked(never_killed):
    curve, layers = tables(never_killed[0])
    assert curve.groupby("step")["filters"].first().to_dict() == {0: 3944, 2: 3944 - 394, 4: 3944 - 789}
    assert curve["filters_removed_pct"].max() == pytest.approx(100 * 789 / 3944)
    assert layers.groupby("step")["out_channels"].sum().to_dict() == {0: 3944, 2: 3550, 4: 3155}
    assert (layers["out_channels"] >= 1).all()
    assert curve.loc[curve["metric"] == "eer", "value"].between(0.01, 0.6).any()  # or equal tables would say little
    assert curve["parameters"].iloc[0] == 1_239_440  # 1,235,496 of PAPERS: a bias per filter gives way to gamma and beta


def test_same_seed_gives_the_same_tables(never_killed, blobs, tmp_path):
    assert run(blobs, tmp_path) == never_killed[0]


def test_killed_in_the_middle_of_a_step_it_resumes_to_the_same_tables(never_killed, blobs, tmp_path, monkeypatch):
    calls = []

    def dying(*arguments):
        calls.append(1)
        if len(calls) == 6:  # the second mini-batch of the third step
            raise KeyboardInterrupt
        return training.backward(*arguments)

    monkeypatch.setattr(pruning, "backward", dying)
    with pytest.raises(KeyboardInterrupt):
        run(blobs, tmp_path)
    assert load_checkpoint(tmp_path / "pruning.safetensors")[1]["step"] == 2
    monkeypatch.undo()
    assert run(blobs, tmp_path) == never_killed[0]


@pytest.mark.parametrize("criterion", [pytest.param("taylor_activation", marks=pytest.mark.slow), "random"])
def test_stopped_in_every_step_it_leaves_the_same_bytes(blobs, tmp_path, monkeypatch, criterion):
    """Weights, momentum, statistics, tables and groups: all that a checkpoint holds, after each of the steps."""
    schedule = replace(SCHEDULE, criterion=criterion, evaluate_every=1, scoring="separate", unit="macs")
    saved = {"whole": [], "stopped": []}

    def recording(name):
        def save(path, *arguments, plain=storage.save_checkpoint):
            plain(path, *arguments)
            saved[name].append((path.name, path.read_bytes()))
            if name == "stopped" and path.name == "pruning.safetensors" and len(saved[name]) < 10:
                raise KeyboardInterrupt
        return save

    monkeypatch.setattr(pruning, "save_checkpoint", recording("whole"))
    whole = run(blobs, tmp_path / "whole", schedule, unverified)
    monkeypatch.setattr(pruning, "save_checkpoint", recording("stopped"))
    for _ in range(4):
        with pytest.raises(KeyboardInterrupt):
            run(blobs, tmp_path / "stopped", schedule, unverified)
    assert run(blobs, tmp_path / "stopped", schedule, unverified) == whole
    assert saved["stopped"] == saved["whole"] and len(saved["whole"]) == 10


def test_finished_run_is_not_repeated(never_killed, blobs, monkeypatch):
    found, folder = never_killed
    monkeypatch.setattr(pruning, "backward", None)  # would fail when called
    assert run(blobs, folder) == found


@pytest.fixture(scope="module")
def control(blobs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("control")
    return run(blobs, folder, replace(SCHEDULE, criterion="none")), folder


def test_control_removes_nothing_and_is_evaluated_at_the_same_steps(never_killed, control):
    curve, layers = tables(control[0])
    pruned, pruned_layers = tables(never_killed[0])
    assert set(curve["stage"]) == {"control"} and set(curve["criterion"]) == {"none"} and set(curve["filters"]) == {3944}
    keys = ["step", "protocol", "pair", "template_size", "metric"]
    assert curve[keys].equals(pruned[keys]) and layers[["step", "layer"]].equals(pruned_layers[["step", "layer"]])
    same = ["value", "filters", "parameters", "macs"]  # before anything is removed
    assert curve.loc[curve["step"] == 0, same].equals(pruned.loc[pruned["step"] == 0, same])


def test_control_is_plain_training_on_the_mini_batches_of_the_pruned_arm(control, blobs):
    learning, _ = split_subjects(blobs, 0.25)
    plain = network().train()
    optimizer = training.optimizer_for(plain, RECIPE, SCHEDULE.learning_rate)
    for images, labels in training_batches(learning, 33, RECIPE.batch_size, 0, 0, SCHEDULE.steps * 2, workers=0):
        training.backward(plain, images, labels, RECIPE, "float32")
        optimizer.step()
        optimizer.zero_grad()
    kept, graph = pruning.load(control[1] / "control-004.safetensors")
    assert graph.filters == 3944
    assert all(torch.equal(tensor, plain.state_dict()[name]) for name, tensor in kept.state_dict().items())


def test_both_arms_see_the_same_mini_batches(blobs, tmp_path, monkeypatch):
    seen = {"none": [], "random": []}
    for criterion, kept in seen.items():
        def recorded(pruned, images, labels, *arguments, kept=kept):
            kept.append((images.clone(), labels.clone()))
            return training.backward(pruned, images, labels, *arguments)

        monkeypatch.setattr(pruning, "backward", recorded)
        run(blobs, tmp_path / criterion, replace(SCHEDULE, criterion=criterion, last_share=0.1), unverified)
    assert len(seen["none"]) == len(seen["random"]) == 4
    assert all(torch.equal(a, c) and torch.equal(b, d) for (a, b), (c, d) in zip(seen["none"], seen["random"]))


def test_fine_tuned_control_keeps_its_criterion(control, blobs):
    learning, _ = split_subjects(blobs, 0.25)
    learning, validation = hold_out_images(learning, 0.1, 0)
    steps = []

    def evaluate(tuned, stage, step):
        steps.append(step)
        return unverified(tuned, stage, step)

    curve = pd.concat([pruning.fine_tune(control[1], share, learning, validation, replace(SCHEDULE, criterion="none"), RECIPE,
                                         evaluate, 0).curve for share in (0.1, 0.2)])
    assert steps == [2, 4] == list(curve["step"])
    assert set(curve["stage"]) == {"fine-tuned"} and set(curve["criterion"]) == {"none"}
    assert set(curve["filters"]) == {3944}


def test_folder_of_another_schedule_is_an_error(never_killed, blobs):
    with pytest.raises(ValueError, match="schedule.*every run has its folder"):
        run(blobs, never_killed[1], replace(SCHEDULE, criterion="none"))


@pytest.mark.parametrize("recipe, seed, named", [(replace(RECIPE, batch_size=RECIPE.batch_size + 1), 0, "recipe"), (RECIPE, 1, "seed 0, not 1")])
def test_folder_of_another_recipe_or_seed_is_an_error(never_killed, blobs, recipe, seed, named):
    with pytest.raises(ValueError, match=f"run with {named}.*every run has its folder"):
        prune(network(), split_subjects(blobs, 0.25)[0], SCHEDULE, recipe, unverified, seed, never_killed[1])


def test_folder_of_another_unpruned_network_is_an_error(never_killed, blobs):
    other = network()
    with torch.no_grad():
        other.classifier.bias[0] += 1
    with pytest.raises(ValueError, match="run with origin .*every run has its folder"):
        prune(other, split_subjects(blobs, 0.25)[0], SCHEDULE, RECIPE, unverified, 0, never_killed[1])


def test_networks_tuned_from_another_pruned_one_are_an_error(blobs, tmp_path):
    run(blobs, tmp_path, evaluate=unverified)
    learning, held_out = hold_out_images(split_subjects(blobs, 0.25)[0], 0.2, 0)
    again = functools.partial(pruning.fine_tune, tmp_path, 0.2, learning, held_out, SCHEDULE, RECIPE, unverified, 0)
    assert again().curve.equals(again().curve)
    path = tmp_path / "pruned-004.safetensors"
    tensors, about = load_checkpoint(path)
    tensors["network/classifier.bias"][0] += 1
    storage.save_checkpoint(path, tensors, about)
    with pytest.raises(ValueError, match="fine-tuned-004.safetensors is a run with origin"):
        again()


def test_pruned_network_is_rebuilt_in_a_fresh_process_bit_for_bit(never_killed, tmp_path):
    path = never_killed[1] / "pruned-004.safetensors"
    rebuilt, graph = pruning.load(path)
    images = torch.randn(2, 3, 33, 33, generator=torch.Generator().manual_seed(3))
    code = (f"import torch\nfrom facelib import pruning\nnetwork, _ = pruning.load({str(path)!r})\n"
            "images = torch.randn(2, 3, 33, 33, generator=torch.Generator().manual_seed(3))\n"
            f"network(images).detach().numpy().tofile({str(tmp_path / 'logits')!r})")
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())})
    assert graph.filters == 3155
    assert (tmp_path / "logits").read_bytes() == rebuilt(images).detach().numpy().tobytes()


def test_no_network_is_read_or_written_by_pickle():
    for path in Path(pruning.__file__).parent.rglob("*.py"):
        source = path.read_text()
        assert "torch.save(" not in source and not re.search(r"weights_only=False|import (cloudpickle|joblib|dill)", source), path
        assert source.count("torch.load(") == len(re.findall(r"torch\.load\([^()]*weights_only=True\)", source)), path
        assert "import pickle" not in source or path.name == "insightface.py", path  # reads strangers' lists, runs nothing


def lowest(scores, count, **options):
    graph = graph_of(network())
    groups = graph.groups.index.to_numpy()
    return graph, choose(graph, groups, scores(groups, graph), count, **options)


def test_ties_go_by_group_and_the_count_is_exact():
    graph, chosen = lowest(lambda groups, graph: groups * 0.0, 100)
    assert chosen == sorted(graph.groups.index)[:63] + sorted(graph.groups.index)[64:64 + 15] + chosen[78:]
    assert len(chosen) == 100  # conv1 keeps one of its 64 filters, fire2's squeeze layer one of its 16


def test_a_layer_with_only_low_scores_keeps_its_minimum():
    def low_in_one_layer(groups, graph):
        low = set(graph.filter_groups("features.fire5.squeeze.conv").tolist())
        return [0.0 if group in low else 1.0 for group in groups]

    graph, chosen = lowest(low_in_one_layer, 40, minimum=5)
    low = set(graph.filter_groups("features.fire5.squeeze.conv").tolist())
    assert len(chosen) == 40 and len(low & set(chosen)) == 32 - 5


def test_asking_for_more_than_can_go_is_an_error():
    with pytest.raises(ValueError, match="asked to remove 3944 filters, but only 3918"):  # 26 layers keep one each
        lowest(lambda groups, graph: groups * 1.0, 3944)


class Tiny(nn.Module):
    """A residual sum, a depthwise layer and a concatenation: groups of one, two and three filters."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1)
        self.bn = nn.BatchNorm2d(5)
        self.narrow = nn.Conv2d(5, 3, 1)
        self.depthwise = nn.Conv2d(5, 5, 3, padding=1, groups=5)
        self.last = nn.Conv2d(8, 4, 1)
        self.flatten, self.classifier = nn.Flatten(), nn.Linear(4, 6)

    def forward(self, images):
        found = self.conv1(images)
        found = found + self.bn(self.conv2(found))
        found = self.last(torch.cat([self.narrow(found), self.depthwise(found)], 1))
        return self.classifier(self.flatten(found.mean((2, 3), keepdim=True)))


@functools.cache
def traced():
    made = Tiny()
    return made, ChannelGraph(made, torch.zeros(1, 3, 7, 7))


def tiny():
    return copy.deepcopy(traced())


def removed_one_by_one(scores, count, minimum, unit):
    """What should leave, by removing groups one after another until enough is gone."""
    made, graph = tiny()
    total = pruning.size_columns(made, graph)[unit]
    gone = []
    for _, group in sorted(zip(scores, graph.groups.index)):
        if total - pruning.size_columns(made, graph)[unit] >= count:
            break
        layers = list(graph.groups.loc[group, "layers"])
        filters = pd.Series({layer: (graph.filter_groups(layer) == group).sum().item() for layer in layers})
        if (graph.layers.loc[layers, "out_channels"] - filters >= minimum).all():
            graph.remove([group])
            gone.append(group)
    return gone if total - pruning.size_columns(made, graph)[unit] >= count else None


TINY_GROUPS = 12  # five of conv1, conv2 and the depthwise layer together, three of narrow, four of last


@settings(deadline=None, max_examples=80)
@given(unit=st.sampled_from(pruning.UNITS), share=st.floats(0, 1), minimum=st.integers(1, 4),
       scores=st.lists(st.integers(0, 4), min_size=TINY_GROUPS, max_size=TINY_GROUPS))  # few values: many ties
def test_what_leaves_is_what_leaves_one_by_one(unit, share, minimum, scores):
    made, graph = tiny()
    total = pruning.size_columns(made, graph)[unit]
    count = round(share * total)
    expected = removed_one_by_one(scores, count, minimum, unit)
    arguments = graph, graph.groups.index, scores, count, minimum, unit, made
    if expected is None:
        with pytest.raises(ValueError, match=rf"asked to remove {count} {unit}, but only \d+ can go .* keeps {minimum}"):
            choose(*arguments)
        return
    state = {name: tensor.clone() for name, tensor in made.state_dict().items()}
    assert choose(*arguments) == expected
    assert all(torch.equal(state[name], tensor) for name, tensor in made.state_dict().items())  # only counted
    graph.remove(expected)
    assert total - pruning.size_columns(made, graph)[unit] >= count and (graph.layers["out_channels"] >= minimum).sum() >= 4


def test_tiny_network_by_hand():
    made, graph = tiny()
    assert sorted(graph.groups["filters"]) == [1] * 7 + [3] * 5
    # conv1 140, conv2 230, bn 10, narrow 18, depthwise 50, last 36
    assert pruning.size_columns(made, graph)["parameters"] == 484
    assert pruning.size_columns(made, graph)["macs"] == 49 * (135 + 225 + 15 + 45 + 32)
    first = int(graph.filter_groups("conv1")[0])  # 28 + 46 + 36 + 2 + 3 + 10 + 4 = 129 go with it
    assert choose(graph, graph.groups.index, graph.groups.index != first, 129, unit="parameters", network=made) == [first]
    assert len(choose(graph, graph.groups.index, graph.groups.index != first, 130, unit="parameters", network=made)) == 2


def test_a_schedule_that_would_remove_too_much_is_refused_at_once(blobs, tmp_path):
    with pytest.raises(ValueError, match="asked to remove .* but only .* can go while every layer keeps 50 filters"):
        run(blobs, tmp_path, replace(SCHEDULE, last_share=0.9, step_share=0.1, minimum=50), lambda *_: pytest.fail("verified"))


@pytest.mark.parametrize("unit", ["parameters", "macs"])
def test_every_step_removes_the_share_of_parameters_or_macs(blobs, tmp_path, unit, monkeypatch):
    asked, chosen = [], []

    def recorded(graph, groups, scores, count, minimum, unit, made):
        chosen.append(choose(graph, groups, scores, count, minimum, unit, made))
        smaller, trial = copy.deepcopy((made, graph))
        trial.remove(chosen[-1][:-1])  # one group less is not enough
        before = pruning.size_columns(made, graph)[unit]
        assert before - pruning.size_columns(smaller, trial)[unit] < count
        asked.append((before, count))
        return chosen[-1]

    monkeypatch.setattr(pruning, "choose", recorded)
    schedule = replace(SCHEDULE, unit=unit, evaluate_every=1, minimum=2, learning_rate=0.0)
    curve, layers = tables(run(blobs, tmp_path, schedule, unverified))
    sizes = curve.groupby("step")[unit].first()
    total = sizes[0]
    assert asked[0] == (total, round(schedule.last_share * total)), "whether it can be done is asked first"
    for step in range(1, 5):
        assert asked[step] == (sizes[step - 1], round(step * 0.05 * total) - (total - sizes[step - 1]))
        assert total - sizes[step] >= round(step * 0.05 * total)
    assert (layers["out_channels"] >= 2).all()


def test_separate_scoring_trains_then_scores_the_next_mini_batches(blobs, tmp_path, monkeypatch):
    seen, weights, collected = [], [], []

    def recorded(pruned, images, *arguments):
        assert pruned.training
        seen.append(images.clone())
        weights.append(pruned.classifier.weight.detach().clone())
        return training.backward(pruned, images, *arguments)

    def collect(self, plain=pruning.Importance.collect):
        collected.append(len(seen))
        plain(self)

    monkeypatch.setattr(pruning, "backward", recorded)
    monkeypatch.setattr(pruning.Importance, "collect", collect)
    run(blobs, tmp_path, replace(SCHEDULE, scoring="separate", last_share=0.1), unverified)
    learning, _ = split_subjects(blobs, 0.25)
    expected = [images for images, _ in training_batches(learning, 33, RECIPE.batch_size, 0, 0, 8, workers=0)]
    assert len(seen) == 8 and all(map(torch.equal, seen, expected))  # twice two mini-batches in each of two steps
    assert collected == [3, 4, 7, 8]
    same = [a.shape == b.shape and torch.equal(a, b) for a, b in zip(weights, weights[1:])]
    assert same == [False, False, True, False, False, False, True]  # at the 5th the classifier has lost columns


def test_separate_control_trains_on_the_same_mini_batches(blobs, tmp_path, monkeypatch):
    seen = []

    def recorded(pruned, images, *arguments):
        seen.append(images.clone())
        return training.backward(pruned, images, *arguments)

    monkeypatch.setattr(pruning, "backward", recorded)
    for criterion in ("magnitude", "none"):
        run(blobs, tmp_path / criterion, replace(SCHEDULE, criterion=criterion, scoring="separate", last_share=0.05), unverified)
    assert len(seen) == 8 and all(map(torch.equal, seen[:4], seen[4:]))


def test_reestimated_statistics_are_means_over_mini_batches(monkeypatch):
    monkeypatch.setattr(pruning, "normalise", lambda images, where: images.to(torch.float32))
    layer = nn.BatchNorm2d(2, momentum=0.1)
    layer.running_mean += 100  # what it remembers
    network = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), layer).eval()
    network[0].weight.data[:] = torch.tensor([1.0, -2.0]).view(2, 1, 1, 1)
    batches = [(torch.tensor([0.0, 4.0]).view(2, 1, 1, 1), None), (torch.tensor([2.0, 4.0]).view(2, 1, 1, 1), None)]
    pruning.reestimate(network, batches)
    assert layer.running_mean.tolist() == [2.5, -5.0]  # of means 2 and 3
    assert layer.running_var.tolist() == [5.0, 20.0]  # of variances 8 and 2
    assert layer.momentum == 0.1 and not network.training


def test_reestimation_changes_the_kept_statistics_alone_and_resumes(never_killed, blobs, tmp_path, monkeypatch):
    schedule = replace(SCHEDULE, reestimate_batches=3)
    whole = run(blobs, tmp_path / "whole", schedule)
    plain, again = (pruning.load(folder / "pruned-004.safetensors")[0] for folder in (never_killed[1], tmp_path / "whole"))
    for name, tensor in plain.named_parameters():
        assert torch.equal(again.get_parameter(name), tensor)
    learning, _ = split_subjects(blobs, 0.25)
    pruning.reestimate(plain, training_batches(learning, 33, RECIPE.batch_size, 0, 0, 3, workers=0))
    assert all(torch.equal(again.get_buffer(name), tensor) for name, tensor in plain.named_buffers())

    calls = []

    def dying(pruned, batches, reestimate=pruning.reestimate):
        reestimate(pruned, batches)
        calls.append(1)
        if len(calls) == 2:  # in step 2
            raise KeyboardInterrupt

    monkeypatch.setattr(pruning, "reestimate", dying)
    with pytest.raises(KeyboardInterrupt):
        run(blobs, tmp_path / "killed", schedule)
    monkeypatch.undo()
    assert run(blobs, tmp_path / "killed", schedule) == whole


def test_kept_descriptor_loses_nothing():
    graph = graph_of(network(), keep_descriptor=True)
    assert len(graph.groups) == 2944
    graph.remove(choose(graph, graph.groups.index, range(2944), 500))
    assert graph.layers.loc["features.conv10.conv", "out_channels"] == 1000


def test_fine_tuning_starts_from_the_pruned_network_and_adds_its_stage(never_killed, blobs, monkeypatch):
    folder = never_killed[1]
    learning, test = split_subjects(blobs, 0.25)
    learning, validation = hold_out_images(learning, 0.1, 0)
    protocols = verification.pose_pairs(test.subjects, test.poses, 2)
    started = []

    def recorded(tuned, *arguments):
        started.append({name: tensor.clone() for name, tensor in tuned.state_dict().items()})
        return training.train(tuned, *arguments)

    monkeypatch.setattr(pruning, "train", recorded)
    found = pruning.fine_tune(folder, 0.2, learning, validation, SCHEDULE, RECIPE,
                              lambda tuned, stage, step: verification.evaluate(protocols[0], descriptors(tuned, test), resamples=20), 0)
    expected = pruning.load(folder / "pruned-004.safetensors")[0].state_dict()
    assert len(started) == 1 and all(torch.equal(started[0][name], tensor) for name, tensor in expected.items())
    assert set(found.curve["stage"]) == {"fine-tuned"} and set(found.curve["filters"]) == {3155}
    assert found.layers["out_channels"].sum() == 3155
    with pytest.raises(ValueError, match="15%.*every 10%"):
        pruning.fine_tune(folder, 0.15, learning, validation, SCHEDULE, RECIPE, None, 0)


def test_from_scratch_takes_the_shape_alone_and_a_draw_of_its_own(never_killed, blobs, monkeypatch):
    folder = never_killed[1]
    learning, validation = hold_out_images(split_subjects(blobs, 0.25)[0], 0.1, 0)
    started = []

    def recorded(made, *arguments):
        started.append({name: tensor.clone() for name, tensor in made.state_dict().items()})
        return training.train(made, *arguments)

    monkeypatch.setattr(pruning, "train", recorded)
    steps = []

    def evaluate(made, stage, step):
        steps.append(step)
        return unverified(made, stage, step)

    curve = pd.concat([pruning.from_scratch(folder, share, learning, validation, SCHEDULE, RECIPE, evaluate, 0).curve
                       for share in (0.1, 0.2)])
    assert steps == [2, 4] and set(curve["stage"]) == {"from-scratch"} and list(curve["filters"]) == [3550, 3155]
    pruned = pruning.load(folder / "pruned-004.safetensors")[0].state_dict()
    assert {name: t.shape for name, t in started[1].items()} == {name: t.shape for name, t in pruned.items()}
    weight = "features.fire4.expand3x3.conv.weight"
    assert not torch.equal(started[1][weight], pruned[weight])
    for seed in (0, 1, 2):  # nor the weights which a baseline of this seed, or of the one beside, started from
        torch.manual_seed(seed)
        whole = networks.build("squeezenet", 6, 33, 2).state_dict()[weight]
        assert torch.isin(started[1][weight], whole).float().mean() < 0.01
    assert all(torch.equal(started[1][name], t) for name, t in
               pruning.fresh(folder / "pruned-004.safetensors", 0)[0].state_dict().items())
    assert started[1]["features.fire4.expand3x3.bn.running_mean"].eq(0).all()


@pytest.mark.parametrize("wrong", [{"criterion": "tailor"}, {"step_share": 0.0}, {"last_share": 1.0}, {"step_share": 0.7},
                                   {"evaluate_every": 0}, {"batches_per_step": -1}, {"unit": "flops"}, {"minimum": 0},
                                   {"scoring": "twice"}, {"reestimate_batches": -1}, {"learning_rate": 0.0, "scoring": "separate"}])
def test_schedule_refuses_what_makes_no_sense(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Schedule(**wrong)


def test_layers_that_lose_filters_together_have_the_same_coupling():
    def numbers(name):
        return pruning.couplings(graph_of(networks.build(name, 3, 33)))

    squeezenet, mobilenet, resnet = (numbers(name) for name in ("squeezenet", "mobilenetv2", "resnet50"))
    assert list(squeezenet.values()) == list(range(26))
    assert mobilenet["features.2.conv.1.0"] == mobilenet["features.2.conv.0.0"]  # depthwise and what feeds it
    assert mobilenet["features.2.conv.2"] == mobilenet["features.3.conv.2"] != mobilenet["features.4.conv.2"]
    stream = [resnet[f"features.layer1.{layer}"] for layer in ("0.downsample.0", "0.conv3", "1.conv3", "2.conv3")]
    assert len(set(stream)) == 1 and resnet["features.layer1.1.conv2"] not in stream


def test_storage_that_measures_faster_is_taken_and_kept_when_resumed(blobs, tmp_path, monkeypatch):
    def always_aligned(network, graph, recipe, precision, optimizer):
        graph.align(8, optimizer)

    monkeypatch.setattr(pruning, "choose_multiple", always_aligned)
    schedule = replace(SCHEDULE, multiple=0)
    whole = run(blobs, tmp_path / "whole", schedule)
    assert load_checkpoint(tmp_path / "whole" / "pruning.safetensors")[1]["multiple"] == 8
    network, graph = pruning.load(tmp_path / "whole" / "pruned-004.safetensors", 0)
    assert all(network.get_submodule(layer).out_channels % 8 == 0 for layer in graph.layers.index)
    save, saved = pruning.save_checkpoint, []

    def stopping(path, *arguments):
        save(path, *arguments)
        saved.append(path.name)
        if saved.count("pruning.safetensors") == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(pruning, "save_checkpoint", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(blobs, tmp_path / "stopped", schedule)
    monkeypatch.setattr(pruning, "save_checkpoint", save)
    assert run(blobs, tmp_path / "stopped", schedule) == whole

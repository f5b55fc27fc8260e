"""The parts of a study: what they compute, and what is refused before anything is."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image

from facelib import batch, networks, pruning, results, training, verification
from facelib.study import Study, main

ROOT = Path(__file__).parents[1]
NOTEBOOK = ROOT / "notebooks" / "2_squeezenet.ipynb"
SMOKE = ROOT / "notebooks" / "presets" / "smoke.yaml"


def people(folder: Path, subjects: int, images: int, poses=("frontal", "profile")) -> Path:
    """Images of noise around a grey of their own for each subject, 60 pixels wide."""
    random = np.random.default_rng(0)
    for subject in range(subjects):
        for pose in poses:
            (folder / f"s{subject:02d}" / pose).mkdir(parents=True)
            for number in range(images):
                pixels = random.normal(60 + 12 * subject, 30, (60, 60, 3)).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"s{subject:02d}" / pose / f"{number}.png")
    return folder


def parameters(tmp_path: Path, **changed) -> dict:
    given = batch.declared(NOTEBOOK) | batch.given(NOTEBOOK, [SMOKE], [])
    small = {"source": "folder", "root": str(tmp_path / "faces"), "source_options": {}, "test_share": 0.4, "image_size": 33,
             "batch_size": 8, "epochs": 1, "step_share": 0.1, "last_share": 0.3, "evaluate_every": 1, "batches_per_step": 1,
             "finetune_shares": [0.0, 0.2], "scratch_shares": [0.2], "arms": {"taylor_weight": 2, "random": 1, "control": 1}, "arm_step_share": 0.3, "template_sizes": [1],
             "more_template_sizes": [2], "resamples": 20, "runs": str(tmp_path / "runs"), "results": str(tmp_path / "results")}
    return given | small | changed


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """A tiny study with a second test set that lists pairs, computed: the study and its unpruned network."""
    tmp_path = tmp_path_factory.mktemp("study")
    people(tmp_path / "faces", 8, 3)
    people(tmp_path / "others", 4, 2, poses=("any",))
    pairs = [(f"s{a:02d}/any/0.png", f"s{b:02d}/any/1.png", int(a == b), f"s{a:02d}", f"s{b:02d}", 1 + a % 2)
             for a in range(4) for b in range(4)]
    table = pd.DataFrame(pairs, columns=["image_a", "image_b", "same", "subject_a", "subject_b", "fold"])
    table.to_csv(tmp_path / "others" / "pairs.csv", index=False)
    more_tests = [{"source": "pairs", "root": str(tmp_path / "others" / "pairs.csv"), "name": "listed"}]
    study = Study.from_parameters(parameters(tmp_path, more_tests=more_tests))
    network, _ = study.trained()
    study.scores(network)
    study.computed(network)
    return study, network


def test_a_chosen_step_is_verified_more_closely(computed):
    study, _ = computed
    curve = results.read_table(study.folder / "curve.csv")
    sizes = curve[curve["protocol"] == "pose_pairs"].groupby(["stage", "step"])["template_size"].agg(lambda s: sorted(set(s)))
    assert sizes.to_dict() == {("fine-tuned", 0): [1, 2], ("fine-tuned", 2): [1, 2], ("pruned", 0): [1, 2], ("pruned", 1): [1], ("pruned", 2): [1, 2],
                               ("from-scratch", 2): [1, 2], ("pruned", 3): [1]}
    listed = curve[curve["protocol"] == "pairs"]
    assert set(zip(listed["stage"], listed["step"])) == {("pruned", 0), ("pruned", 2), ("fine-tuned", 0), ("fine-tuned", 2), ("from-scratch", 2)}
    assert set(listed["metric"]) == {"accuracy", "eer", "eer_change"}
    assert set(listed["genuine"]) == {4} and set(listed["impostor"]) == {12}


def test_changes_are_those_from_the_unpruned_network_on_the_same_comparisons(computed):
    study, _ = computed
    curve = results.read_table(study.folder / "curve.csv")
    rows = curve[curve["protocol"] == "pose_pairs"].set_index(["stage", "step", "pair", "template_size", "metric"])["value"].unstack()
    unpruned = rows.loc[("pruned", 0), "eer"]
    for key in set(rows.index.droplevel([2, 3])):
        found = rows.loc[key]
        assert np.allclose(found["eer_change"], found["eer"] - unpruned.loc[found.index], atol=1e-12)
    same = curve[(curve["stage"] == "pruned") & (curve["step"] == 0) & (curve["metric"] == "eer_change")]
    assert (same[["value", "ci_low", "ci_high"]] == 0).all(axis=None)


def test_controls_share_steps_and_training(computed):
    study, _ = computed
    arms = results.read_table(study.folder / "arms" / "curve.csv")
    keys = arms.groupby(["criterion", "seed", "stage"])["step"].agg(lambda steps: sorted(set(steps))).to_dict()
    assert keys == {("taylor_weight", 0, "pruned"): [0, 1], ("taylor_weight", 1, "pruned"): [0, 1], ("random", 0, "pruned"): [0, 1],
                    ("none", 0, "control"): [0, 1]}
    assert (arms[arms["stage"] == "control"]["filters"] == 3944).all()
    assert arms[(arms["stage"] == "pruned") & (arms["step"] == 1)]["filters"].unique().tolist() == [3944 - 1183]
    unpruned = arms[arms["step"] == 0].groupby(["pair", "template_size", "metric"])["value"].nunique()
    assert (unpruned == 1).all()


def test_curves_and_scores_agree_with_the_rates(computed):
    study, network = computed
    curve = results.read_table(study.folder / "curve.csv")
    det = results.read_table(study.folder / "det.csv")
    assert set(zip(det["stage"], det["step"])) == {("pruned", 0), ("pruned", 2), ("fine-tuned", 0), ("fine-tuned", 2), ("from-scratch", 2)}
    protocol = verification.pose_pairs(study.test.subjects, study.test.poses, 1)[0]
    found = verification.protocol_scores(protocol, networks.descriptors(network, study.test))
    far, frr, _ = verification.det_curve(*found)
    points = det[(det["stage"] == "pruned") & (det["step"] == 0) & (det["pair"] == "frontal-frontal") & (det["template_size"] == 1)]
    assert list(zip(points["far"], points["frr"])) == list(zip(*verification.thinned(far, frr)))
    for (stage, step), rows in det[(det["pair"] == "frontal-profile") & (det["template_size"] == 1)].groupby(["stage", "step"]):
        kept, _ = pruning.load(study.run.folder / f"{stage}-{step:03d}.safetensors", study.multiple)
        scores = verification.protocol_scores(verification.pose_pairs(study.test.subjects, study.test.poses, 1)[1],
                                              networks.descriptors(kept, study.test))
        assert list(zip(rows["far"], rows["frr"])) == list(zip(*verification.thinned(*verification.det_curve(*scores)[:2]))), (stage, step)
    assert (points["genuine"] == found[0].size).all() and (points["impostor"] == found[1].size).all()
    scores = results.read_table(study.folder / "scores.csv")
    sums = scores.groupby(["pair", "template_size"])[["genuine", "impostor"]].sum()
    assert np.allclose(sums, 1) and set(scores["template_size"]) == {1}
    rates = curve[(curve["stage"] == "pruned") & (curve["step"] == 0) & (curve["metric"] == "eer") & (curve["pair"] == "frontal-frontal")].set_index("template_size")
    assert rates.loc[1, "value"] == verification.equal_error_rate(*found)


def test_differences_are_paired_and_of_the_mean_over_pose_pairs(computed):
    study, _ = computed
    table = results.read_table(study.folder / "differences.csv")
    assert list(table) == results.DIFFERENCES
    means = table[table["pair"] == results.EVERY_PAIR]
    keys = means[["criterion", "seed", "stage", "step", "other_criterion", "other_stage", "other_step", "template_size"]].apply(tuple, axis=1)
    assert sorted(keys) == sorted(
        [("taylor_weight", seed, "pruned", 1, *other, 1, 1) for seed in (0, 1) for other in (("random", "pruned"), ("none", "control"))]
        + [("taylor_weight", 0, "fine-tuned", 2, "taylor_weight", *other, size) for size in (1, 2)
           for other in (("fine-tuned", 0), ("from-scratch", 2))])
    pairs = table[(table["pair"] != results.EVERY_PAIR) & (table["protocol"] == "pose_pairs")]
    assert set(pairs["pair"]) == {"frontal-frontal", "frontal-profile", "profile-profile"} and len(pairs) == 3 * len(means)

    row = means[(means["seed"] == 1) & (means["other_criterion"] == "random")].iloc[0]
    measured = []
    for arm in (("taylor_weight", 1), ("random", 0)):
        network, _ = pruning.load(study.arm_run(*arm).folder / "pruned-001.safetensors", study.multiple)
        found = networks.descriptors(network, study.test)
        measured.append([verification.measure(protocol, found, ("eer", "frr_at_far_0.001"), study.resamples)
                         for protocol in verification.pose_pairs(study.test.subjects, study.test.poses, 1)])
    rates = [np.mean([one.values["eer"] for one in side]) for side in measured]
    draws = [np.mean([one.draws("eer") for one in side], axis=0) for side in measured]
    assert row["value"] == pytest.approx(rates[0] - rates[1])
    people = len(study.test.subject_names)
    assert (row["ci_low"], row["ci_high"]) == pytest.approx(verification.interval_of_difference(*rates, *draws, people,
                                                                                                   sum(one.genuine for one in measured[0])))


def test_controls_of_another_execution_do_not_stay(tmp_path):
    """Tables of arms that were not run would be taken for this study's."""
    people(tmp_path / "faces", 8, 3)
    study = Study.from_parameters(parameters(tmp_path, more_tests=[], finetune_shares=[], scratch_shares=[], arms={"random": 1}))
    network, _ = study.trained()
    study.computed(network)
    assert (study.folder / "arms" / "curve.csv").exists()
    dataclasses.replace(study, arms={}).computed(network)
    assert not (study.folder / "arms").exists()


def test_two_sets_whose_pairs_have_one_name_are_refused_before_training(tmp_path):
    people(tmp_path / "faces", 8, 3)
    for name in ("one", "two"):
        people(tmp_path / name, 3, 2, poses=("any",))
        (tmp_path / name / "pairs.csv").write_text(
            "image_a,image_b,same,subject_a,subject_b,fold\n" + "".join(
                f"s{a:02d}/any/0.png,s{b:02d}/any/1.png,{int(a == b)},s{a:02d},s{b:02d},{1 + a % 2}\n" for a in range(3) for b in range(3)))
    more_tests = [{"source": "pairs", "root": str(tmp_path / name / "pairs.csv"), "name": name} for name in ("one", "two")]
    study = Study.from_parameters(parameters(tmp_path, more_tests=more_tests))
    with pytest.raises(ValueError, match="two sets list pairs under the name pairs"):
        study.sizes()


def test_faces_too_few_to_compare_are_refused_before_training(tmp_path):
    folder = people(tmp_path / "faces", 8, 3)
    for image in folder.glob("s0[567]/profile/*.png"):
        if image != folder / "s07" / "profile" / "0.png":
            image.unlink()
    study = Study.from_parameters(parameters(tmp_path, more_tests=[]))
    for early in (study.sizes, lambda: study.compute("baseline")):
        with pytest.raises(ValueError, match="two templates|profile"):
            early()
    assert not list((tmp_path / "runs").glob("*/training.safetensors"))


def test_a_second_execution_repeats_nothing(computed, monkeypatch):
    study, _ = computed
    before = (study.folder / "curve.csv").read_bytes(), study.run.parts()
    again = Study(**dataclasses.asdict(study))
    monkeypatch.setattr(verification, "measure", lambda *_, **__: pytest.fail("verified again"))
    for module in (training, pruning):
        monkeypatch.setattr(module, "backward", lambda *_, **__: pytest.fail("trained again"))
    network, _ = again.trained()
    again.computed(network)
    assert ((again.folder / "curve.csv").read_bytes(), again.run.parts()) == before


def test_a_run_kept_beside_the_tables_is_taken_from_there_and_one_of_another_configuration_is_not(computed, tmp_path, monkeypatch):
    study, network = computed
    elsewhere = dataclasses.replace(study, runs=str(tmp_path / "runs"), results=str(tmp_path / "results"))
    kept = elsewhere.folder / "kept" / study.baseline_run.folder.name
    shutil.copytree(study.baseline_run.folder, kept, ignore=shutil.ignore_patterns("*.json"))
    monkeypatch.setattr(training, "backward", lambda *_, **__: pytest.fail("trained again"))
    taken, history = elsewhere.trained()
    assert all(torch.equal(a, b) for a, b in zip(taken.state_dict().values(), network.state_dict().values(), strict=True))
    assert history.equals(results.read_table(study.folder / "training.csv"))
    assert elsewhere.baseline_run.config == study.baseline_run.config
    with pytest.raises(pytest.fail.Exception, match="trained again"):
        dataclasses.replace(elsewhere, seed=1).trained()


def test_a_kept_file_is_copied_where_the_run_lacks_it_and_replaces_nothing(tmp_path):
    config = {"seed": 0}
    run = results.Run.open(tmp_path / "runs", "run", config)
    kept = tmp_path / "kept" / run.folder.name
    kept.mkdir(parents=True)
    (kept / "training.safetensors").write_text("kept")
    (kept / "config.json").write_text("{}")
    for own in ("kept", "its own"):
        again = results.Run.open(tmp_path / "runs", "run", config, tmp_path / "kept")
        assert {path.name for path in again.folder.iterdir()} == {"config.json", "training.safetensors"}
        assert again.parts() == {} and (again.folder / "config.json").read_text() != "{}"
        assert (again.folder / "training.safetensors").read_text() == own
        (again.folder / "training.safetensors").write_text("its own")


def test_parts_side_by_side_keep_the_time_of_each(tmp_path):
    run = results.Run.open(tmp_path, "run", {})
    for number, part in enumerate(("fine-tuned 0.2", "fine-tuned 0.4", "fine-tuned 0.2")):
        with run.timed(part):
            (run.folder / f"{number}.safetensors").touch()
    with run.timed("pruning"):
        pass
    assert run.parts().keys() == {"fine-tuned 0.2", "fine-tuned 0.4"}, "what saved no checkpoint found all done"
    with run.timed("fine-tuned 0.2", "fine-tuned-020"), run.timed("fine-tuned 0.4", "fine-tuned-040"):
        (run.folder / "fine-tuned-020").mkdir()
        (run.folder / "fine-tuned-020" / "training.safetensors").touch()
        time.sleep(0.2)
    parts = run.parts()
    assert parts["fine-tuned 0.2"]["seconds"] >= 0.2 > parts["fine-tuned 0.4"]["seconds"], "each counts when its own were saved"
    assert all(part["commits"] for part in parts.values())


def test_a_part_that_is_told_to_end_counts_its_time(tmp_path):
    people(tmp_path / "faces", 8, 3)
    (tmp_path / "given.yaml").write_text(yaml.safe_dump({"all": parameters(tmp_path, epochs=100_000, more_tests=[])}))
    process = subprocess.Popen([sys.executable, "-m", "facelib.study", str(NOTEBOOK), "baseline", "-f", str(tmp_path / "given.yaml")],
                               cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and not list((tmp_path / "runs").glob("*/training.safetensors")):
            time.sleep(0.1)
        process.terminate()
        assert process.wait(timeout=120) == 128 + signal.SIGTERM
    finally:
        process.kill()
    [seconds] = (tmp_path / "runs").glob("*/seconds-training.json")
    assert json.loads(seconds.read_text())["seconds"] > 0


def test_a_retraining_part_computes_its_network_alone(computed, tmp_path):
    study, network = computed
    other = dataclasses.replace(study, runs=str(tmp_path / "runs"), results=str(tmp_path / "results"))
    shutil.copytree(study.runs, other.runs, ignore=shutil.ignore_patterns("fine-tuned*", "from-scratch*", "seconds-*"))
    assert other.parts == ["baseline", "pruning", "fine-tuned:0.0", "fine-tuned:0.2", "from-scratch:0.2", "arm:taylor_weight:0",
                           "arm:taylor_weight:1", "arm:random:0", "arm:control:0"]
    for part in ("fine-tuned:0.2", "from-scratch:0.2"):
        other.compute(part)
    assert other.run.parts().keys() == {"fine-tuned 0.2", "from-scratch 0.2"}, "pruning was found done"
    for stage in ("fine-tuned", "from-scratch"):
        [made] = other.run.folder.glob(f"{stage}-*.safetensors")
        assert made.read_bytes() == (study.run.folder / made.name).read_bytes()


def test_a_training_that_began_needs_its_first_weights_no_more(tmp_path, monkeypatch):
    people(tmp_path / "faces", 8, 3)
    study = Study.from_parameters(parameters(tmp_path, imagenet="torchvision", more_tests=[], finetune_shares=[], scratch_shares=[], arms={}))
    monkeypatch.setattr(networks, "load_imagenet", lambda *_: None)
    first, _ = study.trained()
    monkeypatch.setattr(networks, "load_imagenet", lambda *_: pytest.fail("loaded again"))
    again, _ = study.trained()
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))


ALL, PRUNED = {"baseline", "pruning", "arm"}, {"pruning", "arm"}
MOVED = [  # a change, and whose folders are others for it
    *[({name: value}, ALL) for name, value in {
        "network": "mobilenetv2", "seed": 1, "root": "others", "source_options": {"minimum_images": 6}, "test_share": 0.2, "validation_share": 0.5,
        "image_size": 41, "stem_stride": 1, "imagenet": "torchvision", "batch_size": 4, "epochs": 2, "schedule": "plateau",
        "learning_rates": [0.5], "patience": 5, "label_smoothing": 0.3, "precision": "bfloat16", "pretraining": "others",
        "more_training": "others", "more_tests": "others"}.items()],
    *[({name: value}, PRUNED) for name, value in {
        "last_share": 0.6, "batches_per_step": 3, "pruning_learning_rate": 0.5, "keep_descriptor": True, "unit": "macs", "minimum_filters": 2,
        "scoring": "separate", "reestimate_batches": 1, "multiple": 8, "template_sizes": [2], "resamples": 7}.items()],
    *[({name: value}, {"pruning"}) for name, value in {
        "criterion": "magnitude", "step_share": 0.05, "evaluate_every": 2, "finetune_shares": [0.0], "finetune_epochs": 3,
        "finetune_learning_rate": 0.5, "scratch_shares": [], "more_template_sizes": [3]}.items()],
    ({"arm_step_share": 0.1}, {"arm"}), ({"arms": {"random": 2}}, set()), ({"preset": "other"}, set()), ({"results": "other"}, set()),
]


@pytest.mark.parametrize("changed, moved", MOVED, ids=[next(iter(changed)) for changed, _ in MOVED])
def test_a_changed_parameter_is_another_run(tmp_path, changed, moved):
    people(tmp_path / "faces", 8, 3)
    (tmp_path / "faces" / "s00" / "frontal" / "0.png").unlink()
    people(tmp_path / "others", 9, 2)
    [(name, value)] = changed.items()
    if value == "others":
        root, pairs = str(tmp_path / "others"), str(tmp_path / "others" / "pairs.csv")
        listed = [(f"s0{a}/frontal/0.png", f"s0{b}/frontal/1.png", int(a == b), f"t{a}", f"t{b}", 1) for a in (0, 1) for b in (0, 1)]
        pd.DataFrame(listed, columns=["image_a", "image_b", "same", "subject_a", "subject_b", "fold"]).to_csv(pairs, index=False)
        value = {"root": root, "more_tests": [{"source": "pairs", "root": pairs, "name": "others"}]}.get(
            name, [{"source": "folder", "root": root, "name": "others"}])
    given = parameters(tmp_path, more_tests=[], arms={"random": 1}, finetune_shares=[0.0, 0.2], scratch_shares=[0.2])
    before, after = (folders(Study.from_parameters(given | more)) for more in ({}, {name: value}))
    assert {part for part in before if before[part] != after[part]} == moved


def folders(study: Study) -> dict[str, str]:
    return {"baseline": study.baseline_run.folder.name, "pruning": study.run.folder.name, "arm": study.arm_run("random", 0).folder.name}


def test_every_parameter_is_tried_and_the_snakefile_knows_those_that_leave_the_baseline():
    tried = {next(iter(changed)): moved for changed, moved in MOVED}
    assert {field.name for field in dataclasses.fields(Study)} - tried.keys() == {"source", "overlaps", "runs"}
    listed = set(re.findall(r'"(\w+)"', re.search(r"AFTER_TRAINING = {(.*?)}", (ROOT / "Snakefile").read_text(), re.DOTALL)[1]))
    assert listed == {name for name, moved in tried.items() if "baseline" not in moved} - {"preset", "results"}


def test_the_trunk_can_learn_other_faces_first(tmp_path):
    people(tmp_path / "faces", 5, 2)
    people(tmp_path / "first", 6, 2)
    first = [{"source": "folder", "root": str(tmp_path / "first"), "name": "first"}]
    study = Study.from_parameters(parameters(tmp_path, pretraining=first, more_tests=[], finetune_shares=[],
                                             scratch_shares=[], arms={}))
    plain = dataclasses.replace(study, pretraining=[])
    assert study.baseline_run.folder != plain.baseline_run.folder
    assert study.sizes().loc["pretraining", "subjects"] == 6
    network, _ = study.trained()
    assert network.classifier.out_features == 3
    learnt = training.load_checkpoint(study.baseline_run.folder / "pretraining" / "training.safetensors")[1]["network"]
    assert learnt["subjects"] == 6
    assert set(study.baseline_run.parts()) == {"pretraining", "training"}


@pytest.mark.parametrize("unit, whole", [("filters", 3944), ("parameters", 1_239_440)])
def test_a_step_can_be_a_number(tmp_path, unit, whole):
    """The sizes are the papers' SqueezeNet."""
    study = Study.from_parameters(parameters(tmp_path, unit=unit, step_share=17, last_share=170, finetune_shares=[0, 51],
                                             scratch_shares=[], arm_step_share=85))
    schedule = study.pruning_schedule
    assert [round(step * schedule.step_share * whole, 6) for step in range(schedule.steps + 1)] == list(range(0, 171, 17))
    assert study.chosen_steps == {0, 3}
    assert {arm.steps for arm in study.arm_schedules.values()} == {2}


def test_parts_are_listed_and_unknown_ones_refused(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    where = ["-f", str(SMOKE), "-p", "arms", "{random: 1, taylor_weight: 2}"]
    main([str(NOTEBOOK), "parts", *where])
    assert capsys.readouterr().out.split() == ["baseline", "pruning", "fine-tuned:0.2", "arm:random:0", "arm:taylor_weight:0", "arm:taylor_weight:1"]
    with pytest.raises(SystemExit) as stopped:
        main([str(NOTEBOOK), "arm:random:1", *where])
    assert stopped.value.code == 2 and "expected one of baseline, pruning, fine-tuned:0.2, arm:random:0" in capsys.readouterr().err


@pytest.mark.parametrize("changed, message", [
    ({"arms": {"tailor_weight": 1}}, "tailor_weight"),
    ({"arms": {"random": 0}}, "number of seeds.*'random': 0|random.*0"),
    ({"finetune_shares": [0.15]}, "0.15, where pruning does not evaluate"),
    ({"step_share": 100, "last_share": 300, "arm_step_share": 100, "finetune_shares": [150]}, "150, where pruning does not evaluate: it does every 100 up to 300"),
    ({"step_share": 3945, "last_share": 3945}, "0 < step_share <= last_share < 1"),
    ({"network": "squeezenot"}, "one of squeezenet, mobilenetv2, resnet50, found 'squeezenot'"),
    ({"validation_share": 1.5}, "between 0 and 1, found 1.5"),
    ({"resamples": -3}, "at least 0, found -3"),
    ({"template_sizes": []}, "at least 1, found"),
    ({"template_sizes": [1, 1]}, r"template_sizes names a size twice: \[1, 1\]"),
    ({"finetune_shares": [0.1, 0.1]}, r"finetune_shares names a share twice: \[0.1, 0.1\]"),
    ({"more_template_sizes": [0]}, "at least 1, found"),
    ({"finetune_shares": ["40%"]}, "is a share .*0.4 is 40 %.*found '40%'"),
    ({"finetune_epochs": 0}, "finetune_epochs 0.*at least 1"),
    ({"label_smoothing": 1.5}, "label_smoothing is a share.*1.5"),
])
def test_parameters_that_do_not_fit_are_refused_at_once(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        Study.from_parameters(parameters(tmp_path, **changed))

"""The project's own promises: one environment in three files, names that others rely on, the commands of the README."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import yaml

import facelib
from facelib import batch, comparison, hypotheses, networks, pruning, results, storage
from facelib.figures.style import NETWORK_NAMES

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {"torch": "pytorch"}  # where conda's name differs


def pyproject():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_conda_environment_has_the_ranges_of_pyproject():
    project = pyproject()
    wanted = set(project["dependencies"]) | set(project["optional-dependencies"]["test"]) | {f"python{project['requires-python']}"}
    listed = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    pip = next(entry["pip"] for entry in listed if isinstance(entry, dict))
    conda = [entry for entry in listed if isinstance(entry, str) and entry != "pip"]
    back = {conda_name: name for name, conda_name in CONDA_NAMES.items()}
    found = {re.sub(r"^[a-z-]+", lambda m: back.get(m[0], m[0]), entry) for entry in conda} | set(pip)
    assert found == wanted


def test_lock_pins_every_dependency_within_its_range():
    from packaging.requirements import Requirement

    pins = {}
    for line in (ROOT / "requirements.lock").read_text().splitlines():
        name, version = line.split(";")[0].strip().split("==")
        pins.setdefault(name.lower(), []).append(version)
    project = pyproject()
    for text in project["dependencies"] + project["optional-dependencies"]["test"]:
        requirement = Requirement(text)
        assert all(requirement.specifier.contains(version) for version in pins[requirement.name]), text


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """`make study PRESET=smoke`, in this environment, into a folder of its own: the folder of its results."""
    folder = tmp_path_factory.mktemp("smoke")
    environment = os.environ | {"FACELIB_CACHE": str(folder / "cache")}
    where = ["-p", "results", str(folder / "results")]
    for notebook, more in [("1_faces", []), ("2_squeezenet", ["-p", "runs", str(folder / "runs"), "-p", "arms", "{}"])]:
        subprocess.run([sys.executable, "-m", "facelib.batch", f"notebooks/{notebook}.ipynb", str(folder / f"{notebook}.ipynb"),
                        "-f", "notebooks/presets/smoke.yaml", *where, *more], check=True, cwd=ROOT, env=environment)
    return folder / "results" / "smoke"


def test_study_leaves_tables_figures_and_manifest(study):
    curve = results.read_table(study / "squeezenet" / "curve.csv")
    layers = results.read_table(study / "squeezenet" / "layers.csv")
    assert list(curve) == results.CURVE and list(layers) == results.LAYERS
    assert set(curve["stage"]) == {"pruned", "fine-tuned"} and set(curve["metric"]) == {"eer", "frr_at_far_0.001", "eer_change"}
    assert set(curve["pair"]) == {"frontal-frontal", "frontal-three-quarter", "frontal-profile", "three-quarter-three-quarter",
                                  "three-quarter-profile", "profile-profile"}
    assert curve.loc[curve["metric"] != "eer_change", "value"].between(0, 1).all() and (curve["ci_low"] <= curve["ci_high"]).all()
    for name in ("eer", "frr_at_far_0.001", "filters_left", "training"):
        for suffix in (".png", ".pdf", ".txt"):
            assert (study / "squeezenet" / "figures" / f"{name}{suffix}").stat().st_size > 0
    manifest = pd.read_json(study / "squeezenet" / "manifest.json", typ="series")
    assert {"config", "versions", "commit", "device", "parts", "faces"} <= set(manifest.index)
    assert manifest["faces"]["test"]["subjects"] == 4


@pytest.mark.slow
def test_the_whole_study_runs_and_a_second_start_finds_nothing_to_do(tmp_path):
    """The Snakefile on the smoke preset, in a copy of what git knows of: three networks, their controls, comparison, report."""
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    for file in files:
        if not file.startswith("results/") and (ROOT / file).is_file():
            (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, tmp_path / file)
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--config", "preset=smoke"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    subprocess.run(command, check=True, cwd=tmp_path, env=environment)
    found = tmp_path / "results" / "smoke"
    for name in ("squeezenet", "mobilenetv2", "resnet50"):
        assert set(results.read_table(found / name / "curve.csv")["network"]) == {name}
        assert set(results.read_table(found / name / "arms" / "curve.csv")["criterion"]) == {"random", "none"}
    verdicts = results.read_table(found / "comparison" / "hypotheses.csv")
    assert set(verdicts["network"]) == {"squeezenet", "mobilenetv2", "resnet50"} and set(verdicts["hypothesis"]) == {"H1", "H2", "H3", "H4"}
    assert (tmp_path / "build" / "report" / "index.html").is_file()
    again = subprocess.run(command, check=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert "Nothing to be done" in again.stdout + again.stderr


def test_figures_are_redrawn_from_the_tables_alone(study):
    figures = study / "squeezenet" / "figures"
    before = {path.name: path.read_bytes() for path in figures.iterdir()}
    for path in figures.iterdir():
        path.unlink()
    code = "import sys; from facelib import figures; figures.regenerate(sys.argv[1]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(study)], check=True)
    assert {path.name: path.read_bytes() for path in figures.iterdir()} == before


def test_readmes_tables_are_those_of_the_saved_results():
    readme = (ROOT / "README.md").read_text()
    assert (ROOT / "results" / "real-faces" / "comparison" / "claims.md").read_text() in readme
    for folder in sorted(path.parent for path in (ROOT / "results").glob("*/*/curve.csv")):
        assert (folder / "summary.md").read_text() == results.summary_markdown(results.read_table(folder / "curve.csv")), folder


def test_the_saved_comparisons_follow_from_the_saved_tables(tmp_path):
    for preset in ("laptop", "real-faces"):
        comparison.write(comparison.compare(list(results.load_studies(ROOT / "results" / preset).values())), tmp_path / preset)
        for made in (tmp_path / preset).iterdir():
            assert made.read_text() == (ROOT / "results" / preset / "comparison" / made.name).read_text(), made


def test_what_the_readme_says_of_real_faces_is_in_the_tables():
    readme = " ".join((ROOT / "README.md").read_text().split())
    studies = results.load_studies(ROOT / "results" / "real-faces")
    for network, name in NETWORK_NAMES.items():
        faces, asked = studies[network].manifest["faces"], studies[network].manifest["config"]["parameters"]
        assert f"{faces['training']['images']:,} images of {faces['training']['subjects']} other people" in readme
        assert f"{faces['test']['subjects']} unseen subjects of CFP" in readme
        curve = studies[network].curve
        unpruned = curve[(curve["stage"] == "pruned") & (curve["step"] == 0)].set_index(["metric", "pair", "template_size"]).sort_index()
        rates = [results.in_percent(unpruned.loc[line]) for line in
                 (("eer", "frontal-frontal", 1), ("eer", "frontal-profile", 1), ("eer", "frontal-frontal", 5), ("accuracy", "any-any", 1))]
        start = "ImageNet" if studies[network].manifest["config"]["baseline"]["imagenet"] else "random weights"
        size = asked["image_size"]
        assert f"| {name} | {start} | {size} x {size}, {asked['stem_stride']} | {' | '.join(rates)} |" in readme
    assert max(map(hypotheses.least_eer, studies.values())) < hypotheses.Terms().recogniser  # else nothing would be decided
    verdicts = results.read_table(ROOT / "results" / "real-faces" / "comparison" / "hypotheses.csv")
    for network, words in (("mobilenetv2", "MobileNetV2 by {} points ({} to {})"), ("squeezenet", "SqueezeNet by {} ({} to {})"),
                           ("resnet50", "{} points worse ({} to {})")):
        single, templates = (row for row in verdicts.itertuples() if (row.network, row.key) == (network, "scratch-40"))
        assert words.format(*(f"{-value:.1f}" for value in (single.value, single.high, single.low))) in readme
        assert (single.template_size, single.verdict, templates.template_size, templates.pair) == (1, "supported", 5, "all pose pairs")
        assert templates.verdict == ("undecided" if network == "resnet50" else "supported")
    magnitude = verdicts.query("network == 'squeezenet' and key == 'magnitude-40' and template_size == 5").iloc[0]
    assert magnitude["verdict"] == "not supported"
    assert f"magnitude is better by {magnitude['value']:.1f} points ({magnitude['low']:.1f} to {magnitude['high']:.1f})" in readme
    shares = verdicts.query("hypothesis == 'H1' and pair == 'all pose pairs' and template_size == 1").set_index(["stage", "network"])["low"]
    for stage, words in (("fine-tuned", "ResNet50 can lose {resnet50:.0f} %, MobileNetV2 {mobilenetv2:.0f} % and SqueezeNet {squeezenet:.0f} %"),
                         ("pruned", "ResNet50 can lose {resnet50:.0f} %, SqueezeNet {squeezenet:.0f} % and MobileNetV2 {mobilenetv2:.0f} %")):
        assert words.format(**shares[stage]) in readme
    faces, asked = studies["resnet50"].manifest["faces"], studies["resnet50"].manifest["config"]["parameters"]
    steps = 0.4 / asked["step_share"]
    epochs = steps * asked["batches_per_step"] * asked["batch_size"] / faces["training"]["images"] + asked["finetune_epochs"]
    assert round(epochs) == 2 and "pruning and fine-tuning add about two epochs" in readme
    authors = results.read_table(ROOT / "results" / "published" / "SqueezeFacePoseNet_with_separable_DWC" / "verification.csv")
    authors = authors.query("metric == 'eer' and template_size == 1").set_index("pair")
    for pair, words in (("frontal-frontal", "on frontal single images"), ("frontal-profile", "frontal against profile")):
        found = authors.loc[pair]
        assert f"{100 * found['value']:.1f} % ({100 * found['ci_low']:.1f} to {100 * found['ci_high']:.1f}) {words}" in readme
    megabytes = results.read_table(ROOT / "results" / "real-faces" / "comparison" / "sizes.csv").set_index("network")["megabytes"]
    for network, words in (("squeezenet", "has {:.2f} MB and {:.2f}"), ("mobilenetv2", "MobileNetV2's {:.2f} and {:.2f}"),
                           ("resnet50", "ResNet50's {:.2f} and {:.2f}")):
        assert words.format(*megabytes[network].iloc[[0, 2]]) in readme


def test_a_kept_network_is_whole_and_that_of_its_preset_and_tables(tmp_path):
    [folder] = (ROOT / "results").glob("*/*/kept/*")
    assert folder.parts[-4:-1] == ("real-faces", "squeezenet", "kept")
    config = json.loads((folder / "config.json").read_text())
    assert results.Run.open(tmp_path, "squeezenet-baseline", config).folder.name == folder.name
    asked = batch.from_yaml(ROOT / "notebooks" / "presets" / "real-faces.yaml", ROOT / "notebooks" / "2_squeezenet.ipynb")
    shared = config["recipe"].keys() & asked.keys()
    assert {"epochs", "batch_size", "learning_rates", "schedule", "label_smoothing"} <= shared
    assert {name: config["recipe"][name] for name in shared} == {name: asked[name] for name in shared}
    tensors, saved = storage.load_checkpoint(folder / "training.safetensors")
    assert saved["recipe"] == config["recipe"] and len(saved["history"]) == asked["epochs"] and saved["seed"] == config["seed"]
    network = networks.build(**saved["network"])
    network.load_state_dict(storage.under("best", tensors))
    assert {name.split("/")[0] for name in tensors} == {"best"}
    manifest = results.load_studies(ROOT / "results" / "real-faces")["squeezenet"].manifest
    assert manifest["config"]["baseline"] == config and network.config["subjects"] == manifest["faces"]["training"]["subjects"]


def test_the_papers_scale_costs_what_its_preset_asks_for():
    """Hours of 10^13 operations per second: three forward passes to an image, two operations to a multiply-accumulate."""
    preset = yaml.safe_load((ROOT / "notebooks" / "presets" / "paper.yaml").read_text())
    columns = []
    for book in ("2_squeezenet", "3_mobilenetv2", "4_resnet50"):
        asked = preset["all"] | preset[book]
        network = networks.build(book[2:], 2, asked["image_size"], asked["stem_stride"])
        hours = 3 * 2 * pruning.graph_of(network).macs / 1e13 / 3600
        steps, arm_steps = (round(asked["last_share"] / asked[step]) for step in ("step_share", "arm_step_share"))
        runs, tuned = sum(asked["arms"].values()), len(asked["finetune_shares"]) * asked["finetune_epochs"]
        assert asked["batches_per_step"] == 0  # an epoch to a step
        columns.append([(f"at most {asked['epochs']}", asked["epochs"] * 3.16e6 * hours), (f"at most {asked['epochs']}", asked["epochs"] * 3.14e6 * hours),
                        (steps, steps * 3.14e6 * hours), (tuned, tuned * 3.14e6 * hours), (runs * arm_steps, runs * arm_steps * 3.14e6 * hours)])
    text = (ROOT / "docs" / "paper.md").read_text()
    for cells in zip(*columns):
        assert len({epochs for epochs, _ in cells}) == 1
        assert f"| {cells[0][0]} |" + "".join(f" {hours:.0f} |" for _, hours in cells) in text
    assert f"{runs} runs of {arm_steps} steps" in text and f"{steps + 1} to a network's main run and {arm_steps + 1} to an arm" in text


def test_the_citation_is_of_this_version_and_of_the_papers_that_the_readme_names():
    cited, readme = yaml.safe_load((ROOT / "CITATION.cff").read_text()), (ROOT / "README.md").read_text()
    assert cited["version"] == facelib.__version__
    for paper in cited["references"]:
        assert paper["title"].lower() in readme.lower() and paper["identifiers"][0]["value"].replace(":", " ") in readme


def test_pictures_in_the_readme_are_there():
    pictures = re.findall(r"!\[[^]]*\]\(([^)]*)\)", (ROOT / "README.md").read_text())
    assert pictures and all((ROOT / picture).is_file() for picture in pictures)


def test_the_speeds_that_are_told_are_those_measured():
    told, readme, folder = (ROOT / "docs" / "speed.md").read_text(), (ROOT / "README.md").read_text(), ROOT / "results" / "benchmarks"
    tables = {path.stem: results.read_table(path) for path in folder.glob("*.csv")}
    removal, scoring, schedule = (tables[f"pruning_{part}"] for part in ("removal", "scoring", "schedule"))
    throughput = tables["pruning_throughput"][lambda table: table["filters_removed_pct"].between(39.9, 40.1)]
    trained, inferred = (throughput[(throughput["work"] == work) & (throughput["storage"] == "aligned")] for work in ("training", "inference"))
    aligned = schedule[schedule["storage"] == "aligned"]
    promise = "... as multiply-accumulates promise"
    rows = [("removing 1 % of the filters (ms)", removal["removal_ms"], 0),
            ("torch-pruning 1.6.1's step takes so many times as long", removal["torch_pruning_over_removal"], 0),
            ("... as long as scoring, choosing and removing here", removal["torch_pruning_over_all"], 0),
            ("`taylor_weight`'s share of a training step (%)", scoring.loc[scoring["criterion"] == "taylor_weight", "collect_pct"], 1),
            ("peak memory of a pruning step over a training step's", tables["pruning_memory"]["ratio"], 2),
            ("training with 40 % of the filters removed, aligned: times as fast", trained["speedup"], 2),
            ("inference, likewise", inferred["speedup"], 2), (promise, trained["promised_by_macs"], 2),
            ("40 steps of 1 %, aligned, over the time with masks", aligned["share_of_masks"], 2), (promise, aligned["promised_by_macs"], 2),
            ("share of training that waits for images (%)", tables["loading"]["waiting_pct"], 1)]
    for label, values, digits in rows:
        assert f"| {label}" + "".join(f" | {value:.{digits}f}" for value in values) + " |" in told
    text, short = " ".join(told.split()), " ".join(readme.split())
    for name, where in (("pruning_throughput", "promised {promised_by_macs:.2f}, "), ("pruning_throughput_threads_1", "has on two cores, ")):
        row = tables[name].query("network == 'squeezenet' and work == 'training' and storage == 'aligned'").iloc[-1]
        said = re.search(where.format(**row) + r"(.{0,25})", text).group(1)
        assert said.startswith(f"{row['speedup']:.2f} ") and f"({row['ci_low']:.2f} to {row['ci_high']:.2f}" in text
    slower = tables["pruning_throughput"].query("work == 'training' and filters_removed_pct < 39")
    for network, where in (("resnet50", "ResNet50 trains {}"), ("squeezenet", "SqueezeNet {}"), ("mobilenetv2", "MobileNetV2 {}")):
        found = slower[(slower["network"] == network) & (slower["storage"] == "aligned")]["speedup"]
        assert "at 2, 8 and 20 %, " in text and where.format("{:.2f}, {:.2f} and {:.2f}".format(*found)) in text
    macs = results.read_table(ROOT / "results" / "real-faces" / "squeezenet" / "curve.csv").query("stage == 'pruned'").groupby("step")["macs"].first()
    assert f"left them, whose multiply-accumulates promised {trained['promised_by_macs'].iloc[0]:.2f} at 40 %, where today's promise {macs[0] / macs[40]:.2f}." in text
    exact = tables["pruning_throughput"].query("network == 'mobilenetv2' and work == 'training' and storage == 'exact'")["speedup"]
    assert f"train at {exact.min():.2f} to {exact.max():.2f} of its unpruned speed" in text
    alone = tables["pruning_convolutions"].query("layer == 'in all'").set_index("network")
    gained = alone["speedup"] / alone["promised_weighed_by_time"]
    assert f"Convolutions by themselves gain {gained.min():.2f} to {gained.max():.2f} of what" in text
    assert f"SqueezeNet would train {alone.loc['squeezenet', 'speedup']:.2f} times as fast" in text
    seconds, covered, differing = tables["verification"]["seconds"], *(100 * tables[name]["covered"] for name in (
        "coverage", "coverage_differences"))
    for said in (f"{seconds[0]:.0f} s of processor time", f"{seconds[2]:.1f} s, where", f"`roc_curve` takes {seconds[3]:.0f} s"):
        assert said in text
    for said in (f"{covered.min():.0f} to {covered.max():.0f} % of 500 draws", f"difference in {differing.min():.0f} to {differing.max():.0f} %",
                 "inference is {:.2f}, {:.2f} and {:.2f} times as fast".format(*inferred["speedup"]),
                 "train {:.2f}, {:.2f} and {:.2f} times as fast".format(*trained["speedup"])):
        assert said in short
    assert removal["torch_pruning_over_all"].between(3.4, 4.2).all() and "about a quarter of the time that torch-pruning's step takes" in short

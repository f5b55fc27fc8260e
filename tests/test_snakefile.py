"""The Snakefile: what runs, what runs again and what does not, with stand-ins for the parts that only write down their names."""

import functools
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from facelib import study

ROOT = Path(__file__).parents[1]

# Stand-ins: every part appends its name to parts.txt. While the file "stop" holds a part's name, that part fails; "hang", it hangs.
STAND_IN = """
import sys, time
from pathlib import Path

def note(part):
    sys.stderr.write(f"progress of {part}\\n")
    if Path("hang").exists() and Path("hang").read_text() == part:
        Path("hanging").touch()
        time.sleep(600)
    if Path("stop").exists() and Path("stop").read_text() == part:
        sys.exit(f"{part} was told to fail")
    with open("parts.txt", "a") as file:
        print(part, file=file)
"""
STUDY = """
import os
with open("threads.txt", "a") as file:
    print(os.environ.get("OMP_NUM_THREADS"), os.environ.get("FACELIB_PART"), file=file)
assert "-f" in sys.argv and sys.argv[sys.argv.index("preset") + 1]
note(f"{Path(sys.argv[1]).stem} {sys.argv[2]}")
"""
REPORT = """
note("report")
Path("build/report/index.html").write_text("")
"""
BATCH = """
import json
import yaml

from facelib import batch

class ParameterError(ValueError):
    pass

def declared(notebook):
    return json.loads(Path(notebook).read_text())

def from_yaml(path, notebook):
    sections = yaml.safe_load(Path(path).read_text())
    return sections["all"] | sections.get(Path(notebook).stem, {})

def checked(given, defaults, notebook):
    if given.keys() - defaults.keys():
        raise ParameterError(f"{notebook}: no parameter {given.keys() - defaults.keys()}")
    return given

if __name__ == "__main__":
    Path(sys.argv[2]).write_text(" ".join(sys.argv))
    note(Path(sys.argv[1]).stem)
"""
FACES = {"preset": "", "source": "", "root": "", "source_options": {}, "test_share": 0.5, "more_training": ["more"], "overlaps": "",
         "more_tests": ["more"]}
NETWORK = FACES | {"epochs": 1, "last_share": 0.5, "pretraining": ["more"], "imagenet": "", "finetune_shares": [], "scratch_shares": [],
                   "arms": {}}
BOOKS = {"1_faces": FACES, "2_squeezenet": NETWORK, "3_mobilenetv2": NETWORK, "5_comparison": {"preset": ""}}
FIRST = ["1_faces", "2_squeezenet baseline", "2_squeezenet pruning", "2_squeezenet fine-tuned:0.4", "2_squeezenet from-scratch:0.4",
         "2_squeezenet arm:random:0", "2_squeezenet", "3_mobilenetv2 baseline", "3_mobilenetv2 pruning", "3_mobilenetv2", "5_comparison", "report"]


ARM = {"last_share": 0.6, "finetune_shares": [0.4], "scratch_shares": [0.4], "arms": {"random": 1}}


class Project:
    """A copy of the Snakefile with stand-ins in a folder of its own."""

    def __init__(self, folder):
        self.folder = folder

    def fill(self):
        shutil.copy(ROOT / "Snakefile", self.folder)
        shutil.copytree(ROOT / "profiles", self.folder / "profiles")
        self.write("facelib/__init__.py", "")
        self.write("facelib/batch.py", STAND_IN + BATCH)
        self.write("facelib/study.py", STAND_IN + STUDY)
        self.write("facelib/report.py", STAND_IN + REPORT)
        for name in ("layers", "hypotheses", "comparison"):
            self.write(f"facelib/{name}.py", "")
        self.write("docs/published.csv", "")
        self.write("facelib/report.html", "")
        self.write("facelib/report.css", "")
        for name, parameters in BOOKS.items():
            self.notebook(name, parameters)
        self.preset(ARM)

    def write(self, path, text):
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_text(text)

    def notebook(self, name, parameters):
        self.write(f"notebooks/{name}.ipynb", json.dumps(parameters))

    def preset(self, squeezenet, epochs=2):
        sections = {"all": {}, "2_squeezenet": squeezenet, "3_mobilenetv2": {"epochs": epochs}}
        self.write("notebooks/presets/small.yaml", yaml.safe_dump(sections))

    def start(self, *config, **more):
        command = [sys.executable, "-m", "snakemake", "--cores", "1", "--config", "preset=small", *config]
        return subprocess.Popen(command, cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more)

    def run(self, *config):
        """Runs the study: whether it succeeded, the parts that ran, what was printed."""
        (self.folder / "parts.txt").unlink(missing_ok=True)
        process = self.start(*config)
        printed, _ = process.communicate()
        parts = self.folder / "parts.txt"
        return process.returncode == 0, parts.read_text().splitlines() if parts.exists() else [], printed


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A study that ran, and what it printed."""
    project = Project(tmp_path_factory.mktemp("once") / "project")
    project.folder.mkdir()
    project.fill()
    return project, project.run()


@pytest.fixture
def finished(once, tmp_path):
    """A copy of the study that ran."""
    shutil.copytree(once[0].folder, tmp_path / "project")
    return Project(tmp_path / "project")


def test_a_study_runs_every_part_once_after_what_it_needs(once):
    _, (succeeded, parts, printed) = once
    assert succeeded, printed
    assert sorted(parts) == sorted(FIRST)
    for network in ("2_squeezenet", "3_mobilenetv2"):
        of_network = [part for part in parts if part.startswith(network)]
        assert parts[0] == "1_faces" and of_network[0] == f"{network} baseline" and of_network[-1] == network
        assert all(parts.index(f"{network} pruning") < parts.index(part) for part in of_network if "fine-tuned" in part or "scratch" in part)
    assert parts[-2:] == ["5_comparison", "report"]


def test_progress_of_the_parts_is_seen(once):
    _, (_, _, printed) = once
    assert all(f"progress of {part}\n" in printed for part in FIRST)


def test_no_two_parts_run_at_once_on_the_same_cores(once):
    """Each claims all of them; side by side, two trainings would fight for them."""
    _, (_, _, printed) = once
    assert set(re.findall(r"Execute (\d+) jobs", printed)) == {"1"}


def test_a_finished_study_has_nothing_to_do(finished):
    succeeded, parts, printed = finished.run()
    assert succeeded and parts == [] and "Nothing to be done" in printed


def after(*parts):
    return [*parts, "5_comparison", "report"]


@pytest.mark.parametrize("change, expected", [
    (lambda p: p.preset(ARM | {"last_share": 0.7}),
     after("2_squeezenet arm:random:0", "2_squeezenet pruning", "2_squeezenet fine-tuned:0.4", "2_squeezenet from-scratch:0.4", "2_squeezenet")),
    (lambda p: p.preset(ARM | {"arms": {"random": 2, "control": 1}}),
     after("2_squeezenet arm:control:0", "2_squeezenet arm:random:1", "2_squeezenet")),
    (lambda p: p.preset(ARM, epochs=3), after("3_mobilenetv2 baseline", "3_mobilenetv2 pruning", "3_mobilenetv2")),
    (lambda p: p.notebook("3_mobilenetv2", NETWORK | {"last_share": 0.4}), after("3_mobilenetv2 pruning", "3_mobilenetv2")),
    (lambda p: p.notebook("1_faces", FACES | {"image_size": 65}), FIRST),
    (lambda p: (p.folder / "results/small/notebooks/2_squeezenet.ipynb").unlink(), after("2_squeezenet")),
    (lambda p: shutil.rmtree(p.folder / "runs"), FIRST),
    (lambda p: p.write("facelib/hypotheses.py", "# other"), after()),
    (lambda p: p.write("facelib/report.py", STAND_IN + REPORT + "# other"), ["report"]),
], ids=["pruning", "arms", "training", "default", "faces", "deleted result", "deleted runs", "verdicts", "report"])
def test_a_change_repeats_just_what_depends_on_it(finished, change, expected):
    change(finished)
    succeeded, parts, printed = finished.run()
    assert succeeded, printed
    assert sorted(parts) == sorted(expected) and "Computed by other code" not in printed


def test_other_code_repeats_nothing_but_is_named(finished):
    finished.write("facelib/training.py", "")
    finished.write("facelib/figures/curves.py", "")
    succeeded, parts, printed = finished.run()
    assert succeeded and parts == []
    assert "2_squeezenet/baseline" in printed and "changed: facelib/training.py." in printed
    shutil.rmtree(finished.folder / "runs/parts/small/2_squeezenet")
    _, parts, printed = finished.run()
    assert "2_squeezenet baseline" in parts and "3_mobilenetv2 baseline" not in parts
    assert "2_squeezenet/baseline" not in finished.run()[2]


def test_a_failed_part_fails_the_study_which_goes_on_from_it(finished):
    finished.preset({"last_share": 0.7})
    finished.write("stop", "2_squeezenet pruning")
    succeeded, parts, printed = finished.run()
    assert not succeeded and parts == [] and "2_squeezenet pruning was told to fail" in printed
    (finished.folder / "stop").unlink()
    assert finished.run()[:2] == (True, after("2_squeezenet pruning", "2_squeezenet"))
    assert finished.run()[:2] == (True, [])


@pytest.mark.slow
def test_a_failed_notebook_is_kept_and_executed_again(finished):
    finished.preset({"last_share": 0.7})
    finished.write("stop", "2_squeezenet")
    assert not finished.run()[0]
    assert (finished.folder / "results/small/notebooks/2_squeezenet.ipynb").exists()
    (finished.folder / "stop").unlink()
    assert finished.run()[:2] == (True, after("2_squeezenet"))


def test_a_killed_study_goes_on_by_itself(finished):
    finished.preset({"last_share": 0.7})
    finished.write("hang", "2_squeezenet pruning")
    process = finished.start(start_new_session=True)
    for _ in range(600):
        if (finished.folder / "hanging").exists() or process.poll() is not None:
            break
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    (finished.folder / "hang").unlink()
    assert finished.run()[:2] == (True, after("2_squeezenet pruning", "2_squeezenet"))


def test_own_faces_have_results_of_their_own_and_new_images_repeat_the_study(finished):
    finished.write("my faces/alice/1.jpg", "x")
    _, parts, _ = finished.run("faces=my faces")
    assert "1_faces" in parts and "2_squeezenet baseline" in parts
    given = (finished.folder / "results/small-my-faces/notebooks/2_squeezenet.ipynb").read_text()
    assert f"-p preset small-my-faces -p source folder -p root {finished.folder / 'my faces'} -p source_options {{}} " in given
    assert "-p test_share 0.2 -p more_training [] -p overlaps  -p more_tests [] -p pretraining []" in given, "sets of the preset's are left"
    assert finished.run("faces=my faces")[1] == []
    finished.write("more/my faces/alice/1.jpg", "x")
    succeeded, parts, printed = finished.run("faces=more/my faces")
    assert not succeeded and parts == [] and f"results/small-my-faces are those of {finished.folder / 'my faces'}" in printed
    finished.write("my faces/alice/2.jpg", "x")
    _, parts, _ = finished.run("faces=my faces")
    assert {"1_faces", "2_squeezenet baseline", "2_squeezenet pruning", "3_mobilenetv2"} <= set(parts)


@pytest.mark.slow
def test_imagenet_weights_are_for_the_networks_that_the_preset_does_not_start_from_random_ones(finished):
    finished.preset(ARM | {"imagenet": ""})
    _, parts, printed = finished.run("imagenet=weights.pth")
    assert parts == after("3_mobilenetv2 baseline", "3_mobilenetv2 pruning", "3_mobilenetv2"), printed
    assert "-p imagenet weights.pth" in (finished.folder / "results/small/notebooks/3_mobilenetv2.ipynb").read_text()


@pytest.mark.parametrize("config, change, complaint", [
    ("preset=smal", lambda p: None, "no preset 'smal'; there are: small"),
    ("faces=none", lambda p: None, "faces=none is no folder"),
    ("preset=small", lambda p: p.preset({"epoch": 3}), "notebooks/2_squeezenet.ipynb: no parameter {'epoch'}"),
])
def test_what_cannot_be_run_is_refused_at_once(finished, config, change, complaint):
    change(finished)
    succeeded, parts, printed = finished.run(config)
    assert not succeeded and parts == [] and complaint in printed
    assert "Traceback" not in printed

# -------------------------------------------------------------------------------------------------------- the project's own


@functools.cache
def dry_run(preset, *more):
    """What Snakemake would do for a preset of the project, from nothing."""
    command = [sys.executable, "-m", "snakemake", "--dry-run", "--forceall", *more, "--config", f"preset={preset}"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def networks(preset):
    return [name for name in yaml.safe_load((ROOT / f"notebooks/presets/{preset}.yaml").read_text()) if name not in ("all", "1_faces")]


@pytest.mark.parametrize("preset", ["smoke", pytest.param("laptop", marks=pytest.mark.slow)])
def test_dry_run_of_a_preset_has_a_baseline_a_pruning_and_a_notebook_per_network(preset):
    count = dict(re.findall(r"^(\w+) +(\d+)$", dry_run(preset, "--cores", "2"), re.MULTILINE))
    number = str(len(networks(preset)))
    assert (count["faces"], count["baseline"], count["pruning"], count["network"], count["report"]) == ("1", number, number, number, "1")


@pytest.mark.skipif(not importlib.util.find_spec("snakemake_executor_plugin_slurm"), reason="needs snakemake-executor-plugin-slurm")
def test_dry_run_on_slurm_asks_for_threads_memory_and_time():
    jobs = dry_run("laptop", "--workflow-profile", "profiles/slurm").split("\nrule ")
    [baseline, *_] = [job for job in jobs if job.startswith("baseline:")]
    assert "threads: 16\n" in baseline and "mem_mb=16000" in baseline and "runtime=1440" in baseline


@pytest.mark.parametrize("preset", ["smoke", pytest.param("laptop", marks=pytest.mark.slow)])
def test_parts_are_those_that_the_study_names(preset, monkeypatch, capsys):
    planned = dry_run(preset, "--cores", "2")
    monkeypatch.chdir(ROOT)
    for book in networks(preset):
        study.main([f"notebooks/{book}.ipynb", "parts", "-f", f"notebooks/presets/{preset}.yaml"])
        named = capsys.readouterr().out.split()
        found = set(re.findall(rf"output: runs/parts/{preset}/{book}/(\S+)\.done$", planned, re.MULTILINE))
        assert found == {part.replace(":", "-") for part in named}


def test_make_study_computes_two_parts_at_once_with_half_of_the_processors_each(tmp_path):
    """As `make study` calls it on four processors."""
    project = Project(tmp_path)
    project.fill()
    recipe = (ROOT / "Makefile").read_text()
    arguments = re.search(r"--set-threads .*? --config", recipe)[0].replace("$$each", "2").split()
    command = [sys.executable, "-m", "snakemake", "--cores", "4", *arguments, "preset=small"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    found = [line.split() for line in (tmp_path / "threads.txt").read_text().splitlines()]
    assert {threads for threads, _ in found} == {"2"}
    assert {part for _, part in found} == {"2_squeezenet", "3_mobilenetv2", "2_squeezenet-random-0", "2_squeezenet-fine-tuned-0.4",
                                           "2_squeezenet-from-scratch-0.4"}

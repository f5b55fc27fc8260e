# What depends on what in a study:
#
#     faces -> for every network: baseline -> main pruning -> retraining at each share, and beside them the arms -> its notebook;
#     all notebooks -> comparison -> report
#
#     snakemake --cores all --config preset=laptop [faces=FOLDER] [imagenet=FILE]
#
# `make study` calls it; docs/clusters.md says how a cluster does. The preset's YAML file says what is computed: a network's
# notebook runs when the preset has a section for it. A part that is done has a marker in runs/parts/, with its parameters
# and the code that it was computed by. It is repeated when one of the parameters that it depends on changes, or the faces
# of FACES=. It is not repeated when facelib's code changes, since that could be hours for a comment: what was computed by
# other code is listed at every start, with what to delete to have it anew.

import hashlib
import json
import os
import shlex
import sys
from pathlib import Path

import yaml
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger

from facelib import batch

PYTHON = sys.executable

# ------------------------------------------------------------------------------------------------------ what is asked for

PRESET, FACES, IMAGENET = (str(config.get(name) or "") for name in ("preset", "faces", "imagenet"))
PRESET = PRESET or "laptop"
FILE = Path("notebooks/presets") / f"{PRESET}.yaml"
if not FILE.is_file():
    raise WorkflowError(f"no preset '{PRESET}'; there are: {', '.join(sorted(path.stem for path in FILE.parent.glob('*.yaml')))}")
FOLDER = Path(FACES).expanduser().resolve() if FACES else None
if FOLDER and not FOLDER.is_dir():
    raise WorkflowError(f"faces={FACES} is no folder; it has to hold one folder of images per subject")
NAME = PRESET + (f"-{FOLDER.name.replace(' ', '-')}" if FOLDER else "")


def line_of(marker, number):
    """What a part's marker has as JSON in its first (parameters) or second line (code); nothing where it was cut short."""
    try:
        return json.loads(marker.read_text().splitlines()[number])
    except (OSError, IndexError, ValueError):
        return {}


FACES_MARKER = Path(f"runs/parts/{NAME}/1_faces/executed.done")
if FOLDER and (then := line_of(FACES_MARKER, 0).get("root", str(FOLDER))) != str(FOLDER):
    raise WorkflowError(f"results/{NAME} are those of {then}; give {FOLDER} another name or, if it is the same folder that moved, "
                        f"delete {FACES_MARKER}")
NETWORKS = [name for name in yaml.safe_load(FILE.read_text()) if name not in ("all", "1_faces", "5_comparison")]
COMPARISON = ["5_comparison"] if Path("notebooks/5_comparison.ipynb").is_file() else []

OWN = {"source": "folder", "root": str(FOLDER), "source_options": {}, "test_share": 0.2, "more_training": [], "overlaps": "",
       "more_tests": []} if FOLDER else {}  # of a preset with sets of its own, none is left


def path_of(book):
    return Path(f"notebooks/{book}.ipynb")


def given(book):
    """What the command line gives a notebook. A network that the preset starts from random weights takes no others."""
    weights = IMAGENET if batch.from_yaml(FILE, path_of(book)).get("imagenet") != "" else ""
    return {"preset": NAME} | OWN | ({} if book == "1_faces" else
                                     ({"pretraining": []} if FOLDER else {}) | ({"imagenet": weights} if weights else {}))


def all_parameters(book):
    """Every parameter of a notebook: its defaults, the preset's, the command line's. A wrong one is refused here."""
    defaults = batch.declared(path_of(book))
    return defaults | batch.checked(batch.from_yaml(FILE, path_of(book)) | GIVEN[book], defaults, str(path_of(book)))


try:
    GIVEN = {book: given(book) for book in ["1_faces", *NETWORKS]}
    PARAMETERS = {book: all_parameters(book) for book in GIVEN}
except batch.ParameterError as error:
    raise WorkflowError(str(error))


def parts(book):
    """Names of what a network's notebook needs computed, as their markers have them."""
    asked = PARAMETERS[book]
    return ["baseline", "pruning", *(f"fine-tuned-{share}" for share in asked["finetune_shares"]),
            *(f"from-scratch-{share}" for share in asked["scratch_shares"]),
            *(f"arm-{name}-{seed}" for name, seeds in asked["arms"].items() for seed in range(seeds))]


# What the unpruned network does not depend on. A parameter that is missing here costs seconds: its part finds itself done.
AFTER_TRAINING = {"criterion", "step_share", "last_share", "batches_per_step", "pruning_learning_rate", "evaluate_every",
                  "keep_descriptor", "unit", "minimum_filters", "scoring", "reestimate_batches", "multiple", "finetune_shares",
                  "finetune_epochs", "finetune_learning_rate", "scratch_shares", "arms", "arm_step_share", "template_sizes",
                  "more_template_sizes", "resamples"}


def files_of(folder):
    """A hash of the names, sizes and times of a folder's files."""
    stats = sorted((str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns)
                   for path in folder.rglob("*") if path.is_file())
    return hashlib.sha256(json.dumps(stats).encode()).hexdigest()[:16]


FILES = {"files": files_of(FOLDER)} if FOLDER else {}


def record(book, without=()):
    """What a part depends on, as text: the marker's first line, and what Snakemake compares."""
    return json.dumps({name: value for name, value in PARAMETERS[book].items() if name not in without} | FILES, sort_keys=True)


def arguments(book):
    """The command line that gives a notebook its parameters, quoted for the shell, which Snakemake does not do for empty ones."""
    pairs = [("-p", name, value if isinstance(value, str) else json.dumps(value)) for name, value in GIVEN[book].items()]
    return shlex.join(["-f", str(FILE), *(word for pair in pairs for word in pair)])

# ------------------------------------------------------------------------------------------------------- which code it was

LATER = {"hypotheses.py", "comparison.py", "figures", "report.py"}  # no network's number depends on them
CODE = {str(path): hashlib.sha256(path.read_bytes()).hexdigest()[:16]
        for path in sorted(Path("facelib").rglob("*.py")) if not LATER & set(path.parts)}
os.environ["FACELIB_CODE"] = json.dumps(CODE)  # for the markers


def say_what_is_stale():
    stale, changed = [], set()
    for marker in sorted(Path(f"runs/parts/{NAME}").glob("*/*.done")):
        then = line_of(marker, 1)
        differing = {path for path in CODE.keys() | then.keys() if CODE.get(path) != then.get(path)}
        stale += [f"{marker.parent.name}/{marker.stem}"] if differing else []
        changed |= differing
    if stale:
        logger.warning(f"Computed by other code and kept: {', '.join(stale)}.\nSince then changed: {', '.join(sorted(changed))}.\n"
                       f"To compute them anew, delete runs/parts/{NAME} and their folders in runs/, which the executed notebooks name, "
                       f"and in results/{NAME}/*/kept.")


if workflow.is_main_process:
    say_what_is_stale()

# ------------------------------------------------------------------------------------------------------------------- rules

MARKER = f"runs/parts/{NAME}/{{book}}/"
EXECUTED = f"results/{NAME}/notebooks/"
DONE = """printf '%s\\n' {params.record:q} "$FACELIB_CODE" > {output.done:q}"""


def compute(part, label=""):
    """The command that computes a part; its lines of progress begin with the notebook's name and the label."""
    return (f"FACELIB_PART={{wildcards.book}}{label} {{PYTHON:q}} -m facelib.study notebooks/{{wildcards.book}}.ipynb {part} "
            f"{{params.arguments}} && {DONE}")


localrules: study, comparison, report

wildcard_constraints:
    book="|".join(NETWORKS),
    stage="fine-tuned|from-scratch",
    seed=r"\d+",


rule study:  # names everything, so that whatever was deleted is made again
    input:
        "build/report/index.html",
        EXECUTED + "1_faces.ipynb", MARKER.format(book="1_faces") + "executed.done",
        [EXECUTED + f"{book}.ipynb" for book in [*NETWORKS, *COMPARISON]],
        [MARKER.format(book=book) + f"{part}.done" for book in NETWORKS for part in [*parts(book), "executed"]],


rule faces:
    input: "notebooks/1_faces.ipynb"
    output: notebook=EXECUTED + "1_faces.ipynb", done=MARKER.format(book="1_faces") + "executed.done"
    params: record=record("1_faces"), arguments=arguments("1_faces")
    threads: workflow.cores
    resources: mem_mb=8_000, runtime="4h"
    shell: "{PYTHON:q} -m facelib.batch {input:q} {output.notebook:q} {params.arguments} && " + DONE


rule baseline:
    input: rules.faces.output.done
    output: done=MARKER + "baseline.done"
    params: record=lambda wildcards: record(wildcards.book, AFTER_TRAINING), arguments=lambda wildcards: arguments(wildcards.book)
    threads: workflow.cores
    priority: 3  # most waits for it, and next for pruning; then what takes long; the arms fill what is left, and notebooks come last
    resources: mem_mb=16_000, runtime="24h"
    shell: compute("baseline")


rule pruning:
    input: rules.baseline.output.done
    output: done=MARKER + "pruning.done"
    params: record=lambda wildcards: record(wildcards.book, {"arms", "arm_step_share"}), arguments=lambda wildcards: arguments(wildcards.book)
    threads: workflow.cores
    priority: 2
    resources: mem_mb=16_000, runtime="24h"
    shell: compute("pruning")


rule retraining:
    input: rules.pruning.output.done
    output: done=MARKER + "{stage}-{share}.done"
    params: record=lambda wildcards: record(wildcards.book, {"arms", "arm_step_share"}), arguments=lambda wildcards: arguments(wildcards.book)
    threads: workflow.cores
    priority: 1
    resources: mem_mb=16_000, runtime="24h"
    shell: compute("{wildcards.stage}:{wildcards.share}", "-{wildcards.stage}-{wildcards.share}")


rule arm:
    input: rules.baseline.output.done
    output: done=MARKER + "arm-{arm}-{seed}.done"
    params: record=lambda wildcards: record(wildcards.book, {"arms"}), arguments=lambda wildcards: arguments(wildcards.book)
    threads: workflow.cores
    resources: mem_mb=16_000, runtime="24h"
    shell: compute("arm:{wildcards.arm}:{wildcards.seed}", "-{wildcards.arm}-{wildcards.seed}")


rule network:
    input:
        notebook="notebooks/{book}.ipynb",
        parts=lambda wildcards: [MARKER.format(book=wildcards.book) + f"{part}.done" for part in parts(wildcards.book)],
    output: notebook=EXECUTED + "{book}.ipynb", done=MARKER + "executed.done"
    params: record=lambda wildcards: record(wildcards.book), arguments=lambda wildcards: arguments(wildcards.book)
    threads: workflow.cores
    priority: -1
    resources: mem_mb=8_000, runtime="4h"
    shell: "{PYTHON:q} -m facelib.batch {input.notebook:q} {output.notebook:q} {params.arguments} && " + DONE


rule comparison:
    input: "notebooks/5_comparison.ipynb", expand(rules.network.output.notebook, book=NETWORKS), expand("facelib/{module}.py", module=["layers", "hypotheses", "comparison"]), "docs/published.csv"
    output: EXECUTED + "5_comparison.ipynb"
    shell: "{PYTHON:q} -m facelib.batch {input[0]:q} {output:q} -p preset {NAME:q}"


rule report:
    input: expand("facelib/report.{suffix}", suffix=["py", "html", "css"]), expand(EXECUTED + "{book}.ipynb", book=["1_faces", *NETWORKS, *COMPARISON])
    output: "build/report/index.html"
    shell: "{PYTHON:q} -m facelib.report"

"""Runs a notebook with papermill, strictly.

    python -m facelib.batch NOTEBOOK OUTPUT [-p name value]... [-f file.yaml]...

papermill only warns about a misspelt parameter and then runs the defaults; here names and types are compared with the
notebook's parameters cell first, and a wrong one is refused before anything runs. A YAML file is a mapping of names to
values, or, for a file that serves several notebooks, has one such mapping per notebook (by its name without .ipynb)
and one called `all`. Later files and -p win.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import os
import sys
import tempfile
from pathlib import Path

import nbformat
import papermill
import yaml
from traitlets.config import Config

from facelib.progress import BATCH


SECONDS_BETWEEN_LINES = "20"  # of progress in batch, where the environment does not say otherwise


class ParameterError(ValueError):
    """A parameter's name or type is not what the notebook declares."""


def declared(notebook: Path) -> dict[str, object]:
    """Name and default value of every parameter of a notebook. Raises ParameterError when it declares none."""
    if not Path(notebook).is_file():
        raise ParameterError(f"no notebook at {notebook}")
    found = papermill.inspect_notebook(str(notebook))
    if not found:
        raise ParameterError(f"{notebook} has no cell tagged 'parameters' that assigns literals")
    defaults = {}
    for name, parameter in found.items():
        try:
            defaults[name] = ast.literal_eval(parameter["default"])
        except (ValueError, SyntaxError) as error:
            raise ParameterError(f"{notebook}: the parameter {name} = {parameter['default']} is not a plain literal") from error
    return defaults


def checked(given: dict[str, object], defaults: dict[str, object], notebook: str) -> dict[str, object]:
    """The given parameters, when each has a declared name and the type of its default (an int may stand for a float).

    Raises ParameterError that lists every wrong one.
    """
    wrong, right = [], {}
    for name, value in given.items():
        if name not in defaults:
            close = difflib.get_close_matches(name, defaults, 1)
            wrong.append(f"no parameter '{name}'" + (f"; did you mean '{close[0]}'?" if close else ""))
            continue
        expected = type(defaults[name])
        if expected is float and type(value) is int:
            value = float(value)
        if type(value) is not expected:
            wrong.append(f"'{name}' is {expected.__name__} (default {defaults[name]!r}), found {type(value).__name__} {value!r}")
        right[name] = value
    if wrong:
        raise ParameterError(f"{notebook}:\n  " + "\n  ".join(wrong) + f"\nIts parameters are: {', '.join(defaults)}")
    return right


def from_yaml(path: Path, notebook: Path) -> dict[str, object]:
    """The parameters that a YAML file has for a notebook. Raises ParameterError when it is not such a file, or has a section
    for a notebook that is not there."""
    try:
        content = yaml.safe_load(Path(path).read_text()) or {}
    except (OSError, yaml.YAMLError) as error:
        raise ParameterError(f"cannot read {path}: {error}") from error
    if not isinstance(content, dict):
        raise ParameterError(f"{path}: expected names and values, found a {type(content).__name__}")
    if "all" not in content:
        return content
    sections = {name: section or {} for name, section in content.items()}
    known = {"all"} | {book.stem for book in Path(notebook).parent.glob("*.ipynb")}
    for name, section in sections.items():
        if name not in known:
            raise ParameterError(f"{path}: no notebook '{name}' beside {notebook}; sections are named {', '.join(sorted(known))}")
        if not isinstance(section, dict):
            raise ParameterError(f"{path}: '{name}' stands beside 'all', so it has to be a notebook's section, found {section!r}")
    return sections["all"] | sections.get(Path(notebook).stem, {})


def from_text(name: str, text: str, defaults: dict[str, object]) -> object:
    """A command line's value: a string stays one where a string is expected, else it is read as YAML. Raises ParameterError
    when it cannot be."""
    default = defaults.get(name)
    if isinstance(default, str):
        return text
    try:
        return float(text) if isinstance(default, float) else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError) as error:
        raise ParameterError(f"'{name}' is {type(default).__name__} (default {default!r}), found {text!r}") from error


def given(notebook: Path, files: list[Path], pairs: list[tuple[str, str]]) -> dict[str, object]:
    """The parameters that YAML files and, winning over them, a command line's pairs of name and value give a notebook.

    Raises ParameterError when one is not what the notebook declares.
    """
    defaults = declared(notebook)
    parameters: dict[str, object] = {}
    for path in files:
        parameters |= from_yaml(path, notebook)
    parameters |= {name: from_text(name, text, defaults) for name, text in pairs}
    return checked(parameters, defaults, str(notebook))


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options from which `given` takes parameters: p and f."""
    parser.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="one parameter")
    parser.add_argument("-f", action="append", default=[], type=Path, metavar="FILE", help="parameters from a YAML file")


def run(notebook: Path, output: Path, parameters: dict[str, object]) -> None:
    """Executes a notebook into `output` with checked parameters; progress goes to the terminal as plain lines.

    Raises ParameterError before anything runs; papermill.PapermillExecutionError when a cell fails, `output` then shows
    which one.
    """
    parameters = checked(parameters, declared(notebook), str(notebook))
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault(BATCH, SECONDS_BETWEEN_LINES)
    with tempfile.TemporaryDirectory() as sockets:
        # Sockets of this user only, where there are such: over TCP every local user could read along, as the kernel warns.
        kernel = Config() if os.name == "nt" else Config(KernelManager={"transport": "ipc", "ip": f"{sockets}/kernel"})
        papermill.execute_notebook(str(notebook), str(output), parameters, progress_bar=False, stderr_file=sys.stderr,
                                   kernel_name="python3", config=kernel)
    drop_progress(Path(output))


def drop_progress(path: Path) -> None:
    """Leaves out what the finished notebook's cells wrote to stderr, and the times and paths of this execution."""
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata.pop("papermill", None)
    for cell in notebook.cells:
        cell.metadata.pop("papermill", None)
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if not (o.output_type == "stream" and o.name == "stderr")]
    nbformat.write(notebook, path)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m facelib.batch", description="Run a notebook with papermill, strictly.")
    parser.add_argument("notebook", type=Path)
    parser.add_argument("output", type=Path)
    add_options(parser)
    options = parser.parse_args(arguments)
    try:
        run(options.notebook, options.output, given(options.notebook, options.f, options.p))
    except ParameterError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except papermill.PapermillExecutionError as error:
        print(f"error: {options.notebook} failed in cell {error.exec_count}: {error.ename}: {error.evalue}\n"
              f"The executed notebook, up to there: {options.output}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

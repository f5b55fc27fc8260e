"""Strict notebooks: what papermill would let pass is refused before anything runs."""

import json
from pathlib import Path

import nbformat
import pytest

from facelib import batch

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


@pytest.fixture
def notebook(tmp_path):
    book = nbformat.v4.new_notebook(metadata={"kernelspec": {"name": "python3", "language": "python", "display_name": "Python 3"}})
    cell = nbformat.v4.new_code_cell('epochs = 3  # how long\nrate = 0.5\nname = "x"\nshares = [0.1]')
    cell.metadata["tags"] = ["parameters"]
    book.cells = [cell, nbformat.v4.new_code_cell("import sys\nprint('progress', file=sys.stderr)\nprint(epochs * rate, name)")]
    nbformat.write(book, tmp_path / "book.ipynb")
    return tmp_path / "book.ipynb"


def output_of(path):
    return [o.text for cell in nbformat.read(path, 4).cells if cell.cell_type == "code" for o in cell.outputs]


def test_runs_with_its_parameters_and_keeps_no_progress(notebook, tmp_path):
    assert batch.main([str(notebook), str(tmp_path / "out.ipynb"), "-p", "epochs", "7", "-p", "name", "8", "-p", "rate", "5e-1"]) == 0
    assert output_of(tmp_path / "out.ipynb") == ["3.5 8\n"]


@pytest.mark.parametrize("name, value, complaint", [
    ("epoch", "7", "no parameter 'epoch'; did you mean 'epochs'?"),
    ("epochs", "many", "'epochs' is int (default 3), found str 'many'"),
    ("epochs", "2.5", "'epochs' is int (default 3), found float 2.5"),
    ("epochs", "true", "'epochs' is int (default 3), found bool True"),
    ("shares", "0.1", "'shares' is list (default [0.1]), found float 0.1"),
    ("shares", "[0.1, 0.2", "'shares' is list (default [0.1]), found '[0.1, 0.2'"),
    ("rate", "slow", "'rate' is float (default 0.5), found 'slow'"),
])
def test_wrong_parameters_are_refused_before_anything_runs(notebook, tmp_path, capsys, name, value, complaint):
    assert batch.main([str(notebook), str(tmp_path / "out.ipynb"), "-p", name, value]) == 2
    assert complaint in capsys.readouterr().err
    assert not (tmp_path / "out.ipynb").exists()


def test_int_stands_for_float_and_later_files_win(notebook, tmp_path):
    (tmp_path / "a.yaml").write_text("all: {epochs: 5}\nbook: {rate: 2}\n")
    (tmp_path / "b.yaml").write_text("epochs: 6\n")
    arguments = [str(notebook), str(tmp_path / "out.ipynb"), "-f", str(tmp_path / "a.yaml"), "-f", str(tmp_path / "b.yaml")]
    assert batch.main(arguments) == 0
    assert output_of(tmp_path / "out.ipynb") == ["12.0 x\n"]


@pytest.mark.parametrize("content, complaint", [("- 1\n", "expected names and values"), ("all: {}\nbook: 3\n", "'book' stands beside 'all'"),
                                                ("a: [", "cannot read"), ("all: {}\nbok: {epochs: 3}\n", "no notebook 'bok'")])
def test_wrong_yaml_is_refused(notebook, tmp_path, capsys, content, complaint):
    (tmp_path / "a.yaml").write_text(content)
    assert batch.main([str(notebook), str(tmp_path / "out.ipynb"), "-f", str(tmp_path / "a.yaml")]) == 2
    assert complaint in capsys.readouterr().err


def test_failing_cell_is_named_and_exits_with_1(notebook, tmp_path, capsys):
    book = nbformat.read(notebook, 4)
    book.cells.append(nbformat.v4.new_code_cell("raise ValueError('no such folder')"))
    nbformat.write(book, notebook)
    assert batch.main([str(notebook), str(tmp_path / "out.ipynb")]) == 1
    assert "ValueError: no such folder" in capsys.readouterr().err


def test_every_preset_fits_every_notebook():
    presets = sorted((NOTEBOOKS / "presets").glob("*.yaml"))
    notebooks = sorted(NOTEBOOKS.glob("[1-4]_*.ipynb"))  # 5_comparison takes what the others left
    assert presets and len(notebooks) == 4
    for preset in presets:
        for notebook in notebooks:
            given = batch.from_yaml(preset, notebook)
            assert batch.checked(given, batch.declared(notebook), notebook.name)["preset"] == preset.stem


def test_notebooks_are_saved_without_outputs_and_say_what_each_parameter_is():
    for path in NOTEBOOKS.glob("*.ipynb"):
        book = json.loads(path.read_text())
        assert not any(cell.get("outputs") or cell.get("execution_count") for cell in book["cells"])
        [parameters] = [c for c in book["cells"] if "parameters" in c["metadata"].get("tags", [])]
        assert all("  # " in line for line in "".join(parameters["source"]).splitlines() if line.strip())


def test_notebooks_open_with_the_laptop_presets_parameters():
    """In JupyterLab, where nobody passes a preset, a notebook runs what `make study` runs."""
    for notebook in NOTEBOOKS.glob("[1-4]_*.ipynb"):
        defaults = batch.declared(notebook)
        assert defaults == defaults | batch.from_yaml(NOTEBOOKS / "presets" / "laptop.yaml", notebook)

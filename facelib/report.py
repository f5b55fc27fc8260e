"""One static website of everything under results/: executed notebooks, figures, tables, manifests.

    python -m facelib.report [results] [build/report]

An index comes first; every page leads to it. The site opens from a folder (file://) and from any web server, and asks
nothing of the network. Executed notebooks are turned into pages by nbconvert. Needs no torch.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import jinja2
import nbformat
from nbconvert import HTMLExporter
from nbconvert.filters import markdown2html
from PIL import Image
from pygments.formatters import HtmlFormatter

from facelib.results import read_table

HERE = Path(__file__).parent
MARK = ".facelib-report"  # the file that says that a folder is a report, and may be made anew
FIRST_FIGURE = "eer"  # of those in a folder, the one that the index shows
PIXELS_PER_INCH = 130  # of a printed figure on a screen
WIDE = 700  # CSS pixels: figures of two columns
TABLES = (".csv", ".md", ".tex")
MOST_ROWS = 40  # of a table that is shown whole; longer ones are linked

# Parameters, folded away: they are there twice, as defaults and as what was given.
NOTEBOOK = """{% extends 'basic/index.html.j2' %}
{% block input_group %}{% set tags = cell.metadata.get('tags', []) %}
{% if 'parameters' in tags or 'injected-parameters' in tags %}
<details><summary>{{ 'Parameters and their defaults' if 'parameters' in tags else 'Parameters of this run' }}</summary>{{ super() }}</details>
{% else %}{{ super() }}{% endif %}{% endblock %}"""


@dataclass(frozen=True)
class Page:
    """A page of the site: its address below the site's folder, and what links to it say."""

    path: str
    title: str


@dataclass(frozen=True)
class Figure:
    """A figure that a folder of results holds; path is that of the PNG below the site's folder, width and height are in
    CSS pixels: a journal's column of 3.5 inches takes about half of a page."""

    path: str
    caption: str
    width: int
    height: int

    @property
    def name(self) -> str:
        return Path(self.path).stem

    @property
    def alt(self) -> str:
        """The caption's first sentence, up to a line's length."""
        return re.split(r"(?<=[a-z)])[.;] ", self.caption)[0][:200] or self.name


@dataclass(frozen=True)
class Table:
    """A table in one or several formats; html is None for one that is too long to be shown."""

    name: str
    files: list[str]
    html: str | None
    rows: int | None


@dataclass(frozen=True)
class Folder:
    """What one folder of results holds: those of a network, of the faces, of the comparison."""

    page: Page
    figures: list[Figure]
    tables: list[Table]
    manifest: dict
    manifest_file: str | None

    @property
    def first_figure(self) -> Figure | None:
        return next((figure for figure in self.figures if figure.name == FIRST_FIGURE), next(iter(self.figures), None))


@dataclass(frozen=True)
class Preset:
    """One folder below results/: a preset's, or results that belong to none."""

    name: str
    about: str
    notebooks: list[Page]
    folders: list[Folder]

    @property
    def pages(self) -> list[Page]:
        return self.notebooks + [folder.page for folder in self.folders]


def build(results: Path, site: Path, presets: Path = Path("notebooks/presets")) -> Path:
    """Makes the website anew and returns its index; presets: where the presets' files say in their first comment what they are.

    Raises FileNotFoundError when there are no results.
    """
    found = [folder for folder in sorted(Path(results).iterdir()) if folder.is_dir()] if Path(results).is_dir() else []
    if not found:
        raise FileNotFoundError(f"no results below {results}; `make study` makes some")
    site = Path(site)
    if site.exists() and not (site / MARK).exists() and any(site.iterdir()):
        raise FileExistsError(f"{site} holds something else than a report; remove it or name another folder")
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True)
    (site / MARK).touch()
    style = (HERE / "report.css").read_text() + HtmlFormatter(style="default").get_style_defs(".highlight")
    (site / "style.css").write_text(style)
    # Presets first, and of these real faces; then what belongs to none.
    found.sort(key=lambda folder: (not any(folder.glob("notebooks/*.ipynb")), folder.name != "real-faces", folder.name))
    made = [_preset(folder, site, presets) for folder in found]
    render = _Renderer(site, made)
    for preset in made:
        for page, source in zip(preset.notebooks, sorted((Path(results) / preset.name).glob("notebooks/*.ipynb"))):
            render(page, "notebook.html", preset, body=_notebook(source, site / page.path))
        for folder in preset.folders:
            render(folder.page, "folder.html", preset, folder=folder)
    render(Page("index.html", "Pruning face recognition networks"), "index.html", None)
    return site / "index.html"


def _preset(source: Path, site: Path, presets: Path) -> Preset:
    notebooks = [Page(f"{source.name}/{path.stem}.html", _title(path)) for path in sorted(source.glob("notebooks/*.ipynb"))]
    inside = [source, *(path for path in sorted(source.iterdir()) if path.is_dir() and path.name not in ("notebooks", "figures"))]
    inside.sort(key=lambda path: (path.name == "faces", path.name != "comparison"))
    folders = [_folder(path, source, site) for path in inside]
    return Preset(source.name, _about(presets / f"{source.name}.yaml"), notebooks,
                  [folder for folder in folders if folder.figures or folder.tables])


def _about(path: Path) -> str:
    """The comment that a preset's file begins with."""
    if not path.is_file():
        return ""
    lines = path.read_text().splitlines()
    comment = lines[:next((n for n, line in enumerate(lines) if not line.startswith("#")), len(lines))]
    return " ".join(line.removeprefix("#").strip() for line in comment)


def _folder(path: Path, source: Path, site: Path) -> Folder:
    """Copies the figures, tables and the manifest of a folder into the site."""
    name = path.name
    page = Page(f"{source.name}/{name if path != source else 'tables'}-results.html", f"Results: {name}")
    files = [file for file in sorted(path.glob("*") if path == source else path.rglob("*")) if file.is_file() and file.suffix != ".safetensors"]
    for file in files:
        target = site / file.relative_to(source.parent)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    address = {file: file.relative_to(source.parent).as_posix() for file in files}
    figures = [_figure(file, address[file]) for file in files if file.suffix == ".png"]
    stems = dict.fromkeys(file.with_suffix("") for file in files if file.suffix in TABLES)
    tables = [_table(stem.relative_to(path).as_posix(), [file for file in files if file.with_suffix("") == stem], address)
              for stem in stems]
    manifest = path / "manifest.json"
    return Folder(page, figures, tables, json.loads(manifest.read_text()) if manifest.exists() else {}, address.get(manifest))


def _figure(file: Path, address: str) -> Figure:
    caption = file.with_suffix(".txt")
    return Figure(address, caption.read_text().strip() if caption.exists() else file.stem, *_size(file))


def _size(png: Path | io.BytesIO) -> tuple[int, int]:
    """Width and height on a screen, in CSS pixels."""
    with Image.open(png) as image:
        scale = PIXELS_PER_INCH / image.info.get("dpi", (300, 300))[0]
        return round(image.width * scale), round(image.height * scale)


def _table(name: str, files: list[Path], address: dict[Path, str]) -> Table:
    by_suffix = {file.suffix: file for file in files if file.suffix in TABLES}
    html = rows = None
    if ".csv" in by_suffix:
        table = read_table(by_suffix[".csv"])
        rows = len(table)
        if rows <= MOST_ROWS:
            html = table.to_html(index=False, border=0, na_rep="", float_format=lambda number: f"{number:.4g}")
    if ".md" in by_suffix:
        html = markdown2html(by_suffix[".md"].read_text())
    return Table(name, [address[file] for file in by_suffix.values()], html, rows)


def _title(path: Path) -> str:
    """A notebook's first heading, else its name."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown" and (heading := re.search(r"^# (.+)$", cell.source, re.MULTILINE)):
            return heading[1]
    return path.stem


def _notebook(path: Path, page: Path) -> str:
    """A notebook's HTML; its pictures go into a folder beside the page, with the heading above them as description."""
    notebook = nbformat.read(path, as_version=4)
    heading, number = _title(path), 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            heading = ([heading] + re.findall(r"^#+ (.+)$", cell.source, re.MULTILINE))[-1]
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                number += 1
                width, height = _size(io.BytesIO(base64.b64decode(output.data["image/png"])))
                output.metadata["image/png"] = {"alt": f"Figure {number}: {heading}", "width": width, "height": height,
                                                "unconfined": width > WIDE}
    exporter = HTMLExporter(raw_template=NOTEBOOK, exclude_anchor_links=True, exclude_input_prompt=True, exclude_output_prompt=True)
    exporter.register_preprocessor("nbconvert.preprocessors.ExtractOutputPreprocessor", enabled=True)
    body, resources = exporter.from_notebook_node(notebook, {"output_files_dir": f"{page.stem}_files", "unique_key": page.stem})
    for name, content in resources.get("outputs", {}).items():
        (page.parent / name).parent.mkdir(parents=True, exist_ok=True)
        (page.parent / name).write_bytes(content)
    return body


class _Renderer:
    """Writes pages from report.html's templates; addresses are relative, so that the site can be anywhere."""

    def __init__(self, site: Path, presets: list[Preset]):
        self.site, self.presets = site, presets
        parts = re.split(r"^{# -+ (\S+) #}\n", (HERE / "report.html").read_text(), flags=re.MULTILINE)
        self.environment = jinja2.Environment(loader=jinja2.DictLoader(dict(zip(parts[1::2], parts[2::2]))), autoescape=True,
                                              trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)
        self.environment.globals |= {"machine": _machine, "wide": WIDE}

    def __call__(self, page: Page, template: str, preset: Preset | None, **content) -> None:
        target = self.site / page.path
        target.parent.mkdir(parents=True, exist_ok=True)
        top = "../" * (len(Path(page.path).parts) - 1)
        target.write_text(self.environment.get_template(template).render(
            page=page, preset=preset, presets=self.presets, top=top, **content), encoding="utf-8")


def _machine(manifest: dict) -> dict[str, str]:
    """What a manifest says of how results came about, in words."""
    device, versions, commit = (manifest.get(key) or {} for key in ("device", "versions", "commit"))
    parts = {name: part.get("seconds", 0) for name, part in manifest.get("parts", {}).items()}
    words = {"commit": f"{commit[:12]}{'-dirty' * commit.endswith('-dirty')}{_date(commit)}" if commit else "",
             "versions": ", ".join(f"{name} {version}" for name, version in versions.items() if version),
             "machine": ", ".join(str(part) for part in (device.get("gpu"), device.get("processor"),
                                                         f"{device['threads']} threads" if "threads" in device else "") if part),
             "time": ", ".join(f"{name} {_duration(seconds)}" for name, seconds in parts.items() if seconds)}
    return {name: text for name, text in words.items() if text}


def _date(commit: str) -> str:
    """The day of a commit, where git knows it."""
    try:
        command = ["git", "-C", str(HERE), "show", "--no-patch", "--format=%cs", commit.removesuffix("-dirty")]
        return f" ({subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()})"
    except (OSError, subprocess.CalledProcessError):
        return ""


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m facelib.report", description="One static website of all results.")
    parser.add_argument("results", type=Path, nargs="?", default=Path("results"))
    parser.add_argument("site", type=Path, nargs="?", default=Path("build/report"))
    options = parser.parse_args(arguments)
    try:
        print(f"report: {build(options.results, options.site)}")
    except OSError as error:
        parser.exit(2, f"error: {error}\n")


if __name__ == "__main__":
    main()

"""The report: a site whose links lead somewhere, whose pictures are there and described, and that a browser shows without complaint."""

import functools
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
import pytest
from bs4 import BeautifulSoup
from PIL import Image

from facelib import report

ROOT = Path(__file__).parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The report of the project's own results."""
    return report.build(ROOT / "results", tmp_path_factory.mktemp("site") / "report", ROOT / "notebooks/presets").parent


@pytest.fixture(scope="module")
def pages(site):
    return {path: BeautifulSoup(path.read_text(), "html.parser") for path in site.rglob("*.html")}


@pytest.fixture
def small(tmp_path):
    """Results of one preset: a notebook with a table and a picture, a figure, tables short and long, a manifest."""
    folder = tmp_path / "results" / "small"
    (folder / "squeezenet" / "figures").mkdir(parents=True)
    (folder / "notebooks").mkdir()
    picture = folder / "squeezenet" / "figures" / "eer.png"
    Image.new("RGB", (1050, 600), "white").save(picture, dpi=(300, 300))
    picture.with_suffix(".pdf").write_bytes(b"")
    picture.with_suffix(".txt").write_text("EER of <squeezenet> (%). Bands: 95 %.\n")
    (folder / "squeezenet" / "short.csv").write_text("network,rate\nsqueezenet,0.25\n")
    (folder / "squeezenet" / "arms").mkdir()
    (folder / "squeezenet" / "arms" / "short.csv").write_text("network,rate\nsqueezenet,0.5\n")
    (folder / "squeezenet" / "long.csv").write_text("step\n" + "1\n" * 500)
    (folder / "squeezenet" / "claims.md").write_text("| claim | verdict |\n|---|---|\n| H1 | holds |\n")
    (folder / "squeezenet" / "claims.tex").write_text("\\begin{tabular}{ll}\\end{tabular}\n")
    manifest = {"commit": "0" * 40 + "-dirty", "versions": {"torch": "2"}, "device": {"processor": "P", "threads": 2, "gpu": None},
                "parts": {"training": {"seconds": 7300.0}}}
    (folder / "squeezenet" / "manifest.json").write_text(json.dumps(manifest))
    markdown = [nbformat.v4.new_markdown_cell(text) for text in ("# 2. Squeeze\n\nText.", "## What was found")]
    parameters = nbformat.v4.new_code_cell("seed = 0", metadata={"tags": ["parameters"]})
    output = nbformat.v4.new_output("display_data", {"image/png": "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="})
    book = nbformat.v4.new_notebook(cells=[markdown[0], parameters, markdown[1], nbformat.v4.new_code_cell("draw()", outputs=[output])])
    nbformat.write(book, folder / "notebooks" / "2_squeezenet.ipynb")
    return tmp_path / "results"

# ---------------------------------------------------------------------------------------------------------------- structure


def test_every_address_in_the_site_leads_to_something(site, pages):
    for path, page in pages.items():
        for tag in page.find_all(["a", "img", "link", "script", "iframe", "source"]):
            address = tag.get("href") or tag.get("src")
            parts = urlsplit(address)
            if parts.scheme in ("http", "https", "data"):
                assert tag.name == "a" or parts.scheme == "data", f"{path}: {address} is asked of the network"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.is_file() and target.is_relative_to(site.resolve()), f"{path}: {address}"
            if parts.fragment:
                assert pages[site / target.relative_to(site.resolve())].find(id=parts.fragment), f"{path}: {address}"


def test_nothing_is_asked_of_the_network_and_nothing_is_run(site, pages):
    assert not any(page.find(["script", "iframe", "object", "embed"]) for page in pages.values())
    assert not re.search(r"@import|url\(", (site / "style.css").read_text())


def test_every_page_has_one_first_heading_a_title_and_described_pictures(pages):
    for path, page in pages.items():
        assert len(page.find_all("h1")) == 1 and page.title.text.strip(), path
        assert page.html["lang"] == "en" and page.find("meta", {"name": "viewport"}), path
        assert all(picture.get("alt", "").strip() and picture.get("width") for picture in page.find_all("img")), path
        identities = [tag["id"] for tag in page.find_all(id=True)]
        assert len(identities) == len(set(identities)), path


def test_every_page_is_reached_from_the_index_and_leads_back(site, pages):
    linked = {(site / link["href"]).resolve() for link in pages[site / "index.html"].find_all("a") if "://" not in link["href"]}
    for path, page in pages.items():
        if path.name != "index.html":
            assert path.resolve() in linked
            assert "../index.html" in [link["href"] for link in page.header.find_all("a")]


def test_every_preset_notebook_figure_and_table_of_the_results_is_there(site, pages):
    index = pages[site / "index.html"]
    results = ROOT / "results"
    assert {section["id"] for section in index.find_all("section")} == {path.name for path in results.iterdir() if path.is_dir()}
    for path in results.rglob("*"):
        below = path.relative_to(results)
        if path.suffix in (".csv", ".md", ".tex"):
            assert index.find("a", href=below.as_posix()), path
        if path.suffix in (".png", ".pdf", ".csv", ".md", ".tex", ".json"):
            assert (site / below).read_bytes() == path.read_bytes()
        if path.suffix == ".ipynb":
            page = pages[site / below.parts[0] / f"{path.stem}.html"]
            assert len(page.find_all("img")) == sum("image/png" in output.get("data", {}) for cell in nbformat.read(path, 4).cells
                                                    for output in cell.get("outputs", []))


def test_a_folder_of_results_shows_captions_tables_and_how_they_came_about(small, tmp_path):
    site = report.build(small, tmp_path / "site").parent
    page = BeautifulSoup((site / "small/squeezenet-results.html").read_text(), "html.parser")
    assert page.figcaption.text == "EER of <squeezenet> (%). Bands: 95 %."
    assert page.img["alt"] == "EER of <squeezenet> (%)" and page.img["width"] == "455"  # 3.5 inches of 130 pixels
    assert [table.find_all(["td"])[-1].text for table in page.find_all("table")] == ["0.5", "holds", "0.25"]
    assert "500 rows" in page.text
    assert {link["href"] for link in page.find_all("a")} >= {f"../small/squeezenet/{name}" for name in (
        "short.csv", "arms/short.csv", "long.csv", "claims.md", "claims.tex", "manifest.json", "figures/eer.pdf", "figures/eer.png")}
    assert [tag.text for tag in page.find_all("dd")] == ["000000000000-dirty", "torch 2", "P, 2 threads", "training 2.0 h", "manifest.json"]


def test_pictures_of_a_notebook_are_named_after_the_heading_above_and_parameters_are_folded(small, tmp_path):
    site = report.build(small, tmp_path / "site").parent
    page = BeautifulSoup((site / "small/2_squeezenet.html").read_text(), "html.parser")
    assert page.h1.text == "2. Squeeze" and page.title.text == "2. Squeeze, small"
    assert page.img["alt"] == "Figure 1: What was found"
    assert "seed" in page.details.text and "draw" not in page.details.text


def test_a_report_made_again_keeps_nothing_of_the_one_before(small, tmp_path):
    site = report.build(small, tmp_path / "site").parent
    shutil.rmtree(small / "small" / "squeezenet")
    (site / "index.html").unlink()  # as Snakemake does with what a rule is to make anew
    report.build(small, site)
    assert not (site / "small" / "squeezenet").exists() and not (site / "small" / "squeezenet-results.html").exists()


def test_no_results_and_a_folder_of_something_else_are_refused(small, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="no results below"):
        report.build(tmp_path / "none", tmp_path / "site")
    (tmp_path / "homepage").mkdir()
    (tmp_path / "homepage" / "index.html").touch()
    with pytest.raises(SystemExit):
        report.main([str(small), str(tmp_path / "homepage")])
    assert "holds something else" in capsys.readouterr().err and (tmp_path / "homepage" / "index.html").exists()


def test_it_needs_no_torch(small, tmp_path):
    code = "import sys; from facelib import report; report.main(sys.argv[1:]); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code, str(small), str(tmp_path / "site")], check=True, cwd=ROOT)

# ------------------------------------------------------------------------------------------------------------- in a browser

# Opens every page in frames as wide as a phone and as a screen, and writes down what is wrong with it.
VISIT = """<!DOCTYPE html><title>visit</title><link rel="icon" href="data:,"><pre id="found"></pre><script>
const addresses = ADDRESSES, found = [];
async function visit(address, width) {
  const frame = document.createElement("iframe");
  frame.style.cssText = `width: ${width}px; height: 800px; border: 0`;
  frame.src = address;
  document.body.append(frame);
  await new Promise(loaded => frame.onload = loaded);
  const page = frame.contentDocument, say = text => found.push(`${address} at ${width}: ${text}`);
  if (!page.querySelector("h1")) say("no page");
  if (page.documentElement.scrollWidth > width) say(`${page.documentElement.scrollWidth} pixels wide`);
  for (const image of page.images) if (!image.naturalWidth) say(`missing ${image.getAttribute("src")}`);
  for (const {name, responseStatus} of frame.contentWindow.performance.getEntriesByType("resource")) {
    if (!name.startsWith(location.origin)) say(`asks for ${name}`);
    else if (responseStatus >= 400) say(`${responseStatus} for ${name}`);
  }
  frame.remove();
}
window.onload = async () => {
  for (const width of [390, 1280]) for (const address of addresses) await visit(address, width);
  document.getElementById("found").textContent = found.join("\\n") + "\\nvisited " + addresses.length;
};
</script>"""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


def complaints(site, base, tmp_path):
    """What a browser has against the pages of a site: console messages, missing pictures, pages wider than the window."""
    addresses = [f"{base}/{path.relative_to(site).as_posix()}" for path in sorted(site.rglob("*.html")) if path.name != "visit.html"]
    (site / "visit.html").write_text(VISIT.replace("ADDRESSES", json.dumps(addresses)))
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
               "--disable-component-update", "--disable-dev-shm-usage", "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}",
               "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "--enable-logging=stderr", "--v=0", "--window-size=1400,900",
               "--virtual-time-budget=600000", "--dump-dom", f"{base}/visit.html"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True, env=os.environ | {"HOME": str(tmp_path)})
    (site / "visit.html").unlink()
    *found, visited = BeautifulSoup(done.stdout, "html.parser").find(id="found").text.strip().splitlines() or [""]
    assert visited == f"visited {len(addresses)}", done.stderr
    return found + [line for line in done.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture
def serve():
    """Serves a folder on this machine; returns its address."""
    servers = []

    def start(folder):
        servers.append(ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium (Debian: apt-get install chromium)")


@needs_chromium
def test_a_browser_has_nothing_against_the_served_site(site, serve, tmp_path):
    assert complaints(site, serve(site), tmp_path) == []


@needs_chromium
def test_a_browser_has_nothing_against_the_site_in_a_folder(small, tmp_path):
    site = report.build(small, tmp_path / "a site").parent
    assert complaints(site, site.as_uri(), tmp_path) == []


@needs_chromium
def test_what_a_browser_would_complain_of_is_found(serve, tmp_path):
    (tmp_path / "site").mkdir()
    faults = '<img src="none.png"><div style="width: 600px">wide</div><script>nothing()</script><link rel="stylesheet" href="https://example.org/a.css"><link rel="stylesheet" href="none.css">'
    (tmp_path / "site" / "index.html").write_text(f"<!DOCTYPE html><h1>x</h1>{faults}")
    found = "\n".join(complaints(tmp_path / "site", serve(tmp_path / "site"), tmp_path))
    assert "at 390: 608 pixels wide" in found and "1280: 608" not in found  # 600 and the margin of 8
    for complaint in ("1280: missing none.png", "none.css", "asks for https://example.org/a.css", "nothing is not defined"):
        assert complaint in found

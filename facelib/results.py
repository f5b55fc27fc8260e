"""Tidy tables, run folders named by what was asked, and the manifest that says how numbers came about."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pandas as pd

from facelib.storage import replacing

CURVE = ["network", "criterion", "seed", "stage", "step", "filters", "groups", "filters_removed_pct", "parameters", "macs",
         "protocol", "pair", "template_size", "metric", "value", "ci_low", "ci_high", "genuine", "impostor"]
LAYERS = ["network", "criterion", "seed", "stage", "step", "layer", "kind", "depth", "coupling", "out_channels_original",
          "out_channels"]
PACKAGES = ["facelib", "torch", "torchvision", "numpy", "pandas", "scipy", "scikit-learn", "pillow", "safetensors",
            "mat-io", "onnxruntime"]
DET = ["network", "criterion", "seed", "stage", "step", "filters_removed_pct", "protocol", "pair", "template_size", "far", "frr",
       "genuine", "impostor"]
DIFFERENCES = ["network", "criterion", "seed", "stage", "step", "filters_removed_pct", "other_criterion", "other_seed", "other_stage",
               "other_step", "protocol", "pair", "template_size", "value", "ci_low", "ci_high"]
EVERY_PAIR = "all pose pairs"  # in place of one, where the mean over them stands
PROTOCOLS = {"pose_pairs": "test faces", "view2": "LFW View 2"}  # what readers call them where no poses are known
SCORES = ["network", "protocol", "pair", "template_size", "low", "high", "genuine", "impostor"]
NETWORKS = ("squeezenet", "mobilenetv2", "resnet50")  # the papers', smallest first


@dataclass(frozen=True)
class Run:
    """A folder for what one configuration computes: the same configuration finds it again, another one gets another."""

    folder: Path
    config: dict

    @classmethod
    def open(cls, runs: Path, name: str, config: dict, kept: Path | None = None) -> Run:
        """The folder runs/NAME-HASH of a configuration (what JSON can hold), made when it is not there. Files that somebody kept in
        kept/NAME-HASH, and that it lacks, are copied into it."""
        text = json.dumps(config, sort_keys=True)
        run = cls(Path(runs) / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}", config)
        for file in (kept / run.folder.name).glob("*") if kept else ():
            if not (run.folder / file.name).exists():
                with replacing(run.folder / file.name) as temporary:
                    shutil.copyfile(file, temporary)
        write_json(run.folder / "config.json", config)
        return run

    @contextmanager
    def timed(self, part: str, own: str = "") -> Iterator[None]:
        """Adds the block's duration to seconds-PART.json, also when the block fails, and the commit that ran it: a part that was
        resumed adds up, and tells of every commit that worked on it. A block that saved no checkpoint found all done.

        own: what the names of the block's checkpoints begin with; others' may be saved in the same folder meanwhile."""
        start, code, saved = time.monotonic(), commit() or "unknown", self._checkpoints(own)
        try:
            yield
        finally:
            if self._checkpoints(own) != saved:
                seconds = time.monotonic() - start
                before = self.parts().get(part, {"seconds": 0.0, "commits": []})
                write_json(self.folder / f"seconds-{part}.json", {"seconds": round(before["seconds"] + seconds, 1),
                                                                  "commits": sorted({*before["commits"], code})})

    def _checkpoints(self, own: str) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in self.folder.rglob("*.safetensors")
                if path.relative_to(self.folder).as_posix().startswith(own)}

    def parts(self) -> dict[str, dict]:
        """Seconds spent so far on each timed part, and the commits of the code that ran."""
        return {path.stem.removeprefix("seconds-"): json.loads(path.read_text()) for path in self.folder.glob("seconds-*.json")}


def file_hash(path: Path) -> str:
    """The first 16 hexadecimal digits of a file's SHA-256."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def write_json(path: Path, content: dict) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_table(table: pd.DataFrame, columns: list[str] | None, path: Path) -> None:
    """Writes a tidy table (all its columns when None) as CSV, atomically; floats with all their digits, so that reading gives the same numbers."""
    with replacing(path) as temporary:
        table[columns or list(table)].to_csv(temporary, index=False, lineterminator="\n")


def read_table(path: Path) -> pd.DataFrame:
    return pd.read_csv(path)


def manifest(config: dict, parts: dict[str, dict], **more) -> dict:
    """How results came about: parameters, the parts' durations in seconds and commits; versions, commit and machine of
    the last execution, which wrote the tables."""
    import torch  # figures are redrawn without it

    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    device = {"processor": processor(), "threads": torch.get_num_threads(), "capability": torch.backends.cpu.get_cpu_capability(),
              "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None}
    return {"config": config, "versions": versions, "commit": commit(), "device": device,
            "parts": parts} | more


def processor() -> str:
    """The processor's name, as well as the platform tells."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if names:
            return names[0]
    return platform.processor() or platform.machine()


def commit() -> str | None:
    """The commit of the code that runs, with "-dirty" when the package's files differ from it; None outside a git checkout."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        found = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain", "."], capture_output=True, text=True, check=True).stdout
        return found + "-dirty" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return None


def summary(curve: pd.DataFrame, metric: str = "eer", removed: tuple[float, ...] = (0, 10, 20, 30, 40, 50, 60)) -> pd.DataFrame:
    """A metric in percent, with its interval, at the evaluated steps nearest to `removed` percent of the filters.

    A column for each step, as pruned, fine-tuned, from-scratch or control; a row with the parameters left, then one for each template
    size and pose pair.
    Raises ValueError when the table does not hold the metric.
    """
    rows = curve[curve["metric"] == metric]
    if rows.empty:
        raise ValueError(f"no rows of the metric '{metric}'; the table has {', '.join(sorted(curve['metric'].unique()))}")
    share = rows[rows["stage"] == "pruned"].groupby("step")["filters_removed_pct"].first()
    nearest = {int((share - wanted).abs().idxmin()) for wanted in removed if wanted <= share.max() + 1}
    columns = {}
    for stage in ("pruned", "fine-tuned", "from-scratch", "control"):
        for step, found in rows[(rows["stage"] == stage) & rows["step"].isin(nearest)].groupby("step"):
            name = f"{share[step]:.0f} %" + ("" if stage == "pruned" else f", {stage}")
            cells = {line_name(row.protocol, row.pair, row.template_size): in_percent(row) for row in found.itertuples()}
            columns[name] = {"parameters": f"{found['parameters'].iloc[0]:,}"} | cells
    return pd.DataFrame(columns).rename_axis(columns="filters removed").fillna("–")


def summary_markdown(curve: pd.DataFrame) -> str:
    """`summary` of the EER, a row for each stage and step, and `findings`, as two Markdown tables."""
    tables = [summary(curve).T.rename_axis(index="filters removed").reset_index(),
              findings(curve).rename_axis(index="EER (%)").reset_index()]
    return "\n".join(table.to_markdown(index=False, disable_numparse=True, colalign=["left"] + ["right"] * (table.shape[1] - 1))
                     + "\n" for table in tables)


def findings(curve: pd.DataFrame, metric: str = "eer") -> pd.DataFrame:
    """What pruning did to a metric, in percent, one row for each template size and pose pair: unpruned, at the last step, and
    the share of filters removed up to which every evaluated network lies within the unpruned one's interval. Of what was
    measured at every step alone."""
    pruned = curve[(curve["stage"] == "pruned") & (curve["metric"] == metric)].sort_values("step")
    rows = {}
    for (protocol, size, pair), found in pruned.groupby(["protocol", "template_size", "pair"], sort=False):
        if found["step"].nunique() < pruned["step"].nunique():
            continue
        before, after = found.iloc[0], found.iloc[-1]
        worse = found["value"] > before["ci_high"]
        held = found["filters_removed_pct"][~worse.cummax()].max()
        rows[line_name(protocol, pair, size)] = {"unpruned": in_percent(before), f"{after['filters_removed_pct']:.0f} % removed": in_percent(after),
                                       "within the unpruned interval up to": f"{held:.0f} %"}
    return pd.DataFrame.from_dict(rows, orient="index")


def row_name(pair: str, template_size: int) -> str:
    return f"{pair}, {size_name(template_size)}"


def line_name(protocol: str, pair: str, template_size: int) -> str:
    """Of a line of the curve, in tables."""
    return row_name(pair_name(protocol, pair), template_size)


def pair_name(protocol: str, pair: str) -> str:
    """What comparisons are called: their pose pair or, where no poses are known, their protocol."""
    return pair if pair != "any-any" else PROTOCOLS.get(protocol, protocol)


def size_name(template_size: int) -> str:
    return "single images" if template_size == 1 else f"templates of up to {template_size}"


@dataclass(frozen=True)
class StudyTables:
    """What the study of one network left in its folder; a table that was not made has no rows.

    curve, layers: the main run. arms, arms_layers: the controls at one equal budget. differences: EER of one network less that
    of another, of every pose pair and of their mean, paired on the same subjects. det: DET curves at the chosen steps. scores: histogram of the
    unpruned network's similarity scores. manifest: how they came about.
    """

    network: str
    curve: pd.DataFrame
    layers: pd.DataFrame
    arms: pd.DataFrame
    arms_layers: pd.DataFrame
    differences: pd.DataFrame
    det: pd.DataFrame
    scores: pd.DataFrame
    manifest: dict

    @classmethod
    def load(cls, folder: Path) -> StudyTables:
        """Raises FileNotFoundError when curve.csv or layers.csv is missing."""
        folder = Path(folder)
        curve, layers = (read_table(folder / f"{name}.csv") for name in ("curve", "layers"))
        more = {name: read_table(path) if (path := folder / file).exists() else pd.DataFrame(columns=columns)
                for name, file, columns in [("arms", "arms/curve.csv", CURVE), ("arms_layers", "arms/layers.csv", LAYERS),
                                            ("differences", "differences.csv", DIFFERENCES),
                                            ("det", "det.csv", DET), ("scores", "scores.csv", SCORES)]}
        manifest = json.loads(path.read_text()) if (path := folder / "manifest.json").exists() else {}
        return cls(curve["network"].iloc[0], curve, layers, manifest=manifest, **more)


def load_studies(preset: Path) -> dict[str, StudyTables]:
    """The tables of every network that results/PRESET holds, by network, the smallest first."""
    found = [StudyTables.load(path.parent) for path in sorted(Path(preset).glob("*/curve.csv"))]
    order = {network: place for place, network in enumerate(NETWORKS)}
    return {study.network: study for study in sorted(found, key=lambda study: (order.get(study.network, len(order)), study.network))}


def missing_networks(preset: Path) -> list[str]:
    """The papers' networks that results/PRESET does not hold."""
    return [network for network in NETWORKS if not (Path(preset) / network / "curve.csv").exists()]


def write_readable(table: pd.DataFrame, path_stem: Path, wide: tuple[str, ...] = ()) -> None:
    """Writes a table of text as Markdown (.md) and as LaTeX with booktabs rules (.tex); `wide` columns wrap their text."""
    columns = "".join("p{6cm}" if column in wide else "l" for column in table.columns)
    texts = {".md": table.to_markdown(index=False, disable_numparse=True) + "\n",
             ".tex": table.to_latex(index=False, escape=True, column_format=columns).translate(
                 {ord("−"): "$-$", ord("–"): "--", ord("<"): "$<$"})}
    for suffix, text in texts.items():
        with replacing(Path(f"{path_stem}{suffix}")) as temporary:
            temporary.write_text(text, encoding="utf-8")


def in_percent(row) -> str:
    """A row's rate and its interval: 11.1 (9.6 to 12.8)."""
    return f"{100 * row.value:.1f} ({100 * row.ci_low:.1f} to {100 * row.ci_high:.1f})"

"""Large sets are listed once: an index in Parquet remembers their table while their folders stay as they are."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from facelib.faces.faceset import FaceSet
from facelib.storage import replacing

LARGE = 100_000  # images: below, listing takes about as long as reading an index
VERSION = b"1"  # of the index files: raise it when their content changes


def cache_folder() -> Path:
    """Where facelib keeps what it can make again: FACELIB_CACHE, or ~/.cache/facelib."""
    return Path(os.environ.get("FACELIB_CACHE", Path.home() / ".cache" / "facelib"))


def indexed(name: str, root: Path, reader: Callable, build: Callable[[], tuple[pd.DataFrame, list[Path]]],
            large: int = LARGE) -> FaceSet:
    """The set `name` below `root`, from its index where there is one and nothing has changed since it was written.

    build: lists the images (rows as FaceSet.from_rows takes them), and names the files and folders that decide the
        rows; the index holds as long as none of these has another size or time of change. An image replaced by
        another of the same name changes no row, and so no index.
    """
    key = hashlib.sha256(f"{name}\n{root.resolve()}".encode()).hexdigest()[:16]
    path = cache_folder() / f"index-{key}.parquet"
    table = _read(path)
    if table is not None:
        return FaceSet(table, {name: reader})
    began = time.time_ns()
    rows, inputs = build()
    faces = FaceSet.from_rows(rows, name, reader)
    if len(faces) >= large:
        stamps = {str(file): _stamp(file) for file in inputs}
        if all(stamp is None or stamp[0] < began for stamp in stamps.values()):  # else it may have changed half-way
            _write(path, faces.table, stamps)
    return faces


def _stamp(path: str | Path) -> list[int] | None:
    """Time of change (ns) and size of a file or folder; None where there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_mtime_ns, found.st_size]


def _read(path: Path) -> pd.DataFrame | None:
    """The table of an index, or None when there is no whole one, or what it lists has changed."""
    try:
        with pq.ParquetFile(path) as file:
            about = file.schema_arrow.metadata
            stamps = json.loads(about[b"stamps"]) if about.get(b"version") == VERSION else None
            if stamps is None or any(_stamp(name) != stamp for name, stamp in stamps.items()):
                return None
            table = file.read().to_pandas(types_mapper={pa.string(): pd.StringDtype("pyarrow")}.get)
            return table.astype(dict.fromkeys(["subject", "pose", "set"], "category"))  # it forgets one without names
    except (OSError, pa.ArrowException):
        return None


def _write(path: Path, table: pd.DataFrame, stamps: dict[str, list[int] | None]) -> None:
    content = pa.Table.from_pandas(table, preserve_index=False)
    about = content.schema.metadata | {b"version": VERSION, b"stamps": json.dumps(stamps)}
    with replacing(path) as temporary:
        pq.write_table(content.replace_schema_metadata(about), temporary)

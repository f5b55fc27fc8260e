"""Files that are either whole or not there: atomic writing, checkpoints without pickle (safetensors); users' paths."""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:
    from torch import Tensor


class CheckpointError(ValueError):
    """A checkpoint cannot be read or does not fit."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and is removed when it does not.

    A kill or a full disk at any moment leaves the file that was there before.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")  # machines that share the folder may share a process number
    try:
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def user_path(path: str | Path) -> Path:
    """A path as users write it, with ~ and $VARIABLES; a relative one starts at the project, where batch runs, also from
    notebooks/, where JupyterLab does."""
    path = Path(os.path.expandvars(path)).expanduser()
    return path if path.is_absolute() or Path.cwd().name != "notebooks" else Path("..") / path


def save_checkpoint(path: Path, tensors: dict[str, Tensor], metadata: dict) -> None:
    """Writes tensors and what JSON can hold into one safetensors file, atomically. Raises OSError when the disk is full."""
    from safetensors.torch import save_file  # loads torch, which tables and figures do without

    with replacing(path) as temporary:
        try:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary,
                      {"facelib": json.dumps(metadata)})
        except (SafetensorError, OSError) as error:
            raise OSError(f"cannot write the checkpoint {path}: {error}. What was saved before is whole: make room and "
                          "run again.") from error


def load_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors (on the CPU) and metadata of a checkpoint. Raises CheckpointError when it is not one, or cut short."""
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if "facelib" not in metadata:
                raise CheckpointError(f"{path} is a safetensors file, but not a checkpoint of facelib")
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(metadata["facelib"])
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"cannot read the checkpoint {path}: {error}. Delete it to start its part anew.") from error


def check_same_run(path: Path, saved: dict, **asked) -> None:
    """Raises ValueError when the metadata of the checkpoint to go on from has something else than asked under a name: `origin`
    is the fingerprint of the network that the run began with."""
    for name, value in asked.items():
        value = json.loads(json.dumps(value))  # as it was saved: tuples are lists
        found = saved.get(name, value)
        if isinstance(found, dict) and isinstance(value, dict):  # only what differs is worth reading
            fields = [field for field in {**found, **value} if found.get(field, "nothing") != value.get(field, "nothing")]
            found, value = ({field: one.get(field, "nothing") for field in fields} for one in (found, value))
        if found != value:
            raise ValueError(f"{path} is a run with {name} {found}, not {value}: every run has its folder. "
                             "Take another, or delete this file to start its part anew")


def fingerprint(tensors: dict[str, Tensor]) -> str:
    """The first 16 hexadecimal digits of a hash of the tensors' names and values."""
    from safetensors.torch import save

    return hashlib.sha256(save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})).hexdigest()[:16]


def prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose name starts with prefix/, without it."""
    return {name.removeprefix(f"{prefix}/"): t for name, t in tensors.items() if name.startswith(f"{prefix}/")}

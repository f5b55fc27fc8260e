"""Files are whole or not there."""

import os

import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from facelib.results import read_table, write_table
from facelib.storage import CheckpointError, load_checkpoint, prefixed, replacing, save_checkpoint, under


def test_checkpoint_round_trip(tmp_path):
    tensors = {"a/b": torch.randn(3, 4).to(torch.bfloat16), "c": torch.arange(5)}
    save_checkpoint(tmp_path / "x.safetensors", tensors, {"step": 3, "value": 0.1})
    found, metadata = load_checkpoint(tmp_path / "x.safetensors")
    assert metadata == {"step": 3, "value": 0.1}
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)
    assert under("a", prefixed("a", {"b": tensors["c"]}))["b"] is tensors["c"]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(numbers=st.lists(st.floats(allow_nan=False), min_size=1))
def test_tables_keep_every_digit(tmp_path, numbers):
    write_table(pd.DataFrame({"value": numbers}), None, tmp_path / "table.csv")
    assert read_table(tmp_path / "table.csv")["value"].tolist() == numbers


def test_interrupted_writing_leaves_what_was_there(tmp_path):
    (tmp_path / "x").write_text("before")
    with pytest.raises(OSError, match="disk full"), replacing(tmp_path / "x") as temporary:
        temporary.write_text("half")
        raise OSError("disk full")
    assert (tmp_path / "x").read_text() == "before" and os.listdir(tmp_path) == ["x"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full here")
def test_full_disk_while_saving_loses_nothing(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, {"a": torch.zeros(2)}, {})
    monkeypatch.setattr("safetensors.torch.save_file", lambda *_: open("/dev/full", "wb", buffering=0).write(b"x"))
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(path, {"a": torch.ones(2)}, {})
    assert torch.equal(load_checkpoint(path)[0]["a"], torch.zeros(2))


def test_what_is_no_checkpoint_of_ours_is_an_error(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    (tmp_path / "text.safetensors").write_text("no")
    for name, complaint in [("foreign", "not a checkpoint of facelib"), ("text", "cannot read"), ("missing", "cannot read")]:
        with pytest.raises(CheckpointError, match=complaint):
            load_checkpoint(tmp_path / f"{name}.safetensors")

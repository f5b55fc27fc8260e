"""Pruned networks leave for other runtimes: torch.export and ONNX give the same logits and descriptors."""

import importlib.util

import onnx
import pytest
import torch
from test_channels import some_groups

from facelib.networks import build, export_onnx
from facelib.pruning import graph_of
from facelib.published import OnnxNetwork

NAMES = ["squeezenet", "mobilenetv2", "resnet50"]
SIZE = 64


def pruned(name, multiple=1):
    """A network without 30 % of its groups, whose statistics are those of some images, and its graph."""
    torch.manual_seed(0)
    network = build(name, 7, SIZE, 2)
    graph = graph_of(network)
    graph.remove(some_groups(graph, 0.3))
    graph.align(multiple)
    with torch.no_grad():
        network.train()(faces(8))
    return network.eval(), graph


def faces(number):
    """Random pixels of 0-255 less a mean."""
    return 255 * torch.rand(number, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(number)) - 120


def assert_same(found, expected):
    """Relative to the descriptor's or the logits' norm: runtimes add in other orders, in float32."""
    assert found.shape == expected.shape
    assert ((found - expected).norm(dim=1) <= 1e-5 * expected.norm(dim=1)).all()


@pytest.mark.parametrize("name", NAMES)
def test_torch_export_gives_the_same_logits_for_any_number_of_images(name):
    network, _ = pruned(name)
    program = torch.export.export(network, (faces(2),), dynamic_shapes=({0: torch.export.Dim("images")},))
    for number in (1, 3):
        assert_same(program.module()(faces(number)), network(faces(number)))


@pytest.mark.parametrize("name", ["squeezenet", *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])])
def test_onnx_gives_the_same_descriptors_for_any_number_of_images(name, tmp_path):
    network, graph = pruned(name)
    export_onnx(network.train(), tmp_path / "network.onnx")
    assert network.training
    network.eval()
    exported = OnnxNetwork(tmp_path / "network.onnx")  # run by onnxruntime; takes the papers' input as it is
    assert exported.config["image_size"] == SIZE
    for number in (1, 3):
        assert_same(exported.embed(faces(number)), network.embed(faces(number)))
    written = onnx.load(tmp_path / "network.onnx").graph
    widths = {tensor.name: tensor.dims[0] for tensor in written.initializer if tensor.dims}
    filters = [widths[node.input[1]] for node in written.node if node.op_type == "Conv"]
    assert filters == graph.layers.out_channels.tolist()  # so many filters, and no more


def test_dead_filters_are_dropped_before_export(tmp_path):
    network, graph = pruned("squeezenet", multiple=8)
    before = network.embed(faces(2))
    graph.align(1)
    export_onnx(network, tmp_path / "exact.onnx")
    found = OnnxNetwork(tmp_path / "exact.onnx").embed(faces(2))
    live = before[:, before.abs().sum(0) > 0]
    assert found.shape[1] == graph.layers.out_channels.iloc[-1] < before.shape[1]
    assert_same(found[:, found.abs().sum(0) > 0], live)


def test_without_onnxscript_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"onnxscript; install it with: pip install onnxscript$"):
        export_onnx(build("squeezenet", 2, SIZE, 2), tmp_path / "network.onnx")

"""What the benchmarks measure is what the study found; how fast it is, they say themselves."""

import itertools
import runpy
from pathlib import Path

import pytest
import torch

from facelib import pruning, results

ROOT = Path(__file__).parents[1]
STUDY = ROOT / "results" / "real-faces"


@pytest.fixture(scope="module")
def benchmark():
    return runpy.run_path(str(ROOT / "benchmarks" / "pruning.py"))


@pytest.mark.parametrize("name", ["squeezenet", "mobilenetv2", "resnet50"])
def test_networks_have_the_parameters_of_the_studys(benchmark, name):
    curve = results.read_table(STUDY / name / "curve.csv")
    at_40 = curve[(curve["stage"] == "pruned") & (curve["step"] == 40)]
    [(share, parameters)] = set(zip(at_40["filters_removed_pct"], at_40["parameters"]))
    stored = benchmark["in_storages"](name, STUDY, share)
    assert {storage: pruning.size_columns(network, graph)["parameters"] for storage, (network, graph, _) in stored.items()} == {
        "unpruned": curve["parameters"].max(), "exact": parameters, "aligned": parameters}
    assert {storage: graph.multiple for storage, (_, graph, _) in stored.items()} == {"unpruned": 1, "exact": 1, "aligned": 8}


def test_a_share_that_was_not_evaluated_is_refused(benchmark):
    with pytest.raises(ValueError, match="0 to 60.0 % of the filters removed, found 80"):
        benchmark["filters_left"]("squeezenet", STUDY)(80)


@pytest.mark.parametrize("study, share, error", [(Path("nowhere"), 40, "nowhere/squeezenet/layers.csv"), (STUDY, 80, "found 80")])
def test_a_wrong_study_is_found_out_before_the_first_part(benchmark, tmp_path, monkeypatch, study, share, error):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((FileNotFoundError, ValueError), match=error):
        benchmark["main"](["memory", "profile"], ["squeezenet"], study, [share], None)
    assert not list(tmp_path.rglob("*.csv"))


def test_a_schedules_arms_end_with_the_filters_that_it_leaves_and_every_step_is_timed(benchmark, monkeypatch):
    """A clock that ticks whenever it is read: three ticks to a training step, whose scores are timed inside it, one to a choice."""
    hidden, of = [], benchmark["schedule"].__globals__
    monkeypatch.setitem(of, "now", itertools.count().__next__)
    monkeypatch.setitem(of, "masked_places", lambda network, graph, gone: hidden.append(len(gone)) or [])
    exact, aligned = rows = benchmark["schedule"]("mobilenetv2", STUDY, [1.0, 2.0], batches=5, repeats=1)
    _, graph, _ = benchmark["made"]("mobilenetv2")
    total, macs, left = graph.filters, graph.macs, benchmark["filters_left"]("mobilenetv2", STUDY)
    assert [row["storage"] for row in rows] == ["exact", "aligned"]
    assert [row["filters_removed_pct"] for row in rows] == [pytest.approx(100 * (1 - sum(left(2).values()) / total))] * 2
    assert [row[name] for row in rows for name in ("seconds", "masks_seconds", "share_of_masks")] == [2 * (5 * 3 + 1), 2 * (5 * 3 + 1), 1] * 2
    gone = benchmark["groups_beyond"](graph, left(1))
    assert hidden == [0, len(gone)]  # what left after a step is masked in the next
    graph.remove(gone)
    assert exact["promised_by_macs"] == aligned["promised_by_macs"] == pytest.approx((1 + graph.macs / macs) / 2)


def test_masks_hide_just_what_removal_removes(benchmark):
    network, graph, _ = benchmark["made"]("mobilenetv2")
    gone = benchmark["groups_beyond"](graph, benchmark["filters_left"]("mobilenetv2", STUDY)(20))
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as after training: a filter without weights is not silent yet
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                torch.nn.init.uniform_(tensor, 0.5, 1.5)
    places = benchmark["masked_places"](network, graph, gone)
    hidden = [parameter for module in network.modules() if isinstance(module, (torch.nn.Conv2d, torch.nn.BatchNorm2d))
              for parameter in (module.weight, module.bias) if parameter is not None]
    assert len(places) == len(hidden) and all(one is other for (one, _), other in zip(places, hidden))
    for parameter, rows in places:
        parameter.data[rows] = 0
    images = torch.randn(2, 3, 113, 113, dtype=torch.float64)
    network.double().eval()
    masked = network.embed(images)
    [*_, last] = [name for name, module in network.named_modules() if isinstance(module, torch.nn.Conv2d)]
    kept = ~torch.isin(graph.filter_groups(last), torch.tensor(gone))
    graph.remove(gone)
    assert masked[:, ~kept].abs().max() == 0 < masked[:, kept].abs().max()
    assert torch.allclose(network.embed(images), masked[:, kept], atol=1e-10)


def test_convolutions_by_themselves_are_all_of_them_with_their_own_promise(benchmark):
    *layers, in_all = benchmark["convolutions"]("mobilenetv2", STUDY, [40.0], rounds=1)
    network, unpruned, _ = benchmark["made"]("mobilenetv2")
    assert [row["layer"] for row in layers] == [name for name, module in network.named_modules() if isinstance(module, torch.nn.Conv2d)]
    left = benchmark["filters_left"]("mobilenetv2", STUDY)(40)
    first, depthwise = layers[0], next(row for row in layers if row["layer"].endswith("1.conv.0.0"))
    pointwise = next(row for row in layers if row["layer"].endswith("2.conv.0.0"))  # 16 channels to 96 filters
    before = next(row["layer"] for row in layers if row["layer"].endswith("1.conv.1"))
    assert pointwise["promised_by_macs"] == 16 * 96 / (left[before] * left[pointwise["layer"]])
    weighed = sum(row["unpruned_ms"] for row in layers) / sum(row["unpruned_ms"] / row["promised_by_macs"] for row in layers)
    assert in_all["promised_weighed_by_time"] == pytest.approx(weighed)
    assert first["promised_by_macs"] == 32 / left[first["layer"]]
    assert depthwise["promised_by_macs"] == 32 / left[depthwise["layer"]]
    pruned = pruning.graph_of(benchmark["in_storages"]("mobilenetv2", STUDY, 40.0)["exact"][0])
    assert in_all["promised_by_macs"] == unpruned.macs / pruned.macs
    assert in_all["unpruned_ms"] == pytest.approx(sum(row["unpruned_ms"] for row in layers))


@pytest.mark.parametrize("name", ["squeezenet", "mobilenetv2", "resnet50"])
def test_a_schedules_steps_remove_a_hundredth_each_and_bring_nothing_back(benchmark, name):
    _, graph, _ = benchmark["made"](name)
    left, gone = benchmark["filters_left"](name, STUDY), set()
    for step in range(1, 41):
        now = set(benchmark["groups_beyond"](graph, left(step)))
        assert gone < now
        gone = now
        assert sum(left(step).values()) == pytest.approx(graph.filters * (1 - step / 100), rel=0.005)

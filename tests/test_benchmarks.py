"""What the benchmarks measure is what the study found; how fast it is, they say themselves."""

import runpy
from pathlib import Path

import pytest

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


@pytest.mark.parametrize("name", ["squeezenet", "mobilenetv2", "resnet50"])
def test_a_schedules_steps_remove_a_hundredth_each_and_bring_nothing_back(benchmark, name):
    _, graph, _ = benchmark["made"](name)
    left, gone = benchmark["filters_left"](name, STUDY), set()
    for step in range(1, 41):
        now = set(benchmark["groups_beyond"](graph, left(step)))
        assert gone < now
        gone = now
        assert sum(left(step).values()) == pytest.approx(graph.filters * (1 - step / 100), rel=0.005)

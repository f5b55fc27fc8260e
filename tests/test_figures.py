"""What figures show, asserted on their lines, labels and files; never on pixels."""

import dataclasses
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import made_up
import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image
from scipy.special import ndtri

from facelib import comparison, figures
from facelib.results import load_studies
from facelib.verification import det_curve, frr_at_far

ROOT = Path(__file__).parents[1]
WIDTHS = {"features.conv1.conv": ("conv", 64), "features.fire2.squeeze.conv": ("pointwise", 16), "features.conv10.conv": ("pointwise", 120)}


def curve_of(values, stage="pruned", seed=0, pair="frontal-frontal", size=1, metric="eer", steps=None, **about):
    """curve.csv of one line; 10 % of the filters leave at every step (none from a control), and 0.3M of 2M parameters."""
    steps = np.arange(len(values)) if steps is None else np.array(steps)
    gone = steps * (stage != "control")
    values = np.array(values)
    return pd.DataFrame({
        "network": "squeezenet", "criterion": "taylor_weight", "seed": seed, "stage": stage, "step": steps, "filters": 200 - 20 * gone,
        "groups": 200 - 20 * gone, "filters_removed_pct": 10.0 * gone, "parameters": 2_000_000 - 300_000 * gone,
        "macs": 400_000_000 - 100_000_000 * gone, "protocol": "pose_pairs", "pair": pair, "template_size": size, "metric": metric,
        "value": values, "ci_low": 0.8 * values, "ci_high": 1.2 * values, "genuine": 100, "impostor": 1000} | about)


def layers_of(lefts, seed=0, criterion="taylor_weight", widths=WIDTHS):
    return pd.DataFrame([
        {"network": "squeezenet", "criterion": criterion, "seed": seed, "stage": "pruned", "step": step, "layer": name, "kind": kind,
         "depth": depth, "out_channels_original": width, "out_channels": left}
        for step, row in enumerate(lefts) for depth, ((name, (kind, width)), left) in enumerate(zip(widths.items(), row))])


CURVE = pd.concat([curve_of([0.10, 0.12, 0.20]), curve_of([0.012, 0.012, 0.02], size=5),
                   curve_of([0.2, 0.25, 0.3], pair="frontal-profile"), curve_of([0.09], "fine-tuned", steps=[2]),
                   curve_of([0.10, 0.11], "control", steps=[0, 2]), curve_of([0.5, 0.6, 0.7], metric="frr_at_far_0.001")],
                  ignore_index=True)
LAYERS = layers_of([[64, 16, 120], [60, 16, 104], [58, 15, 87]])


def line_of(axes, label):
    [line] = [line for line in axes.lines if line.get_label() == label]
    return line


def drawn(figure):
    """The figure as a file would hold it: laid out, its artists where they belong."""
    FigureCanvasAgg(figure).draw()
    return figure

# --------------------------------------------------------------------------------------------------------- PruningCurve


def test_a_line_for_each_pair_and_a_panel_for_each_template_size():
    display = figures.PruningCurve.from_table(CURVE).plot()
    assert set(display.lines_) == {(1, "frontal-frontal"), (1, "frontal-profile"), (5, "frontal-frontal")}
    line = display.lines_[1, "frontal-frontal"]
    assert line.get_xdata() == pytest.approx([0, 10, 20]) and line.get_ydata() == pytest.approx([10, 12, 20])
    assert display.lines_[5, "frontal-frontal"].get_ydata() == pytest.approx([1.2, 1.2, 2])
    single, templates = display.axes_
    assert (single.get_title(), templates.get_title()) == ("Single images", "Templates of up to 5 images")
    assert single.get_xlabel() == "Filters removed (%)" and single.get_ylabel() == "EER (%)"
    assert single.get_yscale() == "log" and single.get_ylim() == templates.get_ylim()
    low, high = single.get_ylim()
    assert low < 1.2 and high > 36  # the upper end of the highest interval


def test_bands_are_the_intervals():
    axes = figures.PruningCurve.from_table(curve_of([0.1, 0.12, 0.2])).plot().axes_[0]
    [band] = axes.collections
    corners = {tuple(np.round(corner, 6)) for corner in band.get_paths()[0].vertices}
    assert corners == {(0, 8), (10, 9.6), (20, 16), (0, 12), (10, 14.4), (20, 24)}


def test_fine_tuned_and_control_are_drawn_apart_and_named():
    display = figures.PruningCurve.from_table(CURVE).plot()
    axes = display.axes_[0]
    [bars] = axes.containers
    marks = bars.lines[0]
    assert list(marks.get_ydata()) == [9] and marks.get_markerfacecolor() == "white"
    assert marks.get_xdata() == pytest.approx([20 - 0.014 * 20 / 2]), "half a mark to the left, since the other line's may stand there, too"
    [ends] = bars.lines[2][0].get_segments()
    assert ends[:, 1] == pytest.approx([7.2, 10.8])
    control = line_of(axes, "control")
    assert list(control.get_xdata()) == [0, 20], "a control stands where the pruned network was at its step"
    assert list(control.get_ydata()) == pytest.approx([10, 11]) and control.get_linestyle() == "--"
    [legend] = display.figure_.legends
    assert [text.get_text() for text in legend.get_texts()] == [
        "frontal-frontal", "frontal-profile", "fine-tuned (open)", "control, nothing removed"]
    assert "retrained" in display.caption and "control" in display.caption


def test_a_control_may_name_another_criterion():
    control = CURVE["stage"] == "control"
    table = CURVE.assign(criterion=np.where(control, "none", "taylor_weight"))
    assert "none" not in figures.PruningCurve.from_table(table).caption


def test_seeds_are_a_mean_and_thin_lines():
    table = pd.concat([curve_of([0.1, 0.2]), curve_of([0.2, 0.4], seed=1)])
    display = figures.PruningCurve.from_table(table).plot()
    assert display.lines_[1, "frontal-frontal"].get_ydata() == pytest.approx([15, 30])
    thin = sorted(tuple(np.round(line.get_ydata(), 6)) for line in display.axes_[0].lines if line.get_linewidth() < 0.5)
    assert thin == [(10, 20), (20, 40)]
    assert "mean of 2 seeds" in display.caption


def test_top_axis_tells_the_parameters_left():
    axes = figures.PruningCurve.from_table(CURVE).plot().axes_[0]
    [top] = axes.child_axes
    found = dict(zip(top.get_xticks(), [label.get_text() for label in top.get_xticklabels()]))
    assert found[0] == "2.00" and found[10] == "1.70" and found[20] == "1.40"
    assert top.get_xlabel() == "Parameters (millions)"


def test_a_rate_of_zero_is_shown():
    axes = figures.PruningCurve.from_table(curve_of([0.0, 0.01, 0.1])).plot().axes_[0]
    assert axes.get_yscale() == "symlog" and axes.get_ylim()[0] < 0 and 0 in axes.get_yticks()
    drawn(figures.PruningCurve.from_table(curve_of([0.0, 0.0])).plot().figure_)


def test_one_and_twenty_percent_both_have_a_tick():
    axes = figures.PruningCurve.from_table(curve_of([0.008, 0.01, 0.2])).plot().axes_[0]
    assert {1, 2, 5, 10, 20} <= set(axes.get_yticks())


def test_metrics_have_their_names_and_accuracy_a_linear_axis():
    frr = figures.PruningCurve.from_table(CURVE, "frr_at_far_0.001").plot().axes_[0]
    assert frr.get_ylabel() == "FRR at FAR 0.1 % (%)"
    accuracy = curve_of([0.9, 0.8], metric="accuracy", pair="any-any", protocol="lfw_view2").assign(ci_low=np.nan, ci_high=np.nan)
    display = figures.PruningCurve.from_table(accuracy, "accuracy").plot()
    assert display.axes_[0].get_yscale() == "linear" and list(display.lines_) == [(1, "lfw_view2")]


def test_a_pair_looks_the_same_whatever_else_is_drawn():
    alone = figures.PruningCurve.from_table(CURVE[CURVE["pair"] == "frontal-profile"]).plot().lines_[1, "frontal-profile"]
    beside = figures.PruningCurve.from_table(CURVE).plot().lines_[1, "frontal-profile"]
    assert (alone.get_color(), alone.get_marker()) == (beside.get_color(), beside.get_marker())
    colours, markers = zip(*figures.MARKS)
    assert len(set(colours)) == len(set(markers)) == len(figures.MARKS) > len(figures.PAIRS)


def test_legend_is_never_on_the_data():
    many = pd.concat([curve_of([0.1, 0.3], pair=pair, size=size) for pair in figures.PAIRS for size in (1, 5)])
    for table in (many, many[many["template_size"] == 1]):
        figure = drawn(figures.PruningCurve.from_table(table).plot().figure_)
        legend = figure.legends[0].get_window_extent()
        assert not any(legend.overlaps(axes.get_tightbbox()) for axes in figure.axes)
        assert legend.x0 >= 0 and legend.x1 <= figure.bbox.x1


@pytest.mark.parametrize("table, message", [
    (CURVE.iloc[:0], "curve: expected at least one row, found none"),
    (CURVE.drop(columns=["ci_low", "pair"]), "missing pair, ci_low"),
    (CURVE[CURVE["stage"] != "pruned"], "stage pruned: expected at least one row"),
    (pd.concat([CURVE, CURVE.assign(network="resnet50")]), "one network, found squeezenet, resnet50"),
    (pd.concat([CURVE, CURVE.assign(criterion="random")]), "one criterion, found taylor_weight, random")])
def test_tables_that_cannot_be_drawn_are_named(table, message):
    for display in (figures.PruningCurve, figures.SizeCurve):
        with pytest.raises(ValueError, match=message):
            display.from_table(table)


def test_a_metric_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="expected metric auc, found eer, frr_at_far_0.001"):
        figures.PruningCurve.from_table(CURVE, "auc")

# ------------------------------------------------------------------------------------------------- SizeCurve and layers


def test_size_curve_is_in_percent_of_the_unpruned():
    display = figures.SizeCurve.from_table(CURVE).plot()
    assert display.lines_["parameters"].get_ydata() == pytest.approx([100, 85, 70])
    assert display.lines_["macs"].get_ydata() == pytest.approx([100, 75, 50])
    assert display.lines_["macs"].get_label() == "MACs (100 % = 400 million, last 200 million)"


def test_filters_left_by_hand():
    display = figures.FiltersLeft.from_table(LAYERS).plot()
    assert display.mesh_.get_array().data.ravel() == pytest.approx(
        [100, 93.75, 90.625, 100, 100, 93.75, 100, 100 * 104 / 120, 72.5])
    assert [label.get_text() for label in display.axes_.get_yticklabels()] == ["conv1  64", "fire2.squeeze  16", "conv10  120"]
    assert display.axes_.yaxis_inverted(), "the first layer is on top"
    assert display.removed.tolist() == pytest.approx([0, 10, 20])
    assert display.mesh_.get_coordinates()[0, :, 0].tolist() == pytest.approx([0, 5, 15, 20])
    assert display.figure_.axes[1].get_ylabel() == "Filters left (% of the layer's own)"


def test_filters_left_has_room_where_names_are_long_and_the_column_narrow():
    long = {f"features.{depth}.a_very_long_module_name_of_somebody.{depth}": ("conv", 100) for depth in range(60)}
    with figures.style():
        axes = figures.Figure(figsize=(figures.ONE_COLUMN, 8.5)).subplots()
    figure = drawn(figures.FiltersLeft.from_table(layers_of([[100] * 60, [90] * 60], widths=long)).plot(axes).figure_)
    assert axes.get_window_extent().width > 0.3 * figure.bbox.width
    labels = axes.get_yticklabels()
    assert max(len(label.get_text()) for label in labels) <= 22 + len("  100") and len({label.get_text() for label in labels}) == 60
    boxes = [label.get_window_extent() for label in labels]
    assert not any(a.overlaps(b) for a, b in zip(boxes, boxes[1:]))


def test_shares_darken_evenly_in_greyscale():
    colours = matplotlib.colormaps[figures.SHARES](np.linspace(0, 1, 101))[:, :3]
    grey = colours @ [0.2126, 0.7152, 0.0722]
    assert (np.diff(grey) < 0).all() and grey[0] - grey[-1] > 0.6


def test_width_loss_has_a_point_for_each_layer_at_the_nearest_step():
    display = figures.WidthLoss.from_table(LAYERS, near_pct=12).plot()
    assert display.effect.step == 1
    assert sorted(display.points_) == ["conv", "pointwise", "squeeze"]
    points = {tuple(np.round(point, 6)) for line in display.points_.values() for point in line.get_xydata()}
    assert points == {(64, 6.25), (16, 0), (120, round(100 * 16 / 120, 6))}
    markers = [line.get_marker() for line in display.points_.values()]
    assert len(set(markers)) == 3
    assert "Spearman" in display.caption and "10.0 % of all filters" in display.caption

# --------------------------------------------------------------------------------------------------------- DET and ROC


def scores():
    rng = np.random.default_rng(0)
    return rng.normal(2.5, 1, 300), rng.normal(0, 1, 5000)


def test_curves_show_det_curve_and_reach_the_operating_point():
    genuine, impostor = np.array([0.5, 0.7, 0.9]), np.array([0.1, 0.6, 0.2, 0.3])
    far, frr, _ = det_curve(genuine, impostor)
    det = figures.DetDisplay.from_scores(genuine, impostor).plot()
    assert det.line_.get_xdata() == pytest.approx(far) and det.line_.get_ydata() == pytest.approx(frr)
    roc = figures.RocDisplay.from_scores(genuine, impostor).plot()
    assert roc.line_.get_ydata() == pytest.approx(1 - frr)
    for display in (det, roc):
        assert display.axes_.get_xlim()[0] == pytest.approx(1e-4) and display.axes_.get_xlabel() == "FAR (%)"
        assert "0.01" in [display.axes_.xaxis.get_major_formatter()(tick, 0) for tick in display.axes_.get_xticks()]


def test_det_axes_are_normal_deviates():
    axes = figures.DetDisplay.from_scores(*scores()).plot().axes_
    forward = axes.xaxis.get_transform().transform
    assert forward(np.array([0.001, 0.05, 0.5])) == pytest.approx(ndtri([0.001, 0.05, 0.5]))


def test_staircase_reads_as_frr_at_far():
    """Between two achieved FARs, what is drawn is the FRR at the largest achieved one that is not above."""
    genuine, impostor = scores()
    line = figures.DetDisplay.from_scores(genuine, impostor).plot().line_
    steps = matplotlib.cbook.STEP_LOOKUP_MAP[line.get_drawstyle()](line.get_xdata(), line.get_ydata())
    for far in (0.00115, 0.0133, 0.0777):
        crossed = np.flatnonzero((steps[0][:-1] > far) & (steps[0][1:] <= far))
        assert len(crossed) == 1 and steps[1][crossed[0]] == pytest.approx(frr_at_far(genuine, impostor, far), abs=0.004)


def test_big_curves_keep_few_points_and_their_shape():
    rng = np.random.default_rng(0)
    genuine, impostor = rng.normal(2, 1, 20_000), rng.normal(0, 1, 200_000)
    far, frr, _ = det_curve(genuine, impostor)
    display = figures.DetDisplay.from_scores(genuine, impostor)
    assert display.far.size < 5_000 < far.size
    at = np.linspace(0.0005, 0.5, 500)
    kept = np.interp(at, display.far[::-1], display.frr[::-1])
    assert ndtri(kept) == pytest.approx(ndtri(np.interp(at, far[::-1], frr[::-1])), abs=0.015)
    assert (display.far[0], display.frr[0], display.far[-1], display.frr[-1]) == (1, 0, 0, 1)


def test_curves_in_one_axes_differ_in_colour_and_dashes_and_keep_their_bands():
    first = figures.DetDisplay.from_scores(*scores(), name="unpruned").plot()
    second = figures.DetDisplay.from_scores(scores()[0] - 1, scores()[1], name="pruned")
    second.low, second.high = np.clip(second.frr - 0.05, 0, 1), np.clip(second.frr + 0.05, 0, 1)
    second.plot(first.axes_)
    assert first.line_.get_color() != second.line_.get_color() and first.line_.get_linestyle() != second.line_.get_linestyle()
    assert [text.get_text() for text in first.axes_.get_legend().get_texts()] == ["unpruned", "pruned"]
    assert len(first.axes_.collections) == 1 and "Band: " + figures.INTERVAL in second.caption and "Band" not in first.caption


def test_curves_without_scores_are_refused():
    with pytest.raises(ValueError, match="impostor"):
        figures.RocDisplay.from_scores([0.5], [])

# ---------------------------------------------------------------------------------------------------------------- files


def test_every_figure_has_a_caption_with_units():
    found = figures.figures_of(CURVE, LAYERS)
    assert set(found) == {"eer", "frr_at_far_0.001", "size", "filters_left", "width_loss", "widths"}
    assert all("%" in display.caption and "squeezenet" in display.caption and display.caption.endswith(".") for display in found.values() if display is not found["widths"])
    assert figures.INTERVAL in found["eer"].caption


def test_other_criteria_get_figures_of_their_own():
    table = pd.concat([CURVE, curve_of([0.1, 0.3, 0.4], criterion="random")])
    found = figures.figures_of(table, pd.concat([LAYERS, LAYERS.assign(criterion="random")]))
    assert {"eer", "eer_random", "filters_left_random", "size_random"} <= set(found)
    assert "frr_at_far_0.001_random" not in found, "a metric that this arm was not measured by"
    assert "by random" in found["eer_random"].caption and "by taylor_weight" in found["eer"].caption


def test_an_unpruned_network_has_no_width_loss():
    assert "width_loss" not in figures.figures_of(CURVE[CURVE["step"] == 0], LAYERS[LAYERS["step"] == 0])


def redraw(folder, environment=None):
    """Redraws a folder's figures in a process of its own. Returns the bytes of all its files, and whether torch was loaded."""
    code = ("import sys; from pathlib import Path; from facelib import figures, comparison; from facelib.results import load_studies\n"
            "for preset in Path(sys.argv[1]).iterdir():\n"
            "    for network in load_studies(preset): figures.draw(preset / network)\n"
            "    figures.draw_comparison(preset)\n"
            "print('torch' in sys.modules)")
    done = subprocess.run([sys.executable, "-c", code, folder], cwd=ROOT, env=os.environ | (environment or {}), check=True,
                          capture_output=True, text=True)
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
    return files, done.stdout.strip()


@pytest.fixture(scope="module")
def redrawn(tmp_path_factory):
    """The same results, drawn by two processes."""
    found = []
    for seed in ("1", "2"):
        folder = tmp_path_factory.mktemp("results")
        (folder / "smoke" / "squeezenet").mkdir(parents=True)
        CURVE[CURVE["metric"] == "eer"].to_csv(folder / "smoke" / "squeezenet" / "curve.csv", index=False)
        LAYERS.to_csv(folder / "smoke" / "squeezenet" / "layers.csv", index=False)
        found.append(redraw(folder, {"PYTHONHASHSEED": seed}))
    return found


def test_figures_come_out_the_same_byte_for_byte(redrawn):
    (first, _), (second, _) = redrawn
    made = {name for name in first if name.startswith("smoke/squeezenet/figures/")}
    assert made == {f"smoke/squeezenet/figures/{name}.{kind}" for name in ("eer", "size", "filters_left", "width_loss", "widths")
                    for kind in ("png", "pdf", "txt")}
    made = {name for name in first if name.startswith("smoke/comparison/")}
    assert made == {f"smoke/comparison/figures/{name}.{kind}" for name in ("eer", "size", "eer_against_size", "filters_left")
                    for kind in ("png", "pdf", "txt")} | {
        f"smoke/comparison/{name}.{kind}" for name in ("summary", "sizes", "hypotheses", "published", "claims") for kind in ("csv", "md", "tex")}
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_figures_need_no_torch(redrawn):
    assert [torch for _, torch in redrawn] == ["False", "False"]


@pytest.mark.slow
def test_a_whole_study_is_redrawn_to_the_same_bytes_and_fit_for_print(tmp_path):
    """Every kind of table, both widths, through the command that users call."""
    found = []
    for run in ("first", "second"):
        for network in ("squeezenet", "resnet50"):
            made_up.write(tmp_path / run / "preset", network=network, steps=range(0, 61, 20), arm_steps=range(0, 13, 4))
        subprocess.run([sys.executable, "-m", "facelib.figures", tmp_path / run, "--one-column"], cwd=ROOT, check=True)
        found.append({path.relative_to(tmp_path / run): path.read_bytes() for path in (tmp_path / run).rglob("*") if path.is_file()})
    assert found[0].keys() == found[1].keys() and [name for name in found[0] if found[0][name] != found[1][name]] == []
    pdfs = {path.as_posix(): content for path, content in found[0].items() if path.suffix == ".pdf"}
    for name in ("arms", "scores", "det", "det_5", "templates", "eer_change", "accuracy", "eer_one_column", "det_5_one_column"):
        assert f"preset/squeezenet/figures/{name}.pdf" in pdfs
    assert [name for name, content in pdfs.items() if b"/FontFile2" not in content or b"/Type3" in content] == []
    for name, content in pdfs.items():
        [width] = re.findall(rb"/MediaBox \[ ?0 0 ([0-9.]+)", content)
        wanted = [figures.ONE_COLUMN] if "one_column" in name else [figures.ONE_COLUMN, figures.TWO_COLUMNS]
        assert float(width) / 72 in [pytest.approx(inches) for inches in wanted]


def test_files_are_fit_for_print(redrawn):
    files = {Path(name).name: content for name, content in redrawn[0][0].items() if name.startswith("smoke/squeezenet")}
    image = Image.open(io.BytesIO(files["eer.png"]))
    assert image.info["dpi"][0] >= 199 and image.width == pytest.approx(figures.TWO_COLUMNS * 300, abs=2)
    assert b"/FontFile2" in files["eer.pdf"] and b"/Type3" not in files["eer.pdf"] and b"CreationDate" not in files["eer.pdf"]
    assert files["eer.txt"].decode().strip() == figures.PruningCurve.from_table(CURVE).caption


def test_no_results_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected folders with curve.csv"):
        figures.regenerate(tmp_path)


def test_a_notebook_shows_the_figure():
    figure = figures.SizeCurve.from_table(CURVE).plot().figure_
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_det_band_is_drawn_around_its_rates():
    from facelib import verification

    random = np.random.default_rng(0)
    people = np.repeat(np.arange(20), 4)
    descriptors = random.normal(size=(20, 8))[people] + random.normal(size=(80, 8))
    band = verification.det_band(verification.all_against_all(people), descriptors, resamples=100)
    display = figures.DetDisplay(*(band[name].to_numpy() for name in ("far", "frr")), "faces",
                                 *(band[name].to_numpy() for name in ("ci_low", "ci_high"))).plot()
    assert display.line_.get_ydata().tolist() == band["frr"].tolist() and len(display.axes_.collections) == 1
    assert "Band: 95 % interval" in display.caption


def test_faces_without_poses_have_every_figure(tmp_path):
    """One folder of images per subject, the README's first layout: the only pair of poses is any-any."""
    for network in ("squeezenet", "mobilenetv2"):
        made_up.write(tmp_path, network=network, pairs=("any-any",), steps=range(0, 61, 20))
    studies = list(load_studies(tmp_path).values())
    assert {"arms", "templates", "eer", "det"} <= figures.figures_of(studies[0].curve, studies[0].layers, studies[0]).keys()
    assert {"eer", "eer_against_size", "det", "templates"} <= figures.figures_of_networks(studies).keys()
    figures.draw(tmp_path / "squeezenet")
    assert (tmp_path / "squeezenet" / "figures" / "arms.pdf").is_file()
    comparison.write(comparison.compare(studies), tmp_path / "comparison")
    assert "20 % of the filters can go" in (tmp_path / "comparison" / "claims.md").read_text()
    assert "test faces, single images" in (tmp_path / "comparison" / "summary.md").read_text()
    assert "test faces" in set(pd.read_csv(tmp_path / "comparison" / "hypotheses.csv")["pair"])
    legend = figures.PruningCurve.from_table(studies[0].curve).plot().figure_.legends[0]
    assert "test faces" in {text.get_text() for text in legend.get_texts()}


def test_det_curves_of_every_stage_have_a_line_and_a_word_of_their_own(tmp_path):
    det = made_up.write(tmp_path, steps=range(0, 61, 20))["det"]
    drawn_curves = figures.DetCurves.from_table(det, 1).plot()
    looks = {stage: {line.get_linestyle() for (_, of_line, _), line in drawn_curves.lines_.items() if of_line == stage}
             for stage in ("pruned", "fine-tuned", "from-scratch")}
    assert all(len(look) == 1 for look in looks.values()) and len(set.union(*looks.values())) == 3
    legend = {text.get_text() for text in drawn_curves.figure_.legends[0].get_texts()}
    assert {"40 % removed", "40 % removed, fine-tuned", "40 % removed, from scratch"} <= legend


def test_networks_side_by_side_show_what_each_shows_alone_and_a_share_looks_the_same_in_all(tmp_path):
    """ResNet50 here takes coarser steps and was chosen at other shares, so its 40 % is another step and another place in a list."""
    made_up.write(tmp_path, steps=range(0, 61, 20))
    made_up.write(tmp_path, network="resnet50", steps=range(0, 61, 10), chosen=(0, 40))
    for name in ("curve", "det"):  # steps of 2 %
        path = tmp_path / "resnet50" / f"{name}.csv"
        table = pd.read_csv(path)
        table.assign(step=table["step"] // 2).to_csv(path, index=False)
    studies = list(load_studies(tmp_path).values())
    together = figures.figures_of_networks(studies)
    for name in ("det", "det_5", "templates"):
        shown = together[name].plot()
        looks = {}
        for study in studies:
            alone = figures.figures_of(study.curve, study.layers, study)[name].plot()
            lines = {key[1:]: line for key, line in shown.lines_.items() if key[0] == study.network}
            assert lines.keys() == alone.lines_.keys() and len(lines) > 0
            for key, line in lines.items():
                pair, stage, step = key
                assert np.array_equal(line.get_xydata(), alone.lines_[key].get_xydata())
                assert line.axes is shown.axes_[study.network, pair]
                points = shown.curves[study.network].points
                share = points.loc[points["step"] == step, "filters_removed_pct"].iloc[0].round()
                looks.setdefault((stage, share), set()).add((line.get_color(), line.get_linestyle(), line.get_marker()))
        assert ("pruned", 40) in looks
        assert all(len(look) == 1 for look in looks.values()) and len(set.union(*looks.values())) == len(looks)
        assert shown.axes_["squeezenet", "frontal-frontal"].get_title() == "SqueezeNet"
        assert shown.figure_.get_figheight() <= 9
        assert "by taylor_weight" in shown.caption


@pytest.mark.parametrize("stages", [{"pruned"}, {"pruned", "fine-tuned"}, {"pruned", "from-scratch"}, {"pruned", "fine-tuned", "from-scratch"}])
def test_networks_retrained_and_from_scratch_are_drawn_and_named_where_there_are_any(tmp_path, stages):
    made_up.write(tmp_path, steps=range(0, 61, 20), chosen=(0, 40))
    [study] = load_studies(tmp_path).values()
    study = dataclasses.replace(study, curve=study.curve[study.curve["stage"].isin(stages)])
    eer, size = figures.ErrorOfNetworks.from_studies([study]).plot(), figures.ErrorAgainstSize.from_studies([study]).plot()
    for display in (eer, size):
        words = {text.get_text() for text in display.figure_.legends[0].get_texts()}
        assert ("from scratch" in words, "fine-tuned (open)" in words) == ("from-scratch" in stages, "fine-tuned" in stages)
        assert ("stars: the same shape" in display.caption, "open markers" in display.caption) == ("from-scratch" in stages, "fine-tuned" in stages)
    at_40 = study.curve.query("step == 40 and template_size == 1 and metric == 'eer' and protocol == 'pose_pairs'")
    for stage, marker in (("from-scratch", "*"), ("fine-tuned", "s")):
        wanted = at_40[at_40["stage"] == stage].groupby("parameters")["value"].mean()
        found = [line.get_xydata() for line in size.axes_[1, "parameters"].lines if line.get_marker() == marker and line.get_linestyle() == "None"
                 and (marker == "*" or line.get_markerfacecolor() == "white")]
        assert np.concatenate(found) == pytest.approx(np.column_stack([wanted.index / 1e6, 100 * wanted]).reshape(-1, 2))
    stars = [line.get_xydata() for line in eer.axes_["squeezenet", 1].lines if line.get_marker() == "*"]
    frontal = at_40.query("stage == 'from-scratch' and pair == 'frontal-frontal'")
    assert len(stars) == (len(made_up.POSE_PAIRS) + 1 if len(frontal) else 0)
    if len(frontal):
        share, rate = frontal["filters_removed_pct"].item(), 100 * frontal["value"].item()
        assert any(np.allclose(star[:, 1], rate) for star in stars)
        beside = sorted(star[0, 0] - share for star in stars)  # every line's star in a place of its own, around the share
        assert np.diff(beside) == pytest.approx(0.014 * 60) and np.mean(beside) == pytest.approx(0)


def test_one_network_side_by_side_with_none_takes_one_column(tmp_path):
    made_up.write(tmp_path, steps=range(0, 61, 20))
    [study] = load_studies(tmp_path).values()
    for display in (figures.DetOfNetworks.from_studies([study]), figures.TemplatesOfNetworks.from_studies([study])):
        assert display.plot().figure_.get_figwidth() == figures.ONE_COLUMN


def test_captions_of_det_curves_say_how_many_comparisons_and_which_seed(tmp_path):
    det = made_up.write(tmp_path, steps=range(0, 61, 20))["det"]
    [first] = det.loc[(det["pair"] == "frontal-frontal") & (det["template_size"] == 1), ["genuine", "impostor"]].drop_duplicates().itertuples()
    counts = f"frontal-frontal {first.genuine:,} and {first.impostor:,}"
    several = pd.concat([det, det.assign(seed=1)])
    for tables, seed in ((det, False), (several, True)):
        alone = figures.DetCurves.from_table(tables)
        for display in (alone, figures.DetOfNetworks({"squeezenet": alone, "resnet50": alone})):
            assert display.caption.count(counts) == 1 and ("the first seed" in display.caption) == seed
    assert "dotted: the same shape trained from scratch" in alone.caption
    assert "dotted" not in figures.DetCurves.from_table(det[det["stage"] != "from-scratch"]).caption
    fewer = figures.DetCurves.from_table(det.assign(genuine=det["genuine"] - 1))
    caption = figures.DetOfNetworks({"squeezenet": alone, "resnet50": fewer}).caption
    assert f"SqueezeNet: {counts}" in caption and f"ResNet50: frontal-frontal {first.genuine - 1:,} and {first.impostor:,}" in caption


@pytest.mark.parametrize("number", [2, 7, 8, 13])
def test_no_two_shares_have_the_same_colour(tmp_path, number):
    shares = [5 * place for place in range(number)]
    det = made_up.write(tmp_path, steps=range(0, 61, 5), chosen=shares)["det"]
    drawn = figures.DetCurves.from_table(det).plot().lines_
    colours = {step: line.get_color() for (_, stage, step), line in drawn.items() if stage == "pruned"}
    assert len(colours) == number == len(set(colours.values()))


def test_width_loss_is_never_drawn_of_the_unpruned_network():
    assert figures.WidthLoss.from_table(layers_of([[64, 16, 120], [20, 10, 40]])).effect.removed_pct > 0  # 0 % is nearer to 20 %

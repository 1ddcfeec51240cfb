import dataclasses
import subprocess
import sys

import matplotlib
import pytest
import torch
from matplotlib.figure import Figure

from thalweg.core.measurement import Measurement
from thalweg.report.plot import plot


@pytest.fixture
def results(study):
    """One result of every kind that can be drawn."""
    return {
        "train": study.training("A1"),
        "top_eigenvalues": study.eigenvalue("A1", "running"),
        "sam_sharpness": study.sharpness("A1", "running", 8),
        "sam_sharpness_spread": study.spread("A1", "batch", 128),
        "line_slice": study.line("A1", "recalibrated"),
        "linear_path": study.path("running", "test"),
    }


KINDS = ("train", "top_eigenvalues", "sam_sharpness", "sam_sharpness_spread", "line_slice", "linear_path")


def lines(axes):
    return [line.get_xydata() for line in axes.get_lines()]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn_with_named_axes_and_its_batch_norm_mode(results, kind):
    result = results[kind]
    figure = plot(result)
    assert isinstance(figure, Figure)
    mode = figure.get_suptitle().split(", ")[-1]
    assert mode == f"batch norm: {result.provenance['objective']['batch_norm']}"
    for axes in figure.axes:
        assert axes.get_xlabel()
        assert axes.get_ylabel() or not axes.get_yticks().size


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_suffix_chooses_the_format(results, suffix, tmp_path):
    path = tmp_path / "new" / f"slice{suffix}"
    plot(results["line_slice"], path)
    start = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(start)
    assert [p.name for p in path.parent.iterdir()] == [path.name], "the temporary file is gone"


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_equal_results_give_equal_files_whatever_the_user_set(results, suffix, tmp_path):
    plot(results["linear_path"], tmp_path / f"a{suffix}")
    with matplotlib.rc_context(
        {"svg.hashsalt": None, "font.size": 20, "figure.facecolor": "k", "axes.labelpad": 9}
    ):
        plot(results["linear_path"], tmp_path / f"b{suffix}")
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_a_path_shows_its_points_its_chord_and_the_barrier(results):
    path = results["linear_path"]
    loss_axes, accuracy_axes = plot(path).axes
    curve, chord = lines(loss_axes)
    assert torch.equal(torch.from_numpy(curve), torch.stack([path.alphas, path.losses], 1))
    assert chord.tolist() == [[0, float(path.losses[0])], [1, float(path.losses[-1])]]
    arrow, label = loss_axes.texts
    # Drawn from the chord to the curve, where the barrier is attained.
    middle = float(path.losses[0] + path.losses[-1]) / 2
    assert arrow.xy == pytest.approx((0.5, middle))
    assert arrow.xyann == pytest.approx((0.5, middle + path.barrier))
    assert label.get_text() == f"barrier {path.barrier:.3g}"
    assert lines(accuracy_axes)[0][:, 1].tolist() == path.accuracies.tolist()


def test_a_slice_shows_the_mean_and_a_band_over_the_directions(results):
    line = results["line_slice"]
    axes = plot(line).axes[0]
    assert lines(axes)[0][:, 1].tolist() == line.losses.tolist()
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].max() == pytest.approx(float(line.losses_by_direction.max()))
    assert band[:, 1].min() == pytest.approx(float(line.losses_by_direction.min()))


def test_curves_of_training_go_with_their_own_epochs(results):
    history = results["train"]
    loss_axes, accuracy_axes = plot(history).axes
    for axes, quantity in ((loss_axes, "loss"), (accuracy_axes, "accuracy")):
        for curve, split in zip(lines(axes), ("train", "test"), strict=True):
            assert curve[:, 0].tolist() == history.epochs.tolist()
            assert curve[:, 1].tolist() == getattr(history, f"{split}_{quantity}").tolist()
    assert loss_axes.get_yscale() == "log", "2.31 to 0.17 is more than a decade"
    assert accuracy_axes.get_yscale() == "linear"


@pytest.mark.parametrize("kind", ["line_slice", "linear_path"])
def test_without_classes_there_is_no_accuracy_and_the_loss_has_its_name(results, kind):
    result = results[kind]
    changes = {"accuracies": torch.full_like(result.accuracies, torch.nan)}
    if kind == "line_slice":
        changes["accuracies_by_direction"] = torch.full_like(result.accuracies_by_direction, torch.nan)
    described = {**result.provenance["objective"], "loss": "mse"}
    result = dataclasses.replace(result, **changes, provenance={"objective": described})
    (axes,) = plot(result).axes
    assert axes.get_ylabel() == "loss (mean squared error)"


def test_points_that_are_not_finite_leave_gaps(study, tmp_path):
    line = study.line("A1", "running")
    for values in (line.losses, line.losses_by_direction, line.accuracies_by_direction):
        values[..., 0] = torch.nan
    figure = plot(line, tmp_path / "gap.png")
    assert "1 of 21 points has no finite loss: the line has gaps there" in " ".join(
        figure.get_suptitle().split()
    )
    assert (tmp_path / "gap.png").stat().st_size > 0


def test_pyplot_and_the_settings_of_the_user_stay_out_of_it(results):
    before = dict(matplotlib.rcParams)
    for result in results.values():
        plot(result)
    assert dict(matplotlib.rcParams) == before


def test_neither_importing_nor_plotting_loads_pyplot():
    code = (
        "import sys, torch\n"
        "import thalweg.report.plot as p, thalweg.report.paper_report\n"
        "assert 'matplotlib' not in sys.modules, 'import must not load Matplotlib'\n"
        "from thalweg.measures.sharpness.sam_sharpness_spread import SamSharpnessSpread\n"
        "r = SamSharpnessSpread(value=1.0, batch_size=8, radius=0.05, num_steps=1, samples=torch.ones(3))\n"
        "p.plot(r)\n"
        "assert 'matplotlib.pyplot' not in sys.modules, 'plotting must not load pyplot'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("nothing", [3.0, None, Measurement(value=1.0)], ids=lambda x: type(x).__name__)
def test_what_has_nothing_to_see_is_refused(nothing):
    with pytest.raises(TypeError, match=r"`result` must be a result that has something to see.*linear_path"):
        plot(nothing)


def test_an_unknown_format_is_refused_before_drawing(results, tmp_path):
    with pytest.raises(ValueError, match=r"`path` must end in one of \.png, \.svg, \.pdf, got '.*jpeg'"):
        plot(results["train"], tmp_path / "x.jpeg")
    assert list(tmp_path.iterdir()) == []

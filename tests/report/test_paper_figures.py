import pytest

from thalweg.objective.batch_norm import MODES
from thalweg.report import figures as draw
from thalweg.report.paper_figures import paper_figures


def figures(records):
    return {figure.name: figure for figure in paper_figures(records)}


def test_every_figure_of_the_paper_and_of_ours_is_there(study):
    found = figures(study.records)
    assert list(found) == [
        "fig1_training_a1",
        "fig2_training_b",
        "training_a2",
        "training_all",
        "fig3_slice",
        "fig4_path",
        "top_eigenvalues",
        "sam_sharpness",
        "single_batches",
    ]
    for figure in found.values():
        assert figure.draw is not None
        assert figure.alt.endswith(".")
        assert "batch norm" in (figure.caption + figure.alt).lower() or "batch-norm" in figure.caption


def test_nothing_measured_leaves_the_four_with_a_word_and_no_picture():
    found = figures([])
    assert list(found) == ["fig1_training_a1", "fig2_training_b", "fig3_slice", "fig4_path"]
    assert {f.caption for f in found.values()} == {"Not measured in this run."}
    assert {f.draw for f in found.values()} == {None}


@pytest.mark.parametrize("name", ["fig3_slice", "fig4_path"])
def test_a_mode_that_was_not_measured_has_no_panel(study, name):
    kept = [r for r in study.records if r.batch_norm != "recalibrated"]
    wide = figures(kept)[name].draw(False)
    assert [ax.get_title(loc="left") for ax in wide.axes[:2]] == ["running statistics", "batch statistics"]
    assert len(wide.axes) == 4


def test_a_narrow_figure_stacks_the_same_panels_in_one_column(study):
    figure = figures(study.records)["fig4_path"]
    wide, narrow = figure.draw(False), figure.draw(True)
    assert len(narrow.axes) == len(wide.axes) == 6
    narrow.canvas.draw()
    assert len({round(ax.get_position().x1, 3) for ax in narrow.axes}) == 1
    assert narrow.get_figwidth() < wide.get_figwidth() / 2
    for a, b in zip(wide.axes, narrow.axes, strict=True):
        for left, right in zip(a.get_lines(), b.get_lines(), strict=True):
            assert (left.get_xydata() == right.get_xydata()).all()


def test_panels_that_are_compared_share_their_axis(study):
    axes = figures(study.records)["fig3_slice"].draw(False).axes
    assert len({ax.get_ylim() for ax in axes[:3]}) == 1
    assert len({ax.get_ylim() for ax in axes[3:]}) == 1
    assert {ax.get_yscale() for ax in axes[:3]} == {"log"}


def test_a_slice_panel_draws_its_own_mode_and_b_in_each(study):
    axes = figures(study.records)["fig3_slice"].draw(False).axes
    for mode, ax in zip(MODES, axes[:3], strict=True):
        drawn = {line.get_label(): line.get_ydata().tolist() for line in ax.get_lines()}
        assert drawn == {
            "A1": study.line("A1", mode).losses.tolist(),
            "A2": study.line("A2", mode).losses.tolist(),
            "B": study.line("B", "running").losses.tolist(),
        }


def test_raw_directions_are_not_mixed_with_filter_normalised_ones(study):
    kept = [r for r in study.records if r.labels.get("normalisation") != "filter"]
    assert figures(kept)["fig3_slice"].draw is None


@pytest.mark.parametrize("name", ["top_eigenvalues", "sam_sharpness", "single_batches"])
def test_the_papers_values_stand_across_the_rows_of_their_own_model(study, name):
    axes = figures(study.records)[name].draw(False).axes[0]
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    assert [label.split()[0] for label in labels] == ["A1"] * 3 + ["A2"] * 3 + ["B"]
    heights = dict(zip(labels, axes.get_yticks(), strict=True))
    dashed = [line for line in axes.get_lines() if line.get_linestyle() == "--"]
    values = {"top_eigenvalues": (57.18, 37.51)}.get(name, (0.1837, 0.0886))
    for line, model, value in zip(dashed, ("A1", "B"), values, strict=True):
        assert line.get_xdata().tolist() == [value, value]
        low, high = line.get_ydata()
        assert {k for k, y in heights.items() if low < y < high} == {
            k for k in labels if k[:2].strip() == model
        }


def test_an_interval_is_drawn_from_bound_to_bound_in_its_own_row(study):
    axes = figures(study.records)["top_eigenvalues"].draw(False).axes[0]
    result = study.eigenvalue("A1", "batch")
    row = [tick.get_text() for tick in axes.get_yticklabels()].index("A1  batch statistics")
    height = axes.get_yticks()[row]
    bar, point, *_ = [line for line in axes.get_lines() if set(line.get_ydata()) == {height}]
    assert bar.get_xdata().tolist() == [result.lower_bound, result.upper_bound]
    assert point.get_xdata().tolist() == [result.value]
    assert axes.get_xlim()[0] == 0


def test_an_epoch_of_training_is_enough_for_curves(study):
    short = study.training("A1", num_epochs=1)
    record = next(r for r in study.records if r.measure == "train")
    kept = [type(record)(run="r", task="t", content=short.to_dict(), labels={"model": "A1"})]
    figure = figures(kept)["fig1_training_a1"]
    assert "over 1 epoch the training loss" in figure.alt
    draw.figure_bytes(figure.draw(False), ".svg")

import numpy as np
import pytest
import torch

from thalweg.core.measurement import Measurement
from thalweg.report import figures as draw


@pytest.fixture
def axes():
    with draw.house_style():
        return draw.new_figure(1, 1, width=3, height=2)[1][0, 0]


@pytest.mark.parametrize(
    ("losses", "scale"),
    [
        ([0.1, 1.1], "log"),
        ([0.2, 1.1], "linear"),
        ([0.0, 5.0], "linear"),
        ([np.nan, 0.1, 3.0], "log"),
        ([np.nan, np.inf], "linear"),
    ],
)
def test_a_loss_axis_is_logarithmic_from_one_decade_on(axes, losses, scale):
    draw.scale_loss_axis(axes, torch.tensor(losses))
    assert axes.get_yscale() == scale


def test_samples_are_stacked_without_touching_their_values_or_a_random_stream(axes):
    samples = torch.tensor([0.3, 0.1, 0.1, 0.1, 0.2])
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - the global state is what must stay
    draw.draw_samples(axes, samples, 2.0, draw.BLUE)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    bar, dots, middle = axes.get_lines()
    assert dots.get_xdata().tolist() == sorted(samples.double().tolist())
    heights = dots.get_ydata() - 2.0
    assert np.allclose(heights[:3], [-0.09, 0, 0.09])
    assert np.allclose(heights[3:], 0)
    assert middle.get_xdata() == pytest.approx([0.1])
    assert bar.get_xdata() == pytest.approx(np.quantile(samples.numpy(), [0.05, 0.95]))


@pytest.mark.parametrize("samples", [[0.2], [0.2, 0.2, 0.2], [np.nan, 0.1], [np.nan]])
def test_few_equal_or_missing_samples_are_drawn_without_a_warning(axes, samples):
    draw.draw_samples(axes, torch.tensor(samples), 0.0, draw.BLUE)
    axes.figure.canvas.draw()


def test_files_carry_no_date_and_no_outside_metadata(axes):
    axes.plot([0, 1], [0, 1])
    draw.freeze_layout(axes.figure)
    for suffix in draw.FORMATS:
        content = draw.figure_bytes(axes.figure, suffix)
        assert content == draw.figure_bytes(axes.figure, suffix)
        for word in (b"Date", b"matplotlib.org", b"Matplotlib v", b"<metadata"):
            assert word not in content


def test_an_unknown_format_is_refused(axes, tmp_path):
    with pytest.raises(ValueError, match=r"`path` must end in one of .* got '\.gif'"):
        draw.save_figure(axes.figure, tmp_path / "x.gif")


def test_a_frozen_layout_is_the_one_that_would_have_been_drawn(axes):
    axes.plot([0, 1], [0, 1])
    axes.set_ylabel("a label that takes room")
    narrow = axes.get_position().x0
    draw.freeze_layout(axes.figure)
    frozen = axes.get_position().bounds
    assert frozen[0] > narrow, "room was made for the label"
    axes.figure.set_layout_engine("constrained")
    axes.figure.canvas.draw()
    assert axes.get_position().bounds == pytest.approx(frozen, abs=0.01)


@pytest.mark.parametrize(
    ("loss", "label", "unit"),
    [
        ("cross_entropy", "loss (mean cross-entropy, nats)", " (nats)"),
        ("mse", "loss (mean squared error)", ""),
        ("make.<locals>.hinge", "loss (hinge)", ""),
        ("<lambda>", "loss (own)", ""),
        (None, "loss", ""),
    ],
)
def test_a_loss_is_called_by_its_name(loss, label, unit):
    result = Measurement(value=1.0, provenance={"objective": {"loss": loss}} if loss else {})
    assert draw.quantity_label(result, "loss") == label
    assert draw.unit_of_loss(result) == unit
    assert draw.quantity_label(result, "accuracy") == "accuracy (share correct)"


def test_a_high_flat_curve_has_room_above(axes) -> None:
    losses = torch.tensor([1.0, 1.05, 1.02])
    axes.plot(losses)
    draw.scale_loss_axis(axes, losses)
    bottom, top = axes.get_ylim()
    assert bottom == 0
    assert top >= 1.05 * 1.05

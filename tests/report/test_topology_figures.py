"""Pictures of a slice's shape show what the result holds, and call a saddle an upper bound."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex
from tests.measures.topology.surfaces import double_well, of_function, ring, surface, with_noise

import thalweg as tw
from thalweg.core.measurement import Measurement
from thalweg.report.topology_figures import FAINT, GREY, MOST_BRANCHES

MADE_BY = {"objective": {"loss": "cross_entropy", "batch_norm": "recalibrated", "num_examples": 160}}


def measured(base, scale: float = 0.3, **more) -> tw.Persistence:
    return tw.persistence(dataclasses.replace(with_noise(base, scale), provenance=MADE_BY), seed=0, **more)


CASES = {
    "line": lambda: measured(of_function(double_well, 21)),
    "plane": lambda: measured(of_function(ring, 21, 21)),
    "volume": lambda: measured(of_function(double_well, 9, 7, 7)),
    "decades": lambda: measured(of_function(lambda x, y: 10 ** (2 * double_well(x, y)), 21, 21), 0.01),
    "exact": lambda: tw.persistence(of_function(double_well, 21, 5)),
    "flat": lambda: tw.persistence(surface(torch.zeros(4, 4))),
    "rough": lambda: tw.persistence(surface(torch.randn(30, 30, generator=torch.Generator().manual_seed(0)))),
}


@pytest.mark.parametrize("case", CASES)
def test_each_is_drawn_with_named_axes_and_its_mode(case, tmp_path):
    result = CASES[case]()
    figure = tw.plot(result, tmp_path / "shape.png")
    assert (tmp_path / "shape.png").stat().st_size > 10_000
    diagram, tree = figure.axes
    assert "an upper bound in the full space" in diagram.get_ylabel()
    assert "each saddle an upper bound" in tree.get_ylabel()
    if "objective" in result.provenance:
        assert figure.get_suptitle() == "N = 160, batch norm: recalibrated"
        assert "(nats)" in diagram.get_xlabel()
        assert "(nats)" in tree.get_ylabel()
    # A record draws as the result does.
    assert tw.plot(Measurement.from_dict(result.to_dict())).axes[0].get_xlim() == diagram.get_xlim()


def test_the_diagram_shows_every_feature_once_and_fills_the_significant_ones():
    result = CASES["plane"]()
    diagram = tw.plot(result).axes[0]
    shown = [line for line in diagram.get_lines() if line.get_marker() in ("o", "s")]
    points = np.concatenate([line.get_xydata() for line in shown])
    assert sorted(points[:, 0]) == sorted(result.births.tolist())
    dies = result.deaths[result.deaths.isfinite()].tolist()
    assert set(dies) <= set(points[:, 1])
    filled = sum(
        len(line.get_xdata()) for line in shown if to_hex(line.get_markerfacecolor()) != to_hex("white")
    )
    assert filled == int(result.is_significant.sum()) < len(result.births)
    loops = [line for line in shown if line.get_marker() == "s"]
    assert sum(len(line.get_xdata()) for line in loops) == int((result.dimensions == 1).sum())
    # What never dies lies on a line above all that does.
    never = points[~np.isin(points[:, 1], dies), 1]
    assert len(never) == 1
    assert never[0] > max(dies)


def test_the_shading_is_as_wide_as_the_margins():
    result = measured(of_function(ring, 41, 41), 0.1)
    bands = tw.plot(result).axes[0].collections
    for band, colour, width in zip(bands, (FAINT, GREY), (result.margin, result.noise_band), strict=True):
        assert to_hex(band.get_facecolor()[0]) == to_hex(colour)
        vertices = band.get_paths()[0].vertices
        assert np.max(vertices[:, 1] - vertices[:, 0]) == pytest.approx(2 * width)
    assert len(tw.plot(CASES["exact"]()).axes[0].collections) == 1, "exact losses have no noise to shade"


def test_decades_are_read_on_logarithmic_axes():
    diagram, tree = tw.plot(CASES["decades"]()).axes
    assert {diagram.get_xscale(), diagram.get_yscale(), tree.get_yscale()} == {"log"}
    assert diagram.get_xlim() == diagram.get_ylim()
    assert diagram.get_xlim()[0] > 0


def test_the_tree_joins_branches_at_their_saddles():
    result = CASES["line"]()
    tree = tw.plot(result).axes[1]
    lines = [line.get_xydata() for line in tree.get_lines()]
    joins = [xy for xy in lines if len(xy) == 2 and xy[0, 1] == xy[1, 1]]
    ends = result.deaths[1 : len(result.parents)].tolist()
    assert sorted(xy[0, 1] for xy in joins) == sorted(ends)
    lowest = {float(xy[0, 1]) for xy in lines if len(xy) == 2 and xy[0, 1] < xy[1, 1]}
    assert lowest == set(result.births[: len(result.parents)].tolist())
    assert any(text.get_text().startswith("≤ ") for text in tree.texts)


@pytest.mark.parametrize("height", [0.1, 3.0])
@pytest.mark.parametrize("case", ["line", "lone"])
def test_all_of_the_tree_is_in_view(case, height):
    """Losses from nought on, not over a decade, whose axis begins at nought."""

    def wells(x):
        return height * (1 + 0.5 * (double_well(x) if case == "line" else x**2))

    result = tw.persistence(of_function(wells, 21))
    tree = tw.plot(result).axes[1]
    bottom, top = tree.get_ylim()
    heights = np.concatenate([line.get_ydata() for line in tree.get_lines()])
    assert bottom == 0
    assert heights.max() <= top <= 1.3 * heights.max()


def test_branches_beyond_what_can_be_read_are_counted():
    result = CASES["rough"]()
    tree = tw.plot(result).axes[1]
    left_out = len(result.parents) - MOST_BRANCHES
    assert left_out > 0
    assert f"{left_out} shorter-lived left out" in [t.get_text() for t in tree.get_legend().get_texts()]

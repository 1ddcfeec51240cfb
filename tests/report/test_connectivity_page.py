"""Pictures, table and page of what lies between two minima show what the result holds."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from tests.analyses.test_mode_connectivity import between, hidden
from tests.networks import vectors
from tests.report.test_order_page import comparison
from tests.report.test_paper_report import Outline, text_of
from torch import nn

import thalweg as tw
from thalweg.analyses.mode_connectivity_parts import BEND
from thalweg.analyses.network_plane import CORNERS
from thalweg.cli.connectivity import print_connectivity
from thalweg.report.connectivity_figures import in_distances
from thalweg.report.connectivity_table import connectivity_table


@pytest.fixture(scope="module")
def whole() -> tw.ModeConnectivity:
    """Of two runs, in all modes, with everything there is."""
    runs = [tw.Run({}, lambda s=s: hidden(s), {"data": vectors(40), "batch_size": 8}) for s in (0, 1)]
    return between(*runs, names=("first", "second <2>"))


@pytest.fixture(scope="module")
def bare() -> tw.ModeConnectivity:
    """Without hidden units, batch norm, curve and plane."""
    objectives = [tw.Objective(nn.Linear(5, 3).double(), vectors(40)) for _ in range(2)]
    return between(*objectives, num_steps=0)


def test_the_picture_shows_every_way_in_every_mode(whole, tmp_path):
    figure = tw.plot(whole, tmp_path / "between.png")
    assert (tmp_path / "between.png").read_bytes().startswith(b"\x89PNG")
    barriers, ways, plane, tree, *_ = figure.axes
    bars: list[Any] = list(barriers.patches)
    heights = [bar.get_height() for bar in bars if bar.get_width() > 0]
    expected = []
    for mode, line, aligned in zip(whole.modes, whole.lines, whole.aligned_lines, strict=True):
        expected += [line.barrier, aligned.barrier]
        expected += [whole.curve.barrier] if mode == "recalibrated" else []
    assert heights == pytest.approx(expected)
    assert [t.get_text() for t in barriers.get_xticklabels()] == ["running", "recalibrated", "batch"]
    drawn = [line.get_ydata() for line in ways.get_lines()]
    for path in (whole.lines[1], whole.aligned_lines[1], whole.curve):
        assert any(np.array_equal(path.losses.numpy(), y) for y in drawn)
    assert "recalibrated" in ways.get_title(loc="left")
    assert {t.get_text() for t in plane.texts} == {"first", "second <2>", "second <2>, aligned"}
    assert "upper bound" in tree.get_ylabel()


def test_the_plane_is_drawn_to_scale(whole):
    place = in_distances(whole.plane)(np.array(CORNERS))
    assert place[0] == pytest.approx([0, 0], abs=1e-9)
    assert place[1] == pytest.approx([float(whole.distances[0]), 0], abs=1e-9)
    assert np.linalg.norm(place[2]) == pytest.approx(float(whole.distances[1]))
    assert place[2][1] > 0
    # The third side, from the second network to the third: twice the difference of the directions.
    side = 2 * torch.linalg.vector_norm(whole.plane.directions[:, 0] - whole.plane.directions[:, 1])
    assert np.linalg.norm(place[1] - place[2]) == pytest.approx(float(side))


def test_holes_of_the_plane_are_hatched_and_counted(whole, tmp_path):
    losses = whole.plane.losses.clone()
    losses[0, :2] = torch.nan
    holed = replace(whole, plane=replace(whole.plane, losses=losses))
    figure = tw.plot(holed)
    note = f"2 of {losses.numel()} points have no finite loss: hatched around them"
    assert note in " ".join(figure.get_suptitle().split())
    assert any(patch.get_hatch() for patch in figure.axes[2].patches)
    assert note in text_of(tw.page(holed, tmp_path))
    assert not any(patch.get_hatch() for patch in tw.plot(whole).axes[2].patches)


def test_a_picture_of_what_is_there(bare, tmp_path):
    figure = tw.plot(bare)
    assert len([ax for ax in figure.axes if ax.get_visible()]) == 2
    # A record draws as well, without the arrays that it left out.
    back = tw.Measurement.from_dict(bare.to_dict())
    assert len(tw.plot(back).axes) == len(figure.axes)


def test_a_record_without_its_arrays_is_drawn_without_its_plane(whole):
    back = tw.Measurement.from_dict(whole.to_dict())
    assert tw.plot(back).axes[0].get_title(loc="left") == "Barriers"


def test_the_table_has_the_rows_own_numbers(whole):
    table = connectivity_table(whole)
    rows = {(row.quantity, row.mode): row for row in table.rows}
    distance = rows["distance", ""]
    assert [float(cell.main) for cell in distance.cells] == pytest.approx(whole.distances.tolist(), rel=1e-3)
    barrier = rows["barrier, straight line", "batch"].cells[1]
    assert float(barrier.main) == pytest.approx(whole.aligned_lines[2].barrier, abs=0.01)
    assert " to " in barrier.interval
    assert rows["barrier, curve", "recalibrated"].cells[1].main == "–"
    assert table.missing == ()


def test_why_something_is_missing_is_said_once(bare):
    missing = connectivity_table(bare).missing
    assert any(line.startswith("alignment, aligned lines: `b` must have hidden units") for line in missing)
    assert "curve: not asked for (num_steps=0)" in missing
    assert any(line.startswith("plane, topology: there is no third network") for line in missing)


@pytest.mark.parametrize("kind", ["whole", "bare"])
def test_the_page_stands_alone(kind, request, tmp_path):
    result = request.getfixturevalue(kind)
    path = tw.page(result, tmp_path)
    outline = Outline(path.read_text(encoding="utf-8"))
    assert len(set(outline.ids)) == len(outline.ids)
    assert all(a.startswith("data:") or a[1:] in outline.ids for a in outline.addresses)
    images = [a for tag, a in outline.tags if tag == "img"]
    assert len(images) == (4 if kind == "whole" else 2)
    assert all(len(image["alt"]) > 40 for image in images)
    text = text_of(path)
    assert "an upper bound on what separates the two" in text
    first = path.read_bytes()
    tw.page(result, tmp_path)
    assert path.read_bytes() == first


def test_it_is_a_section_of_the_page_of_a_comparison(whole, tmp_path):
    text = text_of(tw.page(comparison(), tmp_path, between=whole))
    assert "side by side" in text
    assert "What lies between them" in text
    assert "REPAIR" in text
    assert "second &lt;2&gt;, aligned" in text


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_no_word_is_lost_however_narrow_the_terminal(whole, columns):
    out = io.StringIO()
    print_connectivity(whole, Console(file=out, width=columns, highlight=False, emoji=False, markup=False))
    table = out.getvalue().split("Lowest barrier")[0].splitlines()
    assert max(map(len, table)) <= columns
    assert "…" not in out.getvalue()
    assert sum("recalibrated" in line for line in table) >= 4


def test_the_bend_is_named_where_it_stands_in(whole, tmp_path):
    named = replace(whole, plane_names=("first", "second <2>", BEND))
    assert not named.is_plane_of_aligned
    assert named.rows[-2].aligned is None

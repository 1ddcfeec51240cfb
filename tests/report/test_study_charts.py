"""Charts of rows put numbers where the axis says, and ends that do not fit at its edge."""

from __future__ import annotations

import math
import re

import pytest

from thalweg.report.study_charts import (
    LABELS,
    RIGHT,
    WIDTH,
    Chart,
    Dots,
    Mark,
    Row,
    answer_axis,
    unit_axis,
    value_axis,
)


def marks(*ends: tuple[float, float, float]) -> list[Mark]:
    return [Mark(value, low, high, "#000") for low, value, high in ends]


def test_a_logarithmic_axis_has_equal_ratios_at_equal_distances():
    axis = answer_axis(marks((0.5, 0.6, 0.7), (1.5, 2, 3)), "a / b", is_log=True, band=(1 / 1.2, 1.2))
    assert axis.place(axis.low) == LABELS
    assert axis.place(axis.high) == WIDTH - RIGHT
    assert axis.place(2) - axis.place(1) == pytest.approx(axis.place(1) - axis.place(0.5), abs=0.15)
    assert axis.low < 0.5 < 3 < axis.high
    assert len(axis.ticks) >= 3
    assert all(axis.low <= tick <= axis.high for tick, _ in axis.ticks)


@pytest.mark.parametrize(("is_log", "far"), [(True, 1e9), (False, 1e6), (True, math.inf), (False, math.inf)])
def test_an_end_that_is_far_off_does_not_stretch_the_axis(is_log, far):
    axis = answer_axis(marks((0.8, 0.9, 1.1), (0.7, 1.2, far)), "", is_log=is_log, band=None)
    assert axis.high < 5
    place, beyond = axis.clip(far)
    assert (place, beyond) == (WIDTH - RIGHT, True)
    assert axis.clip(1.1) == (axis.place(1.1), False)
    assert axis.clip(-math.inf) == (LABELS, True)


def test_values_over_more_than_a_decade_have_a_logarithmic_axis():
    assert value_axis([1, 11], "").is_log
    assert not value_axis([1, 9], "").is_log
    assert not value_axis([-1, 100], "").is_log
    same = value_axis([3, 3], "")
    assert same.low < 3 < same.high
    nought = value_axis([0, 0], "")
    assert nought.low < 0 < nought.high


def drawn(chart: Chart) -> str:
    from jinja2 import Environment, FileSystemLoader

    from thalweg.report import page

    loader = FileSystemLoader(page._TEMPLATES)
    environment = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string('{% from "study_chart.html" import draw %}{{ draw(chart) }}').render(
        chart=chart
    )


def test_the_drawing_holds_what_the_rows_say():
    own = Mark(0.2, -0.1, 2.0, "#0072B2", shape="square", is_own=True, mode="running")
    rows = (
        Row("trace & <co>", measure="trace"),
        Row("end", (own,), measure="trace", at="end"),
        Row("epoch 1", dots=(Dots((0.1, -0.4), "#123456", "square"),), note="none", mode="batch"),
    )
    chart = Chart("c", "Alternative words", unit_axis("τ", (-0.3, 0.3)), rows)
    svg = drawn(chart)
    axis = chart.axis
    assert "trace &amp; &lt;co&gt;" in svg
    assert f"M{axis.place(-0.1)} " in svg
    assert f"H{WIDTH - RIGHT}" in svg, "the interval ends at the edge"
    assert f"M{WIDTH - RIGHT} " in svg, "with an arrow"
    assert re.search(rf'<rect class="tall" x="{axis.place(-0.3)}"', svg)
    for value in (0.1, -0.4):
        assert f"M{axis.place(value):g} " in svg
    # A stroke without length is seen with a round or a square cap alone.
    assert set(re.findall(r'stroke-linecap="(\w+)"', svg)) <= {"round", "square"}
    assert 'data-measure="trace" data-at="end"' in svg
    assert svg.count("<circle") == 1, "round the claim's own"


def test_rows_stand_below_each_other():
    rows = (Row("heading"), Row("a", (Mark(0, 0, 0, "#000"),), num_lines=3), Row("b", note="n"))
    chart = Chart("c", "", unit_axis("", None), rows)
    places = [y for y, _ in chart.placed]
    assert places == [chart.top, chart.top + rows[0].height, chart.top + rows[0].height + rows[1].height]
    assert chart.height == places[-1] + rows[2].height + chart.bottom
    lines = [chart.ordinate(rows[1], i) for i in range(3)]
    assert 0 < lines[0] < lines[1] < lines[2] < rows[1].height

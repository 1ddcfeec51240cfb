"""The page of a comparison and of a contrast: what it says, and that a browser shows it without a word."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.report.test_paper_report import Outline, text_of

from thalweg.analyses.compare import Comparison
from thalweg.analyses.contrast_result import Contrast
from thalweg.report.order_page import page as write_order_page
from thalweg.report.order_tables import format_p, order_table
from thalweg.report.plot import plot

MODES = ("running", "recalibrated", "batch")
DESCRIBED = {
    "model": "Net",
    "num_params": 421_834,
    "num_examples": 4096,
    "loss": "cross_entropy",
    "dtype": "float32",
    "params": "hash-of-params",
}


def comparison() -> Comparison:
    """Nine rows: a raw measure that changes with the mode, one that is not measured once, a flat width."""
    values = [
        [90, 41],
        [88, 41],
        [35, 41],
        [300, 310],
        [math.nan, 310],
        [290, 310],
        [0.5, 2],
        [0.6, 2],
        [3, 2],
    ]
    half = [[2, 1]] * 3 + [[30, 30]] * 3 + [[0, 0]] * 3
    table, width = (torch.tensor(t, dtype=torch.float64) for t in (values, half))
    return Comparison(
        value=3.0,
        provenance={
            "function": "compare",
            "arguments": {"seed": 7, "measures": {"top_eigenvalue": {"rtol": 0.01}}},
            "objectives": [DESCRIBED, {**DESCRIBED, "model": "<Plain>"}],
        },
        names=("bn/w", "plain & <w>"),
        measures=("top_eigenvalue",) * 3 + ("trace",) * 3 + ("width",) * 3,
        modes=MODES * 3,
        is_normalised=(False,) * 6 + (True,) * 3,
        larger_is_sharper=(True,) * 6 + (False,) * 3,
        are_lower_bounds=(False,) * 9,
        values=table,
        lows=table - width,
        highs=table + width,
        reasons=("",) * 4 + ("bn/w: 40 products were spent before it converged",) + ("",) * 4,
        level=0.95,
        rounding=3e-4,
    )


def contrast(**more) -> Contrast:
    rng = np.random.default_rng(0)
    a = np.array([[60.0], [58], [40], [2]]) * np.exp(0.1 * rng.normal(size=(4, 6)))
    b = np.array([[40.0], [41], [41], [1]]) * np.exp(0.1 * rng.normal(size=(4, 5)))
    tables = {
        f"{n}_{s}": torch.zeros(x.shape, dtype=torch.float64)
        for n in ("errors", "below", "above")
        for s, x in (("a", a), ("b", b))
    }
    given = {
        "by": "recipe",
        "groups": ("sam", "sgd"),
        "runs_a": tuple(f"recipe=sam, seed={i}" for i in range(6)),
        "runs_b": tuple(f"recipe=sgd, seed={i}" for i in range(5)),
        "measures": ("top_eigenvalue",) * 3 + ("width",),
        "modes": (*MODES, "running"),
        "is_normalised": (False,) * 4,
        "larger_is_sharper": (True, True, True, False),
        "are_lower_bounds": (False,) * 4,
        "values_a": torch.from_numpy(a),
        "values_b": torch.from_numpy(b),
        **tables,
        "errors_a": torch.full(a.shape, 0.2, dtype=torch.float64),
        "reasons": ("",) * 4,
        "paired": False,
        "log": False,
        "level": 0.95,
        "correction": "joint",
        "seed": 0,
    }
    provenance = {
        "function": "contrast",
        "arguments": {"seed": 0, "measures": {}},
        "runs": [{"fields": {"recipe": "sam", "seed": 0}, "objective": DESCRIBED}] * 11,
    }
    return Contrast(value=math.nan, provenance=provenance, **{**given, **more}).headed()


RESULTS = {
    "pair": comparison,
    "groups": contrast,
    "log": lambda: contrast(log=True, correction="holm"),
    "pairs": lambda: contrast(
        paired=True,
        values_a=contrast().values_a[:, :5],
        errors_a=contrast().errors_a[:, :5],
        below_a=contrast().below_a[:, :5],
        above_a=contrast().above_a[:, :5],
        runs_a=contrast().runs_a[:5],
    ),
}


@pytest.mark.parametrize("kind", RESULTS)
def test_the_page_stands_alone_and_serves_readers_without_eyes(kind, tmp_path):
    path = write_order_page(RESULTS[kind](), tmp_path)
    assert path == tmp_path / "index.html"
    outline = Outline(path.read_text(encoding="utf-8"))
    assert len(set(outline.ids)) == len(outline.ids)
    assert all(a.startswith("data:") or a[1:] in outline.ids for a in outline.addresses)
    assert not [tag for tag, _ in outline.tags if tag == "script"]
    assert all(a.get("scope") in ("col", "row") for tag, a in outline.tags if tag == "th")
    (image,) = [a for tag, a in outline.tags if tag == "img"]
    assert len(image["alt"]) > 40
    first = path.read_bytes()
    write_order_page(RESULTS[kind](), tmp_path)
    assert path.read_bytes() == first


def test_other_results_have_no_page(study, tmp_path):
    with pytest.raises(
        TypeError, match="`result` must be a result of compare, contrast or mode_connectivity, got LineSlice"
    ):
        write_order_page(study.line("A1", "running"), tmp_path)


def rows_of(path: Path) -> list[str]:
    body = path.read_text(encoding="utf-8").split("<tbody", 1)[1].split("</tbody>")[0]
    return body.split("<tr ")[1:]


def test_the_page_of_a_pair_marks_the_rows_that_change(tmp_path):
    path = write_order_page(comparison(), tmp_path)
    marked = ["≠" in row for row in rows_of(path)]
    # A width that is larger where the minimum is flatter agrees with a smaller curvature.
    assert marked == [False, False, True, False, False, False, False, False, True]
    text = text_of(path)
    for wanted in (
        "bn/w and plain &amp; &lt;w&gt;, side by side",
        "6 of 9 rows are decided: sharper is bn/w by 4 and plain &amp; &lt;w&gt; by 2.",
        "The order of the two hangs on the batch-norm mode by top_eigenvalue, width.",
        "bn/w: 40 products were spent before it converged",
        "normalised, larger is flatter",
        "Examples 4,096",
        "Net, P = 421,834; &lt;Plain&gt;, P = 421,834",
        "hash-of-params",
        "arguments.measures.top_eigenvalue.rtol 0.01",
        "less than 0.0003 of themselves",
    ):
        assert wanted in text, wanted


def test_the_page_of_groups_says_what_was_found_and_by_which_rule(tmp_path):
    result = contrast()
    path = write_order_page(result, tmp_path)
    text = text_of(path)
    row = result.rows[0]
    for wanted in (
        "recipe: sam against sgd",
        "6 runs against 5",
        "sam, n = 6 sgd, n = 5 sam less sgd p p, joint size, g Sharper",
        "Westfall and Young",
        "Welch’s, which asks for no equal spreads",
        f"measuring {100 * row.measurement_share:.2g} % of the variance",
        "larger in 100 % of pairs",
        "recipe=sgd, seed=4",
        "its corrected p-value is at most 0.05",
    ):
        assert wanted in text, wanted
    assert [row.count("sharper-a") for row in rows_of(path)] == [1, 1, 0, 0]
    # The last one's a is larger, a width.
    assert [row.count("sharper-b") for row in rows_of(path)] == [0, 0, 1, 1]
    assert "Holm" in text_of(write_order_page(contrast(correction="holm"), tmp_path))
    pairs = text_of(write_order_page(RESULTS["pairs"](), tmp_path))
    assert "5 pairs" in pairs
    assert "Student’s for the differences of the pairs" in pairs


def test_numbers_of_the_table_are_the_rows_own():
    result = contrast(log=True)
    row, cells = result.rows[0], order_table(result).rows[0].cells
    assert float(cells[0].main) == pytest.approx(math.exp(row.sample.mean_a), rel=0.02)
    assert float(cells[2].main) == pytest.approx(math.exp(row.sample.difference), rel=0.02)
    low, high = map(float, re.findall(r"[\d.]+", cells[2].interval))
    assert low <= math.exp(row.low) <= low * 1.02
    assert high * 0.98 <= math.exp(row.high) <= high
    assert cells[3].main == format_p(row.sample.p_value)
    assert cells[4].main == format_p(row.p_joint)


def test_means_have_three_digits_however_wide_the_spread():
    wide = contrast()
    noisy = contrast(values_a=wide.values_a * torch.linspace(0.1, 2, 6, dtype=torch.float64))
    for row, shown in zip(noisy.rows, order_table(noisy).rows, strict=True):
        assert float(shown.cells[0].main) == pytest.approx(row.sample.mean_a, rel=0.005)
    pair = order_table(comparison())
    assert [cell.main for cell in pair.rows[0].cells] == ["90.0", "41.0", "2.20"]
    assert pair.rows[4].cells == ()
    negative = replace(
        comparison(), values=-comparison().values, lows=-comparison().highs, highs=-comparison().lows
    )
    assert order_table(negative).rows[0].cells[2].main == "–"


@pytest.mark.parametrize("kind", RESULTS)
def test_the_figure_shows_each_row_at_its_place(kind):
    result = RESULTS[kind]()
    axes = plot(result).axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert len(labels) == len(result.rows)
    assert [label.startswith("≠") for label in labels] == [row.changes for row in result.rows]
    heights = axes.get_yticks()
    points = {
        round(float(line.get_ydata()[0]), 6): float(line.get_xdata()[0])
        for line in axes.get_lines()
        if len(line.get_xdata()) == 1
    }
    for height, row in zip(heights, result.rows, strict=True):
        if row.reason:
            assert round(float(height), 6) not in points
            continue
        if isinstance(result, Comparison):
            expected = row.ratio
        elif result.log:
            expected = math.exp(row.sample.difference)
        else:
            expected = 200 * row.sample.difference / (row.sample.mean_a + row.sample.mean_b)
        assert points[round(float(height), 6)] == pytest.approx(expected)


def open_ended() -> list[tuple[Comparison | Contrast, list[tuple[int, int]]]]:
    """Results with intervals that lack an end; row and edge, 0 on the left, of each."""
    pair, groups = comparison(), contrast()
    highs, above = pair.highs.clone(), groups.above_a.clone()
    highs[0, 0] = highs[2, 1] = math.inf  # the ratio a / b: without an upper end, without a lower
    lows = pair.lows.clone()
    lows[3, 1] = -1.0  # what divides may be nought
    above[1] = math.inf
    log = {"above_a": above, "log": True}
    return [
        (replace(pair, highs=highs, lows=lows), [(0, 1), (2, 0), (3, 1)]),
        (replace(groups, above_a=above), [(1, 1)]),
        (contrast(**log), [(1, 1)]),
        (contrast(above_b=torch.full_like(groups.above_b, math.inf)), [(i, 0) for i in range(4)]),
    ]


@pytest.mark.parametrize("case", range(4))
def test_an_end_that_is_not_there_is_an_arrow_to_the_edge(case):
    result, expected = open_ended()[case]
    axes = plot(result).axes[0]
    heights = [round(float(height), 6) for height in axes.get_yticks()]
    points = {
        round(float(p.get_ydata()[0]), 6): float(p.get_xdata()[0])
        for p in axes.get_lines()
        if len(p.get_xdata()) == 1
    }
    arrows = [text for text in axes.texts if text.arrow_patch is not None]
    assert [(heights.index(round(float(a.xy[1]), 6)), int(a.xy[0])) for a in arrows] == expected
    for arrow in arrows:
        assert arrow.xycoords == ("axes fraction", "data")
        assert arrow.xyann[0] == points[round(float(arrow.xy[1]), 6)]
    low, high = axes.get_xlim()
    assert all(low <= x <= high for x in points.values())


@pytest.mark.parametrize("width", [1200, 375])
@pytest.mark.parametrize("kind", ["pair", "groups"])
def test_a_browser_shows_it_and_asks_for_nothing(browser, kind, width, tmp_path):
    path = write_order_page(RESULTS[kind](), tmp_path)
    page = browser.new_page(viewport={"width": width, "height": 900})
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_load_state("networkidle")
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [path.as_uri()]
    assert page.locator("figure img").evaluate("e => e.complete && e.naturalWidth > 0")
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("document.documentElement.scrollWidth") == width, "nothing sticks out to the side"
    assert page.locator(".order tbody tr").count() == len(RESULTS[kind]().rows)
    page.close()

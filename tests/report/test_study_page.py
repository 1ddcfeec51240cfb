"""A study's page says what its records bear out, stands alone, and a browser filters and saves from it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from tests.report.made_up_studies import batch_norm_study, grid_study, made_up_store
from tests.report.test_paper_report import Outline

from thalweg.report.study_page import write_study_page
from thalweg.report.study_words import state_of
from thalweg.study.evidence import Evidence
from thalweg.study.spec import StudySpec
from thalweg.study.study import Study
from thalweg.study.table import rows
from thalweg.study.verdicts import Verdict, verdicts


def small_study(num_seeds: int) -> StudySpec:
    """Five measures and two moments of the study that comes with the package, and one claim more."""
    spec = batch_norm_study(2).frozen()
    kept = ("top_eigenvalue", "trace", "sam_sharpness", "adaptive_sam_sharpness", "basin_width")
    extra = {**spec["claims"][2], "name": "by-seeds", "primary": False, "text": "", "measure": "trace"}
    return batch_norm_study(
        num_seeds,
        moments=["epoch 2", "end"],
        measures={k: v for k, v in spec["measures"].items() if k in kept},
        claims=[*spec["claims"], extra],
    )


@dataclass(frozen=True)
class Written:
    study: Study
    found: list[Verdict]
    path: Path

    @property
    def text(self) -> str:
        """What a reader reads."""
        page = re.sub(r"(?s)<(style|script|svg).*?</\1>|data:image[^\"]*", "", self.path.read_text("utf-8"))
        return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


def written(folder: Path, spec: StudySpec, **kwargs) -> Written:
    study = Study.open(made_up_store(folder, spec, **kwargs))
    path = write_study_page(study, folder / "out" / "report.html")
    return Written(study, verdicts(spec, Evidence(rows(study))), path)


@pytest.fixture(scope="module")
def six(tmp_path_factory) -> Written:
    """Six seeds: a run diverged, a measure was refused and another crashed."""
    failed = {"sam_sharpness": "refused", "trace": "crashed"}
    return written(tmp_path_factory.mktemp("six"), small_study(6), diverged=(("bn", 2),), failed=failed)


@pytest.fixture(scope="module")
def begun(tmp_path_factory) -> Written:
    """Two seeds of six, so that nothing can be decided."""
    return written(tmp_path_factory.mktemp("begun"), small_study(6), num_done=2)


def test_the_page_stands_alone_and_serves_readers_without_eyes(six):
    page = six.path.read_text("utf-8")
    outline = Outline(page)
    assert len(set(outline.ids)) == len(outline.ids)
    assert all(a.startswith("data:") or a[1:] in outline.ids for a in outline.addresses)
    assert [a for tag, a in outline.tags if tag == "script"] == [{}]
    assert not re.search(r"https?://(?!www\.w3\.org/)", page)
    headers = [a for tag, a in outline.tags if tag == "th"]
    assert all(a.get("scope") in ("col", "row", "rowgroup") for a in headers)
    charts = [a for tag, a in outline.tags if tag == "svg" and a.get("role") == "img"]
    assert len(charts) == 5 + 4 + 3 + 11, "forests by claim, barriers apart, a matrix a mode, strips"
    assert all(len(a["aria-label"]) > 40 for a in charts)
    levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(levels)), "no level is skipped"


def test_each_cell_has_the_colour_of_its_answer_and_each_claim_its_own_cell(six):
    page = six.path.read_text("utf-8")
    tables = re.findall(r'(?s)<table class="cells">.*?</table>', page)
    assert len(tables) == len(six.found) == 5
    for table, verdict in zip(tables, six.found, strict=True):
        for state in ("supported", "refuted", "undecided", "missing"):
            shown = len(re.findall(rf'class="{state}( own)?"', table))
            assert shown == sum(state_of(c) == state for c in verdict.cells), state
        assert table.count(' own"') == 1
        own = re.search(r'own">.*?<b>(.*?)</b>', table)
        assert own is not None
        assert float(own[1].replace("−", "-")) == pytest.approx(verdict.cell.effect, rel=0.02)
    answers = {v.claim.name: v.answer for v in six.found}
    assert answers == {
        "flatter-eigenvalue": "supported",
        "flatter-at-equal-loss": "supported",
        "flatter-by-perturbation": "undecided",
        "generalises-better": "supported",
        "by-seeds": "refuted",
    }
    assert "≈" in tables[4], "the traces are shown to be the same"


def test_the_page_says_what_was_found_and_what_failed(six):
    text = six.text
    for wanted in (
        "How does batch normalisation reshape the loss landscape?",
        "“Batch norm lowers the largest eigenvalue of the Hessian at the end of training.”",
        "✓ supported at 95 % bn is smaller than plain",
        "for the claim, Holm",
        "exploratory",
        "5 against 6 1 run has no value: training diverged: the loss of step 40 is nan (1)",
        "the two are the same within a factor of 1.2",
        "Batch-norm mode: ✓ supported with running, recalibrated; ✗ refuted with batch. The answer hangs",
        "Kendall’s tau from seed to seed",
        "here the claim is: basin_width of bn is larger than of plain",
        "diverged: the loss was not finite, and it would be again",
        "`sam_sharpness` &lt;cannot&gt; be had of it",
        "bn · seed 2: train",
        "blocked: the training they need failed",
        "bn · seed 1-2 pair : 0 values",
        "hosts elsewhere",
        "threads a worker 1",
        "6 against 6 0.0087",
    ):
        assert wanted in text, wanted
    assert "This study is not finished" not in text
    done = six.study.status()["done"]
    assert f"{done} done, 1 diverged" in text


def test_every_value_is_there_with_its_interval(six):
    page = six.path.read_text("utf-8")
    runs = page.split('<details class="run">')[1:]
    assert len(runs) == 12 + 2 * 15, "runs and pairs"
    shown = re.findall(r'<td data-mode="[a-z]+">([^<]+) <small>', page)
    values = [row for row in rows(six.study) if math.isfinite(row["value"])]
    assert len(shown) == len(values)
    first = next(r for r in values if r["name"] == "top_eigenvalue" and r["mode"] == "running")
    row = re.search(
        r'data-measure="top_eigenvalue" data-at="epoch 2">.*?running">([\d.]+) <small>(.*?)</small>', runs[0]
    )
    assert row is not None
    assert float(row[1]) == pytest.approx(first["value"], rel=0.01)
    low, high = re.findall(r"[\d.]+", row[2])[:2]
    assert float(low) <= first["low"] <= first["high"] <= float(high)
    assert f"{first['seconds']:.3g} s" in row[2]


def test_a_study_that_has_begun_says_that_it_is_not_finished(begun):
    text = begun.text
    left = begun.study.status()["open"]
    assert f"This study is not finished: {left} of {len(begun.study.tasks)} tasks are open." in text
    assert "2 against 2, corrected over 4 claims, cannot go below p = 1 " in text
    assert "8 runs have no value: not measured yet (8)" in text
    assert "Nothing failed." in text


def test_nothing_is_claimed_of_nothing(tmp_path):
    spec = small_study(2)
    page = written(tmp_path, spec, num_done=0)
    assert page.text.count("not measured yet") > 5
    assert "0 runs have a value so far" in page.text
    assert "Nothing is trained yet." in page.text
    assert "supported at" not in page.text
    first = page.path.read_bytes()
    write_study_page(page.study, page.path)
    assert page.path.read_bytes() == first, "equal records give equal bytes"


def test_a_study_of_correlations_has_their_matrix(tmp_path):
    page = written(tmp_path, grid_study(2))
    text = page.text
    found = {v.claim.name: v for v in page.found}
    # Two models, three rates and two decays have 24 exchanges, and there are two primary claims.
    assert (found["sharp"].answer, found["sharp"].cell.low > 0) == ("undecided", True)
    assert found["sharp"].cell.p_support == pytest.approx(2 / 24)
    assert "24, corrected over 2 claims, cannot go below p = 0.17" in text
    assert "τ along model" in text
    assert "“Sharper is worse.”" in text
    assert "top_eigenvalue ranks runs by gap, running statistics, at end, margin 0.2" in text
    assert "given train_loss" in text
    source = page.path.read_text("utf-8")
    assert source.count('id="figure-tau-') == 3
    listed = re.search(r"<th scope=\"row\">sam_sharpness</th><td>gap</td><td>([\d.]+)</td>", source)
    assert listed is not None
    assert float(listed[1]) == pytest.approx(found["sharp"].cell.effect, abs=0.006)


def test_ranks_and_predictions_are_shown_run_by_run(tmp_path):
    content = grid_study(2).frozen()
    ranks = {"kind": "correlation", "name": "cold", "measure": "trace", "ranks": "temperature"}
    tells = {"kind": "prediction", "name": "tells", "features": ["sam_sharpness", "trace"], "margin": 1.2}
    claims = [
        {**ranks, "expect": "negative", "primary": True},
        {**tells, "outcome": "test_loss", "expect": "helps", "primary": True, "text": "It tells."},
    ]
    spec = StudySpec.model_validate(
        {
            **content,
            "moments": ["end"],
            "objective": {"modes": ["running"]},
            "measures": {"trace": {}, "sam_sharpness": {}},
            "quantities": {"temperature": {"kind": "temperature"}},
            "claims": claims,
        }
    )
    page = written(tmp_path, spec)
    cold, tells = page.found
    found = tells.cell.prediction
    assert found is not None
    assert found.num_configurations == len(spec.settings) == 12
    source = page.path.read_text("utf-8")
    for name in ("cold", "tells"):
        assert f'id="figure-runs-{name}"' in source
    text = page.text
    errors = f"{found.baseline_error:.3f} from the hyperparameters alone, {found.error:.3f} with features"
    assert errors in text
    assert "sam_sharpness + trace helps to foretell test_loss beside the hyperparameters" in text
    assert "24 of 12 settings" in text
    assert cold.cell.num_a == 24
    # What a grid can decide is said before the claims.
    assert "24 of 12 settings 0.67 can decide nothing" in text
    assert "nan" not in text.split(), "what took no time of its own has none"
    # Quantities are values of the runs, too: 0.01 / (128 (1 - 0.9)) and so on.
    assert 'id="figure-values-temperature"' in source
    hot = sorted({v.value for v in cold.cell.values_b})
    assert hot == pytest.approx([rate / 12.8 for rate in (0.01, 0.03, 0.1)])


def open_page(browser, path: Path, width: int, **kwargs):
    page = browser.new_page(viewport={"width": width, "height": 900}, **kwargs)
    page.complaints, page.requests = [], []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("request", lambda request: page.requests.append(request.url))
    page.goto(path.as_uri())
    return page


@pytest.mark.parametrize("width", [1280, 400])
def test_a_browser_shows_it_and_asks_for_nothing(browser, six, width):
    page = open_page(browser, six.path, width)
    page.locator("#unfold").click()
    assert page.evaluate("[...document.querySelectorAll('details')].every((d) => d.open)")
    assert page.evaluate("document.documentElement.scrollWidth") == width, "nothing sticks out to the side"
    assert page.locator("#figure-training img").evaluate("e => e.complete && e.naturalWidth > 0")
    assert page.complaints == []
    assert [url for url in page.requests if not url.startswith("data:")] == [six.path.as_uri()]
    page.close()


def test_the_filter_hides_what_is_not_asked_for_and_charts_close_up(browser, six):
    page = open_page(browser, six.path, 1280)
    chart = page.locator("#forest-flatter-eigenvalue")
    height = chart.evaluate("e => e.viewBox.baseVal.height")
    cells = page.locator("table.cells").first.locator("td:visible")
    everything = cells.count()
    verdict_rows = page.locator("table.claims tbody tr:visible").count()

    page.locator("select[name=mode]").select_option("batch")
    num_rows = page.locator("table.cells").first.locator("td[data-mode=batch]").count()
    assert cells.count() == num_rows < everything
    assert chart.locator("g[data-mode]:visible").count() == num_rows - 1, "the barrier has a chart of its own"
    assert page.locator("#shown").inner_text() == "Below the verdicts only: mode batch."

    page.locator("select[name=measure]").select_option("trace")
    assert cells.count() == 3, "two moments and a matched loss"
    assert chart.locator("g.row:visible").count() == 4
    assert chart.evaluate("e => e.viewBox.baseVal.height") < height / 2
    tops = chart.locator("g.row:visible").evaluate_all("e => e.map((r) => r.getBoundingClientRect().top)")
    assert tops == sorted(tops)
    assert page.locator("table.claims tbody tr:visible").count() == verdict_rows, "verdicts stand as they are"

    page.locator("select[name=at]").select_option("end")
    assert cells.count() == 1
    page.locator("#everything").click()
    assert cells.count() == everything
    assert chart.evaluate("e => e.viewBox.baseVal.height") == pytest.approx(height, abs=0.01)
    assert page.locator("#shown").inner_text() == ""
    assert page.complaints == []
    page.close()


def test_figures_are_saved_as_shown(browser, six, tmp_path):
    page = open_page(browser, six.path, 1280, accept_downloads=True)
    page.locator("select[name=measure]").select_option("trace")
    figure = page.locator("#figure-forest-flatter-eigenvalue")
    saved = {}
    for kind in ("SVG", "PNG"):
        with page.expect_download() as download:
            figure.get_by_role("link", name=kind).click()
        name = download.value.suggested_filename
        assert name == f"batch-norm-forest-flatter-eigenvalue.{kind.lower()}"
        download.value.save_as(tmp_path / name)
        saved[kind] = (tmp_path / name).read_bytes()
    svg = ElementTree.fromstring(saved["SVG"])
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    rows_of = [g for g in svg.iter("{http://www.w3.org/2000/svg}g") if "row" in g.get("class", "")]
    kept = {g.get("data-measure") for g in rows_of if g.get("display") != "none"}
    assert kept == {"trace"}, "as it was filtered"
    assert saved["PNG"].startswith(b"\x89PNG")
    assert len(saved["PNG"]) > 5000
    page.close()


def test_without_scripts_and_in_print_everything_can_be_read(browser, six):
    context = browser.new_context(java_script_enabled=False, viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto(six.path.as_uri())
    assert page.locator(".filter").is_hidden()
    assert page.locator("table.cells td").first.is_visible()
    page.locator("details.run summary").first.click()
    assert page.locator("details.run td").first.is_visible()
    page.emulate_media(media="print")
    assert page.locator("nav").is_hidden()
    assert page.locator("details.run td").first.is_visible(), "what is open is printed"
    assert page.locator("details.run").nth(1).is_hidden(), "what is folded is not"
    assert page.locator(".printed").is_visible()
    context.close()


def test_an_unfinished_store_is_read_as_it_is(tmp_path):
    """A last line cut off, and records of another version of the file, which are counted and left out."""
    spec = small_study(2)
    made_up_store(tmp_path, spec)
    lines = (tmp_path / "records.jsonl").read_text().splitlines(keepends=True)
    foreign = json.loads(lines[0]) | {"task": "0" * 12}
    (tmp_path / "records.jsonl").write_text("".join(lines[:-1]) + json.dumps(foreign) + "\n" + lines[-1][:40])
    path = write_study_page(Study.open(tmp_path), tmp_path / "report.html")
    text = re.sub(r"<[^>]*>", " ", path.read_text("utf-8"))
    assert f"{len(lines) - 1} records of the study’s file as it was last run; 1 further ones" in text

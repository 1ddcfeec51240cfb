import os
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest

from thalweg.report.paper_report import write_paper_report


class Outline(HTMLParser):
    """Identifiers, addresses and attributes of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.ids, self.addresses, self.tags = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self.ids += [attributes["id"]] if "id" in attributes else []
        self.addresses += [attributes[k] for k in ("href", "src", "srcset", "action") if k in attributes]


def text_of(path: Path) -> str:
    page = re.sub(r"(?s)<style>.*?</style>|data:image[^\"]*", "", path.read_text(encoding="utf-8"))
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page))


def test_figures_are_on_disk_as_png_and_svg_and_nothing_half_written_stays(report):
    names = sorted(p.name for p in (report / "figures").iterdir())
    assert len(names) == 18
    assert {Path(n).stem for n in names if n.endswith(".png")} == {
        Path(n).stem for n in names if n.endswith(".svg")
    }
    assert {p.suffix for p in report.rglob("*") if p.is_file()} == {".png", ".svg", ".html", ".jsonl"}


def test_every_address_is_inside_the_page_or_beside_it(report):
    page = report / "report" / "index.html"
    outline = Outline(page.read_text(encoding="utf-8"))
    assert len(set(outline.ids)) == len(outline.ids)
    assert len(outline.addresses) > 50
    for address in outline.addresses:
        if address.startswith("#"):
            assert address[1:] in outline.ids
        elif not address.startswith("data:"):
            assert (page.parent / address).exists(), address
            assert not os.path.isabs(address)


def test_the_page_needs_no_script_and_serves_readers_without_eyes(report):
    outline = Outline((report / "report" / "index.html").read_text(encoding="utf-8"))
    assert not [tag for tag, _ in outline.tags if tag == "script"]
    images = [a for tag, a in outline.tags if tag == "img"]
    assert len(images) == 9
    assert all(len(a["alt"]) > 40 for a in images)
    headers = [a for tag, a in outline.tags if tag == "th"]
    assert headers
    assert all(a.get("scope") in ("col", "row") for a in headers)
    levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert all(b - a <= 1 for a, b in pairwise(levels)), "no level is skipped"


def test_the_page_says_what_the_issue_asks_for(report):
    text = text_of(report / "report" / "index.html")
    for wanted in (
        *("57.18", "37.51", "0.1837", "0.0886", "88.40", "0.1310"),
        "One seed per network supports no general claim",
        "What the paper leaves open, and what was chosen",
        "solver ≤ 0.088 · probe exact · data exact on 60,000 examples",
        "Of 16 verdicts: 16 agree",
        "hash-of-A1-params",
        "train.batch_size",
        "seed &lt;0&gt;",
        "35 min 00 s",
        "S(A1) by one step: 0.1310 (a lower bound)",
        "Networks A1, A2, B",
        "Test examples 10,000",
        "2.13.0",
        "threads 2",
        "no error of having sampled them is counted",
    ):
        assert wanted in text, wanted
    assert "smoke" not in text.lower()


def test_a_smoke_run_says_loudly_that_it_supports_nothing(study, tmp_path):
    path = write_paper_report([], tmp_path, preset="smoke", settings={})
    assert path == tmp_path / "report" / "index.html"
    text = text_of(path)
    assert text.count("supports nothing") + text.count("support nothing") == 2
    assert "Smoke run" in text
    # With no record at all the page still stands.
    assert "Of 16 verdicts: 16 not measured" in text
    assert text.count("Not measured in this run.") == 4
    assert "None of them was measured in this run." in text


def test_equal_records_give_equal_bytes(study, tmp_path):
    few = [
        r for r in study.records if r.measure in ("train", "top_eigenvalues") and r.labels["model"] == "A1"
    ]
    for name in "ab":
        write_paper_report(few, tmp_path / name, preset="smoke", settings={"seed": 1})
    files = {p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()}
    assert len(files) == 1 + 2 * 2, "the page, two figures in two formats"
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


@pytest.mark.parametrize("width", [1200, 375])
def test_a_browser_shows_each_figure_and_asks_for_nothing(browser, report, width):
    page = browser.new_page(viewport={"width": width, "height": 900})
    complaints, requests = [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(request.url))
    page.on("request", lambda request: requests.append(request.url))
    address = (report / "report" / "index.html").as_uri()
    page.goto(address)
    page.wait_for_load_state("networkidle")
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [address]

    images = page.locator("figure img")
    assert images.count() == 9
    for i in range(images.count()):
        image = images.nth(i)
        assert image.is_visible()
        assert image.evaluate("e => e.complete && e.naturalWidth > 0 && e.naturalHeight > 0")
        assert image.bounding_box()["width"] > width / 2
    # A small screen gets the drawing with its panels in one column.
    tall = images.first.evaluate("e => e.naturalHeight > e.naturalWidth")
    assert tall == (width == 375)
    assert page.evaluate("document.documentElement.scrollWidth") == width, "nothing sticks out to the side"
    cell = page.locator(".numbers td").first.bounding_box()
    assert (cell["width"] > width / 2) == (width == 375), (
        "cells stand one below the other where there is no room"
    )
    page.close()

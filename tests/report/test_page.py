import base64

import pytest
from jinja2 import UndefinedError

from thalweg.report.page import render_page, svg_uri, write_page


def test_an_svg_survives_its_address():
    address = svg_uri(b"<svg/>")
    head, _, body = address.partition(",")
    assert head == "data:image/svg+xml;base64"
    assert base64.b64decode(body) == b"<svg/>"


def test_a_name_that_the_template_lacks_is_an_error():
    with pytest.raises(UndefinedError, match="undefined"):
        render_page("paper.html", preset="paper")


def test_a_page_is_whole_and_in_utf_8(tmp_path):
    path = write_page("λ", tmp_path / "report" / "index.html")
    assert path.read_bytes() == "λ".encode()
    assert list(path.parent.iterdir()) == [path]

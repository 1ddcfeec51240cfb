"""The figures of a page that was written here, each as a file of its own."""

from __future__ import annotations

import base64
import html
import re

FIGURE = re.compile(r'<figure class="study"[^>]*\bdata-name="([^"]*)"[^>]*>(.*?)</figure>', re.DOTALL)
DRAWN = re.compile(r'<svg class="chart".*?</svg>', re.DOTALL)
EMBEDDED = re.compile(r'<img src="data:image/svg\+xml;base64,([^"]*)"')


def page_figures(page: str) -> dict[str, bytes]:
    """SVG of each figure of a study's page, by its name; as it is drawn where all is shown.

    Parameters
    ----------
    page
        As `thalweg.report.study_page` writes it.
    """
    found: dict[str, bytes] = {}
    for name, content in FIGURE.findall(page):
        if drawn := DRAWN.search(content):
            found[html.unescape(name)] = drawn[0].encode()
        elif embedded := EMBEDDED.search(content):
            found[html.unescape(name)] = base64.b64decode(embedded[1])
    return found

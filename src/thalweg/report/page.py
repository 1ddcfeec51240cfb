"""One self-contained HTML page: templates filled in, styles inside, pictures inside, nothing fetched."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from thalweg.core.atomic import replacing

_TEMPLATES = Path(__file__).parent / "templates"


def svg_uri(svg: bytes) -> str:
    """An SVG as a ``data:`` address, fit for the source of an image.

    As an image it keeps its element names to itself, so several on one page cannot collide.
    """
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode()


def render_page(template: str, **context: Any) -> str:
    """Fill in one of the package's templates.

    Parameters
    ----------
    template
        File name in ``report/templates``.
    context
        What the template asks for; all text is escaped, and a name it lacks is an error.

    Returns
    -------
    str
        The page, the same for the same context.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    styles = (_TEMPLATES / "style.css").read_text(encoding="utf-8")
    return environment.get_template(template).render(styles=styles, **context)


def write_page(page: str, path: str | Path) -> Path:
    """Write a page in UTF-8, whole or not at all."""
    path = Path(path)
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path

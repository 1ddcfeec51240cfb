"""A study's page."""

from __future__ import annotations

from pathlib import Path

from thalweg.study.study import Study


def write_study_page(study: Study, path: str | Path) -> Path:
    """Write the page of `study` to `path`."""
    raise NotImplementedError

"""``thalweg report``: a study's page, from its records alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.console import errors
from thalweg.report.study_page import write_study_page
from thalweg.study.study import Study


def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A study's folder.")],
    to: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the page goes; default: FOLDER/report.html.")
    ] = None,
) -> None:
    """Write a study's page: one file, from its records alone, whether or not it is finished.

    Example: `thalweg report runs/batch-norm-laptop`
    """
    write_report(Study.open(folder), to or folder / "report.html")


def write_report(study: Study, file: Path) -> None:
    """Write the page of an opened study, and say where it is."""
    page = write_study_page(study, file)
    errors.print(f"report: {page}", markup=False, soft_wrap=True)

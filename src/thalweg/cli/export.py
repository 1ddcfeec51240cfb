"""``thalweg export``: a study's numbers for those who carry on elsewhere."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from thalweg.cli.console import errors
from thalweg.core.arguments import check_one_of
from thalweg.study.export import export_table
from thalweg.study.study import Study

KINDS = ("csv", "parquet", "mlflow")


def export(
    kind: Annotated[str, typer.Argument(metavar="KIND", help=f"{', '.join(KINDS)}.")],
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A study's folder.")],
    to: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="A file; for mlflow a tracking URI. Default: FOLDER/records.csv, FOLDER/records.parquet, or "
            "sqlite:///FOLDER/mlflow.db.",
        ),
    ] = None,
) -> None:
    """Write a study's table as CSV or Parquet, or its runs into MLflow, with its page and the page's figures.

    Example: `thalweg export csv runs/batch-norm-laptop --to numbers.csv`
    """
    check_one_of("kind", kind, KINDS)
    study = Study.open(folder)
    if kind == "mlflow":
        from thalweg.report.page_figures import page_figures
        from thalweg.report.study_page import write_study_page
        from thalweg.study.mlflow_export import export_mlflow

        with TemporaryDirectory() as temporary:
            page = write_study_page(study, Path(temporary) / "report.html").read_bytes()
        figures = {f"figures/{name}.svg": svg for name, svg in page_figures(page.decode()).items()}
        place = export_mlflow(
            study, to or f"sqlite:///{folder / 'mlflow.db'}", {"report.html": page, **figures}
        )
    else:
        path = Path(to) if to else folder / f"records.{kind}"
        place = str(export_table(study, path, "parquet" if kind == "parquet" else "csv"))
    errors.print(f"{kind}: {place}", markup=False, soft_wrap=True)

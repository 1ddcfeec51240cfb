"""A study's table in files that other programs read."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from thalweg.core.atomic import replacing
from thalweg.study.table import rows

if TYPE_CHECKING:
    from thalweg.study.study import Study


def export_table(study: Study, path: str | Path, kind: Literal["csv", "parquet"]) -> Path:
    """Write `thalweg.study.table.rows` to a file; an old one stays until the new one is whole.

    Raises
    ------
    ImportError
        For Parquet without pandas and pyarrow, naming the extra that brings them.
    """
    path = Path(path)
    if kind == "parquet":
        frame = study.to_dataframe()
        with replacing(path) as partial:
            frame.to_parquet(partial, index=False)
        return path
    table = rows(study)
    with replacing(path) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(table[0]) if table else [])
        writer.writeheader()
        writer.writerows(table)
    return path

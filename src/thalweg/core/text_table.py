"""Rows of text set in columns, for results that are tables."""

from __future__ import annotations

from collections.abc import Sequence


def in_columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of equally many texts, each column as wide as its widest.

    >>> print(in_columns([("", "scaled"), ("trace", "moved")]))
           scaled
    trace  moved
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)

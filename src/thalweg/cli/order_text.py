"""A comparison or a contrast in a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from thalweg.analyses.compare import Comparison
from thalweg.analyses.contrast_result import Contrast
from thalweg.cli.console import output
from thalweg.report.order_figures import CHANGED
from thalweg.report.order_tables import OrderTable, order_table

# Most columns of numbers; where they do not fit there are fewer: broken words are worse. The page has all.
MOST_CELLS = 5


def print_order(result: Comparison | Contrast, console: Console | None = None) -> None:
    """Print the rows, what they add up to, and why some were not measured; by default to standard output."""
    console = console or output()
    table = order_table(result)
    console.print(_widest(table, console))
    for row in table.rows:
        if row.reason:
            mode = f", {row.mode}" if row.mode else ""
            console.print(f"not measured: {row.measure}{mode}: {row.reason}", soft_wrap=True)
    for line in table.remarks:
        console.print(line, soft_wrap=True)


def _widest(table: OrderTable, console: Console) -> Table:
    """With as many of the numbers as fit."""
    for num_cells in range(min(MOST_CELLS, len(table.columns)), 2, -1):
        grid = _rich_table(table, num_cells)
        if console.measure(grid).minimum <= console.width:
            return grid
    return _rich_table(table, 2)


def _rich_table(table: OrderTable, num_cells: int) -> Table:
    has_modes = any(row.mode for row in table.rows)
    kinds = {row.kind for row in table.rows}
    shown = table.columns[:num_cells]
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    whole = ("measure", "mode", *shown[2:])
    for name in ("", "measure", *(["mode"] if has_modes else []), *shown, "sharper"):
        grid.add_column(name.replace(", n = ", ",\nn = "), no_wrap=name in whole, overflow="fold")
    previous = ""
    for row in table.rows:
        name = row.measure if row.measure != previous else ""
        if name and kinds != {"raw"}:
            name += f"\n({row.kind})".replace(", ", ",\n ")
        previous = row.measure
        cells = [f"{cell.main}\n{cell.interval}".strip() for cell in row.cells] or ["–"] * len(shown)
        first = [CHANGED if row.changes else "", name, *([row.mode] if has_modes else [])]
        grid.add_row(*(Text(text) for text in (*first, *cells[: len(shown)], row.answer)))
    return grid

"""What lies between two checkpoints, for ``thalweg compare``: when, at what cost, and as text."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import nn

from thalweg.analyses.mode_connectivity import mode_connectivity
from thalweg.analyses.mode_connectivity_parts import expected_passes
from thalweg.analyses.mode_connectivity_result import ModeConnectivity
from thalweg.cli.console import output
from thalweg.cli.declared_types import as_declared
from thalweg.core.arguments import check_one_of
from thalweg.objective.batch_norm import batch_norm_layers
from thalweg.report.connectivity_table import connectivity_table

NAME = "mode_connectivity"
WHEN = ("yes", "no", "only")

# What the verb itself says.
OWN = ("a", "b", "start", "modes", "level", "names", "seed", "store", "progress")


def settable() -> dict[str, Any]:
    """What ``--set mode_connectivity.NAME=VALUE`` takes, with the defaults."""
    parameters = inspect.signature(mode_connectivity).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in OWN}


def settings_of(settings: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Arguments of `mode_connectivity`, from texts like ``"mode_connectivity.num_steps=0"``; the other texts.

    Raises
    ------
    ValueError
        If it takes no such argument, or no such value.
    """
    found, others = {}, []
    for setting in settings:
        place, separator, text = setting.partition("=")
        name, _, key = place.partition(".")
        if name != NAME:
            others.append(setting)
        elif not separator or key not in settable():
            raise ValueError(f"`set` gives {NAME} {key!r}; it takes {', '.join(settable())}.")
        else:
            found[key] = as_declared(mode_connectivity, key, text)
    return found, others


def wanted(when: str | None, *, is_pair: bool, whole_family: bool, one_model: bool) -> str:
    """One of `WHEN`: as asked, else ``"yes"`` with the whole family of two files of one model.

    Raises
    ------
    ValueError
        If it is none of them, or asked for where there are no two files.
    """
    if when is None:
        return "yes" if is_pair and whole_family and one_model else "no"
    check_one_of("paths", when, WHEN)
    if when != "no" and not is_pair:
        raise ValueError("`paths` is for two files; with --by they are groups of runs.")
    return when


def cost_in_words(
    network: nn.Module, num_examples: int, batch_size: int, modes: Sequence[str], arguments: Mapping[str, Any]
) -> str:
    """What the measurement takes, and what makes it cheaper."""
    given = {**settable(), **arguments}
    sizes = {key: given[key] for key in ("num_points", "num_steps", "plane_points")}
    num_norms = len(batch_norm_layers(network))
    shown = modes if num_norms else modes[:1]
    expected = expected_passes(num_examples, shown, num_norms=num_norms, batch_size=batch_size, **sizes)
    whole = sum(expected.values())
    parts = {
        "lines": expected["lines"] + expected["aligned_lines"],
        "curve": expected["curve"],
        "plane": expected["plane"],
    }
    shares = ", ".join(f"{name} {100 * part / whole:.0f} %" for name, part in parts.items() if part)
    return (
        f"What lies between the two takes some {whole / 1e6:.2g} million passes forward of an example "
        f"({shares}); --paths no leaves it out, --set {NAME}.plane_points=7 or {NAME}.num_steps=0 makes it "
        "cheaper."
    )


def print_connectivity(result: ModeConnectivity, console: Console | None = None) -> None:
    """Print the rows, what they add up to, and what could not be had; by default to standard output."""
    console = console or output()
    table = connectivity_table(result)
    has_modes = any(row.mode for row in table.rows)
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("between them", *(["mode"] if has_modes else []), *table.columns):
        grid.add_column(name, no_wrap=name == "mode", overflow="fold")
    previous = ""
    for row in table.rows:
        name = row.quantity if row.quantity != previous else ""
        previous = row.quantity
        cells = [f"{cell.main}\n{cell.interval}".strip() for cell in row.cells]
        grid.add_row(*map(Text, (name, *([row.mode] if has_modes else []), *cells)))
    console.print(grid)
    for line in table.missing:
        console.print(f"not there: {line}", soft_wrap=True)
    for line in table.remarks:
        console.print(line, soft_wrap=True)

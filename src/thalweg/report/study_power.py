"""What so many seeds can show, claim by claim, as rows of a table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from thalweg.report.order_tables import format_p
from thalweg.report.tables import format_number
from thalweg.study.foresight import Foresight, GridForesight


@dataclass(frozen=True)
class PowerRow:
    """The runs of one claim; every entry is text, empty where nothing is known."""

    claim: str
    runs: str
    smallest_p: str
    is_hopeless: bool
    detectable: str
    at_spread: str
    seeds: str
    seeds_equivalent: str


def power_rows(found: Sequence[Foresight | GridForesight]) -> list[PowerRow]:
    """Of each claim that `thalweg.study.foresight.foresight` speaks of."""
    return [_row(f) if isinstance(f, Foresight) else _grid_row(f) for f in found]


def _grid_row(f: GridForesight) -> PowerRow:
    return PowerRow(
        claim=f.claim,
        runs=f"{f.num_runs} of {f.num_settings} settings",
        smallest_p=format_p(min(f.smallest_p, 1.0)) if f.smallest_p else "",
        is_hopeless=f.is_hopeless,
        detectable="" if f.is_hopeless or math.isnan(f.detectable) else f"τ = {f.detectable:.2g}",
        at_spread="",
        seeds="",
        seeds_equivalent="",
    )


def _row(f: Foresight) -> PowerRow:
    hopeless = f.smallest_p > 1 - f.level + 1e-12  # in the last digit 1 - 0.95 is not 0.05
    shown = math.isfinite(f.detectable) and not hopeless
    at_spread = ""
    if shown and not math.isnan(f.spread):
        size = f.detectable * f.spread
        ratio = f"a factor of {format_number(math.exp(size), 0.1)}"
        at_spread = ratio if f.is_ratio else format_number(size, 0.1 * size)
    return PowerRow(
        claim=f.claim,
        runs=f"{f.num_a} against {f.num_b}",
        smallest_p=format_p(min(f.smallest_p, 1.0)),
        is_hopeless=hopeless,
        detectable=f"{f.detectable:.2g} s.d." if shown else "",
        at_spread=at_spread,
        seeds="" if f.seeds is None else f"{f.seeds:,}",
        seeds_equivalent="" if f.seeds_equivalent is None else f"{f.seeds_equivalent:,}",
    )

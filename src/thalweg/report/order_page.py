"""The page of a comparison or a contrast: the table, the picture, the single runs, and what produced it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from thalweg.analyses.compare import Comparison
from thalweg.analyses.contrast_result import Contrast
from thalweg.analyses.mode_connectivity_result import ModeConnectivity
from thalweg.report.connectivity_page import connectivity_page, section
from thalweg.report.figures import figure_bytes
from thalweg.report.order_figures import comparison_figure, contrast_figure
from thalweg.report.order_tables import order_table
from thalweg.report.page import render_page, svg_uri, write_page
from thalweg.report.paper_layout import MODE_NAMES
from thalweg.report.tables import flatten, format_number


def page(
    result: Comparison | Contrast | ModeConnectivity,
    folder: str | Path,
    *,
    between: ModeConnectivity | None = None,
) -> Path:
    """Write ``index.html`` under `folder`: one page that stands alone, and nothing beside it.

    Parameters
    ----------
    result
        Of ``compare``, ``contrast`` or ``mode_connectivity``.
    folder
        Made if it is not there.
    between
        Of ``mode_connectivity``, as a section of the page of a comparison of the same two networks.

    Returns
    -------
    pathlib.Path
        The page. Equal results give equal bytes.

    Raises
    ------
    TypeError
        If `result` is something else.
    """
    if isinstance(result, ModeConnectivity):
        return connectivity_page(result, folder)
    if not isinstance(result, Comparison | Contrast):
        raise TypeError(
            "`result` must be a result of compare, contrast or mode_connectivity, got "
            f"{type(result).__name__}; for a figure of another there is `plot`."
        )
    is_pair = isinstance(result, Comparison)
    wide, narrow = (
        comparison_figure(result, width) if isinstance(result, Comparison) else contrast_figure(result, width)
        for width in (False, True)
    )
    table = order_table(result)
    a, b = result.names
    text = render_page(
        "order.html",
        title=f"{a} and {b}, side by side" if is_pair else f"{result.by}: {a} against {b}",
        is_pair=is_pair,
        names=result.names,
        level=f"{100 * result.level:.4g}",
        facts=_facts(result),
        table=table,
        modes=MODE_NAMES,
        has_modes=any(row.mode for row in table.rows),
        has_kinds={row.kind for row in table.rows} != {"raw"},
        num_changes=sum(row.changes for row in table.rows),
        log=not is_pair and result.log,
        paired=not is_pair and result.paired,
        correction="" if is_pair else result.correction,
        rounding=f"{result.rounding:.1g}" if is_pair else "",
        wide=svg_uri(figure_bytes(wide, ".svg")),
        narrow=svg_uri(figure_bytes(narrow, ".svg")),
        alt="; ".join(f"{r.measure} {r.mode}: {r.answer}" for r in table.rows),
        between=None if between is None else section(between),
        groups=[] if isinstance(result, Comparison) else _runs(result),
        measures=result.provenance.get("arguments", {}).get("measures", {}),
        provenance=flatten({k: _listed(v) for k, v in result.provenance.items()}),
    )
    return write_page(text, Path(folder) / "index.html")


def _facts(result: Comparison | Contrast) -> list[tuple[str, str]]:
    given = result.provenance
    if isinstance(result, Comparison):
        described = given.get("objectives", ())
    else:
        described = [run["objective"] for run in given.get("runs", ())]
    facts = []
    if isinstance(result, Contrast):
        unit = "pairs" if result.paired else "runs"
        facts.append(("Compared", f"{len(result.runs_a)} {unit} against {len(result.runs_b)}"))
    for name, key in (("Examples", "num_examples"), ("Loss", "loss"), ("Precision", "dtype")):
        found = dict.fromkeys(f"{d[key]:,}" if key == "num_examples" else str(d[key]) for d in described)
        facts.append((name, ", ".join(found)))
    models = dict.fromkeys(f"{d['model']}, P = {d['num_params']:,}" for d in described)
    return [*facts, ("Networks", "; ".join(models)), ("Seed", str(given["arguments"]["seed"]))]


def _runs(result: Contrast) -> list[dict[str, Any]]:
    """The values of the single runs, group by group."""
    groups = []
    sides = ((result.runs_a, result.values_a), (result.runs_b, result.values_b))
    for name, (runs, values) in zip(result.names, sides, strict=True):
        rows = []
        for measure, mode, numbers in zip(result.measures, result.modes, values.tolist(), strict=True):
            rows.append((measure, mode or "", [format_number(x) for x in numbers]))
        groups.append({"name": name, "runs": runs, "rows": rows})
    return groups


def _listed(entry: Any) -> Any:
    """Lists of mappings by number, so that each has its own lines."""
    if isinstance(entry, list | tuple) and entry and isinstance(entry[0], dict):
        return {str(i + 1): part for i, part in enumerate(entry)}
    return entry

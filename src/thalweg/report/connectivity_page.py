"""What lies between two minima as a page, and as a section of the page of a comparison."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from thalweg.analyses.mode_connectivity_result import ModeConnectivity
from thalweg.report import connectivity_figures as pictures
from thalweg.report.connectivity_table import connectivity_table
from thalweg.report.figures import figure_bytes, house_style, new_figure
from thalweg.report.page import render_page, svg_uri, write_page
from thalweg.report.paper_layout import MODE_NAMES
from thalweg.report.surface_figures import holes_note
from thalweg.report.tables import flatten


def connectivity_page(result: ModeConnectivity, folder: str | Path) -> Path:
    """Write ``index.html`` under `folder`: one page that stands alone, and nothing beside it."""
    a, b = result.names
    objective = result.provenance["objective"]
    text = render_page(
        "connectivity.html",
        title=f"Between {a} and {b}",
        facts=[
            ("Examples", f"{objective['num_examples']:,}"),
            ("Loss", objective["loss"]),
            ("Precision", objective["dtype"]),
            ("Network", f"{objective['model']}, P = {objective['num_params']:,}"),
            ("Seed", str(result.provenance["arguments"]["seed"])),
        ],
        between=section(result),
        provenance=flatten(result.provenance),
    )
    return write_page(text, Path(folder) / "index.html")


def section(result: ModeConnectivity) -> dict[str, Any]:
    """What the template of the section asks for."""
    return {
        "names": result.names,
        "table": connectivity_table(result),
        "pictures": _pictures(result),
        "modes": MODE_NAMES,
        "has_modes": result.reference_mode is not None,
        "population": result.provenance["arguments"]["population"],
    }


def _pictures(result: ModeConnectivity) -> list[dict[str, str]]:
    a, b = result.names
    barriers = "; ".join(
        f"{row.quantity} {row.mode or ''}: {row.before.value:.3g}"
        + (f", aligned {row.aligned.value:.3g}" if row.aligned else "")
        for row in result.rows
        if row.before and row.quantity.startswith("barrier")
    )
    found = [
        _picture(
            pictures.draw_barriers,
            result,
            (6.4, 3.4),
            f"Barriers between {a} and {b}: {barriers}",
            f"Barriers of the straight line from {a} to {b} as it is, to {b} aligned, and of the curve.",
        ),
        _picture(
            pictures.draw_ways,
            result,
            (6.4, 3.6),
            f"Loss along the straight line from {a} to {b}, along that to {b} aligned, and along the curve",
            "Loss along the ways; shaded are two standard errors for the distribution behind the examples.",
        ),
    ]
    if result.plane is not None and result.plane.losses is not None:
        holes = holes_note(result.plane.losses)
        found.append(
            _picture(
                pictures.draw_plane,
                result,
                (6.4, 5.0),
                f"Contours of the loss on the plane through {', '.join(result.plane_names)}",
                f"The plane through {'; '.join(result.plane_names)}, with the ways between them."
                + (f" {holes[0].upper()}{holes[1:]}." if holes else ""),
            )
        )
    if result.topology is not None:
        found.append(
            _picture(
                pictures.draw_topology,
                result,
                (6.4, 4.0),
                f"Merge tree of the plane: {len(result.topology.parents)} minima, at least "
                f"{result.topology.value:g} of them significant",
                "Minima of the plane and the saddles at which they join: of the plane, and upper bounds in "
                "parameter space.",
            )
        )
    return found


def _picture(
    drawer: Callable[..., None], result: ModeConnectivity, size: tuple[float, float], alt: str, caption: str
) -> dict[str, str]:
    with house_style():
        figure, axes = new_figure(1, 1, width=size[0], height=size[1])
        drawer(axes[0, 0], result)
    return {"uri": svg_uri(figure_bytes(figure, ".svg")), "alt": alt, "caption": caption}

"""The report of the paper's study: figures on disk and one page that stands alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thalweg.core.atomic import replacing
from thalweg.objective.batch_norm import MODES
from thalweg.report.figures import figure_bytes, freeze_layout
from thalweg.report.page import render_page, svg_uri, write_page
from thalweg.report.paper_choices import choices
from thalweg.report.paper_figures import paper_figures
from thalweg.report.paper_layout import MODE_NAMES, PaperFigure
from thalweg.report.paper_tables import headline
from thalweg.report.tables import flatten, format_interval, format_number, format_seconds, stages, versions
from thalweg.study.paper_claims import AS_TRAINED, Claim, Number, paper_claims
from thalweg.study.paper_evidence import (
    MODELS,
    PaperRecords,
    mode_of,
    num_examples_of,
    num_test_examples,
)

if TYPE_CHECKING:
    from thalweg.study.store import Record


@dataclass(frozen=True)
class Picture:
    """A drawn figure with its words, as the page shows it; without pictures where nothing was measured."""

    name: str
    title: str
    caption: str
    alt: str
    wide: str = ""
    narrow: str = ""


def write_paper_report(
    records: Sequence[Record], out: str | Path, *, preset: str, settings: Mapping[str, Any]
) -> Path:
    """Write ``figures/*.png``, ``figures/*.svg`` and ``report/index.html`` under `out`.

    Parameters
    ----------
    records
        All records of one run of the paper's study; what is missing is shown as not measured.
    out
        The run's folder, in which ``records.jsonl`` lies.
    preset
        ``"paper"``, or ``"smoke"``, whose numbers the page says support nothing.
    settings
        What the run was configured with; shown as it is, nested mappings as dotted names.

    Returns
    -------
    pathlib.Path
        The page. The same records and settings give the same bytes.
    """
    out = Path(out)
    pictures = [_draw(figure, out / "figures") for figure in paper_figures(records)]
    claims = paper_claims(records)
    page = render_page(
        "paper.html",
        preset=preset,
        facts=_facts(records),
        settings=flatten(settings),
        claims=claims,
        tally=_tally(claims),
        modes=[(mode, MODE_NAMES[mode]) for mode in MODES],
        mode_names={AS_TRAINED: AS_TRAINED, **MODE_NAMES},
        groups=headline(records),
        choices=choices(records),
        pictures=pictures,
        stages=stages(records),
        total_time=format_seconds(sum(record.seconds for record in records)),
        records=[_provenance(record) for record in records],
        versions=versions(records),
        runs=sorted({record.run for record in records}),
        format_claim_number=_format_claim_number,
    )
    return write_page(page, out / "report" / "index.html")


def _draw(figure: PaperFigure, folder: Path) -> Picture:
    """Draw a figure wide and narrow; the wide one goes to disk as well."""
    if figure.draw is None:
        return Picture(figure.name, figure.title, figure.caption, figure.alt)
    wide = freeze_layout(figure.draw(False))
    files = {suffix: figure_bytes(wide, suffix) for suffix in (".png", ".svg")}
    for suffix, content in files.items():
        with replacing(folder / f"{figure.name}{suffix}") as partial:
            partial.write_bytes(content)
    narrow = figure_bytes(figure.draw(True), ".svg")
    return Picture(
        figure.name, figure.title, figure.caption, figure.alt, svg_uri(files[".svg"]), svg_uri(narrow)
    )


def _facts(records: Sequence[Record]) -> list[tuple[str, str]]:
    """What was trained on what, as far as the records tell."""
    study = PaperRecords(records)
    trained = [record for model in MODELS if (record := study.find("train", model))]
    if not trained:
        return []
    first: Any = trained[0].measurement
    return [
        ("Networks", ", ".join(str(record.labels["model"]) for record in trained)),
        ("Epochs", str(int(first.epochs[-1]))),
        ("Training examples", f"{num_examples_of(trained[0]):,}"),
        ("Test examples", f"{num_test_examples(trained[0]):,}"),
    ]


def _tally(claims: Sequence[Claim]) -> str:
    counts = Counter(verdict.answer for claim in claims for verdict in claim.verdicts)
    words = {"agrees": "agree", "disagrees": "disagree"}
    parts = [
        f"{n} {words.get(answer, answer)}"
        for answer in ("agrees", "disagrees", "undecided", "not measured")
        if (n := counts[answer])
    ]
    return f"Of {sum(counts.values())} verdicts: {', '.join(parts)}"


def _format_claim_number(number: Number) -> tuple[str, str]:
    """The value, and what stands behind it in brackets."""
    interval = format_interval(number.low, number.high)
    behind = [interval if interval != "exact" or not number.note else "", number.note]
    return format_number(number.value, number.known_to), ", ".join(word for word in behind if word)


def _provenance(record: Record) -> dict[str, Any]:
    labels = dict(record.labels)
    return {
        "measure": record.measurement.measure,
        "model": labels.get("model", ""),
        "split": labels.get("split", ""),
        "mode": mode_of(record),
        "seconds": format_seconds(record.seconds),
        "run": record.run,
        "entries": flatten(record.measurement.provenance),
    }

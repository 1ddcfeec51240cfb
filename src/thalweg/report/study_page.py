"""A study's page: verdicts, on what they hang, what so many seeds can show, and every run in full."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from thalweg.report.figures import figure_bytes
from thalweg.report.page import render_page, svg_uri, write_page
from thalweg.report.paper_layout import MODE_NAMES
from thalweg.report.study_dependence import dependence
from thalweg.report.study_figures import forest_charts, group_colours, group_field, strip_charts
from thalweg.report.study_matrix import matrix_charts
from thalweg.report.study_pictures import run_pictures
from thalweg.report.study_power import power_rows
from thalweg.report.study_runs import run_details, troubles
from thalweg.report.study_scatter import run_figure
from thalweg.report.study_training import training_figure
from thalweg.report.study_variance import variance_table
from thalweg.report.study_words import SYMBOLS, verdict_rows
from thalweg.report.tables import flatten, format_seconds, stages, versions
from thalweg.study.correlations import FEWEST_SETTINGS, correlation_matrices
from thalweg.study.decomposition import decompositions
from thalweg.study.foresight import foresight
from thalweg.study.spec import StudySpec
from thalweg.study.study import Study
from thalweg.training.trajectory import TrainingHistory


def write_study_page(study: Study, path: str | Path) -> Path:
    """Write the page of a study, which stands alone: from its folder, whether or not it is finished.

    Parameters
    ----------
    study
        Opened from its folder; nothing is trained or measured.
    path
        The file; its folder is made if it is not there.

    Returns
    -------
    pathlib.Path
        The page. Equal records give equal bytes.
    """
    spec, records = study.spec, list(study.records.values())
    evidence, found = study.evidence, study.verdicts
    claims = verdict_rows(found, spec.level)
    by_name = {verdict.claim.name: verdict for verdict in found}
    modes = list(spec.objective.modes)
    status = study.status()
    hosts = ", ".join(sorted({record.host for record in records if record.host})) or "none"
    page = render_page(
        "study.html",
        name=spec.name,
        question=spec.question,
        level=f"{100 * spec.level:.4g}",
        facts=_facts(study, spec, status),
        num_open=status["open"],
        num_tasks=len(study.tasks),
        claims=claims,
        symbols=SYMBOLS,
        mode_names=MODE_NAMES,
        power=power_rows(foresight(spec, evidence)),
        depends={row.name: dependence(by_name[row.name], spec) for row in claims},
        forests={row.name: forest_charts(by_name[row.name], modes, spec.level) for row in claims},
        scatters={row.name: run_figure(by_name[row.name], spec) for row in claims},
        matrices=matrix_charts(correlation_matrices(spec, evidence)),
        fewest_settings=FEWEST_SETTINGS,
        num_settings=len(spec.settings),
        variance=variance_table(decompositions(spec, evidence)),
        moment=spec.moments[-1],
        strips=strip_charts(spec, evidence),
        filters={
            "mode": modes,
            "measure": evidence.names(),
            "at": list(dict.fromkeys([*spec.moments, *(claim.matching for claim in spec.claims)])),
        },
        training=_training(study, spec),
        pictures=run_pictures(study),
        runs=run_details(study),
        troubles=troubles(study),
        settings=flatten({k: _numbered(v) for k, v in spec.frozen().items()}),
        versions=[*versions(records), ("hosts", hosts), ("threads a worker", str(study.threads))],
        stages=stages(records),
        total_time=format_seconds(sum(record.seconds for record in records)),
        num_records=len(records),
        num_left_out=study.num_unused,
    )
    return write_page(page, path)


def _facts(study: Study, spec: StudySpec, status: Mapping[str, int]) -> list[tuple[str, str]]:
    runs = {task.run for task in study.tasks if task.measure == "train"}
    data = spec.data
    part = f", the first {data.num_train:,} examples" if data.num_train else ""
    return [
        ("Runs", f"{len(runs)}: {len(spec.settings)} settings, {len(spec.seeds)} seeds"),
        ("Networks", ", ".join(spec.models)),
        ("Trained on", f"{data.name}{part}"),
        (
            "Measured on",
            "all training examples"
            if spec.objective.num_examples is None
            else f"{spec.objective.num_examples:,} training examples",
        ),
        ("Tasks", ", ".join(f"{n:,} {state}" for state, n in status.items() if n)),
    ]


def _training(study: Study, spec: StudySpec) -> dict[str, Any] | None:
    """The figure of the training curves, wide and narrow; None before anything is trained."""
    by, curves, num_failed = group_field(spec), {}, 0
    for task in study.tasks:
        record = study.records.get(task.key)
        if task.measure != "train" or record is None:
            continue
        if record.failure:
            num_failed += 1
            continue
        history = record.measurement
        assert isinstance(history, TrainingHistory)
        curves.setdefault(str(task.labels[by]), []).append(history)
    if not curves:
        return None
    wide, narrow = (
        svg_uri(figure_bytes(training_figure(curves, group_colours(spec), width), ".svg"))
        for width in (False, True)
    )
    counts = ", ".join(f"{len(histories)} of {group}" for group, histories in curves.items())
    return {"wide": wide, "narrow": narrow, "counts": counts, "num_failed": num_failed}


def _numbered(entry: Any) -> Any:
    """Lists of tables by their names, or by number, so that each entry has its own line."""
    if isinstance(entry, Sequence) and entry and isinstance(entry[0], Mapping):
        return {str(part.get("name", i + 1)): part for i, part in enumerate(entry)}
    return entry

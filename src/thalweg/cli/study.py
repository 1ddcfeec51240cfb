"""``thalweg study``: many networks, their measures, and verdicts on claims."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.console import StudyWatcher, errors, output
from thalweg.cli.export import export
from thalweg.cli.options import DataRoot, Device, Json, resolve_device
from thalweg.cli.report import report, write_report
from thalweg.core.text_table import in_columns
from thalweg.report.study_words import verdict_rows
from thalweg.study.changes import changes
from thalweg.study.costs import Estimate, estimated
from thalweg.study.evidence import Evidence
from thalweg.study.foresight import foresight
from thalweg.study.plan import StudyPlan
from thalweg.study.ray_engine import RayEngine
from thalweg.study.runner import Task
from thalweg.study.spec import StudySpec
from thalweg.study.store import Store
from thalweg.study.study import STUDY_FILE, Study, chosen_threads, cores, default_workers, run_study
from thalweg.study.study_file import read_study, shipped_studies

app = typer.Typer(
    help="Many networks, their measures, and verdicts on claims: plan, run, status, report, export.",
    no_args_is_help=True,
    rich_markup_mode=None,
    epilog="Each has --help with an example.",
)
app.command()(report)
app.command()(export)

StudyFile = Annotated[
    str,
    typer.Argument(
        metavar="STUDY",
        help=f"A study file, or one that comes with the package: {', '.join(shipped_studies())}.",
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="A preset of the file, such as smoke, laptop or full; default: none."),
]
Out = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER", help="Where records and checkpoints are; default: runs/NAME or runs/NAME-PRESET."
    ),
]
Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="A study's folder, as `study run` made it.")]
Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Processes; default: one for each processor, on an accelerator one.",
    ),
]


@app.command()
def plan(
    study: StudyFile,
    preset: Preset = None,
    out: Out = None,
    workers: Workers = None,
    data_root: DataRoot = None,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Say what a study would do, what it could show, and how long it would take; do nothing.

    First which differences so many seeds can show, claim by claim; then the runs; then the work that is left,
    in hours, from a short timing of each network or, where the folder has records, from these.

    Example: `thalweg study plan batch-norm --preset laptop`
    """
    made = _plan(study, preset, out, data_root, device)
    tasks = list(made.tasks_by_key().values())
    store = Store(made.out)
    records = store.records()
    done = {record.task for record in records if record.is_final}
    open_tasks = [task for task in tasks if task.key not in done]
    estimate = estimated(made, open_tasks, records)
    num_workers = workers or default_workers(made)
    power = foresight(made.spec, _evidence(made.out))
    if as_json:
        content = {
            "study": made.spec.name,
            "out": str(made.out),
            "power": [line.to_dict() for line in power],
            "runs": [run.labels | {"run": run.run} for run in made.runs],
            "num_tasks": len(tasks),
            "num_open": len(open_tasks),
            "seconds": estimate.seconds,
            "workers": num_workers,
        }
        print(json.dumps(content))
        return
    out_console = output()
    out_console.print(f"{made.spec.name}: {made.spec.question}\n")
    for line in power:
        out_console.print(str(line))
    table = [tuple(made.runs[0].labels), *(tuple(str(v) for v in run.labels.values()) for run in made.runs)]
    out_console.print(
        f"\n{len(made.runs)} runs:\n"
        + in_columns(
            [("run", *table[0])] + [(run.run, *row) for run, row in zip(made.runs, table[1:], strict=True)]
        )
    )
    for line in changes(made):
        out_console.print(line, markup=False)
    out_console.print(f"\n{len(tasks)} tasks, {len(open_tasks)} to do:\n" + _work(open_tasks, estimate))
    wall = estimate.seconds / num_workers
    basis = "from a short timing" if not estimate.num_recorded else "from records and a short timing"
    out_console.print(
        f"about {_hours(wall)} with {num_workers} worker{'s' * (num_workers > 1)} ({basis}; {made.out})"
    )


@app.command()
def run(
    study: StudyFile,
    preset: Preset = None,
    out: Out = None,
    workers: Workers = None,
    engine: Annotated[
        str, typer.Option(metavar="NAME", help="local, or ray for a Ray cluster (the extra thalweg[ray]).")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Of the Ray cluster; auto finds the one this machine belongs to. Default: auto, or a local "
            "one is started if there is none.",
        ),
    ] = None,
    gpus_per_task: Annotated[
        float | None,
        typer.Option(
            metavar="X", min=0, help="Accelerators a task asks Ray for; default: 1 where --device is cuda."
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Only every N-th run, from the I-th: for N jobs that share the folder."
        ),
    ] = None,
    data_root: DataRoot = None,
    device: Device = "auto",
) -> None:
    """Run what a study asks for and its folder lacks; then write its report.

    Each finished task is a line on standard error. What diverges or crashes is recorded with its reason, and
    the rest goes on. Killed at any moment, it goes on where it was if called again; with more seeds in the
    file, it does only these. The exit code is 1 if something crashed, which another call tries again.

    Example: `thalweg study run batch-norm --preset smoke`
    """
    made = _plan(study, preset, out, data_root, device)
    chosen = None
    if engine == "ray":
        chosen = RayEngine(
            made,
            threads=chosen_threads(made, cores()),
            gpus=gpus_per_task if gpus_per_task is not None else float(made.device.type == "cuda"),
            address=address,
            workers=workers,
        )
    elif engine != "local":
        raise ValueError(f"`engine` must be local or ray, got {engine!r}.")
    elif address is not None:
        raise ValueError(f"`address` is for --engine ray, got {address!r} with the engine local.")
    part = _shard(shard)
    for line in foresight(made.spec, _evidence(made.out)):
        errors.print(str(line), markup=False, soft_wrap=True)
    for line in changes(made):
        errors.print(line, markup=False, soft_wrap=True)
    watcher = StudyWatcher()
    with watcher.showing():
        run_study(made, workers=workers, shard=part, engine=chosen, watcher=watcher)
    opened = Study.open(made.out)
    _print_status(opened)
    if _is_other(study, preset, made.spec):
        errors.print(
            "the study file was changed meanwhile: this was the study as it stood before. Run it again.",
            markup=False,
            soft_wrap=True,
        )
    if part is None:
        write_report(opened, made.out / "report.html")
    if opened.status()["crashed"]:
        raise typer.Exit(1)


@app.command()
def status(folder: Folder, as_json: Json = False) -> None:
    """Say how far a study is and what failed; also while it runs.

    Example: `thalweg study status runs/batch-norm-laptop`
    """
    opened = Study.open(folder)
    if as_json:
        failed = [
            {"task": task.key, "labels": task.labels, "kind": r.failure.kind, "reason": r.failure.reason}
            for task in opened.tasks
            if (r := opened.records.get(task.key)) and r.failure
        ]
        print(json.dumps({"counts": opened.status(), "failures": failed}))
        return
    _print_status(opened)


def _plan(study: str, preset: str | None, out: Path | None, data_root: Path | None, device: str) -> StudyPlan:
    spec = read_study(study, preset)
    folder = out or Path("runs") / (spec.name if preset is None else f"{spec.name}-{preset}")
    return StudyPlan(spec, folder, data_root, resolve_device(device))


def _evidence(folder: Path) -> Evidence | None:
    if not (folder / STUDY_FILE).exists():
        return None
    opened = Study.open(folder)
    try:
        return opened.evidence
    except ValueError:
        return None  # last run from a file that this version would not take


def _is_other(study: str, preset: str | None, spec: StudySpec) -> bool:
    """Whether the study file no longer says what it did."""
    try:
        return read_study(study, preset) != spec
    except ValueError:
        return True


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"`shard` must be I/N with I from 1 to N, such as 2/8, got {text!r}.")
    return int(match[1]), int(match[2])


def _work(tasks: list[Task], estimate: Estimate) -> str:
    counts: dict[str, int] = {}
    for task in tasks:
        counts[task.measure] = counts.get(task.measure, 0) + 1
    lines = [("measure", "tasks", "time")]
    lines += [(name, str(n), _hours(estimate.by_measure.get(name, 0.0))) for name, n in counts.items()]
    return in_columns(lines)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else str(timedelta(seconds=round(seconds)))


def _print_status(opened: Study) -> None:
    counts = {k: v for k, v in opened.status().items() if v}
    out_console = output()
    out_console.print(f"{opened.spec.name}: {', '.join(f'{v} {k}' for k, v in counts.items())}")
    reasons: dict[tuple[str, str], list[str]] = {}
    for task in opened.tasks:
        record = opened.records.get(task.key)
        if record and record.failure:
            key = (record.failure.kind, record.failure.reason)
            reasons.setdefault(key, []).append(" ".join(str(v) for v in task.labels.values()))
    for (kind, reason), names in reasons.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        out_console.print(f"{kind}: {names[0]}{more}: {reason}")
    for row in verdict_rows(opened.verdicts, opened.spec.level):
        out_console.print(f"{row.answer:>17}  {row.claim}: {row.why}")
    if opened.num_unused:
        unused = f"{opened.num_unused} records of other versions of the file stay in the store"
        errors.print(f"{unused}, unused here.")

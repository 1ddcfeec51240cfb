"""``thalweg reproduce``: the paper's study, end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.console import StudyWatcher, errors
from thalweg.cli.options import DataRoot, Device, resolve_device
from thalweg.data import fashion_mnist
from thalweg.report.paper_report import write_paper_report
from thalweg.study.paper import PaperStudy
from thalweg.study.paper_settings import load_preset
from thalweg.study.runner import run_tasks
from thalweg.study.store import Store


def reproduce(
    preset: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="paper (everything) or smoke (a subset, in a minute or two, to see that it runs).",
        ),
    ] = "paper",
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where the results go; default: runs/PRESET.")
    ] = None,
    data_root: DataRoot = None,
    device: Device = "auto",
) -> None:
    """Run the paper's whole study, to its report.

    Trains three networks on Fashion-MNIST, measures everything the paper measures and writes
    FOLDER/report/index.html, with the records, figures and checkpoints beside it. Each finished measurement
    is one line on standard error, with the time left. A run that was killed goes on where it was, if called
    again with the same arguments; one that is finished only writes its report anew.

    Example: `thalweg reproduce --preset smoke --out runs/smoke`
    """
    settings = load_preset(preset)
    out = out or Path("runs") / preset
    train_data, test_data = (
        tuple(t[:n] for t in fashion_mnist.load(split, data_root))  # type: ignore[arg-type]
        for split, n in (("train", settings.data.num_train), ("test", settings.data.num_test))
    )
    study = PaperStudy(settings, train_data, test_data, out, resolve_device(device))  # type: ignore[arg-type]
    watcher = StudyWatcher()
    with watcher.showing():
        records = run_tasks(study.tasks(), Store(out), watcher)
    page = write_paper_report(records, out, preset=preset, settings=settings.model_dump())
    errors.print(f"records: {out / 'records.jsonl'}", markup=False, soft_wrap=True)
    errors.print(f"report: {page}", markup=False, soft_wrap=True)

"""``thalweg audit``: which measures of sharpness move although the user's network computes the same."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from thalweg.analyses.audit_result import FAILED, InvarianceAudit
from thalweg.analyses.invariance_audit import invariance_audit
from thalweg.analyses.measure_choice import chosen_measures
from thalweg.analyses.sharpness_family import FAMILY
from thalweg.cli.console import errors, output, progress_bar
from thalweg.cli.declared_types import by_measure
from thalweg.cli.objectives import build_objectives
from thalweg.cli.options import (
    BatchNorm,
    BatchSize,
    CalibrationData,
    Data,
    DataRoot,
    Device,
    DType,
    Json,
    LossName,
    MicroBatch,
    Model,
    Plot,
    SetOfMeasure,
    WeightDecay,
    check_figure,
    names_in,
)
from thalweg.report.audit_text import LEGEND, SIGNS, audit_rows
from thalweg.report.plot import plot as plot_result
from thalweg.report.tables import format_number


def audit(
    model: Model,
    data: Data,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Weights: .safetensors, or a .pt state dictionary. Default: the model as it is built.",
        ),
    ] = None,
    members: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help=f"Measures to audit, by default the family: {', '.join(FAMILY)}. Or any that "
            "`thalweg measure` has, by its own name and defaults.",
        ),
    ] = None,
    set_: SetOfMeasure = None,
    strength: Annotated[
        float, typer.Option(metavar="X", help="Scales are drawn between 1 / X and X; at least 2.")
    ] = 4.0,
    resolution: Annotated[
        float,
        typer.Option(metavar="X", help="Relative change that is excluded where a measure has not moved."),
    ] = 0.25,
    loss: LossName = "cross_entropy",
    batch_norm: BatchNorm = "running",
    batch_size: BatchSize = None,
    micro_batch: MicroBatch = "auto",
    weight_decay: WeightDecay = 0.0,
    calibration_data: CalibrationData = None,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Seed of the changes, of what the measures draw, and of a model that gets no checkpoint.",
        ),
    ] = 0,
    dtype: DType = "float32",
    device: Device = "auto",
    data_root: DataRoot = None,
    plot: Plot = None,
    as_json: Json = False,
) -> None:
    """Change your own network without changing what it computes, and see which measures of sharpness move.

    Rescales ReLU layers and the weights before batch norms, permutes hidden units, transforms queries with
    keys and values with outputs, wherever the network allows; proves that the outputs stay; prints how far
    each measure moves. --json prints everything, with what produced it.

    Example: `thalweg audit --model small_cnn_bn --checkpoint runs/a1/model.safetensors
    --data fashion-mnist:train:2048 --members top_eigenvalue,trace --plot audit.png`
    """
    check_figure(plot)
    chosen = chosen_measures(by_measure(set_ or [], chosen_measures(names_in(members), "members")))
    (objective,) = build_objectives(
        model,
        [checkpoint],
        data,
        loss=loss,
        batch_norm=batch_norm,
        batch_size=batch_size,
        micro_batch=micro_batch,
        weight_decay=weight_decay,
        calibration_data=calibration_data,
        seed=seed,
        dtype=dtype,
        device=device,
        data_root=data_root,
    )
    with progress_bar("audit") as progress:
        result = invariance_audit(
            objective, members=chosen, strength=strength, resolution=resolution, seed=seed, progress=progress
        )
    # The file first: who reads the text may stop reading it, and the program with it.
    if plot:
        plot_result(result, plot)
        errors.print(f"figure: {plot}", markup=False, soft_wrap=True)
    if as_json:
        print(json.dumps(result.to_dict(), allow_nan=False))
    else:
        _print(result)


def _print(result: InvarianceAudit) -> None:
    out = output()
    table = Table(box=box.SIMPLE)
    for name in ("measure", "value", *result.transformations):
        table.add_column(name, overflow="fold")
    for row in audit_rows(result):
        value = format_number(row.before) if not math.isnan(row.before) else SIGNS[FAILED]
        table.add_row(row.member, value, *row.cells)
    out.print(repr(result), soft_wrap=True)
    out.print(table)
    out.print(LEGEND, soft_wrap=True)
    out.print(_proof(result), soft_wrap=True)
    for name, places in result.dropped.items():
        out.print(f"{name}, left alone as the outputs moved: {'; '.join(places)}", soft_wrap=True)
    for name, reason in (*result.refused.items(), *result.failures.items()):
        out.print(f"{name}: {reason}", soft_wrap=True)


def _proof(result: InvarianceAudit) -> str:
    changes = zip(
        result.transformations,
        result.output_changes.nan_to_num(0).tolist(),
        result.loss_changes.tolist(),
        strict=True,
    )
    words = ", ".join(f"{name} {max(pair):.0e}" for name, *pair in changes)
    num_examples = result.provenance["objective"]["num_examples"]
    return (
        f"proof, on {num_examples:,} examples in {result.proof_dtype}: largest relative change of outputs "
        f"and losses {words}"
    )

"""``thalweg measure``: one measure of a user's own network."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor

from thalweg.analyses import ANALYSES
from thalweg.analyses.curvature_profile import CurvatureProfile
from thalweg.analyses.mode_connectivity_result import ModeConnectivity
from thalweg.cli.connectivity import print_connectivity
from thalweg.cli.console import errors, progress_bar
from thalweg.cli.declared_types import as_declared
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
    WeightDecay,
    check_figure,
)
from thalweg.cli.slice_options import Directions, SlicePlot, StoreFolder, Trajectory, slice_arguments
from thalweg.core.arguments import check_one_of
from thalweg.core.measurement import Measurement, jsonable
from thalweg.core.rounding import at_least, at_most
from thalweg.core.text_table import in_columns
from thalweg.linalg.estimate import Estimate
from thalweg.measures import MEASURES as SINGLE_MEASURES
from thalweg.measures.curvature.spectral_density import SpectralDensity
from thalweg.report.plot import pictured
from thalweg.report.plot import plot as plot_result
from thalweg.report.surface_html import MEASURES as TURNABLE

MEASURES = {**SINGLE_MEASURES, **ANALYSES}

# Dampings at which log det(H + damping I) is shown, in parts of the larger end of the spectrum.
DAMPINGS = (0.01, 0.1, 1.0)

# Ritz values bound the ends of a spectrum from inside.
ONE_SIDED = {"lambda_max": "lambda_max, at least", "lambda_min": "lambda_min, at most"}

# How the names of numbers end that bound something.
LOWER_BOUNDS = ("lower", "lower_bound", "lambda_max")
UPPER_BOUNDS = ("upper", "upper_bound", "lambda_min", "residuals")

# Entries of an array that the text shows; --json has all.
MOST_PRINTED = 20

# Arguments of measures that have an option of their own, or none.
NOT_SET = (
    "objective",
    "a",
    "b",
    "progress",
    "seed",
    "start",
    "direction",
    "directions",
    "trajectory",
    "optimizer",
    "store",
)


def _settable(function: Any) -> dict[str, Any]:
    """What ``--set`` takes for a measure, with the defaults."""
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in NOT_SET}


MEASURES_HELP = "\n\n".join(
    [
        "What --set takes for each measure, with the defaults:",
        *(f"{m}: {', '.join(f'{k}={v}' for k, v in _settable(f).items())}" for m, f in MEASURES.items()),
        "What they mean: python -c 'import thalweg; help(thalweg.line_slice)', and so on for the others.",
    ]
)


def measure(
    name: Annotated[str, typer.Argument(metavar="MEASURE", help=f"One of: {', '.join(MEASURES)}.")],
    model: Model,
    data: Data,
    checkpoint: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="Weights: .safetensors, or a .pt state dictionary. Twice for a path, its two ends. "
            "Default: the model as it is built.",
        ),
    ] = None,
    loss: LossName = "cross_entropy",
    batch_norm: BatchNorm = "running",
    batch_size: BatchSize = None,
    micro_batch: MicroBatch = "auto",
    weight_decay: WeightDecay = 0.0,
    calibration_data: CalibrationData = None,
    directions: Directions = None,
    trajectory: Trajectory = None,
    store: StoreFolder = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="ARGUMENT=VALUE", help="An argument of the measure, see below; repeatable."
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N", help="Seed of what the measure draws, and of a model that gets no checkpoint."
        ),
    ] = 0,
    dtype: DType = "float32",
    device: Device = "auto",
    data_root: DataRoot = None,
    plot: SlicePlot = None,
    as_json: Json = False,
) -> None:
    """Measure the loss landscape of your own network.

    Prints the value with its uncertainty; --json everything, with what produced it.

    Example: `thalweg measure top_eigenvalues --model pkg.mod:build --checkpoint w.safetensors
    --data fashion-mnist:train:4096 --batch-norm running --set k=2 --seed 0 --json`
    """
    function = _measure_named(name)
    arguments = _arguments(function, name, set_ or [], seed)
    num_networks = 2 if list(inspect.signature(function).parameters)[:2] == ["a", "b"] else 1
    checkpoints = checkpoint or []
    check_figure(plot, interactive=name in TURNABLE)
    if plot and name not in pictured():
        raise ValueError(
            f"`plot` is for measures that have something to see, {', '.join(pictured())}; {name} is a number."
        )
    if len(checkpoints) not in ({2} if num_networks == 2 else {0, 1}):
        times = "twice, for the two ends," if num_networks == 2 else "at most once"
        raise ValueError(f"`checkpoint` must be given {times} for {name}, got {len(checkpoints)}.")
    networks = partial(
        build_objectives,
        model,
        data=data,
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
    arguments |= slice_arguments(
        function,
        name,
        model,
        seed,
        directions=directions,
        trajectory=trajectory,
        store=store,
        networks=networks,
    )
    objectives = networks(checkpoints or [None])
    with progress_bar(name) as progress:
        result = function(*objectives, **arguments, progress=progress)
    # Files first: who reads the text may stop reading it, and the program with it.
    if plot:
        plot_result(result, plot)
        errors.print(f"figure: {plot}", markup=False, soft_wrap=True)
    if isinstance(result, ModeConnectivity) and not as_json:
        print_connectivity(result)
    else:
        print(json.dumps(_json(result), allow_nan=False) if as_json else _text(result))


def _measure_named(name: str) -> Any:
    check_one_of("measure", name, MEASURES)
    return MEASURES[name]


def _arguments(function: Any, name: str, settings: list[str], seed: int) -> dict[str, Any]:
    known = _settable(function)
    arguments: dict[str, Any] = {"seed": seed} if "seed" in inspect.signature(function).parameters else {}
    for setting in settings:
        key, separator, text = setting.partition("=")
        if not separator or key not in known:
            raise ValueError(
                f"`set` must be name=value with a name among {', '.join(known)} for {name}, got {setting!r}."
            )
        arguments[key] = as_declared(function, key, text)
    return arguments


def _text(result: Measurement) -> str:
    low, high = result.interval(0.95)
    ends = "exact" if low == high else f"{at_least(low)} to {at_most(high)}"
    lines = [repr(result), f"interval at 95 % or more: {ends}"]
    fields = [key for key in result.to_dict() if key not in ("measure", "value", "error", "provenance")]
    entries = {key: getattr(result, key, None) for key in fields} | _derived(result)
    table = _table(result)
    for key, entry in entries.items():
        if key in result.per_part:
            continue
        if isinstance(entry, Measurement):
            lines.append(f"{key}: {entry!r}")
        elif isinstance(entry, Tensor) and entry.ndim == 1 and len(entry) <= MOST_PRINTED:
            lines.append(f"{key}: {', '.join(_cells(key, entry))}")
        elif isinstance(entry, float):
            lines.append(f"{ONE_SIDED.get(key, key)}: {_number(key, entry)}")
        elif isinstance(entry, int | str | Estimate):
            lines.append(f"{key}: {entry}")
    lines += [f"log_det, damping {damping:g}: {estimate}" for damping, estimate in _log_dets(result)]
    columns = [[key, *column] for key, column in table.items()]
    return "\n".join([*lines, *([in_columns([*zip(*columns, strict=True)])] if columns else [])])


def _table(result: Measurement) -> dict[str, list[str]]:
    """What a result holds for each layer or block, in columns of text."""
    columns = {key: getattr(result, key) for key in result.per_part}
    return {
        "95 % interval" if isinstance(column, Estimate) else ONE_SIDED.get(key, key): _cells(key, column)
        for key, column in columns.items()
    }


def _cells(key: str, column: Sequence[str] | Tensor | Estimate) -> list[str]:
    if isinstance(column, Estimate):
        ends = (end.tolist() for end in column.interval(0.95))
        return [f"{at_least(low)} to {at_most(high)}" for low, high in zip(*ends, strict=True)]
    return [_number(key, x) for x in column.tolist()] if isinstance(column, Tensor) else list(column)


def _number(key: str, x: float) -> str:
    """To six digits; what bounds something is rounded away from it."""
    if isinstance(x, int):
        return f"{x:,}"
    if key.endswith(LOWER_BOUNDS):
        return at_least(x)
    return at_most(x) if key.endswith(UPPER_BOUNDS) else f"{x:.6g}"


def _derived(result: Measurement) -> dict[str, Any]:
    """Numbers that the result computes from what it holds, by name: single ones, and one for each part."""
    names = [k for c in type(result).__mro__ for k, p in vars(c).items() if isinstance(p, property)]
    found = {
        name: getattr(result, name) for name in dict.fromkeys(names) if name[0] != "_" and name != "num_top"
    }
    kinds = (float, int, Estimate, Tensor)
    return {k: v for k, v in found.items() if isinstance(v, kinds) and not isinstance(v, bool)}


def _log_dets(result: Measurement) -> list[tuple[float, Estimate]]:
    """log det(H + damping I) at some dampings for which H + damping I is definite as far as is known."""
    if not isinstance(result, CurvatureProfile | SpectralDensity):
        return []
    lowest = result.lambda_min_lower if isinstance(result, CurvatureProfile) else result.lambda_min
    size = max(abs(result.lambda_max), abs(result.lambda_min))
    # Rounded before it is used, so that what is printed is what was computed.
    dampings = [float(f"{part * size:.2g}") for part in DAMPINGS]
    return [(damping, result.log_det(damping)) for damping in dampings if damping > -lowest]


def _json(result: Measurement) -> dict[str, Any]:
    """All of the result, and what it computes from that with its error: a reader need not compute it anew."""

    def entry(estimate: Estimate) -> dict[str, Any]:
        low, high = estimate.interval(0.95)
        return {"value": estimate.value.tolist(), "low": low.tolist(), "high": high.tolist()}

    derived = {
        name: entry(number) if isinstance(number, Estimate) else number
        for name, number in _derived(result).items()
        if not isinstance(number, Tensor)
    }
    log_dets = [{"damping": damping, **entry(estimate)} for damping, estimate in _log_dets(result)]
    return {**result.to_dict(), "derived": jsonable(derived | ({"log_det": log_dets} if log_dets else {}))}

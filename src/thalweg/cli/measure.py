"""``thalweg measure``: one measure of a user's own network."""

from __future__ import annotations

import ast
import inspect
import json
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from thalweg.analyses import ANALYSES
from thalweg.analyses.curvature_profile import CurvatureProfile
from thalweg.cli.console import errors, progress_bar
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
    WeightDecay,
    check_figure,
)
from thalweg.core.measurement import Measurement, StandardError, jsonable
from thalweg.linalg.estimate import Estimate
from thalweg.measures import MEASURES as SINGLE_MEASURES
from thalweg.measures.curvature.block_curvature import BlockCurvature
from thalweg.measures.curvature.hessian_trace import HessianTrace
from thalweg.measures.curvature.spectral_density import SpectralDensity
from thalweg.report.plot import plot as plot_result

MEASURES = {**SINGLE_MEASURES, **ANALYSES}

# Dampings at which log det(H + damping I) is shown, in parts of the larger end of the spectrum.
DAMPINGS = (0.01, 0.1, 1.0)

# What is shown in a table, part by part, instead.
PER_PART = ("layer_traces", "layer_trace_errors", "blocks", "sizes", "lambda_max", "lambda_min", "traces")

# Ritz values bound the ends of a spectrum from inside.
ONE_SIDED = {"lambda_max": "lambda_max, at least", "lambda_min": "lambda_min, at most"}

# Entries of an array that the text shows; --json has all.
MOST_PRINTED = 20

# Arguments of measures that have an option of their own, or none.
NOT_SET = ("objective", "a", "b", "progress", "seed", "start", "direction", "directions", "optimizer")


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
            help="Weights: .safetensors, or a .pt state dictionary. Twice for linear_path, its two ends. "
            "Default: the model as it is built.",
        ),
    ] = None,
    loss: LossName = "cross_entropy",
    batch_norm: BatchNorm = "running",
    batch_size: BatchSize = None,
    micro_batch: MicroBatch = "auto",
    weight_decay: WeightDecay = 0.0,
    calibration_data: CalibrationData = None,
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
    plot: Plot = None,
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
    check_figure(plot)
    if len(checkpoints) not in ({2} if num_networks == 2 else {0, 1}):
        times = "twice, for the two ends," if num_networks == 2 else "at most once"
        raise ValueError(f"`checkpoint` must be given {times} for {name}, got {len(checkpoints)}.")
    objectives = build_objectives(
        model,
        checkpoints or [None],
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
    with progress_bar(name) as progress:
        result = function(*objectives, **arguments, progress=progress)
    print(json.dumps(_json(result), allow_nan=False) if as_json else _text(result))
    if plot:
        plot_result(result, plot)
        errors.print(f"figure: {plot}", markup=False, soft_wrap=True)


def _measure_named(name: str) -> Any:
    if name not in MEASURES:
        raise ValueError(f"`measure` must be one of {', '.join(MEASURES)}, got {name!r}.")
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
        arguments[key] = _as_declared(function, key, text)
    return arguments


def _as_declared(function: Any, key: str, text: str) -> Any:
    """The text as a Python literal or else as it is, checked against what the function declares."""
    try:
        value = ast.literal_eval(text)
    except (SyntaxError, ValueError):
        value = {"true": True, "false": False, "null": None}.get(text, text)
    try:
        return TypeAdapter(get_type_hints(function)[key]).validate_python(value)
    except ValidationError as error:
        raise ValueError(f"`{key}` in --set: {error.errors()[0]['msg'].lower()}, got {text!r}.") from None


def _text(result: Measurement) -> str:
    low, high = result.interval(0.95)
    lines = [repr(result), f"interval at 95 % or more: {low:.6g} to {high:.6g}"]
    fields = [key for key in result.to_dict() if key not in ("measure", "value", "error", "provenance")]
    entries = {key: getattr(result, key, None) for key in fields} | _derived(result)
    table = _table(result)
    for key, entry in entries.items():
        if table and key in PER_PART and not isinstance(entry, float):
            continue
        if isinstance(entry, Tensor) and entry.ndim == 1 and len(entry) <= MOST_PRINTED:
            lines.append(f"{key}: {', '.join(f'{x:.6g}' for x in entry.tolist())}")
        elif isinstance(entry, float):
            lines.append(f"{ONE_SIDED.get(key, key)}: {entry:.6g}")
        elif isinstance(entry, int | str | Estimate):
            lines.append(f"{key}: {entry}")
    lines += [f"log_det, damping {damping:g}: {estimate}" for damping, estimate in _log_dets(result)]
    return "\n".join([*lines, *_rows(table)])


def _table(result: Measurement) -> dict[str, list[str]]:
    """What a result holds for each layer or block, in columns of text."""
    if isinstance(result, BlockCurvature):
        return {
            "blocks": list(result.blocks),
            "size": [f"{n:,}" for n in result.sizes.tolist()],
            "trace": [str(density.trace) for density in result.densities],
            **{words: _numbers(getattr(result, key)) for key, words in ONE_SIDED.items()},
        }
    if isinstance(result, HessianTrace | CurvatureProfile):
        num_probes = len(result.samples) if isinstance(result, HessianTrace) else result.num_probes
        halves = [
            StandardError(error, num_probes - 1).half_width(0.95)
            for error in result.layer_trace_errors.tolist()
        ]
        return {
            "layers": list(result.layers),
            "trace": _numbers(result.layer_traces),
            "± (95 %)": [f"{half:.2g}" for half in halves],
        }
    return {}


def _numbers(column: Tensor) -> list[str]:
    return [f"{x:.6g}" for x in column.tolist()]


def _rows(table: dict[str, list[str]]) -> list[str]:
    """A table in lines."""
    columns = [[key, *column] for key, column in table.items()]
    widths = [max(map(len, column)) for column in columns]
    rows = zip(*columns, strict=True)
    return ["  ".join(f"{c:<{w}}" for c, w in zip(row, widths, strict=True)).rstrip() for row in rows]


def _derived(result: Measurement) -> dict[str, Any]:
    """Numbers that the result computes from what it holds, by name: single ones, and one for each part."""
    names = [k for c in type(result).__mro__ for k, p in vars(c).items() if isinstance(p, property)]
    found = {name: getattr(result, name) for name in dict.fromkeys(names) if name != "num_top"}
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

    def entry(estimate: Estimate) -> dict[str, float]:
        low, high = (float(end) for end in estimate.interval(0.95))
        return {"value": float(estimate), "low": low, "high": high}

    derived = {
        name: entry(number) if isinstance(number, Estimate) else number
        for name, number in _derived(result).items()
        if not isinstance(number, Tensor)
    }
    log_dets = [{"damping": damping, **entry(estimate)} for damping, estimate in _log_dets(result)]
    return {**result.to_dict(), "derived": jsonable(derived | ({"log_det": log_dets} if log_dets else {}))}

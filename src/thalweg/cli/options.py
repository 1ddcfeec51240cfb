"""Options that several verbs share, and what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from thalweg.core.imports import import_callable
from thalweg.models.registry import model_names
from thalweg.objective.batch_norm import MODES
from thalweg.objective.losses import NAMED, Loss
from thalweg.report.figures import FORMATS
from thalweg.report.surface_html import HTML

DTYPES = {"float32": torch.float32, "float64": torch.float64}

Model = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help=f"{', '.join(model_names())}, or module:callable of your own, called without arguments, which "
        "returns a torch.nn.Module; modules in the current folder are found.",
    ),
]
LossName = Annotated[
    str,
    typer.Option(
        "--loss",
        metavar="NAME",
        help=f"{', '.join(NAMED)}, or module:callable of your own: (outputs, targets) -> (B,), one loss an "
        "example, or (model, batch) -> (B,).",
    ),
]
Data = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="fashion-mnist:train or fashion-mnist:test, with :N for the first N examples; or "
        "module:callable of your own, called without arguments, which returns (inputs, targets), a "
        "dictionary of tensors, a Dataset or a DataLoader.",
    ),
]
BatchNorm = Annotated[
    str,
    typer.Option(
        metavar="MODE",
        help=f"{', '.join(MODES)}: stored statistics, exact ones over the data, or each batch's own.",
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Examples a batch, for --batch-norm batch alone. Default: a DataLoader's, or 128.",
    ),
]
MicroBatch = Annotated[
    str, typer.Option(metavar="N", help="Examples a pass, or auto: memory and speed, never the value.")
]
WeightDecay = Annotated[
    float,
    typer.Option(metavar="X", help="Adds X / 2 times the squared norm of the parameters to the loss."),
]
CalibrationData = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What --batch-norm recalibrated takes its statistics from, in the form of --data. Default: "
        "the data themselves, but for a named test split the whole training split.",
    ),
]
DType = Annotated[str, typer.Option(metavar="NAME", help=f"{' or '.join(DTYPES)}.")]
Plot = Annotated[Path | None, typer.Option(metavar="FILE", help="Draw the result, too: .png, .svg or .pdf.")]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder with the files of Fashion-MNIST; default: THALWEG_DATA, the cache, or else downloaded.",
    ),
]
Device = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="auto, cpu, cuda or mps; auto takes an accelerator if there is one, else the CPU.",
    ),
]
SetOfMeasure = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="MEASURE.ARGUMENT=VALUE",
        help="An argument of one of the measures, such as trace.rtol=0.02; repeatable. `thalweg measure "
        "--help` lists what each takes.",
    ),
]
StoreFolder = Annotated[
    Path | None,
    typer.Option(
        metavar="FOLDER",
        help="Keep there what is done of all that takes long; the same command, killed, goes on from it.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def resolve_loss(name: str) -> Loss:
    """A named loss as it is, anything else imported."""
    return name if name in NAMED else import_callable(name, "loss", tuple(NAMED))


def resolve_device(name: str) -> torch.device:
    """The device that `name` means on this machine."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        # One that can be computed on and read from, which "meta" is not.
        float(torch.zeros(1, device=device))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"`device` must be auto or one this machine has, got {name!r} ({reason}).") from None
    return device


def names_in(text: str | None) -> list[str] | None:
    """Names between commas; None where the option was left out."""
    return None if text is None else [name for part in text.split(",") if (name := part.strip())]


def check_figure(path: Path | None, *, interactive: bool = False) -> None:
    """Raise unless a figure can be written there, by its suffix; or a page, where there is one to turn."""
    known = (*FORMATS, HTML) if interactive else FORMATS
    if path and path.suffix.lower() not in known:
        raise ValueError(f"`plot` must end in one of {', '.join(known)}, got {str(path)!r}.")

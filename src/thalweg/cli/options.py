"""Options that several verbs share, and what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from thalweg.core.imports import import_callable
from thalweg.models.registry import model_names
from thalweg.objective.losses import NAMED, Loss

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

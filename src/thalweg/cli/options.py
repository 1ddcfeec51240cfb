"""Options that several verbs share, and what they mean."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

DataRoot = Annotated[
    Path | None,
    typer.Option(help="Folder that holds Fashion-MNIST; default: THALWEG_DATA, the cache, or fetched."),
]
Device = Annotated[
    str, typer.Option(help="auto, cpu, cuda or mps; auto takes an accelerator if there is one.")
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


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

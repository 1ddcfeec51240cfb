"""What no ``--set`` can hold: directions and a trajectory of slices, and where to keep what is done."""

from __future__ import annotations

import glob
import inspect
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor

from thalweg.cli.options import names_in
from thalweg.core.array_store import ArrayStore
from thalweg.core.param_space import ParamSpace
from thalweg.models.registry import build_model
from thalweg.objective.objective import Objective
from thalweg.solvers.direction_sources import NAMED, TRAJECTORY
from thalweg.training.checkpoint import load_weights

Directions = Annotated[
    str | None,
    typer.Option(
        metavar="KIND,...",
        help=f"Of slices: {', '.join(NAMED)}; {TRAJECTORY}, for the principal components of --trajectory; "
        "or a file of weights, for the way to that network. One for all axes, or one each. Default: random.",
    ),
]
Trajectory = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FILES",
        help="Of planes and volumes: weights along a training run, drawn where the slice sees them. A file, "
        "or a pattern in quotes such as 'run/step-*.pt', in the order of its numbers; repeatable.",
    ),
]
SlicePlot = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Draw the result, too: .png, .svg or .pdf; a plane or a volume also as .html, to be turned.",
    ),
]


def slice_arguments(
    measure: Callable[..., Any],
    name: str,
    model: str,
    seed: int,
    *,
    directions: str | None,
    trajectory: Sequence[str] | None,
    store: Path | None,
    networks: Callable[[Sequence[Path]], list[Objective]],
) -> dict[str, Any]:
    """What the options say, in the arguments of the measure.

    Parameters
    ----------
    networks
        Makes an objective of each file of weights.

    Raises
    ------
    ValueError
        If the measure has no such argument, or files are missing.
    """
    given = {"directions": directions, "trajectory": trajectory, "store": store}
    taken = inspect.signature(measure).parameters
    for option, value in given.items():
        if value is not None and option not in taken:
            raise ValueError(f"`{option}` is nothing that {name} takes; leave it out.")
    found: dict[str, Any] = {} if store is None else {"store": ArrayStore(store)}
    if trajectory is not None:
        found["trajectory"] = _points(_files(trajectory), model, seed)
    if directions is not None:
        kinds = names_in(directions) or []
        files = [Path(kind) for kind in kinds if kind not in (*NAMED, TRAJECTORY)]
        for path in files:
            if not path.is_file():
                known = ", ".join((*NAMED, TRAJECTORY))
                raise ValueError(f"`directions` must be among {known}, or files, got {str(path)!r}.")
        reached = iter(networks(files))
        ways = [kind if kind in (*NAMED, TRAJECTORY) else next(reached) for kind in kinds]
        found["directions"] = ways[0] if len(ways) == 1 else ways
    return found


def _files(patterns: Sequence[str]) -> list[Path]:
    """Files in the order of the options; those of a pattern in the order of the numbers in their names."""
    found: list[Path] = []
    for pattern in patterns:
        matched = [pattern] if Path(pattern).is_file() else glob.glob(pattern, recursive=True)
        files = [Path(name) for name in sorted(matched, key=_by_number) if Path(name).is_file()]
        if not files:
            raise ValueError(f"`trajectory` must name files of weights, but there is none like {pattern!r}.")
        found += files
    return found


def _by_number(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _points(files: Sequence[Path], model: str, seed: int) -> list[Tensor]:
    """The trainable parameters ``(P,)`` in each file."""
    network, points = build_model(model, seed), []
    space = ParamSpace.of(network)
    for path in files:
        load_weights(path, network)
        points.append(space.flatten(dict(network.named_parameters())).detach())
    return points

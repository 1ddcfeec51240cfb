"""What a measure refuses in place of an objective."""

from __future__ import annotations

from typing import Any

from thalweg.objective.objective import Objective


def check_objective(name: str, given: Any) -> None:
    """An `Objective`: measures take the network together with its data and loss."""
    if not isinstance(given, Objective):
        raise TypeError(
            f"`{name}` must be a thalweg.Objective, the network with its data and loss, got "
            f"{type(given).__name__}; wrap it first: Objective(model, (inputs, targets), loss=...)."
        )

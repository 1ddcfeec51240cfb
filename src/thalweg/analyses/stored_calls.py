"""A call of a measure as a step of a longer chain, which a store remembers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from thalweg.core.array_store import Store, key_of
from thalweg.core.identity import code_identity
from thalweg.core.kept_results import kept
from thalweg.core.measurement import Measurement, hash_tensors, jsonable
from thalweg.core.progress import Progress
from thalweg.objective.objective import Objective
from thalweg.objective.resuming import arithmetic


def stored_call(
    store: Store | None,
    measure: Callable[..., Measurement],
    objectives: Sequence[Objective],
    arguments: Mapping[str, Any],
    *,
    progress: Progress | None,
) -> Measurement:
    """``measure(*objectives, **arguments, progress=progress)``, or what the store has of it.

    A measure that takes a store itself gets this one, and knows best what to keep; of any other it is the
    result that is kept, once there is one.

    Raises
    ------
    TypeError
        If an argument cannot be told from another, so that no key can be made of it.
    """
    if store is None:
        return measure(*objectives, **arguments, progress=progress)
    if "store" in inspect.signature(measure).parameters:
        return measure(*objectives, **arguments, store=store, progress=progress)
    key = key_of(
        call=code_identity(measure),
        of=[[objective.describe(), arithmetic(objective)] for objective in objectives],
        arguments={name: _told(name, value) for name, value in arguments.items()},
    )
    return kept(store, key, lambda: measure(*objectives, **arguments, progress=progress))


def _told(name: str, value: Any) -> Any:
    """An argument in a JSON-safe form that no other value has."""
    if isinstance(value, Tensor):
        return hash_tensors(value)
    if isinstance(value, Objective):
        return value.describe()
    try:
        return jsonable(value)
    except TypeError:
        raise TypeError(
            f"`{name}` must be made of numbers, texts and tensors where a `store` is to tell one call from "
            f"another, got {type(value).__name__}; leave `store` out."
        ) from None

"""One proof for many operators of a kind on one network: along a training run, or for several measures."""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

# By what is proved; `ObjectiveOperator` says what that is.
Proofs = MutableMapping[Any, Any]

_SHARED: ContextVar[Proofs | None] = ContextVar("shared proofs", default=None)


@contextmanager
def shared_proofs(proofs: Proofs) -> Iterator[None]:
    """Within, what one operator has proved holds for others of its kind on the same network, and is kept.

    Which composition of derivatives is right is a matter of layers, not of the weights in them; so a network
    need not prove it anew after each step of its training. Another class, composition, precision, device,
    batch-norm mode, choice of parameters or code of the network is proved for itself.
    """
    token = _SHARED.set(proofs)
    try:
        yield
    finally:
        _SHARED.reset(token)


def current_proofs() -> Proofs | None:
    """Those shared here, if any."""
    return _SHARED.get()

"""Errors of numerics. A caller's mistake is a ``ValueError`` or a ``TypeError``; these are the network's."""

from __future__ import annotations

from typing import Any

import torch


class ThalwegError(Exception):
    """Base of the errors that are not the caller's."""


class ConvergenceError(ThalwegError):
    """A solver spent its budget before it reached the asked tolerance.

    Attributes
    ----------
    partial
        The result as far as it got, with the error bounds it does have.
    """

    def __init__(self, message: str, partial: Any = None) -> None:
        super().__init__(message)
        self.partial = partial
        if partial is not None:  # shown under a traceback; whoever has but the message has no `partial`
            self.add_note("The result so far is in `partial` of this exception.")


class NonFiniteLossError(ThalwegError):
    """The loss, the gradient or a product is NaN or infinite; the message names the batch that caused it."""


class NondeterminismError(ThalwegError):
    """The same point evaluated twice gave two answers, so no number about it would mean anything."""


class DerivativeError(ThalwegError):
    """No composition of automatic differentiation passed the self-check on this network."""


class DataError(ThalwegError):
    """A data file is missing, truncated, corrupted or not what it claims to be."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it says that the memory did not suffice, of whichever device."""
    # Torch's allocator for CPUs raises a bare RuntimeError.
    cpu = isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    return cpu or isinstance(error, MemoryError | torch.cuda.OutOfMemoryError)

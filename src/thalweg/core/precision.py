"""Arithmetic as precise as its dtype says, whatever the ambient settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

# What torch calls full precision, and no wish of its own.
EXACT = ("ieee", "none")


@contextmanager
def full_precision() -> Iterator[None]:
    """Hold float32 products and convolutions to float32, and put the user's switches back as they were.

    TF32, which torch has on for convolutions on a GPU unless told otherwise, and bfloat16 have three digits:
    they would cost orthogonality, statistics, and every small difference of two losses.
    """
    with ExitStack() as stack:
        for get, put, exact in _switches():
            try:
                before = get()
            except RuntimeError:
                continue  # set by torch's newer interface, which the older one refuses to read: see below
            if before != exact:
                put(exact)
                stack.callback(put, before)
        for operation in _operations():
            before = operation.fp32_precision
            if before not in EXACT:
                operation.fp32_precision = "ieee"
                stack.callback(_put_back, operation, before)
        yield


def _put_back(operation: Any, before: str) -> None:
    # What it took over from the switch above it, it is to take over again.
    operation.fp32_precision = "none"
    if operation.fp32_precision != before:
        operation.fp32_precision = before


def _switches() -> Iterator[tuple[Callable[[], Any], Callable[[Any], None], Any]]:
    """How torch's older switches are read and set, and what makes them exact."""
    yield torch.get_float32_matmul_precision, torch.set_float32_matmul_precision, "highest"
    cudnn = torch.backends.cudnn
    yield lambda: cudnn.allow_tf32, lambda on: setattr(cudnn, "allow_tf32", on), False


def _operations() -> Iterator[Any]:
    """What has a switch of its own since torch 2.9."""
    for backend in (torch.backends.cuda, torch.backends.cudnn, torch.backends.mkldnn):
        for name in ("matmul", "conv", "rnn"):
            operation = getattr(backend, name, None)
            if hasattr(operation, "fp32_precision"):
                yield operation

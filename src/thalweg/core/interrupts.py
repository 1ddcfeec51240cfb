"""Ctrl-C stays what it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupts_kept() -> Iterator[None]:
    """Within, an interrupt that torch turns into another error is raised as the interrupt it was.

    Torch's interpreter of scripted kernels, among them the derivatives of layer norm by forward mode, raises
    whatever stops it as a RuntimeError: as if the layer had no derivative.
    """
    try:
        yield
    except RuntimeError as error:
        if any(line.startswith("RuntimeError: KeyboardInterrupt:") for line in str(error).splitlines()):
            raise KeyboardInterrupt from error
        raise

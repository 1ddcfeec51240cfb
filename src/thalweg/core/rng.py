"""Random streams: named, seeded, independent of the device and of the global generators."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor


def stream_seed(seed: int, *stream: str | int) -> int:
    """Derive a 63-bit seed for the named stream, so that two uses of one seed never share numbers."""
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer):
        raise TypeError(f"`seed` must be an integer, got {seed!r}; every stochastic measure needs one.")
    text = "/".join([str(int(seed)), *map(str, stream)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(seed: int, *stream: str | int) -> torch.Generator:
    """Return a CPU generator for one named stream; CPU, so that every device sees the same numbers."""
    return torch.Generator(device="cpu").manual_seed(stream_seed(seed, *stream))


def normal(rng: torch.Generator, *shape: int, like: Tensor) -> Tensor:
    """Draw N(0, 1) numbers on the CPU in float64, then move them to the dtype and device of `like`."""
    return torch.randn(*shape, generator=rng, dtype=torch.float64).to(like.dtype).to(like.device)


@contextmanager
def preserved_global_rng() -> Iterator[None]:
    """Put the global generators of Python, NumPy and torch (every device) back as they were."""
    python_state = random.getstate()
    numpy_state = np.random.get_state()  # noqa: NPY002 - the legacy global state is what must be kept
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=devices):
        mps_state = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)  # noqa: NPY002
            if mps_state is not None:
                torch.mps.set_rng_state(mps_state)

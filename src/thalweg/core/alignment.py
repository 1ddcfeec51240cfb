"""Where in memory numbers begin: not every kernel of an accelerator reads from everywhere."""

from __future__ import annotations

from torch import Tensor

# Bytes that vectorised kernels read at once.
ALIGNMENT = 16


def aligned(t: Tensor) -> Tensor:
    """The same numbers, in a copy where they begin in between two reads of an accelerator's kernels.

    Torch's own allocations never do, but a layer's part of the vector of all parameters may, and so may some
    of the examples: cuDNN's batch norm over the batch then faults, and takes the whole process's CUDA along.
    """
    return t.clone() if t.device.type != "cpu" and t.data_ptr() % ALIGNMENT else t

"""Evaluation that neither feels nor changes the state around it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from thalweg.core.interrupts import interrupts_kept
from thalweg.core.precision import full_precision
from thalweg.core.rng import preserved_global_rng


@contextmanager
def isolated(device: torch.device) -> Iterator[None]:
    """Keep the global generators, and switch ambient autocast, inference mode and attention's fast path off.

    Under the caller's autocast, or in TF32, which a GPU's convolutions take unless told otherwise, the same
    objective would give another value, which its provenance would not show; tensors made in inference mode
    cannot be differentiated. In eval mode and without gradients torch's encoder layers take a fast path that
    zeroes masked positions: another function than the one whose derivatives are taken. cuDNN neither picks
    kernels by the clock nor takes those whose sums come in any order. What a model switches on itself stays.
    Ctrl-C comes out as what it is.
    """
    with ExitStack() as stack:
        stack.enter_context(interrupts_kept())
        stack.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        cudnn = torch.backends.cudnn
        for switch, state in (("benchmark", False), ("deterministic", True)):
            stack.callback(setattr, cudnn, switch, getattr(cudnn, switch))
            setattr(cudnn, switch, state)
        stack.enter_context(full_precision())
        stack.enter_context(preserved_global_rng())
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if torch.is_autocast_enabled(device.type):
            stack.enter_context(torch.autocast(device.type, enabled=False))
        yield

"""The objective written out in plain PyTorch on a copy of the model: what the package must agree with."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


def in_mode(model: nn.Module, batch_statistics: bool) -> nn.Module:
    """A copy in eval mode, but for the batch-norm layers if they are to use each batch's statistics."""
    model = copy.deepcopy(model).eval()
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.train(batch_statistics)
    return model


def with_exact_statistics(model: nn.Module, x: Tensor) -> nn.Module:
    """A copy in eval mode whose batch-norm layers store the moments of one batch of all of `x`."""
    model = in_mode(model, batch_statistics=True)
    moments: dict[_BatchNorm, tuple[Tensor, Tensor]] = {}

    def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        assert isinstance(module, _BatchNorm)
        a = inputs[0].transpose(0, 1).flatten(1)
        moments[module] = (a.mean(1), ((a - a.mean(1, keepdim=True)) ** 2).mean(1))

    layers = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    handles = [m.register_forward_pre_hook(note) for m in layers]
    with torch.no_grad():
        model(x)
    for handle in handles:
        handle.remove()
    for layer, (mean, var) in moments.items():
        layer.running_mean, layer.running_var = mean, var
        layer.track_running_stats = True
        layer.eval()
    return model


def loss_and_gradient(
    model: nn.Module,
    data: tuple[Tensor, Tensor],
    mode: str,
    batch_size: int = 128,
    calibration: Tensor | None = None,
) -> tuple[float, float, Tensor]:
    """Mean cross-entropy, accuracy and gradient ``(P,)`` by ``backward``."""
    x, y = data
    if mode == "recalibrated":
        model = with_exact_statistics(model, x if calibration is None else calibration)
    else:
        model = in_mode(model, batch_statistics=mode == "batch")
    model.zero_grad()
    step = batch_size if mode == "batch" else len(x)
    total, right = torch.zeros((), dtype=x.dtype), 0
    for i in range(0, len(x), step):
        outputs = model(x[i : i + step])
        total = total + F.cross_entropy(outputs, y[i : i + step], reduction="sum")
        right += int((outputs.argmax(1) == y[i : i + step]).sum())
    loss = total / len(x)
    loss.backward()
    gradient = torch.cat(
        [
            torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten()
            for p in model.parameters()
            if p.requires_grad
        ]
    )
    return float(loss.detach()), right / len(x), gradient

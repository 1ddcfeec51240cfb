"""Dense second derivatives in float64 by plain PyTorch on the user's own model: nothing of the package.

Double backward, row by row, and the test asserts that it agrees with central differences of the gradient.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.batchnorm import _BatchNorm

Data = Any
MeanLoss = Callable[[nn.Module], Tensor]


def slices(data: Data, size: int) -> list[Data]:
    """Consecutive batches; the last may be shorter."""
    if isinstance(data, dict):
        n = len(next(iter(data.values())))
        return [{k: v[i : i + size] for k, v in data.items()} for i in range(0, n, size)]
    return [tuple(t[i : i + size] for t in data) for i in range(0, len(data[0]), size)]


def example_losses(model: nn.Module, batch: Data, loss: Any) -> Tensor:
    """``(B,)`` by the definitions of the documentation."""
    if not isinstance(loss, str):
        return loss(model, batch)
    *inputs, y = batch
    outputs = model(*inputs)
    if loss == "mse":
        return (outputs - y).square().flatten(1).mean(1)
    return F.cross_entropy(outputs, y, reduction="none")


def prepared(model: nn.Module, data: Data, loss: Any, mode: str) -> nn.Module:
    """A copy in the state whose loss is meant: `train()` batch norm, or exact statistics, or as it is."""
    model = copy.deepcopy(model).eval()
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    if mode == "batch":
        for norm in norms:
            norm.train()
    if mode == "recalibrated":
        # Each layer in the order of execution, when all before it have their exact statistics.
        order: list[Any] = []
        handles = [n.register_forward_pre_hook(lambda m, _: order.append(m)) for n in norms]
        with torch.no_grad():
            example_losses(model, data, loss)
            for handle in handles:
                handle.remove()
            for norm in order:
                seen: Any = []
                handle = norm.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
                example_losses(model, data, loss)
                handle.remove()
                dims = [d for d in range(seen[0].ndim) if d != 1]
                norm.running_mean = seen[0].mean(dims)
                norm.running_var = seen[0].var(dims, correction=0)
    return model


def mean_loss(model: nn.Module, data: Data, loss: Any, mode: str, batch_size: int) -> Tensor:
    """Mean over the examples; in ``batch`` mode over the batches of the partition."""
    parts = slices(data, batch_size) if mode == "batch" else [data]
    losses = torch.cat([example_losses(model, part, loss) for part in parts])
    return losses.mean()


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """Tied parameters once, frozen ones not."""
    return [p for p in model.parameters() if p.requires_grad]


def flat_gradient(value: Tensor, params: list[nn.Parameter], **kwargs: Any) -> Tensor:
    """``(P,)``, noughts for what is not used."""
    found = torch.autograd.grad(value, params, allow_unused=True, **kwargs)
    return torch.cat(
        [(torch.zeros_like(p) if g is None else g).reshape(-1) for p, g in zip(params, found, strict=True)]
    )


def dense_hessian(
    model: nn.Module,
    data: Data,
    loss: Any = "cross_entropy",
    mode: str = "running",
    batch_size: int = 8,
    confirm: bool = True,
) -> Tensor:
    """``(P, P)`` float64 by double backward, confirmed by central differences of the gradient."""
    model = prepared(model, data, loss, mode)
    params = trainable(model)
    # The backward of fused attention has no derivative; the differences below take the fused kernel.
    with sdpa_kernel(SDPBackend.MATH):
        gradient = flat_gradient(mean_loss(model, data, loss, mode, batch_size), params, create_graph=True)
        nought = torch.zeros_like(gradient)
        rows = [flat_gradient(g, params, retain_graph=True) if g.requires_grad else nought for g in gradient]
    H = torch.stack(rows).detach()
    if confirm:
        slopes = central_differences(model, data, loss, mode, batch_size)
        error = float((H - slopes).norm() / H.norm())
        assert error < 1e-7, f"the oracle disagrees with the slope of the gradient by {error:.1e}"
        assert float((H - H.T).norm() / H.norm()) < 1e-12
    return H


def central_differences(model: nn.Module, data: Data, loss: Any, mode: str, batch_size: int) -> Tensor:
    """``(P, P)``: one column for each parameter moved to and fro."""
    params = trainable(model)
    columns = []
    for p in params:
        entries = p.data.view(-1)
        for i in range(entries.numel()):
            kept, sides = entries[i].item(), []
            for step in (1e-5, -1e-5):
                entries[i] = kept + step
                sides.append(flat_gradient(mean_loss(model, data, loss, mode, batch_size), params))
            entries[i] = kept
            columns.append((sides[0] - sides[1]) / 2e-5)
    return torch.stack(columns, 1)


def dense_ggn(
    model: nn.Module, data: Data, loss: Any = "cross_entropy", mode: str = "running", batch_size: int = 8
) -> Tensor:
    """``(P, P)``: J^T H_l J with J by one backward for each output and H_l in closed form."""
    model = prepared(model, data, loss, mode)
    params = trainable(model)
    n = len(data[-1])
    G = torch.zeros(sum(p.numel() for p in params), sum(p.numel() for p in params), dtype=torch.float64)
    for part in slices(data, batch_size) if mode == "batch" else [data]:
        outputs = model(*part[:-1])
        J = torch.stack([flat_gradient(f, params, retain_graph=True) for f in outputs.reshape(-1)])
        J = J.view(*outputs.shape, -1)
        if loss == "mse":
            curvature = (
                2 / outputs.shape[1] * torch.eye(outputs.shape[1], dtype=J.dtype).expand(len(J), -1, -1)
            )
        else:
            p = outputs.detach().softmax(1)
            curvature = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        G += torch.einsum("bcp,bcd,bdq->pq", J, curvature, J)
    return G / n


def example_gradients(model: nn.Module, data: Data, loss: Any, mode: str) -> Tensor:
    """``(N, P)``: each example alone through the network, plain reverse mode."""
    model = prepared(model, data, loss, mode)
    params = trainable(model)
    return torch.stack(
        [flat_gradient(example_losses(model, one, loss).sum(), params) for one in slices(data, 1)]
    )


def dense_fisher(model: nn.Module, data: Data, loss: str, mode: str) -> Tensor:
    """``(P, P)``: the expected outer product of an example's gradient over labels that the model predicts.

    A Gaussian is replaced by points with its mean and its variance, which are all that matters here.
    """
    model = prepared(model, data, loss, mode)
    params = trainable(model)
    total = torch.zeros(sum(p.numel() for p in params), sum(p.numel() for p in params), dtype=torch.float64)
    for *inputs, y in slices(data, 1):
        f = model(*inputs).detach()
        if loss == "mse":
            D = f.shape[1]
            points = torch.eye(D, dtype=f.dtype) * (D * D / 2) ** 0.5
            chances = [(f + sign * point, 1 / (2 * D)) for point in points for sign in (1, -1)]
        else:
            chances = [(torch.full_like(y, c), float(p)) for c, p in enumerate(f.softmax(1)[0])]
        for label, chance in chances:
            g = flat_gradient(example_losses(model, (*inputs, label), loss).sum(), params)
            total += chance * torch.outer(g, g)
    return total / len(data[-1])

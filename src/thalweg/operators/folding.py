r"""Batch norm with constant statistics, folded into the linear layer before it.

.. math:: \frac{\gamma}{\sigma} (W x + b - \mu) + \beta
   = \Bigl(\frac{\gamma}{\sigma} W\Bigr) x + \Bigl(\frac{\gamma}{\sigma} (b - \mu) + \beta\Bigr)

The same function of the parameters, :math:`\gamma, \beta, W` and b among them, so that derivatives may be
taken of either side. On the right no pass over the activations is left of batch norm, nor of its derivatives.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from thalweg.core.rng import generator
from thalweg.objective.batch_norm import batch_norm_layers
from thalweg.objective.compilation import first_micro_batch
from thalweg.objective.isolation import isolated
from thalweg.objective.objective import Objective
from thalweg.operators.folding_guard import FoldingGuard, OtherUseError

# Of exactly these types: a sub-class may compute something else.
LINEAR = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

Pair = tuple[str, str]


def foldable_pairs(objective: Objective) -> tuple[Pair, ...]:
    """Adjacent layers that give the same losses either way.

    Compared in float64 on one micro-batch, at the point and at two near it: something else may take what the
    linear layer puts out, and the adjacency does not show it. Where the model does not run so, and in half
    precision, nothing is folded.
    """
    if objective.params.element_size() < 4:
        return ()
    with isolated(objective.device), torch.no_grad():
        pairs = adjacent_pairs(objective.loss.model, first_micro_batch(objective).losses)
        if not pairs:
            return ()
        try:
            return _same_function(objective.to_dtype(torch.float64), pairs)
        except Exception:
            return ()  # a model may refuse float64, or a point that is not its own


def _same_function(objective: Objective, pairs: tuple[Pair, ...]) -> tuple[Pair, ...]:
    rng = generator(0, "foldable")

    def displaced() -> Objective:
        buffers = {k: _displaced(b, rng) for k, b in objective.buffers.items()}
        return objective.at(_displaced(objective.params, rng), buffers)

    micros = [first_micro_batch(point) for point in (objective, displaced(), displaced())]
    plain = [micro.losses() for micro in micros]

    def agree(some: tuple[Pair, ...]) -> bool:
        try:
            with folded(objective.loss.model, some):
                merged = [micro.losses() for micro in micros]
        except OtherUseError:
            return False
        # No loss at all proves nothing, nor does NaN, which compares as unequal.
        return all(
            float(a.abs().max()) > 0 and bool(((a - b).abs() <= 1e-9 * a.abs().max()).all())
            for a, b in zip(plain, merged, strict=True)
        )

    return pairs if agree(pairs) else tuple(pair for pair in pairs if agree((pair,)))


def _displaced(v: Tensor, rng: torch.Generator) -> Tensor:
    """Every entry by up to a tenth of itself, either way: what is positive stays so."""
    return v * (1 + 0.1 * (2 * torch.rand(v.shape, generator=rng, dtype=v.dtype).to(v.device) - 1))


def adjacent_pairs(
    model: nn.Module, forward: Callable[[], object], training: bool = False
) -> tuple[Pair, ...]:
    """Names of linear layers and of the batch norms, in eval mode, that take what these put out.

    Each is used once in `forward`. Whether something else takes the output, too, does not show here. With
    `training` the batch norms meant are those of batch statistics.
    """
    outputs: dict[int, tuple[str, Tensor, int]] = {}
    calls: dict[str, int] = {}
    found: list[Pair] = []

    def after(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _inputs: object, output: Tensor) -> None:
            calls[name] = calls.get(name, 0) + 1
            # Kept, so that no other tensor gets its id; the version shows what changes it in place.
            outputs[id(output)] = name, output, output._version

        return hook

    def before(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            calls[name] = calls.get(name, 0) + 1
            source = outputs.get(id(inputs[0])) if inputs else None
            if source and inputs[0]._version != source[2]:
                return
            # Channels are the second dimension of a batch norm's input, and a linear layer's last.
            if source and (inputs[0].ndim == 2 or not isinstance(model.get_submodule(source[0]), nn.Linear)):
                found.append((source[0], name))

        return hook

    handles = []
    for name, module in model.named_modules():
        if module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__:
            continue  # somebody's own addition to the layer
        if type(module) in LINEAR:
            handles.append(module.register_forward_hook(after(name)))
        elif type(module) in NORMS and module.training == training:
            handles.append(module.register_forward_pre_hook(before(name)))
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    return tuple(pair for pair in found if calls[pair[0]] == calls[pair[1]] == 1)


@contextmanager
def folded(model: nn.Module, pairs: tuple[Pair, ...]) -> Iterator[None]:
    """Within, the linear layers of the pairs do what both do, and their batch norms nothing.

    Raises
    ------
    OtherUseError
        If the model uses a layer in another way: what it gave would be another function.
    """
    swapped: list[nn.Module] = []
    guard = FoldingGuard()
    try:
        for linear_name, norm_name in pairs:
            linear, norm = model.get_submodule(linear_name), model.get_submodule(norm_name)
            if "forward" in linear.__dict__:
                continue  # folded already, further out
            put_out = functools.partial(guard.put_out, norm_name)
            linear.forward = functools.partial(_both, linear, norm, put_out)
            norm.forward = functools.partial(guard.take_in, norm_name)
            swapped += [linear, norm]
        with guard if swapped else nullcontext():
            yield
        guard.finish()
    finally:
        for module in swapped:
            del module.forward  # the class's own shows again


def _both(linear: Any, norm: Any, put_out: Callable[[Tensor], Tensor], input: Tensor) -> Tensor:
    mean, var, bias = norm.running_mean, norm.running_var, linear.bias
    assert isinstance(mean, Tensor)
    assert isinstance(var, Tensor)
    scale = torch.rsqrt(var + norm.eps)
    if norm.weight is not None:
        scale = norm.weight * scale
    weight = linear.weight * scale.view(-1, *[1] * (linear.weight.ndim - 1))
    shift = -mean * scale if bias is None else (bias - mean) * scale
    if norm.bias is not None:
        shift = shift + norm.bias
    if isinstance(linear, nn.Linear):
        return put_out(nn.functional.linear(input, weight, shift))
    return put_out(linear._conv_forward(input, weight, shift))


def without_batch_norm(objective: Objective) -> nn.Module:
    """A copy of the objective's network, in eval mode, whose linear layers have taken their batch norms in.

    Each batch norm becomes an identity, so that the copy has the parameters of a network built without them.

    Raises
    ------
    ValueError
        If a batch norm cannot be taken in, naming it.
    """
    model = copy.deepcopy(objective.loss.model).eval()
    # The objective's own network is a form without a point of its own.
    for name, tensor in objective.named_tensors.items():
        own = model.get_parameter(name) if name in dict(model.named_parameters()) else model.get_buffer(name)
        own.data.copy_(tensor)
    model.requires_grad_(True)
    pairs = foldable_pairs(objective)
    for linear_name, norm_name in pairs:
        linear, norm = model.get_submodule(linear_name), model.get_submodule(norm_name)
        fuse = fuse_linear_bn_eval if isinstance(linear, nn.Linear) else fuse_conv_bn_eval
        for name, layer in ((linear_name, fuse(linear, norm)), (norm_name, nn.Identity())):  # type: ignore[type-var, arg-type]
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, layer)
    left = list(batch_norm_layers(model))
    if left:
        raise ValueError(
            "`model` must have each batch norm right after a linear layer to be folded into it, but "
            f"{left[0]} follows none."
        )
    return model

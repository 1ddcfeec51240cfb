"""Max pooling by our own derivative rules against torch's, of two orders, alone and side by side."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import grad, jvp, vjp, vmap

from thalweg.operators.derivative_rules import OwnDerivativeRules
from thalweg.operators.pooling import Chosen, MaxPool

WINDOWS: dict[str, tuple[Any, ...]] = {
    "halving": (2,),
    "overlapping": (3, 2, 1),
    "oblong": ((2, 3), (1, 2)),
    "dilated": (2, 1, 0, 2),
    "ceiling": (2, 2, 0, 1, True),
}
LAYOUTS = [torch.contiguous_format, torch.channels_last]


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def scalar_of(window: tuple[Any, ...]) -> Any:
    return lambda x: torch.tanh(F.max_pool2d(x.square() + x, *window)).square().sum()


def both(compute: Any, used: bool = True) -> None:
    """The same with our rules, which are seen to be used, or not to be, and with torch's."""
    with OwnDerivativeRules(), mock.patch.object(MaxPool, "apply", wraps=MaxPool.apply) as applied:
        ours = compute()
    assert applied.called == used
    torch.testing.assert_close(ours, compute(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", WINDOWS)
def test_first_and_second_order(name: str, layout: torch.memory_format) -> None:
    window = WINDOWS[name]
    scalar = scalar_of(window)
    x = draw(3, 2, 7, 6, seed=1).contiguous(memory_format=layout)
    v = draw(3, 2, 7, 6, seed=2).contiguous(memory_format=layout)
    both(lambda: F.max_pool2d(x, *window))
    both(lambda: torch.max_pool2d(x, *window))
    both(lambda: jvp(lambda x: F.max_pool2d(x, *window), (x,), (v,)))
    both(lambda: jvp(grad(scalar), (x,), (v,)))
    both(lambda: grad(lambda x: jvp(grad(scalar), (x,), (v,))[1].square().sum())(x))
    columns = torch.stack([v, 2 * x, -v * x])
    both(lambda: vmap(lambda t: jvp(grad(scalar), (x,), (t,))[1])(columns))
    both(lambda: vmap(grad(scalar))(columns))
    both(lambda: vmap(grad(scalar), 4, 4)(columns.movedim(0, 4)))
    # Each its own input, and one slope for all.
    both(
        lambda: vmap(lambda c: vjp(lambda x: F.max_pool2d(x, *window), c)[1](F.max_pool2d(x, *window)))(
            columns
        )
    )

    def double_backward() -> Tensor:
        leaf = x.clone().requires_grad_()
        slope = torch.autograd.grad(scalar(leaf), leaf, create_graph=True)[0]
        return torch.autograd.grad((slope * v).sum(), leaf)[0]

    both(double_backward)


def test_ties_are_decided_alike() -> None:
    x = torch.zeros(2, 3, 6, 6, dtype=torch.float64)
    for layout in LAYOUTS:
        both(lambda x=x.contiguous(memory_format=layout): grad(scalar_of((3, 2, 1)))(x))


def test_layout_is_kept_in_every_derivative() -> None:
    x, v = (draw(2, 3, 6, 6, seed=s).contiguous(memory_format=torch.channels_last) for s in (1, 2))
    with OwnDerivativeRules():
        value, tangent = jvp(lambda x: F.max_pool2d(x, 2), (x,), (v,))
        slope = vjp(lambda x: F.max_pool2d(x, 2), x)[1](value)[0]
    for t in (value, tangent, slope):
        assert t.is_contiguous(memory_format=torch.channels_last)


def test_single_precision() -> None:
    x, v = draw(3, 2, 7, 6, seed=1).float(), draw(4, 3, 2, 7, 6, seed=2).float()
    scalar = scalar_of((2,))
    with OwnDerivativeRules(), mock.patch.object(Chosen, "apply", wraps=Chosen.apply) as applied:
        ours = vmap(lambda t: jvp(grad(scalar), (x,), (t,))[1])(v)
    assert applied.called
    theirs = vmap(lambda t: jvp(grad(scalar), (x,), (t,))[1])(v)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("little", "used"), [(107, True), (108, False)])
def test_little_is_left_to_torch(little: int, used: bool) -> None:
    x = draw(2, 3, 6, 6, seed=1)
    with OwnDerivativeRules(little), mock.patch.object(MaxPool, "apply", wraps=MaxPool.apply) as applied:
        ours = F.max_pool2d(x, 2)
    assert applied.called == used
    torch.testing.assert_close(ours, F.max_pool2d(x, 2))


def test_what_the_rules_do_not_cover_is_left_to_torch() -> None:
    x = draw(2, 3, 6, 6, seed=1)
    both(lambda: F.max_pool2d(x[0], 2), used=False)
    both(lambda: F.max_pool2d(x, 2, return_indices=True), used=False)
    both(lambda: F.max_pool1d(x[0], 2), used=False)
    with OwnDerivativeRules():
        leaf = x.requires_grad_()
        assert type(F.max_pool2d(leaf, 2).grad_fn).__name__ == "MaxPoolBackward"
    with pytest.raises(RuntimeError), OwnDerivativeRules():
        F.max_pool2d(x, 2, 0)

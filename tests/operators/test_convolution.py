"""Convolutions by our own derivative rules against torch's, of three orders, alone and side by side."""

from __future__ import annotations

from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.func import grad, jvp, vjp, vmap
from torch.utils._python_dispatch import TorchDispatchMode

from thalweg.objective.objective import Objective
from thalweg.operators import objective_operator
from thalweg.operators.convolution import Partial
from thalweg.operators.derivative_rules import OwnDerivativeRules
from thalweg.operators.hessian import Hessian

# Name: function, spatial sizes, arguments beside input, weight and bias.
LAYERS: dict[str, tuple[Any, tuple[int, ...], dict[str, Any]]] = {
    "1d": (torch.conv1d, (7,), {"padding": 1}),
    "2d": (torch.conv2d, (6, 5), {}),
    "2d strided": (torch.conv2d, (8, 7), {"stride": (2, 3), "padding": (1, 0)}),
    "2d dilated": (torch.conv2d, (8, 8), {"dilation": 2, "padding": [2]}),
    "2d grouped": (torch.conv2d, (5, 5), {"groups": 2, "padding": 1}),
    "3d": (torch.conv3d, (4, 4, 3), {"padding": (1, 1, 0)}),
}
NAMES = list(LAYERS)


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


class Case:
    """A layer's function of input, weight and bias, and a scalar of it that is no polynomial."""

    def __init__(self, name: str, batch: int = 3) -> None:
        self.function, spatial, self.arguments = LAYERS[name]
        groups = self.arguments.get("groups", 1)
        kernel = (3,) * len(spatial) if min(spatial) > 3 else (2,) * len(spatial)
        self.input = draw(batch, 4, *spatial, seed=1)
        self.weight = draw(6, 4 // groups, *kernel, seed=2)
        self.bias = draw(6, seed=3)
        self.all = (self.input, self.weight, self.bias)

    def __call__(self, *tensors: Tensor) -> Tensor:
        return self.function(*tensors, **self.arguments)

    def scalar(self, *tensors: Tensor) -> Tensor:
        return torch.tanh(0.1 * self(*tensors)).square().sum()

    def tangents(self, count: int | None = None, seed: int = 10) -> tuple[Tensor, ...]:
        front = () if count is None else (count,)
        return tuple(draw(*front, *t.shape, seed=seed + i) for i, t in enumerate(self.all))


def same(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def both(compute: Any, used: bool = True) -> tuple[Any, Any]:
    """What it gives with our rules, which are seen to be used, or not to be, and with torch's."""
    with OwnDerivativeRules(), mock.patch.object(Partial, "apply", wraps=Partial.apply) as applied:
        ours = compute()
    assert applied.called == used
    return ours, compute()


@pytest.mark.parametrize("name", NAMES)
def test_value_gradient_and_jvp(name: str) -> None:
    case = Case(name)
    same(*both(lambda: case(*case.all)))
    same(*both(lambda: case(case.input, case.weight)))
    same(*both(lambda: grad(case.scalar, (0, 1, 2))(*case.all)))
    same(*both(lambda: jvp(case, case.all, case.tangents())))
    same(*both(lambda: vjp(case, *case.all)[1](case(*case.all))))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("moving", [(0, 1, 2), (1, 2), (0,), (1,), (2,)])
def test_second_order_whatever_moves(name: str, moving: tuple[int, ...]) -> None:
    case = Case(name)

    def scalar(*tensors: Tensor) -> Tensor:
        full = list(case.all)
        for i, t in zip(moving, tensors, strict=True):
            full[i] = t
        return case.scalar(*full)

    point = tuple(case.all[i] for i in moving)
    gradient = grad(scalar, tuple(range(len(moving))))
    tangents = tuple(case.tangents()[i] for i in moving)
    same(*both(lambda: jvp(gradient, point, tangents)[1]))
    columns = tuple(case.tangents(count=3)[i] for i in moving)
    same(*both(lambda: vmap(lambda t: jvp(gradient, point, t)[1])(columns)))

    def double_backward() -> Any:
        leaves = [t.clone().requires_grad_() for t in point]
        slopes = torch.autograd.grad(scalar(*leaves), leaves, create_graph=True)
        inner = sum((s * t).sum() for s, t in zip(slopes, tangents, strict=True))
        return torch.autograd.grad(inner, leaves)

    same(*both(double_backward))


@pytest.mark.parametrize("name", NAMES)
def test_third_order(name: str) -> None:
    case = Case(name, batch=2)
    tangents, other = case.tangents(), case.tangents(seed=20)

    def slope(*tensors: Tensor) -> Tensor:
        return jvp(lambda *t: jvp(case.scalar, t, other)[1], tensors, tangents)[1]

    same(*both(lambda: grad(slope, (0, 1, 2))(*case.all)))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "dims",
    [(0, None, None), (None, 0, None), (None, None, 0), (0, 0, None), (0, 0, 0), (None, 0, 0), (0, None, 0)],
)
def test_any_argument_side_by_side(name: str, dims: tuple[int | None, ...]) -> None:
    case = Case(name)
    stacks = case.tangents(count=4)
    given = tuple(s if d == 0 else t for s, t, d in zip(stacks, case.all, dims, strict=True))
    same(*both(lambda: vmap(case, dims)(*given)))
    # The dimension need not be the first.
    moved = tuple(t if d is None else t.movedim(0, -1) for t, d in zip(given, dims, strict=True))
    same(*both(lambda: vmap(case, tuple(None if d is None else -1 for d in dims))(*moved)))
    same(*both(lambda: vmap(grad(case.scalar, (0, 1, 2)), dims)(*given)))


def test_one_number_in_a_list_is_meant_for_all_dimensions() -> None:
    """Torch's own rule for weights side by side takes it for one of the dimensions alone, and fails."""
    case = Case("2d strided")
    weights = draw(3, *case.weight.shape, seed=4)
    with OwnDerivativeRules():
        ours = vmap(lambda w: torch.conv2d(case.input, w, case.bias, stride=[2], padding=[1]))(weights)
    theirs = [torch.conv2d(case.input, w, case.bias, stride=2, padding=1) for w in weights]
    same(ours, torch.stack(theirs))


@pytest.mark.parametrize(("little", "used"), [(179, True), (180, False)])
def test_little_is_left_to_torch(little: int, used: bool) -> None:
    case = Case("2d")  # 4 x 6 x 5 in, 6 channels out
    with OwnDerivativeRules(little), mock.patch.object(Partial, "apply", wraps=Partial.apply) as applied:
        ours = jvp(case, case.all, case.tangents())
    assert applied.called == used
    same(ours, jvp(case, case.all, case.tangents()))


def test_the_proof_takes_the_rules_that_the_products_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer examples are no smaller layers: what counts is the size that a pass of the products has."""
    monkeypatch.setattr(
        objective_operator, "LITTLE", 60 * 72
    )  # between 36 in and 3 x 36 out, for 60 examples
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Conv2d(3, 1, 1), nn.Flatten(), nn.Linear(16, 2))
    rng = torch.Generator().manual_seed(0)
    data = draw(60, 1, 6, 6, seed=0), torch.randint(2, (60,), generator=rng)
    operator = Hessian(Objective(model.double(), data))
    applied: list[tuple[int, ...]] = []
    original = Partial.apply

    def noted(geometry: Any, *rest: Any) -> Any:
        applied.append(geometry.input_shape)
        return original(geometry, *rest)

    monkeypatch.setattr(Partial, "apply", noted)
    assert operator.check.own_rules
    proved = set(applied)
    applied.clear()
    operator @ draw(operator.dim, 8, seed=1)
    assert proved == set(applied) == {(1, 6, 6)}


def test_side_by_side_twice() -> None:
    case = Case("2d strided")
    outer, inner = draw(2, *case.input.shape, seed=6), draw(3, *case.weight.shape, seed=7)

    def slope(u: Tensor, v: Tensor) -> Tensor:
        return jvp(lambda x, w: case(x, w, case.bias), (case.input, case.weight), (u, v))[1]

    same(*both(lambda: vmap(lambda v: vmap(lambda u: slope(u, v))(outer))(inner)))
    same(*both(lambda: vmap(lambda u: vmap(lambda v: slope(u, v))(inner))(outer)))
    inputs, weights = draw(2, *case.input.shape, seed=4), draw(5, *case.weight.shape, seed=5)
    same(*both(lambda: vmap(lambda x: vmap(lambda w: case(x, w, case.bias))(weights))(inputs)))


def test_an_input_without_a_batch_and_padding_by_name_are_left_to_torch() -> None:
    case = Case("2d")
    same(*both(lambda: torch.conv2d(case.input[0], case.weight, case.bias), used=False))
    same(*both(lambda: torch.conv2d(case.input, case.weight, padding="same"), used=False))


def test_what_torch_refuses_is_refused_in_its_words() -> None:
    case = Case("2d")
    for input, weight in ((case.input[:, :2], case.weight), (case.input.float(), case.weight)):
        with pytest.raises(RuntimeError) as theirs:
            torch.conv2d(input, weight)
        with pytest.raises(RuntimeError) as ours, OwnDerivativeRules():
            torch.conv2d(input, weight)
        assert str(ours.value) == str(theirs.value)


def test_single_precision() -> None:
    case = Case("2d strided")
    case.all = tuple(t.float() for t in case.all)
    case.input, case.weight, case.bias = case.all
    gradient = grad(case.scalar, (0, 1, 2))
    columns = tuple(t.float() for t in case.tangents(count=3))
    ours, theirs = both(lambda: vmap(lambda t: jvp(gradient, case.all, t)[1])(columns))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert all(t.dtype == torch.float32 for t in ours)


class Counting(TorchDispatchMode):
    """How many convolutions torch's kernels compute."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if name.startswith("aten.convolution_backward"):
            self.count += sum(args[-1][:2])
        elif name.startswith("aten.convolution"):
            self.count += 1
        return func(*args, **(kwargs or {}))


def test_a_product_convolves_nothing_by_nought() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, 2)
    ).double()
    data = draw(5, 1, 6, 6, seed=0), torch.tensor([0, 1, 0, 1, 1])
    operator = Hessian(Objective(model, data))
    assert operator.check.composition == "vmap_jvp_grad"
    V = draw(operator.dim, 1, seed=1)
    with Counting() as counting:
        operator @ V
    # The second layer: output, and slopes in input and weight, once, and twice each for their tangents; the
    # first has no slope in its input, and no tangent there: output and slope, and a tangent of each.
    assert counting.count == 9 + 4


def test_layouts_are_kept() -> None:
    case = Case("2d")
    x = case.input.contiguous(memory_format=torch.channels_last)
    with OwnDerivativeRules():
        y, pull = vjp(lambda x: case(x, case.weight), x)
        slope = pull(y)[0]
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert slope.is_contiguous(memory_format=torch.channels_last)


def test_the_rules_are_used_only_within() -> None:
    case = Case("2d")
    weight = case.weight.requires_grad_()
    with OwnDerivativeRules():
        inside = torch.conv2d(case.input, weight)
    assert type(inside.grad_fn).__name__ == f"{Partial.__name__}Backward"
    assert type(torch.conv2d(case.input, weight).grad_fn).__name__ == "ConvolutionBackward0"


def test_autocast_and_complex_numbers_are_left_to_torch() -> None:
    layer, x = torch.nn.Conv2d(2, 3, 3), torch.randn(2, 2, 5, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16), OwnDerivativeRules():
        assert layer(x).dtype == torch.bfloat16
    z = torch.randn(2, 2, 5, 5, dtype=torch.complex64)
    same(*both(lambda: torch.conv2d(z, layer.weight.detach().to(torch.complex64)), used=False))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_single_batches(name: str, batch: int) -> None:
    """Where every batch has a slope of its own, a plain convolution's come of one matrix product each."""
    case = Case(name, batch=5 * batch)
    inputs = case.input.unflatten(0, (5, batch))

    def compute() -> Any:
        slopes = grad(lambda w, b, x: case.scalar(x, w, b), (0, 1))
        return vmap(slopes, (None, None, 0))(case.weight, case.bias, inputs)

    ours, theirs = both(compute)
    same(ours, theirs)
    each = [grad(lambda w, x=x: case.scalar(x, w, case.bias))(case.weight) for x in inputs]
    same(ours[0], torch.stack(each))

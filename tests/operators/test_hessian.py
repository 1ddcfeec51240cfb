"""The Hessian against a dense float64 oracle that shares no code with it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch
from tests import networks
from tests.operators import oracle
from tests.operators.cases import BATCH, CASES, available, deviation, hessian_of
from torch import Tensor, nn
from torch.autograd import forward_ad

from thalweg.core.errors import DerivativeError, NonFiniteLossError
from thalweg.objective.objective import Objective
from thalweg.operators import derivative_rules
from thalweg.operators.compositions import COMPOSITIONS
from thalweg.operators.hessian import Hessian

# What a release of torch may or may not have a forward derivative of, in the memory layout used.
MAY_BE_ABSENT = {("group-norm", "vmap_jvp_grad"), ("group-norm", "jvp_grad")}


def dense(operator: Hessian) -> Tensor:
    """All columns in one product: more than a block, and no multiple of one."""
    identity = torch.eye(operator.dim, dtype=operator.dtype)
    assert operator.dim > operator.block_size
    return operator @ identity


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("name", CASES)
def test_oracle(name: str) -> None:
    H = hessian_of(name)
    assert deviation(dense(Hessian(CASES[name].objective())), H) < 1e-11


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("composition", COMPOSITIONS)
@pytest.mark.parametrize("name", CASES)
def test_every_composition(name: str, composition: str) -> None:
    operator = Hessian(CASES[name].objective(), composition)
    if (name, composition) in MAY_BE_ABSENT and not available(operator):
        return
    assert operator.check.composition == composition
    assert operator.check.rejected == ()
    V = torch.randn(operator.dim, operator.block_size + 3, dtype=torch.float64)
    tolerance = 1e-6 if composition == "finite_differences" else 1e-11
    assert deviation(operator @ V, hessian_of(name) @ V) < tolerance
    assert deviation(operator @ V[:, 0], hessian_of(name) @ V[:, 0]) < tolerance


@pytest.mark.parametrize("composition", ["vmap_jvp_grad", "jvp_grad", "double_backward"])
def test_blocks(composition: str) -> None:
    operator = Hessian(CASES["attention"].objective(), composition, block_size=3)
    V = torch.randn(operator.dim, 7, dtype=torch.float64)
    product = operator @ V
    torch.testing.assert_close(product, hessian_of("attention") @ V, rtol=1e-10, atol=1e-12)
    for i in (0, 6):
        torch.testing.assert_close(operator @ V[:, i], product[:, i], rtol=1e-10, atol=1e-12)
    # A transposed block has other strides.
    torch.testing.assert_close(operator @ V.T.contiguous().T, product, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("name", ["residual-running", "residual-recalibrated", "encoder-layer", "mlp-mse"])
@pytest.mark.parametrize("micro_batch", [1, 5, 21])
def test_micro_batch_changes_nothing(name: str, micro_batch: int) -> None:
    operator = Hessian(CASES[name].objective(micro_batch=micro_batch))
    V = torch.randn(operator.dim, 3, dtype=torch.float64)
    torch.testing.assert_close(operator @ V, hessian_of(name) @ V, rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("name", CASES)
def test_single_precision(name: str) -> None:
    operator = Hessian(CASES[name].objective(torch.float32))
    assert operator.check.dtype == torch.float64
    assert operator.dtype == torch.float32
    V = torch.randn(operator.dim, 5)
    assert deviation(operator @ V, hessian_of(name) @ V.double()) < 1e-5


@pytest.mark.usefixtures("proved")
def test_weight_decay() -> None:
    operator = Hessian(CASES["mlp-mse"].objective(weight_decay=0.3))
    H = hessian_of("mlp-mse")
    assert deviation(dense(operator), H + 0.3 * torch.eye(len(H), dtype=H.dtype)) < 1e-11


def test_weight_decay_does_not_hide_a_wrong_product(monkeypatch: pytest.MonkeyPatch) -> None:
    right = COMPOSITIONS["double_backward"]
    monkeypatch.setitem(COMPOSITIONS, "wrong", lambda *args: {k: 1.001 * v for k, v in right(*args).items()})
    objective = CASES["mlp-mse"].objective(weight_decay=1e6)
    with pytest.raises(DerivativeError, match="differs from the slope"):
        _ = Hessian(objective, "wrong").check


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("pattern", ["head", ["norm2.*", "conv2.weight"]])
def test_some_parameters(pattern: str | list[str]) -> None:
    objective = CASES["residual-batch"].objective()
    H = hessian_of("residual-batch")
    chosen = objective.space.select(pattern)
    index = torch.cat([torch.arange(s.start, s.stop) for s in objective.space if s.name in chosen.names])
    found = Hessian(objective.restrict(pattern)) @ torch.eye(len(index), dtype=torch.float64)
    assert deviation(found, H[index][:, index]) < 1e-11


@pytest.mark.usefixtures("proved")
def test_other_data_and_other_point() -> None:
    case = CASES["residual-running"]
    x, y = networks.images(13, seed=9)
    operator = Hessian(case.objective())
    other = operator.over(Objective(case.model(), (x, y)))
    assert other.check is operator.check
    V = torch.randn(operator.dim, 3, dtype=torch.float64)
    assert deviation(other @ V, oracle.dense_hessian(case.model(), (x, y), confirm=False) @ V) < 1e-11

    model = case.model()
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.mul_(1.1)
    moved = case.objective().at(1.1 * case.objective().params)
    assert deviation(Hessian(moved) @ V, oracle.dense_hessian(model, case.data(), confirm=False) @ V) < 1e-11


@pytest.mark.usefixtures("proved")
def test_recalibrated_statistics_are_those_of_the_calibration_data() -> None:
    case = CASES["residual-recalibrated"]
    x, y = case.data()
    prepared = oracle.prepared(case.model(), (x, y), "cross_entropy", "recalibrated")
    H = oracle.dense_hessian(prepared, (x[:9], y[:9]), confirm=False)
    part = Hessian(case.objective().select(torch.arange(9)))
    V = torch.randn(part.dim, 3, dtype=torch.float64)
    assert deviation(part @ V, H @ V) < 1e-11


def test_state_is_untouched(unchanged: Callable[..., AbstractContextManager[None]]) -> None:
    for name in ("residual-batch", "encoder-layer"):
        case = CASES[name]
        model, data = case.model(), case.data()
        objective = Objective(model, data, batch_norm=case.mode, batch_size=BATCH)  # type: ignore[arg-type]
        for fast in (False, True):
            torch.backends.mha.set_fastpath_enabled(fast)
            with unchanged(model, data):
                operator = Hessian(objective)
                _ = operator @ torch.ones(operator.dim, 2, dtype=torch.float64)
            assert torch.backends.mha.get_fastpath_enabled() == fast


def test_counting() -> None:
    seen: list[int] = []
    operator = Hessian(CASES["mlp-mse"].objective(micro_batch=5), block_size=4).counting(seen.append)
    _ = operator @ torch.ones(operator.dim, 6, dtype=torch.float64)
    assert sum(seen) == 6 * 21
    assert len(seen) == 2 * 5
    assert seen[4] == 4 * 1


@pytest.mark.parametrize(
    ("settings", "columns", "passes"),
    [
        ({}, 1, [128, 128, 44]),
        ({}, 8, [128 * 8, 128 * 8, 44 * 8]),
        ({"micro_batch": 200}, 8, [200 * 5, 100 * 5, 200 * 3, 100 * 3]),
        ({"block_size": 16}, 16, [64 * 16, 64 * 16, 64 * 16, 64 * 16, 44 * 16]),
        ({"batch_norm": "batch", "batch_size": 150}, 8, [150 * 6] * 2 + [150 * 2] * 2),
    ],
)
def test_a_pass_on_a_cpu_stays_small(settings: dict[str, Any], columns: int, passes: list[int]) -> None:
    settings = dict(settings)
    seen: list[int] = []
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    x, y = torch.randn(300, 3, dtype=torch.float64), torch.randint(2, (300,))
    block_size = settings.pop("block_size", 8)
    operator = Hessian(Objective(model, (x, y), **settings), block_size=block_size).counting(seen.append)
    block = torch.randn(operator.dim, columns, dtype=torch.float64)
    product = operator @ block
    assert seen == passes
    torch.testing.assert_close(product[:, 0], operator @ block[:, 0], rtol=1e-10, atol=1e-12)


class Root(nn.Module):
    """``sqrt(theta)``, whose second derivative at nought is infinite; so is the first."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.tensor([1.0, value], dtype=torch.float64))


def power(exponent: float) -> Any:
    def loss(model: Root, batch: tuple[Tensor]) -> Tensor:
        return batch[0] * (model.theta**exponent).sum()

    return loss


def test_singular_first_derivative_is_named() -> None:
    objective = Objective(Root(0.0), (torch.ones(5).double(),), loss=power(0.5))
    with pytest.raises(NonFiniteLossError, match="gradient is not finite although the loss is"):
        _ = Hessian(objective) @ torch.ones(2).double()


def test_singular_second_derivative_is_named() -> None:
    objective = Objective(Root(0.0), (torch.ones(5).double(),), loss=power(1.5))
    with pytest.raises(DerivativeError, match="double_backward: the product is not finite"):
        _ = Hessian(objective) @ torch.ones(2).double()


def test_product_that_overflows_later_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    operator = Hessian(CASES["mlp-mse"].objective())
    chosen = operator.check.composition
    monkeypatch.setitem(
        COMPOSITIONS, chosen, lambda loss, params, t: {k: v * float("inf") for k, v in t.items()}
    )
    with pytest.raises(NonFiniteLossError, match="product of the Hessian is not finite"):
        _ = operator @ torch.ones(operator.dim, 2).double()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"composition": "magic"}, "`composition` must be 'auto' or one of vmap_jvp_grad"),
        ({"block_size": 0}, "`block_size` must be a whole number of at least 1"),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Hessian(CASES["mlp-mse"].objective(), **options)


def test_wrong_vectors() -> None:
    operator = Hessian(CASES["mlp-mse"].objective())
    with pytest.raises(ValueError, match="vectors are the columns of a block"):
        _ = operator @ torch.ones(3).double()
    with pytest.raises(TypeError, match=r"convert it with `V.to"):
        _ = operator @ torch.ones(operator.dim)


def residual_by_forward_mode(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    """Of u' + u = 0, squared."""
    u, slope = torch.func.jvp(lambda x: model(x), batch, (torch.ones_like(batch[0]),))
    return (slope + u).square()[:, 0]


def residual_by_reverse_mode(model: nn.Module, batch: tuple[Tensor, ...]) -> Tensor:
    slope = torch.func.vmap(torch.func.grad(lambda x: model(x[None]).sum()))(batch[0])
    return (slope + model(batch[0])).square()[:, 0]


@pytest.mark.parametrize("loss", [residual_by_forward_mode, residual_by_reverse_mode])
def test_a_loss_that_differentiates_the_model_itself(loss: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    x = torch.linspace(-1, 1, 7, dtype=torch.float64)[:, None]
    operator = Hessian(Objective(model, (x,), loss=loss, micro_batch=3))
    assert operator.check.composition == "vmap_jvp_grad"
    sizes = [p.numel() for p in model.parameters()]

    def mean_loss(theta: Tensor) -> Tensor:
        w, b, v, c = theta.split(sizes)
        s = torch.tanh(x * w + b)
        u, slope = s @ v + c, ((1 - s.square()) * w) @ v
        return (slope + u).square().mean()

    theta = torch.cat([p.detach().flatten() for p in model.parameters()])
    H = torch.autograd.functional.hessian(mean_loss, theta)
    for columns in (
        torch.eye(operator.dim, dtype=torch.float64),
        torch.ones(operator.dim, dtype=torch.float64),
    ):
        assert deviation(operator @ columns, H @ columns) < 1e-11


class Solve(nn.Module):
    """Solves with a matrix that depends on the parameters: plain forward mode over reverse is wrong there."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.last = nn.Linear(3, 9), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        A = 3 * torch.eye(3, dtype=x.dtype) + self.rows(x).tanh().view(-1, 3, 3)
        return self.last(torch.linalg.solve(A, x))


def images(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 2, 3), *layers, nn.Flatten(), nn.Linear(8, 2))


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (Solve(), (3,)),
        (nn.Sequential(nn.Linear(3, 4), nn.SiLU(), nn.Linear(4, 2)), (3,)),
        (nn.Sequential(nn.Linear(3, 4), nn.Mish(), nn.Linear(4, 2)), (3,)),
        (images(nn.MaxPool2d(2), nn.ReLU(inplace=True)), (1, 6, 6)),
        (images(nn.ReLU(inplace=True), nn.MaxPool2d(2)), (1, 6, 6)),
    ],
    ids=["solve", "silu", "mish", "pool in place", "conv in place"],
)
def test_one_column_is_as_right_as_a_block(model: nn.Module, shape: tuple[int, ...]) -> None:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(9, *shape, dtype=torch.float64, generator=rng)
    y = torch.randint(2, (9,), generator=rng)
    model = model.double()
    operator = Hessian(Objective(model, (x, y), micro_batch=4))
    assert operator.check.composition in ("vmap_jvp_grad", "jvp_grad")
    assert operator.check.composition == "vmap_jvp_grad" or isinstance(model, Solve)
    params = list(model.parameters())
    slopes = torch.autograd.grad(nn.functional.cross_entropy(model(x), y), params, create_graph=True)
    v = torch.randn(operator.dim, dtype=torch.float64, generator=rng)
    inner = torch.cat([s.flatten() for s in slopes]) @ v
    product = torch.cat([g.flatten() for g in torch.autograd.grad(inner, params)])
    assert deviation(operator @ v, product) < 1e-11
    assert deviation(operator @ torch.stack([v, 2 * v], 1), torch.stack([product, 2 * product], 1)) < 1e-11


class LooksAtItsData(nn.Module):
    """A network that plain forward mode has no rule for where an example of the batch is large."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        is_plain = torch._C._functorch.peek_interpreter_stack() is None
        if float(x.abs().max()) > 50 and forward_ad._current_level >= 0 and is_plain:
            raise NotImplementedError("no rule")
        return self.layers(x)


def test_a_branch_without_a_rule_is_no_end() -> None:
    """The proof's examples did not take it: the composition that was proved goes on."""
    rng = torch.Generator().manual_seed(0)
    model, data = LooksAtItsData().double(), torch.randn(60, 3, dtype=torch.float64, generator=rng)
    y = torch.randint(2, (60,), generator=rng)
    seen = []
    for i in range(0, 60, 5):
        x = data.clone()
        x[i] *= 100
        operator = Hessian(Objective(model, (x, y), micro_batch=8))
        seen.append(operator.check.plain_columns)
        v = torch.ones(operator.dim, dtype=torch.float64)
        exact = Hessian(operator.objective, "double_backward")
        assert deviation(operator @ v, exact @ v) < 1e-11
    assert True in seen
    assert False in seen


class Doubled(Tensor):
    """Convolves to twice the numbers."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = super().__torch_function__(func, types, args, kwargs or {})
        return 2 * result if func is torch.conv2d else result


class Unusual(nn.Module):
    """A kernel size that is no Python integer, and a tensor that convolves in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 2, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        z = self.first(x.as_subclass(Doubled)).as_subclass(Tensor)
        return self.last(nn.functional.max_pool2d(z, np.int64(2)).flatten(1))


def test_tensors_and_sizes_of_other_types() -> None:
    rng = torch.Generator().manual_seed(0)
    x, y = torch.randn(6, 1, 6, 6, dtype=torch.float64, generator=rng), torch.tensor([0, 1, 1, 0, 1, 0])
    operator = Hessian(Objective(Unusual().double(), (x, y)))
    assert operator.check.composition == "vmap_jvp_grad"


def test_a_rule_that_fails_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the network: torch's own rules are left."""

    def failing(*_args: Any, **_options: Any) -> Any:
        raise TypeError("a rule of ours")

    objective = CASES["residual-running"].objective()
    expected = hessian_of("residual-running")
    monkeypatch.setitem(derivative_rules.RULES, torch.conv2d, failing)
    operator = Hessian(objective)
    assert operator.check.composition == "vmap_jvp_grad"
    assert deviation(dense(operator), expected) < 1e-11

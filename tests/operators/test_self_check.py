"""The proof: what is wrong must be refused, what is right must pass, and the choice must be recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests import networks
from tests.operators import oracle
from tests.operators.cases import CASES, deviation
from torch import Tensor, nn
from torch.func import grad, jacrev, jvp

from thalweg.core.errors import DerivativeError, NonFiniteLossError
from thalweg.objective.objective import Objective
from thalweg.operators import hessian
from thalweg.operators.compositions import COMPOSITIONS
from thalweg.operators.ggn import GGN
from thalweg.operators.hessian import Hessian
from thalweg.operators.jacobians import jvp_together
from thalweg.operators.self_check import CHECK_EXAMPLES, POINTS
from thalweg.operators.slope_comparison import TOLERANCE


def objective_of(model: nn.Module, n: int = 21, **options: Any) -> Objective:
    """Over vectors of five, in the model's dtype."""
    x, y = networks.vectors(n)
    return Objective(model, (x.to(next(model.parameters()).dtype), y), **options)


def hessian_of(model: nn.Module, n: int = 21) -> Tensor:
    return oracle.dense_hessian(model, networks.vectors(n), confirm=False)


def seeded(*layers: Callable[[], nn.Module], seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(*[layer() for layer in layers])


# -- wrong products -----------------------------------------------------------------------------------


def jacfwd_of_jacrev(loss: Any, params: Any, tangents: Any) -> Any:
    """What `torch.func.hessian` differentiates."""
    return jvp_together(jacrev(loss), params, tangents)


def altered(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Any:
    """The right products with something done to them."""

    def composition(loss: Any, params: Any, tangents: Any) -> dict[str, Tensor]:
        return change(COMPOSITIONS["double_backward"](loss, params, tangents))

    return composition


def only_in_blocks(products: dict[str, Tensor]) -> dict[str, Tensor]:
    """The second column loses a term when there is one."""
    return {k: torch.cat([v[:1], 0.99 * v[1:]]) for k, v in products.items()}


def without(name: str) -> Any:
    """One tensor's second derivatives dropped: rows, and so symmetry."""
    return altered(lambda products: {k: v * (k != name) for k, v in products.items()})


def antisymmetric(loss: Any, params: Any, tangents: Any) -> dict[str, Tensor]:
    """A rotation of the tangents added, which no quadratic form sees: v.Av is right for every v."""
    products = COMPOSITIONS["double_backward"](loss, params, tangents)
    k = "0.weight"
    t = tangents[k].flatten(1)
    turned = torch.roll(t, 1, 1) - torch.roll(t, -1, 1)
    return {**products, k: products[k] + 1e-4 * turned.view_as(products[k])}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(
    ("name", "composition", "message"),
    [
        ("instance-norm", jacfwd_of_jacrev, "differs from the slope of the gradient"),
        ("attention", jacfwd_of_jacrev, "differs from the slope of the gradient"),
        ("residual-batch", jacfwd_of_jacrev, "differs from the slope of the gradient"),
        ("mlp-mse", altered(lambda H: {k: 1.001 * v for k, v in H.items()}), "differs from the slope"),
        ("relu-max-pool", altered(lambda H: {k: 1.001 * v for k, v in H.items()}), "differs from the slope"),
        ("mlp-mse", altered(lambda H: {k: 0 * v for k, v in H.items()}), "differs from the slope"),
        ("mlp-mse", altered(only_in_blocks), "gives other columns in a block than alone"),
        ("mlp-mse", antisymmetric, "differs from the slope"),
        ("mlp-mse", without("0.bias"), "is asymmetric"),
        ("residual-running", without("norm2.bias"), "differs from the slope"),
        ("mlp-mse", altered(lambda H: {k: v / 0 for k, v in H.items()}), "the product is not finite"),
    ],
)
def test_wrong_compositions_are_rejected(
    monkeypatch: pytest.MonkeyPatch, name: str, composition: Any, message: str, dtype: torch.dtype
) -> None:
    monkeypatch.setitem(COMPOSITIONS, "wrong", composition)
    with pytest.raises(DerivativeError, match=message):
        _ = Hessian(CASES[name].objective(dtype), "wrong").check


@pytest.mark.parametrize("norm", [lambda: nn.LayerNorm(6), lambda: nn.BatchNorm1d(6)])
@pytest.mark.parametrize("seed", range(3))
def test_wrong_composition_on_many_networks(
    monkeypatch: pytest.MonkeyPatch, norm: Callable[[], nn.Module], seed: int
) -> None:
    """Judged in float64, and in float32 alone, where a slope tells little and a second opinion helps."""
    monkeypatch.setitem(COMPOSITIONS, "wrong", jacfwd_of_jacrev)
    model = networks.built(seeded(lambda: nn.Linear(5, 6), norm, nn.ReLU, lambda: nn.Linear(6, 3), seed=seed))
    for judged in (model, SinglePrecision(model)):
        objective = objective_of(judged, batch_norm="batch", batch_size=7)
        V = torch.randn(objective.space.dim, 4).to(objective.params)
        right, wrong = (
            Hessian(objective).data_product(objective, c, V) for c in ("double_backward", "wrong")
        )
        assert deviation(wrong, right) > 3e-3  # the field's own table: up to 6e-2
        with pytest.raises(DerivativeError, match="differs from"):
            _ = Hessian(objective, "wrong").check


def test_second_opinion_where_a_slope_tells_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """One per cent, which kinks and rounding hide in single precision, and another composition does not."""
    monkeypatch.setitem(COMPOSITIONS, "wrong", altered(lambda H: {k: 1.01 * v for k, v in H.items()}))
    model = SinglePrecision(seeded(lambda: nn.Linear(5, 6), nn.ReLU, lambda: nn.Linear(6, 3)))
    with pytest.raises(DerivativeError, match="wrong: differs from double_backward by 1e-02"):
        _ = Hessian(objective_of(model), "wrong").check


def test_kernels_that_are_poor_in_single_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The formula is right, as float64 shows; what float32 makes of it is not."""
    right = COMPOSITIONS["double_backward"]

    def poor(loss: Any, params: Any, tangents: Any) -> dict[str, Tensor]:
        single = next(iter(params.values())).dtype == torch.float32
        return {k: (1.1 if single else 1) * v for k, v in right(loss, params, tangents).items()}

    monkeypatch.setitem(COMPOSITIONS, "vmap_jvp_grad", poor)
    assert Hessian(CASES["mlp-mse"].objective()).check.composition == "vmap_jvp_grad"
    check = Hessian(CASES["mlp-mse"].objective(torch.float32)).check
    assert check.composition == "jvp_grad"
    assert check.rejected == ("vmap_jvp_grad: differs in torch.float32 from its float64 self by 9e-02",)


def test_examples_without_curvature_prove_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """All gradients are exactly nought here, as every wrong product is; the next examples may differ."""
    monkeypatch.setitem(COMPOSITIONS, "wrong", jacfwd_of_jacrev)
    deep = [nn.ReLU, lambda: nn.Linear(6, 6)] * 2
    model = seeded(lambda: nn.Linear(5, 6), lambda: nn.LayerNorm(6), *deep, lambda: nn.Linear(6, 3)).double()
    x, _ = networks.vectors(4)
    with torch.no_grad():
        for i in (3, 5, 6):
            next(model[i].parameters()).mul_(60)
        y = model(x).argmax(1)
    objective = Objective(model, (x, y))
    assert not bool(objective.gradient().any())
    with pytest.raises(DerivativeError, match="wrong: differs from the slope"):
        _ = Hessian(objective, "wrong").check
    for operator in (Hessian, GGN):
        check = operator(objective).check
        assert check.rejected == ()
        assert not check.nought
        assert check.point in POINTS[1:]


def test_first_that_passes_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMPOSITIONS, "vmap_jvp_grad", jacfwd_of_jacrev)
    check = Hessian(CASES["attention"].objective()).check
    assert check.composition == "jvp_grad"
    assert len(check.rejected) == 1
    assert check.rejected[0].startswith("vmap_jvp_grad: differs from the slope of the gradient by")


def test_none_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in COMPOSITIONS:
        monkeypatch.setitem(COMPOSITIONS, name, jacfwd_of_jacrev)
    with pytest.raises(
        DerivativeError, match=r"no curvature is reported: vmap.*; jvp.*; double.*; finite"
    ) as e:
        _ = Hessian(CASES["attention"].objective()).check
    assert "single precision" not in str(e.value)


class StraightThrough(torch.autograd.Function):
    """Rounds, and passes the gradient on as if it had not: a gradient that is none."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return (4 * x).round() / 4

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0]

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return tangents[0].view_as(tangents[0])


class Quantised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        weight: Any = StraightThrough.apply(self.inner.weight)
        return self.outer(F.linear(x, weight, self.inner.bias).tanh())


def test_straight_through_estimator_has_no_hessian() -> None:
    """Its gradient jumps where a weight rounds otherwise and is flat between: no composition is its slope."""
    model = seeded(Quantised)[0].double()
    with pytest.raises(DerivativeError, match=r"vmap_jvp_grad.*differs from the slope"):
        _ = Hessian(objective_of(model)).check


# -- right products -----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_relu_networks_pass_at_the_first_composition(seed: int) -> None:
    """Kinks are no reason to refuse. `docs/derivatives.md` has the counts over many more."""
    rng = torch.Generator().manual_seed(seed)
    width, n = (int(torch.randint(2, 24, (1,), generator=rng)) for _ in range(2))
    x = torch.randn(n, 1, 6, 6, generator=rng)
    x = x.clamp(min=0) if seed % 2 else x  # noughts among the inputs, as in images
    y = torch.randint(3, (n,), generator=rng)
    layers = [
        [lambda: nn.Conv2d(1, width, 3), nn.ReLU, lambda: nn.MaxPool2d(2), nn.Flatten],
        [nn.Flatten, lambda: nn.Linear(36, width), nn.ReLU, lambda: nn.Linear(width, 4 * width), nn.ReLU],
    ][seed % 4 // 2]
    model = seeded(*layers, lambda: nn.Linear(4 * width, 3), seed=seed)
    for dtype in (torch.float64, torch.float32):
        for operator in (Hessian, GGN):
            check = operator(Objective(model.to(dtype), (x.to(dtype), y))).check
            assert check.rejected == ()
            assert check.dtype == torch.float64
            assert max(check.slope_error, check.symmetry_error) < TOLERANCE[torch.float64]
        check = Hessian(Objective(SinglePrecision(model.float()), (x, y))).check
        assert check.rejected == ()
        assert check.dtype == torch.float32


def test_point_on_a_kink() -> None:
    """Every unit sits at exactly nought: weights and biases start there."""
    model = seeded(lambda: nn.Linear(5, 8), nn.ReLU, lambda: nn.Linear(8, 3)).double()
    for p in model[0].parameters():
        nn.init.zeros_(p)
    for operator in (Hessian, GGN):
        for dtype in (torch.float64, torch.float32):
            check = operator(objective_of(model.to(dtype))).check
            assert check.passed
            assert check.rejected == ()
            assert check.dtype == torch.float64
            assert check.point == POINTS[1]
            assert check.to_dict()["checked_at"] == [1.0, 0.01]
    model.double()
    V = torch.randn(75, 3, dtype=torch.float64)
    assert deviation(Hessian(objective_of(model)) @ V, hessian_of(model) @ V) < 1e-11


def test_kink_does_not_let_a_wrong_product_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = seeded(lambda: nn.Linear(5, 8), nn.ReLU, lambda: nn.Linear(8, 3)).double()
    for p in model[0].parameters():
        nn.init.zeros_(p)
    for change in (1.001, 0.0):
        monkeypatch.setitem(
            COMPOSITIONS, "wrong", altered(lambda H, c=change: {k: c * v for k, v in H.items()})
        )
        with pytest.raises(DerivativeError, match="differs from the slope"):
            _ = Hessian(objective_of(model), "wrong").check


@pytest.mark.parametrize("confidence", [30.0, 100.0, 1000.0])
def test_network_that_fits_beyond_rounding(confidence: float) -> None:
    """Softmax at one: loss, gradient and curvature are nought to rounding, or all but."""
    model = seeded(lambda: nn.Linear(5, 8), nn.Tanh, lambda: nn.Linear(8, 3)).double()
    x, _ = networks.vectors()
    with torch.no_grad():
        next(model[2].parameters()).mul_(confidence)
        y = model(x).argmax(1)
    for operator in (Hessian, GGN):
        check = operator(Objective(model, (x, y))).check
        assert check.passed
        assert check.rejected == ()


@pytest.mark.parametrize("factor", [24, 32])
def test_deep_network_that_fits_one_example(factor: float) -> None:
    """The loss is exactly nought, the gradient 1e-9 or 1e-18, and its rounding is not symmetric."""
    hidden = [lambda: nn.Linear(32, 32), nn.ReLU] * 2
    model = seeded(lambda: nn.Linear(5, 32), nn.ReLU, *hidden, lambda: nn.Linear(32, 3)).double()
    x, _ = networks.vectors(1)
    with torch.no_grad():
        for i in (2, 4):
            next(model[i].parameters()).mul_(factor)
        y = model(x).argmax(1)
    for operator in (Hessian, GGN):
        check = operator(Objective(model, (x, y))).check
        assert check.rejected == ()
        assert check.point in POINTS[2:]


def test_linear_model_and_zero_hessian() -> None:
    def margin(outputs: Tensor, targets: Tensor) -> Tensor:
        return outputs.gather(1, targets[:, None])[:, 0]

    model = seeded(lambda: nn.Linear(5, 3)).double()
    operator = Hessian(objective_of(model, loss=margin))
    assert operator.check.composition == "vmap_jvp_grad"
    assert operator.check.nought
    assert not bool((operator @ torch.randn(18, 2).double()).any())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_hessian_that_is_zero_but_for_rounding(dtype: torch.dtype) -> None:
    """A bias before batch norm moves nothing, yet its gradient is computed as the rest of a subtraction."""
    case = CASES["residual-batch"]
    model = seeded(
        lambda: nn.Conv2d(1, 3, 3), lambda: nn.BatchNorm2d(3), nn.GELU, nn.Flatten, lambda: nn.Linear(48, 3)
    ).to(dtype)
    objective = Objective(model, case.data(), batch_norm="batch", batch_size=8).restrict("0.bias")
    for operator in (Hessian(objective), GGN(objective)):
        assert operator.check.rejected == ()
        assert float((operator @ torch.ones(3, dtype=dtype)).abs().max()) < 1e-4


def test_zero_rule_does_not_let_a_wrong_product_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    model = seeded(
        lambda: nn.Conv2d(1, 3, 3), lambda: nn.BatchNorm2d(3), nn.GELU, nn.Flatten, lambda: nn.Linear(48, 3)
    ).double()
    objective = Objective(model, networks.images(), batch_norm="batch", batch_size=8).restrict("0.bias")
    monkeypatch.setitem(
        COMPOSITIONS, "wrong", lambda loss, params, tangents: {k: 1e-6 * v for k, v in tangents.items()}
    )
    with pytest.raises(DerivativeError, match="differs from the slope"):
        _ = Hessian(objective, "wrong").check


@pytest.mark.parametrize("n", [1, 2])
def test_one_parameter_and_one_example(n: int) -> None:
    model = seeded(lambda: nn.Linear(1, 1, bias=False)).double()
    x = torch.full((n, 1), 3.0, dtype=torch.float64)
    operator = Hessian(Objective(model, (x, 0 * x), loss="mse"))
    torch.testing.assert_close(operator @ torch.ones(1).double(), torch.full((1,), 18.0).double())


# -- models that allow only some of it ----------------------------------------------------------------


class SinglePrecision(nn.Module):
    """Refuses float64, like a model with a kernel of its own."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.float()

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise RuntimeError("expected scalar type Float but found Double")
        return self.model(x)


class ConstantInside(nn.Module):
    """Multiplies by a float32 constant that is no buffer, which float64 cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)
        self.constant = torch.eye(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).tanh() @ self.constant


class RoundsInside(nn.Module):
    """Computes its softmax in float32 and goes back, as language models do."""

    def __init__(self) -> None:
        super().__init__()
        self.key, self.value = nn.Linear(5, 4), nn.Linear(5, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.key(x).softmax(1, dtype=torch.float32).to(x.dtype)
        return self.head(weights * self.value(x))


@pytest.mark.parametrize(
    ("build", "dtype"),
    [(ConstantInside, torch.float32), (RoundsInside, torch.float32), (RoundsInside, torch.float64)],
)
def test_models_with_float32_inside(
    monkeypatch: pytest.MonkeyPatch, build: Callable[[], nn.Module], dtype: torch.dtype
) -> None:
    model = seeded(build)[0].to(dtype)
    check = Hessian(objective_of(model)).check
    assert check.dtype == torch.float32
    assert check.composition == "vmap_jvp_grad"
    assert check.to_dict()["checked_in"] == "float32"
    monkeypatch.setitem(COMPOSITIONS, "wrong", altered(lambda H: {k: 1.1 * v for k, v in H.items()}))
    with pytest.raises(DerivativeError, match=r"judged in single precision only.*runs in float64 throughout"):
        _ = Hessian(objective_of(model), "wrong").check


def test_float32_models_are_judged_in_float64_unless_they_round_inside() -> None:
    model = seeded(lambda: nn.Linear(5, 6), nn.ReLU, lambda: nn.Linear(6, 3))
    check = Hessian(objective_of(model)).check
    assert check.to_dict() == {
        "composition": "vmap_jvp_grad",
        "checked_in": "float64",
        "checked_on": 21,
        "checked_at": [1.0, 0.0],
        "tolerance": 1e-6,
        "nought": False,
        "rejected": [],
        "folded": [],
        "own_rules": True,
        "plain_columns": True,
    }


def test_examples_are_a_sample() -> None:
    assert Hessian(objective_of(networks.mlp(), 100)).check.num_examples == CHECK_EXAMPLES
    objective = Objective(networks.cnn(), networks.images(100), batch_norm="batch", batch_size=48)
    assert Hessian(objective).check.num_examples in (48, 4)  # a whole batch


class Cube(torch.autograd.Function):
    """x^3 with everything: a backward that can be differentiated, a jvp, a batching rule."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(inputs[0])
        ctx.save_for_forward(inputs[0])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * grads[0]

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * tangents[0]


class CubeWithoutBatching(Cube):
    generate_vmap_rule = False


class CubeWithoutForward(Cube):
    jvp = torch.autograd.Function.jvp


class CubeOfOldStyle(torch.autograd.Function):
    """The style of most code in the wild, which `torch.func` refuses altogether."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return 3 * ctx.saved_tensors[0] ** 2 * grads[0]


class CubeOnce(CubeOfOldStyle):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Tensor:  # type: ignore[override]
        return 3 * ctx.saved_tensors[0] ** 2 * grads[0]


class WithFunction(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function
        self.inner, self.outer = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        hidden: Any = self.function.apply(self.inner(x))
        return self.outer(hidden)


@pytest.mark.parametrize(
    ("function", "expected", "num_rejected"),
    [
        (Cube, {"Hessian": "vmap_jvp_grad", "GGN": "vmap_jvp_vjp"}, 0),
        (CubeWithoutBatching, {"Hessian": "jvp_grad", "GGN": "jvp_vjp"}, 1),
        (CubeWithoutForward, {"Hessian": "double_backward", "GGN": "double_backward"}, 2),
        (CubeOfOldStyle, {"Hessian": "double_backward", "GGN": "double_backward"}, 2),
        (CubeOnce, {"Hessian": "finite_differences", "GGN": "finite_differences"}, 3),
    ],
)
@pytest.mark.parametrize("operator", [Hessian, GGN])
def test_functions_of_the_users_own(
    operator: Any, function: type[torch.autograd.Function], expected: dict[str, str], num_rejected: int
) -> None:
    model = seeded(lambda: WithFunction(function))[0].double()
    A = operator(objective_of(model))
    assert A.check.composition == expected[operator.__name__]
    assert len(A.check.rejected) == num_rejected
    # Double backward through a function that is differentiable once takes its gradient for a constant.
    assert all("not available (" in r or "double_backward: differs" in r for r in A.check.rejected)
    # The same network of torch's own operations.
    V = torch.randn(A.dim, 3, dtype=torch.float64)
    plain = operator(objective_of(seeded(lambda: WithFunction(Power))[0].double()))
    tolerance = 1e-6 if "finite" in A.check.composition else 1e-11
    assert deviation(A @ V, plain @ V) < tolerance


class Power:
    @staticmethod
    def apply(x: Tensor) -> Tensor:
        return x**3


# -- errors that are nobody's but the model's -----------------------------------------------------------


class Picky(nn.Module):
    """Does not like one of the examples, which the first micro-batch does not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        if float(x.max()) > 90:
            raise ValueError("pixel out of range")
        return self.linear(x)


def test_errors_of_the_model_come_through() -> None:
    x, y = networks.vectors()
    x[-1] = 99
    with pytest.raises(ValueError, match=r"^pixel out of range$"):
        _ = Hessian(Objective(Picky().double(), (x, y), micro_batch=4)).check


def test_non_finite_loss_is_named_by_the_users_numbers() -> None:
    x, y = networks.vectors(60)
    x[57] = float("nan")
    objective = Objective(networks.mlp(), (x, y), micro_batch=8)
    with pytest.raises(NonFiniteLossError, match="example 57"):
        _ = Hessian(objective) @ torch.ones(objective.space.dim).double()


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, torch.cuda.OutOfMemoryError])
def test_what_is_no_verdict_passes_through(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def interrupted(loss: Any, params: Any, tangents: Any) -> Any:
        raise error

    monkeypatch.setitem(COMPOSITIONS, "vmap_jvp_grad", interrupted)
    with pytest.raises(error):
        _ = Hessian(objective_of(networks.mlp())).check


# What torch's interpreter of scripted kernels makes of Ctrl-C, layer norm's derivatives being one.
INTERRUPTED = """The following operation failed in the TorchScript interpreter.
Traceback of TorchScript (most recent call last):
  File "decompositions_for_jvp.py", line 165, in aten::native_layer_norm_backward
RuntimeError: KeyboardInterrupt: <EMPTY MESSAGE>
"""


def test_an_interrupt_inside_a_scripted_kernel_is_an_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the proof, with one column, with several, and in a gradient: never a derivative that is lacking."""

    def interrupted(*_args: Any) -> Any:
        raise RuntimeError(INTERRUPTED)

    with monkeypatch.context() as patched:
        patched.setitem(COMPOSITIONS, "vmap_jvp_grad", interrupted)
        with pytest.raises(KeyboardInterrupt):
            _ = Hessian(objective_of(networks.mlp())).check
    with monkeypatch.context() as patched:
        patched.setattr(hessian, "slope_of_gradient", interrupted)
        with pytest.raises(KeyboardInterrupt):
            _ = Hessian(objective_of(networks.mlp())).check
    operator = Hessian(objective_of(networks.mlp()))
    assert operator.check.plain_columns
    v = torch.ones(operator.dim, 2).double()
    with monkeypatch.context() as patched:
        patched.setattr(hessian, "slope_of_gradient", interrupted)
        with pytest.raises(KeyboardInterrupt):
            _ = operator @ v[:, 0]
    with monkeypatch.context() as patched:
        patched.setitem(COMPOSITIONS, "vmap_jvp_grad", interrupted)
        with pytest.raises(KeyboardInterrupt):
            _ = operator @ v
    with pytest.raises(KeyboardInterrupt):
        operator.objective.reduce(interrupted)


def test_other_errors_of_kernels_are_no_interrupt() -> None:
    def failing(_micro: Any) -> Any:
        raise RuntimeError("a kernel that speaks of KeyboardInterrupt")

    with pytest.raises(RuntimeError, match="a kernel that speaks"):
        objective_of(networks.mlp()).reduce(failing)


def test_check_is_deterministic_and_runs_once(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = (Hessian(objective_of(networks.mlp(), dtype_seed)) for dtype_seed in (21, 21))
    assert first.check == second.check
    calls: list[int] = []
    right = COMPOSITIONS["vmap_jvp_grad"]

    def counted(*args: Any) -> Any:
        calls.append(1)
        return right(*args)

    monkeypatch.setitem(COMPOSITIONS, "vmap_jvp_grad", counted)
    operator = Hessian(objective_of(networks.mlp()))
    v = torch.ones(operator.dim, 2).double()
    _ = operator @ v
    after_one = len(calls)
    _ = operator @ v
    _ = operator.over(objective_of(networks.mlp(), 13)) @ v
    assert len(calls) == after_one + 2


def test_forward_over_forward_is_wrong_where_the_field_says() -> None:
    """Not one of ours: a guard on why the proof exists at all."""
    model = networks.built(seeded(lambda: nn.Linear(5, 6), lambda: nn.LayerNorm(6), lambda: nn.Linear(6, 3)))
    objective = objective_of(model)
    params = objective.named_params

    def loss(p: dict[str, Tensor]) -> Tensor:
        return objective.reduce(lambda micro: micro.loss_sum(p))

    v = {k: torch.ones_like(p) for k, p in params.items()}
    right = jvp(grad(loss), (params,), (v,))[1]
    wrong = jvp(jacrev(loss), (params,), (v,))[1]
    assert deviation(objective.space.flatten(wrong), objective.space.flatten(right)) > 1e-3

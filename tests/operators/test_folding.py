"""Batch norm folded into the layer before it: the same function, taken only where it is one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from thalweg.objective.objective import Objective
from thalweg.operators import objective_operator
from thalweg.operators.folding import Pair, foldable_pairs, folded, without_batch_norm
from thalweg.operators.folding_guard import FoldingGuard
from thalweg.operators.ggn import GGN
from thalweg.operators.hessian import Hessian
from thalweg.operators.objective_operator import ObjectiveOperator


def trained(model: nn.Module, x: Tensor) -> nn.Module:
    """In float64, with weights and statistics of its own."""
    torch.manual_seed(0)
    model.double()
    for p in model.parameters():
        nn.init.normal_(p, 0.1, 0.5)
    with torch.no_grad():
        for _ in range(3):
            model(x + 0.3)
    return model


def objective(model: nn.Module, *shape: int, batch_norm: Any = "running", prepare: bool = True) -> Objective:
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(10, *shape, generator=rng, dtype=torch.float64)
    y = torch.randint(2, (10,), generator=rng)
    return Objective(trained(model, x) if prepare else model, (x, y), batch_norm=batch_norm, micro_batch=4)


def pairs(o: Objective) -> tuple[Pair, ...]:
    """Those that products fold, as the provenance has it, too."""
    found = foldable_pairs(o)
    assert Hessian(o).check.to_dict()["folded"] == [norm for _, norm in found]
    return found


def head(features: int) -> tuple[nn.Module, ...]:
    return nn.Tanh(), nn.Flatten(), nn.Linear(features, 2)


FOLDABLE: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {
    "conv1d": (nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3), *head(12)), (2, 6), 1),
    "conv2d": (nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), *head(12)), (1, 4, 4), 1),
    "conv3d": (nn.Sequential(nn.Conv3d(1, 2, 2), nn.BatchNorm3d(2), *head(16)), (1, 3, 3, 3), 1),
    "grouped": (nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4), *head(16)), (2, 4, 4), 1),
    "circular": (
        nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), nn.BatchNorm2d(2), *head(18)),
        (1, 3, 3),
        1,
    ),
    "linear": (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), *head(4)), (5,), 1),
    "no bias": (nn.Sequential(nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4), *head(4)), (5,), 1),
    "not affine": (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4, affine=False), *head(4)), (5,), 1),
    "two": (
        nn.Sequential(
            nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Tanh(), nn.Conv2d(3, 2, 2), nn.BatchNorm2d(2), *head(8)
        ),
        (1, 4, 4),
        2,
    ),
}


@pytest.mark.parametrize("batch_norm", ["running", "recalibrated"])
@pytest.mark.parametrize("name", FOLDABLE)
def test_the_same_function(name: str, batch_norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, shape, count = FOLDABLE[name]
    o = objective(model, *shape, batch_norm=batch_norm).frozen()
    assert len(pairs(o)) == count
    plain, gradient = o.value(), o.gradient()
    with folded(o.loss.model, pairs(o)):
        assert o.value() == pytest.approx(plain, rel=1e-13)
        torch.testing.assert_close(o.gradient(), gradient, rtol=1e-11, atol=1e-13)
    V = torch.randn(o.space.dim, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    product = Hessian(o) @ V
    monkeypatch.setattr(objective_operator, "foldable_pairs", lambda _: ())
    assert Hessian(o).check.folded == ()
    torch.testing.assert_close(Hessian(o) @ V, product, rtol=1e-10, atol=1e-12)


class Residual(nn.Module):
    """What the linear layer puts out goes around the batch norm, too."""

    def __init__(self, share: float = 1.0) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)
        self.share = share

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(torch.tanh(self.norm(x)) + self.share * x)


class Twice(nn.Module):
    """One linear layer, used with a batch norm and without."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.tanh(self.first(torch.tanh(self.norm(self.first(x))))))


class Own(nn.Linear):
    """A layer that is not what its base is."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) ** 2


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), *head(4))
    model[0].register_forward_hook(lambda _module, _inputs, output: output**2)
    return model


def patched() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), *head(4))
    model[0].forward = torch.tanh
    return nn.Sequential(nn.Linear(5, 5), model[0], nn.BatchNorm1d(5), *head(5))


class Keyword(nn.Sequential):
    """Calls its layers by keyword."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in self:
            x = layer(input=x)
        return x


NOT_FOLDABLE: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "output used twice": (Residual(), (5,)),
    "layer used twice": (Twice(), (5,)),
    "output faintly used": (Residual(1e-3), (5,)),
    "changed in place": (
        nn.Sequential(nn.Linear(5, 4), nn.ReLU(inplace=True), nn.BatchNorm1d(4), *head(4)),
        (5,),
    ),
    "own layer": (nn.Sequential(Own(5, 4), nn.BatchNorm1d(4), *head(4)), (5,)),
    "hook": (hooked(), (5,)),
    "own forward": (patched(), (5,)),
    "parametrized": (
        nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(5, 4)), nn.BatchNorm1d(4), *head(4)),
        (5,),
    ),
    "something between": (nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.BatchNorm1d(4), *head(4)), (5,)),
    "channels are not the last": (nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(3), *head(12)), (3, 5)),
}


@pytest.mark.parametrize("name", NOT_FOLDABLE)
def test_where_it_would_be_another_function_it_is_left(name: str) -> None:
    model, shape = NOT_FOLDABLE[name]
    o = objective(model, *shape)
    assert pairs(o) == ()
    # Proved against the gradient of the network as it is.
    _ = Hessian(o) @ torch.ones(o.space.dim, dtype=torch.float64)


def test_statistics_of_the_batch_are_not_folded() -> None:
    model, shape, _ = FOLDABLE["conv2d"]
    assert pairs(objective(model, *shape, batch_norm="batch")) == ()


def test_a_point_that_is_not_finite_shows_nothing_and_is_left() -> None:
    model, shape, _ = FOLDABLE["linear"]
    o = objective(model, *shape)
    assert foldable_pairs(o.at(torch.full_like(o.params, torch.nan))) == ()


def test_a_model_that_refuses_other_points_is_left() -> None:
    class Strict(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            if float((self[1].running_var.double() - 4.5).abs().max()) > 0:
                raise RuntimeError("not mine")
            return super().forward(x)

    model = Strict(nn.Linear(5, 4), nn.BatchNorm1d(4), *head(4)).double()
    model[1].running_var.fill_(4.5)
    assert pairs(objective(model, 5, prepare=False)) == ()


def test_in_place_activations_of_a_network_fresh_from_its_constructor() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 8, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(8)),
        *(nn.Flatten(), nn.Linear(128, 3)),
    )
    o = Objective(model, (torch.rand(32, 3, 8, 8), torch.randint(3, (32,))))
    assert Hessian(o).check.to_dict()["folded"] == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_faint_uses_are_seen_in_single_precision_and_half_precision_is_left(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(10, 5, generator=rng).to(dtype)
    assert pairs(Objective(Residual(1e-3).to(dtype), (x, torch.randint(2, (10,), generator=rng)))) == ()


def test_folding_within_folding_and_layers_called_by_keyword() -> None:
    o = objective(Keyword(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 2)), 5)
    value = o.value()
    both = folded(o.loss.model, pairs(o)), folded(o.loss.model, pairs(o))
    with both[0], both[1]:
        assert o.value() == pytest.approx(value, rel=1e-12)
    assert not any("forward" in m.__dict__ for m in o.loss.model.modules())


def test_layers_are_put_back_even_after_an_error() -> None:
    model, shape, _ = FOLDABLE["two"]
    o = objective(model, *shape)

    def fail() -> None:
        with folded(o.loss.model, pairs(o)):
            assert "forward" in o.loss.model.get_submodule("0").__dict__
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fail()
    assert not any("forward" in m.__dict__ for m in o.loss.model.modules())


def test_products_are_taken_folded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole point: batch norm's own kernel is not called in a product, nor in the proof's products."""
    model, shape, _ = FOLDABLE["conv2d"]
    operator = Hessian(objective(model, *shape))
    _ = operator.check
    calls: list[int] = []
    original = nn.BatchNorm2d.forward
    monkeypatch.setattr(nn.BatchNorm2d, "forward", lambda s, x: (calls.append(1), original(s, x))[1])
    _ = operator @ torch.ones(operator.dim, dtype=torch.float64)
    assert not calls
    # An operator made of one that was not proved yet folds, too.
    other = Hessian(objective(model, *shape)).over(operator.objective.subset(6))
    calls.clear()
    _ = other @ torch.ones(operator.dim, dtype=torch.float64)
    assert not calls
    operator.objective.value()
    assert calls


def test_one_pair_may_be_folded_and_another_not() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.plain = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5))
            self.rest = Residual()

        def forward(self, x: Tensor) -> Tensor:
            return self.rest(torch.tanh(self.plain(x)))

    assert pairs(objective(Mixed(), 5)) == (("plain.0", "plain.1"),)


class Branching(nn.Module):
    """Takes one branch where the first input of the batch is positive, and another where it is not."""

    def __init__(self, other: str) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(5, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)
        self.other = other

    def forward(self, x: Tensor) -> Tensor:
        is_first = float(x.detach()[0, 0]) > 0
        return self.last(getattr(self, "first_branch" if is_first else self.other)(x))

    def first_branch(self, x: Tensor) -> Tensor:
        return torch.tanh(self.norm(self.first(x)))

    def around_the_norm(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return torch.tanh(self.norm(h)) + h

    def in_a_list(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return torch.cat([h, torch.tanh(self.norm(h))], 1)[:, ::2]

    def by_keyword(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return torch.tanh(self.norm(h)) * torch.sigmoid(input=h)

    def in_place(self, x: Tensor) -> Tensor:
        return self.norm(torch.relu_(self.first(x)))

    def something_else_normalised(self, x: Tensor) -> Tensor:
        return torch.tanh(self.norm(torch.sin(self.first(x))))

    def layer_alone(self, x: Tensor) -> Tensor:
        return torch.tanh(self.first(x))

    def norm_alone(self, x: Tensor) -> Tensor:
        return torch.tanh(self.norm(x))

    def layer_twice(self, x: Tensor) -> Tensor:
        return torch.tanh(self.norm(self.first(self.first(x))))

    def put_out_twice(self, x: Tensor) -> Tensor:
        self.first(x)
        return torch.tanh(self.norm(self.first(x)))

    def not_taken(self, x: Tensor) -> Tensor:
        self.first(x)
        return torch.tanh(x)

    def norm_twice(self, x: Tensor) -> Tensor:
        return torch.tanh(self.norm(self.norm(self.first(x))))

    def shape_alone(self, x: Tensor) -> Tensor:
        h = self.first(x)
        return torch.tanh(self.norm(h)).reshape(h.size(0), h.shape[1])

    def neither(self, x: Tensor) -> Tensor:
        return torch.tanh(x)

    def twice_over(self, x: Tensor) -> Tensor:
        return torch.tanh(self.norm(self.first(torch.tanh(self.norm(self.first(x))))))


def branching(other: str) -> tuple[nn.Module, Tensor, Tensor]:
    """Three batches of four, of which the second takes the other branch."""
    rng = torch.Generator().manual_seed(1)
    x = torch.randn(12, 5, generator=rng, dtype=torch.float64)
    x[:, 0] = torch.tensor([1.0, -1.0, 1.0]).repeat_interleave(4) * x[:, 0].abs()
    y = torch.randint(2, (12,), generator=rng)
    return trained(Branching(other), x[:4].abs()).eval(), x, y


def proved_on_the_first(kind: type[ObjectiveOperator], model: nn.Module, x: Tensor, y: Tensor) -> Any:
    """Over all batches, but proved where all take one branch: as by chance where the other is rare."""
    first = kind(Objective(model, (x[:4], y[:4]), micro_batch=4))
    assert first.check.folded == ("norm",)
    return first.over(Objective(model, (x, y), micro_batch=4))


def dense_by_batches(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Hessian of the mean loss by double backward, the model called batch by batch."""
    named = dict(model.named_parameters())

    def loss(v: Tensor) -> Tensor:
        parts = v.split([p.numel() for p in named.values()])
        moved = {k: part.view_as(p) for (k, p), part in zip(named.items(), parts, strict=True)}
        losses = [
            nn.functional.cross_entropy(torch.func.functional_call(model, moved, (a,)), b, reduction="sum")
            for a, b in zip(x.split(4), y.split(4), strict=True)
        ]
        return torch.stack(losses).sum() / len(x)

    H = torch.autograd.functional.hessian(loss, torch.cat([p.detach().flatten() for p in named.values()]))
    assert isinstance(H, Tensor)
    return H


OTHER_USES = [
    name
    for name, function in vars(Branching).items()
    if callable(function) and name not in ("__init__", "forward", "first_branch", "shape_alone", "neither")
]


@pytest.fixture
def norm_calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows with every call of a batch norm that is not folded."""
    calls: list[int] = []
    original = nn.BatchNorm1d.forward
    monkeypatch.setattr(nn.BatchNorm1d, "forward", lambda s, input: (calls.append(1), original(s, input))[1])
    return calls


@pytest.mark.parametrize("columns", [1, 3])
@pytest.mark.parametrize("other", [*OTHER_USES, "shape_alone", "neither"])
def test_a_later_batch_may_take_another_branch(other: str, columns: int, norm_calls: list[int]) -> None:
    """Those examples are multiplied as the network is; the others go on folded, and all where it may be."""
    network = branching(other)
    operators = [proved_on_the_first(kind, *network) for kind in (Hessian, GGN)]
    rng = torch.Generator().manual_seed(2)
    V = torch.randn(operators[0].dim, columns, generator=rng, dtype=torch.float64)
    for operator in operators:
        plain = copy.copy(operator)
        plain._pairs = ()
        norm_calls.clear()
        product = operator @ V
        num_calls = len(norm_calls)
        norm_calls.clear()
        torch.testing.assert_close(product, plain @ V, rtol=1e-9, atol=1e-12)
        assert num_calls < len(norm_calls), "two batches of three are folded"
        assert other in OTHER_USES or num_calls == 0
    torch.testing.assert_close(operators[0] @ V, dense_by_batches(*network) @ V, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("other", ["around_the_norm", "layer_alone", "norm_alone"])
def test_without_the_guard_it_would_be_wrong(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    operator = proved_on_the_first(Hessian, *branching(other))
    v = torch.ones(operator.dim, dtype=torch.float64)
    right = operator @ v
    monkeypatch.setattr(FoldingGuard, "put_out", lambda self, name, output: output)
    monkeypatch.setattr(FoldingGuard, "take_in", lambda self, name, input: input)
    assert float((operator @ v - right).norm()) > 0.01 * float(right.norm())


def test_a_network_without_its_batch_norms_is_the_same_function() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5), nn.BatchNorm1d(5)
    ).double()
    x, y = torch.randn(20, 1, 6, 6).double(), torch.randint(0, 5, (20,))
    with torch.no_grad():
        for _ in range(3):
            model(x + torch.randn_like(x))
        for p in model.parameters():
            p.add_(0.1 * torch.randn_like(p))
    objective = Objective(model.eval(), (x, y))
    plain = without_batch_norm(objective)
    assert [type(layer) for layer in plain] == [
        nn.Conv2d, nn.Identity, nn.ReLU, nn.Flatten, nn.Linear, nn.Identity
    ]  # fmt: skip
    assert torch.allclose(plain(x), model(x), rtol=1e-12, atol=1e-12)
    assert all(p.requires_grad for p in plain.parameters())
    # Of the objective's point, not the model's.
    moved = objective.at(objective.params * 1.1)
    assert Objective(without_batch_norm(moved), (x, y)).evaluate().loss == pytest.approx(
        moved.evaluate().loss
    )


def test_a_batch_norm_that_follows_no_linear_layer_cannot_be_taken_in() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.BatchNorm1d(3)).double().eval()
    objective = Objective(model, (torch.randn(8, 4).double(), torch.randint(0, 3, (8,))))
    with pytest.raises(ValueError, match="2 follows none"):
        without_batch_norm(objective)

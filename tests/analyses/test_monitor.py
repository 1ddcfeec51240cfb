"""`Monitor`: the measures' own numbers, nothing of the user's changed, trouble, bad input, its overhead."""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from tests import networks
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

import thalweg as tw
from thalweg.analyses import monitor_looks as module
from thalweg.analyses.catapult import Catapults
from thalweg.analyses.monitor_looks import Failure
from thalweg.analyses.monitor_readings import PROOF, WATCHED
from thalweg.core.measurement import ErrorBudget

UNLIMITED: dict[str, Any] = {"every": 1, "max_overhead": math.inf, "seed": 0}
CHEAP = ["critical_sharpness", "gradient_noise"]


def take_step(model: nn.Module, optimizer: Optimizer, data: tuple[Tensor, Tensor]) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(data[0]), data[1]).backward()
    optimizer.step()


def started(
    build: Callable[..., Optimizer] = SGD, model: nn.Module | None = None, **settings: Any
) -> tuple[nn.Module, Optimizer, tuple[Tensor, Tensor]]:
    """A small network in training mode after one step of its optimizer."""
    model = networks.mlp().train() if model is None else model
    data = networks.images() if any(isinstance(m, nn.Conv2d) for m in model.modules()) else networks.vectors()
    optimizer = build([p for p in model.parameters() if p.requires_grad], **{"lr": 0.1, **settings})
    take_step(model, optimizer, data)
    return model, optimizer, data


# -- what it says -------------------------------------------------------------------------------------------


def test_its_numbers_are_the_measures_own() -> None:
    """Two steps, so that the second starts warm; Adam, so that the preconditioned matrix is another one."""
    model, optimizer, data = started(Adam, lr=0.01)
    monitor = tw.Monitor(model, optimizer, data, batch_size=8, **UNLIMITED)
    warm: dict[str, Tensor] = {}
    for _ in range(2):
        take_step(model, optimizer, data)
        numbers = monitor.step()
        assert numbers is not None
        assert all(type(v) is float for k, v in numbers.items() if k != "batch_sharpness_threshold")
        assert numbers["batch_sharpness_threshold"] is None  # of Adam none is known
        assert tuple(numbers) == monitor.keys
        objective = tw.Objective(copy.deepcopy(model).eval(), data, batch_size=8, compile=False)
        assert set(monitor.last) == set(WATCHED)
        for name, watched in WATCHED.items():
            more: dict[str, Any] = {"seed": 0} if watched.has_seed else {}
            if watched.takes_optimizer:
                more["optimizer"] = optimizer
            if watched.warm:
                more["levels"] = ()
            if name in warm:
                more["start"] = warm[name]
            own = getattr(tw, name)(objective, **watched.arguments, **more)
            assert monitor.last[name] == own
            if name == "top_eigenvalues":
                warm[name] = own.eigenvectors
                assert numbers["lambda_max"] == own.value
                assert numbers["lambda_max_residual"] == own.error.solver
                assert numbers["lambda_max_upper"] == own.upper_bound
            if name == "preconditioned_sharpness":
                warm[name] = own.direction[:, None]
                assert numbers["threshold"] == own.threshold == pytest.approx(38 / 0.01)
                assert numbers["above_threshold"] == float(own.value > own.threshold)
            if name == "hessian_trace":
                assert numbers["trace"] == own.value
                assert numbers["trace_standard_error"] == (own.error.probe.value if own.error.probe else 0)
            if name == "gradient_noise":
                assert (numbers["noise_trace"], numbers["noise_scale"]) == (own.value, own.noise_scale)
            if name == "batch_sharpness":
                assert numbers["batch_sharpness_standard_error"] == own.error.data.value
                assert len(own.quotients) == 8
            if name in numbers:
                assert numbers[name] == own.value
            # Errors stand beside values, under stable names.
            assert set(watched.keys) <= set(numbers)
        assert numbers["loss"] == pytest.approx(objective.value(), rel=1e-12)
        assert numbers["gradient_norm"] == pytest.approx(float(objective.gradient().norm()), rel=1e-12)
        assert numbers["lr"] == 0.01
        assert (numbers["diverged"], numbers["catapult"]) == (0, 0)
    assert not monitor.failures
    assert [n["step"] for n in monitor.history] == [1, 2]
    warm_one, cold = (
        tw.top_eigenvalues(objective, **WATCHED["top_eigenvalues"].arguments, levels=(), start=s, seed=0)
        for s in (warm["top_eigenvalues"], None)
    )
    assert warm_one.num_matvecs <= cold.num_matvecs


def test_under_plain_sgd_the_same_matrix_is_not_solved_twice() -> None:
    model, optimizer, data = started()
    monitor = tw.Monitor(model, optimizer, data, **UNLIMITED)
    numbers = monitor.step()
    assert numbers is not None
    assert "preconditioned_sharpness" not in monitor.last
    assert numbers["preconditioned_sharpness"] == numbers["lambda_max"]
    assert numbers["preconditioned_sharpness_upper"] == numbers["lambda_max_upper"]
    assert numbers["threshold"] == pytest.approx(20)
    assert numbers["batch_sharpness_threshold"] == pytest.approx(20)
    # Alone it is solved for itself.
    alone = tw.Monitor(model, optimizer, data, measures=["preconditioned_sharpness"], **UNLIMITED)
    numbers = alone.step()
    assert numbers is not None
    assert alone.last["preconditioned_sharpness"].value == numbers["preconditioned_sharpness"]
    assert "lambda_max" not in numbers
    assert "catapult" not in numbers
    assert alone.keys == tuple(numbers)


# name: optimizer, settings, threshold times learning rate, whether the batch sharpness has one.
OPTIMIZERS: dict[str, tuple[Any, dict[str, Any], float, bool]] = {
    "gradient descent": (SGD, {}, 2.0, True),
    "heavy ball": (SGD, {"momentum": 0.9}, 3.8, False),
    "nesterov": (SGD, {"momentum": 0.9, "nesterov": True}, 3.8 / 2.8, False),
    "decay": (SGD, {"weight_decay": 0.05}, 2.0, False),
    "adamw": (AdamW, {"weight_decay": 0.05}, 19 * (2 - 0.005), False),
    "rmsprop": (RMSprop, {}, 2.0, False),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_thresholds_of_optimizers(name: str) -> None:
    build, settings, constant, has_own = OPTIMIZERS[name]
    model, optimizer, data = started(build, **settings)
    asked = ["top_eigenvalues", "preconditioned_sharpness", "batch_sharpness"]
    monitor = tw.Monitor(model, optimizer, data, measures=asked, **UNLIMITED)
    numbers = monitor.step()
    assert numbers is not None
    assert not monitor.failures
    assert numbers["threshold"] == pytest.approx(constant / 0.1)
    assert (numbers["batch_sharpness_threshold"] is not None) == has_own
    if name == "decay":  # which SGD follows too
        assert numbers["preconditioned_sharpness"] == pytest.approx(numbers["lambda_max"] + 0.05, rel=0.01)


def test_settings_are_read_at_each_step() -> None:
    model, optimizer, data = started()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    monitor = tw.Monitor(
        model, optimizer, data, measures=["top_eigenvalues", "preconditioned_sharpness"], **UNLIMITED
    )
    for i in range(3):
        numbers = monitor.step()
        assert numbers is not None
        assert numbers["lr"] == pytest.approx(0.1 / 2**i)
        assert numbers["threshold"] == pytest.approx(20 * 2**i)
        take_step(model, optimizer, data)
        scheduler.step()


def test_groups_with_learning_rates_of_their_own() -> None:
    model = networks.mlp().train()
    data = networks.vectors()
    first, last = list(model[0].parameters()), list(model[2].parameters())
    optimizer = SGD([{"params": first, "lr": 0.1}, {"params": last, "lr": 0.4}])
    take_step(model, optimizer, data)
    monitor = tw.Monitor(
        model, optimizer, data, measures=["top_eigenvalues", "preconditioned_sharpness"], **UNLIMITED
    )
    numbers = monitor.step()
    assert numbers is not None
    assert (numbers["lr"], numbers["threshold"]) == (0.4, pytest.approx(5))
    assert numbers["preconditioned_sharpness"] < numbers["lambda_max"]
    # Of groups whose momenta differ no threshold is known, and that is said; the rest goes on.
    optimizer.param_groups[0]["momentum"] = 0.5
    numbers = monitor.step()
    assert numbers is not None
    assert numbers["failed"] == 1
    assert numbers["lambda_max"] is not None
    assert numbers["threshold"] is numbers["above_threshold"] is numbers["preconditioned_sharpness"] is None
    (failure,) = monitor.failures
    assert (failure.step, failure.measure) == (2, "preconditioned_sharpness")
    assert "same momentum in all its groups" in failure.message


def test_batch_norm_is_what_the_optimizer_follows() -> None:
    model, optimizer, data = started(model=networks.cnn().train())
    kinds = {}
    for mode in (None, "running", "recalibrated"):
        monitor = tw.Monitor(
            model, optimizer, data, batch_norm=mode, batch_size=8, measures=["gradient_noise"], **UNLIMITED
        )
        assert monitor.step() is not None
        kinds[mode] = monitor.last["gradient_noise"].batch_norm
    assert kinds == {None: "batch", "running": "running", "recalibrated": "recalibrated"}
    monitor = tw.Monitor(model.eval(), optimizer, data, measures=["gradient_noise"], **UNLIMITED)
    monitor.step()
    assert monitor.last["gradient_noise"].batch_norm == "running"


def test_a_layer_frozen_on_the_way() -> None:
    model, optimizer, data = started()
    monitor = tw.Monitor(model, optimizer, data, measures=["top_eigenvalues"], **UNLIMITED)
    monitor.step()
    model[0].requires_grad_(False)
    numbers = monitor.step()
    assert numbers is not None
    assert not monitor.failures
    assert len(monitor.last["top_eigenvalues"].eigenvectors) == sum(p.numel() for p in model[2].parameters())


def test_most_steps_are_none() -> None:
    model, optimizer, data = started()
    monitor = tw.Monitor(model, optimizer, data, measures=CHEAP, **{**UNLIMITED, "every": 3})
    assert [monitor.step() is not None for _ in range(7)] == [False, False, True, False, False, True, False]
    assert [n["step"] for n in monitor.history] == [3, 6]
    assert "Monitor(step 7, 2 measured on 21 examples, overhead " in repr(monitor)


# -- nothing of the user's is touched -----------------------------------------------------------------------


@pytest.mark.parametrize("grad", [True, False])
def test_nothing_is_touched(grad: bool, unchanged: Any) -> None:
    model, optimizer, data = started(Adam, model=networks.cnn().train())
    list(model.modules())[-1].eval()
    state = copy.deepcopy(optimizer.state_dict())
    with torch.set_grad_enabled(grad), unchanged(model, data):
        monitor = tw.Monitor(model, optimizer, data, batch_size=8, **UNLIMITED)
        assert monitor.step() is not None
        assert monitor.step() is not None
    assert not monitor.failures
    after = optimizer.state_dict()
    assert str(after["param_groups"]) == str(state["param_groups"])
    for key, entries in state["state"].items():
        for name, entry in entries.items():
            assert torch.equal(torch.as_tensor(after["state"][key][name]), torch.as_tensor(entry))


def test_a_run_that_is_watched_is_the_run_that_is_not() -> None:
    """Dropout that draws from the global generator, to the last bit."""
    weights = []
    for watched in (True, False):
        torch.manual_seed(7)
        model = networks.with_dropout().train()
        optimizer, data = SGD(model.parameters(), lr=0.1, momentum=0.9), networks.vectors()
        monitor = tw.Monitor(model, optimizer, data, **UNLIMITED) if watched else None
        for _ in range(4):
            take_step(model, optimizer, data)
            if monitor:
                assert monitor.step() is not None
                assert not monitor.failures
        weights.append(torch.cat([p.detach().reshape(-1) for p in model.parameters()]))
    assert torch.equal(*weights)


def in_a_closure(model: nn.Module, optimizer: Any, data: tuple[Tensor, Tensor]) -> None:
    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(data[0]), data[1])
        loss.backward()
        return loss

    optimizer.step(closure)


def accumulating(model: nn.Module, optimizer: Any, data: tuple[Tensor, Tensor]) -> None:
    optimizer.zero_grad(set_to_none=False)
    for x, y in zip(data[0].split(7), data[1].split(7), strict=True):
        (nn.functional.cross_entropy(model(x), y) / 3).backward()
    optimizer.step()


def scaled_in_half_precision(model: nn.Module, optimizer: Any, data: tuple[Tensor, Tensor]) -> None:
    scaler = torch.amp.GradScaler("cpu")  # pyright: ignore[reportPrivateImportUsage]
    optimizer.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = nn.functional.cross_entropy(model(data[0]), data[1])
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()


LOOPS: dict[str, Callable[..., None]] = {
    "closure": in_a_closure,
    "accumulated": accumulating,
    "scaled": scaled_in_half_precision,
}


@pytest.mark.parametrize("name", LOOPS)
def test_in_any_loop(name: str, unchanged: Any) -> None:
    """Gradients stay where they are, scaled or half accumulated, and ambient autocast is not felt."""
    model = networks.mlp().float().train()
    data = (networks.vectors()[0].float(), networks.vectors()[1])
    optimizer = SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    monitor = tw.Monitor(model, optimizer, data, measures=CHEAP, batch_size=21, **UNLIMITED)
    for _ in range(2):
        LOOPS[name](model, optimizer, data)
        momenta = [state["momentum_buffer"] for state in optimizer.state.values()]
        with unchanged(model, momenta), torch.autocast("cpu", dtype=torch.bfloat16):
            numbers = monitor.step()
        assert numbers is not None
        assert numbers["loss"] == tw.Objective(copy.deepcopy(model).eval(), data).value()
    assert not monitor.failures


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "compiled": lambda model: torch.compile(model),  # pyright: ignore[reportReturnType]
    "compiled in place": lambda model: model.compile() or model,
    "data parallel": nn.DataParallel,
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_are_looked_through(name: str) -> None:
    model, optimizer, data = started()
    own = tw.Objective(copy.deepcopy(model).eval(), data).value()
    asked = ["gradient_noise", "top_eigenvalues", "preconditioned_sharpness"]
    monitor = tw.Monitor(WRAPPERS[name](model), optimizer, data, measures=asked, **UNLIMITED)
    numbers = monitor.step()
    assert numbers is not None
    assert not monitor.failures
    assert numbers["loss"] == own
    assert numbers["threshold"] == pytest.approx(20)


def test_parameters_in_shards_are_refused() -> None:
    class FSDPModule:
        """By this name `torch.distributed.fsdp.fully_shard` marks a module's class."""

    class Sharded(FSDPModule, nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(5, 4), Sharded(4, 3)).double()
    with pytest.raises(TypeError, match=r"`model` must hold its parameters whole, but '1' is sharded \(FSDP"):
        tw.Monitor(model, SGD(model.parameters(), lr=0.1), networks.vectors(), seed=0)


# -- trouble ------------------------------------------------------------------------------------------------


def test_divergence_is_an_outcome() -> None:
    model, optimizer, data = started()
    monitor = tw.Monitor(model, optimizer, data, **UNLIMITED)
    with torch.no_grad():
        model[0].weight.fill_(math.nan)
    numbers = monitor.step()
    assert numbers is not None
    assert numbers["diverged"] == 1
    assert math.isnan(numbers["loss"])
    assert tuple(numbers) == monitor.keys
    assert all(numbers[key] is None for key in ("lambda_max", "catapult", "above_threshold"))
    assert not monitor.failures
    assert monitor.diverged_at == monitor.result().diverged_at == 1
    assert monitor.step() is not None  # and it goes on
    assert monitor.diverged_at == 1


def test_a_warm_up_that_begins_at_nought_is_no_failure() -> None:
    """There is no threshold yet; what follows is measured as ever."""
    model, optimizer, data = started()
    lr = optimizer.param_groups[0]["lr"]
    optimizer.param_groups[0]["lr"] = 0.0
    monitor = tw.Monitor(model, optimizer, data, **UNLIMITED)
    first = monitor.step()
    optimizer.param_groups[0]["lr"] = lr
    second = monitor.step()
    assert first is not None
    assert second is not None
    assert not monitor.failures
    assert (first["failed"], first["threshold"], first["above_threshold"]) == (0, None, None)
    assert first["lambda_max"] == pytest.approx(second["lambda_max"], rel=0.01)
    assert second["threshold"] is not None
    assert second["preconditioned_sharpness"] is not None


def replaced(monkeypatch: pytest.MonkeyPatch, name: str, function: Callable[..., Any]) -> None:
    monkeypatch.setitem(WATCHED, name, dataclasses.replace(WATCHED[name], function=function))


def test_a_crash_is_written_down_and_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def crash(*_: Any, **__: Any) -> Any:
        raise RuntimeError("planted")

    replaced(monkeypatch, "gradient_noise", crash)
    model, optimizer, data = started()
    monitor = tw.Monitor(model, optimizer, data, measures=CHEAP, **UNLIMITED)
    for step in (1, 2):
        numbers = monitor.step()
        assert numbers is not None
        assert numbers["failed"] == 1
        assert numbers["noise_scale"] is None
        assert numbers["critical_sharpness"] is not None
        assert monitor.failures[-1] == Failure(step, "gradient_noise", "RuntimeError: planted")
    # What cannot even be read is said alike.
    monkeypatch.setattr(module, "value_and_gradient", crash)
    numbers = monitor.step()
    assert numbers is not None
    assert numbers["failed"] == 1
    assert numbers["loss"] is None
    assert monitor.failures[-1].measure == "gradient"


def test_ctrl_c_is_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    model, optimizer, data = started()
    monitor = tw.Monitor(model, optimizer, data, measures=CHEAP, **UNLIMITED)
    with monkeypatch.context() as patch:
        replaced(patch, "gradient_noise", stop)
        with pytest.raises(KeyboardInterrupt):
            monitor.step()
    assert monitor.step() is not None


BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "every": ({"every": 0}, ValueError, "`every` must be a whole number of at least 1, got 0"),
    "overhead": ({"max_overhead": 0}, ValueError, "`max_overhead` must be positive, got 0"),
    "overhead nan": ({"max_overhead": math.nan}, ValueError, "`max_overhead` must be positive, got nan"),
    "seed": ({"seed": None}, TypeError, "`seed` must be an integer"),
    "optimizer": ({"optimizer": "sgd"}, TypeError, "`optimizer` must be a torch.optim.Optimizer, got str"),
    "model": ({"model": 3}, TypeError, "`model` must be a torch.nn.Module, got int"),
    "measure": ({"measures": ["hessian"]}, ValueError, "`measures` must be some of .* got 'hessian'"),
    "measures": (
        {"measures": "hessian_trace"},
        TypeError,
        r"`measures` must be a list .* \['hessian_trace'\]",
    ),
    "batch size": (
        {"batch_size": 22},
        ValueError,
        "`batch_size` must be at most the 21 examples of `data`",
    ),
    "examples": (
        {"num_examples": 22},
        ValueError,
        "`num_examples` must be at most the 21 examples of `data`",
    ),
    "no examples": ({"num_examples": 0}, ValueError, "`num_examples` must be a whole number of at least 1"),
    "unit": ({"unit": "flops"}, ValueError, "`unit` must be one of"),
    "batch norm": ({"batch_norm": "eval"}, ValueError, "`batch_norm` must be one of"),
    "loss": ({"loss": "hinge"}, ValueError, "`loss` must be one of"),
    "data": ({"data": 3}, TypeError, "`data` must be tensors"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_at_once(name: str) -> None:
    more, error, message = BAD[name]
    model, optimizer, data = started()
    with pytest.raises(error, match=message):
        tw.Monitor(**{"model": model, "optimizer": optimizer, "data": data, "seed": 0, **more})


def test_optimizers_of_another_model_or_unknown_update() -> None:
    model, _, data = started()
    other = SGD(networks.mlp(seed=5).parameters(), lr=0.1)
    with pytest.raises(ValueError, match="`optimizer` must move the parameters of the objective's model"):
        tw.Monitor(model, other, data, seed=0)
    unknown = Adagrad(model.parameters(), lr=0.1)
    asked = {"measures": ["preconditioned_sharpness"], "seed": 0}
    with pytest.raises(
        ValueError, match="must not have 'preconditioned_sharpness' here: the update of Adagrad"
    ):
        tw.Monitor(model, unknown, data, **asked)
    monitor = tw.Monitor(model, unknown, data, **UNLIMITED)
    assert set(monitor.left_out) == {"preconditioned_sharpness"}
    numbers = monitor.step()
    assert numbers is not None
    assert numbers["lambda_max"] is not None
    assert "threshold" not in numbers


class SignDescent(Optimizer):
    """One that calls its rate otherwise."""

    def __init__(self, parameters: Iterable[nn.Parameter], rate: float) -> None:
        super().__init__(parameters, {"rate": rate})

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.data.sub_(group["rate"] * p.grad.sign())


def test_an_optimizer_without_a_learning_rate_has_none_and_training_goes_on() -> None:
    model, _, data = started()
    monitor = tw.Monitor(model, SignDescent(model.parameters(), 0.1), data, **UNLIMITED)
    numbers = monitor.step()
    assert numbers is not None
    assert numbers["lr"] is None
    assert numbers["batch_sharpness_threshold"] is None
    assert numbers["failed"] == 0
    assert numbers["lambda_max"] is not None


def test_one_batch_has_no_noise_of_batches() -> None:
    model, optimizer, data = started(model=networks.cnn().train())
    with pytest.raises(ValueError, match="must not have 'gradient_noise' here: under batch statistics"):
        tw.Monitor(model, optimizer, data, measures=["gradient_noise"], seed=0)
    monitor = tw.Monitor(model, optimizer, data, seed=0)
    assert set(monitor.left_out) == {"gradient_noise"}


# -- what is measured of how much, and when ------------------------------------------------------------------


def many(n: int = 3000) -> tuple[Tensor, Tensor]:
    return networks.vectors(n)


def test_the_probe_is_what_the_overhead_has_room_for() -> None:
    model, optimizer, _ = started()

    def size(**settings: Any) -> int:
        return tw.Monitor(model, optimizer, many(), **{"seed": 0, **settings}).num_examples

    # A quarter of 0.1 * 100 * 128 is 320, in whole batches; at least 256 examples and two batches.
    assert size(batch_size=128) == 384
    assert size(batch_size=32) == 256
    assert size(batch_size=300) == 900
    assert size(batch_size=128, every=500) == 1664
    assert size(batch_size=128, every=1) == 256
    assert size(batch_size=1000, every=1) == 2000
    assert size(batch_size=128, max_overhead=math.inf) == 3000
    assert size(batch_size=128, num_examples=77) == 77
    assert tw.Monitor(model, optimizer, networks.vectors(), seed=0).num_examples == 21
    with_data = {"num_examples": 500, "measures": CHEAP, **UNLIMITED}
    hashes = []
    for seed in (0, 0, 1):
        monitor = tw.Monitor(model, optimizer, many(), **{**with_data, "seed": seed})
        assert monitor.step() is not None
        hashes.append(monitor.last["gradient_noise"].provenance["objective"]["data"])
    assert hashes[0] == hashes[1] != hashes[2]


def test_an_eigenvector_comes_by_way_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawn anew at each look, and paid for: scores by a forward pass, its products by its size."""
    model, optimizer, data = started()
    asked = ["top_eigenvalues", "preconditioned_sharpness"]
    monitor = tw.Monitor(model, optimizer, many(520), batch_size=8, measures=asked, **UNLIMITED)
    solved: list[Any] = []

    def recorded(objective: tw.Objective, **arguments: Any) -> Any:
        solved.append((objective, arguments, tw.top_eigenvalues(objective, **arguments)))
        return solved[-1][2]

    replaced(monkeypatch, "top_eigenvalues", recorded)
    for looks in (1, 2):
        take_step(model, optimizer, data)
        numbers = monitor.step()
        assert numbers is not None
        (few, given, rough), (probe, last, found) = solved[-2:]
        assert (few.num_examples, probe.num_examples) == (65, 520)
        assert few.is_weighted
        assert (given["start"] is None) == (looks == 1)
        assert torch.equal(last["start"], rough.eigenvectors)
        assert monitor.last["top_eigenvalues"] is found
        products = 520 * found.num_matvecs + 65 * rough.num_matvecs
        expected = 520 * (1 + 1 / 3) + 2 / 3 * 128 + 3 * products + PROOF * (looks == 1)
        assert numbers["passes"] == pytest.approx(expected)
        true = tw.top_eigenvalues(tw.Objective(copy.deepcopy(model), many(520)), rtol=1e-8, seed=5)
        assert found.value == pytest.approx(true.value, rel=0.01)
    assert solved[0][0].describe()["data"] != solved[2][0].describe()["data"]


def test_batches_that_share_statistics_are_no_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    model, optimizer, data = started(model=networks.cnn().train())
    x, y = (torch.cat([t] * 26)[:520] for t in data)
    monitor = tw.Monitor(model, optimizer, (x, y), batch_size=8, measures=["top_eigenvalues"], **UNLIMITED)
    assert monitor.step() is not None
    assert not monitor.failures
    assert monitor.last["top_eigenvalues"].provenance["levels"] == [65]


def test_which_unit_is_a_matter_of_what_is_known() -> None:
    model, optimizer, data = started()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*data), batch_size=7)
    assert "in seconds" in repr(tw.Monitor(model, optimizer, data, seed=0))
    assert "in passes" in repr(tw.Monitor(model, optimizer, data, batch_size=7, seed=0))
    assert "in passes" in repr(tw.Monitor(model, optimizer, loader, seed=0))
    assert "in seconds" in repr(tw.Monitor(model, optimizer, data, batch_size=7, unit="seconds", seed=0))


def replaced_by_stubs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every measure costs what it is expected to, and takes no time: accounts alone decide."""

    def stub(*_: Any, **__: Any) -> tw.Measurement:
        return tw.Measurement(value=1.0, error=ErrorBudget(solver=0.0))

    for name, watched in dict(WATCHED).items():
        fields = {
            "function": stub,
            "numbers": lambda _, keys=watched.keys: (1.0,) * len(keys),
            "passes": lambda _, n, expected=watched.expected: expected(n, 128),
            "warm": None,
            "is_second_order": False,
        }
        monkeypatch.setitem(WATCHED, name, dataclasses.replace(watched, **fields))
    built = tw.Monitor._objective
    once = functools.cache(built)  # the network stands still
    monkeypatch.setattr(tw.Monitor, "_objective", once)


def looks_of(monitor: tw.Monitor) -> dict[str, list[int]]:
    """At which steps each measure was taken."""
    return {
        name: [int(n["step"]) for n in monitor.history if n[WATCHED[name].keys[0]] is not None]
        for name in monitor.measures
    }


def test_everything_comes_early_and_the_overhead_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The defaults: batches of 128, a hundred steps between measuring steps, a tenth."""
    replaced_by_stubs(monkeypatch)
    model, optimizer, _ = started(momentum=0.9)
    monitor = tw.Monitor(model, optimizer, many(), batch_size=128, seed=0)
    planned = monitor.schedule()
    overheads = [monitor.passes_overhead for _ in range(40_000) if monitor.step() is not None]
    assert len(overheads) == 400
    looks = looks_of(monitor)
    # Under plain momentum the preconditioned matrix is the Hessian.
    assert looks["preconditioned_sharpness"] == looks["top_eigenvalues"]
    del looks["preconditioned_sharpness"]
    assert {name: planned[name] for name in looks} == {name: steps[0] for name, steps in looks.items()}
    assert looks["top_eigenvalues"][0] <= 500
    assert max(steps[0] for steps in looks.values()) <= 2500
    assert max(overheads) <= 0.2
    assert max(overheads[100:]) <= 0.1
    assert monitor.passes_overhead > 0.09
    assert len(looks["top_eigenvalues"]) > 20
    assert min(len(steps) for steps in looks.values()) >= 2
    assert all(steps[-1] > 25_000 for steps in looks.values())


def test_what_is_planned_is_what_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced_by_stubs(monkeypatch)
    model, optimizer, _ = started()
    monitor = tw.Monitor(model, optimizer, many(), batch_size=128, every=10, seed=0)
    for _ in range(3005):
        monitor.step()
    done, planned = len(monitor.history), monitor.schedule()
    for _ in range(6000):
        monitor.step()
    later = {name: [step for step in steps if step > 3005] for name, steps in looks_of(monitor).items()}
    assert sum(step <= 9005 for step in planned.values()) > 4
    for name, step in planned.items():
        if name == "gradient":
            assert monitor.history[done]["step"] == step
        elif step <= 9005:
            assert later[name][0] == step
        else:
            assert not later[name]


def test_the_same_run_is_measured_at_the_same_steps() -> None:
    """And to the same numbers, but for the clock's."""
    histories = []
    for _ in range(2):
        model, optimizer, data = started()
        monitor = tw.Monitor(model, optimizer, data, batch_size=7, every=3, max_overhead=2, seed=3)
        for _ in range(36):
            take_step(model, optimizer, data)
            monitor.step()
        histories.append([timeless(n) for n in monitor.history])
    assert histories[0] == histories[1]
    assert {n["lambda_max"] is None for n in histories[0]} == {True, False}


def timeless(numbers: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in numbers.items() if k not in ("seconds", "overhead")}


def test_the_examples_of_a_step_may_be_told() -> None:
    model, optimizer, data = started()
    monitor = tw.Monitor(
        model, optimizer, data, batch_size=7, every=4, max_overhead=0.5, measures=CHEAP, seed=0
    )
    for number in (7, 7, 7, 3, 70, 70, 70, 70):
        monitor.step(number)
    with pytest.raises(ValueError, match="`num_examples` must be a whole number of at least 1, got 0"):
        monitor.step(0)
    assert monitor.history[-1]["passes_overhead"] == pytest.approx(
        sum(n["passes"] for n in monitor.history) / (24 + 280)
    )


def test_passes_are_counted() -> None:
    model, optimizer, data = started(Adam)
    monitor = tw.Monitor(model, optimizer, data, batch_size=7, **UNLIMITED)
    first, second = monitor.step(), monitor.step()
    assert first is not None
    assert second is not None
    gradient = 21 + 2 / 3 * 21
    critical = 21 * (1 + monitor.last["critical_sharpness"].num_evaluations / 3)  # type: ignore[attr-defined]
    products = sum(
        monitor.last[name].num_matvecs * 3  # type: ignore[attr-defined]
        for name in ("top_eigenvalues", "preconditioned_sharpness")
    )
    trace = 2.5 * monitor.last["hessian_trace"].num_matvecs  # type: ignore[attr-defined]
    assert second["passes"] == pytest.approx(
        gradient + critical + 21 * (products + trace + 3) + (1 + 3) * 7 * 8
    )
    assert first["passes"] > second["passes"] + 0.9 * PROOF
    assert monitor.passes_overhead == (first["passes"] + second["passes"]) / 14


def test_one_proof_serves_all_measures_and_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    from thalweg.operators import objective_operator

    proved: list[Any] = []
    plain = objective_operator.prove

    def counting(objective: Any, *rest: Any) -> Any:
        proved.append(objective.space.names)
        return plain(objective, *rest)

    monkeypatch.setattr(objective_operator, "prove", counting)
    model, optimizer, data = started(Adam)
    monitor = tw.Monitor(model, optimizer, data, batch_size=7, **UNLIMITED)
    for _ in range(3):
        take_step(model, optimizer, data)
        monitor.step()
    assert not monitor.failures
    assert len(proved) == 1
    # Another choice of parameters is another function, and so is other code.
    model[0].requires_grad_(False)
    monitor.step()
    assert len(proved) == 2
    # And outside nothing is shared.
    tw.top_eigenvalues(tw.Objective(model, data), seed=0)
    assert len(proved) == 3


# -- seconds, by a clock that the tests move ----------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_seconds_are_kept_whatever_a_pass_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass of the monitor takes four times one of training's, as where training runs in half precision."""
    clock = Clock()
    replaced_by_stubs(monkeypatch)
    for name, watched in dict(WATCHED).items():

        def function(*_: Any, watched: Any = watched, **__: Any) -> tw.Measurement:
            clock.now += 4e-3 * watched.expected(256, 128)
            return tw.Measurement(value=1.0)

        replaced(monkeypatch, name, function)

    def gradient(objective: tw.Objective) -> tuple[float, Tensor]:
        clock.now += 4e-3 * objective.num_examples
        return 1.0, objective.params

    monkeypatch.setattr(module, "value_and_gradient", gradient)
    model, optimizer, _ = started(momentum=0.9)
    settings: dict[str, Any] = {"batch_size": 128, "every": 1, "clock": clock, "seed": 0}
    kept = {}
    for unit in ("seconds", "passes"):
        monitor = tw.Monitor(model, optimizer, many(), unit=unit, **settings)
        assert bool(monitor.schedule()) == (unit == "passes")
        for _ in range(1000):
            clock.now += 1e-3 * 12_800
            monitor.step(12_800)
        kept[unit] = monitor.overhead
        assert all(looks_of(monitor).values())
        assert sum(n["seconds"] for n in monitor.history) == pytest.approx(monitor.overhead * 12_800)
    assert 0.09 < kept["seconds"] <= 0.1
    assert kept["passes"] > 0.3  # and says so


def test_without_a_limit_everything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced_by_stubs(monkeypatch)
    model, optimizer, data = started()
    monitor = tw.Monitor(model, optimizer, data, **UNLIMITED)
    for _ in range(3):
        monitor.step()
    assert all(steps == [1, 2, 3] for steps in looks_of(monitor).values())
    assert monitor.schedule() == {
        name: 4 for name in ("gradient", *WATCHED) if name != "preconditioned_sharpness"
    }


def test_every_watched_measure_is_a_public_one() -> None:
    for name, watched in WATCHED.items():
        assert tw.MEASURES[name] is watched.function


# -- across restarts ----------------------------------------------------------------------------------------


def run_of(num_steps: int, *, stop: int | None = None, folder: Any = None) -> tw.Monitor:
    """A watched run; with `stop`, killed there and resumed from files."""

    def begun() -> tuple[nn.Module, Optimizer, tuple[Tensor, Tensor], tw.Monitor]:
        model = networks.mlp().train()
        optimizer, data = Adam(model.parameters(), lr=0.02), networks.vectors()
        monitor = tw.Monitor(model, optimizer, data, batch_size=7, every=2, max_overhead=200, seed=0)
        return model, optimizer, data, monitor

    model, optimizer, data, monitor = begun()
    for step in range(num_steps):
        if step == stop:
            state = {"model": model, "optimizer": optimizer, "monitor": monitor}
            torch.save({k: v.state_dict() for k, v in state.items()}, folder / "run.pt")
            model, optimizer, data, monitor = begun()
            loaded = torch.load(folder / "run.pt", weights_only=True)
            model.load_state_dict(loaded["model"])
            optimizer.load_state_dict(loaded["optimizer"])
            monitor.load_state_dict(loaded["monitor"])
        take_step(model, optimizer, data)
        monitor.step()
    assert not monitor.failures
    return monitor


def test_a_resumed_run_goes_on_to_the_same_numbers(tmp_path: Any) -> None:
    """Killed between two measuring steps, with warm starts, loans and a half-earned share under way."""
    whole, resumed = run_of(31), run_of(31, stop=17, folder=tmp_path)
    assert [timeless(n) for n in resumed.history] == [timeless(n) for n in whole.history]
    assert resumed.schedule() == whole.schedule()
    assert resumed.passes_overhead == whole.passes_overhead
    assert resumed.result().readings.keys() == whole.result().readings.keys()
    assert sum(n["lambda_max"] is not None for n in whole.history[8:]) > 1


def test_the_state_is_a_copy_and_of_the_same_monitor_only() -> None:
    model, optimizer, data = started()
    monitor = tw.Monitor(model, optimizer, data, batch_size=7, **UNLIMITED)
    monitor.step()
    state = monitor.state_dict()
    kept = copy.deepcopy(state)
    monitor.step()
    assert str(state) == str(kept)
    for name, other in {
        "batch_size": {"batch_size": 5},
        "seed": {"seed": 1},
        "measures": {"measures": CHEAP},
        "data": {"data": networks.vectors(seed=9)},
    }.items():
        arguments = {"data": data, "batch_size": 7, **UNLIMITED, **other}
        with pytest.raises(ValueError, match=f"`state` must be of a monitor with the same {name}, "):
            tw.Monitor(model, optimizer, **arguments).load_state_dict(state)


def test_a_catapult_under_way_is_remembered(tmp_path: Any) -> None:
    readings = [(1.0, 10.0), (5.0, 9.0), (20.0, 4.0), (2.0, 3.0)]
    first, second = Catapults(), Catapults()
    assert not any(first.saw(*reading) for reading in readings[:2])
    second.load_state_dict(first.state_dict())
    assert [second.saw(*reading) for reading in readings[2:]] == [False, True]


# -- as one result ------------------------------------------------------------------------------------------


def test_the_run_as_one_result(tmp_path: Any) -> None:
    model, optimizer, data = started()
    monitor = tw.Monitor(model, optimizer, data, batch_size=7, every=2, max_overhead=3, seed=0)
    empty = monitor.result()
    assert math.isnan(empty.value)
    for _ in range(20):
        take_step(model, optimizer, data)
        monitor.step()
    run = monitor.result()
    assert isinstance(run, tw.MonitoredRun)
    assert run.value == monitor.history[-1]["loss"]
    assert run.steps.tolist() == [n["step"] for n in monitor.history]
    for key, values in run.readings.items():
        for value, numbers in zip(values.tolist(), monitor.history, strict=True):
            assert math.isnan(value) if numbers[key] is None else value == numbers[key]
    steps, values = run.measured("lambda_max")
    assert 0 < len(steps) < len(run.steps)
    assert not values.isnan().any()
    assert run.provenance["objective"]["num_examples"] == 21
    assert run.provenance["arguments"]["unit"] == "passes"
    # No clock in it: what two identical runs share.
    assert not {"seconds", "overhead"} & set(run.readings)
    assert tw.Measurement.from_dict(json.loads(json.dumps(run.to_dict(tmp_path))), tmp_path) == run
    assert repr(run).startswith("MonitoredRun(last loss ")

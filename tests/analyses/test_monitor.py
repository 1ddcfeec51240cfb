"""`Monitor`: the measures' own numbers, nothing of the user's changed, trouble, bad input, its overhead."""

from __future__ import annotations

import copy
import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests import networks
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, Adam, AdamW, Optimizer, RMSprop

import thalweg as tw
from thalweg.analyses import monitor as module
from thalweg.analyses import monitor_readings
from thalweg.analyses.monitor_readings import WATCHED
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
        assert all(type(value) is float for value in numbers.values())
        objective = tw.Objective(copy.deepcopy(model).eval(), data, batch_size=8, compile=False)
        assert set(monitor.last) == set(WATCHED)
        for name, watched in WATCHED.items():
            more: dict[str, Any] = {"seed": 0} if watched.has_seed else {}
            if watched.takes_optimizer:
                more["optimizer"] = optimizer
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
            if name in numbers:
                assert numbers[name] == own.value
        assert numbers["loss"] == pytest.approx(objective.value(), rel=1e-12)
        assert numbers["gradient_norm"] == pytest.approx(float(objective.gradient().norm()), rel=1e-12)
        assert numbers["lr"] == 0.01
        assert (numbers["diverged"], numbers["catapult"]) == (0, 0)
    assert not monitor.failures
    assert [n["step"] for n in monitor.history] == [1, 2]
    warm_one, cold = (
        tw.top_eigenvalues(objective, **WATCHED["top_eigenvalues"].arguments, start=s, seed=0)
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


# name: optimizer, settings, threshold times learning rate, whether the batch sharpness has one.
OPTIMIZERS: dict[str, tuple[Any, dict[str, Any], float, bool]] = {
    "gradient descent": (SGD, {}, 2.0, True),
    "heavy ball": (SGD, {"momentum": 0.9}, 3.8, False),
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
    assert ("batch_sharpness_threshold" in numbers) == has_own
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
    assert numbers["failed/preconditioned_sharpness"] == 1
    assert "lambda_max" in numbers
    assert "threshold" not in numbers
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
    assert "Monitor(step 7, 2 measured, overhead " in repr(monitor)


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
    assert not {"lambda_max", "catapult", "above_threshold"} & set(numbers)
    assert not monitor.failures


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
        assert numbers["failed/gradient_noise"] == 1
        assert "noise_scale" not in numbers
        assert "critical_sharpness" in numbers
        assert monitor.failures[-1] == module.Failure(step, "gradient_noise", "RuntimeError: planted")
    # What cannot even be read is said alike.
    monkeypatch.setattr(module, "value_and_gradient", crash)
    numbers = monitor.step()
    assert numbers is not None
    assert numbers["failed/gradient"] == 1
    assert "loss" not in numbers


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
        "`batch_size` must be at most the 21 examples of the probe",
    ),
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
    assert "lambda_max" in numbers
    assert "threshold" not in numbers


def test_one_batch_has_no_noise_of_batches() -> None:
    model, optimizer, data = started(model=networks.cnn().train())
    with pytest.raises(ValueError, match="must not have 'gradient_noise' here: under batch statistics"):
        tw.Monitor(model, optimizer, data, measures=["gradient_noise"], seed=0)
    monitor = tw.Monitor(model, optimizer, data, seed=0)
    assert set(monitor.left_out) == {"gradient_noise"}


# -- its overhead, by a clock that the tests move -----------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


# Seconds of each look; a step of training takes one hundredth.
SECONDS = {
    "gradient": 0.01,
    "critical_sharpness": 0.05,
    "gradient_noise": 0.05,
    "batch_sharpness": 0.1,
    "top_eigenvalues": 0.5,
    "hessian_trace": 3.0,
}


def watched_run(
    monkeypatch: pytest.MonkeyPatch, num_steps: int, **settings: Any
) -> tuple[tw.Monitor, list[float], float]:
    """A run of which every measure takes its seconds; what was over-spent when, and the end."""
    clock = Clock()

    def taking(name: str) -> Callable[..., Any]:
        def function(*_: Any, **__: Any) -> tw.Measurement:
            clock.now += SECONDS[name]
            return tw.Measurement(value=1.0, error=ErrorBudget(solver=0.0))

        return function

    for name in SECONDS:
        if name != "gradient":
            replaced(monkeypatch, name, taking(name))
            fields = {"numbers": lambda _, name=name: {name: 1.0}, "warm": None}
            monkeypatch.setitem(WATCHED, name, dataclasses.replace(WATCHED[name], **fields))
    plain = module.value_and_gradient

    def gradient(objective: tw.Objective) -> tuple[float, Tensor]:
        clock.now += SECONDS["gradient"]
        return plain(objective)

    monkeypatch.setattr(module, "value_and_gradient", gradient)
    model, optimizer, data = started()
    monitor = tw.Monitor(
        model, optimizer, data, clock=clock, measures=[n for n in WATCHED if n in SECONDS], seed=0, **settings
    )
    over, share = [], settings["max_overhead"]
    for _ in range(num_steps):
        clock.now += 0.01
        if monitor.step() is not None:
            over.append(monitor._time.spent - share * monitor._time.watched)
    return monitor, over, clock.now


def test_the_overhead_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monitor, over, end = watched_run(monkeypatch, 20_000, every=50, max_overhead=0.1)
    # 200 seconds of training earn 20; guesses from the gradient's cost are wrong by less than a trace.
    assert monitor._time.watched == pytest.approx(200)
    assert end == pytest.approx(200 + monitor._time.spent)
    assert monitor.overhead <= 0.1
    assert max(over) < 2.6  # 60 gradients were expected of a trace that took 300
    assert sum(o > 1e-9 for o in over) < 0.2 * len(over)
    counts = {name: sum(name in n for n in monitor.history) for name in SECONDS}
    assert len(monitor.history) > 300  # of 400, less those in which the debt of the trace was paid
    assert counts["critical_sharpness"] > counts["batch_sharpness"] > counts["top_eigenvalues"]
    assert counts["top_eigenvalues"] > counts["hessian_trace"] >= 1
    for numbers in monitor.history:
        for name in monitor.measures:
            assert (name in numbers) != (f"skipped/{name}" in numbers)
    assert monitor.history[-1]["overhead"] == pytest.approx(monitor.overhead, rel=0.01)
    assert sum(n["seconds"] for n in monitor.history) == pytest.approx(monitor._time.spent)


def test_the_interval_is_stretched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a gradient at every step is more than its part of the share; none of the others starves."""
    monitor, over, _ = watched_run(monkeypatch, 6000, every=1, max_overhead=0.02)
    assert monitor.overhead <= 0.02 + 1e-9
    assert monitor.history[0]["step"] == 1  # the one on credit
    assert monitor.history[1]["step"] > 50
    assert 30 < len(monitor.history) < 80
    assert sum("critical_sharpness" in n for n in monitor.history) >= 2
    assert max(over) < 0.2


def test_without_a_limit_everything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monitor, _, _ = watched_run(monkeypatch, 3, every=1, max_overhead=math.inf)
    assert all(name in n for n in monitor.history for name in monitor.measures)
    assert not any(re.match("skipped/", key) for n in monitor.history for key in n)


def test_what_is_watched_has_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every watched measure is a public one of that name."""
    for name, watched in monitor_readings.WATCHED.items():
        assert tw.MEASURES[name] is watched.function

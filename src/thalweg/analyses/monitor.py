"""Curvature, noise and stability along a training run, for a stated share of its time."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from thalweg.analyses.catapult import Catapults
from thalweg.analyses.monitor_readings import (
    WATCHED,
    Numbers,
    batch_threshold,
    eigenvalue_numbers,
    is_plain,
)
from thalweg.analyses.time_allowance import TimeAllowance
from thalweg.core.arguments import check_count, check_one_of, is_number
from thalweg.core.errors import NonFiniteLossError
from thalweg.core.measurement import Measurement
from thalweg.core.rng import stream_seed
from thalweg.measures.curvature.top_eigenvalues import TopEigenvalues
from thalweg.measures.sharpness.optimizer_match import held_parameters
from thalweg.measures.sharpness.optimizer_step import RULES, OptimizerStep, optimizer_step
from thalweg.objective.batch_norm import BatchNormMode, batch_norm_layers
from thalweg.objective.examples import read_examples
from thalweg.objective.guards import unwrapped
from thalweg.objective.losses import Loss
from thalweg.objective.objective import DEFAULT_BATCH_SIZE, Objective
from thalweg.objective.value_and_gradient import value_and_gradient

# The one look that every measuring step begins with: the network read, its loss and gradient on the probe.
GRADIENT = "gradient"


@dataclass(frozen=True)
class Failure:
    """What a measure could not do: when, which, and what it said."""

    step: int
    measure: str
    message: str


class Monitor:
    r"""Follows a training run from inside anybody's loop, by `step` once after each of the optimizer's.

    Loss and gradient norm are taken on the probe at every measuring step; of the other measures those whose
    turn it is, such that all together take at most `max_overhead` of the seconds of training. Each has an
    account, `thalweg.analyses.time_allowance`: cheap ones are taken each time, dear ones when enough has been
    saved, and where not even the gradient is paid for, the step is none. How long a measure takes is known
    after its first time; what a bad guess before that costs is earned again before anything else is measured.
    Only the first gradient is taken on credit.

    Nothing of the user's is changed: model, gradients, optimizer, generators, modes. The network is copied at
    each measuring step and measured as an `Objective` would: dropout off, batch norm as `batch_norm` says.
    All numbers are those of the probe, without the optimizer's weight decay (but for the preconditioned
    sharpness, which is of what the optimizer follows).

    Parameters
    ----------
    model, optimizer
        As in the training loop. The optimizer's settings are read at each measuring step, as they are then.
    data
        The probe: a fixed part of the training data, in any form that `Objective` takes.
    every
        Steps between measuring steps, at the least.
    max_overhead
        Seconds of the monitor over seconds of training between its calls; ``math.inf`` for no limit.
    loss
        Per example, as in `Objective`.
    batch_norm
        As in `Objective`. Default: ``"batch"`` where a batch-norm layer is in training mode now, that being
        the function that the optimizer follows, else ``"running"``.
    batch_size
        Of the training's batches: for noise scale, batch sharpness and batch statistics. Default: the probe's
        loader's, else 128, and at most the probe.
    measures
        Some of `thalweg.analyses.monitor_readings.WATCHED`. Default: all that apply; `left_out` says which do
        not, and why.
    micro_batch
        As in `Objective`.
    seed
        Of every measure, the same at each step, so that steps differ by the network alone.
    clock
        Seconds from any origin.

    Attributes
    ----------
    num_steps
        Steps so far.
    history
        What `step` returned, one dictionary a measuring step.
    last
        The latest `Measurement` by the name of its measure.
    failures
        What could not be measured. It never stops the training.
    left_out
        Measures that do not apply, and why.

    Raises
    ------
    TypeError, ValueError
        If an argument cannot be used, each with the remedy.
    NondeterminismError
        If two passes over the same examples differ.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        data: Any,
        *,
        every: int = 100,
        max_overhead: float = 0.1,
        loss: Loss = "cross_entropy",
        batch_norm: BatchNormMode | None = None,
        batch_size: int | None = None,
        measures: Sequence[str] | None = None,
        micro_batch: int | str = "auto",
        seed: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        check_count("every", every)
        if not is_number(max_overhead) or not max_overhead > 0:
            raise ValueError(
                f"`max_overhead` must be positive, got {max_overhead!r}; 0.1 is a tenth of the training's "
                "time, math.inf no limit."
            )
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"`optimizer` must be a torch.optim.Optimizer, got {type(optimizer).__name__}; of a wrapper "
                "pass the optimizer inside."
            )
        stream_seed(seed)
        self.every, self.seed = int(every), int(seed)
        self._time = TimeAllowance(float(max_overhead), clock)
        self._model, self._optimizer = unwrapped(model), optimizer
        examples, loader_batch_size = read_examples(data)
        _ = examples.hash  # once, for all the provenances to come
        size = batch_size
        if size is None:
            size = min(loader_batch_size or DEFAULT_BATCH_SIZE, examples.num_examples)
        check_count("batch_size", size)
        if size > examples.num_examples:
            raise ValueError(
                f"`batch_size` must be at most the {examples.num_examples} examples of the probe, from which "
                f"batches are drawn, got {size}; take a larger probe."
            )
        self._settings: dict[str, Any] = {
            "data": examples,
            "loss": loss,
            "batch_norm": self._followed() if batch_norm is None else batch_norm,
            "batch_size": size,
            "micro_batch": micro_batch,
            "compile": False,  # a graph a step would cost more than it saves
        }
        objective = self._objective()
        self._device = objective.device
        self.left_out: dict[str, str] = {}
        self.measures = self._chosen(measures, objective)
        self.num_steps = 0
        self.history: list[Numbers] = []
        self.last: dict[str, Measurement] = {}
        self.failures: list[Failure] = []
        self._warm: dict[str, torch.Tensor] = {}
        self._solved_once = (
            False  # whether the preconditioned matrix is the Hessian, whose top is taken anyway
        )
        self._catapults = Catapults()
        self._time.leave()

    @property
    def overhead(self) -> float:
        """Seconds spent here so far over seconds of training, up to the last measuring step."""
        return self._time.overhead

    @property
    def costs(self) -> dict[str, float]:
        """Seconds that each measure took the last time, and ``gradient``: copy, loss and gradient."""
        return dict(self._time.costs)

    def __repr__(self) -> str:
        return (
            f"Monitor(step {self.num_steps}, {len(self.history)} measured, overhead {self.overhead:.2g} of "
            f"{self._time.share:g}, {', '.join(self.measures)})"
        )

    def step(self) -> Numbers | None:
        """Count a step of the optimizer, and measure if it is time.

        Returns
        -------
        ``None`` on most steps. On a measuring step numbers by name, all floats: ``step``, ``loss``,
        ``gradient_norm``, ``lr`` (the largest of the groups), what each measure says whose turn it was, and

        - ``threshold``, and ``above_threshold``: 1 if the preconditioned sharpness exceeds it, else 0;
        - ``batch_sharpness_threshold``, 2 / lr, under plain SGD;
        - ``catapult``: 1 where one was seen to end, see `thalweg.analyses.catapult`, else 0;
        - ``diverged``: 1 where loss or gradient is not finite, and then nothing else is measured, else 0;
        - ``skipped/NAME`` and ``failed/NAME``, 1 each: not its turn; see `failures`;
        - ``seconds``, ``overhead``: of this step, and in all.
        """
        self.num_steps += 1
        if self.num_steps % self.every:
            return None
        self._wait()
        self._time.arrive()
        before = self._time.spent
        try:
            numbers = self._measure()
        finally:
            self._time.leave()
        if numbers is None:
            return None
        numbers |= {"seconds": self._time.spent - before, "overhead": self.overhead}
        self.history.append(numbers)
        return dict(numbers)

    # -- inside ---------------------------------------------------------------------------------------

    def _measure(self) -> Numbers | None:
        # Half for what every measuring step begins with, so that neither it nor the rest starves.
        is_due = bool(self._time.pour({GRADIENT: self._time.costs.get(GRADIENT, 0.0)}, part=0.5))
        self._time.pour(self._costs())
        if not is_due:
            return None
        numbers: Numbers = {"step": float(self.num_steps), "lr": self._lr(), "diverged": 0.0}
        try:
            objective = self._objective()
            numbers["loss"], gradient = value_and_gradient(objective)
        except NonFiniteLossError:
            return self._billed(numbers | {"loss": math.nan, "gradient_norm": math.nan, "diverged": 1.0})
        except Exception as error:
            self._failed(GRADIENT, error, numbers)
            return self._billed(numbers)
        numbers["gradient_norm"] = float(gradient.cpu().double().norm())
        names, step = list(self.measures), None
        if "preconditioned_sharpness" in names:
            step = self._look(
                "preconditioned_sharpness", lambda: optimizer_step(objective, self._optimizer), numbers
            )
            self._solved_once = step is not None and is_plain(step) and "top_eigenvalues" in names
            if step is None or self._solved_once:
                names.remove("preconditioned_sharpness")
        self._billed(numbers)
        due = self._time.pour(self._costs())  # once more: only now the gradient's cost is known for sure
        for name in names:
            if name in due:
                self._take(name, objective, numbers)
            else:
                numbers[f"skipped/{name}"] = 1.0
        self._stability(step, numbers)
        return numbers

    def _costs(self) -> Numbers:
        """Seconds that each measure is expected to take; of none until the gradient has been timed."""
        gradient = self._time.costs.get(GRADIENT)
        if gradient is None:
            return {}
        names = [n for n in self.measures if not (n == "preconditioned_sharpness" and self._solved_once)]
        return {name: self._time.costs.get(name, WATCHED[name].cost * gradient) for name in names}

    def _take(self, name: str, objective: Objective, numbers: Numbers) -> None:
        watched = WATCHED[name]
        arguments: dict[str, Any] = {"seed": self.seed} if watched.has_seed else {}
        if watched.takes_optimizer:
            arguments["optimizer"] = self._optimizer
        warm = self._warm.get(name)
        if warm is not None and len(warm) == objective.space.dim:  # not after a layer was frozen
            arguments["start"] = warm
        result = self._look(
            name, lambda: watched.function(objective, **watched.arguments, **arguments), numbers
        )
        if result is not None:
            self.last[name] = result
            numbers |= watched.numbers(result)
            if watched.warm:
                self._warm[name] = watched.warm(result)
        self._wait()
        self._time.bill(name)

    def _stability(self, step: OptimizerStep | None, numbers: Numbers) -> None:
        """What follows from what was measured: thresholds and flags."""
        if step is not None:
            numbers["threshold"] = step.threshold
            if self._solved_once:
                top = self.last.get("top_eigenvalues")
                if "lambda_max" in numbers and isinstance(top, TopEigenvalues):
                    numbers |= eigenvalue_numbers(top, "preconditioned_sharpness")
                else:
                    numbers["skipped/preconditioned_sharpness"] = 1.0
            if "preconditioned_sharpness" in numbers:
                numbers["above_threshold"] = float(numbers["preconditioned_sharpness"] > step.threshold)
        if "batch_sharpness" in self.measures:
            threshold = batch_threshold(self._optimizer)
            if threshold is not None:
                numbers["batch_sharpness_threshold"] = threshold
        if "top_eigenvalues" in self.measures:
            numbers["catapult"] = float(self._catapults.saw(numbers["loss"], numbers.get("lambda_max")))

    def _look(self, name: str, look: Callable[[], Any], numbers: Numbers) -> Any:
        """What it returns, or ``None`` where it fails, which is written down: training goes on."""
        try:
            return look()
        except Exception as error:
            self._failed(name, error, numbers)
            return None

    def _failed(self, name: str, error: Exception, numbers: Numbers) -> None:
        numbers[f"failed/{name}"] = 1.0
        self.failures.append(Failure(self.num_steps, name, f"{type(error).__name__}: {error}"))

    def _billed(self, numbers: Numbers) -> Numbers:
        self._wait()
        self._time.bill(GRADIENT)
        return numbers

    def _objective(self) -> Objective:
        """The network as it is now; dropout in training mode is off in the copy."""
        return Objective(copy.deepcopy(self._model).eval(), **self._settings)

    def _followed(self) -> BatchNormMode:
        trains = any(layer.training for layer in batch_norm_layers(self._model).values())
        return "batch" if trains else "running"

    def _lr(self) -> float:
        return max(float(group["lr"]) for group in self._optimizer.param_groups)

    def _wait(self) -> None:
        """Until the device has done what it was told, so that seconds count where they belong."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        elif self._device.type == "mps":
            torch.mps.synchronize()

    def _chosen(self, measures: Sequence[str] | None, objective: Objective) -> tuple[str, ...]:
        """The measures asked for, in the order of `WATCHED`; of all, those that apply."""
        if isinstance(measures, str):
            raise TypeError(f"`measures` must be a list of names, got {measures!r}; write [{measures!r}].")
        asked = list(WATCHED) if measures is None else list(measures)
        for name in asked:
            check_one_of("measures", name, WATCHED, some=True)
        for name, reason in self._inapplicable(objective).items():
            if name not in asked:
                continue
            if measures is not None:
                raise ValueError(f"`measures` must not have {name!r} here: {reason}.")
            self.left_out[name] = reason
        chosen = tuple(name for name in WATCHED if name in asked and name not in self.left_out)
        if "preconditioned_sharpness" in chosen:
            held_parameters(objective, self._optimizer)
        return chosen

    def _inapplicable(self, objective: Objective) -> dict[str, str]:
        reasons: dict[str, str] = {}
        if type(self._optimizer) not in RULES:
            known = ", ".join(rule.__name__ for rule in RULES)
            reasons["preconditioned_sharpness"] = (
                f"the update of {type(self._optimizer).__name__} and its stability are not known; known are "
                f"{known}"
            )
        in_batches = objective.batch_norm == "batch" and objective.has_batch_norm
        if in_batches and objective.num_examples <= objective.batch_size:
            reasons["gradient_noise"] = (
                f"under batch statistics it is the noise of whole batches, and the probe of "
                f"{objective.num_examples} examples is one batch of {objective.batch_size}; take a larger "
                "probe, a smaller `batch_size`, or batch_norm='running'"
            )
        return reasons

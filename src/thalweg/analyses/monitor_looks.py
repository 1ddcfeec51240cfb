"""The looks of a monitor at one point of a training run: which, from where, and what they say."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.optim import Optimizer

from thalweg.analyses.catapult import Catapults
from thalweg.analyses.monitor_choice import batch_threshold, largest_lr
from thalweg.analyses.monitor_costs import GRADIENT, MonitorCosts
from thalweg.analyses.monitor_readings import (
    EIGENVALUE,
    LOSS,
    PRECONDITIONED,
    PRODUCT,
    PROOF,
    WATCHED,
    Numbers,
)
from thalweg.analyses.warm_start import Start, warm_start
from thalweg.core.errors import NonFiniteLossError
from thalweg.core.measurement import Measurement
from thalweg.measures.sharpness.optimizer_step import stability_threshold
from thalweg.objective.objective import DEFAULT_BATCH_SIZE, Objective
from thalweg.objective.value_and_gradient import value_and_gradient
from thalweg.operators.hessian import Hessian
from thalweg.operators.shared_proofs import Proofs, shared_proofs

# The proof of the second derivatives, which no look is to blame for.
PROOF_NAME = "proof"

# What every reading has besides the numbers of its measures, and what stability adds.
ALWAYS = ("step", "lr", "loss", "gradient_norm", "diverged", "failed")
STABILITY = ("threshold", "above_threshold")
COSTS = ("passes", "passes_overhead", "seconds", "overhead")


@dataclass(frozen=True)
class Failure:
    """What a measure could not do: when, which, and what it said."""

    step: int
    measure: str
    message: str


class Looks:
    """What is carried from one measuring step to the next: warm starts, the proof, the catapults' state.

    Parameters
    ----------
    objective, optimizer
        At the start, and the user's own.
    measures
        Names out of `WATCHED`, in its order.
    seed
        Of every measure.
    costs
        What is paid from.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: Optimizer,
        measures: tuple[str, ...],
        *,
        seed: int,
        costs: MonitorCosts,
    ) -> None:
        self.measures, self.costs = measures, costs
        self._optimizer, self._seed = optimizer, seed
        self._num_examples, self._batch_size = objective.num_examples, objective.batch_size
        self.last: dict[str, Measurement] = {}
        self.failures: list[Failure] = []
        self._step = 0
        # Whether the preconditioned matrix is the Hessian, whose top is taken anyway.
        self._is_plain = EIGENVALUE in measures and _is_plain(objective, optimizer)
        self._is_proved = False
        self._proofs: Proofs = {}
        self._warm: dict[str, torch.Tensor] = {}
        self._catapults = Catapults()

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the numbers, the same in every reading."""
        measured = [key for name in self.measures for key in WATCHED[name].keys]
        more = [
            *(STABILITY if PRECONDITIONED in self.measures else ()),
            *(["batch_sharpness_threshold"] if "batch_sharpness" in self.measures else ()),
            *(["catapult"] if EIGENVALUE in self.measures else ()),
        ]
        return (*ALWAYS, *measured, *more, *COSTS)

    def expected(self) -> dict[str, float]:
        """Passes that each look may take before it has been made; the measuring step's own first."""
        names = [n for n in self.measures if not (n == PRECONDITIONED and self._is_plain)]
        return {GRADIENT: self._gradient_passes, **{n: self._expected(n) for n in names}}

    def take(self, step: int, build: Callable[[], Objective]) -> Numbers | None:
        """All that is due at this step; ``None`` where not even the gradient is."""
        if not self._allows(GRADIENT):
            return None
        self._step = step
        numbers: Numbers = dict.fromkeys(self.keys)
        numbers |= {"step": float(step), "lr": largest_lr(self._optimizer)}
        numbers |= {"diverged": 0.0, "failed": 0.0}
        objective = self._look(GRADIENT, build, numbers)
        found = None
        if objective is not None:
            found = self._look(GRADIENT, lambda: _loss_and_norm(objective), numbers)
        self.costs.bill(GRADIENT, self._gradient_passes)
        if found is None or objective is None:
            return numbers
        numbers["loss"], numbers["gradient_norm"] = found
        if not all(map(math.isfinite, found)):
            numbers["diverged"] = 1.0
            return numbers
        names = [n for n in self.measures if n != PRECONDITIONED or self._reads_optimizer(objective, numbers)]
        if "batch_sharpness" in names:
            numbers["batch_sharpness_threshold"] = batch_threshold(self._optimizer)
        with shared_proofs(self._proofs):
            for name in names:
                if self._allows(name):
                    self._take(name, objective, numbers)
        self._compare(numbers)
        return numbers

    def _take(self, name: str, objective: Objective, numbers: Numbers) -> None:
        watched = WATCHED[name]
        if watched.is_second_order and not self._is_proved:
            self._look(PROOF_NAME, lambda: Hessian(objective).check, numbers)
            self._is_proved = True  # or it never will be: each measure says so for itself
            self.costs.charge(PROOF)
        arguments: dict[str, Any] = dict(watched.arguments)
        if watched.has_seed:
            arguments["seed"] = self._seed
        if watched.takes_optimizer:
            arguments["optimizer"] = self._optimizer
        solve = functools.partial(watched.function, **arguments)
        start = Start({})

        def look() -> Measurement:
            nonlocal start
            if watched.warm:
                start = warm_start(
                    objective,
                    solve,
                    watched.warm,
                    self._last_columns(name, objective),
                    self._seed,
                    self._step,
                )
            return solve(objective, **start.arguments)

        result = self._look(name, look, numbers)
        if result is None:
            self.costs.bill(name, self._expected(name))
            return
        self.last[name] = result
        numbers |= dict(zip(watched.keys, watched.numbers(result), strict=True))
        if watched.warm:
            self._warm[name] = watched.warm(result)
        passes = LOSS * start.num_scored + PRODUCT * start.num_multiplied
        self.costs.bill(name, passes + watched.passes(result, self._num_examples))

    def _last_columns(self, name: str, objective: Objective) -> torch.Tensor | None:
        """Of the last look, unless a layer was frozen since."""
        columns = self._warm.get(name)
        return columns if columns is not None and len(columns) == objective.space.dim else None

    def _reads_optimizer(self, objective: Objective, numbers: Numbers) -> bool:
        """Note the threshold; whether there is one, and a preconditioned matrix to be solved for itself."""
        if numbers["lr"] == 0:  # the first steps of a warm-up: no threshold, and nothing wrong
            return False
        read = self._look(PRECONDITIONED, lambda: stability_threshold(objective, self._optimizer), numbers)
        numbers["threshold"], plain = read or (None, False)
        self._is_plain = plain and EIGENVALUE in self.measures
        return read is not None and not self._is_plain

    def _compare(self, numbers: Numbers) -> None:
        """What follows from what was measured."""
        if self._is_plain:
            pairs = zip(WATCHED[PRECONDITIONED].keys, WATCHED[EIGENVALUE].keys, strict=True)
            numbers |= {theirs: numbers[own] for theirs, own in pairs}
        sharpness, threshold = numbers.get(PRECONDITIONED), numbers.get("threshold")
        if sharpness is not None and threshold is not None:
            numbers["above_threshold"] = float(sharpness > threshold)
        if EIGENVALUE in self.measures:
            assert numbers["loss"] is not None
            numbers["catapult"] = float(self._catapults.saw(numbers["loss"], numbers["lambda_max"]))

    def _look(self, name: str, look: Callable[[], Any], numbers: Numbers) -> Any:
        """What it returns, or ``None`` where it fails, which is written down: training goes on."""
        try:
            return look()
        except Exception as error:
            numbers["failed"] = (numbers["failed"] or 0.0) + 1
            self.failures.append(Failure(self._step, name, f"{type(error).__name__}: {error}"))
            return None

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` goes on from."""
        return {
            "is_plain": self._is_plain,
            "is_proved": self._is_proved,
            "failures": [dataclasses.asdict(failure) for failure in self.failures],
            "warm": {name: columns.clone() for name, columns in self._warm.items()},
            "catapults": self._catapults.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; a proof is made anew where it is needed, but was paid for."""
        self._is_plain, self._is_proved = state["is_plain"], state["is_proved"]
        self.failures = [Failure(**failure) for failure in state["failures"]]
        self._warm = {name: columns.clone() for name, columns in state["warm"].items()}
        self._catapults.load_state_dict(state["catapults"])

    def _allows(self, name: str) -> bool:
        return self.costs.allows(name, self.expected())

    def _expected(self, name: str) -> float:
        return WATCHED[name].expected(self._num_examples, self._batch_size)

    @property
    def _gradient_passes(self) -> float:
        """The probe's, and of two forward passes over a micro-batch, by which the objective is checked."""
        return self._num_examples + 2 * LOSS * min(DEFAULT_BATCH_SIZE, self._num_examples)


def _is_plain(objective: Objective, optimizer: Optimizer) -> bool:
    """Where no threshold is known it is not; why, the first look at it says."""
    try:
        return stability_threshold(objective, optimizer)[1]
    except (TypeError, ValueError):
        return False


def _loss_and_norm(objective: Objective) -> tuple[float, float]:
    """NaN for both where either is not finite."""
    try:
        loss, gradient = value_and_gradient(objective)
    except NonFiniteLossError:
        return math.nan, math.nan
    return loss, float(gradient.cpu().double().norm())

"""Proof, on the user's own network, that a second derivative is one: symmetric, and the slope of a gradient.

The slope is a central difference of a gradient by plain reverse mode, which shares nothing with what it
judges but the forward pass. It is taken in float64 where the model runs in it.

A network with kinks (ReLU, max pooling) has no slope where the two ends of a difference straddle one. That is
improbable for short steps, so that a right product gets several tries and needs to agree once; a wrong one
agrees with none. Two kinds of point allow no slope at any step: one that lies on a kink (inputs of nought
under a bias of nought), and one where the network fits so well that rounding exceeds its curvature. There the
proof moves to points near by: what a composition leaves out, it leaves out there too.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from thalweg.core.errors import DerivativeError, NonFiniteLossError
from thalweg.core.rng import generator, normal, preserved_global_rng
from thalweg.objective.objective import Objective
from thalweg.operators.double_precision import in_float64, rounds_inside
from thalweg.operators.slope_comparison import (
    OUT_OF_MEMORY,
    ROUNDING_FACTOR,
    Claim,
    compare_with_slope,
    probes,
    relative,
    scale,
    tolerance_of,
    vanishes,
)

# Examples the proof runs on: enough to reach every kind of layer, cheap beside one product on real data.
CHECK_EXAMPLES = 32

# Where it is tried: at factor * theta + distance * max(1, ||theta||) in a random direction. The point itself;
# one off its kinks; two off its fit, where smaller weights leave the network less sure of itself. Not much
# smaller: a missing term shrinks with them, and at a hundredth may go unseen.
POINTS = ((1.0, 0.0), (1.0, 1e-2), (0.5, 0.15), (0.2, 0.06))

# What two compositions may differ by in low precision, in parts of the tolerance for slopes.
SECOND_OPINION = 0.05


@dataclass(frozen=True)
class SelfCheck:
    """Outcome of one composition on one network.

    Parameters
    ----------
    composition
        Its name.
    passed
        Whether it may be used.
    dtype
        Precision that the proof could count on: float64 where the model allows it.
    num_examples
        Examples it ran on.
    point
        Where it passed, one of `POINTS`.
    finite
        Whether its products are.
    nought
        It passed because products and slopes are nought at every point tried.
    slope_error, symmetry_error
        Relative deviations from the central difference of the gradient, and from symmetry.
    reason
        Why it failed.
    rejected
        Compositions tried before it, each with its reason.
    folded
        Batch norms that products take as part of the layer before them.
    own_rules
        Convolutions and max pooling are differentiated by this package's rules, not by torch's.
    plain_columns
        Single columns go by plain forward over reverse mode, which agreed with the composition.
    """

    composition: str
    passed: bool
    dtype: torch.dtype | None = None
    num_examples: int = 0
    point: tuple[float, float] = POINTS[0]
    finite: bool = True
    nought: bool = False
    slope_error: float = float("nan")
    symmetry_error: float = float("nan")
    reason: str = ""
    rejected: tuple[str, ...] = ()
    folded: tuple[str, ...] = ()
    own_rules: bool = False
    plain_columns: bool = False

    def to_dict(self) -> dict[str, Any]:
        """For provenance: the tolerance instead of the errors below it, whose digits are noise."""
        return {
            "composition": self.composition,
            "checked_in": str(self.dtype).removeprefix("torch."),
            "checked_on": self.num_examples,
            "checked_at": list(self.point),
            "tolerance": None if self.dtype is None else tolerance_of(self.dtype),
            "nought": self.nought,
            "rejected": list(self.rejected),
            "folded": list(self.folded),
            "own_rules": self.own_rules,
            "plain_columns": self.plain_columns,
        }


def check_examples(objective: Objective) -> Objective:
    """The same over the examples that the proof runs on."""
    return objective.subset(min(CHECK_EXAMPLES, objective.num_examples), seed=0)


def prove(objective: Objective, names: Sequence[str], claim: Claim) -> SelfCheck:
    """The first composition in the list that passes on a few examples of the objective.

    Raises
    ------
    DerivativeError
        If none does.
    NonFiniteLossError
        If the loss or the gradient is not finite.
    Exception
        Whatever the model itself raises.
    """
    failures: list[str] = []
    with preserved_global_rng():
        bench = _Bench.of(objective, claim)
        for name in names:
            outcome = bench.examine(name, claim)
            if outcome.passed:
                return dataclasses.replace(outcome, rejected=tuple(failures))
            failures.append(f"{name}: {outcome.reason}")
    blurred = (
        " It could be judged in single precision only, where kinks and rounding blur every slope; a model "
        "that runs in float64 throughout is judged better."
        if bench.precise is None or bench.mixed
        else ""
    )
    raise DerivativeError(
        "no composition of automatic differentiation passed the self-check on this network, so no curvature "
        f"is reported: {'; '.join(failures)}.{blurred}"
    )


@dataclass(frozen=True)
class _Bench:
    """A few examples of the objective, in its own precision and, where the model allows it, in float64."""

    own: Objective
    precise: Objective | None
    mixed: bool  # the model rounds to less than float64 inside

    @classmethod
    def of(cls, objective: Objective, claim: Claim) -> _Bench:
        # Run plainly first: what the model itself raises is no verdict on a composition.
        own = check_examples(objective)
        try:
            own.value()
        except NonFiniteLossError:
            objective.value()  # numbers the examples as the user does
            raise
        if not bool(torch.isfinite(claim.gradient_at(own)).all()):
            raise NonFiniteLossError(
                "the gradient is not finite although the loss is; look for a layer whose derivative is "
                "singular here (a norm or a square root at zero, say)."
            )
        precise = in_float64(own, claim)
        return cls(own, precise, precise is not None and rounds_inside(precise))

    def examine(self, name: str, claim: Claim) -> SelfCheck:
        """Judge one composition at one point after another, up to the first where it passes.

        By more than nought: where these examples have no curvature, others of the same objective may have.
        """
        tried: list[SelfCheck] = []
        try:
            for factor, distance in POINTS:
                outcome = self._at(factor, distance)._examine_here(name, claim, (factor, distance))
                if outcome.passed and not outcome.nought:
                    return outcome
                tried.append(outcome)
                if not tried[0].finite:
                    return outcome
        except OUT_OF_MEMORY:
            raise
        except Exception as error:
            # Gradients were taken without trouble, so that a layer lacks what this composition needs.
            text = (str(error).strip() or type(error).__name__).splitlines()[0][:120]
            return SelfCheck(name, False, reason=f"not available ({re.sub('0x[0-9a-f]+', '0x…', text)})")
        # On a kink a difference says nothing, so that the point itself does not count here.
        if all(outcome.nought for outcome in tried[1:]):
            return tried[1]
        return next(outcome for outcome in tried if not outcome.passed)

    def _examine_here(self, name: str, claim: Claim, point: tuple[float, float]) -> SelfCheck:
        if self.precise is not None:
            outcome = _examine(self.precise, name, claim, torch.float64, point)
            if outcome.passed and self.own.dtype != torch.float64:
                return _examine_kernels(outcome, self.own, self.precise, claim)
            if outcome.passed or not self.mixed:
                return outcome
        # An objective in float64 whose model rounds to float32 inside can be told no better than that.
        dtype = torch.float32 if self.own.dtype == torch.float64 else self.own.dtype
        return _examine(self.own, name, claim, dtype, point)

    def _at(self, factor: float, distance: float) -> _Bench:
        if not distance:
            return self
        widest = self.own if self.precise is None else self.precise
        direction = normal(generator(0, "self-check", "displaced"), widest.space.dim, like=widest.params)
        params = factor * widest.params + distance * scale(widest) * direction / direction.norm()
        precise = None if self.precise is None else self.precise.at(params)
        return dataclasses.replace(self, own=self.own.at(params), precise=precise)


def _examine(
    o: Objective, name: str, claim: Claim, dtype: torch.dtype, point: tuple[float, float]
) -> SelfCheck:
    """Judge one composition at one point by what `dtype` can tell."""
    tested = compare_with_slope(o, name, claim, dtype)
    failures, nought = list(tested.failures), tested.nought
    if tested.finite and not failures and dtype != torch.float64:
        failures += _second_opinion(o, name, claim, dtype)
    slope_error, symmetry_error = tested.slope_error, tested.symmetry_error
    if tested.finite and failures and vanishes(o, name, claim, dtype):
        failures, nought, slope_error, symmetry_error = [], True, 0.0, 0.0
    return SelfCheck(
        composition=name,
        passed=not failures,
        dtype=dtype,
        num_examples=o.num_examples,
        point=point,
        finite=tested.finite,
        nought=nought,
        slope_error=slope_error,
        symmetry_error=symmetry_error,
        reason=" and ".join(failures),
    )


def _second_opinion(o: Objective, name: str, claim: Claim, dtype: torch.dtype) -> list[str]:
    """Two ways through the same rounding agree much better than either does with a slope."""
    V = probes(o, 2)
    try:
        other = claim.product(o, claim.reference, V)
    except OUT_OF_MEMORY:
        raise
    except Exception:
        return []  # no such derivative: the slope must do
    error = relative(claim.product(o, name, V), other)
    if error <= SECOND_OPINION * tolerance_of(dtype) or not bool(torch.isfinite(other).all()):
        return []
    return [f"differs from {claim.reference} by {error:.0e}"]


def _examine_kernels(outcome: SelfCheck, own: Objective, precise: Objective, claim: Claim) -> SelfCheck:
    """A formula can be right and its kernels in the objective's own dtype absent or poor."""
    V = probes(precise, 2)
    exact = claim.product(precise, outcome.composition, V)
    rounded = claim.product(own, outcome.composition, V.to(own.dtype)).double()
    tolerance = tolerance_of(own.dtype)
    # How well gradients agree tells how well products can that are small for being nearly nought.
    noise = float((claim.gradient_at(own).double() - claim.gradient_at(precise)).norm()) / scale(precise)
    error = relative(rounded, exact, ROUNDING_FACTOR * noise / tolerance)
    if error <= tolerance:
        return outcome
    return dataclasses.replace(
        outcome, passed=False, reason=f"differs in {own.dtype} from its float64 self by {error:.0e}"
    )

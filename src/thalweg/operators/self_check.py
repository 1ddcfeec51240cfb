"""Proof, on the user's own network, that a second derivative is one: symmetric, and the gradient's slope."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from thalweg.core.errors import NonFiniteLossError
from thalweg.core.rng import generator, normal, preserved_global_rng
from thalweg.objective.objective import Objective

# Examples the proof runs on: enough to reach every kind of layer, cheap beside one product on real data.
CHECK_EXAMPLES = 32

# Relative tolerances. In float64 right derivatives agree to about 1e-7 and wrong ones (a dropped term of layer
# norm, say) differ by 1e-2; in lower precision only gross errors can be told from rounding.
TOLERANCE = {torch.float64: 1e-4, torch.float32: 5e-2}
COARSE_TOLERANCE = 0.3

# Steps of the central difference, relative to max(1, ||theta||). Kinks (ReLU, max pooling) may fall between the
# two ends by chance, so that a right product gets more than one try; a wrong one fails at every step.
STEPS = {torch.float64: (1e-7, 1e-6, 1e-8), torch.float32: (3e-3, 1e-3, 1e-2)}
COARSE_STEPS = (1e-1, 3e-2)

Product = Callable[[Objective, Tensor], Tensor]


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
        Precision the proof ran in: float64 where the model allows it.
    num_examples
        Examples it ran on.
    slope_error, symmetry_error
        Relative deviations from the central difference of the gradient, and from symmetry.
    reason
        Why it failed.
    rejected
        Compositions tried before it, each with its reason.
    """

    composition: str
    passed: bool
    dtype: str = ""
    num_examples: int = 0
    slope_error: float = float("nan")
    symmetry_error: float = float("nan")
    reason: str = ""
    rejected: tuple[str, ...] = ()

    def with_rejected(self, failures: list[str]) -> SelfCheck:
        """The same outcome, remembering what was tried before."""
        return dataclasses.replace(self, rejected=tuple(failures))

    def to_dict(self) -> dict[str, Any]:
        """For provenance. Errors are rounded to a power of ten: their digits are noise."""
        return {
            "composition": self.composition,
            "checked_in": self.dtype,
            "checked_on": self.num_examples,
            "slope_error_below": _decade(self.slope_error),
            "symmetry_error_below": _decade(self.symmetry_error),
            "rejected": list(self.rejected),
        }


def check_composition(objective: Objective, name: str, product: Product) -> SelfCheck:
    """Prove ``product(objective, V)`` on a few examples of the objective.

    In float64 where the model runs in it; then one product in the objective's own dtype must agree with it,
    since a formula can be right and its kernels absent or poor.
    """
    sample = objective.subset(min(CHECK_EXAMPLES, objective.num_examples), seed=0)
    with preserved_global_rng():
        precise = _in_float64(sample)
        try:
            outcome = _slope_and_symmetry(precise, name, product)
            if outcome.passed and precise.dtype != sample.dtype:
                return _agrees_in_own_dtype(outcome, sample, precise, product)
            return outcome
        except NonFiniteLossError:
            raise
        except (RuntimeError, NotImplementedError, TypeError, ValueError) as error:
            # Raised by a layer that lacks this derivative: the next composition may have it.
            return SelfCheck(
                name, False, reason=f"not available ({str(error).strip().splitlines()[0][:120]})"
            )


def _in_float64(sample: Objective) -> Objective:
    if sample.dtype == torch.float64 or sample.device.type == "mps":
        return sample
    try:
        precise = sample.to_dtype(torch.float64)
        precise.value()
    except (RuntimeError, TypeError, ValueError):
        return sample  # the model fixes a dtype inside
    return precise


def _slope_and_symmetry(o: Objective, name: str, product: Product) -> SelfCheck:
    tolerance = TOLERANCE.get(o.dtype, COARSE_TOLERANCE)
    rng = generator(0, "self-check")
    V = normal(rng, o.space.dim, 2, like=o.params)
    V /= V.norm(dim=0)
    HV = product(o, V)
    if not bool(torch.isfinite(HV).all()):
        o.value()
        return SelfCheck(name, False, reason="the product is not finite")
    v, Hv = V[:, 0], HV[:, 0]
    # One column alone may take another route through the batching rules than a block of two.
    alone = product(o, v[:, None])[:, 0]
    gradient_norm = float(o.gradient().norm())
    slope_error = _relative(Hv, alone, 0.0)
    if slope_error <= tolerance:
        slope_error = min(
            _slope_error(o, v, Hv, step, gradient_norm) for step in STEPS.get(o.dtype, COARSE_STEPS)
        )
    # u = Hv/||Hv|| makes u.Hv as large as it can be, so that a missing term cannot hide in a small number.
    norm = float(Hv.norm())
    if norm > 0:
        u = Hv / norm
        Hu = product(o, u[:, None])[:, 0]
        symmetry_error = abs(float(u.double() @ Hv.double()) - float(v.double() @ Hu.double())) / norm
    else:
        symmetry_error = 0.0
    failed = []
    if not slope_error <= tolerance:
        failed.append(f"differs from the slope of the gradient by {slope_error:.1e}")
    if not symmetry_error <= tolerance:
        failed.append(f"is asymmetric by {symmetry_error:.1e}")
    return SelfCheck(
        name,
        not failed,
        str(o.dtype).removeprefix("torch."),
        o.num_examples,
        slope_error,
        symmetry_error,
        " and ".join(failed),
    )


def _slope_error(o: Objective, v: Tensor, Hv: Tensor, relative_step: float, gradient_norm: float) -> float:
    h = relative_step * max(1.0, float(o.params.norm()))
    slope = (o.at(o.params + h * v).gradient() - o.at(o.params - h * v).gradient()) / (2 * h)
    # What rounding in the two gradients makes of a slope that is truly zero.
    noise = 10 * torch.finfo(o.dtype).eps * gradient_norm / h
    return _relative(Hv, slope, noise)


def _relative(a: Tensor, b: Tensor, noise: float) -> float:
    scale = max(float(a.norm()), float(b.norm()))
    difference = max(0.0, float((a - b).norm()) - noise)
    return difference / scale if scale > 0 and difference > 0 else 0.0


def _agrees_in_own_dtype(
    outcome: SelfCheck, own: Objective, precise: Objective, product: Product
) -> SelfCheck:
    v = normal(generator(0, "self-check"), own.space.dim, 2, like=precise.params)
    v /= v.norm(dim=0)
    error = _relative(product(own, v.to(own.dtype)).double(), product(precise, v), 0.0)
    if error <= TOLERANCE.get(own.dtype, COARSE_TOLERANCE):
        return outcome
    return dataclasses.replace(
        outcome, passed=False, reason=f"in {own.dtype} it differs from its float64 self by {error:.1e}"
    )


def _decade(x: float) -> float | None:
    if x != x:
        return None
    power = 1e-12
    while power < x:
        power *= 10
    return float(f"{power:.0e}")

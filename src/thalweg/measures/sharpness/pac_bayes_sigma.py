"""PAC-Bayes sigma: the noise on the parameters under which the loss rises by a given amount on average."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from thalweg.core.arguments import check_count, check_fraction, check_positive
from thalweg.core.errors import ConvergenceError, NonFiniteLossError
from thalweg.core.measurement import ErrorBudget, Measurement, StandardError
from thalweg.core.progress import Progress
from thalweg.core.rng import stream_seed
from thalweg.measures.sharpness.ball import scale_vector
from thalweg.measures.sharpness.crossings import first_crossings
from thalweg.measures.sharpness.gaussian_pairs import GaussianPairs
from thalweg.measures.sharpness.rises import Rises
from thalweg.measures.sharpness.scaling import Scaling, at_rest
from thalweg.objective.check_objective import check_objective
from thalweg.objective.objective import Objective

# Sigma of the first trial, as a part of the parameters' root mean square.
FIRST_TRIAL = 0.1

# Trials of a single pair that look for where to begin, and how far one may lead.
MOST_TRIALS = 8
LONGEST_TRIAL = 10.0

# The scan from there on: the mean of the pairs grows about as the square of sigma.
GROWTH = 1.25


@dataclass(frozen=True, kw_only=True, repr=False)
class PacBayesSigma(Measurement):
    """The standard deviation of noise at which the loss has risen by `target_rise` on average: `value`.

    In the unit of the parameters, or relative to them with a scaling. The smaller, the sharper.
    ``error.probe`` is the standard error from the directions drawn, ``error.solver`` the width of the
    bracket.

    Parameters
    ----------
    target_rise, scaling
        As asked.
    radius
        Root mean square length of that noise, ``value * sqrt(P)``, P counting the coordinates that move.
    loss
        At the centre, with the L2 term if there is one.
    samples
        ``(K,)`` float64: the mean rise of each pair at `value`; their mean is `target_rise` but for the
        solver's error.
    sigmas, mean_rises
        ``(M,)`` float64, ascending: what was tried with all pairs, and the mean rise there.
    num_evaluations
        Of the loss, each one pass over the data.
    """

    measure: ClassVar[str] = "pac_bayes_sigma"

    target_rise: float
    scaling: str
    radius: float
    loss: float
    samples: Tensor
    sigmas: Tensor
    mean_rises: Tensor
    num_evaluations: int


def pac_bayes_sigma(
    objective: Objective,
    *,
    target_rise: float = 0.1,
    scaling: Scaling = "none",
    num_samples: int = 8,
    rtol: float = 0.02,
    max_sigma: float = 10.0,
    seed: int,
    progress: Progress | None = None,
) -> PacBayesSigma:
    r"""Find sigma with :math:`\mathrm{E}\, L(\theta + \sigma T z) - L(\theta) = \Delta`, z standard normal.

    The target is a rise of the *loss*, as in the expected sharpness of Neyshabur et al. Dziugaite et al. and
    Jiang et al. choose sigma by the training *accuracy* instead, 0.1 of it lost, and their magnitude-aware
    variant adds a constant to each :math:`|w_i|`, which ``scaling="element"`` does not: a parameter that is
    zero does not move, and rescaled layers change nothing.

    The expectation is the mean over K antithetic pairs (`thalweg.measures.sharpness.gaussian_pairs`), the
    same ones at every sigma: a smooth curve, whose crossing is bracketed and then found to `rtol`. The
    standard error is the delta method's, :math:`s / (\sqrt K\, m'(\sigma))`, s being the spread of the pairs'
    rises at the crossing and m' the slope of their mean there, with K - 1 degrees of freedom. On the scale
    of sigma the pairs' skewness hardly shows (see `AverageSharpness`).

    L is ``objective.value()``, L2 term included; in ``"recalibrated"`` mode each point has its own
    statistics.

    Parameters
    ----------
    objective
        The point is the centre.
    target_rise
        :math:`\Delta`, positive, in the unit of the loss.
    scaling
        T, see `thalweg.measures.sharpness.ball.scale_vector`. ``"element"`` is the magnitude-aware variant.
    num_samples
        K, pairs, at least two. Each trial of a sigma costs two evaluations of the loss a pair; four or five
        are made with all pairs, after two or three with one.
    rtol
        Width of the bracket over sigma, in (0, 1).
    max_sigma
        Where the search ends.
    seed
        Of the directions: the same for every network of the same parameters' number and order.
    progress
        Called as ``progress(evaluations done, evaluations expected)``.

    Raises
    ------
    ValueError
        For a number out of range or an unknown scaling.
    ConvergenceError
        If the rise is not reached up to `max_sigma`; carries the partial `PacBayesSigma`, whose value is
        that.
    NonFiniteLossError
        If the loss is not finite at the centre, or stops being finite before it has risen so far.

    References
    ----------
    Neyshabur, Bhojanapalli, McAllester and Srebro (2017), Exploring Generalization in Deep Learning, NeurIPS;
    Dziugaite et al. (2020), In Search of Robust Measures of Generalization, NeurIPS; Jiang, Neyshabur,
    Mobahi, Krishnan and Bengio (2020), Fantastic Generalization Measures and Where to Find Them, ICLR.
    """
    check_objective("objective", objective)
    check_positive("target_rise", target_rise, "0.1, in the unit of the loss, is customary")
    check_positive("max_sigma", max_sigma, "10 is far for most networks")
    scale = scale_vector(objective, scaling)
    check_count("num_samples", num_samples, least=2)
    check_fraction("rtol", rtol, "0.02 brackets sigma to 2 %")
    stream_seed(seed)

    rises = Rises(objective, progress, expected=5 + 10 * num_samples)
    pairs = GaussianPairs(rises, scale, seed)
    seen: dict[float, Tensor] = {}

    def mean_rises(points: list[tuple[int, float]]) -> Tensor:
        for _, sigma in points:
            seen[sigma] = pairs.rises(sigma, range(num_samples), allow_non_finite=True)
        return torch.stack([seen[sigma].mean() for _, sigma in points])

    start = _first_sigma(objective, pairs, scale, target_rise, max_sigma)
    found = first_crossings(
        mean_rises, 1, level=target_rise, first=start, growth=GROWTH, limit=max_sigma, rtol=rtol
    )
    rises.finish()
    reached = bool(found.reached)
    lower, upper = float(found.lower), float(found.upper)
    sigma = float(found.distances) if reached else max_sigma
    error = ErrorBudget()
    if reached:
        if not bool(seen[upper].isfinite().all()):
            raise NonFiniteLossError(
                f"the loss is not finite at sigma = {upper:.4g}, before it has risen by {target_rise} on "
                f"average: at {lower:.4g} the rise is {float(seen[lower].mean()):.4g}. Lower `target_rise`."
            )
        slope = float(seen[upper].mean() - seen[lower].mean()) / (upper - lower)
        spread = float(seen[sigma].std()) / math.sqrt(num_samples)
        error = ErrorBudget(
            solver=float(found.bounds) or None,
            probe=StandardError(spread / slope, num_samples - 1) if spread else None,
        )
    sigmas = sorted(seen)
    result = PacBayesSigma(
        value=sigma,
        error=error,
        provenance={
            "function": "pac_bayes_sigma",
            "arguments": {
                "target_rise": target_rise,
                "scaling": scaling,
                "num_samples": num_samples,
                "rtol": rtol,
                "max_sigma": max_sigma,
                "seed": seed,
            },
            "objective": objective.describe(),
            "converged": reached,
            "at_rest": at_rest(scale, objective.params.dtype),
        },
        target_rise=float(target_rise),
        scaling=scaling,
        radius=sigma * math.sqrt(pairs.dim),
        loss=rises.loss,
        samples=seen[sigma],
        sigmas=torch.tensor(sigmas, dtype=torch.float64),
        mean_rises=torch.stack([seen[s].mean() for s in sigmas]),
        num_evaluations=rises.num_evaluations,
    )
    if not reached:
        raise ConvergenceError(
            f"up to `max_sigma` = {max_sigma} the loss rises by {float(seen[sigma].mean()):.4g} on average, "
            f"less than `target_rise` = {target_rise}: raise `max_sigma` or lower `target_rise`.",
            result,
        )
    return result


def _first_sigma(
    objective: Objective, pairs: GaussianPairs, scale: Tensor | None, target: float, most: float
) -> float:
    """About where the first pair alone rises by the target, taking rises to grow as the square of sigma."""
    length = float(torch.linalg.vector_norm(objective.params.cpu().double()))
    unit = math.sqrt(pairs.dim) if scale is None else float(torch.linalg.vector_norm(scale))
    sigma = min(FIRST_TRIAL * (length or unit) / unit, most)
    for _ in range(MOST_TRIALS):
        rise = float(pairs.rises(sigma, [0], allow_non_finite=True))
        factor = math.sqrt(target / rise) if rise > 0 else LONGEST_TRIAL
        factor = (
            min(max(factor, 1 / LONGEST_TRIAL), LONGEST_TRIAL) if math.isfinite(rise) else 1 / LONGEST_TRIAL
        )
        sigma, before = min(sigma * factor, most), sigma
        if sigma == before or 1 / GROWTH < factor < GROWTH:
            break
    return sigma

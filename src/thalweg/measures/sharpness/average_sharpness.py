"""Average-case sharpness: how far the loss rises on average under Gaussian noise on the parameters."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from thalweg.core.arguments import check_count, check_flag, check_fraction, check_positive, is_number
from thalweg.core.errors import ConvergenceError
from thalweg.core.measurement import ErrorBudget, Measurement, StandardError
from thalweg.core.progress import Progress
from thalweg.core.rng import stream_seed
from thalweg.core.rounding import at_least, at_most
from thalweg.linalg.trace_plan import wanted_probes
from thalweg.measures.sharpness.ball import scale_vector
from thalweg.measures.sharpness.gaussian_pairs import GaussianPairs
from thalweg.measures.sharpness.rises import Rises
from thalweg.measures.sharpness.scaling import Scaling, at_rest
from thalweg.objective.check_objective import check_objective
from thalweg.objective.evaluation import independent_unit
from thalweg.objective.objective import Objective
from thalweg.stats.clustered_mean import unit_means
from thalweg.stats.crossed_means import fold_standard_error

# Pairs of the first stage, whose variance settles how many there are at the least.
FIRST_STAGE = 24

# Pairs evaluated together.
BLOCK = 8


@dataclass(frozen=True, kw_only=True, repr=False)
class AverageSharpness(Measurement):
    r"""Mean rise of the loss under Gaussian noise: `value`, in the unit of the loss.

    ``error.probe`` is the standard error from the directions drawn, ``error.data``, with ``population=True``,
    that from the examples.

    Where all samples are positive, `interval` is symmetric not about the value v but about :math:`v^{-1/2}`,
    the scale of the noise that raises the loss by a given amount. Samples of a quadratic are sums of
    chi-squares: where few directions have most of the curvature they are so skewed that symmetric intervals
    miss on one side: of two equal directions 8 samples' cover 89 % where they say 95, these 94 %, and of a
    single one 94. The worst there is, one direction with half of the curvature beside a flat bulk, is covered
    by 86 to 89 % with 4 samples or 8, and by 92 to 93 when grown to a tolerance.

    Parameters
    ----------
    radius, scaling
        As asked.
    sigma
        Standard deviation of each coordinate's noise, in units of its scale: ``radius / sqrt(P)``, P counting
        the coordinates that move.
    num_samples
        K, antithetic pairs of directions.
    loss
        At the centre, with the L2 term if there is one.
    samples
        ``(K,)`` float64: the mean rise of each pair. The first are the same whatever K.
    """

    measure: ClassVar[str] = "average_sharpness"

    radius: float
    scaling: str
    sigma: float
    num_samples: int
    loss: float
    samples: Tensor

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided interval for the value at `level`; without an upper end if too little is known."""
        symmetric = super().interval(level)
        if not bool((self.samples > 0).all()):
            return symmetric
        part = self.error.half_width(level) / self.value / 2
        return self.value / (1 + part) ** 2, self.value / (1 - part) ** 2 if part < 1 else math.inf

    def __repr__(self) -> str:
        low, high = self.interval(0.95)
        number = f"{self.value:.6g}, {at_least(low, 3)} to {at_most(high, 3)} (95 %)"
        return f"{type(self).__name__}({', '.join([number, *self._circumstances()])})"


def average_sharpness(
    objective: Objective,
    *,
    radius: float = 1.0,
    scaling: Scaling = "none",
    num_samples: int | None = None,
    rtol: float = 0.1,
    atol: float = 0.0,
    max_samples: int = 200,
    population: bool = False,
    seed: int,
    progress: Progress | None = None,
) -> AverageSharpness:
    r"""Estimate the mean rise under Gaussian noise by antithetic pairs of perturbations.

    .. math:: \mathrm{E}\, L(\theta + \sigma T z) - L(\theta), \qquad z \sim N(0, I)

    The radius is the root mean square of :math:`\lVert T^{-1} \delta\rVert_2`, so that
    :math:`\sigma = r / \sqrt P`: noise of one length for every network. (With :math:`\sigma` itself held, as
    is common, the length grows with the square root of the number of parameters, and larger networks look
    sharper for having more of them.) To leading order the value is
    :math:`\frac{r^2}{2 P} \mathrm{tr}(T H T)`.

    With `num_samples` left open, pairs are drawn until the standard error is at most `rtol` of the value or
    `atol`, whichever is larger. It is made of the variance that the first 24 show (Stein 1945), or that all
    do, whichever is larger: skewed samples often show too little at first.

    L is ``objective.value()``, L2 term included; in ``"recalibrated"`` mode each point has its own
    statistics.

    Parameters
    ----------
    objective
        The point is the centre.
    radius
        r, positive. In single precision keep ``radius / sqrt(P)`` well above 1e-6 of the parameters, or use
        ``objective.to_dtype(torch.float64)``.
    scaling
        T, see `thalweg.measures.sharpness.ball.scale_vector`. ``"element"`` is adaptive average-case
        sharpness; r is then relative, and each parameter's noise is about ``radius / sqrt(P)`` of it.
    num_samples
        K, pairs, at least two; each costs two evaluations of the loss.
    rtol, atol
        Target standard error where `num_samples` is None. A value near nought, at a saddle say, needs `atol`.
    max_samples
        Most pairs in that case, at least 24.
    population
        Give a standard error for the distribution the examples are a sample of as well. The independent units
        are the examples, or the batches in ``"batch"`` mode. The same pairs are seen by all of them, so that
        ``error.data`` is what they add beyond the pairs' spread (`thalweg.stats.crossed_means`). Left out:
        recalibrated statistics, and the scale, are taken as given.
    seed
        Of the directions: the same for every network of the same parameters' number and order.
    progress
        Called as ``progress(evaluations done, evaluations expected)``.

    Raises
    ------
    ValueError
        For a number out of range, an unknown scaling, or ``population=True`` with a single independent unit.
    ConvergenceError
        If `max_samples` is spent first; carries the partial `AverageSharpness`.
    NonFiniteLossError
        If the loss is not finite at a point visited.

    References
    ----------
    Andriushchenko, Croce, Mueller, Hein and Flammarion (2023), A Modern Look at the Relationship between
    Sharpness and Generalization, ICML: average-case and adaptive sharpness. Stein (1945), Ann. Math. Statist.
    16(3): two stages.
    """
    check_objective("objective", objective)
    check_positive("radius", radius, "1.0 is a good start for noise on all parameters")
    scale = scale_vector(objective, scaling)
    check_fraction("rtol", rtol, "0.1 asks for 10 % standard error")
    if not is_number(atol) or not 0 <= atol < math.inf:
        raise ValueError(
            f"`atol` must be a finite number of at least 0, in the unit of the loss, got {atol!r}."
        )
    check_flag("population", population)
    first, most = FIRST_STAGE, max_samples
    if num_samples is not None:
        check_count("num_samples", num_samples, least=2)
        first = most = num_samples
    check_count("max_samples", max_samples, least=FIRST_STAGE)
    unit_size = independent_unit(objective, population)
    stream_seed(seed)

    rises = Rises(objective, progress, expected=1 + 2 * first)
    pairs = GaussianPairs(rises, scale, seed)
    sigma = radius / math.sqrt(pairs.dim)
    samples = torch.empty(0, dtype=torch.float64)
    tables: list[np.ndarray] = []  # (K, U) each: what every pair says of every unit
    weights = np.ones(1)

    def draw(count: int) -> None:
        nonlocal samples, weights
        stop = len(samples) + count
        rises.expect(2 * count)
        while len(samples) < stop:
            chosen = range(len(samples), min(len(samples) + BLOCK, stop))
            found, examples = pairs.rises_of_examples(sigma, chosen)
            samples = torch.cat([samples, found])
            if population:
                table, weights = unit_means(examples.numpy(), unit_size)
                tables.append(table)

    draw(first)
    dof, missing = first - 1, 0.0
    while True:
        variance = max(float(samples[:first].var()), float(samples.var()))
        if num_samples is not None:
            break
        target = max(rtol * abs(float(samples.mean())), atol)
        missing = wanted_probes(variance, target) - len(samples)
        if missing <= 0 or len(samples) == most:
            break
        draw(int(min(missing, most - len(samples))))
    rises.finish()

    standard_error = math.sqrt(variance / len(samples))
    data = fold_standard_error(np.concatenate(tables).T, weights) if population else None
    arguments: dict[str, Any] = {
        "radius": radius,
        "scaling": scaling,
        "num_samples": num_samples,
        "rtol": rtol,
        "atol": atol,
        "max_samples": max_samples,
        "population": population,
        "seed": seed,
    }
    result = AverageSharpness(
        value=float(samples.mean()),
        error=ErrorBudget(
            probe=StandardError(standard_error, dof) if standard_error else None,
            data=StandardError(*data) if data else None,
        ),
        provenance={
            "function": "average_sharpness",
            "arguments": arguments,
            "objective": objective.describe(),
            "converged": missing <= 0,
            "at_rest": at_rest(scale, objective.params.dtype),
        },
        radius=float(radius),
        scaling=scaling,
        sigma=sigma,
        num_samples=len(samples),
        loss=rises.loss,
        samples=samples,
    )
    if missing > 0:
        raise ConvergenceError(
            f"{len(samples)} pairs were drawn and the standard error of the mean rise {result.value:.4g} "
            f"is {standard_error:.2g}, above rtol = {rtol} of it and above atol = {atol}. Raise "
            "`max_samples` or a tolerance.",
            result,
        )
    return result

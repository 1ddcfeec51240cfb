r"""How far a whole surface may lie from that of all data: a sup-norm band by joint resampling.

With the means :math:`x_f` of F disjoint folds of the sample, whose shares of the examples are :math:`w_f`,
the surface is :math:`h = \sum_f w_f x_f`. A draw is

.. math:: G = \sqrt{\tfrac{F - 1}{\chi^2_{F-1}}}
          \sum_f e_f\, \sqrt{\tfrac{F}{F - 1}}\, w_f (x_f - h), \qquad e_f \sim N(0, 1),

the same multipliers at every point, since the points share their examples. At each single point G follows
Student's distribution with F - 1 degrees of freedom and the standard error of clustered sampling, so that few
folds widen the band; without the factor in front it would be the Gaussian multiplier bootstrap, which covers
too rarely with few. The band is the quantile of :math:`\sup |G|`.

References
----------
Chernozhukov, Chetverikov and Kato (2014), Anti-concentration and honest, adaptive confidence bands, Annals of
Statistics 42: the multiplier bootstrap of a supremum. Cochran (1977), Sampling Techniques, section 9A.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray

from thalweg.core.progress import Progress
from thalweg.core.rng import generator

# Draws at a time: bounds the memory to so many surfaces.
CHUNK = 100


def sup_norm_band(
    folds: NDArray[np.float64],
    sizes: NDArray[np.int64],
    *,
    margins: NDArray[np.float64] | float = 0.0,
    level: float,
    num_draws: int,
    seed: int,
    progress: Progress | None = None,
) -> float:
    """Half-width c of the band: all of the true surface lies within c of the one seen, at confidence `level`.

    Parameters
    ----------
    folds
        ``(F, M)``, the surface of each fold on M points.
    sizes
        ``(F,)``, examples of each.
    margins
        ``(M,)`` >= 0: so much of a point's error does no harm.
    level
        In (0, 1).
    num_draws
        B, at least ``level / (1 - level)``.
    seed
        Of the draws.
    progress
        Called as ``progress(draws done, draws in all)``.

    Raises
    ------
    ValueError
        For fewer than two folds, or too few draws for the level.
    """
    num_folds = len(sizes)
    if num_folds < 2:
        raise ValueError(f"the noise band needs at least two folds, got {num_folds}: one shows no spread.")
    # Of B + 1 exchangeable suprema, the one that happened is at most the k-th with probability k / (B + 1).
    rank = math.ceil(level * (num_draws + 1))
    if rank > num_draws:
        raise ValueError(
            f"`num_draws` must be at least {math.ceil(level / (1 - level))} for `level` = {level}, got "
            f"{num_draws}."
        )
    shares = torch.from_numpy(sizes / sizes.sum())[:, None]
    deviations = torch.from_numpy(folds)
    deviations = shares * (deviations - (shares * deviations).sum(0)) * math.sqrt(num_folds / (num_folds - 1))
    spare = torch.as_tensor(margins, dtype=torch.float64)
    rng = generator(seed, "noise_band")
    suprema = torch.empty(num_draws, dtype=torch.float64)
    for start in range(0, num_draws, CHUNK):
        part = suprema[start : start + CHUNK]
        multipliers = torch.randn(len(part), num_folds, generator=rng, dtype=torch.float64)
        chi_square = torch.randn(len(part), num_folds - 1, generator=rng, dtype=torch.float64).square().sum(1)
        scale = ((num_folds - 1) / chi_square).sqrt()
        errors = (multipliers @ deviations).abs_() * scale[:, None]
        part.copy_((errors - spare).amax(1).clamp(min=0))
        if progress:
            progress(start + len(part), num_draws)
    return float(suprema.kthvalue(rank).values)

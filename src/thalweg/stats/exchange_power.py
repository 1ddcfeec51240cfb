"""Which rank correlation a grid can show by exchanging its levels."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import scipy
from numpy.typing import NDArray

from thalweg.core.arguments import check_fraction
from thalweg.stats.cell_exchange import is_grid, level_orders, num_exchanges
from thalweg.stats.permutation import ROUNDING

Array = NDArray[np.float64]

# Grids that are made up, the same for every strength of the relation.
NUM_DRAWS = 200
SEED = 0

# Exchanges, where there are too many to go through.
NUM_DRAWN = 999


def detectable_tau(sizes: Sequence[int], num_cells: int, *, level: float = 0.95, power: float = 0.8) -> float:
    r"""Kendall's tau between two quantities of settings that exchange finds with probability `power`, about.

    Of a grid both are taken as sums of normal effects, one a level, correlated by rho from level to level;
    what exchange of the levels finds of their inner product is counted, and
    :math:`\tau = \frac{2}{\pi} \arcsin \rho`. Where hyperparameters act together settings are more
    independent and less is needed. Of settings that are no grid it is by Kendall's (1938) variance under no
    relation.

    Parameters
    ----------
    sizes
        Levels of each axis, those of two levels at least.
    num_cells
        Settings.
    level, power
        Of the test, two-sided, corrections included; of finding it.

    Returns
    -------
    float
        NaN if nothing could be found whatever tau.

    References
    ----------
    Kendall (1938), Biometrika 30, 81-93.

    Examples
    --------
    >>> round(detectable_tau([3, 3, 3, 2], 54), 1), round(detectable_tau([24] * 3, 24), 1)
    (0.7, 0.4)
    """
    check_fraction("level", level, "0.95 is customary")
    check_fraction("power", power, "0.8 is customary")
    if not is_grid(sizes, num_cells):
        variance = 2 * (2 * num_cells + 5) / (9 * num_cells * (num_cells - 1))
        return min(
            1.0,
            float(scipy.special.ndtri(0.5 + level / 2) + scipy.special.ndtri(power)) * math.sqrt(variance),
        )
    alpha = 1 - level + 1e-12
    if alpha < 2 / num_exchanges(sizes, num_cells):
        return math.nan
    rng = np.random.default_rng(SEED)
    effects = [_centred(rng.normal(size=(2, NUM_DRAWS, size))) for size in sizes]
    orders = level_orders(sizes, NUM_DRAWN, SEED)

    def missing(rho: float) -> float:
        null = np.zeros((len(orders[0]), NUM_DRAWS))
        for (a, rest), order in zip(effects, orders, strict=True):
            b = rho * a + math.sqrt(1 - rho**2) * rest
            null += np.einsum("dl,del->ed", a, b[:, order])
        reached = (null >= null[0] - ROUNDING * np.abs(null[0])).mean(0)
        return power - float((2 * reached <= alpha).mean())

    # A step function: the least strength that is enough, to a hundredth.
    if missing(0.0) <= 0:
        return 0.0
    rho = float(scipy.optimize.bisect(lambda r: missing(r) or -1e-9, 0.0, 1.0, xtol=1e-3))  # type: ignore[arg-type]
    return 2 / math.pi * math.asin(min(1.0, rho))


def _centred(x: Array) -> Array:
    return x - x.mean(-1, keepdims=True)

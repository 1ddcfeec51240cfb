"""How many units a difference needs, and which difference so many can show."""

from __future__ import annotations

import math

from scipy import optimize, stats

from thalweg.core.arguments import check_fraction, is_number

MOST_UNITS = 100_000


def detectable_difference(
    num_a: int, num_b: int, *, paired: bool = False, level: float = 0.95, power: float = 0.8
) -> float:
    """The difference of means that an interval at `level` keeps off nought with probability `power`.

    Parameters
    ----------
    num_a, num_b
        Units of the groups, at least two; of pairs, one number twice.
    paired
        Whether the differences of pairs are the units.
    level, power
        Of the two-sided interval; of seeing it.

    Returns
    -------
    float
        In standard deviations: of a group (both taken as equally wide), or of the pairs' differences.

    References
    ----------
    Cohen (1988), Statistical Power Analysis, chapter 2; by the noncentral t distribution.

    Examples
    --------
    >>> round(detectable_difference(5, 5), 2), round(detectable_difference(20, 20), 2)
    (2.02, 0.91)
    """
    check_fraction("level", level, "0.95 is customary")
    check_fraction("power", power, "0.8 is customary")
    if min(num_a, num_b) < 2:
        raise ValueError(f"`num_a` and `num_b` must be at least 2, got {num_a} and {num_b}.")
    dof = num_a - 1 if paired else num_a + num_b - 2
    root = math.sqrt(num_a if paired else num_a * num_b / (num_a + num_b))
    quantile = float(stats.t.ppf(0.5 + level / 2, dof))

    def missing(noncentrality: float) -> float:
        return float(stats.nct.cdf(quantile, dof, noncentrality)) - (1 - power)

    high = 1.0
    while missing(high) > 0:
        high *= 1.5
    return float(optimize.brentq(missing, 0.0, high)) / root  # type: ignore[arg-type]


def units_needed(difference: float, *, paired: bool = False, level: float = 0.95, power: float = 0.8) -> int:
    """Least units of each group, or pairs, that show a `difference`, in the standard deviations meant above.

    >>> units_needed(2.1), units_needed(0.5)
    (5, 64)
    """
    if not is_number(difference) or not difference > 0:
        raise ValueError(f"`difference` must be a number of standard deviations > 0, got {difference!r}.")

    def shows(num: int) -> bool:
        return detectable_difference(num, num, paired=paired, level=level, power=power) <= difference

    high = 2
    while not shows(high):
        high *= 2
        if high > MOST_UNITS:
            raise ValueError(
                f"`difference` of {difference:g} standard deviations needs more than {high // 2:,} units."
            )
    low = high // 2
    while high - low > 1 and high > 2:
        middle = (low + high) // 2
        low, high = (low, middle) if shows(middle) else (middle, high)
    return high


def seeds_needed(
    difference: float,
    spread: float,
    *,
    ratio: bool = True,
    paired: bool = False,
    num_claims: int = 1,
    level: float = 0.95,
    power: float = 0.8,
) -> int:
    """Seeds of each group that let `thalweg.stats.verdicts.judge` find a difference (or a ratio).

    `spread` is the standard deviation from seed to seed (of logarithms with `ratio`; of the pairs'
    differences if `paired`).
    """
    raise NotImplementedError


def seeds_for_equivalence(
    margin: float,
    spread: float,
    *,
    ratio: bool = True,
    paired: bool = False,
    num_claims: int = 1,
    level: float = 0.95,
    power: float = 0.8,
) -> int:
    """Seeds of each group that let equivalence within `margin` be found where the groups do not differ."""
    raise NotImplementedError

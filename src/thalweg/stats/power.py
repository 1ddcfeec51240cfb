"""How many units a difference needs, and which difference so many can show."""

from __future__ import annotations

import math
from collections.abc import Callable

import scipy

from thalweg.core.arguments import check_count, check_fraction, check_positive, is_number
from thalweg.core.distributions import student_quantile
from thalweg.stats.permutation import smallest_p_value

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
    quantile = float(student_quantile(0.5 + level / 2, dof))

    def missing(noncentrality: float) -> float:
        return float(scipy.special.nctdtr(dof, noncentrality, quantile)) - (1 - power)

    high = 1.0
    while missing(high) > 0:
        high *= 1.5
    return float(scipy.optimize.brentq(missing, 0.0, high)) / root  # type: ignore[arg-type]


def units_needed(difference: float, *, paired: bool = False, level: float = 0.95, power: float = 0.8) -> int:
    """Least units of each group, or pairs, that show a `difference`, in the standard deviations meant above.

    >>> units_needed(2.1), units_needed(0.5)
    (5, 64)
    """
    if not is_number(difference) or not difference > 0:
        raise ValueError(f"`difference` must be a number of standard deviations > 0, got {difference!r}.")

    def shows(num: int) -> bool:
        return detectable_difference(num, num, paired=paired, level=level, power=power) <= difference

    return _least(shows, f"`difference` of {difference:g} standard deviations needs more than {{:,}} units.")


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
    """Seeds of each group, or pairs, that let `thalweg.stats.verdicts.judge` find a difference.

    Its p-value has to pass Student's distribution and relabelling. The latter takes steps: of so few runs
    some levels cannot be reached at all, and in place of others a smaller one is kept. Student's power at
    that one is taken, which simulation confirms to three points in a hundred.

    Parameters
    ----------
    difference
        Of means; with `ratio`, of geometric means, as a factor other than one, 1.2 or 1 / 1.2.
    spread
        Standard deviation from seed to seed within a group, errors of measuring included; with `ratio` that
        of the logarithms, about the coefficient of variation; with `paired` that of the pairs' differences.
    num_claims
        How many claims the family holds; the one asked about is taken to come first in Holm's order, where
        it has to pass the hardest level.
    level, power
        Of the family; of finding the difference.

    Raises
    ------
    ValueError
        If an argument is none, or more than 65,536 seeds were needed.

    Examples
    --------
    >>> seeds_needed(1.5, 0.2), seeds_needed(1.5, 0.2, paired=True), seeds_needed(1.1, 0.2)
    (6, 6, 71)
    """
    if not is_number(difference) or difference == (1 if ratio else 0) or (ratio and not difference > 0):
        wanted = "a factor > 0 other than 1" if ratio else "a number other than 0"
        raise ValueError(f"`difference` must be {wanted}, got {difference!r}.")
    size = abs(math.log(difference)) if ratio else abs(float(difference))

    def shows(num: int, kept: float) -> bool:
        found = detectable_difference(num, num, paired=paired, level=1 - kept, power=power)
        return found * spread <= size

    return _fewest(shows, spread, paired, num_claims, level, power)


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
    """Seeds of each group, or pairs, that show two groups that do not differ to be equivalent.

    Parameters
    ----------
    margin
        A difference > 0, or with `ratio` a factor > 1.
    spread, num_claims, level, power
        As in `seeds_needed`.

    References
    ----------
    Schuirmann (1987), J. Pharmacokinetics and Biopharmaceutics 15, 657-680.

    Examples
    --------
    >>> seeds_for_equivalence(1.5, 0.2), seeds_for_equivalence(1.1, 0.2)
    (7, 94)
    """
    least = 1 if ratio else 0
    if not is_number(margin) or not margin > least:
        raise ValueError(f"`margin` must be a number > {least}, got {margin!r}.")
    size = math.log(margin) if ratio else float(margin)

    def shows(num: int, kept: float) -> bool:
        dof = num - 1 if paired else 2 * num - 2
        error = spread / math.sqrt(num if paired else num / 2)
        quantile = float(student_quantile(1 - kept / 2, dof))

        def inside(share: float) -> float:
            """That the interval lies within the margins, at this quantile of its own width."""
            # A chi-squared number over its degrees of freedom, and the normal law: hundreds of them a call.
            width = quantile * error * math.sqrt(float(scipy.special.gammaincinv(dof / 2, share)) / (dof / 2))
            return max(0.0, 2 * float(scipy.special.ndtr((size - width) / error)) - 1)

        # Wider than this it does not fit whatever the difference.
        fits = float(scipy.special.chdtr(dof, dof * (size / (quantile * error)) ** 2))
        return float(scipy.integrate.quad(inside, 0.0, fits, limit=200)[0]) >= power

    return _fewest(shows, spread, paired, num_claims, level, power)


def kept_alpha(
    num_a: int, num_b: int, *, paired: bool = False, num_claims: int = 1, level: float = 0.95
) -> float:
    """The largest p-value that still decides, of those that relabelling so many runs can give.

    Nought if none does: a family of `num_claims` leaves its first claim (1 - level) / `num_claims`.

    >>> [round(kept_alpha(n, n), 4) for n in (3, 4, 6)], kept_alpha(4, 4, num_claims=2)
    ([0.0, 0.0286, 0.0498], 0.0)
    """
    smallest = smallest_p_value(num_a, num_b, paired=paired)
    # In the last digit 1 - 0.95 is not 0.05.
    return math.floor((1 - level) / num_claims / smallest + 1e-9) * smallest


def runs_to_decide(*, paired: bool = False, num_claims: int = 1, level: float = 0.95) -> int:
    """Least units of each group, or pairs, that relabelling can decide anything of, whatever the values.

    Raises
    ------
    ValueError
        If so many claims are too many for any number of relabellings.

    Examples
    --------
    >>> runs_to_decide(), runs_to_decide(paired=True), runs_to_decide(num_claims=4)
    (4, 6, 5)
    """
    check_count("num_claims", num_claims)
    check_fraction("level", level, "0.95 is customary")
    wanted = (1 - level) / num_claims

    def can(num: int) -> bool:
        return smallest_p_value(num, num, paired=paired) <= wanted + 1e-12  # 1 - 0.95 is not 0.05

    return _least(can, f"`num_claims` of {num_claims} are too many: {{:,}} units cannot decide one.")


def _fewest(
    shows: Callable[[int, float], bool],
    spread: float,
    paired: bool,
    num_claims: int,
    level: float,
    power: float,
) -> int:
    """Least number that shows it at the level that is kept for so many runs and claims."""
    check_positive("spread", spread, "that of the values of earlier runs")
    check_count("num_claims", num_claims)
    check_fraction("level", level, "0.95 is customary")
    check_fraction("power", power, "0.8 is customary")

    def suffices(num: int) -> bool:
        kept = kept_alpha(num, num, paired=paired, num_claims=num_claims, level=level)
        return kept > 0 and shows(num, kept)

    return _least(suffices, f"`spread` of {spread:g} asks for more than {{:,}} seeds of each group.")


def _least(suffices: Callable[[int], bool], too_many: str) -> int:
    """Least number from two on that does, by halving; the words in which more than so many are refused."""
    high = 2
    while not suffices(high):
        high *= 2
        if high > MOST_UNITS:
            raise ValueError(too_many.format(high // 2))
    low = high // 2
    while high - low > 1 and high > 2:
        middle = (low + high) // 2
        low, high = (low, middle) if suffices(middle) else (middle, high)
    return high

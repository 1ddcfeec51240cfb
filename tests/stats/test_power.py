"""Power: by simulation."""

import math

import numpy as np
import pytest
from scipy import stats

from thalweg.stats.power import detectable_difference, units_needed


@pytest.mark.parametrize(("n", "m", "power"), [(3, 3, 0.8), (5, 5, 0.5), (4, 9, 0.9)])
def test_the_detectable_difference_is_detected_that_often(n, m, power):
    rng = np.random.default_rng(0)
    shift = detectable_difference(n, m, power=power)
    x, y = rng.normal(size=(20_000, n)) + shift, rng.normal(size=(20_000, m))
    seen = (stats.ttest_ind(x, y, axis=1).pvalue < 0.05).mean()
    # The far side's false finds, which the definition leaves out, are below a tenth of a percent.
    assert abs(seen - power) < 4 * math.sqrt(power * (1 - power) / 20_000) + 1e-3


def test_of_pairs():
    rng = np.random.default_rng(0)
    d = rng.normal(size=(20_000, 6)) + detectable_difference(6, 6, paired=True)
    assert abs((stats.ttest_1samp(d, 0, axis=1).pvalue < 0.05).mean() - 0.8) < 0.012


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("difference", [0.2, 1.0, 2.5, 30.0])
def test_units_needed_are_the_fewest(difference, paired):
    n = units_needed(difference, paired=paired)
    assert detectable_difference(n, n, paired=paired) <= difference
    assert n == 2 or detectable_difference(n - 1, n - 1, paired=paired) > difference


def test_bad_input():
    with pytest.raises(ValueError, match="`difference` must be a number of standard deviations > 0, got 0"):
        units_needed(0)
    with pytest.raises(ValueError, match=r"`difference` of 1e-06 standard deviations needs more than 65,536"):
        units_needed(1e-6)
    with pytest.raises(ValueError, match="`num_a` and `num_b` must be at least 2, got 1 and 5"):
        detectable_difference(1, 5)
    with pytest.raises(ValueError, match=r"`power` must lie in \(0, 1\), got 80"):
        detectable_difference(5, 5, power=80)

"""`Tolerance`: what two arguments allow."""

import math

import numpy as np
import pytest

from thalweg.core.tolerance import Tolerance


def test_the_larger_of_both_counts() -> None:
    found = Tolerance.checked(("atol", 0.1), ("rtol", 0.5))
    assert found is not None
    assert found(np.array([0.0, 0.1, -1.0])).tolist() == [0.1, 0.1, 0.5]
    assert Tolerance.checked(("atol", None), ("rtol", 0.5)) == Tolerance(0.0, 0.5)
    assert Tolerance.checked(("atol", None), ("rtol", None)) is None


@pytest.mark.parametrize("bad", [-0.1, math.inf, math.nan, "1", True])
def test_no_number_is_refused(bad) -> None:
    with pytest.raises(ValueError, match="`rtol` must be a finite number >= 0 or None"):
        Tolerance.checked(("atol", None), ("rtol", bad))


def test_nought_alone_allows_nothing() -> None:
    with pytest.raises(ValueError, match="`atol` or `rtol` must be positive, got 0 and None"):
        Tolerance.checked(("atol", 0), ("rtol", None))

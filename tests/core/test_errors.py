import pytest

from thalweg.core import errors


@pytest.mark.parametrize(
    "name", ["ConvergenceError", "NonFiniteLossError", "NondeterminismError", "DerivativeError", "DataError"]
)
def test_numerics_errors_share_a_base_that_is_no_value_error(name):
    error = getattr(errors, name)
    assert issubclass(error, errors.ThalwegError)
    assert not issubclass(error, ValueError | TypeError)


def test_convergence_error_carries_the_partial_result():
    error = errors.ConvergenceError("spent 10 products", partial={"value": 3.0})
    assert str(error) == "spent 10 products"
    assert error.partial == {"value": 3.0}
    assert "`partial`" in error.__notes__[0]
    without = errors.ConvergenceError("spent")
    assert without.partial is None
    assert not hasattr(without, "__notes__")

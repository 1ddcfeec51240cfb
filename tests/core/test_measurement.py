import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from thalweg.core.measurement import (
    INLINE_ENTRIES,
    ErrorBudget,
    Measurement,
    StandardError,
    hash_tensors,
)


@pytest.fixture(scope="module")
def example_class():
    """A result class with every kind of field; out of the registry again afterwards."""

    @dataclass(frozen=True, kw_only=True)
    class Example(Measurement):
        measure = "test_example"
        vector: Tensor | None = None
        count: int = 0
        bound: float = 0.0
        maybe: float | None = None
        name: str = ""
        samples: tuple[float, ...] = ()
        nested: Measurement | None = None
        table: dict | None = None

    yield Example
    del Measurement.classes["test_example"]


def round_trip(measurement, arrays=None):
    text = json.dumps(measurement.to_dict(arrays), allow_nan=False)
    return Measurement.from_dict(json.loads(text), arrays)


# -- error budgets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("dof", [1, 4, 7.5, 100, math.inf])
def test_standard_error_interval_is_students(level, dof):
    expected = stats.t.interval(level, dof, loc=0, scale=0.3)[1]
    if dof == math.inf:
        expected = stats.norm.interval(level, scale=0.3)[1]
    assert StandardError(0.3, dof).half_width(level) == pytest.approx(expected, rel=1e-12)


def test_budget_adds_parts_in_quadrature_and_the_bound_on_top():
    probe, data = StandardError(0.3, 5), StandardError(0.4, 9)
    t = stats.t.ppf(0.975, [5, 9])
    expected = 0.1 + math.hypot(0.3 * t[0], 0.4 * t[1])
    budget = ErrorBudget(solver=0.1, probe=probe, data=data)
    assert budget.half_width() == pytest.approx(expected, rel=1e-12)
    result = Measurement(value=2.0, error=budget)
    assert result.interval() == pytest.approx((2 - expected, 2 + expected))
    assert result.interval(0.5)[1] < result.interval(0.95)[1]


def test_exact_parts_count_as_nothing():
    assert ErrorBudget().half_width() == 0
    assert ErrorBudget(solver=0.0, probe=StandardError(0.0, 3)).half_width() == 0
    assert ErrorBudget(solver=0.25).half_width(0.5) == 0.25, "a bound holds at every level"
    assert Measurement(value=1.5).interval() == (1.5, 1.5)


@pytest.mark.parametrize(
    "part", [StandardError(math.nan, 0), StandardError(0.0, 0), StandardError(math.nan, 5)]
)
def test_an_unknown_standard_error_is_never_exact(part):
    assert ErrorBudget(data=part).half_width() == math.inf
    assert Measurement(value=1.0, error=ErrorBudget(data=part)).interval() == (-math.inf, math.inf)


def test_student_intervals_cover_at_their_level():
    # 2,000 means of five normal numbers: the interval must hold the truth in 95 % of them, within 3 sigma.
    x = np.random.default_rng(0).normal(3.0, 2.0, size=(2000, 5))
    errors = x.std(axis=1, ddof=1) / 5**0.5
    hits = 0
    for mean, error in zip(x.mean(axis=1), errors, strict=True):
        low, high = Measurement(
            value=float(mean), error=ErrorBudget(probe=StandardError(float(error), 4))
        ).interval()
        hits += low <= 3.0 <= high
    assert abs(hits / 2000 - 0.95) < 3 * (0.95 * 0.05 / 2000) ** 0.5


@pytest.mark.parametrize("level", [0.0, 1.0, 95, -0.1, math.nan])
def test_a_level_outside_nought_and_one_is_refused(level):
    with pytest.raises(ValueError, match="`level` must lie in"):
        Measurement(value=1.0).interval(level)


@pytest.mark.parametrize("value", [-0.1, math.nan])
def test_a_bound_must_be_one(value):
    with pytest.raises(ValueError, match="`solver` must be a bound >= 0"):
        ErrorBudget(solver=value)
    with pytest.raises(ValueError, match="`grid` must be an estimate >= 0"):
        ErrorBudget(grid=value)


def test_what_a_grid_may_have_missed_is_added_and_never_called_a_bound():
    chance = StandardError(0.1)
    assert ErrorBudget(grid=0.25).half_width() == 0.25
    both = ErrorBudget(solver=0.5, data=chance, grid=0.25).half_width()
    assert both == pytest.approx(0.75 + chance.half_width(0.95))
    assert "(grid estimated)" in repr(Measurement(value=1.0, error=ErrorBudget(grid=0.25)))
    assert "(95 %, grid estimated)" in repr(Measurement(value=1.0, error=ErrorBudget(data=chance, grid=0.25)))
    assert "bound" not in repr(Measurement(value=1.0, error=ErrorBudget(solver=0.5, grid=0.25)))


def test_a_negative_standard_error_is_refused():
    with pytest.raises(ValueError, match="must be >= 0, got -1"):
        StandardError(-1.0)


@pytest.mark.parametrize(
    "budget",
    [
        ErrorBudget(),
        ErrorBudget(solver=0.1),
        ErrorBudget(solver=math.inf),
        ErrorBudget(probe=StandardError(0.2), data=StandardError(0.3, 7)),
        ErrorBudget(data=StandardError(0.0, 7)),
        ErrorBudget(grid=0.1),
    ],
)
def test_budgets_survive_json(budget):
    text = json.dumps(budget.to_dict(), allow_nan=False)
    assert ErrorBudget.from_dict(json.loads(text)) == budget


def test_an_unknown_standard_error_survives_json():
    budget = ErrorBudget(data=StandardError(math.nan, 0))
    back = ErrorBudget.from_dict(json.loads(json.dumps(budget.to_dict(), allow_nan=False)))
    assert back.data is not None
    assert math.isnan(back.data.value)
    assert back.half_width() == math.inf


# -- measurements ------------------------------------------------------------------------------------


def test_round_trip_of_every_kind_of_field(example_class):
    original = example_class(
        value=1.25,
        error=ErrorBudget(solver=0.5),
        provenance={
            "function": "f",
            "arguments": {"k": 1, "shape": (2, 3)},
            "objective": {"batch_norm": "batch"},
        },
        vector=torch.tensor([1.0, math.nan, 0.1], dtype=torch.float64),
        count=3,
        bound=math.nan,
        name="x",
        samples=(0.1, 0.2),
        nested=example_class(value=2.0),
        table={"a": torch.arange(3)},
    )
    back = round_trip(original)
    assert type(back) is example_class
    assert back == original
    assert math.isnan(back.bound), "a number field gets its NaN back, not None"
    assert back.maybe is None
    assert back.samples == (0.1, 0.2)
    assert back.nested == original.nested
    assert torch.equal(back.table["a"], torch.arange(3))


def test_nan_is_null(example_class):
    raw = example_class(value=math.nan, bound=math.nan, vector=torch.tensor([math.nan])).to_dict()
    assert raw["value"] is None
    assert raw["bound"] is None
    assert raw["vector"]["tensor"] == [None]
    assert math.isnan(round_trip(example_class(value=math.nan)).value)


@pytest.mark.parametrize(
    "dtype",
    [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool],
)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,), (0, 3), (3, 0)])
def test_tensors_survive_json_bit_for_bit(example_class, dtype, shape):
    tensor = (torch.randn(shape, dtype=torch.float64) * 3).to(dtype)
    back = round_trip(example_class(value=0.0, vector=tensor)).vector
    assert back.dtype == dtype
    assert back.shape == tensor.shape
    assert torch.equal(back, tensor)


def test_large_integers_stay_exact(example_class):
    tensor = torch.tensor([2**62 + 1, -(2**53) - 1])
    assert torch.equal(round_trip(example_class(value=0.0, vector=tensor)).vector, tensor)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_large_arrays_go_to_safetensors_named_by_hash(example_class, tmp_path, dtype):
    large = (torch.randn(INLINE_ENTRIES + 1) * 10).to(dtype)
    original = example_class(value=0.0, vector=large)
    raw = original.to_dict(tmp_path / "arrays")
    assert raw["vector"] == {"array": f"{hash_tensors(large)}.safetensors", "shape": [INLINE_ENTRIES + 1]}
    assert [p.name for p in (tmp_path / "arrays").iterdir()] == [raw["vector"]["array"]]
    assert round_trip(original, tmp_path / "arrays") == original
    assert len(list((tmp_path / "arrays").iterdir())) == 1, "the same array is written once"


def test_large_arrays_that_are_views_and_nan_survive(example_class, tmp_path):
    large = torch.randn(90, 100)[:, ::2].clone().T
    large[0, 0] = math.nan
    original = example_class(value=0.0, vector=large, nested=example_class(value=1.0, vector=large))
    assert round_trip(original, tmp_path) == original, "nested results keep theirs too"


def test_without_a_folder_large_arrays_are_named_as_omitted(example_class):
    raw = example_class(value=0.0, vector=torch.zeros(INLINE_ENTRIES + 1)).to_dict()
    assert raw["omitted"] == ["vector"]
    assert "vector" not in raw
    assert Measurement.from_dict(raw).vector is None
    inline = example_class(value=0.0, vector=torch.zeros(INLINE_ENTRIES)).to_dict()
    assert "omitted" not in inline


def test_keys_come_in_the_order_of_a_record(example_class):
    assert list(example_class(value=0.0).to_dict())[:4] == ["measure", "value", "error", "provenance"]


def test_a_record_can_be_read_as_it_is(example_class):
    raw = {**example_class(value=1.0).to_dict(), "run": "abc", "seconds": 3, "labels": {"model": "A1"}}
    assert Measurement.from_dict(raw) == example_class(value=1.0)


@pytest.mark.parametrize("raw", [{"measure": "nonsense"}, {}])
def test_an_unknown_measure_names_the_known_ones(example_class, raw):
    with pytest.raises(ValueError, match=r"unknown measure .*; known: .*test_example"):
        Measurement.from_dict(raw)


def test_what_has_no_json_form_is_refused(example_class):
    with pytest.raises(TypeError, match="object has no JSON form"):
        example_class(value=0.0, table={"x": object()}).to_dict()


def test_numpy_and_infinite_numbers_are_json_safe(example_class):
    table = {"a": np.float32(0.5), "b": np.int64(3), "c": np.arange(3), "d": math.inf, "e": np.bool_(True)}
    raw = json.loads(json.dumps(example_class(value=0.0, table=table).to_dict(), allow_nan=False))
    assert raw["table"]["a"] == 0.5
    assert raw["table"]["b"] == 3
    assert raw["table"]["c"]["tensor"] == [0, 1, 2]
    assert raw["table"]["d"] == "inf"
    assert raw["table"]["e"] is True


def test_repr_is_one_line_with_the_uncertainty(example_class):
    exact = example_class(value=57.183, vector=torch.zeros(1000))
    assert repr(exact) == "Example(57.183 exact)"
    spread = example_class(
        value=57.183,
        error=ErrorBudget(solver=0.21),
        provenance={"objective": {"batch_norm": "recalibrated"}},
    )
    assert repr(spread) == "Example(57.183 ± 0.21 (bound), batch norm recalibrated)"
    drawn = example_class(value=57.183, error=ErrorBudget(probe=StandardError(0.1)))
    assert repr(drawn) == "Example(57.183 ± 0.2 (95 %))"
    partial = example_class(value=10.0, provenance={"converged": False})
    assert repr(partial) == "Example(10, not converged)"


def test_equality_sees_every_field_and_bears_tensors_and_nan(example_class):
    def build(**changes):
        return example_class(
            **{"value": math.nan, "vector": torch.tensor([1.0, math.nan]), "count": 1, **changes}
        )

    assert build() == build()
    assert hash(build()) == hash(build())
    assert build() != build(vector=torch.tensor([1.0, 2.0]))
    assert build() != build(vector=torch.tensor([1.0, math.nan], dtype=torch.float64))
    assert build() != build(vector=None)
    assert build() != build(count=2)
    assert build() != build(value=0.0)
    assert build() != build(error=ErrorBudget(solver=0.0))
    assert build() != Measurement(value=math.nan)


def test_results_are_frozen(example_class):
    with pytest.raises(AttributeError, match="cannot assign"):
        example_class(value=1.0).value = 2.0


def test_hash_tensors_sees_dtype_shape_and_bytes_but_no_layout():
    x = torch.arange(24, dtype=torch.float32).reshape(2, 3, 2, 2)
    assert hash_tensors(x) == hash_tensors(x.to(memory_format=torch.channels_last))
    assert hash_tensors(x) == hash_tensors(x.clone().requires_grad_())
    others = [x.double(), x.reshape(2, 12), x + 1, torch.zeros(0), torch.zeros(0, 2), x.bfloat16(), x > 3]
    hashes = {hash_tensors(t) for t in [x, *others]}
    assert len(hashes) == 8
    assert hash_tensors(torch.zeros(3)) != hash_tensors(torch.zeros(3, dtype=torch.int32)), "the same bytes"
    assert hash_tensors(x, x) != hash_tensors(x)
    assert len(hash_tensors(x)) == 16
    assert hash_tensors(torch.tensor(1.0)) != hash_tensors(torch.tensor([1.0]))

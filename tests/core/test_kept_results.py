"""Whole results in a store: back to the bit, or refused."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from thalweg.core.array_store import ArrayStore
from thalweg.core.errors import DataError
from thalweg.core.kept_results import kept
from thalweg.core.measurement import ErrorBudget, Measurement, StandardError


@dataclass(frozen=True, kw_only=True, repr=False)
class Long(Measurement):
    """A result with arrays beyond what a line of JSON holds, and one within another."""

    measure: ClassVar[str] = "long"

    large: Tensor
    flags: Tensor
    inner: Measurement | None = None
    odd: Any = None


def result(**more: Any) -> Long:
    large = torch.randn(70, 70, generator=torch.Generator().manual_seed(0))
    large[3, 4], large[5, 6] = math.nan, math.inf
    return Long(
        value=0.1 + 0.2,
        error=ErrorBudget(1e-300, StandardError(1 / 3, 4), None),
        provenance={"function": "long", "arguments": {"x": [1, 2.5, None]}},
        large=large,
        flags=torch.tensor([True, False]),
        **more,
    )


def test_a_result_comes_back_to_the_bit_and_is_taken_once(tmp_path) -> None:
    taken: list[int] = []

    def take() -> Measurement:
        taken.append(1)
        return result(inner=result())

    store = ArrayStore(tmp_path)
    first, second = kept(store, "k", take), kept(store, "k", take)
    assert len(taken) == 1
    for found in (first, second):
        assert found == result(inner=result())
        assert found.large.dtype == torch.float32
        assert found.flags.dtype == torch.bool
    assert kept(None, "k", take) == first
    assert len(taken) == 2


def test_a_result_that_does_not_survive_is_refused_and_not_kept(tmp_path) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Nameless(Measurement):
        """Of no measure that could be looked up."""

    with pytest.raises(TypeError, match="`store` must be able to keep the result, but a Nameless does not"):
        kept(ArrayStore(tmp_path), "k", lambda: Nameless(value=1.0, error=ErrorBudget(), provenance={}))
    with pytest.raises(TypeError, match="`store` must be able to keep the result, but a Long does not"):
        kept(ArrayStore(tmp_path), "k", lambda: result(odd=math.inf))
    assert not list(tmp_path.iterdir())


def test_a_failure_is_not_kept(tmp_path) -> None:
    def fail() -> Measurement:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        kept(ArrayStore(tmp_path), "k", fail)
    assert kept(ArrayStore(tmp_path), "k", result) == result()
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DataError, match=path.name):
        kept(ArrayStore(tmp_path), "k", result)

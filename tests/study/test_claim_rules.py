"""What decides a claim and what must not: each of these once gave, or could have given, a false answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from tests.study.test_verdicts import claim, evidence, falling, noisy, spec

from thalweg.study.evidence import Evidence
from thalweg.study.foresight import foresight
from thalweg.study.spec import StudySpec
from thalweg.study.verdicts import verdicts


def with_barriers(made: StudySpec, rng: np.random.Generator, **barriers: float) -> Evidence:
    """Six barriers of each model, and measures without an effect but the top eigenvalue and the width."""
    shown = evidence(
        made,
        noisy(rng, {}),
        top_eigenvalue=noisy(rng, {"bn": 0.3}),
        basin_width=noisy(rng, {"bn": 3.0}),
        train_loss=falling,
    )
    base = {"name": "barrier", "measure": "linear_path", "moment": "end", "standard_error": 0.0}
    base |= {"below": 0.0, "above": 0.0, "status": "done", "reason": ""}
    rows = []
    for model, centre in barriers.items():
        for k in range(6):
            own = {"run": f"{model}{k}", "model": model, "seed": f"{2 * k + 1}-{2 * k + 2}"}
            mode = "running" if model == "bn" else "any"
            rows.append({**base, **own, "mode": mode, "value": centre + 0.1 * rng.normal()})
    both = Evidence(rows)
    both._index |= shown._index
    return both


def test_a_factor_is_no_margin_of_what_may_be_nought() -> None:
    """A barrier of 2.0 against 0.1 is not the same within a factor."""
    rng = np.random.default_rng(0)
    pairs = {"moments": ["end"], "pairs": {"barrier": {}}, "seeds": 12}
    with pytest.raises(
        ValueError, match=r"claims.same.margin: barrier may be nought .* set scale = \"linear\""
    ):
        spec([claim("same", "barrier", "equivalent", margin=1.2)], **pairs)
    made = spec([claim("same", "trace", "equivalent", margin=1.2)], **pairs)
    (verdict,) = verdicts(made, with_barriers(made, rng, bn=2.0, plain=0.1))
    cell = next(c for c in verdict.cells if (c.measure, c.mode) == ("barrier", "running"))
    assert (cell.answer, cell.margin) == ("undecided", None)
    assert "of which a factor is no margin" in cell.reason
    linear = spec([claim("same", "barrier", "equivalent", margin=0.5, scale="linear")], **pairs)
    (verdict,) = verdicts(linear, with_barriers(linear, rng, bn=2.0, plain=0.1))
    assert (verdict.answer, verdict.cell.basis) == ("refuted", "beyond")
    (verdict,) = verdicts(linear, with_barriers(linear, rng, bn=0.1, plain=0.1))
    assert (verdict.answer, verdict.cell.basis) == ("supported", "equivalent")
    other = next(c for c in verdict.cells if c.measure == "trace")
    assert "the margin is in the unit of barrier" in other.reason


def test_a_barrier_is_asked_of_widths_the_other_way_round() -> None:
    made = spec([claim("bar", "barrier", "smaller")], moments=["end"], pairs={"barrier": {}}, seeds=12)
    (verdict,) = verdicts(made, with_barriers(made, np.random.default_rng(1), bn=0.1, plain=1.0))
    assert verdict.answer == "supported"
    answers = {c.measure: (c.expects, c.answer) for c in verdict.cells if c.mode == "running"}
    assert answers["top_eigenvalue"] == ("smaller", "supported")
    assert answers["basin_width"] == ("larger", "supported")


def test_values_without_a_ratio_are_not_left_out_by_their_sign() -> None:
    """Equal mean gaps, one group's so spread that some are negative: dropping these says it is the larger."""
    rng = np.random.default_rng(0)
    asked = {"seeds": 20, "moments": ["end"], "measures": {}}

    def gap(place: Mapping[str, Any]) -> float:
        return 0.05 + (0.02 if place["model"] == "bn" else 0.15) * rng.normal()

    made = spec([claim("gap", "gap", "smaller", margin=1.1)], **asked)
    shown = evidence(made, noisy(rng, {}), gap=gap, train_loss=falling)
    (verdict,) = verdicts(made, shown)
    assert verdict.answer == "undecided"
    assert "of 40 values are not above nought" in verdict.cell.reason
    assert 'scale = "linear"' in verdict.cell.reason
    assert math.isnan(foresight(made, shown)[0].spread)  # type: ignore[union-attr]
    linear = spec([claim("gap", "gap", "smaller", scale="linear")], **asked)
    num, false = 60, 0
    for _ in range(num):
        found = verdicts(linear, evidence(linear, noisy(rng, {}), gap=gap, train_loss=falling))
        false += found[0].answer == "supported"
    assert false <= 6  # 1.5 in the mean


ROW = {"run": "r", "model": "bn", "seed": 1, "mode": "running", "status": "done", "reason": ""}


def curve(moments: list[str], **changed: Mapping[str, Any]) -> Evidence:
    losses = {"epoch 2": 1.0, "epoch 10": 0.5, "loss 0.4": 0.4, "end": 0.25}
    values = {"epoch 2": 10.0, "epoch 10": 20.0, "loss 0.4": 30.0, "end": 40.0}
    rows = []
    for at in moments:
        error = {"standard_error": 0.0, "below": 0.0, "above": 0.0}
        rows.append({**ROW, **error, "moment": at, "name": "train_loss", "value": losses[at]})
        rows.append({**ROW, **error, "moment": at, "name": "lam", "value": values[at], **changed.get(at, {})})
    return Evidence(rows)


@pytest.mark.parametrize(
    "moments",
    [
        ["epoch 2", "epoch 10", "end"],
        ["end", "epoch 10", "epoch 2"],
        ["loss 0.4", "end", "epoch 2", "epoch 10"],
    ],
)
def test_moments_are_crossed_in_the_order_of_training(moments: list[str]) -> None:
    (found,) = curve(moments).values("lam", "running", "loss = 0.7")
    share = math.log(1 / 0.7) / math.log(2)
    # Logarithms are interpolated: from 10 to 20.
    assert found.value == pytest.approx(10 * 2**share)
    (last,) = curve(moments).values("lam", "running", "loss = 0.25")
    assert last.value == 40.0


def test_what_is_far_from_the_target_neither_bounds_nor_voids_it() -> None:
    moments = ["epoch 2", "epoch 10", "end"]
    (found,) = curve(moments, end={"below": 30.0}).values("lam", "running", "loss = 0.7")
    assert (found.below, found.above) == (0.0, 0.0)
    (beside,) = curve(moments, **{"epoch 10": {"below": 3.0}}).values("lam", "running", "loss = 0.7")
    assert beside.below == 3.0
    gone = {"value": math.nan, "reason": "out of memory"}
    (found,) = curve(moments, end=gone).values("lam", "running", "loss = 0.7")
    assert found.value > 10
    (lacking,) = curve(moments, **{"epoch 10": gone}).values("lam", "running", "loss = 0.7")
    assert (math.isnan(lacking.value), lacking.reason) == (True, "out of memory")

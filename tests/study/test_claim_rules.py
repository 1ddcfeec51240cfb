"""What decides a claim and what must not: each of these once gave, or could have given, a false answer."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats
from tests.report.made_up_studies import batch_norm_study, made_up_store
from tests.study.test_verdicts import Planted, claim, evidence, falling, noisy, spec

from thalweg.stats.equivalence import findings
from thalweg.stats.exchange_power import detectable_tau
from thalweg.stats.rank_correlation import rank_correlation
from thalweg.study.decomposition import decompositions
from thalweg.study.evidence import Evidence
from thalweg.study.foresight import foresight
from thalweg.study.spec import StudySpec
from thalweg.study.study import Study
from thalweg.study.table import PERFORMANCE, rows
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
    asked = {"seeds": 8, "moments": ["end"], "measures": {}}

    def gap(place: Mapping[str, Any]) -> float:
        return 0.05 + (0.02 if place["model"] == "bn" else 0.15) * rng.normal()

    made = spec([claim("gap", "gap", "smaller", margin=1.1)], **asked)
    shown = evidence(made, noisy(rng, {}), gap=gap, train_loss=falling)
    (verdict,) = verdicts(made, shown)
    assert verdict.answer == "undecided"
    assert "of 16 values are not above nought" in verdict.cell.reason
    assert 'scale = "linear"' in verdict.cell.reason
    assert math.isnan(foresight(made, shown)[0].spread)  # type: ignore[union-attr]
    linear = spec([claim("gap", "gap", "smaller", scale="linear")], **asked)
    (verdict,) = verdicts(linear, evidence(linear, noisy(rng, {}), gap=gap, train_loss=falling))
    assert (verdict.cell.num_a, verdict.cell.num_b, verdict.cell.reason) == (8, 8, "")


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


def test_a_loss_that_rose_again_was_reached_before_the_end() -> None:
    """Down to 0.4, and at the end back at 0.6: half-way between 0.8 and 0.4, not between 0.8 and the end."""
    values = {"loss 0.8": (0.8, 10.0), "loss 0.4": (0.4, 30.0), "end": (0.6, 1000.0)}
    error = {"standard_error": 0.0, "below": 0.0, "above": 0.0}
    rows = [
        {**ROW, **error, "moment": at, "name": name, "value": value}
        for at, pair in values.items()
        for name, value in zip(("train_loss", "lam"), pair, strict=True)
    ]
    (found,) = Evidence(rows).values("lam", "running", "loss = 0.6")
    share = math.log(0.8 / 0.6) / math.log(2)
    assert found.value == pytest.approx(10 * 3**share)


def test_at_a_loss_nothing_is_lost_before_it_was_looked_for() -> None:
    open_yet = {"value": math.nan, "status": "open"}
    moments = {"epoch 2": open_yet, "end": open_yet}
    shown = curve(list(moments), **moments)
    for moment_rows in shown._index[("train_loss", "running")].values():
        for row in moment_rows.values():
            row |= open_yet  # type: ignore[operator]
    (found,) = shown.values("lam", "running", "loss = 0.7")
    assert (math.isnan(found.value), found.reason) == (True, "not measured yet")


def test_all_runs_are_interpolated_alike() -> None:
    """One run's value is not above nought: then no run's logarithm is interpolated."""
    losses, error = {"epoch 1": 1.0, "end": 0.25}, {"standard_error": 0.0, "below": 0.0, "above": 0.0}
    rows = []
    for run, values in (("a", (10.0, 40.0)), ("b", (-1.0, 3.0))):
        for (at, loss), value in zip(losses.items(), values, strict=True):
            row = {**ROW, **error, "run": run, "moment": at}
            rows += [{**row, "name": "train_loss", "value": loss}, {**row, "name": "energy", "value": value}]
    found = Evidence(rows).values("energy", "running", "loss = 0.5")
    assert [v.value for v in found] == pytest.approx([25.0, 1.0])


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


GRID = {
    "axes": {"model": ["plain"], "training.lr": [0.01, 0.02, 0.05, 0.1], "training.batch_size": [16, 32, 64]}
}


def test_nothing_much_has_a_p_value_that_stands_correction() -> None:
    """Two clear claims of no relation, of a family, are both supported."""
    rng = np.random.default_rng(3)
    none = {"expect": "none", "margin": 0.6, "primary": True}
    made = spec(
        [{"name": n, "measure": n, "ranks": "gap", **none} for n in ("trace", "basin_width")],
        seeds=8,
        grid=GRID,
        moments=["end"],
    )
    shown = evidence(made, noisy(rng, {}), train_loss=falling)
    found = verdicts(made, shown)
    assert [(v.answer, v.cell.basis) for v in found] == [("supported", "equivalent")] * 2
    assert all(v.cell.p_support <= v.p_support <= 0.05 for v in found)
    heat = evidence(made, noisy(rng, {}), trace=_heat, gap=_heat, train_loss=falling)
    related = verdicts(made, heat)[0]
    assert (related.answer, related.cell.basis) == ("refuted", "beyond")


def _heat(place: Mapping[str, Any]) -> float:
    return place["lr"] / place["batch_size"] * (1 + 0.001 * place["seed"])


def test_a_sign_is_corrected_whichever_of_its_two_rules_is_the_weaker() -> None:
    """Its p-value is the larger of exchange and of the seeds; where it decides the interval agrees."""
    rng = np.random.default_rng(4)
    claims = [{"name": "rank", "measure": "trace", "expect": "positive", "statistic": s, "given": g}
              for s, g in (("kendall", []), ("granulated", []), ("partial", ["test_loss"]))]  # fmt: skip
    for asked in claims:
        made = spec([asked], seeds=2, grid=GRID, moments=["end"])
        for strength in (0.0, 0.5, 1.0):

            def gap(place: Mapping[str, Any], s: float = strength) -> float:
                return _heat(place) ** s * math.exp(0.5 * rng.normal())

            (verdict,) = verdicts(made, evidence(made, noisy(rng, {}), trace=_heat, gap=gap))
            cell = verdict.cell
            assert 2 / (24 * 6) <= cell.smallest_p <= cell.p_support
            if cell.p_support <= 0.05:
                assert cell.low > 0
            assert verdict.answer == ("supported" if cell.p_support <= 0.05 else "undecided")


@pytest.mark.parametrize(("num", "num_claims"), [(4, 1), (6, 1), (6, 4), (8, 2)])
def test_power_is_foreseen_with_the_steps_of_relabelling_and_the_number_of_claims(
    num: int, num_claims: int
) -> None:
    """Counted: by Student's power alone it is 63 % of four against four, 48 % of six among four claims."""
    names = ["top_eigenvalue", "trace", "basin_width", "test_loss"]
    made = spec([claim(n, n) for n in names[:num_claims]], seeds=num, moments=["end"])
    seen = foresight(made)[0]
    rng = np.random.default_rng(5)
    x, y = rng.normal(size=(2, 500, num))
    found = findings(x - seen.detectable, y, np.full(500, np.nan), seed=0)
    power = np.mean([f.p_smaller <= 0.05 / num_claims + 1e-12 for f in found])
    assert power == pytest.approx(0.8, abs=0.06)
    assert ("among 4 primary claims" in str(seen)) == (num_claims == 4)


def test_four_against_four_decide_no_two_claims() -> None:
    made = spec([claim(n, n) for n in ("trace", "basin_width")], seeds=4, moments=["end"])
    assert all("can decide nothing" in str(line) for line in foresight(made))


def test_what_a_grid_is_foreseen_to_find_it_finds() -> None:
    """Effects of levels, correlated so that tau is the one foreseen: found in about four of five."""
    sizes = (4, 3, 2)
    rho = math.sin(math.pi / 2 * detectable_tau(sizes, 24))
    rng = np.random.default_rng(6)
    levels = np.array(list(np.ndindex(*sizes))).T
    columns = {f"axis {a}": axis.tolist() for a, axis in enumerate(levels)}
    found = 0
    for i in range(100):
        effects = rng.normal(size=(2, 3, 4))
        effects[1] = rho * effects[0] + math.sqrt(1 - rho**2) * effects[1]
        m, g = (sum(e[a][axis] for a, axis in enumerate(levels)) for e in effects)
        found += (
            rank_correlation(m, g, columns, num_resamples=300, by_axis=False, seed=i).overall.p_value <= 0.05
        )
    assert 0.65 <= found / 100 <= 0.93


def test_two_measures_are_compared_each_in_its_own_sense() -> None:
    """A width that falls with the gap, and an eigenvalue that hardly goes along with it."""
    rng = np.random.default_rng(8)
    asked = {"measure": "basin_width", "than": "trace", "ranks": "gap", "statistic": "granulated"}
    axes = {"training.lr": [0.01, 0.1], "training.batch_size": [16, 64], "training.weight_decay": [0.0, 0.1]}
    axes |= {"training.momentum": [0.5, 0.9], "data.label_noise": [0.0, 0.1], "model": ["plain", "bn"]}
    claims = [
        {**asked, "name": "better", "expect": "positive", "primary": True},
        {**asked, "name": "worse", "expect": "negative"},
        {**asked, "name": "alike", "expect": "none", "margin": 0.1},
    ]
    made = spec(claims, seeds=2, grid={"axes": axes}, moments=["end"])

    def gap(place: Mapping[str, Any]) -> float:
        heat = place["lr"] / place["batch_size"] * (1 + place["weight_decay"]) / (1 - place["momentum"])
        return heat * (1 + place["label_noise"]) * (2 if place["model"] == "bn" else 1)

    width: Planted = lambda place: 1 / gap(place) * math.exp(0.001 * rng.normal())  # noqa: E731
    shown = evidence(made, noisy(rng, {}), basin_width=width, gap=gap)
    found = {v.claim.name: v for v in verdicts(made, shown)}
    assert {name: v.answer for name, v in found.items()} == {
        "better": "supported",
        "worse": "refuted",
        "alike": "refuted",
    }
    own = found["better"].cell
    assert (own.p_support, own.smallest_p, len(own.along)) == (2 / 64, 2 / 64, 6)
    cells = {c.measure: c for c in found["better"].cells if c.mode == "running"}
    assert cells["top_eigenvalue"].expects == "positive"
    assert "is what the others are compared with" in cells["trace"].reason
    assert foresight(made)[0].smallest_p == 2 / 64
    with pytest.raises(ValueError, match="than: two measures are compared by the statistic granulated"):
        spec([{**claims[0], "statistic": "kendall"}], grid={"axes": axes}, moments=["end"])


def test_errors_that_all_runs_share_are_no_noise_of_any_run(tmp_path: Path) -> None:
    """The same test set: its sampling error moves all gaps together; intervals keep its dof."""
    spec = batch_norm_study(3)
    table = rows(Study.open(made_up_store(tmp_path, spec)))
    gaps = [row for row in table if row["name"] == "gap" and row["status"] == "done"]
    assert {(row["standard_error"], row["shared_error"]) for row in gaps} == {(0.0, 0.006)}
    for row in gaps:
        assert (row["high"] - row["low"]) / 2 == pytest.approx(0.006 * stats.t.ppf(0.975, 999))
    probes = [row for row in table if row["name"] == "trace" and row["status"] == "done"]
    assert all(row["standard_error"] > 0 == row["shared_error"] for row in probes)
    for found in decompositions(spec, Evidence(table)):
        if found.measure in PERFORMANCE and found.found is not None:
            shares = {c.name: c.share for c in found.found.components}
            assert shares["measurement"] == 0
            assert shares["seed"] >= 0

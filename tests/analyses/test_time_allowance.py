"""`TimeAllowance`: what is earned and spent, with a clock that tests move."""

from __future__ import annotations

import math

import pytest

from thalweg.analyses.time_allowance import TimeAllowance


class Clock:
    """Stands still until it is told to go on."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def watch(
    costs: dict[str, float], share: float, num_steps: int, guesses: dict[str, float] | None = None
) -> tuple[TimeAllowance, dict[str, int], list[float]]:
    """Steps of one second each, then whatever is due: how often each was, and what was over-spent when."""
    clock = Clock()
    allowance = TimeAllowance(share, clock)
    counts, over = dict.fromkeys(costs, 0), []
    for _ in range(num_steps):
        clock.now += 1
        allowance.arrive()
        known = {kind: allowance.costs.get(kind, (guesses or costs)[kind]) for kind in costs}
        for kind in allowance.pour(known):
            clock.now += costs[kind]
            allowance.bill(kind)
            counts[kind] += 1
        allowance.leave()
        over.append(allowance.spent - share * allowance.watched)
    return allowance, counts, over


def test_never_more_is_spent_than_earned() -> None:
    costs = {"cheap": 0.01, "fair": 0.1, "dear": 2.0}
    allowance, counts, over = watch(costs, 0.1, 1000)
    assert allowance.watched == pytest.approx(1000)
    assert max(over) <= 1e-9
    # A tenth of a second is earned a step. The cheap one comes each time; of what it leaves the fair one gets
    # half, and so is full at every third.
    assert counts["cheap"] == 1000
    assert counts["fair"] == pytest.approx(340, abs=10)
    assert counts["dear"] == pytest.approx(27, abs=1)
    assert allowance.overhead == pytest.approx(0.1, abs=0.003)
    assert allowance.spent == pytest.approx(sum(counts[k] * costs[k] for k in costs))


def test_what_all_together_cost_less_than_is_earned_comes_each_time() -> None:
    allowance, counts, _ = watch({"a": 0.01, "b": 0.02}, 0.1, 50)
    assert counts == {"a": 50, "b": 50}
    assert allowance.overhead == pytest.approx(0.03)


def test_what_a_bad_guess_costs_is_saved_up_again() -> None:
    """Five seconds where a hundredth was expected: that much debt for once, and none at the end."""
    costs = {"cheap": 0.02, "dear": 5.0}
    _, counts, over = watch(costs, 0.1, 1000, guesses={"cheap": 0.02, "dear": 0.01})
    assert max(over) == pytest.approx(5.0, abs=0.1)
    debts = [step for step, much in enumerate(over) if much > 1e-9]
    # A tenth of a second is earned a step, and nothing else is spent until the debt is paid.
    assert debts == list(range(debts[0], debts[0] + len(debts)))
    assert 45 <= len(debts) <= 50
    assert over[-1] <= 1e-9
    assert counts["dear"] == pytest.approx(16, abs=1)


def test_without_a_limit_everything_comes_each_time() -> None:
    allowance, counts, _ = watch({"a": 7.0, "b": 3.0}, math.inf, 10)
    assert counts == {"a": 10, "b": 10}
    assert allowance.overhead == pytest.approx(10.0)


def test_all_seconds_are_somebodys() -> None:
    clock = Clock()
    allowance = TimeAllowance(0.5, clock)
    assert allowance.overhead == 0
    clock.now += 2  # setting up
    allowance.leave()
    assert (allowance.spent, allowance.watched, allowance.overhead) == (2, 0, math.inf)
    clock.now += 10
    allowance.arrive()
    clock.now += 1
    allowance.bill("a")
    clock.now += 0.5  # nobody's own
    allowance.leave()
    assert (allowance.spent, allowance.watched, allowance.costs) == (3.5, 10, {"a": 1})
    assert allowance.overhead == pytest.approx(0.35)
    # 5 earned, 3.5 spent: what is due costs at most the rest.
    assert not allowance.pour({"b": 1.6})
    assert allowance.pour({"b": 1.5}) == {"b"}

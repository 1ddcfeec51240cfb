"""`Allowance`: what is earned and spent, when a look is due, credit and how it is paid off."""

from __future__ import annotations

import copy
import math

import pytest

from thalweg.analyses.allowance import Allowance

COSTS = {"gradient": 3.0, "dear": 60.0, "fair": 20.0, "cheap": 1.0}


def watch(
    allowance: Allowance, costs: dict[str, float], num_occasions: int, work: float = 100.0
) -> tuple[dict[str, list[int]], list[float]]:
    """After each so much work whatever is allowed: on which occasions each was, and the overhead after it."""
    looks: dict[str, list[int]] = {kind: [] for kind in costs}
    overheads = []
    for occasion in range(1, num_occasions + 1):
        allowance.earn(work, costs)
        for kind, cost in costs.items():
            if allowance.allows(kind, cost):
                allowance.spend(kind, cost)
                looks[kind].append(occasion)
        overheads.append(allowance.overhead)
    return looks, overheads


def test_first_looks_come_early_and_are_paid_off() -> None:
    allowance = Allowance(0.1)
    looks, overheads = watch(allowance, COSTS, 400)
    # Ten are earned an occasion. The dear one comes when what its account lacks is no more than all earned.
    assert looks["gradient"][0] == looks["cheap"][0] == 1
    assert looks["fair"][0] == 4  # with a quarter of the credit, as long as the second kind waits
    assert looks["dear"][0] == 6
    # Never more than twice the share, and no more than it once the loan is paid off; all of it is used.
    assert max(overheads) <= 0.2
    assert allowance.loan == 0
    assert max(overheads[-300:]) <= 0.1
    assert allowance.overhead == pytest.approx(0.1, abs=0.01)
    assert allowance.spent == pytest.approx(sum(COSTS[k] * len(looks[k]) for k in COSTS))
    assert allowance.watched == 40_000
    # Every kind goes on to the end, the cheap ones each time.
    assert len(looks["gradient"]) == 400
    for kind, occasions in looks.items():
        assert occasions[-1] > 380, kind
    assert len(looks["cheap"]) > 2 * len(looks["fair"])


def test_nothing_is_left_waiting_for_good() -> None:
    """A kind that costs a hundred times what an occasion earns, among others that would take it all."""
    looks, overheads = watch(Allowance(0.1), {**COSTS, "dearest": 1000.0}, 3000)
    assert looks["dearest"][0] <= 200
    assert len(looks["dearest"]) >= 4
    assert max(overheads) <= 0.2
    assert overheads[-1] <= 0.1


def test_where_all_together_cost_less_than_is_earned_each_comes_each_time() -> None:
    looks, overheads = watch(Allowance(0.1), {"gradient": 1.0, "a": 2.0, "b": 3.0}, 50)
    assert all(occasions == list(range(1, 51)) for occasions in looks.values())
    assert overheads == pytest.approx([0.06] * 50)


def test_a_measuring_step_may_be_too_dear_to_come_each_time() -> None:
    looks, overheads = watch(Allowance(0.1), {"gradient": 40.0, "other": 40.0}, 200)
    assert looks["gradient"][0] == 3  # fifteen saved, and thirty earned to borrow the rest on
    assert 25 <= len(looks["gradient"]) <= 35
    assert len(looks["other"]) > 10
    assert max(overheads) <= 0.2
    assert overheads[-1] <= 0.1


def test_what_takes_longer_than_expected_is_made_good() -> None:
    allowance = Allowance(0.1)
    allowance.earn(1000, COSTS)
    assert allowance.allows("dear", 60)
    allowance.spend("dear", 500)
    assert allowance.overhead == 0.5
    assert allowance.cost("dear", 60) == 500
    assert not allowance.allows("cheap", 1.0) or allowance.loan + 1 <= 100
    looks, overheads = watch(allowance, {**COSTS, "dear": 500.0}, 400)
    assert overheads[-1] <= 0.1
    assert looks["dear"]


def test_a_charge_is_paid_off_and_holds_nothing_up() -> None:
    plain, charged = Allowance(0.1), Allowance(0.1)
    charged.charge(300)
    assert (charged.spent, charged.charged, charged.overhead) == (300, 300, math.inf)
    looks, late = watch(plain, COSTS, 20)[0], watch(charged, COSTS, 20)[0]
    assert all(late[kind][0] <= looks[kind][0] + 4 for kind in COSTS)
    _, overheads = watch(charged, COSTS, 400)
    assert charged.charged == 0
    assert overheads[-1] <= 0.1


def test_without_a_limit_everything_comes_each_time() -> None:
    looks, overheads = watch(Allowance(math.inf), COSTS, 10)
    assert all(occasions == list(range(1, 11)) for occasions in looks.values())
    assert overheads == pytest.approx([0.84] * 10)


def test_before_any_work() -> None:
    allowance = Allowance(0.1)
    assert allowance.overhead == 0
    assert not allowance.allows("gradient", 1.0)
    assert allowance.allows("gradient", 0.0)  # of which nothing is expected


@pytest.mark.parametrize("done", [0, 3, 60])
def test_a_forecast_comes_true(done: int) -> None:
    allowance = Allowance(0.1)
    watch(allowance, COSTS, done)
    before = copy.deepcopy(vars(allowance))
    ahead = allowance.forecast(100, COSTS)
    assert vars(allowance) == before
    looks, _ = watch(allowance, COSTS, 100)
    assert ahead == {kind: occasions[0] for kind, occasions in looks.items()}
    assert "dear" not in allowance.forecast(1e-3, {**COSTS, "dear": 1e9}, horizon=50)


def test_it_goes_on_from_its_state() -> None:
    whole, first, second = Allowance(0.1), Allowance(0.1), Allowance(0.1)
    looks, overheads = watch(whole, COSTS, 60)
    begun, _ = watch(first, COSTS, 25)
    state = first.state_dict()
    watch(first, COSTS, 10)  # the state is a copy
    second.load_state_dict(state)
    rest, ends = watch(second, COSTS, 35)
    assert overheads[25:] == ends
    assert {k: begun[k] + [25 + i for i in rest[k]] for k in COSTS} == looks

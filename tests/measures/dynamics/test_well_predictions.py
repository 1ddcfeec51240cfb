"""Wells on a grid, and what theory says of them, against closed forms and quadrature by SciPy."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from tests.measures.conftest import Theta, quadratic
from tests.measures.dynamics.wells import (
    CURVATURES,
    MINIMA_1,
    MINIMA_2,
    MINIMA_3,
    S,
    height,
    one_parameter,
    three_wells,
    two_parameters,
)
from torch import Tensor

from thalweg.measures.dynamics import well_predictions as laws
from thalweg.measures.dynamics.core_passages import _jumps, core_rates, first_passage, relaxation
from thalweg.measures.dynamics.settled import Criteria
from thalweg.measures.dynamics.well_visits import (
    WellVisits,
    mean_times,
    occupancy_p_value,
    stationarity,
    time_p_values,
)
from thalweg.measures.dynamics.wells import CORE, Wells, find_wells
from thalweg.objective.objective import Objective

T = 0.1


def L(x: float) -> float:
    return float(height(x))


def line(temperature: float = T, num_points: int | None = None) -> Wells:
    return find_wells(one_parameter(), torch.tensor(MINIMA_1), temperature, num_points)


def test_minima_saddle_and_regions_of_one_parameter() -> None:
    wells = line()
    assert [m.point[0] for m in wells.minima] == pytest.approx([-1, 1], abs=1e-6)
    assert [m.determinant for m in wells.minima] == pytest.approx(CURVATURES, rel=1e-6)
    assert [m.height for m in wells.minima] == pytest.approx([0, 0], abs=1e-9)
    saddle = wells.saddles[0, 1]
    assert saddle is not None
    assert saddle.point[0] == pytest.approx(S, abs=1e-6)
    assert saddle.height == pytest.approx(L(S))
    x = wells.points()[:, 0]
    assert ((wells.regions == 0) == (x < S)).mean() > 1 - 2 / len(x)
    core = x[wells.cores == 1]
    assert L(core[0]) == pytest.approx(CORE * T, abs=0.02 * T)
    assert core[0] < 1 < core[-1]
    assert wells.losses[[0, -1]].min() > 25 * T


def test_a_grid_knows_where_a_point_is() -> None:
    wells = find_wells(two_parameters(), torch.tensor(MINIMA_2), T, 101)
    points = torch.from_numpy(wells.points())
    assert wells.place(points).tolist() == list(range(101**2))
    moved = points + 0.4 * torch.from_numpy(wells.spacing) * torch.tensor([1.0, -1.0])
    assert wells.place(moved).tolist() == list(range(101**2))
    assert wells.place(torch.tensor([[-1e6, -1e6], [1e6, 1e6]])).tolist() == [0, 101**2 - 1]


def test_gibbs_and_the_formula_by_quadrature() -> None:
    wells = line()
    left, right = (
        integrate.quad(lambda x: math.exp(-L(x) / T), a, b, epsabs=1e-12, limit=200)[0]
        for a, b in ((-3.0, S), (S, 3.0))
    )
    assert laws.gibbs(wells, T)[0] == pytest.approx(left / (left + right), abs=2e-3)
    a, b = CURVATURES
    assert laws.basin_masses(wells, T)[0] == pytest.approx(b**0.5 / (a**0.5 + b**0.5))
    assert laws.basin_masses(wells, T, 1.0)[0] == pytest.approx(b / (a + b))
    # The quadratic picture is that of a low temperature.
    gaps = [abs(laws.gibbs(line(t), t)[0] - laws.basin_masses(line(t), t)[0]) for t in (0.08, 0.01)]
    assert gaps[1] < 0.2 * gaps[0]


def passage(a: float, b: float, temperature: float) -> float:
    """Mean time from a to b > a on the line: the double integral of the backward equation."""

    def inner(y: float) -> float:
        return integrate.quad(lambda z: math.exp((L(y) - L(z)) / temperature), -3.0, y, limit=200)[0]

    return integrate.quad(inner, a, b, limit=200)[0] / temperature


def test_times_against_the_double_integral_and_kramers() -> None:
    wells = line()
    x = wells.points()[:, 0]
    left, right = (x[wells.cores == i] for i in (0, 1))
    # Whoever comes over the pass enters at the near edge; from the far one it would take 4 % longer.
    times = first_passage(core_rates(wells, T))
    assert times[0] == pytest.approx(passage(left[-1], right[0], T), rel=1e-3)
    assert passage(left[0], right[0], T) > 1.03 * times[0]
    saddle = wells.saddles[0, 1]
    assert saddle is not None
    by_hand = 2 * math.pi / math.sqrt(CURVATURES[0] * -saddle.hessian[0, 0]) * math.exp(L(S) / T)
    assert laws.kramers(wells, T)[0] == pytest.approx(by_hand, rel=1e-5)
    cold = 0.025
    frozen = line(cold, 4001)
    ratio = first_passage(core_rates(frozen, cold)) / laws.kramers(frozen, cold)
    assert np.abs(ratio - 1).max() < 0.12


def test_rates_among_three_wells_and_the_slowest_of_them() -> None:
    """Against the eigenvalues of the whole grid's generator, and a chain of two passages."""
    t = 0.06
    wells = find_wells(three_wells(), torch.tensor(MINIMA_3), t, 301)
    rates = core_rates(wells, t)
    assert rates[0, 2] == rates[2, 0] == 0  # there is no way past the one in between
    assert rates == pytest.approx(rates[::-1, ::-1], rel=1e-6)
    jumps = _jumps(wells, t).toarray()
    slow = np.sort(np.linalg.eigvals(jumps - np.diag(jumps.sum(1))).real)[-2]
    assert relaxation(rates) == pytest.approx(-1 / slow, rel=0.1)
    # The sum of all rates is that of the fastest well, and would have stopped long before.
    assert relaxation(rates) > 2.5 / rates.sum()
    assert np.isinf(relaxation(np.zeros((2, 2))))
    assert np.isinf(first_passage(np.zeros((2, 2)))).all()


def separable(k: float) -> Objective:
    """The same along x, and a spring of one stiffness along y: all laws are those of the line."""

    def loss(model: Theta, batch: tuple[Tensor]) -> Tensor:
        return height(model.theta[0]) + k * model.theta[1] ** 2 / 2 + 0 * batch[0]

    return Objective(
        Theta(torch.zeros(2, dtype=torch.float64)), (torch.ones(3, dtype=torch.float64),), loss=loss
    )


def test_two_parameters_that_do_not_mix_are_one() -> None:
    wells, alone = find_wells(separable(3.0), torch.tensor(MINIMA_2), T, None), line()
    assert [m.determinant for m in wells.minima] == pytest.approx([3 * c for c in CURVATURES], rel=1e-6)
    assert laws.gibbs(wells, T) == pytest.approx(laws.gibbs(alone, T), abs=0.01)
    assert laws.basin_masses(wells, T) == pytest.approx(laws.basin_masses(alone, T))
    assert laws.kramers(wells, T) == pytest.approx(laws.kramers(alone, T), rel=1e-5)
    # A core is a disc now, and so a little elsewhere.
    two, one = (first_passage(core_rates(w, T)) for w in (wells, alone))
    assert two == pytest.approx(one, rel=0.05)


def test_noise_that_changes_with_the_place() -> None:
    """Of one size everywhere it is Gibbs; of two sizes, the law by SciPy."""
    wells = line()
    x = wells.points()[:, 0]
    slopes = np.gradient(wells.losses, x)
    constant = laws.multiplicative(wells, slopes, np.full(len(x), T))
    assert constant == pytest.approx(laws.gibbs(wells, T), abs=1e-4)

    def density(y: float, growth: float = 0.5) -> float:
        work = integrate.quad(
            lambda z: (L(z + 1e-5) - L(z - 1e-5)) / 2e-5 / (T * math.exp(growth * z)), 0, y
        )[0]
        return math.exp(-work) / (T * math.exp(growth * y))

    left, right = (integrate.quad(density, a, b, limit=100, epsrel=1e-5)[0] for a, b in ((-2.5, S), (S, 2.5)))
    found = laws.multiplicative(wells, slopes, T * np.exp(0.5 * x))
    assert found[0] == pytest.approx(left / (left + right), abs=3e-3)
    assert np.isnan(laws.multiplicative(wells, slopes, np.zeros(len(x)))).all()


def test_a_grid_that_is_too_coarse_for_a_well_is_refused() -> None:
    """Valleys half as wide as the spacing, along one row of the grid: points enough, and no integral."""
    with pytest.raises(ValueError, match=r"`num_points` must resolve every well .* got 101: .* differ by"):
        find_wells(separable(2000.0), torch.tensor([[-0.9, 0.0], [1.1, 0.0]]), 0.2, 101)


def test_what_has_no_wells_is_refused() -> None:
    with pytest.raises(ValueError, match=r"numbers 0 and 1 are one"):
        find_wells(one_parameter(), torch.tensor([[-0.9], [-1.1]]), T, None)
    with pytest.raises(ValueError, match=r"leads to none"):
        find_wells(one_parameter(), torch.tensor([[-0.9], [S]]), T, None)
    bowl = quadratic(torch.zeros(1, dtype=torch.float64), torch.ones(1, 1, dtype=torch.float64))
    with pytest.raises(ValueError, match=r"are one"):
        find_wells(bowl, torch.tensor([[-0.9], [1.0]]), T, None)

    def waves(model: Theta, batch: tuple[Tensor]) -> Tensor:
        return torch.cos(model.theta[0]) + 0.01 * model.theta[0] ** 2 + 0 * batch[0]

    many = Objective(
        Theta(torch.zeros(1, dtype=torch.float64)), (torch.ones(3, dtype=torch.float64),), loss=waves
    )
    with pytest.raises(ValueError, match=r"`minima` must hold every minimum that the temperature reaches"):
        find_wells(many, torch.tensor([[-3.1], [3.1]]), 0.3, None)

    def free(model: Theta, batch: tuple[Tensor]) -> Tensor:
        return torch.cos(model.theta[0]) + 0 * batch[0]

    open_ended = Objective(
        Theta(torch.zeros(1, dtype=torch.float64)), (torch.ones(3, dtype=torch.float64),), loss=free
    )
    with pytest.raises(ValueError, match=r"`objective` must hold its wells in on all sides"):
        find_wells(open_ended, torch.tensor([[-3.1], [3.1]]), 0.3, 201)


# -- chains between two places ------------------------------------------------------------------------------


def two_places() -> Wells:
    """Four points in a row, the outer ones cores: whoever counts visits needs no loss."""
    wells = line()
    labels = np.array([0, 0, 1, 1])
    return dataclasses.replace(
        wells,
        low=np.zeros(1),
        spacing=np.ones(1),
        losses=np.zeros(4),
        regions=labels,
        cores=np.array([0, -1, -1, 1]),
    )


def telegraph(
    num_steps: int, rates: tuple[float, float], seed: int, home: np.ndarray, burn_in: int = 0
) -> WellVisits:
    """Chains that leave their core with these chances a step, and are in the other at once."""
    rng = np.random.default_rng(seed)
    num_chains, state = len(home), home
    for _ in range(burn_in):
        state = np.where(rng.random(num_chains) < np.array(rates)[state], 1 - state, state)
    visits = WellVisits(two_places(), num_chains, num_steps, torch.from_numpy(state))
    for _ in range(num_steps):
        leaves = rng.random(num_chains) < np.array(rates)[state]
        state = np.where(leaves, 1 - state, state)
        visits.add(torch.from_numpy(3.0 * state[:, None]))
    return visits


def test_visits_are_counted_by_hand() -> None:
    visits = WellVisits(two_places(), 2, 8, torch.tensor([0, 0]))
    for x in (0, 1, 2, 1, 3, 2, 1, 0):  # over the middle and back is no escape
        visits.add(torch.tensor([[float(x)], [0.0]]))
    assert visits.occupancies().tolist() == [[5 / 8, 3 / 8], [1, 0]]
    times, _, counts = visits.escape_times(0.5)
    assert counts.tolist() == [1, 1]
    assert times.tolist() == [(5 + 8) * 0.5, 3 * 0.5]
    assert visits.last.tolist() == [0, 0]
    assert visits.blocks[:, 0, 0].tolist() == [1, 1, 0, 1, 0, 0, 1, 1]


def test_coverage_of_times_occupancies_and_their_tests() -> None:
    """800 times 30 chains from their stationary law: intervals, p-values and false alarms."""
    repeats, C, rates = 800, 30, (0.05, 0.02)
    truth, law = 1 / np.array(rates), np.array([2 / 7, 5 / 7])
    rng = np.random.default_rng(5)
    state = (rng.random(repeats * C) < law[1]).astype(int)
    visits = WellVisits(two_places(), repeats * C, 160, torch.from_numpy(state))
    for _ in range(160):
        leaves = rng.random(repeats * C) < np.array(rates)[state]
        state = np.where(leaves, 1 - state, state)
        visits.add(torch.from_numpy(3.0 * state[:, None]))
    stays, escapes = (t.double().numpy().reshape(repeats, C, 2) for t in (visits._stays, visits._escapes))
    shares = visits.occupancies().reshape(repeats, C, 2)
    held = np.array(
        [time_p_values(*mean_times(s, e), truth, C - 1) > 0.05 for s, e in zip(stays, escapes, strict=True)]
    )
    assert (np.abs(held.mean(0) - 0.95) < 0.03).all()
    p = np.array([occupancy_p_value(share, law) for share in shares])
    assert abs((p > 0.05).mean() - 0.95) < 0.03
    assert stats.kstest(p, "uniform").pvalue > 1e-3
    assert np.median([occupancy_p_value(share, law + np.array([0.1, -0.1])) for share in shares]) < 0.05


def test_whether_chains_have_settled() -> None:
    criteria = Criteria(min_effective_size=20)
    home = np.arange(400) % 2
    fresh = stationarity(telegraph(60, (0.05, 0.02), 0, np.zeros(400, dtype=int)), home, criteria)
    assert fresh.outcome == "not stationary"
    assert fresh.drifts.min() < 1e-6
    settled = stationarity(telegraph(400, (0.02, 0.02), 1, home[:40], 200), home[:40], criteria)
    assert settled.outcome == "stationary"
    few = stationarity(telegraph(400, (0.02, 0.02), 1, home[:16], 200), home[:16], Criteria(0.01, 1e4))
    assert few.outcome == "too short"
    # Two hundred times 50 chains from their stationary law, counted together and judged apart.
    together = telegraph(80, (0.1, 0.1), 0, np.tile(home[:50], 200), 50)
    alarms = 0
    for counted in together._visits.split(50, dim=1):
        run = copy.copy(together)
        run._visits = counted
        alarms += stationarity(run, home[:50], Criteria(0.05, 1)).outcome != "stationary"
    assert alarms <= 20  # of two tests for each of two wells, which say the same


@pytest.mark.parametrize("rate", [0.0, 1e-4, 2e-3])
def test_chains_that_hardly_leave_are_no_law(rate: float) -> None:
    """Half of them in either well, without a trend, each chain an independent draw: of where it began."""
    home = np.arange(400) % 2
    found = stationarity(telegraph(160, (rate, rate), 3, home, 160), home, Criteria())
    assert found.effective_sizes.min() > 100
    assert found.drifts.min() > 0.01
    assert found.memories.max() < 1e-6
    assert found.outcome == "not stationary"
    if not rate:
        assert found.drifts.tolist() == [1, 1]
        assert found.memories.tolist() == [0, 0]


def test_hotelling_of_three_wells() -> None:
    rng = np.random.default_rng(0)
    law = np.array([0.5, 0.3, 0.2])
    p = [occupancy_p_value(rng.multinomial(20, law, size=40) / 20, law) for _ in range(400)]
    assert stats.kstest(p, "uniform").pvalue > 1e-3
    assert math.isnan(occupancy_p_value(rng.multinomial(20, law, size=40) / 20, np.full(3, np.nan)))
    # A well that no chain has found says nothing of how rare it is.
    unseen = np.concatenate([rng.multinomial(20, [0.6, 0.4], size=40) / 20, np.zeros((40, 1))], 1)
    assert math.isnan(occupancy_p_value(unseen, np.array([0.6, 0.4 - 1e-6, 1e-6])))
    assert math.isnan(occupancy_p_value(np.tile(law, (30, 1)), law))

"""How long chains stay in which well, and how often they go from one to another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thalweg.core.distributions import f_tail, student_tail
from thalweg.measures.dynamics.settled import Criteria
from thalweg.measures.dynamics.wells import Wells

Array = NDArray[np.float64]

# Parts of a run in which occupancies are kept apart.
NUM_BLOCKS = 40


class WellVisits:
    """Counts of C chains over a run that is cut into blocks.

    Parameters
    ----------
    wells
        Where regions and cores are.
    num_chains, num_steps
        C, and the steps to come.
    start
        ``(C,)`` int64: the core each chain was in last, which it has not left.
    """

    def __init__(self, wells: Wells, num_chains: int, num_steps: int, start: Tensor) -> None:
        M = len(wells.minima)
        self._wells, self._last, self._num_steps = wells, start.clone(), num_steps
        self._regions = torch.from_numpy(wells.regions.ravel())
        self._cores = torch.from_numpy(wells.cores.ravel())
        self._chain = torch.arange(num_chains)
        self._step = 0
        blocks = min(NUM_BLOCKS, num_steps)
        self._visits = torch.zeros(blocks, num_chains, M, dtype=torch.int64)
        self._stays = torch.zeros(num_chains, M, dtype=torch.int64)
        self._escapes = torch.zeros(num_chains, M, dtype=torch.int64)

    def add(self, theta: Tensor) -> None:
        """Chains at ``(C, P)`` after one more step."""
        place = self._wells.place(theta)
        block = self._step * len(self._visits) // self._num_steps
        self._visits[block, self._chain, self._regions[place]] += 1
        core = self._cores[place]
        escaped = (core >= 0) & (core != self._last)
        self._stays[self._chain, self._last] += 1
        self._escapes[self._chain, self._last] += escaped
        self._last = torch.where(escaped, core, self._last)
        self._step += 1

    @property
    def last(self) -> Tensor:
        """``(C,)``: the core each chain was in last."""
        return self._last

    @property
    def blocks(self) -> Array:
        """``(blocks, C, M)``: share of each block's steps that a chain spent in each region."""
        counts = self._visits.double()
        return (counts / counts.sum(2, keepdim=True).clamp(min=1)).numpy()

    def occupancies(self) -> Array:
        """``(C, M)``: share of all steps."""
        counts = self._visits.sum(0).double()
        return (counts / counts.sum(1, keepdim=True)).numpy()

    def escape_times(self, step: float) -> tuple[Array, Array, Array]:
        """``(M,)`` each: mean time from entering a core to entering another, in the unit of `step`; its
        standard error; how many there were. What was under way at the end counts with the time it took so
        far."""
        stays, escapes = self._stays.double().numpy(), self._escapes.double().numpy()
        times, errors = mean_times(stays, escapes)
        return step * times, step * errors, escapes.sum(0)


def mean_times(stays: Array, escapes: Array) -> tuple[Array, Array]:
    """``(M,)`` each, of stays and escapes of independent chains ``(C, M)``: ratios of means, their errors."""
    counts = escapes.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        times = stays.sum(0) / counts
        residuals = stays - times * escapes
        return times, residuals.std(0, ddof=1) * np.sqrt(len(stays)) / counts


@dataclass(frozen=True)
class Stationarity:
    """Whether occupancies have stopped to change.

    Parameters
    ----------
    outcome
        As of `thalweg.measures.dynamics.settled`.
    drifts
        ``(M,)``: p-values of no trend of each well's occupancy, chain against chain.
    memories
        ``(M,)``: p-values of occupancies that do not hang on the well a chain began in.
    effective_sizes
        ``(M,)``: independent draws of a well that each occupancy is worth.
    """

    outcome: str
    drifts: Array
    memories: Array
    effective_sizes: Array


def stationarity(visits: WellVisits, home: NDArray[np.int64], criteria: Criteria) -> Stationarity:
    """Trends of single chains are independent, however slowly one goes from well to well: a t-test holds.

    Chains that never leave have no trend either, and occupancies that are those of the start; what shows is
    that they hang on it. `home` ``(C,)`` is the well each chain began in, before any burn-in.
    """
    blocks, occupancies = visits.blocks, visits.occupancies()
    n, C, _ = blocks.shape
    t = 2.0 * np.arange(n) - (n - 1)  # whole numbers: what stands still has no trend, to the last digit
    slopes = np.einsum("b,bcm->cm", t, blocks)
    mean, spread = slopes.mean(0), slopes.std(0, ddof=1) / np.sqrt(C)
    share, error = occupancies.mean(0), occupancies.std(0, ddof=1) / np.sqrt(C)
    with np.errstate(divide="ignore", invalid="ignore"):
        drifts = np.where(spread > 0, 2 * student_tail(np.abs(mean / spread), C - 1), 1.0)
        sizes = np.where(error > 0, share * (1 - share) / error**2, 0.0)
    memories = memory_p_values(occupancies, home)
    return Stationarity(criteria.verdict(np.concatenate([drifts, memories]), sizes), drifts, memories, sizes)


def memory_p_values(occupancies: Array, home: NDArray[np.int64]) -> Array:
    """``(M,)``: analysis of variance of occupancies ``(C, M)`` by the well ``(C,)`` a chain began in."""
    groups = [occupancies[home == i] for i in np.unique(home)]
    C, k = len(occupancies), len(groups)
    means = np.stack([g.mean(0) for g in groups])
    sizes = np.array([len(g) for g in groups])
    between = sizes @ np.square(means - occupancies.mean(0)) / (k - 1)
    within = sum(np.square(g - m).sum(0) for g, m in zip(groups, means, strict=True)) / (C - k)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(between > 0, f_tail(between / within, k - 1, C - k), 1.0)


def occupancy_p_value(occupancies: Array, predicted: Array) -> float:
    """Hotelling's test of the means of chains ``(C, M)`` against shares ``(M,)``.

    NaN if these are none, or where all chains agree to the last digit about a well, one that none has found
    say: such a mean has no error to be held against.
    """
    C, M = occupancies.shape
    if not np.isfinite(predicted).all() or not np.isfinite(occupancies).all():
        return float("nan")
    if not (np.ptp(occupancies, axis=0) > 0).all():
        return float("nan")
    gap = (occupancies.mean(0) - predicted)[:-1]  # the shares sum to one
    covariance = np.atleast_2d(np.cov(occupancies[:, :-1].T)) / C
    square = float(gap @ np.linalg.solve(covariance, gap))
    k = M - 1
    return float(f_tail(square * (C - k) / (k * (C - 1)), k, C - k))


def time_p_values(times: Array, errors: Array, predicted: Array, dof: int) -> Array:
    """``(M,)``: of logarithms, since times are skewed; NaN where nothing was seen or predicted."""
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.log(times / predicted) / (errors / times)
    return np.where(np.isfinite(z), 2 * student_tail(np.abs(z), dof), np.nan)

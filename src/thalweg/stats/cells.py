r"""Runs of a grid: those of one configuration make a cell, and differ in their seed alone.

**Resampling seeds within cells.** Of the :math:`n_c` runs of a cell :math:`n_c - 1` are drawn with
replacement, and what is drawn counts :math:`n_c / (n_c - 1)` times. These weights have a mean of one, a
variance of one and covariances of :math:`-1 / (n_c - 1)` within the cell, so that the weighted mean of a
cell varies by :math:`s_c^2 / n_c` with the unbiased :math:`s_c^2`. Plain resampling of :math:`n_c` gives
only :math:`(n_c - 1) / n_c` of that: half with two seeds. The grid, and how many seeds a cell has, are held
constant; what comes of it says what other seeds would give on the same grid, not what another grid would.

Errors of measuring that are independent from run to run are in the spread between the runs of a cell, and
so in the weights; to add noise to the values besides would count them twice. Only in cells of one run,
which have no spread, is there anything to add.

References
----------
Rao and Wu (1988), J. American Statistical Association 83, 231-241; Rao, Wu and Yue (1992), Survey Methodology
18, 209-217.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Runs of a group (or cells), and which pairs of them count: ``(k,)`` and ``(k, k)`` of noughts and ones.
Group = tuple[NDArray[np.intp], NDArray[np.float64]]


@dataclass(frozen=True)
class Cells:
    """Which run is of which cell.

    Parameters
    ----------
    index
        ``(n,)`` cell of each run, counted in the order in which they first come.
    sizes
        ``(C,)`` runs in each.
    """

    index: NDArray[np.intp]
    sizes: NDArray[np.intp]

    @classmethod
    def of(cls, labels: Iterable[Hashable]) -> Cells:
        """Runs of equal labels make a cell."""
        places: dict[Hashable, int] = {}
        index = np.array([places.setdefault(label, len(places)) for label in labels], dtype=np.intp)
        return cls(index, np.bincount(index, minlength=len(places)))

    @property
    def dof(self) -> int:
        """Of the spread within the cells: runs less cells."""
        return int((self.sizes - 1).sum())

    @property
    def is_alone(self) -> NDArray[np.bool_]:
        """``(n,)``: whether a run is the only one of its cell."""
        return self.sizes[self.index] == 1

    def weights(self, num_resamples: int, seed: int) -> NDArray[np.float64]:
        """``(num_resamples, n)`` weights of the runs; one where a run is alone."""
        rng = np.random.default_rng(seed)
        weights = np.ones((num_resamples, len(self.index)))
        by_cell = np.argsort(self.index, kind="stable")
        starts = np.cumsum(self.sizes) - self.sizes
        for size in np.unique(self.sizes[self.sizes > 1]).tolist():
            cells = np.flatnonzero(self.sizes == size)
            drawn = rng.multinomial(size - 1, np.full(size, 1 / size), size=(num_resamples, len(cells)))
            runs = by_cell[starts[cells][:, None] + np.arange(size)]
            weights[:, runs] = drawn * (size / (size - 1))
        return weights


def axis_groups(
    name: str, hyperparameters: Mapping[str, Sequence[Hashable]], num_runs: int
) -> tuple[Cells, dict[str, list[Group]]]:
    """The cells, and for each hyperparameter the groups of runs that differ in nothing else but the seed.

    The pairs of a group that count are those that differ in the hyperparameter.

    Raises
    ------
    ValueError
        If there are none, or not one value for each run.
    """
    columns = run_labels(name, hyperparameters, num_runs)
    axes: dict[str, list[Group]] = {}
    for axis, values in columns.items():
        rest = [others for other, others in columns.items() if other != axis]
        level = Cells.of(values).index
        members: dict[Hashable, list[int]] = defaultdict(list)
        for run in range(num_runs):
            members[tuple(column[run] for column in rest)].append(run)
        axes[axis] = [
            (np.array(runs), (level[runs][:, None] != level[runs]).astype(np.float64))
            for runs in members.values()
        ]
    return Cells.of(zip(*columns.values(), strict=True)), axes


def run_labels(
    name: str, columns: Mapping[str, Sequence[Hashable]], num_runs: int
) -> dict[str, list[Hashable]]:
    """Columns of one label a run, checked."""
    found = {column: list(labels) for column, labels in columns.items()}
    if not found:
        raise ValueError(
            f"`{name}` must hold at least one column of labels, got none: the runs make no grid."
        )
    for column, labels in found.items():
        if len(labels) != num_runs:
            raise ValueError(
                f"`{name}[{column!r}]` must hold one label for each of the {num_runs} runs, got "
                f"{len(labels)}."
            )
    return found


def run_values(name: str, values: ArrayLike, num_runs: int | None = None) -> NDArray[np.float64]:
    """``(n,)`` finite values, one a run, checked."""
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or (num_runs is not None and len(x) != num_runs) or not np.isfinite(x).all():
        wanted = "a run" if num_runs is None else f"for each of the {num_runs} runs"
        raise ValueError(
            f"`{name}` must hold one finite value {wanted}, got shape {x.shape} with "
            f"{int((~np.isfinite(x)).sum())} not finite; leave out runs that were not measured."
        )
    return x


def run_errors(name: str, errors: ArrayLike | None, num_runs: int) -> NDArray[np.float64]:
    """``(n,)`` standard errors, checked; nought where none are given."""
    if errors is None:
        return np.zeros(num_runs)
    x = run_values(name, errors, num_runs)
    if (x < 0).any():
        raise ValueError(f"`{name}` must be standard errors >= 0, got {float(x.min())}.")
    return x

r"""Losses at many points, by their differences from the centre on one common sample of the examples.

.. math:: \hat L(p) = L(0) + \frac1n \sum_{i \in S} \bigl(\ell_i(p) - \ell_i(0)\bigr)

The centre is known on all N examples. The differences spread far less than the losses, and since S is the
same at every point, so is what chance has done to it: the shape of a surface is known better than its height.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from torch import Tensor

from thalweg.core.rng import generator
from thalweg.core.tolerance import Tolerance
from thalweg.objective.evaluation import l2_term
from thalweg.objective.objective import Objective
from thalweg.objective.sampling import examples_of, random_order
from thalweg.solvers.row_table import QUANTITIES, Array, Rows, RowTable
from thalweg.stats.clustered_mean import UnitMoments

# Examples of the pilot, and its least number of independent units. It is drawn apart from the sample, so that
# how large that is says nothing of what it holds.
PILOT_EXAMPLES, PILOT_UNITS = 512, 8

# The sample has at least so many units, below which Student's quantiles are hardly worth it.
LEAST_UNITS = 32

# More than the pilot asks for, since it saw few points; and by how much a sample grows at the least.
MARGIN, GROWTH = 1.15, 1.25

# Random parts of the sample whose own losses are kept, for resampling all points jointly; fewer on very large
# surfaces, where so many numbers in all would be exceeded.
NUM_FOLDS, LEAST_FOLDS, FOLD_LOSSES = 64, 8, 2**25


@dataclass(frozen=True)
class RowLosses:
    """What is known of R rows, each the mean over its M points; NaN where nothing is, or nothing finite.

    Parameters
    ----------
    losses, accuracies, penalties
        ``(R, M)`` float64, of each point. Losses leave the L2 term out.
    loss_errors, rise_errors, accuracy_errors
        ``(R,)`` float64: standard errors of the rows.
    fold_deviations
        ``(F, R)`` float64: how far each fold's loss lies from the row's. ``None`` where the losses are exact.
    fold_sizes
        ``(F,)`` int64.
    dof
        Degrees of freedom of the standard errors; infinite where they are zero.
    num_examples
        n.
    num_example_losses
        Losses of single examples computed in all, the pilot's and the centre's among them.
    passes
        How the points were evaluated.
    """

    losses: Tensor
    accuracies: Tensor
    penalties: Tensor
    loss_errors: Tensor
    rise_errors: Tensor
    accuracy_errors: Tensor
    fold_deviations: Tensor | None
    fold_sizes: Tensor | None
    dof: float
    num_examples: int
    num_example_losses: int
    passes: str


class PairedRows:
    """Evaluates rows on a sample of the examples that is large enough for the standard errors asked for.

    Parameters
    ----------
    rows
        Where they lie.
    target
        Largest standard error of a row; ``None`` takes all examples.
    population
        Whether the standard errors are for the distribution behind the examples.
    pilot
        Rows whose spread decides how many examples are taken.
    seed
        Of the sample.

    Attributes
    ----------
    evaluated
        ``(R,)``: which rows are known.
    """

    def __init__(
        self, rows: Rows, *, target: Tolerance | None, population: bool, pilot: Sequence[int], seed: int
    ) -> None:
        self._rows, self._target, self._population = rows, target, population
        self._penalty = l2_term(rows.objective, rows.objective.params)
        self._num_example_losses = N = rows.objective.num_examples
        self.evaluated = np.zeros(len(rows.steps), dtype=bool)
        self.evaluated[rows.centre_row] = True
        order = random_order(N, rows.unit_size, generator(seed, "surface sample"))
        num_units, num_pilot = rows.num_units, max(PILOT_UNITS, -(-PILOT_EXAMPLES // rows.unit_size))
        if target and 2 * num_pilot < num_units:
            drawn = random_order(N, rows.unit_size, generator(seed, "surface pilot"))[:num_pilot]
            table = RowTable(rows, drawn, torch.zeros_like(order), 1, expects=False)
            around = [row for row in pilot if row != rows.centre_row]
            rows.work.expect(rows.work.done + self._num_points(around) + self._num_points(rows.around))
            self._num_example_losses += table.evaluate(around)
            num_units = max(LEAST_UNITS, self._units_for(_needed([table], rows, target)))
        # Dealt out in the random order, so that folds are random parts of the sample however it grows.
        is_exact = num_units >= rows.num_units and not population
        most = max(LEAST_FOLDS, min(NUM_FOLDS, FOLD_LOSSES // len(rows.steps)))
        self._order, self._num_folds = order, 1 if is_exact else min(most, num_units, rows.num_units)
        self._folds = order.argsort() % self._num_folds
        self._tables: list[RowTable] = []
        self._add_table(num_units)
        rows.work.expect(rows.work.done + self._num_points(rows.around))

    def evaluate(self, rows: Sequence[int]) -> None:
        """Evaluate these rows as far as they are not yet."""
        missing = [row for row in rows if not self.evaluated[row]]
        for table in self._tables:
            self._num_example_losses += table.evaluate(missing, like=self._tables[0])
        self.evaluated[missing] = True

    def grow(self) -> bool:
        """Take more examples where the standard error of a row exceeds the target; False if all are met.

        The spread that decides is the one that the standard errors are made of: where it is small by chance,
        nothing grows. With so many units this costs less than a per cent of coverage, and `MARGIN` makes it
        rare.
        """
        if self._target is None or self._share == 1:
            return False
        errors = math.sqrt(1 - self._share) * self._moments("rise").standard_error()
        if not np.any(errors > self._target(self.heights().mean(1))):
            return False
        least = math.ceil(GROWTH * sum(table.num_units for table in self._tables))
        self._add_table(max(least, self._units_for(_needed(self._tables, self._rows, self._target))))
        rows = [row for row in self._rows.around if self.evaluated[row]]
        self._rows.work.expect(self._rows.work.done + self._num_points(rows))
        self._num_example_losses += self._tables[-1].evaluate(rows, like=self._tables[0])
        return True

    def sample(self) -> Objective:
        """The objective on the examples taken."""
        rows = self._rows
        if self._share == 1:
            return rows.objective
        num_units = sum(table.num_units for table in self._tables)
        taken = examples_of(self._order[:num_units], rows.unit_size, rows.objective.num_examples)
        return rows.objective.select(taken)

    def heights(self) -> Array:
        """``(R, M)``: losses with the L2 term, NaN where there is none."""
        return self._losses() + self._penalties()

    def result(self) -> RowLosses:
        """All that is known."""
        losses, accuracies = self._losses(), self._accuracies()
        loss_errors, rise_errors, accuracy_errors, dof = self._errors(losses.mean(1))
        deviations, sizes = self._fold_deviations()
        passes = set().union(*(table.passes for table in self._tables))
        return RowLosses(
            losses=torch.from_numpy(losses),
            accuracies=torch.from_numpy(accuracies),
            penalties=torch.from_numpy(self._penalties()),
            loss_errors=torch.from_numpy(loss_errors),
            rise_errors=torch.from_numpy(rise_errors),
            accuracy_errors=torch.from_numpy(accuracy_errors),
            fold_deviations=deviations,
            fold_sizes=sizes,
            dof=dof,
            num_examples=sum(table.num_examples for table in self._tables),
            num_example_losses=self._num_example_losses,
            passes="; ".join(sorted(passes)),
        )

    # -- the sample -----------------------------------------------------------------------------------

    @property
    def _share(self) -> float:
        """n / N."""
        return sum(table.num_examples for table in self._tables) / self._rows.objective.num_examples

    def _num_points(self, rows: Sequence[int]) -> int:
        return len(rows) * self._rows.steps.shape[1]

    def _units_for(self, num_examples: float) -> int:
        return math.ceil(MARGIN * num_examples / self._rows.unit_size)

    def _add_table(self, num_units: int) -> None:
        """Let the sample have so many units, with those it has."""
        first = sum(table.num_units for table in self._tables)
        # What is left over must show a spread when its turn comes, so that it is not a single unit.
        last = num_units if self._rows.num_units - num_units >= 2 else self._rows.num_units
        self._tables.append(RowTable(self._rows, self._order[first:last], self._folds, self._num_folds))

    # -- what comes out -------------------------------------------------------------------------------

    def _losses(self) -> Array:
        rows, sample = self._rows, self._means("losses")
        if self._share < 1:
            here = np.concatenate([table.centre_losses for table in self._tables])
            sample = sample + (float(rows.centre.losses[0]) - here.mean())
        sample[rows.centre_row] = float(rows.centre.losses[0])
        return sample

    def _accuracies(self) -> Array:
        rows, sample = self._rows, self._means("accuracies")
        if self._share < 1:
            here = np.concatenate([table.centre_correct for table in self._tables])
            sample = sample + (float(rows.centre.accuracies[0]) - here.mean())
            if not rows.objective.is_weighted:
                sample = sample.clip(0, 1)  # sums of differences may leave the range of shares
        sample[rows.centre_row] = float(rows.centre.accuracies[0])
        return sample

    def _penalties(self) -> Array:
        penalties = self._tables[0].penalties.copy()
        penalties[self._rows.centre_row] = self._penalty
        return penalties

    def _means(self, name: str) -> Array:
        """Means ``(R, M)`` over the sample of what is known on its tables."""
        if len(self._tables) == 1:
            return getattr(self._tables[0], name).copy()
        sizes = [table.num_examples for table in self._tables]
        return np.average([getattr(table, name) for table in self._tables], axis=0, weights=sizes)

    def _moments(self, quantity: str) -> UnitMoments:
        return _merged(self._tables, quantity)

    def _errors(self, losses: Array) -> tuple[Array, Array, Array, float]:
        """Standard errors of losses, rises and accuracies ``(R,)``, and their degrees of freedom."""
        share, dof = self._share, math.inf
        if not self._population and share == 1:
            found = [np.zeros_like(losses) for _ in QUANTITIES]
        else:
            dof = float(sum(table.num_units for table in self._tables) - 1)
            rises, levels, gains = (self._moments(quantity).standard_error() for quantity in QUANTITIES)
            if self._population:
                # The centre's mean over the N varies, and so does what the n say of the rest.
                found = [np.sqrt(share * np.square(levels) + (1 - share) * np.square(rises)), rises, gains]
            else:
                found = [math.sqrt(1 - share) * errors for errors in (rises, rises, gains)]
        for errors in found:
            errors[np.isnan(losses)] = np.nan
            errors[self._rows.centre_row] = 0.0
        if self._population:
            centre = self._rows.centre.example_losses[0].double().numpy()
            found[0][self._rows.centre_row] = UnitMoments.of(centre, self._rows.unit_size).standard_error()
        return found[0], found[1], found[2], dof

    def _fold_deviations(self) -> tuple[Tensor | None, Tensor | None]:
        if not self._population and self._share == 1:
            return None, None
        tables, F = self._tables, self._num_folds
        sizes = np.sum([np.bincount(t.folds, minlength=F) for t in tables], axis=0)  # (F,)
        rises = np.sum([t.fold_rises for t in tables], axis=0) / sizes  # (R, F)
        rises[self._rows.centre_row] = 0.0
        deviations = rises - np.average(rises, axis=1, weights=sizes)[:, None]
        if self._population:
            sums = [np.bincount(t.folds, t.centre_losses, minlength=F) for t in tables]
            levels = np.sum(sums, axis=0) / sizes
            deviations += self._share * (levels - np.average(levels, weights=sizes)) + self._rest(sizes)
        else:
            deviations *= math.sqrt(1 - self._share)
        return torch.from_numpy(deviations.T.copy()), torch.from_numpy(sizes.astype(np.int64))

    def _rest(self, sizes: Array) -> Array:
        """``(F,)``: what the centre's loss on examples not taken adds to every row, dealt to the folds."""
        rows, F = self._rows, self._num_folds
        num_units = sum(table.num_units for table in self._tables)
        if num_units == rows.num_units:
            return np.zeros(F)
        left = examples_of(self._order[num_units:], rows.unit_size, rows.objective.num_examples)
        losses = rows.centre.example_losses[0][left].double().numpy()
        folds = self._folds[left // rows.unit_size]
        # Their mean has a variance; one fold's share of it is that of an F-th of them.
        sums = np.bincount(folds, losses - losses.mean(), minlength=F)
        found = (1 - self._share) * sums * F / len(left)
        return found - np.average(found, weights=sizes)


def _merged(tables: Sequence[RowTable], quantity: str) -> UnitMoments:
    return reduce(UnitMoments.merge, (table.moments(quantity) for table in tables))


def _needed(tables: Sequence[RowTable], rows: Rows, target: Tolerance) -> float:
    """Examples with which all rows would meet the target, by their spread on these tables."""
    moments, N = _merged(tables, "rise"), rows.objective.num_examples
    variances = moments.num_examples * np.square(moments.standard_error())
    heights = float(rows.centre.losses[0]) + moments.mean + tables[0].penalties.mean(1)
    # The mean of the finite population is wanted: variance / n * (1 - n / N) = target^2.
    divisors = np.square(target(heights)) + variances / N
    wanted = variances[divisors > 0] / divisors[divisors > 0]
    return float(wanted.max()) if len(wanted) else 0.0

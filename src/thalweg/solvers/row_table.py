"""What is known of a surface's rows on some of the examples: evaluated in chunks, stored as they are done."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thalweg.core.array_store import Store, array_of, key_of, recalled, text_of
from thalweg.core.measurement import hash_tensors
from thalweg.core.progress import Work
from thalweg.objective.compilation import is_compiled
from thalweg.objective.evaluation import Point, PointEvaluations, PointEvaluator, l2_term
from thalweg.objective.objective import Objective
from thalweg.objective.resuming import points_at_risk
from thalweg.objective.sampling import examples_of
from thalweg.solvers.directions import Directions
from thalweg.stats.clustered_mean import UnitMoments

Array = NDArray[np.float64]

# Most points and example losses evaluated, and stored, at a time: what memory it takes. Where points are slow
# they are fewer, for what a kill can cost: see `thalweg.objective.resuming`.
CHUNK_POINTS, CHUNK_LOSSES = 64, 2**21

# What has moments: differences of loss and accuracy from the centre, and the losses themselves.
QUANTITIES = ("rise", "loss", "gain")


@dataclass(frozen=True)
class Rows:
    """R rows, each the mean over M points, around a centre that is known on all N examples.

    Parameters
    ----------
    objective, centre
        The centre, and its evaluation.
    directions, steps
        D directions, and ``(R, M, D)`` float64: where the points of each row lie.
    centre_row
        Which row is the centre.
    unit_size
        Examples that stand or fall together.
    store
        Of what is done.
    work
        Counts points.
    """

    objective: Objective
    centre: PointEvaluations
    directions: Directions
    steps: Tensor
    centre_row: int
    unit_size: int
    store: Store | None
    work: Work

    @property
    def num_points(self) -> int:
        """R times M."""
        return self.steps[..., 0].numel()

    @property
    def around(self) -> list[int]:
        """All rows but the centre."""
        return [row for row in range(len(self.steps)) if row != self.centre_row]

    @property
    def num_units(self) -> int:
        """U, the last of which may be short."""
        return -(-self.objective.num_examples // self.unit_size)

    @cached_property
    def hash(self) -> str:
        """Of all that decides the points but the steps, and of the centre they are compared with."""
        moving = [self.directions.vectors, *(self.directions.offsets or {}).values()]
        for end in self.directions.ends:
            moving += [] if end is None else [end[0], *(end[1] or {}).values()]
        return hash_tensors(*moving, self.centre.example_losses, self.centre.example_correct)


class RowTable:
    """The rows on some of the examples.

    Parameters
    ----------
    rows
        Which they are.
    units
        ``(U',)``: the independent units taken, ascending or not.
    folds
        ``(U,)`` int64: the fold of every unit.
    num_folds
        F.
    expects
        Whether all the points will be evaluated, which decides if compiling pays.

    Attributes
    ----------
    losses, accuracies, penalties
        ``(R, M)``: means over the examples, and the L2 term.
    fold_rises
        ``(R, F)``: *sums* over the examples of each fold of the row's loss above the centre's.
    """

    def __init__(
        self, rows: Rows, units: Tensor, folds: Tensor, num_folds: int, *, expects: bool = True
    ) -> None:
        N = rows.objective.num_examples
        index = torch.arange(N)
        self.objective = rows.objective
        if len(units) < rows.num_units:
            index = examples_of(units, rows.unit_size, N)
            self.objective = rows.objective.select(index)
        self._rows = rows
        self.folds = folds[index // rows.unit_size].numpy()
        self.centre_losses = rows.centre.example_losses[0][index].double().numpy()
        self.centre_correct = rows.centre.example_correct[0][index].double().numpy()
        self.num_units = len(units)
        self._size_squares = float((index // rows.unit_size).bincount().double().square().sum())
        self._num_points = rows.num_points if expects else 0
        self._evaluator: PointEvaluator | None = None
        self.passes: set[str] = set()
        R, M = rows.steps.shape[:2]
        self.losses, self.accuracies, self.penalties = (np.full((R, M), np.nan) for _ in range(3))
        self.fold_rises = np.full((R, num_folds), np.nan)
        self._moments = np.full((R, len(QUANTITIES), 3), np.nan)
        self._key = key_of(
            objective=self.objective.describe(),
            rows=rows.hash,
            folds=[num_folds, hash_tensors(torch.from_numpy(self.folds))],
            compiled=is_compiled(self.objective, self._num_points),
        )

    @property
    def num_examples(self) -> int:
        """Of those taken."""
        return self.objective.num_examples

    def evaluate(self, rows: Sequence[int], like: RowTable | None = None) -> int:
        """Evaluate these rows, by the passes of the table `like`; how many losses of examples that took."""
        M = self._rows.steps.shape[1]
        size = max(1, min(CHUNK_POINTS, CHUNK_LOSSES // self.num_examples, self._at_risk) // M)
        for start in range(0, len(rows), size):
            self._chunk(list(rows[start : start + size]), like or self)
        return len(rows) * M * self.num_examples

    @cached_property
    def _at_risk(self) -> int:
        return points_at_risk(self.objective)

    def moments(self, quantity: str) -> UnitMoments:
        """Moments ``(R,)`` of one of the quantities."""
        mean, squares, sizes = np.moveaxis(self._moments[:, QUANTITIES.index(quantity)], -1, 0)
        return UnitMoments(self.num_examples, self.num_units, mean, squares, sizes, self._size_squares)

    def evaluator(self) -> PointEvaluator:
        """Compiled, if it is to be, at the first call."""
        if self._evaluator is None:
            self._evaluator = PointEvaluator(self.objective, self._num_points)
        return self._evaluator

    def _chunk(self, rows: list[int], like: RowTable) -> None:
        steps, work = self._rows.steps[rows], self._rows.work
        key, then = key_of(table=self._key, steps=hash_tensors(steps)), work.done + steps[..., 0].numel()
        arrays = recalled(self._rows.store, key, lambda: self._computed(rows, like))
        work.add(then - work.done)  # all of them, where they were stored
        self.passes.add(text_of(arrays["passes"]))
        self.losses[rows], self.accuracies[rows] = arrays["losses"], arrays["accuracies"]
        self.penalties[rows], self.fold_rises[rows] = arrays["penalties"], arrays["fold_rises"]
        self._moments[rows] = arrays["moments"]

    def _computed(self, rows: list[int], like: RowTable) -> dict[str, Tensor]:
        """The table's entries for some rows."""
        all_rows, work = self._rows, self._rows.work
        steps, before = all_rows.steps[rows], work.done
        T, M, D = steps.shape
        penalties: list[float] = []

        def points() -> Iterator[Point]:
            for step in steps.view(T * M, D).tolist():
                params, buffers = all_rows.directions.point(all_rows.objective, step)
                penalties.append(l2_term(self.objective, params))
                yield params, buffers

        def on_point(done: int) -> None:
            work.add(before + done - work.done)

        evaluate = like.evaluator().on(self.objective)
        found = evaluate(points(), on_point, allow_non_finite=True)
        samples = found.example_losses.double().view(T, M, -1)
        bad = ~samples.isfinite().all(-1)  # (T, M)
        samples[bad] = math.nan
        losses = samples.mean(1).numpy()  # (T, n)
        correct = found.example_correct.double().view(T, M, -1).mean(1).numpy()
        rises = losses - self.centre_losses
        quantities = {"rise": rises, "loss": losses, "gain": correct - self.centre_correct}
        moments = [UnitMoments.of(quantities[name], all_rows.unit_size) for name in QUANTITIES]
        return {
            "losses": found.losses.view(T, M).masked_fill(bad, math.nan),
            "accuracies": found.accuracies.view(T, M).masked_fill(bad, math.nan),
            "penalties": torch.tensor(penalties, dtype=torch.float64).view(T, M),
            "moments": torch.from_numpy(
                np.stack([np.stack([m.mean, m.squares, m.sizes], axis=-1) for m in moments], axis=1)
            ),
            "fold_rises": torch.from_numpy(self._by_fold(rises)),
            "passes": array_of(found.passes),
        }

    def _by_fold(self, values: Array) -> Array:
        """Sums ``(T, F)`` of values ``(T, n)`` over each fold's examples."""
        order = np.argsort(self.folds, kind="stable")
        present, starts = np.unique(self.folds[order], return_index=True)
        sums = np.zeros((len(values), self.fold_rises.shape[1]))
        sums[:, present] = np.add.reduceat(values[:, order], starts, axis=1)
        return sums

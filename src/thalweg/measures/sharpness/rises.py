"""How far the loss lies above the centre at perturbed points, all on the same examples."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from thalweg.core.progress import Progress
from thalweg.objective.evaluation import Point, PointEvaluations, l2_term
from thalweg.objective.objective import Objective


class Rises:
    """L(theta + delta) - L(theta) for any number of perturbations; the centre is evaluated once, here.

    Always by eager passes, unless the objective asks for compiled ones: a small rise must not be the
    difference between two ways to compute.

    Parameters
    ----------
    objective
        Its point is the centre.
    progress
        Called as ``progress(evaluations done, evaluations expected)``.
    expected
        Evaluations in all, the centre's among them, as far as is known; `expect` says it anew.

    Attributes
    ----------
    loss
        At the centre, with the L2 term if there is one.
    num_evaluations
        Points evaluated so far, the centre among them: as many passes over the data.
    """

    def __init__(self, objective: Objective, progress: Progress | None = None, expected: int = 1) -> None:
        self.objective, self._progress, self._expected, self.num_evaluations = (
            objective,
            progress,
            expected,
            0,
        )
        centre = self._evaluate([(objective.params, objective.buffers)], allow_non_finite=False)
        self._losses, self._examples = centre.losses, centre.example_losses.double()
        self._penalty = l2_term(objective, objective.params)
        self.loss = float(centre.losses[0]) + self._penalty

    def __call__(self, deltas: Iterable[Tensor], allow_non_finite: bool = False) -> Tensor:
        """``(T,)`` float64: the rise of each, L2 term included.

        Raises
        ------
        NonFiniteLossError
            If a loss is not finite, unless that is allowed, where the rise is not.
        """
        return self.with_examples(deltas, allow_non_finite)[0]

    def with_examples(
        self, deltas: Iterable[Tensor], allow_non_finite: bool = False
    ) -> tuple[Tensor, Tensor]:
        """The rises ``(T,)``, and those of each example ``(T, N)``, in which the L2 term counts, too."""
        objective, penalties = self.objective, []

        def points() -> Iterator[Point]:
            for delta in deltas:
                params = objective.params + delta
                penalties.append(l2_term(objective, params) - self._penalty)
                yield params, None

        found = self._evaluate(points(), allow_non_finite)
        added = torch.tensor(penalties, dtype=torch.float64)
        examples = found.example_losses.double() - self._examples + added[:, None]
        return found.losses - self._losses + added, examples

    def expect(self, more: int) -> None:
        """Say how many more evaluations are coming."""
        self._expected = self.num_evaluations + more

    def finish(self) -> None:
        """All is done."""
        if self._progress:
            self._progress(self.num_evaluations, self.num_evaluations)

    def _evaluate(self, points: Iterable[Point], allow_non_finite: bool) -> PointEvaluations:
        def on_point(done: int) -> None:
            if self._progress:
                done += self.num_evaluations
                self._progress(done, max(done, self._expected))

        found = self.objective.evaluate_points(points, on_point, allow_non_finite)
        self.num_evaluations += len(found.losses)
        return found

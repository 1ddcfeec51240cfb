"""The straight line between two networks, and the loss barrier on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from thalweg.core.array_store import Store
from thalweg.core.progress import Progress
from thalweg.measures.connectivity.path import Path, between, check_path, evaluate_path
from thalweg.objective.objective import Objective
from thalweg.objective.resuming import check_store_for


@dataclass(frozen=True, kw_only=True, repr=False)
class LinearPath(Path):
    """Loss and accuracy on the straight line from `a` (alpha 0) to `b` (alpha 1); the fields are `Path`'s."""

    measure: ClassVar[str] = "linear_path"


def linear_path(
    a: Objective,
    b: Objective,
    *,
    num_points: int = 21,
    population: bool = False,
    store: Store | None = None,
    progress: Progress | None = None,
) -> LinearPath:
    r"""Evaluate :math:`L((1 - \alpha)\,\theta_a + \alpha\,\theta_b)` on a grid; the barrier between the ends.

    Floating buffers are interpolated with the parameters: in ``"running"`` mode batch norm thus uses
    interpolated statistics, which are not those of the interpolated network. ``"recalibrated"`` computes that
    network's own at every point; in ``"batch"`` mode each batch has its own.

    A grid can miss the peak, so the barrier found is a lower bound on the line's. ``error.grid`` estimates
    by how much, as a smooth curve would: an eighth of the largest second difference of the losses at the
    highest interior point and beside it, plus an eighth of how much these differ. It is no bound: a peak
    narrower than the grid shows in no difference. The line's barrier in turn is only an upper bound on what
    separates the networks: another path may be lower.

    Parameters
    ----------
    a, b
        Two points of one function: same architecture, frozen parameters, loss, data, batch-norm mode, L2
        term.
    num_points
        T, at least 3.
    population
        Give standard errors for the distribution the examples are a sample of, from paired differences
        example by example (batch by batch in ``"batch"`` mode). ``error.data`` is that of the height above
        the chord at the highest interior point. Two things it leaves out: that the same data chose that
        point, which biases upwards a barrier no larger than its standard error, and that recalibrated
        statistics come from a sample too.
    store
        Keeps the points that are done, some at a time; as in `plane_slice`.
    progress
        Called as ``progress(points done, points in all)``.

    Raises
    ------
    TypeError, ValueError
        If the two are not points of one function, naming what differs; if `num_points` is below 3; for
        ``population=True`` with a single example, or a single batch in ``"batch"`` mode.
    NonFiniteLossError
        If the loss is not finite somewhere on the line: it then has no barrier.

    References
    ----------
    Frankle, Dziugaite, Roy and Carbin (2020), Linear Mode Connectivity and the Lottery Ticket Hypothesis,
    ICML. Entezari, Sedghi, Saukh and Neyshabur (2022), The Role of Permutation Invariance in Linear Mode
    Connectivity of Neural Networks, ICLR.
    """
    check_path(a, b, num_points, population)
    check_store_for(store, a, b)
    return LinearPath(
        **evaluate_path(
            a,
            b,
            lambda alpha: between(a.params, b.params, alpha),
            decided_by="straight",
            num_points=num_points,
            population=population,
            shape="line",
            provenance={
                "function": "linear_path",
                "arguments": {"num_points": num_points, "population": population},
            },
            store=store,
            progress=progress,
        )
    )

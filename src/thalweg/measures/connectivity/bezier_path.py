"""Curved paths of low loss between two networks: Bezier curves and polygonal chains with trained bends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from thalweg.core.arguments import check_count
from thalweg.core.measurement import hash_tensors
from thalweg.core.progress import Progress, Work
from thalweg.measures.connectivity.curve import Curve, Kind, check_kind
from thalweg.measures.connectivity.curve_training import CurveTraining, trained
from thalweg.measures.connectivity.path import Path, check_ends, check_path, evaluate_path
from thalweg.objective.objective import Objective

# Passes forward that a step costs: a gradient is three.
GRADIENT_PASSES = 3


@dataclass(frozen=True, kw_only=True, repr=False)
class BezierPath(Path):
    r"""Loss and accuracy on a trained curve from `a` (t = 0) to `b` (t = 1); `value` is `barrier`.

    `Path` tells of the fields that all paths share; their `alphas` are the curve's own parameter t here. The
    chord under the barrier is drawn over t as well; where the ends are equally low this makes no difference.

    Parameters
    ----------
    kind, num_bends
        As asked.
    control_points
        ``(P, num_bends + 2)`` in the dtype of the parameters: `a`, the bends, `b`; the ends to the bit.
    arc_lengths
        ``(T,)`` float64: Euclidean length of the curve from `a` to each point. Equal steps of t are no equal
        steps of length; drawn over this instead the same points give the curve at even speed.
    arc_length
        Of the whole curve.
    distance
        Of the ends, as the straight line goes.
    training_losses, training_positions
        ``(S,)`` float64: loss of each step's mini-batch before the step, without an L2 term, and where on the
        curve it was, t. In ``"recalibrated"`` mode with the batch's own statistics.
    """

    measure: ClassVar[str] = "bezier_path"

    kind: Kind
    num_bends: int
    control_points: Tensor
    arc_lengths: Tensor
    arc_length: float
    distance: float
    training_losses: Tensor
    training_positions: Tensor

    def _circumstances(self) -> list[str]:
        return [
            *(["training ended above where it began"] if self.has_risen else []),
            *super()._circumstances(),
        ]

    @property
    def has_risen(self) -> bool:
        """Whether the last tenth of the training losses lies above the first, on the straight line or near.

        The learning rate is then too large, or the steps too few: the curve is no better than that line.
        """
        tenth = -(-len(self.training_losses) // 10)
        return (
            tenth > 0
            and float(self.training_losses[-tenth:].mean() - self.training_losses[:tenth].mean()) > 0
        )

    def params_at(self, t: float) -> Tensor:
        """Parameters ``(P,)`` of the curve at t in [0, 1]: what `Objective.at` takes."""
        if not 0 <= t <= 1:
            raise ValueError(f"`t` must lie in [0, 1], from one end to the other, got {t!r}.")
        return Curve(self.kind, self.control_points.unbind(1)).at(t)


def bezier_path(
    a: Objective,
    b: Objective,
    *,
    kind: Kind = "bezier",
    num_bends: int = 1,
    num_points: int = 21,
    num_steps: int = 3000,
    learning_rate: float = 0.05,
    momentum: float = 0.9,
    batch_size: int | None = None,
    control_points: Tensor | None = None,
    population: bool = False,
    seed: int,
    progress: Progress | None = None,
) -> BezierPath:
    r"""Train a curve :math:`\varphi` from `a` to `b` to minimise :math:`E_t L(\varphi(t))`; its barrier.

    t is uniform on [0, 1], so that the mean is over the curve's parameter and not over its length. The bends
    start on the straight line, and are trained by stochastic gradient descent on mini-batches of the
    objective's own data, one t a step (each uniform by itself, but spread more evenly than independent ones).
    The schedule is that of Garipov et al.: the full rate for half of the steps, falling to a hundredth of it
    at nine tenths. L is ``objective.value()``, L2 term included; the losses reported leave it out. Any
    network will do: the gradient in a bend is that in the parameters, times a number.

    The barrier is an upper bound on what separates the networks: longer training or another seed may find a
    lower curve, and a high barrier proves nothing. As a number it is a lower bound on the barrier of this
    very curve, whose peak the grid may miss: ``error.solver`` estimates by how much, see `linear_path`.

    Batch norm, of what is evaluated and what is trained: in ``"recalibrated"`` mode every point of the grid
    has its own exact statistics; training takes each mini-batch's own, and differentiates through them, as
    Garipov et al. do. In ``"batch"`` mode both take each batch's own. In ``"running"`` mode the statistics
    are constants that belong to a point as its parameters do, and those of the curve go straight from `a` to
    `b`, whatever the bends; the bends are trained for just these. Such a path joins the two functions as they
    are deployed, and is low for these statistics only: they are not those of the networks on it, so that in
    another mode it may be high.

    Parameters
    ----------
    a, b
        Two points of one function: same architecture, frozen parameters, loss, data, batch-norm mode, L2
        term. Take training data; see `control_points` for the curve's loss on others.
    kind
        ``"bezier"``: one curve of degree ``num_bends + 1``. ``"polygon"``: straight from bend to bend.
    num_bends
        Control points between the ends.
    num_points
        T, at least 3, equidistant in t. The corners of a polygon must be among them: T - 1 a multiple of
        ``num_bends + 1``.
    num_steps
        S, of the training; with 0 the curve is evaluated as it is, which without `control_points` is the
        straight line.
    learning_rate, momentum
        Of SGD in torch's convention, ``v = momentum * v + g; w = w - learning_rate * v``.
    batch_size
        Examples of a mini-batch. Default: the objective's own `batch_size`.
    control_points
        ``(P, num_bends + 2)``, where to start instead of the straight line: those of an earlier result, on
        the same ends. With ``num_steps=0`` and objectives on test data it gives that curve's test loss.
    population
        As in `linear_path`. The curve counts as given: that it was trained on the same examples is left out.
    seed
        Of the t and of the mini-batches. How far the barrier hangs on it: `thalweg.seed_spread`.
    progress
        Called with work done and all work, in examples.

    Raises
    ------
    TypeError, ValueError
        If the two are not points of one function, naming what differs; for a number out of range, an unknown
        kind, a grid without the corners, control points of another shape or other ends; for
        ``population=True`` with a single example, or a single batch in ``"batch"`` mode.
    NonFiniteLossError
        If training diverges, or the loss is not finite somewhere on the curve.

    References
    ----------
    Garipov, Izmailov, Podoprikhin, Vetrov and Wilson (2018), Loss Surfaces, Mode Connectivity, and Fast
    Ensembling of DNNs, NeurIPS. Draxler, Veschgini, Salmhofer and Hamprecht (2018), Essentially No Barriers
    in Neural Network Energy Landscape, ICML.
    """
    check_kind(kind)
    check_count("num_bends", num_bends)
    check_path(a, b, num_points, population)
    if kind == "polygon" and (num_points - 1) % (num_bends + 1):
        fitting = -(-(num_points - 1) // (num_bends + 1)) * (num_bends + 1) + 1
        raise ValueError(
            f"`num_points` less one must be a multiple of num_bends + 1 = {num_bends + 1}, so that the "
            f"corners of the polygon are on the grid, got {num_points}; use {fitting}."
        )
    training = CurveTraining(
        num_steps, learning_rate, momentum, a.batch_size if batch_size is None else batch_size
    )
    arguments: dict[str, Any] = {
        "kind": kind,
        "num_bends": num_bends,
        "num_points": num_points,
        "num_steps": num_steps,
        "learning_rate": learning_rate,
        "momentum": momentum,
        "batch_size": batch_size,
        "control_points": None if control_points is None else hash_tensors(control_points),
        "population": population,
        "seed": seed,
    }
    curve = _start(kind, num_bends, control_points, a, b)
    check_ends(a, b, "curve")  # now, and not after minutes of training

    a_step = GRADIENT_PASSES * min(training.batch_size, a.num_examples)
    evaluating = (num_points + 1) * a.num_examples
    work = Work(progress, num_steps * a_step + evaluating)
    curve, losses, positions = trained(curve, a, b, training, seed=seed, on_step=lambda: work.add(a_step))
    fields = evaluate_path(
        a,
        b,
        curve.at,
        num_points=num_points,
        population=population,
        shape="curve",
        provenance={"function": "bezier_path", "arguments": arguments},
        progress=work.part(unit=a.num_examples),
    )
    lengths = curve.arc_lengths(fields["alphas"].tolist())
    return BezierPath(
        **fields,
        kind=kind,
        num_bends=num_bends,
        control_points=torch.stack(list(curve.points), 1).cpu(),
        arc_lengths=lengths,
        arc_length=float(lengths[-1]),
        distance=float(torch.linalg.vector_norm(b.params.cpu().double() - a.params.cpu().double())),
        training_losses=losses,
        training_positions=positions,
    )


def _start(kind: Kind, num_bends: int, given: Tensor | None, a: Objective, b: Objective) -> Curve:
    """The straight line, or the control points given ``(P, num_bends + 2)``."""
    if given is None:
        return Curve.straight(kind, a.params, b.params, num_bends)
    given = torch.as_tensor(given).detach()
    shape = (a.space.dim, num_bends + 2)
    if given.shape != shape or not given.is_floating_point() or not bool(given.isfinite().all()):
        raise ValueError(
            f"`control_points` must be finite numbers of shape (P, num_bends + 2) = {shape}, the ends first "
            f"and last, got {given.dtype} of shape {tuple(given.shape)}."
        )
    points = [w.contiguous() for w in given.to(a.params).unbind(1)]
    for name, end, point in (("a", a, points[0]), ("b", b, points[-1])):
        if not torch.equal(end.params, point):
            raise ValueError(
                f"`control_points` must lead from `a` to `b`, but their {'first' if name == 'a' else 'last'} "
                f"column is not the parameters of `{name}`; give the ends that the curve was trained for."
            )
    return Curve(kind, points)

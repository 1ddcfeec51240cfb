r"""Whether a surface bends at its centre as the Hessian says it does.

.. math:: \frac{\partial^2}{\partial a_i\,\partial a_j} L\Bigl(\theta + \sum_k a_k d_k\Bigr)\Big|_{a = 0}
          = d_i^\top H d_j

The left side by central differences of losses, with what they leave in error; the right by products with the
Hessian. Neither knows of the other: a surface whose axes were scaled after its directions were chosen, or a
Hessian of another function than the one drawn, shows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from thalweg.core.arguments import check_flag, check_fraction, check_positive
from thalweg.core.errors import ThalwegError, is_out_of_memory
from thalweg.core.measurement import ErrorBudget, Measurement
from thalweg.core.progress import Progress, part_of
from thalweg.objective.check_objective import check_objective
from thalweg.objective.objective import Objective
from thalweg.operators.hessian import Hessian
from thalweg.solvers.directions import Directions
from thalweg.solvers.second_differences import second_differences

# Between one try of steps and the next; and how many times the precision the rise over a step must be,
# relative to the loss, for differences to have any digits.
SHRINKAGE, ROUNDED = 4, 100

# Errors below this part of the tolerance need no smaller steps, and no fewer examples.
FINE_ENOUGH = 0.1

# Where kinks hide the curvature of many examples, so many of the largest loss are looked at by themselves:
# the fewer units a step moves, the fewer of them turn over it.
FEW_EXAMPLES = (32, 8, 2)

# Directions whose curvatures are listed one by one in a line of text.
MOST_LISTED = 3

# A loss below this is no scale for the step: its rounding is that of the outputs.
LEAST_LOSS = 0.01


@dataclass(frozen=True, kw_only=True, repr=False)
class QuadraticAgreement(Measurement):
    """How far the surface's curvature at the centre and the Hessian's are apart: `value`, relatively.

    The largest difference between two entries, for directions of length one, over the largest curvature that
    the Hessian has in the plane. ``error.solver`` bounds what the finite steps and rounding make of it; that
    of the steps is an estimate, see `curvature_errors`. D directions; arrays are ``(D, D)`` float64, in loss
    a step squared, and NaN off the diagonal where each direction was compared by itself.

    Parameters
    ----------
    hessian_form
        Of the products, with the L2 term if there is one.
    curvatures
        By central differences of the losses, batch-norm statistics and all other buffers held as they are at
        the centre: the function that the Hessian is of.
    curvature_errors
        Of `curvatures`: the difference of two Richardson extrapolations, and rounding.
    surface_curvatures, surface_curvature_errors
        The same of the surface as it is drawn, where statistics that are recalibrated at every point, or
        buffers that travel to another network, bend it too. Where nothing moves but parameters, and on few
        examples, the same.
    steps
        ``(D,)``, the smallest step along each direction.
    precision
        In which the losses of the differences were computed: the objective's, or ``"float64"`` where that had
        too few digits.
    statistics_effect
        The largest difference between `surface_curvatures` and `curvatures`, on the scale of the value: what
        moving buffers add. Nought where none move, and on few examples.
    rtol
        As asked.
    on_all
        The same on all the examples, where these were too many to tell; the rest is then of a few of them.
    verdict
        Of the examples compared, see `conclusion`: ``"agrees"`` if the value lies below `rtol` with its
        error, ``"differs"`` if it lies above with its error, else ``"undecided"``: the losses are too coarse,
        the kinks too many, or the plane too flat, to tell.
    """

    measure: ClassVar[str] = "quadratic_agreement"

    hessian_form: Tensor
    curvatures: Tensor
    curvature_errors: Tensor
    surface_curvatures: Tensor
    surface_curvature_errors: Tensor
    steps: Tensor
    precision: str
    statistics_effect: float
    rtol: float
    verdict: str
    on_all: QuadraticAgreement | None = None

    @property
    def summary(self) -> str:
        """What was compared and what came of it, in one line: the curvature along each direction."""
        if self.hessian_form is None:  # saved without its arrays
            return f"curvature at the centre, surface and Hessian: {self.verdict}"
        whole = self.on_all or self
        form, held, drawn = map(_diagonal, (whole.hessian_form, whole.curvatures, whole.surface_curvatures))
        moving = "" if drawn == held else f" with buffers held, {drawn} as drawn, where they move"
        text = f"curvature at the centre: Hessian {form}, surface {held}{moving}"
        if self.on_all:
            few = self.provenance["objective"]["num_examples"]
            own = f"Hessian {_diagonal(self.hessian_form)}, surface {_diagonal(self.curvatures)}"
            text = f"{text}; of {few} examples, over smaller steps, {own}"
        return f"{text}: {self.conclusion}"

    @property
    def conclusion(self) -> str:
        """The verdict in words, which say of how many examples it is, and what all of them gave."""
        if self.on_all is None:
            return self.verdict
        few, whole = (r.provenance["objective"]["num_examples"] for r in (self, self.on_all))
        return f"{self.verdict} on {few} of {whole:,} examples, {self.on_all.verdict} on all"

    def __repr__(self) -> str:
        head = super().__repr__()
        return f"{head[:-1]}, surface and Hessian: {self.conclusion}, within {self.rtol:g})"


def quadratic_agreement(
    objective: Objective,
    directions: Directions,
    *,
    mixed: bool = True,
    step: float | Sequence[float] | None = None,
    rtol: float = 0.05,
    progress: Progress | None = None,
) -> QuadraticAgreement:
    r"""Compare second differences of the loss about the centre with :math:`d_i^\top H d_j`.

    The losses are taken at steps of h, 2h and 4h along each axis, and diagonally for each pair; see
    `thalweg.solvers.second_differences`. That takes 1 + 6 D + 6 D (D - 1) evaluations for each size of steps,
    the last term with `mixed` alone, and D products.

    **Which function.** In ``"recalibrated"`` mode the Hessian holds the statistics of the centre constant,
    and the surface recomputes them at every point; towards a network in ``"running"`` mode they move with the
    parameters. These are two functions with two curvatures. The verdict is on the one that the Hessian is of,
    statistics held; the drawn one's is measured by a second set of points, and `statistics_effect` is the
    difference.

    **Kinks.** The Hessian of a network of ReLUs or max pooling is that of the piece around the centre;
    differences over a finite step cross into other pieces, and see their bends, too. Of large networks on
    many examples no step that floating point knows is small enough. Where all examples do not agree, few are
    looked at by themselves, those of the largest loss (in ``"batch"`` mode as a batch of their own), over
    ever smaller steps, as far as rounding allows; of all tried, those with the least error count. What the
    surface of all examples does over the first steps is then in `on_all`: it bends as its kinks do, too.

    Parameters
    ----------
    objective
        The centre.
    directions
        D of them, from there: points are those that the surface itself steps to.
    mixed
        If False, each direction is compared by itself, as for lines that share nothing but the centre.
    step
        h, in steps along the direction, for all or each. By default that over which the Hessian lets the loss
        rise by sqrt(eps) of itself, with eps the precision of the objective's dtype, but no longer than
        eps^(1/4) of the length of the parameters; then, on few examples and while errors exceed a tenth of
        `rtol`, a quarter of it, and so on, and the same in float64, if the model runs in it.
    rtol
        Relative difference that counts as agreement, in (0, 1).
    progress
        Of the whole, in parts.

    Raises
    ------
    ValueError
        For a step that is not positive, an `rtol` out of range, or directions of another network.
    NonFiniteLossError
        If the loss, or a product, is not finite at the centre or a step away.
    DerivativeError
        If no composition of automatic differentiation gives this network's Hessian.
    """
    check_objective("objective", objective)
    check_fraction("rtol", rtol, "0.05 allows the two to differ by 5 %")
    check_flag("mixed", mixed)
    if len(directions.vectors) != objective.space.dim:
        raise ValueError(
            f"`directions` must have {objective.space.dim} entries, one a trainable parameter, got "
            f"{len(directions.vectors)}."
        )

    sizes = [n for n in FEW_EXAMPLES if n < objective.num_examples and step is None]
    num_parts = 1 + len(sizes)

    def compared(o: Objective, part: int, **which: bool) -> QuadraticAgreement:
        own = part_of(progress, part, num_parts)
        return _compared(o, directions, bool(mixed), step, rtol, own, **which)

    found = on_all = compared(objective, 0, is_first=bool(sizes))
    # Of very many kinks even the errors are small, and the difference is theirs. Few examples tell it from a
    # wrong derivative, which they would show as well; from a sum over many that goes wrong they do not.
    if sizes and on_all.verdict != "agrees":
        for part, few in enumerate(_few(objective, sizes), start=1):
            # By their errors, not by what they come to: how near to the Hessian must not choose.
            found = min(found, compared(few, part, moves=False), key=_error)
            if _is_fine(found):
                break
    if last := part_of(progress, num_parts - 1, num_parts):
        last(1, 1)
    return found if found is on_all else replace(found, on_all=on_all)


def _compared(
    objective: Objective,
    directions: Directions,
    mixed: bool,
    step: float | Sequence[float] | None,
    rtol: float,
    progress: Progress | None,
    *,
    is_first: bool = False,
    moves: bool = True,
) -> QuadraticAgreement:
    """The comparison on all examples of one objective: over the first size of steps alone if `is_first`, of
    the function whose buffers are held alone unless `moves`."""
    V, unit = directions.vectors, torch.outer(directions.norms, directions.norms)
    left_out = torch.zeros(unit.shape, dtype=torch.bool) if mixed else ~torch.eye(len(unit), dtype=torch.bool)

    held = objective.frozen()
    operator = Hessian(held)
    form, form_errors = (t.masked_fill(left_out, 0) for t in _hessian_form(operator, V))
    curved = float(torch.linalg.matrix_norm(form / unit, 2))
    # What has too few digits in the objective's own precision may have enough in double.
    held_in = [held]
    if held.dtype != torch.float64 and operator.check.dtype == torch.float64:
        held_in.append(held.to_dtype(torch.float64))
    ladder = [(o, steps) for o in held_in for steps in _ladder(o, form, directions.norms, step)]
    ladder = ladder[:1] if is_first else ladder
    moves = moves and (held is not objective or directions.offsets is not None)
    still = directions.cast(V.dtype, buffers=False)
    num_parts = 1 + len(ladder) + moves

    def worst(errors: Tensor) -> float:
        return float(((errors + form_errors) / unit).max())

    tried: list[tuple[Tensor, Tensor, Tensor, Objective]] = []
    for rung, (o, steps) in enumerate(ladder):
        part = part_of(progress, 1 + rung, num_parts)
        found = second_differences(o, still.cast(o.dtype), steps, mixed=mixed, progress=part)
        tried.append((*found, steps, o))
        if worst(tried[-1][1]) <= FINE_ENOUGH * rtol * curved:
            break
    # By their error again.
    curvatures, errors, steps, used = min(tried, key=lambda found: worst(found[1]))
    surface, surface_errors = curvatures, errors
    last = part_of(progress, num_parts - 1, num_parts)
    if moves:
        drawn = objective if used.dtype == objective.dtype else objective.to_dtype(used.dtype)
        surface, surface_errors = second_differences(
            drawn, directions.cast(used.dtype), steps, mixed=mixed, progress=last
        )
    elif last:
        last(1, 1)

    # Where errors are as large as the plane's curvature they are the scale: nothing can be told.
    is_blind = worst(errors) >= curved
    scale = max(curved, worst(errors)) or 1.0
    gaps, bounds = (curvatures - form).abs() / unit / scale, (errors + form_errors) / unit / scale
    low, high = float((gaps - bounds).max()), float((gaps + bounds).max())
    return QuadraticAgreement(
        value=float(gaps.max()),
        error=ErrorBudget(solver=float(bounds.max())),
        provenance={
            "function": "quadratic_agreement",
            "arguments": {
                "directions": directions.description["vectors"],
                "mixed": mixed,
                "step": step if step is None or isinstance(step, int | float) else list(step),
                "rtol": rtol,
            },
            "objective": objective.describe(),
            "operator": operator.check.to_dict(),
        },
        hessian_form=form.masked_fill(left_out, math.nan),
        curvatures=curvatures.masked_fill(left_out, math.nan),
        curvature_errors=errors.masked_fill(left_out, math.nan),
        surface_curvatures=surface.masked_fill(left_out, math.nan),
        surface_curvature_errors=surface_errors.masked_fill(left_out, math.nan),
        steps=steps,
        precision=str(used.dtype).removeprefix("torch."),
        statistics_effect=float(((surface - curvatures).abs() / unit).max()) / scale,
        rtol=float(rtol),
        verdict="agrees" if high <= rtol else "differs" if low > rtol and not is_blind else "undecided",
    )


def agreement_or_reason(
    objective: Objective, directions: Directions, *, mixed: bool, progress: Progress | None = None
) -> tuple[QuadraticAgreement | None, str | None]:
    """`quadratic_agreement`, or else why there is none: a surface is worth having without it."""
    try:
        return quadratic_agreement(objective, directions, mixed=mixed, progress=progress), None
    except (ThalwegError, RuntimeError, MemoryError) as error:
        if not isinstance(error, ThalwegError) and not is_out_of_memory(error):
            raise
        if progress:
            progress(1, 1)
        return None, " ".join(str(error).split()) or type(error).__name__


def _error(found: QuadraticAgreement) -> float:
    return found.error.solver or 0.0


def _is_fine(found: QuadraticAgreement) -> bool:
    return _error(found) <= FINE_ENOUGH * found.rtol


def _few(objective: Objective, sizes: Sequence[int]) -> Iterator[Objective]:
    """The objective on so few examples, those that bend it most as far as losses tell, as one batch."""
    losses = objective.evaluate_points([(objective.params, objective.buffers)]).example_losses[0]
    order = losses.argsort(descending=True, stable=True)
    for n in sizes:
        yield objective.select(order[:n].sort().values, batch_size=n)


def _hessian_form(operator: Hessian, V: Tensor) -> tuple[Tensor, Tensor]:
    """``V^T H V`` in float64, symmetric, and what rounding may be wrong by in it."""
    product, exact = (operator @ V).cpu().double(), V.cpu().double()
    form = exact.T @ product
    eps = torch.finfo(V.dtype).eps
    rounding = 4 * eps * torch.outer(exact.norm(dim=0), product.norm(dim=0))
    return (form + form.T) / 2, (form - form.T).abs() + torch.maximum(rounding, rounding.T)


def _diagonal(entries: Tensor) -> str:
    """The diagonal's numbers, or their range where there are many."""
    numbers = entries.diagonal().tolist()
    if len(numbers) > MOST_LISTED:
        return f"{min(numbers):.3g} to {max(numbers):.3g}"
    return ", ".join(f"{number:.3g}" for number in numbers)


def _ladder(
    o: Objective, form: Tensor, lengths: Tensor, asked: float | Sequence[float] | None
) -> list[Tensor]:
    """Steps ``(D,)`` to try in turn, ever smaller ones: those asked for alone, if any are."""
    if asked is not None:
        given = list(asked) if isinstance(asked, Sequence) else [asked] * len(lengths)
        for one in given:
            check_positive("step", one, "leave it out for one that fits the curvature")
        if len(given) != len(lengths):
            raise ValueError(f"`step` must be one number, or {len(lengths)}, one a direction, got {asked!r}.")
        return [torch.tensor(given, dtype=torch.float64)]
    eps = torch.finfo(o.dtype).eps
    loss = max(abs(o.without_decay().value()), LEAST_LOSS)
    longest = max(1.0, float(o.params.cpu().double().norm())) / lengths
    # Infinite along a direction without curvature.
    doubling = (2 * loss / form.diagonal().abs()).sqrt()
    parts = [eps**0.25]
    while (parts[-1] / SHRINKAGE) ** 2 >= ROUNDED * eps:
        parts.append(parts[-1] / SHRINKAGE)
    return [part * torch.minimum(doubling, longest) for part in parts]

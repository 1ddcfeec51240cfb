"""The table of an audit: measure x transformation, moved or not, and the proof that the function stayed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from thalweg.core.arguments import check_one_of
from thalweg.core.measurement import ErrorBudget, Measurement, StandardError
from thalweg.core.text_table import in_columns

MOVED, NOT_MOVED, UNDECIDED, FAILED = "moved", "not moved", "undecided", "failed"

# Confidence with which a change must differ from nought to count, and with which a larger one is excluded.
MOVED_LEVEL, EXCLUDED_LEVEL = 0.999, 0.95


class Measured(NamedTuple):
    """A number, its error budget, and of an extreme eigenvalue the bounds between which that lies."""

    value: float
    error: ErrorBudget
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True)
class AuditCell:
    """One measure under one transformation.

    Parameters
    ----------
    member, transformation
        Which.
    before, after
        The value at the point and at the changed point; NaN where it failed.
    half_width
        Half the 95 % interval of ``after - before``, from the errors of both: solver bounds added, standard
        errors as if independent, which common seeds can only improve on.
    verdict
        ``"moved"``, ``"not moved"``, ``"undecided"`` or ``"failed"``.
    is_claimed
        Whether the measure claims not to move.
    """

    member: str
    transformation: str
    before: float
    after: float
    half_width: float
    verdict: str
    is_claimed: bool

    @property
    def change(self) -> float:
        """``(after - before) / |before|``; NaN where that is no number."""
        if self.before == self.after:
            return 0.0
        return (self.after - self.before) / abs(self.before) if self.before else math.nan

    @property
    def is_violated(self) -> bool:
        """Whether the measure moved although it claims not to."""
        return self.is_claimed and self.verdict == MOVED


@dataclass(frozen=True, kw_only=True)
class InvarianceAudit(Measurement):
    """Measure x transformation, moved or not; `value` is how many of the measures nothing here moved.

    Parameters
    ----------
    members
        The K measures, by name.
    transformations
        The T transformations that this network allows.
    places
        Transformation to where it was made: the tensors moved together, and how many units they have.
    refused
        The other transformations, and why the network does not allow them.
    dropped
        Transformation to the places that were left out, for they change some example's outputs.
    output_changes, loss_changes
        The proof: ``(T,)``, float64. Largest change of an output and of an example's loss over all of the
        objective's examples, relative to the largest of them; computed in `proof_dtype`. Outputs are NaN
        where the loss takes the model itself.
    proof_dtype, proof_tolerance
        In which the proof was made, and what it allowed for rounding.
    rounded_changes
        ``(T,)``, float64: the larger of both in the objective's own dtype, to which the changed point was
        rounded before it was measured.
    before, after
        ``(K,)`` and ``(K, T)`` values, float64, NaN where a measure failed.
    errors
        Error budgets as dictionaries: for each member that before, and those after.
    bounds
        ``(K, 1 + T, 2)``, float64: of an extreme eigenvalue, before and after, the bounds between which it
        lies, see `BoundedEigenvalue`; NaN for other measures.
    verdicts
        For each member one for each transformation.
    claims
        Likewise, whether the member claims not to move.
    failures
        ``"member"``, or ``"member, transformation"``, to the error's text.
    resolution
        As asked.
    rounding
        The relative change that was taken to be none.
    thresholds
        ``(T,)``, float64: the relative change that had to be exceeded for a measure to have moved:
        `rounding`, or ten times `rounded_changes` where that is more.
    """

    measure: ClassVar[str] = "invariance_audit"

    members: tuple[str, ...]
    transformations: tuple[str, ...]
    places: Mapping[str, tuple[str, ...]]
    refused: Mapping[str, str]
    dropped: Mapping[str, tuple[str, ...]]
    output_changes: Tensor
    loss_changes: Tensor
    proof_dtype: str
    proof_tolerance: float
    rounded_changes: Tensor
    before: Tensor
    after: Tensor
    errors: tuple[tuple[Mapping[str, Any], ...], ...]
    bounds: Tensor
    verdicts: tuple[tuple[str, ...], ...]
    claims: tuple[tuple[bool, ...], ...]
    failures: Mapping[str, str]
    resolution: float
    rounding: float
    thresholds: Tensor

    def cell(self, member: str, transformation: str) -> AuditCell:
        """One cell of the table.

        Raises
        ------
        ValueError
            If there is no such row or column.
        """
        for argument, name, known in (
            ("member", member, self.members),
            ("transformation", transformation, self.transformations),
        ):
            check_one_of(argument, name, known)
        i, j = self.members.index(member), self.transformations.index(transformation)
        old, new = (ErrorBudget.from_dict(self.errors[i][k]) for k in (0, j + 1))
        return AuditCell(
            member=member,
            transformation=transformation,
            before=float(self.before[i]),
            after=float(self.after[i, j]),
            half_width=_half_width(old, new, EXCLUDED_LEVEL),
            verdict=self.verdicts[i][j],
            is_claimed=self.claims[i][j],
        )

    @property
    def cells(self) -> tuple[AuditCell, ...]:
        """All of the table, row by row."""
        return tuple(self.cell(m, t) for m in self.members for t in self.transformations)

    @property
    def unmoved(self) -> tuple[str, ...]:
        """Members that no transformation moved."""
        rows = zip(self.members, self.verdicts, strict=True)
        return tuple(member for member, row in rows if set(row) == {NOT_MOVED})

    @property
    def violations(self) -> tuple[AuditCell, ...]:
        """Cells where a measure moved although it claims not to."""
        return tuple(cell for cell in self.cells if cell.is_violated)

    def __repr__(self) -> str:
        names = ", ".join(self.transformations)
        mode = f", batch norm {self.batch_norm}" if self.batch_norm else ""
        broken = f", {len(self.violations)} claims violated" if self.violations else ""
        return (
            f"{type(self).__name__}({len(self.unmoved)} of {len(self.members)} measures unmoved by {names}"
            f"{broken}{mode})"
        )

    def __str__(self) -> str:
        rows = [(member, *row) for member, row in zip(self.members, self.verdicts, strict=True)]
        return f"{self!r}\n{in_columns([('', *self.transformations), *rows])}"


def verdict(
    before: Measured, after: Measured, resolution: float, rounding: float, threshold: float | None = None
) -> str:
    """Whether a measure moved, by its values and error budgets; see `invariance_audit`."""
    (old, old_error, *_), (new, new_error, *_) = before, after
    threshold = rounding if threshold is None else threshold
    if math.isnan(old) or math.isnan(new):
        return FAILED
    if old == new and math.isinf(old):
        return NOT_MOVED
    change, scale = abs(new - old), max(abs(old), abs(new))
    if math.isfinite(change) and change <= rounding * scale:
        # Estimates that agree to rounding have drawn the same, so that the change has no chance in it.
        return NOT_MOVED
    if math.isinf(change) or change > threshold * scale + _half_width(old_error, new_error, MOVED_LEVEL):
        # The error of an eigenvalue is the distance to some eigenvalue, and one of the two points may have
        # missed the extreme one: only bounds that have nothing in common tell that it moved.
        return UNDECIDED if before.low <= after.high and after.low <= before.high else MOVED
    excluded = change + _half_width(old_error, new_error, EXCLUDED_LEVEL)
    return NOT_MOVED if excluded <= resolution * scale else UNDECIDED


def _half_width(before: ErrorBudget, after: ErrorBudget, level: float) -> float:
    """Of the interval of a difference: bounds added, standard errors in quadrature."""
    parts = [part for budget in (before, after) for part in (budget.probe, budget.data)]
    statistical = [part.half_width(level) for part in parts if isinstance(part, StandardError)]
    return math.hypot(*statistical) + (before.solver or 0.0) + (after.solver or 0.0)

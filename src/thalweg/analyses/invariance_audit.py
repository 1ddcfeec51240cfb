"""Which measures of sharpness see more than the function: changes that preserve it, and what each moves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.analyses.audit_result import NOT_MOVED, InvarianceAudit, Measured, verdict
from thalweg.analyses.measure_choice import chosen_measures
from thalweg.analyses.measured import Outcome, Take, measured
from thalweg.analyses.sharpness_family import FAMILY, Member
from thalweg.core.arguments import check_fraction, is_number
from thalweg.core.errors import ThalwegError
from thalweg.core.identity import code_identity
from thalweg.core.measurement import ErrorBudget, Measurement
from thalweg.core.progress import Progress
from thalweg.core.rng import stream_seed
from thalweg.objective.check_objective import check_objective
from thalweg.objective.objective import Objective
from thalweg.solvers.bounded_eigenvalue import BoundedEigenvalue
from thalweg.solvers.symmetries.places import TRANSFORMATIONS
from thalweg.solvers.symmetries.transformations import agreement, find_symmetries

Measure = Callable[..., Any]

# Scales below this leave a network so much as it is that nothing would seem to move.
LEAST_STRENGTH = 2

# A relative change below this is rounding, of the measure or of the point, in float64 and in other dtypes.
ROUNDING, ROUNDING_SINGLE = 1e-6, 1e-3

# How far rounding the changed point to the objective's own dtype may take the outputs from the first point's.
MOST_ROUNDED = 1e-2

# How many times as far as the outputs that may take a measure, which differentiates them.
ROUNDING_FACTOR = 10


def invariance_audit(
    objective: Objective,
    *,
    members: str | Sequence[str] | Mapping[str, Member | Measure] | None = None,
    strength: float = 4.0,
    resolution: float = 0.25,
    seed: int,
    progress: Progress | None = None,
) -> InvarianceAudit:
    """Change the network without changing its function, and see which measures of sharpness move.

    Every transformation that the network allows is made at all places at once, see
    `thalweg.solvers.symmetries.transformations.find_symmetries`, and proved on all of the objective's
    examples, in float64 where model and device allow. The measures are then taken at the point and at each
    changed point, in the objective's own dtype, with the same seed.

    A measure *moved* if its change differs from nought, at 99.9 %, by more than rounding, which is taken to
    be a thousandth of it, in float64 a millionth, and at least ten times what rounding the changed point did
    to the outputs. It has *not moved* if its values agree to that thousandth or millionth, or if a change
    does not show and one by more than `resolution` is excluded, at 95 %; else it is *undecided*: its error
    bars are too wide to tell. It *failed* where it raised an error or gave no number, which `failures` holds.
    A measure that draws random directions does not draw the same ones in permuted coordinates, so that equal
    values are not expected there and error bars decide.

    The error of an extreme eigenvalue is the distance to *some* eigenvalue, and one of the two points may
    have missed the extreme one. It moved only if its bounds before and after, each at its own confidence,
    have nothing in common; a change that shows but that they do not exclude is undecided. That it has not
    moved is said of the eigenvalue found.

    Parameters
    ----------
    objective
        The point audited.
    members
        Names of the family or of functions, see `thalweg.analyses.measure_choice.chosen_measures`; by default
        the family. Or a dictionary from names to measures, those or your own: a function of an objective that
        returns a `Measurement` or a number. Where a name has a dictionary, it is arguments of the family's.
    strength
        Scales are log-uniform in ``[1 / strength, strength]``; at least 2. Permutations have none.
    resolution
        The relative change that a measure said not to have moved must exclude, in (0, 1).
    seed
        Of transformations and measures.
    progress
        Called as ``progress(done, total)``.

    Raises
    ------
    ValueError
        If the network has no symmetry to audit, or runs in half precision only; if
        rounding in the objective's dtype does not survive scales of this strength; for a member there is not.
    ThalwegError
        Any that the first measure raises, where all measures fail.

    References
    ----------
    Dinh, Pascanu, Bengio and Bengio (2017), Sharp minima can generalize for deep nets, ICML.
    """
    check_objective("objective", objective)
    stream_seed(seed)
    if not is_number(strength) or not LEAST_STRENGTH <= strength < math.inf:
        raise ValueError(
            f"`strength` must be a finite number of at least {LEAST_STRENGTH}, got {strength!r}; scales "
            "closer to 1 move nothing far enough to be seen, and 4 is customary."
        )
    check_fraction("resolution", resolution, "0.25 excludes changes by a quarter")
    chosen = _chosen(members)
    if not chosen:
        raise ValueError("`members` must hold at least one measure, got none.")
    objective.value()  # names what is wrong with a network that is not finite
    symmetries = find_symmetries(objective)
    refused = dict(symmetries.refused)
    points: dict[str, Objective] = {}
    places: dict[str, tuple[str, ...]] = {}
    dropped: dict[str, tuple[str, ...]] = {}
    proofs, roundings = [], []
    for name in (t for t in TRANSFORMATIONS if t in symmetries.places):
        change = symmetries.proved(name, strength=float(strength), seed=seed)
        proof = change.agreement
        own = objective.at(change.point.params, change.point.buffers)
        rounded = agreement(objective, own)
        if math.isfinite(proof.worst) and not proof.holds:
            refused[name] = f"on all the examples it changes the outputs, by {proof.worst:.1g} of the largest"
            continue
        if not (proof.holds and rounded.worst <= MOST_ROUNDED):
            raise ValueError(
                f"`strength` must leave room for rounding, but with scales up to {strength:g} {name} changes "
                f"the outputs by {rounded.worst:.2g} of the largest in {_dtype(objective)}; lower it, or use "
                "objective.to_dtype(torch.float64)."
            )
        points[name] = own
        places[name] = tuple(map(str, change.places))
        if change.dropped:
            dropped[name] = tuple(map(str, change.dropped))
        proofs.append(proof)
        roundings.append(rounded.worst)
    if not points:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise ValueError(
            f"`objective` must have a symmetry to audit, but nothing is known that changes {objective!r} and "
            f"not its function. {reasons}."
        )

    takes = {
        name: member if isinstance(member, Member) else _taken(member) for name, member in chosen.items()
    }
    outcomes = measured(takes, {"": objective, **points}, seed=seed, progress=progress, first_decides=True)
    failures = _failures(outcomes)
    if all(member in failures for member in chosen):
        for outcome in outcomes.values():
            if outcome.error:
                raise outcome.error
    names = list(points)
    table = [[_number(outcomes[m, t]) for t in ("", *names)] for m in chosen]
    claims = [_claims(member) for member in chosen.values()]
    rounding = ROUNDING if objective.dtype == torch.float64 else ROUNDING_SINGLE
    thresholds = [max(rounding, ROUNDING_FACTOR * change) for change in roundings]
    verdicts = tuple(
        tuple(verdict(row[0], r, resolution, rounding, t) for r, t in zip(row[1:], thresholds, strict=True))
        for row in table
    )
    values = torch.tensor([[cell.value for cell in row] for row in table], dtype=torch.float64)
    return InvarianceAudit(
        value=float(sum(set(row) == {NOT_MOVED} for row in verdicts)),
        provenance={
            "function": "invariance_audit",
            "arguments": {
                "members": _described(members),
                "strength": strength,
                "resolution": resolution,
                "seed": seed,
            },
            "objective": objective.describe(),
        },
        members=tuple(chosen),
        transformations=tuple(names),
        places=places,
        refused=refused,
        dropped=dropped,
        output_changes=_column([math.nan if p.outputs is None else p.outputs for p in proofs]),
        loss_changes=_column([p.losses for p in proofs]),
        proof_dtype=_dtype(symmetries.objective),
        proof_tolerance=proofs[0].tolerance,
        rounded_changes=_column(roundings),
        before=values[:, 0].clone(),
        after=values[:, 1:].clone(),
        errors=tuple(tuple(cell.error.to_dict() for cell in row) for row in table),
        bounds=torch.tensor([[[c.low, c.high] for c in row] for row in table], dtype=torch.float64),
        verdicts=verdicts,
        claims=tuple(tuple(name in claim for name in names) for claim in claims),
        failures=failures,
        resolution=float(resolution),
        rounding=rounding,
        thresholds=_column(thresholds),
    )


def _failures(outcomes: Mapping[tuple[str, str], Outcome]) -> dict[str, str]:
    """What went wrong: at the point itself once, whatever it spoilt at the others."""
    failures: dict[str, str] = {}
    for (member, name), outcome in outcomes.items():
        if outcome.reason and member not in failures:
            failures[f"{member}, {name}" if name else member] = outcome.reason
    return failures


def _number(outcome: Outcome) -> Measured:
    result = outcome.result
    if result is None:
        return Measured(math.nan, ErrorBudget())
    if isinstance(result, BoundedEigenvalue):
        return Measured(result.value, result.error, result.lower_bound, result.upper_bound)
    return Measured(result.value, result.error)


def _taken(measure: Measure) -> Take:
    """The caller's own function as a measure; a number is taken as exact."""

    def take(objective: Objective, *, seed: int, progress: Progress | None = None) -> Measurement:
        try:
            result = measure(objective)
        except (ValueError, ThalwegError):
            raise
        except Exception as error:  # one that fails costs no other
            raise ThalwegError(f"it raised {type(error).__name__}: {error}") from error
        if isinstance(result, Measurement):
            return result
        if isinstance(result, Tensor) and result.ndim == 0:
            result = result.item()
        if not is_number(result):
            raise TypeError(
                "`members` must hold functions that return a Measurement or a number, got "
                f"{type(result).__name__} from {getattr(measure, '__qualname__', measure)}."
            )
        return Measurement(value=float(result))

    return take


def _chosen(members: Any) -> dict[str, Member | Measure]:
    """By name; where a dictionary gives one arguments, they are the family's or the function's."""
    if not isinstance(members, Mapping):
        return dict(chosen_measures(members, "members"))
    return {
        name: chosen_measures({name: member}, "members")[name] if isinstance(member, Mapping) else member
        for name, member in members.items()
    }


def _claims(member: Member | Measure) -> frozenset[str]:
    return member.invariant_to if isinstance(member, Member) else frozenset()


def _described(members: Any) -> Any:
    """What the provenance holds: names, arguments that are not the family's, the code of the caller's own."""
    if members is None or isinstance(members, str):
        return members
    if not isinstance(members, Mapping):
        return list(members)
    found: dict[str, Any] = {}
    for name, member in members.items():
        if isinstance(member, Mapping):
            found[name] = dict(member)
        elif not isinstance(member, Member):
            found[name] = code_identity(member)
        elif FAMILY.get(name) == member:
            found[name] = name
        else:
            found[name] = {"measure": code_identity(member.measure), "arguments": dict(member.arguments)}
    return list(found) if all(found[name] == name for name in found) else found


def _dtype(objective: Objective) -> str:
    return str(objective.dtype).removeprefix("torch.")


def _column(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)

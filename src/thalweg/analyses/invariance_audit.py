"""Which measures of sharpness see more than the function: changes that preserve it, and what each moves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from thalweg.analyses.audit_result import NOT_MOVED, InvarianceAudit, verdict
from thalweg.analyses.sharpness_family import FAMILY, Member, chosen_members
from thalweg.core.arguments import check_fraction, is_number
from thalweg.core.errors import ThalwegError
from thalweg.core.identity import code_identity
from thalweg.core.measurement import ErrorBudget, Measurement
from thalweg.core.progress import Progress
from thalweg.core.rng import stream_seed
from thalweg.objective.check_objective import check_objective
from thalweg.objective.objective import Objective
from thalweg.solvers.symmetries.places import TRANSFORMATIONS
from thalweg.solvers.symmetries.transformations import agreement, find_symmetries

Measure = Callable[..., Any]

# A measured number and its error.
_Value = tuple[float, ErrorBudget]

# A relative change below this is rounding, of the measure or of the point, in float64 and in other dtypes.
ROUNDING, ROUNDING_SINGLE = 1e-6, 1e-3

# How far rounding the changed point to the objective's own dtype may take the outputs from the first point's.
MOST_ROUNDED = 1e-2

# Steps of the progress bar for each measurement.
STEPS = 100


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
    be a thousandth of it, and in float64 a millionth. It has *not moved* if its values agree to that, or if a
    change does not show and one by more than `resolution` is excluded, at 95 %; else it is *undecided*: its
    error bars are too wide to tell. It *failed* where it raised an error or gave no number, which `failures`
    holds. A measure that draws random directions does not draw the same ones in permuted coordinates, so that
    equal values are not expected there and error bars decide.

    Parameters
    ----------
    objective
        The point audited.
    members
        Names in `thalweg.analyses.sharpness_family.FAMILY`, by default all of them; or a dictionary from
        names to measures, the family's or your own: a function of an objective that returns a `Measurement`
        or a number.
    strength
        Scales are log-uniform in ``[1 / strength, strength]``; above 1. Permutations have none.
    resolution
        The relative change that a measure said not to have moved must exclude, in (0, 1).
    seed
        Of transformations and measures.
    progress
        Called as ``progress(done, total)``.

    Raises
    ------
    ValueError
        If the network has no symmetry to audit; if rounding in the objective's dtype does not survive scales
        of this strength; for a member there is not.
    ThalwegError
        Any that the first measure raises, where all measures fail.

    References
    ----------
    Dinh, Pascanu, Bengio and Bengio (2017), Sharp minima can generalize for deep nets, ICML.
    """
    check_objective("objective", objective)
    stream_seed(seed)
    if not is_number(strength) or not 1 < strength < math.inf:
        raise ValueError(f"`strength` must be a finite number above 1, got {strength!r}; 4 is customary.")
    check_fraction("resolution", resolution, "0.25 excludes changes by a quarter")
    chosen = dict(members) if isinstance(members, Mapping) else chosen_members(members)
    if not chosen:
        raise ValueError("`members` must hold at least one measure, got none.")
    objective.value()  # names what is wrong with a network that is not finite
    symmetries = find_symmetries(objective)
    refused = dict(symmetries.refused)
    points: dict[str, Objective] = {}
    proofs, roundings = [], []
    for name in (t for t in TRANSFORMATIONS if t in symmetries.places):
        moved = symmetries.transformed(name, strength=float(strength), seed=seed)
        proof = agreement(symmetries.objective, moved)
        own = objective.at(moved.params, moved.buffers)
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
        proofs.append(proof)
        roundings.append(rounded.worst)
    if not points:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in refused.items())
        raise ValueError(
            f"`objective` must have a symmetry to audit, but nothing is known that changes {objective!r} and "
            f"not its function. {reasons}."
        )

    results, failures = _measured(chosen, {"": objective, **points}, seed, progress)
    names = list(points)
    table = [[results[m, t] for t in ("", *names)] for m in chosen]
    claims = [_claims(member) for member in chosen.values()]
    rounding = ROUNDING if objective.dtype == torch.float64 else ROUNDING_SINGLE
    verdicts = tuple(tuple(verdict(row[0], r, resolution, rounding) for r in row[1:]) for row in table)
    values = torch.tensor([[value for value, _ in row] for row in table], dtype=torch.float64)
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
        places={name: tuple(map(str, symmetries.places[name])) for name in names},
        refused=refused,
        output_changes=_column([math.nan if p.outputs is None else p.outputs for p in proofs]),
        loss_changes=_column([p.losses for p in proofs]),
        proof_dtype=_dtype(symmetries.objective),
        proof_tolerance=proofs[0].tolerance,
        rounded_changes=_column(roundings),
        before=values[:, 0].clone(),
        after=values[:, 1:].clone(),
        errors=tuple(tuple(error.to_dict() for _, error in row) for row in table),
        verdicts=verdicts,
        claims=tuple(tuple(name in claim for name in names) for claim in claims),
        failures=failures,
        resolution=float(resolution),
        rounding=rounding,
    )


def _measured(
    members: Mapping[str, Member | Measure],
    points: Mapping[str, Objective],
    seed: int,
    progress: Progress | None,
) -> tuple[dict[tuple[str, str], _Value], dict[str, str]]:
    """Each measure at each point, and what went wrong."""
    results: dict[tuple[str, str], _Value] = {}
    failures: dict[str, str] = {}
    first_error: Exception | None = None
    total, done = STEPS * len(members) * len(points), 0
    for member, measure in members.items():
        for name, point in points.items():

            def within(part: int, whole: int, before: int = done) -> None:
                if progress:
                    progress(before + min(STEPS, STEPS * part // max(whole, 1)), total)

            key = f"{member}, {name}" if name else member
            found = (math.nan, ErrorBudget())
            if member not in failures:
                try:
                    found = _value(measure, point, seed, within)
                except (ValueError, ThalwegError) as error:
                    first_error = first_error or error
                    failures[key] = str(error)
                else:
                    if math.isnan(found[0]):
                        failures[key] = "the value is not a number"
            results[member, name] = found
            done += STEPS
            if progress:
                progress(done, total)
    if first_error and all(member in failures for member in members):
        raise first_error
    return results, failures


def _value(measure: Member | Measure, point: Objective, seed: int, progress: Progress) -> _Value:
    result = measure(point, seed=seed, progress=progress) if isinstance(measure, Member) else measure(point)
    if isinstance(result, Measurement):
        return result.value, result.error
    if not is_number(result):
        raise TypeError(
            "`members` must hold functions that return a Measurement or a number, got "
            f"{type(result).__name__} from {getattr(measure, '__qualname__', measure)}."
        )
    return float(result), ErrorBudget()


def _claims(member: Member | Measure) -> frozenset[str]:
    return member.invariant_to if isinstance(member, Member) else frozenset()


def _described(members: Any) -> Any:
    """What the provenance holds: names, and the code of the caller's own measures."""
    if members is None or isinstance(members, str):
        return members
    if not isinstance(members, Mapping):
        return list(members)
    return {
        name: name if FAMILY.get(name) == member else code_identity(getattr(member, "measure", member))
        for name, member in members.items()
    }


def _dtype(objective: Objective) -> str:
    return str(objective.dtype).removeprefix("torch.")


def _column(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)

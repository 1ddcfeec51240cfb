"""Where directions come from: drawn, the gradient, the Hessian, a trajectory, other networks, the user."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.core.measurement import hash_tensors
from thalweg.core.progress import Progress, part_of
from thalweg.core.rng import generator, normal
from thalweg.linalg.wanted_pairs import Which
from thalweg.objective.objective import Objective
from thalweg.operators.hessian import Hessian
from thalweg.solvers.checked_vector import checked_vector
from thalweg.solvers.comparable import check_comparable, check_same_losses
from thalweg.solvers.multilevel import multilevel_eigenpairs
from thalweg.solvers.principal_components import principal_components

Named = Literal["random", "gradient", "top", "bottom"]
Kind = Named | Tensor | Objective | Iterable[Tensor]

NAMED: tuple[Named, ...] = ("random", "gradient", "top", "bottom")
NETWORK, GIVEN, TRAJECTORY = "network", "given", "trajectory"
CHOICES = (
    f"one of {', '.join(NAMED)}, a vector (P,), an Objective of the same network, or a trajectory of vectors"
)

# Residual of the eigenvectors over ||H||.
EIGENVECTOR_RTOL = 1e-3

# Entries whose absolute values are this near to the largest, relatively, count as equal to it.
TIED = 1e-2

# Examples on which a network given must compute what the objective's does at the same point.
NUM_COMPARED = 128


@dataclass(frozen=True)
class Source:
    """One direction as it comes, before it is scaled: ``(P,)`` float64 on the CPU, finite and not zero.

    `facts` are what its provenance says of it; `network` is that at a step of one, if it leads to one.
    """

    kind: str
    name: str
    vector: Tensor
    facts: dict[str, Any] = field(default_factory=dict)
    network: Objective | None = None


def kinds_of(kinds: Sequence[Any]) -> tuple[str, ...]:
    """What each entry is: a name of `NAMED`, `NETWORK`, `GIVEN` or `TRAJECTORY`.

    Raises
    ------
    ValueError, TypeError
        If one is nothing a direction can come from.
    """
    return tuple(_kind_of(kind, f"directions[{i}]") for i, kind in enumerate(kinds))


def sources_of(
    objective: Objective, kinds: Sequence[Kind], seed: int, progress: Progress | None = None
) -> tuple[list[Source], dict[str, Any] | None]:
    """The directions that `kinds` ask for, and how the Hessian was checked where there is need of it.

    The i-th ``"random"`` is that of stream i, the i-th ``"top"`` the i-th largest eigenvector; a trajectory
    that stands in several places gives its first components in turn.

    Raises
    ------
    ValueError, TypeError
        If an entry gives no direction, or none in this space, naming it.
    """
    sorts = kinds_of(kinds)
    eigenpairs, check = _eigenpairs(objective, Counter(sorts), seed, progress)
    trajectories = _components(objective, kinds, sorts)
    counts: Counter[str] = Counter()
    found = []
    for i, (kind, sort) in enumerate(zip(kinds, sorts, strict=True)):
        argument, index = f"directions[{i}]", counts[sort]
        if sort == "random":
            source = Source(sort, f"random {index}", gaussian(objective, index, seed), {"index": index})
        elif sort == "gradient":
            source = _gradient(objective, argument)
        elif sort in eigenpairs:
            vector, facts = eigenpairs[sort][index]
            source = Source(sort, f"{sort} eigenvector {index}", vector, {"index": index, **facts})
        elif sort == TRAJECTORY:
            source = trajectories[i]
        elif sort == NETWORK:
            source = _to_network(objective, cast(Objective, kind), index + 1, argument)
        else:
            given = torch.as_tensor(cast(Any, kind))
            vector = checked_vector(given, argument, (objective.space.dim,))
            if not bool(vector.any()):
                raise ValueError(f"`{argument}` must not be zero, for a step along it leads nowhere.")
            source = Source(sort, f"given {index}", vector, {"vector": hash_tensors(given)})
        counts[sort] += 1
        found.append(source)
    return found, check


def gaussian(objective: Objective, index: int, seed: int) -> Tensor:
    """N(0, 1) entries ``(P,)`` in float64 on the CPU, from a random stream of this index's own."""
    like = torch.empty(0, dtype=torch.float64)
    return normal(generator(seed, "direction", index), objective.space.dim, like=like)


def with_fixed_sign(vector: Tensor) -> Tensor:
    """`vector` or its opposite: that in which the entry of the largest absolute value is positive.

    Of entries that are as large but for rounding, as symmetric layers have them, the first counts; rounding
    would else choose the sign.
    """
    sizes = vector.abs()
    first = int((sizes >= (1 - TIED) * sizes.max()).nonzero()[0])
    return -vector if vector[first] < 0 else vector


def _kind_of(kind: Any, argument: str) -> str:
    match kind:
        case str():
            if kind not in NAMED:
                raise ValueError(f"`{argument}` must be {CHOICES}, got {kind!r}.")
            return kind
        case Objective():
            return NETWORK
        case nn.Module():
            raise TypeError(
                f"`{argument}` must come with its data and loss, got the bare {type(kind).__name__}; wrap it "
                "as the objective is: Objective(model, (inputs, targets), loss=...)."
            )
        case Tensor() | np.ndarray():
            return GIVEN if kind.ndim == 1 else TRAJECTORY
        case Iterable() if not isinstance(kind, Mapping):
            return TRAJECTORY
    raise TypeError(f"`{argument}` must be {CHOICES}, got {type(kind).__name__}.")


def _gradient(objective: Objective, argument: str) -> Source:
    gradient = objective.gradient().cpu().double()
    norm = float(gradient.norm())
    if norm == 0:
        raise ValueError(f"`{argument}`, the gradient, is zero at this point, and so no direction.")
    return Source("gradient", "gradient", gradient / norm, {"gradient_norm": norm})


def _to_network(objective: Objective, network: Objective, number: int, argument: str) -> Source:
    try:
        check_comparable(objective, network)
        if not bool(network.params.isfinite().all()):
            raise ValueError("`b` has parameters that are not finite.")
        few = min(NUM_COMPARED, objective.num_examples)
        here = objective.at(network.params, network.buffers).subset(few)
        there = network.subset(few)
        ours, theirs = (o.evaluate_points([(o.params, o.buffers)]).example_losses[0] for o in (here, there))
        check_same_losses(ours, theirs)
    except (ValueError, TypeError) as error:
        raise type(error)(
            f"`{argument}` must be a point of the objective's own function; with `a` the objective and `b` "
            f"the network given: {error}"
        ) from None
    vector = network.params.cpu().double() - objective.params.cpu().double()
    if not bool(vector.any()):
        raise ValueError(
            f"`{argument}` must be another point than the objective's own, but its parameters are the same."
        )
    described = network.describe()
    facts = {"params": described["params"], "buffers": described["buffers"]}
    return Source(NETWORK, f"to network {number}", vector, facts, network)


def _eigenpairs(
    objective: Objective, counts: Counter[str], seed: int, progress: Progress | None
) -> tuple[dict[str, list[tuple[Tensor, dict[str, Any]]]], dict[str, Any] | None]:
    """For each end asked for, its eigenvectors, outermost first, with what is known of each."""
    both: tuple[Which, ...] = ("top", "bottom")
    ends: list[Which] = [which for which in both if counts[which]]
    if not ends:
        return {}, None
    num, P = sum(counts[which] for which in ends), objective.space.dim
    if num > P:
        raise ValueError(f"`directions` asks for {num} eigenvectors, but there are only P = {P} of them.")
    operator = Hessian(objective)
    found = {}
    for i, which in enumerate(ends):
        solution = multilevel_eigenpairs(
            operator,
            counts[which],
            which=which,
            rtol=EIGENVECTOR_RTOL,
            seed=seed,
            progress=part_of(progress, i, len(ends)),
        ).solution
        numbers = zip(solution.eigenvalues.tolist(), solution.residuals.tolist(), strict=True)
        found[which] = [
            (with_fixed_sign(vector), {"eigenvalue": value, "residual": residual})
            for vector, (value, residual) in zip(
                solution.eigenvectors.cpu().double().T.contiguous(), numbers, strict=True
            )
        ]
    return found, operator.check.to_dict()


def _components(objective: Objective, kinds: Sequence[Any], sorts: Sequence[str]) -> dict[int, Source]:
    """The source of each place where a trajectory stands."""
    places: dict[int, list[int]] = {}
    for i, sort in enumerate(sorts):
        if sort == TRAJECTORY:
            places.setdefault(id(kinds[i]), []).append(i)
    found, number = {}, 0
    for group in places.values():
        argument = f"directions[{group[0]}]"
        points = []
        for t, point in enumerate(kinds[group[0]]):
            checked_vector(torch.as_tensor(point), f"{argument}[{t}]", objective.params.shape)
            points.append(torch.as_tensor(point).detach())
        if not points:
            raise ValueError(f"`{argument}`, a trajectory, must hold at least one point, got none.")
        vectors, shares = principal_components(points, objective.params, len(group))
        digest = hash_tensors(*points)
        for k, i in enumerate(group):
            facts = {"index": k, "trajectory": digest, "num_points": len(points), "share": float(shares[k])}
            vector = with_fixed_sign(vectors[:, k].contiguous())
            found[i] = Source(TRAJECTORY, f"trajectory component {number + k}", vector, facts)
        number += len(group)
    return found

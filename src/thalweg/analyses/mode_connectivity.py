"""Two minima of one architecture: how far apart they are, and how high the ways between them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import get_args

import torch
from torch import Tensor

from thalweg.analyses.mode_connectivity_parts import Pair, Parts, expected_passes, num_norms_of, shadow
from thalweg.analyses.mode_connectivity_result import ModeConnectivity
from thalweg.analyses.network_plane import check_plane_points
from thalweg.analyses.readings import Network, modes_of_pair
from thalweg.analyses.runs import Run
from thalweg.core.arguments import check_count, check_flag, check_fraction, check_one_of
from thalweg.core.array_store import Store
from thalweg.core.measurement import ErrorBudget, hash_tensors
from thalweg.core.progress import Progress, Work
from thalweg.core.rng import stream_seed
from thalweg.measures.connectivity.curve_training import CurveTraining
from thalweg.measures.connectivity.path import check_ends
from thalweg.measures.connectivity.permutation import Method
from thalweg.objective.batch_norm import BatchNormMode
from thalweg.objective.objective import Objective
from thalweg.objective.resuming import check_store_for
from thalweg.solvers.comparable import check_comparable


def mode_connectivity(
    a: Run | Objective,
    b: Run | Objective,
    *,
    start: Run | Objective | None = None,
    modes: str | Iterable[str] | None = None,
    method: Method = "weights",
    num_restarts: int = 5,
    num_points: int = 21,
    num_steps: int = 3000,
    learning_rate: float = 0.05,
    plane_points: int = 19,
    population: bool = True,
    level: float = 0.95,
    names: tuple[str, str] = ("a", "b"),
    seed: int,
    store: Store | None = None,
    progress: Progress | None = None,
) -> ModeConnectivity:
    r"""Measure what lies between two minima: straight, with the units of b in the order of a's, and curved.

    - **Distance** and **angle** in parameter space, of the trainable parameters as they are. The angle at the
      origin is between the vectors :math:`\theta_a` and :math:`\theta_b`, that at a common start
      :math:`\theta_0` between the ways from it, :math:`\theta_a - \theta_0` and :math:`\theta_b - \theta_0`.
      All three depend on the parametrisation: rescaled units change them and no function.
    - **Barriers** of the straight line (`linear_path`) in every batch-norm mode, to b as it is and to the b
      that `align_permutation` makes of it. In ``"recalibrated"`` mode each point of a line has its own exact
      statistics: with batch norm that is what REPAIR comes to (Jordan et al. 2023). For networks without
      batch norm REPAIR's rescaling of each unit is not here.
    - A **curve** of one bend from a to b as it is (`bezier_path`), trained on the objectives' own data, in
      the reference mode: ``"recalibrated"`` if it is among the modes, else the first.
    - A **plane** through a, b and the aligned b (`plane_slice`), and its **topology** (`persistence`, up to
      the highest loss on the straight lines): the pass between the networks, and how many minima are neither
      noise nor the grid's.

    What cannot be had becomes a reason in its place, and costs no other number: units that may not trade
    places, a path with a loss that is not finite, Gudhi missing. Every barrier and saddle is an upper bound
    on what separates the two.

    Parameters
    ----------
    a, b
        Two networks of one architecture on the same data: runs of `thalweg.Runs`, measured in every mode; or
        objectives, measured in theirs. Take training data: the curve is trained on them.
    start
        The network both were trained from, for the angle there.
    modes
        Batch-norm modes. Default: all three for runs, the objectives' own for those.
    method, num_restarts
        Of the alignment; see `align_permutation`.
    num_points
        T, of each path.
    num_steps, learning_rate
        Of the curve's training; 0 steps leave it out.
    plane_points
        A side: 7, 13, 19 and so on, so that the networks are on the grid; 0 leaves the plane out.
    population
        Give barriers, saddles and the plane's minima errors for the distribution the examples are a sample
        of. Without it, and where there is but one batch to take them from, the numbers are about these
        examples alone; `reasons` says so.
    level
        Of the intervals, and of the noise band of the topology.
    names
        What the two are called.
    seed
        Of alignment, curve, plane and topology.
    store
        Keeps what is done of each part, an `ArrayStore` say: a killed call, made again, goes on from there
        and gives the same bits.
    progress
        Called with work done and all work, in passes forward of an example; see `expected_passes`.

    Raises
    ------
    TypeError, ValueError
        If the two are not points of one function, naming what differs, or an argument is none.
    NonFiniteLossError
        If a network has no finite loss itself.

    References
    ----------
    Ainsworth, Hayase and Srinivasa (2023), Git Re-Basin, ICLR. Entezari, Sedghi, Saukh and Neyshabur (2022),
    The Role of Permutation Invariance in Linear Mode Connectivity of Neural Networks, ICLR. Garipov et al.
    (2018), Loss Surfaces, Mode Connectivity, and Fast Ensembling of DNNs, NeurIPS. Jordan, Sedghi, Saukh,
    Entezari and Neyshabur (2023), REPAIR: REnormalizing Permuted Activations for Interpolation Repair, ICLR.
    """
    wanted = modes_of_pair(a, b, modes)
    check_one_of("method", method, get_args(Method))
    check_count("num_restarts", num_restarts)
    check_count("num_points", num_points, least=3)
    check_plane_points(plane_points)
    check_flag("population", population)
    check_fraction("level", level, "0.95 is customary")
    if len(names) != 2 or names[0] == names[1]:
        raise ValueError(f"`names` must be two different names, got {names!r}.")
    stream_seed(seed)
    check_store_for(store, a, b)

    networks = [Network.of(subject, wanted, name) for subject, name in zip((a, b), names, strict=True)]
    pairs = _pairs(networks)
    reference = "recalibrated" if "recalibrated" in pairs else next(iter(pairs))
    first, second = pairs[reference]
    CurveTraining(num_steps, learning_rate, 0.9, first.batch_size)  # refuses what is no rate
    origin = None if start is None else _start(start, first)
    check_ends(first, second, "line")

    # Without batch norm the modes are one.
    labels: dict[str | None, BatchNormMode] = (
        {mode: mode for mode in wanted} if first.has_batch_norm else {None: reference}
    )
    expected = expected_passes(
        first.num_examples,
        list(labels.values()),
        num_norms=num_norms_of(first),
        num_points=num_points,
        num_steps=num_steps,
        batch_size=first.batch_size,
        plane_points=plane_points,
    )
    parts = Parts(
        pairs=pairs,
        reference=reference,
        names=names,
        population=population,
        seed=seed,
        store=store,
        work=Work(progress, sum(expected.values())),
        expected=expected,
        reasons={mode: why for network in networks for mode, why in network.failures.items()},
    )
    alignment = parts.alignment(method, num_restarts)
    lines = [parts.line(mode, label, num_points) for label, mode in labels.items()]
    aligned_lines = [parts.aligned_line(mode, label, num_points, alignment) for label, mode in labels.items()]
    curve = parts.curve(num_points, num_steps, learning_rate)
    corners = parts.corners(alignment, curve) if plane_points else {}
    plane = parts.plane(corners, plane_points)
    i = list(labels.values()).index(reference)
    straight = [line for line in (lines[i], aligned_lines[i]) if line is not None]
    ceiling = max((float(line.losses.max()) for line in straight), default=math.inf)
    topology = parts.topology(plane, ceiling, level)
    parts.work.finish()

    paths = [*straight, *([curve] if curve is not None else [])]
    lowest = min(paths, key=lambda path: path.barrier, default=None)
    ends = [network.params.cpu().double() for network in (first, second)]
    others = [ends[1]] if alignment is None else [ends[1], alignment.params.double()]
    coordinates, residuals = shadow(plane, corners, curve)
    return ModeConnectivity(
        value=math.nan if lowest is None else lowest.barrier,
        error=ErrorBudget() if lowest is None else lowest.error,
        provenance={
            "function": "mode_connectivity",
            "arguments": {
                "start": None if origin is None else hash_tensors(origin),
                "modes": list(wanted),
                "method": method,
                "num_restarts": num_restarts,
                "num_points": num_points,
                "num_steps": num_steps,
                "learning_rate": learning_rate,
                "plane_points": plane_points,
                "population": population,
                "level": level,
                "names": list(names),
                "seed": seed,
            },
            "objective": first.describe(),
            "objective_b": second.describe(),
        },
        names=(names[0], names[1]),
        modes=tuple(labels),
        reference_mode=reference if first.has_batch_norm else None,
        norms=torch.stack([end.norm() for end in ends]),
        distances=_pair_of([float((ends[0] - other).norm()) for other in others]),
        angles=_pair_of([_angle(ends[0], other) for other in others]),
        start_angle=math.nan if origin is None else _angle(*(end - origin for end in ends)),
        lines=tuple(lines),
        aligned_lines=tuple(aligned_lines),
        alignment=alignment,
        curve=curve,
        plane=plane,
        plane_names=() if plane is None else tuple(corners),
        curve_coordinates=coordinates,
        curve_residuals=residuals,
        topology=topology,
        reasons=parts.reasons,
        level=level,
    )


def _pairs(networks: Sequence[Network]) -> dict[BatchNormMode, Pair]:
    """Both networks in each mode they have in common, found to be points of one function."""
    a, b = networks
    pairs: dict[BatchNormMode, Pair] = {
        mode: (objective, b.objectives[mode])  # type: ignore[misc]
        for mode, objective in a.objectives.items()
        if mode in b.objectives
    }
    if not pairs:
        raise ValueError(
            f"`a` and `b` must have a batch-norm mode in common, but {a.label} can only be measured in "
            f"{', '.join(a.objectives)}, {b.label} in {', '.join(b.objectives)}."
        )
    for pair in pairs.values():
        check_comparable(*pair)
    return pairs


def _start(start: Run | Objective, like: Objective) -> Tensor:
    """Parameters ``(P,)`` float64 of the common start."""
    if not isinstance(start, Run | Objective):
        raise TypeError(
            f"`start` must be a thalweg.Objective or a run of thalweg.Runs, got {type(start).__name__}."
        )
    objective = start if isinstance(start, Objective) else start.objective(like.batch_norm)
    if objective.space != like.space:
        raise ValueError(
            "`start` must have the same trainable parameters as `a` and `b`; give the network that both were "
            "trained from."
        )
    return objective.params.cpu().double()


def _pair_of(values: Sequence[float]) -> Tensor:
    """Of b as it is and aligned; NaN for what is not there."""
    return torch.tensor([*values, math.nan][:2], dtype=torch.float64)


def _angle(u: Tensor, v: Tensor) -> float:
    """Degrees between two vectors; NaN if one is nought. By the half angle: an arccosine loses small ones."""
    lengths = u.norm(), v.norm()
    if not all(length > 0 for length in lengths):
        return math.nan
    u, v = u / lengths[0], v / lengths[1]
    return math.degrees(2 * math.atan2(float((u - v).norm()), float((u + v).norm())))

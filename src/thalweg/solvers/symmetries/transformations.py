"""Function-preserving changes of an objective: found by its flow, kept by trial, proved on its data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from thalweg.core.rng import generator
from thalweg.objective.micro_batch import MicroBatch
from thalweg.objective.objective import Objective
from thalweg.solvers.symmetries.axes import Axis, act
from thalweg.solvers.symmetries.places import TRANSFORMATIONS, Actions, Place, find_places
from thalweg.solvers.symmetries.tracing import trace
from thalweg.solvers.symmetries.units import layers_of, told_apart

Roots = Mapping[str, tuple[Axis | None, ...]]

# Examples on which each place is tried before it is believed.
NUM_TRIAL_EXAMPLES = 8

# Largest scale in those trials.
TRIAL_STRENGTH = 2.0

# What rounding may make of exact agreement, by the dtype computed in. A coarser one proves nothing.
TOLERANCES = {torch.float64: 2e-10, torch.float32: 5e-5}

# An epsilon of batch norm below this changes nothing that single precision could show.
NEGLIGIBLE_EPSILON = torch.finfo(torch.float32).eps ** 2


@dataclass(frozen=True)
class Agreement:
    """How far two points of one function are apart on all the examples.

    Parameters
    ----------
    outputs
        Largest change of an output, over the largest output; None where the loss takes the model itself.
    losses
        Largest change of an example's loss, over the largest loss.
    dtype
        In which both were computed.
    """

    outputs: float | None
    losses: float
    dtype: torch.dtype

    @property
    def worst(self) -> float:
        """The larger of both; NaN if either is."""
        both = [self.losses] if self.outputs is None else [self.outputs, self.losses]
        return math.nan if any(map(math.isnan, both)) else max(both)

    @property
    def tolerance(self) -> float:
        """What rounding may make of exact agreement: 2e-10 in float64, 5e-5 in float32, nought in others."""
        return TOLERANCES.get(self.dtype, 0.0)

    @property
    def holds(self) -> bool:
        """Whether the two are the same function on these examples, up to rounding; never if one is NaN."""
        return self.worst <= self.tolerance


@dataclass(frozen=True)
class Proof:
    """A changed point, held against the first one on every example.

    Parameters
    ----------
    point
        The objective there.
    places
        Those that were changed.
    dropped
        Those that were not, for they change the function on some example.
    agreement
        Of both points.
    """

    point: Objective
    places: tuple[Place, ...]
    dropped: tuple[Place, ...]
    agreement: Agreement


@dataclass(frozen=True)
class Symmetries:
    """What can be done to an objective's point that leaves its function as it is.

    Parameters
    ----------
    objective
        The point, in float64 where the model allows.
    places
        By transformation, those that have any.
    refused
        The other transformations, and why.
    roots
        The axes of each tensor.
    told_apart
        Layers of hidden units that may not trade places, and why not; see `units.told_apart`.
    """

    objective: Objective
    places: Mapping[str, tuple[Place, ...]]
    refused: Mapping[str, str]
    roots: Roots
    told_apart: Mapping[str, str] = field(default_factory=dict)

    def transformed(self, transformation: str, *, strength: float, seed: int) -> Objective:
        """The point after a transformation at all its places.

        Parameters
        ----------
        transformation
            One that has places.
        strength
            See `Place.draw`.
        seed
            Of scales, orders and matrices; each transformation has its own stream.
        """
        return self._at(self.places[transformation], transformation, strength, seed)

    def proved(self, transformation: str, *, strength: float, seed: int) -> Proof:
        """`transformed`, compared on every example, without the places that fail there one by one.

        Where rounding leaves nothing finite, or no place holds alone, all are kept and the agreement says so.
        """
        own = self.places[transformation]

        def tried(places: tuple[Place, ...]) -> Proof:
            point = self._at(places, transformation, strength, seed)
            dropped = tuple(place for place in own if place not in places)
            return Proof(point, places, dropped, agreement(self.objective, point))

        together = tried(own)
        if together.agreement.holds or len(own) == 1 or not math.isfinite(together.agreement.worst):
            return together
        kept = tuple(place for place in own if tried((place,)).agreement.holds)
        return tried(kept) if kept else together

    def reordered(self, objective: Objective, orders: Sequence[Tensor]) -> Objective:
        """A point with the units at the places of ``permutation`` in other orders: entries move as they are.

        Parameters
        ----------
        objective
            The network on any data and in any dtype, at any point.
        orders
            ``(units,)`` for each place: which unit comes where.
        """
        actions: Actions = {}
        for place, order in zip(self.places["permutation"], orders, strict=True):
            for axis, todo in place.reorder(order).items():
                actions.setdefault(axis, []).extend(todo)
        # Its own buffers: statistics that are recalibrated anyway are not computed for this.
        return _acted(objective, self.roots, actions, objective.named_params | objective.buffers)

    def _at(self, places: Sequence[Place], transformation: str, strength: float, seed: int) -> Objective:
        rng = generator(seed, "symmetries", transformation)
        return _moved(self.objective, self.roots, places, strength, rng)


def find_symmetries(objective: Objective, transformations: Sequence[str] = TRANSFORMATIONS) -> Symmetries:
    r"""Find where an objective's network can be changed without changing its function.

    One forward pass is traced, operation by operation, so that sequential, residual and any other network is
    read as it runs. Candidates are then tried, all together and where that fails one by one, on a few
    examples: those that change an output are dropped.

    ``relu_rescaling``
        A layer's weights and biases times a > 0 a unit, the weights that take its units divided by it:
        through ReLU, leaky ReLU, PReLU, pooling, sums of layers or nothing at all. Where a batch norm comes
        between, its own weight and bias are what is scaled.
    ``batch_norm_scaling``
        The weights and bias before a batch norm times a: in ``"running"`` mode the mean times a and
        :math:`\sigma'^2 = a^2 (\sigma^2 + \epsilon) - \epsilon`, a being large enough to keep it positive; in
        ``"recalibrated"`` mode the norm's weight times
        :math:`\sqrt{a^2 \sigma^2 + \epsilon} / (a \sqrt{\sigma^2 + \epsilon})`, exact at the new point. In
        ``"batch"`` mode nothing makes up for epsilon, so that the trial in float64 rejects it unless that is
        next to nothing; a trial in float32 could not tell, so that epsilon itself decides there.
    ``permutation``
        The units of a layer, or of all layers that a residual stream joins, reordered with all that belongs
        to them, running statistics too; heads of attention and the features in them are units as well.
    ``query_key``, ``value_output``
        A random matrix on the features of the queries, its inverse transposed on those of the keys; the same
        for values and output. Each head has its own, where the trace shows the heads.

    Limits: only trainable parameters and the statistics of batch norm move; what touches a frozen parameter,
    another buffer or a constant is left alone. Units joined by ``cat`` or cut in unequal slices, and those
    behind operations without a rule, are taken to be told apart; a batch norm on channels that a convolution
    takes in groups absorbs no scale, nor does a layer of a single unit.
    With an L2 term, which sees the length of the weights, only permutations leave the objective as it is.

    Parameters
    ----------
    objective
        The point.
    transformations
        Which of these to look for.

    Raises
    ------
    ValueError
        If the network can only be computed in less than single precision, which proves nothing.
    """
    wide = in_float64(objective)
    if wide.dtype not in TOLERANCES:
        raise ValueError(
            "`objective` must be computed in float32 or float64 for a proof that its function stays, got "
            f"{str(wide.dtype).removeprefix('torch.')}, and the model does not run in float64; take out what "
            "fixes the dtype inside the model, or use objective.to_dtype(torch.float32)."
        )
    probe = _probe(wide)
    flow = trace(probe)
    mode = wide.batch_norm if wide.has_batch_norm else "running"
    fixed = told_apart(flow)
    candidates, refused = find_places(flow, mode)
    candidates = [place for place in candidates if place.transformation in transformations]
    refused = {name: reason for name, reason in refused.items() if name in transformations}
    places: dict[str, tuple[Place, ...]] = {}
    for name in dict.fromkeys(place.transformation for place in candidates):
        own = tuple(place for place in candidates if place.transformation == name)
        if wide.weight_decay and name != "permutation":
            refused[name] = (
                f"the L2 term (weight_decay={wide.weight_decay:g}) changes with the length of the weights"
            )
            continue
        if name == "batch_norm_scaling" and mode == "batch" and wide.dtype != torch.float64:
            own = tuple(p for p in own if all(site.eps <= NEGLIGIBLE_EPSILON for site in p.norms))
            if not own:
                refused[name] = (
                    "not exact in 'batch' mode, where each batch computes its variance and epsilon is not "
                    "scaled with it, which single precision cannot tell; the model does not run in float64"
                )
                continue
        kept, change = _kept(probe, flow.roots, own)
        if name == "permutation":
            dropped = layers_of([place for place in own if place not in kept], flow.roots)
            fixed |= {layer.name: "change the outputs when they trade places" for layer in dropped}
        if kept:
            places[name] = kept
        else:
            refused[name] = _not_kept(name, mode, change)
    return Symmetries(wide, places, refused, flow.roots, fixed)


def agreement(before: Objective, after: Objective) -> Agreement:
    """Compare two points of one function on every example."""
    size, count = before.micro_batch, -(-before.num_examples // before.micro_batch)

    def differences(micro: MicroBatch) -> Tensor:
        other = MicroBatch(after, micro.batch, micro.start, micro.stop)
        pairs = [(micro.losses(), other.losses())]
        if isinstance(outputs := micro.outputs(), Tensor):
            pairs.append((outputs, other.outputs()))
        row = torch.stack([torch.stack([(a - b).abs().max(), a.abs().max()]) for a, b in pairs])
        # A sum over micro-batches that keeps each one's largest apart.
        table = row.new_zeros(count, *row.shape)
        table[micro.start // size] = row
        return table

    _ = after.effective_buffers  # before the pass, within which there is no other
    with torch.no_grad():
        table = before.reduce(differences).cpu().double()
    largest = table.amax(0).tolist()
    ratios = [change / scale if scale > 0 else change for change, scale in largest]
    return Agreement(ratios[1] if len(ratios) > 1 else None, ratios[0], before.dtype)


def in_float64(objective: Objective) -> Objective:
    """The objective in float64, or as it is where device or model refuse."""
    if objective.dtype == torch.float64 or objective.device.type == "mps":
        return objective
    try:
        wide = objective.to_dtype(torch.float64)
        _probe(wide).value()
    except Exception:
        return objective  # a model may fix a dtype inside; the dtype is part of what is reported
    return wide


def _probe(objective: Objective) -> Objective:
    """The objective on a few examples, or on a whole batch where batches share statistics."""
    if objective.batch_norm == "batch" and objective.has_batch_norm:
        return objective.select(torch.arange(min(objective.num_examples, objective.batch_size)))
    return objective.select(torch.arange(min(objective.num_examples, NUM_TRIAL_EXAMPLES)))


def _kept(probe: Objective, roots: Roots, places: tuple[Place, ...]) -> tuple[tuple[Place, ...], float]:
    """Those that hold on the probe, all of them or each that does alone; and what all of them change."""

    def tried(some: Sequence[Place]) -> Agreement:
        rng = generator(0, "symmetries", "trial")
        return agreement(probe, _moved(probe, roots, some, TRIAL_STRENGTH, rng))

    together = tried(places)
    if together.holds:
        return places, together.worst
    return tuple(place for place in places if tried((place,)).holds), together.worst


def _not_kept(name: str, mode: str, change: float) -> str:
    tried = f"tried with scales up to {TRIAL_STRENGTH:g}, it changes the outputs by {change:.1g} of them"
    if name == "batch_norm_scaling" and mode == "batch":
        return (
            "not exact in 'batch' mode, where each batch computes its variance and epsilon is not scaled "
            f"with it: {tried}"
        )
    return tried


def _moved(
    objective: Objective, roots: Roots, places: Sequence[Place], strength: float, rng: torch.Generator
) -> Objective:
    tensors = objective.named_tensors
    actions: Actions = {}
    for place in places:
        for axis, todo in place.draw(roots, tensors, strength, rng).items():
            actions.setdefault(axis, []).extend(todo)
    return _acted(objective, roots, actions, tensors)


def _acted(objective: Objective, roots: Roots, actions: Actions, tensors: Mapping[str, Tensor]) -> Objective:
    moved: dict[str, Tensor] = {}
    for name, axes in roots.items():
        if name not in tensors:
            continue
        x = tensors[name]
        for dim, axis in enumerate(axes):
            if axis and any(end in actions for end in axis.ends()):
                x = act(x.movedim(dim, 0), axis, actions).movedim(0, dim)
        moved[name] = x
    buffers = {name: moved[name] for name in objective.buffers if name in moved}
    return objective.at(objective.space.flatten(moved), buffers)

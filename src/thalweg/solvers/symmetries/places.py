"""Where a network can be changed without changing its function, as the flow of its units suggests."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.solvers.symmetries.axes import Action, Axis, PerIndex, flat, matched
from thalweg.solvers.symmetries.flow import GIVEN, Flow, NormSite

Actions = dict[Axis, list[Action | PerIndex]]

# Changes of a network that leave its function as it was, by the names they have in tables.
TRANSFORMATIONS = ("relu_rescaling", "batch_norm_scaling", "permutation", "query_key", "value_output")

# A scale keeps this far from where a running variance would turn negative.
MARGIN = 1.001


@dataclass(frozen=True)
class Place:
    """One layer of units, with all that a transformation moves there.

    Parameters
    ----------
    transformation
        One of `TRANSFORMATIONS`.
    size
        Units.
    signs
        Axes that move: with 1 those scaled by a, with -1 those by its inverse. Of a permutation all are 1.
    heads
        Of attention's features, how many heads have a transform of their own; 0 if all share one.
    norms
        Batch norms that absorb the scale.
    mode
        Of batch norm. Where statistics are recalibrated at each point, the norm's own weight makes up for
        epsilon, which is not scaled with the variance; where each batch computes them, nothing can.
    tensors
        Names of what moves.
    """

    transformation: str
    size: int
    signs: Mapping[Axis, int]
    tensors: tuple[str, ...]
    heads: int = 0
    norms: tuple[NormSite, ...] = ()
    mode: str = "running"

    def __str__(self) -> str:
        heads = f"{self.heads} x " if self.heads else ""
        return f"{', '.join(self.tensors)}: {heads}{self.size} units"

    def draw(
        self,
        roots: Mapping[str, tuple[Axis | None, ...]],
        tensors: Mapping[str, Tensor],
        strength: float,
        rng: torch.Generator,
    ) -> Actions:
        """What to do to each axis. Scales are log-uniform in ``[1 / strength, strength]``.

        Parameters
        ----------
        roots
            The axes of the tensors.
        tensors
            The present point, by name.
        strength
            Largest scale, above 1; of a transform of attention, largest singular value, the smallest being
            at least its inverse.
        rng
            On the CPU.
        """
        if self.transformation == "permutation":
            return self.reorder(_order(self.size, rng))
        if self.transformation in ("query_key", "value_output"):
            pairs = [_transform(self.size, strength, rng) for _ in range(self.heads or 1)]
            by_sign = {sign: [_multiplied(pair[sign < 0]) for pair in pairs] for sign in (1, -1)}
            return {
                axis: [PerIndex(tuple(by_sign[sign]))] if self.heads else list(by_sign[sign])
                for axis, sign in self.signs.items()
            }
        lowest = torch.full((self.size,), 1 / strength, dtype=torch.float64)
        for site in self.norms if self.mode == "running" else ():
            assert site.var is not None
            var = tensors[site.var].cpu().double()
            lowest = torch.maximum(lowest, MARGIN * (site.eps / (var + site.eps)).sqrt())
        spread = torch.log(strength / lowest).clamp_min(0)
        scale = lowest * torch.exp(spread * torch.rand(self.size, generator=rng, dtype=torch.float64))
        actions: Actions = {axis: [_scaled(scale**sign)] for axis, sign in self.signs.items()}
        for site in self.norms if self.mode != "batch" else ():
            assert site.var is not None
            var = tensors[site.var].cpu().double()
            if self.mode == "recalibrated":
                assert site.weight is not None
                made_up = ((scale.square() * var + site.eps) / (scale.square() * (var + site.eps))).sqrt()
                actions.setdefault(_root(roots, site.weight), []).append(_scaled(made_up))
            else:
                actions.setdefault(_root(roots, site.var), []).append(_variance(scale, site.eps))
        return actions

    def reorder(self, order: Tensor) -> Actions:
        """What to do to each axis that the units may come in another order ``(size,)``."""
        return {axis: [lambda x: x[order.to(x.device)]] for axis in self.signs}


def find_places(flow: Flow, mode: str) -> tuple[list[Place], dict[str, str]]:
    """Places by what the flow suggests, to be tried; and why a transformation that has none lacks them."""
    places = _permutations(flow) + _scalings(flow, mode)
    found = {place.transformation for place in places}
    return places, {t: _why_not(flow, t) for t in TRANSFORMATIONS if t not in found}


def _permutations(flow: Flow) -> list[Place]:
    fixed = {id(end.members) for axis, _ in flow.fixed for end in axis.ends()}
    layers: dict[int, list[tuple[str, Axis]]] = {}
    for name, end in _moving(flow):
        layers.setdefault(id(end.members), []).append((name, end))
    return [
        Place("permutation", entries[0][1].size, {end: 1 for _, end in entries}, _names(entries))
        for key, entries in layers.items()
        if key not in fixed and entries[0][1].size > 1
    ]


def _scalings(flow: Flow, mode: str) -> list[Place]:
    rigid = {end for axis, _ in (*flow.rigid, *flow.fixed) for end in axis.ends()}
    bent, contracted, carried = (_ends(axes) for axes in (flow.bent, flow.contracted, flow.carried))
    sites: dict[Axis, list[NormSite]] = {}
    for site in flow.norms:
        for end in (end for axis in flat(site.channels) for end in axis.ends()):
            sites.setdefault(end, []).append(site)
    moving: dict[Axis, list[str]] = {}
    for name, end in _moving(flow):
        moving.setdefault(end, []).append(name)
    places = []
    for signs in _gauge_groups(flow, moving):
        entries = [(name, axis) for axis in signs for name in moving.get(axis, ())]
        norms = tuple({id(site): site for axis in signs for site in sites.get(axis, ())}.values())
        if (
            not entries
            or not entries[0][1].size
            or rigid & signs.keys()
            or not all(_usable(flow, site, mode) for site in norms)
        ):
            continue
        kept = {axis: sign for axis, sign in signs.items() if axis in moving}
        size = entries[0][1].size
        if norms:
            absorbing = [site.weight if mode == "recalibrated" else site.var for site in norms]
            names = (*_names(entries), *(name for name in absorbing if name))
            places.append(Place("batch_norm_scaling", size, kept, names, 0, norms, mode))
        elif len(set(kept.values())) < 2:
            continue  # nothing takes the scale back
        elif not bent & signs.keys() and (contracted | carried) & signs.keys():
            kind = "query_key" if contracted & signs.keys() else "value_output"
            places.append(Place(kind, size, kept, _names(entries), _heads(kept)))
        else:
            places.append(Place("relu_rescaling", size, kept, _names(entries)))
    return places


def _gauge_groups(flow: Flow, moving: Iterable[Axis]) -> list[dict[Axis, int]]:
    """Axes that scale together, each with its sign; none where an axis would be scaled by its own inverse."""
    neighbours: dict[Axis, list[tuple[Axis, int]]] = {axis: [] for axis in moving}
    for a, b, sign in flow.gauges:
        for x, y in matched(a, b):
            neighbours.setdefault(x, []).append((y, sign))
            neighbours.setdefault(y, []).append((x, sign))
    groups, seen = [], set()
    for start in neighbours:
        if start in seen:
            continue
        signs, stack, consistent = {start: 1}, [start], True
        while stack:
            axis = stack.pop()
            for other, sign in neighbours[axis]:
                if other not in signs:
                    signs[other] = signs[axis] * sign
                    stack.append(other)
                consistent &= signs[other] == signs[axis] * sign
        seen |= signs.keys()
        if consistent:
            groups.append(signs)
    return groups


def _usable(flow: Flow, site: NormSite, mode: str) -> bool:
    """Whether a batch norm can absorb a scale: in ``"batch"`` mode up to epsilon, else exactly."""
    if mode == "batch" and site.computes:
        return True
    name = site.weight if mode == "recalibrated" else site.var
    if site.computes or site.var is None or name is None:
        return False
    fixed = {axis for axis, _ in flow.fixed}
    root = flow.roots[name][0]
    # A norm over channels that come in groups has more structure than one scale a channel.
    return root is not None and root not in fixed and root.ends() == (root,)


def _heads(signs: Mapping[Axis, int]) -> int:
    """How many heads these features belong to, if their every occurrence stands beside the same heads."""
    inner = [axis for axis in signs if axis.family and axis.family[0] is not axis]
    before = [axis.family[axis.family.index(axis) - 1] for axis in inner]
    is_shared = len(before) == len(signs) and len({id(head.members) for head in before}) == 1
    return before[0].size if is_shared else 0


def _why_not(flow: Flow, transformation: str) -> str:
    """In words."""
    told_apart = Counter(_reasons(flow, flow.fixed))
    if transformation == "permutation":
        return _because("no layer of units may trade places", told_apart)
    if transformation == "batch_norm_scaling":
        if not flow.norms:
            return "no batch norm"
        return _because("no weights before a batch norm may be scaled", told_apart)
    if transformation == "relu_rescaling":
        stiff = Counter(_reasons(flow, (*flow.rigid, *flow.fixed)))
        return _because("no layer between two weights is homogeneous", stiff)
    if not flow.contracted:
        return "no attention: no two activations are multiplied"
    features = _ends(flow.contracted if transformation == "query_key" else flow.carried)
    marked = [(end, reason) for axis, reason in (*flow.rigid, *flow.fixed) for end in axis.ends()]
    # Products of attention sum over positions, too, which data tell apart.
    given = {id(end.members) for end, reason in marked if reason.startswith(GIVEN)}
    own = [reason for end, reason in marked if end in features and id(end.members) not in given]
    return _because("attention's features are not free", Counter(own))


def _because(claim: str, reasons: Counter[str]) -> str:
    common = [reason for reason, _ in reasons.most_common(3)]
    return f"{claim}: units {', '.join(common)}" if common else claim


def _reasons(flow: Flow, marked: Iterable[tuple[Axis, str]]) -> list[str]:
    """Why marked axes are, once for each layer of units that some weights put out and others take."""
    layers: dict[int, list[int]] = {}
    for axes in flow.roots.values():
        for dim, axis in enumerate(axes):
            for end in axis.ends() if axis else ():
                layers.setdefault(id(end.members), []).append(dim)
    hidden = {key for key, dims in layers.items() if len(dims) > 1 and max(dims) > 0}
    seen = dict.fromkeys((id(end.members), reason) for axis, reason in marked for end in axis.ends())
    return [reason for key, reason in seen if key in hidden]


def _moving(flow: Flow) -> list[tuple[str, Axis]]:
    return [(name, end) for name, axes in flow.roots.items() for axis in axes if axis for end in axis.ends()]


def _ends(axes: Iterable[Axis]) -> set[Axis]:
    return {end for axis in axes for end in axis.ends()}


def _names(entries: Iterable[tuple[str, Axis]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name, _ in entries))


def _root(roots: Mapping[str, tuple[Axis | None, ...]], name: str) -> Axis:
    axis = roots[name][0]
    assert axis is not None
    return axis


def _order(size: int, rng: torch.Generator) -> Tensor:
    """A random order other than the present one."""
    present = torch.arange(size)
    while torch.equal(order := torch.randperm(size, generator=rng), present):
        pass
    return order


def _scaled(scale: Tensor) -> Action:
    def action(x: Tensor) -> Tensor:
        return x * scale.to(x).view(-1, *[1] * (x.ndim - 1))

    return action


def _variance(scale: Tensor, eps: float) -> Action:
    return lambda var: scale.to(var).square() * (var + eps) - eps


def _multiplied(A: Tensor) -> Action:
    return lambda x: torch.tensordot(A.to(x), x, dims=1)


def _transform(size: int, strength: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """A random matrix ``(size, size)`` and its inverse transposed, of known singular values."""
    U, V = (torch.linalg.qr(torch.randn(size, size, generator=rng, dtype=torch.float64))[0] for _ in range(2))
    s = torch.exp(math.log(strength) * (2 * torch.rand(size, generator=rng, dtype=torch.float64) - 1))
    return (U * s) @ V.T, (U / s) @ V.T

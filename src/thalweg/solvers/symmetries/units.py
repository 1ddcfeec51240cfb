"""Layers of hidden units in arrays: where each unit's entries lie, and which units may not trade places."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from thalweg.solvers.symmetries.axes import Axis, entries_of_units, flat
from thalweg.solvers.symmetries.flow import GIVEN, Flow, Read
from thalweg.solvers.symmetries.places import Place

Roots = Mapping[str, tuple[Axis | None, ...]]

# Reasons of units that are places in an image: nobody takes them for interchangeable.
POSITIONS = ("are positions", "are padded")


@dataclass(frozen=True)
class Along:
    """Where a layer's units lie along one dimension of a tensor: row i of `entries` belongs to unit i."""

    tensor: str
    dim: int
    entries: Tensor


@dataclass(frozen=True)
class Layer:
    """Units that may trade places, with all that belongs to them.

    Parameters
    ----------
    name
        Of the module whose weight puts them out; the first, where a residual stream joins several, numbered
        where one weight has several kinds of units, as heads and their features.
    size
        Units.
    tensors
        Names of what moves with them.
    along
        Where they lie in each of these; a tensor that both puts them out and takes them comes twice.
    ends
        The same places as ``(tensor, dimension, which end of its axis)``.
    """

    name: str
    size: int
    tensors: tuple[str, ...]
    along: tuple[Along, ...]
    ends: tuple[tuple[str, int, int], ...]


def layers_of(places: Sequence[Place], roots: Roots) -> list[Layer]:
    """The layer at each place of a permutation."""
    layers: list[Layer] = []
    names: dict[str, int] = {}
    for place in places:
        ends = [
            (name, dim, number, end)
            for name, axes in roots.items()
            for dim, axis in enumerate(axes)
            for number, end in enumerate(axis.ends() if axis else ())
            if end in place.signs
        ]
        along = []
        for name, dim, _, end in ends:
            axis = roots[name][dim]
            assert axis is not None
            entries = entries_of_units((axis,), end)
            assert entries.shape[1], "an end of an axis has entries along it"
            along.append(Along(name, dim, entries))
        module = _module([*_makers(roots, ends[0][3]), *place.tensors])
        names[module] = names.get(module, 0) + 1
        label = module if names[module] == 1 else f"{module} #{names[module]}"
        where = tuple((name, dim, number) for name, dim, number, _ in ends)
        layers.append(Layer(label, place.size, place.tensors, tuple(along), where))
    return layers


@dataclass(frozen=True)
class Sight:
    """A place in a forward pass where units can be seen: what some product takes.

    Parameters
    ----------
    read
        The product and which tensor of it.
    layers
        Numbers of the layers whose units the tensor's entries belong to.
    sizes
        Of each dimension of the tensor, those of its factors.
    factors
        Of each layer, which of all factors are its units.
    """

    read: Read
    layers: tuple[int, ...]
    sizes: tuple[tuple[int, ...], ...]
    factors: tuple[int, ...]

    def values(self, x: Tensor) -> Tensor:
        """The tensor by unit, ``(units of the first layer, ..., sample)``."""
        shape: list[int] = []
        for sizes, length in zip(self.sizes, x.shape, strict=True):
            # Factors that are no layer's may have another size: there may be fewer examples.
            own = {k - len(shape) for k in self.factors if len(shape) <= k < len(shape) + len(sizes)}
            if own and math.prod(sizes) != length:
                free = min(set(range(len(sizes))) - own)
                rest = math.prod(size for k, size in enumerate(sizes) if k != free)
                shape += [length // rest if k == free else size for k, size in enumerate(sizes)]
            else:
                shape += sizes if own else [length, *[1] * (len(sizes) - 1)]
        count = len(self.factors)
        return x.reshape(shape).movedim(self.factors, tuple(range(count))).flatten(count)


def sights_of(layers: Sequence[Layer], flow: Flow) -> list[Sight]:
    """Where a pass shows the layers' values.

    The layers may be those of another trace of the same network, as in another dtype.

    Raises
    ------
    ValueError
        If a layer has no such place in this trace: its units are taken by no product.
    """
    classes = {}
    for number, layer in enumerate(layers):
        name, dim, which = layer.ends[0]
        axis = flow.roots[name][dim]
        ends = axis.ends() if axis else ()
        if which < len(ends) and ends[which].size == layer.size:
            classes[id(ends[which].members)] = number
    found = []
    for read in flow.reads:
        if not any(id(axis.members) in classes for axis in flat(read.units)):
            continue
        leaves = [flat(dim) for dim in read.dims]
        every = [classes.get(id(axis.members)) for dim in leaves for axis in dim or (Axis(1),)]
        own = {number: k for k, number in enumerate(every) if number is not None}
        sizes = tuple(tuple(axis.size for axis in dim) or (1,) for dim in leaves)
        found.append(Sight(read, tuple(own), sizes, tuple(own.values())))
    seen = {number for sight in found for number in sight.layers}
    for number, layer in enumerate(layers):
        if number not in seen:
            raise ValueError(
                f"`method='activations'` needs products that take a layer's units, but none takes those of "
                f"{layer.name} ({', '.join(layer.tensors)}); use method='weights'."
            )
    return found


def told_apart(flow: Flow) -> dict[str, str]:
    """Layers of hidden units that weights take but that may not trade places, and why not.

    By the module whose weight puts them out. Of units that an operation made of others, of several layers
    that are joined for one, these others' modules; only where no weight put out any of them, that of the
    weight that takes them. Units that are meant to differ are left out: places in an image, and what the data
    number.
    """
    reasons: dict[int, list[str]] = {}
    for axis, reason in flow.fixed:
        for end in axis.ends():
            reasons.setdefault(id(end.members), []).append(reason)
    sources = _sources(flow)

    def made_of(end: Axis, seen: set[int]) -> Iterable[Axis]:
        """The ends that weights put out among those it was made of; it alone, if some put out itself."""
        if id(end.members) in seen:
            return
        seen.add(id(end.members))
        if _makers(flow.roots, end):
            yield end
        else:
            for source in sources.get(id(end.members), ()):
                yield from made_of(source, seen)

    found: dict[str, str] = {}
    for read in flow.reads:
        for end in (end for axis in read.units for end in axis.ends()):
            own = reasons.get(id(end.members), [])
            if not (read.is_hidden and read.by_weights and own) or any(r in POSITIONS for r in own):
                continue
            makers = [(_makers(flow.roots, source), source) for source in made_of(end, set())]
            if not makers and not all(reason.startswith(GIVEN) for reason in own):
                takers = [name for name, dim, _ in _everywhere(flow.roots, end) if dim == 1]
                makers = [(takers or [read.operation], end)]
            for names, source in makers:
                why = reasons.get(id(source.members), own)
                reason = next((r for r in why if not r.startswith(GIVEN)), why[0])
                found.setdefault(_module(names), reason)
    return found


def _sources(flow: Flow) -> dict[int, list[Axis]]:
    """By the class of an end that an operation made: the ends it made it of."""
    found: dict[int, list[Axis]] = {}
    for new, old in flow.origins:
        for end in (end for axis in new for end in axis.ends()):
            found.setdefault(id(end.members), []).extend(e for axis in old for e in axis.ends())
    return found


def _everywhere(roots: Roots, end: Axis) -> Iterable[tuple[str, int, int]]:
    """Where the class of an end occurs: name of the tensor, dimension, number of dimensions."""
    return (
        (name, dim, len(axes))
        for name, axes in roots.items()
        for dim, axis in enumerate(axes)
        for other in (axis.ends() if axis else ())
        if other.members is end.members
    )


def _makers(roots: Roots, end: Axis) -> list[str]:
    """Weights that put the units out."""
    return [name for name, dim, ndim in _everywhere(roots, end) if dim == 0 and ndim > 1]


def _module(names: Sequence[str]) -> str:
    """The module of the first; a weight with a parametrisation lies in one of its own below the layer."""
    layer, marker, _ = names[0].partition(".parametrizations.")
    return layer if marker else names[0].rpartition(".")[0] or names[0]

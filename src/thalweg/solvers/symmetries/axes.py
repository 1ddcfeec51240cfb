"""Axes of units: which dimensions of which tensors count the same channels, neurons, heads or features.

A dimension of a tensor is a product of axes, first varying slowest, as ``view`` has it: ``(heads,
features)``. Axes found to count the same units form a class. What is learnt later of one, that it is itself
a product or that a packed tensor holds several copies of it, holds for its whole class.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Dim = tuple["Axis", ...]
Action = Callable[[Tensor], Tensor]


class NotAProduct(Exception):  # noqa: N818 - control flow between the rules, no error of anybody's
    """Two dimensions count the same entries, but no common factors show how."""


class Axis:
    """Units counted along one dimension, or along one factor of it.

    Attributes
    ----------
    size
        How many.
    members
        The class: all axes known to count the same units; one list, shared by them.
    parts
        Factors, first varying slowest, once it is known to be a product.
    owner, family
        The axis it is a factor of, and all of that axis's factors; a factor of a factor is one among them.
    variants, selector
        An axis beside a selector of size n that was indexed with 0 to n - 1, as in a packed projection of
        queries, keys and values, is n axes that may go separate ways, one for each index.
    """

    __slots__ = ("family", "members", "owner", "parts", "selector", "size", "variants")

    def __init__(self, size: int) -> None:
        self.size = size
        self.members: list[Axis] = [self]
        self.parts: Dim = ()
        self.owner: Axis | None = None
        self.family: Dim = ()
        self.variants: Dim = ()
        self.selector: Axis | None = None

    def flat(self) -> Dim:
        """The factors that are not products themselves."""
        return tuple(leaf for part in self.parts for leaf in part.flat()) if self.parts else (self,)

    def ends(self) -> Dim:
        """All axes it consists of, those of every variant."""
        inner = self.variants or self.parts
        return tuple(end for axis in inner for end in axis.ends()) if inner else (self,)


def flat(dim: Dim) -> Dim:
    """The factors of a dimension that are not products themselves."""
    return tuple(leaf for axis in dim for leaf in axis.flat())


def size_of(dim: Dim) -> int:
    """Entries along a dimension."""
    return math.prod(axis.size for axis in dim)


def split(axis: Axis, sizes: tuple[int, ...]) -> Dim:
    """Make an axis a product of the given sizes, and all its class with it; its parts."""
    assert not axis.parts, "already a product"
    assert math.prod(sizes) == axis.size
    if axis.variants:
        for variant in axis.variants:
            if not variant.parts:
                split(variant, sizes)
            elif tuple(p.size for p in variant.parts) != sizes:
                raise NotAProduct
        _factor(axis, sizes)
        for j, part in enumerate(axis.parts):
            part.variants, part.selector = tuple(v.parts[j] for v in axis.variants), axis.selector
        return axis.parts
    for member in list(axis.members):
        _factor(member, sizes)
    for j in range(len(sizes)):
        for member in axis.members[1:]:
            unify(axis.members[0].parts[j], member.parts[j])
    return axis.parts


def _factor(axis: Axis, sizes: tuple[int, ...]) -> None:
    axis.parts = tuple(Axis(size) for size in sizes)
    owner, family = axis, axis.parts
    if axis.owner:
        owner = axis.owner
        family = tuple(p for part in axis.family for p in (axis.parts if part is axis else (part,)))
        owner.parts = family
    for part in family:
        part.owner, part.family = owner, family


def unify(a: Axis, b: Axis) -> None:
    """Let two axes of one size, or their factors, count the same units."""
    for x, y in paired((a,), (b,)):
        if x.variants and y.variants:
            if not _same(x.selector, y.selector):
                raise NotAProduct
            for one, other in zip(x.variants, y.variants, strict=True):
                unify(one, other)
        elif x.variants or y.variants:
            whole, single = (x, y) if x.variants else (y, x)
            for variant in whole.variants:
                unify(variant, single)
        elif x.members is not y.members:
            more, fewer = (x, y) if len(x.members) >= len(y.members) else (y, x)
            moving = fewer.members
            more.members.extend(moving)
            for member in moving:
                member.members = more.members


def paired(a: Dim, b: Dim) -> list[tuple[Axis, Axis]]:
    """Factor two dimensions of one size alike; the factors in pairs.

    Raises
    ------
    NotAProduct
        If they have no common factors.
    """
    left, right, pairs = list(flat(a))[::-1], list(flat(b))[::-1], []
    while left and right:
        x, y = left.pop(), right.pop()
        if x.size == y.size:
            pairs.append((x, y))
            continue
        larger, smaller, stack, other = (x, y, left, right) if x.size > y.size else (y, x, right, left)
        if larger.size % smaller.size:
            raise NotAProduct
        split(larger, (smaller.size, larger.size // smaller.size))
        # Splitting splits the whole class, of which more may stand on either side.
        stack += larger.flat()[::-1]
        other += smaller.flat()[::-1]
        left, right = _flattened(left), _flattened(right)
    if left or right:
        raise NotAProduct
    return pairs


def _flattened(stack: list[Axis]) -> list[Axis]:
    return [leaf for axis in stack for leaf in axis.flat()[::-1]]


def regroup(dims: Sequence[Dim], shape: Sequence[int]) -> tuple[Dim, ...]:
    """The axes of a row-major array under another shape, as ``view`` deals them out.

    Raises
    ------
    NotAProduct
        If a new dimension cuts through an axis where no factor ends.
    """
    stack = [leaf for dim in dims for leaf in flat(dim)][::-1]
    result: list[Dim] = []
    for size in shape:
        taken: list[Axis] = []
        missing = size
        while missing > 1:
            leaf = stack.pop()
            if not leaf.parts and leaf.size > missing and leaf.size % missing == 0:
                split(leaf, (missing, leaf.size // missing))
            if leaf.parts:
                stack += leaf.flat()[::-1]
            elif missing % leaf.size:
                raise NotAProduct
            else:
                taken.append(leaf)
                missing //= leaf.size
        result.append(tuple(taken))
    return tuple(tuple(leaf for axis in dim for leaf in axis.flat()) for dim in result)


def variant(axis: Axis, selector: Axis, index: int) -> Axis:
    """What `axis` is beside a `selector` held at `index`: its own variant where the whole class has one.

    The selector's units are told apart from now on. An axis without that selector beside it somewhere cannot
    depend on it, and stays as it is.
    """
    if axis.variants:
        return axis.variants[index] if _same(axis.selector, selector) else axis
    if not axis.family or not any(part is selector for part in axis.family):
        return axis
    own, other = axis.family.index(axis), axis.family.index(selector)
    for member in axis.members:
        beside = member.family
        if len(beside) <= max(own, other) or beside[own] is not member or not _same(beside[other], selector):
            return axis
    members = list(axis.members)
    for member in members:
        member.variants = tuple(Axis(axis.size) for _ in range(selector.size))
        member.selector = member.family[other]
    for i in range(selector.size):
        for member in members[1:]:
            unify(members[0].variants[i], member.variants[i])
    return axis.variants[index]


def _same(a: Axis | None, b: Axis | None) -> bool:
    return a is not None and b is not None and a.members is b.members


def matched(a: Axis, b: Axis) -> Iterator[tuple[Axis, Axis]]:
    """The ends of two axes of one class, or of one that once was, in pairs."""
    left, right = a.flat(), b.flat()
    if len(left) == len(right) > 1:
        for one, other in zip(left, right, strict=True):
            yield from matched(one, other)
        return
    a, b = (axes[0] if len(axes) == 1 else axis for axes, axis in ((left, a), (right, b)))
    if a.variants and b.variants:
        for one, other in zip(a.variants, b.variants, strict=True):
            yield from matched(one, other)
    elif a.variants or b.variants:
        for one in a.variants or (a,):
            for other in b.variants or (b,):
                yield from matched(one, other)
    else:
        yield a, b


def entries_of_units(dim: Dim, end: Axis) -> Tensor:
    """Which entries along a dimension belong to each unit of one of its ends: ``(units, entries of each)``.

    Reordering the units moves row to row and column to the same column. No columns if `end` is not there.
    """
    leaves = flat(dim)
    index = torch.arange(size_of(dim)).reshape([leaf.size for leaf in leaves])
    found = [index.new_empty(end.size, 0)]
    for j, leaf in enumerate(leaves):
        if leaf is end:
            found.append(index.movedim(j, 0).reshape(leaf.size, -1))
        # Each variant lies beside one index of the selector, where that stands beside it.
        beside = [i for i, other in enumerate(leaves) if other is leaf.selector]
        for i, own in enumerate(leaf.variants if beside else ()):
            inner = entries_of_units((own,), end)
            rows = index.movedim((beside[0], j), (0, 1))[i].reshape(leaf.size, -1)
            found.append(rows[inner].flatten(1))
    return torch.cat(found, 1)


@dataclass(frozen=True)
class PerIndex:
    """An action on an axis that differs with the index along the factor before it, one for each."""

    actions: tuple[Action, ...]


def act(x: Tensor, axis: Axis, actions: Mapping[Axis, Sequence[Action | PerIndex]]) -> Tensor:
    """Apply the actions on the ends of `axis` to an array ``(axis.size, ...)``, its first dimension.

    An action takes ``(size, ...)`` to the same shape.
    """
    if not axis.parts:
        for action in actions.get(axis, ()):
            assert not isinstance(action, PerIndex), "which needs another factor beside it"
            x = action(x)
        return x
    y = x.reshape(*(part.size for part in axis.parts), *x.shape[1:])
    for j, part in enumerate(axis.parts):
        if part.variants:
            assert part.selector is not None
            s = next(i for i, p in enumerate(axis.parts) if p is part.selector)
            y = _for_each(y, s, j, [lambda t, v=v: act(t, v, actions) for v in part.variants])
            continue
        for action in actions.get(part, ()):
            if isinstance(action, PerIndex):
                y = _for_each(y, j - 1, j, action.actions)
            else:
                y = action(y.movedim(j, 0)).movedim(0, j)
    return y.reshape(x.shape)


def _for_each(y: Tensor, selector: int, j: int, actions: Sequence[Action]) -> Tensor:
    rows = y.movedim((selector, j), (0, 1))
    return torch.stack([f(row) for f, row in zip(actions, rows, strict=True)]).movedim((0, 1), (selector, j))

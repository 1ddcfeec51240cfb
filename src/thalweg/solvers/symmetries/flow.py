"""Which units flow where in one forward pass: the axes of every tensor, and what each operation asks of them.

The pass is traced by operation, whatever the modules and the Python around them are. A unit may trade places
with another of its axis unless something tells them apart; it may be scaled unless something is no longer
proportional to it. What no rule covers counts as telling apart, so that a rule that lacks costs a symmetry
and never makes one up; whether one that is found holds is for the network to say, not for these rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from thalweg.solvers.symmetries.axes import Axis, Dim, NotAProduct, flat, paired, size_of, unify

Dims = tuple[Dim, ...]

# Why the units of what comes from outside are told apart.
GIVEN = "meet data or a constant"


@dataclass(frozen=True)
class NormSite:
    """One use of a batch norm: its input's channels, its tensors by name, whether it computes statistics."""

    channels: Dim
    weight: str | None
    bias: str | None
    mean: str | None
    var: str | None
    eps: float
    computes: bool


@dataclass(frozen=True)
class Read:
    """Units that enter a product, with weights or with other activations: where their values can be seen.

    Parameters
    ----------
    operation, number
        The product: the operation's name, and how many of that name came before it in the pass.
    position, dims
        Which of its tensors, and the dimensions of that.
    dim
        Which of these the product sums over: the units lie along it.
    by_weights
        Whether it is weights that take them.
    is_hidden
        Whether other weights put them out, near or far, rather than the data alone.
    """

    operation: str
    number: int
    position: int
    dims: Dims
    dim: int
    by_weights: bool
    is_hidden: bool

    @property
    def units(self) -> Dim:
        """The axes that the product sums over."""
        return self.dims[self.dim]


@dataclass
class Flow:
    """What the operations ask of the axes.

    Attributes
    ----------
    roots
        Name of each parameter and statistic to the axis of each dimension; none where that has size one.
    fixed, rigid
        Axes whose units are told apart, and those whose units cannot be scaled, with the reason. Fixed ones
        cannot be scaled either.
    bent
        Axes on which something other than a linear map acts, unit by unit.
    gauges
        ``(a, b, sign)``: what scales the units of `a` scales those of `b` alike (1) or inversely (-1).
    norms
        Every use of a batch norm.
    contracted, carried
        Axes summed over in a product of two activations, and those such a product passes on: queries with
        keys, and values.
    reads
        Activations that enter a product, in the order of execution.
    origins
        ``(new, old)``: axes that came out of an operation which made them of those others, as of layers that
        are joined. Both are told apart; whose units the new ones are, only the old ones say.
    """

    roots: dict[str, tuple[Axis | None, ...]]
    fixed: list[tuple[Axis, str]] = field(default_factory=list)
    rigid: list[tuple[Axis, str]] = field(default_factory=list)
    bent: list[Axis] = field(default_factory=list)
    gauges: list[tuple[Axis, Axis, int]] = field(default_factory=list)
    norms: list[NormSite] = field(default_factory=list)
    contracted: list[Axis] = field(default_factory=list)
    carried: list[Axis] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    origins: list[tuple[Dim, Dim]] = field(default_factory=list)

    def fix(self, dims: Iterable[Dim], reason: str) -> None:
        """Units of these dimensions are told apart."""
        self.fixed += [(axis, reason) for dim in dims for axis in dim]

    def stiffen(self, dims: Iterable[Dim], reason: str) -> None:
        """Units of these dimensions cannot be scaled."""
        self.rigid += [(axis, reason) for dim in dims for axis in dim]

    def link(self, a: Dim, b: Dim, sign: int | None = None) -> None:
        """Two dimensions count the same units; with a sign, they scale together."""
        for x, y in paired(a, b):
            unify(x, y)
            if sign is not None:
                self.gauges.append((x, y, sign))


@dataclass(frozen=True)
class Traced:
    """A tensor of the pass: its axes, its name if it is a parameter or statistic, what went into it.

    `is_hidden` says whether weights have taken the data that went in: so for what they put out and for all
    that follows from it.
    """

    tensor: Tensor
    dims: Dims
    name: str | None = None
    from_data: bool = True
    is_hidden: bool = False


class Pass:
    """One forward pass under way: what is known of each of its tensors.

    Parameters
    ----------
    tensors
        Parameters and statistics by name: the very objects that the pass will use.
    frozen
        Which of them must stay as they are, and why.
    """

    def __init__(self, tensors: Mapping[str, Tensor], frozen: Mapping[str, str]) -> None:
        self.flow = Flow({k: tuple(Axis(n) if n != 1 else None for n in t.shape) for k, t in tensors.items()})
        # The tensors are kept with their axes, so that no other tensor gets the id of one that was freed.
        self._traced: dict[int, Traced] = {}
        for name, tensor in tensors.items():
            dims = tuple((axis,) if axis else () for axis in self.flow.roots[name])
            self._traced[id(tensor)] = Traced(tensor, dims, name, from_data=False)
            if name in frozen:
                self.flow.fix(dims, frozen[name])

    def of(self, tensor: Tensor, operation: str) -> Traced:
        """What is known of a tensor; the units of data and constants are told apart wherever they go."""
        known = self._traced.get(id(tensor))
        if known is None:
            dims = self.fresh(tensor.shape, f"{GIVEN} in {operation}")
            known = self._traced[id(tensor)] = Traced(tensor, dims)
        return known

    def fresh(self, shape: Sequence[int], reason: str, of: Iterable[Dim] = ()) -> Dims:
        """New axes whose units are told apart; made of those of other dimensions, if any."""
        dims: Dims = tuple((Axis(n),) if n != 1 else () for n in shape)
        self.flow.fix(dims, reason)
        old = tuple(axis for dim in of for axis in dim)
        self.flow.origins += [(dim, old) for dim in dims if old]
        return dims

    def know(self, tensor: Tensor, dims: Dims, name: str | None, from_data: bool, is_hidden: bool) -> None:
        """Note the axes of an output.

        Raises
        ------
        NotAProduct
            If the sizes are others: the rule that says so does not fit this use of its operation.
        """
        if [size_of(dim) for dim in dims] != list(tensor.shape):
            raise NotAProduct
        self._traced[id(tensor)] = Traced(tensor, dims, name, from_data, is_hidden)


class Call:
    """One operation with its arguments by name, for a rule to say what becomes of the axes.

    Parameters
    ----------
    state
        Of the pass.
    name
        Of the operation, in place or not: ``"relu"``.
    arguments
        By the names of the operation's schema.
    inputs
        What was known of the tensors among them before it ran.
    outputs
        All tensors that came out.
    is_pointwise
        Whether torch says that each entry depends on the same entry of the inputs alone.
    number
        How many operations of this name came before it in the pass.
    """

    def __init__(
        self,
        state: Pass,
        name: str,
        arguments: dict[str, Any],
        inputs: list[Traced],
        outputs: list[Tensor],
        is_pointwise: bool = False,
        number: int = 0,
    ) -> None:
        self.state, self.flow, self.name, self.arguments = state, state.flow, name, arguments
        self.inputs, self.outputs, self.is_pointwise = inputs, outputs, is_pointwise
        self.number, self._is_hidden = number, any(known.is_hidden for known in inputs)

    def __getitem__(self, argument: str) -> Any:
        return self.arguments.get(argument)

    def traced(self, argument: str) -> Traced:
        """What is known of a tensor argument."""
        return self.state.of(self.arguments[argument], self.name)

    def dims(self, argument: str) -> Dims:
        """Dimensions of a tensor argument."""
        return tuple(flat(dim) for dim in self.traced(argument).dims)

    def has(self, argument: str) -> bool:
        """Whether a tensor was given for it."""
        return isinstance(self.arguments.get(argument), Tensor)

    def put(self, dims: Dims, index: int = 0, name: str | None = None) -> None:
        """Say what the axes of an output are."""
        from_data = any(known.from_data for known in self.inputs)
        self.state.know(self.outputs[index], dims, name, from_data, self._is_hidden)

    def read(self, known: Traced, dim: int, by_weights: bool) -> None:
        """Note that a product takes the units along dimension `dim` of one of its tensors."""
        if not known.from_data:
            return
        position = next(i for i, other in enumerate(self.inputs) if other is known)
        read = Read(self.name, self.number, position, known.dims, dim, by_weights, known.is_hidden)
        self.flow.reads.append(read)
        self._is_hidden |= by_weights

    def come_from_weights(self) -> None:
        """The units that come out are those of a weight, though no product puts them out."""
        self._is_hidden = True

    def put_fresh(self, start: int = 0) -> None:
        """Outputs from `start` on have axes of their own, whose units are told apart."""
        of = [dim for known in self.inputs for dim in known.dims]
        for i, tensor in enumerate(self.outputs[start:], start):
            self.put(self.state.fresh(tensor.shape, f"come out of {self.name}", of), i)

    def give_up(self) -> None:
        """Nothing is known of this operation: it tells all units apart."""
        for known in self.inputs:
            self.flow.fix(known.dims, f"go through {self.name}")
        self.put_fresh()

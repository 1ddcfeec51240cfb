"""The flat parameter space: the only place that knows names, shapes, layers and filters."""

from __future__ import annotations

import fnmatch
from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

NORM_LAYERS = (
    nn.modules.batchnorm._NormBase,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.RMSNorm,
)


@dataclass(frozen=True)
class Slot:
    """One tensor's place in the flat vector: entries ``start`` to ``stop``."""

    name: str
    shape: torch.Size
    start: int
    stop: int
    is_norm: bool = False  # scale or shift of a normalisation layer

    @property
    def layer(self) -> str:
        """Name of the module that owns the tensor; empty for the root module."""
        return self.name.rpartition(".")[0]

    @property
    def num_filters(self) -> int:
        """Number of output filters: the rows of a weight with two or more dimensions, else one."""
        return self.shape[0] if len(self.shape) > 1 else 1


class ParamSpace:
    """A fixed order of named tensors laid end to end in one vector of length P.

    Tied parameters appear once, under the first name torch gives them; patterns match their other names too.

    Parameters
    ----------
    shapes
        Name to shape, in order.
    aliases
        Further name of a tied parameter to its first one.
    norms
        Names of scales and shifts of normalisation layers.
    """

    def __init__(
        self,
        shapes: Mapping[str, torch.Size],
        aliases: Mapping[str, str] | None = None,
        norms: Container[str] = (),
    ) -> None:
        slots, start = [], 0
        for name, shape in shapes.items():
            stop = start + shape.numel()
            slots.append(Slot(name, torch.Size(shape), start, stop, name in norms))
            start = stop
        self.slots: tuple[Slot, ...] = tuple(slots)
        self.dim: int = start
        self.aliases: dict[str, str] = {k: v for k, v in (aliases or {}).items() if v in shapes}

    @classmethod
    def of(cls, model: nn.Module) -> ParamSpace:
        """Space of the trainable parameters of `model` (``requires_grad``), tied ones once."""
        first = {p: name for name, p in model.named_parameters() if p.requires_grad}
        every = model.named_parameters(remove_duplicate=False)
        aliases = {name: first[p] for name, p in every if p in first and first[p] != name}
        normalising = [m for m in model.modules() if isinstance(m, NORM_LAYERS)]
        norms = {first[p] for m in normalising for p in m.parameters(recurse=False) if p in first}
        return cls({name: p.shape for p, name in first.items()}, aliases, norms)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the tensors, in flat order."""
        return tuple(slot.name for slot in self.slots)

    def __len__(self) -> int:
        return len(self.slots)

    def __iter__(self) -> Iterator[Slot]:
        return iter(self.slots)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ParamSpace) and self.slots == other.slots

    def __hash__(self) -> int:
        return hash(self.slots)

    def __repr__(self) -> str:
        return f"ParamSpace({len(self)} tensors, P = {self.dim:,})"

    def flatten(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Lay named tensors of shape ``(...)`` end to end: ``(P,)``. A copy, never a view."""
        if not self.slots:
            return torch.zeros(0)
        return torch.cat([tensors[slot.name].reshape(-1) for slot in self.slots])

    def unflatten(self, vector: Tensor) -> dict[str, Tensor]:
        """Cut a vector ``(P,)`` into named views of it."""
        if vector.shape != (self.dim,):
            raise ValueError(
                f"`vector` must have shape ({self.dim},), one entry a trainable parameter, "
                f"got {tuple(vector.shape)}."
            )
        return {slot.name: vector[slot.start : slot.stop].view(slot.shape) for slot in self.slots}

    def select(self, pattern: str | Iterable[str], argument: str = "params") -> ParamSpace:
        """Sub-space of the tensors whose names match a shell pattern such as ``"layer4.*"``.

        A pattern also matches a whole module by its name: ``"head"`` is ``"head.*"``. Any name of a tied
        parameter will do. Each pattern must match something, so that a misspelt one is not measured without.
        Errors speak of `argument`.
        """
        patterns = [pattern] if isinstance(pattern, str) or not isinstance(pattern, Iterable) else [*pattern]
        if not all(isinstance(p, str) for p in patterns):
            raise TypeError(f"`{argument}` must be a pattern or a list of patterns, got {pattern!r}.")
        chosen: set[str] = set()
        for p in patterns:
            known = {**{n: n for n in self.names}, **self.aliases}
            matched = {
                first for n, first in known.items() if fnmatch.fnmatchcase(n, p) or n.startswith(p + ".")
            }
            if not matched:
                raise ValueError(
                    f"`{argument}` must match trainable parameters, but {p!r} matches none; "
                    f"names are {', '.join(self.names)} (frozen ones are constants)."
                )
            chosen |= matched
        if not chosen:
            raise ValueError(f"`{argument}` must hold at least one pattern, got none.")
        shapes = {slot.name: slot.shape for slot in self.slots if slot.name in chosen}
        return ParamSpace(shapes, self.aliases, {slot.name for slot in self.slots if slot.is_norm})

    def filters(self, vector: Tensor) -> Iterator[tuple[Slot, Tensor]]:
        """Yield each slot with a view of its entries as ``(num_filters, entries per filter)``.

        A filter is one output row of a convolution or dense weight (Li et al. 2018); a bias or a
        normalisation parameter, which has one dimension, counts as a single filter. Rows are entries of the
        first dimension: in a transposed convolution, as in the code of Li et al., the input's channels.
        """
        for slot in self.slots:
            yield slot, vector[slot.start : slot.stop].view(slot.num_filters, -1)

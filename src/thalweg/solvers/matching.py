r"""Matching the units of two networks: orders of layers of units that make a sum of similarities largest.

.. math:: S(\pi_1, \ldots, \pi_G) = \sum_t s_t(\pi_1, \ldots, \pi_G)

Each term is linear in each order alone, or quadratic where a layer's units stand on both sides of one array.
All orders but one held, the best is a linear assignment problem, solved exactly; so it goes round until no
order improves. Finding the best of all is NP-hard: this ends where no single layer can do better, and the
spread over starts shows how much that depends on where one sets out. No network is known here, only arrays.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import scipy
import torch
from torch import Tensor

from thalweg.core.array_store import Store, key_of, recalled
from thalweg.core.measurement import hash_tensors
from thalweg.core.progress import Progress
from thalweg.core.rng import generator

# Improvements below this part of the largest possible sum are rounding.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Units:
    """Where a layer's units lie along one dimension of an array: row i of `entries` (n, m) is unit i's."""

    layer: int
    dim: int
    entries: Tensor

    def rows(self, x: Tensor) -> Tensor:
        """The array unit by unit, ``(n, ...)``."""
        return x.movedim(self.dim, 0)[self.entries].flatten(1)

    def reordered(self, x: Tensor, order: Tensor) -> Tensor:
        """The array with unit ``order[i]`` where unit i was."""
        index = torch.arange(x.shape[self.dim])
        index[self.entries] = self.entries[order]
        return x.index_select(self.dim, index)


class Term(ABC):
    """One similarity of two networks, as it depends on the orders of the second one's units.

    Parameters
    ----------
    start
        What of the second network enters, its units as they are.
    units
        Which layers' units lie along which of its dimensions.
    """

    def __init__(self, start: Tensor, units: Sequence[Units]) -> None:
        self.start, self.units = start, tuple(units)

    @property
    def arrays(self) -> list[Tensor]:
        """All that decides it."""
        where = [torch.cat([torch.tensor([own.layer, own.dim]), own.entries.flatten()]) for own in self.units]
        return [self.start, *where]

    @abstractmethod
    def similarity(self, present: Tensor) -> float:
        """s_t, the second network's units being in their present orders."""

    @property
    @abstractmethod
    def largest(self) -> float:
        """What no order can exceed, for the size of rounding."""

    @abstractmethod
    def gains(self, present: Tensor, layer: int) -> Tensor:
        """``(n, n)``: what unit j of the second network adds beside unit i of the first, to first order."""

    def reordered(self, present: Tensor, layer: int, order: Tensor) -> Tensor:
        """The second network's array once the layer's units are in another order."""
        for units in self.units:
            if units.layer == layer:
                present = units.reordered(present, order)
        return present


class InnerProduct(Term):
    r""":math:`\langle A, B\rangle` of two arrays of one shape: as it grows, their distance shrinks."""

    def __init__(self, a: Tensor, b: Tensor, units: Sequence[Units]) -> None:
        super().__init__(b, units)
        self._a = a
        self._rows = [own.rows(a) for own in units]
        self._largest = float(a.norm() * b.norm())

    @property
    def arrays(self) -> list[Tensor]:
        return [self._a, *super().arrays]

    def similarity(self, present: Tensor) -> float:
        return float(torch.dot(self._a.reshape(-1), present.reshape(-1)))

    @property
    def largest(self) -> float:
        return self._largest

    def gains(self, present: Tensor, layer: int) -> Tensor:
        pairs = zip(self.units, self._rows, strict=True)
        return torch.stack([rows @ own.rows(present).T for own, rows in pairs if own.layer == layer]).sum(0)


class PairScores(Term):
    """The sum of scores ``(Q, Q)`` of each entry of the first network with what comes in its place.

    Rows are the first network's, columns the second's, of which the units are numbered along dimension 1.
    """

    @property
    def largest(self) -> float:
        return float(self.start.abs().amax(1).sum())

    def similarity(self, present: Tensor) -> float:
        return float(present.trace())

    def gains(self, present: Tensor, layer: int) -> Tensor:
        tables = [
            present[own.entries[:, None], own.entries[None]].sum(2)
            for own in self.units
            if own.layer == layer
        ]
        return torch.stack(tables).sum(0)


@dataclass(frozen=True)
class Ascent:
    """One run.

    Parameters
    ----------
    orders
        Of each layer ``(n,)``.
    similarities
        S at the start and after each improvement.
    num_sweeps
        Times it went through all layers, the last one without improvement.
    """

    orders: tuple[Tensor, ...]
    similarities: tuple[float, ...]
    num_sweeps: int

    def to_arrays(self) -> dict[str, Tensor]:
        """For a store."""
        orders = {str(layer): order for layer, order in enumerate(self.orders)}
        similarities = torch.tensor(self.similarities, dtype=torch.float64)
        return {**orders, "similarities": similarities, "num_sweeps": torch.tensor(self.num_sweeps)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Tensor]) -> Ascent:
        """Inverse of `to_arrays`."""
        orders = tuple(arrays[str(layer)] for layer in range(len(arrays) - 2))
        return cls(orders, tuple(arrays["similarities"].tolist()), int(arrays["num_sweeps"]))


@dataclass(frozen=True)
class Matching:
    """All runs, the first of which started from the units as they were; `best` is the number of the best."""

    runs: tuple[Ascent, ...]
    best: int

    @property
    def orders(self) -> tuple[Tensor, ...]:
        """The best found, of each layer ``(n,)``: the second network's unit ``order[i]`` goes with unit i."""
        return self.runs[self.best].orders


def match(
    terms: Sequence[Term],
    sizes: Sequence[int],
    *,
    num_restarts: int,
    seed: int,
    store: Store | None = None,
    progress: Progress | None = None,
) -> Matching:
    """Maximise S by coordinate ascent over the layers, in a random order each time round.

    Parameters
    ----------
    terms
        At least one.
    sizes
        Units of each layer.
    num_restarts
        R runs: the first from the units as they are, the others from random orders. The best is kept, the
        first of equal ones.
    seed
        Of starts and of the order of the layers; each run has its own stream.
    store
        Of the runs that are done.
    progress
        Called as ``progress(runs done, runs)``.

    References
    ----------
    Ainsworth, Hayase and Srinivasa (2023), Git Re-Basin: Merging Models modulo Permutation Symmetries, ICLR.
    """
    runs: list[Ascent] = []
    what = [] if store is None else [hash_tensors(*term.arrays) for term in terms]

    def run(restart: int) -> dict[str, Tensor]:
        rng = generator(seed, "matching", restart)
        start = [torch.randperm(n, generator=rng) if restart else torch.arange(n) for n in sizes]
        return ascend(terms, start, rng).to_arrays()

    for restart in range(num_restarts):
        key = key_of(matching=what, sizes=list(sizes), seed=seed, restart=restart)
        runs.append(Ascent.from_arrays(recalled(store, key, lambda restart=restart: run(restart))))
        if progress:
            progress(restart + 1, num_restarts)
    return Matching(tuple(runs), max(range(num_restarts), key=lambda i: runs[i].similarities[-1]))


def ascend(terms: Sequence[Term], start: Sequence[Tensor], rng: torch.Generator) -> Ascent:
    """Coordinate ascent from given orders to where no layer alone can do better, nor any slope shows how.

    S rises with every step taken, so that it ends. A layer on both sides of one array is tried at the best
    assignment of the slope, and left as it is if S would not rise.
    """
    orders = list(start)
    layers = [{own.layer for own in term.units} for term in terms]
    touched = [[t for t, own in enumerate(layers) if layer in own] for layer in range(len(start))]
    present = []
    for term, own in zip(terms, layers, strict=True):
        x = term.start
        for layer in own:
            x = term.reordered(x, layer, start[layer])
        present.append(x)
    values = [term.similarity(x) for term, x in zip(terms, present, strict=True)]
    history, least = [sum(values)], ROUNDING * sum(term.largest for term in terms)
    improved, num_sweeps = True, 0
    while improved:
        improved, num_sweeps = False, num_sweeps + 1
        for layer in torch.randperm(len(start), generator=rng).tolist():
            here = touched[layer]
            gains = torch.stack([terms[t].gains(present[t], layer) for t in here]).sum(0)
            order = torch.from_numpy(scipy.optimize.linear_sum_assignment(gains.numpy(), maximize=True)[1])
            if float(gains.gather(1, order[:, None]).sum() - gains.trace()) <= least:
                continue
            moved = {t: terms[t].reordered(present[t], layer, order) for t in here}
            new = {t: terms[t].similarity(x) for t, x in moved.items()}
            if sum(new.values()) - sum(values[t] for t in here) <= least:
                continue
            for t in here:
                present[t], values[t] = moved[t], new[t]
            orders[layer] = orders[layer][order]
            history.append(sum(values))
            improved = True
    return Ascent(tuple(orders), tuple(history), num_sweeps)

"""The wells of a loss of one or two parameters, on a grid: regions, cores, minima and the saddles between."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from thalweg.measures.dynamics.chain_gradients import ChainGradients
from thalweg.objective.objective import Objective
from thalweg.operators.hessian import Hessian

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

# Points along each axis, by the number of parameters.
NUM_POINTS = {1: 2001, 2: 201}

# The box ends where the loss is up by so many temperatures, and is widened so often at the most.
REACH, MOST_WIDENINGS = 25.0, 12

# Within so many temperatures of its minimum a well has its core.
CORE = 0.5

# By how much the integrals of exp(-L / T) over a well may differ, between the grids that every second point
# along each axis makes: then those over all points, of half the spacing, are far better.
RESOLVED = 0.05

# How many temperatures a saddle may be off the lowest point of the grid between two wells.
SAME_PASS = 0.1

# Points that are evaluated together, Newton's steps, and when they have come to rest, in parts of the box.
CHUNK, NEWTON_STEPS, AT_REST = 8192, 60, 1e-7


@dataclass(frozen=True)
class Critical:
    """A point without slope: ``(P,)``, the loss there, and the Hessian ``(P, P)``."""

    point: Array
    height: float
    hessian: Array

    @property
    def num_negative(self) -> int:
        """Eigenvalues below nought."""
        return int((np.linalg.eigvalsh(self.hessian) < 0).sum())

    @property
    def determinant(self) -> float:
        """Of the Hessian."""
        return float(np.linalg.det(self.hessian))


@dataclass(frozen=True)
class Wells:
    """M wells on a grid of D axes, D = P.

    Parameters
    ----------
    low, spacing
        ``(P,)``: the grid's first point, and the distance of neighbours.
    losses
        ``(n, ...)`` float64, on the grid.
    regions, cores
        ``(n, ...)`` int64: whose well a point lies in, by steepest descent over the grid; and the same within
        half a temperature of the minimum, -1 elsewhere.
    minima
        M of them.
    saddles
        By pairs i < j of wells that touch: the lowest pass, ``None`` where no saddle of one direction was
        found at its height.
    """

    low: Array
    spacing: Array
    losses: Array
    regions: Labels
    cores: Labels
    minima: tuple[Critical, ...]
    saddles: dict[tuple[int, int], Critical | None]

    def place(self, theta: Tensor) -> Tensor:
        """Flat index ``(C,)`` of the grid point next to each of ``(C, P)``; beyond the edge, of the edge."""
        x = theta.detach().cpu().double()
        shape = torch.tensor(self.losses.shape)
        index = ((x - torch.from_numpy(self.low)) / torch.from_numpy(self.spacing)).round()
        index = index.clamp(min=0).minimum(shape - 1).long()
        return index[:, 0] if len(shape) == 1 else index[:, 0] * shape[1] + index[:, 1]

    def points(self) -> Array:
        """``(G, P)``: all points of the grid, the last axis fastest."""
        return _points(self.low, self.spacing, self.losses.shape)


def find_wells(objective: Objective, starts: Tensor, temperature: float, num_points: int | None) -> Wells:
    """Minima by Newton's method from `starts` ``(M, P)``, and the grid that holds what a temperature reaches.

    Raises
    ------
    ValueError
        If a start leads to no minimum, two to the same, a minimum is not among them, or the grid is too
        coarse for a well.
    """
    P = objective.space.dim
    gradients = ChainGradients(objective)
    extent = float((starts.max(0).values - starts.min(0).values).max())
    minima = []
    for i, start in enumerate(starts):
        found = _critical(objective, start.cpu().double().numpy(), extent)
        if found is None or found.num_negative:
            raise ValueError(
                f"`minima` must be near minima, but number {i}, {start.tolist()}, leads to none; descend "
                "first."
            )
        twin = [j for j, m in enumerate(minima) if np.abs(m.point - found.point).max() < 1e-3 * extent]
        if twin:
            raise ValueError(
                f"`minima` must lead to different minima, but numbers {twin[0]} and {i} are one."
            )
        minima.append(found)
    count = NUM_POINTS[P] if num_points is None else num_points
    low, spacing, losses = _grid(gradients, minima, temperature, count)
    regions = _regions(objective, low, spacing, losses, minima, extent)
    heights = np.array([m.height for m in minima])
    cores = np.where(losses - heights[regions] <= CORE * temperature, regions, -1)
    if min((cores == i).sum() for i in range(len(minima))) < 3:
        raise ValueError(
            f"`num_points` must tell the wells' cores apart, got {count}: take more, or a higher temperature."
        )
    _check_resolved(losses, regions, temperature, count)
    saddles = {
        pair: _saddle(objective, point, height, extent, temperature)
        for pair, (height, point) in _passes(low, spacing, losses, regions).items()
    }
    return Wells(low, spacing, losses, regions, cores, tuple(minima), saddles)


def neighbours(
    shape: tuple[int, ...], diagonals: bool
) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Slices of the points that have a neighbour in one direction, and of these; each pair once."""
    steps = [s for s in itertools.product((-1, 0, 1), repeat=len(shape)) if s > (0,) * len(shape)]
    for step in steps:
        if not diagonals and np.abs(step).sum() > 1:
            continue
        here = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(step, shape, strict=True))
        there = tuple(slice(max(0, s), n - max(0, -s)) for s, n in zip(step, shape, strict=True))
        yield here, there


def _critical(objective: Objective, start: Array, extent: float) -> Critical | None:
    """The point without slope that Newton's steps lead to, none of them longer than a tenth of the extent."""
    x, eye = start.copy(), torch.eye(len(start), dtype=objective.dtype, device=objective.device)
    for _ in range(NEWTON_STEPS):
        at = objective.at(torch.from_numpy(x))
        H = (Hessian(at) @ eye).cpu().double().numpy()
        H = (H + H.T) / 2
        slope = at.gradient().cpu().double().numpy()
        try:
            move = -np.linalg.solve(H, slope)
        except np.linalg.LinAlgError:
            return None
        length = float(np.abs(move).max())
        # Rounding of a float32 slope moves a point for ever; a step that short is rest.
        if length < max(AT_REST, 10 * torch.finfo(objective.dtype).eps) * extent:
            return Critical(x, at.value(), H)
        x = x + move * min(1.0, 0.1 * extent / length)
    return None


def _points(low: Array, spacing: Array, shape: tuple[int, ...]) -> Array:
    axes = [lo + d * np.arange(n) for lo, d, n in zip(low, spacing, shape, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(shape))


def _grid(
    gradients: ChainGradients, minima: list[Critical], temperature: float, count: int
) -> tuple[Array, Array, Array]:
    """Widened, each side by itself, until the loss is up by `REACH` temperatures all around."""
    places = np.stack([m.point for m in minima])
    lowest = min(m.height for m in minima)
    extent = float((places.max(0) - places.min(0)).max())
    low, high = places.min(0) - extent / 2, places.max(0) + extent / 2
    for _ in range(MOST_WIDENINGS):
        spacing = (high - low) / (count - 1)
        losses = _losses(gradients, _points(low, spacing, (count,) * len(low))).reshape((count,) * len(low))
        rise = (np.where(np.isfinite(losses), losses, np.inf) - lowest) / temperature
        short = False
        for axis in range(len(low)):
            ends = np.moveaxis(rise, axis, 0)
            for end, bound, sign in ((ends[0], low, -1), (ends[-1], high, 1)):
                if end.min() < REACH:
                    bound[axis] += sign * 0.3 * (high[axis] - low[axis])
                    short = True
        if not short:
            return low, spacing, np.where(np.isfinite(losses), losses, np.nanmax(losses[np.isfinite(losses)]))
    raise ValueError(
        f"`objective` must hold its wells in on all sides, but the loss at {low.tolist()} to {high.tolist()} "
        f"is up by less than {REACH:g} temperatures somewhere; there is no stationary law. Add weight decay."
    )


def _losses(gradients: ChainGradients, points: Array) -> Array:
    like = gradients.objective.params
    parts = torch.from_numpy(points).to(like.dtype).to(like.device).split(CHUNK)
    return torch.cat([gradients.losses(part) for part in parts]).numpy()


def _regions(
    objective: Objective, low: Array, spacing: Array, losses: Array, minima: list[Critical], extent: float
) -> Labels:
    """Steepest descent from point to point, and whose minimum it ends at."""
    size = losses.size
    index = np.arange(size).reshape(losses.shape)
    best, target = np.zeros(losses.shape), index.copy()
    for here, there in neighbours(losses.shape, diagonals=True):
        distance = np.linalg.norm(
            [d * (a.start != b.start) for d, a, b in zip(spacing, here, there, strict=True)]
        )
        for start, end in ((here, there), (there, here)):
            slope = (losses[start] - losses[end]) / distance
            steeper = slope > best[start]
            best[start] = np.where(steeper, slope, best[start])
            target[start] = np.where(steeper, index[end], target[start])
    down = target.ravel()
    while not np.array_equal(down, down[down]):
        down = down[down]
    places = np.stack([m.point for m in minima])
    points = _points(low, spacing, losses.shape)
    owner = np.full(size, -1)
    for sink in np.unique(down):
        point = points[sink]
        away = np.linalg.norm((places - point) / extent, axis=1)
        if away.min() > 2 * np.linalg.norm(spacing / extent):
            # A narrow valley aslant the grid has lowest points that are no minima.
            found = _critical(objective, point, extent)
            if found is None or np.linalg.norm((places - found.point) / extent, axis=1).min() > 1e-3:
                raise ValueError(
                    f"`minima` must hold every minimum that the temperature reaches, but there is one near "
                    f"{point.tolist()} with loss {losses.ravel()[sink]:.4g}; add it, or raise num_points."
                )
            away = np.linalg.norm(places - found.point, axis=1)
        owner[sink] = int(away.argmin())
    return owner[down].reshape(losses.shape)


def _check_resolved(losses: Array, regions: Labels, temperature: float, count: int) -> None:
    """A narrow well aslant the grid can have points enough and no integral."""
    weights = np.exp(-(losses - losses.min()) / temperature)
    halves = itertools.product((slice(0, None, 2), slice(1, None, 2)), repeat=losses.ndim)
    masses = np.stack(
        [np.bincount(regions[h].ravel(), weights[h].ravel(), regions.max() + 1) for h in halves]
    )
    worst = float((np.ptp(masses, axis=0) / masses.mean(0)).max())
    if worst > RESOLVED:
        raise ValueError(
            f"`num_points` must resolve every well at this temperature, got {count}: integrals over every "
            f"second point differ by {100 * worst:.2g} %. Take more, or a higher temperature."
        )


def _passes(
    low: Array, spacing: Array, losses: Array, regions: Labels
) -> dict[tuple[int, int], tuple[float, Array]]:
    """The lowest point between each two regions that touch, its height first."""
    points = _points(low, spacing, losses.shape).reshape(*losses.shape, -1)
    lowest: dict[tuple[int, int], tuple[float, Array]] = {}
    for here, there in neighbours(losses.shape, diagonals=True):
        a, b = regions[here], regions[there]
        height = np.maximum(losses[here], losses[there])
        for pair in {(min(p), max(p)) for p in zip(a[a != b].tolist(), b[a != b].tolist(), strict=True)}:
            between = ((a == pair[0]) & (b == pair[1])) | ((a == pair[1]) & (b == pair[0]))
            least = np.where(between, height, np.inf)
            at = np.unravel_index(least.argmin(), least.shape)
            if least[at] < lowest.get(pair, (np.inf, None))[0]:
                lowest[pair] = (float(least[at]), points[here][at])
    return lowest


def _saddle(
    objective: Objective, point: Array, height: float, extent: float, temperature: float
) -> Critical | None:
    """The one of this pass, and no other that Newton's steps may have strayed to."""
    found = _critical(objective, point, extent)
    if found is None or found.num_negative != 1:
        return None
    return found if abs(found.height - height) < SAME_PASS * temperature else None

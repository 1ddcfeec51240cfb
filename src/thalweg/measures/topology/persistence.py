"""Persistent homology of a slice of the loss: minima, loops and voids, and which of them can be trusted."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from thalweg.core.arguments import check_count, check_fraction, is_number
from thalweg.core.measurement import Measurement, hash_tensors
from thalweg.core.progress import Progress
from thalweg.core.rounding import at_most
from thalweg.measures.topology.cubical import cubical_pairs
from thalweg.measures.topology.grid_error import grid_error
from thalweg.measures.topology.merge_tree import MergeTree, as_points, grid_components
from thalweg.measures.topology.noise_band import sup_norm_band
from thalweg.solvers.surface import Surface


@dataclass(frozen=True, kw_only=True, repr=False)
class Persistence(Measurement):
    """Features of the sublevel sets of a slice; `value` is the number of components that are significant.

    A feature lives from the level at which it is born to that at which it dies: a component (dimension 0)
    from a minimum to the saddle where it joins one with a lower minimum, a loop (1) until it is filled, a
    void (2) likewise. K features on a slice of D dimensions, by dimension, the longest-lived first; tensors
    are on the CPU. The first row is the component of the lowest minimum, which never dies.

    Every death is an *upper bound* for the full space: what joins or is filled on the slice at some level
    does so in the space, at that level or below. That something is apart on the slice proves nothing about
    the space. As heights of the true loss between the grid's points, bounds hold up to `margin`.

    Of all features with a lifetime above twice `margin`, none is owed to noise, at confidence `level`, nor to
    the grid, as far as its error can be estimated: the value is a lower bound for the number of components
    *of the slice*.

    Parameters
    ----------
    dimensions
        ``(K,)`` int64.
    births, deaths
        ``(K,)`` float64, losses; a death is infinite for what never dies.
    birth_points, death_points
        ``(K, D)`` float64, coordinates of the grid point at which it is born and dies; NaN for what never
        dies.
    parents
        ``(C,)`` int64, of the C components, which come first: the one that each joins, -1 if none. See
        `merge_tree`.
    outlives_noise, outlives_grid, is_significant
        ``(K,)`` bool: lifetime above twice `noise_band`, twice `grid_error`, twice their sum. With a ceiling,
        lifetimes end there. What never dies outlives all.
    noise_band
        Sup-norm distance within which the whole surface lies of that of all data, at confidence `level`.
        Nought where its losses are exact.
    grid_error
        Estimated sup-norm distance between the loss and what the grid says of it, with the error of points
        that were interpolated. Infinite where an axis has fewer than three points.
    level, ceiling
        As asked.
    at_edge
        ``(C,)`` bool: components whose lowest point lies at the edge of the grid, where the loss may go on
        falling beyond: no minimum of the plane need be there. ``None`` in records of before it was looked at.
    num_walls
        Points without a finite loss. They are above every level: never filled in, and what they keep apart or
        surround never dies.
    """

    measure: ClassVar[str] = "persistence"
    quantity = "significant components of the slice,"
    is_lower_bound = True

    dimensions: Tensor
    births: Tensor
    deaths: Tensor
    birth_points: Tensor
    death_points: Tensor
    parents: Tensor
    outlives_noise: Tensor
    outlives_grid: Tensor
    is_significant: Tensor
    noise_band: float
    grid_error: float
    level: float
    ceiling: float | None
    num_walls: int
    at_edge: Tensor | None = None

    @property
    def margin(self) -> float:
        """Noise band and grid error together: what a saddle height may lack, on the slice, at `level`."""
        return self.noise_band + self.grid_error

    @property
    def lifetimes(self) -> Tensor:
        """``(K,)`` float64: death less birth, infinite for what never dies."""
        return self.deaths - self.births

    @property
    def merge_tree(self) -> MergeTree:
        """The components, and where they join: rows 0 to C - 1 of the features, and their parents."""
        count = len(self.parents)
        return MergeTree(
            minimum_points=self.birth_points[:count],
            minimum_heights=self.births[:count],
            saddle_points=self.death_points[:count],
            saddle_upper_bounds=self.deaths[:count],
            parents=self.parents,
        )

    def num_significant(self, dimension: int) -> int:
        """Features of one dimension that neither noise nor grid can have made."""
        return int(self.is_significant[self.dimensions == dimension].sum())

    @property
    def num_significant_at_edge(self) -> int:
        """Significant components that are lowest at the edge of the grid."""
        return (
            0
            if self.at_edge is None
            else int((self.at_edge & self.is_significant[: len(self.at_edge)]).sum())
        )

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """From the value upwards, up to the noise band's own level; beyond it one component is certain."""
        low, _ = super().interval(level)
        return (low if level <= self.level or self.noise_band == 0 else 1.0), math.inf

    def __repr__(self) -> str:
        components = f"at least {self.value:g} of {len(self.parents)} components of the slice significant"
        if self.num_significant_at_edge:
            components += f" ({self.num_significant_at_edge} at its edge, perhaps no minimum)"
        others = [
            f"{self.num_significant(k)} {name}{'' if self.num_significant(k) == 1 else 's'}"
            for k, name in ((1, "loop"), (2, "void"))
            if self.birth_points.shape[1] > k
        ]
        noise = f"noise ± {at_most(self.noise_band, 2)} ({100 * self.level:g} %)"
        mode = f", batch norm {self.batch_norm}" if self.batch_norm else ""
        return (
            f"Persistence({', '.join([components, *others])}; "
            f"{noise if self.noise_band else 'exact losses'}, grid ± {at_most(self.grid_error, 2)}; "
            f"saddles are upper bounds{mode})"
        )


def persistence(
    surface: Surface,
    *,
    ceiling: float | None = None,
    level: float = 0.95,
    num_draws: int = 2000,
    seed: int | None = None,
    progress: Progress | None = None,
) -> Persistence:
    r"""Find the components, loops and voids of a slice below every level, and which of them are real.

    Sublevel sets are those of the cubical complex whose vertices are the grid's points, connected along the
    axes (see `thalweg.measures.topology.cubical`). Components come from a union-find, which knows what joins
    what, and are checked against Gudhi's; loops and voids are Gudhi's.

    Persistence is stable: two functions no further apart than c have diagrams no further apart than c, so
    that a feature with a lifetime above 2 c belongs to both. The c are two:

    - the *noise band*, where the losses are of a sample: the quantile of the largest error on the whole grid,
      by drawing weights of the folds jointly for all points, widened as Student's distribution is for few
      folds. It is about what the folds are: the objective's own examples, or the population;
    - the *grid error*: what a grid of every second point misses of the points it leaves out, four times too
      much for a smooth loss, and the doubt across the diagonals of cells. An estimate: what is narrower than
      the spacing is seen by no grid.

    Parameters
    ----------
    surface
        A slice of one, two or three dimensions: of `line_slice`, `plane_slice` or `volume_slice`.
    ceiling
        Losses above it are not asked about: lifetimes end there, and noise and grid error above it do no
        harm. The noise of a slice is mostly that of its high walls, so that a ceiling just above the highest
        saddle of interest lets finer features be told from noise. Set it before looking, or for what you
        knew. Births and deaths are reported up to any height all the same.
    level
        Confidence of the noise band.
    num_draws
        B, at least ``level / (1 - level)``.
    seed
        Of the draws. ``None`` takes the one that the surface was made with. Not used where losses are exact.
    progress
        Called as ``progress(draws done, draws in all)``.

    Raises
    ------
    TypeError
        If `surface` is none, or `seed` is no integer where one is needed.
    ValueError
        For a number out of range, a mean over several slices, a surface without a finite point, of other
        dimensions, or saved without its arrays.
    ImportError
        Without Gudhi; the extra `topology` brings it.

    References
    ----------
    Cohen-Steiner, Edelsbrunner and Harer (2007), Stability of Persistence Diagrams, Discrete and
    Computational Geometry 37. Fasy, Lecci, Rinaldo, Wasserman, Balakrishnan and Singh (2014), Confidence Sets
    for Persistence Diagrams, Annals of Statistics 42: lifetimes above twice a bootstrapped band.
    """
    heights, axes = _grid(surface)
    if ceiling is not None and not (is_number(ceiling) and heights.min() < ceiling < math.inf):
        raise ValueError(
            f"`ceiling` must be a number above the lowest loss, {heights.min():.6g}, got {ceiling!r}; "
            "None asks about all heights."
        )
    check_fraction("level", level, "0.95 is customary")
    check_count("num_draws", num_draws)
    top = math.inf if ceiling is None else float(ceiling)
    finite = np.isfinite(heights)
    margins = np.maximum(heights[finite] - top, 0.0)  # error that stays above the ceiling does no harm
    if surface.fold_sizes is None:
        band = 0.0
        if progress:
            progress(1, 1)
    else:
        seed = _seed(surface, seed)
        band = sup_norm_band(
            _fold_losses(surface, finite),
            surface.fold_sizes.numpy(),
            margins=margins,
            level=level,
            num_draws=num_draws,
            seed=seed,
            progress=progress,
        )
    error = grid_error(heights, tuple(axis.numpy() for axis in axes), top)
    if surface.interpolation_errors is not None:
        error += max(0.0, float((surface.interpolation_errors.double().numpy()[finite] - margins).max()))

    components = grid_components(heights)
    pairs = cubical_pairs(heights)
    flat = np.append(heights.ravel(), np.inf)  # position -1: never
    births = np.concatenate([components.minima, *(p.births for p in pairs[1:])])
    deaths = np.concatenate([components.saddles, *(p.deaths for p in pairs[1:])])
    for ours, theirs in ((components.minima, pairs[0].births), (components.saddles, pairs[0].deaths)):
        assert np.array_equal(np.sort(flat[ours]), np.sort(flat[theirs])), "components differ from Gudhi's"
    lifetimes, never = np.minimum(flat[deaths], top) - flat[births], deaths == -1

    def outlives(distance: float) -> Tensor:
        return torch.from_numpy(never | (lifetimes > 2 * distance))

    is_significant = outlives(band + error)
    count = len(components.minima)
    return Persistence(
        value=float(is_significant[:count].sum()),
        provenance=_provenance(surface, ceiling=ceiling, level=level, num_draws=num_draws, seed=seed),
        dimensions=torch.tensor([0] * count + [k for k in range(1, len(pairs)) for _ in pairs[k].births]),
        births=torch.from_numpy(flat[births]),
        deaths=torch.from_numpy(flat[deaths]),
        birth_points=as_points(births, axes),
        death_points=as_points(deaths, axes),
        parents=torch.from_numpy(components.parents),
        outlives_noise=outlives(band),
        outlives_grid=outlives(error),
        is_significant=is_significant,
        noise_band=band,
        grid_error=error,
        level=float(level),
        ceiling=None if ceiling is None else top,
        num_walls=int(np.isinf(heights).sum()),
        at_edge=torch.from_numpy(_at_edge(components.minima, heights.shape)),
    )


def _at_edge(positions: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """``(C,)``: which flat positions lie at an end of an axis."""
    indices = np.unravel_index(positions, shape)
    return np.any([(i == 0) | (i == n - 1) for i, n in zip(indices, shape, strict=True)], axis=0)


def _grid(surface: Surface) -> tuple[np.ndarray, tuple[Tensor, ...]]:
    """Heights in float64 with walls for what is not finite, and the axes."""
    if not isinstance(surface, Surface):
        raise TypeError(
            "`surface` must be a slice of the loss on a grid, of `line_slice`, `plane_slice` or "
            f"`volume_slice`, got {type(surface).__name__}; measure one first."
        )
    if surface.num_averaged > 1:
        raise ValueError(
            f"`surface` must be a single slice, got the mean over {surface.num_averaged} directions, which "
            "is the loss along none of them; measure each by itself, with num_directions=1."
        )
    if surface.heights is None:
        raise ValueError("`surface` must have its losses, got one saved without its arrays; read them along.")
    heights, axes = surface.heights.double().numpy(), tuple(axis.double() for axis in surface.axes)
    shape = tuple(len(axis) for axis in axes)
    if not 1 <= len(axes) <= 3 or heights.shape != shape:
        raise ValueError(
            f"`surface` must have one to three axes and a loss for each point, got axes of {shape} points "
            f"and losses of shape {heights.shape}."
        )
    if not np.isfinite(heights).any():
        raise ValueError(f"`surface` must have a point of finite loss, got none among {heights.size}.")
    return np.where(np.isfinite(heights), heights, np.inf), axes


def _fold_losses(surface: Surface, finite: np.ndarray) -> np.ndarray:
    """Losses of each fold ``(F, M)`` at the finite points."""
    if surface.fold_losses is None:
        raise ValueError(
            "`surface` must have its fold losses, since its losses are of a sample, got one saved without "
            "its arrays; read them along."
        )
    folds = surface.fold_losses.double().numpy()[:, finite]
    if not np.isfinite(folds).all():
        raise ValueError(
            "`surface` must have finite fold losses wherever its loss is finite, got one that is not."
        )
    return folds


def _seed(surface: Surface, seed: int | None) -> int:
    if seed is None:
        seed = surface.provenance.get("arguments", {}).get("seed")
    if seed is None:
        raise TypeError(
            "`seed` must be an integer, got None: the losses are of a sample, the band around them is drawn, "
            "and the surface names no seed of its own."
        )
    return seed


def _provenance(surface: Surface, **arguments: Any) -> Mapping[str, Any]:
    tensors = [*surface.axes, surface.heights]
    if surface.fold_losses is not None and surface.fold_sizes is not None:
        tensors += [surface.fold_losses, surface.fold_sizes]
    made_by = surface.provenance
    return {
        "function": "persistence",
        "arguments": arguments,
        **({"objective": made_by["objective"]} if "objective" in made_by else {}),
        "surface": {
            "measure": surface.measure,
            "arguments": made_by.get("arguments", {}),
            "hash": hash_tensors(*tensors),
        },
    }

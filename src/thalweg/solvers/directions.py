"""Directions in parameter space: drawn, computed or given, scaled so that a step of one means something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from thalweg.core.arguments import check_count, check_flag
from thalweg.core.measurement import hash_tensors
from thalweg.core.progress import Progress
from thalweg.core.rng import stream_seed
from thalweg.objective.check_objective import check_objective
from thalweg.objective.evaluation import Point
from thalweg.objective.objective import Objective
from thalweg.solvers.direction_sources import Kind, gaussian, kinds_of, sources_of
from thalweg.solvers.normalisation import (
    Ignored,
    Normalisation,
    check_choices,
    free_entries,
    rows_of,
    scaled,
)
from thalweg.solvers.orthogonal import mutually_orthogonal


def random_direction(
    objective: Objective,
    index: int,
    *,
    normalisation: Normalisation = "filter",
    ignore: Ignored = "bias_and_norm",
    seed: int,
) -> Tensor:
    r"""Gaussian direction number `index`: the same for a seed however many are drawn, and on every device.

    Parameters
    ----------
    objective
        Gives the point, whose weights the filter normalisation looks at, and the space.
    index
        From 0. Each index has its own random stream.
    normalisation
        ``"filter"``: each output filter is scaled to the norm of the filter it moves,
        :math:`d_f \leftarrow d_f \lVert w_f\rVert / \lVert d_f\rVert` (Li et al. 2018). A step of one is as
        large as the weights, and rescaling a layer of a ReLU network changes no slice.
        ``"layer"``: each tensor is, in place of each filter of it. ``"global"``: one factor for all, so that
        the direction is as long as all the tensors it moves are together.
        ``"raw"``: the Gaussian direction scaled to Euclidean length one and to nothing else. A step is then a
        distance in parameter space, in the unit of the radius of `sam_sharpness`. ``"none"``: unscaled
        N(0, 1) entries, as other tools use them, have length :math:`\sqrt P`, which makes slices of networks
        of different size incomparable.
    ignore
        ``"bias_and_norm"``: tensors of fewer than two dimensions (biases, scale and shift of normalisation
        layers) do not move, Li et al.'s ``biasbn``. ``"none"``: they move; under the filter normalisation
        each such tensor is one filter. (Li et al.'s code then steps along the tensor itself, which is not
        random.)

    Returns
    -------
    Tensor
        ``(P,)``, in the dtype and on the device of the parameters.

    Raises
    ------
    ValueError
        If nothing is left to move: every tensor is ignored, or every filter is zero.

    References
    ----------
    Li, Xu, Taylor, Studer and Goldstein (2018), Visualizing the Loss Landscape of Neural Nets, NeurIPS.
    """
    check_choices(normalisation, ignore)
    params = objective.params.cpu().double()
    drawn = gaussian(objective, index, seed)
    return scaled(drawn, params, objective.space, normalisation, ignore).to(objective.params)


@dataclass(frozen=True)
class Directions:
    """D directions from one point; D is mostly one or two.

    Parameters
    ----------
    vectors
        ``(P, D)`` in the dtype and on the device of the parameters: what a step of one adds to them. Columns
        lie contiguous in memory.
    names
        D names, such as ``"random 0"``, ``"top eigenvector 0"``, ``"bottom eigenvector 0"``,
        ``"gradient"``, ``"to network 1"``, ``"trajectory component 0"``, ``"given 0"``.
    norms
        ``(D,)`` float64, Euclidean lengths of a step of one.
    cosines
        ``(D, D)`` float64, between the columns as they are, rounded to the parameters' dtype.
    offsets
        What a step of one adds to the floating buffers, ``(D, *shape)`` each by name: nought but for
        directions that lead to a network given. ``None`` where none does, or there are no such buffers.
    ends
        For each direction, parameters and buffers of the network it leads to, else ``None``.
    description
        JSON-safe, for the provenance: of each direction its kind, normalisation, what it ignores, whether it
        was orthogonalised and by how much that moved the norms of its rows, and what is known of where it
        comes from (hashes, eigenvalue and residual, share of the trajectory); a hash of `vectors`.
    """

    vectors: Tensor
    names: tuple[str, ...]
    norms: Tensor
    cosines: Tensor
    offsets: Mapping[str, Tensor] | None
    ends: tuple[Point | None, ...]
    description: dict[str, Any]

    def point(self, objective: Objective, steps: Sequence[float]) -> Point:
        """Parameters and buffers ``steps`` (D,) away from `objective`, the centre.

        A step of one towards a network and of none along the others is that network to the bit, which a sum
        of rounded numbers would miss in the last place. Where the network and the centre agree, as a pruned
        weight may, every step leaves the entry as it is. Buffers are ``None``, those of the centre, unless
        some travel along; beyond the networks a variance may turn negative, and the loss is NaN there.
        """
        moving = [j for j, step in enumerate(steps) if step != 0]
        if len(moving) == 1 and steps[moving[0]] == 1 and self.ends[moving[0]] is not None:
            return self.ends[moving[0]]  # type: ignore[return-value]
        params = objective.params
        for j in moving:
            params = params + steps[j] * self.vectors[:, j]
        if self.offsets is None:
            return params, None
        buffers = dict(objective.buffers)
        for name, offset in self.offsets.items():
            for j in moving:
                buffers[name] = buffers[name] + steps[j] * offset[j]
        return params, buffers

    def cast(self, dtype: torch.dtype, *, buffers: bool = True) -> Directions:
        """The same vectors, rounded before or not, in another dtype; buffers stay where they are if False."""
        moving = self.offsets if buffers else None
        return replace(
            self,
            vectors=self.vectors.to(dtype),
            offsets=None if moving is None else {name: t.to(dtype) for name, t in moving.items()},
            ends=self.ends if buffers else (None,) * len(self.ends),
        )


def find_directions(
    objective: Objective,
    kinds: Kind | Sequence[Kind],
    *,
    num_directions: int | None = None,
    normalisation: Normalisation | Sequence[Normalisation] = "filter",
    ignore: Ignored | Sequence[Ignored] = "bias_and_norm",
    orthogonalise: bool = True,
    independent: bool = True,
    seed: int,
    progress: Progress | None = None,
) -> Directions:
    r"""D directions from the objective's point, each by its kind, scaled and made orthogonal.

    ====================  ==================================================  =========================
    kind                  direction                                           a step of one, by default
    ====================  ==================================================  =========================
    ``"random"``          Gaussian, `random_direction` of the same seed;      by `normalisation`
                          the i-th is number i whatever else is asked for
    ``"gradient"``        of the loss, uphill                                 distance one
    ``"top"``             eigenvector of the Hessian's largest eigenvalue;    distance one
                          the i-th ``"top"`` is that of the i-th largest
    ``"bottom"``          the same of the smallest                            distance one
    a trajectory          the i-th place where the same object stands is      distance one
                          its i-th principal component about the objective's
                          point; an iterable of vectors (P,), or (T, P)
    an `Objective`        to that network                                     arrives at it
    a vector ``(P,)``     itself                                              itself
    ====================  ==================================================  =========================

    **Scaling.** One name of a normalisation, and one of what to ignore, is for the random directions alone:
    the others have a length of their own, or are taken as they are. To scale those, too, give a name for each
    direction: ``normalisation=("filter", "none")``. A network's direction that is scaled, or ignores
    something, no longer arrives and is treated as a vector.

    **Orthogonalising.** In the order given, each direction is turned away from all before it, in float64, and
    keeps its length; the first stays as it is. It is turned within each of the rows that its normalisation
    scales (see `thalweg.solvers.orthogonal`), so that a filter-normalised direction still has the norm of
    each filter *and* is orthogonal; only where rows of a single entry leave no such direction, are the norms
    kept nearly, and the description says how nearly. What leads to a network stays as it is, since it would
    miss it otherwise, and all others are turned away from it, those before it, too; directions to several
    networks keep the angles they have. All other pairs of columns are orthogonal: to 1e-12 in float64; in a
    lower precision up to the rounding of the entries of `vectors`, about 1e-8 in float32.

    The sign of an eigenvector or a component is that in which its entry of the largest absolute value is
    positive (of nearly equal ones, the first).

    Parameters
    ----------
    objective
        The centre. In ``"recalibrated"`` mode gradient and Hessian hold its statistics constant.
    kinds
        D kinds of the table, or one, taken `num_directions` times; a block ``(P, D)`` of vectors.
    num_directions
        D, with one kind; default 1.
    normalisation
        See `random_direction`: ``"filter"``, ``"layer"``, ``"global"``, ``"raw"`` (length one), ``"none"``.
    ignore
        See `random_direction`: ``"bias_and_norm"``, ``"none"``.
    orthogonalise
        If False, each stays as it is.
    independent
        With ``orthogonalise=False``: False lets a direction lie in the span of others, as lines may that are
        looked at each by itself.
    seed
        Of the random directions, and of the eigenvectors' solver.
    progress
        Of the eigenvectors, in parts of the whole.

    Raises
    ------
    ValueError, TypeError
        For an unknown kind or name; a vector of another shape, zero or not finite; a network of another
        architecture or function; a gradient of zero; nothing left to move; a direction that lies in the span
        of others.
    ConvergenceError
        If the eigenvectors are not found.
    NonFiniteLossError
        If the gradient, a product of the Hessian, or the loss of a network given is not finite.

    References
    ----------
    Li, Xu, Taylor, Studer and Goldstein (2018), Visualizing the Loss Landscape of Neural Nets, NeurIPS.
    """
    check_objective("objective", objective)
    check_flag("orthogonalise", orthogonalise)
    stream_seed(seed)
    asked = _entries(kinds, num_directions)
    sorts = kinds_of(asked)
    normalisations = _for_each("normalisation", normalisation, sorts)
    ignored = _for_each("ignore", ignore, sorts)
    for pair in zip(normalisations, ignored, strict=True):
        check_choices(*pair)
    if not bool(objective.params.isfinite().all()):
        raise ValueError("`objective` must be at a point of finite parameters, got NaN or infinity in them.")

    sources, check = sources_of(objective, asked, seed, progress)
    params, space = objective.params.cpu().double(), objective.space
    choices = list(zip(sources, normalisations, ignored, strict=True))
    columns = [scaled(source.vector, params, space, name, left) for source, name, left in choices]
    ends = tuple(
        (source.network.params, source.network.buffers) if source.network and name == left == "none" else None
        for source, name, left in choices
    )
    names = tuple(source.name for source in sources)
    rows = [partial(rows_of, space=space, normalisation=name) for name in normalisations]
    free = [free_entries(space, left) for left in ignored]
    # What leads to a network is not turned, so that the others must make room for it.
    kept = [not orthogonalise or end is not None for end in ends]
    turned = columns
    if orthogonalise or independent:
        turned = mutually_orthogonal(columns, rows, free, kept, names, objective.dtype)
    vectors = torch.stack(turned).to(objective.params).T
    exact = vectors.cpu().double()
    norms = torch.linalg.vector_norm(exact, dim=0)
    unit = exact / norms
    return Directions(
        vectors=vectors,
        names=names,
        norms=norms,
        cosines=(unit.T @ unit).clamp(-1, 1),
        offsets=_offsets(objective, ends),
        ends=ends,
        description={
            "directions": [
                {
                    "name": source.name,
                    "kind": source.kind,
                    "normalisation": normalisations[j],
                    "ignore": ignored[j],
                    "orthogonalised": not kept[j],
                    "row_norm_error": _row_norm_error(rows[j](columns[j]), rows[j](turned[j])),
                    **source.facts,
                }
                for j, source in enumerate(sources)
            ],
            "orthogonalise": bool(orthogonalise),
            "seed": int(seed),
            "operator": check,
            "vectors": hash_tensors(vectors),
        },
    )


def _entries(kinds: Any, num_directions: int | None) -> list[Any]:
    """One kind a direction."""
    kinds = torch.from_numpy(kinds) if isinstance(kinds, np.ndarray) else kinds
    if isinstance(kinds, Tensor) and kinds.ndim == 2:
        kinds = list(kinds.T)
    elif isinstance(kinds, str | Tensor | Objective) or not isinstance(kinds, Sequence):
        num = 1 if num_directions is None else num_directions
        check_count("num_directions", num)
        return [kinds] * num
    if not len(kinds):
        raise ValueError("`directions` must hold at least one direction, got none.")
    if num_directions not in (None, len(kinds)):
        raise ValueError(
            f"`num_directions` goes with a single kind; `directions` holds {len(kinds)}, got "
            f"{num_directions!r}."
        )
    return list(kinds)


def _for_each(argument: str, names: Any, sorts: Sequence[str]) -> tuple[Any, ...]:
    """A name for each direction: a single one is for the random ones, the others stay as they are."""
    if isinstance(names, str):
        return tuple(names if sort == "random" else "none" for sort in sorts)
    if not isinstance(names, Sequence) or len(names) != len(sorts):
        raise ValueError(
            f"`{argument}` must be one name, for the random directions, or {len(sorts)}, one a direction, "
            f"got {names!r}."
        )
    return tuple(names)


def _row_norm_error(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    """By what part, at most, the norm of a row is another than its normalisation made it."""
    worst = 0.0
    for old, new in zip(before, after, strict=True):
        wanted, got = old.norm(dim=1), new.norm(dim=1)
        worst = max(worst, float(torch.where(wanted > 0, (got / wanted - 1).abs(), 0).max()))
    return worst


def _offsets(objective: Objective, ends: Sequence[Point | None]) -> dict[str, Tensor] | None:
    if not objective.buffers or not any(ends):
        return None
    return {
        name: torch.stack([end[1][name] - b if end and end[1] else torch.zeros_like(b) for end in ends])
        for name, b in objective.buffers.items()
    }

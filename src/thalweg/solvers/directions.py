"""Directions in parameter space: random ones, drawn and scaled so that a step of one means something."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from thalweg.core.param_space import ParamSpace
from thalweg.core.rng import generator, normal
from thalweg.objective.objective import Objective

Normalisation = Literal["filter", "raw"]
Ignored = Literal["bias_and_norm", "none"]


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
        ``"raw"``: the Gaussian direction scaled to Euclidean length one and to nothing else. A step is then a
        distance in parameter space, in the unit of the radius of `sam_sharpness`. Unscaled N(0, 1) entries,
        as other tools use them, have length :math:`\sqrt P`, which makes slices of networks of different size
        incomparable; multiply steps by :math:`\sqrt P` to get theirs.
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
    direction = normal(generator(seed, "direction", index), params.numel(), like=params)
    if ignore == "bias_and_norm":
        for slot in objective.space:
            if len(slot.shape) < 2:
                direction[slot.start : slot.stop] = 0
    direction = NORMALISATIONS[normalisation](direction, params, objective.space)
    if not bool(direction.any()):
        raise ValueError(
            f"`normalisation={normalisation!r}` with `ignore={ignore!r}` left nothing to move: every tensor "
            "has fewer than two dimensions, or is zero; use ignore='none' or normalisation='raw'."
        )
    return direction.to(objective.params)


def check_choices(normalisation: str, ignore: str) -> None:
    """Raise unless both are known names."""
    if normalisation not in NORMALISATIONS:
        raise ValueError(
            f"`normalisation` must be one of {', '.join(NORMALISATIONS)}, got {normalisation!r}."
        )
    if ignore not in get_args(Ignored):
        raise ValueError(f"`ignore` must be one of {', '.join(get_args(Ignored))}, got {ignore!r}.")


def filter_normalized(direction: Tensor, params: Tensor, space: ParamSpace) -> Tensor:
    """Scale each filter of `direction` (P,) to the norm of the same filter of `params` (P,).

    A filter is an output row of a weight: the first dimension of convolution and dense weights. A filter of
    zeros, in either, comes out zero.
    """
    scaled = direction.clone()
    pairs = zip(space.filters(scaled), space.filters(params), strict=True)
    for (_, filters), (_, weights) in pairs:
        norms = torch.linalg.vector_norm(filters, dim=1, keepdim=True)
        targets = torch.linalg.vector_norm(weights, dim=1, keepdim=True)
        filters *= torch.where(norms > 0, targets / norms, 0)
    return scaled


def unit_length(direction: Tensor, params: Tensor, space: ParamSpace) -> Tensor:
    """Scale `direction` (P,) to Euclidean length one, whatever the parameters; zero stays zero."""
    norm = torch.linalg.vector_norm(direction)
    return direction / norm if norm > 0 else direction


# (direction, params, space) -> direction, all (P,): a further normalisation is one more entry.
NORMALISATIONS: dict[str, Callable[[Tensor, Tensor, ParamSpace], Tensor]] = {
    "filter": filter_normalized,
    "raw": unit_length,
}

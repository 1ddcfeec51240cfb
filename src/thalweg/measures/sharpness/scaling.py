"""The unit in which a step of each parameter is measured: one, its own size, or its filter's norm."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from thalweg.core.arguments import check_one_of
from thalweg.core.param_space import ParamSpace

Scaling = Literal["none", "element", "filter"]


def check_scaling(scaling: str) -> None:
    """Refuse a name that is none."""
    check_one_of("scaling", scaling, get_args(Scaling))


def relative_scale(space: ParamSpace, params: Tensor, scaling: Scaling) -> Tensor:
    r"""The scale ``(P,)`` of each coordinate, float64 on the CPU.

    Parameters
    ----------
    space
        Names and shapes.
    params
        ``(P,)``: the point that sets the scale.
    scaling
        ``"none"``: :math:`t_i = 1`.

        ``"element"``: :math:`t_i = |w_i|`. Steps are relative to each parameter, which makes sharpness blind
        to any rescaling of parameters that leaves the function as it is.

        ``"filter"``: :math:`t_i = \lVert f\rVert_2` of the filter that the weight belongs to, a filter being
        one output row of a tensor of two dimensions or more (`thalweg.core.param_space.ParamSpace.filters`).
        Parameters of fewer dimensions (biases, scale and shift of normalisation layers) are in no filter, and
        count by themselves, :math:`t_i = |w_i|`: Kwon et al.'s convention. The norm of a whole bias would not
        follow where single units are rescaled.

        Kwon et al. add a small constant against division by zero. None is added here, since nothing is
        divided and the invariance would no longer be exact: a parameter that is exactly zero does not move,
        nor does a filter of zeros.

    References
    ----------
    Kwon, Kim, Park and Choi (2021), ASAM: Adaptive Sharpness-Aware Minimization, ICML, section 3.
    """
    weights = params.cpu().double()
    if scaling == "none":
        return torch.ones_like(weights)
    scale = weights.abs()
    if scaling == "filter":
        for slot, rows in space.filters(scale):
            if len(slot.shape) > 1:
                rows[:] = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return scale


def at_rest(scale: Tensor | None, dtype: torch.dtype) -> dict[str, int]:
    """How many coordinates do not move, or lose digits when they do; empty if none. For the provenance.

    Parameters
    ----------
    scale
        ``(P,)`` float64; None is one throughout.
    dtype
        Of the parameters.

    Returns
    -------
    ``"zero"``, scales of exactly nought; ``"underflow"``, sizes below the smallest normal number of `dtype`,
    whose multiples are rounded coarsely or to nought; and ``"of"``, P.
    """
    if scale is None:
        return {}
    zero, small = int((scale == 0).sum()), int((scale.abs() < torch.finfo(dtype).tiny).sum())
    return {"zero": zero, "underflow": small - zero, "of": len(scale)} if small else {}

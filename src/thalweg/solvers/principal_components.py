"""Principal components of a trajectory: the plane through its centre that lies nearest to it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# Entries of the parameters held in float64 at a time, times the number of points: bounds the memory.
ENTRIES = 2**24


def principal_components(points: Sequence[Tensor], centre: Tensor, num: int) -> tuple[Tensor, Tensor]:
    r"""The `num` orthonormal directions that carry most of the squared distances of `points` from `centre`.

    They are the leading right singular vectors of the rows :math:`\theta_t - \theta_c`: no other plane
    through the centre leaves a smaller sum of squared distances to it. Nothing is centred on the mean, for
    the plane goes through the centre of the surface and not through the mean. (Li et al. 2018 write down the
    same matrix; their code passes it to a PCA that subtracts the mean of its rows.)

    Parameters
    ----------
    points
        T vectors ``(P,)``.
    centre
        ``(P,)``, mostly the last point.
    num
        How many, at most the rank of the rows.

    Returns
    -------
    (Tensor, Tensor)
        ``(P, num)`` float64 on the CPU, signs as they come; and each one's share ``(num,)`` of the sum of
        squared distances.

    Raises
    ------
    ValueError
        If the rows have a smaller rank.

    References
    ----------
    Li, Xu, Taylor, Studer and Goldstein (2018), Visualizing the Loss Landscape of Neural Nets, NeurIPS.
    """
    T, P = len(points), len(centre)
    step = max(1, ENTRIES // max(T, 1))

    def rows(start: int) -> Tensor:
        cut = slice(start, start + step)
        return torch.stack([p[cut].cpu().double() for p in points]) - centre[cut].cpu().double()

    # T is far below P, so by the T x T matrix of inner products, a slice of the parameters at a time.
    inner = sum((r @ r.T for r in map(rows, range(0, P, step))), torch.zeros(T, T, dtype=torch.float64))
    squares, left = torch.linalg.eigh(inner)
    squares, left = squares.flip(0).clamp_min(0), left.flip(1)
    rank = int((squares > T * torch.finfo(torch.float64).eps * squares[0]).sum())
    if num > rank:
        raise ValueError(
            f"`directions` asks for {num} principal components, but the trajectory's {T} points span only "
            f"{rank} directions about the centre; pass more checkpoints, or ask for fewer components."
        )
    vectors = torch.cat([rows(start).T @ left[:, :num] for start in range(0, P, step)])
    # A small singular value comes out of squares with half the digits, and its vector not quite orthogonal.
    return torch.linalg.qr(vectors).Q, squares[:num] / squares.sum()

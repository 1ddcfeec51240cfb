r"""XTrace: every probe serves as test vector and, for all the others, as sketch.

Leave probe i out of the sketch Y = A O: :math:`Q_{(i)}` spans the other columns, and

.. math:: t_i = \mathrm{tr}(Q_{(i)}^\top A Q_{(i)})
    + \frac{P - m + 1}{\|u_i\|^2}\, u_i^\top A u_i, \qquad u_i = (I - Q_{(i)} Q_{(i)}^\top) o_i

is unbiased, for o_i is independent of the others; the estimate is their mean. Scaling by the length of u
takes out what the length of a Gaussian vector would add.

**Standard error.** The paper's is :math:`\mathrm{sd}(t_i) / \sqrt m`, as if the :math:`t_i` were independent.
They are not: given all other probes each of a pair has mean zero error, so what they share is their
interaction, and that of o_i and o_j enters :math:`t_i` and :math:`t_j` alike. A mean of m terms made of
such pairs has twice the variance that their spread suggests. Counted over spectra from flat to geometric,
the true standard deviation was 1.03 to 1.44 times the paper's, whose intervals covered 83 to 94 %. Hence
`CORRELATION`.

References
----------
Epperly, Tropp and Webber (2024), SIAM J. Matrix Anal. Appl. 45(1), 1-23.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from thalweg.linalg.deflation import symmetric
from thalweg.linalg.sum_operator import column_products

# By how much the standard error of independent samples is multiplied.
CORRELATION = math.sqrt(2)


def leave_one_out(
    O: Tensor,  # noqa: E741 - the probes
    Y: Tensor,
    Q: Tensor,
    R: Tensor,
    W: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Each probe's estimate of the diagonal, of ||A||_F^2, of the trace, and of the variance of the last.

    Parameters
    ----------
    O, Y
        Gaussian probes ``(P, m)``, m < P, and A O = Q R.
    Q, R, W
        Orthonormal ``(P, m)``, triangular ``(m, m)``, and A Q.

    Returns
    -------
    (Tensor, Tensor, Tensor, Tensor)
        Diagonals ``(P, m)``; squares, traces and variances ``(m,)`` float64 on the CPU.
    """
    dim, num_probes = O.shape
    T = symmetric(Q.T @ W)
    S = left_out_directions(R)
    # Coordinates of the probes in Q, without the direction that only probe i added.
    B = Q.T @ O
    B = B - S * (S * B).sum(0)
    U = O - Q @ B  # C_i o_i, a column each
    AU = Y - W @ B
    QS, WS, TS = Q @ S, W @ S, T @ S
    STS = (S * TS).sum(0)
    # C_i A u_i = A u_i - Q (I - s s') Q' A u_i
    inner = Q.T @ AU
    rest = AU - Q @ (inner - S * (S * inner).sum(0))
    free = dim - num_probes + 1
    scale = free / column_products(U, U)
    # Pi_i = Q Q' - (Q s)(Q s)'; the diagonal of Pi A + C A Pi is 2 diag(Pi A) - diag(Pi A Pi).
    known = 2 * ((Q * W).sum(1, keepdim=True) - QS * WS)
    known = known - (((Q @ T) * Q).sum(1, keepdim=True) - 2 * QS * (Q @ TS) + STS * QS.square())
    diagonals = known + O * rest * scale.to(O)
    norm_W = column_products(W, W).sum() - column_products(WS, WS)
    norm_T = (T.double().square().sum().cpu() - 2 * column_products(TS, TS)) + STS.double().cpu().square()
    left_square, left_trace = scale * column_products(rest, rest), scale * column_products(U, AU)
    squares = 2 * norm_W - norm_T + left_square
    traces = torch.trace(T.double()).cpu() - STS.double().cpu() + left_trace
    # Of a quadratic form in a vector of fixed length and uniform direction.
    variances = 2 * (left_square - left_trace.square() / free).clamp(min=0)
    return diagonals, squares, traces, variances


def left_out_directions(R: Tensor) -> Tensor:
    """Unit columns ``(m, m)``: the i-th, in the basis Q, is orthogonal to all columns of Q R but the i-th."""
    identity = torch.eye(len(R), dtype=R.dtype, device=R.device)
    # Of a low rank the diagonal ends in noughts: rounding stands in, any direction will do.
    least = torch.finfo(R.dtype).eps * float(R.abs().max()) or 1.0
    short = R.diagonal().abs() < least
    R = R + torch.diag(torch.where(short, least - R.diagonal(), 0.0))
    inverse = torch.linalg.solve_triangular(R, identity, upper=True)
    return inverse.T / inverse.norm(dim=1)

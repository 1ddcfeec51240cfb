r"""How often the diffusion goes from the core of one well to that of another, on the grid.

:math:`d\theta = -\nabla L\, dt + \sqrt{2T}\, dW` becomes jumps between neighbours that keep
:math:`e^{-L/T}` stationary, whatever the spacing. With :math:`h_j` the chance to come to core j first of all
cores, and :math:`\pi` the stationary law,

.. math:: r_{ij} = \frac{\sum_{x \in A_i} \pi_x \sum_y k_{xy}\, h_j(y)}{\sum_x \pi_x\, h_i(x)}

is the rate from i to j per time spent in core i or outside all of them, i having been the last. Its inverse
is the mean time from *entering* a core, at whichever place passages end there, to entering another: what
chains are counted by. (The start averaged over the core, or its edge, would be another and longer time: most
enter on the side of the pass.) That is exact up to the grid.

References
----------
Scharfetter and Gummel (1969), IEEE Trans. Electron Devices 16, 64-77: rates on a grid. Metzner, Schuette and
Vanden-Eijnden (2009), Multiscale Model. Simul. 7(3), 1192-1219: transition paths of jump processes.
"""

from __future__ import annotations

import numpy as np
import scipy
from numpy.typing import NDArray

from thalweg.measures.dynamics.wells import Wells, neighbours

Array = NDArray[np.float64]


def core_rates(wells: Wells, temperature: float) -> Array:
    """``(M, M)``, from row to column, a unit of time; noughts on the diagonal."""
    jumps, cores = _jumps(wells, temperature), wells.cores.ravel()
    weights = np.exp(-(wells.losses - wells.losses.min()) / temperature).ravel()
    within = (cores[:, None] == np.arange(len(wells.minima))).astype(float)  # (G, M)
    free = np.flatnonzero(cores < 0)
    stay = scipy.sparse.csr_matrix(scipy.sparse.diags(np.asarray(jumps.sum(1)).ravel()) - jumps)
    first = within.copy()
    first[free] = scipy.sparse.linalg.splu(stay[free][:, free].tocsc()).solve((jumps @ within)[free])
    flows = (within * weights[:, None]).T @ (jumps @ first)
    np.fill_diagonal(flows, 0.0)
    return flows / (weights @ first)[:, None]


def first_passage(rates: Array) -> Array:
    """``(M,)``: mean times from entering a core to entering any other, of rates ``(M, M)``."""
    with np.errstate(divide="ignore"):
        return 1 / rates.sum(1)


def relaxation(rates: Array) -> float:
    """Time in which occupancies forget where chains began, by e: of the slowest exchange among the wells."""
    eigenvalues = np.sort(np.linalg.eigvals(rates - np.diag(rates.sum(1))).real)
    with np.errstate(divide="ignore"):
        return float(np.float64(1.0) / max(0.0, -eigenvalues[-2]))  # the last is nought


def _jumps(wells: Wells, temperature: float) -> scipy.sparse.csr_matrix:
    """Rates ``(G, G)`` between neighbours on the grid."""
    shape, size = wells.losses.shape, wells.losses.size
    index = np.arange(size).reshape(shape)
    rows, columns, rates = [], [], []
    for here, there in neighbours(shape, diagonals=False):
        axis = next(k for k, (a, b) in enumerate(zip(here, there, strict=True)) if a.start != b.start)
        rise = (wells.losses[there] - wells.losses[here]) / temperature
        unit = temperature / wells.spacing[axis] ** 2
        for a, b, x in ((here, there, rise), (there, here, -rise)):
            rows.append(index[a].ravel())
            columns.append(index[b].ravel())
            rates.append(unit * _bernoulli(x).ravel())
    row, column, rate = (np.concatenate(parts) for parts in (rows, columns, rates))
    return scipy.sparse.csr_matrix((rate, (row, column)), shape=(size, size))


def _bernoulli(x: Array) -> Array:
    """x / (exp(x) - 1), which keeps exp(-L / T) stationary on the grid whatever its spacing."""
    small = np.abs(x) < 1e-6
    safe = np.where(small, 1.0, x)
    return np.where(small, 1 - x / 2, safe / np.expm1(np.minimum(safe, 700.0)))

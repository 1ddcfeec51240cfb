r"""What theory says of occupancies of wells and of the times between them.

- ``gibbs``: :math:`\int e^{-L/T}` over each region, by quadrature. Exact for
  :math:`d\theta = -\nabla L\, dt + \sqrt{2T}\, dW`.
- ``basin_mass``: :math:`e^{-L_i/T} / \sqrt{\det H_i}`, its quadratic approximation.
- ``as_density``: :math:`e^{-L_i/T} / \det H_i`: what follows if :math:`e^{-L/T} / \sqrt{\det H}` is taken
  for the density, with the determinant of the minimum throughout its well.
- ``multiplicative``: of one parameter under noise of variance :math:`2 D(\theta)` a unit of time, the
  stationary law :math:`\frac1D \exp(-\int L'/D)` (Ito).
- ``kramers``: :math:`1/\tau_i = \sum_j r_{ij}` with
  :math:`r_{ij} = \frac{|\lambda_s|}{2\pi} \sqrt{\det H_i / |\det H_s|}\, e^{-(L_s - L_i)/T}`, s the saddle.
- ``first_passage``: mean time from the core of one well into any other's, by the backward equation
  :math:`T \Delta\tau - \nabla L \cdot \nabla\tau = -1` on the grid; exact for the diffusion up to the grid.

References ---------- Kramers (1940), Physica 7, 284-304. Langer (1969), Annals of Physics 54, 258-275.
Scharfetter and Gummel (1969), IEEE Trans. Electron Devices 16, 64-77: rates on a grid. Gardiner (2009),
Stochastic Methods, 5.2 and 5.3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import spsolve

from thalweg.measures.dynamics.wells import Critical, Wells, neighbours

Array = NDArray[np.float64]


def gibbs(wells: Wells, temperature: float) -> Array:
    """``(M,)``: by quadrature."""
    return _shares(wells, -wells.losses / temperature)


def basin_masses(wells: Wells, temperature: float, power: float = 0.5) -> Array:
    """``(M,)``: exp(-L / T) / det(H) ** power, normalised; a power of 1 takes the formula for a density."""
    logs = np.array([-m.height / temperature - power * np.log(m.determinant) for m in wells.minima])
    weights = np.exp(logs - logs.max())
    return weights / weights.sum()


def multiplicative(wells: Wells, slopes: Array, diffusion: Array) -> Array:
    """``(M,)``: of one parameter, from L' and D at the points of the grid ``(G,)``; NaN where D is nought."""
    if not (diffusion > 0).all():
        return np.full(len(wells.minima), np.nan)
    drift = slopes / diffusion
    steps = np.concatenate([[0.0], np.cumsum((drift[1:] + drift[:-1]) / 2)]) * wells.spacing[0]
    return _shares(wells, -steps - np.log(diffusion))


def kramers(wells: Wells, temperature: float) -> Array:
    """``(M,)``: mean escape times; NaN where a pass that leads out has no saddle."""
    rates = np.zeros(len(wells.minima))
    for pair, saddle in wells.saddles.items():
        for i in pair:
            rates[i] += np.nan if saddle is None else _rate(wells.minima[i], saddle, temperature)
    with np.errstate(divide="ignore"):
        return 1 / rates


def first_passage(wells: Wells, temperature: float) -> Array:
    """``(M,)``: mean times from a core's edge into any other core."""
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
    jumps = sparse.csr_matrix((rate, (row, column)), shape=(size, size))
    generator = (jumps - sparse.diags(np.asarray(jumps.sum(1)).ravel())).tocsc()
    cores, times = wells.cores.ravel(), []
    weights = np.exp(-(wells.losses - wells.losses.min()) / temperature).ravel()
    edge = _edge(wells.cores).ravel()
    for i in range(len(wells.minima)):
        free = np.flatnonzero((cores < 0) | (cores == i))
        tau = np.zeros(size)
        tau[free] = np.asarray(spsolve(generator[free][:, free], -np.ones(len(free))))
        begin = edge & (cores == i)
        times.append(float((tau * weights)[begin].sum() / weights[begin].sum()))
    return np.array(times)


def _rate(minimum: Critical, saddle: Critical, temperature: float) -> float:
    """One way over one saddle (Langer)."""
    down = -float(np.linalg.eigvalsh(saddle.hessian)[0])
    ratio = minimum.determinant / abs(saddle.determinant)
    return down / (2 * np.pi) * np.sqrt(ratio) * np.exp(-(saddle.height - minimum.height) / temperature)


def _shares(wells: Wells, logs: Array) -> Array:
    weights = np.exp(logs - logs.max()).ravel()
    masses = np.bincount(wells.regions.ravel(), weights, minlength=len(wells.minima))
    return masses / masses.sum()


def _bernoulli(x: Array) -> Array:
    """x / (exp(x) - 1), which keeps exp(-L / T) stationary on the grid whatever its spacing."""
    small = np.abs(x) < 1e-6
    safe = np.where(small, 1.0, x)
    return np.where(small, 1 - x / 2, safe / np.expm1(np.minimum(safe, 700.0)))


def _edge(cores: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Points of a core that have a neighbour outside it."""
    edge = np.zeros(cores.shape, dtype=bool)
    for here, there in neighbours(cores.shape, diagonals=False):
        differ = cores[here] != cores[there]
        edge[here] |= differ
        edge[there] |= differ
    return edge & (cores >= 0)

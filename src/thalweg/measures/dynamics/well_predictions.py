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
- ``first_passage``: mean time from entering the core of one well to entering any other's, exact for the
  diffusion up to the grid (`thalweg.measures.dynamics.core_passages`).

References
----------
Kramers (1940), Physica 7, 284-304. Langer (1969), Annals of Physics 54, 258-275. Gardiner (2009), Stochastic
Methods, 5.2 and 5.3.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from thalweg.measures.dynamics.wells import Critical, Wells

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


def _rate(minimum: Critical, saddle: Critical, temperature: float) -> float:
    """One way over one saddle (Langer)."""
    down = -float(np.linalg.eigvalsh(saddle.hessian)[0])
    ratio = minimum.determinant / abs(saddle.determinant)
    return down / (2 * np.pi) * np.sqrt(ratio) * np.exp(-(saddle.height - minimum.height) / temperature)


def _shares(wells: Wells, logs: Array) -> Array:
    weights = np.exp(logs - logs.max()).ravel()
    masses = np.bincount(wells.regions.ravel(), weights, minlength=len(wells.minima))
    return masses / masses.sum()

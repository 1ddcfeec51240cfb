r"""Gaussian perturbations in antithetic pairs, by common random numbers.

.. math:: y_k = \tfrac12 \bigl(L(\theta + \sigma T z_k) + L(\theta - \sigma T z_k)\bigr) - L(\theta),
    \qquad z_k \sim N(0, I)

The two of a pair cancel the gradient, and all odd terms with it: what is left is the curvature's. Pair number
k is the same for a seed whatever their number, for every network of the same space, and for every measure
that draws them, so that differences between networks are not those between draws.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import Tensor

from thalweg.core.rng import generator, normal
from thalweg.measures.sharpness.rises import Rises


class GaussianPairs:
    """Pairs of perturbations around the centre of `rises`.

    Parameters
    ----------
    rises
        Evaluates them.
    scale
        ``(P,)``, the diagonal of T, of `thalweg.measures.sharpness.ball.scale_vector`; None is the identity.
    seed
        Of the directions.

    Attributes
    ----------
    dim
        Coordinates that move: those with a scale above nought.
    """

    def __init__(self, rises: Rises, scale: Tensor | None, seed: int) -> None:
        self._rises, self._seed = rises, seed
        params = rises.objective.params
        self._scale = None if scale is None else scale.to(params)
        self.dim = len(params) if scale is None else int((scale > 0).sum())

    def rises(self, sigma: float, indices: Iterable[int], allow_non_finite: bool = False) -> Tensor:
        """``(K,)`` float64: y of the pairs of these numbers."""
        return self._rises(self._deltas(sigma, indices), allow_non_finite).view(-1, 2).mean(1)

    def rises_of_examples(self, sigma: float, indices: Iterable[int]) -> tuple[Tensor, Tensor]:
        """The same ``(K,)``, and y of each example ``(K, N)``."""
        rises, examples = self._rises.with_examples(self._deltas(sigma, indices))
        return rises.view(-1, 2).mean(1), examples.view(len(rises) // 2, 2, -1).mean(1)

    def _deltas(self, sigma: float, indices: Iterable[int]) -> Iterator[Tensor]:
        params = self._rises.objective.params
        for k in indices:
            delta = sigma * normal(generator(self._seed, "gaussian", k), len(params), like=params)
            delta = delta if self._scale is None else delta * self._scale
            yield delta
            yield -delta

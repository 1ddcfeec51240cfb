r"""A crossed design: the same probes on every fold of the data, and what the folds' differences add.

.. math:: y_{kf} = \mu + a_k + b_f + e_{kf}

with probes k = 1 ... K, folds f = 1 ... F, and :math:`e_{kf}` what a probe sees of a fold beyond both. The
mean over all has the variance :math:`\sigma_a^2 / K + \sigma_b^2 / F + \sigma_e^2 / (K F)`. Probes that were
run on all folds show the first and the last part by their spread, :math:`\mathrm{MS}_a / (K F)`; what is left
is the folds', :math:`(\mathrm{MS}_b - \mathrm{MS}_e) / (K F)`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike


def fold_standard_error(table: ArrayLike, weights: ArrayLike) -> tuple[float, int]:
    r"""Standard error that the mean has from its folds alone, :math:`\sigma_b / \sqrt F`, and F - 1.

    The interaction's share is subtracted, for it is in the spread of the probes already. Where that leaves
    less than nought the folds do not differ beyond it, and the result is nought: the true part is then small
    beside the probes' error. The degrees of freedom are those of the folds, which is exact if their
    differences outweigh the interaction.

    Parameters
    ----------
    table
        ``(F, K)``: what each probe says of each fold; K = 1 if that is exact.
    weights
        ``(F,)``: each fold's share of the examples. Folds of other sizes than the mean weigh what their
        examples do, as in `thalweg.stats.clustered_mean`.

    Raises
    ------
    ValueError
        If there are fewer than two folds.

    References
    ----------
    Searle, Casella and McCulloch (1992), Variance Components, sections 4.3 and 4.7.
    """
    y, w = np.asarray(table, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    num_folds, num_probes = y.shape
    if num_folds < 2:
        raise ValueError(f"`table` must hold at least two folds, got {num_folds}: one shows no spread.")
    means = y.mean(1)
    overall = w @ means
    between = np.square(w * (means - overall)).sum()
    inner = 0.0
    if num_probes > 1:
        interaction = y - means[:, None] - (w @ y - overall)
        inner = np.square(w[:, None] * interaction).sum() / ((num_probes - 1) * num_probes)
    dof = num_folds - 1
    return math.sqrt(max(0.0, num_folds / dof * (between - inner))), dof

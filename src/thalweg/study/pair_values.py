"""What was measured between every two networks of a setting, as a value of each network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from thalweg.stats.all_pairs import FEWEST_UNITS, jackknifed_pairs
from thalweg.study.evidence import Value

# Between the seeds of a pair's two networks.
JOIN = "-"


def by_network(pairs: Sequence[Value]) -> list[Value]:
    """Of all pairs within each setting, the value that the jackknife has of each network.

    A network that lacks a pair is left out with its reason, the one that lacks most first, until all pairs of
    the others are there.

    Parameters
    ----------
    pairs
        Values whose field ``seed`` names both networks, ``"1-2"``.

    Returns
    -------
    list of Value
        Of each network; NaN with a reason for those that are left out, and for all if fewer than three stay.
    """
    settings: dict[tuple[tuple[str, object], ...], list[Value]] = {}
    for value in pairs:
        setting = tuple((k, v) for k, v in value.fields.items() if k != "seed")
        settings.setdefault(setting, []).append(value)
    return [value for found in settings.values() for value in _of_setting(found)]


def _of_setting(pairs: Sequence[Value]) -> list[Value]:
    between = {frozenset(value.fields["seed"].split(JOIN)): value for value in pairs}
    networks = list(dict.fromkeys(seed for value in pairs for seed in value.fields["seed"].split(JOIN)))
    head = replace(pairs[0], value=math.nan, standard_error=0.0, below=0.0, above=0.0, reason="")

    def of(network: str, **rest: object) -> Value:
        return replace(
            head, run=f"{network} of {pairs[0].run}", fields={**head.fields, "seed": network}, **rest
        )  # type: ignore[arg-type]

    def lacking(network: str, others: Sequence[str]) -> list[str]:
        """Why each pair of it that has no value has none."""
        found = [between.get(frozenset((network, other))) for other in others if other != network]
        return [v.reason if v else "not planned" for v in found if v is None or not math.isfinite(v.value)]

    left_out = []
    while worst := max(networks, key=lambda name: len(lacking(name, networks)), default=None):
        reasons = lacking(worst, networks)
        if not reasons:
            break
        networks = [name for name in networks if name != worst]
        left_out.append(of(worst, reason=reasons[0]))
    n = len(networks)
    if n < FEWEST_UNITS:
        reason = f"all pairs of {n} networks are there, and at least {FEWEST_UNITS} are needed"
        return left_out + [of(name, reason=reason) for name in networks]
    matrix, kept = np.zeros((n, n)), []
    for i in range(n):
        for j in range(i):
            kept.append(between[frozenset((networks[i], networks[j]))])
            matrix[i, j] = matrix[j, i] = kept[-1].value
    # Errors of the pairs, spread over the networks so that the mean of these has that of the mean.
    error = 2 * math.hypot(*(v.standard_error for v in kept)) / (math.sqrt(n) * (n - 1))
    below, above = (float(np.mean([getattr(v, side) for v in kept])) for side in ("below", "above"))
    shares = jackknifed_pairs(matrix).tolist()
    found = [
        of(name, value=share, standard_error=error, below=below, above=above)
        for name, share in zip(networks, shares, strict=True)
    ]
    return left_out + found

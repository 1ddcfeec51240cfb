"""What a measure of sharpness says of itself: whether it grows with sharpness, and what it does not see.

That is some of the changes of a network that preserve its function; which, hangs on the arguments. A measure
that is not here claims nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from thalweg.core.measurement import Measurement
from thalweg.measures.curvature.hessian_trace import hessian_trace
from thalweg.measures.curvature.top_eigenvalues import top_eigenvalues
from thalweg.measures.dynamics.largest_stable_learning_rate import largest_stable_learning_rate
from thalweg.measures.sharpness.average_sharpness import average_sharpness
from thalweg.measures.sharpness.basin_width import basin_width
from thalweg.measures.sharpness.critical_sharpness import critical_sharpness
from thalweg.measures.sharpness.fisher_rao_norm import fisher_rao_norm
from thalweg.measures.sharpness.keskar_sharpness import keskar_sharpness
from thalweg.measures.sharpness.normalized_curvature import normalized_curvature
from thalweg.measures.sharpness.pac_bayes_sigma import pac_bayes_sigma
from thalweg.measures.sharpness.relative_flatness import relative_flatness
from thalweg.measures.sharpness.sam_sharpness import sam_sharpness
from thalweg.measures.sharpness.sam_sharpness_spread import sam_sharpness_spread
from thalweg.solvers.symmetries.places import TRANSFORMATIONS

Measure = Callable[..., Measurement]
Claims = frozenset[str]

# Radii and widths, and the steps that can be taken: the larger, the flatter.
LARGER_IS_FLATTER = frozenset({pac_bayes_sigma, basin_width, largest_stable_learning_rate})

# What perturbs parameters in proportion to themselves sees no scale of them at all; what goes by the norms of
# filters sees none that is common to a filter, and the weights that read a unit are in no filter together.
_NOTHING: Claims = frozenset()
_ORDER = frozenset({"permutation"})
_FILTERS = _ORDER | {"batch_norm_scaling"}
_ELEMENTS = _FILTERS | {"relu_rescaling"}
_ALL = frozenset(TRANSFORMATIONS)

_BY_SCALING = {"none": _ORDER, "filter": _FILTERS, "element": _ELEMENTS}


def larger_is_sharper(measure: Measure) -> bool:
    """False for a radius, a width or a rate, so that it is not taken to disagree with a curvature."""
    return measure not in LARGER_IS_FLATTER


def claims_of(measure: Measure, arguments: Mapping[str, Any]) -> frozenset[str]:
    """Which of `TRANSFORMATIONS` the measure claims not to move under, beyond its own error.

    Each claim is tested, for an objective without L2 term. All the changes but permutation alter the
    parameters' lengths.

    Parameters
    ----------
    measure
        A function of `thalweg.measures`.
    arguments
        Those given to it; the others are at their defaults.
    """
    rule = _RULES.get(measure)
    if rule is None:
        return _NOTHING
    defaults = {name: parameter.default for name, parameter in inspect.signature(measure).parameters.items()}
    return rule({**defaults, **arguments})


def _by_scaling(given: Mapping[str, Any]) -> Claims:
    return _BY_SCALING.get(given["scaling"], _NOTHING)


def _by_ascent(given: Mapping[str, Any]) -> Claims:
    # Further restarts begin where they are drawn, in coordinates that a permutation changes, and the largest
    # of the rises has no error bar that would tell.
    return _by_scaling(given) - (_NOTHING if given["num_restarts"] == 1 else _ORDER)


def _in_box(given: Mapping[str, Any]) -> Claims:
    return _by_ascent({**given, "scaling": "none"})


def _by_step(given: Mapping[str, Any]) -> Claims:
    # A direction given stays where it is when the parameters change places.
    return _ORDER if given["direction"] is None else _NOTHING


def _by_random_directions(given: Mapping[str, Any]) -> Claims:
    if not given["num_directions"]:
        return _NOTHING  # along eigenvectors, whose own error is not in the value's, or directions given
    # A bias is one filter, as long as it is: factors of single units change its shape.
    follows = given["normalisation"] == "filter" and given["ignore"] == "bias_and_norm"
    return _FILTERS if follows else _ORDER


def _in_coordinates(given: Mapping[str, Any]) -> Claims:
    if given["scaling"] == "none" and given["norms"] == "folded":
        return _FILTERS  # what is folded has lost the filter's scale
    return _by_scaling(given)


def _of_one_layer(given: Mapping[str, Any]) -> Claims:
    scales = _ELEMENTS if given["normalize_features"] else _FILTERS
    # The layer called last is no part of an attention; one that is named may be.
    return scales | (_ALL - _ELEMENTS if given["weight"] is None else _NOTHING)


_RULES: Mapping[Measure, Callable[[Mapping[str, Any]], Claims]] = {
    top_eigenvalues: lambda _: _ORDER,
    hessian_trace: lambda _: _ORDER,
    sam_sharpness: _by_ascent,
    sam_sharpness_spread: _by_scaling,
    keskar_sharpness: _in_box,
    average_sharpness: _by_scaling,
    pac_bayes_sigma: _by_scaling,
    basin_width: _by_random_directions,
    critical_sharpness: _by_step,
    normalized_curvature: _in_coordinates,
    relative_flatness: _of_one_layer,
    fisher_rao_norm: lambda _: _ALL,
}

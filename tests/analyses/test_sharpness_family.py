"""The family is a table of measures: names, arguments, claims."""

import pytest
import torch
from tests.measures.conftest import convnet
from tests.measures.conftest import images as pictures
from tests.measures.sharpness.rescaling import relu_mlp, reordered, rescaled, scaled_before_norm
from tests.networks import mlp, vectors

import thalweg as tw
from thalweg.analyses.sharpness_family import FAMILY
from thalweg.solvers.symmetries.places import TRANSFORMATIONS


def test_each_member_is_its_measure_with_its_arguments():
    objective = tw.Objective(mlp(0), vectors(21))
    assert FAMILY["sam_sharpness"](objective, seed=3) == tw.sam_sharpness(objective, seed=3)
    assert FAMILY["trace"](objective, seed=3) == tw.hessian_trace(objective, sampled=True, seed=3)
    assert FAMILY["fisher_rao_norm"](objective, seed=3) == tw.fisher_rao_norm(objective), "it draws nothing"


def test_claims_name_transformations():
    assert all(member.invariant_to <= set(TRANSFORMATIONS) for member in FAMILY.values())


def pair(transformation: str) -> tuple[tw.Objective, tw.Objective]:
    """Two networks that are one function, changed by hand; the same examples."""
    if transformation == "batch_norm_scaling":
        net, factors = convnet(), torch.tensor([0.2, 0.7, 3.0, 9.0]).double()
        data, changed = pictures(24), scaled_before_norm(net, factors)
    else:
        net, data = relu_mlp(), vectors(24, width=4)
        factors = torch.tensor([0.2, 0.5, 1, 2, 5, 9]).double()
        order = torch.tensor([3, 0, 5, 1, 4, 2])
        changed = rescaled(net, factors) if transformation == "relu_rescaling" else reordered(net, order)
    a, b = tw.Objective(net, data), tw.Objective(changed, data)
    assert a.value() == pytest.approx(b.value(), rel=1e-12)
    assert not torch.equal(a.params, b.params)
    return a, b


BY_HAND = {"permutation", "relu_rescaling", "batch_norm_scaling"}


@pytest.mark.parametrize(
    ("name", "transformation"),
    [(name, t) for name, member in FAMILY.items() for t in sorted(member.invariant_to & BY_HAND)],
)
def test_what_is_claimed_not_to_move_does_not(name, transformation):
    a, b = (FAMILY[name](objective, seed=0) for objective in pair(transformation))
    # Directions that are drawn are drawn in the coordinates at hand, so that error bars decide.
    slack = a.error.half_width(0.999) + b.error.half_width(0.999)
    assert abs(a.value - b.value) <= slack + 1e-6 * abs(a.value)


@pytest.mark.parametrize(
    "name", ["sam_sharpness", "sam_sharpness_linf", "filter_sam_sharpness", "keskar_sharpness", "basin_width"]
)
def test_what_sees_the_scale_of_units_claims_nothing(name):
    a, b = (FAMILY[name](objective, seed=0) for objective in pair("relu_rescaling"))
    assert abs(a.value - b.value) > 0.02 * a.value
    assert not FAMILY[name].is_normalised

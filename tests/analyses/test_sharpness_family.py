"""The family is a table of measures: names, arguments, claims."""

from pathlib import Path

import pytest
import torch
from tests.measures.conftest import convnet
from tests.measures.conftest import images as pictures
from tests.measures.sharpness.rescaled import permute_units, relu_mlp, rescale_filters, rescale_relu
from tests.networks import mlp, vectors

import thalweg as tw
from thalweg.analyses.sharpness_family import FAMILY
from thalweg.solvers.symmetries.places import TRANSFORMATIONS

PAGE = Path(__file__).parents[2] / "docs" / "sharpness.md"


def test_each_member_is_its_measure_with_its_arguments():
    objective = tw.Objective(mlp(0), vectors(21))
    assert FAMILY["sam_sharpness"](objective, seed=3) == tw.sam_sharpness(objective, seed=3)
    assert FAMILY["trace"](objective, seed=3) == tw.hessian_trace(objective, sampled=True, seed=3)
    assert FAMILY["fisher_rao_norm"](objective, seed=3) == tw.fisher_rao_norm(objective), "it draws nothing"


def test_claims_name_transformations():
    assert all(member.invariant_to <= set(TRANSFORMATIONS) for member in FAMILY.values())


def test_the_docs_list_what_the_family_uses():
    rows = [line for line in PAGE.read_text().partition("## The family")[2].splitlines() if line[:3] == "| `"]
    expected = []
    for name, member in FAMILY.items():
        arguments = ", ".join(f"{key}={value!r}" for key, value in member.arguments.items())
        shown = f"`{arguments}`" if arguments else "its defaults"
        expected.append(f"| `{name}` | `{member.measure.__name__}` | {shown} |")
    assert rows == expected


def pair(transformation: str) -> tuple[tw.Objective, tw.Objective]:
    """Two networks that are one function, changed by hand; the same examples."""
    if transformation == "batch_norm_scaling":
        net, factors = convnet(), torch.tensor([0.2, 0.7, 3.0, 9.0]).double()
        data, changed = pictures(24), rescale_filters(net, first=factors)
    else:
        net, data = relu_mlp(inputs=4, num_hidden=1), vectors(24, width=4)
        factors = torch.tensor([0.2, 0.5, 1, 2, 5, 9]).double()
        is_scaled = transformation == "relu_rescaling"
        changed = rescale_relu(net, first=factors) if is_scaled else permute_units(net)
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

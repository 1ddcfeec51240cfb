"""The family is a table of measures: names, arguments, claims."""

import pytest
from tests.networks import images, mlp, residual, vectors

import thalweg as tw
from thalweg.analyses.sharpness_family import FAMILY, TRANSFORMATIONS, chosen_members, sharpness_family


def test_each_member_is_its_measure_with_its_arguments():
    objective = tw.Objective(mlp(0), vectors(21))
    seen = []
    results = sharpness_family(
        objective, members=["trace", "sam_sharpness"], seed=3, on_member=lambda name: seen.append(name)
    )
    assert list(results) == seen == ["trace", "sam_sharpness"]
    assert results["sam_sharpness"] == tw.sam_sharpness(objective, seed=3)
    assert results["trace"] == tw.hessian_trace(objective, seed=3)


def test_what_is_asked_for_must_exist():
    with pytest.raises(ValueError, match=r"`members` must be some of top_eigenvalue, .*, got 'flatness'"):
        chosen_members(["flatness"])
    with pytest.raises(ValueError, match=r"`members` must be some of .*, got 'none'"):
        chosen_members([])


def test_claims_name_transformations():
    assert all(member.invariant_to <= set(TRANSFORMATIONS) for member in FAMILY.values())


def test_what_does_not_exist_is_left_out_with_its_reason():
    objective = tw.Objective(residual(0), images(21), batch_norm="batch", batch_size=8)
    members, refused = ["folded_eigenvalue", "fisher_rao_norm"], {}
    results = sharpness_family(objective, members=members, seed=3, on_refused=refused.__setitem__)
    assert list(results) == ["fisher_rao_norm"]
    assert list(refused) == ["folded_eigenvalue"]
    assert "needs constant statistics" in refused["folded_eigenvalue"]
    with pytest.raises(ValueError, match=r"folded_eigenvalue: `norms='folded'` .* leave it out of `members`"):
        sharpness_family(objective, members=members, seed=3)

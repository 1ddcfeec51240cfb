"""The audit's table holds what one measures by hand, and its verdicts err as seldom as they say."""

from __future__ import annotations

import functools
import json
import math

import numpy as np
import pytest
import torch
from tests.networks import images, mlp, tokens, vectors
from tests.symmetric_networks import CASES, NORM, ORDER, QK, RELU, VO
from torch import nn

import thalweg as tw
from thalweg.analyses.audit_result import Measured, verdict
from thalweg.analyses.sharpness_family import FAMILY, Member
from thalweg.solvers.symmetries.places import TRANSFORMATIONS
from thalweg.solvers.symmetries.transformations import find_symmetries

MEMBERS = ["top_eigenvalue", "sam_sharpness"]


def objective(name: str, **kwargs) -> tw.Objective:
    return tw.Objective(CASES[name].model(), CASES[name].data(), **kwargs)


@functools.cache
def audited(name: str, member: str | None = None) -> tw.InvarianceAudit:
    # Nothing moved: a change by a half is excluded, so that estimates with five per cent of error decide.
    members = MEMBERS if member is None else [member]
    return tw.invariance_audit(objective(name), members=members, resolution=0.5, seed=1)


def test_the_values_are_those_of_the_measures_at_the_moved_points():
    audit = audited("convolutional")
    own = find_symmetries(objective("convolutional"))
    assert audit.transformations == (RELU, NORM, ORDER)
    assert audit.members == tuple(MEMBERS)
    assert float(audit.before[1]) == tw.sam_sharpness(objective("convolutional"), seed=1).value
    for j, name in enumerate(audit.transformations):
        point = own.transformed(name, strength=4.0, seed=1)
        assert float(audit.after[1, j]) == tw.sam_sharpness(point, seed=1).value
        largest = tw.top_eigenvalues(point, rtol=1e-2, seed=1)
        assert float(audit.after[0, j]) == largest.value
        assert audit.errors[0][j + 1] == largest.error.to_dict()
    cell = audit.cell("sam_sharpness", RELU)
    assert cell.change == pytest.approx((cell.after - cell.before) / cell.before)
    assert len(audit.cells) == 6


def test_rescaling_moves_raw_sharpness_and_reordering_does_not():
    # Dinh et al. 2017, on exact eigenvalues of a network of 62 parameters.
    audit = tw.invariance_audit(
        objective("relu"), members={"largest": lambda o: float(largest_eigenvalue(o))}, seed=1
    )
    assert audit.cell("largest", RELU).verdict == "moved"
    assert audit.cell("largest", RELU).change > 0.5
    assert audit.cell("largest", ORDER).verdict == "not moved"
    assert abs(audit.cell("largest", ORDER).change) < 1e-10
    assert audited("relu").cell("top_eigenvalue", RELU).verdict == "moved"
    assert audited("relu").cell("top_eigenvalue", ORDER).verdict == "not moved"


def largest_eigenvalue(o: tw.Objective) -> torch.Tensor:
    """By double backward of the mean loss, without the package's operators."""
    model = CASES["relu"].model()
    x, y = CASES["relu"].data()
    flat = o.params.clone().requires_grad_()
    outputs = torch.func.functional_call(model, o.space.unflatten(flat), (x,))
    (gradient,) = torch.autograd.grad(nn.functional.cross_entropy(outputs, y), flat, create_graph=True)
    H = torch.stack([torch.autograd.grad(g, flat, retain_graph=True)[0] for g in gradient])
    return torch.linalg.eigvalsh(H)[-1]


def test_the_value_counts_the_measures_that_nothing_moved():
    audit = tw.invariance_audit(
        objective("convolutional"),
        members={
            "loss": lambda o: o.value(),
            "length": lambda o: float(o.params.norm()),
            "order": lambda o: float(o.params @ torch.linspace(0, 1, o.space.dim, dtype=o.dtype)),
        },
        seed=0,
    )
    assert audit.value == 1
    assert audit.unmoved == ("loss",)
    assert audit.verdicts == (
        ("not moved",) * 3,
        ("moved", "moved", "not moved"),
        ("moved",) * 3,
    )
    assert "1 of 3 measures unmoved by relu_rescaling, batch_norm_scaling, permutation" in repr(audit)


def test_a_broken_claim_is_flagged():
    claims = frozenset({RELU, ORDER})
    liar = Member(lambda objective, seed, progress: tw.sam_sharpness(objective, seed=seed), {}, claims)
    audit = tw.invariance_audit(objective("relu"), members={"liar": liar}, seed=0)
    assert audit.claims == ((True, True),)
    assert [(cell.member, cell.transformation) for cell in audit.violations] == [("liar", RELU)]
    assert "1 claims violated" in repr(audit)
    assert not audited("relu").violations


@pytest.mark.parametrize("mode", ["running", "recalibrated", "batch"])
def test_the_proof_is_stated(mode):
    audit = tw.invariance_audit(
        objective("residual", batch_norm=mode, batch_size=8), members={"loss": tw.Objective.value}, seed=0
    )
    assert audit.proof_dtype == "float64"
    for changes in (audit.output_changes, audit.loss_changes):
        assert changes.shape == (len(audit.transformations),)
        assert float(changes.max()) < 1e-13 < audit.proof_tolerance
    assert set(audit.transformations) | set(audit.refused) == set(TRANSFORMATIONS)
    assert (NORM in audit.refused) == (mode == "batch")
    assert set(audit.places) == set(audit.transformations)


def test_single_precision_is_proved_in_double_and_measured_in_single():
    x, y = images(21)
    single = tw.Objective(CASES["convolutional"].model().float(), (x.float(), y))
    seen = []
    audit = tw.invariance_audit(single, members={"loss": lambda o: seen.append(o.dtype) or o.value()}, seed=0)
    assert audit.proof_dtype == "float64"
    assert float(audit.output_changes.max()) < 1e-13 < 1e-9 < float(audit.rounded_changes.max()) < 1e-5
    assert set(seen) == {torch.float32}
    assert audit.unmoved == ("loss",)


# -- claims ----------------------------------------------------------------------------------------------

CLAIMS = [
    (member, transformation)
    for member in FAMILY
    for transformation in TRANSFORMATIONS
    if transformation in FAMILY[member].invariant_to
]


@pytest.mark.parametrize(("member", "transformation"), CLAIMS)
def test_what_a_member_claims_holds(member, transformation):
    names = ["separate"] if transformation in (QK, VO) else ["convolutional", "relu"]
    names = ["convolutional"] if transformation == NORM else names
    for name in names:
        cell = audited(name, member).cell(member, transformation)
        assert cell.is_claimed
        # What is drawn is drawn in coordinates that a permutation changes; the few samples of the family may
        # then be too few to tell.
        by_chance = transformation == "permutation" and FAMILY[member].is_seeded
        assert cell.verdict in (("not moved", "undecided") if by_chance else ("not moved",)), cell


# -- verdicts --------------------------------------------------------------------------------------------


def exact(value: float) -> Measured:
    return Measured(value, tw.ErrorBudget())


def noisy(value: float, error: float, dof: float = 20) -> Measured:
    return Measured(value, tw.ErrorBudget(probe=tw.StandardError(error, dof)))


def solved(value: float, error: float, *bounds: float) -> Measured:
    return Measured(value, tw.ErrorBudget(solver=error), *bounds)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (exact(1), exact(1), "not moved"),
        (exact(1), exact(1.0005), "not moved"),  # rounding
        (exact(1), exact(1.01), "moved"),
        (exact(0), exact(0), "not moved"),
        (exact(0), exact(1e-3), "moved"),
        (exact(-1), exact(-2), "moved"),
        (exact(math.inf), exact(math.inf), "not moved"),
        (exact(1), exact(math.inf), "moved"),
        (exact(math.nan), exact(1), "failed"),
        (noisy(1, 0.03), noisy(1.05, 0.03), "not moved"),
        (noisy(1, 0.03), noisy(1.5, 0.03), "moved"),
        (noisy(1, 0.9), noisy(1.0005, 0.9), "not moved"),  # the same draws
        (noisy(1, 0.3), noisy(1.2, 0.3), "undecided"),
        (noisy(1, 0.03, dof=1), noisy(1.05, 0.03, dof=1), "undecided"),
        (solved(1, 0.05), solved(1.08, 0.05), "not moved"),
        (solved(1, 0.02), solved(1.08, 0.02), "moved"),
        (noisy(1, math.nan, 0), exact(5), "undecided"),
        # Extreme eigenvalues: the found ones differ, but the first run may have missed the largest.
        (solved(1, 0.01, 0.99, 5.0), solved(3, 0.01, 2.99, 15.0), "undecided"),
        (solved(3, 0.01, 2.99, 15.0), solved(1, 0.01, 0.99, 5.0), "undecided"),
        (solved(1, 0.01, 0.99, 1.1), solved(1.2, 0.01, 1.05, 1.3), "undecided"),  # not "not moved"
        (solved(1, 0.01, 0.99, 5.0), solved(9, 0.01, 8.99, 45.0), "moved"),
        (solved(1, 0.01, 0.99, 5.0), solved(1.0005, 0.01, 0.99, 5.0), "not moved"),
    ],
)
def test_verdicts(before, after, expected):
    assert verdict(before, after, resolution=0.25, rounding=1e-3) == expected


def test_what_rounding_the_point_did_is_no_move():
    # The outputs themselves moved by half a per cent when the point was rounded.
    def told(after: Measured, resolution: float = 0.25) -> str:
        return verdict(exact(1), after, resolution=resolution, rounding=1e-3, threshold=0.05)

    assert told(exact(1.04)) == "not moved"
    assert told(exact(1.06)) == "moved"
    assert told(exact(1.04), resolution=0.02) == "undecided"
    # Agreement to the threshold is no sign of equal draws.
    assert told(noisy(1.04, 0.3)) == "undecided"


def test_thresholds_and_bounds_are_recorded():
    x, y = vectors(21)
    single = tw.Objective(CASES["relu"].model().float(), (x.float(), y))
    calm = tw.invariance_audit(single, members={"loss": tw.Objective.value}, seed=0)
    assert calm.thresholds.tolist() == [1e-3] * 2
    # Weights far from nought cancel and lose digits.
    rough = tw.invariance_audit(
        single.at(single.params + 1e3), members={"loss": tw.Objective.value}, strength=4, seed=0
    )
    assert float(rough.thresholds.max()) > 1e-3
    assert rough.thresholds.tolist() == [max(1e-3, 10 * change) for change in rough.rounded_changes.tolist()]
    largest = tw.invariance_audit(objective("relu"), members=["top_eigenvalue"], seed=0)
    assert bool((largest.bounds[0, :, 0] <= largest.bounds[0, :, 1]).all())
    assert bool(calm.bounds.isnan().all())


def test_bounds_add_and_standard_errors_add_in_quadrature():
    old = tw.ErrorBudget(solver=0.1, probe=tw.StandardError(0.3))
    new = tw.ErrorBudget(solver=0.2, data=tw.StandardError(0.4))
    limit = 0.1 + 0.2 + 0.5 * 3.2905267314919255  # the normal quantile at 0.9995
    for change, expected in ((limit + 1e-9, "moved"), (limit - 1e-9, "undecided")):
        assert verdict(Measured(0.0, old), Measured(change, new), resolution=0.25, rounding=0.0) == expected
    limit = 0.25 * 100 - 0.3 - 0.5 * 1.959963984540054
    for change, expected in ((1e-9, "undecided"), (-1e-9, "not moved")):
        drop = Measured(100.0, old), Measured(100.0 - limit - change, new)
        assert verdict(*drop, resolution=0.25, rounding=0.23) == expected


@pytest.mark.parametrize("dof", [2, 9])
def test_verdicts_err_as_seldom_as_they_say(dof):
    rng, num_runs = np.random.default_rng(0), 1_500

    def run(truth: float) -> list[str]:
        values = truth * (1 + 0.05 * rng.standard_normal(num_runs))
        errors = 0.05 * truth * np.sqrt(rng.chisquare(dof, num_runs) / dof)
        old = 1 + 0.05 * rng.standard_normal(num_runs)
        old_errors = 0.05 * np.sqrt(rng.chisquare(dof, num_runs) / dof)
        return [
            verdict(noisy(a, s, dof), noisy(b, t, dof), 0.25, 1e-3)
            for a, s, b, t in zip(old, old_errors, values, errors, strict=True)
        ]

    # Nothing moved: one in a thousand may seem to.
    assert run(1.0).count("moved") <= 0.001 * num_runs + 3 * math.sqrt(0.001 * num_runs)
    # A third more, which is what a quarter of the larger value is: one in forty on that side.
    assert run(4 / 3).count("not moved") <= 0.025 * num_runs + 3 * math.sqrt(0.025 * num_runs)
    # Three times as much is seen with nine degrees of freedom. With two, Student's quantile at one in a
    # thousand is 31.6, and so many errors of five per cent are more than any change: the rest is undecided.
    three, thirty = run(3.0), run(30.0)
    assert {*three, *thirty} <= {"moved", "undecided"}
    seen = [words.count("moved") / num_runs for words in (three, thirty)]
    if dof == 9:
        assert min(seen) > 0.95
    else:  # c being exponential: P(9 c + c' < 1.6) = 0.09 and P(c < 0.374) = 0.31
        assert seen == pytest.approx([0.09, 0.31], abs=0.04)


# -- trouble ---------------------------------------------------------------------------------------------


def test_a_measure_that_fails_is_a_row_of_its_own():
    def picky(o: tw.Objective) -> float:
        if float(o.params.norm()) > 4.2:
            raise tw.ConvergenceError("too long")
        return 1.0

    def never(_: tw.Objective) -> float:
        raise ValueError("`data` must be larger")

    members = {"picky": picky, "never": never, "nan": lambda _: math.nan, "one": lambda _: 1.0}
    small = objective("relu")
    audit = tw.invariance_audit(
        small.at(small.params * (4.15 / small.params.norm())), members=members, seed=0
    )
    assert audit.verdicts[1:] == (("failed",) * 2, ("failed",) * 2, ("not moved",) * 2)
    assert audit.verdicts[0] == ("failed", "not moved")
    assert audit.failures == {
        "picky, relu_rescaling": "too long",
        "never": "`data` must be larger",
        "nan": "the value is not a number",
    }
    assert tw.Measurement.from_dict(json.loads(json.dumps(audit.to_dict(), allow_nan=False))) == audit
    with pytest.raises(ValueError, match="`data` must be larger"):
        tw.invariance_audit(small, members={"never": never}, seed=0)


def test_no_symmetry_to_audit():
    lone = tw.Objective(nn.Linear(5, 3).double(), vectors(21))
    with pytest.raises(ValueError, match=r"`objective` must have a symmetry to audit.*permutation: no layer"):
        tw.invariance_audit(lone, seed=0)
    joined = tw.Objective(CASES["joined"].model(), vectors(21))
    with pytest.raises(ValueError, match="units are joined with others by cat"):
        tw.invariance_audit(joined, seed=0)
    assert tw.invariance_audit(
        tw.Objective(mlp(), vectors(21)), members=["sam_sharpness"], seed=0
    ).transformations == (ORDER,)


def test_scales_beyond_rounding():
    x, y = vectors(21)
    single = tw.Objective(CASES["relu"].model().float(), (x.float(), y))
    with pytest.raises(ValueError, match=r"`strength` must leave room for rounding.*1e\+60 relu_rescaling"):
        tw.invariance_audit(single, members=["sam_sharpness"], strength=1e60, seed=0)


@pytest.mark.parametrize("strength", [1, 1.001, 0.5, math.inf, math.nan, "4", True])
def test_bad_strengths(strength):
    with pytest.raises(ValueError, match="`strength` must be a finite number of at least 2"):
        tw.invariance_audit(objective("relu"), strength=strength, seed=0)


def test_bad_members_and_resolution():
    with pytest.raises(ValueError, match=r"`resolution` must lie in \(0, 1\), got 1"):
        tw.invariance_audit(objective("relu"), resolution=1, seed=0)
    with pytest.raises(ValueError, match="`members` must be some of top_eigenvalue"):
        tw.invariance_audit(objective("relu"), members=["flatness"], seed=0)
    with pytest.raises(ValueError, match="`members` must hold at least one measure, got none"):
        tw.invariance_audit(objective("relu"), members={}, seed=0)
    with pytest.raises(TypeError, match=r"`members` must hold functions that return .* got str from"):
        tw.invariance_audit(objective("relu"), members={"text": lambda _: "1"}, seed=0)  # type: ignore[dict-item]


def test_own_measures_that_fail_cost_no_other():
    members = {
        "bad": lambda o: 1 / 0,
        "tensor": lambda o: o.params.norm(),
        "sam_sharpness": {"radius": 0.1},
    }
    audit = tw.invariance_audit(objective("relu"), members=members, seed=0)  # type: ignore[arg-type]
    assert audit.failures == {"bad": "it raised ZeroDivisionError: division by zero"}
    assert audit.cell("tensor", "permutation").verdict == "not moved"
    lines = str(audit).splitlines()
    assert lines[0] == repr(audit)
    assert lines[1].split() == list(audit.transformations)
    assert [line.split()[0] for line in lines[2:]] == list(audit.members)
    assert lines[2].split()[1:] == ["failed"] * len(audit.transformations)
    assert audit.provenance["arguments"]["members"]["sam_sharpness"] == {"radius": 0.1}
    with pytest.raises(ValueError, match="`member` must be one of bad, tensor, sam_sharpness, got 'lenght'"):
        audit.cell("lenght", "permutation")
    with pytest.raises(ValueError, match="`transformation` must be one of relu_rescaling"):
        audit.cell("tensor", "rotation")
    with pytest.raises(ValueError, match="`members` gives sam_sharpness 'raduis'; it takes radius"):
        tw.invariance_audit(objective("relu"), members={"sam_sharpness": {"raduis": 0.1}}, seed=0)  # type: ignore[dict-item]
    with pytest.raises(tw.ThalwegError, match="ZeroDivisionError"):
        tw.invariance_audit(objective("relu"), members={"bad": lambda o: 1 / 0}, seed=0)


def test_own_measures_are_told_apart_in_the_provenance():
    def length(o: tw.Objective) -> float:
        return float(o.params.norm())

    def square(o: tw.Objective) -> float:
        return float(o.params.norm()) ** 2

    codes = set()
    for measure in (length, square):
        members = {"sam_sharpness": FAMILY["sam_sharpness"], "own": measure}
        audit = tw.invariance_audit(objective("relu"), members=members, seed=0)
        described = audit.provenance["arguments"]["members"]
        assert described["sam_sharpness"] == "sam_sharpness"
        codes.add(described["own"])
    assert len(codes) == 2


def test_attention_is_audited_too():
    ids, y = tokens()
    audit = tw.invariance_audit(
        tw.Objective(CASES["split"].model(), (ids, y)), members={"loss": tw.Objective.value}, seed=0
    )
    assert audit.transformations == (RELU, ORDER, QK, VO)
    assert audit.unmoved == ("loss",)

"""Verdicts on made-up records whose answer is plain by construction."""

import math
from dataclasses import replace

import pytest
import torch

from thalweg.core.measurement import ErrorBudget, Measurement, StandardError
from thalweg.measures.connectivity.linear_path import LinearPath
from thalweg.measures.curvature.top_eigenvalues import TopEigenvalues
from thalweg.measures.sharpness.sam_sharpness import SamSharpness
from thalweg.measures.sharpness.sam_sharpness_spread import SamSharpnessSpread
from thalweg.objective.batch_norm import MODES
from thalweg.study.paper_claims import (
    AS_TRAINED,
    NEGLIGIBLE_BARRIER,
    chance_of_larger,
    paper_claims,
)
from thalweg.study.store import Record
from thalweg.training.trajectory import TrainingHistory


def record(result: Measurement, model: str, mode: str, *, n: int = 1000, data: str = "d", **labels) -> Record:
    objective = {"batch_norm": mode, "num_examples": n, "data": data}
    result = replace(
        result, provenance={"num_test_examples": 10_000, **result.provenance, "objective": objective}
    )
    return Record(run="r", task="t", content=result.to_dict(), labels={"model": model, **labels})


def history(model: str, train_loss: list[float], accuracy: float = 0.9) -> Record:
    loss = torch.tensor(train_loss, dtype=torch.float64)
    flat = torch.full_like(loss, accuracy)
    result = TrainingHistory(
        value=accuracy,
        epochs=torch.arange(len(loss)),
        train_loss=loss,
        train_accuracy=flat,
        test_loss=loss,
        test_accuracy=flat,
        learning_rate=flat,
    )
    return record(result, model, "running", split="train")


def eigenvalue(model: str, mode: str, low: float, high: float, n: int = 1000) -> Record:
    result = TopEigenvalues(
        value=low,
        error=ErrorBudget(solver=1e-3),
        eigenvalues=torch.tensor([low]),
        eigenvectors=None,
        residuals=torch.tensor([1e-3]),
        num_matvecs=1,
        num_subset_matvecs=0,
        lower_bound=low,
        upper_bound=high,
        confidence=0.99,
    )
    return record(result, model, mode, n=n, split="train")


def sharpness(model: str, mode: str, value: float, num_steps: int) -> Record:
    result = SamSharpness(
        value=value,
        radius=0.05,
        num_steps=num_steps,
        num_restarts=1,
        gradient_norm=1.0,
        loss=0.1,
        restart_values=torch.tensor([value]),
        perturbation=torch.zeros(2),
    )
    return record(result, model, mode)


def path(mode: str, split: str, barrier: float, half: float = 0.0, accuracies=(0.9, 0.5, 0.9)) -> Record:
    grid = torch.tensor([0, 0.5, 1.0])
    result = LinearPath(
        value=barrier,
        error=ErrorBudget(solver=half),
        alphas=grid,
        losses=grid,
        accuracies=torch.tensor(accuracies, dtype=torch.float64),
        penalties=grid,
        loss_standard_errors=grid,
        barrier=barrier,
        barrier_over_mean=barrier,
        barrier_alpha=0.5,
    )
    return record(result, "A1-A2", mode, n=10_000, data="t", split=split)


def verdict(records, name, mode):
    claim = next(c for c in paper_claims(records) if c.name == name)
    return next(v for v in claim.verdicts if v.mode == mode)


FAST, SLOW = [2.0, 0.6, 0.3, 0.2], [2.0, 1.0, 0.7, 0.5]
SAME = [history("A1", FAST, 0.92), history("A2", FAST, 0.93), history("B", SLOW, 0.85)]


def test_every_claim_is_about_these_runs_and_states_its_rule():
    claims = paper_claims([])
    assert len(claims) == 6
    assert len({claim.name for claim in claims}) == 6
    for claim in claims:
        assert claim.claim.startswith("In these runs, ")
        assert "grees if" in claim.rule
        assert all(v.answer == "not measured" and not v.numbers for v in claim.verdicts)
        modes = tuple(v.mode for v in claim.verdicts)
        assert modes == ((AS_TRAINED,) if claim.name == "converges-faster" else MODES)


# -- converges faster -----------------------------------------------------------------------------------


def test_convergence_counts_epochs_to_the_worst_final_loss():
    found = verdict(SAME, "converges-faster", AS_TRAINED)
    assert found.answer == "agrees"
    a1, _, b = found.numbers
    # Between 0.6 at epoch 1 and 0.3 at epoch 2, the loss passes 0.5 after a third of the way.
    assert (a1.low, a1.value, a1.high) == (pytest.approx(1), pytest.approx(4 / 3), 2)
    assert (b.low, b.value, b.high) == (pytest.approx(2), 3, 3)
    # At epoch 2 A1 is through and B is not: brackets are open below, and these do not touch.
    assert a1.high < b.low
    assert found.reason == "In epochs, A1 and A2 lie below B."


@pytest.mark.parametrize(
    ("a1", "a2", "b", "answer"),
    [
        (SLOW, SLOW, FAST, "disagrees"),
        (FAST, [2.0, 1.0, 0.8, 0.6], [2.0, 0.9, 0.8, 0.7], "undecided"),  # A2 and B in one epoch
        (FAST, FAST, FAST, "undecided"),
        ([2.0, 2.0, 2.0, 0.2], FAST, SLOW, "undecided"),
        ([2.0, 0.3], [2.0, 0.3], [2.0, 0.4], "undecided"),  # one epoch resolves nothing
    ],
)
def test_convergence_is_decided_to_within_the_epochs_around(a1, a2, b, answer):
    records = [history("A1", a1), history("A2", a2), history("B", b)]
    assert verdict(records, "converges-faster", AS_TRAINED).answer == answer


# -- generalises better ---------------------------------------------------------------------------------


def test_accuracies_carry_the_binomial_interval_of_their_test_examples():
    records = [*SAME, path("batch", "test", 1.0, accuracies=(0.80, 0.1, 0.90))]
    found = verdict(records, "generalises-better", "running")
    assert found.answer == "agrees"
    a1 = found.numbers[0]
    half = 1.959964 * math.sqrt(0.92 * 0.08 / 10_000)
    assert (a1.low, a1.high) == (pytest.approx(0.92 - half), pytest.approx(0.92 + half))


def test_other_modes_take_the_ends_of_the_test_path():
    records = [*SAME, path("batch", "test", 1.0, accuracies=(0.80, 0.1, 0.90))]
    found = verdict(records, "generalises-better", "batch")
    assert [(n.name, n.value) for n in found.numbers] == [
        ("test accuracy(A1)", pytest.approx(0.80)),
        ("test accuracy(A2)", pytest.approx(0.90)),
        ("test accuracy(B)", 0.85),
    ]
    assert found.answer == "undecided"
    assert found.reason == "A1 lies below B; A2 lies above B."
    assert verdict(records[1:], "generalises-better", "recalibrated").answer == "not measured"


def test_a_difference_within_the_test_samples_noise_is_undecided():
    records = [history(m, FAST, a) for m, a in (("A1", 0.902), ("A2", 0.901), ("B", 0.899))]
    assert (
        verdict([*records, path("running", "test", 1)], "generalises-better", "running").answer == "undecided"
    )


def test_batch_statistics_make_the_binomial_interval_a_nominal_one():
    records = [*SAME, path("batch", "test", 1.0)]
    notes = [n.note for n in verdict(records, "generalises-better", "batch").numbers]
    assert notes == ["taking the examples of a batch for independent"] * 2 + [""]
    assert all(not n.note for n in verdict(records, "generalises-better", "running").numbers)
    claim = next(c for c in paper_claims(records) if c.name == "generalises-better")
    assert "the predictions within a batch depend on one another" in claim.rule


# -- sharper --------------------------------------------------------------------------------------------


def eigenvalues(a1, b, mode="batch"):
    return [eigenvalue("B", "running", *b), eigenvalue("A1", mode, *a1)]


@pytest.mark.parametrize(
    ("a1", "b", "answer", "reason"),
    [
        ((50, 51), (40, 41), "agrees", "A1 lies above B."),
        ((30, 31), (40, 41), "disagrees", "A1 lies below B."),
        ((40.5, 42), (40, 41), "undecided", "A1 overlaps B."),
        ((41, 42), (40, 41), "undecided", "A1 overlaps B."),  # touching is overlapping
    ],
)
def test_the_whole_interval_must_lie_above(a1, b, answer, reason):
    found = verdict(eigenvalues(a1, b), "sharper-by-eigenvalue", "batch")
    assert (found.answer, found.reason) == (answer, reason)
    assert [(n.low, n.high) for n in found.numbers] == [a1, b]


def test_the_eigenvalue_of_a2_is_neither_asked_for_nor_spoken_of():
    records = [*eigenvalues((50, 51), (40, 41)), eigenvalue("A2", "batch", 30, 31)]
    found = verdict(records, "sharper-by-eigenvalue", "batch")
    assert found == verdict(records[:-1], "sharper-by-eigenvalue", "batch")
    claims = {c.name: c for c in paper_claims(records)}
    for name in ("sharper-by-eigenvalue", "lower-curvature-is-not-better"):
        assert "A1" in claims[name].claim
    assert "every" not in claims["sharper-by-eigenvalue"].rule


def test_a_mode_is_judged_by_its_own_records_and_b_serves_them_all():
    records = [*eigenvalues((50, 51), (40, 41)), eigenvalue("A1", "running", 30, 31)]
    assert verdict(records, "sharper-by-eigenvalue", "batch").answer == "agrees"
    assert verdict(records, "sharper-by-eigenvalue", "running").answer == "disagrees"
    missing = verdict(records, "sharper-by-eigenvalue", "recalibrated")
    assert (missing.answer, missing.reason) == ("not measured", "Not measured: A1.")


def test_the_record_over_the_most_examples_decides():
    records = [eigenvalue("A1", "batch", 10, 11, n=500), *eigenvalues((50, 51), (40, 41))]
    assert verdict(records, "sharper-by-eigenvalue", "batch").answer == "agrees"
    assert verdict(records[::-1], "sharper-by-eigenvalue", "batch").answer == "agrees"


def ascents(a1, a2, b):
    """Records of finds, one by one step and one by several for each network; None is not measured."""
    return [
        sharpness(model, mode, value, steps)
        for model, mode, values in (("A1", "batch", a1), ("A2", "batch", a2), ("B", "running", b))
        for value, steps in zip(values, (1, 8), strict=True)
        if value is not None
    ]


@pytest.mark.parametrize(
    ("a1", "a2", "b", "answer", "reason"),
    [
        ((0.2, 0.2), (0.2, 0.2), (0.1, 0.1), "agrees", "By one step, A1 and A2 lie above B; by several, A"),
        (
            (0.1, 0.1),
            (0.1, 0.1),
            (0.2, 0.2),
            "disagrees",
            "By one step, A1 and A2 lie below B; by several, A",
        ),
        (
            (0.2, 0.2),
            (0.1, 0.2),
            (0.15, 0.15),
            "undecided",
            "By one step, A1 lies above B; by one step, A2 li",
        ),
        (
            (0.2, 0.1),
            (0.2, 0.1),
            (0.15, 0.15),
            "undecided",
            "By one step, A1 and A2 lie above B; by several, A",
        ),
        ((0.2, 0.2), (None, 0.2), (0.1, 0.1), "not measured", "Not measured: A2 by one step."),
        ((0.2, None), (0.2, None), (0.1, 0.1), "not measured", "Not measured: A1 by several, A2 by several."),
    ],
)
def test_both_networks_must_agree_by_both_ascents(a1, a2, b, answer, reason):
    found = verdict(ascents(a1, a2, b), "sharper-by-perturbation", "batch")
    assert found.answer == answer
    assert found.reason.startswith(reason)
    assert {n.note for n in found.numbers} == {"a lower bound"}


def test_single_batches_say_how_often_they_would_mislead():
    def spread(model, mode, samples):
        result = SamSharpnessSpread(
            value=0.1,
            error=ErrorBudget(data=StandardError(0.01, 3)),
            batch_size=128,
            radius=0.05,
            num_steps=1,
            samples=torch.tensor(samples),
        )
        return record(result, model, mode)

    records = ascents((0.2, 0.2), (0.2, 0.2), (0.1, 0.1))
    records += [spread("A1", "batch", [1.0, 3.0]), spread("B", "running", [2.0, 2.0])]
    found = verdict(records, "sharper-by-perturbation", "batch")
    assert found.answer == "agrees"
    assert found.reason.endswith("A1 exceeds B in 50 % of pairs of single batches of 128.")


def test_chances_count_pairs_and_halve_ties():
    a, b = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0])
    assert chance_of_larger(a, b) == 0.5
    assert chance_of_larger(b, torch.tensor([1.0, 1.0])) == 1.0


# -- lower curvature is not better ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "lambda_b", "answer", "words"),
    [
        ((FAST, 0.92), (SLOW, 0.85), (40, 41), "agrees", "is behind in convergence and is behind in test"),
        ((SLOW, 0.85), (FAST, 0.92), (40, 41), "disagrees", "is ahead in convergence and is ahead in test"),
        ((FAST, 0.85), (SLOW, 0.92), (40, 41), "undecided", "is behind in convergence and is ahead in test"),
        ((FAST, 0.92), (FAST, 0.85), (40, 41), "undecided", "neither ahead nor behind in convergence"),
        ((FAST, 0.92), (SLOW, 0.85), (60, 61), "undecided", "premise fails: B's top eigenvalue is higher"),
        ((FAST, 0.92), (SLOW, 0.85), (49, 61), "undecided", "premise fails: B's top eigenvalue is not shown"),
    ],
)
def test_curvature_predicts_where_its_order_is_that_of_success(a, b, lambda_b, answer, words):
    records = [history("A1", *a), history("A2", *a), history("B", *b), path("running", "test", 1.0)]
    records += eigenvalues((50, 51), lambda_b, "running")
    found = verdict(records, "lower-curvature-is-not-better", "running")
    assert found.answer == answer
    assert words in found.reason
    assert len(found.numbers) == 2 + 3 + 3, "two eigenvalues, three convergences, three accuracies"


def test_a_missing_part_leaves_it_open():
    assert verdict(SAME, "lower-curvature-is-not-better", "running").answer == "not measured"


# -- lie apart ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("train", "test", "answer"),
    [
        ((1.0, 0.1), (1.2, 0.1), "agrees"),
        ((0.0, 0.001), (0.01, 0.001), "disagrees"),
        ((1.0, 0.1), (0.01, 0.001), "undecided"),
        ((0.03, 0.02), (1.0, 0.1), "undecided"),
    ],
)
def test_a_barrier_counts_if_its_interval_clears_what_is_negligible(train, test, answer):
    records = [path("batch", s, *x) for s, x in (("train", train), ("test", test)) if x]
    found = verdict(records, "lie-apart", "batch")
    assert found.answer == answer
    assert str(NEGLIGIBLE_BARRIER) in found.reason
    assert found.numbers[0].name == "barrier, training data"
    assert verdict(records, "lie-apart", "running").answer == "not measured"


def test_a_barrier_on_the_training_data_alone_decides_nothing():
    found = verdict([path("batch", "train", 1.0)], "lie-apart", "batch")
    assert (found.answer, found.reason) == ("not measured", "No path was measured on the test data.")
    assert [n.value for n in found.numbers] == [1.0]


def test_verdicts_do_not_depend_on_the_order_of_the_records():
    records = [*SAME, *eigenvalues((50, 51), (40, 41), "running"), path("running", "test", 1.0)]
    assert paper_claims(records) == paper_claims(records[::-1])

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
from thalweg.study.paper_claims import (
    AS_TRAINED,
    NEGLIGIBLE_BARRIER,
    chance_of_larger,
    paper_claims,
)
from thalweg.study.paper_evidence import MODES
from thalweg.study.store import Record
from thalweg.training.trajectory import TrainingHistory


def record(result: Measurement, model: str, mode: str, *, n: int = 1000, data: str = "d", **labels) -> Record:
    objective = {"batch_norm": mode, "num_examples": n, "data": data}
    result = replace(result, provenance={"test_data": "t", **result.provenance, "objective": objective})
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
        (FAST, FAST, [2.0, math.nan, math.nan, math.nan], "agrees"),  # B diverged
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
    # The history names its test data by their hash, and the path on the same data knows their number.
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


def test_an_unknown_number_of_test_examples_decides_nothing():
    found = verdict(SAME, "generalises-better", "running")
    assert found.answer == "undecided"
    assert {(n.low, n.high) for n in found.numbers} == {(0.0, 1.0)}


def test_some_of_the_test_examples_give_a_wider_interval():
    some = replace(path("running", "test", 1.0), content={**path("running", "test", 1.0).content})
    some.content["provenance"]["objective"] |= {"data": "another hash", "num_examples": 400}
    found = verdict([*SAME, some], "generalises-better", "running")
    assert found.numbers[0].high - found.numbers[0].value == pytest.approx(
        1.959964 * math.sqrt(0.92 * 0.08 / 400)
    )


def test_without_test_data_there_is_nothing_to_say():
    blind = [history(m, FAST, math.nan) for m in ("A1", "B")]
    assert verdict(blind, "generalises-better", "running").answer == "not measured"


# -- sharper --------------------------------------------------------------------------------------------


def eigenvalues(a1, a2, b, mode="batch"):
    records = [eigenvalue("B", "running", *b)]
    return [*records, *(eigenvalue(m, mode, *x) for m, x in (("A1", a1), ("A2", a2)) if x)]


@pytest.mark.parametrize(
    ("a1", "a2", "b", "answer"),
    [
        ((50, 51), (52, 53), (40, 41), "agrees"),
        ((50, 51), None, (40, 41), "agrees"),
        ((30, 31), (32, 33), (40, 41), "disagrees"),
        ((30, 31), (52, 53), (40, 41), "undecided"),
        ((50, 51), (40.5, 42), (40, 41), "undecided"),
        ((41, 42), (41, 42), (40, 41), "undecided"),  # touching is overlapping
    ],
)
def test_the_whole_interval_of_each_network_must_lie_above(a1, a2, b, answer):
    found = verdict(eigenvalues(a1, a2, b), "sharper-by-eigenvalue", "batch")
    assert found.answer == answer
    assert (found.numbers[0].low, found.numbers[0].high) == a1


def test_networks_on_one_side_are_named_together():
    records = eigenvalues((50, 51), (40.5, 42), (40, 41))
    assert verdict(records, "sharper-by-eigenvalue", "batch").reason == "A1 lies above B; A2 overlaps B."
    records = eigenvalues((40.5, 51), (40.5, 42), (40, 41))
    assert verdict(records, "sharper-by-eigenvalue", "batch").reason == "A1 and A2 overlap B."


def test_a_mode_is_judged_by_its_own_records_and_b_serves_them_all():
    records = [*eigenvalues((50, 51), (50, 51), (40, 41)), eigenvalue("A1", "running", 30, 31)]
    assert verdict(records, "sharper-by-eigenvalue", "batch").answer == "agrees"
    assert verdict(records, "sharper-by-eigenvalue", "running").answer == "disagrees"
    assert verdict(records, "sharper-by-eigenvalue", "recalibrated").answer == "not measured"


def test_the_record_over_the_most_examples_decides():
    records = [eigenvalue("A1", "batch", 10, 11, n=500), *eigenvalues((50, 51), None, (40, 41))]
    assert verdict(records, "sharper-by-eigenvalue", "batch").answer == "agrees"
    assert verdict(records[::-1], "sharper-by-eigenvalue", "batch").answer == "agrees"


def test_both_ascents_must_agree():
    one = [sharpness("A1", "batch", 0.10, 1), sharpness("B", "running", 0.09, 1)]
    several = [sharpness("A1", "batch", 0.11, 8), sharpness("B", "running", 0.12, 8)]
    assert verdict(one, "sharper-by-perturbation", "batch").answer == "agrees"
    assert verdict(several, "sharper-by-perturbation", "batch").answer == "disagrees"
    both = verdict(one + several, "sharper-by-perturbation", "batch")
    assert both.answer == "undecided"
    assert both.reason == "By one step, A1 lies above B; by several, A1 lies below B."
    assert [n.note for n in both.numbers] == ["a lower bound"] * 4


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

    records = [sharpness("A1", "batch", 0.10, 1), sharpness("B", "running", 0.09, 1)]
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
    records += eigenvalues((50, 51), None, lambda_b, "running")
    found = verdict(records, "lower-curvature-is-not-better", "running")
    assert found.answer == answer
    assert words in found.reason
    assert len(found.numbers) == 2 + 3 + 3


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
        ((1.0, 0.1), None, "agrees"),
    ],
)
def test_a_barrier_counts_if_its_interval_clears_what_is_negligible(train, test, answer):
    records = [path("batch", s, *x) for s, x in (("train", train), ("test", test)) if x]
    found = verdict(records, "lie-apart", "batch")
    assert found.answer == answer
    assert str(NEGLIGIBLE_BARRIER) in found.reason
    assert found.numbers[0].name == "barrier, training data"
    assert verdict(records, "lie-apart", "running").answer == "not measured"


def test_verdicts_do_not_depend_on_the_order_of_the_records():
    records = [*SAME, *eigenvalues((50, 51), (52, 53), (40, 41), "running"), path("running", "test", 1.0)]
    assert paper_claims(records) == paper_claims(records[::-1])

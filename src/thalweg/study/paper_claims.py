"""Do these runs agree with what the paper claims? Decided from the records alone, batch-norm mode by mode.

One rule serves every comparison: a number lies above another if its whole 95 % interval does. Where
intervals overlap, or the two networks with batch norm point different ways, the verdict is ``"undecided"``.
One seed per network says nothing about networks in general, so every claim is worded for these runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from thalweg.core.measurement import StandardError
from thalweg.study.paper_evidence import (
    BATCH_NORM_MODELS,
    MODELS,
    MODES,
    PLAIN_MODEL,
    PaperRecords,
    num_examples_of,
    num_test_examples,
)

if TYPE_CHECKING:
    from thalweg.study.store import Record

Answer = Literal["agrees", "disagrees", "undecided", "not measured"]

# Training and its curves do not depend on the mode that a later measurement takes.
AS_TRAINED = "as trained"

# Nats. Two networks whose path never rises by more than this are joined, for any reader of a figure.
NEGLIGIBLE_BARRIER = 0.02


@dataclass(frozen=True)
class Number:
    """One number a verdict rests on, with the ends of its 95 % interval (equal where it is exact).

    `note` says what kind of number it is where the interval alone would mislead.
    """

    name: str
    value: float
    low: float
    high: float
    note: str = ""


@dataclass(frozen=True)
class Verdict:
    """The answer in one batch-norm mode: the numbers that decide it and why they do."""

    mode: str
    answer: Answer
    reason: str
    numbers: tuple[Number, ...] = ()


@dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    Parameters
    ----------
    name
        Short name, fit for an anchor.
    title
        The claim in a few words.
    paper
        The paper's words, with their section.
    claim
        What is asked of these runs.
    rule
        How the numbers decide, in words.
    verdicts
        One for every batch-norm mode in which the claim can be asked.
    """

    name: str
    title: str
    paper: str
    claim: str
    rule: str
    verdicts: tuple[Verdict, ...]


def paper_claims(records: Sequence[Record]) -> tuple[Claim, ...]:
    """Judge each claim of the paper by the records of one study.

    Parameters
    ----------
    records
        Of ``train``, ``top_eigenvalues``, ``sam_sharpness``, ``sam_sharpness_spread`` and ``linear_path``,
        labelled with the paper's model names. What is missing is answered ``"not measured"``.

    Returns
    -------
    tuple of Claim
        In the paper's order.
    """
    study = PaperRecords(records)
    convergence = _convergence(study)
    generalisation = {mode: _generalisation(study, mode) for mode in MODES}
    eigenvalue = {mode: _eigenvalue(study, mode) for mode in MODES}
    return (
        Claim(
            "converges-faster",
            "Batch norm converges faster",
            "“Batch Normalization improves both convergence speed and generalization.” (4.1)",
            "In these runs, the networks with batch norm reach a given training loss in fewer epochs than "
            "the network without it.",
            "The level is the highest of the final training losses, which every network reaches. The "
            "epoch at which it is reached is known to within the epochs that bracket it. Agrees if every "
            "batch-norm network's bracket ends before that of B begins.",
            (convergence,),
        ),
        Claim(
            "generalises-better",
            "Batch norm generalises better",
            "“Batch Normalization improves both convergence speed and generalization.” (4.1)",
            "In these runs, the networks with batch norm end with a higher test accuracy than the network "
            "without it.",
            "Final test accuracy, with the binomial 95 % interval of its test examples. Agrees if the "
            "interval of every batch-norm network lies above that of B. In modes other than that of the "
            "training curves, the accuracies are those at the ends of the test path from A1 to A2.",
            tuple(generalisation.values()),
        ),
        Claim(
            "sharper-by-eigenvalue",
            "Batch norm is sharper by the top eigenvalue",
            "“λmax(A1) ≈ 57.18, λmax(B) ≈ 37.51.” (4.2)",
            "In these runs, the top eigenvalue of the loss Hessian is larger with batch norm than without.",
            "Top eigenvalue on the training data, between the solver's lower and upper bound. Agrees if the "
            "interval of every batch-norm network lies above that of B.",
            tuple(eigenvalue.values()),
        ),
        Claim(
            "sharper-by-perturbation",
            "Batch norm is sharper by perturbation",
            "“S(A1) ≈ 0.1837, S(B) ≈ 0.0886.” (4.3)",
            "In these runs, the rise in loss that an ascent within the ball finds is larger with batch norm "
            "than without.",
            "S by one step and by several, on the same training examples for each network. Both are what the "
            "ascent found, a lower bound on the true maximum, so this orders the ascents' finds. Agrees if "
            "every batch-norm network lies above B by both.",
            tuple(_perturbation(study, mode) for mode in MODES),
        ),
        Claim(
            "lower-curvature-is-not-better",
            "Lower curvature of B does not mean better optimisation or generalisation",
            "“Lower curvature in Model B does not translate to better optimization or generalization, "
            "showing early Hessian metrics alone are unreliable predictors.” (5.3)",
            "In these runs, B has the lower top eigenvalue, and yet neither converges faster nor ends "
            "with the higher test accuracy.",
            "Built from three verdicts above. Agrees if B's top eigenvalue is lower and B is behind in "
            "both; disagrees if it is lower and B is ahead in both. If B's top eigenvalue is not lower, "
            "the claim has no premise, and it stays undecided. The paper says “early” but measures at the "
            "end of training; so do we.",
            tuple(_dissociation(convergence, generalisation[mode], eigenvalue[mode]) for mode in MODES),
        ),
        Claim(
            "lie-apart",
            "A1 and A2 lie apart",
            "“The interpolation barrier between A1 and A2 suggests they reside in distinct basins.” (5.2)",
            "In these runs, the loss rises on the straight line from A1 to A2.",
            "Barrier: the maximum over the path of the loss minus the chord between its ends. Agrees if "
            f"its interval lies above {NEGLIGIBLE_BARRIER} on the training and on the test data; disagrees "
            "if it lies below on both. A barrier on the straight line does not show that no curved path "
            "joins the two.",
            tuple(_barrier(study, mode) for mode in MODES),
        ),
    )


def chance_of_larger(a: torch.Tensor, b: torch.Tensor) -> float:
    """Share of pairs, one from `a` (A,) and one from `b` (B,), in which a's is larger; ties count half."""
    difference = a[:, None] - b[None, :]
    return float(((difference > 0).double() + 0.5 * (difference == 0).double()).mean())


def _convergence(study: PaperRecords) -> Verdict:
    histories: dict[str, Any] = {m: r.measurement for m in MODELS if (r := study.find("train", m))}
    losses = {m: [float(x) for x in history.train_loss] for m, history in histories.items()}
    level = max((loss[-1] for loss in losses.values() if math.isfinite(loss[-1])), default=math.nan)
    reached = {
        m: _first_reached(f"epochs of {m} to loss {level:.3f}", histories[m].epochs.tolist(), loss, level)
        for m, loss in losses.items()
    }
    return _ordered(AS_TRAINED, {"in epochs": reached}, larger=False)


def _first_reached(name: str, epochs: Sequence[int], loss: Sequence[float], level: float) -> Number:
    """Bracket the first crossing by the epochs around it, and interpolate inside."""
    for i, (epoch, now) in enumerate(zip(epochs, loss, strict=True)):
        if now <= level:
            if i == 0:
                return Number(name, epoch, epoch, epoch)
            before, start = loss[i - 1], epochs[i - 1]
            share = (before - level) / (before - now) if math.isfinite(before) else 1.0
            # At the epoch before, the loss was still above the level: the bracket is open there.
            return Number(name, start + share * (epoch - start), math.nextafter(start, math.inf), epoch)
    return Number(name, math.inf, math.nextafter(epochs[-1], math.inf), math.inf)


def _generalisation(study: PaperRecords, mode: str) -> Verdict:
    accuracies = {m: number for m in MODELS if (number := accuracy_on_test_data(study, m, mode))}
    return _ordered(mode, {"": accuracies}, larger=True)


def accuracy_on_test_data(study: PaperRecords, model: str, mode: str) -> Number | None:
    """Final test accuracy with its binomial interval for the population the test examples come from.

    In a mode in which the training curves were not evaluated, the accuracy at the model's end of the test
    path. ``None`` where there is neither; from 0 to 1 where nothing tells how many examples there were.
    """
    record = study.find("train", model, mode)
    path = study.find("linear_path", "-".join(BATCH_NORM_MODELS), mode, split="test")
    if record is not None:
        history: Any = record.measurement
        accuracy, n = float(history.test_accuracy[-1]), num_test_examples(study, record)
        # A path over some of the test examples at least tells that there are so many.
        n = n or (num_examples_of(path) if path else None)
    elif path is not None and model in BATCH_NORM_MODELS:
        result: Any = path.measurement
        end = 0 if model == BATCH_NORM_MODELS[0] else -1
        accuracy, n = float(result.accuracies[end]), num_examples_of(path)
    else:
        return None
    if math.isnan(accuracy):
        return None
    name = f"test accuracy({model})"
    if n is None:
        return Number(name, accuracy, 0.0, 1.0)
    half = StandardError(math.sqrt(accuracy * (1 - accuracy) / n)).half_width(0.95)
    return Number(name, accuracy, accuracy - half, accuracy + half)


def _eigenvalue(study: PaperRecords, mode: str) -> Verdict:
    found = {m: eigenvalue_number(r) for m in MODELS if (r := study.find("top_eigenvalues", m, mode))}
    return _ordered(mode, {"": found}, larger=True)


def eigenvalue_number(record: Record) -> Number:
    """Top eigenvalue of a record between the bounds its solver states, else with the 95 % interval."""
    result = record.measurement
    low, high = result.interval(0.95)
    low, high = getattr(result, "lower_bound", low), getattr(result, "upper_bound", high)
    return Number(f"λmax({record.labels['model']})", result.value, low, high)


def _perturbation(study: PaperRecords, mode: str) -> Verdict:
    families: dict[str, dict[str, Number]] = {}
    for kind, wanted in (("by one step", one_step), ("by several", several_steps)):
        found = {
            m: r.measurement for m in MODELS if (r := study.find("sam_sharpness", m, mode, num_steps=wanted))
        }
        families[kind] = {
            m: Number(f"S({m}) {kind}", s.value, *s.interval(0.95), "a lower bound") for m, s in found.items()
        }
    verdict = _ordered(mode, families, larger=True)
    chances = []
    for size in (128, 512):
        a, b = (
            study.find("sam_sharpness_spread", m, mode, batch_size=size)
            for m in (BATCH_NORM_MODELS[0], PLAIN_MODEL)
        )
        if a and b:
            ours, plain = (torch.as_tensor(getattr(r.measurement, "samples")).double() for r in (a, b))  # noqa: B009
            chances.append(
                f"{100 * chance_of_larger(ours, plain):.0f} % of pairs of single batches of {size}"
            )
    if not chances:
        return verdict
    aside = f" Drawn at random, A1 exceeds B in {' and in '.join(chances)}."
    return replace(verdict, reason=verdict.reason + aside)


def one_step(num_steps: int) -> bool:
    """Whether an ascent is the single step of the SAM optimiser."""
    return num_steps == 1


def several_steps(num_steps: int) -> bool:
    """Whether an ascent takes more than one step."""
    return num_steps > 1


def _dissociation(convergence: Verdict, generalisation: Verdict, eigenvalue: Verdict) -> Verdict:
    parts = (convergence, generalisation)
    numbers = eigenvalue.numbers + convergence.numbers + generalisation.numbers

    def verdict(answer: Answer, reason: str) -> Verdict:
        return Verdict(eigenvalue.mode, answer, reason, numbers)

    if any(part.answer == "not measured" for part in (*parts, eigenvalue)):
        return verdict("not measured", "One of the three comparisons it is built from was not measured.")
    if eigenvalue.answer != "agrees":
        lower = "higher, not lower" if eigenvalue.answer == "disagrees" else "not shown to be lower"
        return verdict("undecided", f"The premise fails: B's top eigenvalue is {lower}.")
    words = {"agrees": "is behind", "disagrees": "is ahead", "undecided": "is shown neither ahead nor behind"}
    state = f"{words[parts[0].answer]} in convergence and {words[parts[1].answer]} in test accuracy"
    answer = parts[0].answer if parts[0].answer == parts[1].answer else "undecided"
    return verdict(answer, f"B has the lower top eigenvalue; it {state}.")


def _barrier(study: PaperRecords, mode: str) -> Verdict:
    negligible = Number("negligible", NEGLIGIBLE_BARRIER, NEGLIGIBLE_BARRIER, NEGLIGIBLE_BARRIER)
    numbers, answers, words = [], [], []
    for split, data in (("train", "training"), ("test", "test")):
        record = study.find("linear_path", "-".join(BATCH_NORM_MODELS), mode, split=split)
        if record is None:
            continue
        number = Number(f"barrier, {data} data", record.measurement.value, *record.measurement.interval(0.95))
        where = _side(number, negligible)
        numbers.append(number)
        answers.append({"above": "agrees", "below": "disagrees"}.get(where, "undecided"))
        words.append(f"{_VERBS[where]} {NEGLIGIBLE_BARRIER} on the {data} data")
    if not numbers:
        return Verdict(mode, "not measured", "No path between A1 and A2 was measured in this mode.")
    return Verdict(mode, _combine(answers), f"The barrier {' and '.join(words)}.", tuple(numbers))


_VERBS = {"above": "lies above", "below": "lies below", "overlaps": "overlaps"}


def _side(number: Number, other: Number) -> str:
    """Where the whole interval of a number lies beside that of another."""
    if number.low > other.high:
        return "above"
    return "below" if number.high < other.low else "overlaps"


def _ordered(mode: str, families: Mapping[str, Mapping[str, Number]], *, larger: bool) -> Verdict:
    """Compare each network with batch norm to the one without, in each family of numbers.

    `larger` says whether the paper has the batch-norm network above B.
    """
    expected = "above" if larger else "below"
    answers, words, numbers = [], [], []
    for kind, family in families.items():
        plain = family.get(PLAIN_MODEL)
        numbers += family.values()
        sides: dict[str, list[str]] = {}
        for model in BATCH_NORM_MODELS:
            if plain is None or model not in family:
                continue
            side = _side(family[model], plain)
            sides.setdefault(side, []).append(model)
            answers.append(
                "undecided" if side == "overlaps" else "agrees" if side == expected else "disagrees"
            )
        for side, models in sides.items():
            verb = {"above": "lie{} above", "below": "lie{} below", "overlaps": "overlap{}"}[side]
            phrase = f"{' and '.join(models)} {verb.format('' if len(models) > 1 else 's')} B"
            words.append(f"{kind}, {phrase}" if kind else phrase)
    if not answers:
        reason = "No network with batch norm was measured beside B."
        return Verdict(mode, "not measured", reason, tuple(numbers))
    text = "; ".join(words)
    return Verdict(mode, _combine(answers), f"{text[0].upper()}{text[1:]}.", tuple(numbers))


def _combine(answers: Sequence[str]) -> Answer:
    """The common answer, or ``"undecided"`` where there is none."""
    if all(answer == "agrees" for answer in answers):
        return "agrees"
    return "disagrees" if all(answer == "disagrees" for answer in answers) else "undecided"

"""Do these runs agree with what the paper claims? Decided from the records alone, batch-norm mode by mode.

One rule serves every comparison: a number lies above another if its whole 95 % interval does. Where
intervals overlap, or the two networks with batch norm point different ways, the verdict is ``"undecided"``;
where something that a claim compares is missing, it is ``"not measured"``. One seed per network says nothing
about networks in general, so every claim is worded for these runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import torch

from thalweg.core.measurement import StandardError
from thalweg.measures.curvature.top_eigenvalues import TopEigenvalues
from thalweg.objective.batch_norm import MODES
from thalweg.study.paper_evidence import (
    BATCH_NORM_MODELS,
    MODELS,
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

    `note` says what kind of number it is where the interval alone would mislead; `half_width` how far the
    value itself is known where the interval asks for more, as that of a largest eigenvalue does.
    """

    name: str
    value: float
    low: float
    high: float
    note: str = ""
    half_width: float | None = None

    @property
    def known_to(self) -> float:
        """What the digits of the value go by."""
        return (self.high - self.low) / 2 if self.half_width is None else self.half_width


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
            "epoch at which it is reached is known to within the epochs that bracket it. Agrees if the "
            "brackets of both batch-norm networks end before that of B begins.",
            (convergence,),
        ),
        Claim(
            "generalises-better",
            "Batch norm generalises better",
            "“Batch Normalization improves both convergence speed and generalization.” (4.1)",
            "In these runs, the networks with batch norm end with a higher test accuracy than the network "
            "without it.",
            "Final test accuracy, with the binomial 95 % interval of its test examples. Agrees if the "
            "intervals of both batch-norm networks lie above that of B. In modes other than that of the "
            "training curves, the accuracies are those at the ends of the test path from A1 to A2, on its "
            "examples. With batch statistics, the predictions within a batch depend on one another; the "
            "binomial interval takes them for independent and may be too narrow or too wide there.",
            tuple(generalisation.values()),
        ),
        Claim(
            "sharper-by-eigenvalue",
            "Batch norm is sharper by the top eigenvalue",
            "“λmax(A1) ≈ 57.18, λmax(B) ≈ 37.51.” (4.2)",
            "In these runs, the top eigenvalue of the loss Hessian is larger for A1, which has batch norm, "
            "than for B, which has none.",
            "Top eigenvalue over the training examples measured, between a lower and an upper bound: limits "
            "over independent samples of these examples, or the solver's own. No error of having these "
            "examples and not others is counted. Agrees if the interval of A1 lies above that of B. Like the "
            "paper, it asks nothing of A2.",
            tuple(eigenvalue.values()),
        ),
        Claim(
            "sharper-by-perturbation",
            "Batch norm is sharper by perturbation",
            "“S(A1) ≈ 0.1837, S(B) ≈ 0.0886.” (4.3)",
            "In these runs, the rise in loss that an ascent within the ball finds is larger for both "
            "networks with batch norm than for the one without.",
            "S by one step and by several, on the same training examples for each network. Both are what the "
            "ascent found, a lower bound on the true maximum, so this orders the ascents' finds. For these "
            "examples a find is exact, and its interval has no width: no error of having sampled them is "
            "counted. How much examples matter, the spread over single batches shows. Agrees if both "
            "batch-norm networks lie above B by both.",
            tuple(_perturbation(study, mode) for mode in MODES),
        ),
        Claim(
            "lower-curvature-is-not-better",
            "Lower curvature of B does not mean better optimisation or generalisation",
            "“Lower curvature in Model B does not translate to better optimization or generalization, "
            "showing early Hessian metrics alone are unreliable predictors.” (5.3)",
            "In these runs, B has a lower top eigenvalue than A1, and yet neither converges faster than A1 "
            "and A2 nor ends with a higher test accuracy.",
            "Built from three verdicts above. Agrees if B's top eigenvalue is lower than A1's and B is "
            "behind both others in both respects; disagrees if it is lower and B is ahead of both in both. "
            "If B's top eigenvalue is not lower, the claim has no premise, and it stays undecided. The paper "
            "says “early” but measures at the end of training; so do we.",
            tuple(_dissociation(convergence, generalisation[mode], eigenvalue[mode]) for mode in MODES),
        ),
        Claim(
            "lie-apart",
            "A1 and A2 lie apart",
            "“The interpolation barrier between A1 and A2 suggests they reside in distinct basins.” (5.2)",
            "In these runs, the loss rises on the straight line from A1 to A2.",
            "Barrier: the maximum over the path of the loss minus the chord between its ends. Agrees if "
            f"its interval lies above {NEGLIGIBLE_BARRIER} on the training and on the test data; disagrees "
            "if it lies below on both; both must be measured. A barrier on the straight line does not show "
            "that no curved path joins the two.",
            tuple(_barrier(study, mode) for mode in MODES),
        ),
    )


def chance_of_larger(a: torch.Tensor, b: torch.Tensor) -> float:
    """Share of pairs, one from `a` (A,) and one from `b` (B,), in which a's is larger; ties count half."""
    difference = a[:, None] - b[None, :]
    return float(((difference > 0).double() + 0.5 * (difference == 0).double()).mean())


def _convergence(study: PaperRecords) -> Verdict:
    histories: dict[str, Any] = {m: r.measurement for m in MODELS if (r := study.find("train", m))}
    losses = {m: history.train_loss.tolist() for m, history in histories.items()}
    level = max((loss[-1] for loss in losses.values()), default=0.0)
    reached = {
        m: _first_reached(f"epochs of {m} to loss {level:.3f}", histories[m].epochs.tolist(), loss, level)
        for m, loss in losses.items()
    }
    return _ordered(AS_TRAINED, {"in epochs": reached}, larger=False)


def _first_reached(name: str, epochs: Sequence[int], loss: Sequence[float], level: float) -> Number:
    """Bracket the first crossing by the epochs around it, and interpolate inside; the last loss is there."""
    i = next(i for i, now in enumerate(loss) if now <= level)
    if i == 0:
        return Number(name, epochs[0], epochs[0], epochs[0])
    start, end = epochs[i - 1], epochs[i]
    share = (loss[i - 1] - level) / (loss[i - 1] - loss[i])
    # At the epoch before, the loss was still above the level: the bracket is open there.
    return Number(name, start + share * (end - start), math.nextafter(start, math.inf), end)


def _generalisation(study: PaperRecords, mode: str) -> Verdict:
    accuracies = {m: number for m in MODELS if (number := accuracy_on_test_data(study, m, mode))}
    return _ordered(mode, {"": accuracies}, larger=True)


def accuracy_on_test_data(study: PaperRecords, model: str, mode: str) -> Number | None:
    """Final test accuracy with its binomial interval for the population the test examples come from.

    In a mode in which the training curves were not evaluated, the accuracy at the model's end of the test
    path. ``None`` where there is neither.
    """
    record = study.find("train", model, mode)
    path = study.find("linear_path", "-".join(BATCH_NORM_MODELS), mode, split="test")
    if record is not None:
        history: Any = record.measurement
        accuracy, n = float(history.test_accuracy[-1]), num_test_examples(record)
    elif path is not None and model in BATCH_NORM_MODELS:
        result: Any = path.measurement
        end = 0 if model == BATCH_NORM_MODELS[0] else -1
        accuracy, n = float(result.accuracies[end]), num_examples_of(path)
    else:
        return None
    half = StandardError(math.sqrt(accuracy * (1 - accuracy) / n)).half_width(0.95)
    dependent = mode == "batch" and model in BATCH_NORM_MODELS
    note = "taking the examples of a batch for independent" if dependent else ""
    return Number(f"test accuracy({model})", accuracy, accuracy - half, accuracy + half, note)


def _eigenvalue(study: PaperRecords, mode: str) -> Verdict:
    # Section 4.2 gives no eigenvalue of A2.
    normed = BATCH_NORM_MODELS[:1]
    compared = (*normed, PLAIN_MODEL)
    found = {m: eigenvalue_number(r) for m in compared if (r := study.find("top_eigenvalues", m, mode))}
    return _ordered(mode, {"": found}, larger=True, normed=normed)


def eigenvalue_number(record: Record) -> Number:
    """Top eigenvalue of a record between its bounds: the solver's, or the limits that samples give."""
    result = record.measurement
    assert isinstance(result, TopEigenvalues)
    return Number(
        f"λmax({record.labels['model']})",
        result.value,
        result.lower_bound,
        result.upper_bound,
        half_width=result.error.half_width(),
    )


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
    sizes: set[int] = {getattr(r.measurement, "batch_size") for r in study.all("sam_sharpness_spread")}  # noqa: B009
    for size in sorted(sizes):
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
    aside = f" Among the batches measured, A1 exceeds B in {' and in '.join(chances)}."
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
        lower = "higher" if eigenvalue.answer == "disagrees" else "not shown to be lower"
        return verdict("undecided", f"The premise fails: B's top eigenvalue is {lower} than A1's.")
    words = {"agrees": "is behind", "disagrees": "is ahead", "undecided": "is shown neither ahead nor behind"}
    state = f"{words[parts[0].answer]} in convergence and {words[parts[1].answer]} in test accuracy"
    answer = parts[0].answer if parts[0].answer == parts[1].answer else "undecided"
    return verdict(answer, f"B has a lower top eigenvalue than A1; it {state}.")


def _barrier(study: PaperRecords, mode: str) -> Verdict:
    negligible = Number("negligible", NEGLIGIBLE_BARRIER, NEGLIGIBLE_BARRIER, NEGLIGIBLE_BARRIER)
    numbers, answers, words, missing = [], [], [], []
    for split, data in (("train", "training"), ("test", "test")):
        record = study.find("linear_path", "-".join(BATCH_NORM_MODELS), mode, split=split)
        if record is None:
            missing.append(data)
            continue
        number = Number(f"barrier, {data} data", record.measurement.value, *record.measurement.interval(0.95))
        where = _side(number, negligible)
        numbers.append(number)
        answers.append({"above": "agrees", "below": "disagrees"}.get(where, "undecided"))
        words.append(f"{_VERBS[where]} {NEGLIGIBLE_BARRIER} on the {data} data")
    if missing:
        reason = f"No path was measured on the {' and the '.join(missing)} data."
        return Verdict(mode, "not measured", reason, tuple(numbers))
    return Verdict(mode, _combine(answers), f"The barrier {' and '.join(words)}.", tuple(numbers))


_VERBS = {"above": "lies above", "below": "lies below", "overlaps": "overlaps"}


def _side(number: Number, other: Number) -> str:
    """Where the whole interval of a number lies beside that of another."""
    if number.low > other.high:
        return "above"
    return "below" if number.high < other.low else "overlaps"


def _ordered(
    mode: str,
    families: Mapping[str, Mapping[str, Number]],
    *,
    larger: bool,
    normed: Sequence[str] = BATCH_NORM_MODELS,
) -> Verdict:
    """Compare each of the networks with batch norm to the one without, in each family of numbers.

    `larger` says whether the paper has the batch-norm network above B.
    """
    numbers = tuple(number for family in families.values() for number in family.values())
    missing = [
        f"{model} {kind}".strip()
        for kind, family in families.items()
        for model in (*normed, PLAIN_MODEL)
        if model not in family
    ]
    if missing:
        return Verdict(mode, "not measured", f"Not measured: {', '.join(missing)}.", numbers)
    expected = "above" if larger else "below"
    answers, words = [], []
    for kind, family in families.items():
        sides: dict[str, list[str]] = {}
        for model in normed:
            side = _side(family[model], family[PLAIN_MODEL])
            sides.setdefault(side, []).append(model)
            answers.append(
                "undecided" if side == "overlaps" else "agrees" if side == expected else "disagrees"
            )
        for side, models in sides.items():
            verb = {"above": "lie{} above", "below": "lie{} below", "overlaps": "overlap{}"}[side]
            phrase = f"{' and '.join(models)} {verb.format('' if len(models) > 1 else 's')} B"
            words.append(f"{kind}, {phrase}" if kind else phrase)
    text = "; ".join(words)
    return Verdict(mode, _combine(answers), f"{text[0].upper()}{text[1:]}.", numbers)


def _combine(answers: Sequence[str]) -> Answer:
    """The common answer, or ``"undecided"`` where there is none."""
    if all(answer == "agrees" for answer in answers):
        return "agrees"
    return "disagrees" if all(answer == "disagrees" for answer in answers) else "undecided"

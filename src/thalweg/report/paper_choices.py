"""What the paper leaves open: our choice, and what the records say of the alternatives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from thalweg.objective.batch_norm import MODES
from thalweg.report.paper_tables import ascent_radius, batch_sizes, data_words, fields
from thalweg.report.tables import MINUS, format_number
from thalweg.study.paper_claims import one_step, several_steps
from thalweg.study.paper_evidence import (
    BATCH_NORM_MODELS,
    MODELS,
    PLAIN_MODEL,
    PaperRecords,
    num_calibration_examples,
    objective_of,
    paper_value,
)

if TYPE_CHECKING:
    from thalweg.study.store import Record


@dataclass(frozen=True)
class Choice:
    """Something the paper leaves open: what was chosen, and what the records say of the alternatives."""

    question: str
    paper: str
    ours: str
    alternatives: tuple[str, ...]


def choices(records: Sequence[Record]) -> list[Choice]:
    """What the paper leaves open, each with our choice and what the records say of the alternatives."""
    study = PaperRecords(records)
    return [
        Choice(
            "Which function does a batch-norm network stand for when it is measured?",
            "Not stated: running statistics, statistics of the batch, or recomputed ones.",
            "All three, side by side; running statistics where one is needed.",
            (
                *_by_mode(study, "λmax", "top_eigenvalues", {}),
                *_by_mode(study, "S", "sam_sharpness", {"num_steps": one_step}),
            ),
        ),
        Choice(
            "On which examples are the statistics recalibrated?",
            "Not stated, nor whether they were.",
            "Training data only, anew at every point, held constant in derivatives"
            f"{_calibration_words(study)}.",
            (),
        ),
        Choice(
            "What steps does the learning rate take?",
            "“StepLR”, without its step and factor.",
            _schedule_words(study),
            _learning_rates(study),
        ),
        Choice(
            "What is the radius ε of the perturbation?",
            "Not stated.",
            f"{ascent_radius(study) or 0.05:g}, in the Euclidean norm of all parameters together; 0.05 is "
            "SAM’s customary value.",
            _plain_sharpness(study),
        ),
        Choice(
            "How is the maximum over the ball found?",
            "“SAM-style”, which is one step along the gradient; its formula says maximum.",
            "Both: one step, and the best of several restarts of a projected ascent. Both are lower bounds.",
            _by_steps(study),
        ),
        Choice(
            "On which examples were the eigenvalue and S measured?",
            "Not stated: all the training data, a subset, or one batch.",
            "The training data, as many as the tables name; S also on single batches, one at a time.",
            _by_data(study),
        ),
        Choice(
            "Which matrix has the top eigenvalue?",
            "“Hessian”; neither whether it was exact nor the solver or its tolerance.",
            "The exact Hessian of the mean loss over those examples, by Lanczos with full "
            "reorthogonalisation, stopped on the residual and reported with its bounds"
            f"{_sampling_words(study)}.",
            (),
        ),
        Choice(
            "How are the slice’s direction, span and data chosen?",
            "“A random direction”, no normalisation or span stated.",
            _slice_words(study),
            (),
        ),
        Choice(
            "What does a seed set?",
            "“seed = 1”, 2 and 3: initialisation, data order or both.",
            "Both, from two streams that share no numbers. A1 and B differ in seed as well as in batch "
            "norm, as in the paper.",
            (),
        ),
        Choice(
            "What does “normalized to (0.5, 0.5)” mean?",
            "Not spelt out.",
            "Pixels in [0, 1], less 0.5, divided by 0.5: inputs in [−1, 1].",
            (),
        ),
        Choice(
            "Where do kernels, batch norm and pooling sit?",
            "Two convolutions (32, 64), ReLU, MaxPool(2), dense layer of 128.",
            "3 × 3 kernels with padding 1; batch norm after each convolution, then pooling, then ReLU "
            "(ReLU before pooling is the same function: the two commute); no batch norm after the dense "
            "layer; PyTorch’s default initialisation; no weight decay, no augmentation.",
            (),
        ),
    ]


def _sampling_words(study: PaperRecords) -> str:
    """Which modes' eigenvalues were estimated from samples, if any."""
    of_samples = [r for r in study.all("top_eigenvalues") if fields(r).is_sampled]
    if not of_samples:
        return ""
    modes = dict.fromkeys(objective_of(r)["batch_norm"] for r in of_samples)
    return (
        f"; with {' and '.join(modes)} statistics of samples of the examples, weighted to be unbiased for all"
    )


def _by_mode(study: PaperRecords, symbol: str, measure: str, wanted: dict[str, Any]) -> tuple[str, ...]:
    lines = []
    for model in BATCH_NORM_MODELS:
        found = [(mode, study.find(measure, model, mode, **wanted)) for mode in MODES]
        each = [f"{mode} {format_number(r.measurement.value)}" for mode, r in found if r]
        if each:
            lines.append(f"{symbol}({model}): {', '.join(each)}{_paper_aside(measure, model)}")
    return tuple(lines)


def _paper_aside(measure: str, model: str) -> str:
    value = paper_value(measure, model)
    return "" if value is None else f" (paper {value:g})"


def _schedule_words(study: PaperRecords) -> str:
    record = study.find("train", BATCH_NORM_MODELS[0])
    provenance = record.measurement.provenance if record else {}
    step, factor = provenance.get("step_size", 2), provenance.get("gamma", 0.5)
    return f"Step {step}, factor {factor:g}: the rate is multiplied by {factor:g} after every {step} epochs."


def _learning_rates(study: PaperRecords) -> tuple[str, ...]:
    record = study.find("train", BATCH_NORM_MODELS[0])
    if record is None:
        return ()
    rates = [f"{float(rate):g}" for rate in fields(record).learning_rate[1:]]
    return (f"As trained, epoch by epoch: {', '.join(rates)}",) if rates else ()


def _calibration_words(study: PaperRecords) -> str:
    """The calibration set of each measure, as far as the records tell."""
    model, pair = BATCH_NORM_MODELS[0], "-".join(BATCH_NORM_MODELS)
    asked = (
        ("λmax", study.find("top_eigenvalues", model, "recalibrated")),
        ("S", study.find("sam_sharpness", model, "recalibrated")),
        ("S on single batches", study.find("sam_sharpness_spread", model, "recalibrated")),
        ("slices", study.find("line_slice", model, "recalibrated")),
        ("path on training data", study.find("linear_path", pair, "recalibrated", split="train")),
        ("path on test data", study.find("linear_path", pair, "recalibrated", split="test")),
    )
    words = []
    for name, record in asked:
        if record and (n := num_calibration_examples(study, record)):
            same = objective_of(record)["calibration_data"] == objective_of(record)["data"]
            words.append(f"{name}, the {n:,} measured" if same else f"{name}, {n:,} training examples")
    return f": {'; '.join(words)}" if words else ""


def _plain_sharpness(study: PaperRecords) -> tuple[str, ...]:
    record = study.find("sam_sharpness", PLAIN_MODEL, num_steps=one_step)
    if record is None:
        return ()
    value = format_number(record.measurement.value)
    return (f"S({PLAIN_MODEL}), one step: {value}{_paper_aside('sam_sharpness', PLAIN_MODEL)}",)


def _by_steps(study: PaperRecords) -> tuple[str, ...]:
    lines = []
    for model in MODELS:
        each = []
        for mode in MODES if model != PLAIN_MODEL else MODES[:1]:
            one = study.find("sam_sharpness", model, mode, num_steps=one_step)
            several = study.find("sam_sharpness", model, mode, num_steps=several_steps)
            if one and several:
                where = f"{mode} " if model != PLAIN_MODEL else ""
                values = [format_number(r.measurement.value) for r in (one, several)]
                each.append(f"{where}{values[0]} → {values[1]}")
        if each:
            lines.append(f"S({model}), one step → several: {', '.join(each)}")
    return tuple(lines)


def _by_data(study: PaperRecords) -> tuple[str, ...]:
    lines = []
    for model in MODELS:
        whole = study.find("sam_sharpness", model, MODES[0], num_steps=one_step)
        if whole is None:
            continue
        words = [f"{format_number(whole.measurement.value)} on {data_words(whole)}"]
        for size in batch_sizes(study):
            spread = study.find("sam_sharpness_spread", model, MODES[0], batch_size=size)
            if spread:
                samples = torch.as_tensor(fields(spread).samples).double()
                words.append(
                    f"{format_number(float(samples.min()))} to {format_number(float(samples.max()))} on "
                    f"batches of {size}"
                )
        if len(words) > 1:
            where = MODES[0] if model != PLAIN_MODEL else "no batch norm"
            lines.append(f"S({model}), {where}: {'; '.join(words)}")
    return tuple(lines)


def _slice_words(study: PaperRecords) -> str:
    found = study.all("line_slice")
    if not found:
        return "Filter-normalised Gaussian directions; not measured in this run."
    result = fields(found[0])
    span = f"α from {float(result.alphas[0]):g} to {float(result.alphas[-1]):g}".replace("-", MINUS)
    return (
        f"{result.num_directions} Gaussian directions, filter-normalised, {span} at {len(result.alphas)} "
        f"points, on {data_words(found[0])}; a band shows how much the direction matters."
    )

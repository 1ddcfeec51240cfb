"""A made-up study, shaped like the paper's: no number in it was measured on anything."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from thalweg.core.measurement import ErrorBudget, Measurement, StandardError
from thalweg.measures.connectivity.linear_path import LinearPath
from thalweg.measures.curvature.top_eigenvalues import TopEigenvalues
from thalweg.measures.sharpness.sam_sharpness import SamSharpness
from thalweg.measures.sharpness.sam_sharpness_spread import SamSharpnessSpread
from thalweg.measures.surfaces.line import LineSlice
from thalweg.report.paper_report import write_paper_report
from thalweg.study.store import Record
from thalweg.training.trajectory import TrainingHistory

EIGENVALUES = {"A1": (88.4, 88.6, 52.1), "A2": (91.0, 91.2, 55.0), "B": (41.3,) * 3}
SHARPNESS = {"A1": (0.131, 0.131, 0.091), "A2": (0.128, 0.127, 0.094), "B": (0.0842,) * 3}
BARRIERS = (1.44, 1.02, 1.08)
MODES = ("running", "recalibrated", "batch")


def provenance(
    mode: str, model: str, n: int, split: str = "train", num_calibration: int | None = None, **rest
) -> dict:
    described = {
        "batch_norm": mode,
        "num_examples": n,
        "batch_size": 128,
        "micro_batch": 128,
        "dtype": "float32",
        "device": "cpu",
        "loss": "cross_entropy",
        "params": f"hash-of-{model}-params",
        "data": f"hash-of-{n}-{split}-examples",
    }
    if mode == "recalibrated":
        described["calibration_data"] = f"hash-of-{num_calibration or n}-train-examples"
    return {"function": "thalweg", "objective": described, "seed": 0, **rest}


def training(model: str, num_epochs: int = 6) -> TrainingHistory:
    rate = 0.9 if model == "B" else 1.3
    shift = {"A1": 0.0, "A2": 0.004, "B": 0.0}[model]
    epochs = torch.arange(num_epochs + 1)
    t = epochs.double()
    floor = 0.24 if model == "B" else 0.14
    train_loss = (2.31 - floor) * torch.exp(-rate * t) + floor + 0.22 * torch.exp(-t / 3) * (t > 0)
    test_loss = train_loss + 0.05 * (1 - torch.exp(-t / 2))
    final = 0.894 if model == "B" else 0.915
    test_accuracy = final + shift - (final - 0.1) * torch.exp(-1.6 * rate * t)
    return TrainingHistory(
        value=float(test_accuracy[-1]),
        provenance=provenance("running", model, 60_000, epochs=num_epochs, num_test_examples=10_000),
        epochs=epochs,
        train_loss=train_loss,
        train_accuracy=test_accuracy + 0.02 * (1 - torch.exp(-t)),
        test_loss=test_loss,
        test_accuracy=test_accuracy,
        learning_rate=0.01 * 0.5 ** torch.div(epochs, 2, rounding_mode="floor"),
    )


def eigenvalue(model: str, mode: str, n: int = 60_000) -> TopEigenvalues:
    value = EIGENVALUES[model][MODES.index(mode)]
    return TopEigenvalues(
        value=value,
        error=ErrorBudget(solver=1e-3 * value),
        provenance=provenance(mode, model, n, rtol=1e-3, of="hessian"),
        eigenvalues=torch.tensor([value], dtype=torch.float64),
        eigenvectors=torch.zeros(5, 1),
        residuals=torch.tensor([1e-3 * value], dtype=torch.float64),
        num_matvecs=31,
        num_subset_matvecs=64,
        lower_bound=value - 1e-4 * value,
        upper_bound=value * 1.012,
        confidence=0.99,
    )


def sharpness(model: str, mode: str, num_steps: int) -> SamSharpness:
    value = SHARPNESS[model][MODES.index(mode)] * (1 if num_steps == 1 else 1.06)
    restarts = 1 if num_steps == 1 else 3
    return SamSharpness(
        value=value,
        error=ErrorBudget(),
        provenance=provenance(mode, model, 60_000, radius=0.05),
        radius=0.05,
        num_steps=num_steps,
        num_restarts=restarts,
        gradient_norm=0.3,
        loss=0.2,
        restart_values=value * torch.linspace(0.96, 1, restarts, dtype=torch.float64),
        perturbation=torch.zeros(5),
    )


def spread(model: str, mode: str, batch_size: int) -> SamSharpnessSpread:
    rng = torch.Generator().manual_seed(batch_size + len(mode))
    mean = SHARPNESS[model][MODES.index(mode)] * (1.15 if batch_size == 128 else 1.04)
    width = 0.22 * (128 / batch_size) ** 0.5
    samples = mean * torch.exp(width * torch.randn(64, generator=rng, dtype=torch.float64))
    return SamSharpnessSpread(
        value=float(samples.mean()),
        error=ErrorBudget(data=StandardError(float(samples.std()) / 8, 63)),
        provenance=provenance(mode, model, 50_000, num_calibration=60_000, radius=0.05),
        batch_size=batch_size,
        radius=0.05,
        num_steps=1,
        samples=samples,
    )


def line(model: str, mode: str, normalisation: str = "filter") -> LineSlice:
    alphas = torch.linspace(-1, 1, 21, dtype=torch.float64)
    steep = {"A1": 3.2, "A2": 3.0, "B": 2.1}[model] * (0.6 if mode == "recalibrated" and model != "B" else 1)
    steeps = steep * torch.tensor([[0.8], [1.0], [1.25]], dtype=torch.float64)
    losses = 0.17 + steeps * alphas**2 + 0.1 * alphas**3
    accuracies = 0.1 + 0.84 * torch.exp(-0.5 * steeps * alphas**2)
    return LineSlice(
        value=0.17,
        error=ErrorBudget(data=StandardError(0.004)),
        provenance=provenance(mode, model, 10_000),
        alphas=alphas,
        losses=losses.mean(0),
        accuracies=accuracies.mean(0),
        penalties=torch.zeros_like(alphas),
        losses_by_direction=losses,
        accuracies_by_direction=accuracies,
        loss_standard_errors=0.006 + 0.01 * alphas.abs(),
        rise_standard_errors=0.01 * alphas.abs(),
        accuracy_standard_errors=0.01 * alphas.abs(),
        dof=9_999,
        evaluated=torch.ones(21, dtype=torch.bool),
        interpolation_errors=torch.zeros_like(alphas),
        num_examples=10_000,
        num_example_losses=10_000 * 61,
        direction_names=("random 0", "random 1", "random 2"),
        direction_norms=torch.tensor([20.0, 20.0, 20.0], dtype=torch.float64),
        direction_cosines=torch.eye(3, dtype=torch.float64),
        directions=torch.ones(4, 3),
        normalisation=normalisation,
        ignore="bias_and_norm",
        num_directions=3,
    )


def path(mode: str, split: str) -> LinearPath:
    alphas = torch.linspace(0, 1, 21, dtype=torch.float64)
    height = BARRIERS[MODES.index(mode)] * (1.02 if split == "test" else 1)
    base = 0.17 if split == "train" else 0.25
    losses = base + 0.02 * alphas + height * 16 * (alphas * (1 - alphas)) ** 2
    top = 0.94 if split == "train" else 0.914
    return LinearPath(
        value=height,
        error=ErrorBudget(solver=0.004, data=StandardError(0.01, 9_999)),
        provenance=provenance(mode, "A1", 10_000, split=split),
        alphas=alphas,
        losses=losses,
        accuracies=top - 0.5 * 16 * (alphas * (1 - alphas)) ** 2,
        penalties=torch.zeros_like(alphas),
        loss_standard_errors=torch.full_like(alphas, 0.008),
        barrier=height,
        barrier_over_mean=height,
        barrier_alpha=0.5,
    )


def made_up_study() -> list[Record]:
    """Every record the paper's study holds."""
    results: list[tuple[Measurement, dict]] = []
    for model in ("A1", "A2", "B"):
        results.append((training(model), {"model": model, "split": "train"}))
        for mode in MODES if model != "B" else MODES[:1]:
            labels = {"model": model, "split": "train"}
            results.append((eigenvalue(model, mode), labels))
            results += [(sharpness(model, mode, steps), labels) for steps in (1, 8)]
            results += [(spread(model, mode, size), labels) for size in (128, 512)]
            results += [(line(model, mode, n), labels | {"normalisation": n}) for n in ("filter", "raw")]
    for mode in MODES:
        results += [(path(mode, split), {"model": "A1-A2", "split": split}) for split in ("train", "test")]
    seconds = {"train": 110.0, "top_eigenvalues": 300.0, "line_slice": 40.0, "linear_path": 25.0}
    return [
        Record(
            run="0f3a9c",
            task=f"task{i}",
            content=result.to_dict(),
            labels=labels,
            seconds=seconds.get(result.measure, 8.0),
            host="elsewhere",
            versions={"thalweg": "0.1.0", "torch": "2.13.0"},
            num_threads=2,
        )
        for i, (result, labels) in enumerate(results)
    ]


@pytest.fixture
def study() -> SimpleNamespace:
    """The factories above and the `records` they make."""
    return SimpleNamespace(records=made_up_study(), **{k: v for k, v in globals().items() if callable(v)})


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with the report of the whole made-up study; seconds to write, so written once."""
    out = tmp_path_factory.mktemp("run")
    (out / "records.jsonl").write_text("")
    settings = {"train": {"epochs": 6, "batch_size": 128}, "seed <0>": [1, 2, 3]}
    write_paper_report(made_up_study(), out, preset="paper", settings=settings)
    return out


BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


@pytest.fixture(scope="session")
def browser():
    """Headless Chromium; skipped with the reason where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    executable = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if executable is None:
        pytest.skip(f"no Chromium on the path (looked for {', '.join(BROWSERS)}); the page was not opened")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(
            executable_path=executable, args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        )
        yield chromium
        chromium.close()

"""The paper's study as tasks: three networks trained, then everything the paper measures, in each mode."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from thalweg.core.measurement import Measurement
from thalweg.core.progress import Progress
from thalweg.measures.connectivity.linear_path import linear_path
from thalweg.measures.curvature.top_eigenvalues import TopEigenvalues, top_eigenvalues
from thalweg.measures.sharpness.sam_sharpness import sam_sharpness
from thalweg.measures.sharpness.sam_sharpness_spread import sam_sharpness_spread
from thalweg.measures.surfaces.line import line_slice
from thalweg.models.registry import build_model
from thalweg.objective.batch_norm import MODES, BatchNormMode
from thalweg.objective.examples import Examples
from thalweg.objective.objective import Objective
from thalweg.study.paper_settings import PaperSettings
from thalweg.study.runner import Task, resolved
from thalweg.study.store import Store, run_id, versions
from thalweg.training.checkpoint import load_weights
from thalweg.training.trainer import WEIGHTS_FILE, TrainConfig, seconds_spent, train

# Section 3.2: the model's name in the paper, ours, and its seed.
NETWORKS: dict[str, tuple[str, int]] = {
    "A1": ("small_cnn_bn", 1),
    "A2": ("small_cnn_bn", 2),
    "B": ("small_cnn", 3),
}

# Of them the paper reports eigenvalues and draws slices.
COMPARED = ("A1", "B")

# Of the measures' own random streams; the networks' seeds are above.
MEASURE_SEED = 0

LOSS = "cross_entropy"

# Steps, of some 28 ms each: a kill costs at most three seconds, and a checkpoint's 10 ms are 0.4 % of them.
CHECKPOINT_EVERY = 100

Data = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Subject:
    """What an objective of a given network is about; with the run and the arguments it decides a result.

    Parameters
    ----------
    split
        ``"train"`` or ``"test"``.
    num_examples
        How many of its examples, from the first.
    batch_norm
        The mode.
    num_calibration_examples
        Of the training data, from the first; None where the mode does not recalibrate.
    """

    split: str
    num_examples: int
    batch_norm: BatchNormMode
    num_calibration_examples: int | None


@dataclass(frozen=True)
class PaperStudy:
    """The study on given data, in a given folder.

    Parameters
    ----------
    settings
        The preset.
    train_data, test_data
        Images ``(N, 1, 28, 28)`` and classes ``(N,)``.
    out
        Folder of the records, the checkpoints and the report.
    device
        Where the networks live.
    """

    settings: PaperSettings
    train_data: Data
    test_data: Data
    out: Path
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def tasks(self) -> list[Task]:
        """Everything, in the order it is run: cheap results first, so that an early look shows much."""
        return [
            *(self._training(model) for model in NETWORKS),
            *(
                task
                for model in NETWORKS
                for mode in self._modes(model)
                for task in self._sharpness(model, mode)
            ),
            *(self._path(split, mode) for split in ("train", "test") for mode in MODES),
            *(self._slice(model, mode) for model in COMPARED for mode in self._modes(model)),
            *(self._eigenvalues(model, mode) for model in COMPARED for mode in self._modes(model)),
        ]

    # -- the networks ---------------------------------------------------------------------------------

    def _modes(self, model: str) -> tuple[BatchNormMode, ...]:
        # Without batch norm the three are one function.
        return MODES if NETWORKS[model][0] == "small_cnn_bn" else ("running",)

    def _train_config(self, model: str) -> TrainConfig:
        t = self.settings.training
        return TrainConfig(
            seed=NETWORKS[model][1],
            epochs=t.epochs,
            lr=t.learning_rate,
            momentum=t.momentum,
            batch_size=t.batch_size,
            step_size=t.step_size,
            gamma=t.gamma,
        )

    @cached_property
    def _data_hashes(self) -> dict[str, str]:
        return {"train_data": Examples(self.train_data).hash, "test_data": Examples(self.test_data).hash}

    def _run(self, model: str) -> str:
        name, _ = NETWORKS[model]
        return run_id(
            {
                "model": name,
                "training": self._train_config(model).describe(),
                "loss": LOSS,
                **self._data_hashes,
                "device": self.device.type,
                "dtype": str(torch.get_default_dtype()),
                # Other code may give other numbers. So a new version of either does the study again, beside
                # the records of the old, and never goes on from its networks.
                "versions": {name: versions()[name] for name in ("thalweg", "torch")},
            }
        )

    def _checkpoint_dir(self, model: str) -> Path:
        return self.out / "checkpoints" / f"{model}-{self._run(model)}"

    def _training(self, model: str) -> Task:
        folder, config = self._checkpoint_dir(model), self._train_config(model)

        def compute(progress: Progress) -> Measurement:
            return train(
                build_model(*NETWORKS[model]).to(self.device),
                self.train_data,
                self.test_data,
                config,
                loss=LOSS,
                checkpoint_dir=folder,
                checkpoint_every=CHECKPOINT_EVERY,
                progress=progress,
            )

        num_train, num_test = len(self.train_data[0]), len(self.test_data[0])
        cost = config.epochs * 3 * num_train + (config.epochs + 1) * (num_train + num_test)
        # The run says all that decides it.
        labels = {"model": model, "split": "train"}
        return Task(self._run(model), "train", labels, {}, cost, compute, lambda: seconds_spent(folder))

    # -- what is measured -----------------------------------------------------------------------------

    def _subject(
        self,
        mode: BatchNormMode,
        num_examples: int | None,
        split: str = "train",
        num_calibration_examples: int | None = None,
    ) -> Subject:
        """The first so many examples, all if None; calibrated on as many of training unless told."""

        def available(split: str, wanted: int | None) -> int:
            size = len((self.train_data if split == "train" else self.test_data)[0])
            return size if wanted is None else min(wanted, size)

        size = available(split, num_examples)
        calibration = available("train", num_calibration_examples or size) if mode == "recalibrated" else None
        return Subject(split, size, mode, calibration)

    def _objective(self, model: str, subject: Subject) -> Objective:
        def first(data: Data, n: int) -> Data:
            return data[0][:n], data[1][:n]

        network = build_model(*NETWORKS[model])
        load_weights(self._checkpoint_dir(model) / WEIGHTS_FILE, network)
        calibration = subject.num_calibration_examples
        return Objective(
            network.to(self.device).eval(),
            first(self.train_data if subject.split == "train" else self.test_data, subject.num_examples),
            LOSS,
            batch_norm=subject.batch_norm,
            batch_size=self.settings.training.batch_size,
            calibration_data=None if calibration is None else first(self.train_data, calibration),
        )

    def _task(
        self,
        models: tuple[str, ...],
        measure: Callable[..., Measurement],
        subject: Subject,
        arguments: Mapping[str, Any],
        cost: float,
        compute: Callable[[Progress], Measurement],
    ) -> Task:
        runs = [self._run(model) for model in models]
        run = runs[0] if len(runs) == 1 else run_id({"runs": runs})
        labels = {"model": "-".join(models), "split": subject.split, "batch_norm": subject.batch_norm}
        decisive = {**resolved(measure, arguments), "objective": dataclasses.asdict(subject)}
        return Task(run, measure.__name__, labels, decisive, cost, compute)

    # -- the measures ---------------------------------------------------------------------------------

    def _eigenvalues(self, model: str, mode: BatchNormMode) -> Task:
        settings = self.settings.curvature
        # Of batch statistics the units are whole batches, which scatter so much that all would be drawn.
        sampled = settings.sampled_rtol is not None and mode != "batch"
        # Running and recalibrated statistics all but agree on training data: one starts from the other.
        first = self._eigenvalues(model, "running") if mode == "recalibrated" else None
        arguments = {
            "k": 1,
            "which": "top",
            "rtol": settings.sampled_rtol if sampled else settings.rtol,
            # A certificate on all the data would take as long as all samples together, several times.
            "certify_rtol": settings.certify_rtol if sampled or settings.sampled_rtol is None else None,
            # The level of every interval of the report is 95 per cent; of samples each limit fails by itself.
            "confidence": 0.975 if sampled else 0.95,
            "sampled": sampled,
            "levels": settings.levels if first is None else None,
            "seed": MEASURE_SEED,
        }
        subject = self._subject(mode, settings.num_examples)

        def compute(progress: Progress) -> Measurement:
            start = None if first is None else self._eigenvector(first)
            objective = self._objective(model, subject)
            return top_eigenvalues(objective, **arguments, start=start, progress=progress)

        cost = subject.num_examples * (20 if sampled else 75 if first is None else 45)
        # The vectors themselves are not known yet; what they come from is.
        decisive = {**arguments, "start": first and first.key}
        return self._task((model,), top_eigenvalues, subject, decisive, cost, compute)

    def _eigenvector(self, task: Task) -> Tensor:
        for record in Store(self.out).records():
            result = record.measurement if record.task == task.key else None
            if isinstance(result, TopEigenvalues) and result.eigenvectors is not None:
                return result.eigenvectors
        raise LookupError(f"{task.title} must be recorded before what starts from its eigenvector.")

    def _sharpness(self, model: str, mode: BatchNormMode) -> list[Task]:
        settings = self.settings.sharpness
        subject = self._subject(mode, settings.num_examples)
        objective = cache(lambda: self._objective(model, subject))
        passes = 2 if mode == "recalibrated" else 1
        tasks = []
        for num_steps, num_restarts in dict.fromkeys([(1, 1), (settings.num_steps, settings.num_restarts)]):
            arguments = {
                "radius": settings.radius,
                "num_steps": num_steps,
                "num_restarts": num_restarts,
                "seed": MEASURE_SEED,
            }
            cost = subject.num_examples * (1 + 3 + (4 * passes) * num_steps * num_restarts)
            tasks.append(
                self._task(
                    (model,),
                    sam_sharpness,
                    subject,
                    arguments,
                    cost,
                    lambda progress, a=arguments: sam_sharpness(objective(), **a, progress=progress),
                )
            )
        # Batches come from all the training data, their recalibrated statistics from as many as above.
        all_of_it = self._subject(mode, None, num_calibration_examples=settings.num_examples)
        whole = cache(lambda: self._objective(model, all_of_it))
        for batch_size in settings.spread_batch_sizes:
            arguments = {
                "batch_size": batch_size,
                "num_batches": settings.spread_num_batches,
                "radius": settings.radius,
                "num_steps": 1,
                "seed": MEASURE_SEED,
            }
            per_batch = batch_size * 6 + (all_of_it.num_calibration_examples or 0) * 2
            tasks.append(
                self._task(
                    (model,),
                    sam_sharpness_spread,
                    all_of_it,
                    arguments,
                    settings.spread_num_batches * per_batch,
                    lambda progress, a=arguments: sam_sharpness_spread(whole(), **a, progress=progress),
                )
            )
        return tasks

    def _slice(self, model: str, mode: BatchNormMode) -> Task:
        settings = self.settings.slices
        subject = self._subject(mode, settings.num_examples)
        arguments = {
            "num_points": settings.num_points,
            "span": settings.span,
            "num_directions": settings.num_directions,
            "normalisation": "filter",
            "population": True,
            "agreement": False,  # the Hessian is measured by itself
            "seed": MEASURE_SEED,
        }

        def compute(progress: Progress) -> Measurement:
            return line_slice(self._objective(model, subject), **arguments, progress=progress)

        passes = 2 if mode == "recalibrated" else 1
        cost = subject.num_examples * settings.num_points * settings.num_directions * passes
        return self._task((model,), line_slice, subject, arguments, cost, compute)

    def _path(self, split: str, mode: BatchNormMode) -> Task:
        settings, ends = self.settings.path, ("A1", "A2")
        subject = self._subject(mode, settings.num_examples, split)
        arguments = {"num_points": settings.num_points, "population": True}

        def compute(progress: Progress) -> Measurement:
            a, b = (self._objective(model, subject) for model in ends)
            return linear_path(a, b, **arguments, progress=progress)

        cost = subject.num_examples * settings.num_points * (2 if mode == "recalibrated" else 1)
        return self._task(ends, linear_path, subject, arguments, cost, compute)

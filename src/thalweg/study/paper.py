"""The paper's study as tasks: three networks trained, then everything the paper measures, in each mode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.core.measurement import Measurement
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
from thalweg.study.runner import Progress, Task
from thalweg.study.store import Store, run_id
from thalweg.training.checkpoint import load_weights
from thalweg.training.trainer import WEIGHTS_FILE, TrainConfig, train

# Section 3.2: the model's name in the paper, ours, and its seed.
NETWORKS: dict[str, tuple[str, int]] = {
    "A1": ("small_cnn_bn", 1),
    "A2": ("small_cnn_bn", 2),
    "B": ("small_cnn", 3),
}

# Of the measures' own random streams; the networks' seeds are above.
MEASURE_SEED = 0

Data = tuple[Tensor, Tensor]


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
            *(self._slice(model, mode) for model in NETWORKS for mode in self._modes(model)),
            *(self._eigenvalues(model, mode) for model in ("A1", "B") for mode in self._modes(model)),
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
        name, seed = NETWORKS[model]
        return run_id(
            {
                "model": name,
                "seed": seed,
                "training": self.settings.training.model_dump(),
                **self._data_hashes,
                "device": self.device.type,
            }
        )

    def _checkpoint_dir(self, model: str) -> Path:
        return self.out / "checkpoints" / f"{model}-{self._run(model)}"

    def _training(self, model: str) -> Task:
        name, seed = NETWORKS[model]

        def compute(progress: Progress) -> Measurement:
            network = build_model(name, seed).to(self.device)
            return train(
                network,
                self.train_data,
                self.test_data,
                self._train_config(model),
                checkpoint_dir=self._checkpoint_dir(model),
                progress=progress,
            )

        num_train, num_test = len(self.train_data[0]), len(self.test_data[0])
        t = self.settings.training
        cost = t.epochs * 3 * num_train + (t.epochs + 1) * (num_train + num_test)
        return self._task(model, "train", {"model": model, "split": "train"}, {}, cost, compute)

    def _network(self, model: str) -> nn.Module:
        network = build_model(*NETWORKS[model])
        load_weights(self._checkpoint_dir(model) / WEIGHTS_FILE, network)
        return network.to(self.device).eval()

    def _objective(
        self,
        model: str,
        mode: BatchNormMode,
        size: int | None,
        split: str = "train",
        calibration_size: int | None = None,
    ) -> Objective:
        """The first `size` examples of a split, calibrated on as many of training unless told otherwise."""
        return Objective(
            self._network(model),
            _first(self.train_data if split == "train" else self.test_data, size),
            batch_norm=mode,
            batch_size=self.settings.training.batch_size,
            calibration_data=_first(self.train_data, calibration_size or size),
        )

    # -- the measures ---------------------------------------------------------------------------------

    def _eigenvalues(self, model: str, mode: BatchNormMode) -> Task:
        settings = self.settings.curvature
        arguments = {
            "k": 1,
            "which": "top",
            "rtol": settings.rtol,
            "certify_rtol": settings.certify_rtol,
            "seed": MEASURE_SEED,
        }
        labels = {"model": model, "split": "train", "batch_norm": mode}

        def compute(progress: Progress) -> Measurement:
            start = (
                self._running_eigenvector(model, settings.num_examples) if mode == "recalibrated" else None
            )
            objective = self._objective(model, mode, settings.num_examples)
            return top_eigenvalues(objective, **arguments, start=start, progress=progress)

        size = settings.num_examples or len(self.train_data[0])
        # Running and recalibrated statistics all but agree on training data: one starts from the other.
        cost = size * (45 if mode == "recalibrated" else 75)
        return self._task(model, "top_eigenvalues", labels, {**arguments, "examples": size}, cost, compute)

    def _running_eigenvector(self, model: str, num_examples: int | None) -> Tensor | None:
        wanted = self._eigenvalues(model, "running").key
        for record in Store(self.out).records():
            if record.task == wanted and isinstance(record.measurement, TopEigenvalues):
                return record.measurement.eigenvectors
        return None

    def _sharpness(self, model: str, mode: BatchNormMode) -> list[Task]:
        settings = self.settings.sharpness
        size = min(settings.num_examples, len(self.train_data[0]))
        labels = {"model": model, "split": "train", "batch_norm": mode}
        objective = cache(lambda: self._objective(model, mode, size))
        passes = 2 if mode == "recalibrated" else 1
        tasks = []
        for num_steps, num_restarts in dict.fromkeys([(1, 1), (settings.num_steps, settings.num_restarts)]):
            arguments = {
                "radius": settings.radius,
                "num_steps": num_steps,
                "num_restarts": num_restarts,
                "seed": MEASURE_SEED,
            }
            cost = size * (1 + 3 + (4 * passes) * num_steps * num_restarts)
            tasks.append(
                self._task(
                    model,
                    "sam_sharpness",
                    labels,
                    {**arguments, "examples": size},
                    cost,
                    lambda progress, a=arguments: sam_sharpness(objective(), **a, progress=progress),
                )
            )
        # Batches come from all the training data, their recalibrated statistics from as many as above.
        whole = cache(lambda: self._objective(model, mode, None, calibration_size=size))
        for batch_size in settings.spread_batch_sizes:
            arguments = {
                "batch_size": batch_size,
                "num_batches": settings.spread_num_batches,
                "radius": settings.radius,
                "num_steps": 1,
                "seed": MEASURE_SEED,
            }
            cost = batch_size * settings.spread_num_batches * 6
            if mode == "recalibrated":
                cost += size * settings.spread_num_batches * 2
            tasks.append(
                self._task(
                    model,
                    "sam_sharpness_spread",
                    labels,
                    arguments,
                    cost,
                    lambda progress, a=arguments: sam_sharpness_spread(whole(), **a, progress=progress),
                )
            )
        return tasks

    def _slice(self, model: str, mode: BatchNormMode) -> Task:
        settings = self.settings.slices
        size = min(settings.num_examples, len(self.train_data[0]))
        arguments = {
            "num_points": settings.num_points,
            "span": settings.span,
            "num_directions": settings.num_directions,
            "normalisation": "filter",
            "population": True,
            "seed": MEASURE_SEED,
        }
        labels = {"model": model, "split": "train", "batch_norm": mode}
        cost = size * settings.num_points * settings.num_directions * (2 if mode == "recalibrated" else 1)

        def compute(progress: Progress) -> Measurement:
            return line_slice(self._objective(model, mode, size), **arguments, progress=progress)

        return self._task(model, "line_slice", labels, {**arguments, "examples": size}, cost, compute)

    def _path(self, split: str, mode: BatchNormMode) -> Task:
        settings = self.settings.path
        arguments = {"num_points": settings.num_points, "population": True}
        available = self.train_data if split == "train" else self.test_data
        size = min(settings.num_examples, len(available[0]))
        labels = {"model": "A1-A2", "split": split, "batch_norm": mode}

        def compute(progress: Progress) -> Measurement:
            a, b = (self._objective(model, mode, size, split) for model in ("A1", "A2"))
            return linear_path(a, b, **arguments, progress=progress)

        cost = size * settings.num_points * (2 if mode == "recalibrated" else 1)
        return self._task("A1-A2", "linear_path", labels, {**arguments, "examples": size}, cost, compute)

    def _task(
        self,
        model: str,
        measure: str,
        labels: Mapping[str, Any],
        arguments: Mapping[str, Any],
        cost: float,
        compute: Callable[[Progress], Measurement],
    ) -> Task:
        runs = [self._run(m) for m in model.split("-")]
        run = runs[0] if len(runs) == 1 else run_id({"runs": runs})
        return Task(run, measure, labels, arguments, cost, compute)


def _first(data: Data, size: int | None) -> Data:
    return data if size is None else (data[0][:size], data[1][:size])

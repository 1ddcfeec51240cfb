"""A study's networks: which runs there are, on which data, and where their weights lie."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thalweg.core.identity import code_identity
from thalweg.core.imports import import_callable
from thalweg.core.sources import source_identity
from thalweg.data.label_noise import with_label_noise
from thalweg.data.registry import load_train_test
from thalweg.models.initial_scale import scale_initial_weights
from thalweg.models.registry import build_model, model_names
from thalweg.objective.batch_norm import BatchNormMode, batch_norm_layers
from thalweg.objective.examples import Examples, read_examples
from thalweg.objective.losses import NAMED, Loss
from thalweg.objective.objective import Objective
from thalweg.study.grid import Settings
from thalweg.study.moments import START, Moment
from thalweg.study.shared_runs import Origin, branch_off, origins
from thalweg.study.spec import StudySpec
from thalweg.study.store import run_id, same_result, versions
from thalweg.study.table import ANY_MODE
from thalweg.training.branch import Branch, check_kept, kept_checkpoint
from thalweg.training.checkpoint import Checkpoint, load_weights
from thalweg.training.config import TrainConfig
from thalweg.training.loss_reached import reached_file
from thalweg.training.trainer import CHECKPOINT_FILE, HISTORY_FILE, WEIGHTS_FILE

# Of which labels are wrong: the same ones in every run.
NOISE_SEED = 0


@dataclass(frozen=True)
class PlannedRun:
    """One network: a setting and a seed.

    Parameters
    ----------
    settings, seed
        What it is trained with.
    run
        Its identity, a hash of all that decides its weights.
    has_batch_norm
        Whether the modes are different functions.
    """

    settings: Settings
    seed: int
    run: str
    has_batch_norm: bool

    @property
    def labels(self) -> dict[str, Any]:
        """Its fields and its seed."""
        return {**self.settings.fields, "seed": self.seed}

    def is_where(self, where: Mapping[str, Any]) -> bool:
        """Whether its fields are these."""
        return all(self.settings.fields[field] == value for field, value in where.items())


@dataclass(frozen=True)
class StudyNetworks:
    """The networks of a study.

    Parameters
    ----------
    spec
        The study file.
    out
        Folder of the checkpoints.
    data_root
        Where a named data set's files are; None for the cache.
    device
        Where the networks live.
    """

    spec: StudySpec
    out: Path
    data_root: Path | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @cached_property
    def runs(self) -> list[PlannedRun]:
        """Every setting with every seed, seeds outermost."""
        return [self._planned(s, seed) for seed in self.spec.seeds for s in self.spec.settings]

    @cached_property
    def moments(self) -> list[Moment]:
        """When runs are measured."""
        return self.spec.moments_of(None)

    @cached_property
    def _data(self) -> tuple[Examples, Examples]:
        train_data, test_data = load_train_test(self.spec.data.name, self.data_root)
        if test_data is None:
            raise ValueError(
                "`data` must give test data as well, for the gap of every network; let "
                f"{self.spec.data.name} return the pair (train, test)."
            )
        return read_examples(train_data)[0], first_examples(
            read_examples(test_data)[0], self.spec.data.num_test
        )

    @property
    def test_data(self) -> Examples:
        """The first so many of the test data, the same for all."""
        return self._data[1]

    @cached_property
    def _variants(self) -> dict[tuple[int | None, float], Examples]:
        return {}

    def train_data(self, settings: Settings) -> Examples:
        key = settings.data["num_train"], settings.data["label_noise"]
        if key not in self._variants:
            first = first_examples(self._data[0], key[0])
            self._variants[key] = (
                Examples(tuple(with_label_noise(first.batch, key[1], seed=NOISE_SEED))) if key[1] else first
            )
        return self._variants[key]

    @cached_property
    def loss(self) -> Loss:
        name = self.spec.loss
        return name if name in NAMED else import_callable(name, "loss", tuple(NAMED))  # type: ignore[return-value]

    def build(self, settings: Settings, seed: int) -> nn.Module:
        built = build_model(self.spec.models[settings.model].build, seed, **settings.arguments)
        return scale_initial_weights(built, settings.init_scale)

    def _planned(self, settings: Settings, seed: int) -> PlannedRun:
        architecture = self._architecture(settings)
        configuration = {
            "model": architecture[0],
            "training": self.train_config(settings, seed).describe(),
            "loss": self._loss_identity,
            "train_data": self.train_data(settings).hash,
            "test_data": self.test_data.hash,
            "device": self.device.type,
            "dtype": str(torch.get_default_dtype()),
            # Other code may give other numbers, so that new versions train anew.
            "versions": {name: versions()[name] for name in ("thalweg", "torch")},
            **({} if settings.init_scale == 1 else {"init_scale": settings.init_scale}),
        }
        return PlannedRun(settings, seed, run_id(configuration), architecture[1])

    @cached_property
    def _loss_identity(self) -> Any:
        name = self.spec.loss
        return name if name in NAMED else [name, code_identity(self.loss), source_identity(self.loss)]

    @cached_property
    def sources(self) -> dict[str, str]:
        """What runs hang on and no study file holds, by name, each by its hash."""
        settings, data = self.spec.settings, self.spec.data.name
        found = {
            f"the training data of {data}": [self.train_data(s).hash for s in settings],
            f"the test data of {data}": self.test_data.hash,
            f"the code of the loss {self.spec.loss}": self._loss_identity,
            "the versions of thalweg and torch": [versions()[name] for name in ("thalweg", "torch")],
            "the default dtype": str(torch.get_default_dtype()),
        }
        for name, model in self.spec.models.items():
            of_model = [self._architecture(s)[0] for s in settings if s.model == name]
            found[f"the code of {model.build} (model {name})"] = of_model
        return {name: run_id({"of": identity}) for name, identity in found.items()}

    @cached_property
    def _architectures(self) -> dict[str, tuple[dict[str, Any], bool]]:
        return {}

    def _architecture(self, settings: Settings) -> tuple[dict[str, Any], bool]:
        """What identifies the network's code, and whether it has batch norm."""
        key = unit_of(settings)
        if key not in self._architectures:
            build = self.spec.models[settings.model].build
            try:
                network = self.build(settings, 0)
            except (TypeError, ValueError, ImportError) as error:
                raise ValueError(f"study {self.spec.name}: models.{settings.model}: {error}") from error
            identity = {"build": build, "arguments": dict(settings.arguments)}
            if build not in model_names():
                identity["code"] = code_identity(network)
                # The functions that it calls, which its own code does not show.
                identity["source"] = source_identity(network, import_callable(build, "build"))
            self._architectures[key] = identity, bool(batch_norm_layers(network))
        return self._architectures[key]

    def train_config(self, settings: Settings, seed: int) -> TrainConfig:
        return TrainConfig(seed=seed, **settings.training)

    def folder(self, run: PlannedRun) -> Path:
        """Where a run's checkpoints are; others moments are kept elsewhere, by training anew."""
        names = [m.name for m in self.moments]
        looks = [f"loss {loss:g}" for loss in self.spec.looked_for]
        kept = run_id({"moments": sorted({*names, *looks}), "every": self.spec.look_every})
        return self.out / "checkpoints" / f"{run.run}-{kept[:4]}"

    def keep_steps(self, run: PlannedRun) -> list[int]:
        """Whose checkpoints stay: its moments', and what runs that leave it go on from and have kept."""
        steps = set(self._own_steps(run))
        for other in self._leaving.get(run.run, ()):
            step = self.shared_steps(other)
            steps |= {step, *(s for s in self._own_steps(other) if s <= step)}
        return sorted(steps)

    def steps_to_keep(self, run: PlannedRun) -> list[int]:
        """Those of them that can be: a run under way may have passed what others were to go on from."""
        own, checkpoint = self._own_steps(run), self.folder(run) / CHECKPOINT_FILE
        done = Checkpoint.load(checkpoint).header["step"] if checkpoint.exists() else 0
        return [
            step
            for step in self.keep_steps(run)
            if step in own or step > done or kept_checkpoint(self.folder(run), step).exists()
        ]

    def _own_steps(self, run: PlannedRun) -> list[int]:
        per_epoch, epochs = self._steps_per_epoch(run), run.settings.training["epochs"]
        steps = (moment.step(per_epoch, epochs) for moment in self.moments if moment.number is not None)
        return sorted({step for step in steps if step is not None})

    def _steps_per_epoch(self, run: PlannedRun) -> int:
        return -(-self.train_data(run.settings).num_examples // run.settings.training["batch_size"])

    @cached_property
    def _by_id(self) -> dict[str, PlannedRun]:
        return {run.run: run for run in reversed(self.runs)}

    @cached_property
    def _origins(self) -> dict[str, Origin]:
        def rest(run: PlannedRun) -> str:
            s = run.settings
            return json.dumps([unit_of(s), dict(s.data), s.init_scale], sort_keys=True)

        return origins({run.run: (rest(run), self.train_config(run.settings, run.seed)) for run in self.runs})

    @cached_property
    def _leaving(self) -> dict[str, list[PlannedRun]]:
        leaving: dict[str, list[PlannedRun]] = {}
        for run, origin in self._origins.items():
            leaving.setdefault(origin.run, []).append(self._by_id[run])
        return leaving

    def origin(self, run: PlannedRun) -> PlannedRun | None:
        """The run that it is one with until their schedules part; None if it is trained from the start."""
        origin = self._origins.get(run.run)
        return origin and self._by_id[origin.run]

    def shared_steps(self, run: PlannedRun) -> int:
        """Until when."""
        origin = self._origins.get(run.run)
        return origin.epochs * self._steps_per_epoch(run) if origin else 0

    def branch(self, run: PlannedRun) -> Branch | None:
        """Where it leaves that one; None to train from the start."""
        origin = self.origin(run)
        if origin is None:
            return None
        return branch_off(
            self.folder(origin),
            self.folder(run),
            self.shared_steps(run),
            keep_steps=self._own_steps(run),
            losses=self.spec.looked_for,
        )

    def has(self, run: PlannedRun, moment: Moment) -> bool:
        """Whether the network of that moment is there, also where training diverged later on."""
        return moment.name == START or self._weights(run, moment).exists()

    def holds(self, run: PlannedRun, history: Mapping[str, Any]) -> bool:
        """Whether the folder has the networks of the training whose result this is."""
        try:
            there = json.loads((self.folder(run) / HISTORY_FILE).read_text())
        except (OSError, ValueError):
            return False
        # Whether a loss was ever reached is for the training to say.
        kept = (self.has(run, moment) for moment in self.moments if moment.kind != "loss")
        return all(kept) and same_result(there, history)

    def forget_gaps(self, run: PlannedRun) -> None:
        """Remove the checkpoint if one of those from before is gone: from the start, all come again."""
        checkpoint = self.folder(run) / CHECKPOINT_FILE
        if not checkpoint.exists():
            return
        done = Checkpoint.load(checkpoint).header["step"]
        try:
            check_kept(checkpoint.parent, self._own_steps(run), done)
        except ValueError:
            checkpoint.unlink()

    def _weights(self, run: PlannedRun, moment: Moment) -> Path:
        folder = self.folder(run)
        if moment.kind == "loss":
            assert moment.number is not None
            return reached_file(folder, moment.number)
        if moment.number is None:
            return folder / WEIGHTS_FILE
        step = moment.step(self._steps_per_epoch(run), run.settings.training["epochs"])
        return kept_checkpoint(folder, step or 0)

    def network(self, run: PlannedRun, moment: Moment) -> nn.Module:
        weights = self._weights(run, moment)
        if not self.has(run, moment):
            if moment.kind == "loss" and (self.folder(run) / HISTORY_FILE).exists():
                raise ValueError(f"the training loss never came down to {moment.number:g}.")
            # No fault of the network's: the next call trains it anew.
            raise FileNotFoundError(f"the network of {moment.name} is gone: there is no {weights}")
        network = self.build(run.settings, run.seed)
        if moment.name != START:  # which needs no checkpoint
            load_weights(weights, network)
        return network.to(self.device).eval()

    def objective(
        self,
        run: PlannedRun,
        moment: Moment,
        mode: str,
        num_examples: int | None,
        *,
        test: bool = False,
        network: nn.Module | None = None,
    ) -> Objective:
        training = first_examples(self.train_data(run.settings), num_examples)
        return Objective(
            self.network(run, moment) if network is None else network,
            self.test_data if test else training,
            self.loss,
            batch_norm=_mode(mode),
            batch_size=self.spec.objective.batch_size,
            calibration_data=training if mode == "recalibrated" else None,
        )

    def fresh_objective(self, unit: str, num_examples: int) -> Objective:
        """Of the architecture that a task's unit names, as it is initialised: something to time."""
        settings = next(s for s in self.spec.settings if unit_of(s) == unit)
        network = self.build(settings, 0).to(self.device).eval()
        data = self.train_data(settings)
        return Objective(network, first_examples(data, min(num_examples, data.num_examples)), self.loss)

    def num_examples(self, run: PlannedRun, asked: int | None) -> int:
        size = self.train_data(run.settings).num_examples
        return min(size, asked or self.spec.objective.num_examples or size)


def first_examples(examples: Examples, count: int | None) -> Examples:
    if count is None or count == examples.num_examples:
        return examples
    if count > examples.num_examples:
        raise ValueError(
            f"`data` must hold as many examples as are asked for, {count:,}, got {examples.num_examples:,}."
        )
    return _first_of(examples, count)


@functools.lru_cache(maxsize=32)
def _first_of(examples: Examples, count: int) -> Examples:
    # One object, so that its hash is taken once.
    return Examples(examples.slice(0, count))


def _mode(mode: str) -> BatchNormMode:
    return "running" if mode == ANY_MODE else mode  # type: ignore[return-value]


def unit_of(settings: Settings) -> str:
    return json.dumps([settings.model, dict(settings.arguments)], sort_keys=True)

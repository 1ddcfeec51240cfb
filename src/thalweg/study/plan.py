"""A study as tasks: every run of the grid trained, then measured at each moment in each mode."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from thalweg.analyses import ANALYSES
from thalweg.analyses.generalization_gap import generalization_gap
from thalweg.analyses.measure_choice import bounded_at
from thalweg.analyses.sharpness_family import Member
from thalweg.core.identity import code_identity
from thalweg.core.imports import import_callable
from thalweg.core.measurement import Measurement
from thalweg.core.progress import Progress
from thalweg.core.rng import stream_seed
from thalweg.data.label_noise import with_label_noise
from thalweg.data.registry import load_train_test
from thalweg.measures import MEASURES
from thalweg.models.registry import build_model, model_names
from thalweg.objective.batch_norm import BatchNormMode, batch_norm_layers
from thalweg.objective.examples import Examples, read_examples
from thalweg.objective.losses import NAMED, Loss
from thalweg.objective.objective import Objective
from thalweg.operators.folding import without_batch_norm
from thalweg.study.costs import PASSES, PASSES_RECALIBRATED, UNKNOWN
from thalweg.study.grid import Settings
from thalweg.study.moments import Moment
from thalweg.study.runner import Task, resolved
from thalweg.study.spec import PairSpec, StudySpec
from thalweg.study.store import run_id, versions
from thalweg.training.branch import kept_checkpoint
from thalweg.training.checkpoint import load_weights
from thalweg.training.loss_reached import LossReached, reached_file
from thalweg.training.trainer import WEIGHTS_FILE, TrainConfig, seconds_spent, train

# Steps between checkpoints: a kill costs no more than these.
CHECKPOINT_EVERY = 100

# Of which labels are wrong: the same ones in every run.
NOISE_SEED = 0

# Where the three modes are one function.
ANY_MODE = "any"

Chosen = Callable[..., Measurement]


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


@dataclass(frozen=True)
class StudyPlan:
    """A study on given data, in a given folder.

    Parameters
    ----------
    spec
        The study file.
    out
        Folder of records and checkpoints.
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
    def tasks(self) -> list[Task]:
        """Everything, seed by seed, so that a study that is stopped has as many runs of each setting."""
        tasks = []
        for run in self.runs:
            training = self._training(run)
            tasks.append(training)
            for moment in self.spec.moments_of(None):
                for mode in self._modes(run, None):
                    tasks.append(self._gap(run, moment, mode, training))
            for name in self.spec.measures:
                tasks += self._measurements(run, name, training)
        for name, pair in self.spec.pairs.items():
            tasks += self._pairs(name, pair)
        return tasks

    @cached_property
    def runs(self) -> list[PlannedRun]:
        """Every setting with every seed, seeds outermost."""
        return [self._planned(s, seed) for seed in self.spec.seeds for s in self.spec.settings]

    @cached_property
    def _moments(self) -> list[Moment]:
        return self.spec.moments_of(None)

    # -- data and networks ----------------------------------------------------------------------------

    @cached_property
    def _data(self) -> tuple[Examples, Examples]:
        train_data, test_data = load_train_test(self.spec.data.name, self.data_root)
        if test_data is None:
            raise ValueError(
                "`data` must give test data as well, for the gap of every network; let "
                f"{self.spec.data.name} return the pair (train, test)."
            )
        return read_examples(train_data)[0], _first(read_examples(test_data)[0], self.spec.data.num_test)

    @cached_property
    def _variants(self) -> dict[tuple[int | None, float], Examples]:
        return {}

    def _train_data(self, settings: Settings) -> Examples:
        key = settings.data["num_train"], settings.data["label_noise"]
        if key not in self._variants:
            first = _first(self._data[0], key[0])
            self._variants[key] = (
                Examples(tuple(with_label_noise(first.batch, key[1], seed=NOISE_SEED))) if key[1] else first
            )
        return self._variants[key]

    @cached_property
    def _loss(self) -> Loss:
        name = self.spec.loss
        return name if name in NAMED else import_callable(name, "loss", tuple(NAMED))  # type: ignore[return-value]

    def _build(self, settings: Settings, seed: int) -> nn.Module:
        return build_model(self.spec.models[settings.model].build, seed, **settings.arguments)

    def _planned(self, settings: Settings, seed: int) -> PlannedRun:
        architecture = self._architecture(settings)
        configuration = {
            "model": architecture[0],
            "training": dataclasses.asdict(self._train_config(settings, seed)),
            "loss": self.spec.loss if self.spec.loss in NAMED else [self.spec.loss, code_identity(self._loss)],
            "train_data": self._train_data(settings).hash,
            "test_data": self._data[1].hash,
            "device": self.device.type,
            "dtype": str(torch.get_default_dtype()),
            # Other code may give other numbers, so that new versions train anew.
            "versions": {name: versions()[name] for name in ("thalweg", "torch")},
        }
        return PlannedRun(settings, seed, run_id(configuration), architecture[1])

    @cached_property
    def _architectures(self) -> dict[str, tuple[dict[str, Any], bool]]:
        return {}

    def _architecture(self, settings: Settings) -> tuple[dict[str, Any], bool]:
        """What identifies the network's code, and whether it has batch norm."""
        key = _unit(settings)
        if key not in self._architectures:
            build = self.spec.models[settings.model].build
            network = self._build(settings, 0)
            identity = {"build": build, "arguments": dict(settings.arguments)}
            if build not in model_names():
                identity["code"] = code_identity(network)
            self._architectures[key] = identity, bool(batch_norm_layers(network))
        return self._architectures[key]

    def _train_config(self, settings: Settings, seed: int) -> TrainConfig:
        return TrainConfig(seed=seed, **settings.training)

    def folder(self, run: PlannedRun) -> Path:
        """Where a run's checkpoints are; others moments are kept elsewhere, by training anew."""
        kept = run_id({"moments": sorted(m.name for m in self._moments), "every": self.spec.look_every})
        return self.out / "checkpoints" / f"{run.run}-{kept[:4]}"

    def _keep_steps(self, run: PlannedRun) -> list[int]:
        training = run.settings.training
        per_epoch = -(-self._train_data(run.settings).num_examples // training["batch_size"])
        steps = {moment.step(per_epoch, training["epochs"]) for moment in self._moments if moment.number is not None}
        return sorted(step for step in steps if step is not None)

    def _weights(self, run: PlannedRun, moment: Moment) -> Path:
        folder = self.folder(run)
        if moment.kind == "loss":
            assert moment.number is not None
            path = reached_file(folder, moment.number)
            if not path.exists():
                raise ValueError(f"the training loss never came down to {moment.number:g}.")
            return path
        if moment.number is None:
            return folder / WEIGHTS_FILE
        training = run.settings.training
        per_epoch = -(-self._train_data(run.settings).num_examples // training["batch_size"])
        return kept_checkpoint(folder, moment.step(per_epoch, training["epochs"]) or 0)

    def _network(self, run: PlannedRun, moment: Moment) -> nn.Module:
        network = self._build(run.settings, run.seed)
        load_weights(self._weights(run, moment), network)
        return network.to(self.device).eval()

    def _objective(
        self,
        run: PlannedRun,
        moment: Moment,
        mode: str,
        num_examples: int | None,
        *,
        test: bool = False,
        network: nn.Module | None = None,
    ) -> Objective:
        training = _first(self._train_data(run.settings), num_examples)
        return Objective(
            self._network(run, moment) if network is None else network,
            self._data[1] if test else training,
            self._loss,
            batch_norm=_mode(mode),
            batch_size=self.spec.objective.batch_size,
            calibration_data=training if mode == "recalibrated" else None,
        )

    def fresh_objective(self, unit: str, num_examples: int) -> Objective:
        """Of the architecture that a task's unit names, as it is initialised: something to time."""
        settings = next(s for s in self.spec.settings if _unit(s) == unit)
        network = self._build(settings, 0).to(self.device).eval()
        return Objective(network, _first(self._train_data(settings), num_examples), self._loss)

    def _modes(self, run: PlannedRun, asked: Sequence[BatchNormMode] | None) -> list[str]:
        modes = list(self.spec.objective.modes if asked is None else asked)
        return modes if run.has_batch_norm else [ANY_MODE]

    def _num_examples(self, run: PlannedRun, asked: int | None) -> int:
        size = self._train_data(run.settings).num_examples
        return min(size, asked or self.spec.objective.num_examples or size)

    # -- tasks ----------------------------------------------------------------------------------------

    def _training(self, run: PlannedRun) -> Task:
        config, folder = self._train_config(run.settings, run.seed), self.folder(run)
        moments = [m.name for m in self._moments]
        losses = [m.number for m in self._moments if m.kind == "loss" and m.number is not None]
        keep_steps = self._keep_steps(run)

        def compute(progress: Progress) -> Measurement:
            data = self._train_data(run.settings)
            looked_at = _first(data, self._num_examples(run, None))
            look = LossReached(losses, looked_at, self._loss, every=self.spec.look_every, folder=folder)
            history = train(
                self._build(run.settings, run.seed).to(self.device),
                data,
                self._data[1],
                config,
                loss=self._loss,
                checkpoint_dir=folder,
                checkpoint_every=CHECKPOINT_EVERY,
                keep_steps=keep_steps,
                callbacks=[look] if losses else (),
                progress=progress,
            )
            # Trained again for other moments, the same run is another record.
            kept = {"moments": moments, "look_every": self.spec.look_every if losses else None}
            return dataclasses.replace(history, provenance={**history.provenance, **kept})

        num_train, num_test = self._train_data(run.settings).num_examples, self._data[1].num_examples
        cost = config.epochs * 3 * num_train + (config.epochs + 1) * (num_train + num_test)
        arguments = {"folder": folder.name}
        return Task(
            run.run,
            "train",
            {**run.labels, "name": "train"},
            arguments,
            cost,
            compute,
            lambda: seconds_spent(folder),
            unit=_unit(run.settings),
        )

    def _gap(self, run: PlannedRun, moment: Moment, mode: str, training: Task) -> Task:
        num_examples = self._num_examples(run, None)

        def compute(progress: Progress) -> Measurement:
            network = self._network(run, moment)
            train, test = (
                self._objective(run, moment, mode, num_examples, test=test, network=network)
                for test in (False, True)
            )
            return generalization_gap(train, test, progress=progress)

        cost = (num_examples + self._data[1].num_examples) * PASSES["generalization_gap"]
        return self._task(run, moment, mode, "gap", "generalization_gap", {}, num_examples, cost, compute, training)

    def _measurements(self, run: PlannedRun, name: str, training: Task) -> list[Task]:
        spec = self.spec.measures[name]
        asked = spec.measure or name
        member: Member = bounded_at(self.spec.level, {asked: self.spec.member(name)})[asked]
        num_examples = self._num_examples(run, spec.num_examples)
        seed = stream_seed(0, "study", run.run, name)
        function = member.measure.__name__
        given = {**member.arguments, **({"seed": seed} if member.is_seeded else {})}
        arguments = resolved(member.measure, given)

        def task(moment: Moment, mode: str) -> Task:
            def compute(progress: Progress) -> Measurement:
                objective = self._objective(run, moment, mode, num_examples)
                return member(objective, seed=seed, progress=progress)

            passes = PASSES.get(function, UNKNOWN) * (PASSES_RECALIBRATED if mode == "recalibrated" else 1)
            cost = num_examples * passes
            return self._task(
                run, moment, mode, name, function, arguments, num_examples, cost, compute, training
            )

        moments = self.spec.moments_of(spec.moments)
        return [task(moment, mode) for moment in moments for mode in self._modes(run, spec.modes)]

    def _task(
        self,
        run: PlannedRun,
        moment: Moment,
        mode: str,
        name: str,
        function: str,
        arguments: Mapping[str, Any],
        num_examples: int,
        cost: float,
        compute: Callable[[Progress], Measurement],
        training: Task,
    ) -> Task:
        labels = {**run.labels, "name": name, "moment": moment.name, "mode": mode}
        decisive = {
            **arguments,
            "moment": moment.name,
            "objective": {"mode": mode, "num_examples": num_examples, "batch_size": self.spec.objective.batch_size},
        }
        if moment.kind == "loss":
            decisive["look_every"] = self.spec.look_every
        return Task(
            run.run, function, labels, decisive, cost, compute, needs=(training.key,), unit=_unit(run.settings)
        )

    def _pairs(self, name: str, spec: PairSpec) -> list[Task]:
        function = {**MEASURES, **ANALYSES}[spec.measure]
        return [
            self._pair(name, spec, function, pair, labels, moment, mode)
            for pair, labels in self._partners(spec.across)
            for moment in self.spec.moments_of(spec.moments)
            for mode in self._pair_modes(spec, pair)
        ]

    def _pair_modes(self, spec: PairSpec, pair: tuple[PlannedRun, PlannedRun]) -> list[str]:
        if spec.fold_batch_norm:
            return ["running"]
        # With batch norm on one side only there is no path, which the task itself says.
        return self._modes(max(pair, key=lambda run: run.has_batch_norm), spec.modes)

    def _partners(self, across: str) -> list[tuple[tuple[PlannedRun, PlannedRun], dict[str, Any]]]:
        """Runs that differ in one field alone, two by two, each in one pair: pairs are independent."""
        groups: dict[str, list[PlannedRun]] = {}
        for run in self.runs:
            rest = {k: v for k, v in run.labels.items() if k != across}
            groups.setdefault(json.dumps(rest), []).append(run)
        found = []
        for group in groups.values():
            for a, b in zip(group[::2], group[1::2], strict=False):
                joined = f"{a.labels[across]}-{b.labels[across]}"
                found.append(((a, b), {**a.labels, across: joined}))
        return found

    def _pair(
        self,
        name: str,
        spec: PairSpec,
        function: Chosen,
        pair: tuple[PlannedRun, PlannedRun],
        labels: Mapping[str, Any],
        moment: Moment,
        mode: str,
    ) -> Task:
        run = run_id({"runs": [part.run for part in pair]})
        num_examples = min(self._num_examples(part, spec.num_examples) for part in pair)
        seed = stream_seed(0, "study", run, name)
        member = Member(function, spec.arguments)
        given = {**spec.arguments, **({"seed": seed} if member.is_seeded else {})}
        arguments = resolved(function, given)

        def compute(progress: Progress) -> Measurement:
            a, b = (self._end(part, moment, mode, num_examples, spec.fold_batch_norm) for part in pair)
            return function(a, b, **given, progress=progress)

        passes = PASSES.get(spec.measure, UNKNOWN) * (PASSES_RECALIBRATED if mode == "recalibrated" else 1)
        decisive = {
            **arguments,
            "moment": moment.name,
            "folded": spec.fold_batch_norm,
            "objective": {"mode": mode, "num_examples": num_examples, "batch_size": self.spec.objective.batch_size},
        }
        if moment.kind == "loss":
            decisive["look_every"] = self.spec.look_every
        return Task(
            run,
            spec.measure,
            {**labels, "name": name, "moment": moment.name, "mode": mode},
            decisive,
            num_examples * passes,
            compute,
            needs=tuple(self._training(part).key for part in pair),
            unit=_unit(pair[0].settings),
        )

    def _end(
        self, run: PlannedRun, moment: Moment, mode: str, num_examples: int, fold: bool
    ) -> Objective:
        objective = self._objective(run, moment, mode, num_examples)
        if not fold:
            return objective
        network = without_batch_norm(objective)
        return self._objective(run, moment, mode, num_examples, network=network)


@dataclass(frozen=True)
class PlanSource:
    """What another process needs to make the plan again."""

    spec: Mapping[str, Any]
    out: Path
    data_root: Path | None
    device: str

    @classmethod
    def of(cls, plan: StudyPlan) -> PlanSource:
        """Of a plan."""
        return cls(plan.spec.frozen(), plan.out, plan.data_root, str(plan.device))

    def tasks_by_key(self) -> dict[str, Task]:
        """The plan's tasks, each under its key."""
        spec = StudySpec.model_validate(self.spec)
        plan = StudyPlan(spec, self.out, self.data_root, torch.device(self.device))
        return {task.key: task for task in plan.tasks}


def _first(examples: Examples, count: int | None) -> Examples:
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


def _unit(settings: Settings) -> str:
    return json.dumps([settings.model, dict(settings.arguments)], sort_keys=True)


def unique_tasks(tasks: Iterable[Task]) -> list[Task]:
    """Each task once: settings that come to the same run share its records."""
    return list({task.key: task for task in tasks}.values())

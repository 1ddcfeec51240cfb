"""A study as tasks: every run of the grid trained, then measured at each moment in each mode."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from thalweg.analyses import ANALYSES
from thalweg.analyses.generalization_gap import generalization_gap
from thalweg.analyses.measure_choice import bounded_at
from thalweg.analyses.sharpness_family import Member
from thalweg.core.measurement import Measurement
from thalweg.core.progress import Progress
from thalweg.core.rng import stream_seed
from thalweg.measures import MEASURES
from thalweg.objective.batch_norm import BatchNormMode
from thalweg.objective.objective import Objective
from thalweg.operators.folding import without_batch_norm
from thalweg.study.costs import PASSES, PASSES_RECALIBRATED, UNKNOWN
from thalweg.study.moments import Moment
from thalweg.study.networks import ANY_MODE, PlannedRun, StudyNetworks, first_examples, unit_of
from thalweg.study.runner import Task, resolved
from thalweg.study.spec import PairSpec, StudySpec
from thalweg.study.store import run_id
from thalweg.training.loss_reached import LossReached
from thalweg.training.trainer import seconds_spent, train

# Steps between checkpoints: a kill costs no more than these.
CHECKPOINT_EVERY = 100


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
            tasks += [
                self._gap(run, moment, mode, training)
                for moment in self.spec.moments_of(None)
                for mode in self._modes(run, None)
            ]
            for name in self.spec.measures:
                tasks += self._measurements(run, name, training)
        for name, pair in self.spec.pairs.items():
            tasks += self._pairs(name, pair)
        return tasks

    @property
    def runs(self) -> list[PlannedRun]:
        """Every setting with every seed, seeds outermost."""
        return self.networks.runs

    @cached_property
    def networks(self) -> StudyNetworks:
        """Its networks."""
        return StudyNetworks(self.spec, self.out, self.data_root, self.device)

    def _modes(self, run: PlannedRun, asked: Sequence[BatchNormMode] | None) -> list[str]:
        modes = self.spec.objective.modes if asked is None else asked
        return list(modes) if run.has_batch_norm else [ANY_MODE]

    # -- tasks ----------------------------------------------------------------------------------------

    def _training(self, run: PlannedRun) -> Task:
        networks = self.networks
        config, folder = networks.train_config(run.settings, run.seed), networks.folder(run)
        moments = [m.name for m in networks.moments]
        losses = [m.number for m in networks.moments if m.kind == "loss" and m.number is not None]
        keep_steps = networks.keep_steps(run)

        def compute(progress: Progress) -> Measurement:
            data = networks.train_data(run.settings)
            looked_at = first_examples(data, networks.num_examples(run, None))
            look = LossReached(losses, looked_at, networks.loss, every=self.spec.look_every, folder=folder)
            history = train(
                networks.build(run.settings, run.seed).to(networks.device),
                data,
                networks.test_data,
                config,
                loss=networks.loss,
                checkpoint_dir=folder,
                checkpoint_every=CHECKPOINT_EVERY,
                keep_steps=keep_steps,
                callbacks=[look] if losses else (),
                progress=progress,
            )
            # Trained again for other moments, the same run is another record.
            kept = {"moments": moments, "look_every": self.spec.look_every if losses else None}
            return dataclasses.replace(history, provenance={**history.provenance, **kept})

        num_train, num_test = networks.train_data(run.settings).num_examples, networks.test_data.num_examples
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
            unit=unit_of(run.settings),
        )

    def _gap(self, run: PlannedRun, moment: Moment, mode: str, training: Task) -> Task:
        num_examples = self.networks.num_examples(run, None)

        def compute(progress: Progress) -> Measurement:
            network = self.networks.network(run, moment)
            train, test = (
                self.networks.objective(run, moment, mode, num_examples, test=test, network=network)
                for test in (False, True)
            )
            return generalization_gap(train, test, progress=progress)

        cost = (num_examples + self.networks.test_data.num_examples) * PASSES["generalization_gap"]
        return self._task(
            run, moment, mode, "gap", "generalization_gap", {}, num_examples, cost, compute, training
        )

    def _measurements(self, run: PlannedRun, name: str, training: Task) -> list[Task]:
        spec = self.spec.measures[name]
        asked = spec.measure or name
        member: Member = bounded_at(self.spec.level, {asked: self.spec.member(name)})[asked]
        num_examples = self.networks.num_examples(run, spec.num_examples)
        seed = stream_seed(0, "study", run.run, name)
        function = member.measure.__name__
        given = {**member.arguments, **({"seed": seed} if member.is_seeded else {})}
        arguments = resolved(member.measure, given)

        def task(moment: Moment, mode: str) -> Task:
            def compute(progress: Progress) -> Measurement:
                objective = self.networks.objective(run, moment, mode, num_examples)
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
            "objective": {
                "mode": mode,
                "num_examples": num_examples,
                "batch_size": self.spec.objective.batch_size,
            },
        }
        if moment.kind == "loss":
            decisive["look_every"] = self.spec.look_every
        return Task(
            run.run,
            function,
            labels,
            decisive,
            cost,
            compute,
            needs=(training.key,),
            unit=unit_of(run.settings),
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
        function: Callable[..., Measurement],
        pair: tuple[PlannedRun, PlannedRun],
        labels: Mapping[str, Any],
        moment: Moment,
        mode: str,
    ) -> Task:
        run = run_id({"runs": [part.run for part in pair]})
        num_examples = min(self.networks.num_examples(part, spec.num_examples) for part in pair)
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
            "objective": {
                "mode": mode,
                "num_examples": num_examples,
                "batch_size": self.spec.objective.batch_size,
            },
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
            unit=unit_of(pair[0].settings),
        )

    def _end(self, run: PlannedRun, moment: Moment, mode: str, num_examples: int, fold: bool) -> Objective:
        objective = self.networks.objective(run, moment, mode, num_examples)
        if not fold:
            return objective
        network = without_batch_norm(objective)
        return self.networks.objective(run, moment, mode, num_examples, network=network)


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


def unique_tasks(tasks: Iterable[Task]) -> list[Task]:
    """Each task once: settings that come to the same run share its records."""
    return list({task.key: task for task in tasks}.values())

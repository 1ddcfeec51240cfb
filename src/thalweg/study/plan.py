"""A study as tasks: every run of the grid trained, then measured at each moment in each mode."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from types import MappingProxyType
from typing import Any

from torch import nn

from thalweg.analyses import ANALYSES
from thalweg.analyses.generalization_gap import generalization_gap
from thalweg.analyses.measure_choice import bounded_at
from thalweg.analyses.sharpness_family import Member
from thalweg.core.errors import ThalwegError
from thalweg.core.measurement import Measurement
from thalweg.core.progress import Progress
from thalweg.core.rng import stream_seed
from thalweg.measures import MEASURES
from thalweg.objective.batch_norm import BatchNormMode
from thalweg.objective.objective import Objective
from thalweg.operators.folding import without_batch_norm
from thalweg.study.costs import passes
from thalweg.study.moments import Moment
from thalweg.study.networks import PlannedRun, StudyNetworks, first_examples, unit_of
from thalweg.study.pair_values import JOIN
from thalweg.study.quantities import WHOLE
from thalweg.study.runner import Task, resolved
from thalweg.study.spec import PairSpec
from thalweg.study.store import run_id
from thalweg.study.table import ANY_MODE
from thalweg.training.loss_reached import LossReached, StepsToLoss, steps_to_loss
from thalweg.training.trainer import seconds_spent, train

# Steps between checkpoints: a kill costs no more than these.
CHECKPOINT_EVERY = 100


class StudyPlan(StudyNetworks):
    """A study on given data, in a given folder: its networks, and what is to be done with them.

    It is sent to another process as what it was made of, and planned there again.
    """

    # Where it was sent to: the sources of the one that was sent.
    _sent_sources: Mapping[str, str] = MappingProxyType({})

    def __reduce__(self) -> tuple[type[StudyPlan], tuple[Any, ...], dict[str, Any]]:
        made_of = (self.spec, self.out, self.data_root, self.device)
        return type(self), made_of, {"_sent_sources": dict(self.sources)}

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
            for name, measure in self.spec.measures.items():
                if run.is_where(measure.where):
                    tasks += self._measurements(run, name, training)
            for name, quantity in self.spec.quantities.items():
                if quantity.kind == "steps_to_loss" and quantity.loss is not None:
                    tasks.append(self._steps(run, name, quantity.loss, training))
        for name, pair in self.spec.pairs.items():
            tasks += self._pairs(name, pair)
        return tasks

    def tasks_by_key(self) -> dict[str, Task]:
        """Each task once, under its key: settings that come to the same run share its records.

        Raises
        ------
        ThalwegError
            If data or code are not what they were in the process that the plan was sent from, naming them.
        """
        changed = [name for name, source in self._sent_sources.items() if self.sources.get(name) != source]
        if changed:
            raise ThalwegError(
                f"{', '.join(changed)}: not the same in another process as in the one that runs the study; "
                "edited meanwhile, or something else each time. Draw data from a fixed seed, leave data and "
                "code alone while a study runs, and call again."
            )
        return {task.key: task for task in self.tasks}

    def _modes(self, run: PlannedRun, asked: Sequence[BatchNormMode] | None) -> list[str]:
        modes = self.spec.objective.modes if asked is None else asked
        return list(modes) if run.has_batch_norm else [ANY_MODE]

    # -- tasks ----------------------------------------------------------------------------------------

    def _training(self, run: PlannedRun) -> Task:
        config, folder = self.train_config(run.settings, run.seed), self.folder(run)
        moments = [m.name for m in self.moments]
        losses = self.spec.looked_for

        def compute(progress: Progress) -> Measurement:
            self.forget_gaps(run)
            branch = self.branch(run)
            data = self.train_data(run.settings)
            looked_at = first_examples(data, self.num_examples(run, None))
            look = LossReached(losses, looked_at, self.loss, every=self.spec.look_every, folder=folder)
            history = train(
                self.build(run.settings, run.seed).to(self.device),
                data,
                self.test_data,
                config,
                loss=self.loss,
                checkpoint_dir=folder,
                checkpoint_every=CHECKPOINT_EVERY,
                keep_steps=self.steps_to_keep(run),
                branch=branch,
                callbacks=[look] if losses else (),
                progress=progress,
            )
            # Trained again to keep other networks, the same run is another record.
            kept = {"moments": moments, "losses": losses, "look_every": self.spec.look_every}
            return dataclasses.replace(history, provenance={**history.provenance, **kept})

        num_train, num_test = self.train_data(run.settings).num_examples, self.test_data.num_examples
        steps_per_epoch = self._steps_per_epoch(run)
        epochs = config.epochs - self.shared_steps(run) // steps_per_epoch
        cost = epochs * 3 * num_train + (1 + epochs // config.evaluate_every) * (num_train + num_test)
        if losses:
            cost += epochs * steps_per_epoch // self.spec.look_every * self.num_examples(run, None)
        origin = self.origin(run)
        arguments = {"folder": folder.name}
        return Task(
            run.run,
            "train",
            {**run.labels, "name": "train"},
            arguments,
            cost,
            compute,
            lambda: seconds_spent(folder),
            # What it goes on from, if that came to anything: else it is trained from the start.
            follows=(self._training(origin).key,) if origin else (),
            stands=lambda record: self.holds(run, record.content),
            unit=unit_of(run.settings),
            keep_arrays=self.spec.keep_arrays,
        )

    def _steps(self, run: PlannedRun, name: str, loss: float, training: Task) -> Task:
        folder, every = self.folder(run), self.spec.look_every
        labels = {"name": name, "moment": WHOLE, "mode": ANY_MODE}
        where = {"name": name, "num_examples": self.num_examples(run, None)}
        return Task(
            run.run,
            StepsToLoss.measure,
            {**run.labels, **labels},
            {"loss": loss, "look_every": every, **where},
            1.0,
            lambda _: _placed(steps_to_loss(folder, loss, look_every=every), where),
            needs=(training.key,),
            outlives=folder.exists,
            unit=unit_of(run.settings),
        )

    def _gap(self, run: PlannedRun, moment: Moment, mode: str, training: Task) -> Task:
        place = _Place(moment, mode, self.num_examples(run, None))

        def compute(progress: Progress) -> Measurement:
            network = self.network(run, moment)
            train, test = (self._objective(run, place, test=test, network=network) for test in (False, True))
            return generalization_gap(train, test, progress=progress)

        share = 1 + self.test_data.num_examples / place.num_examples
        subject = self._subject(run, training)
        return self._task(subject, place, "gap", "generalization_gap", {}, share, compute)

    def _measurements(self, run: PlannedRun, name: str, training: Task) -> list[Task]:
        spec = self.spec.measures[name]
        asked = spec.measure or name
        member: Member = bounded_at(self.spec.level, {asked: self.spec.member(name)})[asked]
        num_examples = self.num_examples(run, spec.num_examples)
        seed = stream_seed(0, "study", run.run, name)
        function = member.measure.__name__
        arguments = resolved(member.measure, member.seeded(seed))
        subject = self._subject(run, training)

        def task(place: _Place) -> Task:
            def compute(progress: Progress) -> Measurement:
                return member(self._objective(run, place), seed=seed, progress=progress)

            return self._task(subject, place, name, function, arguments, 1.0, compute)

        return [
            task(_Place(moment, mode, num_examples))
            for moment in self.spec.moments_of(spec.moments)
            for mode in self._modes(run, spec.modes)
        ]

    def _subject(self, run: PlannedRun, training: Task) -> _Subject:
        def has(moment: Moment) -> bool:
            return self.has(run, moment)

        return _Subject(run.run, run.labels, (training.key,), unit_of(run.settings), has)

    def _task(
        self,
        subject: _Subject,
        place: _Place,
        name: str,
        function: str,
        arguments: Mapping[str, Any],
        share: float,
        compute: Callable[[Progress], Measurement],
        **circumstances: Any,
    ) -> Task:
        """A measurement; `share` is its work by that of its function on the examples of the place.

        `circumstances` decide the result beside the function's own arguments.
        """
        names = {"name": name, "moment": place.moment.name}
        where = {**names, **circumstances}
        if place.moment.kind == "loss":
            where["look_every"] = self.spec.look_every
        decisive = {
            **arguments,
            **where,
            "objective": {
                "mode": place.mode,
                "num_examples": place.num_examples,
                "batch_size": self.spec.objective.batch_size,
            },
        }
        return Task(
            subject.run,
            function,
            {**subject.labels, **names, "mode": place.mode},
            decisive,
            place.num_examples * passes(function, place.mode, arguments) * share,
            lambda progress: _placed(compute(progress), where),
            needs=subject.needs,
            outlives=lambda: subject.has(place.moment),
            unit=subject.unit,
            keep_arrays=self.spec.keep_arrays,
        )

    def _objective(
        self, run: PlannedRun, place: _Place, *, test: bool = False, network: nn.Module | None = None
    ) -> Objective:
        return self.objective(run, place.moment, place.mode, place.num_examples, test=test, network=network)

    def _pairs(self, name: str, spec: PairSpec) -> list[Task]:
        function = {**MEASURES, **ANALYSES}[spec.measure]
        return [
            self._pair(name, spec, function, pair, labels, moment, mode)
            for pair, labels in self._partners(spec)
            for moment in self.spec.moments_of(spec.moments)
            for mode in self._pair_modes(spec, pair)
        ]

    def _pair_modes(self, spec: PairSpec, pair: tuple[PlannedRun, PlannedRun]) -> list[str]:
        if spec.fold_batch_norm:
            return ["running"]
        # With batch norm on one side only there is no path, which the task itself says.
        return self._modes(max(pair, key=lambda run: run.has_batch_norm), spec.modes)

    def _partners(self, spec: PairSpec) -> list[tuple[tuple[PlannedRun, PlannedRun], dict[str, Any]]]:
        """Runs that differ in one field alone, two by two: each in one pair, or in one with every other."""
        groups: dict[str, list[PlannedRun]] = {}
        for run in filter(lambda run: run.is_where(spec.where), self.runs):
            rest = {k: v for k, v in run.labels.items() if k != spec.across}
            groups.setdefault(json.dumps(rest), []).append(run)
        found = []
        for group in groups.values():
            every = itertools.combinations(group, 2)
            for a, b in every if spec.pairing == "all" else zip(group[::2], group[1::2], strict=False):
                joined = f"{a.labels[spec.across]}{JOIN}{b.labels[spec.across]}"
                found.append(((a, b), {**a.labels, spec.across: joined}))
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
        place = _Place(moment, mode, min(self.num_examples(p, spec.num_examples) for p in pair))
        seed = stream_seed(0, "study", run, name)
        given = Member(function, spec.arguments).seeded(seed)
        arguments = resolved(function, given)

        def compute(progress: Progress) -> Measurement:
            a, b = (self._end(part, place, spec.fold_batch_norm) for part in pair)
            return function(a, b, **given, progress=progress)

        needs = tuple(self._training(part).key for part in pair)
        subject = _Subject(run, labels, needs, unit_of(pair[0].settings))
        folded = spec.fold_batch_norm
        return self._task(subject, place, name, spec.measure, arguments, 1.0, compute, folded=folded)

    def _end(self, run: PlannedRun, place: _Place, fold: bool) -> Objective:
        objective = self._objective(run, place)
        return self._objective(run, place, network=without_batch_norm(objective)) if fold else objective


def _placed(result: Measurement, where: Mapping[str, Any]) -> Measurement:
    """With what the study decided, so that no two tasks share a record.

    Two moments may be one point, the step at which a loss is reached the last one, say, and networks without
    batch norm are the same folded or not.
    """
    return dataclasses.replace(result, provenance={**result.provenance, "study": dict(where)})


@dataclass(frozen=True)
class _Place:
    """When, in which mode, on how many examples."""

    moment: Moment
    mode: str
    num_examples: int


@dataclass(frozen=True)
class _Subject:
    """Of which run, or pair of runs, what must be done before, and what is there of a run that diverged."""

    run: str
    labels: Mapping[str, Any]
    needs: tuple[str, ...]
    unit: str
    has: Callable[[Moment], bool] = lambda _: False

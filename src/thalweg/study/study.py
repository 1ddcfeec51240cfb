"""A study on disk: opened from its folder alone, run from its file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from thalweg.core.atomic import replacing
from thalweg.core.imports import import_extra, in_words
from thalweg.study.engine import Engine, InProcess
from thalweg.study.evidence import Evidence
from thalweg.study.plan import StudyPlan
from thalweg.study.processes import Processes, refuse_without_guard
from thalweg.study.runner import Task, Watcher, run_tasks
from thalweg.study.spec import StudySpec
from thalweg.study.store import Record, Store
from thalweg.study.study_file import read_study
from thalweg.study.table import rows
from thalweg.study.verdicts import Verdict, verdicts

if TYPE_CHECKING:
    import pandas as pd

STUDY_FILE = "study.json"
SCHEMA = 1


@dataclass(frozen=True)
class PlannedTask:
    """What a study's folder says of a task: enough to tell what is done, without data or networks."""

    key: str
    run: str
    measure: str
    labels: Mapping[str, Any]
    needs: tuple[str, ...]


class Study:
    """A study's folder: its file as last run, what was planned by it, and the records.

    Records that other versions of the file made stay in the store and are left out here. What is read and
    concluded is kept, for all who ask: open the folder again to see what has been added since.

    Parameters
    ----------
    path
        The folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.store = Store(self.path)

    @classmethod
    def open(cls, path: str | Path) -> Study:
        """Open a study's folder; nothing in it changes, whether or not somebody is at work there.

        Raises
        ------
        ValueError
            If there is no study, or a damaged one, or one of a later version.
        """
        study = cls(path)
        study._content  # noqa: B018 - read now, so that a wrong folder is told now
        return study

    @classmethod
    def run(
        cls,
        source: str | Path,
        out: str | Path,
        *,
        preset: str | None = None,
        workers: int | None = None,
        data_root: str | Path | None = None,
        device: str = "cpu",
    ) -> Study:
        """Run what a study file asks for and its folder lacks; open the folder.

        Parameters
        ----------
        source, preset
            See `thalweg.study.spec.read_study`.
        out
            The study's folder.
        workers
            Processes, see `run_study`. A script that asks for more than one needs the guard
            ``if __name__ == "__main__":``, for each of them imports it.
        data_root
            Folder of a named data set's files; None for the cache.
        device
            Where the networks live.
        """
        root = None if data_root is None else Path(data_root)
        plan = StudyPlan(read_study(source, preset), Path(out), root, torch.device(device))
        run_study(plan, workers=workers)
        return cls.open(out)

    @cached_property
    def _content(self) -> Mapping[str, Any]:
        file = self.path / STUDY_FILE
        if not file.is_file():
            raise ValueError(
                f"`path` must be the folder of a study, but {self.path} has no {STUDY_FILE}; `thalweg "
                "study run` makes one."
            )
        try:
            content = json.loads(file.read_text())
            schema = int(content["schema"])
            lacking = [key for key in ("spec", "threads", "tasks") if key not in content]
            if schema <= SCHEMA and lacking:
                raise KeyError(lacking[0])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{file} is damaged ({in_words(error)}). Put back what it was, or remove it: the next run "
                "writes it anew from the study file and chooses the threads of each worker anew; records lie "
                "in files of their own."
            ) from error
        if schema > SCHEMA:
            raise ValueError(
                f"{file} has schema {schema}, this version reads up to {SCHEMA}; upgrade thalweg."
            )
        return content

    @cached_property
    def spec(self) -> StudySpec:
        """The study file as it was last run, every default filled in."""
        return StudySpec.model_validate(self._content["spec"])

    @property
    def frozen(self) -> Mapping[str, Any]:
        """The same as it is written down, also where this version would not take it."""
        return self._content["spec"]

    @property
    def threads(self) -> int:
        """Threads of each worker, chosen when the study was first run."""
        return self._content["threads"]

    @cached_property
    def tasks(self) -> list[PlannedTask]:
        """What the file asks for."""
        return [PlannedTask(**{**t, "needs": tuple(t["needs"])}) for t in self._content["tasks"]]

    @cached_property
    def _stored(self) -> list[Record]:
        return self.store.records()

    @cached_property
    def records(self) -> dict[str, Record]:
        """The last record of each planned task that has one, by the task's key."""
        wanted = {task.key for task in self.tasks}
        return {record.task: record for record in self._stored if record.task in wanted}

    @property
    def num_unused(self) -> int:
        """Records that are no task's last: of other versions of the file, or tried again since."""
        return len(self._stored) - len(self.records)

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """One for each number measured; see `thalweg.study.table.rows`."""
        return rows(self)

    @cached_property
    def evidence(self) -> Evidence:
        """The same, to be asked for a number of every run."""
        return Evidence(self.rows)

    @cached_property
    def verdicts(self) -> list[Verdict]:
        """What the records say of each claim, in the order of the file."""
        return verdicts(self.spec, self.evidence)

    def to_dataframe(self) -> pd.DataFrame:
        """One row for each number measured; see `thalweg.study.table.rows`.

        A column that holds text for some rows, as ``seed`` does for pairs of networks, holds text for all.

        Raises
        ------
        ImportError
            Without pandas, naming the extra that brings it.
        """
        frame = import_extra("pandas", "dataframe").DataFrame(self.rows)
        mixed = [name for name in frame if len({type(value) is str for value in frame[name]}) > 1]
        return frame.astype(dict.fromkeys(mixed, str))

    def status(self) -> dict[str, int]:
        """How many of the planned tasks are in each state.

        ``done``, ``diverged``, ``refused``, ``crashed``, ``blocked`` (what they need failed) and ``open``.
        """
        counts: dict[str, int] = dict.fromkeys(
            ("done", "diverged", "refused", "crashed", "blocked", "open"), 0
        )
        for task in self.tasks:
            counts[self.state(task)] += 1
        return counts

    def state(self, task: PlannedTask) -> str:
        """Which of those a task is."""
        record = self.records.get(task.key)
        if record is not None:
            return record.failure.kind if record.failure else "done"
        needed = [self.records.get(key) for key in task.needs]
        return "blocked" if any(r is not None and r.failure for r in needed) else "open"


def _freeze(plan: StudyPlan, tasks: list[Task], threads: int) -> None:
    """Write what the folder says of the study."""
    content = {
        "schema": SCHEMA,
        "spec": plan.spec.frozen(),
        "threads": threads,
        "tasks": [
            {
                "key": task.key,
                "run": task.run,
                "measure": task.measure,
                "labels": dict(task.labels),
                "needs": list(task.needs),
            }
            for task in tasks
        ],
    }
    with replacing(plan.out / STUDY_FILE) as partial:
        partial.write_text(json.dumps(content))


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers(plan: StudyPlan) -> int:
    """On a CPU a worker for each processor, but no more than there are runs; on an accelerator one."""
    return min(cores(), len(plan.runs)) if plan.device.type == "cpu" else 1


def chosen_threads(plan: StudyPlan, num_workers: int) -> int:
    """Threads of each of so many workers: what the folder's first run chose, else the processors' share.

    Sums are grouped by threads, so that a study that goes on keeps to them.

    Raises
    ------
    ValueError
        If the folder's study is damaged, or of a later version: it would be written over.
    """
    if (plan.out / STUDY_FILE).exists():
        return Study.open(plan.out).threads
    return max(1, cores() // num_workers)


def run_study(
    plan: StudyPlan,
    *,
    workers: int | None = None,
    shard: tuple[int, int] | None = None,
    engine: Engine | None = None,
    watcher: Watcher | None = None,
) -> list[Record]:
    """Run what the plan asks for and its folder lacks; failures are recorded, and the rest goes on.

    Parameters
    ----------
    plan
        The study.
    workers
        Processes; by default `default_workers`. One is this process.
    shard
        ``(i, n)``: of n that share the folder this is the i-th, from 1, which does every n-th run, with those
        that go on from it, and what is measured of each alone. What is measured of two networks is left to a
        call without shards.
    engine
        Carries the tasks out, in place of `workers`.
    watcher
        Is told.

    Returns
    -------
    list of Record
        Of everything the plan asks for that has a record.

    Raises
    ------
    ValueError
        If somebody else is at work in the folder, or what is there is of a later version or damaged.
    ThalwegError
        If a worker process cannot begin, since data or code came out otherwise there, say.
    """
    refuse_without_guard()
    tasks = list(plan.tasks_by_key().values())
    workers = workers or default_workers(plan)
    threads = chosen_threads(plan, workers)
    if engine is None:
        engine = InProcess(threads) if workers == 1 else Processes(plan, workers, threads)
    store = Store(plan.out, shard and f"{shard[0]}-of-{shard[1]}")
    with store.writing():
        _freeze(plan, tasks, threads)
        if shard is not None:
            # Where training is shared, by whole families.
            first = {run.run: (plan.origin(run) or run).run for run in plan.runs}
            families = set(list(dict.fromkeys(first.values()))[shard[0] - 1 :: shard[1]])
            mine = {run for run, family in first.items() if family in families}
            tasks = [task for task in tasks if task.run in mine]
        return run_tasks(tasks, store, watcher, engine=engine, keep_going=True)

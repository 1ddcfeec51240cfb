"""A Ray cluster: tasks go wherever there are processors, and come back when a machine is lost."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self

import torch

from thalweg.core.errors import ThalwegError
from thalweg.core.imports import import_extra, in_words
from thalweg.core.progress import Progress
from thalweg.study.engine import Outcome, perform
from thalweg.study.processes import MOST_LOSSES, TaskSource
from thalweg.study.runner import Task
from thalweg.study.store import host, versions

# Of shares of an accelerator: three thirds are one.
ROUNDING = 1e-6


class RayEngine:
    """Tasks of a study on a Ray cluster, whose machines share the study's folder and have one installation.

    A task that is lost with its worker or its machine is begun again elsewhere, some times; training goes on
    from its last checkpoint, in the shared folder. No more tasks are handed to Ray than there are processors
    for, so that a study of any size waits here and not in Ray's memory.

    Parameters
    ----------
    source
        Of the tasks.
    threads
        Threads of a task, which are the processors it asks Ray for.
    gpus
        Accelerators it asks Ray for, a share of one where it is below 1.
    address
        Of the cluster; ``"auto"`` for the one that this machine belongs to. None: that one, or else a local
        one is started, and stopped at the end.
    workers
        Tasks at once; None for as many as the cluster has room for.
    """

    def __init__(
        self,
        source: TaskSource,
        *,
        threads: int = 1,
        gpus: float = 0.0,
        address: str | None = None,
        workers: int | None = None,
    ) -> None:
        self._ray: Any = import_extra("ray", "ray")
        self._source, self._threads, self._gpus = source, threads, gpus
        self._address, self._workers = address, workers
        self._references: dict[Any, str] = {}
        self._started = False
        self.num_slots = 1

    def __enter__(self) -> Self:
        if not self._ray.is_initialized():
            self._connect()
            self._started = True
        room = self._room()
        self.num_slots = self._workers or room
        self._remote = self._ray.remote(_work).options(
            num_cpus=self._threads, num_gpus=self._gpus, max_retries=MOST_LOSSES - 1
        )
        self._shared_source = self._ray.put(self._source)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for reference in self._references:
            self._ray.cancel(reference, force=True)
        self._references = {}
        if self._started:
            self._ray.shutdown()

    def submit(self, task: Task, progress: Progress) -> None:
        """Begin a task; what it has done is told when it has ended."""
        progress(0, 1)
        reference = self._remote.remote(self._shared_source, task.key, self._threads)
        self._references[reference] = task.key

    def next_done(self) -> tuple[str, Outcome]:
        """Wait for the first to end."""
        (done,), _ = self._ray.wait(list(self._references), num_returns=1)
        key = self._references.pop(done)
        try:
            return key, self._ray.get(done)
        except self._ray.exceptions.RayTaskError as error:
            # What the task itself lets through: no room left on the disk, or data that are others there.
            raise error.as_instanceof_cause() from None
        except self._ray.exceptions.RayError as error:
            reason = f"lost with its worker {MOST_LOSSES} times: {in_words(error)}"
            return key, Outcome(None, 0.0, host(), versions(), self._threads, "crashed", reason)

    def _room(self) -> int:
        """Tasks that the cluster has room for at once, each on one machine.

        Raises
        ------
        ThalwegError
            If no machine has room for one, for which Ray would wait for ever.
        """
        machines = [
            (node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
            for node in self._ray.nodes()
            if node["Alive"]
        ]
        room = 0
        for processors, accelerators in machines:
            fits = processors / self._threads
            if self._gpus:
                fits = min(fits, accelerators / self._gpus)
            room += math.floor(fits + ROUNDING)
        if room < 1:
            each = "; ".join(f"{cpus:g} and {gpus:g}" for cpus, gpus in sorted(set(machines), reverse=True))
            raise ThalwegError(
                f"no machine of the Ray cluster has room for a task of {self._threads} processors and "
                f"{self._gpus:g} accelerators; its machines have {each or 'none'}."
            )
        return room

    def _connect(self) -> None:
        # Modules that this process finds, such as a user's own in the current folder, are found there too.
        path = os.pathsep.join(os.path.abspath(place) for place in sys.path)
        common: dict[str, Any] = {
            "runtime_env": {"env_vars": {"PYTHONPATH": path}},
            "log_to_driver": False,
            "logging_level": "error",
        }
        try:
            self._ray.init(address=self._address or "auto", **common)
        except ConnectionError as error:
            if self._address is not None:
                raise ThalwegError(
                    f"the Ray cluster at {self._address!r} cannot be reached ({in_words(error)}); `ray "
                    "status` says whether one runs, and without --address a local one is started."
                ) from error
            self._ray.init(address="local", include_dashboard=False, **common)


# Of this worker process: a plan is made once for a source.
_known: dict[str, Mapping[str, Task]] = {}


def _work(source: TaskSource, key: str, threads: int) -> Outcome:
    torch.set_num_threads(threads)
    name = repr(source)
    if key not in _known.get(name, {}):  # also where code or data are others than before
        _known.clear()
        _known[name] = source.tasks_by_key()
    # Not every exception can be sent; kind and reason say what it was.
    return replace(perform(_known[name][key], lambda done, total: None), error=None)

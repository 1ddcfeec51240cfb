"""Append-only records of a study on disk: one JSON object a line, large arrays beside them."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import torch

from thalweg.core.atomic import sweep_partials, sync_folder
from thalweg.core.lock import sole_writer
from thalweg.core.measurement import ErrorBudget, Measurement

SCHEMA = 1


def run_id(configuration: Mapping[str, Any]) -> str:
    """Identity of a run: the first 12 hex digits of the hash of its frozen configuration."""
    text = json.dumps(configuration, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Failure:
    """Why a task gave no result.

    Parameters
    ----------
    kind
        ``"diverged"``: the loss became NaN or infinite. ``"refused"``: the measure says why it cannot be
        taken of this network. Both would happen again. ``"crashed"``: anything else, out of memory or a lost
        worker, that may go better another time.
    reason
        In words.
    attempt
        The how manieth of the task, from 1.
    """

    kind: Literal["diverged", "refused", "crashed"]
    reason: str
    attempt: int = 1


@dataclass(frozen=True, kw_only=True)
class Record:
    """A measurement, or why there is none, plus what only the runner knows.

    Parameters
    ----------
    run
        Hash of the configuration that made the network.
    task
        Hash of all that decides the result: what a resumed study looks up.
    content
        ``Measurement.to_dict`` of the result.
    labels
        Flat names the study gives: model, split, ...
    seconds
        Work that the result took; of a task that was killed and went on, that of all its parts.
    host, versions, num_threads
        Where it ran, what with and on how many threads: runs that share these last two agree to the bit.
    failure
        Why `content` has no value.
    """

    run: str
    task: str
    content: Mapping[str, Any]
    labels: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    host: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    num_threads: int | None = None
    failure: Failure | None = None
    arrays: Path | None = None

    @classmethod
    def of_failure(
        cls, measure: str, failure: Failure, more: Mapping[str, Any] | None = None, **rest: Any
    ) -> Record:
        """That a task gave no result, and why; `more` is of its provenance."""
        provenance = {"function": measure, "task": rest["task"], "attempt": failure.attempt, **(more or {})}
        content = {"measure": measure, "value": None, "error": ErrorBudget().to_dict()}
        return cls(content={**content, "provenance": provenance}, failure=failure, **rest)

    @property
    def is_final(self) -> bool:
        """Whether the task is done: what crashed may go better another time."""
        return self.failure is None or self.failure.kind != "crashed"

    @cached_property
    def measurement(self) -> Measurement:
        """The result, with its arrays.

        Raises
        ------
        LookupError
            If there is none.
        """
        if self.failure:
            raise LookupError(f"{self.measure} of run {self.run} {self.failure.kind}: {self.failure.reason}")
        return Measurement.from_dict(self.content, self.arrays)

    @property
    def measure(self) -> str:
        """Name of the function that measured."""
        return self.content["measure"]

    @property
    def batch_norm(self) -> str | None:
        """Batch-norm mode of the objective it was measured on."""
        return self.content["provenance"].get("objective", {}).get("batch_norm")

    @cached_property
    def identity(self) -> tuple[str, str, str]:
        """Run, measure and provenance, which no two records share."""
        return self.run, self.measure, json.dumps(self.content["provenance"], sort_keys=True)

    def to_line(self) -> str:
        """One line of ``records.jsonl``."""
        row = {
            "run": self.run,
            **self.content,
            "labels": dict(self.labels),
            "task": self.task,
            "schema": SCHEMA,
            "seconds": self.seconds,
            "host": self.host,
            "versions": dict(self.versions),
            "num_threads": self.num_threads,
        }
        if self.failure:
            row["failure"] = dataclasses.asdict(self.failure)
        return json.dumps(row, allow_nan=False) + "\n"

    @classmethod
    def from_row(cls, row: Mapping[str, Any], arrays: Path) -> Record:
        """Inverse of `to_line`."""
        own = ("run", "task", "labels", "schema", "seconds", "host", "versions", "num_threads", "failure")
        content = {k: v for k, v in row.items() if k not in own}
        known = {k: row[k] for k in own if k in row and k != "schema"}
        if "failure" in known:
            known["failure"] = Failure(**known["failure"])
        return cls(content=content, arrays=arrays, **known)


class Store:
    """The folder of one study: ``records.jsonl`` and ``arrays/``.

    Files that were compressed to be passed on, ``records.jsonl.gz``, are read like others, unless the plain
    one lies beside them. Opening never changes a file. A last line cut short by a kill is ignored when read
    and cut off before the next append, so nothing is lost and nothing doubled.

    Parameters
    ----------
    path
        The folder.
    part
        Append to a file of one's own, ``records-PART.jsonl``, as several processes may do at once on one
        folder; all of them read all files.
    """

    def __init__(self, path: str | Path, part: str | None = None) -> None:
        self.path, self.part = Path(path), part
        self.file = self.path / ("records.jsonl" if part is None else f"records-{part}.jsonl")
        self.arrays = self.path / "arrays"
        self._identities: set[tuple[str, str, str]] | None = None

    def records(self) -> list[Record]:
        """All whole records, in the order they were written, file by file.

        Raises
        ------
        ValueError
            For a line that is whole and not a record, or of a later schema.
        """
        return [Record.from_row(row, self.arrays) for file in self._files() for row in _rows(file)]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the only right to append; a second writer is told at once, what a killed one left goes.

        Within it, doing so again changes nothing.
        """
        if self._identities is not None:
            yield
            return
        with sole_writer(self.path, "out", self.part):
            if self.part is None:  # beside other writers, what is left may be another one's work under way
                for folder in (self.path, self.arrays):
                    sweep_partials(folder)
            _cut_torn_line(self.file)
            self._identities = {record.identity for record in self.records()}
            try:
                yield
            finally:
                self._identities = None

    def append(self, record: Record) -> Record:
        """Add one record, on disk before this returns; only within `writing`.

        Raises
        ------
        ValueError
            If the store has a record of the same run, measure and provenance.
        """
        assert self._identities is not None, "append within `writing`"
        if record.identity in self._identities:
            raise ValueError(
                f"`record` must differ from every other in run, measure or provenance, but {self.file} has "
                f"{record.measure} of run {record.run} with this very provenance; remove that line, or "
                "choose another folder."
            )
        is_new = not self.file.exists()
        with self.file.open("a") as f:
            f.write(record.to_line())
            f.flush()
            os.fsync(f.fileno())
        if is_new:
            sync_folder(self.path)
        self._identities.add(record.identity)
        return record

    def _files(self) -> list[Path]:
        plain = sorted(self.path.glob("records*.jsonl"))
        packed = sorted(self.path.glob("records*.jsonl.gz"))
        return [*(file for file in packed if file.with_suffix("") not in plain), *plain]


def same_result(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether two results, as `Measurement.to_dict` gives them, are equal, wherever they come from."""
    own = [{k: v for k, v in content.items() if k != "provenance"} for content in (a, b)]
    return own[0] == own[1]


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(file, "rt") if file.suffix == ".gz" else file.open() as f:
        for number, line in enumerate(f, start=1):
            if not line.endswith("\n"):
                return
            try:
                row = json.loads(line)
                schema = int(row["schema"])
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(
                    f"{file} line {number} is not a record ({error}); mend or remove it."
                ) from None
            if schema > SCHEMA:
                raise ValueError(
                    f"{file} line {number} has schema {schema}, this version reads up to {SCHEMA}; "
                    "upgrade thalweg."
                )
            yield row


def _cut_torn_line(file: Path) -> None:
    if not file.exists():
        return
    with file.open("rb+") as f:
        content = f.read()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            f.truncate(end)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    packages = {name: metadata.version(name) for name in ("thalweg", "torch", "numpy", "scipy")}
    return {"python": platform.python_version(), **packages}


def num_threads() -> int:
    """Threads that torch computes with: sums are grouped by them, so bits agree only for the same number."""
    return torch.get_num_threads()


def host() -> str:
    """Name of this machine."""
    return platform.node()

"""Append-only records of a study on disk: one JSON object a line, large arrays beside them."""

from __future__ import annotations

import fcntl
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
from typing import Any

from thalweg.core.measurement import Measurement

SCHEMA = 1


def run_id(configuration: Mapping[str, Any]) -> str:
    """Identity of a run: the first 12 hex digits of the hash of its frozen configuration."""
    text = json.dumps(configuration, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class Record:
    """A measurement plus what only the runner knows.

    Parameters
    ----------
    run
        Hash of the configuration that made the network.
    task
        Hash of the run, the measure and its arguments: what a resumed study looks up.
    content
        ``Measurement.to_dict`` of the result.
    labels
        Flat names the study gives: model, split, ...
    seconds, host, versions
        What no two runs share.
    """

    run: str
    task: str
    content: Mapping[str, Any]
    labels: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    host: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    arrays: Path | None = None

    @cached_property
    def measurement(self) -> Measurement:
        """The result, with its arrays."""
        return Measurement.from_dict(self.content, self.arrays)

    @property
    def measure(self) -> str:
        """Name of the function that measured."""
        return self.content["measure"]

    @property
    def batch_norm(self) -> str | None:
        """Batch-norm mode of the objective it was measured on."""
        return self.content["provenance"].get("objective", {}).get("batch_norm")

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
        }
        return json.dumps(row, allow_nan=False) + "\n"

    @classmethod
    def from_row(cls, row: Mapping[str, Any], arrays: Path) -> Record:
        """Inverse of `to_line`."""
        own = ("run", "task", "labels", "schema", "seconds", "host", "versions")
        content = {k: v for k, v in row.items() if k not in own}
        known = {k: row[k] for k in own if k in row and k != "schema"}
        return cls(content=content, arrays=arrays, **known)


class Store:
    """The folder of one study: ``records.jsonl`` and ``arrays/``.

    Opening never changes a file. A last line cut short by a kill is ignored when read and cut off before
    the next append, so nothing is lost and nothing doubled.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.file = self.path / "records.jsonl"
        self.arrays = self.path / "arrays"

    def records(self) -> list[Record]:
        """All whole records, in the order they were written.

        Raises
        ------
        ValueError
            For a line that is whole and not a record, or of a later schema.
        """
        return [Record.from_row(row, self.arrays) for row in self._rows()]

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the only right to append; a second writer is told at once."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ValueError(
                    f"`out` must not be written by two runs at once, but another one is at work in "
                    f"{self.path}; wait for it, or choose another folder."
                ) from None
            self._cut_torn_line()
            yield

    def append(self, record: Record) -> Record:
        """Add one record, on disk before this returns."""
        with self.file.open("a") as f:
            f.write(record.to_line())
            f.flush()
            os.fsync(f.fileno())
        return record

    def _rows(self) -> Iterator[dict[str, Any]]:
        if not self.file.exists():
            return
        with self.file.open() as f:
            for number, line in enumerate(f, start=1):
                if not line.endswith("\n"):
                    return
                try:
                    row = json.loads(line)
                    schema = row["schema"]
                except (json.JSONDecodeError, KeyError, TypeError) as error:
                    raise ValueError(
                        f"{self.file} line {number} is not a record ({error}); mend or remove it."
                    ) from None
                if schema > SCHEMA:
                    raise ValueError(
                        f"{self.file} line {number} has schema {schema}, this version reads up to {SCHEMA}; "
                        "upgrade thalweg."
                    )
                yield row

    def _cut_torn_line(self) -> None:
        if not self.file.exists():
            return
        with self.file.open("rb+") as f:
            content = f.read()
            end = content.rfind(b"\n") + 1
            if end < len(content):
                f.truncate(end)


def versions() -> dict[str, str]:
    """Versions of what the numbers depend on."""
    packages = {name: metadata.version(name) for name in ("thalweg", "torch", "numpy", "scipy")}
    return {"python": platform.python_version(), **packages}


def host() -> str:
    """Name of this machine."""
    return platform.node()

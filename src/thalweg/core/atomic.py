"""Files that are either whole or absent: written under a temporary name, flushed, then renamed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it becomes `path`, on failure it goes.

    A kill at any moment leaves the old file or the new one, never half of either; what it may leave beside
    them, `sweep_partials` removes.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    # Some writers make their files private to the owner; the file gets the mode of any other new file.
    partial.touch()
    mode = partial.stat().st_mode
    partial.unlink()
    try:
        yield partial
        partial.chmod(mode)
        with partial.open("rb") as f:
            os.fsync(f.fileno())
        partial.replace(path)
        sync_folder(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Put the names in `folder` on disk: a rename or a new file survives a power cut only after this."""
    if not hasattr(os, "O_DIRECTORY"):
        return  # a system whose folders cannot be opened
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep_partials(folder: Path) -> None:
    """Remove what killed writers left in `folder`; only for who alone writes there (`core.lock`)."""
    for partial in folder.glob(".*.[0-9]*.partial"):
        partial.unlink(missing_ok=True)

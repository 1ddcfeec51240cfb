"""A folder that one process at a time writes into."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

LOCK_FILE = ".lock"


@contextmanager
def sole_writer(folder: Path, argument: str) -> Iterator[None]:
    """Hold the only right to write into `folder`, made if it is missing; a kill gives the right back.

    Parameters
    ----------
    folder
        Keeps an empty ``.lock``: removing it would let a third process lock a file that no name leads to.
    argument
        What the caller's user calls the folder, for the error.

    Raises
    ------
    ValueError
        At once, if another process, or another call in this one, is at work there.
    """
    import fcntl  # here, since importing thalweg must not need it: Windows has none

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK_FILE).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"`{argument}` must not be written by two runs at once, but another one is at work in "
                f"{folder}; wait for it, or choose another folder."
            ) from None
        yield

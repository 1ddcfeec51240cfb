"""A folder that one process at a time writes into."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

LOCK_FILE = ".lock"


class BusyError(ValueError):
    """Another process is at work there."""


@contextmanager
def sole_writer(folder: Path, argument: str, part: str | None = None) -> Iterator[None]:
    """Hold the only right to write into `folder`, made if it is missing; a kill gives the right back.

    Parameters
    ----------
    folder
        Keeps an empty ``.lock``: removing it would let a third process lock a file that no name leads to.
    argument
        What the caller's user calls the folder, for the error.
    part
        Hold the right to this part of it alone: others may hold other parts, nobody the whole.

    Raises
    ------
    BusyError
        At once, if another process, or another call in this one, is at work there.
    """
    import fcntl  # here, since importing thalweg must not need it: Windows has none

    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        wanted = [(LOCK_FILE, fcntl.LOCK_EX)]
        if part is not None:
            wanted = [(LOCK_FILE, fcntl.LOCK_SH), (f"{LOCK_FILE}-{part}", fcntl.LOCK_EX)]
        for name, kind in wanted:
            lock = stack.enter_context((folder / name).open("w"))
            try:
                fcntl.flock(lock, kind | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError(
                    f"`{argument}` must not be written by two runs at once, but another one is at work in "
                    f"{folder}; wait for it, or choose another folder."
                ) from None
        yield

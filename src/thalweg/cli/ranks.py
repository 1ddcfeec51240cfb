"""The command as several processes of `torchrun`'s: they share the passes over the data, the first speaks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from thalweg.objective.objective import Objective

# Verbs whose processes share an objective. Of any other each would do all the work, and write the same file.
SHARED = ("measure", "audit")

# The name under which the first rank tells the others its error, and how long they wait for that.
COMPLAINT = "thalweg/complaint"
PATIENCE = timedelta(seconds=10)


class Ranks:
    """This process among those that `torchrun` started; by itself, unless it did.

    Attributes
    ----------
    is_first
        Whether it is the one that prints and writes.
    """

    def __init__(self) -> None:
        self.is_first, self._store, self._rank, self._repeats = True, None, 0, False

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Be one of the ranks while inside: gloo carries what is on the CPU, NCCL what is on a GPU."""
        if not (dist.is_available() and dist.is_torchelastic_launched()):
            yield
            return
        self._store, self._rank, size = next(iter(rendezvous("env://")))
        self.is_first = self._rank == 0
        if _local_rank() < torch.cuda.device_count():
            torch.cuda.set_device(_local_rank())
        dist.init_process_group(store=self._store, rank=self._rank, world_size=size)
        try:
            yield
        except Exception as error:
            # The group stays, or the others would fall over its end before they have said what is wrong.
            self._repeats = not self.is_first and self._first_says(error)
            if self.is_first:
                self._store.set(COMPLAINT, _words(error))
            raise
        dist.destroy_process_group()

    def check_verb(self, verb: str | None) -> None:
        """Raise for a verb that is one process's."""
        if self._store is not None and verb not in (None, *SHARED):
            raise ValueError(
                f"`thalweg {verb}` is the work of one process, got several of torchrun's, which are for "
                f"{' and '.join(SHARED)}; start it without torchrun."
            )

    def check_device(self, asked: str, device: torch.device) -> None:
        """Raise unless each rank has a device of its own."""
        if self._store is None or device.type != "cuda":
            return
        if device.index is not None:
            raise ValueError(f"`device` must be cuda, without a number, under torchrun, got {asked!r}.")
        if _local_rank() >= torch.cuda.device_count():
            raise ValueError(
                f"`device` must have a GPU for each process, got process {_local_rank()} (from nought) and "
                f"{torch.cuda.device_count()} GPUs; use --nproc-per-node {torch.cuda.device_count()}, or "
                "--device cpu."
            )

    def refuse(self, option: str, reason: str) -> None:
        """Raise for an option that is one process's."""
        if self._store is not None:
            raise ValueError(f"`{option}` {reason}; leave it out, or start without torchrun.")

    def share(self, objective: Objective) -> Objective:
        """The objective, its passes shared by the ranks where there are any."""
        return objective if self._store is None else objective.distributed()

    def complaint(self, text: str) -> str | None:
        """What to print of the error that ended it: nothing where the first rank says the same."""
        return None if self._repeats else text if self.is_first else f"{text} (on rank {self._rank})"

    def _first_says(self, error: Exception) -> bool:
        """Whether the first rank ends by this error, too."""
        assert self._store is not None
        try:
            self._store.wait([COMPLAINT], PATIENCE)
            return self._store.get(COMPLAINT).decode() == _words(error)
        except RuntimeError:  # it goes on, waiting for this rank, or there is no one to ask
            return False


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _local_rank() -> int:
    return int(os.environ["LOCAL_RANK"])


RANKS = Ranks()

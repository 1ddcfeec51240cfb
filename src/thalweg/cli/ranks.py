"""The command as several processes of `torchrun`'s: they share the passes over the data, the first speaks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from thalweg.objective.objective import Objective

# Verbs whose processes share an objective. Of any other each would do all the work, and write the same file.
SHARED = ("measure", "audit")

# How long a rank waits for the first one to say the same before it complains itself.
PATIENCE = timedelta(seconds=10)


class Ranks:
    """This process among those that `torchrun` started; by itself, unless it did.

    Attributes
    ----------
    is_first
        Whether it is the one that prints and writes.
    """

    def __init__(self) -> None:
        self.is_first, self._store, self._rank = True, None, 0

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Be one of the ranks while inside: gloo carries what is on the CPU, NCCL what is on a GPU."""
        if not (dist.is_available() and dist.is_torchelastic_launched()):
            yield
            return
        self._store, self._rank, size = next(iter(dist.rendezvous("env://")))
        self.is_first = self._rank == 0
        if _local_rank() < torch.cuda.device_count():
            torch.cuda.set_device(_local_rank())
        dist.init_process_group(store=self._store, rank=self._rank, world_size=size)
        try:
            yield
        finally:
            dist.destroy_process_group()

    def check_verb(self, verb: str | None) -> None:
        """Raise for a verb that is one process's."""
        if self._store is not None and verb is not None and verb not in SHARED:
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
        """What to print of an error: nothing on a later rank where the first says the same."""
        if self._store is None:
            return text
        if self.is_first:
            self._store.set("complaint", text)
            return text
        try:
            self._store.wait(["complaint"], PATIENCE)
            first = self._store.get("complaint").decode()
        except RuntimeError:  # in time it said nothing, or there is no one to ask
            first = None
        return None if first == text else f"{text} (on rank {self._rank})"


def _local_rank() -> int:
    return int(os.environ["LOCAL_RANK"])


RANKS = Ranks()

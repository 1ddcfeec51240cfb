"""The processes that share an objective's passes over the data, as `torchrun` starts them.

Every rank runs the same program on the same objective. Of each pass over the data it takes its own stretch
of the micro-batches, and what all have found is put together, so that each goes on with the same bits and
decides as the others do. That is not taken on trust: before anything is put together the ranks tell one
another in a few numbers what they have computed. Where they differ in the point, the examples, the columns,
or the bits of the sums they got last, all raise the same error, instead of adding up what does not belong
together or waiting for one another for ever. An error on one rank is raised on all.
"""

from __future__ import annotations

import pickle
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils import _pytree as pytree

from thalweg.core.errors import NondeterminismError
from thalweg.objective.checksum import checksum
from thalweg.objective.reduction import Rows

if TYPE_CHECKING:
    from thalweg.objective.objective import Objective

# What the numbers say that ranks exchange before their results.
TOLD = (
    "whether they failed",
    "the point",
    "the examples",
    "what is evaluated or multiplied",
    "the form of the result",
    "the sums of the pass before",
)

REMEDY = "Every rank must run the same program with the same seeds, on like machines, with as many threads."


class Ranks:
    """A process group, and what an objective does with it; see `Objective.distributed`.

    Parameters
    ----------
    group
        Of `torch.distributed`; ``None`` is the default one, of all processes.
    objective
        Which all ranks must hold alike.

    Raises
    ------
    ValueError
        If there is no group, it cannot carry tensors of this device, or ranks hold different objectives.
    """

    # Whether this process is within a pass, of any objective: another one's would be as much out of step.
    _busy: ClassVar[bool] = False

    def __init__(self, group: dist.ProcessGroup | None, objective: Objective) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise ValueError(
                "distributed() needs a process group, and there is none; start the program with `torchrun`, "
                "and call torch.distributed.init_process_group() before."
            )
        self._group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        if self.rank < 0:
            raise ValueError("`group` must hold this process; call distributed() on its ranks only.")
        self._device = _carrier(group, objective.device)
        self._received = 0
        self._compare(objective)

    def share(self, starts: range) -> tuple[range, bool]:
        """The stretch of `starts` that is this rank's, and whether it counts.

        Where there are fewer of them than ranks, those left over take the first, to learn of what form the
        result is, and add nothing.
        """
        each, more = divmod(len(starts), self.size)
        first = self.rank * each + min(self.rank, more)
        own = starts[first : first + each + (self.rank < more)]
        return (own, True) if own else (starts[:1], False)

    def joined(self, compute: Callable[[], Any], counts: bool, identity: Sequence[int]) -> Any:
        """What all ranks compute, put together: tensors summed, `Rows` one after the other; `Rows` stay so.

        Parameters
        ----------
        compute
            Returns tensors or `Rows`, in the same structure of tuples, lists and dictionaries on all ranks.
        counts
            Whether this rank's part does.
        identity
            Numbers that must be the same on all ranks, what they stand for being in `TOLD`.

        Raises
        ------
        NondeterminismError
            If ranks compute different things.
        Exception
            Whatever `compute` raises on any rank, on all of them: that of the first rank where it does.
        """
        if Ranks._busy:
            raise RuntimeError(
                "a pass over the data began within another one's function, whose ranks are not in step; what "
                "it gives has to be known before, say by `objective.effective_buffers`."
            )
        Ranks._busy, error, leaves, form = True, None, [], None
        try:
            leaves, form = pytree.tree_flatten(compute())
        except Exception as raised:
            error = raised
        finally:
            Ranks._busy = False
        structure = zlib.crc32(repr((form, [_kind(x) for x in leaves])).encode())
        table = self._told([int(error is not None), *identity, structure, self._received])
        failed = [rank for rank, row in enumerate(table) if row[0]]
        if failed:
            self._raise(error, failed[0])
        different = [word for word, *column in zip(TOLD, *table, strict=True) if len(set(column)) > 1]
        if different:
            raise NondeterminismError(
                f"the {self.size} ranks no longer compute the same, but differ in {' and '.join(different)}. "
                f"{REMEDY}"
            )
        assert form is not None
        return pytree.tree_unflatten(self._together(leaves, counts), form)

    def _together(self, leaves: list[Any], counts: bool) -> list[Any]:
        results = [self._one_after_the_other(x, counts) if isinstance(x, Rows) else x for x in leaves]
        sums = {i: x for i, x in enumerate(leaves) if isinstance(x, Tensor)}
        self._received = 0
        for dtype in dict.fromkeys(x.dtype for x in sums.values()):  # one message each; most results have one
            own = {i: x for i, x in sums.items() if x.dtype == dtype}
            flat = torch.cat([x.detach().reshape(-1).to(self._device) for x in own.values()])
            if not counts:
                flat.zero_()
            dist.all_reduce(flat, group=self._group)
            self._received ^= checksum(flat)
            pieces = flat.split([x.numel() for x in own.values()])
            for (i, x), piece in zip(own.items(), pieces, strict=True):
                results[i] = piece.view(x.shape).to(x.device)
        return results

    def _one_after_the_other(self, rows: Rows, counts: bool) -> Rows:
        own = rows.tensor.detach().to(self._device)[: None if counts else 0]
        lengths = [row[0] for row in self._told([len(own)])]
        # What is gathered has to be of one size.
        padded = own.new_zeros(max(lengths), *own.shape[1:])
        padded[: len(own)] = own
        parts = [torch.empty_like(padded) for _ in lengths]
        dist.all_gather(parts, padded, group=self._group)
        together = torch.cat([part[:n] for part, n in zip(parts, lengths, strict=True)])
        return Rows(together.to(rows.tensor.device))

    def _told(self, numbers: list[int]) -> list[list[int]]:
        """The numbers of all ranks, one row each."""
        own = torch.tensor(numbers, dtype=torch.int64, device=self._device)
        rows = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(rows, own, group=self._group)
        return torch.stack(rows).tolist()

    def _raise(self, error: Exception | None, first: int) -> None:
        """Raise the error of rank `first`, on it and on all others."""
        sent: list[Any] = [_sendable(error) if self.rank == first and error is not None else None]
        source = first if self._group is None else dist.get_global_rank(self._group, first)
        dist.broadcast_object_list(sent, src=source, group=self._group, device=self._device)
        if self.rank == first and type(error) is type(sent[0]):
            assert error is not None
            raise error
        sent[0].add_note(f"Raised on rank {first}.")
        raise sent[0] from error

    def _compare(self, objective: Objective) -> None:
        """Raise unless all ranks hold the same objective, in the same surroundings."""
        described: dict[str, Any] = {
            **objective.describe(),
            "selection": objective._examples.origin,
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "processor": torch.backends.cpu.get_cpu_capability(),
        }
        if objective.device.type == "cuda":
            described["processor"] = torch.cuda.get_device_name(objective.device)
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, described, group=self._group)
        for rank, other in enumerate(found):
            odd = [k for k in {**found[0], **other} if found[0].get(k) != other.get(k)]
            if odd:
                told = "; ".join(f"{k}: {found[0].get(k)} and {other.get(k)}" for k in odd)
                raise ValueError(
                    f"distributed() needs the same objective on every rank, but ranks 0 and {rank} differ in "
                    f"{told}. {REMEDY}"
                )


def refuse_ranks(objective: Objective, argument: str, reason: str) -> None:
    """Raise where several processes share the objective."""
    if objective._ranks is not None and objective._ranks.size > 1:
        raise ValueError(f"`{argument}` {reason}; leave it out of measures of a distributed() objective.")


def _carrier(group: dist.ProcessGroup | None, device: torch.device) -> torch.device:
    """Where tensors are when they travel: the objective's own device under NCCL, the host under gloo."""
    backends = dict(pair.split(":") for pair in dist.get_backend_config(group).split(","))
    if device.type in backends and backends[device.type] != "gloo":
        return device
    if "cpu" in backends:
        return torch.device("cpu")
    raise ValueError(
        f"`group` must carry tensors of the {device.type}, got one with {', '.join(backends.values())} "
        "alone; call torch.distributed.init_process_group() with backend='gloo', or without any."
    )


def _kind(leaf: Tensor | Rows) -> tuple[str, torch.dtype, tuple[int, ...]]:
    """What must be the same on all ranks: all but the number of rows."""
    if isinstance(leaf, Rows):
        return "rows", leaf.tensor.dtype, tuple(leaf.tensor.shape[1:])
    return "sum", leaf.dtype, tuple(leaf.shape)


def _sendable(error: Exception) -> Exception:
    """The error, if it survives the way; else its words."""
    try:
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    except Exception:  # an exception with arguments of its own
        pass
    return RuntimeError(f"{type(error).__name__}: {error}")

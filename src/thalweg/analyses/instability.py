"""Instability to the noise of SGD: from which step on do two data orders end in linearly connected minima?"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from thalweg.analyses.readings import checked_modes
from thalweg.core.arguments import check_count, check_fraction
from thalweg.core.array_store import ArrayStore
from thalweg.core.distributions import student_quantile
from thalweg.core.errors import NonFiniteLossError
from thalweg.core.measurement import ErrorBudget, Measurement, StandardError
from thalweg.core.progress import Progress, part_of
from thalweg.core.rng import stream_seed
from thalweg.measures.connectivity.linear_path import LinearPath, linear_path
from thalweg.models.registry import seeded_model
from thalweg.objective.batch_norm import BatchNormMode
from thalweg.objective.examples import Examples, read_examples
from thalweg.objective.losses import Loss
from thalweg.objective.objective import Objective
from thalweg.training.branch import Branch, check_steps, kept_checkpoint
from thalweg.training.config import TrainConfig
from thalweg.training.trainer import train


@dataclass(frozen=True, kw_only=True, repr=False)
class Instability(Measurement):
    r"""Linear barriers between runs that part at K steps, for S seeds in M batch-norm modes.

    `value` is the mean barrier over the seeds for the earliest branch in the first mode, ``error.probe`` its
    standard error over the seeds, ``error.grid`` the mean of what the grids may have missed, an estimate.
    Arrays are float64 but for the steps.

    Parameters
    ----------
    branch_steps
        ``(K,)`` int64, ascending.
    num_steps
        Of a whole run.
    split
        The data that losses are of, ``"train"`` or ``"test"``.
    modes
        M names; the only one is ``None`` for networks without batch norm.
    barriers
        ``(M, S, K)``: `Path.barrier_over_mean`, as Frankle et al. (2020) define it, in the unit of the loss.
    error_barriers
        ``(M, S, K)``: the same of the error rate, the quantity of their figures: the mean accuracy of the
        ends less the lowest on the line. NaN for losses without classes.
    grid_errors
        ``(M, S, K)``: how much of a barrier the grid may have missed, an estimate; see `linear_path`.
    end_losses, end_accuracies
        ``(M, S, K, 2)``: of the run itself and of its branch.
    distances
        ``(S, K)``: Euclidean distance of the two in parameter space.
    failures
        ``"seed 0, step 100, running"`` to why there is no barrier: a loss on the line that is not finite. Its
        entries are NaN, and so are means over them.
    """

    measure: ClassVar[str] = "instability"
    quantity: ClassVar[str] = "barrier at the earliest branch"

    branch_steps: Tensor
    num_steps: int
    split: str
    modes: tuple[str | None, ...]
    barriers: Tensor
    error_barriers: Tensor
    grid_errors: Tensor
    end_losses: Tensor
    end_accuracies: Tensor
    distances: Tensor
    failures: Mapping[str, str] = field(default_factory=dict)

    @property
    def means(self) -> Tensor:
        """``(M, K)``: barriers, means over the seeds."""
        return self.barriers.mean(1)

    @property
    def standard_errors(self) -> Tensor:
        """``(M, K)``: of `means`, from the spread over the seeds; NaN for a single seed."""
        return _standard_error(self.barriers)

    def band(
        self, level: float = 0.95, of: Literal["barriers", "error_barriers"] = "barriers"
    ) -> tuple[Tensor, Tensor]:
        """Ends ``(M, K)`` of Student's interval around the mean over the seeds, for each k by itself.

        Of `barriers` widened by what the grids may have missed; of an error rate nobody can say.
        """
        check_fraction("level", level, "0.95 is customary")
        table = self.barriers if of == "barriers" else self.error_barriers
        mean, num_seeds = table.mean(1), table.shape[1]
        if num_seeds == 1:
            return torch.full_like(mean, -math.inf), torch.full_like(mean, math.inf)
        half = float(student_quantile(0.5 + level / 2, num_seeds - 1)) * _standard_error(table)
        if of == "barriers":
            half = half + self.grid_errors.mean(1)
        return mean - half, mean + half


def instability(
    build: Callable[[], nn.Module],
    train_data: Any,
    test_data: Any,
    config: TrainConfig,
    branch_steps: Sequence[int],
    *,
    num_seeds: int = 3,
    loss: Loss = "cross_entropy",
    split: Literal["train", "test"] = "test",
    modes: str | Iterable[str] | None = None,
    num_points: int = 21,
    checkpoint_dir: str | Path | None = None,
    seed: int,
    progress: Progress | None = None,
) -> Instability:
    """Train a run, branch it at each step k, and measure the linear barrier between its end and the branch's.

    Frankle et al. train to step k, then two copies with different data orders to the end. Here the run
    itself, going on in its own order, is one of the two copies: since the order of what comes after k is
    independent of what came before, the pair has the same distribution, for half of the work. The barriers of
    one seed share that end, so that they hang together over k; those of different seeds are independent.

    A branch shares the run's state at k to the bit: weights, statistics, momentum, learning rate and the
    generators that dropout draws from. What differs is the order of the data from there on, and that alone:
    within the epoch under way the examples that are left come in another order, so that each epoch is one
    pass over the data for both. Branched after the last step the two are one network, and the barrier is
    exactly nought. (Late branches have fewer steps left, and smaller ones, to part in: look at
    `Instability.distances` as well.)

    Parameters
    ----------
    build
        Makes the network, anew for each seed and run, called without arguments. What it draws from the global
        generators is set by the seed.
    train_data, test_data
        In any form that `Objective` takes; `test_data` may be None with ``split="train"``.
    config
        How to train. Its own `seed` is replaced by one of each run's.
    branch_steps
        K different steps, 0 for the start up to the number of all steps.
    num_seeds
        S, each with its own initialisation, data order and branch order. The first ones are the same whatever
        their number. A single one has no error bar.
    loss
        As in `Objective`.
    split
        The data of the barrier.
    modes
        Batch-norm modes of the barrier; all three by default. Recalibrated statistics are over the training
        data; in ``"batch"`` mode batches are of ``config.batch_size``.
    num_points
        Of the grid on each line.
    checkpoint_dir
        Folder for the runs and the lines, which go on there after a kill; another list of steps needs another
        folder. Default: a temporary one.
    seed
        Of everything.
    progress
        Called with parts done and all parts; a run and a line are parts.

    Raises
    ------
    ValueError
        For steps that are none, the same twice or none at all, data that are missing, or a folder that holds
        other runs.
    NonFiniteLossError
        If a run diverges, or the loss is not finite somewhere on a line.

    References
    ----------
    Frankle, Dziugaite, Roy and Carbin (2020), Linear Mode Connectivity and the Lottery Ticket Hypothesis,
    ICML.
    """
    check_count("num_seeds", num_seeds)
    check_count("num_points", num_points, least=3)
    stream_seed(seed)
    if split not in ("train", "test") or (split == "test" and test_data is None):
        raise ValueError(f"`split` must be 'train', or 'test' with `test_data`, got {split!r}.")
    examples = read_examples(train_data)[0]
    measured_on = examples if split == "train" else read_examples(test_data)[0]
    num_steps = config.epochs * -(-examples.num_examples // config.batch_size)
    if not isinstance(branch_steps, Sequence):
        raise TypeError(f"`branch_steps` must be a list of steps, got {branch_steps!r}.")
    check_steps("branch_steps", branch_steps, num_steps)
    steps = tuple(sorted({int(step) for step in branch_steps}))
    if not steps or len(steps) < len(branch_steps):
        raise ValueError(f"`branch_steps` must be different steps, one at least, got {list(branch_steps)}.")
    configs = [replace(config, seed=stream_seed(seed, "instability", i)) for i in range(num_seeds)]

    def objectives(network: nn.Module, wanted: Sequence[BatchNormMode]) -> list[Objective]:
        return [
            Objective(
                network.eval(),
                measured_on,
                loss,
                batch_norm=mode,
                batch_size=config.batch_size,
                calibration_data=examples,
            )
            for mode in wanted
        ]

    wanted = checked_modes(modes)
    # Before hours of training: what cannot be measured then cannot be measured now.
    first = objectives(_built(build, configs[0]), wanted)[0]
    if not first.has_batch_norm:
        wanted = wanted[:1]

    num_parts, part = num_seeds * (1 + len(steps) * (1 + len(wanted))), 0

    def next_part() -> Progress | None:
        nonlocal part
        part += 1
        return part_of(progress, part - 1, num_parts)

    lines: list[list[list[LinearPath | None]]] = []  # S x K x M
    failures: dict[str, str] = {}
    distances = torch.zeros(num_seeds, len(steps), dtype=torch.float64)
    with _folder(checkpoint_dir) as folder:
        store = ArrayStore(folder / "lines")
        for i, own in enumerate(configs):
            home = folder / f"seed{i}"
            run = _trained(build, examples, own, loss, home / "run", next_part(), keep_steps=steps)
            ends = objectives(run, wanted)
            lines.append([])
            for j, step in enumerate(steps):
                branch = Branch(kept_checkpoint(home / "run", step), stream_seed(own.seed, "branch"))
                there = _trained(
                    build, examples, own, loss, home / f"branch{step}", next_part(), branch=branch
                )
                pairs = list(zip(ends, objectives(there, wanted), strict=True))
                distances[i, j] = torch.linalg.vector_norm(
                    pairs[0][1].params.cpu().double() - pairs[0][0].params.cpu().double()
                )
                lines[i].append([])
                for mode, (a, b) in zip(wanted, pairs, strict=True):
                    line = None
                    try:
                        line = linear_path(a, b, num_points=num_points, store=store, progress=next_part())
                    except NonFiniteLossError as error:
                        failures[f"seed {i}, step {step}, {mode}"] = str(error)
                    lines[i][-1].append(line)
    return _result(
        lines,
        distances,
        failures,
        steps=steps,
        num_steps=num_steps,
        split=split,
        modes=wanted if first.has_batch_norm else (None,),
        provenance={
            "function": "instability",
            "arguments": {
                "config": {k: v for k, v in config.describe().items() if k != "seed"},
                "branch_steps": list(steps),
                "num_seeds": num_seeds,
                "split": split,
                "modes": list(wanted),
                "num_points": num_points,
                "seed": seed,
            },
            "objective": first.describe(),
            "train_data": examples.hash,
        },
    )


def _built(build: Callable[[], nn.Module], config: TrainConfig) -> nn.Module:
    label = getattr(build, "__qualname__", type(build).__name__)
    return copy.deepcopy(seeded_model(build, config.seed, "build", label))  # whatever `build` returned


def _trained(
    build: Callable[[], nn.Module],
    examples: Examples,
    config: TrainConfig,
    loss: Loss,
    folder: Path,
    progress: Progress | None,
    *,
    keep_steps: Collection[int] = (),
    branch: Branch | None = None,
) -> nn.Module:
    """A network at the end of its run, or of its branch; one that is in the folder already is taken."""
    model = _built(build, config)
    train(
        model,
        examples,
        None,
        config,
        loss=loss,
        checkpoint_dir=folder,
        keep_steps=keep_steps,
        branch=branch,
        progress=progress,
    )
    if progress:
        progress(1, 1)  # a branch at the end has no step to report
    return model


@contextmanager
def _folder(given: str | Path | None) -> Iterator[Path]:
    if given is not None:
        yield Path(given)
        return
    with TemporaryDirectory(prefix="thalweg-") as folder:
        yield Path(folder)


def _result(
    lines: list[list[list[LinearPath | None]]],
    distances: Tensor,
    failures: Mapping[str, str],
    *,
    steps: tuple[int, ...],
    num_steps: int,
    split: str,
    modes: Sequence[str | None],
    provenance: dict[str, Any],
) -> Instability:
    num_points = provenance["arguments"]["num_points"]

    def table(number: Callable[[LinearPath], Any], size: int = 0) -> Tensor:
        none = [math.nan] * size if size else math.nan
        rows = [[[number(x) if x else none for x in by_mode] for by_mode in by_step] for by_step in lines]
        return torch.tensor(rows, dtype=torch.float64).movedim(2, 0).contiguous()  # (M, S, K, ...)

    barriers = table(lambda line: line.barrier_over_mean)
    missed = table(lambda line: line.error.grid)
    accuracies = table(lambda line: line.accuracies.tolist(), num_points)  # (M, S, K, T)
    ends = accuracies[..., [0, -1]]
    spread = StandardError(float(_standard_error(barriers)[0, 0]), len(lines) - 1)
    return Instability(
        value=float(barriers[0, :, 0].mean()),
        error=ErrorBudget(probe=spread, grid=float(missed[0, :, 0].mean())),
        provenance=provenance,
        branch_steps=torch.tensor(steps),
        num_steps=num_steps,
        split=split,
        modes=tuple(modes),
        barriers=barriers,
        error_barriers=ends.mean(-1) - accuracies.min(-1).values,
        grid_errors=missed,
        end_losses=table(lambda line: line.losses[[0, -1]].tolist(), 2),
        end_accuracies=ends,
        distances=distances,
        failures=failures,
    )


def _standard_error(table: Tensor) -> Tensor:
    """``(M, K)``: of the mean over the seeds of ``(M, S, K)``; NaN for a single one."""
    num_seeds = table.shape[1]
    if num_seeds == 1:
        return torch.full_like(table[:, 0], math.nan)
    return table.std(1) / math.sqrt(num_seeds)

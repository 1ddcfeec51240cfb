"""What `test_distributed.py` computes on several ranks and on one process: run as a program, it is one rank.

``python on_ranks.py RANK NUM_RANKS FOLDER`` leaves what it found in FOLDER/RANK.pt.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor

ROOT = str(Path(__file__).parents[2])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

from tests.networks import cnn, images, mlp, residual, vectors  # noqa: E402

import thalweg as tw  # noqa: E402
from thalweg.objective.batch_norm import MODES  # noqa: E402
from thalweg.objective.folds import random_folds  # noqa: E402
from thalweg.objective.reduction import Rows  # noqa: E402
from thalweg.objective.value_and_gradient import value_and_gradient  # noqa: E402
from thalweg.operators.fisher import Fisher  # noqa: E402
from thalweg.operators.ggn import GGN  # noqa: E402
from thalweg.operators.gradient_covariance import GradientCovariance  # noqa: E402
from thalweg.operators.hessian import Hessian  # noqa: E402
from thalweg.operators.objective_operator import ObjectiveOperator  # noqa: E402
from thalweg.operators.shared_proofs import shared_proofs  # noqa: E402
from thalweg.operators.unit_gradients import UnitGradients  # noqa: E402

Found = dict[str, Any]
Share = Callable[[tw.Objective], tw.Objective]

# Lengths of what is summed: fewer entries than ranks, and more than travel in one piece.
LENGTHS = (1, 2, 7, 1000, 100_003)


def make(mode: Any = "running", n: int = 21, seed: int = 0, **options: Any) -> tw.Objective:
    """Batches of 8, 8 and 5, micro-batches of 5, 5, 5, 5 and 1, and an L2 term."""
    options = {"batch_size": 8, "micro_batch": 5, "weight_decay": 0.1} | options
    return tw.Objective(residual(seed), images(n), batch_norm=mode, **options)


def columns(objective: tw.Objective, k: int) -> Tensor:
    """``(P, k)``, the same on every rank."""
    rng = torch.Generator().manual_seed(k)
    return torch.randn(objective.space.dim, k, generator=rng, dtype=objective.dtype)


def values(share: Share) -> Found:
    """Value, gradient, many points with the losses of every example: in all modes."""
    found: Found = {}
    for mode in MODES:
        o = share(make(mode))
        steps = columns(o, 3).T * 0.1
        told: list[int] = []
        points = o.evaluate_points([(o.params + s, None) for s in steps], on_point=told.append)
        loss, gradient = value_and_gradient(o)
        found |= {
            f"{mode}.value": torch.tensor([o.value(), loss, o.evaluate().accuracy or 0.0]),
            f"{mode}.gradient": torch.stack([o.gradient(), gradient]),
            f"{mode}.losses": points.losses,
            f"{mode}.example_losses": points.example_losses,
            f"{mode}.accuracies": points.accuracies,
            f"{mode}.elsewhere": torch.tensor(o.at(o.params + steps[0]).value()),
            f"{mode}.statistics": torch.cat([o.params, *o.effective_buffers.values()]),
            f"{mode}.told": torch.tensor([told[-1], sorted(told) == told]),
        }
    return found


def variants(share: Share) -> Found:
    """What comes of an objective: subsets, folds, weights, some parameters, another precision."""
    o = share(make("recalibrated", calibration_data=images(34, seed=1)))
    index = torch.tensor([20, 3, 3, 11, 0, 7, 19, 5])
    weights = torch.linspace(0, 2, 8, dtype=torch.float64)
    batches = share(make("batch"))
    return {
        "subset": o.subset(13, seed=2).gradient(),
        "select": o.select(index, weights=weights).gradient(),
        "fewer than ranks": o.select(index[:3]).gradient(),
        "one": torch.tensor(o.select(index[:1]).value()),
        "folds": torch.tensor([fold.value() for fold in random_folds(o, 4, seed=0)]),
        "batches": torch.tensor([batches.subset(8).value(), batches.select(index, batch_size=4).value()]),
        "restricted": o.restrict("*.weight").gradient(),
        "single": o.to_dtype(torch.float32).gradient(),
        "frozen layer": share(tw.Objective(cnn(), images(21), micro_batch=4)).gradient(),
    }


def products(share: Share) -> Found:
    """Matrices times one column and several; how many messages a product takes; what is counted."""
    found: Found = {}
    for mode in MODES:
        o = share(make(mode))
        matrices: dict[str, ObjectiveOperator] = {"hessian": Hessian(o)}
        if mode != "recalibrated":  # in which what is summed is summed as in the running one
            matrices |= {"ggn": GGN(o), "fisher": Fisher(o)}
        if mode == "running":
            matrices["drawn"] = Fisher(o, "monte_carlo", seed=0, num_samples=2)
        if mode != "batch":
            matrices["covariance"] = GradientCovariance(o)
        for name, matrix in matrices.items():
            V = columns(o, 8)
            found[f"{mode}.{name}"] = matrix @ V
            found[f"{mode}.{name}.one"] = matrix @ V[:, 0]
        squares = UnitGradients(o).squares(o.gradient())
        found[f"{mode}.unit gradients"] = torch.stack(squares)
    counted: list[int] = []
    counting = Hessian(o := share(make())).counting(counted.append)
    with mock.patch.object(dist, "all_reduce", wraps=dist.all_reduce) as all_reduce:
        counting.matmat(columns(o, 3))
    return found | {"counted": torch.tensor(sum(counted)), "messages": torch.tensor(all_reduce.call_count)}


def reductions(share: Share) -> Found:
    """Sums of any length and dtype, and rows in the order of the data."""
    o = share(make())

    def fn(micro: Any) -> Found:
        rng = torch.Generator().manual_seed(micro.start)
        sums = {f"{n}.{d}": torch.randn(n, generator=rng, dtype=d) for n in LENGTHS for d in PRECISIONS}
        return {**sums, "order": Rows(torch.arange(micro.start, micro.stop)), "first": Rows(micro.batch[0])}

    return o.reduce(fn)


PRECISIONS = (torch.float32, torch.float64)


def measures(share: Share) -> Found:
    """Algorithms that decide on their way."""
    o, other, large = share(make()), share(make(seed=1)), share(tw.Objective(mlp(), vectors(600)))
    recalibrated = share(make("recalibrated"))
    top = tw.top_eigenvalues(o, k=2, seed=0)
    trace = tw.hessian_trace(o, rtol=0.3, seed=0)
    sampled = tw.hessian_trace(large, rtol=0.5, sampled=True, seed=0)
    noise = tw.gradient_noise(o, k=1, num_probes=2, seed=0)
    flat = tw.relative_flatness(recalibrated, weight="*2.weight", rtol=0.3, normalize_features=True, seed=0)
    line = tw.line_slice(recalibrated, num_points=5, seed=0)
    path = tw.linear_path(o, other, num_points=5)
    return {
        "eigenvalues": top.eigenvalues,
        "trace": torch.tensor([trace.value, *trace.interval(0.95)]),
        "sampled": torch.tensor([sampled.value, *sampled.interval(0.95), sampled.num_matvecs]),
        "noise": torch.tensor([noise.value, noise.signal_to_noise]),
        "flatness": torch.tensor(flat.value),
        "line": torch.cat([line.losses.flatten(), line.loss_standard_errors.flatten()]),
        "path": torch.cat([path.losses, path.accuracies]),
        "barrier": torch.tensor(path.barrier),
    }


class OddError(Exception):
    """An error that cannot be sent as it is."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} and {two}")


def troubles(share: Share, folder: Path, rank: int = 0) -> Found:
    """Each must be raised on every rank, and leave them in step."""
    x, y = images(21)
    broken = x.clone()
    broken[20] = float("nan")  # of the last rank
    bad, o = share(tw.Objective(residual(0), (broken, y), micro_batch=5)), share(make("recalibrated"))
    matrix, shift = Hessian(o), columns(o, 1)[:, 0] * rank
    matrix.check  # noqa: B018 - before ranks go apart
    elsewhere, other = o.at(o.params + 0.1), share(make(seed=1))

    def odd(micro: Any) -> Tensor:
        if micro.stop == 21:
            raise OddError(1, 2)
        return torch.ones(())

    calls: dict[str, Callable[[], Any]] = {
        "value": bad.value,
        "gradient": bad.gradient,
        "product": lambda: Hessian(bad) @ columns(o, 1),
        "measure": lambda: tw.top_eigenvalues(bad, seed=0),
        "odd": lambda: o.reduce(odd),
        "structure": lambda: o.reduce(lambda micro: torch.ones(1 + rank)),
        "not a tensor": lambda: o.reduce(lambda micro: 1 if micro.stop == 21 else torch.ones(())),
        "point": lambda: o.at(o.params + shift).value(),
        "columns": lambda: matrix @ (1 + shift),
        "examples": lambda: o.subset(10, seed=rank).value(),
        "objective": lambda: share(tw.Objective(residual(0), (x + rank, y))),
        "store": lambda: tw.line_slice(o, num_points=3, store=tw.ArrayStore(folder), seed=0),
        "nested": lambda: o.reduce(lambda micro: torch.tensor(elsewhere.value())),
        "nested in another": lambda: o.reduce(lambda micro: torch.tensor(other.value())),
    }
    return {name: in_words(call) for name, call in calls.items()} | {"afterwards": torch.tensor(o.value())}


def in_words(call: Callable[[], Any]) -> str:
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


CASES = (values, variants, products, reductions, measures)


def found_of(share: Share) -> Found:
    """What every case finds. The measures take over what the products have proved."""
    with shared_proofs({}):
        return {case.__name__: case(share) for case in CASES}


def main(rank: int, size: int, folder: Path) -> None:
    """Be one rank."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=size)
    found = found_of(tw.Objective.distributed)
    found["troubles"] = troubles(tw.Objective.distributed, folder, rank)
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))

"""The contenders of `benchmarks/surfaces.py`, each run in a process of its own."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from curvature_tasks import Batches, Setting, prepare, timed
from processes import Result
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from thalweg.measures.connectivity.permutation import align_permutation
from thalweg.measures.surfaces.plane import PlaneSlice, plane_slice
from thalweg.objective.compilation import forward_flops
from thalweg.objective.objective import Objective
from thalweg.training.checkpoint import load_weights
from training import gemm_rate

LOADER_BATCH, LOADER_WORKERS = 128, 2


class Pace:
    """A progress callback that tells a point's seconds from those of what comes before the first."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, int]] = []

    def __call__(self, done: int, _total: int = 0) -> None:
        # The centre is a point of its own, before anything is compiled.
        if done > 1:
            self.seen.append((time.perf_counter(), done))

    def seconds(self) -> float:
        """Of a point, once the first few were done."""
        (start, first), (end, last) = self.seen[0], self.seen[-1]
        return (end - start) / (last - first)


def with_cold_compiler(call: Callable[[], Any]) -> Any:
    """What it returns, when nothing compiled by earlier runs is found again."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        return call()


# -- a point ------------------------------------------------------------------------------------------


def points_peer(options: Result) -> Result:
    """loss-landscapes: its random plane, with a metric that goes through the examples in batches.

    Its own `Loss` passes all examples at once, which is slower; a metric of one's own is what its
    documentation offers. The points it visits are kept, for the others to be asked about.
    """
    import loss_landscapes as peer  # type: ignore[import-not-found]
    from loss_landscapes.metrics import Loss, Metric  # type: ignore[import-not-found]

    setting = Setting(options)

    def mean_loss(model: Callable[[Tensor], Tensor], batches: Batches) -> float:
        loss = nn.CrossEntropyLoss(reduction="sum")
        return sum(loss(model(x), y).item() for x, y in batches) / sum(len(y) for _, y in batches)

    with torch.no_grad():
        batches = setting.best_batches(lambda some: mean_loss(setting.model, some))
    visited: list[Tensor] = []
    started: list[float] = []

    class BatchedLoss(Metric):
        def __call__(self, wrapper: Any) -> float:
            started.append(time.perf_counter())
            parameters = wrapper.get_module_parameters().parameters
            visited.append(torch.cat([p.detach().flatten() for p in parameters]))
            return mean_loss(wrapper.forward, batches)

    torch.manual_seed(0)
    losses = peer.random_plane(setting.model, BatchedLoss(), steps=options["side"])
    seconds = time.perf_counter() - started[0]  # its directions left out
    # It fills its rows to and fro.
    visits = [loss for i, row in enumerate(losses.tolist()) for loss in row[:: -1 if i % 2 else 1]]
    torch.save(torch.stack(visited), options["points"])
    whole = Loss(nn.CrossEntropyLoss(), setting.x, setting.y)
    return {
        "seconds": seconds / len(visited),
        "losses": visits,
        "batch_size": setting.best_size,
        "at_once": timed(lambda: peer.point(setting.model, whole))[0],
    }


def points_loader(options: Result) -> Result:
    """The loop of the reference scripts of Li et al. (2018): weights set, then a pass of a `DataLoader`."""
    setting = Setting(options)
    data = TensorDataset(setting.x, setting.y)
    loader = DataLoader(data, batch_size=LOADER_BATCH, shuffle=False, num_workers=LOADER_WORKERS)
    criterion = nn.CrossEntropyLoss()

    def evaluate(point: Tensor) -> float:
        nn.utils.vector_to_parameters(point, setting.model.parameters())
        total_loss, total = 0.0, 0
        with torch.no_grad():
            for inputs, targets in loader:
                outputs = setting.model(inputs)
                total_loss += criterion(outputs, targets).item() * len(targets)
                total += len(targets)
                outputs.max(1)[1].eq(targets).sum().item()
        return total_loss / total

    points = torch.load(options["points"])
    evaluate(points[0])
    seconds, losses = timed(lambda: [evaluate(point) for point in points])
    return {"seconds": seconds / len(points), "losses": losses}


def points_thalweg(options: Result) -> Result:
    """Our losses at the points of the peer, by the passes that a large surface is made of."""
    objective, points = Setting(options).objective(), torch.load(options["points"])
    found = objective.evaluate_points(
        ((point, None) for point in points), num_points=options["surface_side"] ** 2
    )
    return {"losses": found.losses.tolist(), "passes": found.passes}


def plane_thalweg(options: Result) -> Result:
    """A whole `plane_slice` on all the examples: what comes before the first points, and what each takes.

    Before: the centre, the directions, and compiling, with nothing found of earlier runs. After: all else.
    Curvature at the centre is left out: no peer compares it, and progress then counts points.
    """
    setting = Setting(options)
    objective = Objective(setting.model, (setting.x, setting.y), **options["arguments"])
    side, pace, before = options["side"], Pace(), gemm_rate()
    seconds, plane = with_cold_compiler(
        lambda: timed(lambda: plane_slice(objective, num_points=side, agreement=False, seed=0, progress=pace))
    )
    return {
        "seconds": seconds,
        "point": pace.seconds(),
        "setup": seconds - side**2 * pace.seconds(),
        "flops": forward_flops(objective),
        "gemm": max(before, gemm_rate()),
        "passes": plane.provenance["passes"],
    }


# -- a surface ----------------------------------------------------------------------------------------


def surface_thalweg(options: Result) -> Result:
    """A surface to a standard error, sampled and refined where needed."""
    objective = Setting(options).objective()
    seconds, plane = with_cold_compiler(
        lambda: timed(lambda: plane_slice(objective, **options["arguments"], seed=options["seed"]))
    )
    torch.save(plane, options["surface"])
    return {
        "seconds": seconds,
        "example_losses": plane.num_example_losses,
        "examples": plane.num_examples,
        "evaluated_points": int(plane.evaluated.sum()),
        "points": plane.losses.numel(),
        "losses": [float(plane.losses.min()), float(plane.losses.max())],
        "passes": plane.provenance["passes"],
    }


def surface_check(options: Result) -> Result:
    """Random points of the grid on all the examples: the time of a point, and how far the surface is off."""
    objective = Setting(options).objective()
    plane: PlaneSlice = torch.load(options["surface"], weights_only=False)
    order = torch.randperm(plane.losses.numel(), generator=torch.Generator().manual_seed(0))
    chosen = order[: options["checked"]]
    rows, columns = chosen // len(plane.betas), chosen % len(plane.betas)
    D = plane.directions.to(objective.params)

    def points() -> Iterator[tuple[Tensor, None]]:
        for a, b in zip(plane.alphas[rows].tolist(), plane.betas[columns].tolist(), strict=True):
            yield objective.params + a * D[:, 0] + b * D[:, 1], None

    pace = Pace()
    seconds, true = with_cold_compiler(
        lambda: timed(lambda: objective.evaluate_points(points(), pace, num_points=plane.losses.numel()))
    )
    low, high = plane.loss_interval(0.95)
    miss = plane.losses[rows, columns] - true.losses
    errors = plane.loss_standard_errors[rows, columns]
    evaluated = plane.evaluated[rows, columns]
    return {
        "point": pace.seconds(),
        "setup": seconds - len(chosen) * pace.seconds(),
        "misses": miss.tolist(),
        "errors": errors.tolist(),
        "evaluated": evaluated.tolist(),
        "allowed": options["arguments"]["atol"],
        "inside": ((low[rows, columns] <= true.losses) & (true.losses <= high[rows, columns])).tolist(),
        "true": true.losses.tolist(),
    }


# -- matching -----------------------------------------------------------------------------------------


def matching(options: Result) -> Result:
    """Weight matching of the two networks with the default five starts: the first call, and again."""
    setting = Setting(options)
    first = setting.objective()
    load_weights(options["second"], setting.model)
    second = setting.objective()
    runs = [timed(lambda: align_permutation(first, second, seed=0)) for _ in range(1 + options["repeats"])]
    found = runs[-1][1]
    return {
        "first": runs[0][0],
        "seconds": [seconds for seconds, _ in runs[1:]],
        "before": found.distance_before,
        "after": found.value,
        "largest_change": found.largest_change,
    }


TASKS: dict[str, Callable[[Result], Result]] = {
    f.__name__: f
    for f in (
        prepare,
        points_peer,
        points_loader,
        points_thalweg,
        plane_thalweg,
        surface_thalweg,
        surface_check,
        matching,
    )
}

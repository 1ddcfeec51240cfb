"""The contenders of `benchmarks/dynamics.py`, each run in a process of its own."""

from __future__ import annotations

import itertools
import json
import math
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from curvature_tasks import MODEL, Batches, Setting, prepare, pyhessian, timed
from processes import Result
from torch import Tensor, nn

from thalweg.analyses.monitor import Monitor
from thalweg.analyses.monitor_readings import WATCHED
from thalweg.data import fashion_mnist
from thalweg.measures.curvature.top_eigenvalues import top_eigenvalues
from thalweg.measures.dynamics.gradient_noise import gradient_noise
from thalweg.models.registry import build_model
from thalweg.objective.objective import Objective
from thalweg.operators.unit_gradients import UnitGradients

BATCH_SIZE = 128


def noise_trace(options: Result) -> Result:
    """Gradient and trace in turns, after one of each as a warm-up."""
    objective = Setting(options).objective()
    gradient_noise(objective, k=0, seed=0)
    objective.gradient()
    gradients, traces = [], []
    for _ in range(options["repeats"]):
        gradients.append(timed(objective.gradient)[0])
        traces.append(timed(lambda: gradient_noise(objective, k=0, seed=0))[0])
    return {"gradient": statistics.median(gradients), "seconds": statistics.median(traces)}


def noise_memory(options: Result) -> Result:
    """By how much the peak grows; what a gradient takes is taken before."""
    objective = Setting(options).objective()
    objective.subset(1000).gradient()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    gradient_noise(objective, k=0, seed=0)
    return {"megabytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}


# Given model and optimizer, what is called after each step.
Watch = Callable[[nn.Module, torch.optim.Optimizer], Callable[[], object]]


def _loop(options: Result, watch: Watch) -> None:
    """A plain training loop, a call after each step."""
    x, y = (t[: options["examples"]] for t in fashion_mnist.load("train", options["data_root"]))
    model = build_model(MODEL, 1).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    after = watch(model, optimizer)
    for index in _batches(len(y), options["epochs"]):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[index]), y[index]).backward()
        optimizer.step()
        after()


def _batches(num_examples: int, epochs: int) -> Iterator[Tensor]:
    rng = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        yield from torch.randperm(num_examples, generator=rng).split(BATCH_SIZE)


def _probe(options: Result, n: int) -> tuple[Tensor, Tensor]:
    x, y = fashion_mnist.load("train", options["data_root"])
    return x[:n], y[:n]


def plain_run(options: Result) -> Result:
    """Training alone."""
    return {"seconds": _processor_seconds(options, lambda *_: lambda: None)}


def _processor_seconds(options: Result, watch: Watch) -> float:
    """Of all threads together, which other programs on the machine do not lengthen."""
    start = time.process_time()
    _loop(options, watch)
    return time.process_time() - start


def watched_run(options: Result) -> Result:
    """Training with a monitor of all measures, as it comes."""
    monitors: list[Monitor] = []

    def watch(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], object]:
        probe = _probe(options, 500)
        monitors.append(Monitor(model, optimizer, probe, batch_size=BATCH_SIZE, batch_norm="running", seed=0))
        return monitors[0].step

    seconds = _processor_seconds(options, watch)
    (monitor,) = monitors
    taken = {
        name: [n["step"] for n in monitor.history if n[WATCHED[name].keys[0]] is not None]
        for name in monitor.measures
    }
    return {
        "seconds": seconds,
        "overhead": monitor.overhead,
        "passes_overhead": monitor.passes_overhead,
        "num_examples": monitor.num_examples,
        "taken": {"gradient": [n["step"] for n in monitor.history], **taken},
        "failures": [f.message for f in monitor.failures],
    }


def each_epoch(options: Result) -> Result:
    """The monitor from the last epoch's look, PyHessian its own way: on the same networks and examples.

    In seconds of the processor. The monitor's are of its whole measuring step: gradient, copy and accounts
    are in it.
    """
    data = _probe(options, options["probe"])
    steps = -(-options["examples"] // BATCH_SIZE)
    measures = ["top_eigenvalues", *(["hessian_trace"] if options["trace"] else [])]
    epochs: list[Result] = []

    def watch(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], object]:
        monitor = Monitor(
            model,
            optimizer,
            data,
            every=steps,
            max_overhead=math.inf,
            measures=measures,
            batch_norm="running",
            batch_size=BATCH_SIZE,
            seed=0,
        )

        def after() -> None:
            start = time.process_time()
            numbers = monitor.step()
            if numbers is None:
                return
            found: Any = monitor.last["top_eigenvalues"]
            row: Result = {
                "monitor": {
                    "seconds": time.process_time() - start,
                    "products": found.num_matvecs,
                    "residual": numbers["lambda_max_residual"],
                    "lambda_max": numbers["lambda_max"],
                    "trace": numbers.get("trace"),
                    "trace_error": numbers.get("trace_standard_error"),
                }
            }
            epochs.append(row)
            if len(epochs) == 1:
                return  # a first look starts cold, and is left out
            model.eval()  # as PyHessian leaves it, too
            objective = Objective(model, data, batch_norm="running")
            truth = top_eigenvalues(objective, rtol=1e-3, start=found.eigenvectors, levels=(), seed=1)
            row["truth"] = {"lambda_max": truth.value}
            batches = list(zip(data[0].split(128), data[1].split(128), strict=True))
            row |= _power_iteration(model, batches, (1e-2, 1e-3))
            if options["trace"]:
                row["truth"]["trace"] = trace_by_labels(model, data)
                row["pyhessian trace"] = _mean_of_probes(model, batches)
            model.train()
            print(json.dumps(row), file=sys.stderr, flush=True)

        return after

    _loop(options, watch)
    return {"epochs": epochs}


def _power_iteration(model: nn.Module, batches: Batches, tolerances: Sequence[float]) -> Result:
    """What each tolerance stops at: a rougher one does at an earlier product of the same iteration."""
    torch.manual_seed(0)
    theirs = pyhessian(model, batches)
    product, seen = theirs.dataloader_hv_product, []

    def noted(v: list[Tensor]) -> Any:
        found = product(v)
        seen.append((found[0], time.process_time() - start))
        return found

    theirs.dataloader_hv_product = noted
    start = time.process_time()
    values, _ = theirs.eigenvalues(tol=min(tolerances))
    rows: Result = {}
    for tol in tolerances:
        pairs = zip(itertools.pairwise(seen), itertools.count(2))
        stops = (
            {"seconds": seconds, "products": count, "lambda_max": before}
            for ((before, _), (value, seconds)), count in pairs
            if abs(before - value) / (abs(before) + 1e-6) < tol
        )
        rows[f"pyhessian {tol:g}"] = next(stops)
    assert rows[f"pyhessian {min(tolerances):g}"]["lambda_max"] == values[0]
    return rows


def _mean_of_probes(model: nn.Module, batches: Batches) -> Result:
    """As its README calls it: the mean of the probes that its tolerance of 1e-3 stops at."""
    torch.manual_seed(0)
    theirs = pyhessian(model, batches)
    start = time.process_time()
    samples = theirs.trace()
    return {
        "seconds": time.process_time() - start,
        "products": len(samples),
        "trace": statistics.fmean(samples),
    }


def trace_by_labels(model: nn.Module, data: tuple[Tensor, Tensor]) -> float:
    r"""tr(H) to rounding, of cross-entropy and a network of ReLUs: :math:`\sum_c p_c \|\nabla \log p_c\|^2`.

    That is the trace of the Gauss-Newton matrix. Such a network is linear in each single parameter, but at
    kinks, so that what the Hessian has besides has no diagonal.
    """
    (x, y), total = data, 0.0
    with torch.no_grad():
        p = torch.cat([model(part) for part in x.split(500)]).softmax(1).double()
    for c in range(p.shape[1]):
        units = UnitGradients(Objective(model, (x, torch.full_like(y, c)), batch_norm="running"))
        deviations, along = units.squares(units.mean)
        squares = deviations + 2 * along + float(units.mean.double().square().sum())
        total += float((p[:, c] * squares).sum())
    return total / len(y)


TASKS = {f.__name__: f for f in (prepare, noise_trace, noise_memory, plain_run, watched_run, each_epoch)}

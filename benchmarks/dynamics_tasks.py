"""The contenders of `benchmarks/dynamics.py`, each run in a process of its own."""

from __future__ import annotations

import math
import resource
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from curvature_tasks import MODEL, Setting, counting, prepare, pyhessian, timed
from processes import Result
from torch import Tensor, nn

from thalweg.analyses.monitor import Monitor
from thalweg.analyses.monitor_readings import WATCHED
from thalweg.data import fashion_mnist
from thalweg.measures.curvature.top_eigenvalues import top_eigenvalues
from thalweg.measures.dynamics.gradient_noise import gradient_noise
from thalweg.models.registry import build_model
from thalweg.objective.objective import Objective

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
    return {"seconds": timed(lambda: _loop(options, lambda *_: lambda: None))[0]}


def watched_run(options: Result) -> Result:
    """Training with a monitor of all measures, as it comes."""
    monitors: list[Monitor] = []

    def watch(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], object]:
        probe = _probe(options, 500)
        monitors.append(Monitor(model, optimizer, probe, batch_size=BATCH_SIZE, batch_norm="running", seed=0))
        return monitors[0].step

    seconds, _ = timed(lambda: _loop(options, watch))
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


def eigenvalue_each_epoch(options: Result) -> Result:
    """Ours from the last epoch's vector, PyHessian's power iteration anew: on the same networks.

    In seconds of the processor, of all threads together, which other programs on the machine do not lengthen.
    """
    data = _probe(options, 2000)
    steps = -(-options["examples"] // BATCH_SIZE)
    tolerances = {"pyhessian 1e-2": 1e-2, "pyhessian 1e-3": 1e-3}
    names = ("monitor", *tolerances)
    rows: Result = {"truth": [], **{name: {"seconds": [], "values": [], "products": []} for name in names}}

    def watch(model: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], object]:
        monitor = Monitor(
            model,
            optimizer,
            data,
            every=steps,
            max_overhead=math.inf,
            measures=["top_eigenvalues"],
            batch_norm="running",
            batch_size=BATCH_SIZE,
            seed=0,
        )

        def after() -> None:
            start = time.process_time()
            numbers = monitor.step()
            if numbers is None:
                return
            rows["monitor"]["seconds"].append(time.process_time() - start)
            rows["monitor"]["products"].append(monitor.last["top_eigenvalues"].num_matvecs)  # type: ignore[attr-defined]
            rows["monitor"]["values"].append(numbers["lambda_max"])
            model.eval()  # as PyHessian leaves it, too
            truth = top_eigenvalues(Objective(model, data, batch_norm="running"), rtol=1e-4, seed=1)
            rows["truth"].append(truth.value)
            batches = list(zip(data[0].split(128), data[1].split(128), strict=True))
            for name, tol in tolerances.items():
                torch.manual_seed(0)
                theirs, products = counting(pyhessian(model, batches))
                start = time.process_time()
                values, _ = theirs.eigenvalues(tol=tol)
                rows[name]["seconds"].append(time.process_time() - start)
                rows[name]["values"].append(values[0])
                rows[name]["products"].append(next(products))
            model.train()

        return after

    _loop(options, watch)
    return rows


TASKS = {
    f.__name__: f for f in (prepare, noise_trace, noise_memory, plain_run, watched_run, eigenvalue_each_epoch)
}

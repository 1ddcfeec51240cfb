"""The contenders of `benchmarks/sampling.py`, each run in a process of its own."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numpy as np
import torch
from curvature_tasks import Setting, exact_trace, prepare, pyhessian, pyhessian_product, timed, top_pyhessian
from processes import Result

from thalweg.analyses.sharpness_family import FAMILY
from thalweg.measures.curvature.hessian_trace import hessian_trace
from thalweg.measures.curvature.top_eigenvalues import top_eigenvalues
from thalweg.operators.hessian import Hessian

# Of PyHessian's for a trace.
PROBES = 10


def reference(options: Result) -> Result:
    """The largest eigenvalue over all the data, certified; its own error is of the residual's square."""
    found = top_eigenvalues(Setting(options).objective(), rtol=1e-3, seed=100)
    return {"value": found.value, "residual": float(found.residuals[0]), "upper": found.upper_bound}


def sampled_eigenvalues(options: Result) -> Result:
    """Ours with as many seeds, each timed; the first product on a few examples is the warm-up."""
    setting = Setting(options)
    warm = Hessian(setting.objective(256))
    warm @ torch.randn(warm.dim, 2)
    rows = []
    for seed in range(options["num_seeds"]):
        objective = setting.objective()
        seconds, r = timed(
            lambda o=objective, s=seed: top_eigenvalues(
                o, sampled=True, rtol=0.02, confidence=0.95, certify_rtol=options["certify_rtol"], seed=s
            )
        )
        rows.append(
            {
                "seconds": seconds,
                "value": r.value,
                "half_width": r.error.half_width(0.95),
                "lower": r.lower_bound,
                "upper": r.upper_bound,
                "multiplied": r.provenance["sampling"]["num_multiplied"],
            }
        )
    return {"rows": rows}


def sampled_traces(options: Result) -> Result:
    """The same of the trace, to a standard error of 5 %."""
    setting = Setting(options)
    warm = Hessian(setting.objective(256))
    warm @ torch.randn(warm.dim, 1)
    rows = []
    for seed in range(options["num_seeds"]):
        objective = setting.objective()
        seconds, r = timed(lambda o=objective, s=seed: hessian_trace(o, sampled=True, rtol=0.05, seed=s))
        low, high = r.interval(0.95)
        rows.append({"seconds": seconds, "value": r.value, "lower": low, "upper": high})
    return {"rows": rows}


def pyhessian_trace(options: Result) -> Result:
    """Time and values of its first probes.

    Its own rule stops when the mean moves by less than 1e-3: after a dozen probes by chance, or not within
    half an hour. What a probe costs, and how far one is off, say what any error takes.
    """
    setting = Setting(options)
    batches = setting.best_batches(pyhessian_product(setting))
    torch.manual_seed(0)
    theirs = pyhessian(setting.model, batches)
    seconds, samples = timed(lambda: theirs.trace(maxIter=PROBES, tol=0))
    return {
        "seconds": seconds,
        "value": float(np.mean(samples)),
        "samples": [float(s) for s in samples],
        "note": f"{len(samples)} probes, batches of {setting.best_size}",
    }


def family(options: Result) -> Result:
    """Seconds of each member, one after the other, on one objective."""
    setting = Setting(options)
    warm = Hessian(setting.objective(256))
    warm @ torch.randn(warm.dim, 2)
    objective = setting.objective()
    seconds, values = {}, {}
    for name, member in FAMILY.items():
        start = time.perf_counter()
        result = member(objective, seed=0)
        seconds[name] = time.perf_counter() - start
        low, high = result.interval(0.95)
        values[name] = [result.value, *(x if math.isfinite(x) else None for x in (low, high))]
    return {"seconds": seconds, "values": values}


TASKS: dict[str, Callable[[Result], Result]] = {
    f.__name__: f
    for f in (
        prepare,
        reference,
        exact_trace,
        top_pyhessian,
        sampled_eigenvalues,
        sampled_traces,
        pyhessian_trace,
        family,
    )
}

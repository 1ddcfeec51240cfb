"""The paper's network with batch norm on one device: how fast, how much of the card, and how exact.

    python benchmarks/device.py --checkpoint runs/paper/checkpoints/A1-.../model.safetensors

Each task runs once to warm up and then a few times; seconds are the median, with the device synchronised.
Operations are counted as in `docs/curvature.md`: F of a forward pass, 3F of a gradient, 3F and 6F a column of
a Hessian product. Values are compared with the same in float64 on the same device, and these with float64 on
the CPU over the first 1,024 examples.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import thalweg as tw
from thalweg.core.precision import full_precision
from thalweg.core.rng import generator, normal
from thalweg.data import fashion_mnist
from thalweg.models.registry import build_model
from thalweg.operators.hessian import Hessian
from thalweg.training.checkpoint import load_weights
from training import FORWARD_FLOPS

COMPARED_ON_CPU = 1024


def synchronised(device: torch.device) -> float:
    """The time at which all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def timed(call: Callable[[], Any], device: torch.device, repeats: int) -> tuple[float, Any, float]:
    """Median seconds, what it returns, and the most memory held on the device, in bytes."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    result, seconds = call(), []
    for _ in range(repeats):
        start = synchronised(device)
        result = call()
        seconds.append(synchronised(device) - start)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return statistics.median(seconds), result, peak


def ceilings(device: torch.device) -> dict[str, float]:
    """Operations a second of a large float32 product, and bytes a second of a large copy."""
    n, size = (8192, 2**28) if device.type == "cuda" else (1024, 2**24)
    A, B = (torch.randn(n, n, device=device) for _ in range(2))
    source, target = (torch.randn(size, device=device) for _ in range(2))
    with full_precision():
        product, _, _ = timed(lambda: A @ B, device, 5)
    copy, _, _ = timed(lambda: target.copy_(source), device, 5)
    return {"flops": 2 * n**3 / product, "bytes": 8 * size / copy}


def objective(options: argparse.Namespace, dtype: torch.dtype, device: torch.device, n: int) -> tw.Objective:
    """The mean cross-entropy of the first n training examples, batch norm with running statistics."""
    model = build_model("small_cnn_bn", 1)
    load_weights(options.checkpoint, model)
    x, y = fashion_mnist.load("train", options.data_root)
    micro_batch = options.micro_batch or "auto"
    return tw.Objective(
        model.to(device, dtype), (x[:n], y[:n]), batch_norm="running", micro_batch=micro_batch
    )


def first_order(o: tw.Objective) -> dict[str, tuple[Callable[[], Any], float]]:
    """What is a known number of passes, and how many forward passes' worth it is."""
    H, v = Hessian(o), normal(generator(0, "benchmark"), o.space.dim, 8, like=o.params)
    v = v / v.norm(dim=0)
    assert H.check.passed
    return {
        "value": (o.value, 1),
        "gradient": (o.gradient, 3),
        "Hessian, 1 column": (lambda: H @ v[:, 0], 9),
        "Hessian, 8 columns": (lambda: H @ v, 51),
    }


def measures(o: tw.Objective) -> dict[str, Callable[[], tw.Measurement]]:
    """What asks for as much as it takes."""
    return {
        "top_eigenvalues": lambda: tw.top_eigenvalues(o, seed=0),
        "hessian_trace": lambda: tw.hessian_trace(o, seed=0),
        "line_slice": lambda: tw.line_slice(o, seed=0, num_points=21),
    }


def error(found: Any, true: Any) -> float:
    """Relative, of numbers and of vectors."""
    a, b = (torch.as_tensor(t, dtype=torch.float64).cpu() for t in (found, true))
    return float((a - b).norm() / b.norm())


def main() -> None:
    """One line a task, then everything as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data-root")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--examples", type=int, default=60_000)
    parser.add_argument("--micro-batch", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measures", action="store_true", help="those of many products, too")
    parser.add_argument("--out")
    options = parser.parse_args()
    device = torch.device(options.device)
    card = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    most = ceilings(device)
    print(f"{card}, torch {torch.__version__}, {options.examples} examples")
    print(f"float32 products {most['flops'] / 1e12:.1f} TFLOP/s, copies {most['bytes'] / 1e9:.0f} GB/s")
    found: dict[str, Any] = {"card": card, "torch": torch.__version__, "ceilings": most}

    o = objective(options, torch.float32, device, options.examples)
    exact = objective(options, torch.float64, device, options.examples)
    few, few_there = (
        objective(options, torch.float64, torch.device(d), COMPARED_ON_CPU) for d in ("cpu", device)
    )
    print(f"micro-batches of {o.micro_batch}; {Hessian(o).check}")
    on_cpu = {name: call() for name, (call, _) in first_order(few).items()}
    off_cpu = {name: error(call(), on_cpu[name]) for name, (call, _) in first_order(few_there).items()}
    true = {name: call() for name, (call, _) in first_order(exact).items()}
    head = f"{'':20}{'seconds':>9}{'TFLOP/s':>9}{'of peak':>9}{'GB':>7}{'float32':>9}{'float64 off CPU':>17}"
    print(head)
    for name, (call, passes) in first_order(o).items():
        seconds, result, peak = timed(call, device, options.repeats)
        rate = passes * FORWARD_FLOPS * options.examples / seconds
        again = call()
        same = bool(torch.equal(again, result)) if isinstance(again, Tensor) else again == result
        found[name] = {"seconds": seconds, "flops": rate, "peak": peak, "error": error(result, true[name])}
        print(
            f"{name:20}{seconds:9.3f}{rate / 1e12:9.1f}{rate / most['flops']:9.0%}{peak / 1e9:7.2f}"
            f"{found[name]['error']:9.0e}{off_cpu[name]:17.0e}{'' if same else '  other bits'}",
            flush=True,
        )
    for name, call in measures(o).items() if options.measures else ():
        start = synchronised(device)
        result = call()
        first = synchronised(device) - start
        seconds, again, peak = timed(call, device, 1)
        found[name] = {"seconds": seconds, "first": first, "peak": peak, "value": again.value}
        same = "" if again == result else "  other bits"
        print(f"{name:20}{seconds:9.3f}  {again!r}{same}", flush=True)
    if options.out:
        with open(options.out, "w") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()

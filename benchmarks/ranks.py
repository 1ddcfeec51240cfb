"""Hessian products shared by one-thread processes, against one one-thread process.

    python benchmarks/ranks.py                      # 2 ranks, 4,096 examples of Fashion-MNIST, eight columns
    python benchmarks/ranks.py --ranks 4 --columns 1

The same products by the first process alone and shared by all, in turns, so that load from elsewhere meets
both. Printed are the median ratio of the times, and that of the processor times, which other load does not
stretch: what could be gained on cores of one's own.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

import torch
import torch.distributed as dist

from thalweg.data.registry import load_data
from thalweg.models.registry import build_model
from thalweg.objective.objective import Objective
from thalweg.operators.hessian import Hessian


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--examples", type=int, default=4096)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def work(asked: argparse.Namespace) -> None:
    """Be one rank. While the first one times a product by itself, the others wait."""
    dist.init_process_group("gloo")
    model = build_model("small_cnn_bn", 0)
    alone = Objective(model, load_data(f"fashion-mnist:train:{asked.examples}", None))
    V = torch.randn(alone.space.dim, asked.columns, generator=torch.Generator().manual_seed(0))
    matrix = Hessian(alone)
    shared = matrix.over(alone.distributed())
    times: dict[str, list[tuple[float, float]]] = {"alone": [], "shared": []}
    for _ in range(asked.repeats + 1):
        for name, operator in (("alone", matrix), ("shared", shared)):
            dist.barrier()
            if name == "shared" or dist.get_rank() == 0:
                wall, cpu = time.perf_counter(), time.process_time()
                operator.matmat(V)
                times[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    if dist.get_rank() == 0:
        pairs = list(zip(times["alone"], times["shared"], strict=True))[1:]  # the first products are cold
        for kind, title in enumerate(("time", "processor time of the first rank")):
            ratios = [a[kind] / s[kind] for a, s in pairs]
            one, ratio = statistics.median(a[kind] for a, _ in pairs), statistics.median(ratios)
            spread = f"({min(ratios):.2f} to {max(ratios):.2f})"
            print(f"{title}: {one:.2f} s alone, with {asked.ranks} ranks {ratio:.2f} times as fast {spread}")
    dist.destroy_process_group()


def main() -> None:
    """Start the ranks, or be one."""
    asked = options()
    if dist.is_torchelastic_launched():
        work(asked)
        return
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    call = [*launcher, "--nproc-per-node", str(asked.ranks), __file__, *sys.argv[1:]]
    sys.exit(subprocess.run(call, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False).returncode)


if __name__ == "__main__":
    main()

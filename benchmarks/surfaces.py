"""Surfaces against the peers and against the machine: one network, the same data, one run; float32.

The network is the paper's CNN with batch norm (A1, and A2 for matching), running statistics. loss-landscapes
runs at the batch size at which it is fastest here, the reference scripts' loop as they have it; both evaluate
the same points on the same 10,000 examples, and what we say of these must be the same to 1e-4. Our seconds
a point are of a whole `plane_slice` as it goes; what comes before the first points, compiling above all, is
reported apart and then spread over a surface of 25 by 25. The limit is the forward pass's operations at the
rate of a matrix product measured in the same process. Every contender has a process of its own
(`surfaces_tasks.py`).

    make benchmark-surfaces                                       # everything; three quarters of an hour
    benchmarks/.venv/bin/python benchmarks/surfaces.py points     # a part of it
    benchmarks/.venv/bin/python benchmarks/surfaces.py --smoke    # every task on next to nothing

The networks are those of `make reproduce` where it has run (`--networks`), else they are trained. Results are
kept in `--out`, one file a task: what is there is not measured again.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import numpy as np
from processes import Bench, Result, parser_of, run_task

SECTIONS = ("points", "modes", "surface", "matching")

# Examples of the seconds a point.
EXAMPLES = 10_000

# The surface that setup is spread over: the default of `plane_slice`.
SPREAD = 25**2

# Of the surfaces that time the other passes.
MODES_SIDE = 7

# The surface of the issue: 51 by 51, standard error at most max(0.02, 2 % of the loss).
SURFACE = {"num_points": 51, "span": 0.5, "atol": 0.02, "rtol": 0.02, "tolerance": (0.02, 0.02)}


class Surfaces(Bench):
    """The sections."""

    def __init__(self, program: str, options: argparse.Namespace) -> None:
        super().__init__(program, options)
        self.networks: dict[str, str] = {}
        for seed, name in ((1, "A1"), (2, "A2")):
            trained = sorted(options.networks.glob(f"{name}-*/model.safetensors"))
            path = str(trained[0] if trained else self.out / f"{name}.safetensors")
            self.networks[name] = path
            self.task("prepare", f"network-{name}", checkpoint=path, seed=seed)
        self.common["checkpoint"] = self.networks["A1"]
        smoke = options.smoke
        self.examples = 600 if smoke else options.examples
        self.point_examples = min(EXAMPLES, self.examples)
        self.repeats = 1 if smoke else options.repeats
        self.side, self.peer_side, self.checked = (3, 2, 4) if smoke else (options.side, 3, options.checked)
        self.surface_arguments = SURFACE | ({"num_points": 5} if smoke else {})

    def points(self) -> None:
        """Seconds a point against the peers and the machine, in turns."""
        n, points = self.point_examples, str(self.out / "points.pt")
        rows: dict[str, list[Result]] = {"peer": [], "loader": [], "ours": []}
        for i in range(self.repeats):
            peer = self.task("points_peer", f"peer-{i}", examples=n, side=self.peer_side, points=points)
            rows["peer"].append(peer)
            rows["loader"].append(self.task("points_loader", f"loader-{i}", examples=n, points=points))
            rows["ours"].append(self.plane(f"plane-{i}", self.side))
        same = self.task(
            "points_thalweg",
            "same",
            examples=n,
            points=points,
            surface_side=self.surface_arguments["num_points"],
        )
        apart = {
            name: max(
                abs(a - b) / max(1.0, abs(b))
                for a, b in zip(same["losses"], rows[name][-1]["losses"], strict=True)
            )
            for name in ("peer", "loader")
        }
        ours, setup = median(rows["ours"], "point"), median(rows["ours"], "setup")
        spread = ours + setup / SPREAD
        gemm = statistics.median(r["gemm"] for r in rows["ours"])
        limit = rows["ours"][0]["flops"] / gemm
        print(f"\nSeconds a point, {n:,} examples, batch norm running; medians of {self.repeats}")
        print(f"{'':44}{'s':>8}{'range':>18}{'ours faster':>13}{'with setup':>12}{'losses differ':>15}")
        sizes = sorted({r["batch_size"] for r in rows["peer"]})
        labels = {
            "peer": f"loss-landscapes 3.0.6, batches of {' or '.join(map(str, sizes))}",
            "loader": "DataLoader, 2 workers, batches of 128",
        }
        for name, label in labels.items():
            seconds = median(rows[name], "seconds")
            print(
                f"{label:44}{seconds:8.3f}{extent(rows[name], 'seconds'):>18}{seconds / ours:12.2f}x"
                f"{seconds / spread:11.2f}x{apart[name]:15.1e}"
            )
        print(f"{'thalweg, ' + rows['ours'][0]['passes']:44}{ours:8.3f}{extent(rows['ours'], 'point'):>18}")
        print(f"{'the forward pass at the GEMM rate':44}{limit:8.3f}")
        print(
            f"thalweg is within {ours / limit:.2f} times the limit (GEMM {gemm / 1e9:.0f} Gflop/s, a pass "
            f"{rows['ours'][0]['flops'] / 1e9:.1f} Gflop); by repeat "
            + ", ".join(f"{r['point'] * r['gemm'] / r['flops']:.2f}" for r in rows["ours"])
        )
        print(
            f"Setup {setup:.1f} s, over 25 by 25 points {setup / SPREAD:.3f} s a point. loss-landscapes with "
            f"its own metric, all examples at once: {median(rows['peer'], 'at_once'):.2f} s a point"
        )

    def modes(self) -> None:
        """The other passes, for information."""
        print(f"\nSeconds a point, {self.point_examples:,} examples, one run each")
        for label, arguments in {
            "running, eager": {"compile": False},
            "running": {},
            "batch": {"batch_norm": "batch"},
            "recalibrated": {"batch_norm": "recalibrated"},
        }.items():
            row = self.plane(f"mode-{label.replace(', ', '-')}", min(MODES_SIDE, self.side), **arguments)
            print(f"{label:20}{row['passes']:16}{row['point']:8.3f} s, setup {row['setup']:.1f} s")

    def plane(self, label: str, side: int, **arguments: Any) -> Result:
        """A `plane_slice`, with these arguments of the objective."""
        # The rule takes the passes of a large surface to be worth compiling; this one stands for such.
        arguments = {"compile": True, **arguments}
        return self.task("plane_thalweg", label, examples=self.point_examples, side=side, arguments=arguments)

    def surface(self) -> None:
        """Work and seconds of a surface with error bars against the full grid, and whether it is the same."""
        rows = []
        for seed in range(1 if self.options.smoke else self.options.seeds):
            name, n = f"surface-{seed}", self.examples
            common = {
                "examples": n,
                "surface": str(self.out / f"{name}.pt"),
                "arguments": self.surface_arguments,
            }
            rows.append(
                self.task("surface_thalweg", name, seed=seed, **common)
                | self.task("surface_check", f"{name}-check", checked=self.checked, **common)
            )
        print(
            f"\nA surface of {rows[0]['points']:,} points, spans +-0.5, {self.examples:,} examples, standard "
            "error at most max(0.02, 2 % of the loss)"
        )
        for seed, row in enumerate(rows):
            full, full_seconds = row["points"] * self.examples, row["setup"] + row["points"] * row["point"]
            misses, errors = np.abs(row["misses"]), np.asarray(row["errors"])
            sampled = np.asarray(row["evaluated"]) & (errors > 0)
            targets = np.maximum(0.02, 0.02 * np.asarray(row["true"]))
            print(
                f"directions and sample {seed}: {row['example_losses']:,} example losses, of the full grid's "
                f"{full:,}: {full / row['example_losses']:.1f} times less; {row['seconds']:.0f} s, of "
                f"{full_seconds:,.0f} s ({row['point']:.2f} s a point, timed on {len(misses)}): "
                f"{full_seconds / row['seconds']:.1f} times less"
            )
            print(
                f"    {row['examples']:,} examples, {row['evaluated_points']:,} points evaluated, losses "
                f"{row['losses'][0]:.3f} to {row['losses'][1]:.3f}; of {len(misses)} random points "
                f"{sum(row['inside'])} lie in their 95 % intervals; largest miss {misses.max():.4f}, "
                f"{(misses / targets).max():.2f} times the standard error asked for; where evaluated "
                f"{ratio(misses, errors, sampled):.2f} standard errors"
            )

    def matching(self) -> None:
        """Seconds of weight matching."""
        row = self.task(
            "matching",
            "matching",
            examples=self.point_examples,
            second=self.networks["A2"],
            repeats=self.repeats,
        )
        print(
            f"\nWeight matching of A1 and A2: {statistics.median(row['seconds']):.2f} s (the first call "
            f"{row['first']:.2f} s); distance {row['before']:.2f} before, {row['after']:.2f} after; the "
            f"matched network differs by {row['largest_change']:.0e}"
        )


def median(rows: list[Result], key: str) -> float:
    """Of one number."""
    return statistics.median(r[key] for r in rows)


def extent(rows: list[Result], key: str) -> str:
    """Smallest and largest."""
    values = [r[key] for r in rows]
    return f"{min(values):.3f} to {max(values):.3f}"


def ratio(misses: Any, errors: Any, where: Any) -> float:
    """The largest miss in standard errors."""
    return float((misses[where] / errors[where]).max()) if where.any() else float("nan")


def main() -> None:
    """Run the sections asked for; a task of another process is called by `--task`."""
    parser = parser_of(__doc__, SECTIONS, "runs/benchmark-surfaces")
    parser.add_argument(
        "--networks",
        type=Path,
        default=Path("runs/paper/checkpoints"),
        help="folder of A1-*/model.safetensors and A2-* (default: runs/paper/checkpoints)",
    )
    parser.add_argument("--side", type=int, default=11, help="of our own timed surfaces (default: 11)")
    parser.add_argument("--seeds", type=int, default=1, help="of the surface (default: 1)")
    parser.add_argument("--checked", type=int, default=104, help="points checked on all data (default: 104)")
    parser.add_argument("--smoke", action="store_true", help="every task on next to nothing")
    options = parser.parse_args()
    if options.task:
        from surfaces_tasks import TASKS

        run_task(options, TASKS)
        return
    bench = Surfaces(__file__, options)
    for name in options.sections or SECTIONS:
        getattr(bench, name)()


if __name__ == "__main__":
    main()

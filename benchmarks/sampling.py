"""Sampled curvature against PyHessian on all the data, and the time of the whole sharpness family.

The network is the paper's CNN with batch norm after its six epochs (seed 1), running statistics, float32, two
cores. What is sampled is run with several seeds, so that the error it states can be set against the error it
makes; the peer runs once, as its documentation says, at the batch size at which it is fastest here.

    make benchmark-sampling                                    # everything; two hours on two cores
    benchmarks/.venv/bin/python benchmarks/sampling.py family  # a part of it

Results are kept in `--out`, one file a task: what is there is not measured again.
"""

from __future__ import annotations

import statistics
from typing import Any

from processes import Bench, Result, parser_of, run_task

SECTIONS = ("eigenvalue", "trace", "family")

# Of the standard error of a trace.
TRACE_RTOL = 0.05


class Sampling(Bench):
    """The sections."""

    def eigenvalue(self) -> None:
        """Two per cent at 95 per cent, without and with a certificate, against power iteration."""
        n = self.options.examples
        peer = self.task("top_pyhessian", f"pyhessian-{n}", examples=n)
        true = self.task("reference", f"reference-{n}", examples=n)["value"]
        print(f"\nLargest eigenvalue of {n:,} examples, {true:.3f}, to 2 % at 95 %")
        print(
            f"PyHessian, tol 1e-3: {peer['seconds']:.0f} s, {peer['value']:.3f}, {peer['products']} products"
        )
        print(
            f"{'':16}{'s':>8}{'PyHessian takes':>17}{'rms error':>11}{'stated':>9}{'covers':>9}{'limits':>18}"
        )
        for label, certify_rtol in (("uncertified", None), ("certified", 0.1)):
            rows = self.rows("sampled_eigenvalues", label, certify_rtol=certify_rtol)
            seconds = median(rows, "seconds")
            rms = statistics.fmean((r["value"] / true - 1) ** 2 for r in rows) ** 0.5
            covered = sum(abs(r["value"] - true) <= r["half_width"] for r in rows)
            below, above = (
                sum(sign * (r[side] - true) >= 0 for r in rows)
                for side, sign in (("lower", -1), ("upper", 1))
            )
            print(
                f"{label:16}{seconds:10.1f}{peer['seconds'] / seconds:9.1f}x{rms:10.2%}"
                f"{median(rows, 'half_width') / true:10.2%}{covered:4} of {len(rows)}"
                f"   {median(rows, 'lower'):.1f} ({below}) to {median(rows, 'upper'):.4g} ({above})"
            )

    def trace(self) -> None:
        """Five per cent standard error, against plain probes on all the data."""
        n = self.options.examples
        peer = self.task("pyhessian_trace", f"pyhessian-trace-{n}", examples=n)
        true = self.task("exact_trace", f"exact-trace-{n}", examples=n)["trace"]
        rows = self.rows("sampled_traces", "trace")
        seconds = median(rows, "seconds")
        rms = statistics.fmean((r["value"] / true - 1) ** 2 for r in rows) ** 0.5
        covered = sum(r["lower"] <= true <= r["upper"] for r in rows)
        print(f"\nTrace of {n:,} examples, exactly {true:.2f}, to a standard error of {TRACE_RTOL:.0%}")
        samples = peer["samples"]
        spread = statistics.stdev(samples) / true
        a_probe = peer["seconds"] / len(samples)
        print(
            f"PyHessian: {a_probe:.0f} s a probe, of which one has a standard deviation of {spread:.0%}; of "
            f"{peer['note']}, the mean {peer['value']:.1f}"
        )
        print(
            f"sampled: {seconds:.1f} s, rms error {rms:.1%} over {len(rows)} seeds, 95 % intervals hold in "
            f"{covered}; PyHessian takes {a_probe * (spread / TRACE_RTOL) ** 2 / seconds:.1f}x for the error "
            f"asked for, {a_probe * (spread / rms) ** 2 / seconds:.1f}x for that rms error"
        )

    def family(self) -> None:
        """The whole sharpness family on 10,000 examples."""
        row = self.task("family", "family", examples=10_000)
        print("\nThe sharpness family of 10,000 examples")
        for name, seconds in row["seconds"].items():
            value, low, high = row["values"][name]
            interval = f"{low:.4g} to {high:.4g}" if low is not None and high is not None else ""
            print(f"{name:36}{seconds:8.1f} s{value:14.5g}   {interval}")
        print(f"{'all':36}{sum(row['seconds'].values()):8.1f} s")

    def rows(self, name: str, label: str, **arguments: Any) -> list[Result]:
        """Results with every seed."""
        n, num_seeds = self.options.examples, self.options.seeds
        label = f"{label}-{n}-{num_seeds}"
        return self.task(name, label, examples=n, num_seeds=num_seeds, **arguments)["rows"]


def median(rows: list[Result], key: str) -> float:
    """Of one number."""
    return statistics.median(r[key] for r in rows)


def main() -> None:
    """Run the sections asked for; a task of another process is called by `--task`."""
    parser = parser_of(__doc__, SECTIONS, "runs/benchmark-sampling")
    parser.add_argument("--seeds", type=int, default=20, help="of what is sampled (default: 20)")
    options = parser.parse_args()
    if options.task:
        from sampling_tasks import TASKS

        run_task(options, TASKS)
        return
    bench = Sampling(__file__, options)
    bench.task("prepare", "network")
    for name in options.sections or SECTIONS:
        getattr(bench, name)()


if __name__ == "__main__":
    main()

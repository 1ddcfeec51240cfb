"""Gradient noise and the monitor: what they cost beside gradients, training and PyHessian.

The network is the paper's CNN with batch norm, running statistics, float32, two cores.

    benchmarks/.venv/bin/python benchmarks/dynamics.py            # everything
    benchmarks/.venv/bin/python benchmarks/dynamics.py overhead   # a part of it

Results are kept in `--out`, one file a task: what is there is not measured again.
"""

from __future__ import annotations

import statistics

from processes import Bench, parser_of, run_task

SECTIONS = ("trace", "memory", "overhead", "eigenvalue")


class Dynamics(Bench):
    """The sections."""

    def trace(self) -> None:
        """tr C of 10,000 examples, in plain gradients of the same."""
        row = self.task("noise_trace", "trace", examples=10_000, repeats=self.options.repeats)
        print(
            f"\ntr C of 10,000 examples: {row['seconds']:.1f} s, {row['seconds'] / row['gradient']:.2f} "
            f"times their gradient ({row['gradient']:.1f} s)"
        )

    def memory(self) -> None:
        """Peak memory of the same, less what the examples themselves take."""
        print("\nPeak memory of tr C, over that before it")
        for n in (5_000, 20_000, 60_000):
            row = self.task("noise_memory", f"memory-{n}", examples=n)
            print(f"{n:8,} examples {row['megabytes']:8.0f} MB")

    def overhead(self) -> None:
        """All that a monitor measures by default, within a tenth."""
        row = self.task("watched_run", "overhead", examples=self.options.examples, epochs=10)
        plain = self.task("plain_run", "plain", examples=self.options.examples, epochs=10)
        print(
            f"\nTraining of ten epochs on {self.options.examples:,} examples, a monitor at max_overhead=0.1"
        )
        print(
            f"plain {plain['seconds']:.0f} s, watched {row['seconds']:.0f} s; it says {row['overhead']:.3f} "
            f"by the clock, {row['passes_overhead']:.3f} in passes, on {row['num_examples']} examples"
        )
        for name, steps in row["taken"].items():
            first = f", first at step {steps[0]:.0f}" if steps else ""
            print(f"{name:28}{len(steps):5} times{first}")

    def eigenvalue(self) -> None:
        """The largest eigenvalue of 2,000 examples after each epoch: ours warm, PyHessian's its own way."""
        row = self.task("eigenvalue_each_epoch", "eigenvalue", examples=self.options.examples, epochs=6)
        print("\nlambda_max of 2,000 examples after each of six epochs, the first left out")
        for name in ("monitor", "pyhessian 1e-2", "pyhessian 1e-3"):
            own = {key: values[1:] for key, values in row[name].items()}
            errors = [v / t - 1 for v, t in zip(own["values"], row["truth"][1:], strict=True)]
            rms = statistics.fmean(e * e for e in errors) ** 0.5
            print(
                f"{name:16}{statistics.fmean(own['seconds']):8.2f} s of the processor an epoch, "
                f"{statistics.fmean(own['products']):5.1f} products, rms error {rms:.2e}"
            )


def main() -> None:
    """Run the sections asked for; a task of another process is called by `--task`."""
    options = parser_of(__doc__, SECTIONS, "runs/benchmark-dynamics").parse_args()
    if options.task:
        from dynamics_tasks import TASKS

        run_task(options, TASKS)
        return
    bench = Dynamics(__file__, options)
    bench.task("prepare", "network")
    for name in options.sections or SECTIONS:
        getattr(bench, name)()


if __name__ == "__main__":
    main()

"""Gradient noise and the monitor: what they cost beside gradients, training and PyHessian.

The network is the paper's CNN with batch norm, running statistics, float32, two cores.

    benchmarks/.venv/bin/python benchmarks/dynamics.py            # everything
    benchmarks/.venv/bin/python benchmarks/dynamics.py overhead   # a part of it

Results are kept in `--out`, one file a task: what is there is not measured again.
"""

from __future__ import annotations

import statistics

from processes import Bench, Result, parser_of, run_task

TRAINED = ("trace", "memory")  # the others train for themselves
SECTIONS = ("trace", "memory", "overhead", "eigenvalue", "both")


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
            f"plain {plain['seconds']:.0f} s of the processor, watched {row['seconds']:.0f} s; it says "
            f"{row['overhead']:.3f} by the clock, {row['passes_overhead']:.3f} in passes, on "
            f"{row['num_examples']} examples"
        )
        for name, steps in row["taken"].items():
            first = f", first at step {steps[0]:.0f}" if steps else ""
            print(f"{name:28}{len(steps):5} times{first}")

    def eigenvalue(self) -> None:
        """The largest eigenvalue after each epoch: ours from the last one's, PyHessian's its own way."""
        row = self.task(
            "each_epoch", "eigenvalue", examples=self.options.examples, probe=4000, trace=False, epochs=6
        )
        self._beside("lambda_max of 4,000 examples", row["epochs"], ("pyhessian 0.01", "pyhessian 0.001"), [])

    def both(self) -> None:
        """That and the trace."""
        row = self.task(
            "each_epoch", "both", examples=self.options.examples, probe=2000, trace=True, epochs=6
        )
        names = ("pyhessian 0.01", "pyhessian 0.001")
        self._beside("lambda_max and trace of 2,000 examples", row["epochs"], names, ["pyhessian trace"])

    def _beside(self, what: str, epochs: list[Result], names: tuple[str, ...], more: list[str]) -> None:
        """A line each, from the second epoch: the first look starts cold."""
        own = epochs[1:]
        print(f"\n{what}, after each epoch from the second of {len(epochs)}")

        def seconds(*parts: str) -> float:
            return statistics.fmean(sum(e[part]["seconds"] for part in parts) for e in own)

        def rms(part: str, number: str) -> float:
            return statistics.fmean((e[part][number] / e["truth"][number] - 1) ** 2 for e in own) ** 0.5

        def products(part: str) -> float:
            return statistics.fmean(e[part]["products"] for e in own)

        def line(*parts: str) -> str:
            errors = f"rms error {rms(parts[0], 'lambda_max'):.1e}"
            if more:
                errors += f", of the trace {rms(parts[-1], 'trace'):.1e}"
            times = seconds(*parts) / seconds("monitor")
            return (
                f"{' and '.join(parts):34}{seconds(*parts):8.2f} s of the processor, {times:5.2f} times, "
                f"{sum(map(products, parts)):5.1f} products, {errors}"
            )

        print(line("monitor"))
        for name in names:
            print(line(name, *more))


def main() -> None:
    """Run the sections asked for; a task of another process is called by `--task`."""
    options = parser_of(__doc__, SECTIONS, "runs/benchmark-dynamics").parse_args()
    if options.task:
        from dynamics_tasks import TASKS

        run_task(options, TASKS)
        return
    bench = Dynamics(__file__, options)
    sections = options.sections or SECTIONS
    if set(sections) & set(TRAINED):
        bench.task("prepare", "network")
    for name in sections:
        getattr(bench, name)()


if __name__ == "__main__":
    main()

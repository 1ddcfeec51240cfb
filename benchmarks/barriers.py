"""Barriers between networks trained alike: batch-norm modes, alignment, a curve, and width.

Networks are the paper's CNN with batch norm, trained as the paper does on Fashion-MNIST, every hidden layer
1/2, 1 or 2 times as wide; the learning rate is the same at all widths. Pairs share no network, so that they
are independent; seeds 1 and 2 at width 1 are the paper's A1 and A2. Of each pair: the barrier of the straight
line in each batch-norm mode, as the two are and after matching by weights (at width 1 by activations, too),
on the first 10,000 training and on all 10,000 test examples, whose recalibrated statistics are over the first
5,000 training examples; at width 1 a Bezier curve of one bend, trained on the first 20,000 of them. Of the
first pair of each width the losses halfway are computed a second time by a plain loop.

    python benchmarks/barriers.py                     # trains and measures; the tables
    python benchmarks/barriers.py --smoke             # every stage on next to nothing: supports no conclusion
    python benchmarks/barriers.py --figure FILE.png   # the tables and the figure

Every task is a process with one thread, two at a time (`--workers`). Results are kept in `--out`, one file a
task: what is there is not done again, and a network killed in training goes on.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from processes import Bench, Result, parser_of, run_task
from scipy import stats

SECTIONS = ("modes", "width", "curve", "check")
WIDTHS = {16: "1/2", 32: "1", 64: "2"}
PAIRS = {16: 3, 32: 3, 64: 2}
MODES = ("running", "recalibrated", "batch")
ALIGNED = {"none": "as they are", "weights": "matched by weights", "activations": "matched by activations"}

# Of each split, at width 1 and at the others: activations and batch statistics are of training data alone.
WHOLE = {"train": ("none", "weights", "activations"), "test": ("none", "weights")}
PART = dict.fromkeys(WHOLE, ("none", "weights"))
WHOLE_MODES = {"train": MODES, "test": MODES[:2]}
PART_MODES = dict.fromkeys(WHOLE, MODES[:2])

LEVEL = 0.95


@dataclass(frozen=True)
class Extent:
    """How much is done.

    Parameters
    ----------
    num_examples
        Of training and test data.
    subset, calibration
        Training examples that barriers and recalibrated statistics are over.
    epochs
        Of each network.
    num_points
        Of each path.
    curve_examples, num_steps
        Of the curve's training.
    """

    num_examples: tuple[int, int] = (60_000, 10_000)
    subset: int = 10_000
    calibration: int = 5_000
    epochs: int = 6
    num_points: int = 7
    curve_examples: int = 20_000
    num_steps: int = 2000


SMOKE = Extent((600, 200), 200, 150, 1, 5, 400, 10)


class Barriers(Bench):
    """The tasks, and the tables of what they found."""

    def __init__(self, program: str, options: Any) -> None:
        super().__init__(program, options)
        self.common = {
            "data_root": options.data_root,
            "networks": str(self.out / "networks"),
            **vars(SMOKE if options.smoke else Extent()),
        }

    def measure(self) -> None:
        """Whatever is not there: the largest first, so that no core is left waiting for one."""
        wide_first = sorted(WIDTHS, reverse=True)
        pairs = [(width, i) for width in wide_first for i in self.pairs(width)]
        self._all(self._network, [(width, seed) for width, i in pairs for seed in seeds_of(i)])
        self._all(self.pair, pairs)

    def pairs(self, width: int) -> range:
        """Numbers of the pairs of a width."""
        return range(min(self.options.pairs, PAIRS[width]))

    def _all(self, call: Callable[..., Result], each: Iterable[tuple[Any, ...]]) -> None:
        with ThreadPoolExecutor(self.options.workers) as pool:
            for done in [pool.submit(call, *arguments) for arguments in each]:
                done.result()

    def _network(self, width: int, seed: int) -> Result:
        return self.task("network", f"network-width{width}-seed{seed}", width=width, seed=seed)

    def pair(self, width: int, i: int) -> Result:
        """Of one pair; the batch mode, activations and the curve are of width 1 alone."""
        whole = WIDTHS[width] == "1"
        return self.task(
            "pair",
            f"pair-width{width}-{i}",
            width=width,
            seeds=seeds_of(i),
            modes=WHOLE_MODES if whole else PART_MODES,
            aligned=WHOLE if whole else PART,
            check=i == 0,
            **({} if whole else {"num_steps": 0}),
        )

    # -- what was found ---------------------------------------------------------------------------------

    def values(self, width: int, key: str, **which: str) -> list[float]:
        """One number of each pair."""
        found = []
        for i in self.pairs(width):
            rows = self.pair(width, i)["rows"]
            found += [row[key] for row in rows if all(row[k] == v for k, v in which.items())]
        return found

    def modes(self) -> None:
        """Barriers at width 1: means over the pairs, Student's half-width, and what each pair has."""
        print(f"\nBarriers at width 1: mean of the pairs ± Student's half-width at {LEVEL:.0%}, and each")
        for split, each in WHOLE.items():
            for aligned in each:
                for mode in WHOLE_MODES[split]:
                    which = {"split": split, "mode": mode, "path": "line", "aligned": aligned}
                    self.line(f"{split:6}{ALIGNED[aligned]:24}{mode:14}", 32, which)

    def curve(self) -> None:
        """The curve beside the line."""
        print("\nCurves at width 1, recalibrated")
        for split in WHOLE:
            which = {"split": split, "mode": "recalibrated", "path": "curve"}
            self.line(f"{split:6}{'curve, as they are':24}{'recalibrated':14}", 32, which)
            lengths = self.values(32, "length", **which)
            print(f"{'':6}its length over the distance: {', '.join(f'{x:.3f}' for x in lengths)}")

    def line(self, label: str, width: int, which: dict[str, str]) -> None:
        """One line of a table."""
        barriers = self.values(width, "barrier", **which)
        errors = self.values(width, "data_error", **which)
        missed = self.values(width, "missed", **which)
        print(
            f"{label}{statistics.fmean(barriers):8.4f} ± {student(barriers):.4f}   "
            f"{', '.join(f'{x:.4f}' for x in barriers)}   "
            f"(data ± {max(errors):.4f}, missed {max(missed):.4f})"
        )

    def width(self) -> None:
        """Barriers against width, and the slope of the aligned one's logarithm."""
        for split in WHOLE:
            for mode in MODES[:2]:
                print(f"\nWidth, {split}, {mode}")
                for width, name in WIDTHS.items():
                    for aligned in ("none", "weights"):
                        which = {"split": split, "mode": mode, "path": "line", "aligned": aligned}
                        self.line(f"{name:6}{ALIGNED[aligned]:24}", width, which)
                for words, value in (("aligned", self.aligned), ("aligned over unaligned", self.ratios)):
                    factor = self.a_doubling(lambda w, f=value, s=split, m=mode: f(w, s, m))
                    print(f"{words}: a doubling of the width multiplies it by {factor}")

    def aligned(self, width: int, split: str, mode: str, aligned: str = "weights") -> list[float]:
        """Barriers of the pairs after matching."""
        return self.values(width, "barrier", split=split, mode=mode, path="line", aligned=aligned)

    def ratios(self, width: int, split: str, mode: str) -> list[float]:
        """And over those without."""
        before = self.aligned(width, split, mode, "none")
        return [x / y for x, y in zip(self.aligned(width, split, mode), before, strict=True)]

    def a_doubling(self, values: Callable[[int], list[float]]) -> str:
        """What a doubling of the width multiplies values by: a line through logarithms, its interval."""
        points = [(width, x) for width in WIDTHS for x in values(width)]
        if len(points) < 4 or min(x for _, x in points) <= 0:
            return "nobody can say: pairs are few, or a barrier is nought"
        fit: Any = stats.linregress(*np.log2(points).T)
        half = stats.t.ppf(0.5 + LEVEL / 2, len(points) - 2) * fit.stderr
        factor, low, high = (2 ** (fit.slope + sign * half) for sign in (0, -1, 1))
        return f"{factor:.2f} ({low:.2f} to {high:.2f})"

    def check(self) -> None:
        """By how much the plain loop differs, distances, and what the networks are worth."""
        print("\nNetworks: parameters, test accuracy, training loss, test loss; distance, and after matching")
        for width, name in WIDTHS.items():
            for i in self.pairs(width):
                found = self.pair(width, i)
                ends = [self._network(width, seed) for seed in seeds_of(i)]
                accuracies = " and ".join(f"{end['test_accuracy']:.4f}" for end in ends)
                losses = " and ".join(f"{end['train_loss']:.3f}, {end['test_loss']:.3f}" for end in ends)
                matched = ", ".join(
                    f"{r['after']:.2f} by {method} "
                    f"(runs {min(r['distances']):.3f} to {max(r['distances']):.3f})"
                    for method, r in found["alignments"].items()
                )
                before = found["alignments"]["weights"]["before"]
                print(f"{name:4}{found['num_params']:>9,}  {accuracies}  {losses}  {before:.2f}; {matched}")
        worst = max(self.pair(width, 0)["check"] for width in WIDTHS)
        print(f"Losses halfway differ from a plain loop's by {worst:.1e} at most.")


def seeds_of(i: int) -> tuple[int, int]:
    """Of pair `i`: none is in two pairs."""
    return 2 * i + 1, 2 * i + 2


def student(values: list[float]) -> float:
    """Half of Student's interval of the mean; NaN for one value."""
    if len(values) < 2:
        return float("nan")
    quantile = stats.t.ppf(0.5 + LEVEL / 2, len(values) - 1)
    return float(quantile * statistics.stdev(values) / len(values) ** 0.5)


def main() -> None:
    """Do what is not done yet and print the sections; a task of another process is called by `--task`."""
    parser = parser_of(__doc__, SECTIONS, "runs/barriers")
    parser.add_argument("--pairs", type=int, default=3, help="at most, of networks at a width (default: 3)")
    parser.add_argument("--workers", type=int, default=2, help="tasks at a time (default: 2)")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="draw the figure as well")
    parser.add_argument("--smoke", action="store_true", help="a trial of every stage, in --out/smoke")
    options = parser.parse_args()
    if options.task:
        from barriers_tasks import TASKS

        run_task(options, TASKS)
        return
    if options.smoke:
        options.out = Path(options.out) / "smoke"
    # For networks as small as these two processes with a thread each do more than one with two.
    os.environ["OMP_NUM_THREADS"] = "1"
    bench = Barriers(__file__, options)
    bench.measure()
    for name in options.sections or SECTIONS:
        getattr(bench, name)()
    if options.figure:
        from barriers_figure import draw_figure

        draw_figure(bench, options.figure)


if __name__ == "__main__":
    main()

"""Curvature against the peers: one network, the same data, one machine, one run; float32.

The network is the paper's CNN with batch norm after its six epochs (seed 1), running statistics. Each peer
runs as its documentation says at the batch size at which it is fastest here, and each value is set against a
reference in float64, so that seconds stand beside the accuracy they bought. Every contender has a process of
its own (`curvature_tasks.py`). The peers live in an environment of their own:

    make benchmark-curvature                                       # everything; hours on two cores
    benchmarks/.venv/bin/python benchmarks/curvature.py top --examples 4096
    benchmarks/.venv/bin/python benchmarks/curvature.py rate scaling

Results are kept in `--out`, one file a task: what is there is not measured again. Long runs are single ones;
the short ones are medians of `--repeats`.
"""

from __future__ import annotations

import statistics

from processes import Bench, Result, parser_of, run_task
from scipy.stats import wasserstein_distance

SECTIONS = ("top", "cold", "spectra", "rate", "scaling")
BUDGETS = (48, 96)
REFERENCE_BUDGET = 576


class Curvature(Bench):
    """The sections."""

    def reference(self, n: int) -> Result:
        """The largest eigenvalue of `n` examples in float64."""
        vector = str(self.out / f"vector-{n}.pt")
        # Both ways of ours start from it, so that neither is favoured.
        self.task(
            "top_thalweg",
            f"vector-{n}",
            examples=n,
            arguments={"rtol": 3e-3, "certify_rtol": None},
            vector=vector,
        )
        return self.task("top_reference", f"reference-{n}", examples=n, vector=vector)

    def top(self) -> None:
        """Ours from subsets, and the peers."""
        n = self.options.examples
        rows = {
            "thalweg, from subsets": self.ours("subsets", {"rtol": 1e-2, "certify_rtol": None}),
            "thalweg, default: certified": self.ours("certified", {}),
            "PyHessian, tol 1e-3": self.task("top_pyhessian", f"pyhessian-{n}", examples=n),
        }
        if not self.options.without_curvlinops:
            rows["curvlinops + eigsh, tol 1e-3"] = self.task("top_curvlinops", f"curvlinops-{n}", examples=n)
        self.top_table(f"Largest eigenvalue, {n:,} examples", rows)

    def cold(self) -> None:
        """Ours without subsets against PyHessian."""
        n = self.options.examples
        cold = {"rtol": 1e-2, "certify_rtol": None, "levels": []}
        rows = {
            "thalweg, cold, no subsets": self.ours("cold", cold),
            "PyHessian, tol 1e-3": self.task("top_pyhessian", f"pyhessian-{n}", examples=n),
        }
        self.top_table(f"The same from random vectors, {n:,} examples", rows)

    def ours(self, label: str, arguments: Result) -> Result:
        """`top_eigenvalues` with these arguments."""
        n = self.options.examples
        return self.task("top_thalweg", f"{label}-{n}", examples=n, arguments=arguments)

    def top_table(self, title: str, rows: dict[str, Result]) -> None:
        """Seconds, values, errors, and how many times faster the first row is."""
        true = self.reference(self.options.examples)
        print(f"\n{title}; reference {true['value']:.4f}, its residual {true['residual']:.1e}")
        print(f"{'':30}{'s':>8}{'value':>10}{'rel. error':>12}{'products':>10}{'first is':>10}")
        first = next(iter(rows.values()))
        for name, row in rows.items():
            error = row["value"] / true["value"] - 1
            times = row["seconds"] / first["seconds"]
            print(
                f"{name:30}{row['seconds']:8.1f}{row['value']:10.3f}{error:12.1e}{row['products']:10}"
                f"{times:9.2f}x  {row['note']}"
            )

    def spectra(self) -> None:
        """One pass of ours at growing budgets against PyHessian's three calls; the errors decide which."""
        n = self.options.spectra_examples
        rows = {"PyHessian": self.task("spectra_pyhessian", f"spectra-pyhessian-{n}", examples=n)}
        each = self.task("product_pyhessian", f"product-pyhessian-{n}", examples=n, repeats=5)
        for budget in BUDGETS:
            row = self.task("spectra_thalweg", f"spectra-{budget}-{n}", examples=n, budget=budget)
            rows[f"thalweg, {budget} products"] = row
        true = self.task("spectra_reference", f"spectra-reference-{n}", examples=n, budget=REFERENCE_BUDGET)
        true |= self.task("exact_trace", f"exact-trace-{n}", examples=n)
        print(
            f"\nBoth ends, trace, density, {n:,} examples; reference: top {true['top']:.3f}, bottom "
            f"{true['bottom']:.3f} (float64), trace {true['trace']:.3f} (exact, float64), density of "
            f"{REFERENCE_BUDGET} products in float32, which differ from double backward's in float64 by "
            f"{true['difference']:.0e}"
        )
        # It takes the better part of an hour, in which a machine has slow moments: what its products would
        # take at the median of five stands against ours where that is less.
        quick = rows["PyHessian"]["products"] * each["seconds"]
        theirs = min(rows["PyHessian"]["seconds"], quick)
        print(f"PyHessian's products at {each['seconds']:.2f} s, batches of {each['size']}: {quick:.0f} s")
        print(f"{'':26}{'s':>8}{'top':>10}{'bottom':>10}{'trace':>10}{'W1':>10}   PyHessian takes")
        for name, row in rows.items():
            errors = [row[k] / true[k] - 1 for k in ("top", "bottom", "trace")]
            distance = wasserstein_distance(
                row["nodes"], true["nodes"], u_weights=row["weights"], v_weights=true["weights"]
            )
            print(
                f"{name:26}{row['seconds']:8.1f}"
                + "".join(f"{e:10.1e}" for e in errors)
                + f"{distance:10.1e}{theirs / row['seconds']:9.2f}x  {row.get('note', '')}"
            )

    def rate(self) -> None:
        """Flops of a product a second against those of a matrix product."""
        row = self.task("rate", "rate", examples=1024, repeats=self.options.repeats)
        print(
            f"\nProducts with the Hessian of 1,024 examples; fp32 GEMM {row['gemm'] / 1e9:.0f} Gflop/s, one "
            "example 8.5 Mflop F, a product 3 F + 6 F a column"
        )
        print(f"{'columns':>10}{'s':>10}{'s a column':>12}{'of GEMM':>10}")
        for k, seconds in row["product_seconds"].items():
            print(f"{k:>10}{seconds:10.2f}{seconds / int(k):12.2f}{row['share'][k]:10.0%}")

    def scaling(self) -> None:
        """Seconds against examples and columns; memory at its peak beyond the block and its product."""
        print("\nOne product: time should follow examples times columns, memory stay flat")
        print(f"{'examples':>10}{'columns':>10}{'s':>10}{'ms an example and column':>26}{'MiB':>8}")
        for n, k in ((1024, 1), (4096, 1), (16384, 1), (1024, 8), (4096, 8), (1024, 16), (1024, 32)):
            runs = [
                self.task("scaling", f"scaling-{n}-{k}-{i}", examples=n, product=(n, k))
                for i in range(self.options.repeats)
            ]
            seconds, peak = (statistics.median(r[key] for r in runs) for key in ("seconds", "peak"))
            print(f"{n:10,}{k:10}{seconds:10.2f}{1e3 * seconds / n / k:26.2f}{peak:8.0f}")


def main() -> None:
    """Run the sections asked for; a task of another process is called by `--task`."""
    parser = parser_of(__doc__, SECTIONS, "runs/benchmark-curvature")
    parser.add_argument(
        "--spectra-examples", type=int, default=4096, help="of the ends, trace and density (default: 4096)"
    )
    parser.add_argument("--without-curvlinops", action="store_true", help="its eigenvalue takes the longest")
    options = parser.parse_args()
    if options.task:
        from curvature_tasks import TASKS

        run_task(options, TASKS)
        return
    bench = Curvature(__file__, options)
    bench.task("prepare", "network")
    for name in options.sections or SECTIONS:
        getattr(bench, name)()


if __name__ == "__main__":
    main()

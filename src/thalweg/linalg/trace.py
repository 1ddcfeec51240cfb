r"""The trace of a symmetric operator, by Hutchinson, Hutch++ or XTrace, with an interval that covers.

- ``"hutchinson"``: :math:`x = v^\top A v`, v of independent signs.
- ``"hutch++"``: products with random signs span a sketch Q; tr(Q'AQ) is exact, fresh probes see the rest.
- ``"xtrace"``: see `thalweg.linalg.xtrace`; as many Gaussian probes as the decay of the first 12 asks for.
- ``"exact"``: products with the identity, where probes would cost as much.

**The standard error** is not the spread of a few samples, which are skewed, but comes from the entries of
the products (`DiagonalTally.sign_variance`): 12 probes tell it as well as a hundred would otherwise.

**How many probes** is settled by Stein's two stages. The variance :math:`s^2` of a first stage of n = 12
fixes their number, :math:`N = \max(n, \lceil s^2 / \tau^2 \rceil)` for the standard error :math:`\tau`, and
it is *that* s, with its degrees of freedom, that the interval is built from, though all N probes are in the
mean: stopping once the running standard error is small enough would stop where it is too small. The target
is relative to the value, so that N can have to be raised once more.

**The pilot** that chooses the method is no part of the estimate, or the choice would bias it: Hutch++ has it
for its sketch, the others discard it.

References
----------
Hutchinson (1989), Commun. Stat. Simul. Comput. 18(3). Stein (1945), Ann. Math. Statist. 16(3). Meyer, Musco,
Musco and Woodruff (2021), SOSA: Hutch++. Bekas, Kokiopoulou and Saad (2007), Appl. Numer. Math. 57: diagonal.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from thalweg.core.arguments import check_fraction, check_one_of
from thalweg.core.measurement import StandardError
from thalweg.core.precision import full_precision
from thalweg.linalg.deflation import Deflation, extended_basis, orthonormal_basis
from thalweg.linalg.linear_operator import LinearOperator
from thalweg.linalg.probing import BLOCK, Probing, blocks
from thalweg.linalg.sum_operator import column_products
from thalweg.linalg.trace_estimate import DiagonalTally, TraceEstimate, exact_estimate, satterthwaite
from thalweg.linalg.trace_plan import PILOT, SIZES, Plan, plans, sketch_residuals, wanted_probes, xtrace_size
from thalweg.linalg.xtrace import CORRELATION, leave_one_out

METHODS = ("auto", "hutchinson", "hutch++", "xtrace")

# The least budget: a sketch, its products, and probes of the rest.
LEAST = 3 * PILOT

# Vectors of length P that a column takes: sketch, probe, both their products, and as much again on the way;
# and those that the sums over all probes take.
VECTORS_PER_COLUMN = 8
TALLY_VECTORS = 3


def estimate_trace(
    operator: LinearOperator,
    *,
    rng: torch.Generator,
    rtol: float = 0.05,
    offset: float = 0.0,
    method: str = "auto",
    groups: Tensor | None = None,
    max_matvecs: int = 2000,
    max_memory_bytes: int = 2 << 30,
    on_plan: Callable[[int], None] | None = None,
) -> TraceEstimate:
    """Estimate tr(A) to a relative standard error.

    Parameters
    ----------
    operator
        A, which may be indefinite. Each summand of a `SumOperator` is estimated by the same probes.
    rng
        CPU generator of the probes.
    rtol
        Target standard error over |offset + tr(A)|, in (0, 1).
    offset
        A known number that the trace is added to.
    method
        One of `METHODS`; ``"auto"`` takes the cheapest by a pilot of 12 products.
    groups
        ``(P,)`` int64 from 0: the part that each entry of the diagonal belongs to. Default: one part.
    max_matvecs
        Most columns to multiply, at least 36, or P if that is less.
    max_memory_bytes
        Bound on what a sketch and all that is computed from it take, eight vectors a column. Where it does
        not hold those of the pilot, ``"auto"`` takes Hutchinson's probes without one, as many together as
        it does hold; the estimate is the same for any number together.
    on_plan
        Called with the number of products expected in all, whenever that is settled anew.

    Returns
    -------
    TraceEstimate
        ``converged`` is False if `max_matvecs` was spent first.

    Raises
    ------
    NonFiniteLossError
        A product is not finite.
    ValueError
        An argument is out of range, or the memory does not hold the method: a pilot for ``"hutch++"`` and
        ``"xtrace"``, a single probe for the others.
    """
    check_fraction("rtol", rtol, "0.05 asks for 5 % standard error")
    check_one_of("method", method, METHODS)
    max_sketch, block = _columns(operator, method, max_memory_bytes)
    if method == "auto" and max_sketch < PILOT:
        method = "hutchinson"
    probing = Probing(operator, rng, max_matvecs, on_plan, block)
    if method == "xtrace" and probing.num_summands > 1:
        raise ValueError("`method` = 'xtrace' does not tell summands apart; use 'auto' or 'hutch++'.")
    least = min(operator.dim, LEAST)
    if max_matvecs < least:
        raise ValueError(
            f"`max_matvecs` must be at least {least}, got {max_matvecs}: fewer probes show no error."
        )
    groups = torch.zeros(operator.dim, dtype=torch.int64) if groups is None else groups
    with full_precision():
        return _Estimation(probing, rtol, offset, groups, max_sketch).run(method)


def _columns(operator: LinearOperator, method: str, max_memory_bytes: int) -> tuple[int, int]:
    """Columns of the largest sketch that the memory holds, and of a block of probes."""
    vectors = max_memory_bytes // operator.bytes_per_vector
    needs_sketch = method in ("hutch++", "xtrace") and operator.dim > LEAST
    least = VECTORS_PER_COLUMN * PILOT if needs_sketch else VECTORS_PER_COLUMN + TALLY_VECTORS
    if vectors < least:
        what = f"{PILOT} columns, which method={method!r} starts from" if needs_sketch else "a single probe"
        raise ValueError(
            f"`max_memory_bytes` must hold {what}, got {max_memory_bytes:,}: with all that is computed from "
            f"it that takes {least} vectors of {operator.dim:,} entries, "
            f"{least * operator.bytes_per_vector:,} bytes. Raise it"
            + (", or take method='hutchinson'." if needs_sketch else ".")
        )
    return vectors // VECTORS_PER_COLUMN, min(BLOCK, (vectors - TALLY_VECTORS) // VECTORS_PER_COLUMN)


class _Estimation:
    def __init__(self, probing: Probing, rtol: float, offset: float, groups: Tensor, max_sketch: int) -> None:
        self.probing, self.rtol, self.offset, self.max_sketch = probing, rtol, offset, max_sketch
        self.tally = DiagonalTally(groups, int(groups.max()) + 1)

    def run(self, method: str) -> TraceEstimate:
        probing = self.probing
        if probing.dim <= LEAST:
            return self.exact()
        probing.expect(LEAST)
        if method == "hutchinson":
            return self.hutchinson()
        if method == "xtrace":
            return self.xtrace()
        V = probing.signs(PILOT)
        Y, forms = probing.products(V)
        Q, R = orthonormal_basis(Y)
        plan = self.chosen(method, V * Y, forms, R)
        probing.expect(plan.cost)
        if plan.method == "exact":
            return self.exact()
        if plan.method == "hutchinson":
            return self.hutchinson()
        if plan.method == "xtrace":
            return self.xtrace()
        if plan.sketch > PILOT:
            more, _ = probing.products(probing.signs(plan.sketch - PILOT))
            Q, _ = extended_basis(Q, R, more)
        return self.deflated(Q)

    def chosen(self, method: str, diagonals: Tensor, forms: Tensor, R: Tensor) -> Plan:
        """The cheapest plan by the pilot's diagonals ``(P, 12)``, forms and QR factor."""
        left = self.probing.left
        found = plans(
            variance=2 * float(diagonals.var(1).double().sum()),
            residuals=sketch_residuals(R),
            target=self.target(self.probing.totals(forms)),
            dim=self.probing.dim,
            max_sketch=min(self.max_sketch, left // 2),
        )
        allowed = {method, "exact"} if method != "auto" else {"exact", "hutchinson", "hutch++", "xtrace"}
        if self.probing.num_summands > 1:
            allowed.discard("xtrace")
        # Half of the diagonal would be no estimate.
        found = [p for p in found if p.method in allowed and (p.method != "exact" or p.cost <= left)]
        return min(found, key=lambda p: p.cost)

    def target(self, samples: Tensor) -> float:
        """Standard error wanted, by what the trace seems to be."""
        return self.rtol * abs(self.offset + float(samples.mean()))

    # -- the estimators -----------------------------------------------------------------------------------

    def hutchinson(self) -> TraceEstimate:
        def probe(count: int) -> None:
            V = self.probing.signs(count)
            Y, forms = self.probing.products(V)
            self.tally.add(V * Y, column_products(Y, Y), forms)

        return self.two_stages(probe, "hutchinson")

    def deflated(self, Q: Tensor) -> TraceEstimate:
        known = Deflation(Q, *self.probing.products(Q))

        def probe(count: int) -> None:
            V = self.probing.signs(count)
            product, forms = self.probing.products(known.project(V))
            rest = known.project(product)
            self.tally.add(
                known.diagonal[:, None] + V * rest,
                known.square + column_products(rest, rest),
                known.traces + forms,
            )

        return self.two_stages(probe, "hutch++")

    def two_stages(self, probe: Callable[[int], None], method: str) -> TraceEstimate:
        """Stein's: the variance seen by the first stage fixes how many probes there are, and the interval."""
        probing = self.probing
        for count in blocks(min(PILOT, probing.left), probing.block):
            probe(count)
        variance, dof = self.tally.sign_variance()
        while True:
            samples = probing.totals(self.tally.forms)
            missing = max(0, wanted_probes(variance, self.target(samples)) - len(samples))
            if missing >= probing.dim and probing.dim <= probing.left:
                return self.exact()
            if missing == 0 or probing.left == 0:
                break
            probing.expect(missing)
            for count in blocks(int(min(missing, probing.left)), probing.block):
                probe(count)
        return self.tally.estimate(
            StandardError(math.sqrt(variance / len(samples)), dof),
            samples=samples,
            weights=probing.weights,
            method=method,
            num_matvecs=probing.num_matvecs,
            converged=missing == 0,
        )

    def xtrace(self) -> TraceEstimate:
        """All probes are sketch and test; how many, the residuals of the first tell, not the error."""
        probing = self.probing
        most = min(self.max_sketch, probing.left // 2, probing.dim - 1)
        O = probing.gaussian(PILOT)  # noqa: E741 - Omega
        Y, forms = probing.products(O)
        Q, R = orthonormal_basis(Y)
        W = Y[:, :0]
        count = xtrace_size(sketch_residuals(R), self.target(forms), most)
        while True:
            fresh, multiplied = count - O.shape[1], W.shape[1]
            cost = fresh + count - multiplied
            if probing.dim <= min(cost, probing.left):
                return self.exact()
            probing.expect(cost)
            if fresh:
                O = torch.cat([O, probing.gaussian(fresh)], 1)  # noqa: E741
                Y = torch.cat([Y, probing.products(O[:, -fresh:])[0]], 1)
                Q, R = extended_basis(Q, R, Y[:, -fresh:])
            W = torch.cat([W, probing.products(Q[:, multiplied:])[0]], 1)
            diagonals, squares, samples, variances = leave_one_out(O, Y, Q, R, W)
            error = CORRELATION * math.sqrt(float(variances.mean()) / count)
            converged = error <= self.target(samples)
            larger = next((s for s in SIZES if count < s <= most), 0)
            if not converged and not larger and probing.dim <= probing.left:
                return self.exact()
            if converged or not larger:
                break
            count = larger
        self.tally.add(diagonals, squares, samples[None])
        return self.tally.estimate(
            StandardError(error, satterthwaite(variances)),
            samples=samples,
            weights=probing.weights,
            method="xtrace",
            num_matvecs=probing.num_matvecs,
            converged=converged,
            correlation=CORRELATION,
        )

    def exact(self) -> TraceEstimate:
        self.probing.expect(self.probing.dim)
        diagonal, square, traces = self.probing.diagonal()
        return exact_estimate(
            diagonal, square, traces, self.probing.weights, self.tally, self.probing.num_matvecs
        )

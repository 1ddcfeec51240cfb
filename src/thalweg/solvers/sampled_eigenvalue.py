r"""The extreme eigenvalue of all the data from a part of them, with limits on both sides.

Let :math:`\hat H_m`, m = 1 ... M, be the matrices of independent samples, unbiased for H. For the top,

- :math:`v^\top \hat H_m v`, v found on *other* samples, has the expectation :math:`v^\top H v \le
  \lambda_{\max}`: the *inner* value, which errs downwards;
- :math:`\lambda_{\max}(\hat H_m)` has an expectation of at least :math:`\lambda_{\max}`, for the largest
  eigenvalue is a convex function of the matrix (Jensen): the *outer* value, which errs upwards.

Each sample is started from the eigenvector of the one before, so that its first product gives the inner value
and its last the outer one. To leading order both err by the same amount, for both come of the angle by which
one sample turns the eigenvector: so the value stated is the mean of all of them. Half of the distance between
their expectations bounds its bias; ``solver`` is the samples' estimate of that, with what the iteration left.

The standard error (``data``) comes from the forms :math:`v^\top \hat H_g v` of the single groups of
`thalweg.solvers.sampling_design`, within each sample. The variance of a first stage of samples fixes how many
there must be, and it is that variance, with its degrees of freedom, that the interval is made from, though
all samples are in the mean (Stein 1945): stopping once the running standard error is small enough would stop
where it is too small. The target is relative to the value, so that their number can have to be raised again.
The tests count what the intervals cover.

**What is known how.** ``interval`` is that of the eigenvalue whose direction was found. The limits are a
one-sided Student limit of the inner values, and on the other side one of the bounds that random vectors give
on the outer ones (`thalweg.linalg.certificate`), which counts what may have been missed. For the bottom
everything is mirrored.

References
----------
Stein (1945), Ann. Math. Statist. 16(3), 243-258. Mak, Morton and Wood (1999), Oper. Res. Lett. 24, 47-56:
limits on an optimum from both sides by independent samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from thalweg.core.arguments import check_fraction
from thalweg.core.distributions import student_quantile
from thalweg.core.measurement import ErrorBudget, StandardError
from thalweg.core.progress import Progress, Work
from thalweg.core.rng import generator
from thalweg.linalg.eigen_solution import EigenSolution
from thalweg.linalg.lanczos import check_tolerances, lanczos_eigenpairs
from thalweg.linalg.linear_operator import LinearOperator
from thalweg.linalg.sum_operator import SumOperator
from thalweg.linalg.wanted_pairs import Which
from thalweg.operators.objective_operator import ObjectiveOperator
from thalweg.solvers.sampling_design import SamplingDesign, group_size

# Groups of the pilot, of a sample, and samples of the first stage.
PILOT_GROUPS = 4
GROUPS = 10
FIRST_STAGE = 6

# Residuals that samples are solved to, relative to the norm: at most this, and so small that the eigenvalue's
# own error, of the square of the residual over the gap, is this part of the tolerance.
SAMPLE_RTOL = 2e-2
ITERATION_SHARE = 1 / 8

# A one-sided limit uses so much of the failures it is allowed, since its standard error is one to first order
# only. Bounds by random vectors keep the same.
LIMIT_SHARE = 3 / 4

# Samples grow by this where they turn the eigenvector too far for the accuracy asked for.
GROWTH = 4


@dataclass(frozen=True)
class SampledEigenvalue:
    """What the samples say of the extreme eigenvalue.

    Parameters
    ----------
    value, error
        The estimate; ``error.solver`` is an estimated bound on its bias, ``error.data`` its standard error.
    lower, upper
        Limits, each with probability `confidence`.
    vector
        ``(P, 1)``: the last sample's eigenvector.
    residual
        Mean over the samples of ||A_m v - lambda_m v|| at their own eigenvectors.
    inner, outer
        ``(M,)`` float64, one each a sample.
    sample_size
        Examples of a sample.
    num_columns
        Products with single vectors on samples, the pilot's included.
    num_multiplied
        Examples times columns, those of the pilot and of samples that were too small included.
    proxy
        What the examples were drawn in proportion to.
    """

    value: float
    error: ErrorBudget
    lower: float
    upper: float
    confidence: float
    vector: Tensor
    residual: float
    inner: Tensor
    outer: Tensor
    sample_size: int
    num_columns: int
    num_multiplied: int
    proxy: str


@dataclass(frozen=True)
class AllExamples:
    """The data themselves are to be taken, and what the samples so far are worth as a start.

    Parameters
    ----------
    vector
        ``(P, 1)``, the last sample's eigenvector; None if there was none.
    num_columns, num_multiplied
        As of a `SampledEigenvalue`.
    """

    vector: Tensor | None
    num_columns: int
    num_multiplied: int


def sampled_eigenvalue(
    operator: ObjectiveOperator,
    *,
    which: Which = "top",
    rtol: float = 0.02,
    certify_rtol: float | None = None,
    confidence: float = 0.99,
    max_matvecs: int = 2000,
    max_memory_bytes: int = 2 << 30,
    start: Tensor | None = None,
    seed: int,
    progress: Progress | None = None,
) -> SampledEigenvalue | AllExamples:
    """Estimate the eigenvalue at one end until the interval at `confidence` is within `rtol` times it.

    Parameters
    ----------
    operator
        Over all N examples, a mean over them.
    which
        ``"top"`` or ``"bottom"``.
    rtol
        Half the interval over the value, in (0, 1).
    certify_rtol, confidence, start
        As in `lanczos_eigenpairs`, for each sample; `confidence` is that of the limits, too.
    max_matvecs
        Most products with single vectors that a sample's solution may take.
    max_memory_bytes
        Bound on a sample's basis, products and vectors, as in `lanczos_eigenpairs`.
    seed
        Of the samples and the random vectors.
    progress
        Called with examples times columns done, and expected.

    Returns
    -------
    The estimate, or, where samples good enough would together hold as many examples as the data, the word
    that these are to be taken.

    Raises
    ------
    ConvergenceError
        If a sample's solution takes more than `max_matvecs`; carries its `EigenSolution`.
    """
    check_fraction("rtol", rtol, "0.02 asks for an interval of 2 % on either side")
    check_tolerances(operator.dtype, SAMPLE_RTOL, certify_rtol, confidence)
    num_examples, num_groups = operator.objective.num_examples, GROUPS
    operator.check  # noqa: B018 - proves the operator once, for all samples
    work = Work(progress)
    if FIRST_STAGE * num_groups * group_size(operator.objective) >= num_examples:
        return AllExamples(None, 0, 0)
    work.expect(num_examples)
    design = SamplingDesign.of(operator.objective, on_examples=work.add)
    sampler = _Sampler(
        operator.counting(work.add),
        design,
        which,
        certify_rtol,
        confidence,
        max_matvecs,
        max_memory_bytes,
        seed,
    )
    vector, gap = sampler.pilot(start, rtol)
    while FIRST_STAGE * num_groups * design.group_size < num_examples:
        size = num_groups * design.group_size
        stage = _Stage(which, gap, confidence)
        wanted, columns = FIRST_STAGE, 3
        while stage.num_samples < wanted:
            work.expect(work.done + columns * size * (wanted - stage.num_samples))
            vector, columns = sampler.extend(stage, vector, num_groups)
            if stage.num_samples == wanted and stage.bias <= rtol * abs(stage.value) / 2:
                wanted = max(wanted, stage.num_wanted(rtol))
                if wanted * size >= num_examples:
                    return AllExamples(vector, sampler.num_columns, work.done)
        if stage.bias <= rtol * abs(stage.value) / 2:
            work.finish()
            return stage.result(vector, size, sampler.num_columns, work.done, design.proxy)
        num_groups *= GROWTH
    return AllExamples(vector, sampler.num_columns, work.done)


class _Sampler:
    """Draws samples and solves them."""

    def __init__(
        self,
        operator: ObjectiveOperator,
        design: SamplingDesign,
        which: Which,
        certify_rtol: float | None,
        confidence: float,
        max_matvecs: int,
        max_memory_bytes: int,
        seed: int,
    ) -> None:
        self.operator, self.design = operator, design
        self.which: Which = which
        self.certify_rtol, self.confidence = certify_rtol, confidence
        self.max_matvecs, self.max_memory_bytes = max_matvecs, max_memory_bytes
        self.seed, self.num_columns = seed, 0
        self.rtol = SAMPLE_RTOL

    def pilot(self, start: Tensor | None, rtol: float) -> tuple[Tensor, float]:
        """A first eigenvector ``(P, 1)``, and how far the second eigenvalue lies from the first."""
        matrix = self._sample(PILOT_GROUPS, "pilot")
        found = lanczos_eigenpairs(
            matrix,
            min(2, matrix.dim),
            which=self.which,
            rtol=SAMPLE_RTOL,
            start=start,
            min_steps=2,
            rng=generator(self.seed, "sampled", "pilot", "vectors"),
            max_matvecs=self.max_matvecs,
            max_memory_bytes=self.max_memory_bytes,
        )
        self.num_columns += found.num_matvecs
        gap = float((found.eigenvalues[0] - found.eigenvalues[-1]).abs())
        # Kato and Temple: the eigenvalue's error is the residual's square over the gap, or the residual.
        share, relative_gap = ITERATION_SHARE * rtol, gap / max(found.norm_estimate, 1e-300)
        least = 64 * torch.finfo(matrix.dtype).eps
        self.rtol = min(SAMPLE_RTOL, max(least, share, math.sqrt(share * relative_gap)))
        return found.eigenvectors[:, :1], gap

    def extend(self, stage: _Stage, start: Tensor, num_groups: int) -> tuple[Tensor, int]:
        """Add a sample to the stage; its eigenvector ``(P, 1)``, and the columns it took."""
        number = stage.num_samples
        matrix = self._sample(num_groups, num_groups, number)
        # The bounds of all samples are to hold together, half of what may fail being left for the limit.
        # Those of the first stage take half of the rest; of later ones, whose number nobody knows, the m-th
        # takes the part FIRST_STAGE / (m (m + 1)) of the other half, and all together no more than it.
        sharing = FIRST_STAGE if number < FIRST_STAGE else number * (number + 1) / FIRST_STAGE
        found = lanczos_eigenpairs(
            matrix,
            which=self.which,
            rtol=self.rtol,
            start=start,
            min_steps=1,
            certify_rtol=self.certify_rtol,
            confidence=1 - (1 - self.confidence) / 4 / sharing,
            rng=generator(self.seed, "sampled", num_groups, number, "vectors"),
            max_matvecs=self.max_matvecs,
            max_memory_bytes=self.max_memory_bytes,
        )
        self.num_columns += found.num_matvecs
        stage.add(matrix.forms, found)
        return found.eigenvectors, found.num_matvecs

    def _sample(self, num_groups: int, *stream: str | int) -> _Sample:
        groups = self.design.groups(generator(self.seed, "sampled", *stream), num_groups)
        return _Sample([self.operator.over(group) for group in groups])


class _Sample(LinearOperator):
    """The mean of some groups' matrices, which keeps the groups' forms of the first column it multiplies."""

    def __init__(self, groups: list[ObjectiveOperator]) -> None:
        self._mean = SumOperator(groups, [1 / len(groups)] * len(groups))
        self._forms: Tensor | None = None
        super().__init__(self._mean.dim, self._mean.dtype, self._mean.device)

    def matmat(self, V: Tensor) -> Tensor:
        product, forms = self._mean.with_forms(V)
        if self._forms is None:
            self._forms = forms[:, 0]
        return product

    @property
    def forms(self) -> Tensor:
        """``(G,)``: v.Hv of each group, v being the unit vector that the solver was started from."""
        assert self._forms is not None
        return self._forms


class _Stage:
    """Samples of one size, and what they come to so far."""

    def __init__(self, which: Which, gap: float, confidence: float) -> None:
        self.is_top, self.gap, self.confidence = which == "top", gap, confidence
        self._forms: list[Tensor] = []
        self._outer: list[float] = []
        self._bounds: list[float] = []
        self._residuals: list[float] = []

    def add(self, forms: Tensor, solution: EigenSolution) -> None:
        """Count a sample: the groups' forms along the vector it started from, and its own solution."""
        self._forms.append(forms)
        self._outer.append(float(solution.eigenvalues[0]))
        self._bounds.append(solution.upper_bound if self.is_top else solution.lower_bound)
        self._residuals.append(float(solution.residuals[0]))

    @property
    def num_samples(self) -> int:
        """M."""
        return len(self._outer)

    @property
    def inner(self) -> Tensor:
        """``(M,)``."""
        return torch.stack(self._forms).mean(1)

    @property
    def outer(self) -> Tensor:
        """``(M,)``."""
        return torch.tensor(self._outer, dtype=torch.float64)

    @property
    def value(self) -> float:
        """The mean of both."""
        return float((self.inner + self.outer).mean()) / 2

    @property
    def bias(self) -> float:
        """What the value may be off by in expectation: half the distance, and the solutions' errors."""
        residuals = torch.tensor(self._residuals, dtype=torch.float64)
        left = torch.minimum(residuals, residuals.square() / max(self.gap, 1e-300))
        return abs(float((self.outer - self.inner).mean())) / 2 + float(left.mean())

    @property
    def standard_error(self) -> StandardError:
        """Of the mean over all samples, by the variance of the first stage."""
        first = torch.stack(self._forms[:FIRST_STAGE])
        num_samples, num_groups = first.shape
        deviations = first - first.mean(1, keepdim=True)
        dof = num_samples * (num_groups - 1)
        variance = float(deviations.square().sum()) / dof
        return StandardError(math.sqrt(variance / (self.num_samples * num_groups)), dof)

    def num_wanted(self, rtol: float) -> int:
        """Samples for half an interval of `rtol` times the value, its bias included."""
        half = self.standard_error.half_width(self.confidence)
        if half == 0:  # samples that do not differ: a zero Hessian, or one that every example has
            return self.num_samples
        target = rtol * abs(self.value) - self.bias
        return math.ceil(self.num_samples * (half / target) ** 2)

    def result(
        self, vector: Tensor, sample_size: int, num_columns: int, num_multiplied: int, proxy: str
    ) -> SampledEigenvalue:
        """All of it."""
        delta, sign = 1 - self.confidence, 1 if self.is_top else -1
        error = self.standard_error
        quantile = float(-student_quantile(LIMIT_SHARE * delta, error.dof))
        near = float(self.inner.mean()) - sign * quantile * error.value
        bounds = torch.tensor(self._bounds, dtype=torch.float64)
        spread = float(bounds.std()) / math.sqrt(self.num_samples)
        far = float(bounds.mean()) + sign * float(-student_quantile(delta / 2, self.num_samples - 1)) * spread
        return SampledEigenvalue(
            value=self.value,
            error=ErrorBudget(solver=self.bias, data=error),
            lower=near if self.is_top else far,
            upper=far if self.is_top else near,
            confidence=self.confidence,
            vector=vector,
            residual=sum(self._residuals) / self.num_samples,
            inner=self.inner,
            outer=self.outer,
            sample_size=sample_size,
            num_columns=num_columns,
            num_multiplied=num_multiplied,
            proxy=proxy,
        )

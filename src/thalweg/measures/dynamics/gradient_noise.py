r"""The noise of SGD's gradient: the covariance C of single examples' gradients about their mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from thalweg.core.arguments import check_count, check_flag
from thalweg.core.measurement import ErrorBudget, Measurement, StandardError
from thalweg.core.progress import Progress, Work
from thalweg.core.rng import stream_seed
from thalweg.linalg.lanczos import check_tolerances
from thalweg.measures.dynamics.batch_draws import checked_batch_size
from thalweg.measures.dynamics.noise_alignment import NoiseAlignment
from thalweg.measures.dynamics.noise_directions import CERTIFY_RTOL, no_directions, noise_directions
from thalweg.measures.dynamics.noise_shape import noise_shape
from thalweg.objective.check_objective import check_objective
from thalweg.objective.objective import Objective
from thalweg.operators.unit_gradients import UnitGradients
from thalweg.stats.unit_forms import UnitForms

CURVATURES = ("hessian", "ggn")

# What is to be done, from experience: passes over gradients, products for each of k eigenpairs, and for all.
PASSES, PRODUCTS_EACH, PRODUCTS_MORE = 2, 6, 15


@dataclass(frozen=True, kw_only=True, repr=False)
class GradientNoise(Measurement):
    """tr(C), in (loss / parameter)^2: the variance of the gradient at one example, all directions together.

    Over the objective's N examples C is a mean, with the divisor N; with `population` it is the estimate for
    the distribution, with N - 1. ``error.data`` is ``None`` where all the examples were taken and are meant:
    the value is then exact. Other standard errors are nought in that case; all have `dof` degrees of freedom.

    Under batch statistics examples have no gradients of their own. There C is that of whole batches, in units
    of one example (see `thalweg.operators.batch_gradient_covariance`).

    Parameters
    ----------
    batch_size
        B of what is said of batches.
    unit, num_units, dof
        ``"example"`` or ``"batch"``: what is independent; how many were taken; that number less one.
    gradient_square, gradient_square_error
        |G|^2, the squared length of the mean gradient, L2 term and all; less what sampling adds to it, so
        that it is unbiased, and can be negative.
    signal_to_noise, signal_to_noise_error
        |G|^2 / tr(C), of single examples; that of a batch is B times it. NaN where there is neither.
    batch_trace, batch_trace_without_replacement
        Trace of the covariance of a batch's mean gradient: C / B for B examples drawn with replacement, C / B
        times (N - B) / (N - 1) without. The same for a distribution, and for whole batches, of which a step
        takes one.
    eigenvalues, eigenvectors, residuals, eigenvalue_errors
        The top of C: ``(k,)`` float64, ``(P, k)``, ``(k,)``, and standard errors over the data ``(k,)``, of
        first order, with the eigenvectors held. The largest of a sample are biased upwards.
    kurtosis, kurtosis_errors
        ``(k,)`` float64: excess kurtosis of the noise of a batch, drawn with replacement, along these
        eigenvectors; nought for a Gaussian. Its standard errors are always those of a sample. NaN from less
        than five units.
    tail_index, tail_index_low, tail_index_high, num_tail
        Hill's index of the lengths of the units' deviations, from the `num_tail` largest, and its 95 %
        interval: moments of that order and above do not exist. NaN where there is no noise.
    warning
        Why the noise is not to be taken for Gaussian; ``None`` where nothing found speaks against it.
    hessian, ggn
        C against these matrices; ``None`` where that was not asked for.
    num_matvecs
        Products of C with single vectors.
    """

    measure: ClassVar[str] = "gradient_noise"
    quantity: ClassVar[str] = "tr C"

    batch_size: int
    unit: str
    num_units: int
    dof: int
    gradient_square: float
    gradient_square_error: float
    signal_to_noise: float
    signal_to_noise_error: float
    batch_trace: float
    batch_trace_without_replacement: float
    eigenvalues: Tensor
    eigenvectors: Tensor | None
    residuals: Tensor
    eigenvalue_errors: Tensor
    kurtosis: Tensor
    kurtosis_errors: Tensor
    tail_index: float
    tail_index_low: float
    tail_index_high: float
    num_tail: int
    warning: str | None
    hessian: NoiseAlignment | None
    ggn: NoiseAlignment | None
    num_matvecs: int

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided interval for the trace at confidence `level`, not below nought."""
        low, high = super().interval(level)
        return max(0.0, low), high

    @property
    def noise_scale(self) -> float:
        """B_simple of McCandlish et al. (2018), tr(C) / |G|^2, in examples; infinite where |G|^2 is not above
        nought, NaN where there is neither gradient nor noise. It is no critical batch size."""
        if math.isnan(self.signal_to_noise):
            return math.nan
        return 1 / self.signal_to_noise if self.signal_to_noise > 0 else math.inf

    def noise_scale_interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided interval of the noise scale: the reciprocals of that of the signal-to-noise ratio.

        A quotient with a numerator that is well known has no such interval about itself. Where the gradient
        could be nought, the scale has no upper end.
        """
        if math.isnan(self.signal_to_noise):
            return math.nan, math.nan
        half = StandardError(self.signal_to_noise_error, self.dof).half_width(level)
        low, high = self.signal_to_noise - half, self.signal_to_noise + half
        return (1 / high if high > 0 else math.inf), (1 / low if low > 0 else math.inf)

    @property
    def batch_signal_to_noise(self) -> float:
        """|G|^2 over the trace of the covariance of a batch drawn with replacement."""
        return self.signal_to_noise * self.batch_size

    @property
    def hessian_cosine(self) -> float | None:
        """Cosine of C and the Hessian as matrices."""
        return self.hessian and self.hessian.value

    @property
    def ggn_cosine(self) -> float | None:
        """Cosine of C and the generalised Gauss-Newton matrix."""
        return self.ggn and self.ggn.value

    @property
    def noise_along_hessian(self) -> Tensor | None:
        """Rayleigh quotients of C along the top eigenvectors of the Hessian."""
        return self.hessian and self.hessian.noise_along

    @property
    def hessian_eigenvalues(self) -> Tensor | None:
        """Eigenvalues of the Hessian along these."""
        return self.hessian and self.hessian.eigenvalues

    def _circumstances(self) -> list[str]:
        shape = ["not Gaussian"] if self.warning else []
        low, high = self.noise_scale_interval()
        ends = "" if self.error.data is None else f" ({low:.3g} to {high:.3g})"
        return [f"noise scale {self.noise_scale:.4g}{ends}", *shape, *super()._circumstances()]


def gradient_noise(
    objective: Objective,
    *,
    batch_size: int | None = None,
    k: int = 5,
    against: Sequence[str] | None = None,
    num_probes: int = 8,
    num_examples: int | None = None,
    population: bool = False,
    params: str | Sequence[str] | None = None,
    num_tail: int | None = None,
    rtol: float = 1e-3,
    max_matvecs: int = 2000,
    max_memory_bytes: int = 2 << 30,
    seed: int,
    progress: Progress | None = None,
) -> GradientNoise:
    r"""Measure the covariance of the gradients of single examples, and what it means for batches.

    .. math:: C = \frac1N \sum_{i=1}^N (g_i - g)(g_i - g)^\top, \qquad
       \mathcal{B}_{\mathrm{simple}} = \frac{\mathrm{tr}(C)}{\lVert G \rVert^2}, \qquad
       \mathcal{B}_{\mathrm{noise}} = \frac{\mathrm{tr}(H C)}{G^\top H G}

    tr(C) is the mean of :math:`\lVert g_i - g \rVert^2`: two passes over the data give it to rounding, with
    no probes. The L2 term is in G, which is the gradient of the whole objective, and not in C. Top eigenpairs
    of C and of the curvature come of block Lanczos without any matrix held, and what is said along them of
    one more pass for all together: see `thalweg.measures.dynamics.noise_alignment` and `noise_shape`.

    With `population`, or from a sample of the examples, numbers are unbiased and their standard errors the
    jackknife's over the examples. Recalibrated statistics, eigenvectors, curvature matrices and the point are
    held fixed in that; where the network was trained on these very examples, others may differ by more.

    Under batch statistics the units are the batches of the partition, and the numbers those of C at the
    objective's own batch size, which cannot be had for another from the same pass.

    The cost, in gradients of all examples: for trace and scale two to three where the layers' inputs and
    slopes tell the lengths (`thalweg.operators.layer_taps`: dense layers, convolutions, norms), else four to
    six; six to ten for the last pass; two to four for each product of the eigenpairs, of which there are some
    thirty a matrix. ``k=0`` leaves all but trace, scale and tail out. Memory does not grow with N beyond a
    few numbers for each example.

    Parameters
    ----------
    objective
        Mean loss over N examples at one point. In ``"recalibrated"`` mode the statistics are held constant.
    batch_size
        B, at most N; under batch statistics the objective's own. Default: the objective's own, at most N.
    k
        Eigenpairs of each matrix, at most P, and fewer than there are units. 0 for none.
    against
        Curvature matrices to compare C with: ``"hessian"``, ``"ggn"``. Default: both, but no GGN where the
        loss takes the model, which has none; none with ``k=0``.
    num_probes
        R random vectors for what the eigenvectors leave of the cosines, at least two.
    num_examples
        Take a random sample of so many (whole batches, under batch statistics). Default: all.
    population
        Whether the numbers are about the distribution behind the examples.
    params
        Only the block of the parameters that match, ``"layer4.*"``.
    num_tail
        Largest deviations that the tail index is from. Default: the square root of the number of units.
    rtol
        Bound on the eigenpairs' residuals over the norm of the matrix.
    max_matvecs
        Most products with single vectors for the eigenpairs of one matrix.
    max_memory_bytes
        Bound on a Lanczos basis, on a chunk of gradients, and on the directions of the last pass.
    seed
        Of sample, start vectors and probes.
    progress
        Called with work done and an estimate of the whole, in examples times columns.

    Raises
    ------
    ConvergenceError
        If `max_matvecs` is spent first; carries the partial `EigenSolution` of that matrix.
    DerivativeError
        If no derivative of this network can be trusted, or examples have no gradients of their own.
    NonFiniteLossError
        If the loss, its gradient or a product is not finite.
    ValueError
        If an argument is out of range, or the memory does not hold the directions.

    References
    ----------
    McCandlish, Kaplan, Amodei and the OpenAI Dota Team (2018), arXiv:1812.06162. Thomas et al. (2020), On the
    interplay between noise and curvature, AISTATS: the cosine of C and H.
    """
    check_objective("objective", objective)
    check_count("k", k, 0)
    check_count("num_probes", num_probes, 2)
    check_count("max_matvecs", max_matvecs)
    check_count("max_memory_bytes", max_memory_bytes)
    check_flag("population", population)
    arguments = {
        "batch_size": batch_size,
        "k": k,
        "against": against if against is None or isinstance(against, str) else list(against),
        "num_probes": num_probes,
        "num_examples": num_examples,
        "population": population,
        "params": params if params is None or isinstance(params, str) else list(params),
        "num_tail": num_tail,
        "rtol": rtol,
        "max_matvecs": max_matvecs,
        "max_memory_bytes": max_memory_bytes,
        "seed": seed,
    }
    whole = objective if params is None else objective.restrict(params)
    check_tolerances(whole.dtype, rtol, CERTIFY_RTOL, 0.99)
    names = _curvatures(whole, against, k)
    sample = stream_seed(seed, "examples")
    if num_examples is not None:
        check_count("num_examples", num_examples)
        if num_examples > whole.num_examples:
            raise ValueError(
                f"`num_examples` must be at most the {whole.num_examples} examples of the objective, got "
                f"{num_examples}."
            )
    target = whole if num_examples is None else whole.subset(num_examples, sample)
    work = Work(progress)
    units = UnitGradients(target, max_memory_bytes, work.add)
    size = checked_batch_size(whole, units.in_batches, batch_size)
    _check_directions(units, k, len(names), num_probes, max_memory_bytes)
    products = (len(names) + 1) * (PRODUCTS_EACH * k + PRODUCTS_MORE) if k else 0
    work.expect((PASSES + products) * target.num_examples)
    forms = _forms(units, whole, population)
    gradient = units.mean + target.weight_decay * target.params
    squares, crosses = units.squares(gradient)
    trace = forms.covariance(squares.numpy())
    square = forms.of_mean(float(gradient.cpu().double().square().sum()), crosses.numpy(), squares.numpy())
    ratio = square.of(lambda s, t: s / t, trace)
    value, signal_to_noise = float(trace.value), float(ratio.value)
    found = no_directions(units)
    if k and value > 0:  # no noise has no directions
        found = noise_directions(
            units,
            forms,
            gradient,
            work,
            k=k,
            against=names,
            num_probes=num_probes,
            rtol=rtol,
            max_matvecs=max_matvecs,
            max_memory_bytes=max_memory_bytes,
            seed=seed,
        )
    shape = noise_shape(found.slopes, squares, units.sizes, 1 if units.in_batches else size, num_tail)
    work.finish()
    dof = units.num_units - 1
    N = whole.num_examples
    drawn_once = 1.0 if population or units.in_batches else (N - size) / (N - 1)
    return GradientNoise(
        value=value,
        error=ErrorBudget(
            data=None if forms.share == 1 else StandardError(float(trace.standard_error()), dof)
        ),
        provenance={
            "function": "gradient_noise",
            "arguments": arguments,
            "objective": objective.describe(),
            "gradients": units.composition,
            "lengths": "layer_taps" if units.taps else units.composition,
            "num_examples": target.num_examples,
            "operators": found.checks,
        },
        batch_size=size,
        unit="batch" if units.in_batches else "example",
        num_units=units.num_units,
        dof=dof,
        gradient_square=float(square.value),
        gradient_square_error=float(square.standard_error()),
        signal_to_noise=signal_to_noise,
        signal_to_noise_error=float(ratio.standard_error()),
        batch_trace=value / size,
        batch_trace_without_replacement=value / size * drawn_once,
        eigenvalues=found.eigenvalues,
        eigenvectors=found.eigenvectors.cpu() if len(found.eigenvalues) else None,
        residuals=found.residuals,
        eigenvalue_errors=found.eigenvalue_errors,
        kurtosis=shape.kurtosis,
        kurtosis_errors=shape.kurtosis_errors,
        tail_index=shape.tail.value,
        tail_index_low=shape.tail.low,
        tail_index_high=shape.tail.high,
        num_tail=shape.tail.num_tail,
        warning=shape.warning,
        hessian=found.alignments.get("hessian"),
        ggn=found.alignments.get("ggn"),
        num_matvecs=found.num_matvecs,
    )


def _curvatures(objective: Objective, against: Sequence[str] | None, k: int) -> tuple[str, ...]:
    if against is None:
        takes_model = objective.loss.takes_model
        return () if k == 0 else CURVATURES[:1] if takes_model else CURVATURES
    names = (against,) if isinstance(against, str) else tuple(against)
    if not set(names) <= set(CURVATURES) or len(set(names)) < len(names):
        raise ValueError(f"`against` must be among {', '.join(CURVATURES)}, each once, got {against!r}.")
    if names and k == 0:
        raise ValueError(f"`against` compares eigenvectors, so that `k` must be at least 1, got {against!r}.")
    return names


def _forms(units: UnitGradients, whole: Objective, population: bool) -> UnitForms:
    """What the units taken are a sample of."""
    sizes = units.sizes.numpy()
    if population:
        return UnitForms(sizes)
    unit_size = whole.batch_size if units.in_batches else 1
    return UnitForms(sizes, -(-whole.num_examples // unit_size), whole.num_examples)


def _check_directions(
    units: UnitGradients, k: int, num_curvatures: int, num_probes: int, max_memory_bytes: int
) -> None:
    """Raise unless there are so many directions, and the memory holds what the last pass needs of them."""
    P, most = units.objective.space.dim, units.num_units - 1
    if k > min(P, most):
        units_are = "batches" if units.in_batches else "examples"
        raise ValueError(
            f"`k` must be at most {min(P, most)}, got {k}: the covariance of {most + 1} {units_are} has "
            f"{most} directions, in a space of {P}."
        )
    basis = (1 + num_curvatures) * k + num_probes
    needed = (2 * basis + num_curvatures * (basis + k) + k) * P * units.mean.element_size() if k else 0
    if needed > max_memory_bytes:
        raise ValueError(
            f"`max_memory_bytes` must hold the directions and their products, {needed:,} bytes for k = {k}, "
            f"{num_curvatures} curvature matrices and {num_probes} probes, got {max_memory_bytes:,}; lower "
            "one of these, or raise it."
        )

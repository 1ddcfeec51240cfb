"""The stationary law on a loss with several wells: where chains stay, and how long they take to leave."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from thalweg.core.arguments import check_count, check_one_of, check_positive
from thalweg.core.measurement import ErrorBudget, StandardError
from thalweg.core.progress import Progress, Work
from thalweg.core.rng import generator, stream_seed
from thalweg.measures.dynamics import well_predictions as laws
from thalweg.measures.dynamics.batch_draws import checked_batch_size
from thalweg.measures.dynamics.chain_gradients import ChainGradients
from thalweg.measures.dynamics.core_passages import core_rates, first_passage, relaxation
from thalweg.measures.dynamics.langevin import Langevin
from thalweg.measures.dynamics.settled import DIVERGED, DRIFT_LEVEL, MIN_EFFECTIVE_SIZE, Criteria
from thalweg.measures.dynamics.stationary_law_result import StationaryLaw
from thalweg.measures.dynamics.well_visits import (
    WellVisits,
    occupancy_p_value,
    stationarity,
    time_p_values,
)
from thalweg.measures.dynamics.wells import Wells, find_wells
from thalweg.objective.check_objective import check_objective
from thalweg.objective.objective import Objective

Noise = Literal["isotropic", "sgd"]

OCCUPANCY_LAWS = ("gibbs", "basin_mass", "as_density", "multiplicative")
TIME_LAWS = ("kramers", "first_passage")

# Lengths in relaxation times between the wells, and the most steps that follow of themselves.
BURN_IN, LENGTH, MOST_STEPS = 5, 5, 200_000

# A step in parts of the inverse of the largest curvature at a minimum, and the least SGD's may be stable
# with.
STEP, MOST_STEP = 0.1, 1.0


def stationary_law(
    objective: Objective,
    *,
    minima: Tensor | Sequence[Sequence[float]],
    temperature: float,
    noise: Noise = "isotropic",
    lr: float | None = None,
    batch_size: int | None = None,
    num_chains: int = 1000,
    burn_in: int | None = None,
    num_steps: int | None = None,
    num_points: int | None = None,
    drift_level: float = DRIFT_LEVEL,
    min_effective_size: float = MIN_EFFECTIVE_SIZE,
    seed: int,
    progress: Progress | None = None,
) -> StationaryLaw:
    r"""Run chains among the wells of a loss of one or two parameters, and test what theory says.

    .. math:: d\theta = -\nabla L\, dt + \sqrt{2T}\, dW \;\Rightarrow\; p(\theta) \propto e^{-L(\theta)/T},
       \qquad P(\text{well } i) \approx \frac{e^{-L_i/T} / \sqrt{\det H_i}}{\sum_j e^{-L_j/T} / \sqrt{\det
       H_j}}

    With ``noise="isotropic"`` chains make steps of `lr` by the scheme of Leimkuhler and Matthews, whose
    occupancies are off by :math:`O(\eta^2)` (`thalweg.measures.dynamics.langevin`). Times are too long, by a
    few per cent at the default of `lr`: a chain is only seen at its steps, and comes into a core unseen. With
    ``"sgd"`` they are plain SGD's, batches of B examples drawn with replacement, whose noise is not isotropic
    and changes with the place; its rate is such that the mean over the minima of
    :math:`\eta\, \mathrm{tr}\,C / (2 B P)` is T. No formula with one T need hold then; by how much it fails
    is the result (`StationaryLaw.departure`).

    Chains begin at the minima, as many at each, and so away from every law that is tested; while occupancies
    hang on where chains began, the run is not stationary. An occupancy is the share of time in the region
    whose steepest descent ends in a well; the quadrature uses the same regions. Escapes are counted from core
    to core, the places within half a temperature of a minimum, so that coming back over the pass is none.

    Parameters
    ----------
    objective
        A loss of one or two parameters, that holds its wells in on all sides; any loss a callable can give.
    minima
        ``(M, P)``, M >= 2: near each minimum that the temperature reaches.
    temperature
        T, in the unit of the loss. Wells exchange chains at rates of about exp(-barrier / T): with a
        barrier above some 6 T a run takes long.
    noise
        ``"isotropic"`` or ``"sgd"``.
    lr
        Of isotropic noise; default 0.1 over the largest curvature at a minimum. SGD's follows from T and B.
    batch_size
        B, of SGD alone. Default: 1.
    num_chains
        C, at least 16, and two for each minimum.
    burn_in, num_steps
        Steps that do not count, and do. Default: 5 times the slowest relaxation among the wells each, as
        isotropic noise would have it, at most 200,000.
    num_points
        Of the grid along each axis. Default: 2,001 and 201 for one and two parameters.
    drift_level, min_effective_size
        When occupancies count as stationary; see ``sgd_temperature``.
    seed
        Of everything.
    progress
        Called with work done and the whole, in steps.

    Raises
    ------
    NonFiniteLossError
        If the loss is not finite at the objective's point.
    ValueError
        If an argument is out of range, the objective has more than two parameters, or `minima` are none, or
        not all.

    References
    ----------
    Kramers (1940), Physica 7, 284-304. Mandt, Hoffman and Blei (2017), JMLR 18(134). Xie, Sato and Sugiyama
    (2021), ICLR: escape under SGD's own noise.
    """
    check_objective("objective", objective)
    check_one_of("noise", noise, get_args(Noise))
    check_positive("temperature", temperature, "a third of the barrier lets chains cross")
    for name, value, least in (
        ("num_chains", num_chains, 16),
        ("burn_in", burn_in, 0),
        ("num_steps", num_steps, 16),
        ("num_points", num_points, 51),
    ):
        if value is not None:
            check_count(name, value, least)
    criteria = Criteria(drift_level, min_effective_size)
    stream_seed(seed)
    starts = _checked_minima(objective, minima)
    check_count("num_chains", num_chains, 2 * len(starts))  # what hangs on the start takes two at each
    if noise == "isotropic" and batch_size is not None:
        raise ValueError(
            "`batch_size` must be None with noise='isotropic', whose gradient is of all the data."
        )
    if noise == "sgd" and lr is not None:
        raise ValueError(
            "`lr` must be None with noise='sgd', where it follows from temperature and batch_size."
        )
    objective.value()
    frozen = objective.frozen()
    work = Work(progress, burn_in + num_steps if burn_in is not None and num_steps is not None else 0)
    wells = find_wells(frozen, starts, temperature, num_points)
    gradients = ChainGradients(frozen)
    noises = _noise_variances(gradients, wells) if noise == "sgd" else np.zeros(len(starts))
    size = 1 if noise == "sgd" and batch_size is None else batch_size
    step = _step(wells, float(temperature), noise, lr, noises, checked_batch_size(frozen, False, size))
    rates = core_rates(wells, float(temperature))
    relaxation_steps = relaxation(rates) / step
    lengths = [
        max(16, math.ceil(min(MOST_STEPS, many * relaxation_steps))) if asked is None else asked
        for asked, many in ((burn_in, BURN_IN), (num_steps, LENGTH))
    ]
    work.expect(work.done + sum(lengths))
    chains = _Chains(gradients, step, float(temperature), size if noise == "sgd" else None, seed)
    home = torch.arange(num_chains) % len(starts)
    theta = torch.from_numpy(np.stack([m.point for m in wells.minima])).to(frozen.params)[home]
    visits = [WellVisits(wells, num_chains, max(lengths[0], 1), home)]
    theta = chains.run(theta, lengths[0], visits[0], work)
    visits.append(WellVisits(wells, num_chains, lengths[1], visits[0].last))
    theta = chains.run(theta, lengths[1], visits[1], work)
    work.finish()
    is_finite = bool(theta.isfinite().all())
    local = temperature if noise == "isotropic" else step * noises / (2 * (size or 1))
    return StationaryLaw(
        **_seen(visits[1], home.numpy(), step, criteria, is_finite, int(np.argmin(_determinants(wells)))),
        **_said(visits[1], wells, rates, gradients, float(temperature), noise, step, size, is_finite),
        provenance={
            "function": "stationary_law",
            "arguments": {
                "minima": starts.tolist(),
                "temperature": temperature,
                "noise": noise,
                "lr": lr,
                "batch_size": batch_size,
                "num_chains": num_chains,
                "burn_in": burn_in,
                "num_steps": num_steps,
                "num_points": num_points,
                "drift_level": drift_level,
                "min_effective_size": min_effective_size,
                "seed": seed,
            },
            "objective": objective.describe(),
        },
        noise=noise,
        temperature=float(temperature),
        lr=step,
        batch_size=size if noise == "sgd" else None,
        num_chains=num_chains,
        burn_in=lengths[0],
        num_steps=lengths[1],
        minima=torch.from_numpy(np.stack([m.point for m in wells.minima])),
        heights=torch.tensor([m.height for m in wells.minima], dtype=torch.float64),
        determinants=torch.from_numpy(_determinants(wells)),
        well_temperatures=torch.from_numpy(np.broadcast_to(local, len(starts)).astype(np.float64)),
        grid_points=torch.from_numpy(wells.points()),
        grid_losses=torch.from_numpy(wells.losses.ravel()),
        regions=torch.from_numpy(wells.regions.ravel()),
    )


class _Chains:
    """Steps of all chains: Langevin's, or SGD's, which is that at a temperature of nought, on batches."""

    def __init__(
        self, gradients: ChainGradients, step: float, temperature: float, batch_size: int | None, seed: int
    ) -> None:
        self.gradients, self.batch_size = gradients, batch_size
        self.batches = generator(seed, "stationary_law", "batches")
        rng = generator(seed, "stationary_law", "noise")
        self.dynamics = Langevin(step, temperature if batch_size is None else 0.0, rng)

    def run(self, theta: Tensor, count: int, visits: WellVisits, work: Work) -> Tensor:
        """Where they come to; not a number as soon as one is none."""
        N = self.gradients.objective.num_examples
        for _ in range(count):
            index = None
            if self.batch_size is not None:
                index = torch.randint(N, (len(theta), self.batch_size), generator=self.batches)
            theta = self.dynamics(theta, self.gradients(theta, index)[1])
            if not bool(theta.isfinite().all()):
                return torch.full_like(theta, math.nan)
            visits.add(theta)
            work.add(1)
        return theta


def _checked_minima(objective: Objective, minima: Tensor | Sequence[Sequence[float]]) -> Tensor:
    P = objective.space.dim
    if P > 2:
        raise ValueError(
            f"`objective` must have one or two parameters, over which a law can be summed up, got P = {P:,}; "
            "for a network take basin_mass and local_learning_coefficient, or restrict() it to two."
        )
    if objective.batch_norm == "batch" and objective.has_batch_norm:
        raise ValueError(
            "`objective` must have a loss of single examples, which batch_norm='batch' has none of; build it "
            "with 'running' or 'recalibrated'."
        )
    try:
        # Off its device first, which may not know float64.
        given = minima.detach().cpu() if isinstance(minima, Tensor) else minima
        starts = torch.as_tensor(given, dtype=torch.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`minima` must be points, (M, {P}) numbers, got {minima!r}.") from error
    if starts.ndim != 2 or starts.shape[1] != P or len(starts) < 2 or not bool(starts.isfinite().all()):
        raise ValueError(
            f"`minima` must hold at least two points of {P} finite coordinates, (M, {P}), got shape "
            f"{tuple(starts.shape)}; one well has no law of wells."
        )
    return starts


def _noise_variances(gradients: ChainGradients, wells: Wells) -> np.ndarray:
    """``(M,)``: variance of single examples' gradients at each minimum, mean over the parameters."""
    places = torch.from_numpy(np.stack([m.point for m in wells.minima])).to(gradients.objective.params)
    slopes = gradients.example_gradients(places).cpu().double()
    return slopes.var(1, correction=0).mean(1).numpy()


def _step(
    wells: Wells, temperature: float, noise: str, lr: float | None, noises: np.ndarray, batch_size: int
) -> float:
    """The rate; of SGD the one whose noise has the temperature."""
    steepest = max(float(np.linalg.eigvalsh(m.hessian)[-1]) for m in wells.minima)
    if noise == "isotropic":
        step = STEP / steepest if lr is None else lr
        check_positive("lr", step, "0.1 over the largest curvature is customary")
        if step * steepest >= 2:
            raise ValueError(
                f"`lr` must be below 2 over the largest curvature, {2 / steepest:.4g}, got {lr}; "
                f"{STEP / steepest:.2g} suits most."
            )
        return float(step)
    if not noises.mean() > 0:
        raise ValueError(
            "`noise` must be 'isotropic' where the examples' gradients do not differ: SGD has none."
        )
    step = 2 * temperature * batch_size / float(noises.mean())
    if step * steepest > MOST_STEP:
        most = temperature * MOST_STEP / (step * steepest)
        raise ValueError(
            f"`temperature` must be below {most:.4g} for SGD with {batch_size} a batch, got {temperature}: "
            f"it would take a rate of {step:.4g}, unstable at the largest curvature, {steepest:.4g}. Take "
            "smaller batches, or examples that differ more."
        )
    return step


def _determinants(wells: Wells) -> np.ndarray:
    return np.array([m.determinant for m in wells.minima])


def _seen(
    visits: WellVisits, home: np.ndarray, step: float, criteria: Criteria, is_finite: bool, widest: int
) -> dict[str, Any]:
    """What the chains show, by field."""
    names = (
        *("occupancies", "occupancy_errors", "drifts", "memories"),
        *("effective_sizes", "escape_times", "escape_errors"),
    )
    if not is_finite:
        M = visits.blocks.shape[2]
        nothing = torch.full((M,), math.nan, dtype=torch.float64)
        return {
            "value": math.nan,
            "error": ErrorBudget(probe=StandardError(math.nan, 0)),
            "outcome": DIVERGED,
            "block_occupancies": torch.full((1, M), math.nan, dtype=torch.float64),
            "num_escapes": torch.zeros(M, dtype=torch.int64),
        } | {name: nothing.clone() for name in names}
    occupancies, settled = visits.occupancies(), stationarity(visits, home, criteria)
    C = len(occupancies)
    mean, error = occupancies.mean(0), occupancies.std(0, ddof=1) / math.sqrt(C)
    times, time_errors, counts = visits.escape_times(step)
    arrays = (mean, error, settled.drifts, settled.memories, settled.effective_sizes, times, time_errors)
    return {
        "value": float(mean[widest]),
        "error": ErrorBudget(probe=StandardError(float(error[widest]), C - 1)),
        "outcome": settled.outcome,
        "block_occupancies": torch.from_numpy(visits.blocks.mean(1)),
        "num_escapes": torch.from_numpy(counts).long(),
    } | {name: torch.from_numpy(array) for name, array in zip(names, arrays, strict=True)}


def _said(
    visits: WellVisits,
    wells: Wells,
    rates: np.ndarray,
    gradients: ChainGradients,
    temperature: float,
    noise: str,
    step: float,
    batch_size: int | None,
    is_finite: bool,
) -> dict[str, Any]:
    """What the laws say, and the tests, by field."""
    predicted = np.stack(
        [
            laws.gibbs(wells, temperature),
            laws.basin_masses(wells, temperature),
            laws.basin_masses(wells, temperature, power=1.0),
            _multiplicative(wells, gradients, step / (2 * batch_size))
            if noise == "sgd" and batch_size and len(wells.low) == 1
            else np.full(len(wells.minima), np.nan),
        ]
    )
    times = np.stack([laws.kramers(wells, temperature), first_passage(rates)])
    occupancies = visits.occupancies()
    measured, errors, _ = visits.escape_times(step)
    if not is_finite:  # nothing that was seen is of a law
        occupancies, measured = np.full_like(occupancies, np.nan), np.full_like(measured, np.nan)
    dof = len(occupancies) - 1
    return {
        "predictions": OCCUPANCY_LAWS,
        "predicted": torch.from_numpy(predicted),
        "p_values": torch.tensor([occupancy_p_value(occupancies, p) for p in predicted], dtype=torch.float64),
        "time_predictions": TIME_LAWS,
        "predicted_times": torch.from_numpy(times),
        "time_p_values": torch.from_numpy(np.stack([time_p_values(measured, errors, t, dof) for t in times])),
    }


def _multiplicative(wells: Wells, gradients: ChainGradients, half_step: float) -> np.ndarray:
    """Of one parameter: noise of variance 2 D a unit of time, D = lr C / (2 B)."""
    slopes = gradients.example_gradients(torch.from_numpy(wells.points()).to(gradients.objective.params))
    slopes = slopes[..., 0].cpu().double()
    return laws.multiplicative(wells, slopes.mean(1).numpy(), half_step * slopes.var(1, correction=0).numpy())

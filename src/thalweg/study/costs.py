"""How long tasks take, before they have been run: in forward passes, then in seconds by a short timing."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from thalweg.analyses.curvature_profile import DEFAULT_MAX_MATVECS
from thalweg.study.store import Record

if TYPE_CHECKING:
    from thalweg.study.plan import StudyPlan
    from thalweg.study.runner import Task

# Forward passes over its examples that a measure takes with its defaults, or those it has in the family,
# about: a gradient is three, a Hessian-vector product six to nine. As counted on the paper's networks.
PASSES: Mapping[str, float] = {
    "generalization_gap": 1,
    "top_eigenvalues": 250,
    "hessian_trace": 200,
    "spectral_density": 2500,
    "block_curvature": 1500,
    "curvature_profile": 700,
    "sam_sharpness": 8,
    "sam_sharpness_spread": 8,
    "keskar_sharpness": 12,
    "average_sharpness": 26,
    "pac_bayes_sigma": 60,
    "basin_width": 40,
    "critical_sharpness": 12,
    "normalized_curvature": 60,
    "relative_flatness": 30,
    "fisher_rao_norm": 4,
    "gradient_noise": 40,
    "gradient_predictiveness": 30,
    "basin_mass": 300,
    "local_learning_coefficient": 3000,
    "largest_stable_learning_rate": 300,
    "line_slice": 63,
    "plane_slice": 625,
    "linear_path": 21,
    "bezier_path": 400,
    "align_permutation": 60,
    "mode_connectivity": 1200,
}
UNKNOWN = 100.0
NOISE_WITHOUT_PAIRS = 10.0

# Arguments that the work is in proportion to, with their defaults.
BUDGETS: Mapping[str, Mapping[str, int]] = {
    "curvature_profile": {"max_matvecs": DEFAULT_MAX_MATVECS},
    "basin_mass": {"num_probes": 4, "num_steps": 30},
    "local_learning_coefficient": {"num_chains": 4, "num_steps": 150},
}

# Measures of second derivatives. In `recalibrated` mode these hold the statistics, which are taken once; in
# `batch` mode they go through them. What evaluates losses takes the statistics anew each time.
SECOND_ORDER = {
    "basin_mass",
    *("top_eigenvalues", "hessian_trace", "spectral_density", "block_curvature", "curvature_profile"),
    *("normalized_curvature", "fisher_rao_norm", "relative_flatness"),
}
MODE_FACTORS = {"second order": {"batch": 4.0}, "losses": {"recalibrated": 2.0}}

# Examples of a timing, and the timings of which the fastest counts.
TIMED_EXAMPLES = 1024
TIMINGS = 2


def passes(measure: str, mode: str, arguments: Mapping[str, Any] | None = None) -> float:
    """Forward passes over its examples that a measure takes in a mode, about.

    Of `arguments` those count that the work is in proportion to, and whether eigenpairs of the noise are
    asked for.
    """
    given = arguments or {}
    factors = MODE_FACTORS["second order" if measure in SECOND_ORDER else "losses"]
    number = PASSES.get(measure, UNKNOWN)
    for name, default in BUDGETS.get(measure, {}).items():
        number *= (given.get(name) or default) / default
    if measure == "gradient_noise" and given.get("k") == 0:
        number = NOISE_WITHOUT_PAIRS
    return number * factors.get(mode, 1.0)


@dataclass(frozen=True)
class Estimate:
    """Seconds of tasks that are not done.

    Parameters
    ----------
    seconds
        Of all, one after the other on one worker.
    by_measure
        Of each measure.
    num_recorded
        How many of the tasks are estimated by records of the same measure and model, not by the timing.
    """

    seconds: float
    by_measure: Mapping[str, float]
    num_recorded: int


def estimated(
    plan: StudyPlan, tasks: Sequence[Task], records: Iterable[Record], *, calibrate: bool = True
) -> Estimate:
    """What `tasks` will take: by what the store knows of such tasks, else by a short timing of each model."""
    by_key = {task.key: task for task in plan.tasks}
    paces: dict[tuple[str, str], list[float]] = {}
    for record in records:
        task = by_key.get(record.task)
        if task and record.failure is None:
            paces.setdefault((task.measure, task.unit), []).append(record.seconds / task.cost)
    timed: dict[str, float] = {}
    by_measure: dict[str, float] = {}
    num_recorded = 0
    for task in tasks:
        known = paces.get((task.measure, task.unit))
        num_recorded += known is not None
        if known is None and calibrate and task.unit not in timed:
            timed[task.unit] = _seconds_a_pass(plan, task.unit)
        pace = median(known) if known else timed.get(task.unit, 0.0)
        by_measure[task.measure] = by_measure.get(task.measure, 0.0) + pace * task.cost
    return Estimate(sum(by_measure.values()), by_measure, num_recorded)


def _seconds_a_pass(plan: StudyPlan, unit: str) -> float:
    """Seconds of one example's forward pass, of a network as it is initialised."""
    objective = plan.fresh_objective(unit, TIMED_EXAMPLES)
    objective.evaluate()
    seconds = []
    for _ in range(TIMINGS):
        began = time.perf_counter()
        objective.evaluate()
        seconds.append(time.perf_counter() - began)
    return min(seconds) / objective.num_examples

"""How far a stochastic measure hangs on its seed: the same call with several, and the mean over them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from thalweg.analyses.stored_calls import stored_call
from thalweg.core.arguments import check_count
from thalweg.core.array_store import Store
from thalweg.core.measurement import ErrorBudget, Measurement, StandardError
from thalweg.core.progress import STEPS, Progress, part_of
from thalweg.core.rng import stream_seed
from thalweg.objective.objective import Objective
from thalweg.objective.resuming import check_store_for


@dataclass(frozen=True, kw_only=True, repr=False)
class SeedSpread(Measurement):
    """Values of one measure for R seeds; `value` is their mean, ``error.probe`` its standard error.

    Student's interval of `Measurement.interval` is for the mean over all seeds, of the same networks on the
    same data; other networks of the same recipe vary by more, see `thalweg.contrast`.

    Parameters
    ----------
    repeated
        Name of the measure.
    values
        ``(R,)`` float64.
    seeds
        R seeds: each gives its result again.
    results
        All R results.
    """

    measure: ClassVar[str] = "seed_spread"

    repeated: str
    values: Tensor
    seeds: tuple[int, ...]
    results: tuple[Measurement, ...]

    @property
    def lowest(self) -> Measurement:
        """The result of the lowest value: of several curves, the best bound on what separates their ends."""
        return self.results[int(self.values.argmin())]


def seed_spread(
    measure: Callable[..., Measurement],
    *objectives: Objective,
    num_seeds: int = 5,
    seed: int,
    store: Store | None = None,
    progress: Progress | None = None,
    **arguments: Any,
) -> SeedSpread:
    """Call ``measure(*objectives, seed=..., **arguments)`` with `num_seeds` seeds derived from `seed`.

    Errors that the results themselves state are kept as parts of the mean's: the bounds of solvers, and what
    grids may have missed, as their means; standard errors from having a sample of the examples likewise, for
    the examples are the same, so that the error of the mean is at most that. What else they draw at random
    varies from seed to seed, and is in the spread.

    Parameters
    ----------
    measure
        A measure that takes a seed, `thalweg.bezier_path` say.
    objectives
        What it measures.
    num_seeds
        R, at least 2. The first ones of a seed are the same whatever their number.
    seed
        Of the seeds.
    store
        Keeps what is done, an `ArrayStore` say: a killed call, made again, goes on from there and gives the
        same bits. A measure that takes a store itself gets this one; of others the finished results are kept.
    progress
        Called with parts done and all parts.
    arguments
        Its other arguments.

    Raises
    ------
    TypeError, ValueError
        If the measure takes no seed, or `num_seeds` is below 2.
    Exception
        What the measure raises.

    Examples
    --------
    >>> import thalweg as tw
    >>> x, y = torch.eye(4), torch.tensor([0, 1, 0, 1])
    >>> objective = tw.Objective(torch.nn.Linear(4, 2), (x, y))
    >>> found = tw.seed_spread(tw.average_sharpness, objective, num_seeds=3, seed=0, num_samples=4)
    >>> len(found.values)
    3
    """
    check_count("num_seeds", num_seeds, least=2)
    if not callable(measure) or "seed" not in inspect.signature(measure).parameters:
        raise TypeError(
            "`measure` must be a function that takes a `seed`, such as thalweg.bezier_path, got "
            f"{getattr(measure, '__qualname__', repr(measure))}: what draws nothing has no spread."
        )
    check_store_for(store, *objectives)
    seeds = tuple(stream_seed(seed, "repeat", i) for i in range(num_seeds))
    results = tuple(
        stored_call(
            store, measure, objectives, {**arguments, "seed": s}, progress=part_of(progress, i, num_seeds)
        )
        for i, s in enumerate(seeds)
    )
    if progress:
        progress(num_seeds * STEPS, num_seeds * STEPS)  # what was stored has told of no progress
    values = torch.tensor([result.value for result in results], dtype=torch.float64)
    bounds, missed = (
        [part for result in results if (part := getattr(result.error, name)) is not None]
        for name in ("solver", "grid")
    )
    samples = [result.error.data for result in results if result.error.data is not None]
    return SeedSpread(
        value=float(values.mean()),
        error=ErrorBudget(
            solver=sum(bounds) / num_seeds if bounds else None,
            probe=StandardError(float(values.std()) / math.sqrt(num_seeds), num_seeds - 1),
            data=StandardError(sum(s.value for s in samples) / num_seeds, min(s.dof for s in samples))
            if samples
            else None,
            grid=sum(missed) / num_seeds if missed else None,
        ),
        provenance={
            "function": "seed_spread",
            "arguments": {
                # The measure's own, which differ in the seed alone.
                **results[0].provenance.get("arguments", {}),
                "measure": results[0].measure,
                "num_seeds": num_seeds,
                "seed": seed,
            },
            "objective": results[0].provenance.get("objective", {}),
        },
        repeated=results[0].measure,
        values=values,
        seeds=seeds,
        results=results,
    )

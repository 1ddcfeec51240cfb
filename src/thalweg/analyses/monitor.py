"""Curvature, noise and stability along a training run, for a stated share of its work."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from thalweg.analyses.monitor_choice import measures_of, probe_of
from thalweg.analyses.monitor_costs import UNITS, MonitorCosts
from thalweg.analyses.monitor_looks import Failure, Looks
from thalweg.analyses.monitor_readings import Numbers
from thalweg.analyses.monitored_run import MonitoredRun
from thalweg.core.arguments import check_count, check_one_of, is_number
from thalweg.core.measurement import Measurement
from thalweg.core.rng import stream_seed
from thalweg.objective.batch_norm import BatchNormMode, batch_norm_layers
from thalweg.objective.examples import read_examples
from thalweg.objective.guards import unwrapped
from thalweg.objective.losses import Loss
from thalweg.objective.objective import DEFAULT_BATCH_SIZE, Objective


class Monitor:
    r"""Follows a training run from inside anybody's loop, by `step` once after each of the optimizer's.

    Loss and gradient norm of the probe are taken at every measuring step, each other measure when it is its
    turn, such that all together take at most `max_overhead` of the training's work: the rule is in
    `thalweg.analyses.allowance`. The first look of each measure is made early, on credit. Until the first
    looks are paid for, the overhead may be up to twice the stated one, and the proof of the derivatives comes
    on top, once. `schedule` says when what is due.

    Nothing of the user's is changed: model, gradients, optimizer, generators, modes. The network is copied at
    each measuring step and measured as an `Objective` would: dropout off, batch norm as `batch_norm` says.
    All numbers are those of the probe, without the optimizer's weight decay (but for the preconditioned
    sharpness, which is of what the optimizer follows).

    Parameters
    ----------
    model, optimizer
        As in the training loop. The optimizer's settings are read at each measuring step, as they are then.
    data
        A fixed part of the training data, or all of them, in any form that `Objective` takes.
    every
        Steps between measuring steps, at the least.
    max_overhead
        Work of the monitor over work of training; ``math.inf`` for no limit: everything each time.
    unit
        In which work is counted. ``"passes"``: loss and gradient of one example is one, of training as of the
        monitor, so that what is measured when is the same in every run. ``"seconds"``: by the clock, which
        keeps the share whatever a pass takes, but no two runs alike. Default: passes where the size of the
        training's batches is known, from `batch_size` or the loader, else seconds.
    loss
        Per example, as in `Objective`.
    batch_norm
        As in `Objective`. Default: ``"batch"`` where a batch-norm layer is in training mode now, that being
        the function that the optimizer follows, else ``"running"``.
    batch_size
        Examples that a step of the optimizer takes, accumulated ones too: for the work of training, noise
        scale, batch sharpness and batch statistics. Default: the loader's, else 128, and at most the data.
    num_examples
        Of the data, drawn once, the probe. Default: as many as `thalweg.analyses.monitor_choice.probe_of` has
        room for.
    measures
        Some of `thalweg.analyses.monitor_readings.WATCHED`. Default: all that apply; `left_out` says which do
        not, and why.
    micro_batch
        As in `Objective`.
    seed
        Of the probe and of every measure, the same at each step, so that steps differ by the network alone.
    clock
        Seconds from any origin.

    Attributes
    ----------
    num_steps
        Steps so far.
    num_examples
        Of the probe.
    history
        What `step` returned, one dictionary a measuring step.
    left_out
        Measures that do not apply, and why.

    Raises
    ------
    TypeError, ValueError
        If an argument cannot be used, each with the remedy.
    NondeterminismError
        If two passes over the same examples differ.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        data: Any,
        *,
        every: int = 100,
        max_overhead: float = 0.1,
        unit: str | None = None,
        loss: Loss = "cross_entropy",
        batch_norm: BatchNormMode | None = None,
        batch_size: int | None = None,
        num_examples: int | None = None,
        measures: Sequence[str] | None = None,
        micro_batch: int | str = "auto",
        seed: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        check_count("every", every)
        if not is_number(max_overhead) or not max_overhead > 0:
            raise ValueError(
                f"`max_overhead` must be positive, got {max_overhead!r}; 0.1 is a tenth of the training's "
                "work, math.inf no limit."
            )
        if unit is not None:
            check_one_of("unit", unit, UNITS)
        if not isinstance(optimizer, Optimizer):
            raise TypeError(
                f"`optimizer` must be a torch.optim.Optimizer, got {type(optimizer).__name__}; of a wrapper "
                "pass the optimizer inside."
            )
        stream_seed(seed)
        self.every, self.seed = int(every), int(seed)
        self._model, self._optimizer = unwrapped(model), optimizer
        whole, loader_batch_size = read_examples(data)
        size = batch_size if batch_size is not None else loader_batch_size
        unit = unit or ("seconds" if size is None else "passes")
        size = min(DEFAULT_BATCH_SIZE, whole.num_examples) if size is None else size
        check_count("batch_size", size)
        if size > whole.num_examples:
            raise ValueError(
                f"`batch_size` must be at most the {whole.num_examples} examples of `data`, from which "
                f"batches are drawn, got {size}; give more data."
            )
        probe = probe_of(
            whole,
            num_examples,
            batch_size=size,
            every=self.every,
            max_overhead=float(max_overhead),
            seed=self.seed,
        )
        _ = probe.hash  # once, for all the provenances to come
        self._batch_size = int(size)
        self._settings: dict[str, Any] = {
            "data": probe,
            "loss": loss,
            "batch_norm": self._followed() if batch_norm is None else batch_norm,
            "batch_size": min(size, probe.num_examples),
            "micro_batch": micro_batch,
            "compile": False,  # a graph a step would cost more than it saves
        }
        objective = self._objective()
        self._description = objective.describe()
        self._costs = MonitorCosts(float(max_overhead), unit, clock, objective.device)
        self.num_examples = probe.num_examples
        self.measures, self.left_out = measures_of(measures, objective, optimizer)
        self._looks = Looks(objective, optimizer, self.measures, seed=self.seed, costs=self._costs)
        self.num_steps = 0
        self.history: list[Numbers] = []
        self._pending = 0  # examples since the last measuring step
        self._costs.leave()

    # -- what it says of itself -----------------------------------------------------------------------

    @property
    def keys(self) -> tuple[str, ...]:
        """Names of the numbers, the same in every reading."""
        return self._looks.keys

    @property
    def last(self) -> dict[str, Measurement]:
        """The latest result by the name of its measure."""
        return dict(self._looks.last)

    @property
    def failures(self) -> list[Failure]:
        """What could not be measured. It never stops the training."""
        return list(self._looks.failures)

    @property
    def overhead(self) -> float:
        """Seconds spent here so far over seconds of training, up to the last measuring step."""
        return self._costs.overhead

    @property
    def passes_overhead(self) -> float:
        """The same in passes."""
        return self._costs.passes_overhead

    @property
    def diverged_at(self) -> int | None:
        """The first measuring step with a loss or gradient that was not finite."""
        return next((int(n["step"] or 0) for n in self.history if n["diverged"]), None)

    def schedule(self) -> dict[str, int]:
        """At which step each measure will be taken next, if all costs stay as they are; ``gradient`` is the
        measuring step itself. In seconds nothing is known before the first."""
        done = self.num_steps // self.every
        ahead = self._costs.forecast(self._batch_size * self.every, done, self._looks.expected())
        return {name: (done + occasions) * self.every for name, occasions in ahead.items()}

    def result(self) -> MonitoredRun:
        """All readings so far as one result, to be kept and drawn: ``tw.plot(monitor.result())``."""
        return MonitoredRun.of(
            self.history,
            self.keys,
            [dataclasses.asdict(failure) for failure in self.failures],
            {"function": "monitor", "arguments": self._arguments(), "objective": self._description},
        )

    def __repr__(self) -> str:
        unit, limit = self._costs.unit, self._costs.share
        share = self.overhead if unit == "seconds" else self.passes_overhead
        return (
            f"Monitor(step {self.num_steps}, {len(self.history)} measured on {self.num_examples} examples, "
            f"overhead {share:.2g} of {limit:g} in {unit}, {', '.join(self.measures)})"
        )

    # -- along the run --------------------------------------------------------------------------------

    def step(self, num_examples: int | None = None) -> Numbers | None:
        """Count a step of the optimizer, and measure if it is time.

        Parameters
        ----------
        num_examples
            That the step took. Default: `batch_size`.

        Returns
        -------
        ``None`` on most steps. On a measuring step the numbers named by `keys`, floats, or ``None`` for what
        was not measured this time: ``step``, ``loss``, ``gradient_norm``, ``lr`` (the largest of the groups),
        what each measure says, and

        - ``threshold``, and ``above_threshold``: 1 if the preconditioned sharpness exceeds it, else 0;
        - ``batch_sharpness_threshold``, 2 / lr, under plain SGD;
        - ``catapult``: 1 where one was seen to end, see `thalweg.analyses.catapult`, else 0;
        - ``diverged``: 1 where loss or gradient is not finite, and then nothing else is measured, else 0;
        - ``failed``: how many measures raised; see `failures`;
        - ``passes`` and ``seconds`` of this step, ``passes_overhead`` and ``overhead`` in all.
        """
        if num_examples is not None:
            check_count("num_examples", num_examples)
        self.num_steps += 1
        self._pending += self._batch_size if num_examples is None else num_examples
        if self.num_steps % self.every:
            return None
        passes, self._pending = self._pending, 0
        self._costs.arrive(passes, self._looks.expected())
        try:
            numbers = self._looks.take(self.num_steps, self._objective)
        finally:
            self._costs.leave()
        if numbers is None:
            return None
        numbers |= self._costs.numbers()
        self.history.append(numbers)
        return dict(numbers)

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` goes on from: counters, readings, accounts, warm starts. Plain values and
        tensors, which `torch.save` writes and ``torch.load`` reads with ``weights_only=True``."""
        return {
            "settings": self._identity(),
            "num_steps": self.num_steps,
            "pending": self._pending,
            "history": [dict(numbers) for numbers in self.history],
            "looks": self._looks.state_dict(),
            "costs": self._costs.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another monitor was, to the numbers that it would have had; `last` begins anew.

        Raises
        ------
        ValueError
            If that one measured something else, naming what differs.
        """
        own = self._identity()
        for name, theirs in state["settings"].items():
            if own.get(name) != theirs:
                raise ValueError(
                    f"`state` must be of a monitor with the same {name}, {own.get(name)!r}, got {theirs!r}; "
                    "make this one with its arguments, or begin anew without its state."
                )
        self.num_steps, self._pending = state["num_steps"], state["pending"]
        self.history = [dict(numbers) for numbers in state["history"]]
        self._looks.load_state_dict(state["looks"])
        self._costs.load_state_dict(state["costs"])

    # -- inside ---------------------------------------------------------------------------------------

    def _objective(self) -> Objective:
        """The network as it is now; dropout in training mode is off in the copy."""
        return Objective(copy.deepcopy(self._model).eval(), **self._settings)

    def _followed(self) -> BatchNormMode:
        trains = any(layer.training for layer in batch_norm_layers(self._model).values())
        return "batch" if trains else "running"

    def _arguments(self) -> dict[str, Any]:
        return {
            "every": self.every,
            "max_overhead": self._costs.share,
            "unit": self._costs.unit,
            "batch_size": self._batch_size,
            "num_examples": self.num_examples,
            "measures": list(self.measures),
            "seed": self.seed,
        }

    def _identity(self) -> dict[str, Any]:
        """What two monitors must share for one to go on where the other was."""
        return {
            **self._arguments(),
            **{key: self._description[key] for key in ("data", "batch_norm", "num_params", "loss")},
        }

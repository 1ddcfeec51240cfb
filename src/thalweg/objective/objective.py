r"""The objective: one function of the parameters, and the only loop over the data in the package.

.. math:: L(\theta) = \frac1N \sum_{i=1}^N \ell(f_\theta(x_i), y_i) + \frac{\lambda}{2} \lVert\theta\rVert^2
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.core.alignment import aligned
from thalweg.core.allocator import keep_freed_memory
from thalweg.core.arguments import check_count, check_one_of
from thalweg.objective.batch_norm import MODES, BatchNormMode
from thalweg.objective.compilation import check_compile
from thalweg.objective.description import describe
from thalweg.objective.evaluation import Evaluation, Point, PointEvaluations, PointEvaluator, l2_term
from thalweg.objective.examples import Examples, read_examples
from thalweg.objective.guards import (
    check_buffers,
    check_dtype,
    check_index,
    check_point,
    checked_weights,
    finite_gradient,
    refuse_active_dropout,
    refuse_batch_of_one,
    unwrapped,
)
from thalweg.objective.losses import Batch, Loss, LossModule
from thalweg.objective.micro_batch import MicroBatch, accelerator_micro_batch, cut, resolve_micro_batch
from thalweg.objective.network import PureNetwork
from thalweg.objective.passes import recalibrated, reduced
from thalweg.objective.ranks import Ranks
from thalweg.objective.sampling import draw_subset

DEFAULT_BATCH_SIZE = 128

Named = dict[str, Tensor]


class Objective:
    """A model, a per-example loss, data, a point and a batch-norm mode: a frozen, deterministic function.

    The user's model and data are never changed: the model is copied, and runs through
    ``torch.func.functional_call``. A *point* is the trainable parameters and the floating buffers.

    Parameters
    ----------
    model
        Any ``nn.Module``. Its trainable parameters span the space; frozen ones are constants. All layers but
        batch norm run as in ``eval()``; dropout that is on is refused.
    data
        Tensors ``(x, y)``, a tuple ``(x1, ..., y)``, a dictionary of tensors, a `Dataset`, or a `DataLoader`
        that keeps its order. Read once into memory, that of the model's device up to 2 GiB.
    loss
        ``"cross_entropy"``, ``"mse"`` (mean over the outputs of an example), a callable
        ``(outputs, targets) -> (B,)``, or ``(model, batch) -> (B,)``, whose first argument is then named
        ``model`` (or ``net``, ``network``, ``module``). Per example: the objective takes the mean itself.
    batch_norm
        ``"running"``, ``"recalibrated"`` or ``"batch"``; see `thalweg.objective.batch_norm`.
    batch_size
        The partition into batches, which matters in ``"batch"`` mode only. Default: the loader's, else 128.
    micro_batch
        Examples a pass; memory and speed only. ``"auto"`` is 128 on a CPU, elsewhere as many as a
        forward pass writes 2 GiB for, and the batch itself in ``"batch"`` mode.
    weight_decay
        The factor of the explicit L2 term ``weight_decay / 2 * ||params||^2``, torch's own convention.
    calibration_data
        Data of the recalibrated statistics, in any form `data` takes. Default: the objective's own; pass the
        training data when `data` is test data.
    compile
        Whether evaluations go through ``torch.compile``; speed only. ``"auto"`` goes by the size of the work,
        see `thalweg.objective.compilation`.

    Raises
    ------
    ValueError, TypeError
        For input that cannot be measured, each with the remedy.
    NondeterminismError
        If two passes over the same examples differ.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Any,
        loss: Loss = "cross_entropy",
        batch_norm: BatchNormMode = "running",
        batch_size: int | None = None,
        micro_batch: int | str = "auto",
        weight_decay: float = 0.0,
        calibration_data: Any = None,
        compile: bool | str = "auto",
    ) -> None:
        check_one_of("batch_norm", batch_norm, MODES)
        if not (isinstance(weight_decay, float | int) and 0 <= weight_decay < math.inf):
            raise ValueError(f"`weight_decay` must be a finite number >= 0, got {weight_decay!r}.")
        model = unwrapped(model)
        refuse_active_dropout(model)
        examples, loader_batch_size = read_examples(data)
        batch_size = batch_size if batch_size is not None else loader_batch_size or DEFAULT_BATCH_SIZE
        check_count("batch_size", batch_size)

        self.batch_norm: BatchNormMode = batch_norm
        self.batch_size = int(batch_size)
        self.weight_decay = float(weight_decay)
        self.compile = check_compile(compile)
        self._network = PureNetwork(model, loss, batch_norm, examples.batch)
        if self._partitioned:
            refuse_batch_of_one(examples.num_examples, self.batch_size)
        self._examples = self._laid_out(examples)
        self._calibration = (
            self._examples if calibration_data is None else self._laid_out(read_examples(calibration_data)[0])
        )
        self.space = self._network.space
        named = self._network.params
        self.params: Tensor = self.space.flatten(named)
        self._constants = {k: p for k, p in named.items() if k not in set(self.space.names)}
        self.buffers: Named = {k: b.clone() for k, b in self._network.buffers.items()}
        self.device, self.dtype = self.params.device, self.params.dtype
        partition = self.batch_size if self._partitioned else None
        self.micro_batch = resolve_micro_batch(micro_batch, partition)
        keep_freed_memory()
        self.passes_open = micro_batch == "auto" and not self._partitioned  # whether passes may be shorter
        ends = (0, (self.num_examples - 1) // self.micro_batch * self.micro_batch)
        first, last = (cut(self, self._examples, start, self.micro_batch) for start in ends)
        tensors = {**self._constants, **self.named_params, **self.buffers}
        outputs = self._network.probe(first, last, tensors)
        self.loss.check_classes(outputs, self._examples.batch)
        if self.passes_open and self.device.type != "cpu":
            self.micro_batch = accelerator_micro_batch(self._network.bytes_of_example(first, tensors))
        self._sealed = True

    _sealed = False
    _statistics_held = False
    _ranks: Ranks | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if self._sealed:
            raise AttributeError(
                f"an Objective is frozen, so `{name}` cannot be set; use at(), subset() or a new one."
            )
        super().__setattr__(name, value)

    # -- the point ------------------------------------------------------------------------------------

    def at(self, params: Tensor, buffers: Mapping[str, Tensor] | None = None) -> Objective:
        """The same objective at another point.

        Parameters
        ----------
        params
            ``(P,)``, copied.
        buffers
            Floating buffers by name; those not given stay. Ignored where batch norm computes its own.
        """
        params = torch.as_tensor(params)
        check_point(params, self.space.dim)
        given = dict(buffers or {})
        check_buffers(given, self.buffers, self._network.computed_buffers)
        given = {k: v.detach().to(self.buffers[k], copy=True) for k, v in given.items() if k in self.buffers}
        return self._variant(
            params=params.detach().to(self.params, copy=True), buffers={**self.buffers, **given}
        )

    def subset(self, n: int, seed: int = 0) -> Objective:
        """The objective on `n` examples drawn without replacement, in their original order; see `select`.

        In ``"batch"`` mode whole batches are drawn, as many as come closest to `n` (at least one).
        """
        unit = self.batch_size if self._partitioned else None
        return self.select(draw_subset(self.num_examples, unit, n, seed))

    def select(
        self, index: Tensor, batch_size: int | None = None, weights: Tensor | None = None
    ) -> Objective:
        """The objective on the examples ``index`` (n,), in that order; one may come several times.

        Recalibrated statistics stay those of the calibration data. In ``"batch"`` mode the examples are cut
        anew into batches of `batch_size` (default: the objective's own); elsewhere it is ignored. With
        `weights` (n,) the loss is (1 / n) sum_i weights_i loss_i, and accuracy alike.
        """
        index = torch.as_tensor(index)
        check_index(index, self.num_examples)
        taken = self._examples.take(index, checked_weights(weights, len(index)))
        changes: dict[str, Any] = {"_examples": self._laid_out(taken)}
        if self._partitioned:
            batch_size = self.batch_size if batch_size is None else batch_size
            check_count("batch_size", batch_size)
            refuse_batch_of_one(len(index), batch_size)
            changes |= {"batch_size": int(batch_size), "micro_batch": int(batch_size)}
        return self._variant(**changes)

    def restrict(self, params: str | Sequence[str]) -> Objective:
        """The same function of the chosen parameters alone (``"layer4.*"``); the others become constants,
        also in the L2 term, in which parameters that were frozen in the model from the start never are."""
        space = self.space.select(params)
        named = self.named_params
        fixed = self._constants | {k: v.clone() for k, v in named.items() if k not in set(space.names)}
        return self._variant(space=space, params=space.flatten(named), _constants=fixed)

    def to_dtype(self, dtype: torch.dtype) -> Objective:
        """The same objective in another floating dtype; models that fix a dtype inside may refuse."""
        check_dtype(dtype)

        def cast(tensors: Mapping[str, Tensor]) -> Named:
            return {k: v.to(dtype) if v.is_floating_point() else v for k, v in tensors.items()}

        return self._variant(
            _network=self._network.to(dtype),
            params=self.params.to(dtype),
            buffers=cast(self.buffers),
            _constants=cast(self._constants),
            dtype=dtype,
        )

    def without_decay(self) -> Objective:
        """The same function without its L2 term."""
        return self._variant(weight_decay=0.0) if self.weight_decay else self

    def distributed(self, group: Any = None) -> Objective:
        """The same function, whose passes over the data the ranks of a process group (default: all) share.

        Every rank makes this and all later calls alike, and gets what one process would, to rounding, and the
        same bits as the others. So does all that comes of it: `at`, `subset`, ...; see docs/distributed.md.

        Raises
        ------
        ValueError
            If there is no group, or the ranks do not hold the same objective.
        """
        return self._variant(_ranks=Ranks(group, self))

    def frozen(self) -> Objective:
        """The function whose derivatives are taken: recalibrated statistics here become constants."""
        if not self._recalibrates:
            return self
        return self._variant(buffers=self.effective_buffers, _statistics_held=True)

    @property
    def num_examples(self) -> int:
        """N."""
        return self._examples.num_examples

    @property
    def is_weighted(self) -> bool:
        """Whether `select` gave its examples weights."""
        return self._examples.weights is not None

    @property
    def loss(self) -> LossModule:
        """The loss on the private copy of the model."""
        return self._network.module

    @property
    def has_batch_norm(self) -> bool:
        """Whether the mode makes any difference."""
        return bool(self._network.norm_layers)

    @property
    def named_params(self) -> Named:
        """The parameters by name: views of `params`, or copies where kernels cannot read these."""
        return {k: aligned(p) for k, p in self.space.unflatten(self.params).items()}

    @property
    def named_tensors(self) -> Named:
        """Parameters, frozen ones too, and `effective_buffers`."""
        return {**self._constants, **self.named_params, **self.effective_buffers}

    @cached_property
    def effective_buffers(self) -> Named:
        """The buffers this point is evaluated with: recalibrated ones in that mode, else its own."""
        return recalibrated([self])[0] if self._recalibrates else dict(self.buffers)

    # -- values ---------------------------------------------------------------------------------------

    def value(self) -> float:
        """The mean loss over the N examples, plus the L2 term."""
        result = self.evaluate()
        return result.loss + result.penalty

    def evaluate(self) -> Evaluation:
        """Mean loss, and accuracy where the loss is cross-entropy."""
        result = self.evaluate_points([(self.params, self.buffers)])
        loss, accuracy = float(result.losses[0]), float(result.accuracies[0])
        known, penalty = not math.isnan(accuracy), l2_term(self, self.params)
        return Evaluation(loss, accuracy if known else None, self.num_examples, penalty)

    def evaluate_points(
        self,
        points: Iterable[Point],
        on_point: Callable[[int], None] | None = None,
        allow_non_finite: bool = False,
        num_points: int = 1,
    ) -> PointEvaluations:
        """Evaluate many points: data outside, points inside, so that each micro-batch stays in cache.

        Parameters
        ----------
        points
            ``(params (P,), buffers or None)`` each; lazily made ones are held a group at a time.
        on_point
            Called after each micro-batch with the points done, those under way by the share of the data seen.
        allow_non_finite
            Keep NaN and infinity in the result instead of raising: for surfaces that reach that far.
        num_points
            How many they are, which decides whether compiling pays.

        Raises
        ------
        NonFiniteLossError
            Naming the first batch whose loss is not finite.
        """
        return PointEvaluator(self, num_points)(points, on_point, allow_non_finite)

    def gradient(self) -> Tensor:
        """Gradient ``(P,)`` of `value`; recalibrated statistics are held constant."""
        gradient_of, named = torch.func.grad(lambda p, micro: micro.loss_sum(p)), self.named_params
        total = self.reduce(lambda micro: self.space.flatten(gradient_of(named, micro)))
        return finite_gradient(self, total / self.num_examples + self.weight_decay * self.params)

    def reduce(
        self,
        fn: Callable[[MicroBatch], Any],
        at_most: int | None = None,
        on_examples: Callable[[int], None] | None = None,
        given: Sequence[Tensor] = (),
    ) -> Any:
        """Sum ``fn(micro_batch)`` over the micro-batches: the single reduction over the data.

        Parameters
        ----------
        fn
            Takes a `MicroBatch` and returns a tensor, or a tuple, list or dictionary of tensors, each a
            *sum* over its examples, or `Rows` of what is kept of each. It must not collect anything aside:
            other ranks' examples never pass here. In ``"batch"`` mode a micro-batch is one of the partition.
        at_most
            Examples of a micro-batch, where the objective was given no size and the mode prescribes none.
        on_examples
            Called with the number of examples done after each micro-batch: N in all.
        given
            What `fn` multiplies besides the point: ranks compare it before they add up.

        Returns
        -------
        The same structure, summed in the dtype of its tensors; rows in the order of the data.
        """
        return reduced(self, fn, at_most, on_examples, given)

    def describe(self) -> dict[str, Any]:
        """What identifies this function and point: goes into every provenance."""
        return describe(self)

    def __repr__(self) -> str:
        mode = self.batch_norm if self.has_batch_norm else "absent"
        return (
            f"Objective({type(self._network.model).__qualname__}, P = {self.space.dim:,}, "
            f"N = {self.num_examples:,}, {self.loss.name}, batch norm {mode})"
        )

    # -- inside ---------------------------------------------------------------------------------------

    @property
    def _recalibrates(self) -> bool:
        return self.batch_norm == "recalibrated" and self.has_batch_norm and not self._statistics_held

    @property
    def _partitioned(self) -> bool:
        return self.batch_norm == "batch" and self.has_batch_norm

    def _variant(self, **changes: Any) -> Objective:
        other = copy.copy(self)
        other.__dict__.pop("effective_buffers", None)
        # A subset is the same point, so statistics already computed for it still hold.
        if set(changes) == {"_examples"} and "effective_buffers" in self.__dict__:
            other.__dict__["effective_buffers"] = self.effective_buffers
        other.__dict__.update(changes)
        return other

    def _laid_out(self, examples: Examples) -> Examples:
        laid_out = examples.in_channels_last() if self._network.wants_channels_last else examples
        return laid_out.beside(self._network.device)

    def _forward(
        self, batch: Batch, params: Named | None = None, buffers: Named | None = None
    ) -> tuple[Tensor, Tensor | None]:
        named = self.named_params if params is None else params
        buffers = self.effective_buffers if buffers is None else buffers
        return self._network(batch, {**self._constants, **named, **buffers})

"""The user's network as a pure function of named tensors and a batch: nothing it writes outlives the call."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call

from thalweg.core.errors import NondeterminismError
from thalweg.core.identity import code_identity
from thalweg.core.imports import in_words
from thalweg.core.param_space import ParamSpace
from thalweg.objective.activations import activation_bytes
from thalweg.objective.batch_norm import (
    BatchNormMode,
    batch_norm_layers,
    execution_order,
    is_statistic,
    prepare_batch_norm,
)
from thalweg.objective.guards import refuse_default_device, refuse_mixed_parameters
from thalweg.objective.isolation import isolated
from thalweg.objective.losses import Batch, Loss, LossModule, check_per_example

if TYPE_CHECKING:
    from thalweg.objective.micro_batch import MicroBatch


class PureNetwork:
    """A private copy of model and loss, in eval mode but for the batch-norm layers.

    Parameters
    ----------
    model
        The user's own, which is copied and left alone.
    loss
        A name or a callable; see `Objective`.
    mode
        Of batch norm.
    batch
        The data, whose structure tells the kinds of loss apart.
    """

    def __init__(self, model: nn.Module, loss: Loss, mode: BatchNormMode, batch: Batch) -> None:
        refuse_default_device()
        refuse_mixed_parameters(model)
        # Before the copy is prepared for its mode, which shows in how its layers print.
        self.code = code_identity(model)
        private = copy.deepcopy(model).eval()
        private.zero_grad(set_to_none=True)
        self.mode = mode
        self.norm_layers = prepare_batch_norm(private, mode)
        self.norm_order: list[str] = []
        self.space = ParamSpace.of(private)
        self._module = LossModule(private, loss, batch)
        # Operations of a forward pass by the shapes of its batch, once `forward_flops` has counted them.
        self.flops: dict[Hashable, int] = {}
        self._writes_inputs = False
        private.requires_grad_(False)

    @property
    def model(self) -> nn.Module:
        """The private copy."""
        return self._module.model

    @property
    def module(self) -> LossModule:
        """The private copy with its loss."""
        return self._module

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    @property
    def wants_channels_last(self) -> bool:
        """Whether it convolves images on a CPU, which is faster on them so laid out.

        On an H100 a pass over the paper's network was a fifth shorter in the usual layout, a Hessian product
        as well, though a gradient through batch norm was half as long again.
        """
        return self.device.type == "cpu" and any(isinstance(m, nn.Conv2d) for m in self.model.modules())

    @property
    def params(self) -> dict[str, Tensor]:
        """All parameters by name, frozen ones too."""
        return {k: p.detach() for k, p in self.model.named_parameters()}

    @property
    def computed_buffers(self) -> frozenset[str]:
        """Names of the statistics that each batch computes in ``batch`` mode, so that no point holds them."""
        layers = self.norm_layers if self.mode == "batch" else {}
        return frozenset(k for k, _ in self.model.named_buffers() if is_statistic(k, layers))

    @property
    def buffers(self) -> dict[str, Tensor]:
        """The buffers that belong to a point: floating ones, but for those computed anyway."""
        computed = self.computed_buffers
        return {
            k: b.detach()
            for k, b in self.model.named_buffers()
            if b.is_floating_point() and k not in computed
        }

    @property
    def fixed_buffers(self) -> dict[str, Tensor]:
        """Buffers of integers and flags, which no point holds; the counters of batch norm left out."""
        return {
            k: b
            for k, b in self.model.named_buffers()
            if not b.is_floating_point() and not is_statistic(k, self.norm_layers)
        }

    def __call__(self, batch: Batch, tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Losses ``(B,)``, and the outputs where the loss is a function of them.

        Parameters
        ----------
        batch
            On the device of the tensors.
        tensors
            Parameters and buffers by name; what is not named has the copy's own value.
        """
        # A forward pass may write to any buffer, now or on some later batch, so that it gets fresh copies.
        buffers = {k: tensors.get(k, b).clone() for k, b in self.model.named_buffers()}
        swapped = {f"model.{k}": v for k, v in {**tensors, **buffers}.items()}
        return functional_call(self._module, swapped, (_cloned(batch) if self._writes_inputs else batch,))

    def probe(
        self, first_batch: MicroBatch, last_batch: MicroBatch, tensors: Mapping[str, Tensor]
    ) -> Tensor | None:
        """Run the first micro-batch twice, and the last if it is shorter; the outputs of the first.

        What is looked at: shape of the loss, determinism, what is written, order of layers.
        """
        batch, num_examples = first_batch.batch, first_batch.size
        self._writes_inputs = True  # until it is known
        device = next(iter(tensors.values())).device
        with isolated(device), torch.no_grad():
            own = {k: v.clone() for k, v in tensors.items()}
            seen = _cloned(batch)
            params = {k: v._version for k, v in own.items()}
            inputs = [t._version for t in _tensors(seen)]
            results: list[tuple[Tensor, Tensor | None]] = []

            def forward(seen: Batch = seen, examples: str = f"the first {num_examples}") -> None:
                buffers = {k: own.get(k, b).clone() for k, b in self.model.named_buffers()}
                swapped = {f"model.{k}": v for k, v in {**own, **buffers}.items()}
                try:
                    results.append(functional_call(self._module, swapped, (seen,)))
                except ValueError:  # a complaint about the data or the loss, which says it better
                    raise
                except Exception as error:
                    raise ValueError(
                        f"`data` must fit `model` and `loss`, but on {examples} examples "
                        f"{type(self.model).__name__} and {self._module.label} gave {in_words(error)}."
                    ) from error

            if self.mode == "recalibrated" and self.norm_layers:
                self.norm_order = execution_order(self.norm_layers, forward)
            else:
                forward()
            self._writes_inputs = [t._version for t in _tensors(seen)] != inputs
            written = [k for k, v in own.items() if v._version != params[k]]
            if written:
                raise ValueError(
                    "`model` must not write to its parameters in a forward pass, but it changed "
                    f"{written[0]!r}."
                )
            first, outputs = results[0]
            check_per_example(first, num_examples, self._module.name)
            again = self(batch, tensors)[0]
            if last_batch.size != num_examples:
                forward(_cloned(last_batch.batch), f"the last {last_batch.size}")
                check_per_example(results[-1][0], last_batch.size, self._module.name)
        scale = float(first.abs().nan_to_num(0, 0, 0).max())
        # Exact on a CPU; atomics on an accelerator may reorder sums.
        tolerance = 100 * torch.finfo(first.dtype).eps * max(scale, 1e-30)
        if not torch.allclose(first, again, rtol=0, atol=tolerance, equal_nan=True):
            raise NondeterminismError(
                f"the model gave two answers to the same examples (largest difference "
                f"{float((first - again).abs().max()):.3g}): something in it draws random numbers or keeps "
                "state. Call model.eval() if that is dropout; else seed what it draws anew in every pass, or "
                "keep its state out of the answer."
            )
        return outputs

    def bytes_of_example(self, micro: MicroBatch, tensors: Mapping[str, Tensor]) -> float:
        """What a forward pass over such a micro-batch writes, for each of its examples."""
        with isolated(self.device):
            return activation_bytes(lambda: self(micro.batch, tensors)) / micro.size

    def in_batch_mode(self) -> PureNetwork:
        """A copy whose batch-norm layers take each batch's own statistics."""
        other = copy.copy(self)
        other._module = copy.deepcopy(self._module)
        other.mode, other.norm_order = "batch", []
        other.norm_layers = prepare_batch_norm(other.model, "batch")
        return other

    def to(self, dtype: torch.dtype) -> PureNetwork:
        """A copy in another floating dtype."""
        other = copy.copy(self)
        other._module = copy.deepcopy(self._module).to(dtype)
        other.norm_layers = batch_norm_layers(other.model)
        return other


def _tensors(batch: Batch) -> list[Tensor]:
    return list(batch.values() if isinstance(batch, dict) else batch)


def _cloned(batch: Batch) -> Batch:
    if isinstance(batch, dict):
        return {k: v.clone() for k, v in batch.items()}
    return tuple(v.clone() for v in batch)

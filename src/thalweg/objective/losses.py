"""Per-example losses: the one place that knows what a loss is called and which arguments it takes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from thalweg.core.alignment import aligned
from thalweg.core.arguments import check_one_of
from thalweg.core.identity import code_identity
from thalweg.core.imports import naming

Batch = tuple[Tensor, ...] | dict[str, Tensor]
Loss = str | Callable[..., Tensor]

# The class that torch's cross-entropy leaves out.
IGNORED = -100

# Keys under which dictionaries carry their targets when the loss is named; the rest go to the model.
TARGET_KEYS = ("labels", "targets", "target", "label", "y")


class LossModule(nn.Module):
    """A model and a loss as one module: ``forward(batch) -> (losses (B,), outputs or None)``.

    One module, so that a single functional call swaps the tensors of the model under either kind of
    loss: ``(outputs, targets) -> (B,)`` or ``(model, batch) -> (B,)``.

    Parameters
    ----------
    model
        The private copy.
    loss
        ``"cross_entropy"``, ``"mse"`` or a callable; see `Objective`.
    batch
        The data, whose structure tells the kinds of loss apart.

    Attributes
    ----------
    name
        What the loss is called, for people and provenance.
    takes_model
        Whether it is a function of the model and the batch, so that it has no outputs to speak of.
    classifies
        Whether an accuracy belongs to it.
    code
        Identity of a callable's code; None for a named loss.
    """

    def __init__(self, model: nn.Module, loss: Loss, batch: Batch) -> None:
        super().__init__()
        self.model = model
        self.name, self._function, self.takes_model = _resolve(loss, batch)
        # A named loss is identified by its name; anybody's function by its code.
        self.code = None if isinstance(loss, str) else code_identity(loss)
        self.classifies = loss == "cross_entropy"

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Losses ``(B,)`` of one batch, and the model's outputs where the loss is a function of them."""
        if self.takes_model:
            return self._called(self.model, batch), None
        inputs = inputs_and_targets(batch)[:-1]
        outputs = self.model(**inputs[0]) if isinstance(batch, dict) else self.model(*inputs)
        outputs = getattr(outputs, "logits", outputs)
        return self.losses_of(outputs, batch), outputs

    def losses_of(self, outputs: Any, batch: Batch) -> Tensor:
        """Losses ``(B,)`` of the model's outputs on one batch, for a loss that does not take the model."""
        return self._called(outputs, inputs_and_targets(batch)[-1])

    @property
    def is_convex_in_outputs(self) -> bool:
        """Whether it is known to be: the named losses are."""
        return self._function in NAMED.values()

    @property
    def label(self) -> str:
        """A name, or a callable as ``module:callable``."""
        return self.name if self.code is None else f"{self._function.__module__}:{self.name}"

    def correct(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Fraction of right classes per example ``(B,)``: one or nought unless an example holds several."""
        targets = inputs_and_targets(batch)[-1]
        classes = targets if targets.ndim < outputs.ndim else targets.argmax(1)
        # Single precision: not every device knows float64.
        return _mean_counted((outputs.argmax(1) == classes).float(), classes != IGNORED)

    def check_classes(self, outputs: Any, batch: Batch) -> None:
        """Raise if a class index of the whole data is none of the outputs', before a pass meets it."""
        if not self.classifies:
            return
        targets, num_classes = inputs_and_targets(batch)[-1], outputs.shape[1]
        if num_classes < 2:
            raise ValueError(
                f"`loss='cross_entropy'` needs a model with two outputs or more, got {num_classes}, whose "
                "cross-entropy is nought whatever it puts out; for regression pass loss='mse'."
            )
        if targets.ndim == outputs.ndim:  # class probabilities
            sums = targets.sum(1)
            if bool((targets < 0).any()) or not torch.allclose(sums, torch.ones_like(sums), atol=1e-3):
                raise ValueError(
                    "`data` must have classes, or class probabilities that are not negative and sum to 1, "
                    "for loss='cross_entropy'; for regression pass loss='mse'."
                )
            return
        wrong = (targets != IGNORED) & ((targets < 0) | (targets >= num_classes))
        if bool(wrong.any()):
            place = wrong.nonzero()[0]
            raise ValueError(
                f"`data` must have classes from 0 to {num_classes - 1}, for the model has {num_classes} "
                f"outputs ({IGNORED} leaves a position out), but example {int(place[0])} has "
                f"{int(targets[tuple(place)])}."
            )

    def _called(self, *arguments: Any) -> Tensor:
        if self.code is None:
            return self._function(*arguments)
        # Torch's own errors stay as they are: what they say depends on the transform that runs the loss.
        with naming("loss", self.label, passing=(RuntimeError, MemoryError)):
            return self._function(*arguments)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy per example ``(B,)`` of logits ``(B, C, ...)``; the mean over further dimensions.

    Targets are class indices ``(B, ...)``, where -100 marks a position that does not count, or class
    probabilities of the logits' shape. An example without any position that counts has loss zero.
    """
    losses = F.cross_entropy(outputs, targets, reduction="none")
    return _mean_counted(losses, targets != IGNORED if targets.ndim < outputs.ndim else None)


def mse(outputs: Tensor, targets: Tensor) -> Tensor:
    """Squared error per example ``(B,)``: the mean over the outputs of one example."""
    if outputs.shape != targets.shape:
        raise ValueError(
            f"`loss='mse'` needs outputs and targets of one shape, got {tuple(outputs.shape)} and "
            f"{tuple(targets.shape)}; reshape the targets, or pass your own loss."
        )
    return (
        (outputs - targets).square().flatten(1).mean(1) if outputs.ndim > 1 else (outputs - targets).square()
    )


def _mean_counted(x: Tensor, counted: Tensor | None) -> Tensor:
    """Mean over the positions of each example ``(B, ...)`` that count; ``(B,)`` stays as it is."""
    if x.ndim == 1:
        return x
    if counted is None:
        return x.flatten(1).mean(1)
    number = counted.flatten(1).sum(1).clamp(min=1)
    return (x * counted).flatten(1).sum(1) / number


NAMED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"cross_entropy": cross_entropy, "mse": mse}


def check_per_example(losses: Any, num_examples: int, name: str) -> None:
    """Raise unless the loss returned one number an example."""
    got = f"shape {tuple(losses.shape)}" if isinstance(losses, Tensor) else type(losses).__name__
    if not isinstance(losses, Tensor) or losses.shape != (num_examples,):
        raise ValueError(
            f"`loss` must return one loss per example, shape ({num_examples},), got {got} from {name}; "
            "for a torch loss pass reduction='none', and average over further dimensions."
        )


def _resolve(loss: Loss, batch: Batch) -> tuple[str, Callable[..., Tensor], bool]:
    if isinstance(loss, str):
        if loss not in NAMED:
            check_one_of("loss", loss, [*NAMED, "a callable"])
        return loss, NAMED[loss], False
    if not callable(loss):
        raise TypeError(f"`loss` must be a name or a callable, got {type(loss).__name__}.")
    name = getattr(loss, "__qualname__", type(loss).__name__)
    return name, loss, _takes_model(loss, batch)


def _takes_model(loss: Callable[..., Tensor], batch: Batch) -> bool:
    # Told apart by the name of the first argument; a loss whose arguments are named neither way is
    # taken as (outputs, targets) for tuples and as (model, batch) for dictionaries.
    try:
        # A module's own signature is that of __call__, which hides the names.
        function = loss.forward if isinstance(loss, nn.Module) else loss
        first = next(iter(inspect.signature(function).parameters), "")
    except (TypeError, ValueError):
        first = ""
    if first in ("model", "net", "network", "module"):
        return True
    return isinstance(batch, dict) and first not in ("outputs", "output", "logits", "input", "predictions")


def inputs_and_targets(batch: Batch) -> tuple[Any, ...]:
    """The model's inputs (of a dictionary, one: the rest of it) and, last, the targets of the loss."""
    if isinstance(batch, Mapping):
        keys = [key for key in TARGET_KEYS if key in batch]
        if len(keys) != 1:
            raise ValueError(
                f"`data` as a dictionary needs exactly one of the keys {', '.join(TARGET_KEYS)} for a loss "
                f"of (outputs, targets), got {', '.join(batch)}; or pass a loss `(model, batch) -> (B,)`, "
                "its first argument named so."
            )
        return {k: v for k, v in batch.items() if k != keys[0]}, batch[keys[0]]
    if len(batch) < 2:
        raise ValueError(
            "`data` needs inputs and targets, got one tensor; or pass a loss `(model, batch) -> (B,)`, its "
            "first argument named so."
        )
    return tuple(batch)


def cast_floating(batch: Batch, dtype: torch.dtype, device: torch.device) -> Batch:
    """Move a batch to `device` and its floating tensors to `dtype`."""

    def cast(t: Tensor) -> Tensor:
        return aligned(t.to(device, dtype) if t.is_floating_point() else t.to(device))

    if isinstance(batch, dict):
        return {k: cast(v) for k, v in batch.items()}
    return tuple(cast(v) for v in batch)

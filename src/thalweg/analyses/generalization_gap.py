"""How much worse a network does on data it has not seen: the yardstick of every measure of sharpness."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from thalweg.core.measurement import ErrorBudget, Measurement, StandardError
from thalweg.core.progress import Progress, part_of
from thalweg.objective.check_objective import check_objective
from thalweg.objective.objective import Objective


@dataclass(frozen=True, kw_only=True, repr=False)
class GeneralizationGap(Measurement):
    """Test loss less training loss, in the unit of the loss; without the L2 term.

    Parameters
    ----------
    train_loss, test_loss
        Mean losses over the examples of each objective.
    train_accuracy, test_accuracy
        Fractions of examples whose class is right; NaN without classes.
    train_loss_error, test_loss_error, train_accuracy_error, test_accuracy_error
        Standard errors, each for the distribution that its examples are a sample of.
    """

    measure: ClassVar[str] = "generalization_gap"

    train_loss: float
    test_loss: float
    train_accuracy: float
    test_accuracy: float
    train_loss_error: float
    test_loss_error: float
    train_accuracy_error: float
    test_accuracy_error: float

    @property
    def accuracy_gap(self) -> float:
        """Training accuracy less test accuracy."""
        return self.train_accuracy - self.test_accuracy


def generalization_gap(
    train: Objective, test: Objective, *, progress: Progress | None = None
) -> GeneralizationGap:
    """Evaluate one network on what it was trained on and on what it was not.

    ``error.data`` is for the distribution both sets of examples are samples of: standard errors of the two
    means in quadrature. Batches are its units in ``"batch"`` mode. That the
    network has seen the training data makes their mean no sample of the population's loss: the interval is of
    the gap between the loss on such training data and on new data, for this network.

    Parameters
    ----------
    train, test
        The same network with the same loss and mode. In ``"recalibrated"`` mode give `test` the training data
        as `calibration_data`, or its statistics are those of the test data.
    progress
        Called as ``progress(objectives done, objectives in all)``.

    Raises
    ------
    TypeError, ValueError
        If they are no objectives, or of different networks, losses or modes.
    NonFiniteLossError
        If a loss is not finite.
    """
    for name, objective in (("train", train), ("test", test)):
        check_objective(name, objective)
    first, second = train.describe(), test.describe()
    for key in ("params", "buffers", "loss", "batch_norm", "dtype"):
        if first.get(key) != second.get(key):
            raise ValueError(
                f"`train` and `test` must be one network with one loss in one mode, but their {key} differs: "
                f"{first.get(key)!r} and {second.get(key)!r}."
            )
    losses, accuracies = [], []
    for place, objective in enumerate((train, test)):
        report = part_of(progress, place, 2)
        found = objective.evaluate_points([(objective.params, objective.buffers)])
        losses.append((float(found.losses[0]), _error(objective, found.example_losses[0])))
        accuracies.append((float(found.accuracies[0]), _error(objective, found.example_correct[0])))
        if report:
            report(1, 1)
    (train_loss, train_error), (test_loss, test_error) = losses
    # On the smaller set's degrees of freedom: Welch's are never fewer.
    joined = StandardError(
        math.hypot(train_error.value, test_error.value), min(train_error.dof, test_error.dof)
    )
    return GeneralizationGap(
        value=test_loss - train_loss,
        error=ErrorBudget(data=joined),
        provenance={"function": "generalization_gap", "objective": first, "test": second},
        train_loss=train_loss,
        test_loss=test_loss,
        train_accuracy=accuracies[0][0],
        test_accuracy=accuracies[1][0],
        train_loss_error=train_error.value,
        test_loss_error=test_error.value,
        train_accuracy_error=accuracies[0][1].value,
        test_accuracy_error=accuracies[1][1].value,
    )


def _error(objective: Objective, numbers: Tensor) -> StandardError:
    """Of the mean of one number an example ``(N,)``."""
    units = numbers.double()
    if objective.batch_norm == "batch" and objective.has_batch_norm:
        # A batch's examples share their statistics; a shorter last one is left out of the spread.
        whole = units[: len(units) // objective.batch_size * objective.batch_size]
        units = whole.reshape(-1, objective.batch_size).mean(1) if len(whole) else units[:0]
    if len(units) < 2:
        return StandardError(math.nan, 0)
    return StandardError(float(units.std() / math.sqrt(len(units))), len(units) - 1)

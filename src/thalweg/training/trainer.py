"""Training by SGD: one loop, read top to bottom, that can be killed anywhere and resumed to the same bits."""

from __future__ import annotations

import copy
import json
import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import StepLR

from thalweg.core.arguments import check_count
from thalweg.core.atomic import replacing, sweep_partials
from thalweg.core.errors import NonFiniteLossError
from thalweg.core.lock import sole_writer
from thalweg.core.progress import Progress
from thalweg.core.rng import preserved_global_rng, stream_seed
from thalweg.objective.evaluation import Evaluation
from thalweg.objective.examples import Examples, read_examples
from thalweg.objective.guards import unwrapped
from thalweg.objective.losses import Loss, LossModule, cast_floating
from thalweg.objective.objective import Objective
from thalweg.training.branch import Branch, check_kept, check_steps, data_order, kept_checkpoint
from thalweg.training.checkpoint import Checkpoint, save_weights
from thalweg.training.config import TrainConfig
from thalweg.training.trajectory import TrainingHistory

CHECKPOINT_FILE = "checkpoint.safetensors"
WEIGHTS_FILE = "model.safetensors"
HISTORY_FILE = "history.json"

# Steps between looks at the losses: each look waits for the accelerator, and a run that has diverged loses
# no more than these.
STEPS_BETWEEN_CHECKS = 50


@dataclass(frozen=True)
class TrainingState:
    """What a callback sees after each step.

    Parameters
    ----------
    model, optimizer
        The live ones: look, do not touch.
    epoch
        The epoch this step belongs to, from 1.
    step, num_steps
        Steps done, over all epochs, and how many there will be.
    loss
        Mean loss of the step's batch before the step, a scalar tensor on the model's device.
    """

    model: nn.Module
    optimizer: Optimizer
    epoch: int
    step: int
    num_steps: int
    loss: Tensor


def train(
    model: nn.Module,
    train_data: Any,
    test_data: Any,
    config: TrainConfig,
    *,
    loss: Loss = "cross_entropy",
    checkpoint_dir: str | Path | None = None,
    checkpoint_every: int | None = None,
    keep_steps: Collection[int] = (),
    branch: Branch | None = None,
    callbacks: Sequence[Callable[[TrainingState], None]] = (),
    progress: Progress | None = None,
) -> TrainingHistory:
    """Train `model` in place; its flags, its ``.grad`` and the global generators come back as they were.

    Parameters
    ----------
    model
        Freshly initialised: a resumed run checks that it starts from the same bits, then takes the
        checkpoint's. Its trainable parameters are trained, frozen ones stay.
    train_data, test_data
        N examples each, in any form that `Objective` takes; `test_data` may be None. The training data are
        held on the model's device.
    config
        How to train.
    loss
        As in `Objective`; the mean over the batch is minimised.
    checkpoint_dir
        Folder that gets ``checkpoint.safetensors`` after each epoch and, at the end, ``model.safetensors``
        (the weights alone) and ``history.json``. An unfinished run in it is resumed, a finished
        one returned.
    checkpoint_every
        Write the checkpoint also after every so many steps.
    keep_steps
        Steps, 0 for the start, whose checkpoints stay in the folder: see `thalweg.training.branch`.
    branch
        Where this run leaves another one, of the same configuration, whose state at a kept step it starts
        from, with its history; the data come in another order from there on. Without another order the other
        run may have another schedule, later on. Its own checkpoint, if there is one, comes first.
    callbacks
        Called after each step.
    progress
        Called after each step with the steps done and the steps there will be.

    Returns
    -------
    TrainingHistory

    Raises
    ------
    ValueError
        If the folder holds another run, naming what differs, or another one is at work in it, or has passed a
        step to be kept; if the data or the model cannot be used.
    NonFiniteLossError
        If the loss becomes NaN or infinite, naming the step and the epoch.
    """
    if checkpoint_every is not None:
        check_count("checkpoint_every", checkpoint_every)
    network = unwrapped(model)
    flags = [(module, module.training) for module in network.modules()]
    gradients = [(parameter, parameter.grad) for parameter in network.parameters()]
    folder = None if checkpoint_dir is None else Path(checkpoint_dir)
    if keep_steps and folder is None:
        raise ValueError("`keep_steps` needs a `checkpoint_dir`, the folder to keep them in, got none.")
    try:
        with preserved_global_rng(), _sole_writer(folder):
            return _train(
                network,
                train_data,
                test_data,
                config,
                loss,
                folder,
                checkpoint_every,
                keep_steps,
                branch,
                callbacks,
                progress,
            )
    finally:
        for module, training in flags:
            module.training = training
        for parameter, gradient in gradients:
            parameter.grad = gradient


def _train(
    model: nn.Module,
    train_data: Any,
    test_data: Any,
    config: TrainConfig,
    loss: Loss,
    folder: Path | None,
    checkpoint_every: int | None,
    keep_steps: Collection[int],
    branch: Branch | None,
    callbacks: Iterable[Callable[[TrainingState], None]],
    progress: Progress | None,
) -> TrainingHistory:
    began = time.perf_counter()
    # Objectives first: they refuse what cannot be trained, and their description identifies the run. They
    # hold a private copy of the model, in eval mode, whose point moves along with the training.
    model.eval()
    train_examples = read_examples(train_data)[0]
    steps_per_epoch = -(-train_examples.num_examples // config.batch_size)
    train_objective = Objective(model, train_examples, loss)
    test_objective = None if test_data is None else Objective(model, test_data, loss)
    provenance = {
        "function": "train",
        **config.describe(),
        "objective": train_objective.describe(),
        "test_data": test_objective and test_objective.describe()["data"],
        "num_test_examples": test_objective and test_objective.num_examples,
    }
    origin, fork = None, None
    if branch:
        origin = branch.state_for(config, branch.load(), steps_per_epoch)
        _refuse_other_run(origin.header["provenance"], provenance, branch.path, "`branch`")
        provenance |= branch.describe(origin)
        fork = branch.fork(origin)

    # Resident on the device in the dtype of the model: a step costs an index and no copy from the host.
    batch = cast_floating(train_examples.batch, train_objective.dtype, train_objective.device)
    # Convolutions choose their kernels by the layout of their input, and on a CPU they run 1.7 times faster
    # on channels-last ones (benchmarks/training.py); the model's own memory stays as it is.
    convolutional = any(isinstance(module, nn.Conv2d) for module in model.modules())
    examples = Examples(batch).in_channels_last() if convolutional else Examples(batch)
    num_steps = config.epochs * steps_per_epoch
    check_steps("keep_steps", keep_steps, num_steps)
    losses_of = LossModule(model, loss, batch)
    _refuse_batch_of_one(losses_of, examples, config.batch_size)
    optimizer = SGD(
        [p for p in model.parameters() if p.requires_grad],
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )
    scheduler = StepLR(optimizer, step_size=config.step_size, gamma=config.gamma)

    def row(epoch: int, lr: float) -> dict[str, Any]:
        try:
            trained = evaluated_now(train_objective, model)
            tested = evaluated_now(test_objective, model) if test_objective else None
        except NonFiniteLossError as error:
            raise NonFiniteLossError(
                f"after epoch {epoch} (step {epoch * steps_per_epoch}): {error}"
            ) from error
        return {
            "epoch": epoch,
            "train_loss": trained.loss,
            "train_accuracy": trained.accuracy,
            "test_loss": tested and tested.loss,
            "test_accuracy": tested and tested.accuracy,
            "learning_rate": lr,
        }

    seconds_before = 0.0
    checkpoint = origin
    if folder and (folder / CHECKPOINT_FILE).exists():
        checkpoint = Checkpoint.load(folder / CHECKPOINT_FILE)
        _refuse_other_run(checkpoint.header["provenance"], provenance, folder, "`checkpoint_dir`")
        seconds_before = checkpoint.header["seconds"]
    if checkpoint:
        checkpoint.restore(model, optimizer)
        scheduler.load_state_dict(checkpoint.header["scheduler"])
        step, rows = checkpoint.header["step"], checkpoint.header["rows"]
    else:
        _seed_global_generators(stream_seed(config.seed, "noise"))
        step, rows = 0, [row(0, config.lr)]

    def save() -> None:
        if folder:
            header = {
                "provenance": provenance,
                "step": step,
                "rows": rows,
                "scheduler": scheduler.state_dict(),
                # For who keeps time, see `seconds_spent`: neither the history nor its provenance knows it.
                "seconds": seconds_before + time.perf_counter() - began,
            }
            state = Checkpoint.capture(model, optimizer, header)
            if step in keep_steps:
                # Before the other, so that no kept one from before that is missing after a kill.
                state.save(kept_checkpoint(folder, step))
            state.save(folder / CHECKPOINT_FILE)

    if folder:
        check_kept(folder, keep_steps, step)
    if step == 0 and 0 in keep_steps:
        save()
    unchecked: list[Tensor] = []
    while step < num_steps:
        epoch = step // steps_per_epoch + 1
        order = data_order(examples.num_examples, config, epoch, fork)
        lr = optimizer.param_groups[0]["lr"]
        model.train()
        while step < epoch * steps_per_epoch:
            start = (step % steps_per_epoch) * config.batch_size
            taken = examples.take(order[start : start + config.batch_size])
            taken = taken.in_channels_last() if convolutional else taken
            batch_loss = losses_of(taken.batch)[0].mean()
            optimizer.zero_grad(set_to_none=True)
            batch_loss.backward()
            optimizer.step()
            step += 1
            ends_epoch = step == epoch * steps_per_epoch
            due = checkpoint_every is not None and step % checkpoint_every == 0
            saves = (due or step in keep_steps) and not ends_epoch

            unchecked.append(batch_loss.detach())
            if len(unchecked) == STEPS_BETWEEN_CHECKS or saves or ends_epoch:
                _check_finite(unchecked, step, epoch)
                unchecked.clear()
            if saves:
                save()
            state = TrainingState(model, optimizer, epoch, step, num_steps, batch_loss.detach())
            for callback in callbacks:
                callback(state)
            if progress:
                progress(step, num_steps)

        scheduler.step()
        if epoch % config.evaluate_every == 0 or epoch == config.epochs:
            rows.append(row(epoch, lr))
        save()

    history = TrainingHistory.of_rows(rows, provenance)
    if folder:
        # After the last checkpoint, so that a kill in between is made good by calling again.
        save_weights(folder / WEIGHTS_FILE, model)
        with replacing(folder / HISTORY_FILE) as partial:
            partial.write_text(json.dumps(history.to_dict(), indent=1) + "\n")
    return history


def seconds_spent(checkpoint_dir: str | Path) -> float:
    """Seconds of training that the folder's checkpoint holds, over all resumes; 0 where there is none."""
    path = Path(checkpoint_dir) / CHECKPOINT_FILE
    return float(Checkpoint.load(path).header["seconds"]) if path.exists() else 0.0


@contextmanager
def _sole_writer(folder: Path | None) -> Iterator[None]:
    if folder is None:
        yield
        return
    with sole_writer(folder, "checkpoint_dir"):
        sweep_partials(folder)
        yield


def _refuse_batch_of_one(losses_of: LossModule, examples: Examples, batch_size: int) -> None:
    # Batch norm over the pixels of a single image is possible, over a single number it is not; only a trial
    # tells, and the user should hear before the first epoch is spent.
    if batch_size != 1 and examples.num_examples % batch_size != 1:
        return
    trial = copy.deepcopy(losses_of).train()
    try:
        with torch.no_grad():
            trial(examples.slice(0, 1))
    except ValueError as error:
        raise ValueError(
            f"`batch_size` {batch_size} and {examples.num_examples} examples leave a last batch of one, "
            f"which this network cannot train on ({error}); choose another batch size, or drop an example."
        ) from error


def evaluated_now(objective: Objective, model: nn.Module) -> Evaluation:
    """The objective where `model`, which it was made of, has moved to since."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    buffers = {name: b for name, b in model.named_buffers() if name in objective.buffers}
    return objective.at(objective.space.flatten(parameters), buffers).evaluate()


def _check_finite(losses: list[Tensor], step: int, epoch: int) -> None:
    finite = torch.isfinite(torch.stack(losses))
    if not bool(finite.all()):
        first = int((~finite).nonzero()[0])
        raise NonFiniteLossError(
            f"training diverged: the loss is {float(losses[first])} at step "
            f"{step - len(losses) + first + 1}, in epoch {epoch}; a smaller `lr` is the usual remedy."
        )


def _seed_global_generators(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - a user's layer may draw from the global generator
    random.seed(seed)


def _refuse_other_run(there: dict[str, Any], here: dict[str, Any], place: Path, argument: str) -> None:
    def flat(provenance: dict[str, Any]) -> dict[str, Any]:
        # `TrainConfig.describe` leaves this one out at its default.
        own = {"evaluate_every": TrainConfig.evaluate_every, **provenance}
        del own["objective"]
        return own | {f"objective.{k}": v for k, v in provenance["objective"].items()}

    a, b = flat(there), flat(here)
    names = [name for name in {**a, **b} if a.get(name) != b.get(name)]
    if names:
        differing = "; ".join(f"{name} is {a.get(name)} there and {b.get(name)} here" for name in names)
        raise ValueError(
            f"{argument} {place} holds another run: {differing}. Name another one, or ask for the same run."
        )

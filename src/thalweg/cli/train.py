"""``thalweg train``: one network on one data set, leaving a checkpoint, the weights and the history."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.console import progress_bar
from thalweg.cli.options import DataRoot, Device, Json, resolve_device
from thalweg.core.imports import import_callable
from thalweg.data.registry import load_train_test
from thalweg.models.registry import build_model
from thalweg.objective.losses import NAMED
from thalweg.training.trainer import WEIGHTS_FILE, TrainConfig
from thalweg.training.trainer import train as train_model
from thalweg.training.trajectory import TrainingHistory

PAPER = TrainConfig(seed=0)  # the source of the defaults


def train(
    model: Annotated[str, typer.Option(help="small_cnn_bn, small_cnn, or your own module:callable.")],
    data: Annotated[
        str,
        typer.Option(
            help="fashion-mnist, fashion-mnist:N (its first N training examples), or module:callable, which "
            "returns (train, test) or training data alone."
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder for checkpoint, weights and history; a run is resumed.")],
    seed: Annotated[int, typer.Option(help="Of initialisation, data order and dropout.")],
    epochs: Annotated[int, typer.Option(help="Passes over the training data.")] = PAPER.epochs,
    lr: Annotated[float, typer.Option(help="Learning rate of SGD.")] = PAPER.lr,
    batch_size: Annotated[int, typer.Option(help="Examples a step.")] = PAPER.batch_size,
    momentum: Annotated[float, typer.Option(help="Of SGD, in [0, 1).")] = PAPER.momentum,
    weight_decay: Annotated[float, typer.Option(help="L2 factor, as in torch.")] = PAPER.weight_decay,
    step_size: Annotated[int, typer.Option(help="Epochs between two drops of the rate.")] = PAPER.step_size,
    gamma: Annotated[float, typer.Option(help="Factor of the rate at each drop.")] = PAPER.gamma,
    loss: Annotated[
        str, typer.Option(help="cross_entropy, mse, or module:callable: (outputs, targets) -> (B,).")
    ] = "cross_entropy",
    checkpoint_every: Annotated[
        int | None, typer.Option(help="Also checkpoint every so many steps; always after each epoch.")
    ] = None,
    device: Device = "auto",
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Train one network by SGD with a stepped learning rate; a killed run goes on where it was.

    Example: `thalweg train --model small_cnn_bn --data fashion-mnist --out runs/a1 --seed 1`
    """
    config = TrainConfig(
        seed=seed,
        epochs=epochs,
        lr=lr,
        momentum=momentum,
        batch_size=batch_size,
        weight_decay=weight_decay,
        step_size=step_size,
        gamma=gamma,
    )
    network = build_model(model, seed).to(resolve_device(device))
    train_data, test_data = load_train_test(data, data_root)
    with progress_bar(f"training {model}") as progress:
        history = train_model(
            network,
            train_data,
            test_data,
            config,
            loss=loss if loss in NAMED else import_callable(loss, "loss", tuple(NAMED)),
            checkpoint_dir=out,
            checkpoint_every=checkpoint_every,
            progress=progress,
        )
    if as_json:
        print(json.dumps({**history.to_dict(), "weights": str(out / WEIGHTS_FILE)}))
    else:
        _print_history(history, out)


def _print_history(history: TrainingHistory, out: Path) -> None:
    print("epoch       lr  train loss  accuracy  test loss  accuracy")
    columns = (
        history.epochs,
        history.learning_rate,
        history.train_loss,
        history.train_accuracy,
        history.test_loss,
        history.test_accuracy,
    )
    for epoch, lr, *rest in zip(*(column.tolist() for column in columns), strict=True):
        print("{:>5} {:>8.4g} {:>11.4f} {:>9.4f} {:>10.4f} {:>9.4f}".format(epoch, lr, *rest))
    print(f"weights in {out / WEIGHTS_FILE}")

"""``thalweg train``: one network on one data set, leaving a checkpoint, the weights and the history."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from thalweg.cli.console import progress_bar
from thalweg.cli.options import DataRoot, Device, Json, LossName, Model, resolve_device, resolve_loss
from thalweg.data.registry import load_train_test
from thalweg.models.registry import build_model
from thalweg.training.trainer import WEIGHTS_FILE, TrainConfig
from thalweg.training.trainer import train as train_model
from thalweg.training.trajectory import TrainingHistory

PAPER = TrainConfig(seed=0)  # the source of the defaults


def train(
    model: Model,
    data: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="fashion-mnist, with :N to train on its first N examples; or module:callable of your own, "
            "called without arguments, which returns a pair (train, test) or training data alone, each "
            "(inputs, targets), a dictionary of tensors, a Dataset or a DataLoader.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            help="Where checkpoint, weights and history go; an unfinished run in it is resumed.",
        ),
    ],
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of initialisation, data order and dropout.")],
    epochs: Annotated[int, typer.Option(metavar="N", help="Passes over the training data.")] = PAPER.epochs,
    lr: Annotated[float, typer.Option(metavar="X", help="Learning rate of SGD.")] = PAPER.lr,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Examples a step.")] = PAPER.batch_size,
    momentum: Annotated[
        float, typer.Option(metavar="X", help="Momentum of SGD, in [0, 1).")
    ] = PAPER.momentum,
    weight_decay: Annotated[
        float, typer.Option(metavar="X", help="L2 factor, as in torch.optim.SGD.")
    ] = PAPER.weight_decay,
    step_size: Annotated[
        int, typer.Option(metavar="N", help="Epochs between two drops of the learning rate.")
    ] = PAPER.step_size,
    gamma: Annotated[
        float, typer.Option(metavar="X", help="Factor of the learning rate at each drop; 1 keeps it.")
    ] = PAPER.gamma,
    evaluate_every: Annotated[
        int, typer.Option(metavar="N", help="Epochs between looks at the losses on all the data.")
    ] = 1,
    loss: LossName = "cross_entropy",
    checkpoint_every: Annotated[
        int | None,
        typer.Option(metavar="N", help="Checkpoint also every N steps; always after each epoch."),
    ] = None,
    device: Device = "auto",
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Train one network by SGD; a killed run goes on.

    Leaves FOLDER/model.safetensors for `thalweg measure --checkpoint`, history.json, and a checkpoint after
    each epoch. A killed run goes on from there if called again with the same arguments. The defaults are the
    paper's, which leaves --step-size and --gamma open.

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
        evaluate_every=evaluate_every,
    )
    network = build_model(model, seed).to(resolve_device(device))
    train_data, test_data = load_train_test(data, data_root)
    with progress_bar(f"training {model}") as progress:
        history = train_model(
            network,
            train_data,
            test_data,
            config,
            loss=resolve_loss(loss),
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

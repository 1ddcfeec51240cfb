"""The first time that training reaches a loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import thalweg as tw
from thalweg.training.checkpoint import load_weights
from thalweg.training.config import TrainConfig
from thalweg.training.loss_reached import LossReached, reached_file, reached_step
from thalweg.training.trainer import train

CONFIG = TrainConfig(seed=1, epochs=4, lr=0.2, batch_size=16, momentum=0.0, step_size=100)


def data() -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(96, 5, generator=rng)
    return x, (x[:, 0] + 0.3 * x[:, 1] > 0).long()


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.2), nn.Linear(8, 2))


def run(folder: Path, losses: list[float], every: int, **more: object) -> nn.Module:
    model = network()
    look = LossReached(losses, data(), "cross_entropy", every=every, folder=folder)
    train(model, data(), None, CONFIG, checkpoint_dir=folder, callbacks=[look], **more)  # type: ignore[arg-type]
    return model


def test_the_weights_are_those_of_the_first_look_at_which_the_loss_is_no_larger(tmp_path: Path) -> None:
    run(tmp_path, [0.6, 0.3, 1e-6], every=2)
    assert reached_step(tmp_path, 1e-6) is None
    for loss in (0.6, 0.3):
        step = reached_step(tmp_path, loss)
        assert step is not None
        assert step % 2 == 0

        def at(kept: int, wanted: float = loss) -> float:
            again = tmp_path / f"{wanted}-{kept}"
            train(network(), data(), None, CONFIG, checkpoint_dir=again, keep_steps=[kept])
            model = network().eval()
            load_weights(again / f"step{kept}.safetensors", model)
            return tw.Objective(model, data()).evaluate().loss

        reached = network().eval()
        load_weights(reached_file(tmp_path, loss), reached)
        assert tw.Objective(reached, data()).evaluate().loss == pytest.approx(at(step), rel=1e-6)
        assert at(step) <= loss
        assert step == 2 or at(step - 2) > loss


def test_looking_changes_nothing(tmp_path: Path) -> None:
    looked = run(tmp_path / "looked", [0.6, 0.3], every=1)
    alone = network()
    train(alone, data(), None, CONFIG)
    for a, b in zip(looked.state_dict().values(), alone.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_a_killed_run_keeps_the_same_bits(tmp_path: Path) -> None:
    run(tmp_path / "whole", [0.5, 0.3], every=1)

    for kill_at in (3, 9, 15):

        class KilledError(Exception):
            pass

        def stop(done: int, _total: int, at: int = kill_at) -> None:
            if done == at:
                raise KilledError

        folder = tmp_path / f"killed{kill_at}"
        with pytest.raises(KilledError):
            run(folder, [0.5, 0.3], every=1, progress=stop, checkpoint_every=4)
        run(folder, [0.5, 0.3], every=1, checkpoint_every=4)
        for loss in (0.5, 0.3):
            assert (
                reached_file(folder, loss).read_bytes() == reached_file(tmp_path / "whole", loss).read_bytes()
            )

"""`instability`: one network twice, barriers by hand from the runs' own files, error bars, refusals."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from thalweg.analyses import instability as module
from thalweg.analyses.instability import Instability, instability
from thalweg.core.errors import NonFiniteLossError
from thalweg.core.measurement import Measurement
from thalweg.core.rng import stream_seed
from thalweg.data.registry import load_data
from thalweg.measures.connectivity.linear_path import linear_path
from thalweg.models.registry import seeded_model
from thalweg.models.small_cnn import SmallCNN
from thalweg.objective.objective import Objective
from thalweg.training.branch import Branch, kept_checkpoint
from thalweg.training.checkpoint import load_weights
from thalweg.training.config import TrainConfig
from thalweg.training.trainer import train

rng = torch.Generator().manual_seed(0)
X = torch.randn(46, 1, 6, 6, generator=rng)
Y = (X[:, 0, :3].mean((1, 2)) > 0).long() + (X[:, 0, 3:].mean((1, 2)) > 0).long()
TRAIN, TEST = (X[:29], Y[:29]), (X[29:], Y[29:])
CONFIG = TrainConfig(seed=99, epochs=3, batch_size=5, lr=0.1)  # 6 steps an epoch, the last of 4 examples
STEPS = [0, 4, 6, 18]


def build(batch_norm: bool = True) -> nn.Module:
    norm = nn.BatchNorm2d(4) if batch_norm else nn.Identity()
    return nn.Sequential(nn.Conv2d(1, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> tuple[Instability, object]:
    folder = tmp_path_factory.mktemp("runs")
    result = instability(
        build, TRAIN, TEST, CONFIG, STEPS, num_seeds=3, num_points=7, checkpoint_dir=folder, seed=1
    )
    return result, folder


def test_branched_after_the_last_step_it_is_one_network(found) -> None:
    result, _ = found
    assert result.branch_steps.tolist() == STEPS
    assert result.num_steps == 18
    assert not result.barriers[:, :, -1].any()
    assert not result.error_barriers[:, :, -1].any()
    assert not result.distances[:, -1].any()
    assert (result.distances[:, :-1] > 0).all()
    assert (result.distances[:, 0] > result.distances[:, 2]).all(), "more steps apart, further apart"


def test_barriers_are_those_of_the_networks_in_the_folder(found) -> None:
    result, folder = found
    assert result.modes == ("running", "recalibrated", "batch")
    assert result.barriers.shape == (3, 3, 4)
    for i, name in ((0, "seed0"), (2, "seed2")):
        for j, step in ((0, 0), (1, 4)):
            nets = [build(), build()]
            for net, run in zip(nets, ("run", f"branch{step}"), strict=True):
                load_weights(folder / name / run / "model.safetensors", net)
            for m, mode in enumerate(result.modes):
                a, b = (
                    Objective(n.eval(), TEST, batch_norm=mode, batch_size=5, calibration_data=TRAIN)
                    for n in nets
                )
                line = linear_path(a, b, num_points=7)
                assert float(result.barriers[m, i, j]) == line.barrier_over_mean
                assert float(result.solver_bounds[m, i, j]) == line.error.solver
                assert result.end_losses[m, i, j].tolist() == line.losses[[0, -1]].tolist()
                errors = 1 - line.accuracies
                expected = float(errors.max() - (errors[0] + errors[-1]) / 2)
                assert float(result.error_barriers[m, i, j]) == pytest.approx(expected, abs=1e-12)
                assert result.end_accuracies[m, i, j].tolist() == line.accuracies[[0, -1]].tolist()
            assert float(result.distances[i, j]) == pytest.approx(
                float((a.params - b.params).double().norm()), rel=1e-6
            )


def test_the_run_is_the_plain_one_and_the_branch_its_branch(found, tmp_path) -> None:
    own = TrainConfig(**{**vars(CONFIG), "seed": stream_seed(1, "instability", 1)})
    run = seeded_model(build, own.seed, "build", "build")
    train(run, TRAIN, None, own, checkpoint_dir=tmp_path, keep_steps=[4])
    there = seeded_model(build, own.seed, "build", "build")
    branch = Branch(kept_checkpoint(tmp_path, 4), stream_seed(own.seed, "branch"))
    train(there, TRAIN, None, own, branch=branch)
    for net, name in ((run, "run"), (there, "branch4")):
        other = build()
        load_weights(found[1] / "seed1" / name / "model.safetensors", other)
        ours, theirs = net.state_dict(), other.state_dict()
        assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_with_the_same_data_order_there_is_no_barrier_at_any_step(tmp_path) -> None:
    """Two branches of one order are one network to the bit, and the barrier is exactly nought."""
    train(build_of(3), TRAIN, None, CONFIG, checkpoint_dir=tmp_path, keep_steps=STEPS)
    for step in STEPS:
        nets = [build_of(3), build_of(3)]
        for net in nets:
            train(net, TRAIN, None, CONFIG, branch=Branch(kept_checkpoint(tmp_path, step), 7))
        for mode in ("running", "recalibrated", "batch"):
            a, b = (Objective(n.eval(), TEST, batch_norm=mode, batch_size=5) for n in nets)
            assert linear_path(a, b, num_points=9).barrier == 0.0
            assert linear_path(a, b, num_points=9).barrier_over_mean == 0.0


def build_of(seed: int) -> nn.Module:
    return seeded_model(build, seed, "build", "build")


def test_error_bars_are_students_over_the_seeds(found) -> None:
    result, _ = found
    table = result.barriers.numpy()
    np.testing.assert_allclose(result.means, table.mean(1))
    np.testing.assert_allclose(result.standard_errors, table.std(1, ddof=1) / math.sqrt(3))
    low, high = result.band(0.9)
    half = stats.t.ppf(0.95, 2) * table.std(1, ddof=1) / math.sqrt(3) + result.solver_bounds.numpy().mean(1)
    np.testing.assert_allclose(low, table.mean(1) - half)
    np.testing.assert_allclose(high, table.mean(1) + half)
    errors = result.error_barriers.numpy()
    low_error, high_error = result.band(0.9, of="error_barriers")
    np.testing.assert_allclose((low_error + high_error) / 2, errors.mean(1), atol=1e-12)
    half = stats.t.ppf(0.95, 2) * errors.std(1, ddof=1) / math.sqrt(3)
    np.testing.assert_allclose((high_error - low_error) / 2, half, atol=1e-12)
    assert result.value == pytest.approx(table[0, :, 0].mean())
    assert result.interval(0.9) == pytest.approx((float(low[0, 0]), float(high[0, 0])))
    assert result.error.probe.dof == 2
    assert result.batch_norm == "running"
    assert "barrier at the earliest branch" in repr(result)


def test_seeds_are_runs_of_their_own_and_the_first_stay_the_same(found) -> None:
    result, _ = found
    fewer = instability(
        build, TRAIN, TEST, CONFIG, [4, 0], num_seeds=2, num_points=7, modes="recalibrated", seed=1
    )
    assert fewer.modes == ("recalibrated",)
    assert torch.equal(fewer.barriers[0], result.barriers[1, :2, :2])
    assert len({float(x) for x in result.distances[:, 0]}) == 3
    other = instability(build, TRAIN, TEST, CONFIG, [0], num_seeds=1, num_points=7, modes="running", seed=2)
    assert float(other.distances[0, 0]) not in result.distances[:, 0].tolist()
    assert other.interval() == (-math.inf, math.inf)
    assert other.band()[1].isinf().all()
    assert other.standard_errors.isnan().all()


def test_killed_it_goes_on_in_its_folder(found, tmp_path, monkeypatch) -> None:
    result, _ = found
    calls = 0

    def killed(*args, **kwargs) -> None:
        nonlocal calls
        calls += 1
        if calls == 7:
            raise KeyboardInterrupt("stop")
        train(*args, **kwargs)

    arguments = {"num_seeds": 3, "num_points": 7, "checkpoint_dir": tmp_path, "seed": 1}
    monkeypatch.setattr(module, "train", killed)
    with pytest.raises(KeyboardInterrupt, match="stop"):
        instability(build, TRAIN, TEST, CONFIG, STEPS, **arguments)
    monkeypatch.setattr(module, "train", train)
    assert instability(build, TRAIN, TEST, CONFIG, STEPS, **arguments) == result
    # All is there now: nothing is trained again.
    trained: list[int] = []
    monkeypatch.setattr(
        module, "train", lambda *a, **k: train(*a, **k, callbacks=[lambda s: trained.append(s.step)])
    )
    assert instability(build, TRAIN, TEST, CONFIG, STEPS, **arguments) == result
    assert trained == []
    with pytest.raises(ValueError, match="did not keep it; name another folder"):
        instability(build, TRAIN, TEST, CONFIG, [5], **arguments)


def test_nothing_of_the_users_is_touched_and_no_file_is_left(unchanged, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    model = build_of(0).train()
    with unchanged(model, TRAIN, TEST):
        instability(lambda: model, TRAIN, TEST, CONFIG, [4], num_seeds=1, num_points=3, seed=0)
    assert list(tmp_path.iterdir()) == []


def test_records_and_progress(found, tmp_path) -> None:
    result, folder = found
    calls: list[tuple[int, int]] = []
    again = instability(
        build,
        TRAIN,
        TEST,
        CONFIG,
        STEPS,
        num_seeds=3,
        num_points=7,
        seed=1,
        progress=lambda *c: calls.append(c),
    )
    assert again == result
    assert [c[0] for c in calls] == sorted(c[0] for c in calls)
    assert calls[-1][0] == calls[-1][1]
    back = Measurement.from_dict(json.loads(json.dumps(result.to_dict(), allow_nan=False)))
    assert back == result
    arguments = result.provenance["arguments"]
    assert arguments["branch_steps"] == STEPS
    assert arguments["config"]["lr"] == 0.1
    assert "seed" not in arguments["config"]
    assert str(folder) not in json.dumps(result.provenance)


def test_a_line_without_a_finite_loss_costs_no_other(found, monkeypatch) -> None:
    result, folder = found
    calls = []

    def broken(a, b, **arguments):
        calls.append(a.batch_norm)
        if len(calls) == 5:  # the second step of the first seed, in the second mode
            raise NonFiniteLossError("the loss is not finite")
        return linear_path(a, b, **arguments)

    monkeypatch.setattr(module, "linear_path", broken)
    marked = instability(
        build, TRAIN, TEST, CONFIG, STEPS, num_seeds=3, num_points=7, checkpoint_dir=folder, seed=1
    )
    assert marked.failures == {f"seed 0, step 4, {result.modes[1]}": "the loss is not finite"}
    bad = marked.barriers.isnan()
    assert bad.nonzero().tolist() == [[1, 0, 1]]
    assert torch.equal(marked.barriers[~bad], result.barriers[~bad])
    assert marked.means.isnan().nonzero().tolist() == [[1, 1]]
    assert marked.end_losses.isnan().nonzero().tolist() == [[1, 0, 1, 0], [1, 0, 1, 1]]
    assert Measurement.from_dict(json.loads(json.dumps(marked.to_dict(), allow_nan=False))) == marked
    assert result.failures == {}


def test_steps_must_be_several() -> None:
    with pytest.raises(TypeError, match="`branch_steps` must be a list of steps, got 0"):
        instability(build, TRAIN, TEST, CONFIG, 0, seed=0)  # type: ignore[arg-type]


def test_without_batch_norm_there_is_one_mode_and_training_data_will_do() -> None:
    result = instability(
        lambda: build(batch_norm=False),
        TRAIN,
        None,
        CONFIG,
        [0, 18],
        split="train",
        num_seeds=2,
        num_points=3,
        seed=0,
    )
    assert result.modes == (None,)
    assert result.barriers.shape == (1, 2, 2)
    assert result.split == "train"
    assert result.batch_norm is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"branch_steps": []}, r"`branch_steps` must be different steps, one at least, got \[\]"),
        ({"branch_steps": [3, 3]}, r"`branch_steps` must be different steps, one at least, got \[3, 3\]"),
        ({"branch_steps": [19]}, "`branch_steps` must be at most 18, the steps of a run, got 19"),
        ({"branch_steps": [-1]}, "`branch_steps` must be a whole number of at least 0, got -1"),
        ({"num_seeds": 0}, "`num_seeds` must be a whole number of at least 1, got 0"),
        ({"split": "val"}, "`split` must be 'train', or 'test' with `test_data`, got 'val'"),
        ({"test_data": None}, "`split` must be 'train', or 'test' with `test_data`, got 'test'"),
        ({"modes": "frozen"}, "`modes` must be some of running, recalibrated, batch, got 'frozen'"),
        ({"num_points": 2}, "`num_points` must be a whole number of at least 3, got 2"),
        ({"test_data": (X[:17], Y[:17] + 7)}, "`data` must fit `model` and `loss`.* out of bounds"),
        ({"test_data": (X[:16], Y[:16])}, "`batch_size` must leave no batch of one in 'batch' mode"),
    ],
)
def test_what_cannot_be_done_is_told_before_training(changes, message, monkeypatch) -> None:
    monkeypatch.setattr(module, "train", lambda *a, **k: pytest.fail("it trained"))
    arguments = {"test_data": TEST, "branch_steps": [0], "seed": 0, **changes}
    test_data, steps = arguments.pop("test_data"), arguments.pop("branch_steps")
    with pytest.raises(ValueError, match=message):
        instability(build, TRAIN, test_data, CONFIG, steps, **arguments)


@pytest.mark.slow
@pytest.mark.real_data
def test_branched_early_real_networks_are_further_apart_than_branched_late() -> None:
    train_data, test_data = (load_data(f"fashion-mnist:{s}") for s in ("train:6000", "test:1000"))
    config = TrainConfig(seed=0, epochs=6, batch_size=64, lr=0.05)  # 94 steps an epoch
    result = instability(
        lambda: SmallCNN(batch_norm=True, width=8),
        train_data,
        test_data,
        config,
        [0, 20, 94, 376],
        num_seeds=3,
        modes=["running", "recalibrated"],
        num_points=11,
        seed=0,
    )
    assert (result.end_accuracies > 0.75).all(), "they have learnt"
    assert (result.barriers[0, :, 0] > 0.03).all(), "from the start on they end apart"
    means = result.means
    assert (means[:, 0] > 3 * means[:, -1]).all(), "in the last third they stay closer together"
    assert (result.distances[:, 0] > 1.5 * result.distances[:, -1]).all()

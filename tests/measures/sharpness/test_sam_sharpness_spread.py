"""`sam_sharpness_spread`: batch by batch against plain PyTorch, its draw, its standard error."""

from __future__ import annotations

import importlib
import json
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from thalweg.core.measurement import Measurement
from thalweg.core.rng import generator
from thalweg.measures.sharpness.sam_sharpness import sam_sharpness
from thalweg.measures.sharpness.sam_sharpness_spread import SamSharpnessSpread, sam_sharpness_spread
from thalweg.objective import evaluation, passes
from thalweg.objective import objective as objective_module
from thalweg.objective.objective import Objective

MODES = ("running", "recalibrated", "batch")

module = importlib.import_module("thalweg.measures.sharpness.sam_sharpness_spread")


@pytest.mark.parametrize("mode", MODES)
def test_each_sample_is_what_plain_pytorch_finds_on_its_batch(toys, mode) -> None:
    net, (x, y) = toys.convnet(), toys.images()
    # The objective's own partition, 5, would cut the batches asked for.
    o = Objective(net, (x, y), batch_norm=mode, batch_size=5, micro_batch=4)
    found = sam_sharpness_spread(o, batch_size=8, num_batches=4, radius=0.1, seed=3)
    order = torch.randperm(37, generator=generator(3, "sam_sharpness_spread"))
    for i, part in enumerate(order[:32].split(8)):

        def loss(model: nn.Module, part: Tensor = part) -> Tensor:
            if mode == "recalibrated":  # statistics are those of all the data, not of the batch
                toys.plain_loss(model, (x, y), mode)
                return toys.plain_loss(model, (x[part], y[part]), "running")[0]
            return toys.plain_loss(model, (x[part], y[part]), mode)[0]

        centre = toys.moved(net, torch.zeros_like(o.params))
        base = loss(centre)
        g = torch.cat([p.flatten() for p in torch.autograd.grad(base, list(centre.parameters()))])
        there = loss(toys.moved(net, 0.1 * g / g.norm()))
        assert float(found.samples[i]) == pytest.approx(there.item() - base.item(), rel=1e-9)
    assert found.value == pytest.approx(float(found.samples.mean()))
    assert found.error.data.value == pytest.approx(float(found.samples.std()) / math.sqrt(4))
    assert found.error.data.dof == 3


def test_batches_that_do_not_differ_have_the_sharpness_of_the_whole(toys) -> None:
    """One example a dozen times: whatever is drawn, each batch's loss is that of all the data."""
    x, y = toys.images(1)
    o = Objective(toys.convnet(), (x.repeat(12, 1, 1, 1), y.repeat(12)))
    found = sam_sharpness_spread(o, batch_size=6, num_batches=2, num_steps=3, seed=0)
    whole = sam_sharpness(o, num_steps=3, seed=0).value
    assert whole > 0
    assert found.samples.tolist() == pytest.approx([whole, whole], rel=1e-9)
    assert found.error.half_width() <= 1e-6 * whole


def test_more_batches_are_drawn_where_none_recalibrates(toys, monkeypatch) -> None:
    monkeypatch.setattr(module, "MOST_BATCHES", 5)
    monkeypatch.setattr(module, "MOST_RECALIBRATED", 3)
    for mode, count in (("running", 5), ("batch", 5), ("recalibrated", 3)):
        o = Objective(toys.convnet(), toys.images(), batch_norm=mode, batch_size=8)
        found = sam_sharpness_spread(o, batch_size=4, seed=0)
        assert len(found.samples) == count
        assert found.provenance["arguments"]["num_batches"] is None
    plain = Objective(toys.convnet(), toys.images())
    assert len(sam_sharpness_spread(plain, batch_size=12, seed=0).samples) == 3  # as many as fit


def test_several_steps_find_at_least_as_much_on_every_batch(toys) -> None:
    o = Objective(toys.convnet(), toys.images())
    one, four = (sam_sharpness_spread(o, batch_size=6, num_batches=6, num_steps=k, seed=0) for k in (1, 4))
    assert (four.samples >= one.samples).all()
    assert four.value > one.value


def test_the_mean_over_batches_exceeds_the_whole(toys) -> None:
    o = Objective(toys.convnet(), toys.images(36))
    found = sam_sharpness_spread(o, batch_size=6, num_batches=6, seed=0)
    assert found.value > sam_sharpness(o, num_steps=20, num_restarts=3, seed=0).value


def test_recalibration_of_the_centre_happens_once(toys, monkeypatch) -> None:
    o = Objective(toys.convnet(), toys.images(), batch_norm="recalibrated")
    calls = []
    original = passes.recalibrated

    def counted(objectives: list[Objective]):
        calls.append(len(objectives))
        return original(objectives)

    for module in (objective_module, evaluation):
        monkeypatch.setattr(module, "recalibrated", counted)
    sam_sharpness_spread(o, batch_size=6, num_batches=5, seed=0)
    assert calls == [1] * 6  # the centre, and one perturbed point a batch


def line_loss(model: nn.Module, batch: tuple[Tensor]) -> Tensor:
    return batch[0] @ model.theta


@pytest.mark.parametrize("repeats", [100, pytest.param(2000, marks=pytest.mark.slow)])
def test_the_standard_error_is_the_spread_over_data_sets(toys, repeats) -> None:
    """For a linear loss S of a batch is radius * |mean gradient|; data sets of 6 batches of 4."""
    rng = torch.Generator().manual_seed(0)
    point = toys.Theta(torch.zeros(3, dtype=torch.float64))
    runs = []
    for i in range(repeats):
        rows = torch.randn(24, 3, generator=rng, dtype=torch.float64)
        o = Objective(point, rows, loss=line_loss)
        runs.append(sam_sharpness_spread(o, batch_size=4, num_batches=6, radius=1.0, seed=i))
    values = np.array([r.value for r in runs])
    errors = np.array([r.error.data.value for r in runs])
    # |mean of 4 standard normal vectors| in three dimensions is chi(3) / 2, of mean sqrt(8 / pi) / 2.
    truth = math.sqrt(8 / math.pi) / 2
    assert abs(values.mean() - truth) < 4 * values.std() / math.sqrt(repeats)
    assert np.sqrt(np.mean(errors**2)) / values.std() == pytest.approx(
        1, abs=4 * math.sqrt(1 / (2 * repeats) + 1 / (10 * repeats))
    )
    covered = np.mean(np.abs(values - truth) < stats.t.ppf(0.975, 5) * errors)
    print("sam_sharpness_spread", repeats, round(covered * repeats))
    assert abs(covered - 0.95) <= (0.015 if repeats == 2000 else 4 * math.sqrt(0.95 * 0.05 / repeats))


def test_for_the_objectives_own_data_the_standard_error_is_conservative(toys) -> None:
    """Batches of one finite data set are disjoint: their mean varies no more than it says."""
    rows = torch.randn(24, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    o = Objective(toys.Theta(torch.zeros(3, dtype=torch.float64)), rows, loss=line_loss)
    runs = [sam_sharpness_spread(o, batch_size=4, num_batches=5, radius=1.0, seed=i) for i in range(300)]
    spread = np.std([r.value for r in runs])
    claimed = np.sqrt(np.mean([r.error.data.value**2 for r in runs]))
    assert spread < claimed


def test_the_seed_sets_the_draw(toys) -> None:
    o = Objective(toys.convnet(), toys.images())
    one, same, other = (sam_sharpness_spread(o, batch_size=6, num_batches=4, seed=s) for s in (0, 0, 1))
    assert torch.equal(one.samples, same.samples)
    assert not torch.equal(one.samples, other.samples)
    more = sam_sharpness_spread(o, batch_size=6, num_batches=6, seed=0)
    assert torch.equal(more.samples[:4], one.samples)


def test_a_batch_without_gradient_counts_as_zero(toys) -> None:
    o = Objective(toys.Theta(torch.zeros(3, dtype=torch.float64)), torch.zeros(6, 3).double(), loss=line_loss)
    found = sam_sharpness_spread(o, batch_size=2, num_batches=3, seed=0)
    assert found.samples.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("mode", MODES)
def test_nothing_of_the_users_is_touched(toys, unchanged, mode) -> None:
    net = toys.convnet().train()
    net.head.weight.grad = torch.ones_like(net.head.weight)
    with unchanged(net):
        o = Objective(net, toys.images(), batch_norm=mode, batch_size=8)
        sam_sharpness_spread(o, batch_size=6, num_batches=3, num_steps=2, seed=0)


def test_a_record_comes_back_and_progress_counts_batches(toys) -> None:
    o = Objective(toys.convnet(), toys.images())
    seen: list[tuple[int, int]] = []
    found = sam_sharpness_spread(
        o, batch_size=6, num_batches=3, seed=0, progress=lambda i, n: seen.append((i, n))
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
    assert found.provenance["arguments"] == {
        "batch_size": 6, "num_batches": 3, "radius": 0.05, "norm": "l2", "scaling": "none", "num_steps": 1,
        "seed": 0,
    }  # fmt: skip
    assert found.provenance["objective"] == o.describe()
    back = Measurement.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert isinstance(back, SamSharpnessSpread)
    assert torch.equal(back.samples, found.samples)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_batches": 1}, "`num_batches` must be at least 2 to have a spread, got 1"),
        ({"num_batches": 7}, "at most the 37 examples there are.*7 x 6 = 42; 6 batches of 6 would fit"),
        ({"batch_size": 0}, "`batch_size` must be a whole number"),
        ({"num_steps": 0}, "`num_steps` must be a whole number"),
        ({"radius": 0}, "`radius` must be positive and finite"),
    ],
)
def test_bad_arguments_are_named(toys, arguments, message) -> None:
    o = Objective(toys.convnet(), toys.images())
    with pytest.raises(ValueError, match=message):
        sam_sharpness_spread(o, **{"batch_size": 6, "num_batches": 3, "seed": 0, **arguments})


def test_batches_of_one_are_refused_in_batch_mode(toys) -> None:
    o = Objective(toys.convnet(), toys.images(), batch_norm="batch", batch_size=8)
    with pytest.raises(ValueError, match="no batch of one in 'batch' mode"):
        sam_sharpness_spread(o, batch_size=1, num_batches=3, seed=0)

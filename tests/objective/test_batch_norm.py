"""The three batch-norm modes against plain PyTorch, in float64, with uneven last batches throughout."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tests.networks import built, cnn, images, mlp, residual, shuffle_statistics, vectors
from tests.objective.by_hand import in_mode, loss_and_gradient
from torch import nn

from thalweg.objective.batch_norm import Moments
from thalweg.objective.objective import Objective

MODES = ("running", "recalibrated", "batch")


def deep() -> nn.Module:
    """Four normalised convolutions: statistics of each depend on those before it."""
    torch.manual_seed(3)
    layers: list[nn.Module] = []
    for i in range(4):
        layers += [nn.Conv2d(1 if i == 0 else 3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()]
    return built(nn.Sequential(*layers, nn.Flatten(), nn.Linear(108, 3)))


def dense() -> nn.Module:
    torch.manual_seed(4)
    return built(nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)))


def sequence() -> nn.Module:
    torch.manual_seed(5)
    return built(nn.Sequential(nn.Flatten(2), nn.BatchNorm1d(1), nn.Flatten(), nn.Linear(36, 3)))


def volume() -> nn.Module:
    torch.manual_seed(6)
    return built(
        nn.Sequential(
            nn.Unflatten(1, (1, 1)), nn.Conv3d(1, 2, 1), nn.BatchNorm3d(2), nn.Flatten(), nn.Linear(72, 3)
        )
    )


def not_affine() -> nn.Module:
    torch.manual_seed(7)
    return built(
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, affine=False), nn.Flatten(), nn.Linear(48, 3))
    )


def cumulative() -> nn.Module:
    torch.manual_seed(8)
    return built(
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, momentum=None), nn.Flatten(), nn.Linear(48, 3))
    )


def not_tracking() -> nn.Module:
    torch.manual_seed(9)
    return built(
        nn.Sequential(
            nn.Conv2d(1, 3, 3),
            nn.BatchNorm2d(3, track_running_stats=False),
            nn.Flatten(),
            nn.Linear(48, 3),
        )
    )


def large_eps() -> nn.Module:
    torch.manual_seed(10)
    return built(
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, eps=0.3), nn.Flatten(), nn.Linear(48, 3))
    )


BUILDS = [cnn, residual, deep, dense, sequence, volume, not_affine, cumulative, large_eps]


@pytest.mark.parametrize("build", BUILDS)
@pytest.mark.parametrize("mode", MODES)
def test_value_and_gradient_against_plain_torch(build, mode, unchanged):
    model, data = build(), images(21)
    model.train()
    loss, accuracy, gradient = loss_and_gradient(model, data, mode, batch_size=8)
    with unchanged(model, *data):
        objective = Objective(model, data, batch_norm=mode, batch_size=8, micro_batch=5)
        result = objective.evaluate()
        ours = objective.gradient()
    assert result.loss == pytest.approx(loss, rel=1e-12)
    assert objective.value() == pytest.approx(loss, rel=1e-12)
    assert result.accuracy == pytest.approx(accuracy, abs=1e-12)
    assert torch.allclose(ours, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("mode", ["recalibrated", "batch"])
def test_layers_without_stored_statistics(mode, unchanged):
    model, data = not_tracking(), images(21)
    loss, _, gradient = loss_and_gradient(model, data, mode, batch_size=8)
    with unchanged(model, *data):
        objective = Objective(model, data, batch_norm=mode, batch_size=8, micro_batch=5)
        assert objective.value() == pytest.approx(loss, rel=1e-12)
    assert torch.allclose(objective.gradient(), gradient, rtol=1e-9, atol=1e-12)


def test_layers_without_stored_statistics_have_no_running_mode():
    with pytest.raises(ValueError, match=r"layer '1' keeps none .* use 'recalibrated' or 'batch'"):
        Objective(not_tracking(), images())


@pytest.mark.parametrize("build", BUILDS)
def test_recalibrated_is_one_batch_of_all_the_data(build):
    model, data = build(), images(21)
    recalibrated = Objective(model, data, batch_norm="recalibrated", micro_batch=4).value()
    assert recalibrated == pytest.approx(Objective(model, data, batch_norm="batch", batch_size=21).value())
    assert recalibrated != pytest.approx(Objective(model, data).value(), rel=1e-4), "statistics are stale"


@pytest.mark.parametrize("build", [deep, residual])
def test_recalibrated_does_not_depend_on_the_micro_batch(build):
    model, data = build(), images(21)
    values = [
        Objective(model, data, batch_norm="recalibrated", micro_batch=m, batch_size=b).value()
        for m, b in [(1, 128), (2, 7), (5, 128), (20, 1), (21, 128), (100, 128)]
    ]
    assert max(values) - min(values) < 1e-13


def test_batch_mode_depends_on_the_partition_but_not_on_the_micro_batch():
    model, data = cnn(), images(21)
    by_size = {b: Objective(model, data, batch_norm="batch", batch_size=b).value() for b in (6, 8, 21)}
    assert len({round(v, 9) for v in by_size.values()}) == 3
    assert Objective(model, data, batch_norm="batch", batch_size=8, micro_batch=3).value() == by_size[8]


def test_batch_mode_depends_on_the_order():
    model, (x, y) = cnn(), images(21)
    there = Objective(model, (x, y), batch_norm="batch", batch_size=8).value()
    back = Objective(model, (x.flip(0), y.flip(0)), batch_norm="batch", batch_size=8).value()
    assert there != pytest.approx(back, rel=1e-6)
    for mode in ("running", "recalibrated"):
        there = Objective(model, (x, y), batch_norm=mode).value()
        back = Objective(model, (x.flip(0), y.flip(0)), batch_norm=mode).value()
        assert there == pytest.approx(back, rel=1e-13)


@pytest.mark.parametrize("build", [mlp, lambda: nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 3)).double()])
def test_without_batch_norm_the_modes_agree_bit_for_bit(build):
    model, data = build(), vectors(21)
    objectives = [Objective(model, data, batch_norm=mode, micro_batch=8) for mode in MODES]
    assert not objectives[0].has_batch_norm
    assert len({o.value() for o in objectives}) == 1
    gradients = [o.gradient() for o in objectives]
    assert all(torch.equal(gradients[0], g) for g in gradients[1:])
    assert objectives[2].subset(5, seed=0).num_examples == 5, "examples, not batches"


def test_a_batch_of_one_is_fine_without_batch_norm():
    assert Objective(mlp(), vectors(21), batch_norm="batch", batch_size=4).num_examples == 21


@pytest.mark.parametrize("mode", MODES)
def test_only_batch_norm_changes_mode(mode):
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3),
        nn.InstanceNorm2d(3, affine=True, track_running_stats=True),
        nn.RReLU(0.1, 0.9),
        nn.BatchNorm2d(3),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(48, 3),
    )
    shuffle_statistics(model).double()
    model.eval()
    model[1].train()
    model[2].train()
    loss, _, _ = loss_and_gradient(model, images(21), mode, batch_size=8)
    objective = Objective(model, images(21), batch_norm=mode, batch_size=8, micro_batch=5)
    assert objective.value() == pytest.approx(loss, rel=1e-12)
    assert "1.running_mean" in objective.buffers, "instance norm keeps its statistics in every mode"
    assert ("3.running_mean" in objective.buffers) == (mode != "batch")


def test_batch_norm_frozen_by_the_user_still_follows_the_mode():
    model = cnn()
    for module in model:
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    loss, _, _ = loss_and_gradient(model, images(21), "batch", batch_size=8)
    assert Objective(model, images(21), batch_norm="batch", batch_size=8).value() == pytest.approx(loss)


def test_recalibrated_at_another_point_has_that_points_statistics():
    model, data = deep(), images(21)
    objective = Objective(model, data, batch_norm="recalibrated", micro_batch=5)
    objective.value()  # the statistics of the first point are known by now
    torch.manual_seed(0)
    moved = objective.params + 0.3 * torch.randn_like(objective.params)
    other = copy.deepcopy(model)
    nn.utils.vector_to_parameters(moved, [p for p in other.parameters() if p.requires_grad])
    loss, _, gradient = loss_and_gradient(other, data, "recalibrated")
    assert objective.at(moved).value() == pytest.approx(loss, rel=1e-12)
    assert torch.allclose(objective.at(moved).gradient(), gradient, rtol=1e-9, atol=1e-12)
    assert objective.evaluate_points([(moved, None)]).losses[0].item() == pytest.approx(loss, rel=1e-12)


def test_calibration_data_are_used_instead_of_the_objectives_own():
    model, data, train = deep(), images(21, seed=0), images(33, seed=1)
    loss, _, gradient = loss_and_gradient(model, data, "recalibrated", calibration=train[0])
    objective = Objective(model, data, batch_norm="recalibrated", calibration_data=train, micro_batch=4)
    assert objective.value() == pytest.approx(loss, rel=1e-12)
    assert torch.allclose(objective.gradient(), gradient, rtol=1e-9, atol=1e-12)
    own = Objective(model, data, batch_norm="recalibrated").value()
    assert abs(own - loss) > 1e-4


@pytest.mark.parametrize("evaluated_before", [False, True])
def test_a_subset_keeps_the_statistics_of_all_the_data(evaluated_before):
    model, data = deep(), images(21)
    objective = Objective(model, data, batch_norm="recalibrated", micro_batch=4)
    if evaluated_before:
        objective.value()
    part = objective.subset(6, seed=3)
    index = [i for i in range(21) if any(torch.equal(data[0][i], x) for x in part._examples.batch[0])]
    chosen = (data[0][index], data[1][index])
    loss, _, _ = loss_and_gradient(model, chosen, "recalibrated", calibration=data[0])
    assert part.num_examples == 6
    assert part.value() == pytest.approx(loss, rel=1e-12)
    moved = objective.params * 1.1
    assert part.at(moved).value() == pytest.approx(objective.at(moved).subset(6, seed=3).value(), rel=1e-13)


def test_effective_buffers_are_the_exact_population_moments():
    model, (x, y) = dense(), images(21)
    objective = Objective(model, (x, y), batch_norm="recalibrated", micro_batch=4)
    inputs = model[1](x.flatten(1))
    assert torch.allclose(objective.effective_buffers["2.running_mean"], inputs.mean(0), atol=1e-14)
    population = inputs.var(0, correction=0)
    assert torch.allclose(objective.effective_buffers["2.running_var"], population, atol=1e-14)
    assert torch.equal(objective.buffers["2.running_mean"], model[2].running_mean), (
        "its own stay as they were"
    )


def test_statistics_first_computed_inside_a_derivative_are_plain_tensors():
    objective = Objective(cnn(), images(21), batch_norm="recalibrated", micro_batch=8)
    gradient = objective.gradient()
    for buffer in objective.effective_buffers.values():
        assert not torch._C._functorch.is_functorch_wrapped_tensor(buffer)
    assert torch.equal(objective.gradient(), gradient)


def test_frozen_holds_the_statistics_of_the_base_point():
    model, data = deep(), images(21)
    objective = Objective(model, data, batch_norm="recalibrated", micro_batch=4)
    frozen = objective.frozen()
    assert frozen.value() == objective.value()
    assert torch.equal(frozen.gradient(), objective.gradient())
    moved = objective.params * 1.2
    held = frozen.at(moved).value()
    assert held != pytest.approx(objective.at(moved).value(), rel=1e-4)
    running = Objective(model, data).at(moved, objective.effective_buffers).value()
    assert held == pytest.approx(running, rel=1e-13)
    for mode in ("running", "batch"):
        plain = Objective(model, data, batch_norm=mode, batch_size=8)
        assert plain.frozen() is plain


def test_the_gradient_is_that_of_the_frozen_function_by_central_differences():
    objective = Objective(deep(), images(21), batch_norm="recalibrated", micro_batch=4)
    frozen, gradient = objective.frozen(), objective.gradient()
    torch.manual_seed(0)
    direction, h = torch.randn_like(gradient), 1e-6
    slope = (
        frozen.at(objective.params + h * direction).value()
        - frozen.at(objective.params - h * direction).value()
    ) / (2 * h)
    assert slope == pytest.approx(float(gradient @ direction), rel=1e-7)
    through = (
        objective.at(objective.params + h * direction).value()
        - objective.at(objective.params - h * direction).value()
    ) / (2 * h)
    assert slope != pytest.approx(through, rel=1e-3), "recalibrating at each point is another function"


class UsedTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(5)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.norm(self.norm(x)))


def test_a_layer_used_twice_cannot_be_recalibrated():
    model = built(UsedTwice())
    with pytest.raises(ValueError, match=r"needs each batch-norm layer used once a pass, but norm is used"):
        Objective(model, vectors(), batch_norm="recalibrated")
    for mode in ("running", "batch"):
        loss, _, gradient = loss_and_gradient(model, vectors(), mode, batch_size=8)
        objective = Objective(model, vectors(), batch_norm=mode, batch_size=8, micro_batch=5)
        assert objective.value() == pytest.approx(loss)
        assert torch.allclose(objective.gradient(), gradient)


class Skipping(nn.Module):
    """Takes its second layer only for examples whose first feature is positive."""

    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm1d(5), nn.BatchNorm1d(5)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        x = self.norm1(x)
        return self.head(self.norm2(x) if x[0, 0] > 0 else x)


def test_a_layer_that_some_batches_skip_cannot_be_recalibrated():
    x, y = vectors(20)
    x[:10, 0], x[10:, 0] = 5.0, -5.0
    with pytest.raises(ValueError, match="every batch to reach the same batch-norm layers"):
        Objective(built(Skipping()), (x, y), batch_norm="recalibrated", micro_batch=10).value()


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.unused, self.norm = nn.BatchNorm1d(5), nn.BatchNorm1d(5)
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.norm(input=x))


@pytest.mark.parametrize("mode", MODES)
def test_layers_that_no_pass_reaches_and_inputs_by_keyword(mode):
    model, (x, y) = built(Unused()), vectors(21)
    objective = Objective(model, (x, y), batch_norm=mode, batch_size=21, micro_batch=5)
    reference = in_mode(model, batch_statistics=mode != "running")
    assert objective.value() == pytest.approx(float(F.cross_entropy(reference(x), y).detach()), rel=1e-12)


class Catching(nn.Module):
    """A model that catches every error of its normalisation."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(5), nn.Linear(5, 3)

    def forward(self, x):
        try:
            return self.head(self.norm(x))
        except Exception:
            return self.head(x)


def test_a_model_that_catches_errors_is_recalibrated_all_the_same():
    model, data = built(Catching()), vectors(21)
    loss, _, _ = loss_and_gradient(model, data, "recalibrated")
    objective = Objective(model, data, batch_norm="recalibrated", micro_batch=5)
    assert objective.value() == pytest.approx(loss, rel=1e-12)


class Shifting(nn.Module):
    """Input statistics far from nought: naive sums of squares lose every digit in single precision."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(5), nn.Linear(5, 3)

    def forward(self, x):
        return self.head(self.norm(x + 1000.0))


def test_single_precision_statistics_do_not_cancel():
    x, y = vectors(210)
    model = Shifting().float()
    objective = Objective(model, (x.float(), y), batch_norm="recalibrated", micro_batch=16)
    exact = (x.float() + 1000.0).double().var(0, correction=0)
    assert torch.allclose(objective.effective_buffers["norm.running_var"].double(), exact, rtol=1e-4)


@pytest.mark.parametrize("shape", [(13, 4), (13, 4, 3), (13, 4, 3, 2), (13, 4, 3, 2, 2)])
def test_moments_merge_to_those_of_all(shape):
    torch.manual_seed(0)
    x = torch.randn(shape, dtype=torch.float64) * 3 + 50
    merged = Moments.of(x[:1]).merge(Moments.of(x[1:6])).merge(Moments.of(x[6:]))
    flat = x.transpose(0, 1).flatten(1)
    assert merged.count == flat.shape[1]
    assert torch.allclose(merged.mean, flat.mean(1), rtol=1e-14)
    assert torch.allclose(merged.var, flat.var(1, correction=0), rtol=1e-12)


def test_half_precision_moments_do_not_overflow():
    x = torch.full((8, 2), 60_000.0, dtype=torch.float16)
    x[::2] = -60_000.0
    moments = Moments.of(x)
    assert moments.mean.dtype == torch.float64
    assert torch.allclose(moments.var, torch.full((2,), 60_000.0**2, dtype=torch.float64), rtol=1e-3)

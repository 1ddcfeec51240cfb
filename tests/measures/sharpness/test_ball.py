"""Balls in two norms and three scalings: their highest points, boundary, invariances, dead coordinates."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from tests.measures.sharpness.rescaled import relu_mlp, rescale_relu
from tests.measures.sharpness.test_sam_sharpness import SPECTRA, trust_region_maximum
from torch import Tensor, nn

from thalweg.core.rng import generator
from thalweg.measures.sharpness.average_sharpness import average_sharpness
from thalweg.measures.sharpness.ball import Ball, scale_vector
from thalweg.measures.sharpness.pac_bayes_sigma import pac_bayes_sigma
from thalweg.measures.sharpness.sam_sharpness import sam_sharpness
from thalweg.measures.sharpness.sam_sharpness_spread import sam_sharpness_spread
from thalweg.objective.objective import Objective

NORMS = ("l2", "linf")
SCALINGS = ("none", "element", "filter")


def reach(delta: Tensor, scale: Tensor | None, norm: str) -> float:
    """||T^-1 delta||, and infinity where a coordinate moved that cannot."""
    t = torch.ones_like(delta) if scale is None else scale.to(delta)
    if bool(delta[t == 0].any()):
        return math.inf
    moved = delta[t > 0].double() / t[t > 0].double()
    return float(moved.norm() if norm == "l2" else moved.abs().max())


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("norm", NORMS)
def test_no_point_of_the_ball_is_higher_on_the_tangent_plane(toys, norm, scaling) -> None:
    o = Objective(toys.convnet(), toys.images())
    ball, g = Ball.around(o, norm, 0.3, scaling), o.gradient()
    highest = ball.highest_on_tangent(g)
    assert highest is not None
    assert reach(highest, ball.scale, norm) == pytest.approx(0.3, rel=1e-12)
    assert float(highest @ g) == pytest.approx(0.3 * ball.dual_norm(g), rel=1e-12)
    rng = torch.Generator().manual_seed(0)
    for _ in range(50):
        other = ball.random_on_sphere(rng, like=g)
        assert reach(other, ball.scale, norm) == pytest.approx(0.3, rel=1e-12)
        assert float(other @ g) < float(highest @ g)


def test_the_scale_of_a_filter_is_its_norm_and_of_a_vector_its_own_entries(toys) -> None:
    net = toys.convnet()
    o = Objective(net, toys.images())
    filters, elements = (o.space.unflatten(scale_vector(o, s)) for s in ("filter", "element"))
    for name, weight in net.named_parameters():
        assert torch.equal(elements[name], weight.detach().abs())
        if weight.ndim == 1:
            assert torch.equal(filters[name], weight.detach().abs())
        else:
            norms = weight.detach().flatten(1).norm(dim=1)
            expected = norms[:, None].expand_as(weight.flatten(1))
            torch.testing.assert_close(filters[name].flatten(1), expected)
    assert scale_vector(o, "none") is None


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("scaling", ["element", "filter"])
def test_in_a_scaled_ball_many_steps_reach_the_closed_form(toys, name, scaling) -> None:
    """With d = T e it is the plain ball of the quadratic with gradient T g and Hessian T H T."""
    spectrum = SPECTRA[name]
    P = len(spectrum)
    rng = torch.Generator().manual_seed(P)
    Q = torch.linalg.qr(torch.randn(P, P, generator=rng, dtype=torch.float64))[0]
    H = (Q * spectrum) @ Q.T
    H = (H + H.T) / 2
    at = torch.randn(P, generator=rng, dtype=torch.float64)
    g = torch.randn(P, generator=rng, dtype=torch.float64)
    # The gradient at the point is g + H at: give the objective what makes that the g meant.
    o = toys.quadratic(g - H @ at, H, at=at)
    t = at.abs()  # a vector is in no filter, so that both scalings agree on it
    values, vectors = torch.linalg.eigh(t[:, None] * H * t)
    truth = trust_region_maximum(t * g, values, vectors, 0.05)
    found = [sam_sharpness(o, scaling=scaling, num_steps=k, num_restarts=2, seed=0).value for k in (1, 8, 60)]
    assert found == sorted(found)
    assert 0.995 * truth <= found[-1] <= truth * (1 + 1e-9)
    first = 0.05 * t * t * g / (t * g).norm()
    assert sam_sharpness(o, scaling=scaling, seed=0).value == pytest.approx(
        max(0.0, float(first @ g + first @ H @ first / 2)), rel=1e-9
    )


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("lowest", [0.5, -20.0])
def test_in_the_box_of_a_separable_quadratic_many_steps_reach_the_closed_form(toys, lowest, scaled) -> None:
    h = torch.linspace(lowest, 30, 16, dtype=torch.float64)
    rng = torch.Generator().manual_seed(3)
    g = torch.randn(16, generator=rng, dtype=torch.float64)
    at = torch.randn(16, generator=rng, dtype=torch.float64)
    o = toys.quadratic(g - h * at, torch.diag(h), at=at)
    r = 0.05 * at.abs() if scaled else torch.full((16,), 0.05, dtype=torch.float64)
    # Each coordinate by itself: as far as it goes, or to the top of a parabola that bends down before that.
    d = torch.where(g.abs() + h * r > 0, r, g.abs() / h.abs())
    truth = float((g.abs() * d + h * d * d / 2).sum())
    scaling = "element" if scaled else "none"
    one = sam_sharpness(o, norm="linf", scaling=scaling, seed=0)
    assert one.value == pytest.approx(float((g.abs() * r + h * r * r / 2).sum()), rel=1e-9)
    assert one.gradient_norm * 0.05 == pytest.approx(float((r * g.abs()).sum()), rel=1e-12)
    torch.testing.assert_close(one.perturbation, r * g.sign(), rtol=1e-12, atol=0)
    many = sam_sharpness(o, norm="linf", scaling=scaling, num_steps=60, seed=0).value
    assert 0.995 * truth <= many <= truth * (1 + 1e-9)


def test_in_the_box_of_a_convex_quadratic_restarts_find_the_best_corner(toys) -> None:
    P = 8
    rng = torch.Generator().manual_seed(1)
    A = torch.randn(P, P, generator=rng, dtype=torch.float64)
    H, g = A @ A.T, 0.01 * torch.randn(P, generator=rng, dtype=torch.float64)
    corners = 0.05 * torch.tensor(list(itertools.product((-1.0, 1.0), repeat=P)), dtype=torch.float64)
    truth = float((corners @ g + ((corners @ H) * corners).sum(1) / 2).max())
    o = toys.quadratic(g, H)
    found = sam_sharpness(o, norm="linf", num_steps=6, num_restarts=12, seed=0)
    assert found.value == pytest.approx(truth, rel=1e-9)
    assert (found.restart_values <= truth * (1 + 1e-9)).all()


@pytest.mark.parametrize("mode", ["running", "recalibrated", "batch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scaling", SCALINGS)
def test_every_ball_in_every_mode(toys, mode, dtype, norm, scaling) -> None:
    o = Objective(toys.convnet(dtype=dtype), toys.images(), batch_norm=mode, batch_size=8)
    found = sam_sharpness(o, radius=0.1, norm=norm, scaling=scaling, num_steps=3, num_restarts=2, seed=0)
    scale = scale_vector(o, scaling)
    assert reach(found.perturbation, scale, norm) <= 0.1 * (1 + 1e-6)
    rise = o.at(o.params + found.perturbation).value() - o.value()
    assert found.value == pytest.approx(rise, rel=1e-5 if dtype == torch.float32 else 1e-12)
    assert found.value > 0
    assert (found.norm, found.scaling) == (norm, scaling)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scaling", ["element", "filter"])
def test_weights_that_are_zero_or_underflow_stay_and_make_no_nan(norm, scaling) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    with torch.no_grad():
        net[0].weight[0] = 0  # a filter
        net[0].bias[1] = 0
        net[0].bias[2] = 1e-42  # a denormal: its square and its product with a small gradient underflow
        net[2].weight[0, 0] = 0
    x = torch.randn(10, 4, generator=torch.Generator().manual_seed(0))
    o = Objective(net, (x, torch.arange(10) % 2))
    found = sam_sharpness(o, radius=0.5, norm=norm, scaling=scaling, num_steps=3, num_restarts=3, seed=0)
    moved = o.space.unflatten(found.perturbation)
    assert bool(found.perturbation.isfinite().all())
    assert found.value > 0
    assert not moved["0.weight"][0].any()
    assert float(moved["0.bias"][1]) == 0
    assert abs(float(moved["0.bias"][2])) <= 1e-41
    # Of a filter that is not all zero every weight moves; of its own accord a zero weight does not.
    assert (float(moved["2.weight"][0, 0]) == 0) == (scaling == "element")


def test_where_all_parameters_are_zero_nothing_can_move(toys) -> None:
    o = toys.quadratic(torch.ones(3).double(), torch.eye(3).double())
    for scaling in ("element", "filter"):
        with pytest.raises(
            ValueError, match=rf"`scaling='{scaling}'` leaves nothing to move: every parameter"
        ):
            sam_sharpness(o, scaling=scaling, seed=0)


def test_a_ball_that_cannot_move_where_the_slope_is_starts_at_random(toys) -> None:
    at = torch.tensor([0.0, 1.0]).double()
    o = toys.quadratic(
        torch.tensor([1.0, -2.0]).double(), torch.diag(torch.tensor([0.0, 2.0])).double(), at=at
    )
    found = sam_sharpness(o, scaling="element", num_steps=2, seed=0)
    assert found.gradient_norm == 0
    assert found.provenance["first_start"].startswith("random")
    assert found.value == pytest.approx(0.05**2)


def test_unknown_names_are_refused(toys) -> None:
    o = Objective(toys.convnet(), toys.images())
    for measure in (sam_sharpness, sam_sharpness_spread):
        with pytest.raises(ValueError, match=r"`norm` must be one of l2, linf, got 'l1'"):
            measure(o, norm="l1", seed=0)
        with pytest.raises(ValueError, match=r"`scaling` must be one of none, element, filter, got 'layer'"):
            measure(o, scaling="layer", seed=0)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scaling", SCALINGS)
def test_m_sharpness_of_one_batch_is_its_sharpness(toys, norm, scaling) -> None:
    o = Objective(toys.convnet(), toys.images())
    found = sam_sharpness_spread(o, batch_size=18, num_batches=2, norm=norm, scaling=scaling, seed=0)
    order = torch.randperm(37, generator=generator(0, "sam_sharpness_spread"))
    for i in range(2):
        batch = o.select(order[18 * i : 18 * (i + 1)], 18)
        alone = sam_sharpness(batch, norm=norm, scaling=scaling, seed=0)
        assert float(found.samples[i]) == pytest.approx(alone.value, rel=1e-12)
    assert (found.norm, found.scaling) == (norm, scaling)


def test_batches_left_open_are_as_many_as_fit(toys) -> None:
    o = Objective(toys.convnet(), toys.images())
    assert len(sam_sharpness_spread(o, batch_size=6, num_batches=None, seed=0).samples) == 6
    assert len(sam_sharpness_spread(o, batch_size=1, num_batches=None, seed=0).samples) == 37
    with pytest.raises(ValueError, match="at most the 37 examples there are"):
        sam_sharpness_spread(o, batch_size=20, num_batches=None, seed=0)


@pytest.mark.parametrize(
    ("measure", "arguments"),
    [
        (sam_sharpness, {}),
        (sam_sharpness_spread, {"batch_size": 4}),
        (average_sharpness, {"num_samples": 3}),
        (pac_bayes_sigma, {"num_samples": 2, "target_rise": 0.01}),
    ],
)
@pytest.mark.parametrize(("scaling", "zero", "small"), [("none", 0, 0), ("element", 4, 5), ("filter", 4, 5)])
def test_results_say_how_many_parameters_do_not_move_or_underflow(
    measure, arguments, scaling, zero, small
) -> None:
    net = relu_mlp(inputs=4, num_hidden=1).float()
    with torch.no_grad():
        net[0].weight[0] = 0
        net[0].weight[1] *= 1e-40
        net[0].bias[1] *= 1e-40
    x = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    found = measure(Objective(net, (x, torch.arange(12) % 3)), scaling=scaling, **arguments, seed=0)
    assert math.isfinite(found.value)
    expected = {"zero": zero, "underflow": small, "of": 51} if zero else {}
    assert found.provenance["at_rest"] == expected
    assert ("4 of 51 parameters at nought do not move" in repr(found)) == bool(zero)
    assert ("5 of 51 parameters underflow when scaled" in repr(found)) == bool(small)


@pytest.mark.parametrize("norm", NORMS)
def test_which_scalings_are_blind_to_rescaled_relus(norm) -> None:
    """By layer all scaled balls are; by unit only the element-wise: a unit's outgoing weights are no row."""

    def values(scaling: str, factors: Tensor) -> tuple[float, float]:
        a = relu_mlp(inputs=4, num_hidden=1)
        b = rescale_relu(a, first=factors)
        x = torch.randn(12, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        y = torch.arange(12) % 3
        assert torch.allclose(a(x), b(x), rtol=1e-12)
        one, other = (
            sam_sharpness(
                Objective(m, (x, y)), radius=0.2, norm=norm, scaling=scaling, num_steps=3, seed=0
            ).value
            for m in (a, b)
        )
        return one, other

    layer = torch.full((6,), 7.0, dtype=torch.float64)
    unit = torch.tensor([0.1, 0.5, 1, 2, 5, 10], dtype=torch.float64)
    for scaling, factors in (("element", layer), ("element", unit), ("filter", layer)):
        one, other = values(scaling, factors)
        assert one == pytest.approx(other, rel=1e-9)
    for scaling, factors in (("none", layer), ("none", unit), ("filter", unit)):
        one, other = values(scaling, factors)
        assert abs(one - other) > 0.02 * one

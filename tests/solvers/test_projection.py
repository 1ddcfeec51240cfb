"""Trajectories projected into a plane: closed forms, and the mistakes that others make."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from thalweg.objective.objective import Objective
from thalweg.solvers.directions import find_directions
from thalweg.solvers.projection import project

DTYPE = torch.float64


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)


def test_coordinates_are_in_steps_of_the_directions_however_long_these_are() -> None:
    """Divided by the norm where its square belongs, as in Li et al.'s code, 6 along (2, 0, 0) is 6, not 3."""
    V = torch.tensor([[2.0, 0.0], [0.0, 0.5], [0.0, 0.0]], dtype=DTYPE)
    centre = torch.tensor([1.0, 1.0, 1.0], dtype=DTYPE)
    found = project([centre + torch.tensor([6.0, 2.0, 7.0])], centre, V)
    assert found.coordinates.tolist() == [[pytest.approx(3), pytest.approx(4)]]
    assert found.residual_norms.tolist() == [pytest.approx(7)]
    assert found.distances.tolist() == [pytest.approx(math.sqrt(36 + 4 + 49))]
    assert found.explained_squares == pytest.approx(40 / 89)


def test_skew_directions_are_taken_together() -> None:
    """One after the other, their common part would count twice."""
    V = torch.tensor([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]], dtype=DTYPE)
    points = [3 * V[:, 0] - 2 * V[:, 1] + torch.tensor([0.0, 0.0, height]) for height in (0.0, 5.0)]
    found = project(points, torch.zeros(3, dtype=DTYPE), V)
    torch.testing.assert_close(found.coordinates, torch.tensor([[3.0, -2.0]] * 2, dtype=DTYPE))
    assert found.residual_norms.tolist() == [pytest.approx(0, abs=1e-14), pytest.approx(5)]


@pytest.mark.parametrize("D", [1, 2, 3])
def test_it_is_least_squares(D: int) -> None:
    P, T = 40, 7
    V, points, centre = normals(P, D, seed=1), normals(T, P, seed=2), normals(P, seed=3)
    V[:, -1] *= 1e4
    found = project(points, centre, V)
    deltas = (points - centre).T
    expected = torch.linalg.lstsq(V, deltas).solution
    torch.testing.assert_close(found.coordinates, expected.T, rtol=1e-10, atol=1e-16)
    rest = deltas - V @ expected
    torch.testing.assert_close(found.residual_norms, rest.norm(dim=0), rtol=1e-12, atol=0)
    torch.testing.assert_close(found.distances, deltas.norm(dim=0), rtol=1e-14, atol=0)
    scatter = [(x - x.mean(1, keepdim=True)).square().sum() for x in (rest, deltas)]
    assert found.explained_variance == pytest.approx(float(1 - scatter[0] / scatter[1]), rel=1e-10)
    assert found.explained_squares == pytest.approx(float(1 - rest.square().sum() / deltas.square().sum()))
    # Pythagoras.
    inside = (V @ found.coordinates.T).norm(dim=0)
    torch.testing.assert_close(inside.square() + found.residual_norms.square(), found.distances.square())


def test_a_path_beside_the_plane_has_all_its_scatter_in_it_and_still_is_not_on_it() -> None:
    V = torch.eye(3, dtype=DTYPE)[:, :2]
    points = [torch.tensor([float(t), float(t * t), 10.0], dtype=DTYPE) for t in range(4)]
    found = project(points, torch.zeros(3, dtype=DTYPE), V)
    assert found.explained_variance == pytest.approx(1)
    assert found.explained_squares < 0.5
    assert found.residual_norms.tolist() == [pytest.approx(10)] * 4


def test_a_small_residual_beside_large_coordinates_keeps_its_digits() -> None:
    """As the root of a difference of squares it would be nought, or not a number."""
    V = torch.linalg.qr(normals(30, 3, seed=4)).Q
    point = 1e6 * V[:, 0] + 1e-5 * V[:, 2]
    found = project([point], torch.zeros(30, dtype=DTYPE), V[:, :2])
    assert float(found.residual_norms[0]) == pytest.approx(1e-5, rel=1e-4)


def test_principal_components_explain_most(toys) -> None:
    """No two other directions through the centre leave a smaller sum of squared residuals."""
    o = Objective(toys.convnet(), toys.images(), batch_size=8)
    steps = [o.params + x for x in normals(6, o.space.dim) * torch.tensor([[5, 4, 3, 2, 1, 0]]).T]
    best = find_directions(o, [steps, steps], seed=0)
    found = project(steps, o.params, best.vectors)
    shares = [d["share"] for d in best.description["directions"]]
    assert found.explained_squares == pytest.approx(sum(shares), rel=1e-10)
    assert found.coordinates[-1].tolist() == [0, 0]
    assert found.distances[-1] == 0
    for seed in range(5):
        nudged = best.vectors + 0.05 * normals(o.space.dim, 2, seed=seed) / o.space.dim**0.5
        assert project(steps, o.params, nudged).explained_squares < found.explained_squares
    random = find_directions(o, "random", num_directions=2, seed=0)
    # Random directions see next to nothing of a path: about D / P of it.
    assert project(steps, o.params, random.vectors).explained_squares < 0.1


def test_points_are_taken_one_at_a_time_in_their_own_dtype_and_stay(unchanged) -> None:
    alive = 0

    def lazily():
        nonlocal alive
        for k in range(4):
            alive += 1
            yield normals(5, seed=k).float()

    V, centre = normals(5, 2, seed=9).float(), torch.zeros(5)
    points = [normals(5, seed=k).float() for k in range(4)]
    with unchanged(V, centre, points):
        eager = project(points, centre, V)
    lazy = project(lazily(), centre, V)
    assert alive == 4
    assert torch.equal(eager.coordinates, lazy.coordinates)
    assert eager.coordinates.dtype == eager.residual_norms.dtype == DTYPE


def test_nothing_explained_where_nothing_varies() -> None:
    V, centre = torch.eye(3, dtype=DTYPE)[:, :2], torch.zeros(3, dtype=DTYPE)
    still = project([centre, centre], centre, V)
    assert math.isnan(still.explained_variance)
    assert math.isnan(still.explained_squares)
    single = project([centre + 1], centre, V)
    assert math.isnan(single.explained_variance)
    assert single.explained_squares == pytest.approx(2 / 3)


def test_bad_input_is_refused() -> None:
    V, centre = normals(5, 2), torch.zeros(5, dtype=DTYPE)
    with pytest.raises(ValueError, match="`points` must hold at least one point"):
        project([], centre, V)
    with pytest.raises(ValueError, match=r"`points\[1\]` must have shape \(5,\).* got \(4,\)"):
        project([centre, centre[1:]], centre, V)
    with pytest.raises(ValueError, match=r"`points\[0\]` must be finite"):
        project([centre * math.nan], centre, V)
    with pytest.raises(TypeError, match=r"`points\[0\]` must be a tensor"):
        project([[0.0] * 5], centre, V)
    with pytest.raises(ValueError, match="`centre` must have shape"):
        project([centre], centre[1:], V)
    with pytest.raises(ValueError, match=r"`vectors` must have shape \(P, D\)"):
        project([centre], centre, V[:, 0])
    for dependent in (V[:, [0, 0]], torch.zeros(5, 2, dtype=DTYPE), normals(2, 3)):
        with pytest.raises(ValueError, match="`vectors` must be independent"):
            project([centre[: len(dependent)]], centre[: len(dependent)], dependent)

"""Orthogonal, and every row as long as before."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor

from thalweg.core.param_space import ParamSpace
from thalweg.solvers.normalisation import rows_of
from thalweg.solvers.orthogonal import is_independent, mutually_orthogonal, orthogonalized

SPACE = ParamSpace({"w": torch.Size([3, 4]), "v": torch.Size([2, 5]), "b": torch.Size([3])})
EVERYWHERE = torch.ones(SPACE.dim, dtype=torch.bool)


def normals(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def basis(m: int, P: int = SPACE.dim) -> Tensor:
    return torch.linalg.qr(normals(P, m, seed=77)).Q


@pytest.mark.parametrize("normalisation", ["filter", "layer", "global"])
@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize("tilt", [0.0, 1.0, 3.0])
def test_orthogonal_to_rounding_and_each_row_keeps_its_norm(normalisation: str, m: int, tilt: float) -> None:
    """Whether nearly orthogonal at first, as random directions are, or at a cosine up to 0.95."""
    Q, rows = basis(m), partial(rows_of, space=SPACE, normalisation=normalisation)
    for seed in range(10):
        d = normals(SPACE.dim, seed=seed) / SPACE.dim**0.5 + tilt * Q[:, 0]
        found = orthogonalized(d, Q, rows)
        assert float((Q.T @ found).abs().max() / d.norm()) <= 1e-14
        norms = [torch.cat([r.norm(dim=1) for r in rows(x)]) for x in (found, d)]
        torch.testing.assert_close(*norms, rtol=1e-10, atol=0)


def test_with_one_row_it_is_gram_schmidt_with_the_length_kept() -> None:
    Q, d = basis(2), normals(SPACE.dim)
    rest = d - Q @ (Q.T @ d)
    expected = rest / rest.norm() * d.norm()
    found = orthogonalized(d, Q, lambda v: [v.view(1, -1)])
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-14)


def test_what_is_orthogonal_already_stays() -> None:
    """At rows that are each orthogonal: any other turn would be one for nothing."""
    d, q = torch.zeros(2, SPACE.dim, dtype=torch.float64)
    for start, stop in ((0, 4), (4, 8), (12, 17)):
        part = torch.linalg.qr(normals(stop - start, 2, seed=start)).Q
        q[start:stop], d[start:stop] = part[:, 0], part[:, 1]
    found = orthogonalized(d, (q / q.norm())[:, None], partial(rows_of, space=SPACE, normalisation="filter"))
    torch.testing.assert_close(found, d, rtol=1e-12, atol=1e-14)


def test_rows_of_one_entry_that_allow_no_exact_norms_are_orthogonal_none_the_less() -> None:
    """Rows (1), (1), (1) against (3, 1, 1): no choice of signs is orthogonal."""
    q = torch.tensor([3.0, 1.0, 1.0], dtype=torch.float64)
    d = torch.ones(3, dtype=torch.float64)
    found = orthogonalized(d, (q / q.norm())[:, None], lambda v: [v.view(3, 1)])
    assert abs(float(found @ q)) <= 1e-14
    assert float(found.norm()) == pytest.approx(float(d.norm()))


def test_rows_of_one_entry_among_others_keep_the_norm_where_some_turn_allows_it() -> None:
    space = ParamSpace({"a": torch.Size([2, 1]), "w": torch.Size([3, 4])})
    rows = partial(rows_of, space=space, normalisation="filter")
    for seed in range(10):
        q, d = normals(space.dim, seed=100 + seed), normals(space.dim, seed=seed)
        found = orthogonalized(d, (q / q.norm())[:, None], rows)
        assert abs(float(found @ q)) <= 1e-13
        norms = [torch.cat([r.norm(dim=1) for r in rows(x)]) for x in (found, d)]
        torch.testing.assert_close(*norms, rtol=1e-8, atol=0)


def test_what_may_not_move_stays_nought_whatever_it_is_turned_away_from() -> None:
    free = EVERYWHERE.clone()
    free[-3:] = False
    first, second = normals(SPACE.dim, seed=1), torch.where(free, normals(SPACE.dim, seed=2), 0)
    whole = lambda v: [v.view(1, -1)]  # noqa: E731 - one row
    made = mutually_orthogonal(
        [first, second], [whole] * 2, [EVERYWHERE, free], [False] * 2, ["a", "b"], torch.float64
    )
    assert torch.equal(made[0], first)
    assert float(made[1][-3:].abs().max()) == 0
    assert abs(float(made[1] @ first)) <= 1e-14 * float(first.norm() * second.norm())


def test_others_are_turned_away_from_what_is_kept_even_before_it() -> None:
    columns = list(normals(3, SPACE.dim))
    whole = lambda v: [v.view(1, -1)]  # noqa: E731 - one row
    made = mutually_orthogonal(
        columns, [whole] * 3, [EVERYWHERE] * 3, [False, True, True], ["a", "b", "c"], torch.float64
    )
    assert torch.equal(made[1], columns[1])
    assert torch.equal(made[2], columns[2])
    for other in made[1:]:
        assert abs(float(made[0] @ other)) <= 1e-14 * float(made[0].norm() * other.norm())


def test_independence_is_by_the_precision() -> None:
    Q = basis(2)
    for precision, least in ((torch.float64, 1.5e-8), (torch.float32, 3.5e-4)):
        outside = basis(3)[:, 2]  # the same two, and one more
        assert is_independent(Q[:, 0] + 2 * least * outside, Q, precision)
        assert not is_independent(Q[:, 0] + 0.5 * least * outside, Q, precision)
    assert not is_independent(torch.zeros(SPACE.dim, dtype=torch.float64), Q[:, :0], torch.float64)

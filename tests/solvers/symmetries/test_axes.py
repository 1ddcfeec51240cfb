"""Axes factor, unify and branch together with their class, and actions land where they belong."""

import pytest
import torch

from thalweg.solvers.symmetries.axes import (
    Axis,
    NotAProduct,
    PerIndex,
    act,
    matched,
    regroup,
    split,
    unify,
    variant,
)


def test_a_split_holds_for_the_whole_class():
    a, b, c = Axis(12), Axis(12), Axis(12)
    unify(a, b)
    heads, features = split(a, (3, 4))
    assert [part.size for part in b.parts] == [3, 4]
    assert b.parts[0].members is heads.members
    unify(b, c)
    assert c.parts[1].members is features.members


def test_a_factor_of_a_factor_is_one_of_the_whole():
    whole = Axis(24)
    _, rest = split(whole, (3, 8))
    split(rest, (2, 4))
    assert [part.size for part in whole.parts] == [3, 2, 4]
    assert all(part.family == whole.parts for part in whole.parts)


def test_two_ways_to_factor_meet_in_a_common_one_or_not_at_all():
    a, b = Axis(12), Axis(12)
    split(a, (2, 6))
    split(b, (4, 3))
    unify(a, b)
    assert [axis.size for axis in a.flat()] == [axis.size for axis in b.flat()] == [2, 2, 3]
    odd, even = Axis(12), Axis(12)
    split(odd, (3, 4))
    split(even, (2, 6))
    with pytest.raises(NotAProduct):
        unify(odd, even)


def test_view_deals_out_the_axes_in_order():
    batch, width = Axis(5), Axis(12)
    dims = regroup([(batch,), (width,)], (5, 3, 1, 4))
    assert dims == ((batch,), (width.parts[0],), (), (width.parts[1],))
    assert regroup(dims, (15, 4)) == ((batch, width.parts[0]), (width.parts[1],))
    with pytest.raises(NotAProduct):
        regroup([(Axis(3),), (Axis(4),)], (2, 6))


def test_copies_beside_a_selector_go_separate_ways():
    rows, bias = Axis(6), Axis(6)
    unify(rows, bias)
    selector, units = split(rows, (3, 2))
    first, second = (variant(units, selector, i) for i in (0, 1))
    assert first.members is not second.members
    assert variant(bias.parts[1], bias.parts[0], 1).members is second.members
    assert set(rows.ends()) == {selector, *units.variants}
    # Scaling the first copy alone moves the first rows alone.
    x = torch.arange(12.0).reshape(6, 2)
    moved = act(x, rows, {first: [lambda t: 10 * t], second: [lambda t: t.flip(0)]})
    torch.testing.assert_close(moved, torch.cat([10 * x[:2], x[2:4].flip(0), x[4:]]))
    assert (first, bias.parts[1].variants[0]) in list(matched(rows, bias))


def test_an_axis_without_the_selector_somewhere_has_no_copies():
    rows, shared = Axis(6), Axis(2)
    selector, units = split(rows, (3, 2))
    unify(units, shared)
    assert variant(units, selector, 0) is units


def test_each_head_has_its_own_action():
    rows = Axis(6)
    _, units = split(rows, (3, 2))
    x = torch.arange(6.0)[:, None]
    per_head = PerIndex(tuple(lambda t, c=c: c * t for c in (1.0, 10.0, 100.0)))
    torch.testing.assert_close(
        act(x, rows, {units: [per_head]})[:, 0], torch.tensor([0.0, 1, 20, 30, 400, 500])
    )

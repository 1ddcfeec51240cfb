"""Labels that are wrong on purpose."""

from __future__ import annotations

import pytest
import torch

from thalweg.data.label_noise import with_label_noise


def test_the_share_changes_its_class_and_nothing_else_does() -> None:
    x, y = torch.randn(1000, 2), torch.arange(1000) % 10
    before = y.clone()
    inputs, noisy = with_label_noise((x, y), 0.3, seed=0)
    assert inputs is x
    assert torch.equal(y, before)
    assert int((noisy != y).sum()) == 300
    assert noisy.dtype == y.dtype
    assert set(noisy.tolist()) == set(range(10))
    # Every other class comes equally often.
    shifts = ((noisy - y) % 10)[noisy != y]
    counts = torch.bincount(shifts, minlength=10)[1:]
    assert float(((counts - 300 / 9) ** 2 / (300 / 9)).sum()) < 26  # chi squared, 8 degrees: 0.1 %


def test_a_larger_share_keeps_what_a_smaller_one_changed() -> None:
    data = torch.zeros(500, 1), torch.arange(500) % 3
    few, many = (with_label_noise(data, share, seed=1)[1] for share in (0.1, 0.4))
    changed = few != data[1]
    assert torch.equal(few[changed], many[changed])
    assert with_label_noise(data, 0, seed=1) is data
    assert not torch.equal(with_label_noise(data, 0.1, seed=2)[1], few)


def test_what_has_no_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="whole numbers"):
        with_label_noise((torch.zeros(4, 1), torch.zeros(4)), 0.5, seed=0)
    with pytest.raises(ValueError, match=r"`share` must lie in \[0, 1\), got 1"):
        with_label_noise((torch.zeros(4, 1), torch.arange(4)), 1, seed=0)
    with pytest.raises(ValueError, match="at least two classes"):
        with_label_noise((torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64)), 0.5, seed=0)

"""What begins between two reads of an accelerator's kernels is copied; a CPU reads from everywhere."""

import pytest
import torch
from tests.devices import DEVICES

from thalweg.core.alignment import ALIGNMENT, aligned


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("offset", range(6))
def test_numbers_stay_and_begin_where_kernels_read(device, offset):
    whole = torch.arange(40, dtype=torch.float32, device=device)
    view = whole[offset : offset + 30].view(5, 6)
    found = aligned(view)
    assert torch.equal(found, view)
    assert (found is view) == (device == "cpu" or offset * 4 % ALIGNMENT == 0)
    assert device == "cpu" or found.data_ptr() % ALIGNMENT == 0

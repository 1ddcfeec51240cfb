"""Attention's fast path computes another function; an objective keeps to the one it differentiates."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from thalweg.objective.objective import Objective


class Masked(nn.Module):
    """A stock encoder layer that leaves out padded positions, and a mean over all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(self.layer, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor, padded: Tensor) -> Tensor:
        return self.head(self.encoder(x, src_key_padding_mask=padded).mean(1))


@pytest.mark.filterwarnings("ignore:.*nested tensor.*")
def test_values_and_derivatives_are_of_one_function() -> None:
    torch.manual_seed(0)
    model = Masked().eval()
    x, y = torch.randn(12, 5, 8), torch.randint(3, (12,))
    padded = torch.zeros(12, 5, dtype=torch.bool)
    padded[:6, 3:] = True
    with_gradients = float(nn.functional.cross_entropy(model(x, padded), y).detach())
    with torch.no_grad():
        fast = float(nn.functional.cross_entropy(model(x, padded), y))
    assert abs(fast - with_gradients) > 1e-3, "torch's fast path no longer differs: this test shows nothing"
    enabled = torch.backends.mha.get_fastpath_enabled()
    value = Objective(model, (x, padded, y)).value()
    assert value == pytest.approx(with_gradients, rel=1e-5)
    assert torch.backends.mha.get_fastpath_enabled() == enabled

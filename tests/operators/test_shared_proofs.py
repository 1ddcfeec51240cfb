"""`shared_proofs`: taken over where the same is proved, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests import networks

import thalweg as tw
from thalweg.operators import objective_operator
from thalweg.operators.ggn import GGN
from thalweg.operators.hessian import Hessian
from thalweg.operators.objective_operator import ObjectiveOperator
from thalweg.operators.shared_proofs import current_proofs, shared_proofs


def test_a_proof_is_taken_over_by_its_own_kind_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    proved: list[Any] = []
    plain = objective_operator.prove

    def counting(*arguments: Any) -> Any:
        proved.append(arguments)
        return plain(*arguments)

    monkeypatch.setattr(objective_operator, "prove", counting)

    def newly_proved(operator: ObjectiveOperator) -> int:
        before = len(proved)
        _ = operator.check
        return len(proved) - before

    o = tw.Objective(networks.cnn(), networks.images(), batch_size=8)
    moved = o.at(o.params + 0.01)
    with shared_proofs({}):
        assert newly_proved(Hessian(o)) == 1
        assert newly_proved(Hessian(o)) == 0
        # Other weights, other examples, an L2 term: the same derivatives.
        assert newly_proved(Hessian(moved)) == 0
        assert newly_proved(Hessian(o.subset(5))) == 0
        # Another matrix, composition, precision, choice of parameters, batch-norm mode, loss, network.
        assert newly_proved(GGN(o)) == 1
        assert newly_proved(Hessian(o, "double_backward")) == 1
        assert newly_proved(Hessian(o.to_dtype(torch.float32))) == 1
        assert newly_proved(Hessian(o.restrict("1.*"))) == 1
        of_batches = tw.Objective(networks.cnn(), networks.images(), batch_norm="batch", batch_size=8)
        assert newly_proved(Hessian(of_batches)) == 1
        other = tw.Objective(networks.mlp(), networks.vectors())
        assert newly_proved(Hessian(other)) == 1
    assert current_proofs() is None
    assert newly_proved(Hessian(o)) == 1


def test_products_are_the_same_either_way() -> None:
    o = tw.Objective(networks.cnn(), networks.images())
    moved = o.at(o.params * 1.1)
    v = torch.ones(o.space.dim, dtype=o.dtype)
    with shared_proofs({}):
        _ = Hessian(o).check
        shared = Hessian(moved) @ v
    assert torch.equal(shared, Hessian(moved) @ v)

"""What a process's products say of each summand, against dense matrices."""

from __future__ import annotations

import pytest
import torch
from tests.oracles import planted_matrix

from thalweg.linalg.fold_forms import FoldForms
from thalweg.linalg.linear_operator import DenseOperator
from thalweg.linalg.quadrature import ProbeProcess

P = 50


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("num_steps", [1, 5, 30])
def test_forms_of_each_summand(num_steps: int, dtype: torch.dtype) -> None:
    matrices = [planted_matrix(torch.linspace(-1, 5 + f, P), seed=f, dtype=dtype)[0] for f in range(3)]
    operator = FoldForms([DenseOperator(A) for A in matrices], [0.5, 0.3, 0.2])
    process = ProbeProcess(operator, 3, num_steps, torch.Generator().manual_seed(0))
    operator.basis = process.krylov.basis
    process.run()
    n = process.krylov.num_multiplied
    assert n == min(P, 3 * num_steps)
    Q = operator.basis.rows(0, n).double()
    rng = torch.Generator().manual_seed(1)
    X, Y = (torch.randn(n, 4, generator=rng, dtype=torch.float64) for _ in range(2))
    forms = operator.forms(X, Y)
    exact = torch.stack([((Q.T @ X) * (A.double() @ Q.T @ Y)).sum(0) for A in matrices])
    torch.testing.assert_close(forms, exact, rtol=0, atol=1e-4 if dtype == torch.float32 else 1e-11)
    # Their mean is what the process itself holds.
    H = process.krylov.H[:n]
    torch.testing.assert_close(operator.weights @ forms, (X * (H @ Y)).sum(0), rtol=0, atol=1e-3)

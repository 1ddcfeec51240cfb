"""Whatever the ambient switches say, float32 is float32, and the switches come back as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch

from thalweg.core.precision import full_precision
from thalweg.objective.isolation import isolated

b = torch.backends
NEWER = hasattr(b, "fp32_precision")


def _set(owner: Any, name: str, value: Any) -> Callable[[], None]:
    return lambda: setattr(owner, name, value)


WISHES: dict[str, Callable[[], None]] = {
    "what torch starts with": lambda: None,
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "cuDNN": _set(b.cudnn, "allow_tf32", True),
}
if NEWER:
    WISHES |= {
        "newer switch of products": _set(b.cuda.matmul, "fp32_precision", "tf32"),
        "newer switch of convolutions": _set(b.cudnn.conv, "fp32_precision", "tf32"),
        "on a CPU": _set(b.mkldnn.conv, "fp32_precision", "bf16"),
        "newer switch of all": _set(b, "fp32_precision", "tf32"),
    }


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    older, tf32 = torch.get_float32_matmul_precision(), b.cudnn.allow_tf32
    yield
    if NEWER:
        b.fp32_precision = b.cuda.matmul.fp32_precision = "none"
        for operation in (b.mkldnn.matmul, b.mkldnn.conv, b.mkldnn.rnn):
            operation.fp32_precision = "none"
    torch.set_float32_matmul_precision(older)
    b.cudnn.allow_tf32 = tf32


@pytest.mark.parametrize("context", [full_precision, lambda: isolated(torch.device("cpu"))])
@pytest.mark.parametrize("wish", WISHES)
def test_all_switches_are_exact_within_and_put_back(wish, context, unchanged):
    WISHES[wish]()
    with unchanged(), context(), ExitStack() as stack:
        stack.enter_context(full_precision())  # again, as solvers do around objectives
        assert torch.get_float32_matmul_precision() == "highest"
        assert not b.cudnn.allow_tf32
        if NEWER:
            operations = (b.cuda.matmul, b.cudnn.conv, b.cudnn.rnn, b.mkldnn.conv, b.mkldnn.matmul)
            assert {o.fp32_precision for o in operations} <= {"ieee", "none"}


@pytest.mark.skipif(not NEWER, reason="torch has no such switch yet")
def test_what_is_inherited_stays_so():
    b.fp32_precision = "tf32"
    assert b.mkldnn.conv.fp32_precision == "tf32"
    with full_precision():
        assert b.mkldnn.conv.fp32_precision == "ieee"
    b.fp32_precision = "ieee"
    assert b.mkldnn.conv.fp32_precision == "ieee"


def test_they_come_back_after_an_error(unchanged):
    def fail() -> None:
        with full_precision():
            raise KeyboardInterrupt("stop")

    with unchanged(), pytest.raises(KeyboardInterrupt, match="stop"):
        fail()


def test_cudnn_is_deterministic_within():
    before = b.cudnn.benchmark
    b.cudnn.benchmark = True
    try:
        with isolated(torch.device("cpu")):
            assert (b.cudnn.benchmark, b.cudnn.deterministic) == (False, True)
        assert (b.cudnn.benchmark, b.cudnn.deterministic) == (True, False)
    finally:
        b.cudnn.benchmark = before

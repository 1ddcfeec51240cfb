"""Tiny problems: threads cost more than they bring."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from tests.measures.conftest import toys  # noqa: F401 - the fixture


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

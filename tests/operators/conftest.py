"""Tiny problems: threads cost more than they bring."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from thalweg.operators import objective_operator
from thalweg.operators.shared_proofs import Proofs, shared_proofs


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True, scope="module")
def _own_rules_for_small_layers() -> Iterator[None]:
    """Tiny layers are left to torch, and these are the tests of our rules."""
    little, objective_operator.LITTLE = objective_operator.LITTLE, 0
    yield
    objective_operator.LITTLE = little


@pytest.fixture(autouse=True, scope="module")
def proofs_are_shared() -> None:
    """They are not: these are the tests of the proof, but for those that ask for `proved`."""


@pytest.fixture(scope="module")
def _proofs() -> Proofs:
    """What `proved` shares in one module."""
    return {}


@pytest.fixture
def proved(_proofs: Proofs) -> Iterator[None]:
    """For tests of products: what one kind of operator proved on a network is not proved again in the module.

    Tests of the proof itself do without, and so does whatever changes what is proved.
    """
    with shared_proofs(_proofs):
        yield

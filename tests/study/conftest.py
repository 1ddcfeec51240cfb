"""The toy study, where this process and its children can import its networks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.study.toy import write_module


@pytest.fixture
def toy_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``toy_networks`` in it, on the path."""
    write_module(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "toy_networks", raising=False)
    return tmp_path

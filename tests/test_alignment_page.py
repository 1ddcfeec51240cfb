"""The example and the names of `docs/alignment.md`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from tests.docs_page import DOCS, run_example

from thalweg.measures.connectivity.permutation import Method

PAGE = DOCS / "alignment.md"


def test_the_example_runs(tmp_path: Path) -> None:
    first, second, third = run_example(PAGE, tmp_path).splitlines()
    assert first.startswith("PermutationAlignment(distance after alignment ")
    assert set(re.findall(r"'(\d)'", second)) == {"0", "5"}
    assert third.startswith("barrier ")
    assert (tmp_path / "alignment.png").read_bytes().startswith(b"\x89PNG")


def test_every_method_is_explained() -> None:
    assert re.findall(r'^\| `"(\w+)"` \|', PAGE.read_text(), re.M) == list(get_args(Method))

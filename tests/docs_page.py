"""The example of a page under `docs/`, run as a reader would."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
import torch

DOCS = Path(__file__).parents[1] / "docs"


# Every line of an example, with less to do; and the example as it stands.
Smaller = Mapping[str, str]
AS_IT_STANDS = pytest.param({}, marks=pytest.mark.slow, id="as it stands")


def run_program(program: str, folder: Path, smaller: Smaller = MappingProxyType({})) -> str:
    """What a program prints, run in `folder` with names of its own alone, and numbers replaced by smaller.

    In this process: an interpreter of its own would import torch and all else for seconds. Warnings are told
    as they would be there, and threads are left as they were.
    """
    for stated, less in smaller.items():
        assert stated in program, f"no longer in the example: {stated}"
        program = program.replace(stated, less)
    printed, threads = io.StringIO(), torch.get_num_threads()
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(printed), warnings.catch_warnings():
            warnings.simplefilter("default")
            exec(compile(program, "<example>", "exec"), {"__name__": "__main__"})
    finally:
        torch.set_num_threads(threads)
    return printed.getvalue()


def run_example(page: Path, folder: Path, smaller: Smaller = MappingProxyType({})) -> str:
    """What the page's one Python example prints."""
    (program,) = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    return run_program(program, folder, smaller)

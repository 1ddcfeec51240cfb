"""Tasks of a benchmark, each in a process of its own, whose results are kept: what is there is not run again.

A process of its own gives each contender a fresh allocator and a model that no other has touched.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Result = dict[str, Any]


class Bench:
    """Runs a program's tasks and keeps what they print.

    Parameters
    ----------
    program
        The benchmark's own file, which answers to ``--task NAME ARGUMENTS``.
    options
        With `out`, the folder of results, and `data_root`.
    """

    def __init__(self, program: str, options: argparse.Namespace) -> None:
        self.program, self.options = program, options
        self.out: Path = options.out
        self.out.mkdir(parents=True, exist_ok=True)
        self.common = {"data_root": options.data_root, "checkpoint": str(self.out / "network.safetensors")}

    def task(self, name: str, label: str, **arguments: Any) -> Result:
        """The result of one task, from its file if it is there; `label` names the file."""
        path = self.out / f"{label}.json"
        if not path.exists():
            print(f"... {label}", file=sys.stderr, flush=True)
            call = [sys.executable, self.program, "--task", name, json.dumps(self.common | arguments)]
            done = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{label} ended with status {done.returncode}; what it said stands above.")
            path.write_text(done.stdout.splitlines()[-1])
        return json.loads(path.read_text())


def parser_of(description: str | None, sections: tuple[str, ...], out: str) -> argparse.ArgumentParser:
    """What every benchmark of several sections can be told."""

    def section(name: str) -> str:
        # The parser's own `choices` would refuse an empty list.
        if name not in sections:
            raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(sections)}")
        return name

    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("sections", nargs="*", type=section, help=f"of {', '.join(sections)} (default: all)")
    parser.add_argument("--examples", type=int, default=60_000, help="of the training data (default: 60000)")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path(out))
    parser.add_argument("--data-root")
    parser.add_argument("--task", nargs=2, help=argparse.SUPPRESS)
    return parser


def run_task(options: argparse.Namespace, tasks: Mapping[str, Callable[[Result], Result]]) -> None:
    """What ``--task`` asks for, printed as JSON."""
    name, arguments = options.task
    print(json.dumps(tasks[name](json.loads(arguments))))

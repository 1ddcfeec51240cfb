"""Who may import whom: every import in the package runs strictly downwards."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "thalweg"

# From the top down. Folders in one row never import each other.
LEVELS = [
    {"cli"},
    {"report"},
    {"study"},
    {"analyses"},
    {"measures"},
    {"solvers", "training"},
    {"operators"},
    {"objective"},
    {"data", "models", "linalg", "stats"},
    {"core"},
]
HEIGHT = {folder: -i for i, row in enumerate(LEVELS) for folder in row}
MAX_LINES = 400
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "misc", "common"}
# Loaded where they are used; the parts of SciPy by their full names, which load them.
HEAVY = (
    *("matplotlib", "plotly", "ray", "gudhi", "pandas", "mlflow", "jinja2", "pooch", "typer", "rich"),
    *(f"scipy.{part}" for part in ("special", "stats", "optimize", "integrate", "interpolate", "ndimage")),
    *(f"scipy.{part}" for part in ("fft", "linalg", "sparse")),
)


def imports_of(path: Path, package: Path) -> list[tuple[int, str]]:
    """Line and full dotted name of every import of the package, wherever in the file it stands."""
    module = [package.name, *path.relative_to(package).with_suffix("").parts]
    if module[-1] == "__init__":
        module.pop()
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = module if path.name == "__init__.py" else module[:-1]
                base = ".".join([*here[: len(here) - node.level + 1], *([base] if base else [])])
            # `from thalweg.core import rng` names a module, too.
            found += [(node.lineno, f"{base}.{alias.name}") for alias in node.names]
    return [(line, name) for line, name in found if name.split(".")[0] == package.name]


def folders(parts: tuple[str, ...]) -> tuple[str, str]:
    """Folder and family of a module by its path below the package; both empty at the root."""
    return (parts[0] if len(parts) > 1 else "", parts[1] if len(parts) > 2 else "")


def violations(package: Path) -> list[str]:
    """Every import that does not run downwards, with file and line."""
    wrong = []
    for path in sorted(package.rglob("*.py")):
        own = path.relative_to(package)
        if own.parts in (("__init__.py",), ("__main__.py",)):  # the faces of the package, above all levels
            continue  # the surface of the package sees everything
        folder, family = folders(own.parts)
        if folder not in HEIGHT:
            wrong.append(f"{own}: the folder {folder!r} has no level")
            continue
        for line, name in imports_of(path, package):
            parts = name.split(".")[1:]
            target = parts[0] if parts else ""
            where = f"{own}:{line} imports {name}"
            if target not in HEIGHT:
                wrong.append(f"{where}: the package's own surface")
            elif target == folder:
                other = parts[1] if len(parts) > 1 else ""
                is_family = (package / folder / other).is_dir()
                if folder == "measures" and family and (other != family or not is_family):
                    wrong.append(f"{where}: families of measures never import each other")
            elif HEIGHT[target] >= HEIGHT[folder]:
                wrong.append(f"{where}: not downwards")
    return wrong


def test_every_import_runs_downwards():
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "line", "reason"),
    [
        ("core/a.py", "from thalweg.objective.objective import Objective", "not downwards"),
        ("core/a.py", "def f():\n    import thalweg.linalg.lanczos", "not downwards"),
        ("data/a.py", "from thalweg.models.registry import build_model", "not downwards"),
        ("data/a.py", "from thalweg.models import registry", "not downwards"),
        ("data/a.py", "from ..models import registry", "not downwards"),
        ("solvers/a.py", "from thalweg.training.trainer import train", "not downwards"),
        ("study/a.py", "from thalweg.report.plot import plot", "not downwards"),
        ("measures/b/a.py", "from thalweg.measures.c.d import e", "families"),
        ("measures/b/a.py", "from ..c import d", "families"),
        ("measures/b/a.py", "from thalweg.measures import MEASURES", "families"),
        ("objective/a.py", "import thalweg", "surface"),
        ("objective/a.py", "from thalweg import Objective", "surface"),
        ("objective/a.py", "if TYPE_CHECKING:\n    from thalweg.operators.hessian import H", "not downwards"),
        ("tools/a.py", "", "no level"),
        ("stray.py", "", "no level"),
        ("core/a.py", "from thalweg.core.rng import generator", None),
        ("core/a.py", "from .rng import generator", None),
        ("cli/a.py", "from thalweg.core.rng import generator", None),
        ("measures/b/a.py", "from thalweg.measures.b.other import e", None),
        ("measures/b/a.py", "from .other import e", None),
        ("measures/__init__.py", "from thalweg.measures.b.a import e", None),
        ("__init__.py", "from thalweg.cli.main import run", None),
        ("__main__.py", "from thalweg.cli.main import run", None),
    ],
)
def test_the_check_sees_what_it_should(tmp_path, file, line, reason):
    package = tmp_path / "thalweg"
    for folder in ("measures/b", "measures/c"):
        (package / folder).mkdir(parents=True)
    target = package / file
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(line + "\n")
    found = violations(package)
    assert len(found) == (reason is not None)
    assert reason is None or reason in found[0]


def test_statistics_know_no_network():
    wrong = [
        f"{path.name}:{node.lineno}"
        for path in (PACKAGE / "stats").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and any(a.name.split(".")[0] == "torch" for a in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "torch")
    ]
    assert wrong == []


def test_files_stay_short_and_say_what_they_are():
    paths = [path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")]
    lengths = {str(p): len((PACKAGE / p).read_text().splitlines()) for p in paths}
    assert {p: n for p, n in lengths.items() if n > MAX_LINES} == {}
    assert [str(p) for p in paths if {part.removesuffix(".py") for part in p.parts} & VAGUE_NAMES] == []


def test_every_module_says_what_it_is():
    undocumented = [
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert undocumented == []


def test_importing_the_package_loads_nothing_heavy_and_moves_nothing_global():
    code = f"""
import random, sys
import numpy, torch

def state():
    return (
        random.getstate(),
        numpy.random.get_state()[1].tobytes(),
        torch.get_rng_state().numpy().tobytes(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.get_float32_matmul_precision(),
        torch.is_grad_enabled(),
    )

before = state()
import thalweg
assert state() == before
loaded = [m for m in {HEAVY!r} if m in sys.modules]
assert not loaded, f"loaded: {{', '.join(loaded)}}"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

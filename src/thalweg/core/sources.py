"""Files of the user's own that decide what code does: what the source of one function does not show."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import inspect
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn

# Told by their versions, wherever they are installed from.
LIBRARIES = ("thalweg", "torch")
INSTALLED_FOLDERS = ("site-packages", "dist-packages")


def source_identity(*things: Any) -> str:
    """First 16 hex digits of a hash of the files that define modules, classes and functions.

    They are those of the classes within an ``nn.Module``, of their bases, and of the functions; then those
    that these files import at their top level, and so on. Files of installed packages and of the standard
    library are left out, and so is what is imported later, inside a function, or found in another way. Where
    the files lie is no part of it.
    """
    files: dict[Path, bytes] = {}
    waiting = [name for thing in things for name in _defining(thing)]
    seen = set(waiting)
    while waiting:
        name = waiting.pop()
        file = _own_file(name)
        if file is None or file in files:
            continue
        files[file] = file.read_bytes()
        for imported in _imported(name, file, files[file]):
            if imported not in seen:
                seen.add(imported)
                waiting.append(imported)
    hashes = sorted(hashlib.sha256(content).hexdigest() for content in files.values())
    return hashlib.sha256("\n".join(hashes).encode()).hexdigest()[:16]


def _defining(thing: Any) -> Iterator[str]:
    """Names of the modules that define something."""
    if isinstance(thing, nn.Module):
        for part in thing.modules():
            yield from (base.__module__ for base in type(part).__mro__)
        return
    if isinstance(thing, functools.partial):
        yield from _defining(thing.func)
        return
    thing = inspect.unwrap(thing) if callable(thing) else thing
    if inspect.isfunction(thing):
        yield thing.__module__
        return
    kind = thing if isinstance(thing, type) else type(thing)
    yield from (base.__module__ for base in kind.__mro__)


def _own_file(name: str) -> Path | None:
    """The file of a module, by its full name; None for one that is installed, or has none."""
    if name.partition(".")[0] in {*LIBRARIES, *sys.stdlib_module_names}:
        return None
    module = sys.modules.get(name)
    place = getattr(module, "__file__", None)
    if module is None:
        try:
            spec = importlib.util.find_spec(name)
        except Exception:
            # What was imported is no module, but something within one; or importing its package fails.
            return None
        place = spec.origin if spec and spec.has_location else None
    if place is None or not Path(place).is_file():
        return None
    path = Path(place).resolve()
    folders = (Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "platstdlib"))
    installed = any(part in INSTALLED_FOLDERS for part in path.parts) or any(
        path.is_relative_to(folder) for folder in folders
    )
    return None if installed else path


def _imported(name: str, file: Path, content: bytes) -> Iterator[str]:
    """What a file imports at its top level: modules, and what may be one, by their full names."""
    if file.suffix != ".py":
        return
    package = name if file.name == "__init__.py" else name.rpartition(".")[0]
    for node in _top_level(ast.parse(content)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            try:
                base = importlib.util.resolve_name("." * node.level + (node.module or ""), package or None)
            except ImportError:
                continue
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names if alias.name != "*")


def _top_level(node: ast.AST) -> Iterator[ast.stmt]:
    """Statements that importing carries out, those within ``if`` and ``try`` too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _top_level(child)

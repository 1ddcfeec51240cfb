"""Identity of code: what tells two functions or modules apart when their names and weights do not."""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
import types
from collections.abc import Sequence
from typing import Any

from torch import nn

# Where an object happens to lie in memory: no two runs share it.
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def code_identity(thing: Any) -> str:
    """First 16 hex digits of a hash of the code of a function or a module, the same in every run.

    A module is identified by its printed structure, the source of every class in it and the plain values
    among its attributes, a function by its source, its defaults and the plain values it closes over; both by
    the plain values of the globals they name. Two things with one identity may still differ in what neither
    shows, such as an object or another function they call; see `thalweg.core.sources` for these.
    """
    return hashlib.sha256("\n".join(_texts(thing)).encode()).hexdigest()[:16]


def _texts(thing: Any) -> list[str]:
    if isinstance(thing, nn.Module):
        own = {name: m for name, m in thing.named_modules() if not type(m).__module__.startswith("torch.")}
        classes = sorted({type(m) for m in own.values()}, key=_source)
        attributes = [f"{name}.{k} = {v!r}" for name, m in own.items() for k, v in _attributes(m).items()]
        return [_plain(thing), *map(_source, classes), *attributes, *_globals_of_classes(classes)]
    function = inspect.unwrap(thing) if callable(thing) else thing
    if not inspect.isfunction(function):
        # A callable object or a partial: its class's source and whatever of its state prints plainly.
        parts = [_source(type(thing)), _plain(getattr(thing, "__dict__", {}))]
        parts += _globals_of_classes([type(thing)])
        if isinstance(thing, functools.partial):
            parts += [*_texts(thing.func), _plain(thing.args), _plain(thing.keywords)]
        return parts
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    texts = [_source(function), _plain(function.__defaults__), _plain(function.__kwdefaults__)]
    texts += _globals(function)
    for value in cells:
        texts += (
            _texts(value) if inspect.isfunction(value) or isinstance(value, nn.Module) else [_plain(value)]
        )
    return texts


def _source(thing: Any) -> str:
    try:
        return f"{thing.__module__}.{thing.__qualname__}\n{inspect.getsource(thing)}"
    except (OSError, TypeError):
        # Typed at a prompt or compiled: the bytecode is what there is.
        code = getattr(thing, "__code__", None)
        detail = f"{code.co_code!r}{_plain(code.co_consts)}{code.co_names}" if code else ""
        return f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', '')}\n{detail}"


def _plain(value: Any) -> str:
    return ADDRESS.sub("", repr(value))


def _is_plain(value: Any) -> bool:
    """A number, a text, or several of them: what prints as what it is."""
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | complex | str | bytes)


def _attributes(module: nn.Module) -> dict[str, Any]:
    """Plain values that somebody set; whether it trains is no part of what it is."""
    return {k: v for k, v in sorted(vars(module).items()) if k[0] != "_" and k != "training" and _is_plain(v)}


def _globals(function: types.FunctionType) -> list[str]:
    """The plain globals that the function, or one defined in it, names."""
    names, codes = set(), [function.__code__]
    for code in codes:
        names |= set(code.co_names)
        codes += [c for c in code.co_consts if isinstance(c, types.CodeType)]
    known = function.__globals__
    return [f"{name} = {known[name]!r}" for name in sorted(names) if name in known and _is_plain(known[name])]


def _globals_of_classes(classes: Sequence[type]) -> list[str]:
    """Those of the methods; what a constructor made of them shows."""
    methods = (f for c in classes for name, f in sorted(vars(c).items()) if name != "__init__")
    return [text for f in methods if inspect.isfunction(f) for text in _globals(f)]

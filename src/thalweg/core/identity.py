"""Identity of code: what tells two functions or modules apart when their names and weights do not."""

from __future__ import annotations

import functools
import hashlib
import inspect
import re
from typing import Any

from torch import nn

# Where an object happens to lie in memory: no two runs share it.
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")


def code_identity(thing: Any) -> str:
    """First 16 hex digits of a hash of the code of a function or a module, the same in every run.

    A module is identified by its printed structure and the source of every class in it, a function by its
    source, its defaults and the plain values it closes over. Two things with one identity may still differ
    in what neither shows, such as an object they call.
    """
    return hashlib.sha256("\n".join(_texts(thing)).encode()).hexdigest()[:16]


def _texts(thing: Any) -> list[str]:
    if isinstance(thing, nn.Module):
        classes = {type(m) for m in thing.modules()}
        own = sorted(_source(c) for c in classes if not c.__module__.startswith("torch."))
        return [_plain(thing), *own]
    function = inspect.unwrap(thing) if callable(thing) else thing
    if not inspect.isfunction(function):
        # A callable object or a partial: its class's source and whatever of its state prints plainly.
        parts = [_source(type(thing)), _plain(getattr(thing, "__dict__", {}))]
        if isinstance(thing, functools.partial):
            parts += [*_texts(thing.func), _plain(thing.args), _plain(thing.keywords)]
        return parts
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    texts = [_source(function), _plain(function.__defaults__), _plain(function.__kwdefaults__)]
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

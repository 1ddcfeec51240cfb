"""Callables that a user names as ``module:callable``."""

from __future__ import annotations

import os
import pkgutil
import sys
from collections.abc import Callable, Sequence
from typing import Any


def import_callable(name: str, argument: str, known: Sequence[str] = ()) -> Callable[..., Any]:
    """Import what ``"module:callable"`` names; the current folder is importable, as under ``python -m``.

    Parameters
    ----------
    name
        ``"module:callable"``; the callable may be an attribute of an attribute.
    argument
        Name of the argument it came from, for the message.
    known
        Plain names the caller would have taken as well, for the message.

    Raises
    ------
    ValueError
        If the text has another form, cannot be imported, or names nothing that can be called.
    """
    wanted = " or ".join([*known, "module:callable"])
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise ValueError(f"`{argument}` must be {wanted}, got {name!r}.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = pkgutil.resolve_name(name)
    except Exception as error:  # a user's module may fail in any way while it is imported
        raise ValueError(f"`{argument}` must be {wanted}; {name!r} cannot be imported: {error}.") from error
    if not callable(found):
        raise ValueError(
            f"`{argument}` must name something to call, got {type(found).__name__} for {name!r}."
        )
    return found

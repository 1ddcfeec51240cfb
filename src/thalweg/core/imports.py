"""What is imported late: callables named as ``module:callable``, what they raise, and optional packages."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any


def import_callable(name: str, argument: str, known: Sequence[str] = ()) -> Callable[..., Any]:
    """Import what ``"module:callable"`` names, from wherever Python finds modules.

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
    try:
        found: Any = pkgutil.resolve_name(name)
    # A user's module may fail in any way while it is imported; a script without a guard reads our arguments.
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"`{argument}` must be {wanted}; {name!r} cannot be imported: {in_words(error)}."
        ) from error
    if not callable(found):
        raise ValueError(
            f"`{argument}` must name something to call, got {type(found).__name__} for {name!r}."
        )
    return found


@contextmanager
def naming(
    argument: str, name: str, passing: type[Exception] | tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Turn what the user's callable `name`, given as `argument`, raises inside into an error that names it.

    Parameters
    ----------
    argument, name
        For the message.
    passing
        Exceptions that are let through as they are.

    Raises
    ------
    ValueError
        With the type and the text of the exception, which is its cause.
    """
    try:
        yield
    except passing:
        raise
    except (Exception, SystemExit) as error:
        raise ValueError(f"`{argument}` {name} raised {in_words(error)}.") from error


class MissingExtraError(ImportError):
    """An optional package is not there; the message names the extra that brings it."""


def import_extra(package: str, extra: str) -> ModuleType:
    """Import an optional package where it is used.

    Raises
    ------
    MissingExtraError
        If it is not there; the message names the `extra` that brings it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingExtraError(
            f"this needs the package {package}, which cannot be imported ({in_words(error)}); install it: "
            f"pip install 'thalweg[{extra}]'."
        ) from error


def in_words(error: BaseException) -> str:
    """Type and text of an exception, in one line."""
    text = " ".join(str(error).split()).removesuffix(".")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__

"""Things that users may add to by name."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """Names without a colon, each given once; ``module:callable`` is how users name what is not in here.

    Parameters
    ----------
    entries
        What is known from the start.
    """

    def __init__(self, entries: dict[str, T]) -> None:
        self._entries = dict(entries)

    def add(self, name: str, entry: T) -> None:
        """Make `entry` known by `name`.

        Raises
        ------
        ValueError
            If the name is empty, taken, or has a colon in it.
        """
        if not name or ":" in name:
            raise ValueError(f"`name` must be a word without a colon, got {name!r}.")
        if name in self._entries:
            raise ValueError(f"`name` must be new, but {name!r} is registered already; choose another.")
        self._entries[name] = entry

    @property
    def names(self) -> tuple[str, ...]:
        """Known names, in the order they came."""
        return tuple(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __getitem__(self, name: str) -> T:
        return self._entries[name]

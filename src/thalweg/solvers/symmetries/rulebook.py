"""Where the rules of torch's operations are kept, by the operations' names."""

from __future__ import annotations

from collections.abc import Callable

from thalweg.solvers.symmetries.flow import Call

Rule = Callable[[Call], None]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register the rule of some operations."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register

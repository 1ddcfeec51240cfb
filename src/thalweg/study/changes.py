"""What a plan asks for beside what its folder was last run with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from thalweg.study.plan import StudyPlan
from thalweg.study.study import STUDY_FILE, Study

# Fields of the file that are named one by one.
MOST_SHOWN = 6
ABSENT = "nothing"


def changes(plan: StudyPlan) -> list[str]:
    """What is another than when the folder was last run, in words; empty for a new folder and for the same.

    Raises
    ------
    ValueError
        If the folder's study is damaged, or of a later version.
    """
    if not (plan.out / STUDY_FILE).exists():
        return []
    before = Study.open(plan.out)
    old, new = {task.key for task in before.tasks}, {task.key for task in plan.tasks}
    then, now = _flat(before.frozen), _flat(plan.spec.frozen())
    fields = [
        f"{name} {then.get(name, ABSENT)} -> {now.get(name, ABSENT)}"
        for name in {**then, **now}
        if then.get(name) != now.get(name)
    ]
    if not fields and old == new:
        return []
    more = len(fields) - MOST_SHOWN
    what = "; ".join(fields[:MOST_SHOWN]) + (f"; and {more} more" if more > 0 else "")
    first = (
        f"the study file has changed since this folder was last run: {what}"
        if fields
        else "the study file is as this folder was last run with, but code, data or versions are not"
    )
    gone = len(old - new)
    stay = ", whose records stay in the store, unused" if gone else ""
    return [first, f"{len(new - old)} tasks are new, {gone} no longer asked for{stay}"]


def _flat(entry: Any, place: str = "") -> dict[str, Any]:
    """Every value of nested tables by its place; of a list of tables by their names."""
    return dict(_entries(entry, place))


def _entries(entry: Any, place: str) -> Iterator[tuple[str, Any]]:
    if isinstance(entry, Sequence) and entry and isinstance(entry[0], Mapping):
        entry = {str(part.get("name", number)): part for number, part in enumerate(entry, start=1)}
    if isinstance(entry, Mapping) and entry:
        for key, part in entry.items():
            yield from _entries(part, f"{place}.{key}" if place else str(key))
    else:
        yield place, entry

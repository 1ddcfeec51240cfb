"""Validation of study files: one line that names every field that is wrong, and what is allowed there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError


class Table(BaseModel):
    """A table of a study file: nothing in it that is not one of its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


def validated(model: type[BaseModel], content: Any, label: str) -> Any:
    """The content as a `model`.

    Raises
    ------
    ValueError
        In one line that begins with the label.
    """
    try:
        return model.model_validate(content)
    except ValidationError as error:
        lines = [_complaint(entry, model) for entry in error.errors()]
        words = f"{label}: {'; '.join(dict.fromkeys(lines))}"
        raise ValueError(words if words.endswith("?") else f"{words}.") from None


def _complaint(entry: Any, model: type[BaseModel]) -> str:
    place = ".".join(str(part) for part in entry["loc"])
    message = entry["msg"].removeprefix("Value error, ").rstrip(".")
    if entry["type"] == "extra_forbidden":
        message = f"there is no such field; allowed are {', '.join(_fields_beside(entry['loc'], model))}"
    given = entry.get("input")
    shown = f", got {json.dumps(given)}" if isinstance(given, str | int | float) else ""
    if entry["type"] in ("value_error", "extra_forbidden"):
        shown = ""  # the message says it
    return f"{place}: {message}{shown}" if place else message


def _fields_beside(place: Sequence[int | str], model: type[BaseModel]) -> list[str]:
    """The fields of the table that a field would belong to."""
    tables = [model]
    for part in place[:-1]:
        fields = [field for table in tables for name, field in table.model_fields.items() if name == part]
        # Else an entry of a list or of a table of tables, or which of several tables it was taken for.
        tables = (
            [inner for field in fields for inner in _tables(field.annotation)]
            or [table for table in tables if table.__name__ == part]
            or tables
        )
    names = [field.alias or name for table in tables for name, field in table.model_fields.items()]
    return list(dict.fromkeys(names))


def _tables(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [table for part in get_args(annotation) for table in _tables(part)]

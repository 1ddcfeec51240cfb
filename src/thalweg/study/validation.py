"""Validation of study files: one line that names every field that is wrong, and what is allowed there."""

from __future__ import annotations

import json
from typing import Any

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
        lines = [_complaint(entry) for entry in error.errors()]
        words = f"{label}: {'; '.join(dict.fromkeys(lines))}"
        raise ValueError(words if words.endswith("?") else f"{words}.") from None


def _complaint(entry: Any) -> str:
    place = ".".join(str(part) for part in entry["loc"])
    message = entry["msg"].removeprefix("Value error, ").rstrip(".")
    if entry["type"] == "extra_forbidden":
        message = "there is no such field"
    given = entry.get("input")
    shown = f", got {json.dumps(given)}" if isinstance(given, str | int | float) else ""
    if entry["type"] in ("value_error", "extra_forbidden"):
        shown = ""  # the message says it
    return f"{place}: {message}{shown}" if place else message

"""Study files on disk, and those that come with the package."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from thalweg.study.spec import StudySpec
from thalweg.study.validation import validated


def read_study(source: str | Path, preset: str | None = None) -> StudySpec:
    """Read a study file, or a study that comes with the package.

    Parameters
    ----------
    source
        A path that ends in ``.toml``, or one of `shipped_studies`.
    preset
        Name of a table under ``[presets]``: of the rest of the file what its ``without`` names
        (``"measures.trace"``) is left out, then it is laid over: tables are merged, all else is replaced.

    Raises
    ------
    ValueError
        Naming file, field, and what is allowed there.
    """
    path = Path(source)
    if path.suffix != ".toml" and str(source) in shipped_studies():
        text, label = _shipped(str(source)), str(source)
    elif path.is_file():
        text, label = path.read_text(), str(path)
    else:
        raise ValueError(
            f"`study` must be a .toml file or one of {', '.join(shipped_studies())}, got {str(source)!r}"
            + (", which is not a file." if path.suffix == ".toml" else ".")
        )
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{label} is no TOML: {error}.") from None
    presets = content.pop("presets", {})
    if preset is not None:
        if preset not in presets:
            known = ", ".join(presets) or "it has none"
            raise ValueError(f"`preset` must be one of those in {label} ({known}), got {preset!r}.")
        if not isinstance(presets[preset], Mapping):
            raise ValueError(f"{label}: presets.{preset} must be a table, got {presets[preset]!r}.")
        over = dict(presets[preset])
        without = over.pop("without", [])
        for place in without:
            table, _, name = place.partition(".")
            if name not in content.get(table, {}):
                raise ValueError(f"{label}: presets.{preset}.without: there is no {place}.")
            del content[table][name]
        content = _merged(content, over)
    return validated(StudySpec, content, label)


def shipped_studies() -> tuple[str, ...]:
    """Names of the studies that come with the package."""
    files = resources.files("thalweg.study").joinpath("studies").iterdir()
    return tuple(sorted(file.name.removesuffix(".toml") for file in files if file.name.endswith(".toml")))


def _shipped(name: str) -> str:
    return resources.files("thalweg.study").joinpath("studies", f"{name}.toml").read_text()


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        both = isinstance(below, Mapping) and isinstance(value, Mapping)
        merged[key] = _merged(below, value) if both else value  # type: ignore[arg-type]
    return merged

"""A result as a NumPy ``.npz`` file, for those who carry on elsewhere."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from thalweg.core.atomic import replacing
from thalweg.core.measurement import Measurement


def export_arrays(result: Measurement, path: str | Path) -> None:
    """Write every array of a result, under the name it has there, and all the rest as JSON text.

    Arrays of a result within the result are there under both names, with a dot: ``trajectory.coordinates``.

    Parameters
    ----------
    result
        Of any measure.
    path
        Ends in ``.npz``. ``numpy.load(path)`` reads it, without pickles; ``json.loads(str(file["json"]))`` is
        `Measurement.to_dict`: value, error budget, provenance, and what is no array.

    Raises
    ------
    TypeError
        If `result` is no result.
    ValueError
        If `path` has another suffix.
    """
    if not isinstance(result, Measurement):
        raise TypeError(f"`result` must be a result of a measure, got {type(result).__name__}.")
    if Path(path).suffix.lower() != ".npz":
        raise ValueError(f"`path` must end in .npz, got {str(path)!r}.")
    arrays: dict[str, Any] = _arrays(result)
    rest = {k: v for k, v in result.to_dict().items() if k not in arrays and k != "omitted"}
    with replacing(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, json=np.array(json.dumps(rest, allow_nan=False)), **arrays)


def _arrays(result: Measurement) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for f in dataclasses.fields(result):
        entry = getattr(result, f.name)
        if isinstance(entry, Tensor):
            found[f.name] = entry.detach().cpu().numpy()
        elif isinstance(entry, Measurement):
            found |= {f"{f.name}.{name}": array for name, array in _arrays(entry).items()}
    return found

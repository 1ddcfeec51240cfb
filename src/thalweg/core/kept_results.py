"""Whole results in a store: what a chain of measures has finished when it is killed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from torch import Tensor

from thalweg.core.array_store import Store, array_of, recalled, text_of
from thalweg.core.measurement import Measurement

# Under this name stands the text; the other names are those of its large arrays.
RESULT = "result"


def kept(store: Store | None, key: str, take: Callable[[], Measurement]) -> Measurement:
    """The result stored under the key; else what `take` gives, which is stored first.

    Either comes out of the store, so that the two are one thing: what a result holds beside its fields, which
    no file can, is in neither. Without a store it is what `take` gives.

    Raises
    ------
    TypeError
        If the result does not survive being written, which its class is to blame for.
    """
    if store is None:
        return take()

    def arrays() -> dict[str, Tensor]:
        result, large = take(), dict[str, Tensor]()
        text = json.dumps(result.to_dict(large), allow_nan=False)
        written = {**large, RESULT: array_of(text)}
        if Measurement.classes.get(result.measure) is not type(result) or _read(written) != result:
            raise TypeError(
                f"`store` must be able to keep the result, but a {type(result).__name__} does not come back "
                "from its own to_dict() as it was; give its class a `measure` name and plain fields, or "
                "leave `store` out."
            )
        return written

    return _read(recalled(store, key, arrays))


def _read(arrays: Mapping[str, Tensor]) -> Measurement:
    return Measurement.from_dict(json.loads(text_of(arrays[RESULT])), arrays)

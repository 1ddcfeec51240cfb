"""The training grid of a study: which settings are trained, each with every seed."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg.core.arguments import check_one_of, is_number
from thalweg.core.rng import stream_seed
from thalweg.training.config import TrainConfig

if TYPE_CHECKING:
    from thalweg.study.spec import StudySpec

Axis = "Sequence[Any] | RangeSpec"

TRAINING_FIELDS = tuple(f.name for f in dataclasses.fields(TrainConfig) if f.name != "seed")
DATA_FIELDS = ("label_noise", "num_train")
MODEL = "model"
INIT_SCALE = "init_scale"

# Significant digits of what is drawn: a grid is read by people, and a hash must not hang on the last bit.
DRAWN_DIGITS = 3


@dataclass(frozen=True)
class Settings:
    """One setting of the grid.

    Parameters
    ----------
    model
        Name of the model, among those of the study.
    arguments
        What it is built with.
    training
        Fields of `TrainConfig` but the seed.
    data
        `DATA_FIELDS`.
    init_scale
        What its initial weights are multiplied by.
    fields
        What tells the setting from others, flat, by short names.
    """

    model: str
    arguments: Mapping[str, Any]
    training: Mapping[str, Any]
    data: Mapping[str, Any]
    init_scale: float
    fields: Mapping[str, Any]


@dataclass(frozen=True)
class Grid:
    """Axes over a study's own settings.

    An axis is ``model``, ``training.lr`` and the like, ``data.label_noise``, ``data.num_train``,
    ``init_scale``, or ``model.ARGUMENT``, an argument that all the models of the study are built with. What
    goes along with a value of an axis is set with it and is no field of its own.
    """

    spec: StudySpec
    axes: Mapping[str, Any]

    @classmethod
    def of(cls, spec: StudySpec) -> Grid:
        """The grid of a study.

        Raises
        ------
        ValueError
            If an axis or a value of it is none, naming it and what is allowed.
        """
        axes: dict[str, Any] = dict(spec.grid.axes)
        if MODEL not in axes and len(spec.models) > 1:
            axes = {MODEL: list(spec.models), **axes}
        grid = cls(spec, axes)
        grid._check()
        return grid

    def settings(self) -> list[Settings]:
        """All settings, each once, in the order of the axes."""
        rows = self._rows()
        names = self._short_names()
        seen: dict[str, Settings] = {}
        for row in rows:
            settings = self._settings(row, names)
            seen.setdefault(repr(settings), settings)
        return list(seen.values())

    def _rows(self) -> list[dict[str, Any]]:
        grid = self.spec.grid
        if grid.kind == "product":
            return [dict(zip(self.axes, row, strict=True)) for row in itertools.product(*self.axes.values())]
        if grid.kind == "zip":
            lengths = {len(values) for values in self.axes.values()} or {1}
            return [{name: values[i] for name, values in self.axes.items()} for i in range(max(lengths))]
        assert grid.seed is not None, "checked"
        # A stream for each axis: one more axis leaves what is drawn of the others.
        columns = {
            name: _draws(axis, grid.num_settings or 0, np.random.default_rng(stream_seed(grid.seed, name)))
            for name, axis in self.axes.items()
        }
        return [{name: column[i] for name, column in columns.items()} for i in range(grid.num_settings or 0)]

    def _settings(self, row: Mapping[str, Any], names: Mapping[str, str]) -> Settings:
        spec = self.spec
        model = row.get(MODEL, next(iter(spec.models)))
        carried = [spec.grid.along.get(axis, {}).get(str(value), {}) for axis, value in row.items()]
        whole = {**row, **{k: v for part in carried for k, v in part.items()}}

        def over(prefix: str, base: Mapping[str, Any]) -> dict[str, Any]:
            own = {k.removeprefix(prefix): v for k, v in whole.items() if k.startswith(prefix)}
            return {**base, **own}

        training = over("training.", {f: getattr(spec.training, f) for f in TRAINING_FIELDS})
        return Settings(
            model=model,
            arguments=over("model.", spec.models[model].arguments),
            training=training,
            data=over("data.", {f: getattr(spec.data, f) for f in DATA_FIELDS}),
            init_scale=float(whole.get(INIT_SCALE, spec.init_scale)),
            fields={MODEL: model, **{names[axis]: value for axis, value in row.items() if axis != MODEL}},
        )

    def _short_names(self) -> dict[str, str]:
        return {axis: axis.rpartition(".")[2] for axis in self.axes}

    def _check(self) -> None:
        grid = self.spec.grid
        for axis, values in self.axes.items():
            place = f"grid.axes.{axis}"
            self._check_name("grid.axes", axis)
            if not isinstance(values, Sequence):
                if grid.kind != "random":
                    raise ValueError(f"{place}: only a random grid draws from a range; list the values")
                continue
            if not values:
                raise ValueError(f"{place}: an axis needs at least one value")
            self._check_values(place, axis, values)
        for axis, by_value in grid.along.items():
            check_one_of("grid.along", axis, self.axes, some=True)
            values = self.axes[axis]
            for value, settings in by_value.items():
                place = f"grid.along.{axis}.{value}"
                if isinstance(values, Sequence):
                    check_one_of(f"grid.along.{axis}", value, [str(v) for v in values], some=True)
                for name, setting in settings.items():
                    self._check_name(place, name)
                    if name in self.axes or name == MODEL:
                        raise ValueError(f"{place}.{name}: it is an axis itself, or the model")
                    self._check_values(f"{place}.{name}", name, [setting])
        short = [*self._short_names().values(), "seed"]
        if len(set(short)) < len(short):
            raise ValueError("grid.axes: two axes end in one name, or one in seed")
        if grid.kind == "zip":
            lengths = {axis: len(values) for axis, values in self.axes.items()}
            if len(set(lengths.values())) > 1:
                raise ValueError(f"grid.axes: side by side they need one length, got {lengths}")
        if grid.kind == "random" and (grid.num_settings is None or grid.seed is None):
            raise ValueError("grid: a random one needs num_settings and seed")
        if grid.kind != "random" and (grid.num_settings is not None or grid.seed is not None):
            raise ValueError(f"grid: num_settings and seed are for a random one, this is {grid.kind}")

    def _check_name(self, place: str, name: str) -> None:
        if not (name.startswith("model.") and name.count(".") == 1):
            settable = [*(f"training.{f}" for f in TRAINING_FIELDS), *(f"data.{f}" for f in DATA_FIELDS)]
            check_one_of(place, name, [MODEL, *settable, INIT_SCALE, "model.ARGUMENT"], some=True)

    def _check_values(self, place: str, axis: str, values: Sequence[Any]) -> None:
        if axis == MODEL:
            for value in values:
                check_one_of(place, value, self.spec.models, some=True)
        elif axis.startswith(("training.", "data.")):
            table, _, field = axis.partition(".")
            self._validate(place, getattr(self.spec, table), field, values)
        elif axis == INIT_SCALE:
            for value in values:
                if not (is_number(value) and 0 < value < math.inf):
                    raise ValueError(f"{place}: a scale must be a finite number above 0, got {value!r}")

    def _validate(self, place: str, base: Any, field: str, values: Sequence[Any]) -> None:
        for value in values:
            # The table's own validation says what may stand there.
            try:
                type(base).model_validate({**base.model_dump(), field: value})
            except ValueError as error:
                reason = error.errors()[0]["msg"] if hasattr(error, "errors") else error  # type: ignore[attr-defined]
                raise ValueError(f"{place}: {reason}, got {value!r}") from None


def _draws(axis: Any, count: int, rng: np.random.Generator) -> list[Any]:
    if isinstance(axis, Sequence):
        return [axis[i] for i in rng.integers(len(axis), size=count)]
    if axis.log:
        drawn = np.exp(rng.uniform(math.log(axis.low), math.log(axis.high), size=count))
    else:
        drawn = rng.uniform(axis.low, axis.high, size=count)
    return [float(f"{x:.{DRAWN_DIGITS}g}") for x in drawn]

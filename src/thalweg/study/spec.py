"""Study files: what is trained, what is measured, what is claimed; TOML, validated field by field."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from thalweg.analyses.measure_choice import chosen_measures
from thalweg.core.arguments import check_one_of
from thalweg.core.measurement import Measurement
from thalweg.objective.batch_norm import MODES, BatchNormMode
from thalweg.study.claims import Claim, ContrastClaim, CorrelationClaim, PredictionClaim
from thalweg.study.grid import Grid, Settings
from thalweg.study.moments import START, Moment, parsed
from thalweg.study.quantities import QuantitySpec
from thalweg.study.spec_checks import check_claim, check_known, check_pair_measure, check_where
from thalweg.study.table import COLUMNS, PERFORMANCE
from thalweg.study.validation import Table, validated

SCHEMA = 1


class ModelSpec(Table):
    """A network: a registered name or ``module:callable``, and the arguments it is built with."""

    build: str
    arguments: dict[str, bool | int | float | str] = Field(default_factory=dict)


class DataSpec(Table):
    """What is trained and tested on.

    `name` is that of a registered data set, or a ``module:callable`` that returns the pair of training and
    test data. `num_train` and `num_test` take the first so many examples, all if left out; `label_noise`
    gives that share of the training examples another class.
    """

    name: str = "fashion-mnist"
    num_train: PositiveInt | None = None
    num_test: PositiveInt | None = None
    label_noise: float = Field(default=0.0, ge=0, lt=1)


class TrainingSpec(Table):
    """SGD with momentum and a step schedule; see `thalweg.training.config.TrainConfig`."""

    epochs: PositiveInt = 6
    lr: PositiveFloat = 0.01
    momentum: float = Field(default=0.9, ge=0, lt=1)
    batch_size: PositiveInt = 128
    weight_decay: float = Field(default=0.0, ge=0)
    step_size: PositiveInt = 2
    gamma: PositiveFloat = 0.5
    evaluate_every: PositiveInt = 1


class RangeSpec(Table):
    """Where a random grid draws an axis from: evenly between `low` and `high`, or evenly in the logarithm."""

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> RangeSpec:
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got {self.low} and {self.high}")
        if self.log and not self.low > 0:
            raise ValueError(f"a logarithmic range needs low > 0, got {self.low}")
        return self


class GridSpec(Table):
    """Which settings are trained: all combinations, the axes side by side, or so many drawn at random.

    `along` says what else changes with a value of an axis without being an axis itself: by axis, by the value
    as text, settings named as axes are.
    """

    kind: Literal["product", "zip", "random"] = "product"
    axes: dict[str, list[bool | int | float | str] | RangeSpec] = Field(default_factory=dict)
    along: dict[str, dict[str, dict[str, bool | int | float | str]]] = Field(default_factory=dict)
    num_settings: PositiveInt | None = None
    seed: int | None = None


class ObjectiveSpec(Table):
    """What is measured on: the first `num_examples` of the training data, and of the test data."""

    num_examples: PositiveInt | None = None
    modes: list[BatchNormMode] = Field(default_factory=lambda: list(MODES), min_length=1)
    batch_size: PositiveInt = 128


class MeasureSpec(Table):
    """A measure of one network; what is left out is the study's own.

    `measure` is a name of ``thalweg measure`` or of the sharpness family, by default the name it stands
    under. `numbers` are what else of its result becomes a column, called after the measure and the number,
    ``curvature.negative_mass``. `moments` are some of the study's, or the start, whose network is there
    without training. It is taken of the networks alone whose fields are those of `where`, so that an axis of
    the grid need not multiply the cost of all.
    """

    measure: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)
    numbers: list[str] = Field(default_factory=list)
    where: dict[str, bool | int | float | str] = Field(default_factory=dict)
    modes: list[BatchNormMode] | None = None
    moments: list[str] | None = None
    num_examples: PositiveInt | None = None


class PairSpec(Table):
    """A measure of two networks that differ in `across` and agree in every other field.

    With ``across = "seed"``, the networks of one setting are set against each other: first with second, third
    with fourth, so that pairs are independent, or with ``pairing = "all"`` every two of them, which says far
    more of so few networks (`thalweg.stats.all_pairs`). With any other field, those of one seed are.
    `fold_batch_norm` replaces each batch norm by the layer that computes the same in running mode, without
    which networks with and without it have no line between them. `where` is that of `MeasureSpec`, of both
    networks.
    """

    measure: str = "linear_path"
    arguments: dict[str, Any] = Field(default_factory=dict)
    across: str = "seed"
    where: dict[str, bool | int | float | str] = Field(default_factory=dict)
    pairing: Literal["disjoint", "all"] = "disjoint"
    fold_batch_norm: bool = False
    modes: list[BatchNormMode] | None = None
    moments: list[str] = Field(default_factory=lambda: ["end"])
    num_examples: PositiveInt | None = None


class StudySpec(Table):
    """A study, as its file says, with everything left out filled in.

    `look_every` is the steps between looks whether a moment ``loss X`` is reached; with `keep_arrays` the
    store keeps large arrays too, eigenvectors say, beside its records. `init_scale` multiplies the initial
    weights, see `thalweg.models.initial_scale`.
    """

    schema_version: Literal[1] = Field(default=SCHEMA, alias="schema")
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    question: str = ""
    models: dict[str, ModelSpec] = Field(min_length=1)
    data: DataSpec = DataSpec()
    loss: str = "cross_entropy"
    training: TrainingSpec = TrainingSpec()
    init_scale: PositiveFloat = 1.0
    grid: GridSpec = GridSpec()
    seeds: list[NonNegativeInt] = Field(min_length=1)
    moments: list[str] = Field(default_factory=lambda: ["end"], min_length=1)
    look_every: PositiveInt = 20
    keep_arrays: bool = False
    objective: ObjectiveSpec = ObjectiveSpec()
    measures: dict[str, MeasureSpec] = Field(default_factory=dict)
    pairs: dict[str, PairSpec] = Field(default_factory=dict)
    quantities: dict[str, QuantitySpec] = Field(default_factory=dict)
    level: float = Field(default=0.95, gt=0.5, lt=1)
    claims: list[Claim] = Field(default_factory=list)

    @field_validator("models", mode="before")
    @classmethod
    def _named_models(cls, models: Any) -> Any:
        if not isinstance(models, Mapping):
            return models
        return {k: {"build": v} if isinstance(v, str) else v for k, v in models.items()}

    @field_validator("seeds", mode="before")
    @classmethod
    def _counted_seeds(cls, seeds: Any) -> Any:
        if isinstance(seeds, int) and not isinstance(seeds, bool):
            return list(range(1, seeds + 1))
        if isinstance(seeds, list) and len(set(map(str, seeds))) < len(seeds):
            raise ValueError("a seed stands here twice")
        return seeds

    @field_validator("claims", mode="before")
    @classmethod
    def _kinds(cls, claims: Any) -> Any:
        # Told apart before the union is tried, whose errors would speak of all kinds.
        if not isinstance(claims, list):
            return claims
        kinds = {"contrast": ContrastClaim, "correlation": CorrelationClaim, "prediction": PredictionClaim}
        built = []
        for number, claim in enumerate(claims):
            if not isinstance(claim, Mapping):
                raise ValueError(f"claim {number + 1} is no table")
            told_by = "contrast" if "by" in claim else "prediction" if "features" in claim else "correlation"
            kind = claim.get("kind", told_by)
            check_one_of("kind", kind, kinds)
            built.append(validated(kinds[kind], claim, f"claims.{number + 1}"))
        return built

    @field_validator("moments", mode="after")
    @classmethod
    def _moments_parse(cls, moments: list[str]) -> list[str]:
        names = [parsed(moment).name for moment in moments]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice:
            raise ValueError(f"{twice} stands here twice")
        return names

    @model_validator(mode="after")
    def _hangs_together(self) -> StudySpec:
        Grid.of(self)  # refuses axes that are none
        fields = self.fields
        for field in fields:
            if field in COLUMNS:
                raise ValueError(
                    f"grid.axes: {field} is a column of every study's table, no axis can end in it"
                )
        epochs = min(setting.training["epochs"] for setting in self.settings)
        for moment in self.moments_of(None):
            if moment.kind == "epoch" and moment.number is not None and moment.number > epochs:
                raise ValueError(f"moments: {moment.name} lies beyond the {epochs} epochs of training")
        own = {parsed(moment).name for moment in (START, *self.moments)}
        for name, measure in self.measures.items():
            if name in PERFORMANCE:
                raise ValueError(f"measures.{name}: the name is taken by what is measured of every network")
            check_where(f"measures.{name}", measure.where, fields)
            known = number_names(self.member(name).measure)
            for number in measure.numbers:
                check_one_of(f"measures.{name}.numbers", number, known, some=True)
            check_known(f"measures.{name}.moments", measure.moments or (), own)
        for name, pair in self.pairs.items():
            if name in self.measures or name in PERFORMANCE:
                raise ValueError(f"pairs.{name}: the name is taken")
            check_pair_measure(f"pairs.{name}", pair.measure, pair.arguments)
            check_one_of(f"pairs.{name}.across", pair.across, ["seed", *fields])
            check_where(f"pairs.{name}", pair.where, fields)
            if pair.pairing == "all" and pair.across != "seed":
                raise ValueError(f"pairs.{name}.pairing: only across seeds are all pairs alike")
            if pair.fold_batch_norm and pair.modes not in (None, ["running"]):
                raise ValueError(f"pairs.{name}.modes: folded batch norm is that of running statistics alone")
            check_known(f"pairs.{name}.moments", pair.moments, own)
        for name, quantity in self.quantities.items():
            if name in (*PERFORMANCE, *self.columns, *self.pairs):
                raise ValueError(f"quantities.{name}: the name is taken")
            if quantity.kind == "loss_drop" and START not in self.moments:
                raise ValueError(
                    f"quantities.{name}: a drop is from the start, which must be among the moments"
                )
            if quantity.kind in ("outcome", "diverged"):
                check_one_of(f"quantities.{name}.of", quantity.of, [*PERFORMANCE, *self.columns])
                check_one_of(f"quantities.{name}.mode", quantity.mode, self.objective.modes)
                check_known(f"quantities.{name}.moment", [quantity.moment], own)
        if len({claim.name for claim in self.claims}) < len(self.claims):
            raise ValueError("claims: two have one name")
        for claim in self.claims:
            check_claim(self, claim, own)
        return self

    @property
    def settings(self) -> list[Settings]:
        """Every setting of the grid; see `thalweg.study.grid`."""
        return Grid.of(self).settings()

    @property
    def fields(self) -> dict[str, list[Any]]:
        """What settings differ in, and its values: model first, then the other axes by their short names."""
        columns: dict[str, dict[Any, None]] = {}
        for setting in self.settings:
            for field, value in setting.fields.items():
                columns.setdefault(field, {})[value] = None
        return {field: list(values) for field, values in columns.items()}

    @property
    def columns(self) -> dict[str, str]:
        """Each measure and each of its further numbers, with the name of the measure."""
        columns: dict[str, str] = {}
        for name, measure in self.measures.items():
            columns |= {name: name, **{f"{name}.{number}": name for number in measure.numbers}}
        return columns

    @property
    def looked_for(self) -> list[float]:
        """Losses that training looks out for: of moments, then those that quantities alone ask for."""
        moments = [m.number for m in self.moments_of(None) if m.kind == "loss" and m.number is not None]
        steps = [q.loss for q in self.quantities.values() if q.kind == "steps_to_loss" and q.loss is not None]
        return list(dict.fromkeys([*moments, *steps]))

    def member(self, name: str) -> Any:
        """The measure that stands under `name`, with its arguments."""
        measure = self.measures[name]
        asked = measure.measure or name
        return chosen_measures({asked: measure.arguments}, f"measures.{name}")[asked]

    def moments_of(self, names: Iterable[str] | None) -> list[Moment]:
        """Those named, or all of the study."""
        return [parsed(moment) for moment in (self.moments if names is None else names)]

    def frozen(self) -> dict[str, Any]:
        """JSON-safe form with every default: what a store keeps of the file."""
        return self.model_dump(mode="json", by_alias=True)


def number_names(measure: Callable[..., Measurement]) -> list[str]:
    """Numbers beside the value that a measure's result has, with their errors or without."""
    result = Measurement.classes[measure.__name__]
    fields = [f.name for f in dataclasses.fields(result) if f.type in ("float", "int") and f.name != "value"]
    properties = [name for name, entry in inspect.getmembers(result) if isinstance(entry, property)]
    return [*fields, *(name for name in properties if not name.startswith("_"))]

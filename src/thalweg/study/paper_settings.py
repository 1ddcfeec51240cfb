"""What `thalweg reproduce` runs: the settings of a preset, read from TOML and validated."""

from __future__ import annotations

import tomllib
from importlib import resources

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from thalweg.core.arguments import check_one_of

PRESETS = ("paper", "smoke")


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class DataSettings(_Section):
    """How much of Fashion-MNIST: the first so many examples, ``None`` for all."""

    num_train: PositiveInt | None = None
    num_test: PositiveInt | None = None


class TrainingSettings(_Section):
    """SGD with momentum and a step schedule."""

    epochs: PositiveInt
    learning_rate: PositiveFloat
    momentum: float = Field(ge=0, lt=1)
    batch_size: PositiveInt
    step_size: PositiveInt
    gamma: PositiveFloat


class CurvatureSettings(_Section):
    """Top eigenvalues, on the first `num_examples` training examples (``None`` for all).

    With `sampled_rtol` they are estimated from samples, to so much of the value; in batch mode they are
    solved for all the same, on all the examples, but without going on until no larger one can have been
    missed. `levels` are the sizes of the subsets an exact cold solve starts from, ``None`` for the measure's
    own choice.
    """

    num_examples: PositiveInt | None = None
    sampled_rtol: PositiveFloat | None = None
    levels: tuple[PositiveInt, ...] | None = None
    rtol: PositiveFloat
    certify_rtol: PositiveFloat


class SharpnessSettings(_Section):
    """Perturbation sharpness, on the first `num_examples` training examples."""

    num_examples: PositiveInt
    radius: PositiveFloat
    num_steps: PositiveInt
    num_restarts: PositiveInt
    spread_batch_sizes: tuple[PositiveInt, ...]
    spread_num_batches: PositiveInt


class SliceSettings(_Section):
    """Loss slices, on the first `num_examples` training examples."""

    num_examples: PositiveInt
    num_points: PositiveInt
    span: PositiveFloat
    num_directions: PositiveInt


class PathSettings(_Section):
    """The straight path from A1 to A2, on the first `num_examples` of the training and of the test data."""

    num_examples: PositiveInt
    num_points: PositiveInt


class PaperSettings(_Section):
    """A preset of the paper's study."""

    data: DataSettings = DataSettings()
    training: TrainingSettings
    curvature: CurvatureSettings
    sharpness: SharpnessSettings
    slices: SliceSettings
    path: PathSettings


def load_preset(name: str) -> PaperSettings:
    """Settings of the preset `name`."""
    check_one_of("preset", name, PRESETS)
    text = resources.files("thalweg.study").joinpath("presets", f"{name}.toml").read_text()
    return PaperSettings.model_validate(tomllib.loads(text))

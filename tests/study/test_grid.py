"""Grids: all combinations, side by side, at random."""

from __future__ import annotations

from typing import Any

import pytest

from thalweg.study.spec import StudySpec


def spec(axes: dict[str, Any], **grid: Any) -> StudySpec:
    return StudySpec.model_validate(
        {
            "name": "grid",
            "seeds": 1,
            "models": {"a": "small_cnn", "b": "small_cnn_bn"},
            "grid": {"axes": axes, **grid},
        }
    )


def test_a_product_has_all_combinations_and_models_first() -> None:
    settings = spec({"training.lr": [0.1, 0.2], "data.label_noise": [0.0, 0.1]}).settings
    assert [tuple(s.fields.values()) for s in settings[:3]] == [
        ("a", 0.1, 0.0),
        ("a", 0.1, 0.1),
        ("a", 0.2, 0.0),
    ]
    assert len(settings) == 8
    assert settings[1].data["label_noise"] == 0.1
    assert settings[1].training["lr"] == 0.1
    assert settings[1].training["momentum"] == 0.9


def test_axes_side_by_side() -> None:
    settings = spec({"model": ["a", "b"], "training.lr": [0.1, 0.2]}, kind="zip").settings
    assert [(s.model, s.training["lr"]) for s in settings] == [("a", 0.1), ("b", 0.2)]
    with pytest.raises(ValueError, match="side by side they need one length"):
        spec({"model": ["a", "b"], "training.lr": [0.1]}, kind="zip")


def test_random_draws_are_seeded_and_an_axis_more_leaves_the_others() -> None:
    axes: dict[str, Any] = {"model": ["a"], "training.lr": {"low": 1e-3, "high": 1, "log": True}}
    one = spec(axes, kind="random", num_settings=50, seed=1).settings
    assert one == spec(axes, kind="random", num_settings=50, seed=1).settings
    more = spec(
        {**axes, "training.momentum": {"low": 0.5, "high": 0.9}}, kind="random", num_settings=50, seed=1
    )
    assert [s.training["lr"] for s in more.settings] == [s.training["lr"] for s in one]
    rates = [s.training["lr"] for s in one]
    assert all(1e-3 <= lr <= 1 for lr in rates)
    assert sum(lr < 10**-1.5 for lr in rates) == pytest.approx(25, abs=11)  # half of them, to three sigma
    assert spec(axes, kind="random", num_settings=50, seed=2).settings != one
    with pytest.raises(ValueError, match="needs num_settings and seed"):
        spec(axes, kind="random")


def test_arguments_of_models_are_an_axis() -> None:
    settings = spec({"model": ["b"], "model.width": [8, 16]}).settings
    assert [s.arguments for s in settings] == [{"width": 8}, {"width": 16}]
    assert [s.fields for s in settings] == [{"model": "b", "width": 8}, {"model": "b", "width": 16}]


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ({"lr": [0.1]}, r"`grid.axes` must be some of model, training.epochs.*got 'lr'"),
        ({"training.lr": [-1.0]}, r"grid.axes.training.lr: .*greater than 0, got -1.0"),
        ({"training.lr": []}, "at least one value"),
        ({"model": ["c"]}, r"`grid.axes.model` must be some of a, b, got 'c'"),
        ({"training.lr": {"low": 1, "high": 2}}, "only a random grid draws from a range"),
        ({"training.lr": [0.1], "model.lr": [1]}, "two axes end in one name"),
    ],
)
def test_axes_that_are_none(axes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec(axes)


def test_the_scale_of_initial_weights_is_an_axis_of_any_model() -> None:
    settings = spec({"init_scale": [0.5, 1.0]}).settings
    assert [(s.model, s.init_scale, s.fields["init_scale"]) for s in settings[:2]] == [
        ("a", 0.5, 0.5),
        ("a", 1.0, 1.0),
    ]
    with pytest.raises(ValueError, match="a scale must be a finite number above 0, got 0"):
        spec({"init_scale": [0]})


def test_what_goes_along_with_a_value_is_set_and_is_no_field() -> None:
    along = {"training.batch_size": {"64": {"training.epochs": 40, "model.width": 8}}, "model": {"b": {}}}
    settings = spec({"model": ["a"], "training.batch_size": [32, 64]}, along=along | {"model": {}}).settings
    assert [(s.training["epochs"], s.arguments) for s in settings] == [(6, {}), (40, {"width": 8})]
    assert [s.fields for s in settings] == [
        {"model": "a", "batch_size": 32},
        {"model": "a", "batch_size": 64},
    ]


@pytest.mark.parametrize(
    ("along", "message"),
    [
        ({"training.lr": {}}, r"`grid.along` must be some of model, training.batch_size"),
        ({"training.batch_size": {"16": {}}}, r"`grid.along.training.batch_size` must be some of 32, 64"),
        (
            {"training.batch_size": {"32": {"training.epochs": 0}}},
            r"grid.along.training.batch_size.32.training.epochs: .*greater than 0, got 0",
        ),
        ({"training.batch_size": {"32": {"epochs": 4}}}, r"must be some of model, training.*got 'epochs'"),
        ({"training.batch_size": {"32": {"model": "a"}}}, "it is an axis itself, or the model"),
    ],
)
def test_what_cannot_go_along(along: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec({"training.batch_size": [32, 64]}, along=along)

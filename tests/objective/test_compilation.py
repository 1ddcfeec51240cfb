"""Compiled passes: when, that they give the eager numbers, and that a compiler is not believed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.networks import cnn, images, mlp, vectors
from torch import Tensor

import thalweg as tw
from thalweg.objective import compilation
from thalweg.objective.compilation import COMPILED, compiled, forward_flops, is_compiled

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="there is no C++ compiler on this machine"
)


def objective(**options: Any) -> tw.Objective:
    return tw.Objective(mlp(), vectors(), micro_batch=8, **options)


def test_bad_choice() -> None:
    with pytest.raises(ValueError, match="`compile` must be True, False or 'auto', got 'yes'"):
        objective(compile="yes")


def test_operations_are_counted_over_all_the_data() -> None:
    linear = torch.nn.Linear(5, 3).double()
    assert forward_flops(tw.Objective(linear, vectors(), micro_batch=8)) == 2 * 5 * 3 * 21


def test_operations_are_counted_once_for_each_shape_of_a_micro_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    count = compilation.FlopCounterMode
    monkeypatch.setattr(compilation, "FlopCounterMode", lambda **kw: counted.append(1) or count(**kw))
    o = tw.Objective(torch.nn.Linear(5, 3).double(), vectors(), micro_batch=8)
    moved = o.at(o.params + 1)
    assert [forward_flops(x) for x in (o, moved, o.subset(16, seed=0))] == [630.0, 630.0, 480.0]
    assert len(counted) == 1
    assert forward_flops(o.subset(5, seed=0)) == 2 * 5 * 3 * 5
    assert len(counted) == 2


def test_the_rule_goes_by_the_work_and_the_hand_overrules_it() -> None:
    work = forward_flops(objective())
    enough = compilation.LEAST_FLOPS / work
    assert is_compiled(objective(), enough)
    assert not is_compiled(objective(), 0.99 * enough)
    assert is_compiled(objective(compile=True), 1)
    assert not is_compiled(objective(compile=False), 1e3 * enough)


def test_measures_say_that_small_work_is_eager() -> None:
    assert tw.line_slice(objective(), num_points=3, seed=0).provenance["passes"] == "eager"


@needs_compiler
@pytest.mark.parametrize("mode", ["running", "batch"])
def test_compiled_evaluation_is_the_eager_one(mode: Any) -> None:
    """Uneven batches: the last one is not what was compiled for."""
    results = [
        tw.line_slice(
            tw.Objective(cnn(), images(), batch_norm=mode, batch_size=8, micro_batch=8, compile=choice),
            num_points=3,
            num_directions=1,
            seed=0,
        )
        for choice in (True, False)
    ]
    assert [r.provenance["passes"] for r in results] == [COMPILED, "eager"]
    torch.testing.assert_close(results[0].losses, results[1].losses, rtol=1e-11, atol=0)


class KeywordBias(torch.nn.Module):
    """What torch 2.13 folds wrongly: the convolution's bias, given by keyword, is lost."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = torch.nn.Conv2d(1, 3, 3), torch.nn.BatchNorm2d(3)
        torch.nn.init.zeros_(self.conv.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.nn.functional.conv2d(x, self.conv.weight, bias=self.conv.bias)
        return self.norm(x).flatten(2).mean(2)


@needs_compiler
def test_batch_norm_is_folded_where_that_is_right_at_every_point(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bias is zero at the network's own point, where the wrong folding shows nothing."""
    attempts: list[bool] = []
    compile = torch.compile

    def watched(function: Any, **arguments: Any) -> Any:
        attempts.append(bool(arguments["options"]))
        return compile(function, **arguments)

    monkeypatch.setattr(torch, "compile", watched)
    torch.manual_seed(0)
    for model, expected in ((cnn(), [True]), (KeywordBias().double(), [True, False])):
        attempts.clear()
        fast, plain = (tw.Objective(model, images(), micro_batch=8, compile=c) for c in (True, False))
        points = [(plain.params + step, None) for step in (0.0, 0.3)]
        found, true = fast.evaluate_points(points), plain.evaluate_points(points)
        assert (attempts, found.passes) == (expected, COMPILED)
        torch.testing.assert_close(found.example_losses, true.example_losses, rtol=1e-10, atol=1e-12)


@needs_compiler
def test_every_network_of_a_study_is_compiled() -> None:
    """The compiler gives up on code that it has compiled eight times."""
    before = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    for shift in range(10):

        def add(x: Tensor, shift: int = shift) -> Tensor:
            return x.sin() + shift

        assert compiled(add, torch.ones(3))[1] == COMPILED
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == before + 10


def replaced(result: Callable[..., Any]) -> Callable[..., Any]:
    """Instead of `torch.compile`."""
    return lambda function, **options: result


def test_where_compiling_fails_the_eager_pass_remains(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> Any:
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch, "compile", replaced(broken))
    function, passes = compiled(torch.sin, torch.ones(3))
    assert function is torch.sin
    assert passes == "eager (compiling raised RuntimeError)"
    result = tw.line_slice(objective(compile=True), num_points=3, seed=0)
    assert result.provenance["passes"] == passes


@pytest.mark.parametrize("error", [1e-3, float("nan")])
def test_a_compiled_pass_with_another_result_is_not_used(
    monkeypatch: pytest.MonkeyPatch, error: float
) -> None:
    monkeypatch.setattr(torch, "compile", replaced(lambda x: {"a": x, "b": x.sin() + error}))
    function, passes = compiled(lambda x: {"a": x, "b": x.sin()}, torch.ones(3).double())
    assert passes == "eager (compiled, the result was another)"
    assert float(function(torch.zeros(1))["b"]) == 0

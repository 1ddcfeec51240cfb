"""Two networks side by side: the values are the measures' own, and the planted changes of order are found."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from tests.networks import NUM_CLASSES, images, mlp, residual, seeded, vectors
from torch import Tensor, nn

import thalweg as tw
from thalweg.analyses import sharpness_family
from thalweg.analyses.orderings import Ordering, change_with_mode, change_with_normalisation, changes, remarks
from thalweg.analyses.sharpness_family import Member
from thalweg.core.measurement import ErrorBudget, Measurement
from thalweg.report.order_tables import order_table


def relu_network(seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        seeded(seed)
        model = nn.Sequential(nn.Linear(5, 6, bias=False), nn.ReLU(), nn.Linear(6, NUM_CLASSES, bias=False))
    return model.double()


def rescaled(model: nn.Sequential, factor: float) -> nn.Sequential:
    """The same function: the first layer times the factor, the second through it."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[0].weight.mul_(factor)
        other[2].weight.div_(factor)
    return other


def run(model: nn.Module, data: tuple[Tensor, Tensor], **fields: str) -> tw.Run:
    return tw.Run(fields, lambda: model, {"data": data, "batch_size": 8})


def scaled_trace(objective: tw.Objective, *, seed: int, progress=None) -> tw.HessianTrace:
    """Each layer's trace times its squared norm: unmoved by rescaling a ReLU network without biases."""
    found = tw.hessian_trace(objective, rtol=1e-6, seed=seed, progress=progress)
    norms = {}
    for name, tensor in objective.named_params.items():
        layer = name.rpartition(".")[0]
        norms[layer] = norms.get(layer, 0.0) + float(tensor.square().sum())
    value = sum(norms[k] * float(t) for k, t in zip(found.layers, found.layer_traces, strict=True))
    return replace(found, value=value, error=ErrorBudget())


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> dict[str, Member]:
    """A raw and a normalised measure, both exact on these networks."""
    members = {
        "raw": Member(tw.hessian_trace, {"rtol": 1e-6}),
        "normalised": Member(scaled_trace, claims=frozenset({"permutation", "relu_rescaling"})),
    }
    monkeypatch.setattr(sharpness_family, "FAMILY", members)
    monkeypatch.setattr("thalweg.analyses.measure_choice.FAMILY", members)
    return members


def test_a_rescaled_copy_is_another_by_raw_measures_and_the_same_by_normalised(family):
    model, data = relu_network(0), vectors(21)
    rounded = []
    for factor in (3.0, 3.3, 5.0):
        copy = run(rescaled(model, factor), data)
        found = tw.compare(run(model, data), copy, names=("own", "rescaled"), seed=0)
        raw, normalised = found.rows
        assert raw.ordering.larger == "b"
        assert normalised.ordering.larger == "undecided"
        assert normalised.values[0] == pytest.approx(normalised.values[1])
        assert found.modes == (None, None)
        rounded.append(normalised.values[0] != normalised.values[1])
    assert any(rounded), "or the rounding was not tested; of one factor it hangs on the processor"


def test_an_order_planted_to_change_with_normalisation_is_marked(family):
    data = vectors(21)
    first, second = relu_network(0), relu_network(2)
    own = tw.compare(run(first, data), run(second, data), seed=0)
    raw, normalised = own.rows
    assert raw.ordering.larger == normalised.ordering.larger in ("a", "b")
    assert own.value == 0
    # Now the flatter one is rescaled until it is the sharper by the raw measure.
    flatter = second if raw.ordering.larger == "a" else first
    pair = [rescaled(m, 20) if m is flatter else m for m in (first, second)]
    found = tw.compare(run(pair[0], data), run(pair[1], data), names=("first", "second"), seed=0)
    assert [row.changes for row in found.rows] == [False, True]
    assert found.rows[0].ordering.larger != raw.ordering.larger
    assert found.rows[1].ordering.larger == normalised.ordering.larger
    assert found.value == 1
    assert any(line.startswith("Raw and normalised measures contradict each other") for line in found.remarks)


def test_rows_hold_what_the_measures_return():
    data = images(21)
    models = [residual(0), residual(1)]
    arguments = {
        "sam_sharpness_spread": {"batch_size": 7, "num_batches": 3},
        "sam_sharpness": {"radius": 0.1},
    }
    calls: list[tuple[int, int]] = []
    found = tw.compare(
        *(run(m, data) for m in models),
        measures=arguments,
        level=0.9,
        seed=3,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert len(found.rows) == 6
    place = 0
    for name, more in arguments.items():
        for mode in ("running", "recalibrated", "batch"):
            row = found.rows[place]
            assert (row.ordering.measure, row.ordering.mode) == (name, mode)
            for i, model in enumerate(models):
                objective = tw.Objective(model, data, batch_norm=mode, batch_size=8)
                expected = getattr(tw, name)(objective, **more, seed=3)
                assert row.values[i] == expected.value
                assert (row.lows[i], row.highs[i]) == expected.interval(0.9)
            place += 1
    assert [c[0] for c in calls] == sorted(c[0] for c in calls)
    assert calls[-1][0] == calls[-1][1]
    back = tw.Measurement.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert back == found
    assert back.rows == found.rows
    assert found == tw.compare(*(run(m, data) for m in models), measures=arguments, level=0.9, seed=3)


def test_without_batch_norm_one_of_the_two_is_measured_once():
    data = images(21)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(36, 3)).double()
    names = ["sam_sharpness", "line_slice"]
    found = tw.compare(run(residual(0), data), run(plain, data), measures=names, seed=0)
    assert found.modes == ("running", "recalibrated", "batch") * 2
    for i, name in enumerate(names):
        values = torch.tensor([row.values for row in found.rows[3 * i : 3 * i + 3]], dtype=torch.float64)
        assert len(set(values[:, 0].tolist())) == 3
        assert set(values[:, 1].tolist()) == {getattr(tw, name)(tw.Objective(plain, data), seed=0).value}


def test_objectives_are_compared_in_their_own_mode():
    a, b = (tw.Objective(residual(seed), images(21), batch_norm="batch", batch_size=8) for seed in (0, 1))
    found = tw.compare(a, b, measures=["sam_sharpness"], seed=0)
    assert found.modes == ("batch",)
    assert found.rows[0].values == tuple(tw.sam_sharpness(o, seed=0).value for o in (a, b))
    with pytest.raises(ValueError, match=r"`modes` must be the objectives' own, which are batch; pass runs"):
        tw.compare(a, b, modes="running", seed=0)
    other = tw.Objective(residual(1), images(21), batch_norm="running")
    with pytest.raises(ValueError, match=r"which are batch, running; .* give both objectives one mode"):
        tw.compare(a, other, seed=0)


def test_what_cannot_be_measured_of_one_says_why_and_the_rest_goes_on(monkeypatch):
    class Unstored(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.head = nn.BatchNorm1d(5, track_running_stats=False), nn.Linear(5, 3)

        def forward(self, x):
            return self.head(self.norm(x))

    def fussy(objective: tw.Objective, *, seed: int, progress=None) -> Measurement:
        if objective.has_batch_norm:
            raise ValueError("the loss never rises so far")
        return tw.sam_sharpness(objective, seed=seed, progress=progress)

    members = {"trace": Member(tw.hessian_trace), "fussy": Member(fussy)}
    monkeypatch.setattr("thalweg.analyses.measure_choice.FAMILY", members)
    data = vectors(21)
    found = tw.compare(run(Unstored().double(), data), run(mlp(), data), names=("x", "y"), seed=0)
    reasons = {(r.ordering.measure, r.ordering.mode): r.reason for r in found.rows}
    assert "x: `batch_norm='running'` needs stored statistics" in reasons["trace", "running"]
    assert reasons["trace", "batch"] == ""
    assert reasons["fussy", "batch"] == "x: the loss never rises so far"
    assert [r.ordering.larger for r in found.rows].count("not measured") == 4
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["values"]["tensor"][0] == [
        None,
        found.rows[0].values[1],
    ]
    with pytest.raises(
        tw.ConvergenceError, match="nothing could be measured of both networks; x: the loss never"
    ):
        tw.compare(
            run(Unstored().double(), data),
            run(mlp(), data),
            measures=["fussy"],
            modes="batch",
            names=("x", "y"),
            seed=0,
        )


def test_a_bad_argument_of_ones_own_is_told_before_anything_is_measured(monkeypatch):
    def never(objective, *, progress=None):
        raise AssertionError("measured")

    monkeypatch.setitem(sharpness_family.FAMILY, "trace", Member(never))
    a, b = (run(relu_network(seed), vectors(21)) for seed in (0, 1))
    for bad in ({"radius": 0.0}, {"num_steps": 0}):
        with pytest.raises(ValueError, match=f"^`{next(iter(bad))}` must be"):
            tw.compare(a, b, measures={"trace": {}, "sam_sharpness": bad}, seed=0)


def test_a_default_that_a_network_does_not_bear_is_a_reason(monkeypatch):
    """As the argument was nobody's choice."""
    monkeypatch.setitem(sharpness_family.FAMILY, "sam_sharpness", Member(tw.sam_sharpness, {"radius": 0.0}))
    a, b = (run(relu_network(seed), vectors(21)) for seed in (0, 1))
    result = tw.compare(a, b, measures=["sam_sharpness", "fisher_rao_norm"], seed=0)
    assert result.reasons[0].startswith("`radius` must be positive")
    assert not result.reasons[1]


def test_a_network_beside_itself_and_the_table_in_print():
    a, b = (run(relu_network(seed), vectors(21)) for seed in (0, 1))
    same = "The two are one network, in weights, statistics and data."
    alike = tw.compare(a, a, measures=["fisher_rao_norm"], seed=0)
    assert alike.remarks[0] == same
    other = tw.compare(a, b, measures=["fisher_rao_norm", "sam_sharpness"], seed=0)
    assert same not in other.remarks
    lines = str(other).splitlines()
    assert lines[0] == repr(other)
    assert [line.split()[0] for line in lines[1:4]] == ["measure", "fisher_rao_norm", "sam_sharpness"]
    assert f"{float(other.values[1, 0]):.6g}" in lines[3]
    assert lines[4:] == other.remarks


def test_what_an_ascent_found_is_compared_as_a_lower_bound():
    data = vectors(21)
    measures = {"keskar_sharpness": {}, "sam_sharpness": {"num_steps": 3}, "hessian_trace": {"rtol": 1e-6}}
    pair = [tw.Objective(relu_network(seed), data) for seed in (0, 2)]
    found = tw.compare(*pair, measures=measures, seed=0)
    assert [row.ordering.is_lower_bound for row in found.rows] == [True, True, False]
    assert {row.ordering.larger for row in found.rows} <= {"a", "b"}
    assert (
        "Decided by lower bounds, of what an ascent found: keskar_sharpness, sam_sharpness."
        in found.remarks[-1]
    )
    assert [row.kind for row in order_table(found).rows] == ["raw, lower bounds", "raw, lower bounds", "raw"]
    alone = tw.compare(*pair, measures=["hessian_trace"], seed=0)
    assert not any("lower bounds" in line for line in alone.remarks)


EIGENVALUES = {"top_eigenvalue": {}, "normalized_curvature": {"trace_rtol": None}}


def test_parameters_that_did_not_move_are_remarked_on():
    data, dead = vectors(21), mlp()
    with torch.no_grad():
        dead[0].weight[:, 0] = 0
    found = tw.compare(
        run(dead, data),
        run(mlp(), data),
        measures=["adaptive_sam_sharpness", "sam_sharpness", "adaptive_average_sharpness"],
        names=("x", "y"),
        seed=0,
    )
    num_zero, num_params = dead[0].weight.shape[0], sum(p.numel() for p in dead.parameters())
    said = f"Of x, {num_zero} of {num_params} parameters at nought do not move: "
    assert said + "adaptive_sam_sharpness, adaptive_average_sharpness." in found.remarks
    assert sum(r.startswith("Of y") for r in found.remarks) == 0


def test_one_reason_of_both_is_said_once():
    def never(objective: tw.Objective, *, seed: int, progress=None) -> Measurement:
        raise ValueError("never rises.")

    members = {"never": Member(never), "sam": Member(tw.sam_sharpness)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("thalweg.analyses.measure_choice.FAMILY", members)
        found = tw.compare(run(mlp(), vectors(21)), run(mlp(1), vectors(21)), seed=0)
    assert [r.reason for r in found.rows] == ["never rises", ""]


def test_eigenvalues_are_bounded_at_the_level_asked_for():
    """0.999 is 0.95 shared by fifty rows: what is decided at 0.95 by far must be decided still."""
    data = vectors(21)
    pair = [tw.Objective(rescaled(relu_network(0), factor), data) for factor in (1.0, 20.0)]
    found = tw.compare(*pair, measures=EIGENVALUES, level=0.999, seed=0)
    raw, normalised = found.rows
    assert raw.ordering.sharper == "b"
    assert all(map(math.isfinite, (*raw.highs, *normalised.highs)))
    given = found.provenance["arguments"]["measures"]
    assert given["top_eigenvalue"] == {"rtol": 1e-2, "confidence": 0.999}
    assert given["normalized_curvature"]["confidence"] == 0.999
    again = tw.top_eigenvalues(pair[0], rtol=1e-2, confidence=0.999, seed=0)
    assert (raw.lows[0], raw.highs[0]) == again.interval(0.999)
    usual = tw.compare(*pair, measures=EIGENVALUES, seed=0).provenance["arguments"]["measures"]
    assert usual["top_eigenvalue"] == {"rtol": 1e-2}, "the default of 0.99 is enough"


def test_a_confidence_that_was_given_stays():
    pair = [tw.Objective(relu_network(seed), vectors(21)) for seed in (0, 1)]
    found = tw.compare(*pair, measures={"top_eigenvalue": {"confidence": 0.9}}, seed=0)
    assert found.provenance["arguments"]["measures"]["top_eigenvalue"]["confidence"] == 0.9
    assert all(map(math.isinf, found.rows[0].highs))


def shape_and_settings() -> list[tuple[Callable[[], object], type[Exception], str]]:
    data, other = vectors(21), vectors(21, seed=1)
    a = run(mlp(0), data)

    def options(**more: object) -> tw.Run:
        return tw.Run({}, lambda: mlp(1), {"data": data, **more})

    broken = mlp(1)
    with torch.no_grad():
        broken[0].weight.fill_(math.nan)
    return [
        (lambda: tw.compare(a, run(mlp(1), other), seed=0), ValueError, "but their data differs"),
        (
            lambda: tw.compare(a, run(mlp(1), vectors(20)), seed=0),
            ValueError,
            "num_examples differs: 21 in `a`",
        ),
        (lambda: tw.compare(a, run(mlp(1).float(), data), seed=0), ValueError, "but their dtype differs"),
        (lambda: tw.compare(a, options(weight_decay=0.1), seed=0), ValueError, "weight_decay differs"),
        (
            lambda: tw.compare(a, options(loss=lambda outputs, y: outputs.square().sum(1)), seed=0),
            ValueError,
            "loss differs",
        ),
        (lambda: tw.compare(a, run(mlp(1, width=6), data), seed=0), ValueError, "b: `data` must fit `model`"),
        (lambda: tw.compare(a, run(broken, data), seed=0), tw.NonFiniteLossError, "^b: "),
        (
            lambda: tw.compare(a, mlp(1), seed=0),
            TypeError,
            "`b` must be a thalweg.Objective, the network with its data and loss, or a run",
        ),
        (
            lambda: tw.compare(a, a, names=("x", "x"), seed=0),
            ValueError,
            "`names` must be two different names",
        ),
        (lambda: tw.compare(a, a, level=95, seed=0), ValueError, r"`level` must lie in \(0, 1\), got 95"),
        (
            lambda: tw.compare(a, a, modes="frozen", seed=0),
            ValueError,
            "`modes` must be some of running, .* got 'frozen'",
        ),
        (lambda: tw.compare(a, a, measures=[], seed=0), ValueError, "`measures` must name at least one"),
        (
            lambda: tw.compare(a, a, measures=["linear_path"], seed=0),
            ValueError,
            "`measures` must be some of .* got 'linear_path'",
        ),
        (
            lambda: tw.compare(a, a, measures={"trace": {"radius": 1}}, seed=0),
            ValueError,
            "gives trace 'radius'; it takes .*rtol",
        ),
        (lambda: tw.compare(a, a, seed=None), TypeError, "`seed` must be an integer"),
    ]


@pytest.mark.parametrize("case", range(15))
def test_bad_input(case):
    call, error, words = shape_and_settings()[case]
    with pytest.raises(error, match=words):
        call()


def ordering(
    measure: str, mode: str | None, larger: str, flat: bool = False, sharper: bool = True
) -> Ordering:
    return Ordering(measure, mode, flat, larger, sharper)  # type: ignore[arg-type]


def test_changes_are_of_sharpness_not_of_numbers():
    """A width that is larger where the minimum is flatter agrees with a curvature that is smaller."""
    rows = [
        ordering("curvature", "running", "undecided"),
        ordering("curvature", "batch", "a"),
        ordering("width", "running", "b", sharper=False),
        ordering("width", "batch", "a", sharper=False),
        ordering("flatness", "batch", "b", flat=True),
        ordering("missing", "batch", "not measured"),
    ]
    assert changes(rows) == [False, False, False, True, True, False]
    assert change_with_mode(rows) == ["width"]
    # In batch mode raw ones contradict each other, so that they do not speak with one voice.
    assert change_with_normalisation(rows) == []
    assert change_with_normalisation([rows[1], rows[4]]) == [("batch", "a", "b")]
    assert remarks(rows, "x", "y")[:2] == [
        "4 of 6 rows are decided: sharper is x by 2 and y by 2.",
        "Marked rows decide the other way than the first one decided (curvature, batch norm batch).",
    ]
    assert remarks(rows[:1], "x", "y") == ["No row decides between x and y."]


def test_bounds_too_wide_to_decide_are_said_to_be():
    data = vectors()
    pair = [tw.Objective(relu_network(s), data) for s in (0, 1)]
    names = ["fisher_rao_norm", "trace", "sam_sharpness"]
    found = tw.compare(*pair, measures=names, seed=0)
    values = torch.tensor([[1.0, 1.5], [1.0, 1.5], [1.0, 9.0]], dtype=torch.float64)
    above = torch.tensor([[5.0, 5.0], [0.6, 0.6], [5.0, 5.0]], dtype=torch.float64)
    found = replace(found, values=values, lows=values, highs=values + above)
    assert [row.larger for row in found.orderings] == ["undecided", "undecided", "b"]
    assert [row.is_wide for row in found.orderings] == [True, False, False]
    assert "Bounds too wide" in found.remarks[-1]
    assert "fisher_rao_norm." in found.remarks[-1]
    assert "trace" not in found.remarks[-1]
    assert [row.answer for row in order_table(found).rows] == ["bound too wide", "undecided", "b"]

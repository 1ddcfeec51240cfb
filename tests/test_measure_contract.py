"""What every measure and analysis owes its caller: one test for all of `MEASURES` and `ANALYSES`."""

import functools
import inspect
import json
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pytest
import torch
from tests.devices import DEVICES
from tests.measures.topology.surfaces import surface_of
from tests.networks import images, mlp, residual, vectors
from torch import Tensor

import thalweg as tw
from thalweg.objective.batch_norm import MODES, BatchNormMode
from thalweg.operators.shared_proofs import shared_proofs


@dataclass(frozen=True)
class Call:
    """Cheap arguments for one measure, on 21 examples in batches of 8, 8 and 5."""

    arguments: dict[str, Any] = field(default_factory=dict)
    takes_two: bool = False
    takes_surface: bool = False
    seeded: bool = True
    # Results are compared to within this fraction of the larger between micro-batches and dtypes.
    rounding: float = 1e-9
    single: float = 1e-3


# What is measured on an objective, and what on a surface of one.
MEASURES = {**tw.MEASURES, **tw.ANALYSES, "persistence": tw.persistence}

# A measure that is not here fails `test_every_measure_has_an_entry`.
CALLS = {
    "top_eigenvalues": Call({"k": 2, "rtol": 1e-4}, rounding=1e-5, single=1e-2),
    "hessian_trace": Call({"rtol": 0.3}),
    "spectral_density": Call({"num_probes": 3, "num_steps": 4}),
    "block_curvature": Call({"num_probes": 3, "num_steps": 2}),
    "curvature_profile": Call({"max_matvecs": 12}),
    "mode_connectivity": Call(
        {"num_points": 5, "num_steps": 4, "plane_points": 7}, takes_two=True, single=1e-2
    ),
    "invariance_audit": Call({"members": ["sam_sharpness"]}),
    "sam_sharpness": Call({"num_steps": 2, "num_restarts": 2}),
    "sam_sharpness_spread": Call({"batch_size": 7, "num_batches": 3}),
    "keskar_sharpness": Call({"epsilon": 0.3, "num_steps": 2, "num_restarts": 2}),
    "average_sharpness": Call({"num_samples": 3, "population": True}),
    "pac_bayes_sigma": Call({"num_samples": 3}),
    "basin_width": Call({"num_directions": 2, "num_eigenvectors": 1}, rounding=1e-6),
    "critical_sharpness": Call(seeded=False),
    "normalized_curvature": Call(
        {"rtol": 1e-4, "norms": "projected", "trace_rtol": 0.3}, rounding=1e-5, single=1e-2
    ),
    "relative_flatness": Call({"weight": "*2.weight", "rtol": 0.2, "normalize_features": True}),
    "fisher_rao_norm": Call(seeded=False),
    "preconditioned_sharpness": Call({"lr": 0.1, "rtol": 1e-4}, rounding=1e-5, single=1e-2),
    "line_slice": Call({"num_points": 5, "num_directions": 2}),
    "plane_slice": Call({"num_points": (5, 3), "population": True}),
    "volume_slice": Call({"num_points": 3}),
    "linear_path": Call({"num_points": 5}, takes_two=True, seeded=False),
    "bezier_path": Call({"num_points": 5, "num_steps": 4}, takes_two=True),
    "align_permutation": Call({"num_restarts": 3}, takes_two=True),
    "gradient_noise": Call(
        {"k": 1, "num_probes": 2, "population": True, "rtol": 0.1}, rounding=1e-6, single=1e-2
    ),
    "sgd_temperature": Call(
        {"lr": 0.05, "num_directions": 2, "num_steps": 24, "burn_in": 4, "loss_every": 2, "rtol": 1e-5},
        rounding=1e-5,
        single=1e-2,
    ),
    # Of so few steps no test is asked whether they have settled.
    "temperature_scaling": Call(
        {
            "lrs": [0.02, 0.05],
            "batch_sizes": [8],
            "num_directions": 2,
            "num_steps": 20,
            "burn_in": 4,
            "loss_every": 5,
            "drift_level": 1e-9,
            "min_effective_size": 1.0,
            "rtol": 1e-5,
        },
        rounding=1e-5,
        single=1e-2,
    ),
    "batch_sharpness": Call({"batch_size": 7, "num_batches": 3}),
    "gradient_predictiveness": Call(
        {"learning_rates": [0.05, 0.2], "batch_size": 7, "num_batches": 3}, rounding=1e-8, single=1e-2
    ),
    "largest_stable_learning_rate": Call(
        {"batch_size": 7, "num_steps": 5, "loss_ratio": 0.95, "rtol": 0.3, "num_orders": 2}
    ),
    "basin_mass": Call(
        {"num_probes": 2, "num_steps": 4, "damping": [0.01, 0.1, 1.0]}, rounding=1e-6, single=1e-2
    ),
    "local_learning_coefficient": Call(
        {"num_chains": 2, "burn_in": 2, "num_steps": 16, "num_directions": 2}, rounding=1e-5, single=5e-2
    ),
    "persistence": Call({"num_draws": 50}, takes_surface=True),
}
NAMES = [name for name in MEASURES if name in CALLS]
# Of those that know float64, on which exactness is told.
PRECISE = [device for device in DEVICES if device != "mps"]


@pytest.fixture(autouse=True, scope="module")
def proofs_are_shared() -> None:
    """They are not, but where a test asks for `proved`."""


# What `proved` shares.
PROOFS: dict[Any, Any] = {}


@pytest.fixture
def proved() -> Iterator[None]:
    """Derivatives of one network are proved once; anew by every call of the tests that do without this."""
    with shared_proofs(PROOFS):
        yield


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small only wait for further threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network(seed: int, dtype: torch.dtype = torch.float64, device: str = "cpu") -> torch.nn.Module:
    return residual(seed, dtype).to(device)


def objectives(
    name: str,
    mode: BatchNormMode = "running",
    micro_batch: int = 11,
    dtype: torch.dtype = torch.float64,
    device: str = "cpu",
) -> list[tw.Objective]:
    """One objective, or two points of one function."""
    x, y = images(21)
    return [
        tw.Objective(
            network(seed, dtype, device),
            (x.to(dtype), y),
            batch_norm=mode,
            batch_size=8,
            micro_batch=micro_batch,
        )
        for seed in ([0, 1] if CALLS[name].takes_two else [0])
    ]


def measure(name: str, *args: tw.Objective, seed: int | None = 3, **more: Any) -> tw.Measurement:
    call = CALLS[name]
    seeded = {"seed": seed} if call.seeded else {}
    return MEASURES[name](*taken_by(name, args), **call.arguments, **seeded, **more)


def taken_by(name: str, args: Sequence[Any]) -> list[Any]:
    """The objectives themselves, or a surface of each."""
    takes_surface = CALLS[name].takes_surface
    return [surface_of(a) if takes_surface and isinstance(a, tw.Objective) else a for a in args]


@functools.cache
def reference(name: str, mode: BatchNormMode = "running", device: str = "cpu") -> tw.Measurement:
    """What the measure gives on one objective in double precision: computed once, never changed."""
    with shared_proofs(PROOFS):
        return measure(name, *objectives(name, mode, device=device))


def numbers(result: tw.Measurement) -> dict[str, Tensor]:
    """The value and every array of a result, in float64."""
    found = {"value": torch.tensor(result.value, dtype=torch.float64)}
    for f in fields(result):
        entry = getattr(result, f.name)
        if isinstance(entry, Tensor):
            found[f.name] = entry.double()
    return found


def test_every_measure_has_an_entry():
    assert set(MEASURES) == set(CALLS), "add the new measure's cheap arguments to CALLS"
    assert all(getattr(tw, name) is function for name, function in MEASURES.items())


@pytest.mark.parametrize("name", NAMES)
def test_the_bare_network_is_refused(name):
    given = [network(0)] * (2 if CALLS[name].takes_two else 1)
    wanted = (
        r"`\w+` must be a (thalweg.Objective|slice of the loss .*), .* got .*; (wrap it|measure one) first"
    )
    with pytest.raises(TypeError, match=wanted):
        measure(name, *given)


@pytest.mark.parametrize("device", PRECISE)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_touched_and_the_global_state_changes_nothing(name, mode, device, unchanged):
    first = reference(name, mode, device)
    data = tuple(t.to(device) for t in images(21))
    models = [network(seed, device=device) for seed in ([0, 1] if CALLS[name].takes_two else [0])]
    for model in models:
        model.eval()(data[0]).square().sum().backward()
        model.train()
        list(model.modules())[-1].eval()
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002 - the global state is the point
    random.seed(99)
    with unchanged(models, data):
        built = [tw.Objective(m, data, batch_norm=mode, batch_size=8, micro_batch=11) for m in models]
        points = [(o.params, o.buffers) for o in built]
        with unchanged(points):
            assert measure(name, *built) == first


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_results_survive_json(name, mode, tmp_path):
    result = reference(name, mode)
    assert isinstance(result, tw.Measurement)
    assert result.measure == name
    for arrays in (None, tmp_path):
        text = json.dumps(result.to_dict(arrays), allow_nan=False)
        back = tw.Measurement.from_dict(json.loads(text), arrays)
        assert type(back) is type(result)
        for f in fields(result):
            ours, theirs = getattr(result, f.name), getattr(back, f.name)
            if isinstance(ours, Tensor):
                assert isinstance(theirs, Tensor)
                assert ours.dtype == theirs.dtype
                assert torch.equal(ours.nan_to_num(), theirs.nan_to_num()), f.name
                assert torch.equal(ours.isnan(), theirs.isnan()), f.name
        assert back == result
        assert json.dumps(back.to_dict(arrays), allow_nan=False) == text


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("name", NAMES)
def test_what_a_result_says_of_itself(name):
    result = reference(name, "recalibrated")
    assert math.isfinite(result.value)
    low, high = result.interval()
    assert low <= result.value <= high
    assert "\n" not in repr(result)
    assert repr(result).startswith(f"{type(result).__name__}(")
    provenance = result.provenance
    assert provenance["function"] == name
    assert provenance["objective"]["batch_norm"] == "recalibrated"
    # Every argument but the objectives, the progress bar and the store, defaults included.
    signature = inspect.signature(MEASURES[name]).parameters
    left_out = {"objective", "a", "b", "trajectory", "surface", "progress", "store"}
    taken = {n for n in signature if n not in left_out}
    assert set(provenance["arguments"]) == taken
    for argument, value in CALLS[name].arguments.items():
        assert provenance["arguments"][argument] == value
    json.dumps(provenance, allow_nan=False)
    for entry in vars(result).values():
        assert not isinstance(entry, Tensor) or (entry.device.type == "cpu" and not entry.requires_grad)


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("name", [n for n in NAMES if CALLS[n].seeded])
def test_the_seed_matters_and_must_be_given(name):
    built = objectives(name)
    first, other = numbers(reference(name)), numbers(measure(name, *built, seed=4))
    assert any(not torch.equal(first[k], other[k]) for k in first), "another seed, other random numbers"
    with pytest.raises(TypeError, match="seed"):
        MEASURES[name](*taken_by(name, built), **CALLS[name].arguments)
    with pytest.raises(TypeError, match="`seed` must be an integer"):
        measure(name, *built, seed=None)


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("device", PRECISE)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_the_micro_batch_changes_nothing_beyond_rounding(name, mode, device):
    small = numbers(reference(name, mode, device))
    large = numbers(measure(name, *objectives(name, mode, 30, device=device)))
    tolerance = CALLS[name].rounding
    assert small["value"].item() == pytest.approx(large["value"].item(), rel=tolerance, abs=tolerance)
    assert {k: v.shape for k, v in small.items()} == {k: v.shape for k, v in large.items()}


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_every_device_and_dtype(name, mode, dtype, device):
    if device == "mps" and dtype == torch.float64:
        pytest.skip("this device knows no float64")
    exact = reference(name, mode)
    if (dtype, device) == (torch.float64, "cpu"):
        result = exact
    else:
        result = measure(name, *objectives(name, mode, dtype=dtype, device=device))
    tolerance = CALLS[name].rounding if dtype == torch.float64 else CALLS[name].single
    assert result.value == pytest.approx(exact.value, rel=tolerance, abs=tolerance)
    assert result.provenance["objective"]["dtype"] == str(dtype).removeprefix("torch.")
    assert result.provenance["objective"]["device"] == device
    for entry in vars(result).values():
        assert not isinstance(entry, Tensor) or entry.device.type == "cpu"


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("name", NAMES)
def test_without_batch_norm_the_modes_agree(name):
    values = set()
    for mode in MODES:
        built = [
            tw.Objective(mlp(seed), vectors(21), batch_norm=mode, batch_size=8, micro_batch=11)
            for seed in ([0, 1] if CALLS[name].takes_two else [0])
        ]
        values.add(measure(name, *built).value)
    assert len(values) == 1


def interrupt(name: str, built: Sequence[tw.Objective]) -> None:
    """Stop the measure at its first sign of progress."""

    def stop(_done: int, _total: int) -> None:
        raise KeyboardInterrupt("stop")

    with pytest.raises(KeyboardInterrupt, match="stop"):
        measure(name, *built, progress=stop)


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NAMES)
def test_an_interrupt_leaves_everything_as_it_was(name, mode, unchanged):
    built = objectives(name, mode)
    with unchanged([(o.params, o.buffers) for o in built]):
        interrupt(name, built)


@pytest.mark.usefixtures("proved")
@pytest.mark.parametrize("name", NAMES)
def test_progress_rises_to_its_total_also_after_an_interrupt(name):
    """What an objective keeps to itself, and could keep half done, are recalibrated statistics."""
    built = objectives(name, "recalibrated")
    interrupt(name, built)
    calls: list[tuple[int, int]] = []
    with_progress = measure(name, *built, progress=lambda done, total: calls.append((done, total)))
    assert calls, "no progress was reported"
    done = [c[0] for c in calls]
    assert done == sorted(done)
    assert calls[-1][0] == calls[-1][1]
    assert with_progress == reference(name, "recalibrated"), "watching changes nothing"


STOPPED_BY = r"example 0, in the batch of examples 0 to 10|not finite"


@pytest.mark.parametrize("name", NAMES)
def test_a_broken_network_is_never_measured_in_silence(name):
    built = [o.at(torch.full_like(o.params, math.nan)) for o in objectives(name)]
    with pytest.raises(tw.NonFiniteLossError, match=STOPPED_BY):
        measure(name, *built)

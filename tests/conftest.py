"""Fixtures for all tests: above all the check that nothing of the user's was touched."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from thalweg.operators.shared_proofs import shared_proofs

# `from tests.networks import ...` works however pytest was started.
ROOT = str(Path(__file__).parents[1])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)


def pytest_configure(config: pytest.Config) -> None:
    """Torch's own first `jvp` loads decompositions that it compiles with its own deprecated compiler."""
    config.addinivalue_line("filterwarnings", "ignore:`torch.jit.script` is deprecated:DeprecationWarning")
    _take_shapes_from_cpp()


def _take_shapes_from_cpp() -> None:
    """Leave the shapes of sums and products without entries to torch's rules in C++.

    In forward mode what is multiplied or added to a tangent of nought is found by shape alone. Rules in
    Python, which torch puts in front of its own for shapes that are symbols, then cost as much as all else in
    a derivative of a network as small as the tests'.
    """
    library = torch._meta_registrations._meta_lib_dont_use_me_use_register_meta
    in_python = {name.split("/")[1] for name in library._op_impls}
    library._destroy()
    again = torch.library.Library("aten", "IMPL", "Meta")
    torch._meta_registrations._meta_lib_dont_use_me_use_register_meta = again
    for name in in_python - {f"{op}.Tensor" for op in ("add", "sub", "mul", "div")}:
        packet, _, overload = name.partition(".")
        op = getattr(getattr(torch.ops.aten, packet), overload or "default")
        again.impl(op, op.py_kernels[torch._C.DispatchKey.Meta])


HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_load_state_dict_pre_hooks",
)


def _bits(t: Tensor | None) -> Any:
    """Everything about a tensor, bit for bit: NaN and the sign of nought too."""
    if t is None:
        return None
    flat = t.detach().cpu().contiguous().reshape(-1)
    data = flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""
    return str(t.dtype), tuple(t.shape), str(t.device), t.requires_grad, t.data_ptr(), data


def _rng_state() -> dict[str, Any]:
    _, key, position, has_gauss, gauss = np.random.get_state(legacy=True)  # noqa: NPY002 - the one checked
    state: dict[str, Any] = {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (np.asarray(key).tobytes(), position, has_gauss, gauss),
        "python": random.getstate(),
    }
    if torch.cuda.is_available():
        state["cuda"] = [s.numpy().tobytes() for s in torch.cuda.get_rng_state_all()]
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state().numpy().tobytes()
    return state


def _precisions() -> list[Any]:
    """The switches of torch's older interface, or that it refuses to read them, and of its newer one."""
    older = (torch.get_float32_matmul_precision, lambda: torch.backends.cudnn.allow_tf32)
    found: list[Any] = []
    for read in older:
        try:
            found.append(read())
        except RuntimeError:
            found.append("mixed")
    b = torch.backends
    operations = (b.cuda.matmul, *(getattr(x, k, None) for x in (b.cudnn, b.mkldnn) for k in ("conv", "rnn")))
    return [*found, *(getattr(operation, "fp32_precision", None) for operation in operations)]


def _state_of(*things: Any) -> dict[str, Any]:
    state: dict[str, Any] = {
        "rng": _rng_state(),
        "grad_mode": torch.is_grad_enabled(),
        "default_dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "cudnn": [getattr(torch.backends.cudnn, k) for k in ("enabled", "benchmark", "deterministic")],
        "tf32": _precisions(),
    }
    for i, thing in enumerate(things):
        if isinstance(thing, nn.Module):
            for name, p in thing.named_parameters(remove_duplicate=False):
                state[f"{i}.{name}"] = _bits(p)
                state[f"{i}.{name}.grad"] = _bits(p.grad)
            for name, b in thing.named_buffers(remove_duplicate=False):
                state[f"{i}.{name}"] = _bits(b)
            for name, module in thing.named_modules(remove_duplicate=False):
                state[f"{i}.{name}.training"] = module.training
                state[f"{i}.{name}.hooks"] = {h: list(getattr(module, h)) for h in HOOKS}
                tracking = getattr(module, "track_running_stats", None)
                state[f"{i}.{name}.tracking"] = tracking
        elif isinstance(thing, Tensor):
            state[f"{i}"] = _bits(thing)
        elif isinstance(thing, np.ndarray):
            state[f"{i}"] = (thing.dtype, thing.shape, thing.tobytes())
        elif isinstance(thing, dict):
            state |= {f"{i}.{k}": v for k, v in _state_of(*thing.values()).items() if k[0].isdigit()}
        elif isinstance(thing, tuple | list):
            state |= {f"{i}.{k}": v for k, v in _state_of(*thing).items() if k[0].isdigit()}
        else:
            raise TypeError(f"no state of a {type(thing).__name__}")
    return state


def _differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    return sorted(k for k in before.keys() | after.keys() if before.get(k) != after.get(k))


@pytest.fixture
def state_of() -> Callable[..., dict[str, Any]]:
    """``state_of(model, tensor, ...)``: a snapshot that compares bit for bit.

    Parameters, buffers, ``.grad``, train/eval flags and hooks of every module, tensors and arrays, the
    global generators of torch, NumPy and Python, and torch's global switches.
    """
    return _state_of


@pytest.fixture
def unchanged() -> Callable[..., AbstractContextManager[None]]:
    """``with unchanged(model, x): ...`` fails if anything that `state_of` sees is different afterwards."""

    @contextmanager
    def check(*things: Any) -> Iterator[None]:
        before = _state_of(*things)
        try:
            yield
        finally:
            changed = _differences(before, _state_of(*things))
            assert not changed, f"changed: {', '.join(changed)}"

    return check


@pytest.fixture(autouse=True)
def _seed_global_generators() -> None:
    """Tests see the same global generators whatever ran before them."""
    torch.manual_seed(1234)
    np.random.seed(1234)  # noqa: NPY002 - the global state is what is set
    random.seed(1234)


@pytest.fixture(autouse=True, scope="module")
def proofs_are_shared() -> Iterator[None]:
    """What derivatives are right is proved once a module for each network and matrix, not by every call.

    That the proof sees what is wrong, and that every operator is proved, is what `tests/operators` tests,
    which does without, as do the tests of every measure's contract.
    """
    with shared_proofs({}):
        yield


@pytest.fixture
def toy_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the networks of the toy study, ``toy_networks``, which this process can import.

    Studies take it for one core: several threads, in several tests at once, spend their time in waiting.
    """
    from tests.study.toy import write_module

    monkeypatch.setattr("thalweg.study.study.cores", lambda: 1)
    write_module(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "toy_networks", raising=False)
    return tmp_path

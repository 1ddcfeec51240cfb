"""Runs and weights on disk: safetensors with JSON in its header, so no code runs on load.

A checkpoint is a single file, written under a temporary name and renamed: a kill leaves the old one or the
new one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from thalweg.core.atomic import replacing

# Key of the JSON text in the file's header, which marks a file as one of ours.
HEADER_KEY = "thalweg_checkpoint"
# The same of what stands beside weights alone.
WEIGHTS_KEY = "thalweg_weights"
MODEL, OPTIMIZER, GENERATOR = "model/", "optimizer/", "generator/"

# Under these keys training scripts wrap a state dictionary in a larger one.
WRAPPER_KEYS = ("state_dict", "model_state_dict", "model")
# What torch's own wrappers put before every name: data parallel, torch.compile.
WRAPPER_PREFIXES = ("module.", "_orig_mod.")
NAMES_SHOWN = 3


@dataclass(frozen=True)
class Checkpoint:
    """Everything that the rest of a run depends on.

    Parameters
    ----------
    tensors
        By name, each under `MODEL`, `OPTIMIZER` or `GENERATOR`.
    header
        The rest, JSON-safe.
    """

    tensors: dict[str, Tensor]
    header: dict[str, Any]

    @classmethod
    def capture(cls, model: nn.Module, optimizer: Optimizer, header: Mapping[str, Any]) -> Checkpoint:
        """Take the model's, the optimiser's and the global generators' state as they are now."""
        optimizer_state = optimizer.state_dict()
        tensors = {MODEL + name: tensor for name, tensor in state_tensors(model).items()}
        for index, entries in optimizer_state["state"].items():
            for key, entry in entries.items():
                if entry is not None:  # SGD without momentum keeps None
                    tensors[f"{OPTIMIZER}{index}/{key}"] = torch.as_tensor(entry)
        device = next(model.parameters()).device
        tensors |= {GENERATOR + name: state for name, state in _generator_states(device).items()}
        return cls(tensors, {**header, "optimizer_groups": optimizer_state["param_groups"]})

    def restore(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Put the captured state back."""
        _copy_into(model, self._under(MODEL))
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in self._under(OPTIMIZER).items():
            index, _, key = name.partition("/")
            parameter = parameters[int(index)]
            # In the parameter's own memory layout, so that every later step takes the same kernels.
            entry = torch.empty_like(parameter).copy_(tensor) if tensor.shape == parameter.shape else tensor
            state.setdefault(int(index), {})[key] = entry
        optimizer.load_state_dict({"state": state, "param_groups": self.header["optimizer_groups"]})
        _set_generator_states(self._under(GENERATOR), next(model.parameters()).device)

    def save(self, path: str | Path) -> None:
        """Write the checkpoint; the old one at `path` stays until the new one is whole."""
        _write(path, self.tensors, {HEADER_KEY: json.dumps(self.header)})

    @classmethod
    def load(cls, path: str | Path) -> Checkpoint:
        """Read a checkpoint.

        Raises
        ------
        ValueError
            If the file is not one or is damaged.
        """
        tensors, metadata = _read_safetensors(Path(path))
        if HEADER_KEY not in metadata:
            raise ValueError(f"{path} is no checkpoint of a training run; name another folder or remove it.")
        return cls(tensors, json.loads(metadata[HEADER_KEY]))

    def _under(self, prefix: str) -> dict[str, Tensor]:
        return _under(prefix, self.tensors)


def save_weights(path: str | Path, model: nn.Module, header: Mapping[str, Any] | None = None) -> None:
    """Write the model's state dictionary as plain safetensors that anyone can load; see `weights_header`."""
    _write(path, state_tensors(model), {WEIGHTS_KEY: json.dumps(header)} if header else None)


def weights_header(path: str | Path) -> dict[str, Any]:
    """What `save_weights` was told to write beside the weights; empty if nothing."""
    return json.loads(_read_safetensors(Path(path))[1].get(WEIGHTS_KEY, "{}"))


def load_weights(path: str | Path, model: nn.Module) -> None:
    """Load weights from a user's file into `model`, all or nothing.

    Parameters
    ----------
    path
        ``.safetensors``; anything else is read as a torch file with ``weights_only=True``. A dictionary that
        wraps the weights under ``state_dict``, ``model_state_dict`` or ``model`` is unwrapped, and a prefix
        ``module.`` or ``_orig_mod.`` that every name carries is dropped. A checkpoint of `train` gives its
        model.
    model
        Gets the weights, cast to its own dtypes. It stays as it was if anything is wrong.

    Raises
    ------
    ValueError
        In one line, naming them: missing or unexpected keys, wrong shapes, an unreadable file.
    """
    path = Path(path)
    weights = _unwrapped(_read_weights(path), model)
    own = state_tensors(model)
    # A tied tensor needs only one of its names in the file.
    given = {own[name].data_ptr() for name in weights if name in own and own[name].numel()}
    missing = [name for name in own if name not in weights and own[name].data_ptr() not in given]
    unexpected = [name for name in weights if name not in own]
    if missing or unexpected:
        parts = [f"lacks {_listed(missing)}"] if missing else []
        parts += [f"has unexpected {_listed(unexpected)}"] if unexpected else []
        raise ValueError(
            f"`checkpoint` {path} does not fit {type(model).__name__}: it {' and '.join(parts)}."
        )
    wrong = [name for name in weights if weights[name].shape != own[name].shape]
    if wrong:
        shapes = [
            f"{name} of shape {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}"
            for name in wrong
        ]
        raise ValueError(
            f"`checkpoint` {path} does not fit {type(model).__name__}: it has {_listed(shapes)}."
        )
    _copy_into(model, weights)


def state_tensors(model: nn.Module) -> dict[str, Tensor]:
    """State dictionary of `model`; other entries than tensors (``get_extra_state``) are refused."""
    state = model.state_dict()
    odd = [name for name, entry in state.items() if not isinstance(entry, Tensor)]
    if odd:
        raise ValueError(f"`model` keeps state that is no tensor ({_listed(odd)}); make it a buffer.")
    return state


def _copy_into(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    # In place, so that the optimiser's references and the memory layout stay.
    own = state_tensors(model)
    with torch.no_grad():
        for name, tensor in tensors.items():
            own[name].copy_(tensor)


def _write(path: str | Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None) -> None:
    # Copies: safetensors takes neither shared memory (tied weights) nor other layouts than the plain one.
    plain = {k: t.detach().cpu().clone(memory_format=torch.contiguous_format) for k, t in tensors.items()}
    with replacing(path) as partial:
        save_file(plain, partial, metadata)


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(f"`checkpoint` {path} cannot be read as safetensors: {_reason(error)}.") from error


def _read_weights(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise ValueError(f"`checkpoint` {path} is not a file.")
    if path.suffix == ".safetensors":
        tensors, metadata = _read_safetensors(path)
        return _under(MODEL, tensors) if HEADER_KEY in metadata else tensors
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no torch file fail in as many ways as there are bytes
        raise ValueError(
            f"`checkpoint` {path} cannot be read as a torch file of weights alone, such as "
            f"torch.save(model.state_dict(), ...) writes: {type(error).__name__}, {_reason(error)}."
        ) from error
    if not isinstance(weights, Mapping):
        raise ValueError(
            f"`checkpoint` {path} must hold a state dictionary, got {type(weights).__name__}; "
            "save model.state_dict()."
        )
    return weights


def _unwrapped(weights: Mapping[str, Any], model: nn.Module) -> dict[str, Tensor]:
    for key in WRAPPER_KEYS:
        if isinstance(weights.get(key), Mapping):
            weights = weights[key]
            break
    own = model.state_dict()
    for prefix in WRAPPER_PREFIXES:
        wrapped = bool(weights) and all(str(name).startswith(prefix) for name in weights)
        if wrapped and not all(name.startswith(prefix) for name in own):
            weights = {name.removeprefix(prefix): entry for name, entry in weights.items()}
    odd = [str(name) for name, entry in weights.items() if not isinstance(entry, Tensor)]
    if odd:
        raise ValueError(f"`checkpoint` must hold tensors alone, but {_listed(odd)} is none.")
    return {str(name): entry for name, entry in weights.items()}


def _generator_states(device: torch.device) -> dict[str, Tensor]:
    version, words, gauss = random.getstate()
    # Keys and position are 32-bit integers; the pending Gaussian number is not used by our own code, but a
    # user's augmentation may, so it goes along as a float.
    numpy_state: Any = np.random.get_state(legacy=False)  # noqa: NPY002 - the state of the global generator
    states = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor([version, *words]),
        "python_gauss": torch.tensor([] if gauss is None else [gauss], dtype=torch.float64),
        "numpy": torch.from_numpy(numpy_state["state"]["key"].astype(np.int64)),
        "numpy_rest": torch.tensor(
            [numpy_state["state"]["pos"], numpy_state["has_gauss"], numpy_state["gauss"]], dtype=torch.float64
        ),
    }
    if device.type == "cuda":
        states["device"] = torch.cuda.get_rng_state(device)
    elif device.type == "mps":
        states["device"] = torch.mps.get_rng_state()
    return states


def _set_generator_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["torch"])
    version, *words = states["python"].tolist()
    gauss = states["python_gauss"].tolist()
    random.setstate((version, tuple(words), gauss[0] if gauss else None))
    position, has_gauss, number = states["numpy_rest"].tolist()
    key = states["numpy"].numpy().astype(np.uint32)
    np.random.set_state(("MT19937", key, int(position), int(has_gauss), number))  # noqa: NPY002
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["device"], device)
    elif device.type == "mps":
        torch.mps.set_rng_state(states["device"])


def _listed(names: list[str]) -> str:
    rest = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__

"""What every measure returns: a value, its error budget, and what produced it."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from thalweg.core.arguments import check_fraction
from thalweg.core.atomic import replacing
from thalweg.core.distributions import student_quantile
from thalweg.core.rounding import at_least

# Arrays up to this many entries stay in the JSON text; larger ones go to a safetensors file beside it.
INLINE_ENTRIES = 4096


# A half-width below this part of the value is rounding.
ROUNDING = 1e-12


@dataclass(frozen=True)
class StandardError:
    """A standard error with the degrees of freedom it was estimated on (infinite if known exactly)."""

    value: float
    dof: float = math.inf

    def __post_init__(self) -> None:
        if self.value < 0:
            raise ValueError(f"`value` of a standard error must be >= 0, got {self.value}.")

    def half_width(self, level: float) -> float:
        """Half the two-sided Student interval at confidence `level`."""
        if math.isnan(self.value) or not self.dof > 0:
            return math.inf  # one sample says nothing about the spread
        return 0.0 if self.value == 0 else float(student_quantile(0.5 + level / 2, self.dof)) * self.value


@dataclass(frozen=True)
class ErrorBudget:
    """Where the uncertainty of one number comes from. ``None`` means exact in that respect.

    Parameters
    ----------
    solver
        Bound on the error an iterative solver left, in the unit of the value.
    probe
        Standard error from random probe vectors, directions or restarts.
    data
        Standard error from having used a sample of the examples the number is about.
    grid
        What the points of a grid may have missed of a maximum between them, as a smooth function would: an
        estimate, neither a bound nor random.
    """

    solver: float | None = None
    probe: StandardError | None = None
    data: StandardError | None = None
    grid: float | None = None

    def __post_init__(self) -> None:
        for name, kind in (("solver", "a bound"), ("grid", "an estimate")):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise ValueError(f"`{name}` must be {kind} >= 0 or None for exact, got {value}.")

    def half_width(self, level: float = 0.95) -> float:
        """Half-width of the interval: Student quantiles of independent parts in quadrature, then the rest."""
        statistical = math.hypot(*(part.half_width(level) for part in (self.probe, self.data) if part))
        return statistical + (self.solver or 0.0) + (self.grid or 0.0)

    def to_dict(self) -> dict[str, Any]:
        """JSON-safe form; ``null`` means exact, and infinity is the text ``"inf"``."""
        return {
            "solver": _number(self.solver),
            "probe": self.probe and {"value": _number(self.probe.value), "dof": _number(self.probe.dof)},
            "data": self.data and {"value": _number(self.data.value), "dof": _number(self.data.dof)},
            **({} if self.grid is None else {"grid": _number(self.grid)}),
        }

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ErrorBudget:
        """Inverse of `to_dict`."""

        def part(entry: Mapping[str, Any] | None) -> StandardError | None:
            if entry is None:
                return None
            value = math.nan if entry["value"] is None else float(entry["value"])
            return StandardError(value, float(entry["dof"]))

        solver, grid = (None if raw.get(name) is None else float(raw[name]) for name in ("solver", "grid"))
        return cls(solver, part(raw.get("probe")), part(raw.get("data")), grid)


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Base of all results. `value` is the headline number; sub-classes add the arrays worth plotting.

    Parameters
    ----------
    value
        The headline number, in the unit the sub-class states.
    error
        Its error budget.
    provenance
        What two identical runs share: function, arguments, hashes, modes. No clock, host or path.
    """

    value: float
    error: ErrorBudget = field(default_factory=ErrorBudget)
    provenance: Mapping[str, Any] = field(default_factory=dict)

    # Name of the function that returns this class; also the registry of all result classes.
    measure: ClassVar[str] = ""
    classes: ClassVar[dict[str, type[Measurement]]] = {}

    # What the value is, in words, where the name of the class does not say it.
    quantity: ClassVar[str] = ""

    # Whether the value bounds the quantity from below, however exact it is as a number.
    is_lower_bound: ClassVar[bool] = False

    # Attributes with one entry for each part, a layer say, the parts' names first: what a table shows.
    per_part: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.measure:
            Measurement.classes[cls.measure] = cls
        # Set before the dataclass decorator looks, which would print every tensor and compare them with ==.
        for name in ("__repr__", "__eq__", "__hash__"):
            if name not in cls.__dict__:
                setattr(cls, name, getattr(cls, name))  # of the nearest base

    def __eq__(self, other: object) -> bool:
        """Same class and same fields; NaN equals NaN, tensors compare by dtype, shape and entries."""
        return type(self) is type(other) and all(
            _same(getattr(self, f.name), getattr(other, f.name)) for f in dataclasses.fields(self)
        )

    def __hash__(self) -> int:
        return hash((type(self), str(self.value)))

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Two-sided interval for the value at confidence `level`.

        Of a lower bound (`is_lower_bound`) it is that of the number, not of what that bounds.
        """
        check_fraction("level", level, "0.95 is customary")
        half = self.error.half_width(level)
        return self.value - half, self.value + half

    def __repr__(self) -> str:
        half = self.error.half_width(0.95)
        # A grid that shows no error may have missed one all the same.
        no_grid = self.error.grid is None
        is_exact = no_grid and math.isfinite(self.value) and half <= ROUNDING * abs(self.value)
        kinds = ["95 %"] if self.error.probe or self.error.data else []
        kinds += [] if no_grid else ["grid estimated"]
        spread = "exact" if is_exact else f"± {half:.2g} ({', '.join(kinds) or 'bound'})"
        if is_exact and self.provenance.get("converged") is False:
            spread = ""  # as far as it went
        quantity = f"{self.quantity} " if self.quantity else ""
        number = f"{self.value:.6g} {spread}".strip()
        if self.is_lower_bound and is_exact:
            number = f"at least {at_least(self.value)}"
        return f"{type(self).__name__}({', '.join([quantity + number, *self._circumstances()])})"

    def _circumstances(self) -> list[str]:
        """What the one line says after the numbers: of which function, of which data."""
        mode = [f"batch norm {self.batch_norm}"] if self.batch_norm else []
        all_taken = self.provenance.get("sampling", {}).get("taken") == "all examples"
        unfinished = ["not converged"] if self.provenance.get("converged") is False else []
        whole = ["all examples, as samples would be as many"] if all_taken else []
        return [*unfinished, *whole, *self.held, *mode]

    @property
    def held(self) -> list[str]:
        """In words: how many parameters did not move with the others, or lost digits when they did."""
        rest = self.provenance.get("at_rest") or {}
        return [
            f"{rest[kind]:,} of {rest['of']:,} parameters {words}"
            for kind, words in (("zero", "at nought do not move"), ("underflow", "underflow when scaled"))
            if rest.get(kind)
        ]

    @property
    def batch_norm(self) -> str | None:
        """Batch-norm mode of the function measured, or ``None`` if it has no batch norm."""
        objective = self.provenance.get("objective", {})
        return objective.get("batch_norm") if objective.get("has_batch_norm", True) else None

    def to_dict(self, arrays: str | Path | dict[str, Tensor] | None = None) -> dict[str, Any]:
        """JSON-safe form; NaN becomes ``null``, an infinity the text ``"inf"`` or ``"-inf"``.

        Parameters
        ----------
        arrays
            Folder for tensors of more than 4,096 entries, each a safetensors file named by its hash; or a
            dictionary, which gets them under that name. Without one, such tensors are left out and named
            under ``"omitted"``.
        """
        head = {
            "measure": self.measure,
            "value": _number(self.value),
            "error": self.error.to_dict(),
            "provenance": jsonable(self.provenance),
        }
        folder = Path(arrays) if isinstance(arrays, str) else arrays
        omitted = []
        for f in dataclasses.fields(self):
            if f.name in head:
                continue
            entry = getattr(self, f.name)
            if isinstance(entry, Tensor) and entry.numel() > INLINE_ENTRIES:
                if folder is None:
                    omitted.append(f.name)
                else:
                    head[f.name] = _save_array(entry, folder)
            else:
                head[f.name] = jsonable(entry, folder)
        if omitted:
            head["omitted"] = omitted
        return head

    @classmethod
    def from_dict(
        cls, raw: Mapping[str, Any], arrays: str | Path | Mapping[str, Tensor] | None = None
    ) -> Measurement:
        """Inverse of `to_dict`: the result of the class that ``raw["measure"]`` names.

        Tensors that were left out come back as ``None``, and so does what an earlier version did not write,
        numbers as NaN; keys the class does not know are ignored, so a record can be passed as it is.
        """
        try:
            result = cls.classes[raw["measure"]]
        except KeyError:
            raise ValueError(
                f"unknown measure {raw.get('measure')!r}; known: {', '.join(cls.classes)}."
            ) from None
        kwargs: dict[str, Any] = {}
        for f in dataclasses.fields(result):
            if f.name == "value":
                kwargs["value"] = math.nan if raw["value"] is None else float(raw["value"])
            elif f.name == "error":
                kwargs["error"] = ErrorBudget.from_dict(raw["error"])
            elif f.name == "provenance":
                kwargs["provenance"] = raw["provenance"]
            elif (
                f.name in {*raw, *raw.get("omitted", ())}
                or f.default is f.default_factory is dataclasses.MISSING
            ):
                entry = _restore(raw.get(f.name), arrays)
                # Annotations are text here; a field that is always a number had NaN where JSON has null.
                if f.type in ("float", float):
                    entry = math.nan if entry is None else float(entry)
                kwargs[f.name] = entry
        return result(**kwargs)


def hash_tensors(*tensors: Tensor) -> str:
    """First 16 hex digits of the SHA-256 of dtypes, shapes and bytes."""
    digest = hashlib.sha256()
    for tensor in tensors:
        t = tensor.detach().cpu().contiguous()
        digest.update(f"{t.dtype}{tuple(t.shape)}".encode())
        digest.update(t.reshape(-1).view(torch.uint8).numpy().data if t.numel() else b"")
    return digest.hexdigest()[:16]


def _number(x: float | None) -> float | str | None:
    # JSON has neither: NaN is null, and an infinity is text.
    if x is None or math.isnan(x):
        return None
    return float(x) if math.isfinite(x) else str(float(x))


def jsonable(x: Any, arrays: Path | dict[str, Tensor] | None = None) -> Any:
    """What JSON can hold; tensors of a measurement go to the folder `arrays` where they are large."""
    match x:
        case None | bool() | int() | str():
            return x
        case float():
            return _number(x)
        case np.generic():
            return jsonable(x.item())
        case Tensor():
            t = x.detach().cpu()
            values = t.double() if t.is_floating_point() else t
            return {
                "tensor": jsonable(values.tolist()),
                "shape": list(t.shape),
                "dtype": str(t.dtype).removeprefix("torch."),
            }
        case np.ndarray():
            return jsonable(torch.from_numpy(x))
        case Measurement():
            return x.to_dict(arrays)
        case Mapping():
            return {str(k): jsonable(v, arrays) for k, v in x.items()}
        case list() | tuple():
            return [jsonable(v, arrays) for v in x]
    if dataclasses.is_dataclass(x) and not isinstance(x, type):
        return jsonable(dataclasses.asdict(x), arrays)
    raise TypeError(f"{type(x).__name__} has no JSON form; use numbers, text, tensors or measurements.")


def _same(a: Any, b: Any) -> bool:
    match a, b:
        case Tensor(), Tensor():
            if a.dtype != b.dtype or a.shape != b.shape:
                return False
            a, b = a.detach().cpu(), b.detach().cpu()
            return bool(((a == b) | (a.isnan() & b.isnan())).all())
        case float(), float():
            return a == b or (math.isnan(a) and math.isnan(b))
        case Mapping(), Mapping():
            return a.keys() == b.keys() and all(_same(a[k], b[k]) for k in a)
        case ((list() | tuple()), (list() | tuple())):
            # JSON has one kind of sequence.
            return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and bool(a == b)


def _restore(x: Any, arrays: str | Path | Mapping[str, Tensor] | None) -> Any:
    match x:
        case {"tensor": values, "shape": shape, "dtype": dtype}:
            return _nan_tensor(values, shape, getattr(torch, dtype))
        case {"array": name}:
            if arrays is None or isinstance(arrays, Mapping):
                return arrays and arrays[name]
            return load_file(Path(arrays) / name)["array"]
        case {"measure": _, "value": _, "error": _}:
            return Measurement.from_dict(x, arrays)
        case dict():
            return {k: _restore(v, arrays) for k, v in x.items()}
        case list():
            return tuple(_restore(v, arrays) for v in x)
    return x


def _nan_tensor(values: Any, shape: list[int], dtype: torch.dtype) -> Tensor:
    # NumPy reads None as NaN when told the dtype, and keeps integers exact otherwise.
    array = np.array(values, dtype=np.float64 if dtype.is_floating_point else None).reshape(shape)
    return torch.from_numpy(array).to(dtype)


def _save_array(tensor: Tensor, folder: Path | dict[str, Tensor]) -> dict[str, Any]:
    name = f"{hash_tensors(tensor)}.safetensors"
    if isinstance(folder, dict):
        folder[name] = tensor.detach().cpu()
    elif not (folder / name).exists():
        with replacing(folder / name) as partial:
            save_file({"array": tensor.detach().cpu().contiguous()}, partial)
    return {"array": name, "shape": list(tensor.shape)}

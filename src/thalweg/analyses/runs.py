"""Networks trained elsewhere, told apart by named fields, each loaded when it is measured."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from torch import nn

from thalweg.analyses.run_files import Value, in_words, run_files
from thalweg.models.registry import seeded_model
from thalweg.objective.batch_norm import BatchNormMode
from thalweg.objective.examples import read_examples
from thalweg.objective.losses import Loss
from thalweg.objective.objective import Objective
from thalweg.training.checkpoint import load_weights


@dataclass(frozen=True, repr=False)
class Run:
    """One trained network, and how to get its objective in any batch-norm mode.

    Parameters
    ----------
    fields
        What tells it from others: ``{"recipe": "sam", "seed": 3}``.
    build
        Makes the model. Arguments without a default are given the fields of their names; a single one of
        another name, all fields as a dictionary.
    options
        What `Objective` takes beside the model and the mode, the data first of all.
    path
        Weights that are loaded into the model; ``None`` to take it as it is built.
    """

    fields: Mapping[str, Value]
    build: Callable[..., nn.Module]
    options: Mapping[str, Any]
    path: Path | None = None

    def network(self) -> nn.Module:
        """The model with its weights, in eval mode: a fresh copy, whatever `build` returned.

        Raises
        ------
        ValueError
            If it cannot be built, or the weights do not fit; names the file, and the tensor.
        """
        arguments = self._arguments()
        label = f"{getattr(self.build, '__qualname__', type(self.build).__name__)} for {self.label}"
        built = seeded_model(lambda: self.build(*arguments[0], **arguments[1]), 0, "build", label)
        network = copy.deepcopy(built).eval()
        if self.path is not None:
            load_weights(self.path, network)
        return network

    def objective(self, batch_norm: BatchNormMode = "running") -> Objective:
        """The network with its data and loss."""
        return Objective(self.network(), batch_norm=batch_norm, **self.options)

    @property
    def label(self) -> str:
        """Its fields in words, or its file where it has none."""
        return in_words(self.fields) or (self.path.name if self.path else "the network")

    def __repr__(self) -> str:
        return f"Run({', '.join([self.label, *([str(self.path)] if self.path else [])])})"

    def _arguments(self) -> tuple[list[Any], dict[str, Any]]:
        try:
            parameters = inspect.signature(self.build).parameters.values()
        except (TypeError, ValueError):  # written in C
            return [], {}
        variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
        needed = [p.name for p in parameters if p.default is p.empty and p.kind not in variable]
        if all(name in self.fields for name in needed):
            return [], {name: self.fields[name] for name in needed}
        if len(needed) == 1 and self.fields:
            return [dict(self.fields)], {}
        raise ValueError(
            f"`build` must take no argument, fields by their names ({', '.join(self.fields) or 'none'}), or "
            f"one dictionary of all of them, got one that needs {', '.join(needed)}."
        )


class Runs:
    """A frozen collection of runs, in the order of their fields.

    Parameters
    ----------
    runs
        All with the same names of fields.

    Raises
    ------
    ValueError
        If there are none, or their fields differ in name or in nothing.
    """

    def __init__(self, runs: Iterable[Run]) -> None:
        self._runs = tuple(runs)
        if not self._runs:
            raise ValueError("`runs` must hold at least one run, got none.")
        for run in self._runs:
            if run.fields.keys() != self._runs[0].fields.keys():
                raise ValueError(
                    f"`runs` must have the same fields, got {', '.join(self.fields) or 'none'} and "
                    f"{', '.join(run.fields) or 'none'}."
                )
        seen: set[str] = set()
        for run in self._runs:
            if run.label in seen:
                raise ValueError(f"`runs` must differ in their fields, but two are {run.label}.")
            seen.add(run.label)

    @classmethod
    def from_checkpoints(
        cls,
        pattern: str | Path,
        build: Callable[..., nn.Module],
        data: Any,
        *,
        loss: Loss = "cross_entropy",
        batch_size: int | None = None,
        micro_batch: int | str = "auto",
        weight_decay: float = 0.0,
        calibration_data: Any = None,
        compile: bool | str = "auto",
    ) -> Runs:
        """Find the weights of networks trained elsewhere. They are loaded one at a time, when measured.

        Parameters
        ----------
        pattern
            ``"ckpt/{recipe}/seed{seed}.pt"``: fields in braces match any text within one part of the path,
            and must say the same where one is used twice. Numbers become numbers.
        build
            Makes the model that the weights go into: called without arguments, or with the fields it asks for
            (see `Run`). It is called anew for each run; what it returns is copied, never changed.
        data, loss, batch_size, micro_batch, weight_decay, calibration_data, compile
            As in `Objective`, the same for all. The data are read once. The batch-norm mode is for those to
            choose who measure.

        Raises
        ------
        ValueError
            If nothing matches, or the pattern or the data make no sense. What is wrong with one checkpoint
            shows when it is loaded.
        """
        files = run_files(str(pattern))
        examples, loader_batch_size = read_examples(data)
        calibration = None if calibration_data is None else read_examples(calibration_data)[0].batch
        options = {
            "data": examples.batch,
            "loss": loss,
            "batch_size": batch_size if batch_size is not None else loader_batch_size,
            "micro_batch": micro_batch,
            "weight_decay": weight_decay,
            "calibration_data": calibration,
            "compile": compile,
        }
        return cls(Run(fields, build, options, path) for path, fields in files)

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields."""
        return tuple(self._runs[0].fields)

    def values(self, field: str) -> tuple[Value, ...]:
        """The values of a field, each once, in the order of the runs.

        Raises
        ------
        ValueError
            If there is no such field.
        """
        self._check(field, "field")
        return tuple(dict.fromkeys(run.fields[field] for run in self._runs))

    def where(self, **fields: Value | Iterable[Value]) -> Runs:
        """The runs with these values: ``runs.where(recipe="sam", seed=[1, 2])``.

        Raises
        ------
        ValueError
            If there is no such field, or no such run.
        """
        kept = self._runs
        for name, wanted in fields.items():
            self._check(name, "where")
            allowed = [wanted] if isinstance(wanted, str | int | float) else list(wanted)
            missing = [value for value in allowed if value not in self.values(name)]
            if missing:
                there = ", ".join(map(repr, self.values(name)))
                raise ValueError(f"`where` finds no run with {name}={missing[0]!r}; there are {there}.")
            kept = tuple(run for run in kept if run.fields[name] in allowed)
        if not kept:
            raise ValueError("`where` finds no run with all of these together.")
        return Runs(kept)

    def table(self) -> list[dict[str, Value | None]]:
        """One dictionary a run: its fields, and the path of its weights."""
        return [{**run.fields, "path": None if run.path is None else str(run.path)} for run in self._runs]

    def _check(self, field: str, argument: str) -> None:
        if field not in self.fields:
            raise ValueError(
                f"`{argument}` must be one of the fields {', '.join(self.fields) or '(none)'}, got {field!r}."
            )

    def __len__(self) -> int:
        return len(self._runs)

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs)

    @overload
    def __getitem__(self, index: int) -> Run: ...
    @overload
    def __getitem__(self, index: slice) -> Runs: ...
    def __getitem__(self, index: int | slice) -> Run | Runs:
        return Runs(self._runs[index]) if isinstance(index, slice) else self._runs[index]

    def __repr__(self) -> str:
        """How many, and what the fields say: lists where short."""
        parts = []
        for name in self.fields:
            values = self.values(name)
            shown = ", ".join(map(str, values)) if len(values) <= 4 else f"{values[0]} ... {values[-1]}"
            parts.append(f"{name}: {shown}")
        return f"Runs({'; '.join([str(len(self)), *parts])})"

"""Two groups of networks: every measure in every mode, and what the spread of the runs lets one say."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from thalweg.analyses.attainable import nothing_decidable
from thalweg.analyses.contrast_result import CORRECTIONS, Contrast
from thalweg.analyses.measure_choice import Choice, bounded_at, chosen_measures
from thalweg.analyses.readings import Network, Reading, checked_modes
from thalweg.analyses.run_files import Value, in_words
from thalweg.analyses.runs import Run, Runs
from thalweg.core.arguments import check_flag, check_fraction, check_one_of
from thalweg.core.array_store import Store, check_store
from thalweg.core.errors import ConvergenceError
from thalweg.core.progress import Progress, part_of
from thalweg.core.rng import stream_seed
from thalweg.objective.batch_norm import batch_norm_layers


def contrast(
    runs: Runs,
    by: str,
    *,
    groups: Sequence[Value] | None = None,
    measures: Choice = None,
    modes: str | Iterable[str] | None = None,
    paired_by: str | Iterable[str] | None = None,
    log: bool = False,
    level: float = 0.95,
    correction: str = "joint",
    seed: int = 0,
    store: Store | None = None,
    progress: Progress | None = None,
) -> Contrast:
    """Measure two groups of runs and contrast them: intervals, relabelling tests, effect sizes.

    A row is decided if its interval keeps off nought and its corrected p-value is at most 1 - `level`; see
    `thalweg.stats.contrasts` for what each of them holds against. The runs are the units: an interval says
    what other runs of the two groups would give, as far as these are drawn from the same.

    Parameters
    ----------
    runs
        Loaded and measured one after the other.
    by
        The field that makes the groups.
    groups
        The two values of it that are set against each other. May be left out where there are but two.
    measures
        See `thalweg.analyses.measure_choice.chosen_measures`. Default: the whole family. The fewer are asked,
        the less the correction takes.
    modes
        Batch-norm modes. Default: all three, where any of the networks has batch norm.
    paired_by
        Fields, ``"seed"``, whose values pair a run of one group with one of the other. It means something
        only where the two share what the field stands for: initialisation, order of the data.
    log
        Contrast logarithms: differences become ratios. Better where the larger values spread more widely.
    level
        Of the intervals, and of the error that the correction controls. Eigenvalues are bounded with that
        confidence, unless another is given among their arguments.
    correction
        Of the p-values, for the number of rows: ``"joint"`` relabels all rows at once (Westfall and Young),
        ``"holm"`` is Holm's, ``"none"`` leaves them as they are. All are in the result.
    seed
        Each run draws from a stream of its own, so that errors of measuring are independent and part of the
        spread between the runs. It has a default since what it decides is small beside that spread.
    store
        Keeps each measurement once it is done, an `ArrayStore` say: a killed call, made again, goes on from
        there and gives the same bits.
    progress
        Called with steps done and all steps.

    Raises
    ------
    TypeError, ValueError
        If there are not two groups of at least two runs, pairs do not pair, two runs hold the same weights, a
        checkpoint cannot be loaded, or an argument is none.
    ThalwegError
        If a network gives no finite loss, naming it, or nothing at all could be measured.
    """
    check_flag("log", log)
    _check_rule(level, correction)
    check_store(store)
    names, pairing, chosen = _chosen(runs, by, groups, paired_by)
    members, wanted = bounded_at(level, chosen_measures(measures)), checked_modes(modes)

    read: list[dict[tuple[str, str], Reading]] = []
    described: list[Mapping[str, Any]] = []
    seen: dict[tuple[str, str], Run] = {}
    all_runs = [run for group in chosen for run in group]
    has_batch_norm = False
    for place, run in enumerate(all_runs):
        network = Network.of(run, wanted)
        described.append(network.described())
        _refuse_copy(run, described[-1], seen)
        has_batch_norm |= network.has_batch_norm
        own_seed = stream_seed(seed, "contrast", run.label)
        inner = part_of(progress, place, len(all_runs))
        read.append(network.read(members, wanted, level=level, seed=own_seed, store=store, progress=inner))

    shown = wanted if has_batch_norm else wanted[:1]
    keys = [(name, mode) for name in members for mode in shown]
    num_a = len(chosen[0])
    columns: dict[str, Any] = {
        f"{field}_{side}": torch.tensor(
            [[getattr(r[key], attribute) for r in part] for key in keys], dtype=torch.float64
        )
        for side, part in (("a", read[:num_a]), ("b", read[num_a:]))
        for field, attribute in _COLUMNS.items()
    }
    result = Contrast(
        value=math.nan,
        provenance={
            "function": "contrast",
            "arguments": {
                "by": by,
                "groups": list(names),
                "measures": {name: dict(member.arguments) for name, member in members.items()},
                "modes": list(wanted),
                "paired_by": pairing or None,
                "log": log,
                "level": level,
                "correction": correction,
                "seed": seed,
            },
            "runs": [
                {"fields": dict(r.fields), "objective": d} for r, d in zip(all_runs, described, strict=True)
            ],
        },
        by=by,
        groups=names,
        runs_a=tuple(run.label for run in chosen[0]),
        runs_b=tuple(run.label for run in chosen[1]),
        measures=tuple(name for name, _ in keys),
        modes=tuple(mode if has_batch_norm else None for _, mode in keys),
        is_normalised=tuple(members[name].is_normalised for name, _ in keys),
        larger_is_sharper=tuple(members[name].larger_is_sharper for name, _ in keys),
        are_lower_bounds=tuple(any(readings[key].is_lower_bound for readings in read) for key in keys),
        **columns,
        reasons=tuple(_reason(key, all_runs, read, log) for key in keys),
        paired=bool(pairing),
        log=log,
        level=level,
        correction=correction,
        seed=seed,
    )
    if all(result.reasons):
        raise ConvergenceError(f"nothing could be measured of all runs; {result.reasons[0]}")
    return result.headed()


def foreseen(
    runs: Runs,
    by: str,
    *,
    groups: Sequence[Value] | None = None,
    measures: Choice = None,
    modes: str | Iterable[str] | None = None,
    paired_by: str | Iterable[str] | None = None,
    level: float = 0.95,
    correction: str = "joint",
) -> str:
    """Whether the contrast of so many runs in so many rows can decide anything, before it is measured.

    Arguments are as in `contrast`, and refused alike. Whether there is batch norm, and so a row for each
    mode, the first network of each group tells, which is built where the number of rows matters: for Holm.

    Returns
    -------
    str
        That nothing can be decided, and what would help; empty if something can.
    """
    _check_rule(level, correction)
    _, pairing, chosen = _chosen(runs, by, groups, paired_by)
    num_rows, wanted = len(chosen_measures(measures)), checked_modes(modes)
    if correction == "holm" and any(batch_norm_layers(group[0].network()) for group in chosen):
        num_rows *= len(wanted)
    return nothing_decidable(
        *map(len, chosen), paired=bool(pairing), correction=correction, num_rows=num_rows, level=level
    )


def _check_rule(level: float, correction: str) -> None:
    check_fraction("level", level, "0.95 is customary")
    check_one_of("correction", correction, CORRECTIONS)


def _chosen(
    runs: Runs, by: str, groups: Sequence[Value] | None, paired_by: str | Iterable[str] | None
) -> tuple[tuple[Value, Value], list[str], tuple[list[Run], list[Run]]]:
    """What the groups are called, the fields that pair their runs, and the runs of each."""
    if not isinstance(runs, Runs):
        raise TypeError(
            f"`runs` must be thalweg.Runs, got {type(runs).__name__}; see thalweg.Runs.from_checkpoints."
        )
    names = _two_groups(runs, by, groups)
    pairing = [paired_by] if isinstance(paired_by, str) else list(paired_by or ())
    return names, pairing, _paired(runs, by, names, pairing) if pairing else _unpaired(runs, by, names)


_COLUMNS = {"values": "value", "errors": "standard_error", "below": "below", "above": "above"}


def _two_groups(runs: Runs, by: str, groups: Sequence[Value] | None) -> tuple[Value, Value]:
    if by not in runs.fields:
        raise ValueError(f"`by` must be one of the fields {', '.join(runs.fields)}, got {by!r}.")
    there = Counter(run.fields[by] for run in runs)
    listed = ", ".join(f"{name} ({number} runs)" for name, number in there.items())
    chosen = tuple(there) if groups is None else tuple(groups)
    if groups is None and len(chosen) != 2:
        raise ValueError(
            f"`groups` must name two of the values of {by}, for there are {len(chosen)}: {listed}."
        )
    if len(chosen) != 2 or chosen[0] == chosen[1] or not set(chosen) <= set(there):
        raise ValueError(f"`groups` must be two different values of {by}, of {listed}; got {groups!r}.")
    return chosen[0], chosen[1]


def _unpaired(runs: Runs, by: str, names: tuple[Value, Value]) -> tuple[list[Run], list[Run]]:
    chosen = tuple([run for run in runs if run.fields[by] == name] for name in names)
    for name, group in zip(names, chosen, strict=True):
        if len(group) < 2:
            raise ValueError(
                f"`runs` must hold at least two runs of each group, but {by}={name} has one "
                f"({group[0].label}): one run shows no spread. `compare` sets one against one."
            )
    return chosen[0], chosen[1]


def _paired(
    runs: Runs, by: str, names: tuple[Value, Value], pairing: list[str]
) -> tuple[list[Run], list[Run]]:
    """Runs of both groups in one order, each beside its partner."""
    for field in pairing:
        if field not in runs.fields or field == by:
            others = ", ".join(name for name in runs.fields if name != by) or "(there is none)"
            raise ValueError(f"`paired_by` must be fields other than {by}: {others}; got {field!r}.")
    sides: list[dict[tuple[Value, ...], Run]] = []
    for name in names:
        side: dict[tuple[Value, ...], Run] = {}
        for run in (run for run in runs if run.fields[by] == name):
            key = tuple(run.fields[field] for field in pairing)
            if key in side:
                raise ValueError(
                    f"`paired_by` must tell the runs of {by}={name} apart, but {side[key].label} and "
                    f"{run.label} agree in it."
                )
            side[key] = run
        sides.append(side)
    alone = sides[0].keys() ^ sides[1].keys()
    if alone:
        words = in_words(dict(zip(pairing, min(alone, key=str), strict=True)))
        raise ValueError(
            f"`paired_by` must pair every run, but {words} is in one group alone; leave such runs out with "
            "runs.where(...)."
        )
    if len(sides[0]) < 2:
        raise ValueError("`paired_by` leaves one pair, which shows no spread; at least two are needed.")
    return list(sides[0].values()), [sides[1][key] for key in sides[0]]


def _refuse_copy(run: Run, described: Mapping[str, Any], seen: dict[tuple[str, str], Run]) -> None:
    """Copies of one network would count as runs of their own, and the spread would be nought."""
    identity = (described["params"], described["buffers"])
    if identity in seen:
        raise ValueError(
            f"`runs` must be different networks, but {seen[identity]!r} and {run!r} hold the same weights."
        )
    seen[identity] = run


def _reason(
    key: tuple[str, str],
    runs: list[Run],
    read: list[dict[tuple[str, str], Reading]],
    log: bool,
) -> str:
    """Why a row has no contrast: the first run that gives it no finite value, or no logarithm."""
    for run, readings in zip(runs, read, strict=True):
        reading = readings[key]
        if reading.reason:
            return f"{run.label}: {reading.reason}"
        if not math.isfinite(reading.value):
            return f"{run.label}: the value is {reading.value}"
        if log and not reading.value > 0:
            return f"{run.label}: {reading.value:.4g} has no logarithm; see log=False"
    return ""

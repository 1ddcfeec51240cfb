"""``thalweg compare``: two checkpoints side by side, or two groups of them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import nn

from thalweg.analyses.compare import Comparison
from thalweg.analyses.compare import compare as compare_networks
from thalweg.analyses.contrast import contrast, foreseen
from thalweg.analyses.contrast_result import CORRECTIONS, Contrast
from thalweg.analyses.measure_choice import chosen_measures, single_network_functions
from thalweg.analyses.mode_connectivity import mode_connectivity
from thalweg.analyses.mode_connectivity_result import ModeConnectivity
from thalweg.analyses.readings import checked_modes
from thalweg.analyses.runs import Run, Runs
from thalweg.analyses.sharpness_family import FAMILY
from thalweg.cli import connectivity
from thalweg.cli.console import errors, progress_bar
from thalweg.cli.declared_types import by_measure
from thalweg.cli.objective_options import objective_options
from thalweg.cli.options import (
    DTYPES,
    BatchSize,
    CalibrationData,
    Data,
    DataRoot,
    Device,
    DType,
    Json,
    LossName,
    MicroBatch,
    Model,
    SetOfMeasure,
    WeightDecay,
    names_in,
    resolve_device,
)
from thalweg.cli.order_text import print_order
from thalweg.core.arguments import check_one_of
from thalweg.core.atomic import replacing
from thalweg.core.errors import ThalwegError
from thalweg.core.imports import import_callable
from thalweg.core.measurement import jsonable
from thalweg.models.registry import build_model, model_names
from thalweg.objective.batch_norm import MODES
from thalweg.objective.examples import read_examples
from thalweg.objective.objective import DEFAULT_BATCH_SIZE
from thalweg.report.order_page import page as write_order_page

COMPARE_HELP = (
    f"Measures of the family: {', '.join(FAMILY)}; and by their own names and defaults: "
    f"{', '.join(single_network_functions())}."
)


def compare(
    checkpoints: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Two files of weights, .safetensors or .pt state dictionaries; or one pattern with named "
            "fields in braces, such as 'ckpt/{recipe}/seed{seed}.pt', with --by.",
        ),
    ],
    model: Model,
    data: Data,
    model_b: Annotated[
        str | None, typer.Option(metavar="NAME", help="Model of the second file, if it is another.")
    ] = None,
    by: Annotated[
        str | None, typer.Option(metavar="FIELD", help="The pattern's field that makes the groups.")
    ] = None,
    groups: Annotated[
        str | None,
        typer.Option(metavar="A,B", help="Two values of that field, if there are more than two."),
    ] = None,
    paired_by: Annotated[
        str | None,
        typer.Option(
            metavar="FIELDS",
            help="Fields, such as seed, that pair the runs of the groups: where pairs share initialisation "
            "and data order.",
        ),
    ] = None,
    log: Annotated[
        bool,
        typer.Option("--log", help="Contrast logarithms of the groups' values: ratios, not differences."),
    ] = False,
    correction: Annotated[
        str,
        typer.Option(metavar="NAME", help=f"Of the p-values for many rows: {', '.join(CORRECTIONS)}."),
    ] = "joint",
    measures: Annotated[
        str | None, typer.Option(metavar="NAMES", help="With commas, see below. Default: the whole family.")
    ] = None,
    modes: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES", help=f"Of batch norm, with commas: {', '.join(MODES)}. Default: all of them."
        ),
    ] = None,
    set_: SetOfMeasure = None,
    paths: Annotated[
        str | None,
        typer.Option(
            metavar="WHEN",
            help="Of two files, what lies between them: distance, barriers before and after alignment, a "
            f"curve, a plane and its minima. {', '.join(connectivity.WHEN)}. It trains a curve, and says "
            "what it costs. Default: yes with the whole family, if both are of one model.",
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Weights that both files were trained from, for the angle there."),
    ] = None,
    level: Annotated[float, typer.Option(metavar="X", help="Of the intervals.")] = 0.95,
    loss: LossName = "cross_entropy",
    batch_size: BatchSize = None,
    micro_batch: MicroBatch = "auto",
    weight_decay: WeightDecay = 0.0,
    calibration_data: CalibrationData = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of what the measures draw.")] = 0,
    dtype: DType = "float32",
    device: Device = "auto",
    data_root: DataRoot = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Write FOLDER/index.html, a page that stands alone, as well."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Set two checkpoints side by side, or two groups of them.

    Every measure in every batch-norm mode, with its interval; rows that order the two the other way than the
    first one decided are marked. Two files: what holds of these two networks. A pattern with --by: what the
    spread of the runs lets one say of the two groups; where so few runs can decide nothing, that is said on
    standard error before anything is measured. With a pattern, a model of your own may take fields as
    arguments, by their names. Of two files of one model also what lies between them, see --paths; its
    arguments are set by --set mode_connectivity.NAME=VALUE.

    Example: `thalweg compare a.safetensors b.pt --model pkg.mod:build --data fashion-mnist:train:4096
    --out page`, or `thalweg compare 'ckpt/{recipe}/seed{seed}.pt' --by recipe --measures trace,sam_sharpness
    --model pkg.mod:build --data fashion-mnist:train`
    """
    wanted = checked_modes(names_in(modes))
    # Before data and networks are loaded.
    of_paths, settings = connectivity.settings_of(set_ or [])
    chosen = by_measure(settings, chosen_measures(names_in(measures)))
    check_one_of("dtype", dtype, DTYPES)
    _check_form(checkpoints, by, {"groups": groups, "paired_by": paired_by, "log": log or None}, model_b)
    when = connectivity.wanted(
        paths, is_pair=by is None, whole_family=measures is None, one_model=model_b is None
    )
    if when == "no" and (of_paths or start):
        raise ValueError(
            f"`{'set' if of_paths else 'start'}` asks for what lies between two files, which is not measured "
            "here; add --paths yes."
        )
    options = objective_options(
        data,
        loss=loss,
        batch_size=batch_size,
        micro_batch=micro_batch,
        weight_decay=weight_decay,
        calibration_data=calibration_data,
        data_root=data_root,
        recalibrates="recalibrated" in wanted,
    )
    builders = [_builder(name, device, dtype) for name in dict.fromkeys([model, model_b or model])]
    shared: dict[str, Any] = {"measures": chosen, "modes": wanted, "level": level, "seed": seed}
    result: Comparison | Contrast | None = None
    between: ModeConnectivity | None = None
    if by is None:
        files = [Path(name) for name in checkpoints]
        names = _told_apart(*files)
        examples, loader_batch_size = read_examples(options["data"])
        batch_size = options["batch_size"] or loader_batch_size
        options |= {"data": examples.batch, "batch_size": batch_size}
        a, b = (
            Run({}, build, options, path)
            for build, path in zip([builders[0], builders[-1]], files, strict=True)
        )
        try:
            if when != "no":
                origin = None if start is None else Run({}, builders[0], options, start)
                network, _ = a.network(), b.network()  # a file that does not fit is no matter of cost
                words = connectivity.cost_in_words(
                    network, examples.num_examples, batch_size or DEFAULT_BATCH_SIZE, wanted, of_paths
                )
                errors.print(words, markup=False, soft_wrap=True)
                between = _between(
                    a, b, origin, names=names, is_asked=paths is not None, arguments=of_paths, shared=shared
                )
            if when != "only":
                with progress_bar("compare") as progress:
                    result = compare_networks(a, b, names=names, progress=progress, **shared)
        except ValueError as error:
            if model_b is None and str(files[1]) in str(error):
                raise ValueError(f"{error} A model of its own is named by --model-b.") from error
            raise
    else:
        runs = Runs.from_checkpoints(checkpoints[0], builders[0], **options)
        grouping: dict[str, Any] = {
            "groups": _group_values(runs, by, groups),
            "paired_by": names_in(paired_by),
            "correction": correction,
        }
        # Before hours of measuring, not only after them.
        hopeless = foreseen(runs, by, measures=chosen, modes=wanted, level=level, **grouping)
        if hopeless:
            errors.print(hopeless, markup=False, soft_wrap=True)
        with progress_bar("compare") as progress:
            result = contrast(runs, by, log=log, progress=progress, **grouping, **shared)
    as_dictionary = _json(result, between)
    # Files first: who reads the text may stop reading it, and the program with it.
    if out:
        subject = between if result is None else result
        assert subject is not None
        path = write_order_page(subject, out, between=between)
        with replacing(out / "result.json") as partial:
            partial.write_text(json.dumps(as_dictionary, allow_nan=False, indent=1), encoding="utf-8")
        errors.print(f"page: {path}", markup=False, soft_wrap=True)
    if as_json:
        print(json.dumps(as_dictionary, allow_nan=False))
        return
    if result is not None:
        print_order(result)
    if between is not None:
        connectivity.print_connectivity(between)


def _between(
    a: Run,
    b: Run,
    start: Run | None,
    *,
    names: tuple[str, str],
    is_asked: bool,
    arguments: Mapping[str, Any],
    shared: Mapping[str, Any],
) -> ModeConnectivity | None:
    """What lies between the two; where it was not asked for and cannot be had, a line that says why."""
    kept = {key: shared[key] for key in ("modes", "level", "seed")}
    try:
        with progress_bar("between them") as progress:
            return mode_connectivity(a, b, start=start, names=names, progress=progress, **kept, **arguments)
    except (ValueError, ThalwegError) as error:
        if is_asked or str(a.path) in str(error) or str(b.path) in str(error):
            raise
        errors.print(f"What lies between the two was not measured: {error}", markup=False, soft_wrap=True)
    return None


def _check_form(
    checkpoints: list[str], by: str | None, of_groups: dict[str, Any], model_b: str | None
) -> None:
    """Two files, or one pattern and --by: neither's options mean anything to the other."""
    if by is None:
        given = [f"`{name}`" for name, value in of_groups.items() if value is not None]
        if len(checkpoints) == 1 and "{" in checkpoints[0]:
            raise ValueError(
                "`by` must name the pattern's field that makes the groups, such as --by recipe; got none."
            )
        if len(checkpoints) != 2:
            raise ValueError(
                f"`checkpoints` must be two files, or one pattern with --by, got {len(checkpoints)}."
            )
        if given:
            raise ValueError(f"{given[0]} is for groups of runs; name a pattern and --by.")
        return
    if len(checkpoints) != 1:
        raise ValueError(
            f"`checkpoints` must be one pattern with --by, got {len(checkpoints)}; put it in quotes, lest "
            "the shell expand it."
        )
    if model_b is not None:
        raise ValueError(
            "`model_b` is for two files; with a pattern a model of your own may take its fields, such as "
            "recipe, as arguments."
        )


def _builder(name: str, device: str, dtype: str) -> Callable[..., nn.Module]:
    """What builds the model where it is measured; takes the arguments that the user's own takes."""
    place = resolve_device(device)
    known = model_names()
    own = (lambda: build_model(name, 0)) if name in known else import_callable(name, "model", known)

    @functools.wraps(own)
    def build(*args: Any, **kwargs: Any) -> nn.Module:
        model = own(*args, **kwargs)
        return model.to(place, DTYPES[dtype]) if isinstance(model, nn.Module) else model

    return build


def _told_apart(a: Path, b: Path) -> tuple[str, str]:
    """The shortest ends of two paths that differ, without the suffix where that will do."""
    if a.stem != b.stem:
        return a.stem, b.stem
    for depth in range(1, max(len(a.parts), len(b.parts)) + 1):
        first, second = ("/".join(path.parts[-depth:]) for path in (a, b))
        if first != second:
            return first, second
    raise ValueError(f"`checkpoints` must be two different files, got {a} twice.")


def _group_values(runs: Runs, by: str, groups: str | None) -> list[Any] | None:
    """Texts as the values that the pattern found."""
    names = names_in(groups)
    if names is None or by not in runs.fields:
        return None
    values = {str(value): value for value in runs.values(by)}
    return [values.get(name, name) for name in names]


def _json(result: Comparison | Contrast | None, between: ModeConnectivity | None) -> dict[str, Any]:
    """All of the results, and the rows computed from them: a reader need not compute them anew."""
    found: dict[str, Any] = {}
    if result is not None:
        rows = [{**asdict(row), "sharper": row.ordering.sharper} for row in result.rows]
        found = {**result.to_dict(), "rows": jsonable(rows), "remarks": result.remarks}
    if between is None:
        return found
    rows = jsonable([asdict(row) for row in between.rows])
    own = {**between.to_dict(), "rows": rows, "remarks": between.remarks}
    return {**found, between.measure: own} if found else own

"""What single runs of a study look like: pictures of results that say more than a value and its interval."""

from __future__ import annotations

from dataclasses import dataclass

from thalweg.report.figures import figure_bytes
from thalweg.report.page import svg_uri
from thalweg.report.plot import pictured, plot
from thalweg.report.study_words import title_of
from thalweg.study.study import PlannedTask, Study

# Measures whose picture is of one run's dynamics. Of the others the page shows all runs together.
SHOWN = (
    "gradient_noise",
    "sgd_temperature",
    "temperature_scaling",
    "gradient_predictiveness",
    "stationary_law",
    "basin_mass",
    "local_learning_coefficient",
    "monitor",
)

# Pictures of one thing measured: a page is read, and a study may have hundreds of runs.
MOST = 6


@dataclass(frozen=True)
class Picture:
    """One run's result as an image and in a line, or without an image and why."""

    title: str
    image: str
    words: str


@dataclass(frozen=True)
class Pictures:
    """Of one thing measured: pictures, and how many results have none here."""

    name: str
    pictures: tuple[Picture, ...]
    num_left_out: int


def run_pictures(study: Study) -> list[Pictures]:
    """Of each thing measured that has a picture of its own: one a setting, of its first run.

    That is the first seed with a result, at the last moment, in the first of the modes. The rest are in the
    records, for `thalweg.plot`.
    """
    found: dict[str, dict[str, PlannedTask]] = {}
    num_results: dict[str, int] = {}
    for task in study.tasks:
        record = study.records.get(task.key)
        if task.measure not in SHOWN or task.measure not in pictured() or record is None or record.failure:
            continue
        name = task.labels["name"]
        num_results[name] = num_results.get(name, 0) + 1
        setting = title_of({k: v for k, v in task.labels.items() if k != "seed"})
        best = found.setdefault(name, {}).setdefault(setting, task)
        if _rank(study, task) < _rank(study, best):
            found[name][setting] = task
    return [
        Pictures(
            name,
            tuple(_picture(study, task) for task in list(tasks.values())[:MOST]),
            num_results[name] - min(len(tasks), MOST),
        )
        for name, tasks in found.items()
    ]


def _rank(study: Study, task: PlannedTask) -> tuple[int, int]:
    """Last moments first, then modes in their order; what is of a whole run comes before both."""
    moments, modes = list(study.spec.moments), list(study.spec.objective.modes)
    moment, mode = task.labels.get("moment"), task.labels.get("mode")
    return (
        -moments.index(moment) if moment in moments else -len(moments),
        modes.index(mode) if mode in modes else len(modes),
    )


def _picture(study: Study, task: PlannedTask) -> Picture:
    place = [task.labels.get(key, "") for key in ("moment", "mode")]
    title = ", ".join([title_of(task.labels), *(p for p in place if p and p != "any")])
    result = study.records[task.key].measurement
    try:
        figure = plot(result)
    except ValueError as error:  # nothing to see in this one, and it says why
        return Picture(title, "", str(error))
    return Picture(title, svg_uri(figure_bytes(figure, ".svg")), repr(result))

"""What the paper reports, and which record of a study answers to it.

Source: R. A. Kambale, "Loss Landscape Geometry & Optimization Dynamics in Neural Networks: A Comparative
Study of Batch-Normalized and Non-Normalized CNNs" (2025), Sections 3 and 4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from thalweg.study.store import Record

# Section 3.2: two networks with batch norm that differ by their seed, and one without.
MODELS = ("A1", "A2", "B")
BATCH_NORM_MODELS = ("A1", "A2")
PLAIN_MODEL = "B"


@dataclass(frozen=True)
class PaperNumber:
    """One number the paper prints: the measure and the model it belongs to, its value, where it stands."""

    measure: str
    model: str
    value: float
    section: str


PAPER_NUMBERS = (
    PaperNumber("top_eigenvalues", "A1", 57.18, "4.2"),
    PaperNumber("top_eigenvalues", "B", 37.51, "4.2"),
    PaperNumber("sam_sharpness", "A1", 0.1837, "4.3"),
    PaperNumber("sam_sharpness", "B", 0.0886, "4.3"),
)


def paper_value(measure: str, model: str) -> float | None:
    """The paper's value of a measure for a model, or ``None`` where it gives none."""
    for number in PAPER_NUMBERS:
        if (number.measure, number.model) == (measure, model):
            return number.value
    return None


def objective_of(record: Record) -> Mapping[str, Any]:
    """The described objective a record was measured on; of a path, its first end."""
    return record.measurement.provenance["objective"]


def mode_of(record: Record) -> str:
    """The batch-norm mode of a record."""
    return objective_of(record)["batch_norm"]


def num_examples_of(record: Record) -> int:
    """How many examples the record's objective averages over."""
    return objective_of(record)["num_examples"]


def num_test_examples(record: Record) -> int:
    """Size of the test data of a training record."""
    return record.measurement.provenance["num_test_examples"]


class PaperRecords:
    """The records of one run of the paper's study, found by what they measured.

    Parameters
    ----------
    records
        In any order; a study that measured only some of it is fine.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = tuple(records)

    def find(
        self, measure: str, model: str, mode: str | None = None, **wanted: object | Callable[[Any], bool]
    ) -> Record | None:
        """The record of a measure on a model, or ``None`` if the study holds none.

        Parameters
        ----------
        measure, model
            Such as ``"top_eigenvalues"`` and ``"A1"``; a path between two networks is model ``"A1-A2"``.
        mode
            Batch-norm mode; any if ``None``. A network without batch norm answers whatever the mode.
        wanted
            Fields of the result, or else labels, that must have this value or pass this test.

        Returns
        -------
        Record or None
            Of several, the one over the most examples; of those, the first.
        """
        found = self.all(measure, model, mode, **wanted)
        return max(found, key=num_examples_of, default=None)

    def all(
        self,
        measure: str,
        model: str | None = None,
        mode: str | None = None,
        **wanted: object | Callable[[Any], bool],
    ) -> list[Record]:
        """All records that `find` would choose from, in the order given."""
        return [
            record
            for record in self.records
            if record.measure == measure
            and model in (None, record.labels.get("model"))
            and (mode is None or record.labels.get("model") == PLAIN_MODEL or mode_of(record) == mode)
            and all(_satisfies(record, key, value) for key, value in wanted.items())
        ]


def _satisfies(record: Record, key: str, wanted: Any) -> bool:
    got = getattr(record.measurement, key, record.labels.get(key))
    return bool(wanted(got)) if callable(wanted) else got == wanted


def num_calibration_examples(study: PaperRecords, record: Record) -> int | None:
    """How many examples the record's statistics were recalibrated on, or ``None`` if no record tells.

    A record names its calibration data by their hash; one that was measured on them knows how many they are.
    """
    wanted = objective_of(record)["calibration_data"]
    sizes = (num_examples_of(other) for other in study.records if objective_of(other)["data"] == wanted)
    return next(sizes, None)

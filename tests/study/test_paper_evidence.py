from thalweg.core.measurement import Measurement
from thalweg.study.paper_evidence import (
    PAPER_NUMBERS,
    PaperRecords,
    mode_of,
    num_calibration_examples,
    num_examples_of,
    num_test_examples,
    paper_value,
)
from thalweg.study.store import Record


def record(model="A1", mode="running", n=100, measure="line_slice", **rest) -> Record:
    content = {
        **Measurement(value=1.0).to_dict(),
        "measure": measure,
        "provenance": {"objective": {"batch_norm": mode, "num_examples": n, "data": f"d{n}"}, **rest},
        "labels": {},
    }
    result = Record(run="r", task="t", content=content, labels={"model": model, "split": "train"})
    # Fields of results are read from the result; a plain one will do here.
    object.__setattr__(result, "measurement", Measurement(value=1.0, provenance=content["provenance"]))
    return result


def test_the_papers_numbers_are_those_it_prints():
    assert [n.value for n in PAPER_NUMBERS] == [57.18, 37.51, 0.1837, 0.0886]
    assert paper_value("top_eigenvalues", "A1") == 57.18
    assert paper_value("top_eigenvalues", "A2") is None


def test_a_network_without_batch_norm_answers_for_every_mode():
    plain, normed = record("B", "running"), record("A1", "batch")
    study = PaperRecords([plain, normed])
    for mode in ("running", "recalibrated", "batch"):
        assert study.find("line_slice", "B", mode) is plain
    assert study.find("line_slice", "A1", "batch") is normed
    assert study.find("line_slice", "A1", "running") is None


def test_labels_and_tests_narrow_the_search():
    study = PaperRecords([record()])
    assert study.find("line_slice", "A1", split="train") is not None
    assert study.find("line_slice", "A1", split="test") is None
    assert study.find("line_slice", "A1", value=lambda v: v > 0.5) is not None
    assert study.find("line_slice", "A1", value=lambda v: v > 1.5) is None
    assert study.find("linear_path", "A1") is None


def test_of_several_the_largest_then_the_first():
    few, many, again = record(n=10), record(n=50), record(n=50)
    assert PaperRecords([few, many, again]).find("line_slice", "A1") is many
    assert PaperRecords([few, many, again]).all("line_slice", "A1") == [few, many, again]


def test_a_record_knows_its_mode_and_its_examples():
    r = record(mode="batch", n=7, measure="train", num_test_examples=5)
    assert (mode_of(r), num_examples_of(r), num_test_examples(r)) == ("batch", 7, 5)


def test_the_number_of_calibration_examples_is_found_by_their_hash():
    r = record()
    r.measurement.provenance["objective"]["calibration_data"] = "d70"
    assert num_calibration_examples(PaperRecords([r]), r) is None
    assert num_calibration_examples(PaperRecords([r, record(n=70)]), r) == 70

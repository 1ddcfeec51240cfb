import inspect

from thalweg.report.paper_choices import choices


def test_each_open_question_has_a_choice_and_measured_alternatives_where_there_are_some(study):
    found = {c.question: c for c in choices(study.records)}
    assert len(found) == 11
    text = " ".join(line for c in found.values() for line in c.alternatives)
    assert "λmax(A1): running 88.40, recalibrated 88.60, batch 52.10 (paper 57.18)" in text
    assert "epoch by epoch: 0.01, 0.005, 0.005, 0.0025, 0.0025, 0.00125" in text
    assert "S(B), one step: 0.08420 (paper 0.0886)" in text
    assert "S(A1), one step → several: running 0.1310 → 0.1389" in text


def test_each_measures_calibration_set_is_named(study):
    (choice,) = [c for c in choices(study.records) if "recalibrated?" in c.question]
    assert choice.ours == (
        "Training data only, anew at every point, held constant in derivatives: λmax, the 60,000 measured; "
        "S, the 60,000 measured; S on single batches, 60,000 training examples; slices, the 10,000 measured; "
        "path on training data, the 10,000 measured; path on test data, 10,000 training examples."
    )


def test_a_calibration_set_that_no_record_was_measured_on_is_not_guessed_at(study):
    only = [r for r in study.records if r.measure == "linear_path" and r.labels["split"] == "test"]
    (choice,) = [c for c in choices(only) if "recalibrated?" in c.question]
    assert choice.ours == "Training data only, anew at every point, held constant in derivatives."


def test_the_network_is_described_as_it_is_built(study):
    from thalweg.models.small_cnn import SmallCNN

    (choice,) = [c for c in choices([]) if "pooling sit" in c.question]
    assert "batch norm after each convolution, then pooling, then ReLU" in choice.ours
    source = inspect.getsource(SmallCNN.forward)
    assert "F.relu(F.max_pool2d(self.norm1(self.conv1(images)), 2))" in source


def test_choices_stand_without_any_record():
    assert all(c.ours and not c.alternatives for c in choices([]))

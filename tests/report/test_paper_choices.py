from thalweg.report.paper_choices import choices


def test_each_open_question_has_a_choice_and_measured_alternatives_where_there_are_some(study):
    found = {c.question: c for c in choices(study.records)}
    assert len(found) == 10
    text = " ".join(line for c in found.values() for line in c.alternatives)
    assert "λmax(A1): running 88.40, recalibrated 88.60, batch 52.10 (paper 57.18)" in text
    assert "epoch by epoch: 0.01, 0.005, 0.005, 0.0025, 0.0025, 0.00125" in text
    assert "S(B), one step: 0.08420 (paper 0.0886)" in text
    assert "S(A1), one step → several: running 0.1310 → 0.1389" in text
    assert "filter, running: A1 3.423, B 2.305" in text


def test_choices_stand_without_any_record():
    assert all(c.ours and not c.alternatives for c in choices([]))

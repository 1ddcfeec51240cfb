"""Study files: what is filled in, and errors that name file, field and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.study.toy import write_study

from thalweg.study.foresight import foresight
from thalweg.study.spec import StudySpec
from thalweg.study.study_file import read_study, shipped_studies


def test_what_is_left_out_is_filled_in(toy_folder: Path) -> None:
    spec = read_study(write_study(toy_folder))
    assert spec.seeds == [1, 2]
    assert spec.models["plain"].build == "toy_networks:Net"
    assert spec.fields == {"model": ["bn", "plain"]}
    assert spec.training.momentum == 0.9


def test_a_frozen_study_reads_back_the_same(toy_folder: Path) -> None:
    spec = read_study(write_study(toy_folder))
    assert StudySpec.model_validate(spec.frozen()) == spec


def test_a_preset_is_laid_over_the_rest(toy_folder: Path) -> None:
    study = write_study(toy_folder, '[presets.less]\nwithout = ["measures.average"]\ntraining.epochs = 1\n')
    spec = read_study(study, "less")
    assert list(spec.measures) == ["sam_sharpness"]
    assert (spec.training.epochs, spec.training.lr) == (1, 0.1)
    with pytest.raises(ValueError, match=r"`preset` must be one of .*three, less.*got 'more'"):
        read_study(study, "more")


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"seeds": "seeds = [1, 1]"}, r"toy.toml: seeds: a seed stands here twice"),
        ({"seeds": "seed = 3"}, r"seed: there is no such field; allowed are .*seeds, "),
        ({"lr": 'lr = "much"'}, r"training.lr: .*number.*'?\"?much"),
        ({"momentum": "momentum = 1"}, r"training.momentum: .*less than 1, got 1"),
        ({"moments": 'moments = ["later"]'}, r"moments: a moment is 'end', 'start'.*got 'later'"),
        (
            {"[measures.sam_sharpness]": "[measures.sharp]"},
            r"`measures.sharp` must be some of .*sam_sharpness",
        ),
        (
            {"arguments": "arguments = { tol = 1 }"},
            r"`measures.average` gives average_sharpness 'tol'; it takes radius",
        ),
        ({"measure": 'measure = "gap_width"'}, r"must be .*got 'gap_width'"),
        ({"by": 'by = "width"'}, r"`claims.flatter.by` must be one of model, got 'width'"),
        ({"groups": 'groups = ["bn", "ln"]'}, r"`claims.flatter.groups` must be one of bn, plain, got 'ln'"),
        ({"margin": "margin = 0.9"}, r"claims.1: .*margin is a ratio .*above 1, got 0.9"),
        ({"expect": 'expect = "better"'}, r"claims.1: expect: .*'larger', 'smaller' or 'equivalent'"),
        ({"modes": 'modes = ["train"]'}, r"objective.modes.0: .*'running', 'recalibrated' or 'batch'"),
    ],
)
def test_errors_name_file_field_and_what_is_allowed(toy_folder: Path, replaced: dict, message: str) -> None:
    if "momentum" in replaced:
        replaced = {"lr": "lr = 0.1\n" + replaced["momentum"]}
    if replaced.get("measure", "").endswith('gap_width"'):
        study = write_study(toy_folder)
        study.write_text(study.read_text().replace('measure = "sam_sharpness"', 'measure = "gap_width"'))
    else:
        study = write_study(toy_folder, **replaced)
    with pytest.raises(ValueError, match=message):
        read_study(study)


CLAIM = {"name": "c", "measure": "trace"}
PAIR = {"barrier": {}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"claims": [{**CLAIM, "expect": "positive", "statistic": "partial"}]}, "partial needs given"),
        ({"claims": [{**CLAIM, "expect": "positive", "given": ["gap"]}]}, "given is what partial has"),
        ({"claims": [{**CLAIM, "expect": "none"}]}, "a claim of no relation needs a margin"),
        ({"claims": [{**CLAIM, "expect": "none", "margin": 1.2}]}, "must be below 1, got 1.2"),
        ({"claims": [{**CLAIM, "expect": "positive", "ranks": "trace"}]}, "trace is the measure itself"),
        (
            {"claims": [{**CLAIM, "measure": "barrier", "expect": "positive"}], "pairs": PAIR},
            "`claims.c.measure` must be one of gap, .*got 'barrier'",
        ),
        (
            {
                "claims": [{**CLAIM, "expect": "positive", "mode": "batch"}],
                "measures": {"trace": {"modes": ["running"]}},
            },
            "claims.c.mode: trace is measured in running, not batch",
        ),
        (
            {
                "claims": [{**CLAIM, "expect": "positive", "moment": "epoch 1"}],
                "measures": {"trace": {"moments": ["end"]}},
            },
            "claims.c.moment: trace is measured at end, not at epoch 1",
        ),
        ({"claims": [{**CLAIM, "expect": "positive", "moment": "start"}]}, "not at start"),
        (
            {"claims": [{**CLAIM, "expect": "positive", "matched_loss": 0.3}], "moments": ["end"]},
            "claims.c.matched_loss: trace is measured at end; a value between takes two moments",
        ),
        (
            {
                "claims": [{**CLAIM, "expect": "positive", "matched_loss": 0.3}],
                "moments": ["epoch 1", "step 9", "end"],
            },
            "of epochs and steps together the order is not known",
        ),
        ({"moments": ["end", "end"]}, "end stands here twice"),
        ({"moments": ["epoch 9", "end"]}, "moments: epoch 9 lies beyond the 6 epochs of training"),
        (
            {
                "claims": [
                    {**CLAIM, "measure": "p", "by": "model", "groups": ["a", "b"], "expect": "larger"}
                ],
                "pairs": {"p": {"across": "model", "modes": ["running"]}},
            },
            "claims.c.by: p is of two networks that differ in model themselves",
        ),
        ({"grid": {"axes": {"model.mode": [1, 2]}}}, "grid.axes: mode is a column of every study's table"),
        ({"grid": {"axes": {"model.status": [1, 2]}}}, "grid.axes: status is a column"),
        (
            {"pairs": {"barrier": {"arguments": {"num_pts": 5}}}},
            "`pairs.barrier.arguments` must be some of .*num_points.*got 'num_pts'; did you mean 'num_po",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(content: dict, words: str) -> None:
    base = {
        "name": "x",
        "seeds": 2,
        "models": {"a": "small_cnn", "b": "small_cnn_bn"},
        "moments": ["epoch 1", "end"],
        "objective": {"modes": ["running", "batch"]},
        "measures": {"trace": {}},
    }
    with pytest.raises(ValueError, match=words):
        StudySpec.model_validate({**base, **content})


def test_a_preset_is_a_table_and_a_question_ends_in_one_mark(toy_folder: Path) -> None:
    study = write_study(toy_folder, "[presets]\nbig = 3\n")
    study.write_text(study.read_text().replace("[presets.three]\nseeds = 3\n", ""))
    with pytest.raises(ValueError, match=r"toy.toml: presets.big must be a table, got 3"):
        read_study(study, "big")
    near = write_study(toy_folder, by='by = "modle"')
    with pytest.raises(ValueError, match=r"did you mean 'model'\?$"):
        read_study(near)


def test_what_is_no_toml_and_what_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("seeds = [")
    with pytest.raises(ValueError, match=r"bad.toml is no TOML: "):
        read_study(tmp_path / "bad.toml")
    with pytest.raises(ValueError, match=r"`study` must be a .toml file or one of batch-norm.*not a file"):
        read_study(tmp_path / "none.toml")


@pytest.mark.parametrize("name", shipped_studies())
@pytest.mark.parametrize("preset", ["smoke", "laptop", "full"])
def test_the_shipped_studies_are_sound(name: str, preset: str) -> None:
    spec = read_study(name, preset)
    assert spec.claims
    assert any(claim.primary for claim in spec.claims)
    assert all(claim.text for claim in spec.claims)


@pytest.mark.parametrize("name", shipped_studies())
@pytest.mark.parametrize("preset", ["laptop", "full"])
def test_every_primary_claim_of_a_shipped_study_can_be_decided(name: str, preset: str) -> None:
    found = foresight(read_study(name, preset))
    assert found
    assert not [str(line) for line in found if "can decide nothing" in str(line)]

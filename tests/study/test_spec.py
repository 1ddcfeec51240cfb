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
        ({"seeds": "seed = 3"}, r"seed: there is no such field"),
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

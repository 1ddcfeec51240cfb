"""docs/studies.md: its study file is one, and its commands are there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from typer.main import get_command

from thalweg.cli.main import app
from thalweg.study.spec import StudySpec

PAGE = (Path(__file__).parents[1] / "docs" / "studies.md").read_text()


def test_the_study_file_of_the_page_is_one() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    spec = StudySpec.model_validate(tomllib.loads(text))
    assert len(spec.settings) == 8
    assert spec.fields == {"model": ["bn", "plain"], "lr": [0.01, 0.05], "width": [16, 32]}


def test_every_command_and_option_of_the_page_is_there() -> None:
    commands: dict[str, object] = get_command(app).commands  # type: ignore[attr-defined]
    called = re.findall(r"thalweg (study \w+|report|export)([^\n`]*)", PAGE)
    assert len(called) > 8
    for verb, rest in called:
        group, _, name = verb.partition(" ")
        command = commands[group].commands[name] if name else commands[group]  # type: ignore[attr-defined]
        options = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"--[a-z-]+", rest)) <= options, verb

"""Patterns with named fields: what they match, what they say of themselves."""

from __future__ import annotations

from pathlib import Path

import pytest

from thalweg.analyses.run_files import run_files


def made(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def fields(pattern: str) -> list[dict]:
    return [found for _, found in run_files(pattern)]


def test_fields_of_folders_and_files_numbers_in_their_order(tmp_path):
    made(tmp_path, *(f"ckpt/{r}/seed{s}.pt" for r in ("sgd", "sam") for s in (10, 9, 2)))
    made(tmp_path, "ckpt/sgd/seed3.pth", "ckpt/sgd/seed.pt", "ckpt/readme", "ckpt/sam/.seed4.pt.71.partial")
    found = run_files(f"{tmp_path}/ckpt/{{recipe}}/seed{{seed}}.pt")
    assert [f for _, f in found] == [{"recipe": r, "seed": s} for r in ("sam", "sgd") for s in (2, 9, 10)]
    assert found[0][0] == tmp_path / "ckpt/sam/seed2.pt"


def test_a_pattern_relative_to_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(made(tmp_path, "a-1.pt", "b-1.pt"))
    assert fields("{recipe}-{seed}.pt") == [{"recipe": r, "seed": 1} for r in "ab"]


def test_all_but_fields_stands_for_itself(tmp_path):
    made(tmp_path, "w[1]+x.pt", "w1+x.pt", "{x}.pt")
    assert fields(f"{tmp_path}/w[1]+{{name}}.pt") == [{"name": "x"}]
    assert fields(f"{tmp_path}/{{{{{{name}}}}}}.pt") == [{"name": "x"}]


def test_numbers_are_numbers_only_where_all_are(tmp_path):
    made(tmp_path, "lr0.1-wd0-x1.pt", "lr1e-2-wd5-xa.pt")
    found = fields(f"{tmp_path}/lr{{lr}}-wd{{wd}}-x{{x}}.pt")
    assert found == [{"lr": 0.01, "wd": 5, "x": "a"}, {"lr": 0.1, "wd": 0, "x": "1"}]
    assert isinstance(found[0]["wd"], int)


def test_a_field_used_twice_must_say_the_same(tmp_path):
    made(tmp_path, "a/a-1-1.pt", "a/b-1-1.pt", "a/a-1-2.pt", "b/b-2-2.pt")
    found = fields(f"{tmp_path}/{{recipe}}/{{recipe}}-{{seed}}-{{seed}}.pt")
    assert found == [{"recipe": "a", "seed": 1}, {"recipe": "b", "seed": 2}]


def test_a_folder_of_the_right_name_is_no_checkpoint(tmp_path):
    made(tmp_path, "a.pt/w", "b.pt")
    assert fields(f"{tmp_path}/{{name}}.pt") == [{"name": "b"}]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("ckpt/*.pt", "`pattern` must name what varies by fields in braces, such as"),
        ("ckpt/{}.pt", "names of letters, digits and underscores in its braces, got '{}.pt'"),
        ("ckpt/{seed:d}.pt", "names of letters, digits and underscores"),
        ("ckpt/{a}{b}.pt", "some text between two fields, got '{a}{b}.pt'"),
        ("ckpt/{a.pt", "`pattern` cannot be read at '{a.pt'"),
        (
            "{r}/s{s}.pth",
            r"matches no file: in a there is s1.pt, s2.pt, s3.pt, s4.pt, s5.pt, s6.pt and 2 more",
        ),
        ("{r}/deep/{s}.pt", "matches no file: in a there is s1.pt"),
        ("none/{s}.pt", r"matches no file: in \. there is a"),
        ("a/s1.pt/{s}.pt", "matches no file: a/s1.pt is no folder"),
        ("{r}", "matches no file: a is no file"),
    ],
)
def test_what_cannot_be_found_or_read(tmp_path, monkeypatch, pattern, words):
    monkeypatch.chdir(made(tmp_path, *(f"a/s{i}.pt" for i in range(1, 9))))
    with pytest.raises(ValueError, match=words):
        run_files(pattern)


def test_two_files_that_say_the_same(tmp_path):
    made(tmp_path, "seed1.pt", "seed01.pt", "seed2.pt")
    with pytest.raises(
        ValueError, match=r"must tell its files apart, but .*seed01.pt and .*seed1.pt both say seed=1"
    ):
        run_files(f"{tmp_path}/seed{{seed}}.pt")

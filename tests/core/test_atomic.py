import os

import pytest

from thalweg.core.atomic import replacing, sweep_partials


def test_the_file_appears_whole_and_nothing_else_stays(tmp_path):
    target = tmp_path / "new" / "folder" / "result.json"
    with replacing(target) as partial:
        assert partial.parent == target.parent, "a rename across file systems is not atomic"
        partial.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert os.listdir(target.parent) == ["result.json"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_old_file(tmp_path, error):
    target = tmp_path / "result.json"
    target.write_text("old")

    def write_half():
        with replacing(target) as partial:
            partial.write_text("ha")
            raise error("killed")

    with pytest.raises(error, match="killed"):
        write_half()
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["result.json"]


def test_success_replaces_the_old_file(tmp_path):
    target = tmp_path / "result.json"
    target.write_text("a much longer old content")
    with replacing(str(target)) as partial:
        partial.write_text("new")
    assert target.read_text() == "new"


def test_a_body_that_writes_nothing_is_an_error_and_keeps_the_old_file(tmp_path):
    target = tmp_path / "result.json"
    target.write_text("old")
    with pytest.raises(FileNotFoundError, match="partial"), replacing(target):
        pass
    assert target.read_text() == "old"


def test_the_content_reaches_the_disk_before_the_name_and_then_the_name(tmp_path, monkeypatch):
    events = []
    real_fsync, real_replace = os.fsync, type(tmp_path).replace
    monkeypatch.setattr(os, "fsync", lambda fd: (events.append("fsync"), real_fsync(fd))[1])
    monkeypatch.setattr(
        type(tmp_path), "replace", lambda a, b: (events.append("replace"), real_replace(a, b))[1]
    )
    with replacing(tmp_path / "x") as partial:
        partial.write_bytes(b"1")
    assert events == ["fsync", "replace", "fsync"], "and the new name after it"


def test_sweeping_removes_what_a_kill_would_leave(tmp_path):
    with replacing(tmp_path / "x") as partial:
        (tmp_path / partial.name.replace(str(os.getpid()), "1")).write_text("left")
        partial.write_text("new")
    assert len(os.listdir(tmp_path)) == 2
    sweep_partials(tmp_path)
    assert os.listdir(tmp_path) == ["x"]
    sweep_partials(tmp_path / "missing")

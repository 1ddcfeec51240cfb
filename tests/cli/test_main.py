"""What becomes of errors: one line, the exit code, and the traceback on request."""

from __future__ import annotations

import errno
import io
import os
import sys

import pytest
from safetensors import SafetensorError

from thalweg.cli import main
from thalweg.core.errors import ConvergenceError, DataError


def outcome(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> int:
    """Exit code of a command that raises `error`."""

    def app(standalone_mode: bool) -> None:
        raise error

    monkeypatch.setattr(main, "app", app)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SystemExit) as caught:
        main.run()
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ValueError("bad"), 2),
        (DataError("bad"), 2),
        (ConvergenceError("spent"), 1),
        (KeyboardInterrupt(), 130),
        # A path that the user named:
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "x"), 2),
        (PermissionError(errno.EACCES, os.strerror(errno.EACCES), "x"), 2),
        (NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), "x"), 2),
        (OSError(errno.EROFS, os.strerror(errno.EROFS), "x"), 2),
        # What no other input would have helped:
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), 1),
        (OSError(errno.EIO, os.strerror(errno.EIO)), 1),
        (ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET)), 1),
        (OSError("of no known number"), 1),
        (SafetensorError("I/O error: No space left on device (os error 28)"), 1),
    ],
)
def test_exit_codes(
    error: BaseException,
    code: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert outcome(error, monkeypatch) == code
    complaint = capsys.readouterr().err
    assert complaint.startswith("thalweg: ")
    assert complaint.count("\n") == 1


def test_a_full_disk_under_standard_output_is_a_failure(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Full(io.StringIO):
        def flush(self) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def app(standalone_mode: bool) -> None:
        print("a result")

    monkeypatch.setattr(main, "app", app)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "stdout", Full())
    with pytest.raises(SystemExit, match="1"):
        main.run()
    assert "No space left on device" in capsys.readouterr().err


def test_the_traceback_shows_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = ValueError("`model` own:net raised KeyError: 'width'.")
    error.__cause__ = KeyError("width")
    assert outcome(error, monkeypatch) == 2
    assert "(THALWEG_DEBUG=1 shows the traceback.)" in capsys.readouterr().err
    monkeypatch.setenv("THALWEG_DEBUG", "1")
    with pytest.raises(ValueError, match="own:net raised KeyError"):
        main.run()


def test_a_mistake_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def app(standalone_mode: bool) -> None:
        raise AssertionError("ours")

    monkeypatch.setattr(main, "app", app)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(AssertionError, match="ours"):
        main.run()

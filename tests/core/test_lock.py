import os
import subprocess
import sys

import pytest

from thalweg.core.lock import sole_writer

HOLD = """
import sys, time
from pathlib import Path
from thalweg.core.lock import sole_writer
with sole_writer(Path(sys.argv[1]), "out"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_told_at_once_and_a_kill_frees_the_folder(tmp_path):
    folder = tmp_path / "new" / "folder"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE) as other:
        assert other.stdout
        assert other.stdout.readline() == b"held\n"
        clear = r"`out` must not be written by two runs at once.*new/folder; wait"
        with pytest.raises(ValueError, match=clear), sole_writer(folder, "out"):
            pytest.fail("two writers at once")
        other.kill()
    with sole_writer(folder, "out"):
        assert os.listdir(folder) == [".lock"]


def test_two_calls_in_one_process_exclude_each_other_and_an_error_frees(tmp_path):
    def fail():
        with sole_writer(tmp_path, "checkpoint_dir"):
            with (
                pytest.raises(ValueError, match="`checkpoint_dir` must not"),
                sole_writer(tmp_path, "checkpoint_dir"),
            ):
                pytest.fail("two writers at once")
            raise KeyError("anything")

    with pytest.raises(KeyError, match="anything"):
        fail()
    with sole_writer(tmp_path, "checkpoint_dir"):
        pass

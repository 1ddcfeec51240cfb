"""``thalweg data``: where the data are, in words and in JSON; one line and exit code 2 when they are not."""

import gzip
import hashlib
import json
import struct
import sys

import pytest

from thalweg.cli import main
from thalweg.data import fashion_mnist

COUNTS = {
    "train-images-idx3-ubyte": (3, 28, 28),
    "train-labels-idx1-ubyte": (3,),
    "t10k-images-idx3-ubyte": (2, 28, 28),
    "t10k-labels-idx1-ubyte": (2,),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Tiny files that pass for the real ones."""
    hashes = {}
    for name, shape in COUNTS.items():
        size = 1
        for length in shape:
            size *= length
        content = struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + bytes(size)
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
        hashes[name] = hashlib.sha256(content).hexdigest()
    monkeypatch.setattr(fashion_mnist, "SHA256", hashes)
    monkeypatch.delenv("THALWEG_DATA", raising=False)
    return tmp_path


@pytest.fixture
def thalweg(monkeypatch, capsys):
    """Run the command in this process: ``thalweg(*arguments) -> (exit code, stdout, stderr)``."""

    def run(*arguments):
        monkeypatch.setattr("sys.path", [*sys.path])
        monkeypatch.setattr("sys.argv", ["thalweg", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main.run()
        output = capsys.readouterr()
        return caught.value.code, output.out, output.err

    return run


def test_says_where_and_from_which_source(thalweg, folder):
    code, out, err = thalweg("data", "fashion-mnist", "--data-root", folder)
    assert (code, err) == (0, "")
    assert f"fashion-mnist: {folder} (from the named folder)" in out
    for name in COUNTS:
        assert f"{name}.gz" in out
    assert out.count("SHA-256 of the content ok") == 4


def test_json(thalweg, folder, monkeypatch):
    monkeypatch.setenv("THALWEG_DATA", str(folder))
    code, out, err = thalweg("data", "fashion-mnist", "--json")
    assert (code, err) == (0, "")
    found = json.loads(out)
    assert found["source"] == "the folder in THALWEG_DATA"
    assert found["folder"] == str(folder)
    assert set(found["files"]) == set(COUNTS)
    entry = found["files"]["t10k-labels-idx1-ubyte"]
    assert entry["sha256"] == fashion_mnist.SHA256["t10k-labels-idx1-ubyte"]
    assert entry["bytes"] == (folder / "t10k-labels-idx1-ubyte.gz").stat().st_size


def test_a_broken_folder_is_one_line_and_exit_2(thalweg, folder):
    path = folder / "train-labels-idx1-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-12])
    code, out, err = thalweg("data", "fashion-mnist", "--data-root", folder)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert "train-labels-idx1-ubyte.gz is a truncated or corrupted gzip file" in err


def test_an_unknown_data_set_is_one_line_and_exit_2(thalweg):
    code, _, err = thalweg("data", "imagenet")
    assert code == 2
    assert "`name` must be one of fashion-mnist, got 'imagenet'" in err


def test_help_has_an_example(thalweg):
    code, out, _ = thalweg("data", "--help")
    assert code == 0
    assert "thalweg data fashion-mnist" in " ".join(out.split())

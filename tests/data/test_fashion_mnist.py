"""Fashion-MNIST's sources: each one serves, in order; each failure says why; nothing broken is cached."""

import gzip
import hashlib
import io
import struct
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from thalweg.core.errors import DataError
from thalweg.data import debian, fashion_mnist

NUM_TRAIN, NUM_TEST = 7, 5


def images(rng, n):
    return struct.pack(">BBBBIII", 0, 0, 8, 3, n, 28, 28) + rng.bytes(n * 784)


def labels(rng, n):
    return struct.pack(">BBBBI", 0, 0, 8, 1, n) + bytes(rng.integers(0, 10, n).tolist())


def fill(folder, contents, zipped=True):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder


class World:
    """A machine where no source has anything, until a test puts something there."""

    def __init__(self, tmp_path, monkeypatch):
        rng = np.random.default_rng(0)
        self.contents = {
            "train-images-idx3-ubyte": images(rng, NUM_TRAIN),
            "train-labels-idx1-ubyte": labels(rng, NUM_TRAIN),
            "t10k-images-idx3-ubyte": images(rng, NUM_TEST),
            "t10k-labels-idx1-ubyte": labels(rng, NUM_TEST),
        }
        self.broken = {
            **self.contents,
            "t10k-images-idx3-ubyte": self.contents["t10k-images-idx3-ubyte"][:-9],
        }
        self.other = {**self.contents, "t10k-images-idx3-ubyte": images(np.random.default_rng(1), NUM_TEST)}
        self.cache, self.system = tmp_path / "cache" / "fashion-mnist", tmp_path / "system"
        self.package: dict[str, bytes] | None = None  # what apt-get gives
        self.official: dict[str, bytes] | None = None  # what the official addresses give
        self.asked: list[str] = []
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in self.contents.items()}
        monkeypatch.setattr(fashion_mnist, "SHA256", hashes)
        monkeypatch.setattr(fashion_mnist, "cache_folder", lambda: self.cache)
        monkeypatch.setattr(fashion_mnist, "SYSTEM_FOLDER", self.system)
        monkeypatch.delenv("THALWEG_DATA", raising=False)
        monkeypatch.setattr(debian.subprocess, "run", self._run)
        monkeypatch.setattr("pooch.retrieve", self._retrieve)

    def _run(self, command, cwd=None, **_kwargs):
        self.asked.append(command[0])
        if command[0] != "apt-get":
            raise FileNotFoundError  # no dpkg-deb: the package is read by Python
        if self.package is None:
            return subprocess.CompletedProcess(command, 100, "", "E: Unable to locate package\n")
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w:xz") as tar:
            for name, content in self.package.items():
                zipped = gzip.compress(content)
                info = tarfile.TarInfo(f"./usr/share/datasets/fashion-mnist/{name}.gz")
                info.size = len(zipped)
                tar.addfile(info, io.BytesIO(zipped))
        body = buffer.getvalue()
        header = f"{'data.tar.xz':<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(body):<10}`\n"
        (cwd / "dataset-fashion-mnist_1_all.deb").write_bytes(b"!<arch>\n" + header.encode() + body)
        return subprocess.CompletedProcess(command, 0, "", "")

    def _retrieve(self, url, known_hash, fname, path, downloader):
        self.asked.append(url)
        if self.official is None:
            raise OSError("no route to host\nand a long story")
        name = fname.removesuffix(".gz")
        assert known_hash == f"md5:{fashion_mnist.OFFICIAL_MD5[name]}"
        (path / fname).write_bytes(gzip.compress(self.official[name]))
        return str(path / fname)


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch)


def nothing_cached(world):
    return not world.cache.exists() or not list(world.cache.iterdir())


# -- what is loaded -----------------------------------------------------------------------------------


def test_load_normalises_and_keeps_the_order(world):
    fill(world.system, world.contents)
    x, y = fashion_mnist.load("train")
    assert x.shape == (NUM_TRAIN, 1, 28, 28)
    assert x.dtype == torch.float32
    raw = np.frombuffer(world.contents["train-images-idx3-ubyte"][16:], np.uint8)
    expected = (raw.reshape(x.shape).astype(np.float64) / 255 - 0.5) / 0.5
    np.testing.assert_allclose(x.numpy(), expected, atol=1e-7, rtol=0)
    assert y.dtype == torch.int64
    assert y.tolist() == list(world.contents["train-labels-idx1-ubyte"][8:])
    assert len(fashion_mnist.load("test")[0]) == NUM_TEST


def test_load_refuses_another_split(world):
    with pytest.raises(ValueError, match=r'`split` must be "train" or "test", got \'valid\''):
        fashion_mnist.load("valid")  # type: ignore[arg-type]


# -- the folder that the user names -------------------------------------------------------------------


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("below", [".", "fashion-mnist", "FashionMNIST/raw"])
def test_named_folder_serves(world, tmp_path, zipped, below):
    folder = fill(tmp_path / "mine" / below, world.contents, zipped)
    location = fashion_mnist.locate(tmp_path / "mine")
    assert location.source == "the named folder"
    assert location.folder.resolve() == folder.resolve()
    assert set(location.files) == set(world.contents)
    assert not world.asked


def test_environment_names_a_folder_and_the_argument_wins(world, tmp_path, monkeypatch):
    fill(world.system, world.contents)
    monkeypatch.setenv("THALWEG_DATA", str(fill(tmp_path / "env", world.contents)))
    assert fashion_mnist.locate().source == "the folder in THALWEG_DATA"
    assert fashion_mnist.locate(fill(tmp_path / "mine", world.contents)).folder == tmp_path / "mine"
    monkeypatch.setenv("THALWEG_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match=r"the folder in THALWEG_DATA, .*nowhere, is not a folder"):
        fashion_mnist.locate()
    monkeypatch.setenv("THALWEG_DATA", "")  # as good as unset
    assert fashion_mnist.locate().source == "the system's data sets"


def test_a_wrong_named_folder_is_an_error_though_other_sources_would_serve(world, tmp_path):
    fill(world.system, world.contents)
    world.package = world.official = world.contents
    mine = tmp_path / "mine"
    with pytest.raises(DataError, match="is not a folder; name one"):
        fashion_mnist.locate(mine)
    mine.mkdir()
    with pytest.raises(DataError, match="holds none of the four files"):
        fashion_mnist.locate(mine)
    fill(mine, {k: v for k, v in world.contents.items() if k != "train-labels-idx1-ubyte"})
    with pytest.raises(DataError, match=r"mine lacks train-labels-idx1-ubyte \(plain or \.gz\)"):
        fashion_mnist.locate(mine)
    fill(mine, world.broken)
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz is truncated: shape \(5, 28, 28\)"):
        fashion_mnist.load("train", mine)  # broken in the split that is not even asked for
    fill(mine, world.other)
    with pytest.raises(DataError, match="is not Fashion-MNIST's t10k-images-idx3-ubyte: the SHA-256"):
        fashion_mnist.locate(mine)
    fill(mine, world.contents)
    path = mine / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match="truncated or corrupted gzip"):
        fashion_mnist.locate(mine)
    assert nothing_cached(world)
    assert not world.asked


# -- the other sources --------------------------------------------------------------------------------


def test_sources_are_tried_in_order(world):
    world.official = world.contents
    location = fashion_mnist.locate()
    assert location.source == "the official download"
    assert list(location.skipped) == ["the cache", "the system's data sets", "Debian's package"]
    assert location.folder == world.cache

    world.asked.clear()
    assert fashion_mnist.locate().source == "the cache"
    assert not world.asked

    for path in world.cache.iterdir():
        path.unlink()
    world.package = world.contents
    assert fashion_mnist.locate().source == "Debian's package"
    assert not any("http" in asked for asked in world.asked)

    for path in world.cache.iterdir():
        path.unlink()
    world.asked.clear()
    fill(world.system, world.contents)
    location = fashion_mnist.locate()
    assert location.source == "the system's data sets"
    assert list(location.skipped) == ["the cache"]
    assert not world.asked
    assert nothing_cached(world)


@pytest.mark.parametrize("source", ["package", "official"])
def test_what_is_fetched_is_cached_to_the_byte(world, source):
    setattr(world, source, world.contents)
    fashion_mnist.locate()
    assert {p.name: p.read_bytes() for p in world.cache.iterdir()} == world.contents


@pytest.mark.parametrize("source", ["package", "official"])
@pytest.mark.parametrize("flaw", ["broken", "other"])
def test_a_bad_fetch_is_an_error_and_leaves_nothing(world, source, flaw):
    setattr(world, source, getattr(world, flaw))
    message = "truncated" if flaw == "broken" else "is not Fashion-MNIST's t10k-images-idx3-ubyte"
    with pytest.raises(DataError, match=message):
        fashion_mnist.locate()
    assert nothing_cached(world)


def test_an_incomplete_package_is_an_error_and_leaves_nothing(world):
    world.package = {k: v for k, v in world.contents.items() if k.startswith("train")}
    with pytest.raises(DataError, match=r"all\.deb lacks t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte"):
        fashion_mnist.locate()
    assert nothing_cached(world)


@pytest.mark.parametrize("flaw", ["broken", "other"])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_bad_cache_is_passed_over_and_repaired(world, flaw, zipped):
    fill(world.cache, getattr(world, flaw), zipped)
    world.official = world.contents
    location = fashion_mnist.locate()
    assert location.source == "the official download"
    assert "t10k-images-idx3-ubyte" in location.skipped["the cache"]
    assert fashion_mnist.locate().source == "the cache"


def test_the_second_mirror_serves_when_the_first_does_not(world, monkeypatch):
    first = fashion_mnist.OFFICIAL_MIRRORS[0]
    world.official = world.contents
    retrieve = world._retrieve

    def refusing(url, **kwargs):
        if url.startswith(first):
            raise ValueError("MD5 hash of downloaded file does not match")
        return retrieve(url, **kwargs)

    monkeypatch.setattr("pooch.retrieve", refusing)
    assert fashion_mnist.locate().source == "the official download"


def test_a_cache_that_cannot_be_written_is_named(world):
    world.package = world.contents
    world.cache.parent.write_bytes(b"a file where the folder should be")
    with pytest.raises(DataError, match=r"Debian's package: .*Not a directory|Debian's package: .*exists"):
        fashion_mnist.locate()


def test_when_every_source_fails_each_says_why(world):
    with pytest.raises(DataError, match="found in no source") as caught:
        fashion_mnist.load("train")
    lines = str(caught.value).splitlines()
    assert lines[1].startswith("  the cache: ")
    assert lines[2].startswith("  the system's data sets: ")
    assert "Unable to locate package" in lines[3]
    assert "amazonaws" in lines[4]
    assert "github" in lines[4]
    assert "no route to host" in lines[4]
    assert "long story" not in str(caught.value)
    assert "`--data-root` or THALWEG_DATA" in lines[5]


# -- the real data ------------------------------------------------------------------------------------


def test_the_cache_follows_the_platform(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    folder = fashion_mnist.cache_folder()
    assert folder.name == "fashion-mnist"
    assert "thalweg" in folder.parts
    if Path("/proc").exists():  # Linux
        assert folder == tmp_path / "thalweg" / "fashion-mnist"


@pytest.mark.real_data
def test_the_real_data_are_what_is_published_about_them():
    x, y = fashion_mnist.load("train")
    xt, yt = fashion_mnist.load("test")
    assert x.shape == (60_000, 1, 28, 28)
    assert xt.shape == (10_000, 1, 28, 28)
    assert y.bincount().tolist() == [6000] * 10
    assert yt.bincount().tolist() == [1000] * 10
    assert (float(x.min()), float(x.max())) == (-1.0, 1.0)
    # Mean and deviation of the pixels in [0, 1], which many published scripts normalise by: 0.2860, 0.3530.
    pixels = x.double() * 0.5 + 0.5
    assert float(pixels.mean()) == pytest.approx(0.2860, abs=5e-5)
    assert float(pixels.std()) == pytest.approx(0.3530, abs=5e-5)
    assert y[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]

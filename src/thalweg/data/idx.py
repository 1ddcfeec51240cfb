"""The IDX format of MNIST and its kin: big-endian header, then raw bytes. Anything odd is an error.

Format: two zero bytes, one byte of element type, one byte of rank, then one 32-bit length a dimension, then
the elements (LeCun, Cortes and Burges, "The MNIST database"). Files come plain or gzipped.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

from thalweg.core.errors import DataError

GZIP_MAGIC = b"\x1f\x8b"
UNSIGNED_BYTE = 0x08  # the only element type MNIST and Fashion-MNIST use
# Far above the 47 MB of the training images, far below what a hostile file could unfold to.
MAX_BYTES = 1 << 30


def read_idx_bytes(path: str | Path) -> bytes:
    """Return the IDX bytes of a file, unzipped if it is gzipped; told by its first bytes, not its name.

    Raises
    ------
    DataError
        If the file is missing, unreadable, or a truncated or corrupted gzip stream.
    """
    path = Path(path)
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == GZIP_MAGIC
        with gzip.open(path) if zipped else path.open("rb") as stream:
            content = stream.read(MAX_BYTES + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is a truncated or corrupted gzip file ({error}); fetch it again.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from error
    if len(content) > MAX_BYTES:
        raise DataError(f"{path} holds more than {MAX_BYTES:,} bytes; it is no MNIST-like file.")
    return content


def parse_idx(content: bytes, name: str = "the IDX data") -> Tensor:
    """Parse IDX bytes into a uint8 tensor of the shape that the header states.

    Parameters
    ----------
    content
        The whole file, unzipped.
    name
        What to call it in errors.

    Raises
    ------
    DataError
        If the header is not IDX of unsigned bytes, or there are fewer or more bytes than it states.

    Examples
    --------
    >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 3, 7, 8, 9]))
    tensor([7, 8, 9], dtype=torch.uint8)
    """
    if len(content) < 4 or content[:2] != b"\0\0":
        raise DataError(f"{name} is not an IDX file: it starts with {content[:4].hex(' ') or 'nothing'}.")
    kind, rank = content[2], content[3]
    if kind != UNSIGNED_BYTE:
        raise DataError(f"{name} holds elements of type 0x{kind:02x}; only unsigned bytes (0x08) are read.")
    if rank == 0:
        raise DataError(f"{name} states no dimension; an IDX file has one or more.")
    start = 4 + 4 * rank
    if len(content) < start:
        raise DataError(f"{name} ends inside its header ({len(content)} of {start} bytes); fetch it again.")
    shape = struct.unpack(f">{rank}I", content[4:start])
    stated, found = math.prod(shape), len(content) - start
    if found < stated:
        raise DataError(
            f"{name} is truncated: shape {shape} needs {stated:,} bytes, found {found:,}; fetch it again."
        )
    if found > stated:
        raise DataError(
            f"{name} has {found - stated:,} bytes after its end: shape {shape} needs {stated:,}; "
            "fetch it again."
        )
    # A copy, because a tensor must not share the memory of immutable bytes.
    elements = torch.frombuffer(bytearray(content[start:]), dtype=torch.uint8) if stated else torch.zeros(0)
    return elements.to(torch.uint8).reshape(shape)

"""IDX files: read exactly, and refused for whatever is wrong with them."""

import gzip
import struct

import pytest
import torch

from thalweg.core.errors import DataError
from thalweg.data.idx import parse_idx, read_idx_bytes


def idx(shape, elements, kind=8):
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, kind, len(shape), *shape) + bytes(elements)


@pytest.mark.parametrize("shape", [(5,), (2, 3), (3, 2, 4), (0,), (0, 28, 28)])
def test_parses_every_rank(shape):
    count = torch.Size(shape).numel()
    parsed = parse_idx(idx(shape, range(count)))
    assert parsed.dtype == torch.uint8
    assert torch.equal(parsed, torch.arange(count, dtype=torch.uint8).reshape(shape))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "t is not an IDX file: it starts with nothing"),
        (b"\0\0\x08", "not an IDX file"),
        (b"PK\x03\x04rest", "not an IDX file: it starts with 50 4b 03 04"),
        (idx((2,), b"ab", kind=0x0D), "type 0x0d; only unsigned bytes"),
        (b"\0\0\x08\0", "states no dimension"),
        (idx((3, 4), [])[:9], r"ends inside its header \(9 of 12 bytes\)"),
        (idx((2, 3), range(5)), r"truncated: shape \(2, 3\) needs 6 bytes, found 5"),
        (idx((2, 3), range(8)), "2 bytes after its end"),
        # The header of a hostile file must not make us allocate what it states.
        (idx((2**32 - 1, 2**32 - 1), b"abc"), "truncated"),
    ],
)
def test_refuses_what_is_not_whole(content, message):
    with pytest.raises(DataError, match=message):
        parse_idx(content, "t")


@pytest.mark.parametrize("name", ["plain", "zipped.gz", "zipped-without-suffix"])
def test_reads_plain_and_zipped_by_content(tmp_path, name):
    content = idx((3,), b"abc")
    path = tmp_path / name
    path.write_bytes(gzip.compress(content) if "zipped" in name else content)
    assert read_idx_bytes(path) == content


def test_broken_gzip_says_so(tmp_path):
    zipped = gzip.compress(idx((5000,), torch.arange(5000).remainder(251).tolist()))
    path = tmp_path / "x.gz"
    path.write_bytes(zipped[: len(zipped) // 2])
    with pytest.raises(DataError, match=r"x\.gz is a truncated or corrupted gzip file .*; fetch it again"):
        read_idx_bytes(path)
    damaged = bytearray(zipped)
    damaged[-6] ^= 1  # inside the checksum
    path.write_bytes(damaged)
    with pytest.raises(DataError, match="truncated or corrupted gzip file"):
        read_idx_bytes(path)
    damaged = bytearray(zipped)
    damaged[12] ^= 0xFF  # inside the compressed stream
    path.write_bytes(damaged)
    with pytest.raises(DataError, match="truncated or corrupted gzip file"):
        read_idx_bytes(path)


def test_missing_file_and_folder_say_so(tmp_path):
    with pytest.raises(DataError, match=r"nowhere cannot be read: No such file"):
        read_idx_bytes(tmp_path / "nowhere")
    with pytest.raises(DataError, match="cannot be read: Is a directory"):
        read_idx_bytes(tmp_path)


def test_a_gzip_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("thalweg.data.idx.MAX_BYTES", 100)
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(101)))
    with pytest.raises(DataError, match="more than 100 bytes"):
        read_idx_bytes(path)

"""Blocks come back as they were, at their exact size, or there is an error."""

from __future__ import annotations

import contextlib
import struct
import zlib

import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st
from lz4 import block as lz4

from standfast.errors import StreamError
from standfast.zfs.codecs import (
    EMPTY,
    GZIP,
    LZ4,
    LZJB,
    OFF,
    ZLE,
    ZSTD,
    decompress,
    lz4_block,
)

KINDS = (OFF, LZJB, *GZIP, ZLE, LZ4, ZSTD)


def lzjb(data: bytes) -> bytes:
    """Compress as lzjb.c does, by the slowest search there is."""
    out, at = bytearray(), 0
    while at < len(data):
        control, items = 0, bytearray()
        for bit in range(8):
            if at >= len(data):
                break
            best = (0, 0)
            for distance in range(1, min(at, 1023) + 1):
                count = 0
                while (
                    count < 66
                    and at + count < len(data)
                    and data[at + count] == data[at + count - distance]
                ):
                    count += 1
                best = max(best, (count, distance))
            if best[0] >= 3:
                control |= 1 << bit
                items += struct.pack(">H", (best[0] - 3) << 10 | best[1])
                at += best[0]
            else:
                items.append(data[at])
                at += 1
        out += bytes([control]) + items
    return bytes(out)


def zle(data: bytes) -> bytes:
    out, at = bytearray(), 0
    while at < len(data):
        end = at
        if data[at] == 0:
            while end < len(data) and end - at < 192 and data[end] == 0:
                end += 1
            out.append(63 + end - at)
        else:
            while end < len(data) and end - at < 64 and data[end]:
                end += 1
            out.append(end - at - 1)
            out += data[at:end]
        at = end
    return bytes(out)


def stored(kind: int, data: bytes) -> bytes:
    """Return a block as ZFS stores it, by another's compressor."""
    if kind == LZJB:
        return lzjb(data)
    if kind in GZIP:
        return zlib.compress(data, kind - 4)
    if kind == ZLE:
        return zle(data)
    if kind == LZ4:
        packed = bytes(lz4.compress(data, store_size=False))
        return struct.pack(">I", len(packed)) + packed
    if kind == ZSTD:
        packed = zstd.compress(data, 3)[4:]
        return struct.pack(">II", len(packed), 0) + packed
    return data


BLOCKS = st.lists(
    st.one_of(
        st.binary(max_size=60),
        st.integers(0, 200).map(bytes),
        st.binary(min_size=1, max_size=5).map(lambda piece: piece * 40),
    ),
    min_size=1,
    max_size=8,
).map(b"".join)


@given(st.sampled_from(KINDS), BLOCKS, st.integers(0, 600))
def test_there_and_back(kind: int, data: bytes, padding: int) -> None:
    """A block comes back from every codec, whatever padding follows."""
    raw = stored(kind, data) + bytes(padding)
    assert data == bytes(decompress(kind, raw, len(data)))


@given(BLOCKS)
def test_lz4_without_the_package(data: bytes) -> None:
    """Our own decoder reads what the reference has written."""
    packed = lz4.compress(data, store_size=False)
    assert data == lz4_block(packed, len(data))


@given(st.sampled_from(KINDS), st.binary(max_size=300), st.integers(0, 100_000))
def test_rubbish(kind: int, raw: bytes, size: int) -> None:
    """Whatever is given, the size is exact or it is refused."""
    with contextlib.suppress(StreamError):
        assert size == len(decompress(kind, raw, size))


@given(st.sampled_from(KINDS), BLOCKS, st.data())
def test_damage(kind: int, data: bytes, draw: st.DataObject) -> None:
    """A changed byte gives other data or an error, and never another size."""
    raw = bytearray(stored(kind, data) or b"\0")
    place = draw.draw(st.integers(0, len(raw) - 1))
    raw[place] ^= draw.draw(st.integers(1, 255))
    with contextlib.suppress(StreamError):
        assert len(data) == len(decompress(kind, raw, len(data)))
    with contextlib.suppress(StreamError):
        assert len(data) == len(lz4_block(bytes(raw), len(data)))


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(StreamError, match="77"):
        decompress(77, b"x", 1)


def test_empty_blocks_are_zeros() -> None:
    assert bytes(5) == decompress(EMPTY, b"", 5)

"""ZFS's block compression undone: lzjb, gzip, zle, lz4, zstd, and none.

What comes out is exactly the block's logical size, or an error; nothing is ever made
that would be larger, so a hostile block costs no more memory than an honest one.
Layouts: module/zfs of OpenZFS (lzjb.c, gzip.c, zle.c, lz4.c, zfs_zstd.c). lz4 is
fast where the package ``lz4`` is installed and right everywhere.
"""

from __future__ import annotations

import sys
import zlib
from typing import TYPE_CHECKING

from standfast.errors import StreamError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable

Buffer = bytes | bytearray | memoryview

# enum zio_compress in OpenZFS's sys/zio.h.
INHERIT, ON, OFF, LZJB, EMPTY = range(5)
GZIP = range(5, 14)
ZLE, LZ4, ZSTD = 14, 15, 16

_LZ4_LENGTH = 4
_ZSTD_PREFIX = 8
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# ZLE_ENCODE's n: shorter runs than this are literals.
_ZLE_RUN = 64
_LZJB_LEAST, _LZJB_SHIFT, _LZJB_MASK = 3, 2, 1023
_LZ4_LEAST, _LZ4_MORE = 4, 15
_BYTE = 255


def decompress(kind: int, data: Buffer, size: int) -> Buffer:
    """Return a block's ``size`` bytes.

    Args:
        kind: number of enum zio_compress, as a record carries it.
        data: the block as it was stored; padding may follow.
        size: logical bytes.

    Raises:
        StreamError: the block is damaged, or of an unknown kind.
    """
    if kind in (INHERIT, ON, OFF):
        plain: Buffer = data
    elif kind == EMPTY:
        plain = bytes(size)
    else:
        plain = _undo(kind)(bytes(data), size)
    if len(plain) < size:
        raise StreamError(f"a block of {size} bytes holds {len(plain)} only")
    return plain if len(plain) == size else memoryview(plain)[:size]


def _undo(kind: int) -> Callable[[bytes, int], bytes]:
    if kind in GZIP:
        return _gzip
    found = {LZJB: lzjb, ZLE: zle, LZ4: _lz4, ZSTD: _zstd}.get(kind)
    if found is None:
        raise StreamError(f"a block is compressed in a way not known here: {kind}")
    return found


def _broken(name: str) -> StreamError:
    return StreamError(f"a block compressed by {name} is damaged")


def _gzip(data: bytes, size: int) -> bytes:
    try:
        return zlib.decompressobj().decompress(data, size)
    except zlib.error:
        raise _broken("gzip") from None


def _zstd(data: bytes, size: int) -> bytes:
    """Undo zstd: lengths, level, and a frame without its magic number."""
    length = int.from_bytes(data[:4], "big")
    frame = data[_ZSTD_PREFIX : _ZSTD_PREFIX + length]
    try:
        return zstd.ZstdDecompressor().decompress(_ZSTD_MAGIC + frame, size)
    except zstd.ZstdError:
        raise _broken("zstd") from None


def _lz4(data: bytes, size: int) -> bytes:
    length = int.from_bytes(data[:_LZ4_LENGTH], "big")
    block = data[_LZ4_LENGTH : _LZ4_LENGTH + length]
    return _lz4_block()(block, size)


def _lz4_block() -> Callable[[bytes, int], bytes]:
    try:
        from lz4 import block as fast  # noqa: PLC0415 - an extra
    except ImportError:
        return lz4_block

    def undo(data: bytes, size: int) -> bytes:
        try:
            plain: bytes = fast.decompress(data, uncompressed_size=size)
        except (fast.LZ4BlockError, ValueError, MemoryError):
            raise _broken("lz4") from None
        return plain

    return undo


def lz4_block(data: bytes, size: int) -> bytes:
    """Undo an LZ4 block without a frame (lz4_Block_format.md of lz4).

    Raises:
        StreamError: it is damaged.
    """
    out = bytearray()
    at = 0
    try:
        while len(out) < size:
            token = data[at]
            count, at = _lz4_length(data, at + 1, token >> 4)
            if at + count > len(data):
                raise _broken("lz4")
            out += data[at : at + count]
            at += count
            if at == len(data):
                break
            distance = data[at] | data[at + 1] << 8
            count, at = _lz4_length(data, at + 2, token & 15)
            _copy(out, distance, min(count + _LZ4_LEAST, size - len(out)), "lz4")
    except IndexError:
        raise _broken("lz4") from None
    if len(out) != size:
        raise _broken("lz4")
    return bytes(out)


def _lz4_length(data: bytes, at: int, count: int) -> tuple[int, int]:
    if count == _LZ4_MORE:
        while (more := data[at]) == _BYTE:
            count += more
            at += 1
        count += more
        at += 1
    return count, at


def _copy(out: bytearray, distance: int, count: int, name: str) -> None:
    """Repeat what lies ``distance`` bytes back; the two may overlap."""
    start = len(out) - distance
    if start < 0 or distance == 0:
        raise _broken(name)
    piece = out[start : start + count]
    if len(piece) < count:
        piece = (piece * (count // len(piece) + 1))[:count]
    out += piece


def lzjb(data: bytes, size: int) -> bytes:
    """Undo lzjb.

    A control byte announces eight items, lowest bit first: a literal, or two bytes
    of 6 bits of length (from 3) and 10 bits of distance.

    Raises:
        StreamError: it is damaged.
    """
    out = bytearray()
    at, bits, control = 0, 0, 0
    try:
        while len(out) < size:
            if not bits:
                control, at, bits = data[at], at + 1, 8
            if control & 1:
                count = (data[at] >> _LZJB_SHIFT) + _LZJB_LEAST
                distance = (data[at] << 8 | data[at + 1]) & _LZJB_MASK
                at += 2
                _copy(out, distance, min(count, size - len(out)), "lzjb")
            else:
                out.append(data[at])
                at += 1
            control >>= 1
            bits -= 1
    except IndexError:
        raise _broken("lzjb") from None
    return bytes(out)


def zle(data: bytes, size: int) -> bytes:
    """Undo zle: runs of literals, and runs of zeros.

    Raises:
        StreamError: it is damaged.
    """
    out = bytearray()
    at = 0
    while len(out) < size:
        if at >= len(data):
            raise _broken("zle")
        count, at = data[at] + 1, at + 1
        if count <= _ZLE_RUN:
            piece = data[at : at + count]
            at += count
            if len(piece) < count:
                raise _broken("zle")
            out += piece
        else:
            out += bytes(min(count - _ZLE_RUN, size - len(out)))
    return bytes(out[:size])

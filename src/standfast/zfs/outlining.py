"""Making an outline while a stream passes; see ``outline`` for what it is.

Memory: one page, and what the table takes: 56 bytes for some thousand records. Pages
go out as they are full.
"""

from __future__ import annotations

import base64
import hashlib
import sys
from array import array
from itertools import chain
from struct import Struct, unpack_from
from typing import TYPE_CHECKING, Literal

import msgspec

from standfast.zfs.outline import (
    COUNT,
    FORMAT,
    HEAD_BYTES,
    HELD,
    PAGE_TYPE,
    ROW,
    WHERE,
    Head,
    Part,
    Root,
    digest,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from standfast.zfs.records import Substream

_RECORD = 312
_FREEOBJECTS, _WRITE, _FREE, _BYREF = 2, 3, 4, 6
_WITH_METADATA = frozenset({1, 7, 8})
# Types of object whose blocks are contents and stay in the stream: plain files and
# volumes; of the new style (0x80), all without the bit for metadata (0x40).
_CONTENTS = frozenset({19, 23, *range(0x80, 0xC0)})
# Checksums of blocks in WRITE and WRITE_BYREF: random bytes, not needed here.
_SUMS = {_WRITE: slice(56, 88), _BYREF: slice(72, 104)}

PAGE_RECORDS = 1024
PAGE_BYTES = 256 << 10
_LARGEST_BEGIN = 1 << 20
_LEVEL = 3


class OutlineWriter:
    """Makes an outline of what it hears of; see ``records.Listener``.

    Args:
        out: takes the outline's bytes in order.
    """

    def __init__(self, out: Callable[[bytes], object]) -> None:
        self._out = out
        self._offset = 0
        self._parts: list[Part] = []
        self._rows = bytearray()
        self._frees = bytearray()
        self._compressor = _compressor()
        self._low = 0
        self._owed = 0
        self._keep = False
        self._begin = bytearray()
        self._highest = 0
        self._empty()

    def begin(
        self, substream: Substream, flags: int, payload: int, *, big_endian: bool
    ) -> None:
        """Start a substream; ``payload`` bytes of its BEGIN come first."""
        self._finish_part()
        self._parts.append(
            Part(
                name=substream.toname,
                guid=str(substream.toguid),
                from_guid=str(substream.fromguid),
                kind=substream.kind,
                creation=substream.creation,
                features=list(substream.features),
                big_endian=big_endian,
                flags=flags,
            )
        )
        self._low = 3 if big_endian else 0
        self._owed, self._keep = payload, False
        self._begin.clear()
        self._highest = 0

    def records(
        self, view: memoryview, where: int, starts: Sequence[int], until: int
    ) -> None:
        """Take in the next bytes of a substream.

        Args:
            view: the rest of a payload, then records; the last may be cut within
                its payload.
            where: the view's offset in the stream.
            starts: where records begin in the view.
            until: where the last one's payload ends; may be beyond the view.
        """
        if self._owed:
            self._go_on(view[: min(self._owed, len(view))])
        if not starts:
            return
        self._take(view, where, starts, until)
        if until > len(view):
            self._owed = until - len(view)
            self._keep = bool(self._where) and bool(self._held[-1])

    def _take(
        self, view: memoryview, where: int, starts: Sequence[int], until: int
    ) -> None:
        """Take in records until all are taken; a page may be full before."""
        done = 0
        while done < len(starts):
            self._flush_full()
            part = starts[done : done + PAGE_RECORDS // 4]
            rest = starts[done + len(part) : done + len(part) + 1]
            done += self._take_some(view, where, part, rest[0] if rest else until)

    def _take_some(
        self, view: memoryview, where: int, starts: Sequence[int], until: int
    ) -> int:
        """Take in records, the hot path of small files; return how many."""
        low, wide, heads, blobs = self._low, self._low + 16, self._heads, self._blobs
        note, hold = self._where.append, self._held.append
        ends = chain(starts[1:], (until,))
        for number, (start, end) in enumerate(zip(starts, ends, strict=False), 1):
            kind = view[start + low]
            if kind == _FREEOBJECTS:
                self._free(bytes(view[start : start + 32]), where + start)
                continue
            heads += view[start : start + HEAD_BYTES]
            note(where + start)
            if kind == _FREE or (kind == _WRITE and view[start + wide] in _CONTENTS):
                hold(0)
            elif kind == _WRITE or kind in _WITH_METADATA:
                at = start + _RECORD
                hold(end - at)
                blobs += view[at:end]
                if len(blobs) >= PAGE_BYTES:
                    return number
            else:
                hold(0)
        return len(starts)

    def finish(self) -> Root:
        """Write what is left and the table, and return how to find it."""
        self._finish_part()
        head = msgspec.json.encode(Head(format=FORMAT, substreams=self._parts))
        plain = b"".join([COUNT.pack(len(head)), head, self._rows, self._frees])
        table = _compressor().compress(plain, zstd.ZstdCompressor.FLUSH_FRAME)
        root = Root(
            offset=self._offset,
            size=len(table),
            sha256=hashlib.sha256(table).hexdigest(),
        )
        self._out(table)
        return root

    def _go_on(self, piece: memoryview) -> None:
        """Take the rest of a payload that was cut between two calls."""
        self._owed -= len(piece)
        if self._keep:
            self._blobs += piece
        elif not self._where and len(self._begin) + len(piece) <= _LARGEST_BEGIN:
            self._begin += piece

    def _free(self, head: bytes, where: int) -> None:
        """Note a FREEOBJECTS, unless it can free nothing.

        A full stream frees the gaps between its objects, which nobody ever filled.
        """
        first, count = unpack_from(self._order() + "8xQQ", head)
        part = self._parts[-1]
        self._see_highest()
        if count == 0 or (part.from_guid == "0" and first > self._highest):
            return
        last = min(first + count - 1, (1 << 64) - 1)
        self._frees += Struct("<3Q").pack(first, last, where)
        part.frees += 1

    def _see_highest(self) -> None:
        if self._where:
            (number,) = unpack_from(self._order() + "Q", self._heads, -HEAD_BYTES + 8)
            self._highest = max(self._highest, number)

    def _order(self) -> Literal["<", ">"]:
        return ">" if self._low else "<"

    def _empty(self) -> None:
        self._heads = bytearray()
        self._where = array("Q")
        self._held = array("I")
        self._blobs = bytearray()

    def _finish_part(self) -> None:
        if not self._parts:
            return
        self._flush()
        self._parts[-1].payload = base64.b64encode(self._begin).decode()

    def _flush_full(self) -> None:
        """Write the page if it is full."""
        if len(self._where) >= PAGE_RECORDS or len(self._blobs) >= PAGE_BYTES:
            self._flush()

    def _flush(self) -> None:
        """Compress a page and write it."""
        import numpy as np  # noqa: PLC0415 - start-up stays cheap

        count = len(self._where)
        if not count:
            return
        rows = np.zeros((count, ROW), np.uint8)
        rows[:, :HEAD_BYTES] = np.frombuffer(self._heads, np.uint8).reshape(count, -1)
        kinds = rows[:, self._low]
        for kind, place in _SUMS.items():
            rows[kinds == kind, place] = 0
        wide = np.array(self._where, "<u8").view(np.uint8).reshape(count, 8)
        rows[:, WHERE:HELD] = wide
        held = np.array(self._held, "<u4").view(np.uint8).reshape(count, 4)
        rows[:, HELD:] = held
        numbers = rows[:, 8:16].copy().view(self._order() + "u8")
        self._highest = max(self._highest, int(numbers.max()))
        # Turned, each byte of a field stands beside its fellows: they are alike.
        plain = rows.T.tobytes() + self._blobs
        stored = self._compressor.compress(plain, zstd.ZstdCompressor.FLUSH_FRAME)
        part = self._parts[-1]
        row = np.zeros(1, np.dtype(PAGE_TYPE))
        row["substream"], row["records"] = len(self._parts) - 1, count
        row["first"], row["last"] = numbers.min(), numbers.max()
        row["offset"], row["stored"] = self._offset, len(stored)
        row["size"] = len(plain)
        row["digest"] = np.void(digest(stored))
        self._rows += row.tobytes()
        part.pages += 1
        self._out(stored)
        self._offset += len(stored)
        self._empty()


def _compressor() -> zstd.ZstdCompressor:
    parameter = zstd.CompressionParameter
    options: dict[int, int] = {
        parameter.compression_level: _LEVEL,
        parameter.checksum_flag: 1,
    }
    return zstd.ZstdCompressor(options=options)

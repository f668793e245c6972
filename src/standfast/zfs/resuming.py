"""The rest of a stored stream, for a ``zfs receive -s`` that was cut.

``zfs send -t TOKEN`` makes such a stream from the pool that it came from. What is
made here comes from the stored stream alone: BEGIN with the feature RESUMING and
where to go on, then every record from there to the end, with the running checksum
anew. The receiver's state (``receive_resume_token``) names the record that it has
not got for certain; records are compared in the order of the stream, which is that
of objects and offsets (``setup_resume_points`` in module/zfs/dmu_send.c).

Raw and byte-swapped streams are left alone: their BEGIN has a list of its own.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from itertools import pairwise
from struct import pack, unpack_from
from typing import TYPE_CHECKING, Final

from standfast.errors import StreamError
from standfast.zfs.fletcher import Fletcher4
from standfast.zfs.nvlist import parse_nvlist
from standfast.zfs.records import StreamCheck

if TYPE_CHECKING:
    from collections.abc import Sequence

    from standfast.zfs.records import Substream

_HEADER: Final = 312
_RECORDED: Final = 280
_END: Final = 5
_RESUMING: Final = 1 << 22
_VERSION_AT: Final = 16
_LARGEST_TOKEN: Final = 1 << 20
# Kinds of records that begin at an object, not inside of one.
_OBJECT, _FREEOBJECTS, _FREE, _SPILL, _RANGE = 1, 2, 4, 7, 9
# Where the offset stands: WRITE has its type before it.
_WRITE: Final = 3
_UINT64: Final = 8


@dataclass(frozen=True)
class Resumption:
    """Where a receiver wants to go on.

    Attributes:
        guid: the snapshot it was receiving.
        object: the object of the record that it needs next.
        offset: its place in that object.
    """

    guid: int
    object: int
    offset: int

    def payload(self) -> bytes:
        """Return what BEGIN carries: a packed native list, little-endian."""
        pairs = b"".join(
            pack("<ihhii16sQ", 40, 14, 0, 1, _UINT64, name, value)
            for name, value in (
                (b"resume_object", self.object),
                (b"resume_offset", self.offset),
            )
        )
        return pack("<BBHiI", 0, 1, 0, 0, 1) + pairs + bytes(4)


def parse_token(token: str) -> Resumption | None:
    """Return what a ``receive_resume_token`` says; None if it is none.

    ``1-CHECKSUM-LENGTH-HEX``, the last a zlib stream of a packed nvlist
    (zfs_send_resume_token_to_nvlist in libzfs of OpenZFS).
    """
    parts = token.split("-")
    try:
        packed = zlib.decompressobj().decompress(
            bytes.fromhex(parts[3]), _LARGEST_TOKEN
        )
        found = parse_nvlist(packed)
    except (IndexError, ValueError, zlib.error, StreamError):
        return None
    values = [found.get(key, 0) for key in ("toguid", "object", "offset")]
    guid, number, offset = (v if isinstance(v, int) else 0 for v in values)
    return Resumption(guid, number, offset) if guid else None


class ResumedStream:
    """Makes the rest of a single stream out of all of it, piece by piece.

    It is the listener of a check of its own, which tells it where records are.

    Args:
        start: where the receiver goes on.
    """

    def __init__(self, start: Resumption) -> None:
        self._start = start
        self._check = StreamCheck(self)
        self._sums = Fletcher4()
        self._head = b""
        self._tail = b""
        self._out: list[bytes] = []
        self._owed = 0
        self._going = False

    def feed(self, piece: memoryview) -> list[bytes]:
        """Return what the receiver is to be given for the next piece.

        Raises:
            StreamError: it is no whole, single, little-endian stream.
        """
        if len(self._head) < _HEADER:
            self._head += bytes(piece[: _HEADER - len(self._head)])
        self._tail = (self._tail + bytes(piece[-_HEADER:]))[-_HEADER:]
        self._check.feed(piece)
        spans = self._check.spans()
        if spans and spans[0][1] is not None and self._going:
            self._emit(self._end())
            self._going = False
        out, self._out = self._out, []
        return out

    def begin(
        self, substream: Substream, flags: int, payload: int, *, big_endian: bool
    ) -> None:
        """Give BEGIN with the place to go on from; see ``records.Listener``."""
        if payload or big_endian or self._check.guid == 0:
            raise StreamError(f"{substream.toname} cannot be gone on with: {flags}")
        extra = self._start.payload()
        head = bytearray(self._head)
        head[4:8] = pack("<I", len(extra))
        (version,) = unpack_from("<Q", head, _VERSION_AT)
        head[_VERSION_AT : _VERSION_AT + 8] = pack("<Q", version | _RESUMING)
        self._emit(bytes(head))
        self._emit(extra)

    def records(
        self, view: memoryview, where: int, starts: Sequence[int], until: int
    ) -> None:
        """Pass on what comes at or after the place; see ``records.Listener``."""
        del where
        first = starts[0] if starts else min(until, len(view))
        if self._going and first:
            self._emit(bytes(view[:first]))
        for start, end in pairwise([*starts, until]):
            header = bytes(view[start : start + _HEADER])
            self._going = self._going or self._reached(header)
            if self._going:
                self._emit_record(header, view[start + _HEADER : end])

    def _reached(self, header: bytes) -> bool:
        """Tell whether a record is the one that the receiver needs next."""
        (kind,) = unpack_from("<I", header)
        (number,) = unpack_from("<Q", header, 8)
        if number != self._start.object or kind in (_FREEOBJECTS, _RANGE):
            return bool(number > self._start.object)
        if kind in (_OBJECT, _SPILL):
            return kind == _OBJECT and self._start.offset == 0
        (offset,) = unpack_from("<Q", header, 24 if kind == _WRITE else 16)
        if kind == _FREE:
            return bool(offset == self._start.offset)
        return bool(offset >= self._start.offset)

    def _emit_record(self, header: bytes, payload: memoryview) -> None:
        self._sums.update(header[:_RECORDED])
        self._out.append(header[:_RECORDED])
        recorded = bytes(32)
        if any(header[_RECORDED:]):
            recorded = pack("<4Q", *self._sums.state)
        self._emit(recorded)
        if payload:
            self._emit(bytes(payload))

    def _end(self) -> bytes:
        """Return END with the sums of what was given."""
        end = bytearray(self._tail)
        state = self._sums.state
        end[8:40] = pack("<4Q", *state)
        if any(end[_RECORDED:]):
            sums = Fletcher4()
            sums.state = state
            sums.update(bytes(end[:_RECORDED]))
            end[_RECORDED:] = pack("<4Q", *sums.state)
        return bytes(end)

    def _emit(self, data: bytes) -> None:
        self._sums.update(data)
        self._out.append(data)

"""The outline of a send stream: every record, and of payloads all but contents.

It is made while a stream passes (it listens to ``records.StreamCheck``) and is what
is needed to find any file later: bonus buffers, directories and other metadata whole,
and for blocks of files the place in the stream. DESIGN.md has the layout. Records are
kept in the stream's own order, in pages that are compressed and hashed each by itself,
so that one object is found by reading the table and a page or two.

Memory: one page while writing, and what the table takes: 56 bytes for some thousand
records. Pages go out as they are full.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from itertools import chain, pairwise
from struct import Struct, unpack_from
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from standfast.errors import DamagedError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from standfast.zfs.records import Substream

FORMAT = 1
# Of each record's 312 bytes these hold all that it says; the rest is the running
# checksum, which was compared when the stream passed, and padding.
HEAD_BYTES = 144
_WHERE, _HELD, _ROW = HEAD_BYTES, HEAD_BYTES + 8, HEAD_BYTES + 12
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
# A page may end with one block of 16 MiB; a table of 64 million records is 4 MiB.
_LARGEST_PAGE = 32 << 20
_LARGEST_TABLE = 1 << 30
_LARGEST_BEGIN = 1 << 20
_DIGEST = 16
_LEVEL = 3
# A chain of a year of days wants a page of each at a time.
KEPT_BYTES = 128 << 20
_COUNT = Struct("<I")
_PAGE_TYPE: list[tuple[str, str]] = [
    ("substream", "<u4"),
    ("records", "<u4"),
    ("first", "<u8"),
    ("last", "<u8"),
    ("offset", "<u8"),
    ("stored", "<u4"),
    ("size", "<u4"),
    ("digest", f"V{_DIGEST}"),
]
_FREE_TYPE: list[tuple[str, str]] = [
    ("first", "<u8"),
    ("last", "<u8"),
    ("where", "<u8"),
]


class Part(msgspec.Struct, kw_only=True):
    """One substream as the table describes it.

    Attributes:
        name: ``pool/fs@snap``.
        guid: of the snapshot, decimal text.
        from_guid: of its base, or 0.
        kind: filesystem, volume or other.
        creation: seconds since 1970.
        features: names of stream features.
        big_endian: the sender's byte order.
        flags: those of BEGIN.
        payload: of BEGIN, in base64: keys of a raw stream, resume and redact lists.
        pages: how many of the table's rows are its own.
        frees: and how many of the ranges of freed objects.
    """

    name: str
    guid: str
    from_guid: str
    kind: str
    creation: int
    features: list[str]
    big_endian: bool
    flags: int
    payload: str = ""
    pages: int = 0
    frees: int = 0


class _Head(msgspec.Struct, kw_only=True):
    format: int
    substreams: list[Part]


class Root(msgspec.Struct, frozen=True, kw_only=True):
    """What one must know to read an outline, and to believe it.

    Attributes:
        offset: of the table in the outline.
        size: bytes of the table as stored; it is the outline's end.
        sha256: of these bytes, hex. The table has the digest of each page.
    """

    offset: int
    size: int
    sha256: str


class Record(NamedTuple):
    """One record.

    Attributes:
        where: offset of its header in the stream; its payload follows 312 further.
        head: the first 144 bytes of the header, in the stream's byte order.
        held: the payload, if the outline holds it.
    """

    where: int
    head: bytes
    held: bytes


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
        head = msgspec.json.encode(_Head(format=FORMAT, substreams=self._parts))
        plain = b"".join([_COUNT.pack(len(head)), head, self._rows, self._frees])
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
        rows = np.zeros((count, _ROW), np.uint8)
        rows[:, :HEAD_BYTES] = np.frombuffer(self._heads, np.uint8).reshape(count, -1)
        kinds = rows[:, self._low]
        for kind, place in _SUMS.items():
            rows[kinds == kind, place] = 0
        wide = np.array(self._where, "<u8").view(np.uint8).reshape(count, 8)
        rows[:, _WHERE:_HELD] = wide
        held = np.array(self._held, "<u4").view(np.uint8).reshape(count, 4)
        rows[:, _HELD:] = held
        numbers = rows[:, 8:16].copy().view(self._order() + "u8")
        self._highest = max(self._highest, int(numbers.max()))
        # Turned, each byte of a field stands beside its fellows: they are alike.
        plain = rows.T.tobytes() + self._blobs
        stored = self._compressor.compress(plain, zstd.ZstdCompressor.FLUSH_FRAME)
        part = self._parts[-1]
        row = np.zeros(1, np.dtype(_PAGE_TYPE))
        row["substream"], row["records"] = len(self._parts) - 1, count
        row["first"], row["last"] = numbers.min(), numbers.max()
        row["offset"], row["stored"] = self._offset, len(stored)
        row["size"] = len(plain)
        row["digest"] = np.void(_digest(stored))
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


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()[:_DIGEST]


def damaged(what: str) -> DamagedError:
    """Return the error for an outline that is not as it was made."""
    return DamagedError(f"the index is damaged: {what}")


def _expand(data: bytes, most: int) -> bytes:
    """Undo one whole frame of at most ``most`` bytes."""
    frame = zstd.ZstdDecompressor()
    try:
        plain = frame.decompress(data, most + 1)
    except zstd.ZstdError as error:
        raise damaged(str(error)) from None
    if not frame.eof or len(plain) > most or frame.unused_data:
        raise damaged("a part is cut, or too large")
    return plain


class _Page:
    """A page, unpacked.

    Attributes:
        numbers: the objects of its records, ascending.
        bytes: what it takes in memory, about.
    """

    def __init__(self, plain: bytes, count: int, order: str) -> None:
        import numpy as np  # noqa: PLC0415

        if not 0 < count * _ROW <= len(plain):
            raise damaged("a page is shorter than its records")
        planes = np.frombuffer(plain, np.uint8, count * _ROW).reshape(_ROW, count)
        self._rows = np.ascontiguousarray(planes.T)
        self._where = self._rows[:, _WHERE:_HELD].copy().view("<u8")[:, 0]
        held = self._rows[:, _HELD:].copy().view("<u4")[:, 0].astype(np.int64)
        self._ends = np.cumsum(held)
        self._starts = self._ends - held
        if int(self._ends[-1]) != len(plain) - count * _ROW:
            raise damaged("a page's payloads do not fill it")
        self._payloads = plain[count * _ROW :]
        numbers = self._rows[:, 8:16].copy().view(order + "u8")[:, 0]
        self._sorted = numbers.argsort(kind="stable")
        self.numbers: list[int] = numbers[self._sorted].tolist()
        self.bytes = len(plain) + 100 * count

    def records(self, number: int) -> list[Record]:
        """Return an object's records in the stream's order."""
        first = bisect_left(self.numbers, number)
        last = bisect_right(self.numbers, number, first)
        return [self._record(row) for row in self._sorted[first:last].tolist()]

    def _record(self, row: int) -> Record:
        return Record(
            int(self._where[row]),
            self._rows[row, :HEAD_BYTES].tobytes(),
            self._payloads[self._starts[row] : self._ends[row]],
        )


class PageCache:
    """Unpacked pages of any number of outlines, in bounded memory.

    Args:
        most: bytes; the page that was used last is kept whatever its size.
    """

    def __init__(self, most: int = KEPT_BYTES) -> None:
        self._most = most
        self._held = 0
        self._pages: OrderedDict[tuple[int, int], _Page] = OrderedDict()

    def get(self, outline: int, offset: int, make: Callable[[], _Page]) -> _Page:
        """Return a page, made anew if it was not wanted lately."""
        key = outline, offset
        if key in self._pages:
            self._pages.move_to_end(key)
            return self._pages[key]
        page = make()
        self._pages[key] = page
        self._held += page.bytes
        while self._held > self._most and len(self._pages) > 1:
            _, old = self._pages.popitem(last=False)
            self._held -= old.bytes
        return page


class Outline:
    """An outline that is read piece by piece.

    Args:
        read: returns bytes of the outline: (offset, length).
        root: where the table is, from a place that is trusted.
        pages: where pages are kept, perhaps with those of other outlines.

    Attributes:
        substreams: in the stream's order.

    Raises:
        DamagedError: the table is not the one that ``root`` names.
    """

    def __init__(
        self,
        read: Callable[[int, int], bytes],
        root: Root,
        pages: PageCache | None = None,
    ) -> None:
        import numpy as np  # noqa: PLC0415

        self._read = read
        self._cache = pages or PageCache()
        if root.size > _LARGEST_TABLE:
            raise damaged(f"a table of {root.size} bytes")
        stored = read(root.offset, root.size)
        if hashlib.sha256(stored).hexdigest() != root.sha256:
            raise damaged("its table was altered")
        plain = _expand(stored, _LARGEST_TABLE)
        head, at = _head(plain)
        rows, at = _rows(plain, at, np.dtype(_PAGE_TYPE), [p.pages for p in head])
        frees, at = _rows(plain, at, np.dtype(_FREE_TYPE), [p.frees for p in head])
        if at != len(plain):
            raise damaged("something stands behind its table")
        self.substreams = tuple(
            SubstreamOutline(self, number, *rest)
            for number, rest in enumerate(zip(head, rows, frees, strict=True))
        )

    def check(self) -> None:
        """Read every page.

        Raises:
            DamagedError: one is not as it was made.
        """
        for part in self.substreams:
            part.numbers()

    def page(self, row: np.void, order: str) -> _Page:
        """Return a page, from memory if it was wanted lately."""
        offset = int(row["offset"])
        return self._cache.get(id(self), offset, lambda: self._unpack(row, order))

    def _unpack(self, row: np.void, order: str) -> _Page:
        size = int(row["size"])
        if size > _LARGEST_PAGE:
            raise damaged(f"a page of {size} bytes")
        stored = self._read(int(row["offset"]), int(row["stored"]))
        if _digest(stored) != bytes(row["digest"]):
            raise damaged("a page was altered")
        return _Page(_expand(stored, size), int(row["records"]), order)


def _head(plain: bytes) -> tuple[list[Part], int]:
    if len(plain) < _COUNT.size:
        raise damaged("its table is empty")
    (length,) = _COUNT.unpack_from(plain)
    at = _COUNT.size + length
    try:
        head = msgspec.json.decode(plain[_COUNT.size : at], type=_Head)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise damaged(str(error)) from None
    if head.format != FORMAT:
        raise DamagedError(
            f"the index has format {head.format}, this standfast reads {FORMAT}",
            hint="a newer standfast may read it",
        )
    return head.substreams, at


def _rows(
    plain: bytes, at: int, kind: np.dtype[Any], counts: Sequence[int]
) -> tuple[list[NDArray[np.void]], int]:
    import numpy as np  # noqa: PLC0415

    found = []
    for count in counts:
        end = at + count * kind.itemsize
        if count < 0 or end > len(plain):
            raise damaged("its table is cut")
        found.append(np.frombuffer(plain[at:end], kind))
        at = end
    return found, at


class SubstreamOutline:
    """What an outline says of one substream.

    Attributes:
        part: its description.
        order: byte order of its records' heads.
        payload: of its BEGIN record.
    """

    def __init__(
        self,
        outline: Outline,
        number: int,
        part: Part,
        pages: NDArray[np.void],
        frees: NDArray[np.void],
    ) -> None:
        import numpy as np  # noqa: PLC0415

        self.part = part
        self.order: Literal["<", ">"] = ">" if part.big_endian else "<"
        self._outline = outline
        self._pages = pages
        if any(pages["substream"] != number):
            raise damaged("a page belongs to no substream")
        self._firsts: list[int] = pages["first"].tolist()
        self._lasts: list[int] = pages["last"].tolist()
        # Pages before which, and from which on, no page has a given object.
        self._before: list[int] = np.maximum.accumulate(pages["last"]).tolist()
        after = np.minimum.accumulate(pages["first"][::-1])[::-1]
        self._after: list[int] = after.tolist()
        self._frees = _disjoint(frees)

    @property
    def guid(self) -> int:
        """The snapshot's guid."""
        return int(self.part.guid)

    @property
    def from_guid(self) -> int:
        """The guid of what it is incremental from, or 0."""
        return int(self.part.from_guid)

    @property
    def payload(self) -> bytes:
        """The payload of the BEGIN record."""
        return base64.b64decode(self.part.payload)

    def records(self, number: int) -> list[Record]:
        """Return all records of an object in order, but FREEOBJECTS.

        Raises:
            DamagedError: the outline is damaged.
        """
        found: list[Record] = []
        first = bisect_left(self._before, number)
        last = bisect_right(self._after, number)
        for index in range(first, last):
            if self._firsts[index] <= number <= self._lasts[index]:
                page = self._outline.page(self._pages[index], self.order)
                found += page.records(number)
        return found

    def numbers(self) -> set[int]:
        """Return the objects that any record names; freed ranges not among them."""
        found: set[int] = set()
        for row in self._pages:
            found.update(self._outline.page(row, self.order).numbers)
        return found

    def freed(self, number: int) -> int:
        """Return where the last FREEOBJECTS of an object stands, or -1."""
        firsts, lasts, wheres = self._frees
        index = bisect_right(firsts, number) - 1
        if index < 0 or lasts[index] < number:
            return -1
        return wheres[index]


_Ranges = tuple[list[int], list[int], list[int]]


def _disjoint(frees: NDArray[np.void]) -> _Ranges:
    """Return ranges that do not overlap, each with its latest place in the stream.

    Senders write them in order and apart; for others they are taken to pieces.
    """
    firsts: list[int] = frees["first"].tolist()
    lasts: list[int] = frees["last"].tolist()
    wheres: list[int] = frees["where"].tolist()
    if all(last < first for last, first in zip(lasts, firsts[1:], strict=False)):
        return firsts, lasts, wheres
    return _sweep(sorted(zip(firsts, lasts, wheres, strict=True)))


def _sweep(ranges: list[tuple[int, int, int]]) -> _Ranges:
    """Go from left to right; of those open at a place the latest counts."""
    firsts: list[int] = []
    lasts: list[int] = []
    wheres: list[int] = []
    cuts = sorted(
        {*(first for first, _, _ in ranges), *(last + 1 for _, last, _ in ranges)}
    )
    # Heaps give the least first, so the places are negative here.
    opened: list[tuple[int, int]] = []
    at = 0
    for cut, following in pairwise(cuts):
        while at < len(ranges) and ranges[at][0] <= cut:
            heapq.heappush(opened, (-ranges[at][2], ranges[at][1]))
            at += 1
        while opened and opened[0][1] < cut:
            heapq.heappop(opened)
        if opened:
            firsts.append(cut)
            lasts.append(following - 1)
            wheres.append(-opened[0][0])
    return firsts, lasts, wheres

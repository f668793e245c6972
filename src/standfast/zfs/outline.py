"""The outline of a send stream: every record, and of payloads all but contents.

It is made while a stream passes (it listens to ``records.StreamCheck``) and is what
is needed to find any file later: bonus buffers, directories and other metadata whole,
and for blocks of files the place in the stream. DESIGN.md has the layout. Records are
kept in the stream's own order, in pages that are compressed and hashed each by itself,
so that one object is found by reading the table and a page or two.

Here is what reads one, in memory that is bounded; ``outlining`` makes it.
"""

from __future__ import annotations

import base64
import hashlib
import heapq
import sys
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from itertools import pairwise
from struct import Struct
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


FORMAT = 1
# Of each record's 312 bytes these hold all that it says; the rest is the running
# checksum, which was compared when the stream passed, and padding.
HEAD_BYTES = 144
WHERE, HELD, ROW = HEAD_BYTES, HEAD_BYTES + 8, HEAD_BYTES + 12
# A page may end with one block of 16 MiB; a table of 64 million records is 4 MiB.
_LARGEST_PAGE = 32 << 20
_LARGEST_TABLE = 1 << 30
_DIGEST = 16
# Questions after which a list is worth its making, and the records of which it is made.
_OFTEN, _SMALL = 64, 200_000
# A chain of a year of days wants a page of each at a time.
KEPT_BYTES = 128 << 20
COUNT = Struct("<I")
PAGE_TYPE: list[tuple[str, str]] = [
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


class Head(msgspec.Struct, kw_only=True):
    """The document at the start of the table."""

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


def digest(data: bytes) -> bytes:
    """Return a page's digest as the table has it."""
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

        if not 0 < count * ROW <= len(plain):
            raise damaged("a page is shorter than its records")
        planes = np.frombuffer(plain, np.uint8, count * ROW).reshape(ROW, count)
        self._rows = np.ascontiguousarray(planes.T)
        self._where = self._rows[:, WHERE:HELD].copy().view("<u8")[:, 0]
        held = self._rows[:, HELD:].copy().view("<u4")[:, 0].astype(np.int64)
        self._ends = np.cumsum(held)
        self._starts = self._ends - held
        if int(self._ends[-1]) != len(plain) - count * ROW:
            raise damaged("a page's payloads do not fill it")
        self._payloads = plain[count * ROW :]
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
        rows, at = _rows(plain, at, np.dtype(PAGE_TYPE), [p.pages for p in head])
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
        if digest(stored) != bytes(row["digest"]):
            raise damaged("a page was altered")
        return _Page(_expand(stored, size), int(row["records"]), order)


def _head(plain: bytes) -> tuple[list[Part], int]:
    if len(plain) < COUNT.size:
        raise damaged("its table is empty")
    (length,) = COUNT.unpack_from(plain)
    at = COUNT.size + length
    try:
        head = msgspec.json.decode(plain[COUNT.size : at], type=Head)
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
        self._total = int(pages["records"].sum())
        self._asked = 0
        self._numbers: array[int] | None = None

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
        if not self._mentions(number):
            return []
        found: list[Record] = []
        first = bisect_left(self._before, number)
        last = bisect_right(self._after, number)
        for index in range(first, last):
            if self._firsts[index] <= number <= self._lasts[index]:
                page = self._outline.page(self._pages[index], self.order)
                found += page.records(number)
        return found

    def _mentions(self, number: int) -> bool:
        """Return False where no record speaks of an object, as far as that is known.

        Most increments of a long chain say nothing of most objects. Whoever asks
        often gets a list of those that a small one does speak of.
        """
        if self._numbers is None:
            self._asked += 1
            if self._asked < _OFTEN or self._total > _SMALL:
                return True
            self._numbers = array("Q", sorted(self.numbers()))
        index = bisect_left(self._numbers, number)
        return index < len(self._numbers) and self._numbers[index] == number

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

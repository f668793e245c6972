"""Where each byte of an object comes from, after any number of writes and frees.

Spans of the object are painted over one another, as a receiver would write and free
them. Kept in arrays, some 60 bytes a span, since a volume has one for each block.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

FOREVER = 1 << 63

# Where a payload lies.
IN_STREAM, INLINE, BY_REFERENCE, WITHHELD, SEALED = range(5)


@dataclass(frozen=True)
class Payload:
    """A block as it was sent.

    Attributes:
        start: its first byte's offset in the object.
        how: IN_STREAM (``place`` is a byte of the stream), INLINE (``place`` counts
            the payloads kept with the index), BY_REFERENCE (it counts references),
            WITHHELD (a redacted send left it out) or SEALED (it counts encrypted
            blocks).
        place: see above.
        stored: bytes of the payload.
        size: logical bytes.
        codec: compression, as zfs.codecs knows it.
        source: number of the stream in the chain.
    """

    start: int
    how: int
    place: int
    stored: int
    size: int
    codec: int
    source: int


@dataclass(frozen=True)
class Span:
    """A stretch of an object that one payload fills; ``end`` is beyond it."""

    start: int
    end: int
    payload: Payload


class Extents:
    """Spans in order; what no span covers is zeros."""

    def __init__(self) -> None:
        self._starts = array("Q")
        self._ends = array("Q")
        self._refs = array("Q")
        self._bases = array("Q")
        self._places = array("Q")
        self._stored = array("Q")
        self._sizes = array("Q")
        self._kinds = array("Q")

    def __len__(self) -> int:
        return len(self._starts)

    @property
    def end(self) -> int:
        """The byte beyond the last span."""
        return self._ends[-1] if self._ends else 0

    def clear(self) -> None:
        """Forget all."""
        self.__init__()  # type: ignore[misc]

    def write(self, start: int, end: int, payload: Payload) -> None:
        """Put a payload over whatever was there."""
        if start >= end:
            return
        ref = len(self._bases)
        self._bases.append(payload.start)
        self._places.append(payload.place)
        self._stored.append(payload.stored)
        self._sizes.append(payload.size)
        self._kinds.append(payload.how | payload.codec << 8 | payload.source << 16)
        if not self._ends or start >= self._ends[-1]:
            self._starts.append(start)
            self._ends.append(end)
            self._refs.append(ref)
            return
        self._splice(start, end, ref)

    def punch(self, start: int, end: int) -> None:
        """Make a hole."""
        if start < end and self._ends and start < self._ends[-1]:
            self._splice(start, end, None)

    def spans(self, start: int = 0, end: int = FOREVER) -> Iterator[Span]:
        """Yield what lies in [start, end), cut to it, in order."""
        index = max(0, bisect_right(self._starts, start) - 1)
        while index < len(self._starts) and self._starts[index] < end:
            first, last = self._starts[index], self._ends[index]
            if last > start:
                ref = self._refs[index]
                yield Span(max(first, start), min(last, end), self._payload(ref))
            index += 1

    def _payload(self, ref: int) -> Payload:
        kinds = self._kinds[ref]
        return Payload(
            start=self._bases[ref],
            how=kinds & 0xFF,
            place=self._places[ref],
            stored=self._stored[ref],
            size=self._sizes[ref],
            codec=kinds >> 8 & 0xFF,
            source=kinds >> 16,
        )

    def _splice(self, start: int, end: int, ref: int | None) -> None:
        """Replace what lies in [start, end) by a payload, or by nothing."""
        first = bisect_right(self._starts, start)
        if first and self._ends[first - 1] > start:
            first -= 1
        last = first
        count = len(self._starts)
        while last < count and self._starts[last] < end:
            last += 1
        pieces: list[tuple[int, int, int]] = []
        if first < last and self._starts[first] < start:
            pieces.append((self._starts[first], start, self._refs[first]))
        if ref is not None:
            pieces.append((start, end, ref))
        if first < last and self._ends[last - 1] > end:
            pieces.append((end, self._ends[last - 1], self._refs[last - 1]))
        self._starts[first:last] = array("Q", [p[0] for p in pieces])
        self._ends[first:last] = array("Q", [p[1] for p in pieces])
        self._refs[first:last] = array("Q", [p[2] for p in pieces])

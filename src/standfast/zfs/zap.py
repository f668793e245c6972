"""ZAP objects, ZFS's hash tables: directories, the master node, registries.

Both kinds are read by enumeration: a micro ZAP is one block of 64-byte entries; a fat
one has a header, a pointer table and leaves of 24-byte chunks (sys/zap_impl.h and
sys/zap_leaf.h of OpenZFS). Only leaves that the pointer table names are read, since
old ones may remain. Integers are in the stream's byte order, but names and values in
leaves are big-endian byte strings always.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct, unpack_from
from typing import TYPE_CHECKING, Literal

from standfast.errors import StreamError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Order = Literal["<", ">"]
    # number of a block, from 0 -> its bytes
    ReadBlock = Callable[[int], bytes]

_MICRO, _HEADER, _LEAF = (1 << 63) + 3, (1 << 63) + 1, 1 << 63
_HEADER_MAGIC, _LEAF_MAGIC = 0x2F52AB2AB, 0x2AB1EAF
_MICRO_ENTRY, _MICRO_NAME = 64, 50
_ENTRY_CHUNK, _ARRAY_CHUNK = 252, 251
_CHUNK, _ARRAY_BYTES, _LEAF_HEADER = 24, 21, 48
_SMALLEST_BLOCK, _LARGEST_BLOCK = 512, 16 << 20
# The pointer table of a ZAP with 2^32 entries; no directory comes near.
_LARGEST_SHIFT = 32
# ZAP_MAXNAMELEN with DMU long names, and ZAP_MAXVALUELEN.
_LONGEST = 8192
_WIDTHS = (1, 2, 4, 8)


@dataclass(frozen=True)
class ZapEntry:
    """One name and what it stands for.

    Attributes:
        name: bytes, without the final NUL.
        value: integers; most entries have one.
        width: bytes of each integer.
    """

    name: bytes
    value: tuple[int, ...]
    width: int

    def number(self) -> int:
        """Return the value of an entry that must have one integer.

        Raises:
            StreamError: it has none, or several.
        """
        if len(self.value) != 1:
            raise _broken(f"an entry has {len(self.value)} values instead of one")
        return self.value[0]


def zap_entries(
    read: ReadBlock, size: int, blocks: int, order: Order
) -> Iterator[ZapEntry]:
    """Yield the entries of a ZAP in the order in which they lie there.

    Args:
        read: returns a block of ``size`` bytes; zeros where none was sent.
        size: bytes of a block.
        blocks: how many there can be; pointers beyond are refused.
        order: the stream's byte order.

    Raises:
        StreamError: the object is no ZAP, or it is damaged.
    """
    if not _SMALLEST_BLOCK <= size <= _LARGEST_BLOCK:
        raise _broken(f"blocks of {size} bytes")
    first = read(0)
    (kind,) = unpack_from(order + "Q", first)
    if kind == _MICRO:
        yield from _micro(first, order)
    elif kind == _HEADER:
        yield from _Fat(read, size, blocks, order, first).entries()
    else:
        raise _broken(f"its first word is {kind:#x}")


def _broken(what: str) -> StreamError:
    return StreamError(f"a ZAP is damaged: {what}")


def _micro(block: bytes, order: Order) -> Iterator[ZapEntry]:
    entry = Struct(f"{order}QIH{_MICRO_NAME}s")
    whole = len(block) - len(block) % _MICRO_ENTRY
    view = memoryview(block)[_MICRO_ENTRY:whole]
    for value, _differ, _pad, name in entry.iter_unpack(view):
        if name[0]:
            yield ZapEntry(name.partition(b"\0")[0], (value,), 8)


class _Fat:
    """A ZAP of many blocks."""

    def __init__(
        self, read: ReadBlock, size: int, blocks: int, order: Order, first: bytes
    ) -> None:
        self._read = read
        self._size = size
        self._blocks = blocks
        self._order = order
        self._first = first
        # chunk: kind, integer width, next, name chunk, name bytes, value chunk, count
        self._entry = Struct(order + "BBHHHHH")
        self._next = Struct(order + "H")
        hashes = size // 32
        self._chunks_at = _LEAF_HEADER + 2 * hashes
        # ZAP_LEAF_NUMCHUNKS counts from the whole block and takes two off.
        self._chunks = (size - 2 * hashes) // _CHUNK - 2

    def entries(self) -> Iterator[ZapEntry]:
        fields = unpack_from(self._order + "QQQQQQQQQ", self._first, 8)
        magic, table, table_blocks, shift, _next, _copied, _free, _leafs, count = fields
        if magic != _HEADER_MAGIC:
            raise _broken("its header has another magic number")
        if shift > _LARGEST_SHIFT:
            raise _broken(f"a pointer table of 2^{shift} entries")
        seen: set[int] = set()
        found = 0
        for leaf in self._pointers(table, table_blocks, shift):
            if leaf in seen:
                continue
            seen.add(leaf)
            if not 0 < leaf < self._blocks:
                raise _broken(f"a pointer to block {leaf} of {self._blocks}")
            for entry in self._leaf(self._read(leaf)):
                found += 1
                yield entry
        if found != count:
            raise _broken(f"{found} entries where there should be {count}")

    def _pointers(self, table: int, blocks: int, shift: int) -> Iterator[int]:
        """Yield the leaves' block numbers; the same one many times over."""
        if blocks == 0:
            half = self._size // 2
            count = 1 << shift
            if count * 8 > half:
                raise _broken(f"2^{shift} pointers in half a block")
            yield from unpack_from(f"{self._order}{count}Q", self._first, half)
            return
        each = self._size // 8
        if not 0 < table < self._blocks or (1 << shift) > blocks * each:
            raise _broken("a pointer table that cannot be")
        if table + blocks > self._blocks:
            raise _broken("a pointer table beyond its end")
        left = 1 << shift
        for number in range(table, table + blocks):
            count = min(left, each)
            yield from unpack_from(f"{self._order}{count}Q", self._read(number))
            left -= count

    def _leaf(self, block: bytes) -> Iterator[ZapEntry]:
        kind, magic = unpack_from(self._order + "Q16xI", block)
        if kind != _LEAF or magic != _LEAF_MAGIC:
            raise _broken("a leaf has another magic number")
        last = self._chunks_at + self._chunks * _CHUNK
        for at in range(self._chunks_at, last, _CHUNK):
            if block[at] == _ENTRY_CHUNK:
                yield self._one(block, at)

    def _one(self, block: bytes, at: int) -> ZapEntry:
        fields = self._entry.unpack_from(block, at)
        _kind, width, _next, name_at, name_length, value_at, count = fields
        if width not in _WIDTHS or not 0 < name_length <= _LONGEST:
            raise _broken(f"a name of {name_length} bytes, integers of {width}")
        if width * count > _LONGEST:
            raise _broken(f"{count} values of {width} bytes")
        name = self._array(block, name_at, name_length)
        raw = self._array(block, value_at, width * count)
        value = tuple(
            int.from_bytes(raw[i : i + width], "big")
            for i in range(0, width * count, width)
        )
        return ZapEntry(name.rstrip(b"\0"), value, width)

    def _array(self, block: bytes, chunk: int, length: int) -> bytes:
        """Return the bytes of a chain of chunks; its length bounds the walk."""
        if length <= _ARRAY_BYTES and chunk < self._chunks:
            at = self._chunks_at + chunk * _CHUNK
            if block[at] == _ARRAY_CHUNK:
                return block[at + 1 : at + 1 + length]
        found = bytearray()
        while len(found) < length:
            at = self._chunks_at + chunk * _CHUNK
            if chunk >= self._chunks or block[at] != _ARRAY_CHUNK:
                raise _broken("a chain of chunks leads astray")
            found += block[at + 1 : at + 1 + _ARRAY_BYTES]
            (chunk,) = self._next.unpack_from(block, at + 1 + _ARRAY_BYTES)
        return bytes(found[:length])

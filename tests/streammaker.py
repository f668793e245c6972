"""Send streams of small file systems, made record by record.

For what no real sender gives: hostile names, loops, a million files. The layouts are
those of a file system of version 4 (znodes), as zfs-fuse writes them.
"""

from __future__ import annotations

import stat
import struct
from typing import TYPE_CHECKING

from standfast.zfs.fletcher import Fletcher4

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

MAGIC = 0x2F5BACBAC
BEGIN, OBJECT, FREEOBJECTS, WRITE, FREE, END = range(6)
BYREF = 6
PLAIN, FOLDER, MASTER, ZNODE = 19, 20, 21, 17
ROOT = 4
FOREVER = (1 << 64) - 1
SETTLE = 8 << 20


class StreamMaker:
    """One stream under way.

    Args:
        name: the snapshot's.
        guid: its own.
        base: guid of what it is incremental from.
        order: byte order of the sender.
        kind: 2 for a file system, 3 for a volume.
        sink: takes the stream while it grows; otherwise it is kept in memory.

    Attributes:
        out: what was not given to the sink.
    """

    def __init__(
        self,
        name: str,
        guid: int,
        base: int = 0,
        *,
        order: str = "<",
        kind: int = 2,
        sink: Callable[[bytes], object] | None = None,
    ) -> None:
        self._sink = sink
        self.order = order
        self.guid = guid
        self.out = bytearray()
        self._sums = Fletcher4(big_endian=order == ">")
        header = bytearray(312)
        front = (BEGIN, 0, MAGIC, 1, 1234, kind, 4, guid, base)
        struct.pack_into(order + "IIQQQIIQQ", header, 0, *front)
        header[56 : 56 + len(name)] = name.encode()
        self._put(bytes(header))

    def _put(self, data: bytes) -> None:
        self.out += data
        if self._sink is not None and len(self.out) > SETTLE:
            self._settle(self._sink)

    def _settle(self, sink: Callable[[bytes], object]) -> None:
        self._sums.update(self.out)
        sink(bytes(self.out))
        self.out.clear()

    def _record(
        self, kind: int, layout: str, *fields: int, payload: bytes = b""
    ) -> None:
        head = struct.pack(f"{self.order}II{layout}", kind, 0, *fields)
        self._put(head.ljust(312, b"\0") + payload)

    def object(
        self,
        number: int,
        kind: int,
        bonus: bytes = b"",
        *,
        block: int = 512,
        bonus_kind: int = 0,
        slots: int = 0,
    ) -> None:
        fields = (number, kind, bonus_kind, block, len(bonus), 2, 2, slots, 0, 0)
        padded = bonus + bytes(-len(bonus) % 8)
        self._record(OBJECT, "QIIIIBBBBIQ", *fields, self.guid, payload=padded)

    def write(self, number: int, start: int, data: bytes, kind: int = PLAIN) -> None:
        fields = (number, kind, 0, start, len(data), self.guid)
        self._record(WRITE, "QIIQQQ", *fields, payload=data)

    def free(self, number: int, start: int = 0, length: int = FOREVER) -> None:
        self._record(FREE, "QQQQ", number, start, length, self.guid)

    def free_objects(self, first: int, count: int) -> None:
        self._record(FREEOBJECTS, "QQQ", first, count, self.guid)

    def refer(
        self, number: int, start: int, length: int, to: tuple[int, int, int]
    ) -> None:
        self._record(BYREF, "QQQQQQQ", number, start, length, self.guid, *to)

    def micro(self, number: int, entries: Sequence[tuple[bytes, int]]) -> None:
        """Write the one block of a micro ZAP."""
        self.write(number, 0, self.micro_block(entries), FOLDER)

    def micro_block(self, entries: Sequence[tuple[bytes, int]]) -> bytes:
        block = struct.pack(self.order + "QQQ", (1 << 63) + 3, 1, 0).ljust(64, b"\0")
        for name, value in entries:
            block += struct.pack(self.order + "QIH50s", value, 0, 0, name)
        return block + bytes(-len(block) % 512)

    def master(self, root: int = ROOT) -> None:
        self.object(1, MASTER)
        self.write(1, 0, self.micro_block([(b"ROOT", root), (b"VERSION", 4)]), MASTER)

    def folder(
        self,
        number: int,
        entries: Sequence[tuple[bytes, int, int]],
        *,
        parent: int = ROOT,
        mode: int = 0o755,
    ) -> None:
        """Make a folder of (name, object, file type)."""
        values = [(n, o | stat.S_IFMT(k) >> 12 << 60) for n, o, k in entries]
        block = self.micro_block(values)
        bonus = self.znode(stat.S_IFDIR | mode, len(entries) + 2, parent=parent)
        self.object(number, FOLDER, bonus, block=len(block), bonus_kind=ZNODE)
        self.write(number, 0, block, FOLDER)

    def file(
        self,
        number: int,
        data: bytes,
        *,
        mode: int = stat.S_IFREG | 0o644,
        size: int | None = None,
        links: int = 1,
        rdev: int = 0,
    ) -> None:
        """Make a file of one block; other types by their mode."""
        length = len(data) if size is None else size
        block = max(512, -(-len(data) // 512) * 512)
        bonus = self.znode(mode, length, links=links, rdev=rdev)
        self.object(number, PLAIN, bonus, block=block, bonus_kind=ZNODE)
        if data:
            self.write(number, 0, data.ljust(block, b"\0"))
        self.free(number, block)

    def znode(
        self, mode: int, size: int, *, parent: int = ROOT, links: int = 1, rdev: int = 0
    ) -> bytes:
        times = (1_700_000_000, 123_456_789) * 4
        fields = (*times, 7, mode, size, parent, links, 0, rdev, 0, 0, 0, 0)
        return struct.pack(self.order + "19Q", *fields).ljust(264, b"\0")

    def done(self) -> bytes:
        """Write the last record; return what the sink has not got."""
        if self._sink is not None:
            self._settle(self._sink)
        else:
            self._sums.reset()
            self._sums.update(self.out)
        end = (END, 0, *self._sums.state, self.guid)
        self.out += struct.pack(self.order + "II4QQ", *end).ljust(312, b"\0")
        if self._sink is not None:
            self._sink(bytes(self.out))
            return b""
        return bytes(self.out)


def simple_tree(
    entries: Sequence[tuple[bytes, int, int]], *, order: str = "<", guid: int = 7
) -> StreamMaker:
    """Begin a stream whose root folder has the given entries."""
    maker = StreamMaker("pool/fs@snap", guid, order=order)
    maker.master()
    maker.folder(ROOT, entries)
    return maker

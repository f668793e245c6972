"""Snapshots read from streams in memory, for tests of what is in them."""

from __future__ import annotations

import bz2
import hashlib
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backports import zstd

from standfast.zfs.filesystem import FileSystem
from standfast.zfs.objects import Objects
from standfast.zfs.outline import Outline
from standfast.zfs.outlining import OutlineWriter
from standfast.zfs.records import StreamCheck

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from standfast.zfs.attributes import Attributes


def read_sample(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".bz2":
        return bz2.decompress(data)
    return zstd.decompress(data) if path.suffix == ".zst" else data


def outline_of(data: bytes, step: int = 65_536) -> Outline:
    """Check a stream in pieces of ``step`` bytes and return its outline."""
    out = bytearray()
    writer = OutlineWriter(out.extend)
    check = StreamCheck(writer)
    for start in range(0, len(data), step):
        check.feed(memoryview(data)[start : start + step])
    check.finish()
    root = writer.finish()
    return Outline(lambda at, size: bytes(out[at : at + size]), root)


def objects_of(
    *streams: bytes, last: int | None = None, secrets: Sequence[bytes] = ()
) -> Objects:
    """Return the objects of a snapshot of some streams: the last, or number ``last``.

    A full stream begins a chain of its own.
    """
    parts = [(part, data) for data in streams for part in outline_of(data).substreams]
    if last is not None:
        parts = parts[: last + 1]
    starts = [i for i, (part, _) in enumerate(parts) if not part.from_guid]
    own = parts[starts[-1] :] if starts else parts
    chain = [part for part, _ in own]

    def elsewhere(guid: int) -> Objects | None:
        places = [i for i, (part, _) in enumerate(parts) if part.guid == guid]
        if not places:
            return None
        return objects_of(*streams, last=places[0], secrets=secrets)

    def read(source: int, at: int, size: int) -> bytes:
        return own[source][1][at : at + size]

    return Objects(chain, read, elsewhere, secrets)


def tree_of(
    *streams: bytes, last: int | None = None, secrets: Sequence[bytes] = ()
) -> FileSystem:
    return FileSystem(objects_of(*streams, last=last, secrets=secrets))


def content(tree: FileSystem, number: int, size: int) -> bytes:
    data = bytearray(size)
    for start, piece in tree.contents(number, size):
        data[start : start + len(piece)] = piece
    return bytes(data)


@dataclass(frozen=True)
class File:
    path: str
    number: int
    attributes: Attributes


def walk(tree: FileSystem, number: int = 0, above: str = "") -> Iterator[File]:
    """Yield all below a folder; a folder before what is in it."""
    for entry in tree.entries(number or tree.root):
        attributes = tree.attributes(entry.number)
        assert entry.kind == stat.S_IFMT(attributes.mode)
        path = above + entry.name.decode()
        yield File(path, entry.number, attributes)
        if stat.S_ISDIR(attributes.mode):
            yield from walk(tree, entry.number, path + "/")


def hashes(tree: FileSystem) -> dict[str, str]:
    """Return the SHA-256 of every regular file."""
    return {
        file.path: hashlib.sha256(
            content(tree, file.number, file.attributes.size)
        ).hexdigest()
        for file in walk(tree)
        if stat.S_ISREG(file.attributes.mode)
    }

"""Files of a snapshot as people list and seek them."""

from __future__ import annotations

import fnmatch
import re
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from standfast.errors import DamagedError, StreamError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from standfast.zfs.attributes import Attributes
    from standfast.zfs.filesystem import DirEntry, FileSystem
    from standfast.zfs.outline import SubstreamOutline

    Damaged = Callable[[bytes, StreamError | DamagedError], None]

# Deeper than any path that a system would open.
DEEPEST = 4096


@dataclass(frozen=True)
class File:
    """A file at a path.

    Attributes:
        path: from the snapshot's root, without a slash before it.
        number: the object.
        attributes: what is known of it.
        link: target, of a symbolic link.
    """

    path: bytes
    number: int
    attributes: Attributes
    link: bytes = b""


def file_at(tree: FileSystem, path: bytes) -> File:
    """Return the file at a path; "" is the root.

    Raises:
        UsageError: there is none.
        StreamError: what leads to it is damaged.
    """
    return file_of(tree, path.strip(b"/"), tree.find(path))


def list_folder(tree: FileSystem, path: bytes) -> list[File]:
    """Return what a folder holds, or the one file at that path, sorted by name.

    Raises:
        UsageError: there is no such path.
        StreamError: something is damaged.
    """
    top = file_at(tree, path)
    if not stat.S_ISDIR(top.attributes.mode):
        return [top]
    return [file_of(tree, e.name, e.number) for e in tree.entries(top.number)]


def walk(
    tree: FileSystem, number: int, path: bytes, damaged: Damaged | None = None
) -> Iterator[tuple[bytes, DirEntry]]:
    """Yield (path, entry) of all below a folder, each folder before what is in it.

    Args:
        tree: the snapshot.
        number: the folder.
        path: its path.
        damaged: is told of a folder that cannot be read, and the rest goes on.

    Raises:
        StreamError: a folder is damaged, or is there twice, as none can be.
    """
    seen = {number}
    pending = [(path, number)]
    while pending:
        above, folder = pending.pop()
        inner: list[tuple[bytes, int]] = []
        for entry in _entries(tree, folder, above, damaged):
            where = above + b"/" + entry.name if above else entry.name
            if stat.S_ISDIR(entry.kind):
                if entry.number in seen or where.count(b"/") > DEEPEST:
                    twice = StreamError("this folder is there twice, as none can be")
                    _complain(tree, where, twice, damaged)
                    continue
                seen.add(entry.number)
                inner.append((where, entry.number))
            yield where, entry
        pending += reversed(inner)


def _entries(
    tree: FileSystem, folder: int, path: bytes, damaged: Damaged | None
) -> list[DirEntry]:
    try:
        return tree.entries(folder)
    except (StreamError, DamagedError) as error:
        _complain(tree, path, error, damaged)
        return []


def _complain(
    tree: FileSystem,
    path: bytes,
    error: StreamError | DamagedError,
    damaged: Damaged | None,
) -> None:
    if damaged is None:
        raise StreamError(f"{tree.name}: {shown(path) or '/'}: {error.message}")
    damaged(path, error)


def shown(path: bytes) -> str:
    """Return a path as text; bytes that are no UTF-8 are escaped."""
    return path.decode("utf-8", "backslashreplace")


def mark(number: int, attributes: Attributes) -> tuple[int, ...]:
    """Return what differs as soon as a file was changed or made anew.

    ctime changes with any write to a file or its attributes.
    """
    a = attributes
    return (number, a.generation, a.ctime, a.mtime, a.size, a.mode, a.uid, a.gid)


def file_of(tree: FileSystem, path: bytes, number: int) -> File:
    """Return a file whose object is known.

    Raises:
        StreamError: it is damaged.
    """
    attributes = tree.attributes(number)
    link = b""
    if stat.S_ISLNK(attributes.mode):
        link = tree.link(number, attributes)
    return File(path, number, attributes, link)


class Pattern:
    """What names to look for: a shell pattern, for the name or the whole path.

    Args:
        text: with a slash in it, it is for the whole path.
    """

    def __init__(self, text: str) -> None:
        self._whole = "/" in text
        raw = text.strip("/").encode("utf-8", "surrogateescape")
        translated = fnmatch.translate(raw.decode("latin-1"))

        self._match = re.compile(translated).match

    def may_fit(self, name: bytes) -> bool:
        """Return whether a file of that name can fit at any path."""
        return self._whole or self.fits(b"", name)

    def fits(self, path: bytes, name: bytes) -> bool:
        """Return whether a file's path or name fits."""
        wanted = path if self._whole else name
        return self._match(wanted.decode("latin-1")) is not None


@dataclass
class Version:
    """One state of a file and the points that have it."""

    file: File
    points: list[str] = field(default_factory=list)


@dataclass
class Found:
    """A path of a dataset with its versions, oldest first."""

    dataset: str
    path: bytes
    versions: list[Version] = field(default_factory=list)


@dataclass
class _Known:
    """What was seen of a dataset's last point.

    Attributes:
        chain: the streams that made it.
        folders: for each folder the names in it that fit, and the folders in it.
        files: for each file that fits, what it was.
    """

    chain: tuple[SubstreamOutline, ...] = ()
    folders: dict[int, tuple[list[DirEntry], list[DirEntry]]] = field(
        default_factory=dict
    )
    files: dict[int, Attributes] = field(default_factory=dict)


class Finder:
    """Looks for names in one point after another.

    In a point that goes on from the one before, only those folders are read again that
    an increment speaks of; of each, what fits and the folders in it are remembered.

    Args:
        pattern: what to look for.

    Attributes:
        found: by (dataset, path).
    """

    def __init__(self, pattern: Pattern) -> None:
        self.found: dict[tuple[str, bytes], Found] = {}
        self._pattern = pattern
        self._known: dict[str, _Known] = {}

    def look(self, tree: FileSystem) -> None:
        """Go through a point.

        Raises:
            StreamError: something is damaged.
        """
        dataset = tree.name.partition("@")[0]
        known = self._known.setdefault(dataset, _Known())
        chain = tree.objects.chain
        length = len(known.chain)
        if length and chain[:length] == known.chain:
            for number in tree.objects.changed_in(length):
                known.folders.pop(number, None)
                known.files.pop(number, None)
        else:
            known.folders.clear()
            known.files.clear()
        known.chain = chain
        seen = {tree.root}
        pending = [(b"", tree.root)]
        while pending:
            above, number = pending.pop()
            fitting, inner = self._folder(tree, known, number)
            for entry in fitting:
                path = above + entry.name
                if self._pattern.fits(path, entry.name):
                    self._add(tree, known, dataset, path, entry)
            for entry in inner:
                path = above + entry.name
                if entry.number in seen or path.count(b"/") > DEEPEST:
                    raise StreamError(f"{tree.name}: {shown(path)} is there twice")
                seen.add(entry.number)
                pending.append((path + b"/", entry.number))

    def _folder(
        self, tree: FileSystem, known: _Known, number: int
    ) -> tuple[list[DirEntry], list[DirEntry]]:
        if number not in known.folders:
            entries = tree.entries(number)
            known.folders[number] = (
                [e for e in entries if self._pattern.may_fit(e.name)],
                [e for e in entries if stat.S_ISDIR(e.kind)],
            )
        return known.folders[number]

    def _add(
        self,
        tree: FileSystem,
        known: _Known,
        dataset: str,
        path: bytes,
        entry: DirEntry,
    ) -> None:
        if entry.number not in known.files:
            known.files[entry.number] = tree.attributes(entry.number)
        attributes = known.files[entry.number]
        here = self.found.setdefault((dataset, path), Found(dataset, path))
        own = mark(entry.number, attributes)
        for version in here.versions:
            if mark(version.file.number, version.file.attributes) == own:
                version.points.append(tree.name)
                return
        here.versions.append(Version(file_of(tree, path, entry.number), [tree.name]))

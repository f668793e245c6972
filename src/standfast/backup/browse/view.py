"""A vault as one folder tree: datasets as folders, every snapshot a folder in them.

``tank/home@monday`` is the folder ``tank/home@monday`` below the top, with its files;
a volume's snapshot is one file. Nothing is read before it is asked for. Where two
archives hold different snapshots of one name, the older ones have the beginning of
their archive's id behind the name.
"""

from __future__ import annotations

import stat
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from standfast.errors import UsageError
from standfast.zfs.filesystem import is_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from standfast.backup.browse.catalogue import Point
    from standfast.zfs.attributes import Attributes
    from standfast.zfs.filesystem import FileSystem, Volume

_KEPT_SNAPSHOTS = 32
_KEPT_PATHS = 65_536
# The low bits of an inode number are ZFS's own object number; above them stands the
# snapshot's, so that files of two snapshots are never taken for hard links.
_OBJECT_BITS = 48
_FOLDER_MODE = stat.S_IFDIR | 0o500
_VOLUME_MODE = stat.S_IFREG | 0o400


_T = TypeVar("_T")


class Source(Protocol):
    """What opens snapshots; see ``browser.Browser``."""

    def tree(self, point: Point) -> FileSystem:
        """Return a snapshot's files."""
        ...

    def volume(self, point: Point) -> Volume:
        """Return a volume's snapshot."""
        ...


@dataclass(frozen=True)
class Node:
    """Something at a path.

    Attributes:
        inode: a number that no other file has.
        mode: type and permissions.
        size: bytes.
        links: how many names it has.
        uid: owner, or -1 for whoever mounts.
        gid: group, or -1.
        rdev: device number as it stands in the snapshot.
        times: access, modification, change; nanoseconds since 1970.
    """

    inode: int
    mode: int
    size: int
    links: int = 1
    uid: int = -1
    gid: int = -1
    rdev: int = 0
    times: tuple[int, int, int] = (0, 0, 0)


@dataclass
class _Folder:
    """A folder above the snapshots."""

    inode: int
    folders: dict[bytes, _Folder] = field(default_factory=dict)
    points: dict[bytes, Point] = field(default_factory=dict)


class View:
    """The tree.

    Args:
        points: the snapshots, oldest first.
        source: opens them.
    """

    def __init__(self, points: Iterable[Point], source: Source) -> None:
        self._source = source
        self._numbers: dict[Point, int] = {}
        self._trees: OrderedDict[Point, FileSystem] = OrderedDict()
        self._volumes: OrderedDict[Point, Volume] = OrderedDict()
        self._paths: OrderedDict[tuple[Point, bytes], int] = OrderedDict()
        self._count = 1
        self._top = _Folder(self._count)
        for number, point in enumerate(points, 1):
            self._numbers[point] = number
            self._place(point)

    def look(self, path: bytes) -> Node:
        """Return what is at a path from the top.

        Raises:
            UsageError: nothing.
            StandfastError: it cannot be read.
        """
        folder, point, rest = self._resolve(path)
        if point is None:
            return _folder_node(folder)
        if point.kind == "volume":
            self._no_more(rest)
            size = self._volume(point).size
            when = point.time * 1_000_000_000
            inode = self._inode(point, 1)
            return Node(inode, _VOLUME_MODE, size, times=(when, when, when))
        tree = self._tree(point)
        number = self._number(point, tree, rest)
        return self._node(point, number, tree.attributes(number))

    def names(self, path: bytes) -> Iterator[tuple[bytes, int, int]]:
        """Yield (name, inode, type bits) of what a folder holds.

        Raises:
            UsageError: there is none at that path.
            StandfastError: it cannot be read.
        """
        folder, point, rest = self._resolve(path)
        if point is None:
            for name, inner in folder.folders.items():
                yield name, inner.inode, stat.S_IFDIR
            for name, held in folder.points.items():
                volume = held.kind == "volume"
                # Kernels pass over what has no inode; which one it has is not known
                # before the snapshot is opened.
                kind = stat.S_IFREG if volume else stat.S_IFDIR
                yield name, self._inode(held, 0), kind
            return
        tree = self._tree(point)
        for entry in tree.entries(self._number(point, tree, rest)):
            yield entry.name, self._inode(point, entry.number), entry.kind

    def read(self, path: bytes, start: int, length: int) -> bytes:
        """Return bytes of a file, fewer at its end.

        Raises:
            UsageError: there is none at that path.
            StandfastError: they cannot be read, or are damaged.
        """
        _, point, rest = self._resolve(path)
        if point is None:
            raise UsageError("a folder has no contents")
        if point.kind == "volume":
            volume = self._volume(point)
            return volume.read(start, max(0, min(length, volume.size - start)))
        tree = self._tree(point)
        number = self._number(point, tree, rest)
        size = tree.attributes(number).size
        return tree.read(number, start, max(0, min(length, size - start)))

    def link(self, path: bytes) -> bytes:
        """Return the target of a symbolic link; errors as ``look``."""
        tree, number = self._file(path)
        return tree.link(number, tree.attributes(number))

    def xattrs(self, path: bytes) -> dict[str, bytes]:
        """Return extended attributes as the snapshot names them; errors as ``look``."""
        _, point, _ = self._resolve(path)
        if point is None or point.kind == "volume":
            return {}
        tree, number = self._file(path)
        return tree.xattrs(tree.attributes(number))

    def _place(self, point: Point) -> None:
        *above, last = point.name.encode("utf-8", "surrogateescape").split(b"/")
        if not all(is_name(name) for name in (*above, last)):
            return
        folder = self._top
        for name in above:
            if name not in folder.folders:
                self._count += 1
                folder.folders[name] = _Folder(self._count)
            folder = folder.folders[name]
        older = folder.points.pop(last, None)
        if older is not None:
            folder.points[last + b"~" + older.archive[:8].encode()] = older
        folder.points[last] = point

    def _resolve(self, path: bytes) -> tuple[_Folder, Point | None, bytes]:
        """Return (folder, snapshot, path inside it); no snapshot for a folder above."""
        folder = self._top
        names = [name for name in path.split(b"/") if name]
        for place, name in enumerate(names):
            if name in folder.points:
                return folder, folder.points[name], b"/".join(names[place + 1 :])
            if name not in folder.folders:
                raise UsageError(f"nothing is at {path!r}")
            folder = folder.folders[name]
        return folder, None, b""

    def _file(self, path: bytes) -> tuple[FileSystem, int]:
        _, point, rest = self._resolve(path)
        if point is None or point.kind == "volume":
            raise UsageError(f"no file of a snapshot is at {path!r}")
        tree = self._tree(point)
        return tree, self._number(point, tree, rest)

    def _number(self, point: Point, tree: FileSystem, rest: bytes) -> int:
        key = (point, rest)
        if key in self._paths:
            self._paths.move_to_end(key)
            return self._paths[key]
        number = tree.find(rest)
        self._paths[key] = number
        if len(self._paths) > _KEPT_PATHS:
            self._paths.popitem(last=False)
        return number

    def _tree(self, point: Point) -> FileSystem:
        return _kept(self._trees, point, self._source.tree)

    def _volume(self, point: Point) -> Volume:
        return _kept(self._volumes, point, self._source.volume)

    def _no_more(self, rest: bytes) -> None:
        if rest:
            raise UsageError("a volume is no folder")

    def _inode(self, point: Point, number: int) -> int:
        return self._numbers[point] << _OBJECT_BITS | number

    def _node(self, point: Point, number: int, a: Attributes) -> Node:
        return Node(
            inode=self._inode(point, number),
            mode=a.mode,
            size=a.size,
            links=a.links,
            uid=a.uid,
            gid=a.gid,
            rdev=a.rdev,
            times=(a.atime, a.mtime, a.ctime),
        )


def _kept(
    held: OrderedDict[Point, _T], point: Point, opener: Callable[[Point], _T]
) -> _T:
    """Return what was opened for a point lately, or open it."""
    if point not in held:
        held[point] = opener(point)
        if len(held) > _KEPT_SNAPSHOTS:
            held.popitem(last=False)
    held.move_to_end(point)
    return held[point]


def _folder_node(folder: _Folder) -> Node:
    return Node(folder.inode, _FOLDER_MODE, 0, links=2 + len(folder.folders))

"""A snapshot as a tree of files, or as a volume, read from its objects.

Names, attributes and contents, and nothing of this machine: no path here is a path
of the running system. Contents come span by span, so that a file may be of any size.
Sources: zfs_znode.h, zfs_dir.c and zfs_sa.c of OpenZFS.
"""

from __future__ import annotations

import stat
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.errors import StreamError, UsageError
from standfast.zfs.attributes import (
    SA_BONUS,
    ZNODE_BONUS,
    SaTable,
    parse_sa,
    parse_znode,
    sa_registry_value,
)
from standfast.zfs.extents import FOREVER
from standfast.zfs.objects import walk
from standfast.zfs.zap import zap_entries

if TYPE_CHECKING:
    from collections.abc import Iterator

    from standfast.zfs.attributes import Attributes
    from standfast.zfs.objects import Objects, ObjectState
    from standfast.zfs.zap import ZapEntry

MASTER_NODE = 1
VOLUME, VOLUME_PROPERTIES = 1, 2
FOLDER_KIND = 20
# Path names on any system that ZFS runs on are shorter; a name with long names on.
_LONGEST_LINK = 64 << 10
_LARGEST_XATTR = 16 << 20
_MOST_XATTRS = 65_536
_NUMBER_BITS, _MODE_SHIFT = (1 << 48) - 1, 60
# Layout numbers have ten bits.
_LAYOUT_DIGITS = 4
# Names of folders that are remembered, some 200 bytes each.
_KEPT_ENTRIES = 100_000


@dataclass(frozen=True, slots=True)
class DirEntry:
    """A name in a folder.

    Attributes:
        name: as it stands there; checked to be one name and no path.
        number: the object.
        kind: file type bits, as in stat(2); 0 where the folder does not say.
    """

    name: bytes
    number: int
    kind: int


def is_name(name: bytes) -> bool:
    """Return whether bytes can be one name in a folder of any system."""
    return name not in {b"", b".", b".."} and b"/" not in name and b"\0" not in name


class FileSystem:
    """The files of a snapshot.

    Args:
        objects: of the snapshot.

    Raises:
        StreamError: it is no file system, or its first objects are damaged.
        NoIdentityError: it was sent raw, and no secret opens it.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        last = objects.chain[-1].part
        if last.kind != "filesystem":
            raise StreamError(f"{last.name} is no file system but a {last.kind}")
        objects.unlock()
        self._folders: OrderedDict[int, list[DirEntry]] = OrderedDict()
        self._kept = 0
        master = {e.name: e for e in self._zap(self._must(MASTER_NODE))}
        if b"ROOT" not in master:
            raise StreamError(f"{last.name} has no root folder")
        self.root = master[b"ROOT"].number()
        self._table = SaTable({}, {})
        if b"SA_ATTRS" in master:
            self._table = self._sa_table(master[b"SA_ATTRS"].number())

    @property
    def name(self) -> str:
        """``pool/fs@snap``, as the sender called it."""
        return self._objects.chain[-1].part.name

    @property
    def objects(self) -> Objects:
        """What it is read from."""
        return self._objects

    def attributes(self, number: int) -> Attributes:
        """Return a file's attributes.

        Raises:
            StreamError: there is no such file, or it is damaged.
        """
        return self._attributes(self._must(number))

    def entries(self, number: int) -> list[DirEntry]:
        """Return what a folder holds, sorted by name.

        Raises:
            StreamError: it is no folder, or damaged, or holds what is no name.
        """
        if number in self._folders:
            self._folders.move_to_end(number)
            return self._folders[number]
        state = self._must(number)
        if state.kind != FOLDER_KIND:
            raise StreamError(f"object {number} is no folder")
        found = [_dir_entry(entry, number) for entry in self._zap(state)]
        found.sort(key=lambda entry: entry.name)
        self._folders[number] = found
        self._kept += len(found)
        while self._kept > _KEPT_ENTRIES and len(self._folders) > 1:
            _, old = self._folders.popitem(last=False)
            self._kept -= len(old)
        return found

    def find(self, path: bytes) -> int:
        """Return the object at a path from the root; links are not followed.

        Raises:
            UsageError: there is none.
            StreamError: a folder on the way is damaged.
        """
        number = self.root
        for name in path.split(b"/"):
            if name in {b"", b"."}:
                continue
            number = self._step(number, name, path)
        return number

    def link(self, number: int, attributes: Attributes) -> bytes:
        """Return the target of a symbolic link.

        Raises:
            StreamError: it is damaged.
        """
        target = attributes.link
        if target is None:
            if attributes.size > _LONGEST_LINK:
                raise StreamError(f"a link of {attributes.size} bytes")
            target = self.read(number, 0, attributes.size)
        target = target.rstrip(b"\0")
        if not target or b"\0" in target:
            raise StreamError(f"object {number} is a link to nowhere")
        return target

    def read(self, number: int, start: int, length: int) -> bytes:
        """Return bytes of a file's object, zeros in holes; its size is not looked at.

        Raises:
            StreamError: a block is damaged or withheld.
        """
        return self._objects.read(self._must(number), start, length)

    def contents(self, number: int, size: int) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, bytes) of all that is no hole in a file of ``size`` bytes.

        Raises:
            StreamError: as ``read``.
        """
        state = self._must(number)
        for span in walk(state, size):
            yield span.start, self._objects.fill(state, span)

    def xattrs(self, attributes: Attributes) -> dict[str, bytes]:
        """Return a file's extended attributes, from either place.

        Raises:
            StreamError: they are damaged, or larger than they can be.
        """
        found = dict(attributes.xattrs)
        if not attributes.xattr_folder:
            return found
        entries = self.entries(attributes.xattr_folder)
        if len(entries) > _MOST_XATTRS:
            raise StreamError(f"{len(entries)} extended attributes of one file")
        for entry in entries:
            size = self.attributes(entry.number).size
            if size > _LARGEST_XATTR:
                raise StreamError(f"an extended attribute of {size} bytes")
            name = entry.name.decode("utf-8", "surrogateescape")
            found[name] = self.read(entry.number, 0, size)
        return found

    def _step(self, number: int, name: bytes, path: bytes) -> int:
        state = self._must(number)
        shown = path.decode("utf-8", "backslashreplace")
        if state.kind != FOLDER_KIND:
            raise UsageError(f"{self.name} has no {shown}: not a folder on the way")
        for entry in self.entries(number):
            if entry.name == name:
                return entry.number
        raise UsageError(
            f"{self.name} has no {shown}",
            hint="`standfast backup ls` lists a folder, `backup find` looks everywhere",
        )

    def _attributes(self, state: ObjectState) -> Attributes:
        if state.bonus_kind == ZNODE_BONUS:
            found = parse_znode(state.bonus, state.order)
        elif state.bonus_kind == SA_BONUS:
            found = parse_sa(state.bonus, state.spill, self._table, state.order)
        else:
            raise StreamError(f"object {state.number} is no file")
        if found.size >= FOREVER:
            raise StreamError(f"a size of {found.size} bytes cannot be")
        return found

    def _must(self, number: int) -> ObjectState:
        state = self._objects.state(number)
        if state is None:
            raise StreamError(f"object {number} is missing from the stream")
        return state

    def _zap(self, state: ObjectState) -> Iterator[ZapEntry]:
        size = state.block_size

        def block(number: int) -> bytes:
            return self._objects.read(state, number * size, size)

        blocks = -(-state.extents.end // size) if size else 0
        return zap_entries(block, size, blocks, state.order)

    def _sa_table(self, number: int) -> SaTable:
        top = {e.name: e for e in self._zap(self._must(number))}
        names: dict[int, tuple[str, int]] = {}
        layouts: dict[int, tuple[int, ...]] = {}
        if b"REGISTRY" in top:
            for entry in self._zap(self._must(top[b"REGISTRY"].number())):
                attribute, length = sa_registry_value(entry.number())
                names[attribute] = (entry.name.decode("ascii", "replace"), length)
        if b"LAYOUTS" in top:
            for entry in self._zap(self._must(top[b"LAYOUTS"].number())):
                if entry.name.isdigit() and len(entry.name) <= _LAYOUT_DIGITS:
                    layouts[int(entry.name)] = entry.value
        return SaTable(names, layouts)


def _dir_entry(entry: ZapEntry, folder: int) -> DirEntry:
    if not is_name(entry.name):
        raise StreamError(f"folder {folder} holds an impossible name: {entry.name!r}")
    value = entry.number()
    kind = value >> _MODE_SHIFT << 12
    return DirEntry(entry.name, value & _NUMBER_BITS, kind)


def is_folder(entry: DirEntry) -> bool:
    """Return whether a folder's entry says that it is a folder."""
    return stat.S_ISDIR(entry.kind)


class Volume:
    """The contents of a volume's snapshot.

    Args:
        objects: of the snapshot.

    Attributes:
        size: bytes.

    Raises:
        StreamError: it is no volume, or damaged.
        NoIdentityError: it was sent raw, and no secret opens it.
    """

    def __init__(self, objects: Objects) -> None:
        last = objects.chain[-1].part
        objects.unlock()
        disk, told = objects.state(VOLUME), objects.state(VOLUME_PROPERTIES)
        if last.kind != "volume" or disk is None or told is None:
            raise StreamError(f"{last.name} is no volume")
        self.name = last.name
        self._objects, self._disk = objects, disk
        size = told.block_size

        def block(number: int) -> bytes:
            return objects.read(told, number * size, size)

        blocks = -(-told.extents.end // size) if size else 0
        entries = zap_entries(block, size, blocks, told.order)
        sizes = [entry.number() for entry in entries if entry.name == b"size"]
        if len(sizes) != 1 or sizes[0] >= FOREVER:
            raise StreamError(f"{last.name} does not say how large it is")
        self.size = sizes[0]

    def read(self, start: int, length: int) -> bytes:
        """Return bytes, zeros in holes; the size is not looked at.

        Raises:
            StreamError: a block is damaged.
        """
        return self._objects.read(self._disk, start, length)

    def contents(self) -> Iterator[tuple[int, bytes]]:
        """Yield (offset, bytes) of all that is no hole.

        Raises:
            StreamError: a block is damaged.
        """
        for span in walk(self._disk, self.size):
            yield span.start, self._objects.fill(self._disk, span)

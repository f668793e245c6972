"""What differs between two snapshots."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.backup.browse.files import DEEPEST, mark, shown
from standfast.errors import StreamError

if TYPE_CHECKING:
    from standfast.zfs.attributes import Attributes
    from standfast.zfs.filesystem import DirEntry, FileSystem


@dataclass(frozen=True)
class Difference:
    """How a path differs between two snapshots.

    Attributes:
        kind: ``added``, ``removed``, ``changed``, ``attributes`` (contents are as
            they were) or ``renamed``.
        path: in the second snapshot; of what was removed, in the first.
        before: the earlier path of what was renamed, else empty.
    """

    kind: str
    path: bytes
    before: bytes = b""


def compare(first: FileSystem, second: FileSystem) -> list[Difference]:
    """Return what differs, sorted by path.

    Of snapshots of one dataset's history files are told by object and generation,
    and only what an increment speaks of is looked at; of others, by path, kind, size
    and time of change.

    Raises:
        StreamError: something is damaged.
    """
    return _Comparison(first, second).run()


# A path with a slash behind it, and the folder there in either tree; 0 is none.
_Pair = tuple[bytes, int, int]


def _folder_number(entry: DirEntry | None) -> int:
    return entry.number if entry is not None and stat.S_ISDIR(entry.kind) else 0


class _Guard:
    """Folders of one tree, each of which may be come upon once."""

    def __init__(self, tree: FileSystem) -> None:
        self._tree = tree
        self._seen: set[int] = set()

    def entries(self, path: bytes, number: int) -> dict[bytes, DirEntry]:
        if not number:
            return {}
        if number in self._seen or path.count(b"/") > DEEPEST:
            raise StreamError(f"{self._tree.name}: {shown(path)} is there twice")
        self._seen.add(number)
        return {entry.name: entry for entry in self._tree.entries(number)}


class _Comparison:
    def __init__(self, first: FileSystem, second: FileSystem) -> None:
        self._first, self._second = first, second
        one, two = first.objects.chain, second.objects.chain
        shared = min(len(one), len(two))
        # One of them goes on from the other: what is in between says what changed.
        self._follows = one[:shared] == two[:shared]
        # None means that anything may have changed.
        self._touched: set[int] | None = None
        if self._follows:
            later = first if len(one) > shared else second
            self._touched = later.objects.changed_in(shared)

    def run(self) -> list[Difference]:
        """Walk both trees side by side; only what differs is remembered."""
        result: list[Difference] = []
        old: dict[bytes, DirEntry] = {}
        fresh: dict[bytes, DirEntry] = {}
        pending: list[_Pair] = [(b"", self._first.root, self._second.root)]
        guards = (_Guard(self._first), _Guard(self._second))
        while pending:
            above, *numbers = pending.pop()
            one = guards[0].entries(above, numbers[0])
            two = guards[1].entries(above, numbers[1])
            for name in sorted({*one, *two}):
                before, now = one.get(name), two.get(name)
                path = above + name
                if before is None or now is None:
                    if before is not None:
                        old[path] = before
                    if now is not None:
                        fresh[path] = now
                elif kind := self._changed(before, now):
                    result.append(Difference(kind, path))
                inner = _folder_number(before), _folder_number(now)
                if any(inner):
                    pending.append((path + b"/", *inner))
        result += self._moved(old, fresh)
        result += [Difference("removed", path) for path in old]
        result += [Difference("added", path) for path in fresh]
        return sorted(result, key=lambda difference: difference.path)

    def _changed(self, old: DirEntry, new: DirEntry) -> str:
        """Return how a file at one path has changed, or an empty text."""
        if old.number == new.number:
            if self._touched is not None and new.number not in self._touched:
                return ""
            one = self._first.attributes(old.number)
            two = self._second.attributes(new.number)
            if one.generation == two.generation:
                return _how(one, two) if mark(0, one) != mark(0, two) else ""
            return "changed"
        if self._follows or old.kind != new.kind:
            return "changed"
        one = self._first.attributes(old.number)
        two = self._second.attributes(new.number)
        same = (one.mode, one.size, one.mtime) == (two.mode, two.size, two.mtime)
        return "" if same else _how(one, two)

    def _moved(
        self, old: dict[bytes, DirEntry], fresh: dict[bytes, DirEntry]
    ) -> list[Difference]:
        """Take what only changed its path out of what is gone and what is new."""
        places: dict[int, bytes] = {e.number: path for path, e in old.items()}
        found = []
        for path, entry in list(fresh.items()):
            before = places.pop(entry.number, None)
            if before is None:
                continue
            one = self._first.attributes(entry.number)
            two = self._second.attributes(entry.number)
            if (one.generation, one.kind) != (two.generation, two.kind):
                continue
            found.append(Difference("renamed", path, before))
            del old[before], fresh[path]
        return found


def _how(one: Attributes, two: Attributes) -> str:
    """Tell a change of contents from one of the attributes alone."""
    if stat.S_ISDIR(one.mode) and stat.S_ISDIR(two.mode):
        same = (one.mode, one.uid, one.gid) == (two.mode, two.uid, two.gid)
        return "changed" if same else "attributes"
    contents = (one.kind, one.size, one.mtime) == (two.kind, two.size, two.mtime)
    return "attributes" if contents else "changed"

"""What the commands that look inside archives share: opening, and showing files."""

from __future__ import annotations

import contextlib
import os
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from standfast.backup.browse.browser import Browser, Looker
from standfast.backup.browse.cache import cache_folder
from standfast.backup.browse.files import shown
from standfast.backup.secret_files import read_secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from standfast.backup.browse.catalogue import Point
    from standfast.backup.browse.files import File
    from standfast.cli.session import Session
    from standfast.zfs.attributes import Attributes

_KINDS = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "folder",
    stat.S_IFLNK: "link",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}
_SECOND = 1_000_000_000
# Years that every system's calendar has.
_FIRST, _LAST = -62_135_596_800, 253_402_300_799


@contextlib.contextmanager
def browsing(session: Session) -> Iterator[Browser]:
    """Open the command's vault for looking inside."""
    arguments = session.arguments
    vault = session.vault()
    trust = session.trust(vault)
    identity = session.identity(vault)
    secrets = [read_secret(name) for name in arguments.dataset_key]

    def working(
        title: str, size: int
    ) -> contextlib.AbstractContextManager[Callable[[int, int], None]]:
        return session.console.progress(title, size, session.clock).shown()

    looker = Looker(
        identity=identity,
        cache=cache_folder(os.environ),
        tell=session.console.note,
        working=working,
        secrets=secrets,
    )
    browser = Browser(vault, trust, looker)
    try:
        yield browser
    finally:
        browser.close()


def path_bytes(path: str) -> bytes:
    """Return a path as the file system in the archive spells it."""
    return os.fsencode(path)


def file_document(file: File) -> dict[str, Any]:
    """Return a file for JSON; bytes of names that are no text are escaped."""
    a = file.attributes
    document: dict[str, Any] = {
        "path": shown(file.path),
        "kind": _KINDS.get(a.kind, "other"),
        "mode": f"{stat.S_IMODE(a.mode):04o}",
        "uid": a.uid,
        "gid": a.gid,
        "size": a.size,
        "links": a.links,
        "mtime": time_text(a.mtime),
        "mtime_ns": a.mtime,
        "object": file.number,
    }
    if file.link:
        document["target"] = shown(file.link)
    return document


def file_row(file: File) -> list[str]:
    """Return a file as the columns of a listing."""
    a = file.attributes
    size = str(a.size)
    if a.kind in {stat.S_IFCHR, stat.S_IFBLK}:
        size = f"{os.major(a.rdev)},{os.minor(a.rdev)}"
    name = printable(file.path)
    if file.link:
        name += f" -> {printable(file.link)}"
    return [*owner_row(a), size, time_text(a.mtime)[:16], name]


def owner_row(a: Attributes) -> list[str]:
    """Return mode, links and owners."""
    return [stat.filemode(a.mode), str(a.links), str(a.uid), str(a.gid)]


def printable(path: bytes) -> str:
    """Return a path for a terminal: nothing in it steers the terminal."""
    text = shown(path)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def time_text(nanoseconds: int) -> str:
    """Return ``2026-11-24 21:05:09Z``; a time no calendar has is a number."""
    seconds = nanoseconds // _SECOND
    if not _FIRST <= seconds <= _LAST:
        return f"@{seconds}"
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def point_document(point: Point) -> dict[str, Any]:
    """Return a point for JSON."""
    return {
        "name": point.name,
        "guid": str(point.guid),
        "from_guid": str(point.from_guid),
        "kind": point.kind,
        "archive": point.archive,
        "sent": time_text(point.time * _SECOND),
    }

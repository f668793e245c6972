"""``standfast backup ls``: points in time, and the files in one of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from standfast.backup.browse.files import (
    File,
    file_at,
    file_of,
    list_folder,
    shown,
    walk,
)
from standfast.cli.browsing import (
    browsing,
    file_document,
    file_row,
    path_bytes,
    point_document,
    printable,
    time_text,
)
from standfast.console import table
from standfast.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from standfast.backup.browse.browser import Browser
    from standfast.cli.session import Session
    from standfast.zfs.filesystem import FileSystem

_SECOND = 1_000_000_000
# So many lines are aligned with each other; more would wait for the last one.
_TOGETHER = 2000


def ls(session: Session) -> int:
    """List points, or files."""
    arguments = session.arguments
    if arguments.recursive and arguments.point is None:
        raise UsageError("--recursive needs a DATASET@SNAPSHOT")
    with browsing(session) as browser:
        if arguments.point is None:
            _points(session, browser)
            return 0
        point = browser.point(arguments.point)
        if point.kind == "volume":
            _volume(session, browser, arguments.point)
            return 0
        tree = browser.tree(point)
        _files(session, tree, path_bytes(arguments.path))
    return 0


def _points(session: Session, browser: Browser) -> None:
    points = browser.catalogue.latest()
    rows = [
        [time_text(p.time * _SECOND), p.kind, "" if p.from_guid else "full", p.name]
        for p in points
    ]
    left_out = [{"archive": k, "why": why} for k, why in browser.left_out.items()]
    for one in left_out:
        session.console.note(f"archive {one['archive']} does not count: {one['why']}")
    document = {
        "points": [point_document(point) for point in points],
        "left_out": left_out,
    }
    text = table(["SENT", "KIND", "", "POINT"], rows) if rows else "no points"
    session.console.result(document, text)


def _volume(session: Session, browser: Browser, wanted: str) -> None:
    volume = browser.volume(browser.point(wanted))
    session.console.result(
        {"volume": volume.name, "size": volume.size},
        f"{volume.name} is a volume of {volume.size} bytes; "
        "`standfast backup extract` writes it to a file",
    )


def _files(session: Session, tree: FileSystem, path: bytes) -> None:
    if session.arguments.names:
        _names(session, tree, path)
        return
    found = _walk(tree, path) if session.arguments.recursive else None
    files = iter(list_folder(tree, path)) if found is None else found
    if session.console.form == "json":
        document = {"point": tree.name, "files": [file_document(f) for f in files]}
        session.console.result(document, "")
        return
    batch: list[list[str]] = []
    for file in files:
        batch.append(file_row(file))
        if len(batch) >= _TOGETHER:
            _print(session, batch)
            batch.clear()
    _print(session, batch)


def _print(session: Session, rows: list[list[str]]) -> None:
    if not rows:
        return
    last = len(rows[0]) - 1
    widths = [max(len(row[i]) for row in rows) for i in range(last)]
    right = {1, 2, 3, 4}
    for row in rows:
        cells = [
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        session.console.result_line(" ".join([*cells, row[last]]))


def _names(session: Session, tree: FileSystem, path: bytes) -> None:
    """Print names alone: no attribute of any file is looked at."""
    top = file_at(tree, path)
    if session.arguments.recursive:
        found = (where for where, _ in walk(tree, top.number, top.path))
    else:
        found = (entry.name for entry in tree.entries(top.number))
    if session.console.form == "json":
        document = {"point": tree.name, "names": [shown(name) for name in found]}
        session.console.result(document, "")
        return
    for name in found:
        session.console.result_line(printable(name))


def _walk(tree: FileSystem, path: bytes) -> Iterator[File]:
    top = file_at(tree, path)
    for where, entry in walk(tree, top.number, top.path):
        yield file_of(tree, where, entry.number)

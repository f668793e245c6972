"""``standfast backup find``: in which points a file exists, and which differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from standfast.backup.browse.files import Finder, Pattern, shown
from standfast.cli.browsing import (
    browsing,
    file_document,
    file_row,
    printable,
)
from standfast.errors import DamagedError, ExitStatus, NoIdentityError, StreamError

if TYPE_CHECKING:
    from standfast.backup.browse.browser import Browser
    from standfast.backup.browse.catalogue import Point
    from standfast.backup.browse.files import Found, Version
    from standfast.cli.session import Session


def find(session: Session) -> int:
    """Look for names in all points, or in those of one dataset or snapshot."""
    arguments = session.arguments
    finder = Finder(Pattern(arguments.pattern))
    failed: list[tuple[str, str]] = []
    with browsing(session) as browser:
        points = _points(session, browser)
        for point in points:
            try:
                finder.look(browser.tree(point))
            except (StreamError, DamagedError, NoIdentityError) as error:
                failed.append((point.name, error.message))
                session.console.note(f"{point.name} was left out: {error.message}")
    ordered = [finder.found[key] for key in sorted(finder.found)]
    document = {
        "files": [_document(one) for one in ordered],
        "points": [point.name for point in points],
        "left_out": [{"point": name, "why": why} for name, why in failed],
    }
    session.console.result(document, "\n".join(_lines(ordered, points)))
    if failed:
        return ExitStatus.PARTLY_DONE
    return ExitStatus.DONE if ordered else ExitStatus.FAILED


def _points(session: Session, browser: Browser) -> list[Point]:
    wanted = session.arguments.within
    points = [p for p in browser.catalogue.latest() if p.kind == "filesystem"]
    if wanted is None:
        return points
    if "@" in wanted:
        return [browser.point(wanted)]
    return [
        p for p in points if p.dataset == wanted or p.dataset.startswith(f"{wanted}/")
    ]


def _document(one: Found) -> dict[str, Any]:
    return {
        "dataset": one.dataset,
        "path": shown(one.path),
        "versions": [
            {**file_document(version.file), "points": version.points}
            for version in one.versions
        ],
    }


def _lines(ordered: list[Found], points: list[Point]) -> list[str]:
    lines: list[str] = []
    for one in ordered:
        lines.append(f"{one.dataset}: {printable(one.path)}")
        own = [p.name for p in points if p.dataset == one.dataset]
        for version in one.versions:
            row = file_row(version.file)
            facts = " ".join([row[0], *row[2:-1]])
            lines.append(f"  {facts}  {_where(version, own)}")
    return lines or ["nothing of that name"]


def _where(version: Version, own: list[str]) -> str:
    """Name the points that have a version, runs of them by first and last."""
    names = [name.partition("@")[2] for name in version.points]
    places = [own.index(name) for name in version.points]
    parts: list[str] = []
    start = 0
    for index in range(1, len(places) + 1):
        if index < len(places) and places[index] == places[index - 1] + 1:
            continue
        last = index - 1
        few = last - start < 2  # noqa: PLR2004 - two are named, more are a run
        run = names[start:index] if few else [f"{names[start]} ... {names[last]}"]
        parts += run
        start = index
    return ", ".join(f"@{part}" for part in parts)

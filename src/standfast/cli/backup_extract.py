"""``standfast backup extract``: files, trees and volumes, without a pool."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from standfast.backup.browse.extract import Extraction, Wishes
from standfast.backup.browse.files import shown
from standfast.backup.browse.image import write_volume
from standfast.backup.browse.place import Place
from standfast.cli.browsing import browsing, path_bytes, printable
from standfast.errors import ExitStatus, UsageError
from standfast.units import duration_text, size_text

if TYPE_CHECKING:
    from standfast.backup.browse.browser import Browser
    from standfast.backup.browse.catalogue import Point
    from standfast.backup.browse.extract import Extracted
    from standfast.cli.session import Session

# Not to bury the outcome; JSON has all of them.
_SHOWN = 20


def extract(session: Session) -> int:
    """Take files out of a point into a folder."""
    arguments = session.arguments
    with browsing(session) as browser:
        point = browser.point(arguments.point)
        if point.kind == "volume":
            return _volume(session, browser, point)
        return _files(session, browser, point)


def _files(session: Session, browser: Browser, point: Point) -> int:
    arguments = session.arguments
    owners = os.geteuid() == 0 and not arguments.no_owners
    wishes = Wishes(devices=arguments.devices, owners=owners)
    progress = session.console.progress(f"extracting {point.name}", 0, session.clock)
    place = Place(Path(arguments.to), owners=owners)
    try:
        # An index may have to be made first, which shows itself.
        extraction = Extraction(browser, point, place, wishes, progress.add)
        with progress.shown():
            result = extraction.run([path_bytes(path) for path in arguments.paths])
    finally:
        place.close()
    _report(session, point, result, progress.seconds(), browser.plaintext.opened)
    if result.damaged:
        return ExitStatus.DAMAGED
    left = result.left_out or result.missed
    return ExitStatus.PARTLY_DONE if left else ExitStatus.DONE


def _report(
    session: Session,
    point: Point,
    result: Extracted,
    seconds: float,
    opened: tuple[int, int],
) -> None:
    document: dict[str, Any] = {
        "point": point.name,
        "to": session.arguments.to,
        "made": result.counts,
        "bytes": result.written,
        "left_out": [
            {"path": shown(path), "why": why} for path, why in result.left_out
        ],
        "missed": [{"path": shown(path), "what": what} for path, what in result.missed],
        "segments_read": opened[0],
        "stored_bytes_read": opened[1],
        "seconds": round(seconds, 3),
    }
    told = [f"{printable(path)} was left out: {why}" for path, why in result.left_out]
    told += [
        f"{printable(path)}: the system did not take its {what}"
        for path, what in result.missed
    ]
    for line in told[:_SHOWN]:
        session.console.note(line)
    if len(told) > _SHOWN:
        session.console.note(f"and {len(told) - _SHOWN} more; --json lists them")
    made = ", ".join(f"{count} {what}" for what, count in sorted(result.counts.items()))
    session.console.result(
        document,
        f"extracted {point.name} to {session.arguments.to}: {made or 'nothing'}; "
        f"{size_text(result.written)} in {duration_text(seconds)}",
    )


def _volume(session: Session, browser: Browser, point: Point) -> int:
    arguments = session.arguments
    if arguments.paths:
        raise UsageError(
            f"{point.name} is a volume and has no files",
            hint="--to FILE takes all of it out as an image",
        )
    volume = browser.volume(point)
    title = f"extracting {point.name}"
    progress = session.console.progress(title, volume.size, session.clock)
    with progress.shown() as add:
        written = write_volume(volume, Path(arguments.to), add)
    session.console.result(
        {
            "point": point.name,
            "to": arguments.to,
            "size": volume.size,
            "bytes": written,
            "seconds": round(progress.seconds(), 3),
        },
        f"extracted {point.name} to {arguments.to}: {size_text(volume.size)}, of "
        f"which {size_text(written)} are no holes",
    )
    return ExitStatus.DONE

"""``backup mount``: every snapshot of a vault as a folder."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from standfast.backup.browse.mount import check_mount_point, load_libfuse, mount
from standfast.backup.browse.view import View
from standfast.cli.browsing import browsing

if TYPE_CHECKING:
    from standfast.cli.session import Session


def mount_vault(session: Session) -> int:
    """Mount, and stay until it is unmounted or a signal comes."""
    folder: str = session.arguments.folder
    check_mount_point(folder)
    load_libfuse()
    with browsing(session) as browser:
        points = browser.catalogue.latest()
        document = {"mounted": folder, "snapshots": len(points)}
        text = (
            f"{len(points)} snapshots are below {folder} until it is unmounted; "
            "Ctrl-C unmounts it"
        )
        # libfuse ends in good order where nobody else listens to these.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        mount(
            View(points, browser),
            folder,
            session.console.note,
            lambda: session.console.result(document, text),
        )
    return 0

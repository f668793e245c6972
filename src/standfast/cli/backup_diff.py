"""``standfast backup diff``: what changed between two points."""

from __future__ import annotations

from typing import TYPE_CHECKING

from standfast.backup.browse.compare import compare
from standfast.backup.browse.files import shown
from standfast.cli.browsing import browsing, printable

if TYPE_CHECKING:
    from standfast.backup.browse.compare import Difference
    from standfast.cli.session import Session

_SIGNS = {
    "added": "+",
    "removed": "-",
    "changed": "M",
    "attributes": "a",
    "renamed": "R",
}


def diff(session: Session) -> int:
    """Print what differs."""
    arguments = session.arguments
    with browsing(session) as browser:
        first = browser.tree(browser.point(arguments.first))
        second = browser.tree(browser.point(arguments.second))
        found = compare(first, second)
    document = {
        "first": first.name,
        "second": second.name,
        "differences": [
            {"kind": d.kind, "path": shown(d.path)}
            | ({"before": shown(d.before)} if d.before else {})
            for d in found
        ],
    }
    session.console.result(document, "\n".join(map(_line, found)))
    return 0


def _line(difference: Difference) -> str:
    path = printable(difference.path)
    if difference.before:
        path = f"{printable(difference.before)} -> {path}"
    return f"{_SIGNS[difference.kind]} {path}"

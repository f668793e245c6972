"""``standfast backup cat``: one file to standard output."""

from __future__ import annotations

import stat
import sys
from typing import TYPE_CHECKING

from standfast.backup.browse.files import file_at, shown
from standfast.backup.restore import PipeSink
from standfast.cli.browsing import browsing, path_bytes
from standfast.errors import UsageError

if TYPE_CHECKING:
    from standfast.cli.session import Session

_ZEROS = bytes(1 << 20)


def cat(session: Session) -> int:
    """Write a file's contents to standard output."""
    arguments = session.arguments
    if arguments.json:
        raise UsageError("cat writes a file to standard output: --json has no place")
    with browsing(session) as browser:
        tree = browser.tree(browser.point(arguments.point))
        file = file_at(tree, path_bytes(arguments.path))
        if not stat.S_ISREG(file.attributes.mode):
            raise UsageError(
                f"{shown(file.path) or '/'} is no regular file",
                hint="`standfast backup extract` takes out folders and all else",
            )
        sink = PipeSink(sys.stdout.fileno())
        place = 0
        for offset, data in tree.contents(file.number, file.attributes.size):
            _skip(sink, offset - place)
            sink.write(memoryview(data))
            place = offset + len(data)
        _skip(sink, file.attributes.size - place)
    return 0


def _skip(sink: PipeSink, count: int) -> None:
    """Write a hole."""
    while count > 0:
        sink.write(memoryview(_ZEROS)[:count])
        count -= len(_ZEROS)

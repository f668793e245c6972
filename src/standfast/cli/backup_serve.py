"""``standfast backup serve``: the forced command of a sender's key."""

from __future__ import annotations

import os
import signal
import sys
import syslog
from pathlib import Path
from typing import TYPE_CHECKING

from standfast.backup.folders import state_folder
from standfast.backup.serving import Rules, Serving
from standfast.clock import SystemClock, utc_text
from standfast.errors import StandfastError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable


def serve(arguments: argparse.Namespace) -> int:
    """Do what ``SSH_ORIGINAL_COMMAND`` asks, if it may be done."""
    # A sender that hangs up is no reason to stop between a file and its name.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    rules = Rules(
        folder=Path(arguments.append_only),
        sender=arguments.sender,
        allow_read=arguments.allow_read,
        notes=state_folder(os.environ) / "serving",
    )
    tell = _log(arguments.log, os.environ.get("SSH_CONNECTION", "nowhere"))
    serving = Serving(rules, sys.stdin.buffer, sys.stdout.buffer, tell)
    try:
        status, complaint = serving.answer(os.environ.get("SSH_ORIGINAL_COMMAND", ""))
    except BrokenPipeError:
        return 1
    if complaint:
        sys.stderr.write(f"standfast serve: {complaint}\n")
    return status


def _log(path: str | None, connection: str) -> Callable[[str], None]:
    """Return what writes a line to a file, or to syslog."""
    where = connection.split(" ", maxsplit=1)[0]

    def to_file(text: str) -> None:
        assert path is not None
        line = f"{utc_text(SystemClock().now())} from {where}: {text}\n"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            os.write(fd, line.encode(errors="backslashreplace"))
        finally:
            os.close(fd)

    def to_syslog(text: str) -> None:
        syslog.openlog("standfast-serve", 0, syslog.LOG_AUTH)
        syslog.syslog(syslog.LOG_WARNING, f"from {where}: {text}")

    if path is None:
        return to_syslog

    def to_file_or_fail(text: str) -> None:
        try:
            to_file(text)
        except OSError as error:
            raise StandfastError(f"cannot write {path}: {error.strerror}") from None

    return to_file_or_fail

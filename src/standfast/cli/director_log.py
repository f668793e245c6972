"""Where the daemon's sentences go: standard error, the journal, or syslog."""

from __future__ import annotations

import logging
import logging.handlers
import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from standfast.errors import UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

# Linux, FreeBSD.
PLACES = ("/dev/log", "/var/run/log")
PORT = 514  # RFC 5426


def log_to(arguments: argparse.Namespace) -> None:
    """Send what the package logs where the flags and the supervisor say.

    Raises:
        UsageError: syslog is wanted, and there is none.
    """
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    form = "%(asctime)s %(levelname)s %(message)s"
    if arguments.syslog is not None:
        handler = _syslog(arguments.syslog)
        form = "standfast-director: %(message)s"
    elif in_journal(os.environ, sys.stderr.fileno()):
        form = "%(message)s"
        handler.addFilter(_journal)
    handler.setFormatter(logging.Formatter(form))
    root = logging.getLogger("standfast")
    root.addHandler(handler)
    # A log that is away for a moment is no reason for a traceback each sentence.
    logging.raiseExceptions = False
    root.setLevel(logging.WARNING if arguments.quiet else logging.INFO)


def in_journal(environment: Mapping[str, str], fd: int) -> bool:
    """Return whether a descriptor leads to the journal.

    JOURNAL_STREAM names its device and inode (systemd.exec(5)); children inherit the
    variable even where their standard error leads elsewhere.
    """
    found = os.fstat(fd)
    return environment.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}"


def _journal(row: logging.LogRecord) -> bool:
    """Open a line with <N>, by which the journal knows its weight (sd-daemon(3))."""
    weight = 3 if row.levelno >= logging.ERROR else 4
    row.msg = f"<{6 if row.levelno <= logging.INFO else weight}>{row.msg}"
    return True


def _syslog(place: str) -> logging.Handler:
    daemon = logging.handlers.SysLogHandler.LOG_DAEMON
    address: str | tuple[str, int] = place or _local()
    if place and not place.startswith("/"):
        host, _, port = place.rpartition(":")
        if not port.isdigit():
            host, port = place, str(PORT)
        address = (host.strip("[]"), int(port))
    try:
        if isinstance(address, str):
            # The handler itself would wait for a syslogd to come, and say nothing.
            Path(address).stat()
        handler = logging.handlers.SysLogHandler(address, facility=daemon)
    except OSError as error:
        raise UsageError(
            f"no syslog at {place or address}: {error.strerror or error}",
            hint="write --syslog, --syslog /path/of/socket or --syslog HOST:PORT",
        ) from None
    # RFC 3164 knows no end mark; the NUL that Python adds shows up as #000.
    handler.append_nul = False
    return handler


def _local() -> str:
    for place in PLACES:
        try:
            if stat.S_ISSOCK(Path(place).stat().st_mode):
                return place
        except OSError:
            continue
    raise UsageError(
        f"no syslog listens here: neither {' nor '.join(PLACES)} is a socket",
        hint="leave --syslog out, or write --syslog HOST:PORT",
    )

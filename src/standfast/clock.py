"""The only reader of time. Everything else is handed a Clock."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime
from typing import Protocol

from standfast.errors import InterruptError


class Clock(Protocol):
    """What the package needs to know of time, all in seconds."""

    def now(self) -> float:
        """Return seconds since the Unix epoch."""
        ...

    def monotonic(self) -> float:
        """Return seconds of a clock that is never set back."""
        ...

    def sleep(self, seconds: float) -> None:
        """Return after that many seconds."""
        ...


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> float:
        """Return seconds since the Unix epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Return seconds of a clock that is never set back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Return after that many seconds."""
        time.sleep(seconds)


class StoppableClock(SystemClock):
    """A system clock whose sleepers, in whatever thread, can all be woken."""

    def __init__(self) -> None:
        self._stopped = threading.Event()

    def sleep(self, seconds: float) -> None:
        """Return after that many seconds.

        Raises:
            InterruptError: ``stop`` was called, now or before.
        """
        if self._stopped.wait(seconds):
            raise InterruptError("interrupted")

    def stop(self) -> None:
        """Wake every sleeper, and refuse all further sleep."""
        self._stopped.set()


def utc_text(seconds: float) -> str:
    """Return a Unix time as ``2026-11-22 14:05:09Z``.

    Out-of-range values, which a stranger's file may carry, give ``?``.
    """
    try:
        return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "?"


def local_time(seconds: float) -> datetime:
    """Return a Unix time as this machine's wall clock shows it, without a zone."""
    return utc_time(seconds).astimezone().replace(tzinfo=None)


def utc_time(seconds: float) -> datetime:
    """Return a Unix time in UTC."""
    return datetime.fromtimestamp(seconds, UTC)

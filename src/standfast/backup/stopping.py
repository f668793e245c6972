"""Stopping all threads of a long job at once, sleeping ones included."""

from __future__ import annotations

import threading

from standfast.clock import SystemClock
from standfast.errors import InterruptError


class StoppableClock(SystemClock):
    """A system clock whose sleepers can all be woken with an error."""

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

"""A bandwidth limit that several threads share."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from standfast.clock import Clock

# At most this much may go out at once after an idle time, in seconds of the rate.
BURST_SECONDS = 0.25


class Pace(Protocol):
    """Something that holds a sender back."""

    def take(self, count: int) -> None:
        """Return when ``count`` more bytes may be sent."""
        ...


class Unlimited:
    """No limit."""

    def take(self, count: int) -> None:
        """Return at once."""


class Scheduled:
    """A limit that may change with the time, over all callers together.

    Args:
        rate: returns the bytes a second that hold now; None is without limit.
        clock: the time.
    """

    def __init__(self, rate: Callable[[], int | None], clock: Clock) -> None:
        self._rate = rate
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at = clock.monotonic()

    def take(self, count: int) -> None:
        """Return when ``count`` more bytes may be sent.

        Each caller books its bytes on one time line and sleeps until its booking
        starts, so the sum over all threads keeps the rate.
        """
        with self._lock:
            now = self._clock.monotonic()
            rate = self._rate()
            if rate is None:
                self._free_at = now
                return
            start = max(self._free_at, now - BURST_SECONDS)
            self._free_at = start + count / rate
        if start > now:
            self._clock.sleep(start - now)


class Limited(Scheduled):
    """At most ``rate`` bytes a second over all callers together."""

    def __init__(self, rate: int, clock: Clock) -> None:
        super().__init__(lambda: rate, clock)

"""Telling a new advert from one heard before. Pure; wall time is an argument.

Senders of ours put an always growing number, made from wall time, under their
authentication: accepted is what is greater than the last of that sender. The first
one heard of a sender has nothing to compare with, so it must lie near our own wall
time; without that, a recording could be played to a director that just started.
Other senders' numbers are random: there only an exact repeat can be told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from standfast.director.election.model import IPAddress

# Directors' clocks may differ by this much, in seconds; NTP keeps them far closer.
CLOCK_TOLERANCE = 300.0
# So many foreign counters are remembered; a lone CARP master sends one a second.
REMEMBERED = 4096


class GrowingNumbers:
    """The last number of every sender of ours, and our own.

    Args:
        per_second: how many numbers a second has.
    """

    def __init__(self, per_second: int) -> None:
        self._per_second = per_second
        self._newest: dict[IPAddress, int] = {}
        self._own = 0

    def own(self, wall: float) -> int:
        """Return a number for an advert sent at ``wall`` (seconds since 1970)."""
        self._own = max(self._own + 1, int(wall * self._per_second))
        return self._own

    def complaint(self, source: IPAddress, number: int, wall: float) -> str:
        """Return why an authentic number is not fresh, or an empty string."""
        newest = self._newest.get(source)
        if newest is not None and number <= newest:
            return "it was heard before, or is older than one heard before"
        apart = number / self._per_second - wall
        if newest is None and abs(apart) > CLOCK_TOLERANCE:
            return f"its time differs from ours by {apart:.0f} s; are both clocks set?"
        return ""

    def accept(self, source: IPAddress, number: int) -> None:
        """Remember the number of an advert that was believed."""
        self._newest[source] = number


class SeenCounters:
    """Counters of other implementations, remembered to know an exact repeat."""

    def __init__(self) -> None:
        self._seen: dict[int, None] = {}

    def add(self, counter: int) -> bool:
        """Remember a counter; return whether it is new."""
        if counter in self._seen:
            return False
        if len(self._seen) >= REMEMBERED:
            del self._seen[next(iter(self._seen))]
        self._seen[counter] = None
        return True

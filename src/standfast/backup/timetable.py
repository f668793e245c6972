"""How fast transfers may be at which time of the day. Pure.

``5M``, ``unlimited``, or a list of spans that are tried in order::

    08:00-18:00 = 1M, else unlimited
    mon-fri 08:00-18:00 = 1M, sat-sun 10:00-12:00 = 5M, 22:00-06:00 = unlimited, else 2M

Times are local. A span over midnight belongs to the day on which it begins. Without
``else`` the rest is unlimited.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.errors import UsageError
from standfast.units import parse_rate

if TYPE_CHECKING:
    from datetime import datetime

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
DAY_MINUTES = 24 * 60
_WHEN = re.compile(
    r"(?:([a-z]{3})(?:-([a-z]{3}))?\s+)?(\d{1,2}:\d\d)\s*-\s*(\d{1,2}:\d\d)"
)
_HINT = "write it like `08:00-18:00 = 1M, else unlimited`"


@dataclass(frozen=True)
class Span:
    """Part of some days.

    Attributes:
        days: 0 is Monday.
        start: minutes after midnight.
        end: minutes after midnight; not after ``start`` if it is on the next day.
        rate: bytes a second, None without limit.
    """

    days: frozenset[int]
    start: int
    end: int
    rate: int | None

    def holds(self, moment: datetime) -> bool:
        """Return whether a local time lies in it."""
        minute = moment.hour * 60 + moment.minute
        today = moment.weekday()
        if self.start < self.end:
            return today in self.days and self.start <= minute < self.end
        if minute >= self.start:
            return today in self.days
        return minute < self.end and (today - 1) % 7 in self.days


@dataclass(frozen=True)
class Timetable:
    """Spans, tried in order, and what holds at all other times."""

    spans: tuple[Span, ...] = ()
    rest: int | None = None

    def rate_at(self, moment: datetime) -> int | None:
        """Return bytes a second at a local time; None is without limit."""
        for span in self.spans:
            if span.holds(moment):
                return span.rate
        return self.rest


def parse_timetable(text: str) -> Timetable:
    """Return the timetable that a text describes; an empty one sets no limit.

    Raises:
        UsageError: it is none.
    """
    spans: list[Span] = []
    entries = [entry.strip() for entry in text.lower().split(",") if entry.strip()]
    rest: int | None = None
    for number, entry in enumerate(entries, 1):
        if "=" in entry:
            spans.append(_span(entry))
            continue
        if number != len(entries):
            raise UsageError(f"not a span of time: {entry}", hint=_HINT)
        rest = _rate(entry.removeprefix("else "))
    return Timetable(tuple(spans), rest)


def parse_minutes(text: str) -> int:
    """Return minutes after midnight for ``02:30``; 24:00 is the day's end.

    Raises:
        UsageError: it is no time of the day.
    """
    hours, colon, minutes = text.partition(":")
    if not (colon and hours.isdecimal() and minutes.isdecimal() and len(minutes) == 2):  # noqa: PLR2004
        raise UsageError(f"not a time of the day: {text}", hint="write it like 02:30")
    total = int(hours) * 60 + int(minutes)
    if int(minutes) >= 60 or total > DAY_MINUTES:  # noqa: PLR2004
        raise UsageError(f"not a time of the day: {text}", hint="write it like 02:30")
    return total


def _span(entry: str) -> Span:
    when, _, rate = (part.strip() for part in entry.partition("="))
    match = _WHEN.fullmatch(when)
    if match is None:
        raise UsageError(f"not a span of time: {when}", hint=_HINT)
    first, last, start, end = match.groups()
    days = _days(first, last) if first else frozenset(range(7))
    return Span(days, parse_minutes(start), parse_minutes(end), _rate(rate))


def _days(first: str, last: str | None) -> frozenset[int]:
    for day in (first, last or first):
        if day not in DAYS:
            raise UsageError(f"not a day: {day}", hint=f"one of: {', '.join(DAYS)}")
    start, end = DAYS.index(first), DAYS.index(last or first)
    return frozenset((start + i) % 7 for i in range((end - start) % 7 + 1))


def _rate(text: str) -> int | None:
    return None if text.strip() == "unlimited" else parse_rate(text)

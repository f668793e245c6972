"""When a job is due, and what its snapshots are called. Pure.

Due is a matter of periods, not of the time since the last run: a period begins every
``every``, counted from ``at`` o'clock (weeks from Monday), and a job is due if it has
not succeeded in the one that we are in. So a timer that comes a little earlier or
later each night skips none, and a machine that was off at that hour catches up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from standfast.errors import UsageError
from standfast.zfs.names import split_snapshot

DAY = 86_400
MINUTE = 60
_CODES = {"Y": 4, "m": 2, "d": 2, "H": 2, "M": 2, "S": 2}
_NEEDED = "Ymd"


@dataclass(frozen=True)
class Schedule:
    """How often, and counted from when.

    Attributes:
        every: seconds of a period; 0 is always due.
        at: minutes after local midnight at which periods begin.
    """

    every: int
    at: int = 0


def check_schedule(schedule: Schedule) -> Schedule:
    """Return a schedule whose periods can be told.

    Raises:
        UsageError: its periods neither divide a day nor are whole days.
    """
    every = schedule.every
    if every == 0:
        return schedule
    if every < MINUTE or (DAY % every if every < DAY else every % DAY):
        raise UsageError(
            "a period must divide a day, or be whole days",
            hint="write it like 15m, 1h, 6h, 1d or 7d",
        )
    return schedule


def period_start(schedule: Schedule, now: datetime) -> datetime:
    """Return when the period began in which a local time lies."""
    offset = timedelta(minutes=schedule.at)
    moment = now - offset
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if schedule.every >= DAY:
        days = schedule.every // DAY
        # Day 1 of the calendar was a Monday: weeks begin on one.
        return midnight - timedelta(days=(midnight.toordinal() - 1) % days) + offset
    passed = int((moment - midnight).total_seconds())
    return midnight + timedelta(seconds=passed - passed % schedule.every) + offset


@dataclass(frozen=True)
class Due:
    """Whether to run, and why."""

    due: bool
    why: str


def judge_due(schedule: Schedule, last: datetime | None, now: datetime) -> Due:
    """Return whether a job is due.

    Args:
        schedule: when it should run.
        last: local time of its last success, None if there was none.
        now: the local time.
    """
    if schedule.every == 0:
        return Due(True, "it runs each time")
    if last is None:
        return Due(True, "it has never succeeded")
    start = period_start(schedule, now)
    if last > now:
        return Due(True, f"its last success lies in the future: {last:%Y-%m-%d %H:%M}")
    if last < start:
        return Due(True, f"no success since {start:%Y-%m-%d %H:%M}")
    following = period_start(schedule, start + timedelta(seconds=schedule.every))
    return Due(False, f"done {last:%Y-%m-%d %H:%M}, next {following:%Y-%m-%d %H:%M}")


@dataclass(frozen=True)
class Naming:
    """How a job calls its snapshots, and how it knows them again.

    Attributes:
        pattern: a snapshot name with ``%Y %m %d %H %M %S``, in UTC.
    """

    pattern: str

    def name(self, now: datetime) -> str:
        """Return the name of a snapshot made at a time in UTC."""
        return now.strftime(self.pattern)

    def time(self, name: str) -> datetime | None:
        """Return the time (UTC, without a zone) in a name; None if it is not ours."""
        match = _reading(self.pattern).fullmatch(name)
        if match is None:
            return None
        found = {key: int(value) for key, value in match.groupdict().items()}
        values = (found[c] for c in "Ymd")
        try:
            return datetime(*values, *(found.get(c, 0) for c in "HMS"))  # type: ignore[arg-type] # noqa: DTZ001
        except ValueError:
            return None


def check_naming(pattern: str) -> Naming:
    """Return how a job's snapshots are called.

    Raises:
        UsageError: the pattern makes no snapshot name, or no date can be read from it.
    """
    codes = re.findall(r"%(.?)", pattern)
    for code in codes:
        if code not in _CODES:
            raise UsageError(
                f"not a code: %{code}", hint="%Y %m %d %H %M %S stand for the time"
            )
    missing = [f"%{code}" for code in _NEEDED if code not in codes]
    if missing:
        raise UsageError(f"the date is not whole: {' '.join(missing)} is missing")
    if len(codes) != len(set(codes)):
        raise UsageError("a code stands twice in it")
    split_snapshot("pool@" + re.sub(r"%.", "0", pattern))
    return Naming(pattern)


def _reading(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"%(.)", pattern)
    text = re.escape(parts[0])
    for code, rest in zip(parts[1::2], parts[2::2], strict=True):
        text += rf"(?P<{code}>\d{{{_CODES[code]}}})" + re.escape(rest)
    return re.compile(text)

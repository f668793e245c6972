"""Which archives a policy keeps, and why. Pure: facts in, decisions out.

The rules are made so that whoever owns a sender, and signs what he likes from some
moment on, drives out nothing that was recorded before that moment faster than the
calendar does. For that:

* A point's time and order are the pruner's (``memory``), never the signer's word.
* A point competes only within its own line: one dataset of one signer.
* Of each hour, day, week, month or year the *first* point is kept. Whatever comes
  later cannot be first.
* Rules count periods that hold a point, never points; a thousand archives of one day
  count as one day.
* What is younger than ``min_age`` is kept, and so is every ancestor of what is kept.

``DESIGN.md``, "What prune may drop", has the law and its proof.
"""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

HOUR = 3600
DAY = 24 * HOUR
DEFAULT_MINIMUM = 1
DEFAULT_MIN_AGE = float(DAY)
# 1970-01-01 was a Thursday; weeks begin on Mondays, as in ISO 8601.
_THURSDAY = 3


@dataclass(frozen=True)
class Policy:
    """What to keep of each line; a rule of 0 keeps nothing by itself.

    Attributes:
        last: all points of the newest so many days that hold one.
        hourly, daily, weekly, monthly, yearly: the first point of each of the newest
            so many periods that hold one, in UTC.
        within: seconds; every point that was recorded so short ago.
        minimum: the first points of at least so many days, whatever the rules say;
            1 or more.
        min_age: seconds; nothing is dropped that was recorded so short ago.
    """

    last: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    within: float = 0.0
    minimum: int = DEFAULT_MINIMUM
    min_age: float = DEFAULT_MIN_AGE

    def keeps_nothing(self) -> bool:
        """Return whether no rule was given, so that only the floors would hold."""
        counts = (self.last, self.hourly, self.daily, self.weekly, self.monthly)
        return not any((*counts, self.yearly, self.within))


@dataclass(frozen=True)
class Point:
    """One whole archive, as the pruner has recorded it.

    Attributes:
        id: the archive's id.
        line: what it competes with; None where nobody can tell.
        base: the archive that it is an increment on; None for a full one.
        time: Unix seconds by the pruner; None if it is not known when it came.
        order: counts up in the order of recording; no two are equal.
    """

    id: str
    line: str | None
    base: str | None
    time: int | None
    order: int


@dataclass
class Decision:
    """What becomes of one archive.

    Attributes:
        archive: its id.
        keep: whether it stays.
        reasons: why, at least one.
    """

    archive: str
    keep: bool
    reasons: list[str] = field(default_factory=list)


Reasons: TypeAlias = "dict[str, list[str]]"


def hour_of(time: int) -> int:
    """Return the number of the hour that a Unix time lies in."""
    return time // HOUR


def day_of(time: int) -> int:
    """Return the number of the UTC day."""
    return time // DAY


def week_of(time: int) -> int:
    """Return the number of the week; weeks begin on Mondays."""
    return (day_of(time) + _THURSDAY) // 7


def month_of(time: int) -> int:
    """Return the number of the month, counted from year 0."""
    date = dt.datetime.fromtimestamp(time, dt.UTC)
    return 12 * date.year + date.month - 1


def year_of(time: int) -> int:
    """Return the year."""
    return dt.datetime.fromtimestamp(time, dt.UTC).year


PERIODS: dict[str, Callable[[int], int]] = {
    "hourly": hour_of,
    "daily": day_of,
    "weekly": week_of,
    "monthly": month_of,
    "yearly": year_of,
}


def plan_retention(
    points: Sequence[Point], policy: Policy, now: int
) -> dict[str, Decision]:
    """Decide about every archive; the result is in the order of ``points``.

    Args:
        points: all archives that are whole.
        policy: what to keep.
        now: Unix seconds by the pruner's clock.
    """
    chains = _Chains(points)
    reasons: Reasons = {}
    lines: dict[str, list[Point]] = {}
    for point in points:
        why = _not_judged(point, chains)
        if why:
            reasons[point.id] = [why]
        else:
            assert point.line is not None
            lines.setdefault(point.line, []).append(point)
    for line in lines.values():
        line.sort(key=_age)
        _keep_in_line(line, policy, now, reasons)
    _keep_ancestors(points, chains, reasons)
    return {
        p.id: Decision(p.id, p.id in reasons, reasons.get(p.id, ["no rule keeps it"]))
        for p in points
    }


def removal_order(dropped: Iterable[str], points: Sequence[Point]) -> list[str]:
    """Return archives so that none comes after one that it is an increment on.

    A removal that is cut short then leaves no increment without its base. Archives
    that lack one themselves come first.
    """
    chains = _Chains(points)
    order = {point.id: point.order for point in points}

    def key(archive: str) -> tuple[int, int]:
        depth = chains.depth(archive)
        return -(len(points) if depth is None else depth), -order[archive]

    return sorted(dropped, key=key)


def dependants(wanted: Iterable[str], points: Sequence[Point]) -> set[str]:
    """Return the archives that are increments on others, near or far."""
    needing: dict[str, list[str]] = {}
    for point in points:
        if point.base is not None:
            needing.setdefault(point.base, []).append(point.id)
    found: set[str] = set()
    left = list(wanted)
    while left:
        for name in needing.get(left.pop(), []):
            if name not in found:
                found.add(name)
                left.append(name)
    return found


class _Chains:
    """Who is an increment on whom; cycles and gaps, which a liar may sign, included."""

    def __init__(self, points: Iterable[Point]) -> None:
        self._by_id = {point.id: point for point in points}
        self._depth: dict[str, int | None] = {}

    def base(self, archive: str) -> str | None:
        """Return the archive that one is an increment on, if that is there."""
        base = self._by_id[archive].base
        return base if base in self._by_id else None

    def depth(self, archive: str) -> int | None:
        """Return how many archives one needs; None if they are not all there.

        Archives that need each other in a circle need something that never was.
        """
        path: list[str] = []
        name: str | None = archive
        while name in self._by_id and name not in self._depth:
            self._depth[name] = None
            path.append(name)
            name = self._by_id[name].base
        depth = -1 if name is None else self._depth.get(name)
        for name in reversed(path):
            depth = depth + 1 if depth is not None else None
            self._depth[name] = depth
        return self._depth[archive]

    def whole(self, archive: str) -> bool:
        """Return whether the way down to a full archive is all there."""
        return self.depth(archive) is not None


def _age(point: Point) -> tuple[int, int]:
    assert point.time is not None
    return point.time, point.order


def _not_judged(point: Point, chains: _Chains) -> str:
    """Return why a point is kept without a rule, or nothing."""
    if point.line is None:
        return "cannot tell which dataset it is of"
    if point.time is None:
        return "it is not known when it came"
    if not chains.whole(point.id):
        return "an archive that it needs is not there"
    return ""


def _keep_in_line(
    line: Sequence[Point], policy: Policy, now: int, reasons: Reasons
) -> None:
    """Note why points of one line are kept; ``line`` is sorted, oldest first."""
    for point, why in _by_rules(line, policy, now):
        reasons.setdefault(point.id, []).append(why)
    reasons.setdefault(line[-1].id, ["the newest of its dataset"])
    for point in _firsts(line, day_of, policy.minimum):
        reasons.setdefault(point.id, [f"minimum {policy.minimum}"])


def _by_rules(
    line: Sequence[Point], policy: Policy, now: int
) -> Iterator[tuple[Point, str]]:
    for name, period in PERIODS.items():
        firsts = _firsts(line, period, getattr(policy, name))
        yield from ((point, f"{name} {n}") for n, point in enumerate(firsts, 1))
    days = sorted({day_of(_age(point)[0]) for point in line})
    newest = set(days[-policy.last :]) if policy.last else set()
    for point in line:
        seconds = now - _age(point)[0]
        if day_of(_age(point)[0]) in newest:
            yield point, "last"
        if policy.within and seconds <= policy.within:
            yield point, "within"
        if seconds < policy.min_age:
            yield point, "younger than the minimum age"


def _firsts(
    line: Sequence[Point], period: Callable[[int], int], count: int
) -> list[Point]:
    """Return the first point of each of the newest ``count`` periods, newest first."""
    first: dict[int, Point] = {}
    for point in line:
        first.setdefault(period(_age(point)[0]), point)
    newest = sorted(first, reverse=True)[:count]
    return [first[number] for number in newest]


def _keep_ancestors(points: Sequence[Point], chains: _Chains, reasons: Reasons) -> None:
    visited: set[str] = set()
    for point in points:
        name: str | None = point.id if point.id in reasons else None
        while name is not None and name not in visited:
            visited.add(name)
            base = chains.base(name)
            if base is not None and base not in reasons:
                reasons[base] = [f"{name[:8]} is an increment on it"]
            name = base

"""What a retention policy keeps, beside a slow model, and against an attacker."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.backup.retention import (
    DAY,
    PERIODS,
    Point,
    Policy,
    dependants,
    plan_retention,
    removal_order,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

T0 = 1_700_000_000
NOTHING = Policy(min_age=0)


def days(count: int, line: str = "a", start: int = T0) -> list[Point]:
    """One full archive a day."""
    return [
        Point(f"{line}{i}", line, None, start + i * DAY, i + ord(line[0]) * 1000)
        for i in range(count)
    ]


def kept(points: Sequence[Point], policy: Policy, now: int | None = None) -> set[str]:
    at = max((p.time or 0 for p in points), default=T0) if now is None else now
    return {a for a, d in plan_retention(points, policy, at).items() if d.keep}


def test_daily_keeps_the_newest_days() -> None:
    points = days(10)
    assert {"a7", "a8", "a9"} == kept(points, Policy(daily=3, min_age=0))


def test_without_a_rule_the_floors_hold() -> None:
    assert {"a9"} == kept(days(10), NOTHING)
    assert {"a8", "a9"} == kept(days(10), Policy(minimum=2, min_age=0))
    assert {"a7", "a8", "a9"} == kept(days(10), Policy(min_age=2 * DAY + 1))
    assert NOTHING.keeps_nothing()
    assert not Policy(within=1).keeps_nothing()


def test_the_first_of_a_period_is_kept_and_the_last_days_whole() -> None:
    points = [Point(f"p{i}", "a", None, T0 - T0 % DAY + i * 3600, i) for i in range(48)]
    assert {"p0", "p24", "p47"} == kept(points, Policy(daily=5, min_age=0))
    assert {f"p{i}" for i in range(24, 48)} == kept(points, Policy(last=1, min_age=0))


def test_a_dataset_that_is_sent_no_more_keeps_its_points() -> None:
    """Rules count periods that hold something, so a machine at rest loses nothing."""
    points = days(5)
    assert {"a3", "a4"} == kept(points, Policy(daily=2, min_age=0), T0 + 900 * DAY)


def test_each_line_has_its_own_counts() -> None:
    points = [*days(4, "a"), *days(4, "b", T0 + 300 * DAY)]
    assert {"a2", "a3", "b2", "b3"} == kept(points, Policy(daily=2, min_age=0))


def test_no_ancestor_of_a_kept_point_goes() -> None:
    chain = [
        Point(f"c{i}", "a", f"c{i - 1}" if i else None, T0 + i * DAY, i)
        for i in range(9)
    ]
    plan = plan_retention(chain, Policy(daily=2, min_age=0), T0 + 9 * DAY)
    assert all(d.keep for d in plan.values())
    assert ["c5 is an increment on it"] == plan["c4"].reasons
    assert ["daily 1"] == plan["c8"].reasons


def test_what_cannot_be_placed_is_kept_and_counts_for_nothing() -> None:
    points = [
        *days(3),
        Point("strange", None, None, T0 + 9 * DAY, 90),
        Point("undated", "a", None, None, 91),
        Point("orphan", "a", "gone", T0 + 8 * DAY, 92),
        Point("round1", "a", "round2", T0 + 8 * DAY, 93),
        Point("round2", "a", "round1", T0 + 8 * DAY, 94),
    ]
    plan = plan_retention(points, Policy(daily=1, min_age=0), T0 + 10 * DAY)
    stays = {"strange", "undated", "orphan", "round1", "round2", "a2"}
    assert stays == {a for a, d in plan.items() if d.keep}
    assert ["cannot tell which dataset it is of"] == plan["strange"].reasons
    assert ["it is not known when it came"] == plan["undated"].reasons
    assert ["an archive that it needs is not there"] == plan["round1"].reasons


def test_a_removal_goes_from_the_ends_of_chains() -> None:
    chain = [Point("full", "a", None, T0, 0), Point("inc", "a", "full", T0, 1)]
    chain.append(Point("inc2", "a", "inc", T0, 2))
    assert ["inc2", "inc", "full"] == removal_order(["full", "inc2", "inc"], chain)
    assert {"inc", "inc2"} == dependants(["full"], chain)


@pytest.mark.parametrize("rule", ["last", *PERIODS])
def test_a_flood_drives_nothing_out(rule: str) -> None:
    """restic#22057: fakes by the dozen, with every time that a sender may sign.

    The pruner records them at its own time, so all that they can do is to count as
    one more period.
    """
    good = [Point(f"g{i}", "a", None, T0 + i * DAY, i) for i in range(10)]
    policy = Policy(**{rule: 4}, min_age=0)
    before = kept(good, policy)
    seen = T0 + 9 * DAY + 7200
    flood = [Point(f"f{i}", "a", None, seen + i % 60, 100 + i) for i in range(500)]
    lost = before - kept([*good, *flood], policy, seen + 60)
    # One more period may hold a point now, and the newest good one is newest no more.
    assert len(lost) <= 1
    wider = Policy(**{rule: 5}, min_age=0)
    assert not before - kept([*good, *flood], wider, seen + 60) - {"g9"}
    aged = Policy(**{rule: 4})
    assert "g9" in kept([*good, *flood], aged, seen + 60)


# --- beside a model -------------------------------------------------------------


def model(  # noqa: C901 - the obvious way is one long list of cases
    points: Sequence[Point], policy: Policy, now: int
) -> set[str]:
    """The same rules, the slow and obvious way."""
    stays: set[str] = set()
    ids = {p.id: p for p in points}

    def needs(point: Point) -> list[Point] | None:
        found: list[Point] = []
        while point.base is not None:
            if point.base not in ids or len(found) > len(points):
                return None
            point = ids[point.base]
            found.append(point)
        return found

    judged = [
        p for p in points if p.line and p.time is not None and needs(p) is not None
    ]
    stays |= ids.keys() - {p.id for p in judged}

    def text(period: str, time: int) -> str:
        date = dt.datetime.fromtimestamp(time, dt.UTC)
        forms = {"hourly": "%Y%m%d%H", "daily": "%Y%m%d", "weekly": "%G%V"}
        forms |= {"monthly": "%Y%m", "yearly": "%Y"}
        return date.strftime(forms[period])

    for line in {p.line for p in judged}:
        mine = sorted(
            (p for p in judged if p.line == line), key=lambda p: (p.time, p.order)
        )
        stays.add(mine[-1].id)
        counts = {n: getattr(policy, n) for n in PERIODS}
        for period, count in [*counts.items(), ("daily", policy.minimum)]:
            names = sorted({text(period, p.time or 0) for p in mine}, reverse=True)
            for name in names[:count]:
                stays.add(next(p.id for p in mine if text(period, p.time or 0) == name))
        for p in mine:
            newer = {text("daily", q.time or 0) for q in mine}
            newer = {d for d in newer if d > text("daily", p.time or 0)}
            age = now - (p.time or 0)
            if len(newer) < policy.last or age < policy.min_age:
                stays.add(p.id)
            if policy.within and age <= policy.within:
                stays.add(p.id)
    while True:
        bases = {p.base for p in points if p.id in stays} & ids.keys()
        if not bases - stays:
            return stays
        stays |= {b for b in bases if b is not None}


policies = st.builds(
    Policy,
    last=st.integers(0, 4),
    hourly=st.integers(0, 5),
    daily=st.integers(0, 5),
    weekly=st.integers(0, 4),
    monthly=st.integers(0, 4),
    yearly=st.integers(0, 3),
    within=st.integers(0, 40 * DAY).map(float),
    minimum=st.integers(1, 3),
    min_age=st.integers(0, 3 * DAY).map(float),
)
times = st.one_of(
    st.integers(T0, T0 + 3 * DAY),
    st.integers(T0, T0 + 60 * DAY),
    st.integers(T0, T0 + 900 * DAY),
)


@st.composite
def vaults(draw: st.DrawFn, start: int = 0, *, lies: bool = True) -> list[Point]:
    """Points of a few lines, with increments, and with lies if asked for."""
    count = draw(st.integers(1, 14))
    names = [f"{start + i}" for i in range(count)]
    points = []
    for place, name in enumerate(names):
        bases = names if lies else names[:place]
        base = draw(st.sampled_from([None, None, *bases]))
        if base == name or (lies and draw(st.integers(0, 9)) == 0):
            base = "nowhere" if lies else None
        line = draw(st.sampled_from(["a", "b", None] if lies else ["a", "b"]))
        time = draw(st.one_of(st.none(), times) if lies else times)
        points.append(Point(name, line, base, time, start + place))
    return points


@given(vaults(), policies, st.integers(0, 30 * DAY))
def test_the_plan_is_the_models(
    points: list[Point], policy: Policy, later: int
) -> None:
    now = max(p.time or T0 for p in points) + later
    assert model(points, policy, now) == kept(points, policy, now)


@given(vaults(), policies)
def test_what_is_kept_stands_on_what_is_kept(
    points: list[Point], policy: Policy
) -> None:
    now = max(p.time or T0 for p in points)
    stays = kept(points, policy, now)
    ids = {p.id for p in points}
    for point in points:
        if point.id in stays and point.base in ids:
            assert point.base in stays
    gone = ids - stays
    order = removal_order(gone, points)
    assert gone == set(order)
    left = set(ids)
    for name in order:
        left.discard(name)
        for point in points:
            if point.id in left and point.id in stays and point.base in ids:
                assert point.base in left


@given(vaults(), policies)
def test_pruning_twice_at_once_drops_nothing_more(
    points: list[Point], policy: Policy
) -> None:
    """A plan that was carried out leaves nothing to do for the same policy."""
    now = max(p.time or T0 for p in points)
    stays = kept(points, policy, now)
    rest = [p for p in points if p.id in stays]
    assert stays == kept(rest, policy, now)


# --- the law ----------------------------------------------------------------------


def rank(point: Point, good: Sequence[Point], rule: str) -> int | None:
    """How many newer periods of its line hold a point; None if it is not the first."""
    period = PERIODS[rule]
    mine = [p for p in good if p.line == point.line]
    own = period(point.time or 0)
    first = min(
        (p for p in mine if period(p.time or 0) == own),
        key=lambda p: (p.time or 0, p.order),
    )
    if first is not point:
        return None
    return len({period(p.time or 0) for p in mine if period(p.time or 0) > own})


@given(
    vaults(lies=False),
    vaults(start=500),
    policies,
    st.integers(0, 40 * DAY),
    st.integers(0, 40 * DAY),
)
def test_the_law(
    good: list[Point], added: list[Point], policy: Policy, wait: int, later: int
) -> None:
    """Whatever is recorded after T, the calendar alone lets go what was there at T.

    ``added`` lies about everything that a signer can lie about (base, line, when);
    only its recording is the pruner's, at T or after it.
    """
    at = max(p.time or 0 for p in good) + wait
    ids = {p.id for p in good}
    fakes = [Point(p.id, p.line, p.base, max(at, p.time or at), p.order) for p in added]
    # A liar may name our archives as base, too.
    fakes += [Point(f"x{i}", "a", i, at + 1, 900 + int(i)) for i in ids]
    now = max([at + later, *(p.time or 0 for p in fakes)])
    stays = kept([*good, *fakes], policy, now)
    for point in good:
        assert point.time is not None
        safe = now - point.time < policy.min_age
        safe |= bool(policy.within) and now - point.time <= policy.within
        for rule, period in PERIODS.items():
            passed = period(now) - period(at)
            place = rank(point, good, rule)
            count = getattr(policy, rule)
            if rule == "daily":
                count = max(count, policy.minimum)
            # At most `passed` periods began after T, and the one of T may be new.
            safe |= place is not None and place + passed + 1 < count
            safe |= place is not None and period(now) - period(point.time) < count
        safe |= (now // DAY) - (point.time // DAY) < policy.last
        if safe:
            assert point.id in stays
            assert point.base is None or point.base in stays

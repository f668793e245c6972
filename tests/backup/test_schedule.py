"""Periods, names, timetables and selections: what is due, called how, how fast."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.backup.schedule import (
    DAY,
    Schedule,
    check_naming,
    check_schedule,
    judge_due,
    period_start,
)
from standfast.backup.selection import Wanted, roots, select, snapshot_groups
from standfast.backup.timetable import parse_timetable
from standfast.clock import local_time
from standfast.errors import UsageError

wall = datetime.fromisoformat
EVERY = st.sampled_from([60, 900, 3600, 6 * 3600, DAY, 2 * DAY, 7 * DAY])
SCHEDULES = st.builds(Schedule, EVERY, st.integers(0, 24 * 60 - 1))
MOMENTS = st.datetimes(wall("2000-01-03 00:00"), wall("2100-01-01 00:00"))


@given(SCHEDULES, MOMENTS)
def test_a_period_holds_its_moment(schedule: Schedule, now: datetime) -> None:
    """It began at or before now, lasts no longer than ``every``, and is one period."""
    start = period_start(schedule, now)

    assert start <= now < start + timedelta(seconds=schedule.every)
    assert start == period_start(schedule, start)


@given(SCHEDULES, MOMENTS, st.integers(0, 10 * DAY))
def test_due_once_a_period(schedule: Schedule, now: datetime, later: int) -> None:
    """After a success nothing is due in the same period, and something in the next."""
    then = now + timedelta(seconds=later)
    same = period_start(schedule, now) == period_start(schedule, then)

    assert same != judge_due(schedule, now, then).due


def test_a_timer_that_jitters_skips_no_night() -> None:
    """Runs at 02:10 and the next night at 02:01 both have something to do."""
    nightly = Schedule(DAY)
    first = wall("2026-03-28 02:10")
    second = wall("2026-03-29 02:01")

    assert judge_due(nightly, first, second).due
    assert not judge_due(nightly, second, second + timedelta(hours=20)).due
    assert judge_due(nightly, None, first).due
    assert judge_due(Schedule(0), first, first).due


def test_weeks_begin_on_monday() -> None:
    weekly = Schedule(7 * DAY, 3 * 60)

    assert wall("2026-11-23 03:00") == period_start(weekly, wall("2026-11-29 00:00"))
    assert wall("2026-11-16 03:00") == period_start(weekly, wall("2026-11-23 02:00"))


def test_a_clock_that_was_set_back_stops_nothing() -> None:
    """A success that lies in the future is no reason to wait for it."""
    now = wall("2026-01-01 00:00")
    due = judge_due(Schedule(DAY), now + timedelta(days=400), now)

    assert due.due
    assert "future" in due.why


@pytest.mark.parametrize("every", [7, 61, 5 * 3600, DAY + 1])
def test_periods_must_fit_the_day(every: int) -> None:
    with pytest.raises(UsageError, match="divide a day"):
        check_schedule(Schedule(every))


@given(MOMENTS, st.sampled_from(["a-%Y-%m-%d", "%d.%m.%Y_%H:%M:%S", "x%Y%m%d%H%M%S"]))
def test_a_name_tells_its_time(moment: datetime, pattern: str) -> None:
    naming = check_naming(pattern)
    found = naming.time(naming.name(moment))

    assert found is not None
    assert naming.name(found) == naming.name(moment)
    assert naming.time("manual") is None
    assert naming.time(naming.name(moment) + "x") is None


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("daily", "%Y %m %d is missing"),
        ("%Y-%m-%d-%j", "not a code: %j"),
        ("%Y-%m-%d-%d", "stands twice"),
        ("a/%Y-%m-%d", "not a snapshot name"),
        ("%Y-%m-%d%", "not a code: %"),
    ],
)
def test_names_that_cannot_be(pattern: str, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        check_naming(pattern)


def test_a_name_with_an_impossible_date_is_not_ours() -> None:
    assert check_naming("a-%Y-%m-%d").time("a-2026-02-31") is None


@pytest.mark.parametrize(
    ("text", "moment", "rate"),
    [
        ("", "2026-11-23 12:00", None),
        ("5M", "2026-11-23 12:00", 5 << 20),
        ("unlimited", "2026-11-23 12:00", None),
        ("08:00-18:00 = 1M, else unlimited", "2026-11-23 12:00", 1 << 20),
        ("08:00-18:00 = 1M, else unlimited", "2026-11-23 18:00", None),
        ("08:00-18:00 = 1M, else 2M", "2026-11-23 07:59", 2 << 20),
        ("22:00-06:00=unlimited, else 500k", "2026-11-23 23:00", None),
        ("22:00-06:00=unlimited, else 500k", "2026-11-23 05:59", None),
        ("22:00-06:00=unlimited, else 500k", "2026-11-23 06:00", 500 << 10),
        ("mon-fri 08:00-18:00 = 1M", "2026-11-28 12:00", None),
        ("Mon-Fri 08:00-18:00 = 1M", "2026-11-27 12:00", 1 << 20),
        # The span that began on Friday night is still Friday's.
        ("fri 22:00-06:00 = 1M", "2026-11-28 03:00", 1 << 20),
        ("sat 22:00-06:00 = 1M", "2026-11-28 03:00", None),
        ("sun-mon 00:00-24:00 = 1M", "2026-11-23 23:59", 1 << 20),
        ("08:00-12:00 = 1M, 10:00-18:00 = 2M", "2026-11-23 11:00", 1 << 20),
    ],
)
def test_timetables(text: str, moment: str, rate: int | None) -> None:
    assert rate == parse_timetable(text).rate_at(wall(moment))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("8-18 = 1M", "not a span of time: 8-18"),
        ("08:00-18:00 = fast", "not a size: fast"),
        ("08:00-25:00 = 1M", "not a time of the day: 25:00"),
        ("tag 08:00-18:00 = 1M", "not a day: tag"),
        ("else 1M, 08:00-18:00 = 2M", "not a span of time: else 1m"),
        ("08:00-18:00 = 0", "not a rate"),
    ],
)
def test_timetables_that_are_none(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        parse_timetable(text)


PRESENT = (
    "tank",
    "tank/home",
    "tank/home/a",
    "tank/home/a/cache",
    "tank/home/b",
    "tank/home2",
    "tank/vm",
    "tank/vm/one",
    "tank/vm/two",
    "other",
)


@pytest.mark.parametrize(
    ("wanted", "names"),
    [
        (Wanted(("tank/home",)), "tank/home"),
        (Wanted(("tank/vm/*",)), "tank/vm/one tank/vm/two"),
        (Wanted(("tank/*",)), "tank/home tank/home2 tank/vm"),
        (Wanted(("tank/**",)), " ".join(PRESENT[1:9])),
        (Wanted(("tank/home?",)), "tank/home2"),
        (
            Wanted(("tank/home",), ("tank/home/*/cache", "tank/home/b"), True),
            "tank/home tank/home/a",
        ),
        (Wanted(("tank/home",), ("tank/home/a",), True), "tank/home tank/home/b"),
        (Wanted(("tank/home",), ("tank",), True), ""),
    ],
)
def test_selection(wanted: Wanted, names: str) -> None:
    assert names.split() == list(select(PRESENT, wanted).datasets)


def test_what_matches_nothing_is_named() -> None:
    found = select(PRESENT, Wanted(("tank/gone", "tank/vm/*", "pool/*")))

    assert ("tank/gone", "pool/*") == found.missing
    assert ["pool", "tank/gone", "tank/vm"] == roots(
        ("tank/gone", "tank/vm/*", "pool/*", "tank/vm/x")
    )
    assert ["tank"] == roots(("tank/h*", "tank/home"))


def test_one_command_takes_a_whole_tree_or_names_of_one_pool() -> None:
    tree = ["tank/home", "tank/home/a", "tank/home/a/cache", "tank/home/b"]

    assert [("-r", "tank/home")] == snapshot_groups(tree, PRESENT)
    assert [tuple(tree[:-1])] == snapshot_groups(tree[:-1], PRESENT)
    assert [("tank/home", "tank/vm"), ("other",)] == snapshot_groups(
        ["tank/home", "tank/vm", "other"], PRESENT
    )


NAMES = st.lists(
    st.sampled_from(PRESENT), unique=True, min_size=1, max_size=len(PRESENT)
)


@given(NAMES)
def test_groups_cover_what_was_chosen_and_nothing_else(chosen: list[str]) -> None:
    covered: list[str] = []
    for group in snapshot_groups(chosen, PRESENT):
        if group[0] == "-r":
            root = group[1]
            covered += [n for n in PRESENT if n == root or n.startswith(f"{root}/")]
        else:
            covered += group

    assert sorted(chosen) == sorted(covered)


def test_local_time_is_the_machine_s() -> None:
    now = time.time()
    shown = datetime(*time.localtime(now)[:6])  # noqa: DTZ001 - a wall clock has none

    assert shown == local_time(now).replace(microsecond=0)

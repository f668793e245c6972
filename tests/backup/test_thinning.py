"""Which of its own snapshots a job lets go: the law, over drawn histories."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from standfast.backup.config import KeepSection
from standfast.backup.schedule import check_naming
from standfast.backup.thinning import thin
from standfast.zfs.listing import Point

NAMING = check_naming("home-%Y-%m-%d-%H%M%S")
START = datetime(2026, 1, 1, tzinfo=UTC)
KEEPS = st.builds(
    KeepSection,
    last=st.integers(0, 3),
    daily=st.integers(0, 5),
    weekly=st.integers(0, 3),
    monthly=st.integers(0, 2),
)


@st.composite
def histories(draw: st.DrawFn) -> list[Point]:
    """Snapshots of some months, others' among them, some of them held."""
    hours = draw(st.lists(st.integers(0, 24 * 90), unique=True, max_size=40))
    points: list[Point] = []
    for number, hour in enumerate(sorted(hours), 1):
        name = NAMING.name(START + timedelta(hours=hour))
        if draw(st.integers(0, 5)) == 0:
            name = draw(st.sampled_from(["by-hand", "other-2026-01-01-000000"]))
        holds = draw(st.integers(0, 1))
        points.append(Point(f"t/a@{name}", number, number, 0, holds))
    return points


@given(histories(), KEEPS, st.frozensets(st.integers(1, 40)))
def test_what_must_stay_stays(
    points: list[Point], keep: KeepSection, needed: frozenset[int]
) -> None:
    """Others' snapshots, the newest, what is needed, and what is held."""
    now = int((START + timedelta(days=91)).timestamp())
    decided = {d.name: d for d in thin(points, NAMING, keep, needed, now)}
    gone = {name for name, one in decided.items() if not one.keep}
    ours = [p for p in points if NAMING.time(p.short[1:]) is not None]

    assert {p.name for p in ours} == set(decided)
    assert all(one.why for one in decided.values())
    for point in ours:
        if point.guid in needed or point.holds or point is ours[-1]:
            assert point.name not in gone
    # As many days as were asked for are left, if there were so many.
    days = {p.name[:20] for p in ours}
    left = {p.name[:20] for p in ours if p.name not in gone}
    assert len(left) >= min(len(days), max(keep.last, keep.daily, 1))


@given(histories())
def test_a_policy_that_keeps_little_lets_the_rest_go(points: list[Point]) -> None:
    """Without holds and needs, one day's snapshots are left."""
    free = [Point(p.name, p.guid, p.createtxg) for p in points]
    keep = KeepSection(last=1)
    decided = thin(free, NAMING, keep, set(), int(START.timestamp()) + 10**8)

    assert len({d.name[:20] for d in decided if d.keep}) <= 1

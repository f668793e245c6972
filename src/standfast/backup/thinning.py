"""Which of a job's own snapshots go from this machine. Pure.

Only snapshots go that bear a name of the job's making. Never the newest, never one
that is held, never one from which a vault still needs an increment, or with which an
interrupted send goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from typing import TYPE_CHECKING

from standfast.backup.retention import Point as Moment
from standfast.backup.retention import Policy, plan_retention
from standfast.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Container, Sequence

    from standfast.backup.config import KeepSection
    from standfast.backup.schedule import Naming
    from standfast.zfs.listing import Point


@dataclass(frozen=True)
class Thinned:
    """What becomes of one snapshot.

    Attributes:
        name: ``DATASET@SNAPSHOT``.
        keep: whether it stays.
        why: one reason.
    """

    name: str
    keep: bool
    why: str


def policy_of(keep: KeepSection) -> Policy:
    """Return the policy that a ``keep`` table describes."""
    return Policy(
        last=keep.last,
        hourly=keep.hourly,
        daily=keep.daily,
        weekly=keep.weekly,
        monthly=keep.monthly,
        yearly=keep.yearly,
        within=parse_duration(keep.within) if keep.within else 0.0,
        minimum=keep.minimum,
        min_age=0.0,
    )


def thin(
    snapshots: Sequence[Point],
    naming: Naming,
    keep: KeepSection,
    needed: Container[int],
    now: int,
) -> list[Thinned]:
    """Decide about one dataset's own snapshots, the oldest first.

    Args:
        snapshots: all of the dataset's, the oldest first.
        naming: by which the job knows its own.
        keep: what is to stay.
        needed: GUIDs that a vault, or an interrupted send, still needs.
        now: Unix seconds.
    """
    moments: list[Moment] = []
    ours: dict[str, Point] = {}
    for order, point in enumerate(snapshots):
        time = naming.time(point.short[1:])
        if time is not None:
            ours[point.name] = point
            when = int(time.replace(tzinfo=UTC).timestamp())
            moments.append(Moment(point.name, point.dataset, None, when, order))
    decided = plan_retention(moments, policy_of(keep), now)
    newest = next(reversed(ours), "")
    return [
        _judge(point, decided[name].keep, decided[name].reasons, newest, needed)
        for name, point in ours.items()
    ]


def _judge(
    point: Point,
    keep: bool,  # noqa: FBT001 - a decision, not a switch
    reasons: Sequence[str],
    newest: str,
    needed: Container[int],
) -> Thinned:
    if keep:
        return Thinned(point.name, True, reasons[0])
    if point.name == newest:
        return Thinned(point.name, True, "the newest")
    if point.guid in needed:
        return Thinned(point.name, True, "a vault needs it for the next increment")
    if point.holds:
        return Thinned(point.name, True, "it is held")
    return Thinned(point.name, False, reasons[0])

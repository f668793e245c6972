"""ARC limits of OpenZFS: Linux 0.6.5 to 2.4, FreeBSD 13 and later.

arc_max by default: half of RAM on Linux up to 2.2; max(5/8 RAM, RAM - 1 GiB) on
Linux from 2.3.0 and on FreeBSD. arc_min: max(RAM/32, 32 MiB); 32 MiB in 0.6.x.
A given arc_max counts only if it is at least 64 MiB, below RAM and strictly above
arc_min; arc_min only if at least 32 MiB and at most arc_max. Order decides: up to
0.8.x arc_max is tested against the DEFAULT arc_min, before a given arc_min is looked
at; from 2.0.0 on arc_min comes first. From 2.1.1 on a value given at load time pulls
arc_min down with it (min(arc_min, arc_max/2)) when arc_min is not given, one written
later must still exceed it. What fails is ignored; from 2.0 on with a log line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from standfast.tune.model import GIB, MIB
from standfast.tune.rules import Rule
from standfast.tune.rules.arc_freebsd import Arc

if TYPE_CHECKING:
    from collections.abc import Mapping

    from standfast.tune.release import Release

RULE = Rule(
    "ARC limits, OpenZFS",
    "module/zfs/arc.c arc_init, arc_tuning_update of zfs-0.6.5 to zfs-2.4.0; openzfs"
    " commits 36a6e2335c (order), 6a629f3234 (default); issue 10157",
    "OpenZFS 0.6.5 to 2.4, FreeBSD 13.0 to 15",
)

_LEAST_MAX = 64 * MIB
_LEAST_MIN = 32 * MIB


def limits(
    release: Release, ram: int, tunables: Mapping[str, int], *, freebsd: bool
) -> Arc:
    """Return the limits; tunables are named `arc_max` and `arc_min` here."""
    if freebsd or release.at_least(2, 3):
        largest, how = max(ram * 5 // 8, ram - GIB), "max(5/8 RAM, RAM - 1 GiB)"
    else:
        largest, how = ram // 2, "RAM/2"
    smallest = _LEAST_MIN if release.major == 0 and release.minor <= 6 else 0  # noqa: PLR2004
    smallest = smallest or max(ram // 32, _LEAST_MIN)
    wanted, least = tunables.get("arc_max", 0), tunables.get("arc_min", 0)
    ignored = []
    if release.major >= 2 and least:  # noqa: PLR2004
        if _LEAST_MIN <= least <= max(largest, wanted):
            smallest = least
        else:
            ignored.append("arc_min")
    floor = smallest
    if release.at_least(2, 1, 1) and not least:
        floor = min(smallest, wanted // 2)
    if wanted and _LEAST_MAX <= wanted < ram and wanted > floor:
        largest, how, smallest = wanted, "as set", min(smallest, max(floor, 0))
    elif wanted:
        ignored.append("arc_max")
    if release.major < 2 and least:  # noqa: PLR2004
        if _LEAST_MIN <= least <= largest:
            smallest = least
        else:
            ignored.append("arc_min")
    return Arc(largest, smallest, how, tuple(ignored))

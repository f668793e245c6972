"""ARC limits of FreeBSD's own ZFS (7.0 to 12.x).

kmem here is vm.kmem_size up to 9.2; from 9.3 on the smaller of it and RAM. arc_max
by default: max(6/8 kmem, kmem - 1 GiB) in the 7.x era (pool version 6), max(5/8
kmem, kmem - 1 GiB) from 8.0 on. arc_min: max(kmem/32, 16 MiB), and where it is not
set it is raised to arc_max/8 (8.0 on). vfs.zfs.arc_max is taken only above 16 MiB
and below kmem (10.4: above 16 MiB only), vfs.zfs.arc_min only above 16 MiB and up
to arc_max; anything else is ignored without a word.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.tune.model import GIB, MIB
from standfast.tune.rules import Rule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from standfast.tune.release import Release

RULE = Rule(
    "ARC limits, FreeBSD's own ZFS",
    "arc.c arc_init of 8.0R, 9c, 9.3R, 10.4R; the 7.0-era file; reported"
    " arc_max 635957760 and arc_min 79494720 for kmem 1017532416",
    "FreeBSD 7.0 to 12.x",
)

_LEAST = 16 * MIB


@dataclass(frozen=True)
class Arc:
    """The ARC's limits in bytes, how arc_max came about, and what was ignored."""

    largest: int
    smallest: int
    how: str
    ignored: tuple[str, ...] = ()


def basis(release: Release, kmem: int, ram: int) -> int:
    """Return what kmem_size() returns to the ARC."""
    return min(kmem, ram) if release.at_least(9, 3) else kmem


def limits(release: Release, kmem: int, ram: int, tunables: Mapping[str, int]) -> Arc:
    """Return the limits for those tunables."""
    size = basis(release, kmem, ram)
    eighths = 6 if release.major <= 7 else 5  # noqa: PLR2004
    default = max(size * eighths // 8, size - GIB)
    ignored = []
    largest, how = default, f"max({eighths}/8 kmem, kmem - 1 GiB)"
    asked = tunables.get("vfs.zfs.arc_max", 0)
    if asked and _taken(release, asked, size):
        largest, how = asked, "vfs.zfs.arc_max"
    elif asked:
        ignored.append("vfs.zfs.arc_max")
    smallest = max(size // 32, _LEAST)
    asked = tunables.get("vfs.zfs.arc_min", 0)
    if asked and _LEAST < asked <= largest:
        smallest = asked
    else:
        if asked:
            ignored.append("vfs.zfs.arc_min")
        if release.major >= 8:  # noqa: PLR2004
            smallest = max(smallest, largest // 8)
    return Arc(largest, min(smallest, largest), how, tuple(ignored))


def _taken(release: Release, asked: int, size: int) -> bool:
    if release.at_least(10, 4):
        return asked > _LEAST
    return _LEAST < asked < size

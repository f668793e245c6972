"""Whether file prefetch is on.

FreeBSD's own ZFS (read in 8.0 to 10.4; 7.x and 11, 12 are taken to be alike) turns
it off by default on i386 always, elsewhere when RAM is below 4 GiB, unless
vfs.zfs.prefetch_disable is set, which then decides. OpenZFS has no such test: on
unless zfs_prefetch_disable (vfs.zfs.prefetch.disable) is 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from standfast.tune.model import GIB
from standfast.tune.rules import Rule

if TYPE_CHECKING:
    from collections.abc import Mapping

RULE = Rule(
    "prefetch",
    "arc.c arc_init of 8.0R to 10.4R; absent from zfs-2.0.0 on",
    "FreeBSD 7.0 to 15, OpenZFS",
)

_NAMES = (
    "vfs.zfs.prefetch_disable",
    "vfs.zfs.prefetch.disable",
    "zfs_prefetch_disable",
)


def is_on(arch: str, ram: int, tunables: Mapping[str, int], *, own: bool) -> bool:
    """Return whether prefetch is on; ``own`` says FreeBSD's own ZFS."""
    for name in _NAMES:
        if name in tunables:
            return tunables[name] == 0
    if not own:
        return True
    return "i386" not in arch and ram >= 4 * GIB

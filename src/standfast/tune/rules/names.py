"""Names of tunables: which release knows them, and which take effect at boot only.

vm.kmem_size and its kin, kern.maxbcache, kern.nbuf, kern.maxswzone,
kern.ipc.maxpipekva and nsfbufs are read at boot: sysctl.conf is too late.
vfs.zfs.arc_max and arc_min are boot-only up to 10.3, can be written from 10.4 on, and
are called vfs.zfs.arc.max and arc.min from 13.0 on, the old names being kept. The
vdev cache is 10 MiB a disk in 8.x and early 9.x, off by 9.3, gone in OpenZFS 2.2.
Before 8.0 there was no vm.kmem_size_min. KVA_PAGES does nothing from 12.1 on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from standfast.tune.rules import Rule

if TYPE_CHECKING:
    from standfast.tune.release import Release

RULE = Rule(
    "names of tunables",
    "kern_malloc.c, subr_param.c, arc.c sysctl declarations of 8.0R to 13c,"
    " zfs-2.0.0 to zfs-2.3.0",
    "FreeBSD 7.0 to 15",
)

BOOT_ONLY = (
    "vm.kmem_size",
    "vm.kmem_size_min",
    "vm.kmem_size_max",
    "vm.kmem_size_scale",
    "kern.maxbcache",
    "kern.nbuf",
    "kern.maxswzone",
    "kern.ipc.maxpipekva",
    "kern.ipc.nsfbufs",
)
NEW_NAMES = {
    "vfs.zfs.arc.max": "vfs.zfs.arc_max",
    "vfs.zfs.arc.min": "vfs.zfs.arc_min",
}


def boot_only(release: Release, name: str) -> bool:
    """Return whether sysctl.conf is too late for that name."""
    old = NEW_NAMES.get(name, name)
    if old in NEW_NAMES.values():
        return not release.at_least(10, 4)
    return name in BOOT_ONLY


def trouble(release: Release, name: str) -> str:
    """Return why this release does not heed that name, or nothing."""
    if name in NEW_NAMES and release.major < 13:  # noqa: PLR2004
        return f"{name} is a name of 13.0 and later; here it is {NEW_NAMES[name]}"
    if name == "vm.kmem_size_min" and release.major < 8:  # noqa: PLR2004
        return f"{name} does not exist before 8.0"
    if name.startswith("vm.kmem_size") and release.major >= 12:  # noqa: PLR2004
        return f"{name} reserves nothing from 12.0 on; it only wakes reclaim"
    if name.startswith("vfs.zfs.vdev.cache") and release.at_least(9, 3):
        return f"{name}: the vdev cache is off from 9.3 on and was removed later"
    return ""

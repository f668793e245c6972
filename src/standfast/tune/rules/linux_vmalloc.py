"""32-bit Linux before OpenZFS 0.7: buffers live in the vmalloc area.

ZFS on Linux up to 0.6.x takes ARC buffers with vmalloc, whose area on a 32-bit
kernel is 128 MiB unless `vmalloc=` says more (about 240 MiB on ARM). It runs out
or fragments under load, whatever arc_max says: `vmap allocation for size N failed`,
paging request oopses. From 0.7.0 on ABD buffers come page by page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from standfast.tune.rules import Rule

if TYPE_CHECKING:
    from standfast.tune.release import Release

RULE = Rule(
    "vmalloc on 32-bit Linux",
    "openzfs issues 757, 1430, 3470, 3475 with the maintainers' answers there",
    "OpenZFS before 0.7 on 32-bit Linux",
)

_WIDE = ("64", "s390x", "alpha")


def is_narrow(arch: str) -> bool:
    """Return whether a Linux machine name means a 32-bit kernel."""
    return bool(arch) and not any(mark in arch for mark in _WIDE)


def applies(release: Release, arch: str) -> bool:
    """Return whether buffers would live in a small vmalloc area."""
    return is_narrow(arch) and not release.at_least(0, 7)

"""The kernel's address space on 64-bit machines, which caps vm.kmem_size.

amd64: 2 GiB up to 7.1 (it starts at KERNBASE), 6 GiB from 7.2, 512 GiB from 8.0,
2 TiB from 10.0 (10.1R). arm64: 512 GiB. The page array comes out of a direct map,
so only kmem counts; but on 7.x everything else shares the 2 or 6 GiB, and the
kernel itself would take at most three fifths of it: between that and the whole we
do not answer. From 12.0 on vm.kmem_size reserves nothing and cannot stop a boot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from standfast.tune.model import GIB
from standfast.tune.rules import Rule

if TYPE_CHECKING:
    from standfast.tune.release import Release

RULE = Rule(
    "64-bit kernel address space",
    "sys/amd64/include/vmparam.h of 7.0c, 8.0R to 10.4R; 7.2 release notes; arm64 11b",
    "FreeBSD 7.0 to 11.x on amd64, 11.0 on arm64",
)


def span(release: Release, arch: str) -> int | None:
    """Return bytes of kernel address space; None where kmem reserves none of it."""
    if release.major >= 12:  # noqa: PLR2004
        return None
    if arch == "arm64":
        return 512 * GIB
    if not release.at_least(7, 2):
        return 2 * GIB
    if release.major == 7:  # noqa: PLR2004
        return 6 * GIB
    return 512 * GIB if release.major <= 9 else 2048 * GIB  # noqa: PLR2004


def sure(span_bytes: int) -> int:
    """Return the largest kmem that certainly fits: what the kernel's own cap allows."""
    return span_bytes * 3 // 5

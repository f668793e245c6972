"""What ZFS itself says at boot when memory is short.

`ZFS WARNING: Recommended minimum RAM size is 512MB` below 448 MiB of RAM, and
`ZFS WARNING: Recommended minimum kmem_size is 512MB` below 512 MiB of kmem. Both are
printed and change nothing.
"""

from __future__ import annotations

from standfast.tune.model import MIB
from standfast.tune.rules import Rule

RULE = Rule(
    "boot warnings of ZFS",
    "arc.c arc_init of 8.0R to 10.4R; seen in a pfSense 8.3 boot log",
    "FreeBSD 8.0 to 12.x",
)


def printed(*, ram: int, kmem: int) -> tuple[str, ...]:
    """Return the lines that the boot prints."""
    lines = []
    if ram < 448 * MIB:
        lines.append("ZFS WARNING: Recommended minimum RAM size is 512MB")
    if kmem < 512 * MIB:
        lines.append("ZFS WARNING: Recommended minimum kmem_size is 512MB")
    return tuple(lines)

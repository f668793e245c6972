"""exec_map and pipe_map, the last pieces whose lack ends the boot.

exec_map: 16 slots (vm.exec_map_entries from 9.x on) of 256 KiB of arguments plus
three pages (8.0), or plus one page (Feb 2011 on). pipe_map, unless
kern.ipc.maxpipekva is set: up to Feb 2011 a twentieth of vm.kmem_size in whole
pages, at least 512 KiB; from 9.1 on a 64th of RAM, at least 512 KiB, at most a
64th of the address space from the page table map to the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from standfast.tune.model import KIB, PAGE
from standfast.tune.rules import Rule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from standfast.tune.generations import Generation

RULE = Rule(
    "exec and pipe maps",
    "sys/vm/vm_init.c vm_ksubmap_init, sys/kern/subr_param.c init_param2/3"
    " of 8.0R, 9c, 9.3R, 10.4R",
    "7.0 to 11.x on i386",
)

_LEAST = 512 * KIB


def exec_bytes(kernel: Generation, tunables: Mapping[str, int]) -> int:
    """Return bytes of exec_map."""
    return tunables.get("vm.exec_map_entries", 16) * kernel.exec_bytes


def pipe_bytes(
    kernel: Generation,
    kmem: int,
    physmem: int,
    *,
    span: int,
    superpage: int,
    tunables: Mapping[str, int],
) -> int:
    """Return bytes of pipe_map."""
    asked = tunables.get("kern.ipc.maxpipekva")
    if kernel.pipes_from_kmem:
        return asked or max(kmem // PAGE // 20 * PAGE, _LEAST)
    wanted = max(asked or physmem // 64 * PAGE, _LEAST)
    return min(wanted, (span + superpage) // 64)

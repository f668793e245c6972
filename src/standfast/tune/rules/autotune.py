"""What the kernel scales by RAM before anything else: maxusers and its children.

physmem counts the pages that can be handed out: all below the top but the kernel's
own (from 4 MiB to the end of what locore took), page 0, and the hole from 640 KiB
to 1 MiB. maxusers is one for each 2 MiB, from 32 to 384, unless kern.maxusers is
set. maxproc is 20 + 16 x maxusers, at most physmem/12 (kern.maxproc). maxfiles is
2 x maxproc; from 9.2 on at least physmem/8, at most physmem/4.
sf_bufs are 512 + 16 x maxusers pages (kern.ipc.nsfbufs).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from standfast.tune.model import GIB, MIB, PAGE
from standfast.tune.rules import Rule
from standfast.tune.rules.kva_span import ENTRY

if TYPE_CHECKING:
    from collections.abc import Mapping

RULE = Rule(
    "automatic sizes",
    "sys/kern/subr_param.c init_param2, machdep.c getmemsize, vm_machdep.c NSFBUFS"
    " of 8.0R, 9c, 9.3R, 10.4R",
    "7.0 to 11.x on i386",
)

_LEAST, _MOST = 32, 384
# Page 0, and 640 KiB to 1 MiB less the page that BIOSes keep at its start.
_LOW_PAGES = 640 * 1024 // PAGE - 2
_ABOVE_HOLE = 1 * MIB


def physical_pages(arch: str, top: int, first_free: int) -> int:
    """Return physmem: pages that are RAM and not the kernel's own."""
    below = (ENTRY[arch] - _ABOVE_HOLE) // PAGE
    if arch == "i386-pae" and top > 4 * GIB:
        top -= GIB // 2  # the hole below 4 GiB; its size is not known
    return (top - first_free) // PAGE + below + _LOW_PAGES


def maxusers(physmem: int, tunables: Mapping[str, int]) -> int:
    """Return maxusers for that many pages."""
    asked = tunables.get("kern.maxusers", 0)
    if asked > 0:
        return asked
    return max(_LEAST, min(_MOST, physmem * PAGE // (2 * MIB)))


def maxproc(physmem: int, tunables: Mapping[str, int]) -> int:
    """Return the limit of processes."""
    wanted = tunables.get("kern.maxproc", 20 + 16 * maxusers(physmem, tunables))
    return min(wanted, physmem // 12)


def sf_bufs(physmem: int, tunables: Mapping[str, int]) -> int:
    """Return bytes of address space for sf_bufs."""
    count = tunables.get("kern.ipc.nsfbufs", 512 + 16 * maxusers(physmem, tunables))
    return count * PAGE


def callouts(physmem: int, tunables: Mapping[str, int], *, files_by_ram: bool) -> int:
    """Return ncallout, at most 18508 where files are counted by RAM."""
    processes = maxproc(physmem, tunables)
    if not files_by_ram:
        files = tunables.get("kern.maxfiles", 2 * processes)
        return tunables.get("kern.ncallout", 16 + processes + files)
    files = tunables.get("kern.maxfiles", max(2 * processes, physmem // 8))
    files = min(files, physmem // 4)
    return tunables.get("kern.ncallout", min(16 + processes + files, 18508))

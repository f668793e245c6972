"""Address space for the entries that say which process maps a page.

One page for every 336 entries; entries are 200 for each possible process
(vm.pmap.shpgperproc) plus one for each page of RAM (vm.pmap.pv_entries sets the sum),
but never fewer pages than maxproc. Before that comes a table of 8 bytes for each
superpage of RAM, and from 9.2 on a region of zeros of 64 KiB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from standfast.tune.model import PAGE
from standfast.tune.rules import Rule

if TYPE_CHECKING:
    from collections.abc import Mapping

RULE = Rule(
    "pv chunks",
    "pmap.c pmap_init of 8.0R, 9c, 9.3R, 10.4R",
    "7.0 to 11.x on i386",
)

_ENTRIES_A_PAGE = 336


def chunk_bytes(pages: int, processes: int, tunables: Mapping[str, int]) -> int:
    """Return bytes of address space for ``pages`` of RAM."""
    shared = tunables.get("vm.pmap.shpgperproc", 200)
    entries = tunables.get("vm.pmap.pv_entries", shared * processes + pages)
    return max(-(-entries // _ENTRIES_A_PAGE), processes) * PAGE


def head_table_bytes(top: int, superpage: int) -> int:
    """Return bytes of the table of heads for large pages."""
    return -(-top // superpage) * 8

"""10.x and 11.x reserve address space for the radix nodes of all pages.

v_page_count x page / (page + node) nodes of 44 bytes (8 + 2 + 2 + 8 children of 4;
the page index is 64 bits wide), 91 to a page of which 56 bytes are the slab header:
20 MiB at 2 GiB. Without it: `panic: vm_radix_reserve_kva: unable to reserve KVA`.
"""

from __future__ import annotations

from standfast.tune.model import PAGE
from standfast.tune.rules import Rule

RULE = Rule(
    "radix nodes",
    "sys/vm/vm_radix.c vm_radix_reserve_kva, uma_core.c keg_small_init of 10.4R",
    "10.0 to 11.x on i386",
)

_NODE = 44
_A_PAGE = (PAGE - 56) // _NODE


def radix_bytes(pages: int) -> int:
    """Return bytes for ``pages`` pages of RAM."""
    nodes = pages * PAGE // (PAGE + _NODE)
    return -(-nodes // _A_PAGE) * PAGE

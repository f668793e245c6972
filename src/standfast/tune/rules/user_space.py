"""What is left for programs when the kernel takes more of the 4 GiB.

A process gets 4 GiB less the kernel's span and one page table group. If MAXDSIZ
reaches into what the kernel took, the first program cannot be started and the boot
ends with `panic: going nowhere without my init`. Wine wants KVA_PAGES of at most 500.
"""

from __future__ import annotations

from standfast.tune.model import mib
from standfast.tune.rules import Rule, kva_span

RULE = Rule(
    "user address space",
    "pmap.h of 8.0R; the Wine port's message; blog.mikuru.tw/archives/317 (MAXDSIZ)",
    "FreeBSD 7.0 to 11.x on i386",
)

WINE_MOST = 500


def too_small_for_init(arch: str, kva_pages: int, data_limit: int) -> str:
    """Return why no program can start with MAXDSIZ of ``data_limit``, or nothing."""
    space = kva_span.user_space(arch, kva_pages)
    if data_limit < space:
        return ""
    return f"MAXDSIZ of {mib(data_limit)} does not fit in {mib(space)} of user space"

"""Where free kernel address space begins: the image and what bootstrap maps.

The kernel is loaded at 4 MiB (2 MiB with PAE). locore rounds the end of image and
preloaded modules up to the next superpage, then takes first_pages pages: NKPT page
tables (30; 240 with PAE), the page directory (1; 4 and a pointer table with PAE),
the first stack and four pages for vm86. 8.0 rounds that up to a superpage once more
(pmap_kmem_choose), later kernels do not. pmap_bootstrap then maps, page by page:
two a possible processor (MAXCPU: 32 with SMP, 1 without) and two more, 16 for crash
dumps, one for /dev/mem, the message buffer, two for page table windows, and from
Feb 2011 on the kernel page table map of KVA_PAGES pages.

So the image counts in steps of one superpage, not byte by byte: 12 MiB of modules
more moved the limit by exactly 12 MiB in the boots.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from standfast.tune.kva import round_up
from standfast.tune.model import PAGE
from standfast.tune.rules import Rule
from standfast.tune.rules.kva_span import ENTRY

if TYPE_CHECKING:
    from standfast.tune.generations import Generation

RULE = Rule(
    "kernel image and bootstrap",
    "locore.s create_pagetables, pmap.c pmap_bootstrap of 8.0R, 9c, 9.3R, 10.4R;"
    " the page count after the image by a probe of the booted kernels",
    "7.0 to 11.x on i386",
)

# NKPT 240 for 30, NPGPTD 4 for 1, and a page for the pointer table.
_PAE_PAGES = 240 - 30 + 4 - 1 + 1
_CRASH_DUMP_PAGES = 16
_SMP_PROCESSORS = 32


def image_end(arch: str, image: int) -> int:
    """Return the rounded end of kernel and modules, from KERNBASE."""
    return round_up(ENTRY[arch] + image, ENTRY[arch])


def first_free(kernel: Generation, arch: str, image: int) -> int:
    """Return the physical address after what locore takes."""
    pages = kernel.first_pages + (_PAE_PAGES if arch == "i386-pae" else 0)
    return image_end(arch, image) + pages * PAGE


def bootstrap_end(
    kernel: Generation, arch: str, image: int, *, kva_pages: int, smp: bool
) -> int:
    """Return the first address after pmap_bootstrap, from KERNBASE."""
    at = first_free(kernel, arch, image)
    if kernel.rounds_start:
        at = round_up(at, ENTRY[arch])
    processors = _SMP_PROCESSORS if smp else 1
    pages = 2 * processors + 2 + _CRASH_DUMP_PAGES + 1 + kernel.message_pages + 2
    if kernel.kernel_page_table_map:
        pages += kva_pages
    return at + pages * PAGE

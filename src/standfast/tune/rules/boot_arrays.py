"""What vm_page_startup maps: a page structure for every page of RAM, and company.

From the top of usable RAM, less the message buffer, downwards in physical memory
and upwards in address space, in this order: the first pages of the zone allocator
(boot_pages), one bit for every physical page (rounded to pages), an unmapped guard
page, the page array, and one reservation for every superpage of RAM. The array
has one entry for each page from 1 to the top; 10.4 counts only the pages that are
left once the array itself is taken off: size / (page + entry). On i386 there is no
direct map, so all of it counts: 36 MiB at 2 GiB of RAM.

9.1 and later pad each of the four mappings so that address and physical address
have the same offset in a superpage, "if at least one large page fits". That test
is done in unsigned arithmetic, (size - distance) >= superpage, which wraps for
small sizes, so small mappings are padded too: up to one superpage each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.tune.kva import round_up
from standfast.tune.model import PAGE
from standfast.tune.rules import Rule

if TYPE_CHECKING:
    from standfast.tune.generations import Generation

RULE = Rule(
    "page array and boot mappings",
    "sys/vm/vm_page.c vm_page_startup, sys/vm/vm_reserv.c, pmap.c pmap_map"
    " of 8.0R, 9c, 9.3R, 10.4R; sizeof(struct vm_page) printed by the booted kernels",
    "7.0 to 11.x on i386",
)

_ADDRESS_BITS = 1 << 32


@dataclass
class Cursor:
    """Where the next mapping goes, in address space and in physical memory."""

    address: int
    physical: int
    superpage: int
    pads: bool

    def map(self, size: int) -> tuple[int, int]:
        """Map ``size`` bytes; return start and end in address space."""
        self.physical = (self.physical - size) // PAGE * PAGE
        size = round_up(size, PAGE)
        if self.pads:
            self._pad(size)
        start = self.address
        self.address += size
        return start, self.address

    def _pad(self, size: int) -> None:
        offset = self.physical % self.superpage
        distance = (self.superpage - offset) % self.superpage
        if (size - distance) % _ADDRESS_BITS < self.superpage:
            return
        if self.address % self.superpage < offset:
            self.address = self.address // self.superpage * self.superpage + offset
        elif self.address % self.superpage > offset:
            self.address = round_up(self.address, self.superpage) + offset


@dataclass(frozen=True)
class BootArrays:
    """Where the page array lies and what is left after it.

    Attributes:
        array: start and end of the page array, from KERNBASE.
        end: first free address after everything.
        physical: physical memory below this address is still free.
    """

    array: tuple[int, int]
    end: int
    physical: int


def place(kernel: Generation, start: int, top: int, *, superpage: int) -> BootArrays:
    """Place the arrays at ``start`` for RAM that ends at ``top``."""
    high = top - kernel.message_pages * PAGE
    cursor = Cursor(start, high, superpage, kernel.pads_mappings)
    cursor.map(kernel.boot_pages * PAGE)
    cursor.map(round_up(-(-(top // PAGE) // 8), PAGE))
    cursor.address += PAGE
    if kernel.arena:
        pages = (cursor.physical - PAGE) // (PAGE + kernel.page_bytes)
    else:
        pages = high // PAGE - 1
    array = cursor.map(pages * kernel.page_bytes)
    if kernel.reservation_bytes:
        cursor.map(-(-high // superpage) * kernel.reservation_bytes)
    return BootArrays(array, cursor.address, cursor.physical)

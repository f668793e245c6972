"""The kernel's address space on i386.

KVA_PAGES counts page directory entries: 4 MiB each, 2 MiB each with PAE; the
default is 256, or 512 with PAE, which is 1 GiB both ways. The kernel's space starts
at KERNBASE, KVA_PAGES entries below 4 GiB, and ends one page below 4 GiB
(VM_MAX_KERNEL_ADDRESS = VADDR(KPTDI+NKPDE-1, NPTEPG-1)), so the usable span is
KVA_PAGES x 4 MiB less one page. What is left below KERNBASE, less the page table
map of one entry group, is user space. From 12.1 on the kernel has a 4 GiB map of
its own and the option does nothing.
"""

from __future__ import annotations

from standfast.tune.model import MIB, PAGE
from standfast.tune.rules import Rule

RULE = Rule(
    "kernel address space",
    "sys/i386/include/{pmap.h,vmparam.h} of 8.0R, 9c, 9.3R, 10.4R; 12.1R, 13c",
    "7.0 to 11.x on i386",
)

DEFAULT = {"i386": 256, "i386-pae": 512}
ENTRY = {"i386": 4 * MIB, "i386-pae": 2 * MIB}


def span(arch: str, kva_pages: int) -> int:
    """Return bytes from KERNBASE to VM_MAX_KERNEL_ADDRESS."""
    return kva_pages * ENTRY[arch] - PAGE


def user_space(arch: str, kva_pages: int) -> int:
    """Return bytes that a process can address."""
    groups = 4 if arch == "i386-pae" else 1
    return 4 * 1024 * MIB - (kva_pages + groups) * ENTRY[arch]


def multiple(arch: str) -> int:
    """Return what KVA_PAGES must be a multiple of."""
    return 8 if arch == "i386-pae" else 4

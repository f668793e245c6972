"""What vm.kmem_size becomes (kmeminit).

Up to 9.x: size = 12 MiB + nmbclusters pages (nmbclusters = 1024 + 64 x maxusers);
at least RAM/scale, at least _min, at most _max; then vm.kmem_size, when set,
REPLACES it - so kmem_size_max does not cap an explicit size - and last it is cut to
twice RAM. 10.x and 11.x: min(max(RAM/scale, _min), _max), replaced by vm.kmem_size,
cut to twice RAM; in 11 a 0 means the default. From 12.0 on the same number reserves
nothing: it only wakes the reclaim of the zone allocator.

Scale and max: i386 3 and 320 MiB to 9.0, then two fifths of the address space
(((span from the page table map >> (PDRSHIFT - 2)) + 5) / 10 superpages: 412 MiB at
1 GiB, 820 MiB at KVA_PAGES=512), scale 1 and 1632 MiB in 13. amd64 3 to 8.0, 1 from
9 on (the change lies between), 400 MiB in 7.0 and 7.1, three fifths of the address
space after. arm64 3 in 11 and 12, 1 later, three fifths of 512 GiB. RAM here is what
is left after the kernel and the page array.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.tune.model import GIB, MIB, PAGE
from standfast.tune.rules import Rule
from standfast.tune.rules.kva_span import ENTRY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from standfast.tune.release import Release

RULE = Rule(
    "vm.kmem_size",
    "sys/kern/kern_malloc.c kmeminit and sys/<arch>/include/vmparam.h of 7.0c, 8.0R,"
    " 9c, 9.1R, 9.3R, 10.1R, 10.4R, 11b, 12.1R, 13c",
    "FreeBSD 7.0 to 15",
)

# VM_KMEM_SIZE_MAX as kernels of those lines printed it (sysctl dumps of 8.0 and 10.x).
AMD64_MAX_8 = 329853485875
AMD64_MAX_10 = 1319413950874
FLOOR = 12 * MIB
"""VM_KMEM_SIZE: what the kernel itself never goes below."""


@dataclass(frozen=True)
class Kmem:
    """A size and how it came about.

    Attributes:
        size: bytes.
        how: one line.
        explicit: whether vm.kmem_size set it.
        clamped: whether it was cut to twice RAM.
    """

    size: int
    how: str
    explicit: bool
    clamped: bool


def scale(release: Release, arch: str) -> int | None:
    """Return VM_KMEM_SIZE_SCALE, or None where it is not known."""
    if arch == "amd64":
        if release.major <= 7 or (release.major, release.minor) == (8, 0):  # noqa: PLR2004
            return 3
        return None if release.major == 8 else 1  # noqa: PLR2004
    if arch == "arm64":
        return 3 if release.major <= 12 else 1  # noqa: PLR2004
    return 1 if release.major >= 13 else 3  # noqa: PLR2004


def most(release: Release, arch: str, kva_pages: int) -> int:
    """Return VM_KMEM_SIZE_MAX."""
    if arch == "amd64":
        if not release.at_least(7, 2):
            return 400 * MIB
        if release.major == 7:  # noqa: PLR2004
            return 6 * GIB * 3 // 5
        return AMD64_MAX_8 if release.major <= 9 else AMD64_MAX_10  # noqa: PLR2004
    if arch == "arm64":
        return 512 * GIB * 3 // 5
    if not release.at_least(9, 1):
        return 320 * MIB
    return 1632 * MIB if release.major >= 13 else _two_fifths(arch, kva_pages)  # noqa: PLR2004


def size(
    release: Release,
    arch: str,
    *,
    pages: int,
    kva_pages: int,
    maxusers: int,
    tunables: Mapping[str, int],
) -> Kmem:
    """Return the size for ``pages`` of RAM and those tunables."""
    divisor = tunables.get("vm.kmem_size_scale") or scale(release, arch) or 3
    top = tunables.get("vm.kmem_size_max") or most(release, arch, kva_pages)
    least = tunables.get("vm.kmem_size_min") or (FLOOR if "i386" in arch else 0)
    wanted = pages // divisor * PAGE
    how = f"RAM/{divisor}"
    if release.major <= 9:  # noqa: PLR2004
        clusters = FLOOR + (1024 + 64 * maxusers) * PAGE
        if clusters > wanted:
            wanted, how = clusters, "12 MiB and the network buffers"
    if wanted < least:
        wanted, how = least, "vm.kmem_size_min"
    if wanted > top:
        wanted, how = top, "vm.kmem_size_max"
    explicit = "vm.kmem_size" in tunables
    if explicit and not (release.major >= 11 and tunables["vm.kmem_size"] == 0):  # noqa: PLR2004
        wanted, how = tunables["vm.kmem_size"], "vm.kmem_size"
    clamped = wanted // 2 // PAGE > pages
    if clamped:
        wanted, how = 2 * pages * PAGE, "twice RAM, which caps what was asked"
    return Kmem(wanted, how, explicit, clamped)


def _two_fifths(arch: str, kva_pages: int) -> int:
    entry = ENTRY[arch]
    group = 4 if arch == "i386-pae" else 1
    # From the page table map (with its own index as offset) to the last page.
    index = 4 * GIB // entry - kva_pages - group
    low = index * entry + index * PAGE
    quarters = (4 * GIB - PAGE - low) // (entry // 4)
    return (quarters + 5) // 10 * entry

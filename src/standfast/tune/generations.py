"""Which kernel's layout judges which i386 release, and how far it is trusted.

Four layouts were read from source and checked by booting those very kernels (8.0,
17 Feb 2011, 9.3, 10.4); 9.1 and 7.x are read from source only. A release between
two of them is judged by both, and is safe only if it is safe by both. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from standfast.tune.model import KIB, MIB, PAGE

if TYPE_CHECKING:
    from collections.abc import Callable

    from standfast.tune.release import Release


@dataclass(frozen=True)
class Generation:
    """One kernel's constants; each is named in the rule that uses it.

    Attributes:
        name: for a person.
        source: tag of the tree that it was read from.
        first_pages: what locore takes after the image: page tables, directory,
            stacks; measured one page above the sum of its ALLOCPAGES.
        rounds_start: pmap_kmem_choose rounds the first free address up again.
        kernel_page_table_map: KPTmap of KVA_PAGES pages (pmap_bootstrap).
        message_pages: MSGBUF_SIZE.
        boot_pages: UMA_BOOT_PAGES.
        page_bytes: sizeof(struct vm_page).
        reservation_bytes: sizeof(struct vm_reserv); 0 when there is none.
        pads_mappings: pmap_map pads to the physical offset in a superpage.
        buffer_bytes: sizeof(struct buf).
        callout_bytes: sizeof(struct callout), 0 when callouts come from kmem.
        aligned: whether kmem_map starts at a superpage.
        aligned_buffers: whether clean_map does.
        buffer_limit: VM_BCACHE_SIZE_MAX.
        transient: 1/5 of the buffers is set aside as a transient bio map.
        exec_bytes: bytes of one of the 16 slots of exec_map.
        pipes_from_kmem: maxpipekva is kmem/20; otherwise min(RAM, KVA)/64.
        zero_region: ZERO_REGION_SIZE, 0 when there is none.
        arena: kmem, buffers and the like come from kernel_arena.
        swap_bytes: VM_SWZONE_SIZE_MAX.
        later_bytes: taken between the last panic and init besides the sf_bufs,
            measured on a bare kernel.
    """

    name: str
    source: str
    first_pages: int
    rounds_start: bool
    kernel_page_table_map: bool
    message_pages: int
    boot_pages: int
    page_bytes: int
    reservation_bytes: int
    pads_mappings: bool
    buffer_bytes: int
    callout_bytes: int
    aligned: bool
    aligned_buffers: bool
    buffer_limit: int
    transient: bool
    exec_bytes: int
    pipes_from_kmem: bool
    zero_region: int
    arena: bool
    swap_bytes: int
    later_bytes: int


_ARG_MAX = 256 * KIB
_EXEC_OLD = _ARG_MAX + 3 * PAGE
_EXEC_NEW = _ARG_MAX + PAGE  # round_page(PATH_MAX + ARG_MAX)

G80 = Generation(
    name="8.0",
    source="8.0R",
    first_pages=38,
    rounds_start=True,
    kernel_page_table_map=False,
    message_pages=16,
    boot_pages=48,
    page_bytes=72,
    reservation_bytes=40,
    pads_mappings=False,
    buffer_bytes=336,
    callout_bytes=32,
    aligned=True,
    aligned_buffers=False,
    buffer_limit=200 * MIB,
    transient=False,
    exec_bytes=_EXEC_OLD,
    pipes_from_kmem=True,
    zero_region=0,
    arena=False,
    swap_bytes=32 * MIB,
    later_bytes=33332 * KIB - 6656 * PAGE,
)
G9C = replace(
    G80,
    name="Feb 2011",
    source="9c",
    rounds_start=False,
    kernel_page_table_map=True,
    buffer_bytes=340,
    aligned_buffers=True,
    exec_bytes=_EXEC_NEW,
)
G93 = replace(
    G9C,
    name="9.3",
    source="9.3R",
    boot_pages=64,
    reservation_bytes=44,
    pads_mappings=True,
    buffer_bytes=344,
    buffer_limit=7224 * 16 * KIB,
    transient=True,
    pipes_from_kmem=False,
    zero_region=64 * KIB,
    swap_bytes=276 * 128 * KIB,
    later_bytes=37980 * KIB - 6656 * PAGE,
)
G91 = replace(
    G93,
    name="9.1",
    source="9.1R",
    buffer_limit=200 * MIB,
    transient=False,
    swap_bytes=32 * MIB,
)
G104 = replace(
    G93,
    name="10.4",
    source="10.4R",
    first_pages=40,
    message_pages=24,
    page_bytes=68,
    reservation_bytes=56,
    callout_bytes=0,
    arena=True,
)
# 7.0c has neither reservations nor large-page promotion nor an aligned kmem_map.
G70 = replace(
    G80,
    name="7.0",
    source="7.0c",
    rounds_start=True,
    reservation_bytes=0,
    aligned=False,
)

# The boots were 4 MiB apart, so they place a limit no better than half of that.
TRIED = 2 * MIB
# One alignment step, for a release between two kernels that were booted.
BETWEEN = 4 * MIB
# What a release may differ from the nearest kernel that was booted: the largest
# correction that the boots made to an arithmetic from source alone (21 MB on 9.3).
NEARBY = 24 * MIB
# PAE kernels were built but never booted, and of 7.x there was no kernel at all.
UNTRIED = 75 * MIB


@dataclass(frozen=True)
class Choice:
    """The layouts that judge a release.

    Attributes:
        generations: which, nearest first.
        margin: bytes around a limit inside which there is no answer.
        why: how good the choice is, one sentence.
    """

    generations: tuple[Generation, ...]
    margin: int
    why: str


def choose(release: Release) -> Choice | None:
    """Return the layouts for an i386 release from 7.0 to 11.x, else None."""
    for test, choice in _CHOICES:
        if test(release):
            return choice
    return None


_CHOICES: tuple[tuple[Callable[[Release], bool], Choice], ...] = (
    (
        lambda r: r.major == 7,  # noqa: PLR2004
        Choice((G70, G80), UNTRIED, "no 7.x kernel was booted: 7.0 and 8.0 by source"),
    ),
    (
        lambda r: r.major == 8 and r.branch == "x",  # noqa: PLR2004
        Choice((G9C, G80), NEARBY, "8.x: by 8.0 and by HEAD of Feb 2011"),
    ),
    (
        lambda r: r.major == 9 and r.branch == "x",  # noqa: PLR2004
        Choice((G93, G91, G9C), NEARBY, "9.x: by Feb 2011, 9.1 and 9.3"),
    ),
    (
        lambda r: r.major == 8 and r.minor <= 0,  # noqa: PLR2004
        Choice((G80,), TRIED, "an 8.0 kernel was booted"),
    ),
    (
        lambda r: r.major == 8 and r.minor <= 2,  # noqa: PLR2004
        Choice(
            (G9C, G80),
            BETWEEN,
            "between two kernels that were booted: 8.0 and HEAD of Feb 2011",
        ),
    ),
    (
        lambda r: r.major == 8,  # noqa: PLR2004
        Choice(
            (G9C, G80),
            NEARBY,
            "later than the kernels that were booted (8.0, HEAD of Feb 2011)",
        ),
    ),
    (
        lambda r: r.major == 9 and r.minor <= 0 and r.branch == "release",  # noqa: PLR2004
        Choice(
            (G9C, G91),
            NEARBY,
            "9.0-RELEASE lies between HEAD of Feb 2011 and 9.1; by both of them",
        ),
    ),
    (
        lambda r: r.major == 9 and r.minor <= 0,  # noqa: PLR2004
        Choice((G9C,), TRIED, "the 9.0-CURRENT kernel of 17 Feb 2011 was booted"),
    ),
    (
        lambda r: r.major == 9 and r.minor == 1,  # noqa: PLR2004
        Choice((G91,), NEARBY, "9.1 by source; the nearest kernel booted is 9.3"),
    ),
    (
        lambda r: r.major == 9 and r.minor == 2,  # noqa: PLR2004
        Choice((G93, G91), NEARBY, "9.2 by source; the nearest kernel booted is 9.3"),
    ),
    (
        lambda r: r.major == 9,  # noqa: PLR2004
        Choice((G93,), TRIED, "a 9.3 kernel was booted"),
    ),
    (
        lambda r: r.major == 10 and r.minor == 4,  # noqa: PLR2004
        Choice((G104,), TRIED, "a 10.4 kernel was booted"),
    ),
    (
        lambda r: r.major in {10, 11},
        Choice((G104,), NEARBY, "the nearest kernel booted is 10.4"),
    ),
)

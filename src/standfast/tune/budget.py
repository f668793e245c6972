"""The i386 verdict: boot every assumption that the facts allow, and see who agrees.

What is not known is a range, and each end of it is tried: image and modules from 3
to 30 MiB, the top of RAM up to 16 MiB below what is installed, SMP or not, two
kernels for a release between them. Each is tried with vm.kmem_size as it is and a
margin to either side. All boot with room to spare: boots. All panic: panics. Some of
each: cannot tell. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from standfast.tune import generations, layout
from standfast.tune.model import GIB, KIB, MIB, Facts, Layout, Verdict, mib
from standfast.tune.rules import autotune, kernel_end, kmem_size, kva_span

if TYPE_CHECKING:
    from collections.abc import Mapping

    from standfast.tune.release import Release

# 18 is the middle of what i386 hosts with ZFS were reported to load, 3 the smallest
# kernel that was booted, 30 the largest reported with its margin.
IMAGE_RANGE = (18 * MIB, 3 * MIB, 30 * MIB)
# A size is written down to a tenth of a MiB, and the loader puts its own tables
# and the environment behind the last module.
STATED_WITHIN = (-51 * KIB, 128 * KIB)
# The name under which a live host's count is kept, and what that count leaves out.
COUNTED = "kldstat"
SYMBOLS = 4 * MIB
# Where a machine of more than 3 GiB may end its RAM below the device hole.
HOLE_TOPS = (3 * GIB + GIB // 2, 3 * GIB, 3 * GIB + 3 * GIB // 4)
HOLE_FROM = 3 * GIB
# What firmware keeps at the top: nothing, 128 KiB (QEMU, measured), or more; the
# odd MiB are there because 9.1 and later pad by the offset in a superpage.
RESERVED_TOPS = (128 * KIB, 0, MIB, 2 * MIB, 3 * MIB, 16 * MIB)
BUFFERS = "buffer KVA"
RAM_RANGE = (512 * MIB, GIB, 2 * GIB, 3 * GIB + GIB // 2)


@dataclass(frozen=True)
class Tried:
    """One assumption and what came of it."""

    machine: layout.Machine
    base: layout.Ground
    kmem: kmem_size.Kmem
    layout: Layout
    outcomes: frozenset[Verdict]


@dataclass(frozen=True)
class Budget:
    """The verdict on the boot, with everything that was tried."""

    verdict: Verdict
    why: str
    tried: tuple[Tried, ...]
    margin: int
    assumed: tuple[str, ...]
    missing: tuple[str, ...]


def judge(facts: Facts, release: Release, tunables: Mapping[str, int]) -> Budget:
    """Return the verdict on booting an i386 kernel of 7.0 to 11.x."""
    choice = generations.choose(release)
    assert choice is not None
    margin = generations.UNTRIED if facts.arch == "i386-pae" else choice.margin
    machines, assumed, missing = assumptions(facts, choice, tunables)
    tried = tuple(_try(release, machine, margin) for machine in machines)
    outcomes = frozenset().union(*(one.outcomes for one in tried))
    exact = not missing and facts.top is not None and outcomes == {Verdict.RISKY}
    verdict = _agree(outcomes, exact=exact)
    why = _why(verdict, tried, margin)
    return Budget(verdict, why, tried, margin, (choice.why, *assumed), missing)


def assumptions(
    facts: Facts, choice: generations.Choice, tunables: Mapping[str, int]
) -> tuple[list[layout.Machine], tuple[str, ...], tuple[str, ...]]:
    """Return the machines to try, what was assumed, and what is missing."""
    assumed: list[str] = []
    missing: list[str] = []
    images = _images(facts, assumed, missing)
    pages = _kva_pages(facts, assumed, missing)
    tops = _tops(facts, tunables, assumed, missing)
    smp = (False, True) if facts.cpus is None else (facts.cpus > 1,)
    machines = [
        layout.Machine(kernel, facts.arch, count, image, top, multi, tunables)
        for kernel, count, image, top, multi in product(
            choice.generations, pages, images, tops, smp
        )
    ]
    return machines, tuple(assumed), tuple(missing)


def _images(facts: Facts, assumed: list[str], missing: list[str]) -> tuple[int, ...]:
    if facts.image is None:
        missing.append("size of kernel and modules (--kernel-image)")
        assumed.append("kernel and modules of 3 to 30 MiB")
        return IMAGE_RANGE
    sizes = [facts.image + off for off in (0, *STATED_WITHIN)]
    if facts.living(COUNTED) == facts.image:
        assumed.append("up to 4 MiB of symbol tables beside what kldstat counts")
        sizes.append(facts.image + SYMBOLS)
    # Only the rounded end counts, so sizes that end alike are one assumption.
    ends = {kernel_end.image_end(facts.arch, size): size for size in reversed(sizes)}
    return tuple(reversed(ends.values()))


def _kva_pages(facts: Facts, assumed: list[str], missing: list[str]) -> tuple[int, ...]:
    default = kva_span.DEFAULT[facts.arch]
    if facts.kva_pages is not None:
        return (facts.kva_pages,)
    if facts.kernel_options:
        assumed.append(f"KVA_PAGES={default}, since the kernel configuration sets none")
        return (default,)
    missing.append("KVA_PAGES (--kva-pages or --kernel-config)")
    assumed.append(f"KVA_PAGES of {default} or {2 * default}")
    return (default, 2 * default)


def _tops(
    facts: Facts,
    tunables: Mapping[str, int],
    assumed: list[str],
    missing: list[str],
) -> tuple[int, ...]:
    cap = tunables.get("hw.physmem", 0)
    if facts.top is not None:
        return (min(facts.top, cap) if cap else facts.top,)
    if facts.ram is None:
        missing.append("RAM (--ram)")
        assumed.append("RAM of 512 MiB to 3.5 GiB")
        tops: tuple[int, ...] = RAM_RANGE
    elif facts.ram > HOLE_FROM and facts.arch == "i386":
        assumed.append("RAM usable up to 3, 3.5 or 3.75 GiB, below the device hole")
        tops = tuple(dict.fromkeys(min(top, facts.ram) for top in HOLE_TOPS))
    else:
        assumed.append("the top 0 to 16 MiB of RAM kept by the firmware")
        tops = tuple(facts.ram - kept for kept in RESERVED_TOPS)
    return tuple(min(top, cap) for top in tops) if cap else tops


def kmem_of(
    release: Release, machine: layout.Machine, base: layout.Ground
) -> kmem_size.Kmem:
    """Return vm.kmem_size on that machine."""
    return kmem_size.size(
        release,
        machine.arch,
        pages=base.pages,
        kva_pages=machine.kva_pages,
        maxusers=autotune.maxusers(base.physmem, machine.tunables),
        tunables=machine.tunables,
    )


def _try(release: Release, machine: layout.Machine, margin: int) -> Tried:
    base = layout.ground(machine)
    kmem = kmem_of(release, machine, base)
    placed = layout.lay_out(machine, kmem.size, base)
    outcomes = {outcome(placed)}
    if kmem.explicit and kmem.size < kmem_size.FLOOR:
        outcomes = {Verdict.PANICS}
    else:
        for size in (kmem.size - margin, kmem.size + margin):
            outcomes.add(outcome(layout.lay_out(machine, max(size, 4096), base)))
    return Tried(machine, base, kmem, placed, frozenset(outcomes))


def outcome(placed: Layout) -> Verdict:
    """Return what one layout means: boots, thin, panics, or a false boot.

    A false boot (10.x, 11.x) is a kernel that goes on with its buffer cache at
    address 0, because nobody looks whether kva_alloc failed.
    """
    if placed.failure is not None:
        return Verdict.PANICS
    if BUFFERS in placed.missing:
        return Verdict.RISKY
    if placed.missing or placed.left < placed.wanted:
        return Verdict.THIN
    return Verdict.BOOTS


def _agree(outcomes: frozenset[Verdict], *, exact: bool) -> Verdict:
    if outcomes == {Verdict.BOOTS}:
        return Verdict.BOOTS
    if outcomes == {Verdict.PANICS}:
        return Verdict.PANICS
    if Verdict.RISKY in outcomes:
        # On 10.x more is not steadily worse, so ends that agree say nothing of
        # what lies between them; only a single assumption can be believed.
        return Verdict.RISKY if exact else Verdict.CANNOT_TELL
    return Verdict.CANNOT_TELL if Verdict.PANICS in outcomes else Verdict.THIN


def limits(tried: tuple[Tried, ...]) -> tuple[int, int]:
    """Return the smallest and the largest limit over all that was tried."""
    low = high = layout.largest(tried[0].machine, tried[0].base)
    for one in tried[1:]:
        # Two layouts tell whether this one lies between; bisection takes a dozen.
        if not _passes(one, low) or _passes(one, high + MIB):
            limit = layout.largest(one.machine, one.base)
            low, high = min(low, limit), max(high, limit)
    return low, high


def _passes(one: Tried, kmem: int) -> bool:
    return layout.past_boot(layout.lay_out(one.machine, kmem, one.base))


def shortage(placed: Layout) -> int:
    """Return by how many bytes the request that broke the boot did not fit."""
    failure = placed.failure
    return 0 if failure is None else failure.size - failure.gap[1]


def _why(verdict: Verdict, tried: tuple[Tried, ...], margin: int) -> str:
    first = tried[0]
    if verdict is Verdict.PANICS:
        return _why_panics(tried)
    left = min(one.layout.left for one in tried)
    wanted = max(one.layout.wanted for one in tried)
    if verdict is Verdict.BOOTS:
        return (
            f"vm.kmem_size of {mib(first.kmem.size)} leaves {mib(left)} of address"
            f" space; {mib(wanted)} are known to be asked for later"
        )
    if verdict in {Verdict.THIN, Verdict.RISKY}:
        gone = sorted({name for one in tried for name in one.layout.missing})
        if gone:
            return f"it gets past the boot without {', '.join(gone)}, in silence"
        return f"{mib(left)} are left where {mib(wanted)} are asked for later"
    return (
        f"vm.kmem_size of {mib(first.kmem.size)} is too near the limit: some"
        f" assumptions boot and some panic, counting {mib(margin)} to either side"
    )


def _why_panics(tried: tuple[Tried, ...]) -> str:
    failure = tried[0].layout.failure
    if failure is None:
        return (
            f"vm.kmem_size of {tried[0].kmem.size} bytes is less than the"
            f" {mib(kmem_size.FLOOR)} that the kernel never goes below"
        )
    if failure.size == 0:
        return f"{failure.name} is asked for with no size at all: {failure.message}"
    short = [shortage(one.layout) for one in tried if one.layout.failure]
    low, high = min(short), max(short)
    by = mib(low) if high - low < MIB else f"{mib(low)} to {mib(high)}"
    gap = f"the largest gap is {mib(failure.gap[1])}"
    if low <= 0:
        by = "the alignment of its start"
    return f"{failure.name} asks for {mib(failure.size)} and {gap}: too little by {by}"

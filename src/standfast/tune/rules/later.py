"""What may happen once it runs: the ARC against the room it lives in.

Up to 11.x the ARC's buffers lie in kmem. What counts is q = arc_max / kmem, because
reclaim starts only at 3/4 of kmem in use (4/5 in the 7.x era) and other allocations
come on top. 7.0 to 7.2 panic at the first refusal (`kmem_malloc(...): kmem_map too
small`): high above q = 0.5, medium above 0.35. 7.3 to 9.x first call the low-memory
handlers and reclaim zones, eight times: high above 0.75, medium above 0.6. 10.x and
11.x wait for room instead of panicking: the same q, but a hang. The two pairs of q
come from reports and not from source (0.5 from the 2007 and MidnightBSD panics), so
this is the weakest rule of all. From 12.0 on, and with OpenZFS, only RAM counts.

A vm.kmem_size of a terabyte on a machine with little RAM is no shortage: on 64 bits
q is taken of the smaller of kmem and RAM, and 1 GiB beside the ARC is enough
whatever q says (that is the kernel's own default for large kmem).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.tune.model import GIB, Level, Verdict
from standfast.tune.rules import Rule

if TYPE_CHECKING:
    from standfast.tune.release import Release

RULE = Rule(
    "ARC against kmem",
    "vm_kern.c kmem_malloc of 7.0c and 8.0R to 9.3R, subr_vmem.c of 10.4R, arc.c"
    " arc_reclaim_needed; thresholds from reports",
    "FreeBSD 7.0 to 11.x",
)


@dataclass(frozen=True)
class Risk:
    """How likely, what would happen, and why."""

    level: Level
    verdict: Verdict
    why: str


def risk(release: Release, *, arc: int, kmem: int, ram: int, arch: str) -> Risk:
    """Return the risk of an ARC of ``arc`` bytes in ``kmem`` bytes."""
    outcome = Verdict.HANGS if release.major >= 10 else Verdict.RISKY  # noqa: PLR2004
    room = kmem if "i386" in arch else min(kmem, ram)
    share = arc / room if room else 1.0
    high, medium = (0.75, 0.6) if release.at_least(7, 3) else (0.5, 0.35)
    why = f"the ARC may grow to {share:.0%} of the memory it shares"
    if "i386" not in arch and room - arc >= GIB:
        return Risk(Level.LOW, outcome, f"{why}, and 1 GiB or more is left beside it")
    if share > high:
        return Risk(Level.HIGH, outcome, f"{why}; above {high:.0%} is high")
    if share > medium:
        return Risk(Level.MEDIUM, outcome, f"{why}; above {medium:.0%} is medium")
    return Risk(Level.LOW, outcome, why)


def memory_risk(*, arc_max: int, arc_min: int, ram: int) -> Risk:
    """Return the risk where only RAM counts (FreeBSD 12 on, OpenZFS on Linux).

    The shrinker frees nothing of the ARC below arc_min; that part is as good as
    wired. More than half of RAM wired is high: swapping and the OOM killer see it
    as used. A large arc_max alone is given back under pressure.
    """
    outcome = Verdict.OUT_OF_MEMORY
    if arc_min * 2 > ram:
        share = arc_min / ram
        return Risk(
            Level.HIGH, outcome, f"arc_min holds {share:.0%} of RAM, never given back"
        )
    if ram - arc_max < GIB // 2:
        return Risk(
            Level.MEDIUM, outcome, "less than 512 MiB of RAM is left beside the ARC"
        )
    return Risk(Level.LOW, outcome, "the ARC gives way under pressure down to arc_min")

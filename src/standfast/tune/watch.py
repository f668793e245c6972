"""Live ARC and kernel memory against their limits: one screen, JSON, Prometheus.

Pure: it is handed samples and tells what they mean. Rates need two samples; counters
that went backwards (the module was loaded again) give no rate. vm.kmem_map_free is
the largest gap up to 9.x, all free space in 10 and 11, limit minus use from 12 on,
so only up to 9.x does a shortfall of size + free mean fragmentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from standfast.tune.model import MIB, Facts, Finding, Severity, mib
from standfast.tune.release import parse_release

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ARCSTATS = "kstat.zfs.misc.arcstats."
_RATES = ("hits", "misses", "evict_skip", "memory_throttle_count")
# arc.c of 8.0R to 10.1R: the ARC of 8.0 to 10.1 starts to yield at 3/4 of kmem in use.
YIELDS_AT = 0.75
# A map whose largest gap is a tenth smaller than all that is free is in pieces.
FRAGMENTED = 0.1


@dataclass(frozen=True)
class Sample:
    """Values at one time; ARC counters by their short names.

    Attributes:
        at: seconds since the Unix epoch.
        arc: arcstats by name.
        kernel: vm.* and the like by full name.
    """

    at: float
    arc: Mapping[str, int]
    kernel: Mapping[str, int]


def sample(facts: Facts, at: float) -> Sample:
    """Return the sample that freshly read facts hold."""
    arc, kernel = {}, {}
    for name, value in facts.live:
        if name.startswith(ARCSTATS):
            arc[name.removeprefix(ARCSTATS)] = value
        elif name.startswith(("vm.", "hw.", "vfs.")) or name == "VmallocTotal":
            kernel[name] = value
        else:
            arc[name] = value
    return Sample(at, arc, kernel)


def rates(now: Sample, before: Sample | None) -> dict[str, float]:
    """Return events a second between two samples."""
    if before is None or now.at <= before.at:
        return {}
    found = {}
    for name in _RATES:
        if name in now.arc and now.arc[name] >= before.arc.get(name, 1 << 63):
            found[name] = (now.arc[name] - before.arc[name]) / (now.at - before.at)
    total = found.get("hits", 0.0) + found.get("misses", 0.0)
    if total > 0:
        found["hit_ratio"] = found["hits"] / total
    return found


def findings(
    facts: Facts, now: Sample, before: Sample | None = None
) -> tuple[Finding, ...]:
    """Return what is worth a word in this sample."""
    return (
        *_arc_findings(now, before),
        *_kmem_findings(facts, now),
        *_kva_findings(now),
    )


def _arc_findings(now: Sample, before: Sample | None) -> Iterator[Finding]:
    arc = now.arc
    size, most, least = arc.get("size"), arc.get("c_max"), arc.get("c_min")
    if size is not None and most and size > most * 1.05:
        what = f"the ARC holds {mib(size)}, more than its maximum of {mib(most)}"
        yield Finding(Severity.WARNING, what, "arcstats size")
    target = arc.get("c")
    if target is not None and least and most and target <= least < most:
        what = f"the ARC has been squeezed to its minimum of {mib(least)}"
        yield Finding(Severity.WARNING, what, "arcstats c")
    if rates(now, before).get("memory_throttle_count", 0.0) > 0:
        what = "writes wait for memory (memory_throttle_count rises)"
        yield Finding(Severity.WARNING, what, "arcstats")
    used, limit = arc.get("arc_meta_used"), arc.get("arc_meta_limit")
    if used is not None and limit and used > limit:
        what = f"metadata holds {mib(used)}, over its limit of {mib(limit)}"
        yield Finding(Severity.WARNING, what, "arcstats arc_meta_used")


def _kmem_findings(facts: Facts, now: Sample) -> Iterator[Finding]:
    size, used = now.kernel.get("vm.kmem_size"), now.kernel.get("vm.kmem_map_size")
    if not size or used is None:
        return
    release = parse_release(facts.release)
    old = release is not None and release.major <= 9  # noqa: PLR2004
    if used > size * YIELDS_AT:
        what = f"kmem is {used / size:.0%} used; above {YIELDS_AT:.0%} the ARC yields"
        yield Finding(Severity.WARNING, what, "vm.kmem_map_size")
    free = now.kernel.get("vm.kmem_map_free")
    if old and free is not None and size - used > 0:
        lost = size - used - free
        if lost > (size - used) * FRAGMENTED:
            what = (
                f"kmem is in pieces: {mib(size - used)} free, the largest piece"
                f" {mib(free)}"
            )
            yield Finding(Severity.WARNING, what, "vm.kmem_map_free")


def _kva_findings(now: Sample) -> Iterator[Finding]:
    free = now.kernel.get("vm.kvm_free")
    if free is not None and free < 32 * MIB and "vm.kvm_size" in now.kernel:
        what = f"{mib(free)} of kernel address space are left unmapped"
        yield Finding(Severity.NOTE, what, "vm.kvm_free")


def screen(facts: Facts, now: Sample, before: Sample | None) -> Iterator[str]:
    """Yield the lines of one screen."""
    arc, kernel = now.arc, now.kernel
    yield f"{facts.origin or 'this machine'}: {facts.os} {facts.release} {facts.arch}"
    if "size" in arc:
        yield _gauge("ARC size", arc["size"], arc.get("c_max", 0))
        yield _gauge("ARC target", arc.get("c", 0), arc.get("c_max", 0))
        yield f"{'ARC minimum':<14}{mib(arc.get('c_min', 0)):>12}"
    else:
        yield "no arcstats: is ZFS loaded?"
    if "vm.kmem_map_size" in kernel:
        size = kernel.get("vm.kmem_size", 0)
        yield _gauge("kmem", kernel["vm.kmem_map_size"], size)
    if "vm.kvm_size" in kernel:
        used = kernel["vm.kvm_size"] - kernel.get("vm.kvm_free", 0)
        yield _gauge("address space", used, kernel["vm.kvm_size"])
    speed = rates(now, before)
    if "hits" in speed:
        ratio = f", {speed['hit_ratio']:.1%} hits" if "hit_ratio" in speed else ""
        yield (f"{'reads':<14}{speed['hits'] + speed.get('misses', 0):>10.0f}/s{ratio}")
    for finding in findings(facts, now, before):
        yield f"! {finding.what}"


def _gauge(name: str, value: int, limit: int) -> str:
    if limit <= 0:
        return f"{name:<14}{mib(value):>12}"
    filled = min(30, round(value / limit * 30))
    bar = "#" * filled + "." * (30 - filled)
    return f"{name:<14}{mib(value):>12} [{bar}] {value / limit:.0%} of {mib(limit)}"


def as_json(facts: Facts, now: Sample, before: Sample | None) -> dict[str, Any]:
    """Return the sample as one JSON line's values."""
    return {
        "at": now.at,
        "host": facts.origin,
        "arc": dict(now.arc),
        "kernel": dict(now.kernel),
        "rates": rates(now, before),
        "findings": [
            {"severity": f.severity.value, "what": f.what, "place": f.place}
            for f in findings(facts, now, before)
        ],
    }


_METRICS = (
    ("size", "standfast_tune_arc_size_bytes"),
    ("c", "standfast_tune_arc_target_bytes"),
    ("c_max", "standfast_tune_arc_max_bytes"),
    ("c_min", "standfast_tune_arc_min_bytes"),
)
_KERNEL_METRICS = (
    ("vm.kmem_size", "standfast_tune_kmem_size_bytes"),
    ("vm.kmem_map_size", "standfast_tune_kmem_used_bytes"),
    ("vm.kmem_map_free", "standfast_tune_kmem_free_bytes"),
    ("vm.kvm_size", "standfast_tune_kva_size_bytes"),
    ("vm.kvm_free", "standfast_tune_kva_free_bytes"),
)


def prometheus(facts: Facts, now: Sample, before: Sample | None) -> str:
    """Return the sample in Prometheus text format, for the textfile collector."""
    lines = []
    pairs = [(metric, now.arc[name]) for name, metric in _METRICS if name in now.arc]
    pairs += [
        (metric, now.kernel[name])
        for name, metric in _KERNEL_METRICS
        if name in now.kernel
    ]
    pairs.append(("standfast_tune_findings", len(findings(facts, now, before))))
    for metric, value in pairs:
        lines += [f"# TYPE {metric} gauge", f"{metric} {value}"]
    for name in ("hits", "misses"):
        if name in now.arc:
            metric = f"standfast_tune_arc_{name}_total"
            lines += [f"# TYPE {metric} counter", f"{metric} {now.arc[name]}"]
    return "\n".join(lines) + "\n"

"""From settings as text to the values that the kernel and ZFS end up with.

Pure. Every setting that does not arrive as its author meant it gives a finding:
refused numbers, cut numbers, names this release does not know, limits that ZFS
ignores in silence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.tune import modprobe
from standfast.tune.model import Finding, Setting, Severity, mib
from standfast.tune.release import Release
from standfast.tune.rules import arc_freebsd, arc_openzfs, kenv_number, names, prefetch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from standfast.tune.model import Facts

_OPENZFS_20 = Release(2, 0, 0)


@dataclass(frozen=True)
class Tunables:
    """Numbers by tunable, FreeBSD's old names; and what did not arrive."""

    values: Mapping[str, int]
    findings: tuple[Finding, ...]


def bits_of(arch: str) -> int:
    """Return the width of the kernel's `unsigned long`."""
    return 32 if "i386" in arch else 64


def freebsd_tunables(
    facts: Facts, settings: tuple[Setting, ...], release: Release
) -> Tunables:
    """Return what the kernel reads of these settings."""
    values: dict[str, int] = {}
    findings: list[Finding] = []
    for setting in settings:
        if not setting.name.startswith(("vm.", "kern.", "vfs.", "hw.")):
            continue
        if trouble := names.trouble(release, setting.name):
            findings.append(
                Finding(Severity.IGNORED, trouble, setting.place, names.RULE.source)
            )
            if setting.name in names.NEW_NAMES:
                continue
        number = kenv_number.read(
            setting.text,
            bits=bits_of(facts.arch),
            refuses_overflow=release.major >= 13,  # noqa: PLR2004
        )
        if number.note:
            findings.append(_number_finding(setting, number))
        if number.value is not None:
            values[names.NEW_NAMES.get(setting.name, setting.name)] = number.value
    return Tunables(values, tuple(findings))


def _number_finding(setting: Setting, number: kenv_number.Number) -> Finding:
    severity = Severity.IGNORED if number.value is None else Severity.WARNING
    what = f"{setting.name}: {number.note}"
    if number.value is None:
        what += ", and the default stays, without a message"
    return Finding(severity, what, setting.place, kenv_number.RULE.source)


def linux_tunables(settings: tuple[Setting, ...]) -> Tunables:
    """Return zfs module parameters as numbers; one that is none is fatal."""
    values = {}
    findings = []
    for setting in settings:
        value = modprobe.number(setting.text)
        if value is None:
            findings.append(modprobe.no_number(setting))
        else:
            values[setting.name] = value
    return Tunables(values, tuple(findings))


def own_zfs(release: Release) -> bool:
    """Return whether FreeBSD of that release has its own ZFS (before OpenZFS 2.0)."""
    return release.major <= 12  # noqa: PLR2004


def arc_of_freebsd(
    release: Release, *, kmem: int, ram: int, tunables: Mapping[str, int]
) -> arc_freebsd.Arc:
    """Return the ARC's limits on FreeBSD."""
    if own_zfs(release):
        return arc_freebsd.limits(release, kmem, ram, tunables)
    given = {
        "arc_max": tunables.get("vfs.zfs.arc_max", 0),
        "arc_min": tunables.get("vfs.zfs.arc_min", 0),
    }
    # FreeBSD 13.0 came with OpenZFS 2.0, 14.0 with 2.2; the order of tests that
    # matters here is the same in both.
    arc = arc_openzfs.limits(_OPENZFS_20, ram, given, freebsd=True)
    ignored = tuple(f"vfs.zfs.{name}" for name in arc.ignored)
    return arc_freebsd.Arc(arc.largest, arc.smallest, arc.how, ignored)


def arc_of_linux(
    release: Release, ram: int, tunables: Mapping[str, int]
) -> arc_freebsd.Arc:
    """Return the ARC's limits on Linux."""
    given = {
        "arc_max": tunables.get("zfs_arc_max", 0),
        "arc_min": tunables.get("zfs_arc_min", 0),
    }
    arc = arc_openzfs.limits(release, ram, given, freebsd=False)
    ignored = tuple(f"zfs_{name}" for name in arc.ignored)
    return arc_freebsd.Arc(arc.largest, arc.smallest, arc.how, ignored)


def ignored_findings(
    arc: arc_freebsd.Arc,
    settings: tuple[Setting, ...],
    tunables: Mapping[str, int],
    source: str,
) -> tuple[Finding, ...]:
    """Return a finding for each limit that ZFS ignores."""
    places = {names.NEW_NAMES.get(s.name, s.name): s.place for s in settings}
    found = []
    for name in arc.ignored:
        what = (
            f"{name} of {mib(tunables.get(name, 0))} is outside of what ZFS takes"
            f" and is ignored: arc_max stays {mib(arc.largest)}"
            f" and arc_min {mib(arc.smallest)}"
        )
        found.append(Finding(Severity.IGNORED, what, places.get(name, ""), source))
    return tuple(found)


def prefetch_of(
    facts: Facts, ram: int, tunables: Mapping[str, int], *, own: bool
) -> bool:
    """Return whether file prefetch is on."""
    return prefetch.is_on(facts.arch, ram, tunables, own=own)

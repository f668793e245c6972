"""A full set of settings for a machine and its job, each with reason and arithmetic.

The share of memory that the ARC gets is a policy, taken from defaults that others
have lived with: storage as OpenZFS 2.3 (RAM less 1 GiB, or 5/8), mixed half of RAM
(OpenZFS on Linux to 2.2), desktop a quarter. Where the kernel's address space is the
limit, vm.kmem_size is the largest multiple of 32 MiB that checks as "boots" under
every assumption, and the ARC gets the part of it that keeps the run-time risk low.
What the user has set stays, unless it is harmful or ignored. Pure: what comes back
is always judged again, and anything but "boots" is an error, not advice.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from standfast.errors import ExitStatus, StandfastError
from standfast.tune import budget, effective, loaderconf, modprobe
from standfast.tune.model import (
    GIB,
    MIB,
    Facts,
    Level,
    Report,
    Setting,
    Verdict,
    mib,
)
from standfast.tune.plan import judge
from standfast.tune.release import Release, parse_release
from standfast.tune.rules import kmem_size, kva_64bit

STEP = 32 * MIB
MARK = "# standfast tune: "
_KMEM = ("vm.kmem_size", "vm.kmem_size_max")


class CannotRecommendError(StandfastError):
    """Too little is known, or nothing checks as "boots"."""

    status = ExitStatus.CANNOT_TELL


class Role(Enum):
    """What the machine is for."""

    STORAGE = "storage"
    MIXED = "mixed"
    DESKTOP = "desktop"


@dataclass(frozen=True)
class Advice:
    """One setting to write, with its reason.

    Attributes:
        setting: name and value.
        why: reason and arithmetic in one line.
        kept: whether it is the user's own.
    """

    setting: Setting
    why: str
    kept: bool = False


@dataclass(frozen=True)
class Recommendation:
    """What to write, what to take out, and what it checks as.

    Attributes:
        advice: settings in the order in which they are written.
        dropped: the user's settings that are harmful or ignored, with the reason.
        notes: what the loader cannot set, such as KVA_PAGES.
        report: the judgement on the result.
        facts: the facts with the result in place.
    """

    advice: tuple[Advice, ...]
    dropped: tuple[Advice, ...]
    notes: tuple[str, ...]
    report: Report
    facts: Facts


def recommend(
    facts: Facts, role: Role, *, reserve: int | None = None
) -> Recommendation:
    """Return settings for that role.

    Args:
        facts: the machine with its present settings.
        role: what it is for.
        reserve: bytes of RAM kept from the ARC, instead of the role's own share.

    Raises:
        CannotRecommendError: nothing can be said, or nothing checks as "boots".
    """
    if facts.ram is None:
        raise CannotRecommendError("no advice without RAM", hint="give --ram")
    release = parse_release(facts.release)
    if release is None:
        raise CannotRecommendError("no advice without a release", hint="give --release")
    ram = facts.ram
    facts = replace(facts, settings=_present(facts), meant=None)
    kept = _keep(facts)
    bare = replace(facts, settings=_others(facts))
    share = _share(ram, role, reserve)
    if facts.os == "linux":
        wished = [_linux_arc(release, ram, share, role)]
    elif "i386" in facts.arch and release.major <= 11:  # noqa: PLR2004
        wished = _narrow(bare, release, role, share, kept)
    else:
        wished = _wide(bare, release, role, share)
    return _finish(facts, bare, wished, kept, release)


def _present(facts: Facts) -> tuple[Setting, ...]:
    """Return the settings as meant, the last of each name only."""
    meant = facts.settings if facts.meant is None else facts.meant
    return tuple({setting.name: setting for setting in meant}.values())


_OURS = (
    *_KMEM,
    "vm.kmem_size_min",
    "vm.kmem_size_scale",
    "vfs.zfs.arc_max",
    "vfs.zfs.arc_min",
    "vfs.zfs.arc.max",
    "vfs.zfs.arc.min",
    "zfs_arc_max",
    "zfs_arc_min",
)


def _others(facts: Facts) -> tuple[Setting, ...]:
    return tuple(s for s in facts.settings if s.name not in _OURS)


def _keep(facts: Facts) -> tuple[Setting, ...]:
    """Return the user's settings when together they boot at no high risk."""
    report = judge(facts)
    if report.verdict is not Verdict.BOOTS or report.level is Level.HIGH:
        return ()
    bad = {
        finding.place
        for finding in report.findings
        if finding.severity.value in {"ignored", "fatal"}
    }
    return tuple(s for s in facts.settings if s.name in _OURS and s.place not in bad)


def _share(ram: int, role: Role, reserve: int | None) -> int:
    """Return bytes of RAM that the ARC may have."""
    if reserve is not None:
        if reserve >= ram:
            raise CannotRecommendError(
                f"a reserve of {mib(reserve)} leaves nothing of {mib(ram)}"
            )
        return max(ram - reserve, 0)
    if role is Role.STORAGE:
        return max(ram * 5 // 8, ram - GIB)
    return ram // 2 if role is Role.MIXED else ram // 4


def _linux_arc(release: Release, ram: int, share: int, role: Role) -> Advice:
    least = max(64 * MIB, ram // 32 + MIB)
    size = max(min(share // MIB * MIB, ram - MIB), least)
    why = f"{mib(size)} of {mib(ram)} RAM for a {role.value} host"
    if not release.at_least(2, 1, 1):
        why += f"; must be more than RAM/32 = {mib(ram // 32)}"
    return Advice(Setting("zfs_arc_max", str(size)), why)


def _wide(facts: Facts, release: Release, role: Role, share: int) -> list[Advice]:
    """64-bit FreeBSD, and i386 from 12.0 on."""
    ram = facts.ram or 0
    found = []
    room = ram
    span = kva_64bit.span(release, facts.arch) if "i386" not in facts.arch else None
    if span is not None and release.major <= 9:  # noqa: PLR2004
        room = min(ram, kva_64bit.sure(span)) // STEP * STEP
        why = f"the smaller of RAM and 3/5 of {mib(span)}; before 9.0 RAM/3 by default"
        found.append(Advice(_setting("vm.kmem_size", room), why))
    size = share
    if release.major <= 11:  # noqa: PLR2004
        size = min(share, max(_safe_arc(release, room), room - 2 * GIB))
    size = max(size // MIB * MIB, 64 * MIB)
    name = "vfs.zfs.arc.max" if release.major >= 13 else "vfs.zfs.arc_max"  # noqa: PLR2004
    why = f"{mib(size)} of {mib(ram)} RAM for a {role.value} host"
    found.append(Advice(_setting(name, size), why))
    return found


def _setting(name: str, size: int) -> Setting:
    return Setting(name, f"{size // MIB}M")


def _safe_arc(release: Release, room: int) -> int:
    """Return the largest ARC whose risk is low by the rule "later", less a little."""
    return room * (50 if release.at_least(7, 3) else 33) // 100


def _narrow(
    facts: Facts,
    release: Release,
    role: Role,
    share: int,
    kept: tuple[Setting, ...],
) -> list[Advice]:
    """i386 up to 11.x: the address space decides."""
    ram = facts.ram or 0
    own = next((s for s in kept if s.name == "vm.kmem_size"), None)
    found = []
    if own is None:
        room = _largest(facts, release, ram)
        why = (
            f"the largest multiple of {mib(STEP)}, at most RAM, that boots with room"
            " under every assumption"
        )
        found.append(Advice(_setting("vm.kmem_size", room), why))
        if release.major <= 9:  # noqa: PLR2004
            why = "alike: what vm.kmem_size is when someone takes that line out"
            found.append(Advice(_setting("vm.kmem_size_max", room), why))
    else:
        room = (
            judge(replace(facts, settings=(*facts.settings, own))).effective.kmem or 0
        )
    factor = {Role.STORAGE: 100, Role.MIXED: 80, Role.DESKTOP: 50}[role]
    size = min(_safe_arc(release, room) * factor // 100, share)
    if room >= 768 * MIB:
        size = min(size, room - 256 * MIB)
    size = max(size // MIB * MIB, 17 * MIB)
    why = f"{size * 100 // max(room, 1)}% of vm.kmem_size keeps the run-time risk low"
    found.append(Advice(_setting("vfs.zfs.arc_max", size), why))
    return found


def _largest(facts: Facts, release: Release, ram: int) -> int:
    """Return the largest bootable kmem in whole steps, with everything it needs."""
    tunables = effective.freebsd_tunables(facts, facts.settings, release).values
    whole = budget.judge(facts, release, tunables)
    low, _ = budget.limits(whole.tried)
    size = min(low, ram) // STEP * STEP
    while size > kmem_size.FLOOR:
        trial = dict(tunables) | {"vm.kmem_size": size}
        if budget.judge(facts, release, trial).verdict is Verdict.BOOTS:
            return size
        size -= STEP
    raise CannotRecommendError("no vm.kmem_size checks as `boots` on this machine")


def _finish(
    facts: Facts,
    bare: Facts,
    wished: list[Advice],
    kept: tuple[Setting, ...],
    release: Release,
) -> Recommendation:
    mine = {setting.name for setting in kept}
    advice = [Advice(s, "yours; it does no harm and stays", kept=True) for s in kept]
    advice += [one for one in wished if one.setting.name not in mine]
    report = judge(_with(bare, advice))
    if report.verdict is not Verdict.BOOTS or report.level is Level.HIGH:
        advice = wished
        kept = ()
        report = judge(_with(bare, advice))
    if report.verdict is not Verdict.BOOTS:
        raise CannotRecommendError(
            f"the best that was found is `{report.verdict.value}`: {report.why}",
            hint="; ".join(report.missing),
        )
    staying = {one.setting.name for one in advice}
    dropped = tuple(
        Advice(s, _why_dropped(facts, s, replaced=s.name in staying))
        for s in facts.settings
        if s.name in _OURS and s not in kept
    )
    return Recommendation(
        tuple(advice), dropped, _notes(facts, release), report, _with(bare, advice)
    )


def _with(bare: Facts, advice: list[Advice]) -> Facts:
    return replace(bare, settings=bare.settings + tuple(a.setting for a in advice))


def _why_dropped(facts: Facts, setting: Setting, *, replaced: bool) -> str:
    report = judge(facts)
    for finding in report.findings:
        if finding.place == setting.place and finding.severity.value == "ignored":
            return finding.what
    verb = "replaced" if replaced else "taken out"
    return f"{verb}: with it, the settings check as `{report.verdict.value}`"


def _notes(facts: Facts, release: Release) -> tuple[str, ...]:
    if facts.arch != "i386" or release.major > 11 or facts.kva_pages not in {None, 256}:  # noqa: PLR2004
        return ()
    if (facts.ram or 0) < GIB:
        return ()
    return (
        (
            "a kernel with `options KVA_PAGES=512` would give kmem about 1 GiB more;"
            " no loader setting can do that"
        ),
    )


def apply_to_text(facts: Facts, result: Recommendation, text: str) -> str:
    """Return the configuration file with the recommendation in place.

    Lines of ours are replaced where they stand; harmful, ignored or unreadable
    ones become comments, so that the loader reads on; what is new comes last.
    """
    wanted = {one.setting.name: one for one in result.advice}
    gone = {one.setting.name: one.why for one in result.dropped}
    lines = []
    for line in text.splitlines():
        name = _name_of(facts, line)
        if name == "":
            lines.append(f"{MARK}unreadable: {line}")
        elif name in wanted:
            one = wanted.pop(name)
            lines.append(line if one.kept and _same(line) else _line(facts, one))
        elif name in _OURS and (name in gone or not _fresh(lines, name)):
            lines.append(f"{MARK}taken out: {line}")
        else:
            lines.append(line)
    lines += [_line(facts, one) for one in wanted.values()]
    return "\n".join(lines) + "\n"


def _same(line: str) -> bool:
    return line.isascii()


def _fresh(lines: list[str], name: str) -> bool:
    return not any(
        line.startswith((f"{name}=", f"options zfs {name}=")) for line in lines
    )


def _line(facts: Facts, one: Advice) -> str:
    if facts.os == "linux":
        return modprobe.render((one.setting,)).rstrip("\n")
    return loaderconf.render((one.setting,)).rstrip("\n")


def _name_of(facts: Facts, line: str) -> str | None:
    """Return the setting's name, "" for an unreadable line, None for others."""
    stripped = line.strip()
    if not stripped or stripped.startswith("#"):
        return None
    if facts.os == "linux":
        parsed = modprobe.parse(line, file="")
        return parsed.settings[0].name if len(parsed.settings) == 1 else None
    loader = loaderconf.loader_of(parse_release(facts.release))
    read = loaderconf.parse(line, file="", loader=loader)
    if read.meant:
        return read.meant[0].name
    return ""

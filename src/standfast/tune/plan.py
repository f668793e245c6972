"""The verdict: facts in, report out, nothing else touched.

`judge` picks the road by system and release, asks the rules, and joins what they
say. Where a needed fact is missing, or assumptions disagree, the verdict is "cannot
tell", with what is missing; it is never a guess. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from standfast.tune import budget, effective, kernelconf
from standfast.tune.model import (
    Effective,
    Facts,
    Finding,
    Level,
    Line,
    Report,
    Severity,
    Verdict,
    mib,
)
from standfast.tune.release import Release, parse_release
from standfast.tune.rules import (
    arc_freebsd,
    arc_openzfs,
    kmem_size,
    kva_64bit,
    kva_span,
    later,
    linux_vmalloc,
    prefetch,
    user_space,
    warnings,
)

if TYPE_CHECKING:
    from standfast.tune.model import Setting

ARCHES = ("i386", "i386-pae", "amd64", "arm64")
_WORST_FIRST = {
    Severity.FATAL: 0,
    Severity.WARNING: 1,
    Severity.IGNORED: 2,
    Severity.NOTE: 3,
}
_ORDER = list(Verdict)


def judge(facts: Facts) -> Report:
    """Return the report on these facts.

    Files with curly quotes are judged as they stand and as they were meant; the
    worse verdict wins, and a finding says which is which.
    """
    if facts.meant is None or facts.meant == facts.settings:
        return _judge(facts, facts.settings)
    written = _judge(facts, facts.settings)
    meant = _judge(facts, facts.meant)
    worse = max((meant, written), key=lambda report: _ORDER.index(report.verdict))
    other = written if worse is meant else meant
    reading, opposite = ("as meant", "as written")
    if worse is written:
        reading, opposite = opposite, reading
    what = (
        f"judged {reading}: {worse.verdict.value}; {opposite}"
        f" ({_kmem_text(other)}): {other.verdict.value}"
    )
    note = Finding(Severity.WARNING, what)
    return replace(worse, findings=_sorted((note, *worse.findings)))


def _kmem_text(report: Report) -> str:
    size = report.effective.kmem
    return "the defaults" if size is None else f"vm.kmem_size {mib(size)}"


def _judge(facts: Facts, settings: tuple[Setting, ...]) -> Report:
    if facts.os == "linux":
        return _linux(facts, settings)
    if fatal := _no_init(facts):
        return fatal
    release = parse_release(facts.release)
    if release is None or facts.arch not in ARCHES:
        return _unknown(facts, _lacking(facts, release))
    if not 7 <= release.major <= 15:  # noqa: PLR2004
        return _unknown(facts, f"rules for FreeBSD {release}: known are 7 to 15")
    tunables = effective.freebsd_tunables(facts, settings, release)
    case = _Case(facts, settings, release, tunables)
    if "i386" in facts.arch and release.major <= 11:  # noqa: PLR2004
        return _i386(case)
    return _wide(case)


def _lacking(facts: Facts, release: Release | None) -> str:
    lacking = [] if release else ["release (--release)"]
    if facts.arch not in ARCHES:
        lacking.append(f"architecture (--arch {', '.join(ARCHES)})")
    return " and ".join(lacking)


@dataclass(frozen=True)
class _Case:
    """Facts with what was made of them."""

    facts: Facts
    settings: tuple[Setting, ...]
    release: Release
    tunables: effective.Tunables


@dataclass(frozen=True)
class _Ends:
    """What the kernel and ZFS end up with, and the risk of it."""

    effective: Effective
    risk: later.Risk | None
    findings: tuple[Finding, ...]


def _unknown(facts: Facts, missing: str, findings: tuple[Finding, ...] = ()) -> Report:
    return Report(
        Verdict.CANNOT_TELL,
        f"not enough is known: {missing}",
        findings=_sorted((*facts.notes, *findings, *_user_space(facts))),
        missing=(missing,),
    )


def _sorted(findings: tuple[Finding, ...]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda found: _WORST_FIRST[found.severity]))


def _no_init(facts: Facts) -> Report | None:
    text = facts.option("MAXDSIZ")
    limit = None if text is None else kernelconf.size_option(text)
    if limit is None or facts.arch not in kva_span.DEFAULT:
        return None
    pages = facts.kva_pages or kva_span.DEFAULT[facts.arch]
    why = user_space.too_small_for_init(facts.arch, pages, limit)
    if not why:
        return None
    message = "`panic: going nowhere without my init`, after the root is mounted"
    finding = Finding(Severity.FATAL, message, "MAXDSIZ", user_space.RULE.source)
    return Report(Verdict.PANICS, why, findings=_sorted((finding, *facts.notes)))


def _i386(case: _Case) -> Report:
    facts, release = case.facts, case.release
    boot = budget.judge(facts, release, case.tunables.values)
    first = boot.tried[0]
    ends = _ends(case, kmem=first.kmem.size, how=first.kmem.how, ram=first.machine.top)
    verdict, why = _join(boot.verdict, boot.why, ends.risk)
    limit = budget.limits(boot.tried)
    findings = (
        *facts.notes,
        *case.tunables.findings,
        *_i386_findings(case, boot),
        *ends.findings,
    )
    return Report(
        verdict,
        why,
        level=ends.risk.level if ends.risk else Level.UNKNOWN,
        findings=_sorted(findings),
        effective=ends.effective,
        layouts=tuple(one.layout for one in boot.tried),
        lines=_lines(boot),
        limit=limit,
        margin=boot.margin,
        missing=boot.missing,
        assumed=boot.assumed,
    )


def _join(verdict: Verdict, why: str, risk: later.Risk | None) -> tuple[Verdict, str]:
    """Let a high run-time risk speak where the boot itself is no worry."""
    if risk is None or risk.level is not Level.HIGH:
        return verdict, why
    if verdict in {Verdict.PANICS, Verdict.CANNOT_TELL}:
        return verdict, why
    return risk.verdict, risk.why


def _i386_findings(case: _Case, boot: budget.Budget) -> list[Finding]:
    found = []
    first = boot.tried[0]
    failure = first.layout.failure
    if failure is not None and boot.verdict is Verdict.PANICS:
        what = f"the console shows `{failure.message}` {failure.where}"
        found.append(Finding(Severity.FATAL, what))
    if first.kmem.clamped:
        what = f"vm.kmem_size is cut to {mib(first.kmem.size)}: {first.kmem.how}"
        found.append(Finding(Severity.NOTE, what, source=kmem_size.RULE.source))
    most = case.tunables.values.get("vm.kmem_size_max")
    if first.kmem.explicit and most is not None and most < first.kmem.size:
        what = "vm.kmem_size_max does not cap an explicit vm.kmem_size"
        found.append(Finding(Severity.NOTE, what, source=kmem_size.RULE.source))
    found.extend(_user_space(case.facts))
    if case.facts.arch == "i386-pae":
        what = "no PAE kernel was booted: these rows are source only"
        found.append(Finding(Severity.NOTE, what))
    return found


def _user_space(facts: Facts) -> tuple[Finding, ...]:
    pages = facts.kva_pages or 0
    if pages <= user_space.WINE_MOST or facts.arch != "i386":
        return ()
    what = (
        f"KVA_PAGES={pages} leaves programs {mib(kva_span.user_space('i386', pages))};"
        f" Wine needs KVA_PAGES of at most {user_space.WINE_MOST}"
    )
    return (Finding(Severity.NOTE, what, source=user_space.RULE.source),)


def _lines(boot: budget.Budget) -> tuple[Line, ...]:
    first = boot.tried[0]
    lines = [
        Line(piece.name, piece.size, piece.why) for piece in first.layout.reservations
    ]
    lost = sum(size for _, size in first.layout.holes)
    if lost:
        lines.append(Line("alignment gaps", lost, "too small for what came next"))
    failure = first.layout.failure
    if failure is not None:
        lines.append(Line(f"{failure.name} (asked)", failure.size, "does not fit"))
        lines.append(Line("largest gap", failure.gap[1], ""))
    else:
        lines.append(Line("left before later requests", first.layout.left, ""))
        lines.append(Line("known later requests", first.layout.wanted, ""))
    lines.insert(0, Line("address space", first.layout.span, first.machine.text()))
    return tuple(lines)


def _ends(case: _Case, *, kmem: int, how: str, ram: int) -> _Ends:
    facts, release, values = case.facts, case.release, case.tunables.values
    if not facts.zfs:
        return _Ends(Effective(kmem, how), None, ())
    ram = facts.ram or ram
    own = effective.own_zfs(release)
    arc = effective.arc_of_freebsd(release, kmem=kmem, ram=ram, tunables=values)
    on = effective.prefetch_of(facts, ram, values, own=own)
    source = arc_freebsd.RULE.source if own else arc_openzfs.RULE.source
    findings = list(effective.ignored_findings(arc, case.settings, values, source))
    if not on:
        what = "file prefetch is off by default here"
        findings.append(Finding(Severity.NOTE, what, source=prefetch.RULE.source))
    if release.at_least(8) and own:
        findings.extend(
            Finding(
                Severity.NOTE, f"the boot prints `{line}`", "", warnings.RULE.source
            )
            for line in warnings.printed(ram=ram, kmem=kmem)
        )
    if release.major >= 12:  # noqa: PLR2004
        risk = later.memory_risk(arc_max=arc.largest, arc_min=arc.smallest, ram=ram)
    else:
        risk = later.risk(release, arc=arc.largest, kmem=kmem, ram=ram, arch=facts.arch)
    findings.append(_risk_finding(risk))
    ends = Effective(kmem, how, arc.largest, arc.smallest, arc.how, on)
    return _Ends(ends, risk, tuple(findings))


def _risk_finding(risk: later.Risk) -> Finding:
    severity = Severity.WARNING if risk.level is Level.HIGH else Severity.NOTE
    what = f"{risk.level.value} risk at run time: {risk.why}"
    return Finding(severity, what, source=later.RULE.source)


def _wide(case: _Case) -> Report:
    """64-bit kernels, and i386 from 12.0 on, where kmem reserves nothing."""
    facts, release, values = case.facts, case.release, case.tunables.values
    if facts.ram is None:
        return _unknown(facts, "RAM (--ram)", case.tunables.findings)
    ram = facts.ram
    kmem = kmem_size.size(
        release,
        facts.arch,
        pages=ram // 4096,
        kva_pages=1024,
        maxusers=384,
        tunables=values,
    )
    verdict, why, limit = _wide_boot(case, kmem)
    ends = _ends(case, kmem=kmem.size, how=kmem.how, ram=ram)
    if verdict is Verdict.BOOTS:
        verdict, why = _join(verdict, why, ends.risk)
    findings = [*facts.notes, *case.tunables.findings, *ends.findings]
    if facts.option("KVA_PAGES") and "i386" in facts.arch:
        what = "options KVA_PAGES does nothing from 12.1 on (inferred from source)"
        findings.append(Finding(Severity.IGNORED, what, "", kva_span.RULE.source))
    assumed = []
    if not kmem.explicit and kmem_size.scale(release, facts.arch) is None:
        assumed.append("vm.kmem_size_scale 3; it became 1 somewhere between 8.0 and 9")
    return Report(
        verdict,
        why,
        level=ends.risk.level if ends.risk else Level.UNKNOWN,
        findings=_sorted(tuple(findings)),
        effective=ends.effective,
        limit=limit,
        assumed=tuple(assumed),
    )


def _wide_boot(
    case: _Case, kmem: kmem_size.Kmem
) -> tuple[Verdict, str, tuple[int, int] | None]:
    facts, release = case.facts, case.release
    if _wraps(case, kmem):
        why = (
            "without vm.kmem_size, RAM of 4 GiB and more overflows the default on"
            " i386-PAE before r343017: it may come out as 0 (`panic: Tune"
            " VM_KMEM_SIZE_* for the platform`)"
        )
        return Verdict.CANNOT_TELL, why, None
    span = None if "i386" in facts.arch else kva_64bit.span(release, facts.arch)
    if span is None:
        why = "from 12.0 on vm.kmem_size reserves no address space at boot"
        return Verdict.BOOTS, why, None
    limit = (kva_64bit.sure(span), span)
    if kmem.explicit and kmem.size < kmem_size.FLOOR:
        why = f"vm.kmem_size of {kmem.size} bytes is less than the kernel itself needs"
        return Verdict.PANICS, why, limit
    if kmem.size <= limit[0]:
        why = f"vm.kmem_size of {mib(kmem.size)} in {mib(span)} of address space"
        return Verdict.BOOTS, why, limit
    if kmem.size > span:
        why = f"vm.kmem_size of {mib(kmem.size)} exceeds the {mib(span)} there are"
        return Verdict.PANICS, why, limit
    why = f"vm.kmem_size of {mib(kmem.size)} is more than 3/5 of the {mib(span)}"
    return Verdict.CANNOT_TELL, why, limit


def _wraps(case: _Case, kmem: kmem_size.Kmem) -> bool:
    """r343017: page_count * PAGE_SIZE in 32 bits, fixed in January 2019."""
    early = case.release.major == 12 or (  # noqa: PLR2004
        case.release.major == 13 and case.release.branch == "current"  # noqa: PLR2004
    )
    large = (case.facts.ram or 0) >= 4 * 1024**3
    return case.facts.arch == "i386-pae" and early and large and not kmem.explicit


def _linux(facts: Facts, settings: tuple[Setting, ...]) -> Report:
    release = parse_release(facts.release)
    if release is None:
        return _unknown(facts, "OpenZFS version (--release)")
    if linux_vmalloc.applies(release, facts.arch):
        why = "32-bit Linux before OpenZFS 0.7 takes ARC buffers from a small vmalloc"
        return Report(
            Verdict.RISKY,
            why,
            level=Level.HIGH,
            findings=_sorted(
                (
                    Finding(Severity.WARNING, why, "", linux_vmalloc.RULE.source),
                    *facts.notes,
                )
            ),
        )
    tunables = effective.linux_tunables(settings)
    notes = (*facts.notes, *tunables.findings)
    if any(note.severity is Severity.FATAL for note in notes):
        why = "a module parameter is no number: zfs will not load, nor import any pool"
        return Report(Verdict.NO_ZFS, why, findings=_sorted(notes))
    if facts.ram is None:
        return _unknown(facts, "RAM (--ram)")
    values = tunables.values
    arc = effective.arc_of_linux(release, facts.ram, values)
    risk = later.memory_risk(arc_max=arc.largest, arc_min=arc.smallest, ram=facts.ram)
    findings = (
        *facts.notes,
        *effective.ignored_findings(arc, settings, values, arc_openzfs.RULE.source),
        *_initramfs(settings),
        _risk_finding(risk),
    )
    why = f"no ZFS setting stops a Linux boot; the ARC may take {mib(arc.largest)}"
    verdict, why = _join(Verdict.BOOTS, why, risk)
    on = effective.prefetch_of(facts, facts.ram, values, own=False)
    return Report(
        verdict,
        why,
        level=risk.level,
        findings=_sorted(findings),
        effective=Effective(None, "", arc.largest, arc.smallest, arc.how, on),
    )


def _initramfs(settings: tuple[Setting, ...]) -> tuple[Finding, ...]:
    if not settings:
        return ()
    what = "if zfs is loaded from the initramfs, rebuild it, or the old values stay"
    return (Finding(Severity.NOTE, what, "", "modprobe.d(5); update-initramfs(8)"),)

"""A report as lines for a person and as JSON values. Pure; nothing is printed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from standfast.tune.model import MIB, Finding, Layout, Report, Severity, mib

if TYPE_CHECKING:
    from collections.abc import Iterator

_MARK = {
    Severity.FATAL: "!!",
    Severity.WARNING: "! ",
    Severity.IGNORED: "x ",
    Severity.NOTE: "- ",
}


def report_lines(report: Report) -> Iterator[str]:
    """Yield the report, verdict first."""
    yield f"verdict: {report.verdict.value}"
    yield f"  {report.why}"
    for missing in report.missing:
        yield f"  not known: {missing}"
    yield from _limit_lines(report)
    yield from _effective_lines(report)
    if report.findings:
        yield ""
        yield "findings:"
        for finding in report.findings:
            yield f"  {_MARK[finding.severity]}{_finding(finding)}"
    yield from _arithmetic(report)
    if report.assumed:
        yield ""
        yield "assumed:"
        for line in report.assumed:
            yield f"  {line}"


def _finding(finding: Finding) -> str:
    return f"{finding.place}: {finding.what}" if finding.place else finding.what


def _limit_lines(report: Report) -> Iterator[str]:
    if report.limit is None:
        return
    low, high = report.limit
    limit = mib(low) if low == high else f"{mib(low)} to {mib(high)}"
    text = f"  largest vm.kmem_size that gets past the boot: {limit}"
    yield text + (f", +-{mib(report.margin)}" if report.margin else "")


def _effective_lines(report: Report) -> Iterator[str]:
    ends = report.effective
    if ends.kmem is None and ends.arc_max is None:
        return
    yield ""
    yield "in effect:"
    if ends.kmem is not None:
        yield f"  vm.kmem_size  {mib(ends.kmem):>12}  ({ends.kmem_how})"
    if ends.arc_max is not None:
        yield f"  ARC maximum   {mib(ends.arc_max):>12}  ({ends.arc_how})"
    if ends.arc_min is not None:
        yield f"  ARC minimum   {mib(ends.arc_min):>12}"
    if ends.prefetch is not None:
        yield f"  file prefetch {'on' if ends.prefetch else 'off':>12}"


def _arithmetic(report: Report) -> Iterator[str]:
    if not report.lines:
        return
    yield ""
    yield "arithmetic (MiB):"
    for line in report.lines:
        yield f"  {line.name:<27}{line.size / MIB:>9.1f}  {line.how}".rstrip()


def report_json(report: Report) -> dict[str, Any]:
    """Return the report as JSON values; sizes in bytes."""
    ends = report.effective
    return {
        "verdict": report.verdict.value,
        "status": int(report.verdict.status),
        "why": report.why,
        "runtime_risk": report.level.value,
        "missing": list(report.missing),
        "assumed": list(report.assumed),
        "margin": report.margin,
        "largest_that_boots": None if report.limit is None else list(report.limit),
        "effective": {
            "kmem_size": ends.kmem,
            "kmem_how": ends.kmem_how,
            "arc_max": ends.arc_max,
            "arc_min": ends.arc_min,
            "arc_how": ends.arc_how,
            "prefetch": ends.prefetch,
        },
        "findings": [finding_json(finding) for finding in report.findings],
        "arithmetic": [
            {"name": line.name, "size": line.size, "how": line.how}
            for line in report.lines
        ],
        "layout": layout_json(report.layouts[0]) if report.layouts else None,
    }


def finding_json(finding: Finding) -> dict[str, Any]:
    """Return a finding as JSON values."""
    return {
        "severity": finding.severity.value,
        "what": finding.what,
        "place": finding.place,
        "source": finding.source,
    }


def layout_json(layout: Layout) -> dict[str, Any]:
    """Return a layout as JSON values; addresses count from KERNBASE."""
    failure = layout.failure
    return {
        "kernel": layout.kernel,
        "span": layout.span,
        "reservations": [
            {"name": r.name, "start": r.start, "size": r.size, "why": r.why}
            for r in layout.reservations
        ],
        "failure": None
        if failure is None
        else {
            "name": failure.name,
            "asked": failure.size,
            "largest_gap": failure.gap[1],
            "short": failure.size - failure.gap[1],
            "message": failure.message,
            "where": failure.where,
        },
        "missing": list(layout.missing),
        "left": layout.left,
        "wanted": layout.wanted,
    }

"""``director lab``: run scenarios, print what was measured beside what had to hold."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from standfast.clock import SystemClock
from standfast.console import Console
from standfast.director.lab.table import SCENARIOS, play
from standfast.errors import StandfastError, UsageError
from standfast.host.local import LocalHost

if TYPE_CHECKING:
    import argparse


def lab(arguments: argparse.Namespace) -> int:
    """Run scenarios; the status is 1 when one misses its bar."""
    form = "json" if arguments.json else "text"
    console = Console(form, -1 if arguments.quiet else arguments.verbose)
    if arguments.list:
        rows = {name: (play.__doc__ or "") for name, play in SCENARIOS.items()}
        text = "\n".join(f"{name:14} {words}" for name, words in rows.items())
        console.result(rows, text)
        return 0
    names = arguments.scenarios or list(SCENARIOS)
    for name in names:
        if name not in SCENARIOS:
            raise UsageError(
                f"there is no scenario {name}", hint=f"one of: {', '.join(SCENARIOS)}"
            )
    findings = []
    for name in names:
        host = LocalHost()
        try:
            finding = play(name, host, SystemClock())
        except StandfastError as error:
            console.note(f"{name}: {error.message}")
            findings.append({"scenario": name, "held": False, "error": error.message})
            continue
        finally:
            host.close()
        findings.append(asdict(finding))
        mark = "ok    " if finding.held else "MISSED"
        console.result_line(f"{mark} {name:14} {finding.figures}")
        console.result_line(f"       {'':14} bar: {finding.bar}")
    held = sum(bool(row["held"]) for row in findings)
    text = f"{held} of {len(names)} scenarios held their bars"
    console.result({"findings": findings}, text)
    return 0 if held == len(names) else 1

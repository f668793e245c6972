"""``director lab``: run scenarios, print what was measured beside what had to hold."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from standfast.clock import SystemClock
from standfast.console import Console
from standfast.director.lab.table import PATIENT, SCENARIOS, play
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
        text = "\n".join(f"{name:18} {words}" for name, words in rows.items())
        console.result(rows, text)
        return 0
    names = arguments.scenarios or list(SCENARIOS)
    for name in names:
        if name not in SCENARIOS:
            raise UsageError(
                f"there is no scenario {name}", hint=f"one of: {', '.join(SCENARIOS)}"
            )
    findings = _Run(console).all(names, serial=arguments.serial)
    held = sum(bool(row["held"]) for row in findings)
    text = f"{held} of {len(names)} scenarios held their bars"
    console.result({"findings": findings}, text)
    return 0 if held == len(names) else 1


class _Run:
    """Plays scenarios, patient ones beside the others, and tells what was found."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._telling = threading.Lock()
        self._over = threading.Event()

    def all(self, names: list[str], *, serial: bool) -> list[dict[str, Any]]:
        """Return what was found, in the order of the names."""
        lanes = [names]
        if not serial:
            lanes = [
                [n for n in names if (n in PATIENT) is side] for side in (False, True)
            ]
        found: dict[str, dict[str, Any]] = {}
        with ThreadPoolExecutor(len(lanes)) as pool:
            running = [pool.submit(self._lane, lane, found) for lane in lanes]
            try:
                for lane in running:
                    lane.result()
            finally:
                self._over.set()
        return [found[name] for name in names]

    def _lane(self, names: list[str], found: dict[str, dict[str, Any]]) -> None:
        for name in names:
            if self._over.is_set():
                return
            found[name] = self._one(name)

    def _one(self, name: str) -> dict[str, Any]:
        host = LocalHost()
        try:
            finding = play(name, host, SystemClock())
        except StandfastError as error:
            with self._telling:
                self._console.note(f"{name}: {error.message}")
            return {"scenario": name, "held": False, "error": error.message}
        finally:
            host.close()
        mark = "ok    " if finding.held else "MISSED"
        with self._telling:
            self._console.result_line(f"{mark} {name:18} {finding.figures}")
            self._console.result_line(f"       {'':18} bar: {finding.bar}")
        return asdict(finding)

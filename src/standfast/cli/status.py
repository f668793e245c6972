"""``standfast status``: one screen for the whole machine, the worst first.

Only here do the areas meet. Each is imported when it is asked, and asked on its own:
what one of them raises is that one's trouble and keeps no other from being seen. An
area that this machine does not use is named and not judged.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from standfast.console import Console
from standfast.errors import ExitStatus, StandfastError, UsageError
from standfast.grade import Grade, worst

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from standfast.tune.model import Facts

EXIT_STATUS = """
EXIT STATUS
  0 ok   1 warning   2 critical, or a mistake in the call   3 unknown, or nothing of
  standfast runs here; of several the worst   130 interrupted; any other: unknown
"""


@dataclass(frozen=True)
class Part:
    """One area of this machine.

    Attributes:
        name: ``backups``, ``service`` or ``memory``.
        headline: one line.
        remarks: what is not as it should be.
        used: whether this machine has it at all.
        document: all of it, for a program.
    """

    name: str
    headline: str
    remarks: tuple[tuple[Grade, str], ...] = ()
    used: bool = True
    document: dict[str, Any] = field(default_factory=dict)

    @property
    def grade(self) -> Grade:
        """The worst of its remarks."""
        return worst(grade for grade, _ in self.remarks)


def add_parsers(area: argparse.ArgumentParser) -> None:
    """Add the flags; there are no commands below it."""
    area.epilog = EXIT_STATUS
    area.add_argument("--json", action="store_true", help="print one JSON document")
    area.add_argument("-q", "--quiet", action="store_true", help="errors only")
    area.add_argument("-v", "--verbose", action="count", default=0, help="say more")
    area.add_argument("--config", metavar="FILE", help="of the backups")
    area.add_argument("--director-config", metavar="FILE", help="of the service")
    area.add_argument("--socket", metavar="PATH", help="of the director")
    area.add_argument(
        "--offline",
        action="store_true",
        help="ask no vault; go by what this machine remembers",
    )
    area.set_defaults(run=status)


def status(arguments: argparse.Namespace) -> int:
    """Show the machine; the exit status is for a monitor."""
    console = Console("json" if arguments.json else "text", -arguments.quiet)
    asked = (("service", service), ("backups", backups), ("memory", memory))
    parts = [_asked(name, ask, arguments) for name, ask in asked]
    parts.sort(key=lambda part: (not part.used, -part.grade.badness))
    used = [part for part in parts if part.used]
    grade = worst(part.grade for part in used) if used else Grade.UNKNOWN
    document = {
        "state": grade,
        "status": grade.exit_status,
        "parts": [_document(part) for part in parts],
    }
    console.result(document, "\n".join(_lines(grade, parts)))
    return grade.exit_status


def _asked(
    name: str,
    ask: Callable[[argparse.Namespace], Part],
    arguments: argparse.Namespace,
) -> Part:
    """Ask one area; a mistake in its configuration is critical, all else unknown."""
    try:
        return ask(arguments)
    except UsageError as error:
        return Part(
            name, "its configuration is wrong", ((Grade.CRITICAL, error.message),)
        )
    except StandfastError as error:
        return Part(name, "cannot be told", ((Grade.UNKNOWN, error.message),))


def service(arguments: argparse.Namespace) -> Part:
    """Judge the director that runs here."""
    from standfast.director.control import ControlError, ask  # noqa: PLC0415
    from standfast.director.standing import headline, remarks  # noqa: PLC0415

    path, configured = _director_socket(arguments)
    if not configured and not Path(path).exists():
        return Part("service", "no director is set up here", used=False)
    try:
        seen = ask(path, {"do": "status"})
    except ControlError as error:
        trouble = ((Grade.CRITICAL, error.message),)
        return Part("service", "the director does not answer", trouble)
    return Part("service", headline(seen), tuple(remarks(seen)), document=seen)


def backups(arguments: argparse.Namespace) -> Part:
    """Judge the backups that are configured here."""
    from standfast.cli.backup_run import find_config  # noqa: PLC0415

    path = arguments.config or find_config()
    if not arguments.config and not _exists(path):
        return Part("backups", f"none are set up here: no {path}", used=False)
    if not os.access(path, os.R_OK):
        # Not that it is wrong; it is not ours to see.
        raise StandfastError(f"cannot read {path}: permission denied")
    return _backups(arguments, path)


def _backups(arguments: argparse.Namespace, path: str) -> Part:
    from standfast.cli.backup_run import read_config  # noqa: PLC0415
    from standfast.cli.backup_status import (  # noqa: PLC0415
        gather,
        headline,
        status_document,
    )
    from standfast.cli.session import Session  # noqa: PLC0415

    session = Session(arguments)
    try:
        found = gather(session, read_config(path), ask=not arguments.offline)
        now = session.clock.now()
    finally:
        session.close()
    remarks = [(r.grade, f"job {job}: {r.text}") for job, r in found.jobs]
    for place in found.places:
        remarks += [(r.grade, f"vault {place.place}: {r.text}") for r in place.remarks]
    for row in found.rows:
        at = f"{row.dataset} in {row.place}"
        remarks += [(r.grade, f"{at}: {r.text}") for r in row.remarks]
    text = headline(found, now).partition(": ")[2]
    return Part("backups", text, tuple(remarks), document=status_document(found, now))


def memory(_arguments: argparse.Namespace) -> Part:
    """Judge the memory settings of the running kernel."""
    from standfast.host.local import LocalHost  # noqa: PLC0415
    from standfast.tune.live import read_host  # noqa: PLC0415

    host = LocalHost()
    try:
        return judge_memory(read_host(host))
    finally:
        host.close()


def judge_memory(facts: Facts) -> Part:
    """Judge the facts of a machine, if its kernel has ZFS at all."""
    from standfast.tune.plan import judge  # noqa: PLC0415
    from standfast.tune.text import report_json  # noqa: PLC0415

    if facts.zfs is False or (facts.os == "linux" and not facts.release):
        return Part("memory", "the kernel has no ZFS of its own", used=False)
    report = judge(facts)
    grade = {
        ExitStatus.DONE: Grade.OK,
        ExitStatus.RISKY: Grade.WARNING,
        ExitStatus.DOES_NOT_BOOT: Grade.CRITICAL,
    }.get(report.verdict.status, Grade.UNKNOWN)
    remarks = () if grade is Grade.OK else ((grade, report.why),)
    return Part("memory", report.verdict.value, remarks, document=report_json(report))


def _director_socket(arguments: argparse.Namespace) -> tuple[str, bool]:
    """Return where a director would listen, and whether one is meant to run."""
    from standfast.cli.director import CONFIG, SOCKET  # noqa: PLC0415

    if arguments.socket:
        return arguments.socket, True
    freebsd = sys.platform.startswith("freebsd")
    path = arguments.director_config or ("/usr/local" if freebsd else "") + CONFIG
    if not arguments.director_config and not _exists(path):
        return SOCKET, False
    from standfast.director.config import parse_config  # noqa: PLC0415

    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise StandfastError(f"cannot read {path}") from None
    return parse_config(text, path).file.socket, True


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:
        return True  # it cannot be told; reading it will say why


def _lines(grade: Grade, parts: list[Part]) -> Iterator[str]:
    used = [part for part in parts if part.used]
    words = ", ".join(f"{part.name} {part.grade}" for part in used)
    yield f"MACHINE {grade.upper()}: {words or 'nothing of standfast runs here'}"
    for part in parts:
        yield f"{part.name}: {part.headline}"
        for each, text in sorted(part.remarks, key=lambda one: -one[0].badness):
            yield f"  {each}: {text}"


def _document(part: Part) -> dict[str, Any]:
    return {
        "part": part.name,
        "used": part.used,
        "state": part.grade if part.used else None,
        "headline": part.headline,
        "remarks": [{"state": grade, "text": text} for grade, text in part.remarks],
        "details": part.document,
    }

"""``director upgrade``: one backend after the other, without a client noticing.

Drain at layer 4, let what is on its way arrive, stop softly (HAProxy then tells its
keep-alive clients to come back, and they come back elsewhere), run COMMAND, wait until
the backend's probes pass, ask it for a page, undrain, watch for a while, next. It
stops when one does not come back, and when errors rise: HAProxy's own counters, and
what clients of our own see.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from standfast.cli.director_ask import POLL, _console
from standfast.cli.upgrade_course import Course, StoppedError, Turn, TurnError, Watch
from standfast.director.control import ask
from standfast.director.model import parse_address
from standfast.director.upgrading import SEEN, words
from standfast.errors import ExitStatus, StandfastError, UsageError
from standfast.host.local import LocalHost
from standfast.host.ssh import SshHost, SshTarget
from standfast.units import parse_duration

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from standfast.console import Console
    from standfast.host import Host

_SSH = re.compile(r"(?:([^@/]+)@)?([^@/:]+|\[[0-9a-fA-F:]+\]|[0-9a-fA-F:]+)(?::(\d+))?")
SETTLED = 2 * POLL


def upgrade(arguments: argparse.Namespace) -> int:
    """Upgrade backends one at a time; stop when anything goes wrong."""
    console = _console(arguments)
    rows = _chosen(arguments)
    if arguments.dry_run:
        return _show_plan(arguments, console, list(rows.values()))
    turns: list[Turn] = []
    stopped: StandfastError | None = None
    with _watch(arguments) as watch:
        for name, row in rows.items():
            try:
                _check_others(arguments.socket, name, turns)
                done = frozenset(turn.backend for turn in turns)
                course = Course(arguments, row, watch, done)
                turns.append(_turn(arguments, course, console))
            except TurnError as error:
                turns.append(error.turn)
                stopped = error
            except StandfastError as error:
                stopped = error
            if stopped is not None:
                break
    _report(console, turns, stopped)
    if stopped is None:
        return 0
    console.complain(f"error: {stopped.message}")
    if stopped.hint:
        console.complain(f"hint: {stopped.hint}")
    return ExitStatus.FAILED


def _chosen(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Return the rows of the backends to upgrade; what is wrong, is so at once."""
    if bool(arguments.each) == bool(arguments.command):
        raise UsageError(
            "say what to run for each backend",
            hint="standfast director upgrade -- COMMAND..., or --each 'COMMAND'",
        )
    rows = _rows(arguments.socket)
    names = arguments.backends or list(rows)
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise StandfastError(
            f"there is no backend {unknown[0]}", hint=f"one of: {', '.join(rows)}"
        )
    for name in names:
        _commands(arguments, rows[name])
    return {name: rows[name] for name in names}


def _report(
    console: Console, turns: list[Turn], stopped: StandfastError | None
) -> None:
    lines = []
    for turn in turns:
        seen = {name: getattr(turn, name) for name in SEEN}
        left = "an unknown number" if turn.left is None else str(turn.left)
        lines.append(
            f"{turn.backend}: {turn.seconds:.1f} s, {left} left at the stop; "
            f"{turn.requests} requests: {turn.refused} refused, {turn.cut} cut, "
            f"{turn.early} closed early, {turn.bad} bad; HAProxy: "
            f"{words(turn.counters)}"
        )
        if seen["early"] and not seen["cut"]:
            lines.append("  closed early: has HAProxy `option idle-close-on-response`?")
    if stopped is not None:
        lines.append(f"stopped: {stopped.message}")
    document = {
        "turns": [asdict(turn) for turn in turns],
        "stopped": stopped.message if stopped is not None else "",
        "hint": stopped.hint if stopped is not None else "",
    }
    console.result(document, "\n".join(lines))


def _show_plan(
    arguments: argparse.Namespace, console: Console, rows: list[dict[str, Any]]
) -> int:
    steps = []
    for row in rows:
        run = [" ".join(argv) for argv in _commands(arguments, row)]
        where = (
            _filled(arguments.ssh, row | {"address": _ip(row)})
            if arguments.ssh
            else "here"
        )
        steps.append({"backend": row["name"], "where": where, "commands": run})
    lines = [
        f"{step['backend']}: drain, then {where_text(step)}, wait until up, undrain"
        for step in steps
    ]
    console.result({"plan": steps}, "\n".join(lines))
    return 0


def where_text(step: dict[str, Any]) -> str:
    """Return the commands of a step and where they run."""
    return f"{' and '.join(f'`{c}`' for c in step['commands'])} ({step['where']})"


def _check_others(socket: str, name: str, turns: list[Turn]) -> None:
    # Who was disabled on purpose is missed by nobody.
    sick = [
        n
        for n, row in _rows(socket).items()
        if n != name and row["probed"] == "down" and row["state"] != "disabled"
    ]
    if sick:
        raise StoppedError(
            f"{', '.join(sick)} is down: {name} is not touched",
            hint=f"done so far: {', '.join(t.backend for t in turns) or 'none'}",
        )


@contextmanager
def _watch(arguments: argparse.Namespace) -> Iterator[Watch]:
    watch = Watch(arguments)
    watch.begin(parse_duration(arguments.baseline))
    try:
        yield watch
    finally:
        watch.witness.stop()


def _turn(arguments: argparse.Namespace, course: Course, console: Console) -> Turn:
    watch = course.watch
    name, clock = course.name, course.clock
    console.note(course.order("drain"))
    course.await_table(parse_duration(arguments.deadline))
    clock.sleep(parse_duration(arguments.settle))
    course.left = _rows(arguments.socket, name)[name]["connections"]
    _run(arguments, course)
    course.check()
    # Probes that passed before the stop prove nothing: ask for new ones.
    clock.sleep(SETTLED)
    limit = 3 * parse_duration(arguments.deadline)
    while _rows(arguments.socket)[name]["probed"] != "up":
        if clock.monotonic() - course.start > limit:
            course.fail("does not come back")
        clock.sleep(POLL)
    word = watch.first_page(name)
    if word != "ok":
        course.fail(f"its probes pass, but its page is {word}")
    console.note(course.order("undrain"))
    _soak(course, parse_duration(arguments.soak))
    turn = course.turn()
    console.note(f"{name} is done in {turn.seconds:.1f} s")
    return turn


def _soak(course: Course, seconds: float) -> None:
    """Watch a backend that serves again, for a while."""
    end = course.clock.monotonic() + seconds
    while True:
        course.check()
        if course.clock.monotonic() >= end:
            return
        course.clock.sleep(POLL)


def _run(arguments: argparse.Namespace, course: Course) -> None:
    host = _host(arguments, course.row)
    try:
        for argv in _commands(arguments, course.row):
            host.run(argv, timeout=parse_duration(arguments.deadline))
    except StandfastError as error:
        course.fail(error.message)
    finally:
        host.close()


def _commands(arguments: argparse.Namespace, row: dict[str, Any]) -> list[list[str]]:
    """Return what is run for a backend: soft stop, then COMMAND."""
    found = [
        ["/bin/sh", "-c", _filled(line, row)]
        for line in (arguments.soft_stop, arguments.each)
        if line
    ]
    if arguments.command:
        found.append([_filled(word, row) for word in arguments.command])
    return found


def _filled(text: str, row: dict[str, Any]) -> str:
    try:
        return text.format(name=row["name"], address=row["address"])
    except (KeyError, IndexError, ValueError):
        raise UsageError(
            f"cannot fill in: {text}",
            hint="{name} and {address} are known; write {{ and }} for braces",
        ) from None


def _host(arguments: argparse.Namespace, row: dict[str, Any]) -> Host:
    if not arguments.ssh:
        return LocalHost()
    there = _filled(arguments.ssh, row | {"address": _ip(row)})
    match = _SSH.fullmatch(there)
    if match is None:
        raise UsageError(f"not a host: {there}", hint="as in root@{address}")
    user, host, port = match.groups()
    return SshHost(SshTarget(host.strip("[]"), user or "", int(port) if port else None))


def _ip(row: dict[str, Any]) -> str:
    """Return a backend's address without the port of its service."""
    ip = parse_address(row["address"]).ip
    return f"[{ip}]" if ":" in ip else ip


def _rows(socket: str, *counted: str) -> dict[str, dict[str, Any]]:
    seen = ask(socket, {"do": "status", "backends": list(counted)})
    return {row["name"]: row for row in seen["backends"] if row["state"] != "leaving"}

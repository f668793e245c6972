"""``director upgrade``: one backend after the other, without a client noticing.

Drain at layer 4, let what is on its way arrive, stop softly (HAProxy then tells its
keep-alive clients to come back, and they come back elsewhere), run the command, wait
until the backend has fallen or its probes pass, undrain, next.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from standfast.cli.director_ask import POLL, _console
from standfast.clock import SystemClock
from standfast.director.control import ask
from standfast.errors import StandfastError
from standfast.host.local import LocalHost
from standfast.units import parse_duration

if TYPE_CHECKING:
    import argparse


@dataclass(frozen=True)
class Turn:
    """What one backend's turn took, in seconds."""

    backend: str
    seconds: float
    left: int | None


def upgrade(arguments: argparse.Namespace) -> int:
    """Upgrade backends one at a time; stop at the first that does not come back."""
    console = _console(arguments)
    rows = _rows(arguments.socket)
    names = arguments.backends or list(rows)
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise StandfastError(
            f"there is no backend {unknown[0]}", hint=f"one of: {', '.join(rows)}"
        )
    turns: list[Turn] = []
    for name in names:
        others = [n for n, row in _rows(arguments.socket).items() if n != name]
        sick = [n for n in others if _rows(arguments.socket)[n]["state"] == "down"]
        if sick:
            raise StandfastError(
                f"{', '.join(sick)} is down: {name} is not touched",
                hint=f"done so far: {', '.join(t.backend for t in turns) or 'none'}",
            )
        turns.append(_turn(arguments, rows[name], console.note))
    lines = [
        f"{t.backend}: {t.seconds:.1f} s, {t.left} left at the stop" for t in turns
    ]
    console.result({"turns": [asdict(t) for t in turns]}, "\n".join(lines))
    return 0


def _turn(arguments: argparse.Namespace, row: dict[str, Any], note: Any) -> Turn:  # noqa: ANN401
    name, clock, host = row["name"], SystemClock(), LocalHost()
    deadline = parse_duration(arguments.deadline)
    start = clock.monotonic()
    note(ask(arguments.socket, {"do": "drain", "backend": name})["sentence"])
    clock.sleep(parse_duration(arguments.settle))
    left = _rows(arguments.socket, name)[name]["connections"]
    words = {"name": name, "address": row["address"]}
    for command in (arguments.soft_stop, arguments.each):
        if command:
            argv = ["/bin/sh", "-c", command.format(**words)]
            host.run(argv, timeout=deadline)
    # Probes that passed before the stop prove nothing: ask for new ones.
    clock.sleep(2 * POLL)
    while _rows(arguments.socket)[name]["probed"] != "up":
        if clock.monotonic() - start > 3 * deadline:
            raise StandfastError(
                f"{name} does not come back; it stays drained",
                hint="mend it, then `standfast director undrain`",
            )
        clock.sleep(POLL)
    note(ask(arguments.socket, {"do": "undrain", "backend": name})["sentence"])
    return Turn(name, round(clock.monotonic() - start, 3), left)


def _rows(socket: str, *counted: str) -> dict[str, dict[str, Any]]:
    seen = ask(socket, {"do": "status", "backends": list(counted)})
    return {row["name"]: row for row in seen["backends"]}

"""The commands that speak to a running daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from standfast.clock import SystemClock
from standfast.console import Console
from standfast.director.control import ask
from standfast.errors import StandfastError
from standfast.units import duration_text, parse_duration

if TYPE_CHECKING:
    import argparse

POLL = 0.2
CLEAR = "\x1b[H\x1b[2J"


def status(arguments: argparse.Namespace) -> int:
    """Show what serves, once or each second."""
    console = _console(arguments)
    while True:
        seen = ask(arguments.socket, {"do": "status"})
        text = status_text(seen)
        console.result(seen, CLEAR + text if arguments.watch else text)
        if not arguments.watch:
            return 0
        SystemClock().sleep(1.0)


def drain(arguments: argparse.Namespace) -> int:
    """Drain a backend, and perhaps wait for its last connection."""
    console, clock = _console(arguments), SystemClock()
    said = _order(arguments, "drain")
    console.note(said)
    deadline = parse_duration(arguments.deadline) if arguments.deadline else None
    start = clock.monotonic()
    left = _left(arguments)
    if left is None and (arguments.wait or deadline is not None):
        raise StandfastError(
            f"{arguments.backend} drains, but nobody can tell how many are left",
            hint="is conntrack installed? mode nat counts with it",
        )
    told = None
    while (arguments.wait or deadline is not None) and left:
        if left != told:
            console.note(f"{left} connections left")
            told = left
        if deadline is not None and clock.monotonic() - start >= deadline:
            cut = ask(arguments.socket, {"do": "kill", "backend": arguments.backend})
            console.note(f"the deadline has come: {cut['cut']} connections cut")
            break
        clock.sleep(POLL)
        left = _left(arguments)
    document = {"backend": arguments.backend, "sentence": said, "left": left}
    words = "an unknown number of" if left is None else str(left)
    console.result(document, f"{arguments.backend} drains; {words} connections left")
    return 0


def undrain(arguments: argparse.Namespace) -> int:
    """Let a backend serve again."""
    return _plain(arguments, _order(arguments, "undrain"))


def disable(arguments: argparse.Namespace) -> int:
    """Keep a backend out."""
    return _plain(arguments, _order(arguments, "disable"))


def standby(arguments: argparse.Namespace) -> int:
    """Let the daemon give the addresses up."""
    request = {"do": "standby", "force": arguments.force}
    return _plain(arguments, ask(arguments.socket, request)["sentence"])


def resume(arguments: argparse.Namespace) -> int:
    """Let the daemon hold the addresses again."""
    return _plain(arguments, ask(arguments.socket, {"do": "resume"})["sentence"])


def reload(arguments: argparse.Namespace) -> int:
    """Let the daemon read its configuration anew."""
    return _plain(arguments, ask(arguments.socket, {"do": "reload"})["sentence"])


def where(arguments: argparse.Namespace) -> int:
    """Show where a client's connection goes."""
    places = ask(arguments.socket, {"do": "where", "client": arguments.client})
    lines = [_place_text(row) for row in places["places"]]
    _console(arguments).result(places, "\n".join(lines) or "no service of that family")
    return 0


def _place_text(row: dict[str, Any]) -> str:
    line = (
        f"{row['virtual']} ({row['service']}): slot {row['slot']} "
        f"-> {row['backend'] or 'nobody'}"
    )
    if row["pinned"]:
        line += f"; pinned to {row['pin']}"
    if row["connected"]:
        line += f"; connected to {row['holder'] or row['connected']}"
        if row["age"] is not None:
            line += f" for {duration_text(row['age'])}"
    return line + f"; on the peer {row['peer'] or 'unknown'}"


def status_text(seen: dict[str, Any]) -> str:
    """Return the status as a table for a terminal."""
    head = f"{seen['name'] or 'director'}: {seen['role']}, rank {seen['rank']}"
    lines = [f"{head} ({seen['reason']}); table {seen['digest']}"]
    peer = seen["peer"]
    if peer is not None:
        words = f"{peer['role']}, rank {peer['rank']}" if peer["here"] else "silent"
        lines.append(f"peer: {words}; table {peer['agrees']}; {peer['pins']} pins here")
    lines += _election_lines(seen["election"])
    if seen["guard"]:
        lines.append("the virtual addresses are guarded: another node serves them")
    if seen["trouble"]:
        lines.append(f"TROUBLE: {seen['trouble']}")
    for row in seen["services"]:
        names = ", ".join(f"{n} {k}" for n, k in row["slots"].items()) or "NOBODY"
        opened = " (all have failed)" if row["open"] else ""
        lines.append(f"{row['name']} {' '.join(row['virtual'])} -> {names}{opened}")
    rows = [["BACKEND", "ADDRESS", "STATE", "FOR", "CONNECTIONS", "LAST"]]
    for row in seen["backends"]:
        age = duration_text(seen["now"] - row["since"]) if row["since"] else "-"
        count = "-" if row["connections"] is None else str(row["connections"])
        rows.append(
            [row["name"], row["address"], row["state"], age, count, row["words"]]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        cells = (cell.ljust(w) for cell, w in zip(row, widths, strict=True))
        lines.append("  ".join(cells).rstrip())
    lines += [f"- {sentence}" for _, sentence in seen["sentences"][-3:]]
    return "\n".join(lines)


def _election_lines(election: dict[str, Any]) -> list[str]:
    lines = []
    if not election["willing"]:
        lines.append("standby: kept from the addresses by order, until `resume`")
    if election["unproved"]:
        lines.append(f"NOT PROVED: {election['unproved']}")
    if election["problem"]:
        lines.append(f"TROUBLE with {election['kind']}: {election['problem']}")
    refused = ", ".join(f"{n} {word}" for word, n in election["refused"].items() if n)
    if refused:
        lines.append(f"adverts refused: {refused}")
    return lines


def _console(arguments: argparse.Namespace) -> Console:
    form = "json" if arguments.json else "text"
    return Console(form, -1 if arguments.quiet else arguments.verbose)


def _order(arguments: argparse.Namespace, order: str) -> str:
    request = {"do": order, "backend": arguments.backend, "force": arguments.force}
    sentence: str = ask(arguments.socket, request)["sentence"]
    return sentence


def _plain(arguments: argparse.Namespace, sentence: str) -> int:
    _console(arguments).result({"sentence": sentence}, sentence)
    return 0


def _left(arguments: argparse.Namespace) -> int | None:
    request = {"do": "status", "backends": [arguments.backend]}
    for row in ask(arguments.socket, request)["backends"]:
        if row["name"] == arguments.backend:
            count: int | None = row["connections"]
            return count
    raise StandfastError(f"{arguments.backend} is no longer configured")

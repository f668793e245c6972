"""The lab's scenarios: each harms something under load, and says what clients saw.

A scenario builds its own rig, so that none inherits another's ruins, and returns
measured figures with the bar they are held to.
"""

from __future__ import annotations

import signal
import socket
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from standfast.director.lab.rig import DIRECTORS, NODES, Rig

if TYPE_CHECKING:
    from collections.abc import Callable


# fall x interval of the lab's probe (2 x 100 ms), and 50 ms.
DETECTION_BAR = 0.25
STALL_BAR = 1.0


@dataclass(frozen=True)
class Finding:
    """What a scenario measured.

    Attributes:
        scenario: its name.
        figures: what was measured, in words.
        bar: what had to hold, in words.
        held: whether it did.
        numbers: the same, for programs.
    """

    scenario: str
    figures: str
    bar: str
    held: bool
    numbers: dict[str, Any]


def balance(rig: Rig) -> Finding:
    """Three HAProxy serve at once."""
    single(rig)
    rows = rig.result(rig.job(job="load", rate=500, seconds=6, port=20000))
    shares = Counter(node for _, node, error in rows if not error)
    worst = max(abs(shares[n] * len(NODES) / len(rows) - 1) for n in NODES)
    failed = sum(bool(error) for *_, error in rows)
    split = "/".join(str(shares[n]) for n in NODES)
    return Finding(
        "balance",
        f"{len(rows)} connections: {split}, {worst:.1%} off, {failed} failed",
        "within 5 %, 0 failed",
        worst <= 0.05 and not failed,  # noqa: PLR2004
        {"split": shares, "off": worst, "failed": failed},
    )


def killed(rig: Rig) -> Finding:
    """HAProxy is killed (-9)."""
    return _harm(rig, "killed", lambda: rig.kill("h3", signal.SIGKILL))


def stopped(rig: Rig) -> Finding:
    """HAProxy is stopped (SIGSTOP): its kernel still takes connections."""
    return _harm(rig, "stopped", lambda: rig.kill("h3", signal.SIGSTOP))


def sick(rig: Rig) -> Finding:
    """HAProxy answers 503."""
    return _harm(
        rig,
        "sick",
        lambda: _runtime(rig, "experimental-mode on; set var proc.sick int(1)"),
    )


def backends_down(rig: Rig) -> Finding:
    """HAProxy is well, but its own servers are all down."""
    command = "set server app/o1 state maint"
    return _harm(rig, "backends-down", lambda: _runtime(rig, command))


def table_changes(rig: Rig) -> Finding:
    """200 table changes under load."""
    single(rig)
    held = rig.job(job="long", downloads=10, seconds=26)
    load = rig.job(job="load", rate=420, seconds=24)
    rig.clock.sleep(1.0)
    first = rig.ask("a", do="status", backends=[])["transactions"]
    changes, start = 0, rig.clock.monotonic()
    while changes < 200:  # noqa: PLR2004 - the bar
        rig.ask("a", do="undrain" if changes % 2 else "drain", backend="h3")
        changes += 1
        wanted = first + changes
        rig.wait(partial(_reached, rig, wanted), "no change comes")
    took = rig.clock.monotonic() - start
    rows = rig.result(load)
    failed = sum(bool(error) for *_, error in rows)
    alive = rig.result(held)["alive"].get("downloads", 0)
    return Finding(
        "table-changes",
        f"{changes} changes in {took:.1f} s: {failed} of {len(rows)} new connections "
        f"failed, {alive} of 10 downloads intact",
        "0 failed of 10,000; 10 of 10",
        not failed and len(rows) >= 10_000 and alive == 10,  # noqa: PLR2004
        {"failed": failed, "connections": len(rows), "downloads": alive},
    )


def rolling_upgrade(rig: Rig) -> Finding:
    """Three HAProxy are replaced under keep-alive load."""
    single(rig)
    load = rig.job(job="requests", clients=40, pause=0.06, seconds=12)
    rig.clock.sleep(1.0)
    start = rig.clock.monotonic()
    for name in NODES:
        rig.ask("a", do="drain", backend=name)
        rig.wait_done("a")
        rig.clock.sleep(0.3)
        rig.kill(name, signal.SIGUSR1)
        rig.wait_end(name)
        (rig.folder / f"{name}.sock").unlink(missing_ok=True)
        rig.start_haproxy(name)
        rig.wait(partial(_is_up, rig, name), f"{name} stays down")
        rig.ask("a", do="undrain", backend=name)
        rig.clock.sleep(0.3)
    took = rig.clock.monotonic() - start
    seen = rig.result(load)
    bad = {word: seen.get(word, 0) for word in ("refused", "cut", "early", "bad")}
    good = seen.get("ok", 0)
    return Finding(
        "upgrade",
        f"{good} requests, {took:.1f} s: {bad['refused']} refused, {bad['cut']} cut, "
        f"{bad['early']} closed early, {bad['bad']} other errors",
        "0, 0, 0 of 5,000",
        not any(bad.values()) and good >= 5000,  # noqa: PLR2004
        {"ok": good, **bad},
    )


def daemon_killed(rig: Rig) -> Finding:
    """The daemon is killed (-9) and started again; a drain outlives it."""
    single(rig)
    rig.ask("a", do="drain", backend="h2")
    load = rig.job(job="load", rate=300, seconds=6)
    held = rig.job(job="long", downloads=20, client_first=10, seconds=5)
    rig.clock.sleep(1.0)
    rig.kill("a", signal.SIGKILL)
    rig.wait(lambda: not rig.alive("a"), "the daemon does not die")
    rig.clock.sleep(1.5)
    rig.start_director("a", election="none")
    rows = rig.result(load)
    failed = sum(bool(error) for *_, error in rows)
    seen = rig.result(held)["alive"]
    alive = sum(seen.get(kind, 0) for kind in KINDS)
    again = rig.states("a")["h2"]
    return Finding(
        "daemon-killed",
        f"{failed} of {len(rows)} new connections failed, {alive} of 30 old ones live, "
        f"h2 is still {again}",
        "0 failed; 30; draining",
        not failed and alive == 30 and again == "draining",  # noqa: PLR2004
        {"failed": failed, "alive": alive},
    )


def handover(rig: Rig) -> Finding:
    """The master hands over in good order, and takes back."""
    pair(rig)
    held = hold(rig, 9)
    rig.clock.sleep(2.0)
    rig.kill("a", signal.SIGTERM)
    rig.wait(lambda: rig.role("b") == "master", "b does not take over")
    rig.wait_end("a")
    rig.clock.sleep(1.0)
    rig.start_director("a", election="vrrp")
    rig.wait(lambda: rig.role("a") == "master", "a does not come back")
    return survived(rig, "handover", held, 0.1)


def power_off(rig: Rig) -> Finding:
    """The master's machine is gone from one moment to the next."""
    pair(rig)
    held = hold(rig, 6)
    rig.clock.sleep(2.0)
    start = rig.clock.monotonic()
    rig.power_off("a")
    rig.wait(lambda: rig.role("b") == "master", "b does not take over")
    took = rig.clock.monotonic() - start
    found = survived(rig, "power-off", held, STALL_BAR)
    return Finding(
        found.scenario,
        f"takeover {took * 1000:.0f} ms; {found.figures}",
        f"under 500 ms; {found.bar}",
        found.held and took < 0.5,  # noqa: PLR2004
        {**found.numbers, "takeover": took},
    )


def drain_then_failover(rig: Rig) -> Finding:
    """A backend drains; then its director's machine is gone. Pins save its flows."""
    pair(rig)
    held = hold(rig, 8)
    rig.clock.sleep(1.5)
    for name in DIRECTORS:
        rig.ask(name, do="drain", backend="h3")
    rig.wait(
        lambda: rig.ask("b", do="status", backends=[])["peer"]["pins"] > 0,
        "no pins come to b",
    )
    rig.clock.sleep(1.2)
    pins = rig.ask("b", do="status", backends=[])["peer"]["pins"]
    rig.power_off("a")
    found = survived(rig, "drain-failover", held, STALL_BAR)
    return replace(found, figures=f"{pins} pins pushed; {found.figures}")


SCENARIOS: dict[str, Callable[[Rig], Finding]] = {
    "balance": balance,
    "killed": killed,
    "stopped": stopped,
    "sick": sick,
    "backends-down": backends_down,
    "table-changes": table_changes,
    "upgrade": rolling_upgrade,
    "daemon-killed": daemon_killed,
    "handover": handover,
    "power-off": power_off,
    "drain-failover": drain_then_failover,
}
KINDS = ("downloads", "client_first", "server_first")


def single(rig: Rig, path: str = "") -> None:
    """Start one director that holds the addresses without an election.

    ``path`` is where it finds programs, if not where we do.
    """
    rig.start_director("a", election="none", path=path)
    rig.give_addresses("a")
    rig.wait_up("a")
    rig.wait(lambda: rig.role("a") == "master", "a does not begin")


def pair(rig: Rig, election: str = "vrrp", elect: str = "") -> None:
    """Start two directors; the first becomes master."""
    for name in ("a", "b"):
        rig.start_director(name, election=election, elect=elect)
        rig.wait_up(name)
    rig.wait(lambda: rig.role("a") == "master", "a does not become master", 15)
    rig.clock.sleep(0.5)


def _harm(rig: Rig, name: str, harm: Callable[[], None]) -> Finding:
    """Harm h3 under load; until when do new connections go there?"""
    single(rig)
    held = rig.job(job="long", downloads=30, seconds=4)
    load = rig.job(job="load", rate=400, seconds=3)
    rig.clock.sleep(1.2)
    start = rig.clock.monotonic()
    harm()
    rows = rig.result(load)
    bad = [began - start for began, _, error in rows if error]
    last = max(bad, default=0.0)
    rig.wait(lambda: _slots(rig) == {"h1", "h2"}, "h3 is not taken out")
    seen = rig.result(held)["alive"]
    # h3's own downloads end with it when it dies; everybody else's must not.
    lost = sum(count for word, count in seen.items() if word != "downloads")
    own = 30 - seen.get("downloads", 0)
    return Finding(
        name,
        f"last new connection to it after {last * 1000:.0f} ms, {len(bad)} of "
        f"{len(rows)} failed until then; {seen.get('downloads', 0)} of 30 downloads "
        "lived",
        f"within {DETECTION_BAR * 1000:.0f} ms; its neighbours' all",
        last <= DETECTION_BAR and own == lost and lost < 20,  # noqa: PLR2004
        {"last": last, "failed": len(bad), "lost": lost},
    )


def hold(rig: Rig, seconds: float) -> Any:  # noqa: ANN401 - a Process
    """Open 60 downloads and 50 idle connections that shall live so long."""
    return rig.job(
        job="long", downloads=60, client_first=25, server_first=25, seconds=seconds
    )


def survived(rig: Rig, name: str, held: Any, bar: float) -> Finding:  # noqa: ANN401
    """Say how many of what ``hold`` opened live; they stalled at most ``bar``."""
    seen = rig.result(held)
    alive = seen["alive"]
    counts = [alive.get(kind, 0) for kind in KINDS]
    stall = seen["stall"]
    return Finding(
        name,
        f"{counts[0]} of 60 downloads, {counts[1]} of 25 idle (client first), "
        f"{counts[2]} of 25 (server first) live; longest stall {stall * 1000:.0f} ms",
        f"all; stall under {bar * 1000:.0f} ms",
        counts == [60, 25, 25] and stall < bar,
        {"alive": alive, "stall": stall},
    )


def _slots(rig: Rig) -> set[str]:
    return set(rig.ask("a", do="status", backends=[])["services"][0]["slots"])


def _is_up(rig: Rig, name: str) -> bool:
    rows = rig.ask("a", do="status", backends=[])["backends"]
    return any(row["probed"] == "up" for row in rows if row["name"] == name)


def _reached(rig: Rig, count: int) -> bool:
    return bool(rig.ask("a", do="status", backends=[])["transactions"] >= count)


def _runtime(rig: Rig, command: str) -> None:
    """Put a command to h3's runtime socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.connect(str(rig.folder / "h3.sock"))
        sock.sendall(command.encode() + b"\n")
        sock.recv(4096)

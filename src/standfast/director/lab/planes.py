"""The lab's scenarios of the other data planes: IPv6, and modes without conntrack.

One story for each: three HAProxy share new connections, one drains and keeps what it
has while it gets nothing new, the addresses are handed over in good order and come
back, and then the machine that holds them is gone.
"""

from __future__ import annotations

import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

from standfast.director.lab.rig import DIRECTORS, NODES, Rig
from standfast.director.lab.scenarios import (
    KINDS,
    STALL_BAR,
    Finding,
    hold,
    pair,
)

if TYPE_CHECKING:
    from collections.abc import Callable


def stateless(rig: Rig) -> Finding:
    """Stateless: a drain, a handover, a failback, a power-off."""
    return _story(rig, "stateless")


def stateless6(rig: Rig) -> Finding:
    """Stateless over IPv6: the same."""
    return _story(rig, "stateless6")


def dsr(rig: Rig) -> Finding:
    """Direct server return: the same; answers do not pass the director."""
    return _story(rig, "dsr")


def dsr6(rig: Rig) -> Finding:
    """Direct server return over IPv6: the same."""
    return _story(rig, "dsr6")


def nat6(rig: Rig) -> Finding:
    """Nat over IPv6: the same."""
    return _story(rig, "nat6")


SCENARIOS: dict[str, Callable[[Rig], Finding]] = {
    "nat6": nat6,
    "stateless": stateless,
    "stateless6": stateless6,
    "dsr": dsr,
    "dsr6": dsr6,
}
# How the rig of a scenario differs from the usual one. Nothing is harmed here that
# probes should notice: they are patient, so that a busy machine is no fault.
PATIENT = {"deadline": "500ms"}
RIGS: dict[str, dict[str, Any]] = {
    "nat6": {"family": 6, **PATIENT},
    "stateless": {"mode": "stateless", **PATIENT},
    "stateless6": {"mode": "stateless", "family": 6, **PATIENT},
    "dsr": {"mode": "dsr", **PATIENT},
    "dsr6": {"mode": "dsr", "family": 6, **PATIENT},
}


def _story(rig: Rig, name: str) -> Finding:
    pair(rig)
    rows = rig.result(rig.job(job="load", rate=400, seconds=3.75, port=20000))
    shares = Counter(node for _, node, error in rows if not error)
    off = max(abs(shares[n] * len(NODES) / len(rows) - 1) for n in NODES)
    failed = sum(bool(error) for *_, error in rows)
    first = hold(rig, 12)
    rig.clock.sleep(1.5)
    _order(rig, "drain", "h3")
    rig.wait(lambda: _pins(rig) > 0, "no pins come to b")
    kept, pins = _left(rig), _pins(rig)
    load = rig.job(job="load", rate=250, seconds=8)
    _hand_over(rig)
    after = rig.result(load)
    strays = sum(node == "h3" for _, node, _ in after)
    failed += sum(bool(error) for *_, error in after)
    graceful = rig.result(first)
    crash, took = _power_off(rig)
    tracked = _tracked(rig) if rig.mode != "nat" else 0
    return _judge(
        name,
        {
            "off": off,
            "failed": failed,
            "strays": strays,
            "kept": kept,
            "pins": pins,
            "graceful": [graceful["alive"].get(kind, 0) for kind in KINDS],
            "graceful_stall": graceful["stall"],
            "crash": [crash["alive"].get(kind, 0) for kind in KINDS],
            "crash_stall": crash["stall"],
            "takeover": took,
            "tracked": tracked,
        },
        len(rows) + len(after),
    )


def _hand_over(rig: Rig) -> None:
    """Let a go in good order, and come back."""
    rig.clock.sleep(1.2)
    rig.kill("a", signal.SIGTERM)
    rig.wait(lambda: rig.role("b") == "master", "b does not take over")
    rig.wait_end("a")
    rig.clock.sleep(0.5)
    rig.start_director("a", election="vrrp")
    rig.wait(lambda: rig.role("a") == "master", "a does not come back", 15)


def _power_off(rig: Rig) -> tuple[dict[str, Any], float]:
    """Open anew, drain another, and take the holder's machine away."""
    _order(rig, "undrain", "h3")
    second = hold(rig, 7)
    rig.clock.sleep(1.5)
    _order(rig, "drain", "h2")
    rig.clock.sleep(2.0)
    start = rig.clock.monotonic()
    rig.power_off("a")
    rig.wait(lambda: rig.role("b") == "master", "b does not take over")
    took = rig.clock.monotonic() - start
    return rig.result(second), took


def _order(rig: Rig, order: str, node: str) -> None:
    for director in DIRECTORS:
        rig.ask(director, do=order, backend=node)


def _judge(name: str, seen: dict[str, Any], opened: int) -> Finding:
    whole = [60, 25, 25]
    lives = [f"{sum(seen[k])} of {sum(whole)}" for k in ("graceful", "crash")]
    return Finding(
        name,
        f"{seen['off']:.1%} off, {seen['failed']} of {opened} failed; drained: "
        f"{seen['kept']} kept, {seen['strays']} new, {seen['pins']} pins; handover and "
        f"failback {lives[0]} live, stall {seen['graceful_stall'] * 1000:.0f} ms; "
        f"power-off {lives[1]} live, takeover {seen['takeover'] * 1000:.0f} ms, stall "
        f"{seen['crash_stall'] * 1000:.0f} ms; {seen['tracked']} in conntrack",
        "5 %, 0 failed, 0 new; all live; takeover 500 ms; stalls 1 s; 0 tracked",
        seen["off"] <= 0.05  # noqa: PLR2004
        and not seen["failed"]
        and not seen["strays"]
        and not seen["tracked"]
        and seen["kept"] > 0
        and seen["graceful"] == seen["crash"] == whole
        and max(seen["graceful_stall"], seen["crash_stall"]) < STALL_BAR
        and seen["takeover"] < 0.5,  # noqa: PLR2004
        seen,
    )


def _pins(rig: Rig) -> int:
    peer = rig.ask("b", do="status", backends=[])["peer"]
    return int(peer["pins"])


def _left(rig: Rig) -> int:
    (row,) = [
        row
        for row in rig.ask("a", do="status", backends=["h3"])["backends"]
        if row["name"] == "h3"
    ]
    return int(row["connections"] or 0)


def _tracked(rig: Rig) -> int:
    family = "ipv6" if rig.family == 6 else "ipv4"  # noqa: PLR2004
    line = ("conntrack", "-L", "-f", family, "-d", rig.virtual)
    return len(rig.inside("b", *line).splitlines())

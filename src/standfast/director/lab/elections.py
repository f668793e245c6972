"""The lab's scenarios about who holds the addresses: deaths, cuts, strangers, peers.

As in scenarios.py each builds its own rig and returns what it measured with its bar.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from standfast.director.lab import neighbours
from standfast.director.lab.rig import VIRTUAL, Rig, python
from standfast.director.lab.scenarios import (
    STALL_BAR,
    Finding,
    hold,
    pair,
    survived,
)
from standfast.errors import StandfastError

if TYPE_CHECKING:
    from collections.abc import Callable


TAKEOVER_BAR = 0.5
# Three intervals of 100 ms and the whole of a skew.
DEAD_INTERVAL = 0.4
# CARP's own: three adverts of a second, a skew, and what it takes to notice.
CARP_TAKEOVER_BAR = 4.5
# TCP's retransmission after that, at 6.2 s.
CARP_STALL_BAR = 7.0


def director_killed(rig: Rig) -> Finding:
    """The holder's daemon is killed (-9); then again, and its watchdog with it."""
    pair(rig)
    held = hold(rig, 9)
    rig.clock.sleep(1.5)
    first, alone = _taken_over(rig, lambda: rig.kill("a", signal.SIGKILL))
    rig.wait(lambda: not rig.alive("a"), "the daemon does not die")
    rig.start_director("a", election="vrrp")
    rig.wait(lambda: _settled(rig, "a"), "a does not come back")
    rig.clock.sleep(0.5)
    second, zombie = _taken_over(rig, lambda: rig.kill_all("a"), single=False)
    # What a supervisor runs after every stop, as ExecStopPost does.
    words = ("director", "release", "--config", str(rig.folder / "a.toml"))
    said = rig.inside("a", sys.executable, "-m", "standfast", *words)
    left = rig.holders()
    found = survived(rig, "director-killed", held, STALL_BAR)
    took = max(first, second)
    return Finding(
        found.scenario,
        f"takeover {first * 1000:.0f} and {second * 1000:.0f} ms; one holder after "
        f"{alone * 1000:.0f} ms by the watchdog; without one {zombie} hold, and after "
        f"`release` {' '.join(left)}; {found.figures}",
        f"under 500 ms; one holder; {found.bar}",
        found.held and took < TAKEOVER_BAR and left == ["b"] and "removed" in said,
        {**found.numbers, "takeover": took, "single": alone},
    )


def survivor_restarted(rig: Rig) -> Finding:
    """After a drain and a power-off the other daemon is killed (-9) and restarted."""
    pair(rig)
    held = hold(rig, 12)
    rig.clock.sleep(1.5)
    rig.ask("a", do="drain", backend="h3")
    rig.wait(lambda: _pins(rig) > 0, "no pins come to b")
    rig.clock.sleep(1.2)
    rig.power_off("a")
    rig.wait(lambda: rig.role("b") == "master", "b does not take over")
    rig.clock.sleep(1.0)
    before = _pins(rig)
    rig.kill("b", signal.SIGKILL)
    rig.wait(lambda: not rig.alive("b"), "the daemon does not die")
    rig.clock.sleep(1.0)
    rig.start_director("b", election="vrrp")
    rig.wait(lambda: rig.role("b") == "master", "b does not take up again")
    rig.clock.sleep(1.0)
    again = _pins(rig)
    drains = rig.states("b")["h3"]
    found = survived(rig, "survivor-restarted", held, STALL_BAR)
    return Finding(
        found.scenario,
        f"{before} pins before, {again} after; h3 is still {drains}; {found.figures}",
        f"as many; draining; {found.bar}",
        found.held and 0 < before == again and drains == "draining",
        {**found.numbers, "pins": [before, again]},
    )


def split(rig: Rig) -> Finding:
    """The cluster is cut in two and healed: the standby alone, then the holder."""
    pair(rig)
    load = rig.job(job="load", rate=200, seconds=14)
    held = rig.job(job="long", downloads=30, client_first=10, seconds=14)
    argv = [*python("witness"), "front", "10.50.0.2", VIRTUAL, "14"]
    witness = rig.start("witness", argv, space="client")
    rig.clock.sleep(1.0)
    one = _cut_and_heal(rig, "b", "b")
    rig.clock.sleep(1.0)
    two = _cut_and_heal(rig, "a", "b")
    rig.wait(lambda: _settled(rig, "a"), "a does not take its addresses back")
    rig.clock.sleep(2.5)
    changes = [_changes(rig, name) for name in ("a", "b")]
    rows = rig.result(load)
    errors = Counter(error for *_, error in rows if error)
    failed = errors.total()
    kinds = rig.result(held)["alive"]
    alive = kinds.get("downloads", 0) + kinds.get("client_first", 0)
    double = _longest_double(rig.result(witness))
    # a: master, away and back; b: alone, back, while a is away, back.
    calm = changes[0] <= 3 and changes[1] <= 4  # noqa: PLR2004 - as counted above
    return Finding(
        "split",
        f"healed: one holder after {one * 1000:.0f} ms (standby was alone) and "
        f"{two * 1000:.0f} ms (holder was alone); a client reached two for at most "
        f"{double * 1000:.0f} ms; {sum(changes)} changes of role; {failed} of "
        f"{len(rows)} new connections failed, {alive} of 40 old ones live",
        f"a client reaches two for at most a dead interval of "
        f"{DEAD_INTERVAL * 1000:.0f} ms; no flapping (7 changes); 40",
        double <= DEAD_INTERVAL and calm and alive == 40,  # noqa: PLR2004
        {"healed": [one, two], "double": double, "changes": changes, "failed": errors},
    )


def forged(rig: Rig) -> Finding:
    """A stranger forges, alters and replays adverts and control messages."""
    pair(rig, elect=f'passphrase_file = "{rig.secret()}"')
    load = rig.job(job="load", rate=200, seconds=6)
    rig.clock.sleep(0.5)
    before = [_changes(rig, name) for name in ("a", "b")]
    job = {"job": "adverts", "protocol": "vrrp", "interface": "front", "group": 51}
    adverts = _forge(rig, "client", job | {"address": VIRTUAL})
    # At the switch's end of b's cable, where what a says to b can be recorded.
    control = _forge(rig, "sw", {"job": "control", "interface": "b-back", "port": 7777})
    rig.clock.sleep(0.3)
    seen = rig.ask("b", do="status", backends=[])
    counted = {**seen["election"]["refused"], **seen["peer"]["refused_by"]}
    sent = {**adverts, **control}
    short = {word: n for word, n in sent.items() if counted.get(word, 0) < n}
    log = rig.log("b")
    told = all(word in log for word in ("ignored an advert", "the peer channel:"))
    rows = rig.result(load)
    failed = sum(bool(error) for *_, error in rows)
    calm = before == [_changes(rig, name) for name in ("a", "b")]
    rank = rig.ask("a", do="status", backends=[])["rank"]
    words = ", ".join(f"{counted.get(word, 0)} {word}" for word in sent)
    return Finding(
        "forged",
        f"{sum(sent.values())} messages or more sent, refused: {words}; "
        f"{'' if calm else 'ROLES CHANGED; '}rank {rank}; {failed} of {len(rows)} new "
        "connections failed",
        "all refused, counted and logged; no change of role; 0 failed",
        not short and told and calm and not failed,
        {"sent": sent, "counted": counted, "failed": failed},
    )


def peer_keepalived(rig: Rig) -> Finding:
    """The other director runs keepalived: each elects as the other does."""
    return neighbours.play(rig, neighbours.Keepalived(rig), "vrrp", 1.0)


def peer_ucarp(rig: Rig) -> Finding:
    """The other director runs ucarp: each elects as the other does."""
    return neighbours.play(rig, neighbours.Ucarp(rig), "carp", 8.0)


def under_carp(rig: Rig) -> Finding:
    """Two directors under CARP: handover, failback, then power off."""
    pair(rig, "carp", "sealed = true\n" + f'passphrase_file = "{rig.secret()}"')
    held = hold(rig, 22)
    rig.clock.sleep(1.0)
    start = rig.clock.monotonic()
    rig.kill("a", signal.SIGTERM)
    rig.wait(lambda: rig.role("b") == "master", "b does not take over")
    over = rig.clock.monotonic() - start
    rig.wait_end("a")
    elect = "sealed = true\n" + f'passphrase_file = "{rig.secret()}"'
    rig.start_director("a", election="carp", elect=elect)
    rig.wait(lambda: _settled(rig, "a"), "a does not come back", 12)
    rig.clock.sleep(1.0)
    start = rig.clock.monotonic()
    rig.power_off("a")
    rig.wait(lambda: rig.role("b") == "master", "b does not take over", 10)
    took = rig.clock.monotonic() - start
    found = survived(rig, "under-carp", held, CARP_STALL_BAR)
    return Finding(
        found.scenario,
        f"handover {over * 1000:.0f} ms, power-off {took:.1f} s; {found.figures}",
        f"under 500 ms, {CARP_TAKEOVER_BAR} s; {found.bar}",
        found.held and over < TAKEOVER_BAR and took < CARP_TAKEOVER_BAR,
        {**found.numbers, "handover": over, "takeover": took},
    )


SCENARIOS: dict[str, Callable[[Rig], Finding]] = {
    "director-killed": director_killed,
    "survivor-restarted": survivor_restarted,
    "split": split,
    "forged": forged,
    "peer-keepalived": peer_keepalived,
    "peer-ucarp": peer_ucarp,
    "under-carp": under_carp,
}


def _taken_over(
    rig: Rig, harm: Callable[[], None], *, single: bool = True
) -> tuple[float, Any]:
    """Harm a; return when b was master, and when (or how long) a held no address."""
    start = rig.clock.monotonic()
    harm()
    rig.wait(lambda: rig.role("b") == "master", "b does not take over")
    took = rig.clock.monotonic() - start
    if not single:
        rig.wait(lambda: rig.holders() == ["a", "b"], "a keeps no zombie address")
        return took, "+".join(rig.holders())
    rig.wait(lambda: rig.holders() == ["b"], "a keeps the address")
    return took, rig.clock.monotonic() - start


def _pins(rig: Rig) -> int:
    return int(rig.ask("b", do="status", backends=[])["peer"]["pins"])


def _settled(rig: Rig, name: str) -> bool:
    return rig.role(name) == "master" and rig.holders() == [name]


def _cut_and_heal(rig: Rig, name: str, other: str) -> float:
    """Cut one director off until both hold; return when one holds after the heal."""
    rig.cut(name)
    rig.wait(lambda: rig.role(other) == "master", f"{other} does not take over")
    rig.clock.sleep(0.7)
    start = rig.clock.monotonic()
    rig.join(name)
    rig.wait(lambda: len(rig.holders()) == 1, "both keep the address")
    return rig.clock.monotonic() - start


def _changes(rig: Rig, name: str) -> int:
    """Return how often a director's role has changed since it listened."""
    seen = rig.ask(name, do="status", backends=[])["sentences"]
    words = [sentence.partition(":")[0] for _, sentence in seen]
    return sum(word in ("master", "backup", "init") for word in words) - 1


def _forge(rig: Rig, space: str, job: dict[str, Any]) -> dict[str, int]:
    argv = [*python("forger"), json.dumps(job)]
    counts: dict[str, int] = rig.result(rig.start("forger", argv, space=space))
    if not counts:
        raise StandfastError("the lab: the forger sent nothing")
    return counts


def _longest_double(rows: list[tuple[float, list[str]]]) -> float:
    """Return the longest time for which a client's questions had two answers."""
    longest = 0.0
    began: float | None = None
    for at, macs in rows:
        if len(macs) < 2:  # noqa: PLR2004 - two holders
            began = None
            continue
        began = at if began is None else began
        longest = max(longest, at - began + 0.02)
    return longest

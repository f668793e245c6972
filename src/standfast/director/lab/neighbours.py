"""Peers of other makes in the lab: keepalived and ucarp beside one director of ours."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from standfast.director.lab.rig import VIRTUAL
from standfast.director.lab.scenarios import Finding
from standfast.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from standfast.director.lab.rig import Rig

KEEPALIVED = """
global_defs {{
  vrrp_version 3
}}
vrrp_instance director {{
  state BACKUP
  interface front
  virtual_router_id 51
  priority {priority}
  advert_int 0.1
  virtual_ipaddress {{ {address}/32 dev front }}
}}
"""


class Neighbour(Protocol):
    """A program that takes part in the election, in b's namespace."""

    name: str

    def start(self, *, better: bool) -> None:
        """Start it, with a better or a worse claim than ours."""
        ...

    def kill(self) -> None:
        """Kill it (-9), and remove its address as its supervisor would."""
        ...


class Keepalived:
    """keepalived with VRRPv3 at our pace."""

    name = "keepalived"

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        _need(self.name)

    def start(self, *, better: bool) -> None:
        """Start it; see Neighbour."""
        place = self._rig.folder / "keepalived.conf"
        text = KEEPALIVED.format(priority=200 if better else 60, address=VIRTUAL)
        place.write_text(text, encoding="ascii")
        place.chmod(0o600)
        pids = [str(self._rig.folder / f"keepalived.{end}") for end in ("pid", "vrrp")]
        for pid in pids:
            # Of one that was killed, whose number may stand for a while yet.
            Path(pid).unlink(missing_ok=True)
        argv = ["keepalived", "--dont-fork", "--vrrp", "-f", str(place)]
        argv += ["-p", pids[0], "-r", pids[1]]
        self._rig.start(self.name, argv, space="b")

    def kill(self) -> None:
        """Kill it; see Neighbour."""
        _kill(self._rig)


class Ucarp:
    """ucarp, which knows CARP with one IPv4 address."""

    name = "ucarp"

    def __init__(self, rig: Rig) -> None:
        self._rig = rig
        _need(self.name)

    def start(self, *, better: bool) -> None:
        """Start it; see Neighbour."""
        scripts = []
        for verb in ("add", "del"):
            script = self._rig.folder / f"ucarp-{verb}"
            line = f"ip address {verb} {VIRTUAL}/32 dev front"
            script.write_text(f"#!/bin/sh\n{line}\n", encoding="ascii")
            script.chmod(0o700)
            scripts.append(str(script))
        # The password is the lab's own, and known to everybody.
        argv = ["ucarp", "-i", "front", "-s", "10.50.0.12", "-v", "51", "-p", "secret"]
        argv += ["-a", VIRTUAL, "-b", "1", "-k", "0" if better else "200", "-P", "-n"]
        argv += ["-u", scripts[0], "-d", scripts[1]]
        self._rig.start(self.name, argv, space="b")

    def kill(self) -> None:
        """Kill it; see Neighbour."""
        _kill(self._rig)


def play(rig: Rig, other: Neighbour, election: str, bar: float) -> Finding:
    """Let ours and the other take turns, both ways; each turn ends with one holder.

    Args:
        rig: the lab.
        other: in the place of b.
        election: ours.
        bar: seconds within which a dead holder must be replaced.
    """
    elect = f'passphrase_file = "{rig.secret()}"' if election == "carp" else ""

    def ours() -> None:
        rig.start_director("a", election=election, elect=elect)

    turns: dict[str, float] = {}
    ours()
    rig.wait(lambda: _alone(rig, "a"), "ours does not take the address")
    # A newcomer holds back for a moment, and until then the other is rightly better.
    rig.wait(lambda: _rank(rig) > 1, "ours does not come to its rank")
    other.start(better=False)
    _stays(rig, "a", 4 * bar)
    turns["ours stopped"] = _until(rig, "b", lambda: rig.kill("a", signal.SIGTERM))
    rig.wait_end("a")
    turns["ours back"] = _until(rig, "a", ours)
    turns["ours killed"] = _until(rig, "b", lambda: rig.kill("a", signal.SIGKILL))
    other.kill()
    ours()
    rig.wait(lambda: _alone(rig, "a"), "ours does not take the address")
    turns["better one comes"] = _until(rig, "b", lambda: other.start(better=True))
    _stays(rig, "b", 4 * bar)
    turns["it is killed"] = _until(rig, "a", other.kill)
    refused = rig.ask("a", do="status", backends=[])["election"]["refused"]
    slow = [word for word in _BARRED if turns[word] > bar]
    figures = ", ".join(f"{word} {s * 1000:.0f} ms" for word, s in turns.items())
    return Finding(
        f"peer-{other.name}",
        f"until there was one holder, the right one: {figures}",
        f"stopped or killed: under {bar * 1000:.0f} ms; the worse one waits",
        not slow and not any(n for word, n in refused.items() if word != "foreign"),
        {"turns": turns, "refused": refused},
    )


_BARRED = ("ours stopped", "ours killed", "it is killed")


def _rank(rig: Rig) -> int:
    return int(rig.ask("a", do="status", backends=[])["rank"])


def _alone(rig: Rig, name: str) -> bool:
    return rig.holders() == [name]


def _until(rig: Rig, name: str, doing: Callable[[], None]) -> float:
    start = rig.clock.monotonic()
    doing()
    rig.wait(lambda: _alone(rig, name), f"{name} does not come to hold alone", 15)
    return rig.clock.monotonic() - start


def _stays(rig: Rig, name: str, seconds: float) -> None:
    """Watch that nobody else takes the address for a while.

    Raises:
        StandfastError: somebody did.
    """
    end = rig.clock.monotonic() + min(seconds, 4.0)
    while rig.clock.monotonic() < end:
        rig.wait(lambda: _alone(rig, name), f"{name} loses the address", 0.0)
        rig.clock.sleep(0.1)


def _kill(rig: Rig) -> None:
    rig.kill_all("b")
    for address in [VIRTUAL] if "b" in rig.holders() else []:
        rig.inside("b", "ip", "address", "del", f"{address}/32", "dev", "front")


def _need(program: str) -> None:
    """Ask for a program.

    Raises:
        UsageError: it is not here.
    """
    if shutil.which(program) is None:
        raise UsageError(
            f"this scenario needs {program}", hint=f"apt install {program}"
        )

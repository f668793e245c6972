"""`director run` on a FreeBSD that answers from captured output.

pf and the kernel's CARP are played by a machine that says what real ones have said
(tests/captures) with the numbers that it was told; backends are real ones.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from conftest import ROOT

from standfast.clock import SystemClock
from standfast.director.assembly import open_daemon
from standfast.director.config import Config, parse_config
from standfast.director.drivers.pf_grammar import ANCHOR_LINES
from standfast.director.election.freebsd import DEMOTION
from standfast.director.opening import open_election
from standfast.director.preflight import preflight
from standfast.errors import CommandError
from standfast.host import Result
from standfast.testing.host import ScriptedHost

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from standfast.director.apply import Daemon

CAPTURES = ROOT / "tests" / "captures"
CONFIG = """
name = "left"
driver = "pf"
front = "vtnet3"
socket = "{folder}/director.sock"
state = "{folder}/director.json"
[service.web]
virtual = ["192.168.10.254:{port}"]
[backend.h1]
address = "127.0.0.1"
[backend.h2]
address = "127.0.0.2"
[probe.tcp]
interval = "50ms"
fast = "20ms"
rise = 1
fall = 2
[policy.damping]
falls = 0
[election]
kind = "freebsd-carp"
id = 1
priority = {priority}
hold = "100ms"
"""


def captured(stem: str) -> str:
    text: str = json.loads((CAPTURES / f"{stem}.json").read_text())["stdout"]
    return text


@dataclass
class FreebsdMachine(ScriptedHost):
    """One vhid on vtnet3, pf with our anchor, and a peer that preempts by 120.

    Attributes:
        stem: of the capture that ifconfig says.
        worth: advskew, or vrrpprio where the capture speaks VRRP.
        demotion: as the kernel has it, its own contributions and ours.
        told: every command that changes something.
    """

    stem: str = "freebsd-13-ifconfig-carp-master"
    worth: int = 100
    demotion: int = 0
    told: list[str] = field(default_factory=list)
    tables: dict[str, list[str]] = field(default_factory=dict)
    nat: list[str] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    forgotten: list[str] = field(default_factory=list)
    broken: bool = False
    deaf: bool = False
    name: str = "a FreeBSD"

    @property
    def vrrp(self) -> bool:
        return "vrrp" in self.stem

    def master(self) -> bool:
        if self.vrrp:
            return self.worth > 120 and self.demotion == 0
        return min(self.worth + self.demotion, 240) < 120

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        ok: Sequence[int] = (0,),
        timeout: float | None = None,
    ) -> Result:
        assert timeout is not None
        words = list(argv)
        if words[0] == "pfctl":
            code, text, complaint = self._pfctl(words[1:], stdin.decode())
        else:
            code, complaint = 0, ""
            text = getattr(self, f"_{words[0]}")(words[1:])
        result = Result(tuple(argv), code, text.encode(), complaint)
        if code not in ok:
            raise CommandError(result.complaint())
        return result

    def _uname(self, _words: list[str]) -> str:
        return "15.0-RELEASE\n" if self.vrrp else "13.2-RELEASE\n"

    def _sysctl(self, words: list[str]) -> str:
        name, _, delta = words[0].partition("=")
        if delta:
            assert name == "net.inet.carp.demotion"
            if not self.deaf:
                self.told.append(f"sysctl {words[0]}")
                self.demotion += int(delta)
            return ""
        text = captured("opnsense-24.7-sysctl-carp")
        return text.replace("demotion: 0", f"demotion: {self.demotion}")

    def _ifconfig(self, words: list[str]) -> str:
        assert words[0] == "vtnet3"
        if len(words) > 1:
            self.told.append(f"ifconfig {' '.join(words)}")
            assert words[1:3] == ["vhid", "1"]
            assert words[3] == ("vrrpprio" if self.vrrp else "advskew")
            self.worth = int(words[4])
            return ""
        state = "MASTER" if self.master() else "BACKUP"
        if self.vrrp:
            now = f"vrrp: {state} vrid 1 prio {self.worth}"
            return re.sub(r"vrrp: \w+ vrid 1 prio \d+", now, captured(self.stem))
        now = f"carp: {state} vhid 1 advbase 1 advskew {self.worth}"
        old = r"carp: \w+ vhid 1 advbase 1 advskew \d+"
        return re.sub(old, now, captured(self.stem))

    def _pfctl(  # noqa: PLR0911 - one for each command
        self, words: list[str], stdin: str
    ) -> tuple[int, str, str]:
        if words == ["-nf", "-"]:
            return (0 if self.vrrp else 1), "", "tables are only for round-robin"
        if words[:1] == ["-s"]:
            calls = [line.format("director") + " all" for line in ANCHOR_LINES]
            if words[1] == "info":
                return 0, captured("freebsd-pfctl-s-info"), ""
            return 0, "\n".join(calls), ""
        if words[0] == "-K":
            self.forgotten.append(words[-1])
            return 0, "", "killed 1 src nodes from 1 sources and 1 destinations"
        assert words[:2] == ["-a", "director"], words
        match words[2:]:
            case ["-s", "rules"]:
                return 0, "\n".join(self.rules), ""
            case ["-s", "nat"]:
                return 0, "\n".join(self.nat), ""
            case ["-t", table, "-T", "show"] if table in self.tables:
                return 0, "".join(f"   {a}\n" for a in self.tables[table]), ""
            case ["-t", _, "-T", "show"]:
                return 255, "", "pfctl: Table does not exist."
        if self.broken:
            return 1, "", "pfctl: DIOCXBEGIN: Device busy"
        assert words[2:4] == ["-o", "none"]
        self._load(stdin, rules="-T" not in words)
        return 0, "", ""

    def _load(self, text: str, *, rules: bool) -> None:
        lines = [line for line in text.splitlines() if line]
        for line in lines:
            found = re.match(r"table <(\S+)>.*\{(.*)\}", line)
            if found is not None:
                self.tables[found[1]] = re.findall(r"[0-9a-f.:]+", found[2])
        if rules:
            others = [line for line in lines if not line.startswith("table")]
            first = ("rdr", "nat", "no ")
            self.nat = [line for line in others if line.startswith(first)]
            self.rules = [line for line in others if not line.startswith(first)]


@dataclass
class Backends:
    """Real listeners on 127.0.0.1 and 127.0.0.2, on one port."""

    port: int = 0
    open: dict[str, socket.socket] = field(default_factory=dict)

    def serve(self, name: str) -> None:
        self.open[name] = socket.create_server((f"127.0.0.{name[1]}", self.port))
        self.port = self.open[name].getsockname()[1]

    def kill(self, name: str) -> None:
        self.open.pop(name).close()


@pytest.fixture
def backends() -> Iterator[Backends]:
    both = Backends()
    for name in ("h1", "h2"):
        both.serve(name)
    yield both
    for one in both.open.values():
        one.close()


def configure(folder: Path, backends: Backends, priority: int = 200) -> Config:
    text = CONFIG.format(folder=folder, port=backends.port, priority=priority)
    return parse_config(text)


@contextlib.asynccontextmanager
async def running(machine: FreebsdMachine, read: Callable[[], Config]) -> Any:
    config = read()
    daemon = open_daemon(
        config, machine, reread=read, clock=SystemClock(), chance=random.Random(1),
        environment={},
    )  # fmt: skip
    task = asyncio.create_task(
        daemon.run(lambda plane: open_election(config, plane, machine))
    )
    try:
        yield daemon
    finally:
        daemon.stop()
        await task


async def until(ready: Callable[[], object], what: str) -> None:
    async with asyncio.timeout(8):
        while not ready():  # noqa: ASYNC110 - as an operator sees it
            await asyncio.sleep(0.01)
    assert what


def role(daemon: Daemon) -> str:
    return str(daemon.status()["election"]["role"])


def test_the_kernel_is_steered_by_health_and_orders(
    tmp_path: Path, backends: Backends
) -> None:
    """advskew follows backends, demotion an order; idle rounds tell nothing."""
    machine = FreebsdMachine()
    priority = [200]

    async def scenario() -> None:
        def read() -> Config:
            return configure(tmp_path, backends, priority[0])

        async with running(machine, read) as daemon:
            await until(lambda: daemon.rank.rank == 200, "the rank")
            await until(lambda: role(daemon) == "master", "mastership")
            await until(lambda: machine.told, "the advskew")
            assert ["ifconfig vtnet3 vhid 1 advskew 50"] == machine.told
            assert {"127.0.0.1", "127.0.0.2"} == set(machine.tables[_table(backends)])
            quiet = len(machine.told)
            await asyncio.sleep(0.7)
            assert quiet == len(machine.told)
            backends.kill("h2")
            await until(lambda: role(daemon) == "backup", "the kernel to move")
            assert "ifconfig vtnet3 vhid 1 advskew 144" == machine.told[1]
            await until(lambda: ["127.0.0.1"] == machine.tables[_table(backends)], "pf")
            await until(lambda: ["127.0.0.2"] == machine.forgotten, "its clients")
            backends.serve("h2")
            await until(lambda: role(daemon) == "master", "the kernel to come back")
            await daemon.answer({"do": "standby"})
            await until(lambda: role(daemon) == "backup", "the demotion")
            assert DEMOTION == machine.demotion
            await daemon.answer({"do": "resume"})
            await until(lambda: role(daemon) == "master", "the demotion to go")
            assert 0 == machine.demotion
            priority[0] = 254
            daemon.reload()
            await until(lambda: machine.worth == 0, "the new priority")
            row = daemon.status()["election"]
            assert {"kind": "freebsd-carp", "problem": ""}.items() <= row.items()
            assert 3 == row["takeovers"]
        # A clean stop hands over, and nobody watches backends here any more.
        assert not machine.master()
        assert DEMOTION == machine.demotion

    asyncio.run(scenario())


def test_a_restart_moves_nothing(tmp_path: Path, backends: Backends) -> None:
    """The next daemon finds what the last one set, and tells the kernel nothing."""
    machine = FreebsdMachine()

    async def life() -> None:
        async with running(machine, lambda: configure(tmp_path, backends)) as daemon:
            await until(lambda: daemon.rank.rank == 200, "the rank")
            await until(lambda: role(daemon) == "master", "mastership")
            await asyncio.sleep(0.3)
            # As kill -9 does: whatever is told after this is not told by this life.
            machine.deaf = True

    asyncio.run(life())
    machine.deaf = False
    machine.told.clear()
    (tmp_path / "director.demotion").unlink()
    asyncio.run(life())
    assert [] == machine.told


def _table(backends: Backends) -> str:
    return f"web_4_{backends.port}"


def test_vrrp_of_freebsd_15(tmp_path: Path, backends: Backends) -> None:
    machine = FreebsdMachine(stem="freebsd-15-ifconfig-vrrp", worth=130)

    async def scenario() -> None:
        async with running(machine, lambda: configure(tmp_path, backends)) as daemon:
            await until(lambda: role(daemon) == "master", "mastership")
            await until(lambda: machine.told, "the priority")
            assert ["ifconfig vtnet3 vhid 1 vrrpprio 200"] == machine.told

    asyncio.run(scenario())


def test_without_rules_the_node_is_demoted(tmp_path: Path, backends: Backends) -> None:
    """pfctl refuses: the kernel must not keep an address that nothing serves."""
    machine = FreebsdMachine()

    async def scenario() -> None:
        async with running(machine, lambda: configure(tmp_path, backends)) as daemon:
            await until(lambda: role(daemon) == "master", "mastership")
            machine.broken = True
            machine.rules.clear()
            daemon.plane.mark()
            await until(lambda: role(daemon) == "backup", "the demotion")
            assert DEMOTION == machine.demotion
            assert "Device busy" in daemon.status()["trouble"]
            machine.broken = False
            await until(lambda: role(daemon) == "master", "recovery")
            assert 0 == machine.demotion

    asyncio.run(scenario())


def test_check_says_what_the_kernel_lacks(tmp_path: Path, backends: Backends) -> None:
    """Before anything runs: a setting, and a vhid."""

    class Lacking(FreebsdMachine):
        def _sysctl(self, words: list[str]) -> str:
            return super()._sysctl(words).replace("preempt: 1", "preempt: 0")

    config = configure(tmp_path, backends)
    assert () == preflight(config, FreebsdMachine()).missing
    (lack,) = preflight(config, Lacking()).missing
    assert "net.inet.carp.preempt is not 1" in lack
    other = FreebsdMachine(stem="opnsense-19.1-ifconfig-carp")
    (lack,) = preflight(config, other).missing
    assert "there is no vhid 1@vtnet3" in lack

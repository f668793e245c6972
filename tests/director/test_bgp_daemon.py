"""`director run` with BGP: real ExaBGP, a real router, and backends that die."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from conftest import wait_until
from director.router import run

from standfast.director.control import ControlError, ask

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from director.router import Router

pytestmark = pytest.mark.system

# Takes connections on port 80 of its address, and closes them.
SERVER = """
import socket, sys
with socket.create_server((sys.argv[1], 80)) as server:
    while True:
        server.accept()[0].close()
"""
CONFIG = """
name = "{name}"
front = "front"
socket = "{folder}/{name}.ctl"
state = "{folder}/{name}.state"
[service.web]
virtual = [{virtual}]
mode = "stateless"
[backend.h1]
address = "10.77.0.1"
[backend.h2]
address = "10.77.0.2"
[probe.tcp]
interval = "50ms"
fast = "20ms"
rise = 1
[policy.damping]
falls = 0
[election]
kind = "bgp"
relay = "{folder}/{name}.sock"
priority = {priority}
hold = "200ms"
communities = ["65001:100"]
"""
ADDRESSES = {"h1": "10.77.0.1", "h2": "10.77.0.2"}


@dataclass
class Side:
    """A director with two backends of its own in one namespace, and its ExaBGP."""

    router: Router
    name: str
    net: int
    priority: int
    virtual: tuple[str, ...] = ("192.0.2.10:80",)
    daemon: subprocess.Popen[bytes] | None = None
    servers: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def via(self) -> str:
        return f"10.99.{self.net}.2"

    def set_up(self) -> None:
        space = self.router.space(self.name)
        for address in (*ADDRESSES.values(), "192.0.2.10", "192.0.2.11"):
            run("ip", "-n", space, "address", "add", f"{address}/32", "dev", "lo")
        run("ip", "-n", space, "route", "add", "default", "via", f"10.99.{self.net}.1")
        for name in ADDRESSES:
            self.serve(name)
        sock = self.router.folder / f"{self.name}.sock"
        self.router.exabgp(self.name, self.net, sock)

    def serve(self, name: str) -> None:
        argv = (sys.executable, "-c", SERVER, ADDRESSES[name])
        self.servers[name] = self.router.start(self.name, *argv)

    def kill(self, name: str) -> None:
        self.servers[name].kill()
        self.servers[name].wait(timeout=5)

    def configure(self) -> Path:
        path = self.router.folder / f"{self.name}.toml"
        path.write_text(
            CONFIG.format(
                name=self.name,
                folder=self.router.folder,
                virtual=", ".join(f'"{v}"' for v in self.virtual),
                priority=self.priority,
            )
        )
        return path

    def run(self) -> None:
        argv = (sys.executable, "-m", "standfast", "director", "run", "--config")
        self.daemon = self.router.start(self.name, *argv, self.configure())
        wait_until(lambda: self.role() == "master", f"{self.name} to announce", 15)

    def ask(self, **request: Any) -> dict[str, Any]:
        return ask(str(self.router.folder / f"{self.name}.ctl"), request)

    def role(self) -> str:
        try:
            return str(self.ask(do="status", backends=[])["role"])
        except ControlError:
            return ""

    def problem(self) -> str:
        return str(self.ask(do="status", backends=[])["election"]["problem"])

    def stop(self, number: int) -> None:
        assert self.daemon is not None
        self.daemon.send_signal(number)
        self.daemon.wait(timeout=15)


def med(router: Router, side: Side) -> int:
    """The MED that the router knows of a side's route; 0 without one."""
    text = router.routes()
    for part in text.split("unicast [")[1:]:
        found = re.search(r"BGP\.med: (\d+)", part)
        if f"via {side.via}" in part and found is not None:
            return int(found[1])
    return 0


@pytest.fixture
def sides(router: Router) -> Iterator[tuple[Side, Side]]:
    # ExaBGP, servers and daemons are the router's processes: it ends them.
    a, b = Side(router, "a", 1, 200), Side(router, "b", 2, 100)
    for side in (a, b):
        side.set_up()
        side.run()
    wait_until(lambda: med(router, a) and med(router, b), "both routes", 30)
    yield a, b
    for side in (a, b):
        if side.daemon is not None:
            side.daemon.kill()


def test_the_daemon_announces_while_healthy(
    router: Router, sides: tuple[Side, Side]
) -> None:
    """Worse with each backend that fails, gone with the last; back with the first."""
    a, b = sides
    wait_until(lambda: (154, 254) == (med(router, a), med(router, b)), "both MEDs", 5)
    assert a.via == router.via()
    assert "(65001,100)" in router.routes()
    a.kill("h1")
    wait_until(lambda: med(router, a) == 254, "a worse MED", 5)
    a.kill("h2")
    wait_until(lambda: med(router, a) == 10000, "the worst MED", 5)
    assert "(65535,0)" in router.routes()
    assert b.via == router.via()
    wait_until(lambda: med(router, a) == 0, "the withdrawal", 5)
    seen = a.ask(do="status", backends=[])
    assert "backup" == seen["role"]
    assert {"kind": "bgp", "problem": ""}.items() <= seen["election"].items()
    assert "0 of 2 backends healthy" in seen["reason"]
    a.serve("h1")
    a.serve("h2")
    wait_until(lambda: med(router, a) == 154, "the route to come back", 8)
    assert a.via == router.via()


def test_standby_moves_traffic_before_it_withdraws(
    router: Router, sides: tuple[Side, Side]
) -> None:
    """The drain of a director; so does its clean stop; its death moves nothing."""
    a, b = sides
    a.ask(do="standby")
    wait_until(lambda: med(router, a) == 10000, "the worst MED", 3)
    assert b.via == router.via()
    wait_until(lambda: med(router, a) == 0, "the withdrawal", 5)
    a.stop(signal.SIGTERM)
    a.daemon = router.start(
        "a", sys.executable, "-m", "standfast", "director", "run", "--config",
        a.configure(),
    )  # fmt: skip
    wait_until(lambda: a.role() == "backup", "a to be there again", 10)
    assert 0 == med(router, a)
    wait_until(lambda: a.problem() == "", "ExaBGP to take what it is told", 5)
    a.ask(do="resume")
    wait_until(lambda: med(router, a) == 154, "the route to come back", 8)
    a.stop(signal.SIGKILL)
    assert 154 == med(router, a)
    a.run()
    assert 154 == med(router, a)
    a.stop(signal.SIGTERM)
    assert 0 == med(router, a)
    assert b.via == router.via()


def test_a_dead_daemon_s_route_goes_when_the_next_one_is_unfit(
    router: Router, sides: tuple[Side, Side]
) -> None:
    """What a former daemon announced is not forgotten by its successor."""
    a, b = sides
    a.stop(signal.SIGKILL)
    a.kill("h1")
    a.kill("h2")
    a.daemon = router.start(
        "a", sys.executable, "-m", "standfast", "director", "run", "--config",
        a.configure(),
    )  # fmt: skip
    wait_until(lambda: med(router, a) == 0, "the withdrawal", 10)
    assert b.via == router.via()


def test_a_reload_announces_a_new_address(
    router: Router, sides: tuple[Side, Side]
) -> None:
    a, _ = sides
    a.virtual = ("192.0.2.11:80",)
    a.configure()
    a.ask(do="reload")
    new = ("ip", "-n", router.space("r"), "route", "show", "192.0.2.11/32")
    wait_until(lambda: a.via in run(*new), "the new route", 5)
    wait_until(lambda: med(router, a) == 0, "the old one to go", 5)
    rules = subprocess.run(
        ["ip", "netns", "exec", router.space("a"), "nft", "list", "ruleset"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "192.0.2.11" in rules.stdout

"""The lab's machines: namespaces, cables, three HAProxy, an origin, two directors.

client 10.50.0.2 - front - a, b (10.50.0.11/.12, virtual 10.50.0.100) - back -
h1 h2 h3 (10.60.0.21-23, default route 10.60.0.1, which moves with the virtual
address) and the origin 10.60.0.50. Everything lives in namespaces named after this
process, and in one temporary folder; ``close`` removes both. With ``family=6`` the
same in 2001:db8:50::/64 and 2001:db8:60::/64. With ``mode="dsr"`` nodes have a cable
to the front too, and the virtual address on their loopback, for they answer clients
themselves.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from standfast.director.control import ControlError, ask
from standfast.errors import CommandError, StandfastError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from standfast.clock import Clock
    from standfast.director.model import Family, Mode
    from standfast.host import Host
    from standfast.host.process import Process

VIRTUAL = "10.50.0.100"
INNER = "10.60.0.1"
ORIGIN = "10.60.0.50"
NODES = {"h1": "10.60.0.21", "h2": "10.60.0.22", "h3": "10.60.0.23"}
DIRECTORS = {"a": 11, "b": 12}
NEEDS = ("ip", "nft", "haproxy", "conntrack", "sysctl")
START_SECONDS = 8.0
_COUNT = itertools.count()
NETS = {4: ("10.50.0.", "10.60.0.", 24), 6: ("2001:db8:50::", "2001:db8:60::", 64)}
# Nodes that answer for an address which others hold must not be heard by ARP.
SILENT = (
    "net.ipv4.conf.all.arp_ignore=1",
    "net.ipv4.conf.all.arp_announce=2",
    "net.ipv4.conf.all.rp_filter=0",
)

HAPROXY = """
global
  stats socket {folder}/{name}.sock mode 600 level admin
  maxconn 4000
defaults
  timeout connect 2s
  timeout client 60s
  timeout server 60s
  timeout tunnel 60s
  option idle-close-on-response
  option http-no-delay
frontend web
  mode http
  bind {ip}:80
  {bind}:80
  monitor-uri /health
  monitor fail if {{ nbsrv(app) lt 1 }}
  http-request return status 503 if {{ var(proc.sick) -m found }}
  http-response set-header X-Node {name}
  default_backend app
backend app
  mode http
  server o1 {origin}:8000
frontend raw
  mode tcp
  bind {ip}:81
  {bind}:81
  default_backend line
backend line
  mode tcp
  server o1 {origin}:8001
"""

CONFIG = """
name = "{name}"
front = "front"
back = "back"
seed = 24301
socket = "{folder}/{name}.ctl"
state = "{folder}/{name}.state"
[service.web]
virtual = ["{virtual}:80"]
mode = "{mode}"
[service.raw]
virtual = ["{virtual}:81"]
mode = "{mode}"
[probe.health]
type = "http"
port = 80
path = "/"
host = "lab"
interval = "100ms"
fast = "20ms"
deadline = "{deadline}"
rise = 2
fall = 2
[policy.damping]
falls = 0
[election]
kind = "{election}"
interval = "{interval}"
priority = {priority}
addresses = ["{inner}@back"]
hold = "500ms"
{elect}
{peer}
{backends}
"""


class Rig:
    """Builds the lab, and gives handles to its parts.

    Args:
        host: this machine.
        clock: for waiting.
        family: 4 or 6, of all addresses.
        mode: how its directors steer, unless they are told otherwise.
        deadline: of their probes.
    """

    def __init__(
        self,
        host: Host,
        clock: Clock,
        *,
        family: Family = 4,
        mode: Mode = "nat",
        deadline: str = "50ms",
    ) -> None:
        self.deadline = deadline
        front, back, self._bits = NETS[family]
        self.front, self.back, self.family, self.mode = front, back, family, mode
        self.virtual, self.inner, self.origin = f"{front}100", f"{back}1", f"{back}50"
        self.nodes = {name: f"{back}{20 + n}" for n, name in enumerate(NODES, 1)}
        self.host = host
        self.clock = clock
        self.folder = Path(tempfile.mkdtemp(prefix="standfast-lab-"))
        # Two rigs may stand beside each other in one process.
        self._prefix = f"sfl{os.getpid()}x{next(_COUNT)}"
        self._spaces: list[str] = []
        self._processes: dict[str, Process] = {}
        self._started: list[Process] = []

    def build(self) -> None:
        """Make the namespaces, cables and servers; no director yet.

        Raises:
            UsageError: a program is missing, or we are not root.
        """
        missing = [name for name in NEEDS if shutil.which(name) is None]
        if missing or os.geteuid() != 0:
            raise UsageError(
                f"the lab needs {', '.join(missing) or 'root'}",
                hint="apt install haproxy nftables conntrack iproute2; run it as root",
            )
        for name in ("sw", "client", "origin", *DIRECTORS, *NODES):
            self._space(name)
        for bridge in ("front", "back"):
            self.inside("sw", "ip", "link", "add", bridge, "type", "bridge")
            self.inside("sw", "ip", "link", "set", bridge, "up")
        self._cable("client", "front", f"{self.front}2")
        self._cable("origin", "back", self.origin)
        for name, last in DIRECTORS.items():
            self._cable(name, "front", f"{self.front}{last}")
            self._cable(name, "back", f"{self.back}{last}")
        for name, ip in self.nodes.items():
            self._node(name, ip)
        self.start("origin", [*python("origin"), self.origin], space="origin")
        for name in NODES:
            self.start_haproxy(name)

    def close(self) -> None:
        """Remove everything."""
        for process in self._started:
            process.destroy()
        for space in self._spaces:
            with contextlib.suppress(StandfastError):
                pids = self.host.run(["ip", "netns", "pids", space]).stdout.split()
                for pid in pids:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(int(pid), signal.SIGKILL)
                self.host.run(["ip", "netns", "del", space])
        shutil.rmtree(self.folder, ignore_errors=True)

    def space(self, name: str) -> str:
        """Return the full name of a namespace."""
        return f"{self._prefix}-{name}"

    def inside(self, name: str, *argv: str) -> str:
        """Run a command in a namespace and return what it printed."""
        line = ["ip", "netns", "exec", self.space(name), *argv]
        return self.host.run(line, timeout=20).stdout.decode()

    def start(self, key: str, argv: Sequence[str], *, space: str) -> Process:
        """Start a program in a namespace, known as ``key`` from now on."""
        process = self.host.spawn(["ip", "netns", "exec", self.space(space), *argv])
        self._processes[key] = process
        self._started.append(process)
        return process

    def pid(self, key: str) -> int:
        """Return the process number of a program; ``ip netns exec`` becomes it."""
        return self._processes[key].pid

    def alive(self, key: str) -> bool:
        """Return whether a program runs."""
        return self._processes[key].alive()

    def role(self, name: str) -> str:
        """Return a director's role; empty when it does not answer."""
        try:
            return str(self.ask(name, do="status", backends=[])["role"])
        except ControlError:
            return ""

    def kill(self, key: str, number: int) -> None:
        """Send a signal to a program."""
        os.kill(self.pid(key), number)

    def wait_end(self, key: str, seconds: float = 10.0) -> str:
        """Wait for a program to end, and return its complaints.

        Raises:
            StandfastError: it did not end.
        """
        process = self._processes[key]
        self.wait(lambda: not process.alive(), f"{key} does not end", seconds)
        return process.finish(1).stderr

    def wait(self, ready: Any, otherwise: str, seconds: float = START_SECONDS) -> None:  # noqa: ANN401
        """Wait until ``ready()``.

        Raises:
            StandfastError: it took too long.
        """
        end = self.clock.monotonic() + seconds
        while not ready():
            if self.clock.monotonic() > end:
                raise StandfastError(f"the lab: {otherwise}")
            self.clock.sleep(0.02)

    def start_haproxy(self, name: str) -> None:
        """Start one HAProxy, and wait for its socket."""
        path = self.folder / f"{name}.cfg"
        text = HAPROXY.format(
            folder=self.folder,
            name=name,
            ip=self.written(self.nodes[name]),
            bind=f"bind {self.written(self.virtual)}" if self.mode == "dsr" else "# ",
            origin=self.written(self.origin),
        )
        path.write_text(text, encoding="ascii")
        self.start(name, ["haproxy", "-db", "-f", str(path)], space=name)
        sock = self.folder / f"{name}.sock"
        self.wait(sock.exists, f"haproxy {name} does not start")

    def start_director(
        self,
        name: str,
        *,
        election: str,
        mode: str = "",
        elect: str = "",
        more: str = "",
        path: str = "",
    ) -> None:
        """Start a director's daemon, and wait until it answers.

        ``elect`` adds lines to its [election], ``more`` ends its configuration;
        ``path`` is where it finds programs.
        """
        text = CONFIG.format(
            name=name,
            folder=self.folder,
            virtual=self.written(self.virtual),
            inner=self.inner,
            deadline=self.deadline,
            mode=mode or self.mode,
            election=election,
            interval="1s" if election == "carp" else "100ms",
            elect=elect,
            priority=150 if name == "a" else 100,
            peer=self._peer(name) if election in ("vrrp", "carp") else "",
            backends="\n".join(
                f'[backend.{node}]\naddress = "{ip}"\nmac = "{_mac(ip)}"\n'
                f'socket = "{self.folder}/{node}.sock"'
                for node, ip in self.nodes.items()
            ),
        )
        file = self.folder / f"{name}.toml"
        file.write_text(f"{text}\n{more}", encoding="ascii")
        argv = ["env", f"PATH={path}"] if path else []
        argv += [sys.executable, "-m", "standfast", "director", "run"]
        self.start(name, [*argv, "--config", str(file)], space=name)
        self.wait(lambda: self._answers(name), f"director {name} does not start")

    def give_addresses(self, name: str) -> None:
        """Configure the moving addresses by hand, for a director without election."""
        for address, side in ((self.virtual, "front"), (self.inner, "back")):
            self._give(name, "replace", f"{address}/{self._whole}", side)

    def secret(self) -> Path:
        """Return a passphrase file that all directors share."""
        path = self.folder / "passphrase"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text("secret", encoding="ascii")
        return path

    def holders(self, address: str = VIRTUAL) -> list[str]:
        """Return which directors have an address on their front interface."""
        listing = ("ip", "-o", "address", "show", "dev", "front")
        return [n for n in DIRECTORS if f" {address}/" in self.inside(n, *listing)]

    def cut(self, name: str) -> None:
        """Take a director's cables out of the switch; its links stay up."""
        for side in ("front", "back"):
            self.inside("sw", "ip", "link", "set", f"{name}-{side}", "nomaster")

    def join(self, name: str) -> None:
        """Put them back."""
        for side in ("front", "back"):
            self.inside("sw", "ip", "link", "set", f"{name}-{side}", "master", side)

    def kill_all(self, name: str) -> None:
        """Kill (-9) everything in a namespace at once, watchdogs too."""
        pids = self.host.run(["ip", "netns", "pids", self.space(name)]).stdout
        for pid in pids.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def log(self, name: str) -> str:
        """Return the last of what a program has said on its standard error."""
        return self._processes[name].stderr_text()

    def ask(self, name: str, **request: Any) -> dict[str, Any]:  # noqa: ANN401
        """Put a request to a director."""
        return ask(str(self.folder / f"{name}.ctl"), request)

    def states(self, name: str) -> dict[str, str]:
        """Return the state of each backend as a director sees it."""
        rows = self.ask(name, do="status", backends=[])["backends"]
        return {row["name"]: row["state"] for row in rows}

    def wait_states(self, name: str, **wanted: str) -> None:
        """Wait until backends are in the states given."""
        self.wait(
            lambda: wanted.items() <= self.states(name).items(),
            f"{name} does not come to see {wanted}",
        )

    def wait_done(self, name: str) -> None:
        """Wait until a director has carried out what it decided."""
        self.wait(
            lambda: not self.ask(name, do="status", backends=[])["pending"],
            f"{name} does not carry out what it decided",
        )

    def wait_up(self, name: str) -> None:
        """Wait until a director sees all backends up."""
        self.wait_states(name, **dict.fromkeys(NODES, "up"))

    def job(self, **job: Any) -> Process:  # noqa: ANN401
        """Start a job in the client's namespace."""
        argv = [*python("client"), json.dumps({"to": self.virtual, **job})]
        return self.start(f"job {job['job']}", argv, space="client")

    def result(self, process: Process, seconds: float = 60.0) -> Any:  # noqa: ANN401
        """Wait for a job and return what it saw.

        Raises:
            CommandError: it failed.
        """
        result = process.finish(seconds)
        if result.code:
            raise CommandError(result.complaint())
        return json.loads(result.stdout)

    def power_off(self, name: str) -> None:
        """Cut a director's cables and kill all of it, at once."""
        for side in ("front", "back"):
            self.inside("sw", "ip", "link", "set", f"{name}-{side}", "down")
        self.kill_all(name)

    def _peer(self, name: str) -> str:
        key = self.folder / "peer.key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(os.urandom(32))
        other = next(last for n, last in DIRECTORS.items() if n != name)
        return (
            f'[peer]\naddress = "{self.written(f"{self.back}{other}")}:7777"\n'
            f'listen = "{self.written(f"{self.back}{DIRECTORS[name]}")}:7777"\n'
            f'key_file = "{key}"'
        )

    def _answers(self, name: str) -> bool:
        process = self._processes[name]
        if not process.alive():
            raise StandfastError(f"director {name}: {process.stderr_text()}")
        try:
            self.ask(name, do="status", backends=[])
        except ControlError:
            return False
        return True

    def written(self, ip: str) -> str:
        """Return an address as it stands before a port."""
        return f"[{ip}]" if ":" in ip else ip

    @property
    def _whole(self) -> int:
        """How many bits an address has."""
        return 128 if self.family == 6 else 32  # noqa: PLR2004

    def _space(self, name: str) -> None:
        space = self.space(name)
        self.host.run(["ip", "netns", "add", space])
        self._spaces.append(space)
        # Nobody else lives here: an IPv6 address is used at once.
        self.inside(name, "sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0")
        self.inside(name, "ip", "link", "set", "lo", "up")

    def _node(self, name: str, ip: str) -> None:
        self._cable(name, "back", ip)
        self.inside(name, "ip", "link", "set", "back", "address", _mac(ip))
        if self.mode == "dsr":
            self.inside(name, "sysctl", "-qw", *SILENT)
            self._cable(name, "front", f"{self.front}{ip.removeprefix(self.back)}")
            self._give(name, "add", f"{self.virtual}/{self._whole}", "lo")
        self.inside(name, "ip", "route", "add", "default", "via", self.inner)

    def _give(self, name: str, how: str, address: str, side: str) -> None:
        more = ["nodad"] if self.family == 6 else []  # noqa: PLR2004
        self.inside(name, "ip", "address", how, address, "dev", side, *more)

    def _cable(self, name: str, side: str, address: str) -> None:
        far = f"{name}-{side}"
        add = ["ip", "-n", self.space("sw"), "link", "add", far, "type", "veth"]
        self.host.run([*add, "peer", "name", side, "netns", self.space(name)])
        self.inside("sw", "ip", "link", "set", far, "master", side, "up")
        self._give(name, "add", f"{address}/{self._bits}", side)
        self.inside(name, "ip", "link", "set", side, "up")


def python(module: str) -> list[str]:
    """Return the command that runs a module of the lab."""
    return [sys.executable, "-m", f"standfast.director.lab.{module}"]


def _mac(ip: str) -> str:
    return f"02:00:00:00:00:{re.split('[.:]', ip)[-1]}"

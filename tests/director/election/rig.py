"""A segment of network namespaces, and nodes of several makes on it."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from conftest import need, wait_until

NODE = Path(__file__).with_name("node.py")
PINGER = Path(__file__).with_name("pinger.py")
VIP = "10.50.0.100"
VIP6 = "fd50::100"
COUNT = itertools.count()


def run(*argv: object, check: bool = True) -> str:
    done = subprocess.run(
        [*map(str, argv)], capture_output=True, text=True, check=check, timeout=20
    )
    return done.stdout


def remove_space(name: str) -> None:
    """End what is left in a namespace, watchdogs of the dead too, and remove it."""
    for pid in run("ip", "netns", "pids", name, check=False).split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    run("ip", "netns", "del", name, check=False)


@dataclasses.dataclass
class Space:
    """A namespace with one card, eth0, on the segment."""

    name: str
    switch: str
    port: str
    address: str

    def has(self, address: str = VIP) -> bool:
        out = run("ip", "-n", self.name, "-j", "address", "show", "dev", "eth0")
        return f'"{address}"' in out

    def start(self, *argv: object, **keywords: Any) -> subprocess.Popen[str]:
        command = ["ip", "netns", "exec", self.name, *map(str, argv)]
        return subprocess.Popen(command, text=True, **keywords)

    def cut(self) -> None:
        """Take the port off the switch; the card keeps its carrier."""
        run("ip", "-n", self.switch, "link", "set", self.port, "nomaster")

    def join(self) -> None:
        bridge = ("master", "br0")
        run("ip", "-n", self.switch, "link", "set", self.port, *bridge)


class Net:
    """A switch with three spaces: two directors and a client."""

    def __init__(self) -> None:
        self._prefix = f"sfe{os.getpid()}x{next(COUNT)}"
        self._stack = contextlib.ExitStack()
        self.switch = self._space("sw")
        run("ip", "-n", self.switch, "link", "add", "br0", "type", "bridge",
            "mcast_snooping", 0)  # fmt: skip
        run("ip", "-n", self.switch, "link", "set", "br0", "up")
        self.a = self._leaf("a", 1)
        self.b = self._leaf("b", 2)
        self.client = self._leaf("c", 9)

    def _space(self, name: str) -> str:
        full = f"{self._prefix}{name}"
        run("ip", "netns", "add", full)
        self._stack.callback(remove_space, full)
        run("ip", "-n", full, "link", "set", "lo", "up")
        return full

    def _leaf(self, name: str, number: int) -> Space:
        full, port = self._space(name), f"v{name}"
        run("ip", "-n", full, "link", "add", "eth0", "type", "veth",
            "peer", "name", port, "netns", self.switch)  # fmt: skip
        run("ip", "-n", self.switch, "link", "set", port, "master", "br0", "up")
        run("ip", "-n", full, "address", "add", f"10.50.0.{number}/24", "dev", "eth0")
        run("ip", "-n", full, "address", "add", f"fd50::{number}/64", "dev", "eth0",
            "nodad")  # fmt: skip
        run("ip", "netns", "exec", full, "sysctl", "-qw",
            "net.ipv6.conf.eth0.accept_dad=0")  # fmt: skip
        run("ip", "-n", full, "link", "set", "eth0", "up")
        return Space(full, self.switch, port, f"10.50.0.{number}")

    def holders(self, address: str = VIP) -> list[str]:
        return [n for n, s in (("a", self.a), ("b", self.b)) if s.has(address)]

    def ours(self, space: Space, **wish: Any) -> Ours:
        node = Ours(space, wish)
        self._stack.callback(node.kill)
        return node

    def peer(self, space: Space, *argv: object) -> Peer:
        peer = Peer(space, *argv)
        self._stack.callback(peer.kill)
        return peer

    def close(self) -> None:
        self._stack.close()


class Ours:
    """A node of ours; see node.py."""

    def __init__(self, space: Space, wish: dict[str, Any]) -> None:
        fields = {"interface": "eth0", "group": 7, "addresses": [VIP]} | wish
        rank = fields.pop("rank", None)
        self.space = space
        self.lines: list[dict[str, Any]] = []
        self._process = space.start(
            sys.executable, NODE, json.dumps(fields),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        wait_until(lambda: self.find("started"), "the node to start")
        if rank is not None:
            self.tell(f"rank {rank}")

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(json.loads(line))

    def find(self, key: str, value: object = None) -> list[dict[str, Any]]:
        """Every line that has the key, with that value if one is given."""
        return [
            line
            for line in list(self.lines)
            if key in line and (value is None or line[key] == value)
        ]

    def tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def role(self) -> str:
        roles = self.find("role")
        return roles[-1]["role"] if roles else "init"

    def wait_role(self, role: str, seconds: float = 8.0) -> float:
        """Wait for a role; return when it began."""
        wait_until(lambda: self.role() == role, f"{role}", seconds)
        return float(self.find("role")[-1]["at"])

    def refused(self) -> dict[str, int]:
        before = len(self.find("refused"))
        self.tell("refused")
        wait_until(lambda: len(self.find("refused")) > before, "the counters")
        return dict(self.find("refused")[-1]["refused"])

    def signal(self, number: int) -> float:
        """Send a signal to the node alone; return when."""
        os.kill(self.find("started")[0]["started"], number)
        return time.monotonic()

    def kill(self) -> float:
        """Kill -9; return when."""
        at = time.monotonic()
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                at = self.signal(signal.SIGKILL)
        self._process.wait(timeout=10)
        self._reader.join(timeout=10)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError):
                pipe.close()
        return at


class Peer:
    """A program of somebody else."""

    def __init__(self, space: Space, *argv: object) -> None:
        self.space = space
        self._process = space.start(
            *argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip

    def signal(self, number: int) -> float:
        os.killpg(self._process.pid, number)
        return time.monotonic()

    def terminate(self) -> float:
        """Ask only the parent to stop, as a supervisor does; return when."""
        self._process.terminate()
        return time.monotonic()

    def kill(self) -> float:
        at = time.monotonic()
        with contextlib.suppress(ProcessLookupError):
            at = self.signal(signal.SIGKILL)
        self._process.wait(timeout=10)
        return at


class Pings:
    """A client that pings the address every 20 ms, for 12 s at most."""

    def __init__(self, space: Space, address: str = VIP) -> None:
        self._process = space.start(
            sys.executable, PINGER, address, 12, stdout=subprocess.PIPE
        )
        time.sleep(0.3)

    def gap(self) -> float:
        """Stop, and return the longest time between two answers, in seconds."""
        self._process.kill()
        out, _ = self._process.communicate(timeout=20)
        times = [float(line) for line in out.split("\n")[:-1]]
        assert len(times) > 10, out
        return max(b - a for a, b in itertools.pairwise(times))


def keepalived(
    net: Net,
    space: Space,
    folder: Path,
    priority: int,
    *,
    address: str = VIP,
    rank_file: Path | None = None,
) -> Peer:
    """Start a keepalived that speaks VRRPv3 for the same address."""
    need("keepalived")
    config = folder / f"keepalived-{space.port}.conf"
    pids = folder / f"pids-{space.port}-{next(COUNT)}"
    track = tracked = ""
    if rank_file is not None:
        track = f'vrrp_track_file rank {{\n file "{rank_file}"\n weight 1\n}}'
        tracked = "track_file {\n rank\n }"
    config.write_text(f"""
global_defs {{
  vrrp_version 3
  vrrp_garp_master_delay 1
}}
{track}
vrrp_instance director {{
  {tracked}
  state BACKUP
  interface eth0
  virtual_router_id 7
  priority {priority}
  advert_int 0.1
  virtual_ipaddress {{ {address}/{128 if ":" in address else 32} dev eth0 }}
}}
""")
    config.chmod(0o644)
    return net.peer(
        space, "keepalived", "--dont-fork", "--vrrp", "-f", config,
        "-p", f"{pids}.k", "-r", f"{pids}.v",
    )  # fmt: skip


def ucarp(net: Net, space: Space, folder: Path, skew: int) -> Peer:
    """Start a ucarp for the same address with passphrase ``secret``."""
    need("ucarp")
    scripts = []
    for verb in ("add", "del"):
        script = folder / f"{space.port}-{verb}"
        script.write_text(f"#!/bin/sh\nip address {verb} {VIP}/32 dev eth0\n")
        script.chmod(0o755)
        scripts.append(script)
    return net.peer(
        space, "ucarp", "-i", "eth0", "-s", space.address, "-v", 7, "-p", "secret",
        "-a", VIP, "-b", 1, "-k", skew, "-P", "-n", "-u", scripts[0], "-d", scripts[1],
    )  # fmt: skip

"""A router, BIRD 2, in a namespace, with the namespaces of two directors beside it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import need

EXABGP = Path(sys.executable).with_name("exabgp")


def run(*argv: object) -> str:
    done = subprocess.run(
        [*map(str, argv)], capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout


@dataclass
class Router:
    """BIRD in a namespace, with two directors' namespaces beside it.

    A segment each, 10.99.1.0/24 and 10.99.2.0/24: .1 the router, .2 the director.
    """

    folder: Path
    prefix: str
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def space(self, name: str) -> str:
        return f"{self.prefix}{name}"

    def start(self, space: str, *argv: object, **env: str) -> subprocess.Popen[bytes]:
        """Start a program in a namespace; its output goes to a file."""
        log = (self.folder / f"{space}-{len(self.processes)}.log").open("wb")
        with log:
            process = subprocess.Popen(
                ["ip", "netns", "exec", self.space(space), *map(str, argv)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | env,
            )
        self.processes.append(process)
        return process

    def wire(self) -> None:
        router = self.space("r")
        run("ip", "netns", "add", router)
        run("ip", "-n", router, "link", "set", "lo", "up")
        for net, name in enumerate("ab", start=1):
            there = self.space(name)
            run("ip", "netns", "add", there)
            run("ip", "-n", there, "link", "set", "lo", "up")
            near = f"to{net}"
            pair = ("type", "veth", "peer", "name", "front", "netns", there)
            run("ip", "-n", router, "link", "add", near, *pair)
            for space, link, host in ((router, near, 1), (there, "front", 2)):
                address = f"10.99.{net}.{host}/24"
                run("ip", "-n", space, "addr", "add", address, "dev", link)
                run("ip", "-n", space, "link", "set", link, "up")

    def bird(self) -> None:
        peers = "".join(
            f"protocol bgp {name} {{ local 10.99.{net}.1 as 65000; direct;"
            f" neighbor 10.99.{net}.2 as 65001; hold time 9; connect delay time 1;"
            " ipv4 { import all; export none; }; }\n"
            for net, name in enumerate("ab", start=1)
        )
        config = self.folder / "bird.conf"
        config.write_text(
            "router id 10.99.1.1;\nprotocol device { scan time 1; }\n"
            "protocol direct { ipv4; }\n"
            "protocol kernel { ipv4 { export where source = RTS_BGP; }; }\n" + peers
        )
        bird = shutil.which("bird") or "/usr/sbin/bird"
        self.start("r", bird, "-f", "-c", config, "-s", self.folder / "bird.ctl")

    def exabgp(self, name: str, net: int, sock: Path) -> None:
        config = self.folder / f"{name}.conf"
        config.write_text(
            "process director {\n"
            f"  run {sys.executable} -m standfast.director.bgp_relay {sock};\n"
            "  encoder text;\n}\n"
            f"neighbor 10.99.{net}.1 {{\n"
            f"  router-id 10.99.{net}.2;\n  local-address 10.99.{net}.2;\n"
            "  local-as 65001;\n  peer-as 65000;\n  hold-time 9;\n"
            "  family { ipv4 unicast; }\n"
            "  api { processes [ director ]; }\n}\n"
        )
        self.start(
            name,
            EXABGP,
            "server",
            config,
            exabgp_daemon_user="root",
            exabgp_daemon_drop="false",
            exabgp_log_destination="stderr",
            exabgp_tcp_delay="0",
        )

    def via(self) -> str:
        """Return the next hop of the virtual address in the router's kernel."""
        text = run("ip", "-n", self.space("r"), "route", "show", "192.0.2.10/32")
        match = re.search(r"via (\S+)", text)
        return match[1] if match else ""

    def routes(self) -> str:
        return run(
            "birdc",
            "-s",
            self.folder / "bird.ctl",
            "show",
            "route",
            "all",
            "192.0.2.10/32",
        )

    def close(self) -> None:
        for process in self.processes:
            process.terminate()
        for process in self.processes:
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=5)
        for name in "rab":
            subprocess.run(
                ["ip", "netns", "del", self.space(name)],
                capture_output=True,
                check=False,
                timeout=20,
            )


def need_router() -> None:
    """Skip, with the reason, where there is no router to be had."""
    need("ip", "bird", "birdc")
    if not EXABGP.exists():
        pytest.skip("exabgp is not installed beside this Python")
    if os.geteuid() != 0:
        pytest.skip("network namespaces need root")

"""Probing at scale: in process, beside the ways of hfm and keepalived.

1,000 backends on loopback, each asked each 200 ms for 8 s: the CPU of the asking
process, its memory, and by how much probes started late. One HAProxy answers for all
of them; on loopback the kernel does its half of each packet in the asker's time too,
so that a real network costs less.

hfm forks and executes a command for each probe; so does keepalived for a
vrrp_script, at most once a second. Both ask the same HAProxy by the same one-line
command (bash), at a fraction of the rate, scaled up by the rate. keepalived's
in-process checkers (TCP_CHECK, HTTP_GET) belong to its IPVS half, which does not start
on a kernel without IPVS: they are not compared, and this says so.

Exit status 1 when a goal is missed. Timing matters: nothing beside it, or, where other
programs are not to be helped, `chrt -r 1 python bench/director.py`.
"""

# ruff: noqa: ANN001, ANN201, ARG002, SLF001 - a bench looks inside
from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from standfast.clock import SystemClock
from standfast.director.apply import Daemon
from standfast.director.config import parse_config
from standfast.director.model import Capabilities, Observed
from standfast.director.notify import Notifier
from standfast.director.plane import Plane
from standfast.host.local import LocalHost

BACKENDS = 1000
SECONDS = 8.0


class Paper:
    """A data plane on paper: probing is measured, not nft."""

    def detect(self):
        return Capabilities("paper", "1", ("nat",))

    def observe(self, wanted):
        return Observed(present=True, table=wanted.table, guard=wanted.guard)

    def plan(self, observed, wanted):
        return []

    def apply(self, changes):
        pass


def config(kind: str, port: int):
    rows = "".join(
        f'[backend.n{i}]\naddress = "127.0.{i // 250}.{i % 250 + 1}"\n'
        for i in range(BACKENDS)
    )
    return parse_config(
        f'[service.web]\nvirtual = ["192.0.2.1:80"]\nslots = 65537\n{rows}'
        f'[probe.p]\ntype = "{kind}"\nport = {port}\ninterval = "200ms"\n'
        'fast = "200ms"\ndeadline = "150ms"\n'
    )


HAPROXY = """
defaults
  mode http
  timeout client 5s
  option dontlognull
frontend f
  bind *:{port}
  maxconn 20000
  http-request return status 200 content-type text/plain string ok
"""
ASK = "exec 3<>/dev/tcp/127.0.0.1/{port}"
GOALS = {"core": 0.5, "rss_mib": 150.0, "late_p99_ms": 50.0}


def usage() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def probing(kind: str, port: int) -> dict[str, float]:
    cfg, host = config(kind, port), LocalHost()
    daemon = Daemon(
        cfg,
        reread=lambda: cfg,
        driver=Paper(),
        host=host,
        clock=SystemClock(),
        chance=random.Random(1),
        notifier=Notifier({}),
        plane=lambda wanted: Plane(Paper(), wanted, guard=False),
    )
    daemon._event(daemon._configured(cfg))
    daemon.start_probes()
    for _ in range(40):
        await asyncio.sleep(0.5)
        if daemon.probed > 3 * BACKENDS:
            break
    daemon.late.clear()
    before, cpu, start = daemon.probed, usage(), time.monotonic()
    await asyncio.sleep(SECONDS)
    took = time.monotonic() - start
    late = sorted(daemon.late)
    await daemon.stop_probes()
    return {
        "probes_per_s": (daemon.probed - before) / took,
        "core": (usage() - cpu) / took,
        "late_p99_ms": late[int(len(late) * 0.99)] * 1000,
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def forking(port: int) -> float:
    """CPU seconds of a probe by fork and exec, as hfm does; 200, one after another."""
    before, own, count = children(), usage(), 200
    for _ in range(count):
        subprocess.run(["bash", "-c", ASK.format(port=port)], check=True)
    return (children() + usage() - before - own) / count


KEEPALIVED = """
global_defs {{
  script_user root
}}
{scripts}
vrrp_instance v {{
  state BACKUP
  interface {card}
  virtual_router_id 77
  priority 100
  track_script {{
{names}
  }}
}}
"""


def keepalived(port: int, folder: Path) -> float | None:
    """CPU seconds of a probe as a vrrp_script: 200 scripts, each second, for 6 s.

    A vrrp_script runs only for an instance, and that wants a card of its own.
    """
    if shutil.which("keepalived") is None or os.geteuid() != 0:
        return None
    count, card = 200, f"sfb{os.getpid() % 100000}"
    line = ASK.format(port=port)
    scripts = "".join(
        f"vrrp_script s{i} {{\n  script \"/bin/bash -c '{line}'\"\n  interval 1\n}}\n"
        for i in range(count)
    )
    names = "\n".join(f"    s{i}" for i in range(count))
    path = folder / "keepalived.conf"
    path.write_text(KEEPALIVED.format(scripts=scripts, names=names, card=card))
    argv = ["keepalived", "-n", "-P", "-f", str(path), "-p", str(folder / "k.pid")]
    argv += ["-r", str(folder / "v.pid")]
    pair = ["ip", "link", "add", card, "type", "veth", "peer", "name", f"{card}p"]
    subprocess.run(pair, check=True)
    try:
        for end in (card, f"{card}p"):
            subprocess.run(["ip", "link", "set", end, "up"], check=True)
        before, start = children(), time.monotonic()
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(argv, stdout=quiet, stderr=quiet)
        time.sleep(6)
        process.terminate()
        process.wait(10)
        used, took = children() - before, time.monotonic() - start
    finally:
        subprocess.run(["ip", "link", "del", card], check=True)
    # One that refused its configuration would have used next to nothing.
    return used / (count * took) if used > 0.5 else None


def measured(kind: str, port: int) -> dict[str, float]:
    """Measure in a process of its own, so that memory is its own."""
    argv = [sys.executable, __file__, kind, str(port)]
    found = subprocess.run(argv, check=True, capture_output=True)
    return json.loads(found.stdout)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def show(kind: str, found: dict[str, float]) -> bool:
    """Print a line and whether each goal is met; return whether all are."""
    print(
        f"  {kind:5} {found['probes_per_s']:.0f} probes/s, "
        f"{found['core']:.2f} of a core, {found['rss_mib']:.0f} MiB, "
        f"late at p99 by {found['late_p99_ms']:.1f} ms"
    )
    words = []
    for name, goal in GOALS.items():
        word = "met" if found[name] < goal else "NOT MET"
        words.append(f"{name} < {goal:g}: {word}")
    on_time = found["probes_per_s"] > 0.98 * BACKENDS * 5
    words.append(f"all asked: {'met' if on_time else 'NOT MET'}")
    print(f"        {', '.join(words)}")
    return on_time and all(found[name] < goal for name, goal in GOALS.items())


def compare(found: dict[str, float], port: int, folder: Path) -> None:
    """Print what the same would cost by other ways."""
    per_s = BACKENDS * 5
    ours = found["core"] / found["probes_per_s"]
    for name, cost in (
        ("hfm's way, fork and exec", forking(port)),
        ("keepalived, vrrp_script", keepalived(port, folder)),
    ):
        if cost is None:
            print(f"  {name}: not measured, keepalived does not run here")
            continue
        print(
            f"  {name}: {cost * 1000:.2f} ms of CPU a probe, {cost * per_s:.1f} cores "
            f"for as many, {cost / ours:.0f} times ours (tcp)"
        )
    if not Path("/proc/net/ip_vs").exists():
        print(
            "  keepalived, TCP_CHECK and HTTP_GET: not compared, no IPVS in this kernel"
        )


def main() -> int:
    folder = Path(tempfile.mkdtemp(prefix="bench-director-"))
    port = free_port()
    (folder / "haproxy.cfg").write_text(HAPROXY.format(port=port))
    server = subprocess.Popen(["haproxy", "-db", "-f", str(folder / "haproxy.cfg")])
    try:
        time.sleep(1)
        load = os.getloadavg()[0]
        print(
            f"{BACKENDS} backends, each asked each 200 ms, {os.cpu_count()} cores, "
            f"load before {load:.1f}"
        )
        found = {kind: measured(kind, port) for kind in ("tcp", "http")}
        met = [show(kind, row) for kind, row in found.items()]
        compare(found["tcp"], port, folder)
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder)
    return 0 if all(met) else 1


if __name__ == "__main__":
    if len(sys.argv) > 2:
        print(json.dumps(asyncio.run(probing(sys.argv[1], int(sys.argv[2])))))
    else:
        sys.exit(main())

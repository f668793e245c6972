"""Probing at scale: in process, beside hfm's way (fork and exec for each probe).

1,000 backends on loopback, each asked each 200 ms for 8 s: the CPU of the asking
process, its memory, and by how much probes started late. hfm's way runs the same
questions as commands at a fiftieth of the rate, and is scaled up. keepalived with the
same 1,000 TCP checks runs beside where it is installed with IPVS; this says when not.
"""

# ruff: noqa: ANN001, ANN201, ARG002, SLF001 - a bench looks inside
from __future__ import annotations

import asyncio
import json
import os
import random
import resource
import shutil
import subprocess
import sys
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


SERVER = """
import asyncio
async def talk(r, w):
    try:
        if await r.readline():
            w.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\n\\r\\n")
            await w.drain()
    except OSError:
        pass
    w.close()
async def main():
    s = await asyncio.start_server(talk, "0.0.0.0", 0, backlog=4096)
    print(s.sockets[0].getsockname()[1], flush=True)
    await s.serve_forever()
asyncio.run(main())
"""


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
    daemon._start_probes()
    await asyncio.sleep(2)
    daemon.late.clear()
    before, cpu, start = daemon.probed, usage(), time.monotonic()
    await asyncio.sleep(SECONDS)
    took = time.monotonic() - start
    late = sorted(daemon.late)
    for task in daemon._tasks.values():
        task.cancel()
    await asyncio.gather(*daemon._tasks.values(), return_exceptions=True)
    return {
        "probes_per_s": (daemon.probed - before) / took,
        "core": (usage() - cpu) / took,
        "late_p99_ms": late[int(len(late) * 0.99)] * 1000,
        "rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def forking(port: int) -> dict[str, float]:
    """100 probes by fork and exec of a shell, as hfm does, one after another."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    own, count = usage(), 100
    for _ in range(count):
        line = f"exec 3<>/dev/tcp/127.0.0.1/{port}"
        subprocess.run(["bash", "-c", line], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    child = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu_ms_per_probe": (child + usage() - own) / count * 1000}


def measured(kind: str, port: int) -> dict[str, float]:
    """Measure in a process of its own, so that memory is its own."""
    argv = [sys.executable, __file__, kind, str(port)]
    return json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)


def main() -> None:
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE)
    try:
        port = int(server.stdout.readline())
        print(f"{BACKENDS} backends, each asked each 200 ms, {os.cpu_count()} cores")
        for kind in ("tcp", "http"):
            found = measured(kind, port)
            print(
                f"  {kind:5} {found['probes_per_s']:.0f} probes/s, "
                f"{found['core']:.2f} of a core, {found['rss_mib']:.0f} MiB, "
                f"late at p99 by {found['late_p99_ms']:.1f} ms"
            )
        found = forking(port)
        cores = found["cpu_ms_per_probe"] * 5
        print(
            f"  exec  {found['cpu_ms_per_probe']:.1f} ms of CPU a probe: "
            f"{cores:.1f} cores for as many (bash, by fork and exec)"
        )
        if shutil.which("keepalived") and not Path("/proc/net/ip_vs").exists():
            print("  keepalived: not measured, this kernel has no IPVS")
    finally:
        server.kill()
        server.wait()


if __name__ == "__main__":
    if len(sys.argv) > 2:
        print(json.dumps(asyncio.run(probing(sys.argv[1], int(sys.argv[2])))))
    else:
        main()

"""Measures increments and resuming on a real pool, each beside its goal.

    python bench/chains.py [--datasets N] [--resume SIZE] [--json FILE]

* Planning: N datasets (1,000) of which the vault has everything: how long it takes
  to say so, by itself and as a whole ``backup run``, and how many ``zfs`` commands.
* Resuming: a send of SIZE (256M; the goal is stated for 4G) is killed at 90 %; how
  much the next run uploads.

Needs root, for the pool. Takes away what it made.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from standfast.backup.chain import NOTHING, Request
from standfast.backup.dataset import (
    open_source,
    plan_dataset,
    properties_of,
    send_dataset,
)
from standfast.backup.send import Sender
from standfast.backup.stores.directory import DirectoryStore
from standfast.backup.vault import open_vault
from standfast.clock import SystemClock
from standfast.host.local import LocalHost
from standfast.pace import Unlimited
from standfast.units import parse_size
from standfast.zfs.listing import list_tree

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))
import scratch  # noqa: E402 - it lies beside the demo

if TYPE_CHECKING:
    from collections.abc import Sequence

    from standfast.host.process import Process

MIB = 1 << 20
# 4 GiB in the usual segments of 32 MiB; less of data has as many smaller ones.
SEGMENTS = 128
PLAN_SECONDS = 5.0
UPLOAD_SHARE = 0.12
KILLED_AT = 0.9


class CountingHost(LocalHost):
    """This machine; counts the commands."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def spawn(
        self, argv: Sequence[str], *, stdin: bool = False, stdin_fd: int | None = None
    ) -> Process:
        self.count += 1
        return super().spawn(argv, stdin=stdin, stdin_fd=stdin_fd)


@dataclass(frozen=True)
class Place:
    """Where all of it lies."""

    folder: Path
    pool: str
    env: dict[str, str]

    @property
    def vault(self) -> Path:
        return self.folder / "vault"

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "standfast", "backup", *words]

    def run(self, *words: str) -> str:
        done = subprocess.run(
            self.command(*words), env=self.env, check=True, stdout=subprocess.PIPE
        )
        return done.stdout.decode()


def main() -> int:
    scratch.stop_on_signals()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--datasets", type=int, default=1000)
    parser.add_argument("--resume", metavar="SIZE", default="256M")
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    size = parse_size(arguments.resume)
    found: dict[str, Any] = {}
    try:
        with scratch.folder("bench-chains-", "/var/tmp") as folder:
            disk = 2 * size + arguments.datasets * MIB + (512 << 20)
            with scratch.pool(folder, disk) as pool:
                state = folder / "state"
                env = os.environ | {"XDG_STATE_HOME": str(state)}
                place = Place(folder, pool, env)
                key = str(folder / "owner.key")
                words = ("--segment-size", str(max(size // SEGMENTS, 65536)), "-q")
                place.run("init", str(place.vault), "--new-identity", key, *words)
                found["planning"] = planning(place, arguments.datasets)
                found["resuming"] = resuming(place, size)
    except scratch.Unavailable as reason:
        print(f"bench: not run: {reason}", file=sys.stderr)
        return 1
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=2) + "\n")
    return 0


def planning(place: Place, count: int) -> dict[str, Any]:
    """Send many small datasets, then ask what there is to send."""
    root = f"{place.pool}/many"
    subprocess.run(["zfs", "create", "-o", "mountpoint=none", root], check=True)
    names = [f"{root}/{number:04}" for number in range(count)]
    for name in names:
        subprocess.run(["zfs", "create", name], check=True)
    subprocess.run(["zfs", "snapshot", "-r", f"{root}@s"], check=True)
    clock = SystemClock()
    base = Path(place.env["XDG_STATE_HOME"]) / "standfast"
    host = CountingHost()
    store = DirectoryStore(str(place.vault), Unlimited())
    vault = open_vault(store, base, clock)
    sender = Sender(clock, "bench", {}, 3, lambda _plain, _stored: None)
    listing = list_tree(host, [root], properties_of(vault))
    source = open_source(host, vault, listing, vault.trust([]), print)
    for name in names:
        send_dataset(source, Request(name), sender)
    host.count = 0
    begun, spent = time.monotonic(), time.process_time()
    vault = open_vault(store, base, clock)
    listing = list_tree(host, [root], properties_of(vault))
    source = open_source(host, vault, listing, vault.trust([]), print)
    plans = [plan_dataset(source, Request(name)) for name in names]
    seconds, own = time.monotonic() - begun, time.process_time() - spent
    assert all(plan.action == NOTHING for plan in plans)
    met = "met" if seconds < PLAN_SECONDS else "missed"
    print(
        f"planning {count} datasets with nothing to send: {seconds:.2f} s "
        f"({own:.2f} s of our own processor time), {host.count} zfs commands "
        f"(goal: under {PLAN_SECONDS:g} s: {met})"
    )
    whole = nightly(place, root)
    met = "met" if whole < PLAN_SECONDS else "missed"
    print(f"the same by `backup run`, the whole process: {whole:.2f} s (goal: {met})")
    return {
        "datasets": count,
        "seconds": seconds,
        "own": own,
        "commands": host.count,
        "run_seconds": whole,
    }


def nightly(place: Place, root: str) -> float:
    """Return the seconds of a run by configuration that has nothing to send."""
    config = place.folder / "backup.toml"
    config.write_text(
        f'vault.v = {{ address = "{place.vault}" }}\n'
        f'job.many = {{ datasets = ["{root}/*"], snapshot = false, every = "" }}\n'
    )
    begun = time.monotonic()
    document = json.loads(place.run("run", "--config", str(config), "--json"))
    seconds = time.monotonic() - begun
    (vault,) = document["jobs"][0]["vaults"]
    assert {"current"} == {row["state"] for row in vault["datasets"]}
    return seconds


def resuming(place: Place, size: int) -> dict[str, Any]:
    """Kill a send at nine tenths; send again; say what went up the second time."""
    dataset = f"{place.pool}/large"
    subprocess.run(["zfs", "create", dataset], check=True)
    with (place.folder / "mnt" / "large" / "data").open("wb") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
    subprocess.run(["zfs", "snapshot", f"{dataset}@s"], check=True)
    words = ("send", dataset, str(place.vault), "--json")
    before = stored(place)
    with subprocess.Popen(
        place.command(*words), env=place.env, stdout=subprocess.DEVNULL
    ) as process:
        while stored(place) - before < KILLED_AT * size and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
    begun = time.monotonic()
    document = json.loads(place.run(*words))
    seconds = time.monotonic() - begun
    share = 1 - document["reused_bytes"] / document["stored_bytes"]
    met = "met" if share < UPLOAD_SHARE else "missed"
    print(
        f"resuming a send of {size // MIB} MiB that died at {KILLED_AT:.0%}: "
        f"{share:.1%} uploaded again in {seconds:.1f} s "
        f"(goal: under {UPLOAD_SHARE:.0%}: {met})"
    )
    return {"bytes": size, "share": share, "seconds": seconds}


def stored(place: Place) -> int:
    """Return the bytes of all segments in the vault."""
    total = 0
    for path in place.vault.glob("archives/*/*.zst.age"):
        total += path.stat().st_size
    return total


if __name__ == "__main__":
    sys.exit(main())

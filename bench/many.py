"""Measures `list`, `prune` and `verify` on a vault of many archives.

The vault lies in a directory (in /dev/shm where it has room) and is written here, by
the library's own signing, with small objects: what is measured is the listing, the
sums and the signatures. Beside each stands `find`, which looks at every name and size
and at nothing else. Goals: under 3 s each.

    python bench/many.py [--archives 10000] [--rounds 3] [--json FILE]

Exits 0 whether goals are met or not: it measures. It takes away what it made.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from standfast.backup.init import Owner, Wanted, create_vault
from standfast.backup.model import SMALLEST_SEGMENT
from standfast.backup.recipients import X25519Identity
from standfast.backup.stores.directory import DirectoryStore
from standfast.backup.sums import NONE, Statement, format_sums, line_name
from standfast.clock import SystemClock
from standfast.pace import Unlimited

if TYPE_CHECKING:
    from standfast.backup.minisign import SecretKey

GOAL = 3.0
LINES = 10
DAY = 86_400


def build(place: Path, state: Path, count: int) -> None:
    """Write a vault of ``count`` archives of ``LINES`` datasets, one each a day."""
    owner = X25519Identity.generate()
    wanted = Wanted([Owner(owner.recipient, "bench")], SMALLEST_SEGMENT, "bench")
    store = DirectoryStore(str(place), Unlimited())
    vault = create_vault(store, wanted, state, SystemClock())
    key = vault.state.make_signer_key()
    start = int(time.time()) - DAY * (count // LINES + 1)
    previous = NONE
    for number in range(1, count + 1):
        previous = write(place, vault.info.vault, key, number, start, previous)


def write(
    place: Path, vault: str, key: SecretKey, number: int, start: int, previous: str
) -> str:
    archive = os.urandom(16).hex()
    folder = place / "archives" / archive
    folder.mkdir(parents=True, mode=0o700)
    objects = {"00000000.zst.age": b"segment", "manifest.json.age": b"manifest"}
    for name, data in objects.items():
        (folder / name).write_bytes(data)
    sums = format_sums({n: hashlib.sha256(d).hexdigest() for n, d in objects.items()})
    statement = Statement(
        kind="archive", vault=vault, archive=archive, objects=len(objects),
        size=sum(map(len, objects.values())), sequence=number, previous=previous,
        time=start + DAY * (number // LINES), base=NONE,
        line=line_name(key.seed, vault, number % LINES, tree=False),
    )  # fmt: skip
    (folder / "SHA256SUMS").write_bytes(sums)
    signed = key.sign(sums, statement.text())
    (folder / "SHA256SUMS.minisig").write_text(signed)
    return hashlib.sha256(sums).hexdigest()


def timed(argv: list[str], env: dict[str, str]) -> tuple[float, float]:
    """Return the seconds that a command took, and those of processors."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.perf_counter()
    quiet = subprocess.DEVNULL
    subprocess.run(argv, check=True, env=env, stdout=quiet, stderr=quiet)
    wall = time.perf_counter() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return wall, cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archives", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", metavar="FILE")
    arguments = parser.parse_args()
    shm = Path("/dev/shm")
    roomy = shm.is_dir() and shutil.disk_usage(shm).free > arguments.archives * 20_000
    with tempfile.TemporaryDirectory(dir=shm if roomy else None) as scratch:
        place, state = Path(scratch, "vault"), Path(scratch, "state")
        build(place, state / "standfast", arguments.archives)
        measure(arguments, place, state)


def measure(arguments: argparse.Namespace, place: Path, state: Path) -> None:
    env = {**os.environ, "XDG_STATE_HOME": str(state)}
    command = [sys.executable, "-m", "standfast", "backup"]
    rules = ["--keep-daily", "30", "--keep-monthly", "24", "--max-remove", "100%"]
    first = timed([*command, "list", str(place)], env)
    vouched = [*command, "prune", str(place), "--observe", "--trust-times", "-q"]
    observe = timed(vouched, env)
    rows = {
        "find -ls": ["find", str(place), "-ls"],
        "list": [*command, "list", str(place)],
        "prune --dry-run": [*command, "prune", str(place), "-n", *rules],
        "verify --level listing": [
            *command,
            "verify",
            str(place),
            "--level",
            "listing",
        ],
    }
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in rows}
    for _ in range(arguments.rounds):
        for name, argv in rows.items():
            took[name].append(timed(argv, env))
    found = {name: median(values) for name, values in took.items()}
    found |= {"list, the first time": first, "prune --observe, the first": observe}
    print(f"{arguments.archives} archives in a directory, seconds (goal {GOAL:g}):")
    print(f"  {'':30} {'wall':>7} {'cpu':>7}")
    for name, (seconds, cpu) in found.items():
        met = "" if name == "find -ls" else "met" if seconds < GOAL else "missed"
        print(f"  {name:30} {seconds:7.2f} {cpu:7.2f}  {met}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()

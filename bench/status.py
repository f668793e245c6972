"""Measures `list` and `status` on a vault of many archives, each beside its goal.

    python bench/status.py [--archives N]

The vault is a directory with N (10,000) small signed archives of 100 datasets in
chains. The first look verifies every signature, later ones what is new; both are whole
processes with their start-up, and the processor's seconds stand beside the clock's.
Takes away what it made.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests")]
import scratch  # noqa: E402 - it lies beside the demo
from vaults import many_archives  # noqa: E402 - it lies beside the tests

GOAL = 3.0


def main() -> int:
    scratch.stop_on_signals()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archives", type=int, default=10_000)
    count = parser.parse_args().archives
    with scratch.folder("bench-status-", "/var/tmp") as folder:
        env = os.environ | {"XDG_STATE_HOME": str(folder / "state")}
        vault, config = folder / "vault", folder / "backup.toml"
        words = ["init", vault, "--new-identity", folder / "key", "--json"]
        made = json.loads(run(env, words)[0])["vault"]
        state = folder / "state" / "standfast" / "vaults" / made
        newest = many_archives(vault, state, made, count, datasets=100)
        jobs = folder / "state" / "standfast" / "jobs"
        jobs.mkdir()
        now = int(time.time())
        datasets = {n: {"success": now, "archive": a} for n, a in newest.items()}
        place = {"vault": made, "success": now, "datasets": datasets}
        (jobs / "j.json").write_text(json.dumps({"format": 1, "places": {"v": place}}))
        config.write_text(
            f'vault.v = {{ address = "{vault}" }}\n'
            'job.j = { datasets = ["tank/*"] }\n'
        )
        for title, command in (
            ("list, first look", ["list", vault]),
            ("list", ["list", vault]),
            ("status", ["status", "--config", config]),
        ):
            _, wall, cpu = run(env, command)
            met = "met" if wall < GOAL else "missed"
            print(
                f"{title}, {count} archives: {wall:.2f} s, processor {cpu:.2f} s "
                f"(goal: under {GOAL:g} s: {met})"
            )
    return 0


def run(env: dict[str, str], words: list[object]) -> tuple[str, float, float]:
    """Return what a command printed, its seconds and its processor's seconds."""
    before, begun = used(), time.monotonic()
    argv = [sys.executable, "-m", "standfast", "backup", *map(str, words)]
    done = subprocess.run(argv, env=env, check=True, stdout=subprocess.PIPE)
    return done.stdout.decode(), time.monotonic() - begun, used() - before


def used() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


if __name__ == "__main__":
    raise SystemExit(main())

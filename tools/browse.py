"""Shows files taken out of a vault on a machine that has no ZFS left.

A real pool is sent, in full and in increments, while files come, go, move and grow;
then the pool is destroyed and ``zfs`` is out of PATH. What `ls`, `find`, `diff`,
`cat`, `mount` and `extract` give is compared with what the pool held. What the machine
lacks is left out and named at the end. Exits 0 only if every comparison held; takes
away all that it made.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import scratch
from demo import POOL_SIZE, Demo, Failed, Tree, environment, fill, read_tree

if TYPE_CHECKING:
    from pathlib import Path

SNAPSHOTS = ("monday", "tuesday", "wednesday")
KEY = ("-i", "owner.key")
MOUNT_SECONDS = 30.0


def main() -> int:
    """Run the demo and return its exit status."""
    scratch.stop_on_signals()
    started = time.monotonic()
    parent = "/var/tmp" if os.access("/var/tmp", os.W_OK) else None
    try:
        with scratch.folder("standfast-browse-", parent) as place:
            demo = Demo(place, environment(place))
            run(demo)
    except (Failed, OSError, scratch.Unavailable) as failure:
        print(f"\nFAILED: {failure}")
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; what was made is taken away")
        return 130
    print(f"\n== All of it held, in {time.monotonic() - started:.0f} s ==")
    for line in demo.proven:
        print(f"  proven    {line}")
    for line in demo.left_out:
        print(f"  left out  {line}")
    return 0


def run(demo: Demo) -> None:
    """Send while there is a pool, and look inside when there is none."""
    step("1. A pool, a full archive and two increments")
    demo.standfast("init", "vault", "--new-identity", "owner.key")
    trees: dict[str, Tree] = {}
    with scratch.pool(demo.folder, POOL_SIZE) as pool:
        dataset = f"{pool}/data"
        demo.shell(f"zfs create {dataset}")
        top = demo.folder / "mnt" / "data"
        for day in SNAPSHOTS:
            change(top, day)
            demo.shell(f"zfs snapshot {dataset}@{day}")
            trees[day] = in_seconds(read_tree(top))
            demo.standfast("send", f"{dataset}@{day}", "vault")
    step("2. The pool is destroyed, and zfs is out of PATH")
    demo.env["PATH"] = "/nonexistent"
    if shutil.which("zfs", path=demo.env["PATH"]):
        raise Failed("zfs is still there")
    look(demo, dataset, trees)
    with demo.unless_missing("mount"):
        mounted(demo, dataset, trees)
    step("5. Trees come out of each point, through all increments")
    for day in SNAPSHOTS:
        demo.standfast("extract", "vault", f"{dataset}@{day}", "--to", day, *KEY)
        compare(
            demo,
            f"extract of @{day}",
            in_seconds(read_tree(demo.folder / day)),
            trees[day],
        )


def change(top: Path, day: str) -> None:
    """Do to the files what a day does."""
    if day == SNAPSHOTS[0]:
        fill(top)
        (top / "report.txt").write_text("draft\n")
        return
    with (top / "report.txt").open("a") as file:
        file.write(f"more on {day}\n")
    (top / f"new on {day}").write_bytes(os.urandom(100_000))
    os.link(top / f"new on {day}", top / f"also new on {day}")
    if day == SNAPSHOTS[1]:
        (top / "dense-0").unlink()
        (top / "dense-1").rename(top / "library" / "dense, moved")
        shutil.rmtree(top / "library" / "json")
    else:
        os.truncate(top / "zeros", 1000)
        with (top / "dense-2").open("r+b") as file:
            file.seek(3_000_000)
            file.write(b"patched")


def look(demo: Demo, dataset: str, trees: dict[str, Tree]) -> None:
    """List, find, compare and print."""
    first, _, last = SNAPSHOTS
    step("3. ls, find, diff and cat")
    demo.standfast("ls", "vault", *KEY)
    demo.standfast("ls", "vault", f"{dataset}@{last}", *KEY)
    demo.standfast("find", "vault", "report.txt", *KEY)
    found = json.loads(quiet(demo, "find", "vault", "report.txt", *KEY, "--json"))[
        "files"
    ]
    if [len(file["versions"]) for file in found] != [len(SNAPSHOTS)]:
        raise Failed("find did not see three versions of report.txt")
    demo.holds("find: report.txt has three versions in three points")
    demo.standfast(
        "diff", "vault", f"{dataset}@{SNAPSHOTS[1]}", f"{dataset}@{last}", *KEY
    )
    words = ("vault", f"{dataset}@{first}", f"{dataset}@{last}", *KEY, "--json")
    differences = json.loads(quiet(demo, "diff", *words))["differences"]
    gone = {
        d.get("before", d["path"])
        for d in differences
        if d["kind"] in {"removed", "renamed"}
    }
    if gone != trees[first].keys() - trees[last].keys():
        raise Failed("diff named other files than those that are gone")
    demo.holds(f"diff: the {len(gone)} paths that are gone, by name")
    text = demo.standfast("cat", "vault", f"{dataset}@{last}", "report.txt", *KEY)
    if text != f"draft\nmore on {SNAPSHOTS[1]}\nmore on {last}\n":
        raise Failed("cat printed something else")
    demo.holds("cat: report.txt as it was last")


def mounted(demo: Demo, dataset: str, trees: dict[str, Tree]) -> None:
    """Mount the vault and read the files there."""
    step("4. mount: every snapshot is a folder")
    place = demo.folder / "all"
    place.mkdir()
    words = ["mount", "vault", str(place), *KEY]
    print(f"$ {shlex.join(['standfast', 'backup', *words])} &", flush=True)
    argv = [sys.executable, "-m", "standfast", "backup", *words]
    with subprocess.Popen(
        argv,
        cwd=demo.folder,
        env=demo.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            wait_for(process, place)
            for day in SNAPSHOTS:
                top = place / f"{dataset}@{day}"
                compare(
                    demo, f"mount of @{day}", in_seconds(read_tree(top)), trees[day]
                )
        finally:
            process.terminate()
            process.wait(timeout=MOUNT_SECONDS)


def wait_for(process: subprocess.Popen[str], place: Path) -> None:
    """Wait until the vault is mounted.

    Raises:
        Unavailable: it cannot be, here.
    """
    deadline = time.monotonic() + MOUNT_SECONDS
    while not os.path.ismount(place):
        if process.poll() is not None:
            assert process.stdout is not None
            said = process.stdout.read().strip().splitlines()
            raise scratch.Unavailable(said[0] if said else "it ended at once")
        if time.monotonic() > deadline:
            raise Failed("the vault was not mounted in time")
        time.sleep(0.05)


def compare(demo: Demo, what: str, found: Tree, wanted: Tree) -> None:
    """Compare two trees by names, kinds, modes, times and SHA-256."""
    if found != wanted:
        names = sorted(
            path for path in {*found, *wanted} if found.get(path) != wanted.get(path)
        )
        raise Failed(f"{what}: {len(names)} paths differ, first {names[:3]}")
    demo.holds(f"{what}: {len(wanted)} paths, same names, modes, times and SHA-256")


def in_seconds(tree: Tree) -> Tree:
    """Return a tree with times in seconds: old mounts have no finer ones."""
    return {
        path: (mode, ns // 10**9, inside) for path, (mode, ns, inside) in tree.items()
    }


def quiet(demo: Demo, *words: str) -> str:
    """Run a command for its JSON, which nobody wants to see."""
    done = subprocess.run(
        [sys.executable, "-m", "standfast", "backup", *words],
        cwd=demo.folder,
        env=demo.env,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if done.returncode != 0:
        raise Failed(f"{words[0]}: exit status {done.returncode}: {done.stderr}")
    return done.stdout


def step(title: str) -> None:
    """Print where we are."""
    print(f"\n== {title} ==", flush=True)


if __name__ == "__main__":
    with contextlib.suppress(BrokenPipeError):
        sys.exit(main())

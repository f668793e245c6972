"""Datasets that change from snapshot to snapshot, and what of them was sent."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from typing import TYPE_CHECKING, Any

from conftest import Made, Pool, Standfast, incompressible

if TYPE_CHECKING:
    from pathlib import Path


@dataclasses.dataclass
class History:
    """A dataset of a real pool, and its files at each snapshot.

    Attributes:
        pool: where it lies.
        name: without the pool.
        trees: snapshot -> its files.
    """

    pool: Pool
    name: str
    trees: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)

    @property
    def full(self) -> str:
        return f"{self.pool.name}/{self.name}"

    @property
    def mount(self) -> Path:
        return self.pool.mount / self.name

    def write(self, path: str, data: bytes) -> None:
        place = self.mount / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)

    def snapshot(self, name: str, *options: str) -> str:
        self.pool.zfs("snapshot", *options, f"{self.full}@{name}")
        self.trees[name] = self.pool.tree(self.name)
        return f"{self.full}@{name}"

    def step(self, number: int, size: int = 100_000) -> str:
        """Change a few files and take snapshot ``@sN``."""
        self.write("changed", b"state %d\n" % number * 1000)
        self.write(f"new/{number}", incompressible(size, number))
        gone = self.mount / "new" / str(number - 2)
        gone.unlink(missing_ok=True)
        return self.snapshot(f"s{number}")

    def guid(self, snapshot: str) -> str:
        name = f"{self.full}@{snapshot}"
        return self.pool.zfs("get", "-Hp", "-o", "value", "guid", name).strip()

    def restored(self, made: Made, standfast: Standfast, snapshot: str) -> None:
        """Restore a snapshot from a vault and compare every byte and the GUID."""
        target = f"back-{os.urandom(4).hex()}"
        name = f"{self.pool.name}/{target}"
        words = ("backup", "restore", made.address, f"{self.full}@{snapshot}", name)
        standfast(*words, "--identity", made.key)
        assert self.trees[snapshot] == self.pool.tree(target)
        guid = self.pool.zfs("get", "-Hp", "-o", "value", "guid", f"{name}@{snapshot}")
        assert self.guid(snapshot) == guid.strip()
        destroy(name)


def destroy(name: str) -> None:
    """Destroy a dataset to save room, unless it is busy: zfs-fuse may take a minute."""
    words = ["zfs", "destroy", "-r", name]
    subprocess.run(words, check=False, capture_output=True, timeout=60)


def begin(pool: Pool, label: str) -> History:
    """Make a dataset with some files and no snapshot."""
    history = History(pool, f"{label}-{os.urandom(3).hex()}")
    pool.zfs("create", history.full)
    history.write("steady", incompressible(150_000, 99))
    history.write("deep/er/two words", b"x" * 50_000)
    return history


def sent(standfast: Standfast, *words: object, ok: int = 0) -> Any:
    """Send with the command; return its document."""
    return standfast("backup", "send", "--json", *words, ok=ok).json()


def zfs_fails(*words: str) -> str:
    """Run zfs, which must fail; return its words."""
    done = subprocess.run(["zfs", *words], capture_output=True, check=False, timeout=60)
    assert 0 != done.returncode, words
    return done.stderr.decode()


def has_bookmarks(pool: Pool) -> bool:
    """Return whether this ZFS has bookmarks."""
    words = ["zfs", "get", "-t", "bookmark", "-r", "guid", pool.name]
    return (
        subprocess.run(words, capture_output=True, check=False, timeout=60).returncode
        == 0
    )


def our_marks(pool: Pool, history: History) -> tuple[list[str], dict[str, int]]:
    """Return our bookmarks on a dataset, and the holds of each of its snapshots."""
    bookmarks: list[str] = []
    if has_bookmarks(pool):
        words = ("list", "-H", "-o", "name", "-t", "bookmark", "-r", history.full)
        found = pool.zfs(*words).splitlines()
        bookmarks = [name for name in found if "#standfast-" in name]
    text = pool.zfs("get", "-rHp", "-o", "name,value", "userrefs", history.full)
    lines = [line.split("\t") for line in text.splitlines()]
    holds = {name: int(value) for name, value in lines if value.isdigit() and value}
    return bookmarks, {name: count for name, count in holds.items() if count}

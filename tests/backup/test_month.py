"""A month of nights, with all that goes wrong in one.

Real pool, real vaults, the real commands; their clock is libfaketime's, so that thirty
nights pass in two minutes. Each night some files change and ``backup run`` is called.
What happens besides:

==========  ==========================================================================
night       what
==========  ==========================================================================
3, 6, 11,   the run is killed (SIGKILL) at a store operation or program drawn at
19, 23, 27  random; an hour later the timer calls it again
8           bytes of the newest archive in one vault flip; ``verify`` finds it,
            ``status`` turns critical, the pruner drops it
12          the disk of one vault is full; an hour later there is room again
14 to 16    one vault is away
20          the owner's key changes
each        the pruner looks; on the 18th and the last it prunes
==========  ==========================================================================

In the end every point that either vault keeps is restored, and every file of it
compared by hash with what was there that night.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import os
import random
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from conftest import ForkServer, Made, Standfast, make_vault, need, run_quietly

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Pool, Ran

pytestmark = [pytest.mark.system, pytest.mark.timeout(1800)]

NIGHTS = 30
KILLED = {3, 6, 11, 19, 23, 27}
FLIPPED = 8
FULL = 12
AWAY = range(14, 17)
REKEYED = 20
PRUNED = {18, NIGHTS}
KEEP = ("--keep-daily", 4, "--keep-weekly", 3)
DATASETS = ("",)
Tree = dict[str, str]


class Month:
    """The machines of the story, and what must come back in the end."""

    def __init__(self, standfast: Standfast, pool: Pool, folder: Path) -> None:
        self.chance = random.Random(2014)
        self.folder = folder
        self.pool = pool
        self.name = f"month-{os.getpid()}"
        self.root = f"{pool.name}/{self.name}"
        for dataset in DATASETS:
            pool.zfs("create", self.root + dataset)
        # The first night is tomorrow's, since what zfs itself dates is real.
        today = dt.datetime.now(dt.UTC).replace(hour=0, minute=0, second=0)
        self.first = today + dt.timedelta(days=1)
        clock = faked_clock()
        self.forks = ForkServer(clock)
        self.sender = Standfast(folder, standfast.env | clock | {"TZ": "UTC"})
        self.pruner = self.sender.elsewhere("pruner")
        self.set_clock(0, 12)
        self.disk = folder / "disk"
        self.disk.mkdir()
        run_quietly("mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", self.disk)
        self.one = make_vault(self.sender, folder / "one", "--segment-size", "64k")
        self.two = make_vault(self.sender, self.disk / "two", "--segment-size", "64k")
        self.expected: dict[tuple[str, str], Tree] = {}

    def close(self) -> None:
        self.forks.close()
        run_quietly("umount", "-l", self.disk)

    def set_clock(self, night: int, hour: float) -> None:
        """Let it be some hour of the day after some night."""
        then = self.first + dt.timedelta(days=night, hours=hour)
        ahead = then.timestamp() - time.time()
        for machine in (self.sender, self.pruner):
            machine.env["FAKETIME"] = f"{ahead:+.0f}"

    def configure(self) -> None:
        (self.folder / "backup.toml").write_text(
            f'vault.one = {{ address = "{self.one.path}", retry_for = "1s" }}\n'
            f'vault.two = {{ address = "{self.two.path}", retry_for = "1s" }}\n'
            f'[job.m]\ndatasets = ["{self.root}"]\nrecursive = true\n'
            "full_every = 6\nkeep = { daily = 3 }\n"
        )

    def command(
        self, *words: object, ok: int | None = 0, by: Standfast | None = None
    ) -> Ran:
        return self.forks.run(by or self.sender, "backup", *words, ok=ok)

    def run(self, ok: int = 0) -> Ran:
        config = self.folder / "backup.toml"
        return self.command("run", "--config", config, ok=ok)

    def killed_run(self) -> None:
        """A run that ends by SIGKILL at some operation, or has fewer than that."""
        words = ["backup", "run", "--config", str(self.folder / "backup.toml")]
        ran = self.forks.ask(
            self.sender,
            doomed="run",
            words=words,
            at=self.chance.randrange(1, 70),
            when=self.chance.choice(["before", "after"]),
        )
        assert ran.code in {-9, 0}, ran

    def status(self, ok: int | None = None) -> dict[str, Any]:
        config = self.folder / "backup.toml"
        ran = self.command("status", "--config", config, "--json", ok=ok)
        document: dict[str, Any] = ran.json()
        return document

    def change(self, night: int) -> None:
        """Write, alter and remove files; note what is there for the night's point."""
        date = (self.first + dt.timedelta(days=night)).strftime("%Y-%m-%d")
        for dataset in DATASETS:
            place = self.pool.mount / f"{self.name}{dataset}"
            for _ in range(3):
                data = self.chance.randbytes(self.chance.randrange(1, 60_000))
                (place / f"file-{self.chance.randrange(12)}").write_bytes(data)
            victim = place / f"file-{self.chance.randrange(12)}"
            victim.unlink(missing_ok=True)
            (place / "night").write_text(f"{night}\n")
            self.expected[f"{self.root}{dataset}", date] = hashes(place)

    def night(self, night: int) -> None:
        """Do what belongs to one night."""
        self.change(night)
        self.set_clock(night, 2)
        if night in KILLED:
            self.killed_run()
            self.set_clock(night, 3)
        if night == AWAY[0]:
            self.one.path.rename(self.folder / "away")
        if night == AWAY[-1] + 1:
            (self.folder / "away").rename(self.one.path)
        if night == FULL:
            self.full_disk()
        self.run(ok=3 if night in AWAY else 0)
        if night in AWAY:
            # Two nights may pass before it is called critical.
            late = night == AWAY[-1]
            assert ("critical" if late else "unknown") == self.status()["state"]
        self.set_clock(night, 4)
        self.command("prune", self.two.path, "--observe", by=self.pruner)
        if night == FLIPPED:
            self.flip()
        if night == REKEYED:
            self.rekey()
        if night in PRUNED:
            self.command("prune", self.two.path, *KEEP, by=self.pruner)

    def full_disk(self) -> None:
        """The first run finds no room, the second does."""
        ballast = self.disk / "ballast"
        with (
            ballast.open("wb", buffering=0) as file,
            contextlib.suppress(OSError),
        ):
            while True:
                file.write(bytes(1 << 16))
        ran = self.run(ok=3)
        assert "to two: FAILED" in ran.out
        ballast.unlink()
        self.set_clock(FULL, 3)

    def flip(self) -> None:
        """Bytes rot; that is found, and what is lost is let go of."""
        listed = self.command("list", self.two.path, "--json").json()["archives"]
        newest = max(listed, key=lambda row: (row["time"], row["sequence"]))["archive"]
        victim = self.two.path / "archives" / newest / "00000000.zst.age"
        raw = bytearray(victim.read_bytes())
        for _ in range(3):
            raw[self.chance.randrange(len(raw))] ^= 1 << self.chance.randrange(8)
        victim.write_bytes(raw)
        found = self.command("verify", self.two.path, ok=13)
        assert f"archives/{newest}/00000000.zst.age" in found.out
        assert "critical" == self.status(ok=2)["state"]
        self.command("prune", self.two.path, "--drop", newest, by=self.pruner)
        self.command("verify", self.two.path)

    def rekey(self) -> None:
        """The owner's key changes; the old one opens nothing any more."""
        fresh = self.folder / "fresh.key"
        run_quietly("age-keygen", "-o", fresh)
        done = subprocess.run(
            ["age-keygen", "-y", fresh], capture_output=True, check=True, text=True
        )
        old = self.one.key
        words = ("rewrap", self.one.path, "-i", old, "-r", done.stdout.strip())
        self.command(*words)
        self.command("list", self.one.path, "-i", old, ok=12)
        self.one.key = fresh

    def points(self, made: Made) -> list[dict[str, Any]]:
        """Return the archives that a vault keeps, with their names, oldest first."""
        words = ("list", made.path, "-i", made.key, "--json")
        rows: list[dict[str, Any]] = self.command(*words).json()["archives"]
        # What a killed run has left is no backup, and says so.
        assert {row["state"] for row in rows} <= {"committed", "unfinished"}
        whole = [row for row in rows if row["state"] == "committed"]
        return sorted(whole, key=lambda row: (row["time"], row["sequence"]))

    def restore_all(self, made: Made) -> int:
        """Restore every point of a vault and compare it; return how many."""
        left = {row["name"]: row for row in self.points(made)}
        total = len(left)
        number = 0
        while left:
            # The newest of a chain brings all before it.
            name = list(left)[-1]
            number += 1
            target = f"{self.pool.name}/back-{made.path.name}-{number}"
            archive = left[name]["archive"]
            words = ("restore", made.path, archive, target, "-i", made.key)
            self.command(*words)
            came = self.pool.zfs(
                "list", "-Hr", "-t", "snapshot", "-o", "name", target
            ).split()
            for full in came:
                original = f"{name.partition('@')[0]}@{full.partition('@')[2]}"
                row = left.pop(original, None)
                if row is not None:
                    self.compare(full, original, row)
        return total

    def compare(self, snapshot: str, original: str, row: dict[str, Any]) -> None:
        """Compare a snapshot with what was there that night, by GUID and by hash."""
        guid = self.pool.zfs("get", "-Hp", "-o", "value", "guid", snapshot).strip()
        assert row["stream"]["guid"] == guid
        clone = snapshot.replace("@", "-")
        self.pool.zfs("clone", snapshot, clone)
        dataset, _, name = original.partition("@")
        found = hashes(self.pool.mount / clone.partition("/")[2])
        assert self.expected[dataset, name[2:12]] == found, original


def faked_clock() -> dict[str, str]:
    """Return the variables that make a process's clock one of our choice."""
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME": "+0",
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
    }


def hashes(place: Path) -> Tree:
    """Return the SHA-256 of every file of a dataset, without those below it."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(place.iterdir())
        if path.is_file()
    }


@pytest.fixture
def month(standfast: Standfast, pool: Pool, tmp_path: Path) -> Iterator[Month]:
    need("age-keygen", "faketime", "mount")
    if os.geteuid() != 0:
        pytest.skip("it needs root, to mount a disk that can be full")
    story = Month(standfast, pool, tmp_path)
    try:
        yield story
    finally:
        story.close()


def introduce(month: Month) -> None:
    """Let the pruner know the sender, and the sender believe the pruner."""
    two = month.two
    month.command(
        "signer", "add", two.path, two.signer, "--recipient", two.recipient,
        by=month.pruner,
    )  # fmt: skip
    month.command("prune", two.path, "--observe", by=month.pruner)
    folder = month.folder / "state-pruner/standfast/vaults" / two.id
    public = json.loads((folder / "record.json").read_text())["signers"]
    keys = {one["key"] for one in public} - {two.signer}
    for key in keys:
        month.command("signer", "add", two.path, key, "--role", "pruner")


def test_a_month(month: Month) -> None:
    """Every point that is kept comes back, byte for byte."""
    month.configure()
    introduce(month)
    for night in range(1, NIGHTS + 1):
        month.night(night)
    for made in (month.one, month.two):
        month.command("verify", made.path, "--level", "decrypt", "-i", made.key)
    month.set_clock(NIGHTS, 5)
    status = month.status()
    assert "ok" == status["state"], status
    of_one, of_two = (month.restore_all(made) for made in (month.one, month.two))

    print(f"restored and compared: {of_one} and {of_two} points")
    # One was away for three nights; the last of them came with its return.
    assert len(DATASETS) * (NIGHTS - len(AWAY)) <= of_one
    assert of_two < of_one

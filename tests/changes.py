"""A folder that lives: files come, go, move, grow and shrink, from a seed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import stat
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

# Too long for a micro ZAP: the folder becomes a fat one.
MANY = "file with a name of fifty bytes and more, as there are"
# kind, mode, uid, gid, links, seconds, size, contents or target
Facts = dict[str, tuple[object, ...]]


class Life:
    """Changes below a folder, the same ones for the same seed."""

    def __init__(self, top: Path, seed: int) -> None:
        self.top = top
        self.chance = random.Random(seed)
        self.number = 0

    def begin(self) -> None:
        """Make something of every kind, and a folder too large for one block."""
        (self.top / "deep/er").mkdir(parents=True)
        (self.top / "many").mkdir()
        for number in range(300):
            (self.top / "many" / f"{MANY} {number}").write_bytes(b"%d" % number)
        (self.top / "empty").touch()
        (self.top / "big").write_bytes(self.chance.randbytes(700_001))
        (self.top / "deep/er/twin").write_bytes(b"twins")
        os.link(self.top / "deep/er/twin", self.top / "twin")
        (self.top / "short").symlink_to("deep/er/twin")
        (self.top / "long").symlink_to("x/" * 100 + "end")
        with (self.top / "sparse").open("wb") as file:
            file.seek(3_000_000)
            file.write(b"island")
            file.truncate(9_000_000)
        os.mkfifo(self.top / "pipe")
        (self.top / "owned").write_bytes(b"mine")
        os.chown(self.top / "owned", 1234, 4321)
        (self.top / "owned").chmod(0o4711)
        (self.top / "näme \t'x'").write_bytes(b"odd")

    def go_on(self, steps: int) -> None:
        """Change things at random, each kind of change at least once."""
        kinds = [
            self.make, self.remove, self.move, self.grow, self.cut, self.overwrite,
            self.punch, self.attributes, self.join, self.move_folder, self.replace_link,
        ]  # fmt: skip
        for step in range(steps):
            kind = kinds[step] if step < len(kinds) else self.chance.choice(kinds)
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                kind()
        if (self.top / "many").exists():
            for number in range(0, 300, 3):
                path = self.top / "many" / f"{MANY} {number}"
                path.unlink(missing_ok=True)

    def files(self) -> list[Path]:
        found = sorted(self.top.rglob("*"))
        return [p for p in found if p.is_file() and not p.is_symlink()]

    def folders(self) -> list[Path]:
        found = sorted(self.top.rglob("*"))
        return [self.top, *(p for p in found if p.is_dir() and not p.is_symlink())]

    def pick(self) -> Path:
        return self.chance.choice(self.files())

    def name(self) -> Path:
        self.number += 1
        return self.chance.choice(self.folders()) / f"new-{self.number}"

    def make(self) -> None:
        size = self.chance.choice([0, 3, 511, 512, 513, 140_000, 300_000])
        self.name().write_bytes(self.chance.randbytes(size))

    def remove(self) -> None:
        self.pick().unlink()

    def move(self) -> None:
        self.pick().rename(self.name())

    def move_folder(self) -> None:
        inner = [folder for folder in self.folders()[1:] if folder.name != "many"]
        place = self.top / f"moved-{self.number}"
        self.number += 1
        self.chance.choice(inner).rename(place)

    def grow(self) -> None:
        with self.pick().open("ab") as file:
            file.write(self.chance.randbytes(200_000))

    def cut(self) -> None:
        path = self.pick()
        os.truncate(path, self.chance.randint(0, path.stat().st_size))

    def overwrite(self) -> None:
        path = self.pick()
        with path.open("r+b") as file:
            file.seek(self.chance.randint(0, path.stat().st_size))
            file.write(b"over" * 100)

    def punch(self) -> None:
        with self.pick().open("r+b") as file:
            file.truncate(0)
            file.seek(400_000)
            file.write(b"!")

    def attributes(self) -> None:
        path = self.pick()
        path.chmod(self.chance.choice([0o600, 0o644, 0o755, 0o444]))
        os.chown(path, self.chance.randint(0, 70_000), self.chance.randint(0, 70_000))
        os.utime(path, (1_000_000_000, self.chance.randint(0, 2_000_000_000)))

    def join(self) -> None:
        os.link(self.pick(), self.name())

    def replace_link(self) -> None:
        path = self.top / "short"
        path.unlink()
        path.symlink_to(f"elsewhere-{self.number}")


def facts(top: Path) -> Facts:
    """Return what there is below a folder, in all that a backup must keep.

    Times are in seconds: zfs-fuse's own mount has no finer ones.
    """
    found: Facts = {}
    for path in sorted(top.rglob("*")):
        state = path.lstat()
        mode = state.st_mode
        inside = ""
        if stat.S_ISREG(mode):
            with path.open("rb") as file:
                inside = hashlib.file_digest(file, "sha256").hexdigest()
        if stat.S_ISLNK(mode):
            inside = str(path.readlink())
        links = 0 if stat.S_ISDIR(mode) else state.st_nlink
        size = state.st_size if stat.S_ISREG(mode) else 0
        when = state.st_mtime_ns // 1_000_000_000
        name = str(path.relative_to(top))
        found[name] = (
            stat.filemode(mode), state.st_uid, state.st_gid, links, when, size, inside,
        )  # fmt: skip
    return found

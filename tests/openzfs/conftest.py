"""What only a modern OpenZFS has: encryption, volumes, bookmarks, large blocks."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from conftest import Pool

PASSPHRASE = b"correct horse battery\n"


@pytest.fixture(scope="session", autouse=True)
def openzfs() -> None:
    """A ZFS that zfs-fuse is not: only OpenZFS knows `zfs version`."""
    try:
        done = subprocess.run(["zfs", "version"], capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("zfs is not installed; `make test-openzfs` brings its own")
    if done.returncode != 0:
        pytest.skip("this ZFS is older than OpenZFS; `make test-openzfs` brings one")


@dataclasses.dataclass
class Modern:
    """A pool of a modern ZFS, and what to make in it."""

    pool: Pool

    def name(self, dataset: str) -> str:
        return f"{self.pool.name}/{dataset}"

    def get(self, what: str, name: str) -> str:
        return self.pool.zfs("get", "-Hp", "-o", "value", what, name).strip()

    def create(self, dataset: str, *options: str) -> str:
        """Make a file system with properties; return its full name."""
        words = [word for option in options for word in ("-o", option)]
        self.pool.zfs("create", *words, self.name(dataset))
        return self.name(dataset)

    def encrypted(self, dataset: str, *options: str) -> str:
        """Make an encryption root with a passphrase; return its full name."""
        words = [word for option in options for word in ("-o", option)]
        words += ["-o", "encryption=on", "-o", "keyformat=passphrase"]
        self.give_key("create", *words, self.name(dataset))
        return self.name(dataset)

    def give_key(self, *words: str) -> None:
        """Run a zfs command that asks for the passphrase."""
        subprocess.run(
            ["zfs", *words], input=PASSPHRASE, check=True, capture_output=True
        )

    def volume(self, dataset: str, size: str, *options: str) -> Path:
        """Make a volume; return its device."""
        words = [word for option in options for word in ("-o", option)]
        self.pool.zfs("create", "-V", size, *words, self.name(dataset))
        return self.device(dataset)

    def device(self, dataset: str) -> Path:
        """Return a volume's device, when it has appeared."""
        place = Path("/dev/zvol") / self.name(dataset)
        deadline = time.monotonic() + 20
        while not place.exists():
            if time.monotonic() > deadline:
                pytest.fail(f"waited 20 s for {place}")
            time.sleep(0.05)
        return place

    def write(self, dataset: str, files: dict[str, bytes]) -> None:
        """Write files into a mounted dataset and have them on the disk."""
        for name, data in files.items():
            place = self.pool.mount / dataset / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        os.sync()


@pytest.fixture
def modern(pool: Pool) -> Modern:
    return Modern(pool)

"""The nightly run on a modern ZFS: one moment, bookmarks, encrypted datasets."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from conftest import Made, Standfast, incompressible

if TYPE_CHECKING:
    from pathlib import Path

    from openzfs.conftest import Modern

pytestmark = pytest.mark.openzfs


class Nights:
    """A job over some datasets of a tree, one of which is left out."""

    def __init__(
        self, standfast: Standfast, vault: Made, modern: Modern, folder: Path
    ) -> None:
        self.standfast = standfast
        self.modern = modern
        self.label = f"nights-{os.urandom(3).hex()}"
        self.root = modern.create(self.label)
        for name in ("a", "b", "cache"):
            modern.create(f"{self.label}/{name}")
        self.config = folder / "backup.toml"
        self.config.write_text(
            f'vault.v = {{ address = "{vault.path}" }}\n'
            f'[job.j]\ndatasets = ["{self.root}"]\nrecursive = true\n'
            f'exclude = ["{self.root}/cache"]\n'
            "[job.j.keep]\nlast = 1\n"
        )

    def run(self) -> list[dict[str, Any]]:
        words = ("backup", "run", "--force", "--json", "--config", self.config)
        (job,) = self.standfast(*words).json()["jobs"]
        assert [] == job["notes"]
        rows: list[dict[str, Any]] = job["vaults"][0]["datasets"]
        return rows

    def points(self, kind: str) -> list[list[str]]:
        words = ("list", "-Hrp", "-t", kind, "-o", "name,createtxg", self.root)
        lines = self.modern.pool.zfs(*words).splitlines()
        return [line.split("\t") for line in lines]


@pytest.fixture
def nights(standfast: Standfast, vault: Made, modern: Modern, tmp_path: Path) -> Nights:
    return Nights(standfast, vault, modern, tmp_path)


def test_a_list_of_datasets_is_of_one_moment(nights: Nights) -> None:
    """Three of four in one transaction, and the fourth not at all."""
    nights.run()
    points = nights.points("snapshot")

    assert {nights.root, f"{nights.root}/a", f"{nights.root}/b"} == {
        name.partition("@")[0] for name, _ in points
    }
    assert 1 == len({txg for _, txg in points})


def test_increments_from_bookmarks(nights: Nights) -> None:
    """The snapshot may go; the bookmark is the place to start from."""
    nights.run()
    for name, _ in nights.points("snapshot"):
        nights.modern.pool.zfs("destroy", name)
    assert 3 == len(nights.points("bookmark"))
    place = nights.modern.pool.mount / nights.label / "a" / "more"
    place.write_bytes(incompressible(100_000))
    time.sleep(1.1)

    rows = nights.run()
    assert all(row["why"].startswith("incremental: ") for row in rows)
    # The marks of the first night have been outgrown.
    assert all(row["state"] == "sent" for row in rows)


def test_an_encrypted_dataset_goes_raw_with_its_key_away(
    standfast: Standfast, vault: Made, modern: Modern, tmp_path: Path
) -> None:
    """``raw = true``: night after night, and nobody has to load the key."""
    label = f"locked-{os.urandom(3).hex()}"
    full = modern.encrypted(label)
    modern.pool.zfs("unmount", full)
    modern.pool.zfs("unload-key", full)
    config = tmp_path / "backup.toml"
    config.write_text(
        f'vault.v = {{ address = "{vault.path}" }}\n'
        f'job.j = {{ datasets = ["{full}"], raw = true }}\n'
    )
    whys: list[str] = []
    for _ in range(2):
        words = ("backup", "run", "--force", "--json", "--config", config)
        ran = standfast(*words).json()
        whys.append(ran["jobs"][0]["vaults"][0]["datasets"][0]["why"])
        time.sleep(1.1)

    assert ["full", "incremental"] == [why.partition(":")[0] for why in whys]
    standfast("backup", "verify", vault.path, "--level", "decrypt", "-i", vault.key)

"""Proof by restore of encrypted datasets, volumes and trees."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from chains import History, sent
from conftest import Made, Standfast, incompressible

if TYPE_CHECKING:
    from openzfs.conftest import Modern

pytestmark = pytest.mark.openzfs


def drilled(standfast: Standfast, made: Made, *options: str, ok: int = 0) -> Any:
    words = ("backup", "drill", made.path, "-i", made.key, "--json", *options)
    (one,) = standfast(*words, ok=ok).json()["drills"]
    return one


def scratches(modern: Modern) -> list[str]:
    names = modern.pool.zfs("list", "-H", "-o", "name", "-r", modern.pool.name)
    return [name for name in names.splitlines() if "standfast-drill-" in name]


def test_a_raw_chain_with_the_key_away(
    standfast: Standfast, vault: Made, modern: Modern
) -> None:
    """Raw streams are compared as they are: nobody has to bring the key."""
    label = f"rawdrill-{os.urandom(3).hex()}"
    modern.encrypted(label)
    history = History(modern.pool, label)
    for number in (1, 2):
        history.step(number)
        sent(standfast, "--raw", history.full, vault.path)
    modern.pool.zfs("unmount", history.full)
    modern.pool.zfs("unload-key", history.full)
    one = drilled(standfast, vault)
    assert ("received", "same", 2) == (
        one["how"],
        one["compared"],
        len(one["archives"]),
    )
    assert [] == scratches(modern)


def test_a_plain_archive_of_a_locked_source(
    standfast: Standfast, vault: Made, modern: Modern
) -> None:
    """Sent plain, its source locked since: it comes back, and is not compared."""
    label = f"lockdrill-{os.urandom(3).hex()}"
    modern.encrypted(label)
    history = History(modern.pool, label)
    history.step(1)
    sent(standfast, history.full, vault.path)
    assert "same" == drilled(standfast, vault)["compared"]
    modern.pool.zfs("unmount", history.full)
    modern.pool.zfs("unload-key", history.full)
    one = drilled(standfast, vault)
    assert ("received", "locked") == (one["how"], one["compared"])


def test_compression_and_block_size_do_not_matter(
    standfast: Standfast, vault: Made, modern: Modern
) -> None:
    """The scratch compresses otherwise and drops zeros; what is in the files counts."""
    label = f"packdrill-{os.urandom(3).hex()}"
    modern.create(label, "compression=off", "recordsize=1M")
    history = History(modern.pool, label)
    history.write("zeros", bytes(2_000_000))
    history.write("text", b"a line of text\n" * 100_000)
    history.step(1)
    sent(standfast, "--send-flag=-L", history.full, vault.path)
    scratch = modern.create(f"room-{os.urandom(3).hex()}", "compression=zstd")
    one = drilled(standfast, vault, "--scratch", scratch)
    assert ("received", "same") == (one["how"], one["compared"])


def test_a_tree_with_a_volume(
    standfast: Standfast, vault: Made, modern: Modern
) -> None:
    """Every dataset of a tree is compared, volumes too; a mountpoint is not used."""
    label = f"treedrill-{os.urandom(3).hex()}"
    modern.create(label)
    top = History(modern.pool, label)
    modern.pool.zfs("create", f"{top.full}/child")
    History(modern.pool, f"{label}/child").write("file", b"in the child" * 5000)
    device = modern.volume(f"{label}/disk", "4M")
    with device.open("r+b") as disk:
        disk.write(incompressible(500_000))
        disk.flush()
        os.fsync(disk.fileno())
    top.snapshot("s1", "-r")
    sent(standfast, "--tree", top.full, vault.path)
    mounted = modern.pool.zfs("mount")
    one = drilled(standfast, vault)
    assert ("received", "same") == (one["how"], one["compared"])
    assert mounted == modern.pool.zfs("mount")
    assert [] == scratches(modern)

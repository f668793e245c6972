"""Whole snapshots of what zfs-fuse does not have, out and back."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest
from conftest import Made, Standfast, incompressible

if TYPE_CHECKING:
    from openzfs.conftest import Modern

pytestmark = pytest.mark.openzfs

TEXT = b"a line that compresses well, and is long enough to be worth it\n" * 4000


def archive_of(standfast: Standfast, vault: Made, name: str) -> Any:
    """Return the listing's entry of the newest archive of that name."""
    words = ("backup", "list", vault.path, "-i", vault.key, "--json")
    archives = standfast(*words).json()["archives"]
    return [a for a in archives if a["name"] == name][-1]


def there_and_back(
    standfast: Standfast, vault: Made, modern: Modern, name: str, target: str
) -> Any:
    """Verify and restore an archive; return its entry in the listing."""
    opened = ("-i", vault.key)
    standfast("backup", "verify", vault.path, "--level", "decrypt", *opened)
    words = ("backup", "restore", vault.path, name, modern.name(target), *opened)
    standfast(*words)
    snapshot = name.partition("@")[2]
    there = modern.get("guid", name)
    assert there == modern.get("guid", f"{modern.name(target)}@{snapshot}")
    return archive_of(standfast, vault, name)


def test_raw_with_the_key_away(
    standfast: Standfast, vault: Made, modern: Modern
) -> None:
    """An encrypted dataset goes out raw without its key, and opens with it again."""
    files = {"secret": TEXT, "dense": incompressible(300_000)}
    dataset = modern.encrypted("locked", "compression=lz4")
    modern.write("locked", files)
    modern.pool.zfs("snapshot", f"{dataset}@s1")
    modern.pool.zfs("unmount", dataset)
    modern.pool.zfs("unload-key", dataset)
    standfast("backup", "send", "--raw", f"{dataset}@s1", vault.path)
    entry = there_and_back(standfast, vault, modern, f"{dataset}@s1", "opened")
    assert "RAW" in entry["stream"]["features"]
    back = modern.name("opened")
    assert back == modern.get("encryptionroot", back)
    assert "unavailable" == modern.get("keystatus", back)
    modern.give_key("load-key", back)
    modern.pool.zfs("mount", back)
    assert files == modern.pool.tree("opened")


def test_without_raw_a_locked_dataset_is_refused(
    standfast: Standfast, vault: Made, modern: Modern
) -> None:
    """zfs cannot read a dataset whose key is away; there is no backup then."""
    dataset = modern.encrypted("shut")
    modern.write("shut", {"file": TEXT})
    modern.pool.zfs("snapshot", f"{dataset}@s1")
    modern.pool.zfs("unmount", dataset)
    modern.pool.zfs("unload-key", dataset)
    ran = standfast("backup", "send", f"{dataset}@s1", vault.path, ok=1)
    assert "key" in ran.err
    listed = standfast("backup", "list", vault.path, "--json").json()["archives"]
    assert not [a for a in listed if a["state"] == "committed"]


def test_opened_an_encrypted_dataset_goes_out_plain(
    standfast: Standfast, vault: Made, modern: Modern
) -> None:
    """Not raw, the stream holds plaintext; the vault's seal protects it."""
    dataset = modern.encrypted("unlocked")
    modern.write("unlocked", {"file": TEXT})
    modern.pool.zfs("snapshot", f"{dataset}@s1")
    standfast("backup", "send", f"{dataset}@s1", vault.path)
    entry = there_and_back(standfast, vault, modern, f"{dataset}@s1", "plain")
    assert "RAW" not in entry["stream"]["features"]
    assert "off" == modern.get("encryption", modern.name("plain"))
    assert {"file": TEXT} == modern.pool.tree("plain")


def test_large_compressed_embedded(
    standfast: Standfast, vault: Made, modern: Modern
) -> None:
    """-L -c -e: blocks of a MiB, zstd as on disk, and data in block pointers."""
    files = {"text": TEXT * 20, "dense": incompressible(3_000_000), "tiny": b"x" * 90}
    dataset = modern.create("packed", "compression=zstd-7", "recordsize=1M")
    modern.write("packed", files)
    modern.pool.zfs("snapshot", f"{dataset}@s1")
    flags = [f"--send-flag={flag}" for flag in ("-L", "-c", "-e")]
    standfast("backup", "send", *flags, f"{dataset}@s1", vault.path)
    entry = there_and_back(standfast, vault, modern, f"{dataset}@s1", "unpacked")
    features = set(entry["stream"]["features"])
    assert {"COMPRESSED", "EMBED_DATA", "LARGE_BLOCKS", "ZSTD"} <= features
    assert entry["bytes"] < sum(map(len, files.values()))
    assert files == modern.pool.tree("unpacked")


@pytest.mark.parametrize("raw", [False, True])
def test_volume(
    standfast: Standfast, vault: Made, modern: Modern, *, raw: bool
) -> None:
    """A volume's device holds the same bytes again, also encrypted and raw."""
    kind = "raw" if raw else "plain"
    data = incompressible(500_000) + bytes(300_000) + TEXT
    parent = modern.encrypted(f"volumes-{kind}") if raw else ""
    name = f"volumes-{kind}/disk" if raw else "disk"
    device = modern.volume(name, "8M", "volblocksize=16k")
    with device.open("r+b") as disk:
        disk.write(data)
        disk.flush()
        os.fsync(disk.fileno())
    dataset = modern.name(name)
    modern.pool.zfs("snapshot", f"{dataset}@s1")
    flags = ["--raw"] if raw else []
    standfast("backup", "send", *flags, f"{dataset}@s1", vault.path)
    entry = there_and_back(standfast, vault, modern, f"{dataset}@s1", f"back-{kind}")
    assert ["volume"] == [part["kind"] for part in entry["stream"]["substreams"]]
    if raw:
        assert parent == modern.get("encryptionroot", dataset)
        modern.give_key("load-key", modern.name(f"back-{kind}"))
    with modern.device(f"back-{kind}").open("rb") as disk:
        assert data == disk.read(len(data))


def test_clone_alone(standfast: Standfast, vault: Made, modern: Modern) -> None:
    """A clone sent whole comes back without its origin."""
    origin = modern.create("origin")
    modern.write("origin", {"kept": TEXT, "changed": b"before"})
    modern.pool.zfs("snapshot", f"{origin}@base")
    clone = modern.name("clone")
    modern.pool.zfs("clone", f"{origin}@base", clone)
    modern.write("clone", {"changed": b"after"})
    modern.pool.zfs("snapshot", f"{clone}@s1")
    standfast("backup", "send", f"{clone}@s1", vault.path)
    there_and_back(standfast, vault, modern, f"{clone}@s1", "clone-back")
    assert "-" == modern.get("origin", modern.name("clone-back"))
    assert {"kept": TEXT, "changed": b"after"} == modern.pool.tree("clone-back")


def test_held_snapshot_with_properties(
    standfast: Standfast, vault: Made, modern: Modern
) -> None:
    """-p carries properties; somebody's hold on the snapshot is left alone."""
    dataset = modern.create("kept", "atime=off", "user:owner=me")
    modern.write("kept", {"file": TEXT})
    modern.pool.zfs("snapshot", f"{dataset}@s1")
    modern.pool.zfs("hold", "somebody", f"{dataset}@s1")
    standfast("backup", "send", "--send-flag=-p", f"{dataset}@s1", vault.path)
    there_and_back(standfast, vault, modern, f"{dataset}@s1", "kept-back")
    assert "off" == modern.get("atime", modern.name("kept-back"))
    assert "me" == modern.get("user:owner", modern.name("kept-back"))
    holds = modern.pool.zfs("holds", "-H", f"{dataset}@s1").splitlines()
    assert "somebody" in [line.split("\t")[1] for line in holds]
    modern.pool.zfs("release", "somebody", f"{dataset}@s1")

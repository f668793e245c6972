"""Increments of what zfs-fuse does not have: raw chains, bookmarks, volumes, clones."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest
from chains import History, destroy, our_marks, sent, zfs_fails
from conftest import Made, Standfast, incompressible, make_vault

if TYPE_CHECKING:
    from pathlib import Path

    from openzfs.conftest import Modern

pytestmark = pytest.mark.openzfs


def encrypted(modern: Modern, label: str) -> History:
    """Begin a dataset that is an encryption root."""
    name = f"{label}-{os.urandom(3).hex()}"
    modern.encrypted(name)
    history = History(modern.pool, name)
    history.write("steady", incompressible(150_000, 99))
    return history


def plain(modern: Modern, label: str, *options: str) -> History:
    name = f"{label}-{os.urandom(3).hex()}"
    modern.create(name, *options)
    history = History(modern.pool, name)
    history.write("steady", incompressible(150_000, 99))
    return history


def restore(
    standfast: Standfast, vault: Made, modern: Modern, wanted: str, *options: str
) -> str:
    """Restore into a new dataset; return its name without the pool."""
    target = f"back-{os.urandom(3).hex()}"
    words = ("backup", "restore", vault.path, wanted, modern.name(target), *options)
    standfast(*words, "-i", vault.key)
    return target


def test_a_bookmark_is_enough(
    standfast: Standfast, vault: Made, modern: Modern, tmp_path: Path
) -> None:
    """The snapshots are gone, our bookmarks lead on, one for each vault."""
    history = plain(modern, "bookmarks")
    other = make_vault(standfast, tmp_path / "other", "--segment-size", "64k")
    history.step(1)
    modern.pool.zfs("bookmark", f"{history.full}@s1", f"{history.full}#mine")
    for made in (vault, other):
        sent(standfast, history.full, made.path)
    first = history.guid("s1")
    marks, holds = our_marks(modern.pool, history)
    assert (2, {}) == (len(marks), holds)
    modern.pool.zfs("destroy", f"{history.full}@s1")
    history.step(2)
    document = sent(standfast, history.full, vault.path)
    assert first == document["from_guid"]
    assert 3 == len(our_marks(modern.pool, history)[0])
    modern.pool.zfs("destroy", f"{history.full}@s2")
    history.step(3)
    # The other vault has not had s2: its own bookmark is still of s1.
    assert first == sent(standfast, history.full, other.path)["from_guid"]
    assert document["guid"] == sent(standfast, history.full, vault.path)["from_guid"]
    for made in (vault, other):
        standfast("backup", "verify", made.path)
        back = restore(standfast, made, modern, f"{history.full}@s3")
        assert history.trees["s3"] == modern.pool.tree(back)
    for made in (vault, other):
        release = ("backup", "marks", "release", history.full, "--vault", made.path)
        standfast(*release)
    assert [] == our_marks(modern.pool, history)[0]
    assert first == modern.get("guid", f"{history.full}#mine")


def test_all_between_from_a_bookmark(
    standfast: Standfast, vault: Made, modern: Modern
) -> None:
    """-I cannot start at a bookmark: the next snapshot goes first, then the rest."""
    history = plain(modern, "between")
    history.step(1)
    sent(standfast, history.full, vault.path)
    modern.pool.zfs("destroy", f"{history.full}@s1")
    for number in (2, 3, 4):
        history.step(number)
    document = sent(standfast, "-I", history.full, vault.path)
    assert history.guid("s4") == document["guid"]
    assert [history.guid("s2")] == [one["guid"] for one in document["before"]]
    for snapshot in ("s2", "s3", "s4"):
        history.restored(vault, standfast, snapshot)


def test_raw_and_other_streams_never_mix(
    standfast: Standfast, vault: Made, modern: Modern
) -> None:
    """A raw chain takes raw increments only, its key away all the while."""
    history = encrypted(modern, "rawchain")
    history.step(1)
    sent(standfast, "--raw", history.full, vault.path)
    history.step(2)
    ran = standfast("backup", "send", history.full, vault.path, ok=2)
    assert "raw and other streams cannot follow each other" in ran.err
    modern.pool.zfs("unmount", history.full)
    modern.pool.zfs("unload-key", history.full)
    document = sent(standfast, "--raw", history.full, vault.path)
    assert history.guid("s1") == document["from_guid"]
    back = restore(standfast, vault, modern, f"{history.full}@s2")
    assert "unavailable" == modern.get("keystatus", modern.name(back))
    modern.give_key("load-key", modern.name(back))
    modern.pool.zfs("mount", modern.name(back))
    assert history.trees["s2"] == modern.pool.tree(back)
    destroy(modern.name(back))
    # The other way round, and --full as the way out.
    modern.give_key("load-key", history.full)
    modern.pool.zfs("mount", history.full)
    whole = sent(standfast, "--full", f"{history.full}@s2", vault.path)
    assert whole["from_guid"] is None
    modern.pool.zfs("destroy", f"{history.full}@s1")
    history.step(3)
    document = sent(standfast, history.full, vault.path)
    assert history.guid("s2") == document["from_guid"]
    back = restore(standfast, vault, modern, f"{history.full}@s3")
    assert "off" == modern.get("encryption", modern.name(back))
    assert history.trees["s3"] == modern.pool.tree(back)
    standfast("backup", "verify", vault.path, "--level", "decrypt", "-i", vault.key)


def test_what_zfs_itself_refuses(
    standfast: Standfast, vault: Made, modern: Modern
) -> None:
    """Raw after plain is what receive rejects, late; we never let it come to that."""
    history = encrypted(modern, "mixture")
    history.step(1)
    sent(standfast, history.full, vault.path)
    history.step(2)
    ran = standfast("backup", "send", "--raw", history.full, vault.path, ok=2)
    assert "is not raw" in ran.err
    back = restore(standfast, vault, modern, f"{history.full}@s1")
    words = ["zfs", "send", "-w", "-i", "@s1", f"{history.full}@s2"]
    stream = subprocess.run(words, check=True, capture_output=True).stdout
    done = subprocess.run(
        ["zfs", "receive", "-F", modern.name(back)],
        input=stream,
        capture_output=True,
        check=False,
    )
    assert 0 != done.returncode
    destroy(modern.name(back))


def test_large_blocks_stay_large(
    standfast: Standfast, vault: Made, modern: Modern
) -> None:
    """-L -c -e with zstd through a chain; leaving -L out is refused."""
    history = plain(modern, "large", "compression=zstd", "recordsize=1M")
    flags = ("--send-flag=-L", "--send-flag=-c", "--send-flag=-e")
    history.write("big", incompressible(2_500_000, 5) + bytes(500_000))
    history.step(1)
    sent(standfast, *flags, history.full, vault.path)
    history.write("big", incompressible(2_500_000, 6) + b"tail" * 1000)
    history.step(2)
    ran = standfast("backup", "send", history.full, vault.path, ok=2)
    assert "large blocks" in ran.err
    document = sent(standfast, *flags, history.full, vault.path)
    assert history.guid("s1") == document["from_guid"]
    history.restored(vault, standfast, "s2")


@pytest.mark.parametrize("raw", [False, True])
def test_volumes(
    standfast: Standfast, vault: Made, modern: Modern, *, raw: bool
) -> None:
    """A volume's increments come back block for block."""
    label = f"vol-{os.urandom(3).hex()}"
    name = f"{label}/disk"
    if raw:
        modern.encrypted(label)
    else:
        modern.create(label)
    device = modern.volume(name, "8M", "volblocksize=16k")
    contents: list[bytes] = []
    flags = ["--raw"] if raw else []
    for number in (1, 2, 3):
        with device.open("r+b") as disk:
            disk.seek(number * 100_000)
            disk.write(incompressible(200_000, number))
            disk.flush()
            os.fsync(disk.fileno())
            disk.seek(0)
            contents.append(disk.read())
        modern.pool.zfs("snapshot", f"{modern.name(name)}@s{number}")
        document = sent(standfast, *flags, modern.name(name), vault.path)
        assert (document["from_guid"] is None) == (number == 1)
    for number in (1, 3):
        back = restore(standfast, vault, modern, f"{modern.name(name)}@s{number}")
        if raw:
            modern.give_key("load-key", modern.name(back))
        assert contents[number - 1] == modern.device(back).read_bytes()
        destroy(modern.name(back))


def test_a_tree_with_its_encryption_root_and_a_clone(
    standfast: Standfast, vault: Made, modern: Modern
) -> None:
    """-R raw: children inherit the key again, and a clone is a clone again."""
    top = encrypted(modern, "tree")
    modern.pool.zfs("create", f"{top.full}/child")
    child = History(modern.pool, f"{top.name}/child")
    child.write("file", b"in the child" * 5000)
    top.snapshot("s1", "-r")
    modern.pool.zfs("clone", f"{top.full}/child@s1", f"{top.full}/clone")
    clone = History(modern.pool, f"{top.name}/clone")
    clone.write("more", b"in the clone" * 5000)
    top.snapshot("s2", "-r")
    sent(standfast, "--raw", "--tree", f"{top.full}@s2", vault.path)
    child.write("file", b"changed" * 5000)
    clone.write("more", b"changed too" * 5000)
    top.snapshot("s3", "-r")
    wanted = {n: modern.pool.tree(f"{top.name}/{n}") for n in ("child", "clone")}
    document = sent(standfast, "--raw", "--tree", top.full, vault.path)
    assert top.guid("s2") == document["from_guid"]
    back = restore(standfast, vault, modern, f"{top.full}@s3", "--receive-flag=-u")
    name = modern.name(back)
    assert f"{name}/child@s1" == modern.get("origin", f"{name}/clone")
    roots = {modern.get("encryptionroot", f"{name}{p}") for p in ("", "/child")}
    assert {name} == roots
    modern.give_key("load-key", name)
    for each in ("", "/child", "/clone"):
        modern.pool.zfs("mount", f"{name}{each}")
    found = {n: modern.pool.tree(f"{back}/{n}") for n in ("child", "clone")}
    assert wanted == found


def test_a_replaced_snapshot_of_the_same_name(
    standfast: Standfast, vault: Made, modern: Modern
) -> None:
    """By name it would be the base, by GUID it is not: our bookmark still is."""
    history = plain(modern, "replaced")
    history.step(1)
    first = sent(standfast, history.full, vault.path)["guid"]
    modern.pool.zfs("destroy", f"{history.full}@s1")
    history.write("between", b"x" * 1000)
    history.snapshot("s1")
    assert first != history.guid("s1")
    document = sent(standfast, history.full, vault.path)
    assert (first, history.guid("s1")) == (document["from_guid"], document["guid"])
    back = restore(standfast, vault, modern, f"{history.full}@s1")
    assert history.trees["s1"] == modern.pool.tree(back)


def cut_short(argv: list[str], stream: bytes) -> None:
    """Give a receiver half of a stream, of which it keeps what came (-s)."""
    half = stream[: len(stream) // 2]
    done = subprocess.run(argv, input=half, capture_output=True, check=False)
    assert 0 != done.returncode


def test_a_restore_that_was_cut_goes_on(
    standfast: Standfast, vault: Made, modern: Modern
) -> None:
    """What `zfs receive -s` has kept of a stream of ours is in nobody's way."""
    history = plain(modern, "cut")
    streams = []
    for number, base in ((1, []), (2, ["-i", "@s1"])):
        history.write("big", incompressible(3_000_000, number))
        history.step(number)
        sent(standfast, history.full, vault.path)
        argv = ["zfs", "send", *base, f"{history.full}@s{number}"]
        streams.append(subprocess.run(argv, check=True, capture_output=True).stdout)
    target = f"back-{os.urandom(3).hex()}"
    name = modern.name(target)
    words = ("backup", "restore", vault.path)
    # Of the first archive a part, and no dataset yet that could be seen.
    cut_short(["zfs", "receive", "-s", name], streams[0])
    assert "-" != modern.get("receive_resume_token", name)
    ran = standfast(*words, f"{history.full}@s1", name, "-i", vault.key)
    assert "gives up what was kept of a restore that was cut" in ran.err
    # The first archive is there, of the second a part.
    cut_short(["zfs", "receive", "-s", "-F", name], streams[1])
    ran = standfast(*words, f"{history.full}@s2", name, "-i", vault.key)
    assert f"{name} has {history.full}@s1 already" in ran.err
    assert history.trees["s2"] == modern.pool.tree(target)
    assert "-" == modern.get("receive_resume_token", name)


def test_a_part_of_another_stream_is_kept(
    standfast: Standfast, vault: Made, modern: Modern
) -> None:
    """A replication of somebody else's that was cut is not ours to give up."""
    history = plain(modern, "mine")
    history.step(1)
    sent(standfast, history.full, vault.path)
    other = plain(modern, "theirs")
    other.write("big", incompressible(2_000_000, 9))
    other.step(1)
    words = ["zfs", "send", f"{other.full}@s1"]
    stream = subprocess.run(words, check=True, capture_output=True).stdout
    name = modern.name(f"back-{os.urandom(3).hex()}")
    cut_short(["zfs", "receive", "-s", name], stream)
    token = modern.get("receive_resume_token", name)
    restoring = ("backup", "restore", vault.path, f"{history.full}@s1", name)
    for force in ((), ("--force",)):
        ran = standfast(*restoring, *force, "-i", vault.key, ok=2)
        assert "holds a part of another stream" in ran.err
    assert token == modern.get("receive_resume_token", name)
    modern.pool.zfs("receive", "-A", name)
    standfast(*restoring, "-i", vault.key)


def test_our_marks_hinder_nobody(
    standfast: Standfast, vault: Made, modern: Modern
) -> None:
    """With bookmarks a snapshot that was sent can be destroyed at once."""
    history = plain(modern, "free")
    history.step(1)
    modern.pool.zfs("hold", "somebody", f"{history.full}@s1")
    sent(standfast, history.full, vault.path)
    assert "busy" in zfs_fails("destroy", f"{history.full}@s1")
    modern.pool.zfs("release", "somebody", f"{history.full}@s1")
    modern.pool.zfs("destroy", f"{history.full}@s1")
    history.step(2)
    assert sent(standfast, history.full, vault.path)["from_guid"] is not None

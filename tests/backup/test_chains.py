"""Increments on a real pool: what is sent, from where, and the way back."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

import pytest
from chains import begin, has_bookmarks, our_marks, sent, zfs_fails
from conftest import (
    ForkServer,
    Made,
    Pool,
    Standfast,
    make_vault,
    need,
    wait_until,
)
from faults import signatures, with_zfs

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.system, pytest.mark.zfs_any]


@pytest.fixture
def standfast(standfast: Standfast, forks: ForkServer) -> Standfast:
    """The command, quicker: these tests run it hundreds of times."""
    return dataclasses.replace(standfast, forks=forks)


def test_each_night_the_newest(standfast: Standfast, vault: Made, pool: Pool) -> None:
    """No snapshot is named and no key is there; each send follows the one before."""
    history = begin(pool, "night")
    for number in (1, 2, 3, 4):
        history.step(number)
        document = sent(standfast, history.full, vault.path)
        assert history.guid(f"s{number}") == document["guid"]
        before = history.guid(f"s{number - 1}") if number > 1 else None
        assert before == document["from_guid"]
    verdict = standfast("backup", "verify", vault.path, "--level", "decrypt",
                        "--identity", vault.key).out  # fmt: skip
    assert "4 of 4 archives are whole" in verdict
    for number in (1, 2, 4):
        history.restored(vault, standfast, f"s{number}")


def test_nothing_to_send(standfast: Standfast, vault: Made, pool: Pool) -> None:
    """A snapshot that the vault has is not sent again, unless that is asked for."""
    history = begin(pool, "again")
    history.step(1)
    first = sent(standfast, history.full, vault.path)
    second = sent(standfast, history.full, vault.path)
    assert (first["archive"], False) == (second["archive"], second["sent"])
    assert 1 == len(vault.archives())
    named = standfast("backup", "send", f"{history.full}@s1", vault.path).out
    assert "nothing to send" in named
    third = sent(standfast, "--full", f"{history.full}@s1", vault.path)
    assert (True, None) == (third["sent"], third["from_guid"])
    history.restored(vault, standfast, "s1")


def test_dry_run_says_why(standfast: Standfast, vault: Made, pool: Pool) -> None:
    """The plan names the base, its archive and the command, and changes nothing."""
    history = begin(pool, "plan")
    history.step(1)
    first = sent(standfast, history.full, vault.path)
    history.step(2)
    before = our_marks(pool, history)
    plan = sent(standfast, "-n", history.full, vault.path)["plan"]
    assert (first["archive"], first["guid"]) == (plan["base"], plan["base_guid"])
    assert f"the vault has {history.full}@s1" in plan["why"]
    assert ["zfs", "send", "-i"] == plan["command"][:3]
    assert before == our_marks(pool, history)
    assert 1 == len(vault.archives())


def test_a_sender_set_up_anew(standfast: Standfast, vault: Made, pool: Pool) -> None:
    """The state folder is lost; the pool remembers, and the chain goes on."""
    history = begin(pool, "anew")
    history.step(1)
    sent(standfast, history.full, vault.path)
    history.step(2)
    second = sent(standfast, history.full, vault.path)
    history.step(3)
    fresh = standfast.elsewhere()
    third = sent(fresh, history.full, vault.path, "--recipient", vault.recipient)
    assert second["guid"] == third["from_guid"]
    history.step(4)
    assert third["guid"] == sent(fresh, history.full, vault.path)["from_guid"]
    key = fresh("backup", "send", "--stdin", "x", vault.path, stdin=b"x").err
    assert "" == key
    signers = ["--signer", vault.signer, "--signer", signer_of(fresh, vault)]
    target = f"{pool.name}/anew-{os.urandom(3).hex()}"
    words = ("restore", vault.path, f"{history.full}@s4", target)
    fresh("backup", *words, "--identity", vault.key, *signers)
    assert history.trees["s4"] == pool.tree(target.partition("/")[2])


def signer_of(standfast: Standfast, made: Made) -> str:
    kit = standfast("backup", "kit", made.path, "--json").json()
    return str(kit["signers"][0])


def test_two_vaults(standfast: Standfast, tmp_path: Path, pool: Pool) -> None:
    """Each vault has its own place to go on from; neither disturbs the other."""
    daily = make_vault(standfast, tmp_path / "daily", "--segment-size", "64k")
    weekly = make_vault(standfast, tmp_path / "weekly", "--segment-size", "64k")
    history = begin(pool, "two")
    history.step(1)
    for made in (daily, weekly):
        sent(standfast, history.full, made.path)
    for number in (2, 3):
        history.step(number)
        document = sent(standfast, history.full, daily.path)
        assert history.guid(f"s{number - 1}") == document["from_guid"]
    document = sent(standfast, history.full, weekly.path)
    assert history.guid("s1") == document["from_guid"]
    for made in (daily, weekly):
        history.restored(made, standfast, "s3")


def test_where_to_start_can_be_said(
    standfast: Standfast, vault: Made, pool: Pool
) -> None:
    """--from takes what the vault has, by its GUID, and nothing else."""
    history = begin(pool, "from")
    for number in (1, 2):
        history.step(number)
        sent(standfast, history.full, vault.path)
    history.step(3)
    history.step(4)
    document = sent(standfast, "--from", "@s1", history.full, vault.path)
    assert history.guid("s1") == document["from_guid"]
    history.restored(vault, standfast, "s4")
    for words, reason in (
        (("--from", "s3", f"{history.full}@s4"), "has no whole archive of"),
        (("--from", "@s9", history.full), "there is no"),
        (("--from", f"{history.full}@s2", f"{history.full}@s1"), "is not older than"),
        (("--full", "--from", "@s1", history.full), "starts from nothing"),
        ((f"{history.full}@s9",), "there is no snapshot"),
    ):
        ran = standfast("backup", "send", *words, vault.path, ok=2)
        assert reason in ran.err, ran


def test_a_name_given_again(standfast: Standfast, vault: Made, pool: Pool) -> None:
    """A snapshot of an old name with another GUID is not taken for the old one.

    psy0rz/zfs_autobackup#243, #261.
    """
    history = begin(pool, "name")
    history.step(1)
    sent(standfast, history.full, vault.path)
    history.step(2)
    sent(standfast, history.full, vault.path)
    pool.zfs("destroy", f"{history.full}@s1")
    history.write("other", b"other")
    history.snapshot("s1")
    document = sent(standfast, f"{history.full}@s1", vault.path)
    assert (True, history.guid("s2")) == (document["sent"], document["from_guid"])
    history.restored(vault, standfast, "s1")


def test_the_snapshot_may_go_once_it_was_sent(
    standfast: Standfast, vault: Made, pool: Pool
) -> None:
    """What is needed next is kept: by a bookmark, or by a hold on the newest."""
    history = begin(pool, "keep")
    for number in (1, 2):
        history.step(number)
        sent(standfast, history.full, vault.path)
    bookmarks, holds = our_marks(pool, history)
    pool.zfs("destroy", f"{history.full}@s1")
    if has_bookmarks(pool):
        assert (2, {}) == (len(bookmarks), holds)
        pool.zfs("destroy", f"{history.full}@s2")
    else:
        assert {f"{history.full}@s2": 1} == holds
        assert "busy" in zfs_fails("destroy", f"{history.full}@s2")
    history.step(3)
    document = sent(standfast, history.full, vault.path)
    assert document["from_guid"] is not None
    history.restored(vault, standfast, "s3")


def test_the_vault_has_lost_the_newest(
    standfast: Standfast, vault: Made, pool: Pool
) -> None:
    """Nothing is built on an archive that the vault does not have any more."""
    history = begin(pool, "lost")
    documents = []
    for number in (1, 2, 3):
        history.step(number)
        documents.append(sent(standfast, history.full, vault.path))
    history.step(4)
    shutil.rmtree(vault.path / "archives" / documents[2]["archive"])
    document = sent(standfast, history.full, vault.path)
    assert documents[1]["guid"] == document["from_guid"]
    history.restored(vault, standfast, "s4")
    history.step(5)
    signature = vault.path / "archives" / document["archive"] / "SHA256SUMS.minisig"
    signature.unlink()
    document = sent(standfast, history.full, vault.path)
    assert documents[1]["guid"] == document["from_guid"]


def test_the_vault_has_lost_what_the_newest_builds_on(
    standfast: Standfast, vault: Made, pool: Pool
) -> None:
    """A chain with a hole in it is no base; verify names the hole."""
    history = begin(pool, "hole")
    documents = []
    for number in (1, 2, 3):
        history.step(number)
        documents.append(sent(standfast, history.full, vault.path))
    shutil.rmtree(vault.path / "archives" / documents[1]["archive"])
    ran = standfast("backup", "verify", vault.path, ok=13)
    assert f"cannot be restored: archive {documents[1]['archive']}" in ran.out
    target = f"{pool.name}/hole-back"
    words = ("restore", vault.path, f"{history.full}@s3", target, "-i", vault.key)
    ran = standfast("backup", *words, ok=13)
    assert "no whole archive here leads to what it builds on" in ran.err
    zfs_fails("list", target)
    history.step(4)
    document = sent(standfast, history.full, vault.path)
    assert documents[0]["guid"] == document["from_guid"]
    history.restored(vault, standfast, "s4")


def test_all_between(standfast: Standfast, vault: Made, pool: Pool) -> None:
    """-I keeps every snapshot, and each of them can be restored by its name."""
    history = begin(pool, "all")
    for number in (1, 2, 3):
        history.step(number)
    document = sent(standfast, "-I", history.full, vault.path)
    assert 1 == len(document["before"])
    assert history.guid("s1") == document["from_guid"]
    for number in (4, 5, 6):
        history.step(number)
    document = sent(standfast, "--all-between", history.full, vault.path)
    assert ([], history.guid("s3")) == (document["before"], document["from_guid"])
    target = f"{pool.name}/all-{os.urandom(3).hex()}"
    words = ("restore", vault.path, f"{history.full}@s6", target, "-i", vault.key)
    standfast("backup", *words)
    text = pool.zfs("get", "-rHp", "-o", "name,value", "guid", target)
    there = dict(line.split("\t") for line in text.splitlines())
    for number in range(1, 7):
        assert history.guid(f"s{number}") == there[f"{target}@s{number}"]
    for number in (1, 2, 5, 6):
        history.restored(vault, standfast, f"s{number}")
    output = standfast.folder / "out"
    single = ("restore", vault.path, f"{history.full}@s5", "-o", output)
    ran = standfast("backup", *single, "-i", vault.key, ok=2)
    assert "is a part of" in ran.err


def test_our_marks_alone_are_listed_and_released(
    standfast: Standfast, vault: Made, tmp_path: Path, pool: Pool
) -> None:
    """A user's own holds stay; another vault's marks go only when it is named."""
    other = make_vault(standfast, tmp_path / "other", "--segment-size", "64k")
    history = begin(pool, "marks")
    history.step(1)
    pool.zfs("hold", "mine", f"{history.full}@s1")
    for made in (vault, other):
        sent(standfast, history.full, made.path)
    listed = standfast("backup", "marks", "list", history.full, "--json").json()
    assert {vault.id[:8], other.id[:8]} == {m["vault"][:8] for m in listed["marks"]}
    words = ("backup", "marks", "release", history.full)
    ran = standfast(*words, "--vault", vault.path, "-n", "--json").json()
    assert {vault.id[:8]} == {m["vault"][:8] for m in ran["marks"]}
    assert listed == standfast("backup", "marks", "list", history.full, "--json").json()
    standfast(*words, "--vault", vault.path)
    listed = standfast("backup", "marks", "list", history.full, "--json").json()
    assert {other.id[:8]} == {m["vault"][:8] for m in listed["marks"]}
    assert "which vault" in standfast(*words, ok=2).err
    standfast(*words, "--vault", other.id)
    listed = standfast("backup", "marks", "list", history.full, "--json").json()
    assert [] == listed["marks"]
    bookmarks, holds = our_marks(pool, history)
    assert ([], {f"{history.full}@s1": 1}) == (bookmarks, holds)
    pool.zfs("release", "mine", f"{history.full}@s1")
    history.step(2)
    # The ledger still knows what the vault has.
    document = sent(standfast, history.full, vault.path)
    assert history.guid("s1") == document["from_guid"]


def test_recovery_text_brings_a_chain_back(
    standfast: Standfast, vault: Made, pool: Pool
) -> None:
    """RECOVER.txt's own lines, run by sh as they stand, receive every increment."""
    need("age", "minisign", "zstd", "sha256sum")
    history = begin(pool, "stock")
    for number in (1, 2, 3):
        history.step(number)
        sent(standfast, history.full, vault.path)
    # Once more whole, and what leads to the other one is gone: this one is taken.
    sent(standfast, "--full", f"{history.full}@s2", vault.path)
    listed = standfast("backup", "list", vault.path, "--json").json()["archives"]
    first = next(a for a in listed if a["sequence"] == 1)
    shutil.rmtree(vault.path / "archives" / first["archive"])
    text = (vault.path / "RECOVER.txt").read_text()
    script = "\n".join(ln[4:] for ln in text.splitlines() if ln.startswith("    "))
    target = f"stock-{os.urandom(3).hex()}"
    stock = {
        "PATH": os.environ["PATH"],
        "HOME": str(standfast.folder),
        "VAULT": str(vault.path),
        "KEY": str(vault.key),
        "WANT": f"{history.full}@s3",
        "TARGET": f"{pool.name}/{target}",
    }
    subprocess.run(["sh", "-c", script], env=stock, check=True, timeout=120)
    assert history.trees["s3"] == pool.tree(target)


def test_a_restore_that_was_cut_goes_on(
    standfast: Standfast, vault: Made, pool: Pool
) -> None:
    """The archives that are there already, told by GUID, are not fetched again."""
    history = begin(pool, "goes-on")
    for number in (1, 2, 3):
        history.step(number)
        sent(standfast, history.full, vault.path)
    target = f"{pool.name}/cut-{os.urandom(3).hex()}"
    key = ("-i", vault.key, "--json")
    words = ("backup", "restore", vault.path)
    standfast(*words, f"{history.full}@s2", target, *key)
    document = standfast(*words, f"{history.full}@s3", target, *key).json()
    assert (2, 3) == (document["there_before"], len(document["archives"]))
    assert history.trees["s3"] == pool.tree(target.partition("/")[2])
    document = standfast(*words, f"{history.full}@s3", target, *key).json()
    assert (3, 0) == (document["there_before"], document["bytes"])
    pool.zfs("snapshot", f"{target}@mine")
    history.step(4)
    sent(standfast, history.full, vault.path)
    ran = standfast(*words, f"{history.full}@s4", target, *key, ok=2)
    assert "is not of these archives" in ran.out
    stranger = pool.dataset(f"stranger-{os.urandom(3).hex()}", {"a": b"a"})
    ran = standfast(*words, f"{history.full}@s4", stranger, *key, ok=2)
    assert "exists already" in ran.out


def test_a_restore_killed_between_two_archives(
    standfast: Standfast, vault: Made, pool: Pool
) -> None:
    """kill -9 while the second of three is received: the rest follows later."""
    history = begin(pool, "cut")
    for number in (1, 2, 3):
        history.step(number)
        sent(standfast, history.full, vault.path)
    target = f"{pool.name}/killed-{os.urandom(3).hex()}"
    words = ("backup", "restore", vault.path, f"{history.full}@s3", target)
    body = '[ "$2" = -F ] || exec "$REAL" "$@"; cat > /dev/null; exec sleep 20'
    process = with_zfs(standfast, "receive", body).start(*words, "-i", vault.key)
    wait_until(lambda: f"{target}@s1" in snapshots(pool), "the first archive", 60)
    time.sleep(0.2)
    process.kill()
    process.communicate()
    assert [f"{target}@s1"] == [n for n in snapshots(pool) if n.startswith(target)]
    document = standfast(*words, "-i", vault.key, "--json").json()
    assert 1 == document["there_before"]
    assert history.trees["s3"] == pool.tree(target.partition("/")[2])


def snapshots(pool: Pool) -> list[str]:
    words = ("list", "-H", "-o", "name", "-t", "snapshot", "-r", pool.name)
    return pool.zfs(*words).split("\n")


def test_what_was_sent_is_marked_not_what_was_meant(
    standfast: Standfast, vault: Made, pool: Pool
) -> None:
    """whoschek/bzfs#113: a zfs that sends another snapshot makes no archive."""
    history = begin(pool, "meant")
    history.step(1)
    sent(standfast, history.full, vault.path)
    history.step(2)
    history.step(3)
    other = f'exec "$REAL" send -i {history.full}@s1 {history.full}@s2'
    fake = with_zfs(standfast, "send", other)
    ran = fake("backup", "send", history.full, vault.path, ok=1)
    assert f"the stream is of guid {history.guid('s2')}" in ran.err
    wrong = f'exec "$REAL" send {history.full}@s3'
    fake = with_zfs(standfast, "send", wrong)
    ran = fake("backup", "send", history.full, vault.path, ok=1)
    assert "the stream is incremental from guid 0" in ran.err
    assert 1 == len(signatures(vault))
    document = sent(standfast, history.full, vault.path)
    assert history.guid("s1") == document["from_guid"]
    history.restored(vault, standfast, "s3")
    assert "unfinished" not in standfast("backup", "verify", vault.path).out

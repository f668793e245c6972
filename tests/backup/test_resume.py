"""A send that was interrupted goes on, and what is not the same is not joined."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import pytest
from chains import History, begin, our_marks, sent
from conftest import Made, Pool, Sshd, Standfast, incompressible, make_vault, wait_until
from faults import signatures, with_zfs

pytestmark = pytest.mark.system


def big(pool: Pool, label: str) -> History:
    """A dataset whose stream makes some forty segments of 64 KiB."""
    history = begin(pool, label)
    history.write("big", incompressible(2_500_000, 7))
    history.snapshot("s1")
    return history


def slow(standfast: Standfast, count: int) -> Standfast:
    """A zfs whose send gives so many bytes and then waits."""
    body = f'"$REAL" "$@" | (head -c {count}; exec sleep 20 < /dev/null)'
    return with_zfs(standfast, "send", body)


def notes_of(standfast: Standfast) -> Path:
    """Return what a machine has noted of its one send under way."""
    state = Path(standfast.env["XDG_STATE_HOME"])
    (notes,) = state.glob("standfast/vaults/*/sending/*")
    return notes


def killed(standfast: Standfast, made: Made, *words: object, count: int) -> str:
    """Kill a sender when it has stored what a slow zfs gave; return the archive."""
    before = set(made.path.glob("archives/*"))
    process = slow(standfast, count).start("backup", "send", *words, made.path)
    whole = count // 65536
    wait_until(
        lambda: (
            len(list(made.path.glob("archives/*/*.zst.age")))
            >= whole + sum(len(list(a.glob("*.zst.age"))) for a in before)
        ),
        f"{whole} segments",
        60,
    )
    process.send_signal(signal.SIGKILL)
    process.wait()
    for pipe in (process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()
    (archive,) = set(made.archives()) - before
    return archive.name


@pytest.mark.zfs_any
def test_a_killed_send_goes_on(standfast: Standfast, vault: Made, pool: Pool) -> None:
    """kill -9 at two thirds: the next run stores the last third only."""
    history = big(pool, "killed")
    archive = killed(standfast, vault, history.full, count=2_000_000)
    stored = {p.name: p.read_bytes() for p in vault.archives()[0].glob("*.zst.age")}
    plan = standfast("backup", "clean", vault.path, "-n").out
    assert f"keep archives/{archive}" in plan
    assert f"sending {history.full}@s1 again goes on with it" in plan
    ran = standfast("backup", "send", history.full, vault.path, "--json")
    document = ran.json()
    assert f"goes on with archive {archive}" in ran.err
    assert archive == document["archive"]
    assert document["reused_bytes"] > 0.6 * document["stored_bytes"]
    now = {p.name: p.read_bytes() for p in vault.archives()[0].glob("*.zst.age")}
    assert stored.items() <= now.items()
    standfast("backup", "verify", vault.path, "--level", "decrypt", "-i", vault.key)
    history.restored(vault, standfast, "s1")
    assert "all clean" in standfast("backup", "clean", vault.path).out


def test_the_interrupted_one_first_then_the_newest(
    standfast: Standfast, vault: Made, pool: Pool
) -> None:
    """A night later: what was begun is finished, and the next follows it."""
    history = big(pool, "night")
    archive = killed(standfast, vault, history.full, count=1_500_000)
    history.step(2)
    document = sent(standfast, history.full, vault.path)
    (before,) = document["before"]
    assert (archive, history.guid("s1")) == (before["archive"], before["guid"])
    assert history.guid("s1") == document["from_guid"]
    history.restored(vault, standfast, "s2")


@pytest.mark.zfs_any
def test_an_increment_goes_on(standfast: Standfast, vault: Made, pool: Pool) -> None:
    """An interrupted increment goes on, too, and its base stays kept meanwhile."""
    history = begin(pool, "increment")
    history.step(1)
    sent(standfast, history.full, vault.path)
    history.write("big", incompressible(2_000_000, 8))
    history.snapshot("s2")
    archive = killed(standfast, vault, history.full, count=1_500_000)
    bookmarks, holds = our_marks(pool, history)
    assert len(bookmarks) == 2 or {f"{history.full}@s1", f"{history.full}@s2"} == set(
        holds
    )
    document = sent(standfast, history.full, vault.path)
    assert (archive, history.guid("s1")) == (document["archive"], document["from_guid"])
    assert document["reused_bytes"] > 0
    history.restored(vault, standfast, "s2")
    bookmarks, holds = our_marks(pool, history)
    assert len(bookmarks) == 2 or {f"{history.full}@s2"} == set(holds)


def test_another_recipe_begins_anew(
    standfast: Standfast, vault: Made, pool: Pool
) -> None:
    """Other flags or another level: nothing is gone on with."""
    history = big(pool, "recipe")
    archive = killed(standfast, vault, history.full, count=1_000_000)
    words = ("--send-flag=-p", history.full, vault.path)
    document = sent(standfast, *words)
    assert (True, 0) == (archive != document["archive"], document["reused_bytes"])
    # The snapshot is there now: what is left is no use any more.
    assert f"remove archives/{archive}" in standfast("backup", "clean", vault.path).out
    history.restored(vault, standfast, "s1")
    history.step(2)
    killed(standfast, vault, "--full", history.full, count=500_000)
    level = ("--full", "--compression-level", "5")
    assert 0 == sent(standfast, *level, history.full, vault.path)["reused_bytes"]


def test_bytes_that_changed_are_not_joined(
    standfast: Standfast, vault: Made, pool: Pool
) -> None:
    """openzfs/zfs#13778: the same snapshot gives other bytes; they replace the old.

    What was stored of the first run is made to differ by changing what it was
    noted to be.
    """
    history = big(pool, "differ")
    archive = killed(standfast, vault, history.full, count=2_000_000)
    (notes,) = Path(standfast.env["XDG_STATE_HOME"]).glob(
        "standfast/vaults/*/sending/*"
    )
    lines = notes.read_text().splitlines()
    head, rest = lines[0], [json.loads(line) for line in lines[1:]]
    for line in rest:
        if line["index"] in {3, 11}:
            line["segment"]["fingerprint"] = "0" * 32
    notes.write_text("\n".join([head, *map(json.dumps, rest)]) + "\n")
    before = {p.name: p.read_bytes() for p in vault.archives()[0].glob("*.zst.age")}
    document = sent(standfast, history.full, vault.path)
    assert archive == document["archive"]
    after = {p.name: p.read_bytes() for p in vault.archives()[0].glob("*.zst.age")}
    changed = {name for name, data in before.items() if after[name] != data}
    assert {"00000003.zst.age", "00000011.zst.age"} == changed
    standfast("backup", "verify", vault.path, "--level", "decrypt", "-i", vault.key)
    history.restored(vault, standfast, "s1")


@pytest.mark.parametrize("fault", ["cut", "flipped", "gone", "planted", "notes cut"])
def test_what_a_power_cut_spoilt_is_sent_again(
    standfast: Standfast, vault: Made, pool: Pool, fault: str
) -> None:
    """Each object is proven where it lies before it counts as stored."""
    history = big(pool, "spoilt")
    killed(standfast, vault, history.full, count=1_500_000)
    (folder,) = vault.archives()
    victim = folder / "00000005.zst.age"
    data = bytearray(victim.read_bytes())
    match fault:
        case "cut":
            victim.write_bytes(data[: len(data) // 2])
        case "flipped":
            data[len(data) // 2] ^= 1
            victim.write_bytes(data)
        case "gone":
            victim.unlink()
        case "planted":
            (folder / "00000099.zst.age").write_bytes(data)
            (folder / "manifest.json.age").write_bytes(b"not yet")
        case _:
            notes = notes_of(standfast)
            notes.write_bytes(notes.read_bytes()[:-30])
    document = sent(standfast, history.full, vault.path)
    assert document["reused_bytes"] > 0
    verdict = standfast("backup", "verify", vault.path).out
    assert "1 of 1 archives are whole" in verdict
    history.restored(vault, standfast, "s1")


def test_what_cannot_be_removed_is_left(
    standfast: Standfast, vault: Made, pool: Pool
) -> None:
    """Where the vault lets nothing be removed, a new archive is begun."""
    history = big(pool, "append")
    archive = killed(standfast, vault, history.full, count=1_000_000)
    (folder,) = vault.archives()
    (folder / "00000000.zst.age").unlink()
    (folder / "00000000.zst.age").mkdir()
    (folder / "00000000.zst.age" / "x").write_bytes(b"x")
    ran = standfast("backup", "send", history.full, vault.path, "--json", ok=None)
    assert 0 == ran.code, ran
    if ran.json()["archive"] != archive:
        assert "begins anew" in ran.err
    assert 1 == len(signatures(vault))


def test_standard_input_is_not_gone_on_with(standfast: Standfast, vault: Made) -> None:
    """Bytes that come once leave nothing to go on with, and no notes of them."""
    process = standfast.start("backup", "send", "--stdin", "x", vault.path, stdin=-1)
    assert process.stdin is not None
    process.stdin.write(incompressible(300_000))
    process.stdin.flush()
    wait_until(lambda: list(vault.path.glob("archives/*/0*")), "a segment")
    process.kill()
    process.communicate()
    assert "remove archives/" in standfast("backup", "clean", vault.path).out


def test_two_senders_at_once(standfast: Standfast, vault: Made, pool: Pool) -> None:
    """What a living sender is at is not taken from it."""
    history = big(pool, "both")
    process = slow(standfast, 1_000_000).start(
        "backup", "send", history.full, vault.path
    )
    wait_until(lambda: list(vault.path.glob("archives/*/00000009*")), "segments", 60)
    document = sent(standfast, history.full, vault.path)
    assert 0 == document["reused_bytes"]
    assert 2 == len(vault.archives())
    process.kill()
    process.communicate()
    history.restored(vault, standfast, "s1")


def test_notes_are_private(standfast: Standfast, vault: Made, pool: Pool) -> None:
    """The fingerprint key lies in the state folder, for its owner alone."""
    history = big(pool, "private")
    killed(standfast, vault, history.full, count=500_000)
    (notes,) = Path(standfast.env["XDG_STATE_HOME"]).glob(
        "standfast/vaults/*/sending/*"
    )
    assert 0 == notes.stat().st_mode & 0o077
    head = json.loads(notes.read_text().splitlines()[0])
    assert re.fullmatch("[0-9a-f]{64}", head["key"])
    for path in vault.path.rglob("*"):
        assert not path.is_file() or head["key"].encode() not in path.read_bytes()


def test_through_a_new_vault(standfast: Standfast, tmp_path: Path, pool: Pool) -> None:
    """What is left in one vault is nothing to another."""
    one = make_vault(standfast, tmp_path / "one", "--segment-size", "64k")
    two = make_vault(standfast, tmp_path / "other", "--segment-size", "64k")
    history = big(pool, "vaults")
    killed(standfast, one, history.full, count=1_000_000)
    assert 0 == sent(standfast, history.full, two.path)["reused_bytes"]
    assert sent(standfast, history.full, one.path)["reused_bytes"] > 0


def test_through_ssh(standfast: Standfast, plain_sshd: Sshd, pool: Pool) -> None:
    """Increments, nothing to send, and the way back, through a real sshd."""
    client = plain_sshd.client(standfast)
    address = plain_sshd.address(f"chain-{os.urandom(3).hex()}")
    local = standfast.folder / "far"
    made = make_vault(client, local, "--segment-size", "64k", address=address)
    history = begin(pool, "ssh")
    history.step(1)
    sent(client, history.full, address)
    history.step(2)
    document = sent(client, history.full, address)
    assert history.guid("s1") == document["from_guid"]
    assert not sent(client, history.full, address)["sent"]
    history.restored(made, client, "s2")

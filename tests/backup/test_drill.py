"""Proof by restore: chains into a scratch dataset that is always taken away."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from chains import History, begin, destroy, sent
from conftest import Made, Pool, Standfast, incompressible, wait_until

from standfast.zfs.contents import KEY_BYTES, ContentDigest
from standfast.zfs.records import StreamCheck

if TYPE_CHECKING:
    from pathlib import Path


def drilled(standfast: Standfast, made: Made, *options: object, ok: int = 0) -> Any:
    words = ("backup", "drill", made.address, "-i", made.key, "--json")
    return standfast(*words, *options, ok=ok).json()


def scratches(pool: Pool) -> list[str]:
    names = pool.zfs("list", "-H", "-o", "name", "-r", pool.name).splitlines()
    return [name for name in names if "standfast-drill-" in name]


def proven(standfast: Standfast, made: Made) -> dict[str, dict[str, int]]:
    """Return what the state folder remembers of each archive."""
    folder = standfast.folder / "state" / "standfast" / "vaults" / made.id
    path = folder / "proven.json"
    if not path.exists():
        return {}
    archives: dict[str, dict[str, int]] = json.loads(path.read_text())["archives"]
    return archives


def spoil(made: Made, archive: str) -> None:
    """Flip a bit in an archive's first segment."""
    victim = made.path / "archives" / archive / "00000000.zst.age"
    raw = bytearray(victim.read_bytes())
    raw[len(raw) // 2] ^= 1
    victim.chmod(0o600)
    victim.write_bytes(raw)


@pytest.fixture
def chain(standfast: Standfast, vault: Made, pool: Pool) -> History:
    """Three archives of a dataset, each on the one before."""
    history = begin(pool, "drill")
    for number in (1, 2, 3):
        history.step(number)
        sent(standfast, history.full, vault.path)
    return history


@pytest.mark.system
@pytest.mark.zfs_any
def test_a_chain_is_received_and_compared(
    standfast: Standfast, vault: Made, pool: Pool, chain: History
) -> None:
    """The newest point comes back through its chain and is what the source has."""
    plan = drilled(standfast, vault, "--dry-run")
    assert (pool.name, [chain.full]) == (
        plan["below"],
        [one["dataset"] for one in plan["plan"]],
    )
    assert {} == proven(standfast, vault)
    document = drilled(standfast, vault)
    (one,) = document["drills"]
    assert ("received", "same", 3) == (
        one["how"],
        one["compared"],
        len(one["archives"]),
    )
    assert chain.guid("s3") == one["guid"]
    assert (True, []) == (document["ok"], document["left"])
    known = proven(standfast, vault)
    assert set(one["archives"]) == {a for a, kinds in known.items() if kinds["restore"]}
    assert [] == scratches(pool)
    again = drilled(standfast, vault)["drills"][0]
    assert known[one["archives"][-1]]["restore"] == again["last_proven"]
    text = standfast("backup", "drill", vault.path, "-i", vault.key).out
    assert "from 3 archives" in text
    assert "is what the source has" in text
    assert "1 of 1 proven restorable" in text


@pytest.mark.system
@pytest.mark.zfs_any
def test_the_source_has_gone(standfast: Standfast, vault: Made, chain: History) -> None:
    """Without the source nothing can be compared; the chain comes back all the same."""
    release = ("backup", "marks", "release", chain.full, "--vault", vault.path)
    standfast(*release)
    destroy(chain.full)
    one = drilled(standfast, vault)["drills"][0]
    assert ("received", "gone") == (one["how"], one["compared"])
    one = drilled(standfast, vault, "--no-compare")["drills"][0]
    assert ("received", "not compared") == (one["how"], one["compared"])


@pytest.mark.system
def test_without_a_zfs(
    standfast: Standfast, vault: Made, chain: History, tmp_path: Path
) -> None:
    """A machine with no pool reads the chain through every other check."""
    empty = tmp_path / "no-zfs"
    empty.mkdir()
    bare = Standfast(standfast.folder, standfast.env | {"PATH": str(empty)})
    for options in ((), ("--read",)):
        document = drilled(bare, vault, *options)
        (one,) = document["drills"]
        assert ("read", "not compared") == (one["how"], one["compared"])
        assert chain.guid("s3") == one["guid"]
    assert all(kinds["restore"] for kinds in proven(standfast, vault).values())


@pytest.mark.system
def test_damage_anywhere_in_the_chain(
    standfast: Standfast, vault: Made, pool: Pool, chain: History
) -> None:
    """A flipped bit in the oldest archive means that the newest cannot be restored."""
    other = begin(pool, "sound")
    other.step(1)
    sent(standfast, other.full, vault.path)
    oldest = drilled(standfast, vault, "-n", "--dataset", chain.full)
    spoil(vault, oldest["plan"][0]["archives"][0])
    document = drilled(standfast, vault, ok=13)
    by_name = {one["dataset"]: one for one in document["drills"]}
    assert "altered" in by_name[chain.full]["error"]
    assert by_name[chain.full]["how"] is None
    assert "same" == by_name[other.full]["compared"]
    assert [] == scratches(pool)
    known = proven(standfast, vault)
    assert "restore" in known[by_name[other.full]["archives"][0]]
    newest = by_name[chain.full]["archives"][-1]
    assert {"damaged"} == known[newest].keys()


@pytest.mark.system
def test_the_longest_unproven_first(
    standfast: Standfast, vault: Made, pool: Pool
) -> None:
    """--sample goes round; --budget ends early, and says what is left."""
    names = []
    for label in ("a", "b", "c"):
        history = begin(pool, f"round-{label}")
        history.step(1)
        sent(standfast, history.full, vault.path)
        names.append(history.full)
    standfast("backup", "send", "--stdin", "words", vault.path, stdin=b"words" * 999)
    seen = []
    for _ in range(4):
        document = drilled(standfast, vault, "--sample", "1", "--read")
        seen += [one["dataset"] for one in document["drills"]]
        assert 3 == len(document["left"])
    assert sorted([*names, "words"]) == sorted(seen)
    document = drilled(standfast, vault, "--budget", "0s", "--read")
    assert (1, 3) == (len(document["drills"]), len(document["left"]))
    assert seen[0] == document["drills"][0]["dataset"]
    ran = standfast(
        *("backup", "drill", vault.path, "-i", vault.key, "--dataset", "tank/none"),
        ok=2,
    )
    assert "no whole archive of tank/none" in ran.err


@pytest.mark.system
def test_what_a_killed_drill_left_goes(
    standfast: Standfast, vault: Made, pool: Pool
) -> None:
    """SIGTERM leaves no scratch dataset; SIGKILL one, which the next drill removes."""
    history = begin(pool, "killed")
    history.write("large", incompressible(40_000_000, 4))
    history.step(1)
    sent(standfast, history.full, vault.path)
    words = ("backup", "drill", vault.path, "-i", vault.key, "--no-compare")
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = standfast.start(*words)
        wait_until(lambda: scratches(pool), "the scratch dataset")
        rival = standfast(*words, ok=11)
        assert "another drill" in rival.err
        process.send_signal(number)
        process.communicate()
        assert process.returncode in {130, -signal.SIGKILL, 0}
        if number == signal.SIGTERM:
            assert [] == scratches(pool)
    mine = f"{pool.name}/standfast-drill-mine"
    pool.zfs("create", mine)
    assert "received" == drilled(standfast, vault)["drills"][0]["how"]
    assert [mine] == scratches(pool)
    destroy(mine)


@pytest.mark.system
def test_a_full_pool_is_not_made_fuller(
    standfast: Standfast, vault: Made, pool: Pool
) -> None:
    """What might not fit is not begun; the rest of the pool stays usable."""
    before = scratches(pool)
    history = begin(pool, "room")
    history.write("large", incompressible(8_000_000, 6))
    history.step(1)
    sent(standfast, history.full, vault.path)
    small = f"{pool.name}/small"
    pool.zfs("create", "-o", "quota=70M", small)
    document = drilled(standfast, vault, "--scratch", small, ok=1)
    assert "there is no room" in document["drills"][0]["error"]
    pool.zfs("set", "quota=none", small)
    document = drilled(standfast, vault, "--scratch", small)
    assert "same" == document["drills"][0]["compared"]
    assert before == scratches(pool)


def digest(stream: bytes, key: bytes, step: int = 1 << 20) -> int:
    contents = ContentDigest(key)
    check = StreamCheck(contents)
    for start in range(0, len(stream), step):
        check.feed(stream[start : start + step])
    check.finish()
    return contents.finish()


def stream_of(name: str) -> bytes:
    return subprocess.run(["zfs", "send", name], check=True, capture_output=True).stdout


@pytest.mark.system
@pytest.mark.zfs_any
def test_contents_and_not_their_sending(pool: Pool) -> None:
    """The digest is that of the contents: pieces and pools do not matter, bytes do."""
    history = begin(pool, "digest")
    history.write("zeros", bytes(300_000))
    history.step(1)
    key = os.urandom(KEY_BYTES)
    stream = stream_of(f"{history.full}@s1")
    want = digest(stream, key)
    for step in (313, 4096, 100_003):
        assert want == digest(stream, key, step)
    assert want != digest(stream, os.urandom(KEY_BYTES))
    copy = f"{history.full}-copy"
    argv = ["zfs", "receive", "-u", copy]
    subprocess.run(argv, input=stream, check=True, capture_output=True)
    back = stream_of(f"{copy}@s1")
    assert back != stream
    assert want == digest(back, key)
    # The same files, one byte of one of them another: same sizes, another content.
    place = history.mount / "steady"
    data = bytearray(place.read_bytes())
    data[70_000] ^= 1
    place.write_bytes(data)
    history.snapshot("s2")
    assert want != digest(stream_of(f"{history.full}@s2"), key)

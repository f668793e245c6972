"""Connections that drop, once and for good, in every stage of the work."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from conftest import Sshd, Standfast, incompressible, wait_until
from faults import FarVault, error_line, far_vault, parts, signatures

if TYPE_CHECKING:
    from collections.abc import Iterator

    from conftest import Ran

pytestmark = pytest.mark.system

# More than the sockets and ssh's own window hold, so that a cut is in mid-segment.
DATA = incompressible(1_000_000)
# What --retry-for allows, and what ssh and two interpreters take besides.
PATIENCE = "1s"
LONGEST = 1 + 4


@pytest.fixture
def far(standfast: Standfast, plain_sshd: Sshd) -> Iterator[FarVault]:
    with far_vault(standfast, plain_sshd, "256k") as far:
        yield far


def send(far: FarVault, *options: object, ok: int = 0) -> Ran:
    words = ("backup", "send", "--stdin", "x", far.made.address, *options)
    return far.client(*words, stdin=DATA, ok=ok)


def assert_gives_up(far: FarVault, *words: object) -> None:
    """The command fails, in time, with the cause in its one line."""
    start = time.monotonic()
    ran = far.client("backup", *words, "--retry-for", PATIENCE, stdin=DATA, ok=1)
    assert time.monotonic() - start < LONGEST
    assert "; try 2" in ran.err
    assert "Connection refused" in error_line(ran)


@pytest.mark.parametrize("after", [2_000, 600_000])
def test_send_dropped_once(far: FarVault, after: int) -> None:
    """A connection that drops in mid-segment is made again, and the send commits."""
    far.link.cut_after(after)
    told = send(far).err
    assert 1 == far.link.cuts
    assert after < 10_000 or "; try 2" in told
    assert 1 == len(signatures(far.made))
    far.client("backup", "verify", far.made.address)
    assert [] == parts(far.made.path)


def test_send_dropped_at_the_commit(far: FarVault) -> None:
    """So does one that drops while manifest, sums and signature go out."""
    start = far.link.total
    send(far)
    whole = far.link.total - start
    for place, back in enumerate((8_000, 2_500), 2):
        far.link.cut_after(whole - back)
        send(far)
        assert place == len(signatures(far.made))
    listed = far.client("backup", "list", far.made.address, "--json").json()
    assert {"committed"} == {a["state"] for a in listed["archives"]}
    assert list(range(1, 4)) == sorted(a["sequence"] for a in listed["archives"])
    far.client("backup", "verify", far.made.address)


def test_answer_lost(far: FarVault) -> None:
    """What was stored, though the connection took the answer with it, counts."""
    source = far.client.folder / "source"
    source.write_bytes(DATA)
    far.link.mute_after(500_000)
    words = ("backup", "send", "--stdin", "x", far.made.address)
    with source.open("rb") as file, far.client.start(*words, stdin=file) as process:
        wait_until(lambda: list(far.made.path.rglob("0*.zst.age")), "an object")
        far.link.cut()
        assert 0 == process.wait(timeout=30)
        assert process.stderr is not None
        assert b"; try 2" in process.stderr.read()
    far.client("backup", "verify", far.made.address)


def test_send_dropped_for_good(far: FarVault, standfast: Standfast) -> None:
    """The send gives up within its patience, says why, and commits nothing."""
    far.link.cut_after(500_000, then="refuse")
    assert_gives_up(far, "send", "--stdin", "x", far.made.address)
    assert [] == signatures(far.made)
    # At the far end itself, which the link does not part from the vault.
    listed = standfast("backup", "list", far.made.path, "--json").json()
    assert ["unfinished"] == [a["state"] for a in listed["archives"]]
    standfast("backup", "verify", far.made.path)
    standfast("backup", "clean", far.made.path)
    assert [] == far.made.archives()


@pytest.mark.parametrize("part", [0.6, 0.8, 0.95])
def test_verify_dropped_once(far: FarVault, part: float) -> None:
    """Verification goes on with what is left, and finds what it would have found."""
    send(far)
    start = far.link.total
    good = far.client("backup", "verify", far.made.address).out
    far.link.cut_after(int((far.link.total - start) * part))
    assert good == far.client("backup", "verify", far.made.address).out
    assert 1 == far.link.cuts


def test_verify_dropped_for_good(far: FarVault) -> None:
    """What could not be verified is no success."""
    send(far)
    start = far.link.total
    far.client("backup", "verify", far.made.address)
    far.link.cut_after(int((far.link.total - start) * 0.85), then="refuse")
    assert_gives_up(far, "verify", far.made.address)


def test_restore_dropped_once(far: FarVault, standfast: Standfast) -> None:
    """A restored file is the same, whether or not the connection held."""
    send(far)
    out = standfast.folder / "out"
    far.link.cut_after(600_000)
    words = ("restore", far.made.address, "x", "-o", out, "-i", far.made.key)
    told = far.client("backup", *words).err
    assert 1 == far.link.cuts
    assert "; try 2" in told
    assert DATA == out.read_bytes()


def test_restore_dropped_for_good(far: FarVault) -> None:
    """No file is left by half a restore."""
    folder = far.client.folder
    send(far)
    before = sorted(folder.iterdir())
    far.link.cut_after(600_000, then="refuse")
    words = ("restore", far.made.address, "x", "-o", folder / "out")
    assert_gives_up(far, *words, "-i", far.made.key)
    assert before == sorted(folder.iterdir())

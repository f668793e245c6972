"""A vault that the first release made is verified, restored and built upon."""

from __future__ import annotations

import hashlib
import shutil
from typing import TYPE_CHECKING

import pytest
from chains import destroy
from conftest import ROOT, Pool, Standfast

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.system, pytest.mark.zfs_any]

# Made by release 0.1.0 on zfs-fuse 0.7.0: `send bakAx/a@first` and `send --stdin
# old.txt`. The keys are of no use to anybody.
MADE = ROOT / "tests" / "captures" / "vault-0.1.0"
FILES = {
    "hello": "a948904f2f0f479b8f8197694b30184b0d2ed1c1cd2a1ec0fb85d299a192a447",
    "random": "35cb1796235e1ec2fd88c1febbfe752e24409527ba19ef4cf3bc66f8b68eda33",
}


@pytest.fixture
def old(standfast: Standfast, tmp_path: Path) -> Path:
    """The old vault and the state folder of the machine that made it."""
    place = tmp_path / "old"
    shutil.copytree(MADE / "vault", place)
    shutil.copytree(MADE / "state", standfast.env["XDG_STATE_HOME"])
    shutil.copy(MADE / "owner.key", tmp_path / "owner.key")
    (tmp_path / "owner.key").chmod(0o600)
    return place


def test_it_verifies(standfast: Standfast, old: Path) -> None:
    """Its statements say nothing of bases and lines, and are as good as ever."""
    words = ("--level", "decrypt", "-i", old.with_name("owner.key"))
    verdict = standfast("backup", "verify", old, *words).out
    assert "2 of 2 archives are whole" in verdict
    signer = standfast("backup", "kit", old, "--json").json()["signers"][0]
    stranger = standfast.elsewhere()
    verdict = stranger("backup", "verify", old, "--signer", signer).out
    assert "2 of 2 archives are whole" in verdict


def test_it_restores(standfast: Standfast, old: Path, pool: Pool) -> None:
    """Every file of the old snapshot comes back, and the bytes that were piped in."""
    key = ("-i", old.with_name("owner.key"))
    target = f"{pool.name}/from-first-release"
    standfast("backup", "restore", old, "bakAx/a@first", target, *key)
    found = {
        name: hashlib.sha256(data).hexdigest()
        for name, data in pool.tree("from-first-release").items()
    }
    assert FILES.items() <= found.items()
    out = standfast.folder / "out"
    standfast("backup", "restore", old, "old.txt", "-o", out, *key)
    assert b"old bytes\n" == out.read_bytes()
    destroy(target)


def test_it_goes_on(standfast: Standfast, old: Path, pool: Pool) -> None:
    """A new release sends on into it; the first archive of a dataset is a full one."""
    key = ("-i", old.with_name("owner.key"))
    target = f"{pool.name}/goes-on-old"
    standfast("backup", "restore", old, "bakAx/a@first", target, *key)
    first = standfast("backup", "send", target, old, "--json").json()
    assert (3, None) == (first["sequence"], first["from_guid"])
    pool.zfs("snapshot", f"{target}@second")
    second = standfast("backup", "send", target, old, "--json").json()
    assert first["guid"] == second["from_guid"]
    assert "4 of 4 archives are whole" in standfast("backup", "verify", old).out


def test_it_is_pruned_by_name(standfast: Standfast, old: Path) -> None:
    """What says of itself neither dataset nor time goes only when a key tells."""
    rules = ("--keep-daily", "1", "--min-age", "0")
    key = ("-i", old.with_name("owner.key"))
    found = standfast("backup", "prune", old, *rules, "--json").json()
    assert [] == found["removed"]
    reasons = {tuple(archive["reasons"]) for archive in found["archives"]}
    assert {("cannot tell which dataset it is of",)} == reasons
    for _ in range(2):
        standfast("backup", "send", "--stdin", "old.txt", old, stdin=b"newer")
    words = (*rules, "--trust-times", *key, "--json")
    found = standfast("backup", "prune", old, *words).json()
    kept = {a["name"] for a in found["archives"] if a["keep"]}
    assert {"bakAx/a@first", "old.txt"} == kept
    standfast("backup", "verify", old)


def test_its_owner_changes(standfast: Standfast, old: Path) -> None:
    """Its own files are written anew; what was sent to the old identity opens."""
    key = old.with_name("new.key")
    words = ("-i", old.with_name("owner.key"), "--new-identity", key, "--rotate")
    standfast("backup", "rewrap", old, *words)
    standfast("backup", "send", "--stdin", "new.txt", old, stdin=b"new bytes")
    verdict = standfast("backup", "verify", old, "--level", "decrypt", "-i", key).out
    assert "3 of 3 archives are whole" in verdict

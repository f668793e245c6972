"""Audits: nonces nobody has seen, spent once, and what they can miss."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from conftest import (
    Made,
    Standfast,
    incompressible,
    make_vault,
    open_folder,
    start_sshd,
)
from hypothesis import given
from hypothesis import strategies as st
from vaults import make_owned

from standfast.backup.audit import (
    MOST_OF_AN_ARCHIVE,
    ONE_OF,
    SMALL_BYTES,
    Journal,
    Sampler,
    audit,
)
from standfast.backup.audit_plan import (
    Challenge,
    choose,
    miss_probability,
    parse_loss,
    probability_text,
)
from standfast.backup.state import VaultState
from standfast.clock import SystemClock
from standfast.errors import DamagedError, StandfastError, StoreError, UsageError
from standfast.testing.store import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from conftest import Sshd

LARGE = bytes(SMALL_BYTES + 1)
DATA = incompressible(400_000)


def made(archives: Sequence[int]) -> list[Challenge]:
    """Challenges of archives with so many objects each."""
    return [
        Challenge(f"{a:032x}", f"{i:08}.zst.age", f"{a:016x}{i:016x}", "0" * 64)
        for a, count in enumerate(archives)
        for i in range(count)
    ]


@given(st.lists(st.integers(0, 6), max_size=8), st.integers(1, 30), st.integers(0, 999))
def test_choice(archives: list[int], count: int, seed: int) -> None:
    """As many as asked for, none twice, and no archive twice before all once."""
    able = made(archives)
    chosen = choose(able, count, random.Random(seed))
    assert min(count, len(able)) == len(chosen) == len(set(chosen))
    assert set(chosen) <= set(able)
    turns = Counter(challenge.archive for challenge in chosen)
    for a, there in enumerate(archives):
        most = max(turns.values(), default=0)
        assert turns[f"{a:032x}"] >= min(there, most - 1)


@pytest.mark.parametrize(("loss", "asked"), [(0.05, 16), (0.01, 64), (0.3, 4)])
def test_the_arithmetic_by_simulation(loss: float, asked: int) -> None:
    """A host that loses objects at random is missed as often as it says."""
    chance = random.Random(20261124)
    challenges = made([8] * 50)
    tries = 4_000
    missed = 0
    for _ in range(tries):
        lost = {c.nonce for c in challenges if chance.random() < loss}
        asked_for = choose(challenges, asked, chance)
        missed += not any(c.nonce in lost for c in asked_for)
    expected = miss_probability(loss, asked)
    # Four standard deviations of a binomial count.
    slack = 4 * (expected * (1 - expected) / tries) ** 0.5
    assert abs(missed / tries - expected) <= slack


def test_archives_that_are_gone_by_simulation() -> None:
    """Of whole archives that are dropped, a spread audit misses no more than that."""
    chance = random.Random(5)
    challenges = made([8] * 100)
    tries = 4_000
    missed = 0
    for _ in range(tries):
        lost = {f"{a:032x}" for a in chance.sample(range(100), 10)}
        asked_for = choose(challenges, 16, chance)
        missed += not any(c.archive in lost for c in asked_for)
    assert missed / tries <= miss_probability(0.1, 16)


def test_one_of_ten_by_simulation() -> None:
    """Each large object is as likely as any other, the one that comes alone too."""
    for objects in (1, 9, 25):
        seen: Counter[str] = Counter()
        tries = 3_000
        for seed in range(tries):
            sampler = Sampler("a" * 32, random.Random(seed))
            for index in range(objects):
                sampler.see(str(index), LARGE)
            seen.update(c.object for c in sampler.challenges())
        for index in range(objects):
            share = seen[str(index)] / tries
            assert abs(share - 1 / ONE_OF) < 4 * (0.09 / tries) ** 0.5


def test_a_long_archive_by_simulation() -> None:
    """There are never more than eight, and each object is as likely as any other."""
    seen: Counter[int] = Counter()
    tries = 3_000
    for seed in range(tries):
        sampler = Sampler("a" * 32, random.Random(seed))
        for index in range(40):
            sampler.see(str(index), b"small")
        found = sampler.challenges()
        assert MOST_OF_AN_ARCHIVE == len(found)
        seen.update(int(c.object) for c in found)
    share = MOST_OF_AN_ARCHIVE / 40
    for index in range(40):
        assert abs(seen[index] / tries - share) < 4.5 * (share / tries) ** 0.5


def test_what_is_kept_of_a_night() -> None:
    """A few hundred bytes, and the hash is of nonce and object together."""
    sampler = Sampler("a" * 32, random.Random(1))
    for index in range(30):
        sampler.see(f"{index:08}.zst.age", LARGE)
    sampler.see("manifest.json.age", b"manifest")
    found = sampler.challenges()
    assert 4 == len(found)
    assert sum(len(json.dumps(vars(c))) + 1 for c in found) < 1_000
    assert 4 == len({c.nonce for c in found})
    expected = hashlib.sha256(found[-1].nonce.encode() + b"manifest").hexdigest()
    assert ("manifest.json.age", expected) == (found[-1].object, found[-1].sha256)


def journal(folder: Path) -> Journal:
    return Journal(VaultState(folder, "b" * 32, SystemClock()))


def test_spent_once(tmp_path: Path) -> None:
    """What was chosen is never chosen again, by whoever looks."""
    challenges = made([3, 3])
    journal(tmp_path).add(challenges)
    names = {c.archive for c in challenges}
    told: list[str] = []
    for _ in range(4):
        chosen, left = journal(tmp_path).spend(names, 2, random.Random(1))
        told += [c.nonce for c in chosen]
        assert 6 - len(told) == len(left)
    assert 6 == len(told) == len(set(told))
    assert [] == journal(tmp_path).unspent()
    path = next(tmp_path.rglob("challenges.jsonl"))
    assert 0o600 == path.stat().st_mode & 0o777


def test_a_cut_journal(tmp_path: Path) -> None:
    """Cut anywhere in its last line, the journal loses that line and no more."""
    challenges = made([4])
    journal(tmp_path).add(challenges)
    path = next(tmp_path.rglob("challenges.jsonl"))
    whole = path.read_bytes()
    start = whole.rindex(b"\n", 0, -1) + 1
    for cut in range(start, len(whole)):
        path.write_bytes(whole[:cut])
        assert challenges[:3] == journal(tmp_path).unspent()
    journal(tmp_path).add(challenges[3:])
    assert whole == path.read_bytes()
    path.write_bytes(whole.replace(b"}\n{", b"\n{", 1))
    with pytest.raises(DamagedError, match="line 1"):
        journal(tmp_path).unspent()


KILLED = """
import os, random, signal, sys
from pathlib import Path
from standfast.backup.audit import Journal
from standfast.backup.state import VaultState
from standfast.clock import SystemClock
journal = Journal(VaultState(Path(sys.argv[1]), "b" * 32, SystemClock()))
chosen, _ = journal.spend({"0" * 32}, 2, random.SystemRandom())
print(" ".join(c.nonce for c in chosen), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_as_soon_as_it_is_told(tmp_path: Path) -> None:
    """A nonce that left the process was spent on the disk before."""
    journal(tmp_path).add(made([20]))
    told: list[str] = []
    for _ in range(8):
        argv = [sys.executable, "-c", KILLED, str(tmp_path)]
        done = subprocess.run(argv, capture_output=True, check=False, timeout=60)
        assert -signal.SIGKILL == done.returncode, done.stderr
        told += done.stdout.decode().split()
        unspent = {c.nonce for c in journal(tmp_path).unspent()}
        assert not unspent & set(told)
    assert 16 == len(told) == len(set(told))


class Liar(MemoryStore):
    """Answers plain hashes from memory, though it has thrown objects away."""

    def __init__(self) -> None:
        super().__init__("liar")
        self.known: dict[str, str] = {}
        self.asked: list[tuple[str, str]] = []

    def digests(self, names: object) -> Iterator[tuple[str, str]]:
        found = dict(super().digests(names))  # type: ignore[arg-type]
        for name in names:  # type: ignore[attr-defined]
            yield name, self.known.setdefault(name, found[name])

    def digests_after(
        self, asked: Sequence[tuple[str, str]]
    ) -> Iterator[tuple[str, str]]:
        self.asked += asked
        return super().digests_after(asked)


def test_a_liar_passes_verify_and_fails_an_audit(tmp_path: Path) -> None:
    """Bytes that are gone cannot be hashed behind a new nonce."""
    store = Liar()
    owned = make_owned(store, tmp_path)
    for name in ("one", "two", "three"):
        owned.send(name, DATA)
    vault = owned.vault()
    report = audit(vault, vault.trust([]), 6, random.Random(1))
    assert (0, 6) == (report.status(), len(report.asked))
    assert 3 == len({c.archive for c in report.asked})
    names = [n for n in store.objects if n.endswith(".age") and "archives" in n]
    assert len(names) == len(dict(store.digests(names)))
    for name in names:
        store.objects[name] = bytes(len(store.objects[name]))
    assert len(names) == sum(
        digest != hashlib.sha256(store.objects[name]).hexdigest()
        for name, digest in store.digests(names)
    )
    report = audit(vault, vault.trust([]), 6, random.Random(1))
    assert 13 == report.status()
    assert 6 == len(report.findings)
    assert "does not have the bytes" in report.findings[0].text
    assert len(store.asked) == len({nonce for nonce, _ in store.asked})


def test_an_archive_that_went(tmp_path: Path) -> None:
    """The ledger names it; its challenges are not wasted on it."""
    owned = make_owned(MemoryStore(), tmp_path)
    gone = owned.send("one", DATA).archive
    owned.send("two", DATA)
    vault = owned.vault()
    vault.store.delete_folder(f"archives/{gone}")
    report = audit(vault, vault.trust([]), 50, random.Random(1))
    assert 13 == report.status()
    assert gone in report.findings[0].object
    assert gone not in {c.archive for c in report.asked}


def test_no_answer(tmp_path: Path) -> None:
    """A far end that fails is no proof of loss, nor of presence; all is spent."""

    class Dead(MemoryStore):
        def digests_after(
            self, asked: Sequence[tuple[str, str]]
        ) -> Iterator[tuple[str, str]]:
            del asked
            raise StoreError("dropped", transient=True)

    owned = make_owned(Dead(), tmp_path)
    owned.send("one", DATA)
    vault = owned.vault()
    before = len(Journal(vault.state).unspent())
    with pytest.raises(StoreError):
        audit(vault, vault.trust([]), 2, random.Random(1))
    assert before - 2 == len(Journal(vault.state).unspent())
    with pytest.raises(StoreError):
        audit(vault, vault.trust([]), 99, random.Random(1))
    with pytest.raises(StandfastError, match="no audit is left"):
        audit(vault, vault.trust([]), 1, random.Random(1))


@pytest.mark.parametrize(
    ("text", "value"), [("5", 0.05), ("0.5%", 0.005), ("100", 1.0)]
)
def test_percentages(text: str, value: float) -> None:
    assert value == parse_loss(text)


@pytest.mark.parametrize("text", ["", "x", "0", "-1", "101", "nan", "inf"])
def test_no_percentages(text: str) -> None:
    with pytest.raises(UsageError):
        parse_loss(text)


def test_probabilities_for_people() -> None:
    assert ["44 %", "0.12 %", "0.00046 %", "100 %"] == [
        probability_text(value) for value in (0.44012, 0.00123, 0.0000046, 1.0)
    ]


def test_the_command(standfast: Standfast, vault: Made) -> None:
    """Audits are counted, spent and explained; there is an end to them."""
    for name in "abc":
        standfast("backup", "send", "--stdin", name, vault.path, stdin=DATA)
    before = standfast("backup", "audit", vault.path, "-n", "--json").json()
    assert before["objects_left"] >= 12
    assert before == standfast("backup", "audit", vault.path, "-n", "--json").json()
    words = ("backup", "audit", vault.path, "--objects", "4", "--loss", "10")
    ran = standfast(*words, "--json").json()
    assert (4, 3) == (ran["objects_asked"], ran["archives_asked"])
    assert abs(0.9**4 - ran["miss_probability"]) < 1e-9
    assert before["objects_left"] - 4 == ran["objects_left"]
    assert ran["objects_left"] // 4 == ran["audits_left"]
    text = standfast(*words).out
    assert "4 objects of 3 archives" in text
    assert "a loss of 10 % of all objects goes unseen" in text
    assert "66 %" in text
    standfast("backup", "audit", vault.path, "--objects", "999")
    ran_out = standfast("backup", "audit", vault.path, ok=1)
    assert "no audit is left" in ran_out.err
    elsewhere = standfast.elsewhere()
    signer = ("--signer", vault.signer)
    ran_out = elsewhere("backup", "audit", vault.path, *signer, ok=1)
    assert "no audit is left" in ran_out.err
    for bad in (("--objects", "0"), ("--objects", "x"), ("--loss", "x")):
        standfast("backup", "audit", vault.path, *bad, ok=2)


LYING_SUM = """#!/bin/sh
# Answers for files that it has seen before from a table; the rest it hashes.
real={real}
table={table}
if [ "$#" -eq 0 ]; then exec $real; fi
[ "$1" = -- ] && shift
for name in "$@"; do
    place=$(pwd)/$name
    if known=$(grep -F "  $place" $table); then echo "${{known%% *}}  $name"
    else sum=$($real < "$name"); sum=${{sum%% *}}
        echo "$sum  $place" >> $table; echo "$sum  $name"; fi
done
"""


@pytest.fixture(scope="module")
def lying_sshd() -> Iterator[Sshd]:
    """An sshd whose users find a doctored sha256sum before the real one."""
    folder = open_folder("standfast-liar-")
    (folder / "doctored").mkdir()
    program = folder / "doctored" / "sha256sum"
    table = folder / "doctored" / "table"
    table.touch()
    table.chmod(0o666)
    real = shutil.which("sha256sum")
    program.write_text(LYING_SUM.format(real=real, table=table))
    program.chmod(0o755)
    path = f"SetEnv PATH={folder / 'doctored'}:/usr/bin:/bin\n"
    try:
        yield from start_sshd(folder, "/bin/sh", path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.system
def test_a_host_with_a_doctored_sha256sum(
    standfast: Standfast, lying_sshd: Sshd
) -> None:
    """Through a real sshd: every plain hash is a lie, and an audit finds it out."""
    client = lying_sshd.client(standfast)
    address = lying_sshd.address()
    local = standfast.folder / "far"
    make_vault(client, local, "--segment-size", "64k", address=address)
    for name in "ab":
        client("backup", "send", "--stdin", name, address, stdin=DATA)
    client("backup", "verify", address)
    client("backup", "audit", address, "--objects", "4")
    place = lying_sshd.home / "vault"
    for path in list(place.rglob("*.zst.age")):
        size = path.stat().st_size
        owner = path.stat().st_uid
        path.unlink()
        # A hole of the same size: it costs the host nothing.
        with path.open("wb") as file:
            file.truncate(size)
        os.chown(path, owner, -1)
        path.chmod(0o600)
    assert "2 of 2 archives are whole" in client("backup", "verify", address).out
    told = client("backup", "audit", address, "--objects", "8", "--json", ok=13).json()
    names = {finding["object"] for finding in told["findings"]}
    assert names
    assert all(name.endswith(".age") for name in names)
    client("backup", "verify", address, "--fetch", ok=13)

"""Two senders, a pruner and a reader in one vault, by the real command."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import shutil
import signal
from typing import TYPE_CHECKING

import pytest
from conftest import ForkServer, Made, Standfast, incompressible, make_vault, need
from pruning import pruned_and_rewrapped

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Pool, Ran, Sshd
    from objectstore import ObjectServer

pytestmark = pytest.mark.system

DATA = incompressible(70_000)
KILLED = -signal.SIGKILL
RULES = ("--keep-daily", "2", "--min-age", "0")


class Dated(Standfast):
    """The command on a day of January 2026, by faketime(1)."""

    day = 1

    def on(self, day: int) -> Dated:
        self.day = day
        return self

    def argv(self, *words: object) -> list[str]:
        time = f"2026-01-{self.day:02} 03:00:00"
        return ["faketime", time, *super().argv(*words)]


def dated(standfast: Standfast) -> Dated:
    need("faketime")
    return Dated(standfast.folder, standfast.env | {"TZ": "UTC"})


@dataclasses.dataclass
class Estate:
    """Machines with a memory each, and the vault that the first one made."""

    web: Dated
    db: Dated
    keeper: Dated
    reader: Dated
    vault: Made

    @property
    def place(self) -> str:
        return self.vault.address

    def send(self, machine: Dated, day: int, name: str) -> None:
        machine.on(day)("backup", "send", "-q", "--stdin", name, self.place, stdin=DATA)

    def prune(self, day: int, *words: object, ok: int = 0) -> Ran:
        return self.keeper.on(day)("backup", "prune", self.place, *words, ok=ok)

    def names(self) -> list[str]:
        words = ("backup", "list", self.place, "-i", self.vault.key, "--json")
        found = self.web(*words).json()["archives"]
        return sorted(a["name"] for a in found if a["state"] == "committed")


def make_estate(standfast: Standfast, path: Path, address: str = "") -> Estate:
    """Make the vault, and introduce all machines to each other as the manual says."""
    web, db, keeper, reader = (
        dated(standfast.elsewhere(name)) for name in ("web", "db", "keeper", "reader")
    )
    vault = make_vault(web, path, "--segment-size", "64k", address=address)
    kit = path.with_name("kit.txt")
    kit.write_text(web("backup", "kit", vault.address).out)
    first = ("--recipient", vault.recipient)
    ran = db("backup", "send", "--stdin", "db", vault.address, *first, stdin=DATA)
    theirs = ran.err.partition("--signer ")[2].split()[0]
    web("backup", "signer", "add", vault.address, theirs, "--name", "db")
    kit.write_text(web("backup", "kit", vault.address).out)
    for machine in (db, keeper, reader):
        machine("backup", "signer", "add", vault.address, "--kit", kit)
    ran = keeper("backup", "prune", vault.address, "--observe")
    pruner = ran.err.partition("signer add VAULT ")[2].split()[0]
    for machine in (web, db, reader):
        words = ("backup", "signer", "add", vault.address, pruner, "--role", "pruner")
        machine(*words, "--name", "keeper")
    return Estate(web, db, keeper, reader, vault)


@pytest.fixture
def estate(standfast: Standfast, tmp_path: Path) -> Estate:
    return make_estate(standfast, tmp_path / "vault")


def a_life(estate: Estate) -> None:
    """Five days of two senders, then a prune that everybody agrees with."""
    for day in range(2, 6):
        estate.send(estate.web, day, "web")
        estate.send(estate.db, day, "db")
        estate.prune(day, "--observe")
    ran = estate.prune(6, *RULES, "--dry-run")
    assert "would remove 4 of 9 archives" in ran.out
    before = estate.names()
    ran = estate.prune(6, *RULES, "--json")
    document = ran.json()
    assert 4 == len(document["removed"])
    assert 1 == document["removal"]
    reasons = {tuple(a["reasons"]) for a in document["archives"]}
    assert {("no rule keeps it",), ("daily 1",), ("daily 2",)} <= reasons
    # What db had sent before the first look has no time, and stays.
    assert ("it is not known when it came",) in reasons
    assert ["db"] * 5 + ["web"] * 4 == before
    assert ["db"] * 3 + ["web"] * 2 == estate.names()
    for machine in (estate.web, estate.db, estate.keeper, estate.reader):
        ran = machine("backup", "verify", estate.place)
        assert "5 of 5 archives are whole" in ran.out
        assert "" == ran.err


def test_in_a_directory(estate: Estate) -> None:
    a_life(estate)
    # The reader's list of signers, as a person sees it.
    out = estate.reader("backup", "signer", "list", estate.place).out
    rows = [line.split() for line in out.splitlines()]
    assert ["sender", "sender", "pruner"] == [row[1] for row in rows[1:]]


def test_behind_ssh(standfast: Standfast, plain_sshd: Sshd, tmp_path: Path) -> None:
    client = plain_sshd.client(standfast)
    address = plain_sshd.address("estate")
    a_life(make_estate(client, tmp_path / "estate", address))


def test_in_object_storage(
    standfast: Standfast, s3_server: ObjectServer, tmp_path: Path
) -> None:
    command = s3_server.command(standfast)
    address = s3_server.address("vaults/many-hosts")
    pruned_and_rewrapped(command, make_vault(command, tmp_path / "s3", address=address))


def test_chains_of_a_real_dataset(
    standfast: Standfast, tmp_path: Path, pool: Pool
) -> None:
    """zfs_uploader#77: what a kept increment needs stays; a full one frees it."""
    web = dated(standfast)
    dataset = pool.dataset("pruned", {"file": incompressible(100_000)})
    vault = make_vault(web, tmp_path / "vault")
    prune = ("backup", "prune", vault.path)
    web(*prune, "--observe")
    for day in range(1, 6):
        place = pool.mount / "pruned" / f"day{day}"
        place.write_bytes(incompressible(9_000, day))
        pool.zfs("snapshot", f"{dataset}@d{day}")
        full = ("--full",) if day == 4 else ()
        web.on(day)("backup", "send", f"{dataset}@d{day}", vault.path, *full)
        web(*prune, "--observe")
    words = (*prune, "--keep-daily", "3", "--min-age", "0", "--json")
    found = web.on(6)(*words).json()
    assert [] == found["removed"]
    why = [reason for a in found["archives"] for reason in a["reasons"]]
    assert 2 == sum("is an increment on it" in reason for reason in why)
    found = web(*words[:4], "2", *words[5:]).json()
    assert 3 == len(found["removed"])
    web("backup", "verify", vault.path)
    # The sender plans on what is left.
    pool.zfs("snapshot", f"{dataset}@d6")
    sent = web.on(6)("backup", "send", f"{dataset}@d6", vault.path, "--json").json()
    assert sent["from_guid"]
    target = f"{pool.name}/pruned-back"
    web("backup", "restore", vault.path, f"{dataset}@d6", target, "-i", vault.key)
    assert pool.tree("pruned") == pool.tree("pruned-back")


def test_revoked(estate: Estate) -> None:
    """A stolen key counts no more; what was seen of it before stays good."""
    estate.send(estate.db, 2, "db")
    estate.prune(2, "--observe")
    reader, place = estate.reader, estate.place
    known = estate.web("backup", "signer", "list", place, "--json").json()
    (key,) = [s["key"] for s in known["signers"] if s["name"] == "db"]
    for machine in (reader, estate.web, estate.keeper):
        ran = machine.on(3)("backup", "signer", "revoke", place, key)
        assert "2 archives that were seen stay good" in ran.out
    reader("backup", "verify", place)
    estate.send(estate.db, 3, "stolen")
    for machine in (reader, estate.web):
        ran = machine("backup", "verify", place, ok=14)
        assert "signed by a key that is revoked after number 2" in ran.out
        assert "2 of 3 archives are whole" in ran.out
    ran = reader("backup", "signer", "add", place, key, ok=2)
    assert "that key was revoked" in ran.err
    # The page remembers it, for machines that know nothing.
    kit = estate.vault.path.with_name("later.txt")
    kit.write_text(estate.web("backup", "kit", place).out)
    stranger = estate.web.elsewhere("stranger")
    ran = stranger("backup", "verify", place, "--kit", kit, ok=14)
    assert "2 of 3 archives are whole" in ran.out
    # The owner has the thief's archive removed, and all is well.
    bad = [
        a["archive"]
        for a in reader("backup", "list", place, "--json").json()["archives"]
        if a["state"] == "refused"
    ]
    estate.prune(4, "--drop", bad[0])
    for machine in (reader, estate.web, estate.keeper):
        machine("backup", "verify", place)


def test_the_pages_memory(estate: Estate) -> None:
    """A kit holds against a vault that was put back, also where nothing is known."""
    place, path = estate.place, estate.vault.path
    estate.send(estate.web, 2, "web")
    older = path.with_name("older")
    shutil.copytree(path, older)
    estate.send(estate.web, 3, "web")
    estate.prune(3, "--observe")
    estate.send(estate.web, 4, "web")
    kit = path.with_name("now.txt")
    document = path.with_name("now.json")
    kit.write_text(estate.web("backup", "kit", place).out)
    document.write_text(estate.web("backup", "kit", place, "--json").out)
    stranger = estate.web.elsewhere("stranger")
    for page in (kit, document):
        ran = stranger("backup", "verify", place, "--kit", page)
        assert "4 of 4 archives are whole" in ran.out
    shutil.rmtree(path)
    shutil.copytree(older, path)
    for page in (kit, document):
        ran = stranger("backup", "verify", place, "--kit", page, "--json", ok=13)
        texts = [f["text"] for f in ran.json()["findings"]]
        lost = f"archive number 3 of {estate.vault.signer}"
        assert [f"rolled back: {lost}, which the kit remembers, is gone"] == texts
    # Nobody who was there needs the kit: the newest is hidden from them.
    ran = estate.prune(5, *RULES, ok=13)
    assert "nothing is removed" in ran.err or "missing" in ran.err
    # Another vault is no good either, and a page that is none is said to be none.
    other = make_vault(estate.web.elsewhere("else"), path.with_name("other"))
    ran = stranger("backup", "verify", other.path, "--kit", kit, ok=13)
    assert "the kit is of vault" in ran.err
    for text in ("", "{}", '{"vault": 3}', "Vault: x\n", "\x00"):
        kit.write_text(text)
        ran = stranger("backup", "verify", place, "--kit", kit, ok=2)
        assert "not a recovery kit" in ran.err


def test_a_kit_after_a_prune(estate: Estate) -> None:
    """What was removed since the page was printed is no rollback."""
    for day in range(2, 6):
        estate.send(estate.web, day, "web")
        estate.prune(day, "--observe")
    kit = estate.vault.path.with_name("now.txt")
    kit.write_text(estate.web("backup", "kit", estate.place).out)
    estate.send(estate.web, 6, "web")
    estate.send(estate.web, 7, "web")
    estate.prune(7, "--observe")
    estate.prune(8, "--keep-daily", "1", "--min-age", "0")
    assert 2 == estate.names().count("web") + estate.names().count("db")
    stranger = estate.web.elsewhere("stranger")
    stranger("backup", "verify", estate.place, "--kit", kit)


def test_prune_asks_for_a_rule(estate: Estate) -> None:
    """zfsbackup-go#711: a command that is not told what to keep removes nothing."""
    before = estate.names()
    for words, reason in (
        ((), "what is to be kept?"),
        (("--keep-daily", "0"), "what is to be kept?"),
        (("--minimum", "3"), "what is to be kept?"),
        (("--keep-daily", "-1"), "a rule keeps 0 or more"),
        (("--keep-daily", "1", "--minimum", "0"), "a rule keeps 0 or more"),
        (("--observe", "--keep-daily", "1"), "--observe removes nothing"),
        (("--keep-within", "soon"), "not a duration: soon"),
        (("--keep-daily", "1", "--drop", "0"), "archives begin with '0'"),
    ):
        ran = estate.prune(2, *words, ok=2)
        assert reason in ran.err, words
    stranger = estate.web.elsewhere("stranger")
    ran = stranger("backup", "prune", estate.place, "--keep-daily", "1", ok=14)
    assert "signer add VAULT --kit FILE" in ran.err
    assert before == estate.names()


def test_signers_are_checked(estate: Estate) -> None:
    """Roles, names and keys: each mistake has its line."""
    place = estate.place
    web = estate.web
    key = estate.vault.signer
    for words, status, reason in (
        ((place,), 2, "which key?"),
        ((place, key, "--kit", "x"), 2, "cannot read a recovery kit"),
        ((place, "nonsense"), 2, "not a minisign public key"),
        ((place, key, "--role", "pruner"), 2, "on record as sender"),
        ((place, key, "--replaces", "nobody"), 2, "no signers on record fit: nobody"),
    ):
        ran = web("backup", "signer", "add", *words, ok=status)
        assert reason in ran.err, words
    stranger = web.elsewhere("stranger")
    ran = stranger("backup", "signer", "add", place, key, ok=14)
    assert "pass --kit FILE" in ran.err
    wrong = "age1qqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqqs4zrgyf"
    stranger("backup", "signer", "add", place, key, "--recipient", wrong, ok=14)
    ran = web("backup", "signer", "revoke", place, "db", "--dry-run", "--json")
    assert 1 == json.loads(ran.out)["revoked"]["after"]
    ran = web("backup", "signer", "revoke", place, "nobody", ok=2)
    assert "no signers on record fit" in ran.err
    web("backup", "verify", place)


def test_only_one_prune_at_a_time(estate: Estate) -> None:
    """A second one is told so at once, with status 11."""
    state = estate.keeper.folder / "state-keeper" / "standfast" / "vaults"
    with (state / estate.vault.id / "pruning").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ran = estate.prune(2, *RULES, ok=11)
        assert "another prune of this vault is at work here" in ran.err
    estate.prune(2, *RULES)


@pytest.mark.parametrize("when", ["before", "after"])
def test_prune_killed_at_every_store_operation(
    forks: ForkServer, standfast: Standfast, vault: Made, *, when: str
) -> None:
    """kill -9 anywhere: everybody verifies, and the next prune finishes it."""
    for name in ("one", "two", "three"):
        standfast("backup", "send", "--stdin", name, vault.path, stdin=DATA)
    standfast("backup", "prune", vault.path, "--observe")
    found = standfast("backup", "list", vault.path, "--json").json()["archives"]
    drop = [a["archive"] for a in found[:2]]
    state = standfast.folder / "state"
    saved = [place.with_name(f"{place.name}.saved") for place in (vault.path, state)]
    for place, copy in zip((vault.path, state), saved, strict=True):
        shutil.copytree(place, copy)
    killed = 0
    for at in range(1, 40):
        ran = forks.ask(
            standfast, doomed="prune", vault=vault.path, drop=drop, at=at, when=when
        )
        assert ran.code in {0, KILLED}, ran
        forks.run(standfast, "backup", "verify", vault.path)
        if ran.code == 0:
            break
        killed += 1
        left = {path.name for path in vault.archives()}
        words = [w for one in drop if one in left for w in ("--drop", one)]
        again = ("backup", "prune", vault.path, *(words or ["--keep-daily", "9"]))
        forks.run(standfast, *again)
        assert [found[2]["archive"]] == [path.name for path in vault.archives()], at
        verdict = forks.run(standfast, "backup", "verify", vault.path)
        assert "1 of 1 archives are whole (" in verdict.out, at
        assert "" == verdict.err
        assert "left" not in verdict.out, at
        for place, copy in zip((vault.path, state), saved, strict=True):
            shutil.rmtree(place)
            shutil.copytree(copy, place)
    # The reading of it, four to state it, and two for each archive.
    assert killed >= 10

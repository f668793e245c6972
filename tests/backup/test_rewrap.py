"""Owners change: other keys open the vault, and it opens at every moment."""

from __future__ import annotations

import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest
from conftest import ForkServer, Made, Standfast, incompressible, make_vault, need
from pruning import Farm
from vaults import ListSink, in_memory, nothing

from standfast.backup.init import Owner
from standfast.backup.opening import open_vault_identity
from standfast.backup.recipients import X25519Identity
from standfast.backup.restore import check_before, find, restore
from standfast.backup.rewrap import rewrap
from standfast.backup.stores.directory import DirectoryStore
from standfast.errors import DamagedError, NoIdentityError, NotTrustedError
from standfast.pace import Unlimited

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Sshd

DATA = incompressible(200_000)
KILLED = -signal.SIGKILL


def new_key(standfast: Standfast, name: str) -> tuple[Path, str]:
    """Make an age key with the stock tool; return its file and recipient."""
    need("age-keygen")
    path = standfast.folder / name
    subprocess.run(["age-keygen", "-o", path], check=True, capture_output=True)
    path.chmod(0o600)
    text = path.read_text()
    return path, text.partition("public key: ")[2].splitlines()[0]


def restored(standfast: Standfast, vault: Made, name: str, key: Path) -> bytes:
    out = standfast.folder / "out"
    out.unlink(missing_ok=True)
    words = ("backup", "restore", vault.address, name, "-o", out, "-i", key)
    standfast(*words)
    return out.read_bytes()


@pytest.mark.system
def test_other_owners(standfast: Standfast, vault: Made) -> None:
    """The new key opens everything, the old one nothing; no archive is touched."""
    standfast("backup", "send", "--stdin", "x", vault.path, stdin=DATA)
    archives = {p: p.read_bytes() for p in (vault.path / "archives").rglob("*.age")}
    key, recipient = new_key(standfast, "new.key")
    words = ("backup", "rewrap", vault.path, "--identity")
    stranger, _ = new_key(standfast, "stranger.key")
    ran = standfast(*words, stranger, "--recipient", recipient, ok=12)
    assert "no key or passphrase given opens the vault" in ran.err
    document = standfast(*words, vault.key, "-r", recipient, "--json").json()
    assert [recipient] == document["owners"]
    assert (1, vault.signer) == (document["root"], document["signer"])
    assert DATA == restored(standfast, vault, "x", key)
    ran = standfast("backup", "list", vault.path, "-i", vault.key, ok=12)
    standfast("backup", "verify", vault.path)
    reader = standfast.elsewhere()
    reader("backup", "verify", vault.path, "--signer", vault.signer)
    assert archives == {p: p.read_bytes() for p in archives}
    kit = standfast("backup", "kit", vault.path).out
    assert recipient in kit
    assert vault.recipient in kit
    # Everything else that init takes is taken here as well.
    secret = standfast.folder / "secret"
    secret.write_text("correct horse battery staple\n")
    secret.chmod(0o600)
    standfast(*words, key, "--new-passphrase-file", secret)
    found = standfast(
        "backup", "list", vault.path, "--passphrase-file", secret, "--json"
    )
    assert "x" == found.json()["archives"][0]["name"]
    made = standfast.folder / "made.key"
    standfast(
        "backup", "rewrap", vault.path, "--passphrase-file", secret,
        "--new-identity", made, "-r", recipient,
    )  # fmt: skip
    for each in (made, key):
        assert DATA == restored(standfast, vault, "x", each)


@pytest.mark.system
def test_a_new_vault_identity(standfast: Standfast, vault: Made) -> None:
    """What is sent after --rotate is sealed to it; both kinds are restored."""
    standfast("backup", "send", "--stdin", "before", vault.path, stdin=DATA)
    other = standfast.elsewhere("other")
    send = ("backup", "send", "--stdin")
    other(*send, "theirs", vault.path, "--recipient", vault.recipient, stdin=DATA)
    key, recipient = new_key(standfast, "new.key")
    stolen = (vault.path / "identity.age").read_bytes()
    words = ("backup", "rewrap", vault.path, "-i", vault.key, "-r", recipient)
    fresh = standfast(*words, "--rotate", "--json").json()["recipient"]
    assert fresh != vault.recipient
    standfast(*send, "after", vault.path, stdin=DATA[::-1])
    assert DATA == restored(standfast, vault, "before", key)
    assert DATA[::-1] == restored(standfast, vault, "after", key)
    # A copy of the old identity opens what was there, and not what came after.
    old = subprocess.run(
        ["age", "-d", "-i", vault.key], input=stolen, capture_output=True, check=True
    )
    thief = standfast.folder / "thief.key"
    thief.write_bytes(old.stdout)
    thief.chmod(0o600)
    last = max(vault.archives(), key=lambda p: p.stat().st_mtime)
    sealed = last / "manifest.json.age"
    argv = ["age", "-d", "-i", str(thief), str(sealed)]
    opened = subprocess.run(argv, capture_output=True, check=False)
    assert opened.returncode != 0
    # Another sender seals to it when the owner says so, and not before.
    trusts = ("backup", "signer", "add", vault.path, vault.signer)
    ran = other(*send, "more", vault.path, stdin=DATA, ok=13)
    assert "pass --recipient from the new kit" in ran.err
    ran = other(*send, "more", vault.path, "-q", "--recipient", fresh, stdin=DATA)
    other(*trusts, "--name", "web")
    other("backup", "verify", vault.path, "--level", "decrypt", "-i", key)
    standfast("backup", "verify", vault.path, ok=14)
    signer = other("backup", "signer", "list", vault.path, "--json").json()
    standfast("backup", "signer", "add", vault.path, signer["signers"][0]["key"])
    standfast("backup", "verify", vault.path, "--level", "decrypt", "-i", key)


@pytest.mark.system
def test_an_owners_machine_that_sends_nothing(
    standfast: Standfast, vault: Made
) -> None:
    """It signs with a key of its own, which the others are told of."""
    standfast("backup", "send", "--stdin", "x", vault.path, stdin=DATA)
    laptop = standfast.elsewhere("laptop")
    key, recipient = new_key(standfast, "new.key")
    words = ("backup", "rewrap", vault.path, "-r", recipient, "--rotate")
    ran = laptop(*words, "-i", vault.key)
    told = ran.err.partition("backup signer add VAULT ")[2].split()
    assert ["--role", "owner"] == told[1:3]
    ran = standfast("backup", "verify", vault.path, ok=13)
    assert "vault.json was altered" in ran.err
    # Told of the owner's key beforehand, a machine follows by itself.
    aside = vault.path.with_name("aside")
    shutil.move(vault.path, aside)
    second = make_vault(standfast, vault.path.with_name("second"))
    standfast("backup", "send", "--stdin", "x", second.path, stdin=DATA)
    laptop("backup", "rewrap", second.path, "-i", second.key, "-r", recipient)
    owner = laptop("backup", "signer", "list", second.path, "--json").json()
    standfast(
        "backup", "signer", "add", second.path, owner["signers"][0]["key"],
        "--role", "owner",
    )  # fmt: skip
    rotated = laptop(
        "backup", "rewrap", second.path, "-i", key, "-r", recipient, "--rotate",
        "--json",
    ).json()  # fmt: skip
    standfast("backup", "send", "--stdin", "y", second.path, stdin=DATA)
    standfast("backup", "verify", second.path)
    found = standfast("backup", "list", second.path, "-i", key, "--json").json()
    assert {"x", "y"} == {archive["name"] for archive in found["archives"]}
    kit = standfast("backup", "kit", second.path, "--json").json()
    assert rotated["recipient"] == kit["recipient"]


@pytest.mark.system
@pytest.mark.parametrize("rotate", [False, True])
def test_behind_ssh_and_with_stock_tools(
    standfast: Standfast, plain_sshd: Sshd, tmp_path: Path, *, rotate: bool
) -> None:
    """Files are replaced at the far end, and RECOVER.txt works as it stands there."""
    need("age", "minisign", "zstd")
    client = plain_sshd.client(standfast)
    name = f"rewrap{rotate}"
    vault = make_vault(client, tmp_path / name, address=plain_sshd.address(name))
    client("backup", "send", "--stdin", "x", vault.address, stdin=DATA)
    key, recipient = new_key(client, "new.key")
    words = ["backup", "rewrap", vault.address, "-i", vault.key, "-r", recipient]
    client(*words, *(["--rotate"] if rotate else []))
    client("backup", "send", "--stdin", "y", vault.address, stdin=DATA[::-1])
    client("backup", "verify", vault.address)
    assert DATA == restored(client, vault, "x", key)
    place = plain_sshd.home / name
    page = (place / "RECOVER.txt").read_text()
    script = "\n".join(ln for ln in page.splitlines() if ln.startswith("    "))
    for wanted, data in (("x", DATA), ("y", DATA[::-1])):
        out = tmp_path / f"recovered-{wanted}"
        env = client.env | {"VAULT": str(place), "KEY": str(key), "WANT": wanted}
        subprocess.run(
            ["sh", "-c", script], env=env | {"OUTPUT": str(out)}, check=True,
            capture_output=True,
        )  # fmt: skip
        assert data == out.read_bytes()


@pytest.mark.system
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("rotate", [False, True])
def test_killed_at_every_step(
    forks: ForkServer, standfast: Standfast, vault: Made, *, when: str, rotate: bool
) -> None:
    """The vault opens at every moment with the old or the new key; again finishes."""
    standfast("backup", "send", "--stdin", "x", vault.path, stdin=DATA)
    key, recipient = new_key(standfast, "new.key")
    saved = vault.path.with_name("saved")
    state = standfast.folder / "state"
    shutil.copytree(vault.path, saved)
    shutil.copytree(state, state.with_name("state.saved"))
    at = 0
    torn = 0
    while True:
        at += 1
        ran = forks.ask(
            standfast, doomed="rewrap", vault=vault.path, key=vault.key,
            recipient=recipient, rotate=rotate, at=at, when=when,
        )  # fmt: skip
        assert ran.code in {0, KILLED}, ran
        words = ("backup", "list", vault.path, "-i")
        opened = [
            each
            for each in (vault.key, key)
            if forks.run(standfast, *words, each, ok=None).code == 0
        ]
        if ran.code == 0:
            assert [key] == opened
            break
        store = DirectoryStore(str(vault.path), Unlimited())
        assert opens(store, vault.key, key), at
        verdict = forks.run(standfast, "backup", "verify", vault.path, ok=None)
        torn += verdict.code != 0
        again = ["backup", "rewrap", vault.path, "-r", recipient]
        again += ["--rotate"] if rotate else []
        codes = [
            forks.run(standfast, *again, "-i", each, ok=None).code
            for each in (vault.key, key)
        ]
        assert 0 in codes, (at, codes)
        forks.run(standfast, "backup", "verify", vault.path)
        assert [p for p in vault.path.iterdir() if p.name.startswith(".part")] == []
        forks.run(standfast, *words, key)
        for place, copy in (
            (vault.path, saved),
            (state, state.with_name("state.saved")),
        ):
            shutil.rmtree(place)
            shutil.copytree(copy, place)
    assert at > 8
    assert torn >= 2


def opens(store: DirectoryStore, *keys: Path) -> bool:
    """Whether stock age opens identity.age with one of the keys."""
    need("age")
    sealed = store.get("identity.age", 1 << 20)
    return any(
        subprocess.run(
            ["age", "-d", "-i", key], input=sealed, capture_output=True, check=False
        ).returncode
        == 0
        for key in keys
    )


# --- in memory ---------------------------------------------------------------------


def rewrapped(farm: Farm, machine: str = "web", *, rotate: bool = False) -> None:
    owner = X25519Identity.generate()
    owners = [Owner(owner.recipient, owner.recipient.text)]
    rewrap(farm.vault(machine), [farm.owner], owners, farm.clock, rotate=rotate)
    farm.owner = owner


def test_an_older_root_that_is_put_back(tmp_path: Path) -> None:
    """A host that keeps the old identity.age cannot bring it back unseen."""
    farm = Farm(tmp_path)
    farm.send()
    old_owner = farm.owner
    old = {n: d for n, d in farm.save().items() if "/" not in n}
    rewrapped(farm)
    farm.prune(None)
    assert (0, "") == farm.verdict("web")
    with pytest.raises(NoIdentityError):
        open_vault_identity(farm.vault(), [old_owner])
    new = farm.save()
    farm.put_back(new | old)
    status, text = farm.verdict("web")
    assert 13 == status
    assert "an older one was put back: number 0 of 1" in text
    with pytest.raises(DamagedError, match="lost something"):
        farm.look_and_check()


def test_an_old_recipient_that_is_put_back(tmp_path: Path) -> None:
    """After --rotate no sender seals to the old identity again."""
    farm = Farm(tmp_path)
    old = {n: d for n, d in farm.save().items() if "/" not in n}
    rewrapped(farm, rotate=True)
    farm.send()
    farm.put_back(farm.save() | old)
    with pytest.raises(DamagedError, match="was altered"):
        farm.vault("web")


def test_a_thief_of_a_sender_chooses_no_recipient(tmp_path: Path) -> None:
    """Another sender reads a root that a sender's key has signed, and seals to none."""
    farm = Farm(tmp_path)
    farm.meet("db", "sender")
    rewrapped(farm, "web", rotate=True)
    vault = farm.vault("db")
    opened = open_vault_identity(vault, [farm.owner])
    assert vault.info.recipient == opened.recipient.text
    with pytest.raises(NotTrustedError, match="no owner's key on record here"):
        farm.send("db")


def test_three_identities_open_three_times(tmp_path: Path) -> None:
    """Rotated twice, everything that was ever sent is restored."""
    farm = Farm(tmp_path)
    for name in ("one", "two", "three"):
        if name != "one":
            rewrapped(farm, rotate=True)
        farm.send(dataset=None, name=name)
    vault = farm.vault()
    identity = open_vault_identity(vault, [farm.owner])
    assert 2 == len(identity.former)
    for name in ("one", "two", "three"):
        found = find(vault, name, vault.trust([]), identity)
        check_before(vault, found, nothing)
        sink = ListSink()
        restore(vault, found, identity, sink, nothing)
        assert 100 == len(sink.data())
    # Also with the opened file itself, as RECOVER.txt makes it.
    keys = [X25519Identity(identity.secret), *identity.former]
    again = open_vault_identity(vault, keys[::-1])
    assert identity.secret == again.secret
    assert set(identity.former) == set(again.former)
    in_memory(farm.save())

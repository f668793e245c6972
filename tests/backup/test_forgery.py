"""Whoever knows the recipient can seal; only a pinned key makes it count."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from conftest import incompressible, make_vault
from vaults import ListSink, in_memory, make_owned, send_to, verified

from standfast.backup.minisign import PublicKey, SecretKey
from standfast.backup.model import SIGNATURE, SUMS, VAULT_DOCUMENT, VaultInfo, decode
from standfast.backup.proof import check_signature
from standfast.backup.recipients import (
    X25519Identity,
)
from standfast.backup.vault import open_vault, pin
from standfast.cli.session import read_signer
from standfast.clock import SystemClock
from standfast.errors import NotTrustedError
from standfast.testing.store import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Made, Standfast


def test_a_strangers_archive(standfast: Standfast, vault: Made) -> None:
    """A whole archive by a stranger is refused by name; the good one still works."""
    send = ("backup", "send", "--stdin")
    good = standfast(*send, "mine", vault.path, "--json", stdin=b"good" * 999).json()
    stranger = standfast.elsewhere()
    forged = stranger(
        *send, "mine", vault.path, "--recipient", vault.recipient, "--json", stdin=b"no"
    ).json()
    # At the stranger's place it is as good as any.
    stranger("backup", "verify", vault.path, forged["archive"])
    bad = f"archives/{forged['archive']}"
    ran = standfast("backup", "verify", vault.path, ok=14)
    assert f"distrust: {bad}/{SIGNATURE}" in ran.out
    assert good["archive"] not in ran.out
    standfast("backup", "verify", vault.path, forged["archive"], ok=14)
    standfast("backup", "verify", vault.path, good["archive"])
    opened = ("--identity", vault.key)
    standfast("backup", "verify", vault.path, "--level", "decrypt", *opened, ok=14)
    out = standfast.folder / "out"
    restore = ("backup", "restore", vault.path)
    ran = standfast(*restore, forged["archive"], "-o", out, *opened, ok=14)
    assert bad in ran.err
    assert not out.exists()
    # The forged archive bears the same name and came later.
    standfast(*restore, "mine", "-o", out, *opened)
    assert b"good" * 999 == out.read_bytes()
    listed = standfast("backup", "list", vault.path, *opened, "--json").json()
    states = {a["archive"]: (a["state"], a.get("name")) for a in listed["archives"]}
    expected = {
        good["archive"]: ("committed", "mine"),
        forged["archive"]: ("refused", None),
    }
    assert expected == states


def test_a_name_that_only_the_stranger_has(standfast: Standfast, vault: Made) -> None:
    """Asking for a forged archive by its name is an answer of distrust."""
    stranger = standfast.elsewhere()
    send = ("backup", "send", "--stdin", "x", vault.path)
    stranger(*send, "--recipient", vault.recipient, stdin=b"no")
    out = standfast.folder / "out"
    words = ("backup", "restore", vault.path, "x", "-o", out, "-i", vault.key)
    ran = standfast(*words, ok=14)
    assert "standfast: hint: " in ran.err
    assert not out.exists()


def test_a_strangers_key_may_be_trusted_on_purpose(
    standfast: Standfast, vault: Made
) -> None:
    """--signer makes a second machine's archives count, and no others."""
    send = ("backup", "send", "--stdin", "x", vault.path)
    mine = standfast(*send, "--json", stdin=b"mine").json()["archive"]
    second = standfast.elsewhere()
    theirs = second(*send, "--recipient", vault.recipient, "--json", stdin=b"theirs")
    kit = second("backup", "kit", vault.path, "--json").json()
    (key,) = kit["signers"]
    archive = theirs.json()["archive"]
    words = ("backup", "verify", vault.path, "--signer", key)
    standfast(*words, archive)
    assert standfast(*words, mine, ok=None).code in {13, 14}
    out = standfast.folder / "out"
    opened = ("-i", vault.key, "--signer", key)
    standfast("backup", "restore", vault.path, "x", "-o", out, *opened)
    assert b"theirs" == out.read_bytes()


@pytest.mark.parametrize("special", ["/", "+", "//"])
def test_a_key_looks_like_a_path(tmp_path: Path, special: str) -> None:
    """Base64 has slashes: a key is a key first, and a file's name after that."""
    keys = (SecretKey(bytes(8), number.to_bytes(32)).public for number in range(9999))
    key = next(key for key in keys if special in key.text)
    assert key.text == read_signer(key.text)
    path = tmp_path / "signer.pub"
    path.write_text(key.to_file_text())
    assert key == PublicKey.parse(read_signer(str(path)))


def test_the_pinned_id_on_another_key() -> None:
    """A key's identifier is only a label: the key behind it must have signed."""
    pinned = SecretKey.generate()
    forger = SecretKey(pinned.key, SecretKey.generate().seed)
    assert forger.public.key_id == pinned.public.key_id
    sums = f"{'0' * 64}  manifest.json.age\n".encode()
    good = pinned.sign(sums, statement())
    seen: set[bytes] = set()
    check_signature(sums, good.encode(), frozenset([pinned.public]), seen)
    forged = forger.sign(sums, statement())
    # Not even where the good one was seen: what was seen is these very bytes.
    with pytest.raises(NotTrustedError, match="signature is wrong"):
        check_signature(sums, forged.encode(), frozenset([pinned.public]), seen)
    altered = sums.replace(b"0", b"1", 1)
    with pytest.raises(NotTrustedError, match="signature is wrong"):
        check_signature(altered, good.encode(), frozenset([pinned.public]), seen)
    with pytest.raises(NotTrustedError, match="not pinned here"):
        check_signature(sums, good.encode(), frozenset(), seen)
    with pytest.raises(NotTrustedError, match="signature is wrong"):
        check_signature(sums, good.encode(), frozenset([forger.public]), seen)


def test_what_was_verified_is_not_verified_again() -> None:
    """A second look at the same bytes takes no arithmetic, and says the same."""
    key = SecretKey.generate()
    sums = f"{'0' * 64}  manifest.json.age\n".encode()
    signature = key.sign(sums, statement()).encode()
    seen: set[bytes] = set()
    first = check_signature(sums, signature, frozenset([key.public]), seen)

    assert 1 == len(seen)
    assert first == check_signature(sums, signature, frozenset([key.public]), seen)
    assert 1 == len(seen)


def statement() -> str:
    return (
        f"standfast archive format=1 vault={'a' * 32} archive={'b' * 32} objects=1"
        " bytes=0 sequence=1 previous=none time=0"
    )


def test_a_forger_with_the_pinned_id_in_a_vault(tmp_path: Path) -> None:
    """The same, as a whole archive in a vault, by the library."""
    store = MemoryStore("memory")
    owned = make_owned(store, tmp_path / "state")
    owned.send("x", b"good")
    vault = open_vault(in_memory(store.objects), tmp_path / "forger", SystemClock())
    mine = owned.vault().state.signer_key()
    assert mine is not None
    state = vault.state.folder
    state.mkdir(parents=True)
    fake = SecretKey(mine.key, SecretKey.generate().seed)
    (state / "signer.key").write_text(fake.to_text())
    sent = send_to(pin(vault, vault.info.recipient), "x", b"bad" * 40_000)
    assert isinstance(vault.store, MemoryStore)
    store.objects |= vault.store.objects
    verdict = verified(store, owned.base)
    assert 14 == verdict.status
    assert f"archives/{sent.archive}/{SIGNATURE}" in verdict.text
    assert b"good" == owned.restored("x")
    sink = ListSink()
    with pytest.raises(NotTrustedError):
        owned.restored(sent.archive, sink)
    assert [] == sink.parts


def test_a_strangers_document(standfast: Standfast, vault: Made) -> None:
    """With a stranger's document in its place, nothing is sent or verified."""
    stranger = standfast.elsewhere()
    other = make_vault(stranger, standfast.folder / "other", "--segment-size", "64k")
    shutil.copy(other.path / VAULT_DOCUMENT, vault.path / VAULT_DOCUMENT)
    before = sorted(vault.path.rglob("*"))
    send = ("backup", "send", "--stdin", "x", vault.path)
    assert standfast(*send, stdin=b"data", ok=None).code in {13, 14}
    assert standfast("backup", "verify", vault.path, ok=None).code in {13, 14}
    assert before == sorted(vault.path.rglob("*"))


def test_the_document_of_another_of_ours(standfast: Standfast, vault: Made) -> None:
    """Where it names another vault that we made, nothing verifies.

    A send is not refused: disks that take turns at one address look the same, and
    what it seals, it seals to a recipient that is pinned here.
    """
    standfast("backup", "send", "--stdin", "x", vault.path, stdin=b"data")
    other = make_vault(standfast, standfast.folder / "other", "--segment-size", "64k")
    shutil.copy(other.path / VAULT_DOCUMENT, vault.path / VAULT_DOCUMENT)
    ran = standfast("backup", "verify", vault.path, ok=14)
    (archive,) = vault.archives()
    assert f"distrust: archives/{archive.name}/{SIGNATURE}" in ran.out
    assert f"distrust: {SIGNATURE}" in ran.out


def test_a_whole_other_vault_in_its_place(standfast: Standfast, vault: Made) -> None:
    """A stranger's whole vault where a known one was gets nothing sealed to it."""
    stranger = standfast.elsewhere()
    other = make_vault(stranger, standfast.folder / "other")
    shutil.rmtree(vault.path)
    shutil.copytree(other.path, vault.path)
    send = ("backup", "send", "--stdin", "x", vault.path)
    ran = standfast(*send, stdin=b"secret", ok=None)
    assert ran.code in {13, 14}
    assert not (vault.path / "archives").exists()


@pytest.mark.parametrize("known", [True, False])
def test_the_attackers_recipient(
    standfast: Standfast, vault: Made, *, known: bool
) -> None:
    """A vault that asks to seal to the attacker gets nothing, from old or new."""
    path = vault.path / VAULT_DOCUMENT
    attacker = X25519Identity.generate().recipient.text
    info = decode(path.read_bytes(), VaultInfo, "x")
    path.write_text(path.read_text().replace(info.recipient, attacker))
    sender = standfast if known else standfast.elsewhere()
    send = ("backup", "send", "--stdin", "x", vault.path)
    words = () if known else ("--recipient", vault.recipient)
    ran = sender(*send, *words, stdin=incompressible(100), ok=None)
    assert ran.code in {13, 14}
    assert not (vault.path / "archives").exists()
    assert attacker not in ran.out


def test_a_machine_that_knows_nothing(standfast: Standfast, vault: Made) -> None:
    """Without a pinned recipient nothing is sealed; without a signer nothing counts."""
    standfast("backup", "send", "--stdin", "x", vault.path, stdin=b"data")
    stranger = standfast.elsewhere()
    send = ("backup", "send", "--stdin", "x", vault.path)
    ran = stranger(*send, stdin=b"data", ok=14)
    assert "--recipient" in ran.err
    ran = stranger("backup", "verify", vault.path, ok=14)
    assert "--signer" in ran.err
    stranger("backup", "verify", vault.path, "--signer", vault.signer)
    out = standfast.folder / "out"
    words = ("backup", "restore", vault.path, "x", "-o", out, "-i", vault.key)
    stranger(*words, ok=14)
    assert not out.exists()
    stranger(*words, "--signer", vault.signer)
    assert b"data" == out.read_bytes()


def test_recover_text_of_a_forger_is_seen(standfast: Standfast, vault: Made) -> None:
    """The page in the vault is signed as well: another signer's key in it shows."""
    path = vault.path / "RECOVER.txt"
    forged = SecretKey.generate().public.text
    path.write_text(path.read_text().replace(vault.signer, forged))
    ran = standfast("backup", "verify", vault.path, ok=13)
    assert "damage: RECOVER.txt" in ran.out


def test_sums_that_name_what_no_archive_holds(tmp_path: Path) -> None:
    """Even the pinned key's signature makes no archive of the wrong objects."""
    store = MemoryStore("memory")
    owned = make_owned(store, tmp_path / "state")
    sent = owned.send("x", b"data")
    folder = f"archives/{sent.archive}"
    key = owned.vault().state.signer_key()
    assert key is not None
    old = store.objects[f"{folder}/{SIGNATURE}"].decode().split("\n")[2]
    old = old.removeprefix("trusted comment: ").replace("objects=2", "objects=1")
    lines = store.objects[f"{folder}/{SUMS}"].splitlines(keepends=True)
    sums = b"".join(line for line in lines if b"manifest" not in line)
    del store.objects[f"{folder}/manifest.json.age"]
    store.objects[f"{folder}/{SUMS}"] = sums
    store.objects[f"{folder}/{SIGNATURE}"] = key.sign(sums, old).encode()
    verdict = verified(store, owned.base)
    assert 13 == verdict.status
    assert f"{folder}/{SUMS}" in verdict.text

"""Whose key opens a vault, what is said when it does not, and where secrets go."""

from __future__ import annotations

import os
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest
from conftest import Made, Standfast, make_vault, need

from standfast.backup.init import Owner, Wanted, create_vault
from standfast.backup.opening import open_vault_identity
from standfast.backup.recipients import (
    HybridIdentity,
    PassphraseIdentity,
    PassphraseRecipient,
    X25519Identity,
)
from standfast.clock import SystemClock
from standfast.errors import NoIdentityError, UsageError
from standfast.testing.store import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

DATA = b"what only the owner reads\n" * 100


def send(standfast: Standfast, vault: Made, data: bytes = DATA) -> None:
    standfast("backup", "send", "--stdin", "x", vault.path, stdin=data)


def opens(standfast: Standfast, vault: Made, *key: object) -> None:
    """All three readers accept the key, and restore gives the bytes."""
    listed = standfast("backup", "list", vault.path, *key, "--json").json()
    assert ["x"] == [archive["name"] for archive in listed["archives"]]
    standfast("backup", "verify", vault.path, "--level", "decrypt", *key)
    ran = standfast("backup", "restore", vault.path, "x", "-o", "-", *key)
    assert DATA.decode() == ran.out


def refused(standfast: Standfast, vault: Made, status: int, *key: object) -> str:
    """Every reader ends with one error, one hint and the status; returns both."""
    out = standfast.folder / "refused"
    said = ""
    for words in (
        ("list", vault.path),
        ("verify", vault.path, "--level", "decrypt"),
        ("restore", vault.path, "x", "-o", out),
    ):
        ran = standfast("backup", *words, *key, ok=status)
        said = ran.err
        lines = said.splitlines()
        assert 2 == len(lines), said
        assert lines[0].startswith("standfast: error: ")
        assert lines[1].startswith("standfast: hint: ")
        assert "" == ran.out
        assert not out.exists()
    return said


def test_the_owners_key(standfast: Standfast, vault: Made) -> None:
    """The key that ``init`` made opens its vault."""
    send(standfast, vault)
    opens(standfast, vault, "--identity", vault.key)


def test_a_wrong_key(standfast: Standfast, vault: Made) -> None:
    """Another's key ends with 12, and says that it is the key."""
    send(standfast, vault)
    other = make_vault(standfast, standfast.folder / "other")
    assert "key" in refused(standfast, vault, 12, "--identity", other.key)


def test_a_wrong_key_beside_the_right_one(standfast: Standfast, vault: Made) -> None:
    """Several keys may be given; one that fits is enough."""
    send(standfast, vault)
    other = make_vault(standfast, standfast.folder / "other")
    opens(standfast, vault, "-i", other.key, "-i", vault.key)


def test_no_key(standfast: Standfast, vault: Made) -> None:
    """What needs a key says so, with 12."""
    send(standfast, vault)
    for words in (
        ("verify", vault.path, "--level", "decrypt"),
        ("restore", vault.path, "x", "-o", "-"),
    ):
        ran = standfast("backup", *words, ok=12)
        assert "standfast: error: " in ran.err
        assert "--identity" in ran.err


def test_a_missing_key_file(standfast: Standfast, vault: Made) -> None:
    """A key file that is not there is named, with 2."""
    send(standfast, vault)
    said = refused(standfast, vault, 2, "--identity", standfast.folder / "nowhere.key")
    assert "nowhere.key" in said


@pytest.mark.parametrize("mode", [0o604, 0o640])
def test_a_key_that_others_read(standfast: Standfast, vault: Made, mode: int) -> None:
    """Others may not read a key; the hint is the command that mends it."""
    send(standfast, vault)
    vault.key.chmod(mode)
    said = refused(standfast, vault, 2, "--identity", vault.key)
    assert f"standfast: hint: chmod 600 {vault.key}" in said


@pytest.mark.parametrize("text", [b"", b"not a key\n", b"\xff\xfe", b"age1xyz\n"])
def test_a_file_that_is_no_key(standfast: Standfast, vault: Made, text: bytes) -> None:
    """A file without a key is a mistake in usage, and its text is not repeated."""
    send(standfast, vault)
    path = standfast.folder / "no.key"
    path.write_bytes(text)
    path.chmod(0o600)
    ran = standfast("backup", "list", vault.path, "-i", path, ok=2)
    assert ran.err.startswith("standfast: error: ")
    assert "Traceback" not in ran.err


def passphrase_file(standfast: Standfast, name: str, text: str) -> Path:
    path = standfast.folder / name
    path.write_text(f"{text}\n")
    path.chmod(0o600)
    return path


def passphrase_vault(standfast: Standfast, secret: Path) -> Made:
    path = standfast.folder / "by-passphrase"
    words = ("backup", "init", path, "--passphrase-file", secret, "--json")
    made = standfast(*words).json()
    key = standfast.folder / "none"
    return Made(path, key, made["vault"], made["recipient"], made["signer"], str(path))


def test_a_passphrase(standfast: Standfast) -> None:
    """A vault made with a passphrase opens with it, and with no other."""
    secret = passphrase_file(standfast, "secret", "correct horse")
    vault = passphrase_vault(standfast, secret)
    send(standfast, vault)
    opens(standfast, vault, "--passphrase-file", secret)
    wrong = passphrase_file(standfast, "wrong", "Correct horse")
    ran = standfast("backup", "list", vault.path, "--passphrase-file", wrong, ok=12)
    assert 2 == len(ran.err.splitlines()), ran.err
    assert "standfast: hint: " in ran.err
    secret.chmod(0o644)
    ran = standfast("backup", "list", vault.path, "--passphrase-file", secret, ok=2)
    assert "chmod 600" in ran.err


@pytest.mark.parametrize("text", ["", "\n", "\nsecond line"])
def test_an_empty_passphrase(standfast: Standfast, text: str) -> None:
    """No vault is made with nothing as its passphrase."""
    secret = passphrase_file(standfast, "secret", text)
    path = standfast.folder / "v"
    standfast("backup", "init", path, "--passphrase-file", secret, ok=2)
    assert not path.exists()


def test_a_passphrase_goes_alone(standfast: Standfast, vault: Made) -> None:
    """The age format allows a passphrase beside no other recipient."""
    secret = passphrase_file(standfast, "secret", "x")
    words = ("backup", "init", standfast.folder / "v", "--passphrase-file", secret)
    for more in (("-r", vault.recipient), ("--new-identity", "new.key")):
        ran = standfast(*words, *more, ok=2)
        assert "standfast: hint: " in ran.err
    assert not (standfast.folder / "v").exists()
    assert not (standfast.folder / "new.key").exists()


def ssh_key(folder: Path, kind: str) -> Path:
    need("ssh-keygen")
    path = folder / f"id_{kind}"
    size = ["-b", "2048"] if kind == "rsa" else []
    words = ["ssh-keygen", "-q", "-t", kind, *size, "-N", "", "-f", str(path)]
    subprocess.run(words, check=True, timeout=60)
    return path


@pytest.mark.system
def test_several_owners(standfast: Standfast) -> None:
    """age, ssh-ed25519 and ssh-rsa owners open one vault, each alone."""
    keys = [ssh_key(standfast.folder, kind) for kind in ("ed25519", "rsa")]
    owners = standfast.folder / "owners.txt"
    public = [key.with_suffix(".pub").read_text() for key in keys]
    owners.write_text("# the owners\n\n" + public[1])
    vault = make_vault(
        standfast, standfast.folder / "v", "-r", public[0].strip(), "-R", owners
    )
    send(standfast, vault)
    for key in (vault.key, *keys):
        opens(standfast, vault, "-i", key)
    kit = standfast("backup", "kit", vault.path, "--json").json()
    assert 3 == len(kit["owners"])


def test_the_vault_identity_itself(standfast: Standfast, vault: Made) -> None:
    """What ``age -d identity.age`` gives opens the vault, too."""
    need("age")
    send(standfast, vault)
    path = standfast.folder / "opened.key"
    words = ["age", "-d", "-i", vault.key, "-o", path, vault.path / "identity.age"]
    subprocess.run([*map(str, words)], check=True, timeout=30)
    path.chmod(0o600)
    opens(standfast, vault, "-i", path)
    (vault.path / "identity.age").unlink()
    ran = standfast("backup", "restore", vault.path, "x", "-o", "-", "-i", path)
    assert DATA.decode() == ran.out


def test_a_hybrid_owner(tmp_path: Path) -> None:
    """A post-quantum owner opens the vault, where the library can do it."""
    try:
        owner = HybridIdentity.generate()
        recipient = owner.recipient
        recipient.wrap(bytes(16))
    except UsageError as error:
        pytest.skip(error.message)
    wanted = Wanted([Owner(recipient, recipient.text)], 1 << 16, "t")
    vault = create_vault(MemoryStore(), wanted, tmp_path, SystemClock())
    opened = open_vault_identity(vault, [owner])
    assert vault.info.recipient == opened.recipient.text
    with pytest.raises(NoIdentityError):
        open_vault_identity(vault, [X25519Identity.generate()])


def test_identities_by_the_library(tmp_path: Path) -> None:
    """A passphrase opens what it sealed; a key does not, and the other way round."""
    owner = Owner(PassphraseRecipient("secret", log_n=4), "a passphrase")
    wanted = Wanted([owner], 1 << 16, "t")
    vault = create_vault(MemoryStore(), wanted, tmp_path, SystemClock())
    open_vault_identity(vault, [PassphraseIdentity("secret")])
    with pytest.raises(NoIdentityError):
        open_vault_identity(vault, [PassphraseIdentity("Secret")])
    with pytest.raises(NoIdentityError):
        open_vault_identity(vault, [X25519Identity.generate()])


def secrets_of(standfast: Standfast, vault: Made) -> list[str]:
    """Every line that nobody else may see."""
    need("age")
    opened = subprocess.run(
        ["age", "-d", "-i", str(vault.key), str(vault.path / "identity.age")],
        capture_output=True,
        check=True,
        timeout=30,
    ).stdout.decode()
    state = standfast.folder / "state" / "standfast" / "vaults" / vault.id
    signer = (state / "signer.key").read_text().splitlines()[1]
    lines = [*vault.key.read_text().splitlines(), *opened.splitlines(), signer]
    return [line for line in lines if line and not line.startswith("#")]


def test_no_secret_in_any_output(standfast: Standfast, vault: Made) -> None:
    """No command prints a secret, however loud, in words, JSON or error."""
    send(standfast, vault)
    secrets = secrets_of(standfast, vault)
    assert 3 == len(secrets)
    key = ("-i", vault.key)
    said = ""
    for words in (
        ("list", vault.path, *key),
        ("verify", vault.path, "--level", "decrypt", *key),
        ("restore", vault.path, "x", "-o", "/dev/null/x", *key),
        ("restore", vault.path, "x", "-n", "-o", "new", *key),
        ("kit", vault.path),
        ("clean", vault.path),
        ("send", "--stdin", "y", vault.path, "-n"),
        ("init", standfast.folder / "w", "-r", secrets[0]),
        ("list", vault.path, "--signer", secrets[0]),
        ("list", vault.path, "--signer", secrets[2]),
        ("send", "--stdin", "y", vault.path, "--recipient", secrets[0]),
    ):
        for more in (("-vv",), ("--json",)):
            ran = standfast("backup", *words, *more, ok=None)
            said += ran.out + ran.err
    for secret in secrets:
        assert secret not in said
        assert secret[20:60] not in said


def test_no_secret_in_the_vault(standfast: Standfast, vault: Made) -> None:
    """Nothing in the vault holds a secret, or the data, in the clear."""
    send(standfast, vault)
    secrets = [s.encode() for s in secrets_of(standfast, vault)]
    for path in vault.path.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for secret in (*secrets, DATA[:26]):
            assert secret not in content, path


def test_no_secret_in_arguments(standfast: Standfast, vault: Made) -> None:
    """Programs that are started get no secret as an argument."""
    send(standfast, vault)
    log = standfast.folder / "argv.log"
    programs = standfast.folder / "bin"
    programs.mkdir()
    for name in ("ssh", "zfs", "age", "zstd", "minisign", "sh"):
        script = programs / name
        script.write_text(f'#!/bin/bash\necho "$0 $@" >> {log}; env >> {log}\nexit 1\n')
        script.chmod(0o755)
    env = standfast.env | {"PATH": f"{programs}:{standfast.env['PATH']}"}
    traced = Standfast(standfast.folder, env)
    key = ("-i", vault.key)
    for words in (
        ("restore", vault.path, "x", "pool/new", *key),
        ("list", "ssh://nobody@127.0.0.1:9/vault", *key, "--retry-for", "0"),
        ("send", "pool/x@y", vault.path),
    ):
        traced("backup", *words, ok=None)
    logged = log.read_text()
    assert "/ssh " in logged
    assert "/zfs " in logged
    for secret in secrets_of(standfast, vault):
        assert secret not in logged


@pytest.mark.parametrize("umask", [0o000, 0o022])
def test_modes(standfast: Standfast, umask: int) -> None:
    """Whatever the umask, nothing that is written can be read by others."""
    before = os.umask(umask)
    try:
        vault = make_vault(standfast, standfast.folder / "v")
        send(standfast, vault)
        out = standfast.folder / "out"
        words = ("backup", "restore", vault.path, "x", "-o", out, "-i", vault.key)
        standfast(*words)
    finally:
        os.umask(before)
    state = standfast.folder / "state"
    made = [vault.key, vault.path, out, *vault.path.rglob("*"), *state.rglob("*")]
    assert 12 < len(made)
    for path in made:
        assert 0 == stat.S_IMODE(path.stat().st_mode) & 0o077, path

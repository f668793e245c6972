"""The whole way on real ZFS: out, proven, back."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import Made, Pool, Sshd, Standfast, incompressible, make_vault, need

pytestmark = pytest.mark.system

FILES = {
    "one": b"hello\n",
    "deep/er/two words": b"x" * 200_000,
    "deep/random": incompressible(700_000),
    "empty": b"",
}


@pytest.fixture(scope="session")
def dataset(pool: Pool) -> str:
    return pool.dataset("main", FILES)


def there_and_back(
    standfast: Standfast, made: Made, pool: Pool, dataset: str, target: str
) -> None:
    sent = standfast("backup", "send", f"{dataset}@s1", made.address, "--json").json()
    guid = pool.zfs("get", "-Hp", "-o", "value", "guid", f"{dataset}@s1").strip()
    assert guid == sent["guid"]
    standfast("backup", "verify", made.address)
    opened = ("--identity", made.key)
    standfast("backup", "verify", made.address, "--level", "decrypt", *opened)
    name = f"{pool.name}/{target}"
    standfast("backup", "restore", made.address, f"{dataset}@s1", name, *opened)
    assert FILES == pool.tree(target)
    assert guid == pool.zfs("get", "-Hp", "-o", "value", "guid", f"{name}@s1").strip()


@pytest.mark.zfs_any
def test_directory(standfast: Standfast, vault: Made, pool: Pool, dataset: str) -> None:
    """A snapshot comes back from a directory, file for file, with its GUID."""
    there_and_back(standfast, vault, pool, dataset, "from-directory")


def test_ssh(standfast: Standfast, sshd: Sshd, pool: Pool, dataset: str) -> None:
    """A snapshot comes back through sshd, whatever the login shell."""
    client = sshd.client(standfast)
    place = sshd.home / 'it\'s a "vault" \\ of $mine! 100%'
    address = f"ssh://{sshd.user}@127.0.0.1:{sshd.port}{place}"
    local = standfast.folder / f"remote-{Path(sshd.user).name}"
    made = make_vault(client, local, "--segment-size", "64k", address=address)
    target = f"from-{sshd.user}"
    there_and_back(client, made, pool, dataset, target)
    modes = {path.stat().st_mode & 0o077 for path in place.rglob("*")}
    assert {0} == modes


def test_names_stay_secret(standfast: Standfast, vault: Made, dataset: str) -> None:
    """No object name and no byte of the vault shows the dataset's name."""
    standfast("backup", "send", f"{dataset}@s1", vault.path)
    for path in vault.path.rglob("*"):
        assert "main" not in path.name
        if path.is_file():
            assert dataset.encode() not in path.read_bytes()


@pytest.mark.zfs_any
def test_recovery_text(
    standfast: Standfast, vault: Made, pool: Pool, dataset: str
) -> None:
    """RECOVER.txt's own lines, run by sh as they stand, bring the dataset back."""
    need("age", "minisign", "zstd", "sha256sum")
    standfast("backup", "send", f"{dataset}@s1", vault.path)
    text = (vault.path / "RECOVER.txt").read_text()
    script = "\n".join(ln[4:] for ln in text.splitlines() if ln.startswith("    "))
    stock = {
        "PATH": os.environ["PATH"],
        "HOME": str(standfast.folder),
        "VAULT": str(vault.path),
        "KEY": str(vault.key),
        "WANT": f"{dataset}@s1",
        "TARGET": f"{pool.name}/by-stock-tools",
    }
    subprocess.run(["sh", "-c", script], env=stock, check=True, timeout=120)
    assert FILES == pool.tree("by-stock-tools")


def test_recovery_text_refuses_damage(standfast: Standfast, vault: Made) -> None:
    """The stock recipe gives nothing when an object was altered."""
    need("age", "minisign", "zstd", "sha256sum")
    standfast("backup", "send", "--stdin", "x", vault.path, stdin=b"data" * 50_000)
    victim = next(vault.path.rglob("00000001.zst.age"))
    raw = bytearray(victim.read_bytes())
    raw[len(raw) // 2] ^= 1
    victim.write_bytes(raw)
    text = (vault.path / "RECOVER.txt").read_text()
    script = "\n".join(ln[4:] for ln in text.splitlines() if ln.startswith("    "))
    stock = {
        "PATH": os.environ["PATH"],
        "VAULT": str(vault.path),
        "KEY": str(vault.key),
        "WANT": "x",
        "OUTPUT": str(standfast.folder / "out"),
    }
    done = subprocess.run(
        ["sh", "-c", script], env=stock, capture_output=True, check=False, timeout=60
    )
    assert 0 != done.returncode
    assert not (standfast.folder / "out").exists()


def test_stock_tools_read_every_object(
    standfast: Standfast, vault: Made, tmp_path: Path
) -> None:
    """age, zstd, minisign and sha256sum agree with what was written."""
    need("age", "minisign", "zstd", "sha256sum")
    data = incompressible(150_000) + b"y" * 150_000
    standfast("backup", "send", "--stdin", "bytes", vault.path, stdin=data)
    (archive,) = vault.archives()
    verify = ["minisign", "-V", "-q", "-P", vault.signer, "-m", "SHA256SUMS"]
    subprocess.run(verify, cwd=archive, check=True, timeout=20)
    sums = ["sha256sum", "-c", "--strict", "--quiet", "SHA256SUMS"]
    subprocess.run(sums, cwd=archive, check=True, timeout=20)
    identity = tmp_path / "vault.key"
    subprocess.run(
        ["age", "-d", "-i", vault.key, "-o", identity, vault.path / "identity.age"],
        check=True,
        timeout=20,
    )
    plain = b""
    for segment in sorted(archive.glob("*.zst.age")):
        opened = subprocess.run(
            ["age", "-d", "-i", identity, segment],
            check=True,
            capture_output=True,
            timeout=20,
        ).stdout
        plain += subprocess.run(
            ["zstd", "-d", "-c"], input=opened, check=True, capture_output=True
        ).stdout
    assert hashlib.sha256(data).digest() == hashlib.sha256(plain).digest()


def test_a_moved_vault_is_still_trusted(standfast: Standfast, vault: Made) -> None:
    """What is pinned holds by the vault's id, wherever the vault lies."""
    standfast("backup", "send", "--stdin", "x", vault.path, stdin=b"data")
    moved = standfast.folder / "moved"
    shutil.move(vault.path, moved)
    standfast("backup", "verify", moved)
    out = standfast.folder / "out"
    words = ("backup", "restore", moved, "x", "-o", out, "-i", vault.key)
    standfast(*words)
    assert b"data" == out.read_bytes()

"""sftp alone: the store's suite through a real sshd that gives no shell."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from conftest import (
    Sshd,
    Standfast,
    incompressible,
    make_vault,
    start_sshd,
    wait_until,
)
from faults import (
    DyingPace,
    Link,
    error_line,
    interrupt,
    parts,
    raise_died,
    retrying,
    through,
)
from places import Folder
from pruning import pruned_and_rewrapped

from standfast.backup.stores.sftp import SftpStore
from standfast.errors import StoreError
from standfast.host.sftp import SftpHost
from standfast.host.ssh import SshTarget
from standfast.pace import Unlimited
from standfast.testing.store import StoreSuite

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.system

DATA = incompressible(1_000_000)
# A server that offers nothing beyond the protocol, and one in a jail.
SERVERS = {
    "jailed": "ForceCommand internal-sftp\nChrootDirectory {folder}\n",
    "bare": "ForceCommand internal-sftp -P hardlink,fsync,limits\n"
    "ChrootDirectory {folder}\n",
}


@pytest.fixture(scope="module", params=SERVERS)
def far(request: pytest.FixtureRequest) -> Iterator[Sshd]:
    """An sshd whose user gets sftp and nothing else, in a folder of root's."""
    yield from sftp_only(SERVERS[request.param])


@pytest.fixture(scope="module")
def jailed() -> Iterator[Sshd]:
    yield from sftp_only(SERVERS["jailed"])


def sftp_only(more: str) -> Iterator[Sshd]:
    # sshd wants no one but root to be able to write above a jail.
    folder = Path(tempfile.mkdtemp(prefix="standfast-sftp-", dir="/srv"))
    folder.chmod(0o755)
    more = "Subsystem sftp internal-sftp\n" + more.format(folder=folder)
    try:
        yield from start_sshd(folder, "/bin/false", more)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def host(far: Sshd) -> Iterator[SftpHost]:
    """One connection for all tests; they lie in folders of their own."""
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{far.bin}:{before}"
    host = SftpHost(SshTarget("127.0.0.1", far.user, far.port))
    try:
        yield host
    finally:
        host.close()
        os.environ["PATH"] = before


class TestSftpStore(StoreSuite):
    """In a jail, with OpenSSH's extensions and without."""

    @pytest.fixture
    def place(
        self, far: Sshd, host: SftpHost, request: pytest.FixtureRequest
    ) -> Iterator[Folder]:
        if "close" in request.node.name:
            host = SftpHost(SshTarget("127.0.0.1", far.user, far.port))
        name = f'it\'s {abs(hash(request.node.nodeid)):x} "here" $x'
        stores: list[SftpStore] = []

        def store(pace: object) -> SftpStore:
            made = SftpStore(host, f"/home/{name}", "sftp://test", pace)  # type: ignore[arg-type]
            stores.append(made)
            return made

        def cut(name: str, data: bytes) -> None:
            store(DyingPace(len(data), raise_died)).put(name, data)

        yield Folder(far.home / name, store(Unlimited()), cut, foreign_owner=True)
        for each in stores:
            for session in each._idle:
                session.end()

    def test_no_part_is_left(self, place: Folder) -> None:
        """What was begun and failed is removed."""
        place.store.create()
        with pytest.raises(OSError, match="the source died"):
            place.put_cut("object", bytes(2_000_000))
        assert [] == place.store.entries()

    def test_a_read_only_place(self, place: Folder) -> None:
        """What the far end refuses for good is not tried again, and says why."""
        place.store.create()
        shutil.chown(place.root, "root")
        place.root.chmod(0o555)
        told: list[str] = []
        with pytest.raises(StoreError, match="ermission denied"):
            retrying(place.store, told).put("object", b"data")
        assert [] == told

    def test_the_connection_breaks(self, place: Folder, host: SftpHost) -> None:
        """In mid-object: retried, and a new connection brings it home."""
        broken: list[int] = []

        def die() -> None:
            if not broken and host._master is not None:
                broken.append(1)
                host._master.kill()

        place.store.create()
        pace = DyingPace(3_000_000, die)
        root = f"/home/{place.root.name}"
        told: list[str] = []
        data = bytes(3_000_000)
        retrying(SftpStore(host, root, "sftp://test", pace), told).put("f/o", data)
        assert [1] == broken
        assert told
        assert data == retrying(place.store, told).get("f/o", len(data))


def address(far: Sshd, port: int = 0) -> str:
    name = f"vault-{os.urandom(4).hex()}"
    return f"sftp://{far.user}@127.0.0.1:{port or far.port}/home/{name}"


def test_the_whole_way(standfast: Standfast, jailed: Sshd) -> None:
    """Init, send, verify, audit, clean and restore, by the real command."""
    client = jailed.client(standfast)
    where = address(jailed)
    local = standfast.folder / "far"
    made = make_vault(client, local, "--segment-size", "64k", address=where)
    client("backup", "send", "--stdin", "x", where, stdin=DATA)
    assert "1 of 1 archives are whole" in client("backup", "verify", where).out
    client("backup", "audit", where, "--objects", "3")
    out = standfast.folder / "out"
    words = ("backup", "restore", where, "x", "-o", out, "-i", made.key)
    client(*words)
    assert DATA == out.read_bytes()
    place = jailed.home / where.rpartition("/")[2]
    assert {0} == {path.stat().st_mode & 0o077 for path in place.rglob("*")}
    victim = next(place.rglob("00000003.zst.age"))
    raw = bytearray(victim.read_bytes())
    raw[len(raw) // 2] ^= 1
    victim.write_bytes(raw)
    assert "00000003.zst.age" in client("backup", "verify", where, ok=13).out


def test_pruned_and_rewrapped(
    standfast: Standfast, jailed: Sshd, tmp_path: Path
) -> None:
    """Archives go, and the vault's own files are replaced, without a shell."""
    client = jailed.client(standfast)
    made = make_vault(client, tmp_path / "far", address=address(jailed))
    pruned_and_rewrapped(client, made)


def test_cut_and_gone_on_with(standfast: Standfast, jailed: Sshd) -> None:
    """A connection that is cut in mid-segment is made again; Ctrl-C is prompt."""
    link = Link(jailed.port)
    client = through(standfast, jailed, link)
    where = address(jailed, link.port)
    local = standfast.folder / "far"
    make_vault(client, local, "--segment-size", "256k", address=where)
    place = jailed.home / where.rpartition("/")[2]
    link.cut_after(600_000)
    told = client("backup", "send", "--stdin", "x", where, stdin=DATA).err
    assert 1 == link.cuts
    assert "; try 2" in told
    client("backup", "verify", where)
    assert len(parts(place)) <= 4
    client("backup", "clean", where)
    assert [] == parts(place)
    link.stall_after(400_000)
    (standfast.folder / "source").write_bytes(DATA)
    with (standfast.folder / "source").open("rb") as file:
        words = ("backup", "send", "--stdin", "y", where)
        with client.start(*words, stdin=file) as process:
            wait_until(lambda: link.stalled, "the stall")
            assert 130 == interrupt(process)
    link.close()
    assert 1 == len(list((place / "archives").glob("*/SHA256SUMS.minisig")))


def test_a_host_without_sftp(standfast: Standfast, plain_sshd: Sshd) -> None:
    """A server that has no such subsystem is told apart from one that is away."""
    client = plain_sshd.client(standfast)
    where = f"sftp://{plain_sshd.user}@127.0.0.1:{plain_sshd.port}/x"
    ran = client("backup", "list", where, "--retry-for", "0s", ok=1)
    assert "cannot connect to 127.0.0.1" in error_line(ran)
    assert "subsystem" in ran.err

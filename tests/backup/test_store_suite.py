"""Every store passes the one suite."""

from __future__ import annotations

import dataclasses
import itertools
import os
import resource
import shutil
from typing import TYPE_CHECKING

import pytest
from faults import DyingPace, raise_died, retrying
from places import Folder

from standfast.backup.stores.directory import DirectoryStore
from standfast.backup.stores.ssh import SshStore
from standfast.errors import AlreadyThereError, StoreError
from standfast.host.ssh import SshHost, SshTarget
from standfast.pace import Unlimited
from standfast.testing.store import MemoryStore, StoreSuite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import Sshd

    from standfast.backup.stores import Buffer, Entry
    from standfast.backup.stores.retry import RetryingStore


@dataclasses.dataclass
class Memory:
    """A place in memory."""

    store: MemoryStore

    def plant(self, name: str, kind: str, data: bytes = b"") -> None:
        if kind == "file":
            self.store.objects[name] = data
        else:
            self.store.others[name] = "folder" if kind == "folder" else "other"

    def put_cut(self, name: str, data: bytes) -> None:
        dying = MemoryStore("the same", DyingPace(len(data), raise_died))
        dying.create()
        dying.objects = self.store.objects
        dying.put(name, data)


class TestMemoryStore(StoreSuite):
    @pytest.fixture
    def place(self) -> Memory:
        return Memory(MemoryStore())


class TestDirectoryStore(StoreSuite):
    @pytest.fixture
    def place(self, tmp_path: Path) -> Folder:
        root = tmp_path / "new" / 'it\'s a "vault"'

        def cut(name: str, data: bytes) -> None:
            pace = DyingPace(len(data), raise_died)
            DirectoryStore(str(root), pace).put(name, data)

        return Folder(root, DirectoryStore(str(root), Unlimited()), cut)


class TestDirectoryStoreOnAFullDisk(StoreSuite):
    """The system refuses to take more, half-way through."""

    @pytest.fixture
    def place(self, tmp_path: Path) -> Folder:
        store = DirectoryStore(str(tmp_path / "vault"), Unlimited())

        def cut(name: str, data: bytes) -> None:
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(data) // 2, limits[1]))
            try:
                store.put(name, data)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)

        return Folder(tmp_path / "vault", store, cut)

    def test_no_part_is_left(self, place: Folder) -> None:
        """Where the store can, it removes what it had begun to write."""
        place.store.create()
        with pytest.raises(StoreError):
            place.put_cut("object", bytes(2_000_000))
        assert [] == place.store.entries()


class Flaky(MemoryStore):
    """Fails once before each verb, and for ``put`` once after it, too.

    A put that fails after it has stored is the answer that a dropped connection
    swallows: the object is there, the caller was told otherwise.
    """

    def __init__(self) -> None:
        super().__init__("flaky")
        self.calls = itertools.count()

    def _fail_sometimes(self) -> None:
        if next(self.calls) % 3 != 2:
            raise StoreError("dropped", transient=True)

    def put(self, name: str, data: Buffer) -> None:
        turn = next(self.calls) % 3
        if turn == 0:
            raise StoreError("dropped", transient=True)
        super().put(name, data)
        if turn == 1:
            raise StoreError("the answer was dropped", transient=True)

    def get(self, name: str, limit: int) -> bytes:
        self._fail_sometimes()
        return super().get(name, limit)

    def get_small(self, names: object, limit: int) -> dict[str, bytes]:
        self._fail_sometimes()
        return super().get_small(names, limit)  # type: ignore[arg-type]

    def entries(self) -> list[Entry]:
        self._fail_sometimes()
        return super().entries()

    def digests(self, names: object) -> Iterator[tuple[str, str]]:
        """Give a few, then break off."""
        for number, item in enumerate(super().digests(names)):  # type: ignore[arg-type]
            if number:
                self._fail_sometimes()
            yield item

    def delete(self, name: str) -> None:
        self._fail_sometimes()
        super().delete(name)

    def delete_folder(self, name: str) -> None:
        self._fail_sometimes()
        super().delete_folder(name)

    def make_stable(self, folder: str) -> None:
        self._fail_sometimes()
        super().make_stable(folder)


@dataclasses.dataclass
class Retried:
    """A flaky place behind retries."""

    inner: Flaky
    store: RetryingStore

    def plant(self, name: str, kind: str, data: bytes = b"") -> None:
        Memory(self.inner).plant(name, kind, data)

    def put_cut(self, name: str, data: bytes) -> None:
        Memory(self.inner).put_cut(name, data)


class TestRetryingStore(StoreSuite):
    @pytest.fixture
    def place(self) -> Retried:
        inner = Flaky()
        return Retried(inner, retrying(inner, []))


@pytest.fixture(scope="module")
def host(sshd: Sshd) -> Iterator[SshHost]:
    """One connection for all tests; they lie in folders of their own."""
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{sshd.bin}:{before}"
    host = SshHost(SshTarget("127.0.0.1", sshd.user, sshd.port))
    try:
        yield host
    finally:
        host.close()
        os.environ["PATH"] = before


@pytest.mark.system
class TestSshStore(StoreSuite):
    """Through a real sshd, with sh and with tcsh as the login shell."""

    @pytest.fixture
    def place(
        self, sshd: Sshd, host: SshHost, request: pytest.FixtureRequest
    ) -> Folder:
        if "close" in request.node.name:
            # Closing is for good; the other tests share their connection.
            host = SshHost(SshTarget("127.0.0.1", sshd.user, sshd.port))
        name = f'it\'s {abs(hash(request.node.nodeid)):x} "here" $x'
        root = sshd.home / name

        def cut(name: str, data: bytes) -> None:
            pace = DyingPace(len(data), raise_died)
            SshStore(host, str(root), "ssh://test", pace).put(name, data)

        store = SshStore(host, str(root), "ssh://test", Unlimited())
        return Folder(root, store, cut, foreign_owner=True)

    def test_the_ssh_client_is_killed(
        self, place: Folder, host: SshHost, sshd: Sshd
    ) -> None:
        """A killed client in mid-object is trouble that may pass; no name appears."""

        def die() -> None:
            for process in host._processes:
                process.kill()

        pace = DyingPace(3_000_000, die)
        store = SshStore(host, str(place.root), "ssh://test", pace)
        store.create()
        with pytest.raises(StoreError) as caught:
            store.put("object", bytes(3_000_000))
        assert caught.value.transient
        assert not (place.root / "object").exists()
        assert sshd.process.poll() is None
        retrying(place.store, []).put("object", b"data")
        assert b"data" == place.store.get("object", 10)

    def test_the_whole_connection_breaks(self, place: Folder, host: SshHost) -> None:
        """The master dies in mid-object: retried, a new connection brings it home."""
        broken: list[int] = []

        def die() -> None:
            if not broken and host._master is not None:
                broken.append(1)
                host._master.kill()

        pace = DyingPace(3_000_000, die)
        store = SshStore(host, str(place.root), "ssh://test", pace)
        store.create()
        told: list[str] = []
        data = bytes(3_000_000)
        retrying(store, told).put("folder/object", data)
        assert [1] == broken
        assert 1 <= len(told)
        assert data == place.store.get("folder/object", len(data))

    def test_a_read_only_place(self, place: Folder) -> None:
        """What the far end refuses for good is not tried again, and says why."""
        place.store.create()
        shutil.chown(place.root, "root")
        place.root.chmod(0o555)
        told: list[str] = []
        with pytest.raises(StoreError, match="ermission denied") as caught:
            retrying(place.store, told).put("object", b"data")
        assert not caught.value.transient
        assert [] == told


def test_retries_end() -> None:
    """A store that never recovers is given up, with its own last words."""

    class Dead(MemoryStore):
        def put(self, name: str, data: Buffer) -> None:
            del name, data
            raise StoreError("no route", transient=True)

    told: list[str] = []
    store = retrying(Dead(), told, patience=60)
    with pytest.raises(StoreError, match="no route"):
        store.put("name", b"data")
    assert 5 <= len(told) <= 20


def test_what_will_not_get_better_is_not_tried_again() -> None:
    """A full disk is reported at once."""

    class Full(MemoryStore):
        puts = 0

        def put(self, name: str, data: Buffer) -> None:
            del name, data
            self.puts += 1
            raise StoreError("no space left on device", transient=False)

    inner = Full()
    told: list[str] = []
    with pytest.raises(StoreError):
        retrying(inner, told).put("name", b"data")
    assert 1 == inner.puts
    assert [] == told


def test_a_lost_answer_is_no_rival() -> None:
    """Stored, told otherwise, tried again: our own object is success."""
    inner = Flaky()
    inner.create()
    next(inner.calls)  # the next put stores and then fails
    retrying(inner, []).put("name", b"data")
    assert {"name": b"data"} == inner.objects


def test_a_rivals_object_is_never_ours() -> None:
    """Tried again, a name that holds other bytes is taken, and stays."""

    class Raced(MemoryStore):
        def put(self, name: str, data: Buffer) -> None:
            if name not in self.objects:
                super().put(name, b"theirs")
                raise StoreError("dropped", transient=True)
            super().put(name, data)

    inner = Raced()
    inner.create()
    with pytest.raises(AlreadyThereError):
        retrying(inner, []).put("name", b"ours")
    assert {"name": b"theirs"} == inner.objects


def test_close_stops_retries() -> None:
    """After close, the first failure is the last."""

    class Closing(MemoryStore):
        def put(self, name: str, data: Buffer) -> None:
            del name, data
            outer.close()
            raise StoreError("dropped", transient=True)

    told: list[str] = []
    outer = retrying(Closing(), told)
    with pytest.raises(StoreError, match="dropped"):
        outer.put("name", b"data")
    assert [] == told

"""A store in memory, and the suite of tests that every store must pass.

``MemoryStore`` is a whole Store without a machine, for tests of what lies above.
``StoreSuite`` states the contract of ``standfast.backup.stores.Store`` as tests: make
a subclass whose name starts with ``Test``, give it a pytest fixture ``place`` that
returns a ``Place``, and pytest runs all of them on it. The kit needs pytest. It does
not judge speed, nor what a power cut leaves.
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

import pytest

from standfast.backup.stores import Entry
from standfast.errors import (
    AlreadyThereError,
    NotFoundError,
    StandfastError,
    StoreError,
    TooLargeError,
)
from standfast.pace import Unlimited
from standfast.units import KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from standfast.backup.stores import Buffer, Store
    from standfast.pace import Pace

WRITE_BYTES = 64 * KIB
# Over what any pipe between us and a store holds (Linux: 1 MiB at most, unasked).
BIG = 3 * MIB + 17
LIMIT = 4 * MIB
RIVALS = 4
OTHER_KINDS = ("link", "dangling", "pipe")


class MemoryStore:
    """Objects in a dictionary; see Store.

    Attributes:
        address: what to call it.
        objects: name -> bytes of every file; a test may alter it at will.
        others: name -> ``folder`` or ``other``, for what is no file.
    """

    near = True
    recorded = False

    def __init__(self, address: str = "memory", pace: Pace | None = None) -> None:
        self.address = address
        self.objects: dict[str, bytes] = {}
        self.others: dict[str, str] = {}
        self._pace = pace or Unlimited()
        self._made = False
        self._lock = threading.Lock()

    def create(self) -> None:
        """Begin to exist; see Store."""
        if self.objects or self.others:
            raise AlreadyThereError(f"{self.address} is not empty")
        self._made = True

    def put(self, name: str, data: Buffer) -> None:
        """Copy the bytes, then show the name; see Store."""
        self._must_exist()
        whole = bytearray()
        view = memoryview(data)
        for start in range(0, len(view), WRITE_BYTES):
            step = view[start : start + WRITE_BYTES]
            self._pace.take(len(step))
            whole += step
        with self._lock:
            if name in self.objects or name in self.others:
                raise AlreadyThereError(f"{name} is there already")
            self.objects[name] = bytes(whole)

    def replace(self, name: str, data: Buffer) -> None:
        """Copy the bytes, then show them under the name; see Store."""
        self._must_exist()
        whole = bytes(data)
        self._pace.take(len(whole))
        with self._lock:
            self.objects[name] = whole

    def get(self, name: str, limit: int) -> bytes:
        """Return an object; see Store."""
        if name not in self.objects:
            raise NotFoundError(f"{name} is missing")
        if len(self.objects[name]) > limit:
            raise TooLargeError(f"{name} is larger than it can be")
        return self.objects[name]

    def get_range(self, name: str, start: int, length: int) -> bytes:
        """Return a part; see Store."""
        if name not in self.objects:
            raise NotFoundError(f"{name} is missing")
        return self.objects[name][start : start + length]

    def get_small(self, names: Sequence[str], limit: int) -> dict[str, bytes]:
        """Return many; see Store."""
        present = {n: self.objects[n] for n in names if n in self.objects}
        return {n: data for n, data in present.items() if len(data) <= limit}

    def entries(self) -> list[Entry]:
        """List all; see Store."""
        if not self._made:
            raise NotFoundError(f"{self.address} does not exist")
        with self._lock:
            found = {n: Entry(n, len(d), "file") for n, d in self.objects.items()}
            found |= {n: Entry(n, 0, kind) for n, kind in self.others.items()}
        for name in list(found):
            parts = name.split("/")[:-1]
            for count in range(1, len(parts) + 1):
                folder = "/".join(parts[:count])
                found.setdefault(folder, Entry(folder, 0, "folder"))
        return sorted(found.values(), key=lambda entry: entry.name)

    def digests(self, names: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Hash what is there; see Store."""
        for name in names:
            if name in self.objects:
                yield name, hashlib.sha256(self.objects[name]).hexdigest()

    def digests_after(
        self, asked: Sequence[tuple[str, str]]
    ) -> Iterator[tuple[str, str]]:
        """Hash nonce and object together; see Store."""
        for nonce, name in asked:
            if name in self.objects:
                whole = nonce.encode() + self.objects[name]
                yield name, hashlib.sha256(whole).hexdigest()

    def make_stable(self, folder: str) -> None:
        """Return at once: memory survives nothing; see Store."""
        self._must_exist()
        assert not folder.startswith("/")

    def delete(self, name: str) -> None:
        """Forget an object; see Store."""
        self._must_exist()
        self.objects.pop(name, None)
        self.others.pop(name, None)

    def delete_folder(self, name: str) -> None:
        """Forget a folder; see Store."""
        self._must_exist()
        for kept in (self.objects, self.others):
            for inside in [n for n in kept if n == name or n.startswith(f"{name}/")]:
                del kept[inside]

    def close(self) -> None:
        """Nothing is held open."""

    def _must_exist(self) -> None:
        if not self._made:
            raise StoreError(f"{self.address} is gone", transient=False)


class Place(Protocol):
    """A store under test, and what the suite must do to it behind its back."""

    @property
    def store(self) -> Store:
        """The store, at an address where nothing is yet."""
        ...

    def plant(self, name: str, kind: str, data: bytes = b"") -> None:
        """Put something there that did not come through the store.

        Args:
            name: where; folders above it exist or are made.
            kind: ``file``, ``folder``, ``link`` (to a file that holds ``data``),
                ``dangling`` (a link to nothing) or ``pipe``.
            data: contents.
        """
        ...

    def put_cut(self, name: str, data: bytes) -> None:
        """Put ``data`` from a source that ends, or dies, after half of it.

        Raises:
            Exception: always, of whatever kind the place's source fails with.
        """
        ...


class StoreSuite:
    """What every store promises; see the module's docstring."""

    def test_create_makes_an_empty_place(self, place: Place) -> None:
        """After ``create`` the place is there and holds nothing."""
        place.store.create()
        assert [] == place.store.entries()

    def test_create_accepts_an_empty_place(self, place: Place) -> None:
        """A place that exists but holds nothing may be taken."""
        place.store.create()
        place.store.create()

    def test_create_refuses_what_is_not_empty(self, place: Place) -> None:
        """A place where anything lies is refused, and what lies there stays."""
        place.store.create()
        place.plant("a file", "file", b"theirs")
        with pytest.raises(AlreadyThereError):
            place.store.create()
        assert b"theirs" == place.store.get("a file", LIMIT)

    def test_a_place_that_is_not_there(self, place: Place) -> None:
        """Nothing is found, or made, where there is no place."""
        with pytest.raises(NotFoundError):
            place.store.entries()
        with pytest.raises(NotFoundError):
            place.store.get("name", LIMIT)
        with pytest.raises(StoreError) as caught:
            place.store.put("name", b"data")
        assert not caught.value.transient
        with pytest.raises(NotFoundError):
            place.store.entries()

    @pytest.mark.parametrize("size", [0, 1, 65_536, BIG])
    def test_put_then_get(self, place: Place, size: int) -> None:
        """An object comes back as it was, from nothing to over a pipe's size."""
        data = _data(size)
        place.store.create()
        place.store.put("object", data)
        assert data == place.store.get("object", LIMIT)
        assert [Entry("object", size, "file")] == place.store.entries()

    def test_put_takes_any_buffer(self, place: Place) -> None:
        """Bytes, bytearrays and views of a part are all the same."""
        place.store.create()
        place.store.put("a", bytearray(b"12345"))
        place.store.put("b", memoryview(b"0123456")[1:6])
        assert b"12345" == place.store.get("a", LIMIT) == place.store.get("b", LIMIT)

    def test_replace_takes_the_place_of_another(self, place: Place) -> None:
        """The new bytes are there, whole, and nothing else is."""
        place.store.create()
        place.store.put("object", _data(BIG))
        for size in (70_000, 0, BIG):
            data = _data(size)[::-1]
            place.store.replace("object", data)
            assert data == place.store.get("object", LIMIT)
            assert [Entry("object", size, "file")] == place.store.entries()

    def test_replace_of_nothing_makes_an_object(self, place: Place) -> None:
        """What an interrupted run has not left is made anew."""
        place.store.create()
        place.store.replace("object", memoryview(b"data"))
        place.store.make_stable("")
        assert b"data" == place.store.get("object", LIMIT)

    def test_replace_where_it_is_not_there(self, place: Place) -> None:
        """Nothing is made beside a vault that is gone."""
        with pytest.raises(StoreError):
            place.store.replace("object", b"data")
        with pytest.raises(NotFoundError):
            place.store.entries()

    def test_names_in_folders(self, place: Place) -> None:
        """Folders come into being with their objects."""
        place.store.create()
        place.store.put("archives/0123/object", b"data")
        place.store.put("archives/0123/second", b"more")
        place.store.put("archives/4567/object", b"other")
        assert b"other" == place.store.get("archives/4567/object", LIMIT)
        expected = [
            Entry("archives", 0, "folder"),
            Entry("archives/0123", 0, "folder"),
            Entry("archives/0123/object", 4, "file"),
            Entry("archives/0123/second", 4, "file"),
            Entry("archives/4567", 0, "folder"),
            Entry("archives/4567/object", 5, "file"),
        ]
        assert expected == place.store.entries()

    def test_put_never_replaces(self, place: Place) -> None:
        """A name that is taken stays as it is, byte for byte."""
        place.store.create()
        place.store.put("folder/object", b"first")
        with pytest.raises(AlreadyThereError):
            place.store.put("folder/object", b"second, longer")
        assert b"first" == place.store.get("folder/object", LIMIT)
        names = [entry.name for entry in place.store.entries()]
        assert ["folder", "folder/object"] == names

    @pytest.mark.parametrize("kind", [*OTHER_KINDS, "folder"])
    def test_put_replaces_nothing_foreign(self, place: Place, kind: str) -> None:
        """Nor is a name given that something else has, whatever it is."""
        place.store.create()
        place.plant("name", kind, b"theirs")
        with pytest.raises(StoreError):
            place.store.put("name", b"ours")
        with pytest.raises(NotFoundError):
            place.store.get("name", LIMIT)

    def test_the_source_ends_early(self, place: Place) -> None:
        """A put that gets half its bytes shows no object, and hinders no other."""
        data = _data(BIG)
        place.store.create()
        with pytest.raises((StandfastError, OSError)):
            place.put_cut("folder/object", data)
        with pytest.raises(NotFoundError):
            place.store.get("folder/object", LIMIT)
        assert {} == dict(place.store.digests(["folder/object"]))
        assert "folder/object" not in {e.name for e in place.store.entries()}
        place.store.put("folder/object", data)
        assert data == place.store.get("folder/object", LIMIT)

    def test_a_failed_put_touches_nothing_here(
        self, place: Place, tmp_path: Path
    ) -> None:
        """What was broken off is cleared where it lies, never beside ourselves."""
        ours = tmp_path / "folder" / "object"
        ours.parent.mkdir()
        ours.write_bytes(b"ours")
        place.store.create()
        with contextlib.chdir(tmp_path):
            with pytest.raises((StandfastError, OSError)):
                place.put_cut("folder/object", _data(BIG))
            place.store.delete("folder/object")
        assert b"ours" == ours.read_bytes()

    def test_rivals_for_one_name(self, place: Place) -> None:
        """Of several puts of one name at once exactly one wins, whole."""
        place.store.create()
        start = threading.Barrier(RIVALS)

        def one(number: int) -> int | None:
            data = bytes([number]) * 300_000
            start.wait()
            try:
                place.store.put("folder/object", data)
            except AlreadyThereError:
                return None
            return number

        with ThreadPoolExecutor(RIVALS) as pool:
            done = list(pool.map(one, range(RIVALS)))
        winners = [number for number in done if number is not None]
        assert 1 == len(winners)
        expected = bytes(winners) * 300_000
        assert expected == place.store.get("folder/object", LIMIT)

    def test_get_of_nothing(self, place: Place) -> None:
        """A name that is not there, at any depth, is missing."""
        place.store.create()
        for name in ("missing", "no/such/object"):
            with pytest.raises(NotFoundError):
                place.store.get(name, LIMIT)

    @pytest.mark.timeout(30)
    @pytest.mark.parametrize("kind", [*OTHER_KINDS, "folder"])
    def test_only_files_are_objects(self, place: Place, kind: str) -> None:
        """A link, a pipe or a folder is no object, and nobody waits for it."""
        place.store.create()
        place.store.put("good", b"data")
        place.plant("folder/foreign", kind, b"data")
        with pytest.raises(NotFoundError):
            place.store.get("folder/foreign", LIMIT)
        names = ["folder/foreign", "good"]
        assert {"good": b"data"} == place.store.get_small(names, LIMIT)
        expected = {"good": hashlib.sha256(b"data").hexdigest()}
        assert expected == dict(place.store.digests(names))

    def test_get_keeps_its_limit(self, place: Place) -> None:
        """An object of the limit's size is returned, a larger one is not."""
        place.store.create()
        place.store.put("object", b"12345")
        assert b"12345" == place.store.get("object", 5)
        with pytest.raises(TooLargeError):
            place.store.get("object", 4)

    @pytest.mark.parametrize("size", [0, 5, BIG])
    def test_get_range(self, place: Place, size: int) -> None:
        """Any part comes as it is; beyond the end there is nothing."""
        data = _data(size)
        place.store.create()
        place.store.put("folder/object", data)
        cuts = (0, 1, 4, size // 2, max(0, size - 1), size, size + 1)
        for start in cuts:
            for length in (0, 1, 70_001):
                found = place.store.get_range("folder/object", start, length)
                assert data[start : start + length] == found
        with pytest.raises(NotFoundError):
            place.store.get_range("folder/missing", 0, 1)

    @pytest.mark.timeout(30)
    @pytest.mark.parametrize("kind", [*OTHER_KINDS, "folder"])
    def test_ranges_of_files_only(self, place: Place, kind: str) -> None:
        """A link, a pipe or a folder has no parts."""
        place.store.create()
        place.plant("folder/foreign", kind, b"data")
        with pytest.raises(NotFoundError):
            place.store.get_range("folder/foreign", 0, 1)

    def test_get_small(self, place: Place) -> None:
        """Many come at once; the absent and the too large are left out."""
        place.store.create()
        place.store.put("a", b"1")
        place.store.put("folder/b", b"")
        place.store.put("large", b"12345")
        wanted = ["a", "absent", "folder/b", "large", "no/folder"]
        assert {"a": b"1", "folder/b": b""} == place.store.get_small(wanted, 4)
        assert {} == place.store.get_small([], 4)
        assert {} == place.store.get_small(["absent"], 4)

    @pytest.mark.parametrize(
        "name",
        [
            "two words",
            " leading",
            "trailing ",
            "it's",
            'double "quotes"',
            "back\\slash",
            "$HOME `id` $(id)",
            "*",
            "-rf",
            "tab\tbed",
            "folder/a -> b",
            "naïve ☃",
            "1 2 3 4 5 6 7 8 9 10",
        ],
    )
    def test_foreign_names_are_listed(self, place: Place, name: str) -> None:
        """Whatever somebody's file is called, it is listed by that name."""
        place.store.create()
        place.plant(name, "file", b"data")
        assert Entry(name, 4, "file") in place.store.entries()

    @pytest.mark.parametrize("kind", OTHER_KINDS)
    def test_foreign_kinds_are_listed(self, place: Place, kind: str) -> None:
        """What is neither file nor folder is listed as such, and not followed."""
        place.store.create()
        place.plant("folder/foreign", kind, b"data")
        assert Entry("folder/foreign", 0, "other") in place.store.entries()

    def test_a_line_feed_in_a_name(self, place: Place) -> None:
        """A name with a line feed cannot pass for nothing, nor hide its neighbour."""
        place.store.create()
        place.store.put("good", b"data")
        place.plant("bad\nname", "file", b"x")
        entries = place.store.entries()
        assert Entry("good", 4, "file") in entries
        assert {"good"} < {entry.name for entry in entries}

    def test_what_hides_in_lost_and_found(self, place: Place) -> None:
        """Only a file system's own folder at the top is passed over."""
        place.store.create()
        place.plant("archives/lost+found", "file", b"hidden")
        assert Entry("archives/lost+found", 6, "file") in place.store.entries()

    def test_digests(self, place: Place) -> None:
        """Each object's SHA-256; what is missing is left out."""
        data = {"a": b"", "folder/b": b"data", "big": _data(BIG)}
        place.store.create()
        for name, content in data.items():
            place.store.put(name, content)
        names = [*data, "missing", "folder/missing"]
        expected = {n: hashlib.sha256(d).hexdigest() for n, d in data.items()}
        assert expected == dict(place.store.digests(names))

    def test_digests_of_nothing(self, place: Place) -> None:
        """No names give no digests, and so do names of nothing."""
        place.store.create()
        assert [] == list(place.store.digests([]))
        assert [] == list(place.store.digests(["missing"]))

    def test_digests_after_a_nonce(self, place: Place) -> None:
        """Nonce and object are hashed as one; what is missing is left out."""
        data = {"a": b"", "folder/b": b"data", "big": _data(BIG)}
        place.store.create()
        for name, content in data.items():
            place.store.put(name, content)
        nonces = {name: f"{number:032x}" for number, name in enumerate(data)}
        expected = {
            n: hashlib.sha256(nonces[n].encode() + d).hexdigest()
            for n, d in data.items()
        }
        asked = [(nonces[name], name) for name in data]
        asked += [("0" * 32, "missing"), ("0" * 32, "folder/missing")]
        assert expected == dict(place.store.digests_after(asked))
        assert {} == dict(place.store.digests_after([]))

    def test_make_stable(self, place: Place) -> None:
        """Flushing the top or a folder changes nothing that can be seen."""
        place.store.create()
        place.store.put("top", b"data")
        place.store.put("archives/0123/object", b"data")
        before = place.store.entries()
        place.store.make_stable("archives/0123")
        place.store.make_stable("")
        assert before == place.store.entries()

    def test_delete(self, place: Place) -> None:
        """An object goes, alone; deleting it again is harmless."""
        place.store.create()
        place.store.put("folder/a", b"data")
        place.store.put("folder/b", b"data")
        place.store.delete("folder/a")
        place.store.delete("folder/a")
        place.store.delete("never/was")
        with pytest.raises(NotFoundError):
            place.store.get("folder/a", LIMIT)
        assert b"data" == place.store.get("folder/b", LIMIT)
        place.store.put("folder/a", b"new")
        assert b"new" == place.store.get("folder/a", LIMIT)

    def test_delete_folder(self, place: Place) -> None:
        """A folder goes with all in it, and no neighbour; twice is harmless."""
        place.store.create()
        place.store.put("archives/01/a", b"data")
        place.store.put("archives/012/a", b"data")
        place.plant("archives/01/foreign", "link", b"data")
        place.store.delete_folder("archives/01")
        place.store.delete_folder("archives/01")
        names = [entry.name for entry in place.store.entries()]
        assert ["archives", "archives/012", "archives/012/a"] == [
            name for name in names if not name.startswith("target-of-")
        ]

    def test_close_twice(self, place: Place) -> None:
        """Letting go is harmless at any time."""
        place.store.create()
        place.store.close()
        place.store.close()


def _data(size: int) -> bytes:
    """Return bytes that differ from place to place."""
    block = bytes(range(251))
    return (block * (size // len(block) + 1))[:size]

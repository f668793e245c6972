"""No single alteration of a vault passes a verification that needs no key."""

from __future__ import annotations

import dataclasses
import itertools
import os
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from conftest import Made, Standfast, incompressible
from hypothesis import given
from hypothesis import strategies as st
from vaults import (
    ListSink,
    Owned,
    Verdict,
    in_memory,
    make_owned,
    restore_from,
    verified,
)

from standfast.backup.age import parse_header
from standfast.backup.model import SIGNATURE, SUMS, VAULT_DOCUMENT
from standfast.backup.stores.directory import DirectoryStore
from standfast.backup.vault import open_vault
from standfast.clock import SystemClock
from standfast.errors import StandfastError
from standfast.pace import Unlimited
from standfast.testing.store import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

NAMES = ("one", "two", "three")
CHUNK = 64 * 1024 + 16


@dataclasses.dataclass(frozen=True)
class Whole:
    """A good vault: three archives, each with a segment over one age chunk."""

    owned: Owned
    objects: dict[str, bytes]
    signer: str
    stranger: Path
    archives: tuple[str, ...]

    def copy(self) -> MemoryStore:
        return in_memory(self.objects)

    def of(self, number: int) -> list[str]:
        folder = f"archives/{self.archives[number]}/"
        return sorted(name for name in self.objects if name.startswith(folder))

    def names(self) -> list[str]:
        """Every object, in an order that does not hang on random ids."""
        root = sorted(name for name in self.objects if "/" not in name)
        return [*root, *self.of(0), *self.of(1), *self.of(2)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("mutations")
    store = MemoryStore("memory")
    owned = make_owned(store, folder / "state")
    sent = [
        owned.send(name, incompressible(size, seed=size))
        for name, size in zip(NAMES, (90_000, 65_536, 150_000), strict=True)
    ]
    return Whole(
        owned,
        dict(store.objects),
        owned.signer(),
        folder / "stranger",
        tuple(outcome.archive for outcome in sent),
    )


def judge(whole: Whole, store: MemoryStore) -> tuple[Verdict, Verdict]:
    """What the sending machine says, and one that has only the signer's key."""
    ledger = verified(store, whole.owned.base)
    return ledger, verified(store, whole.stranger, (whole.signer,))


def assert_named(verdict: Verdict, *names: str) -> None:
    """One of the names stands in the findings.

    Sums and their signature stand for each other: which of the two was altered is
    more than can be known.
    """
    known = [*names]
    for name in names:
        folder, _, last = name.rpartition("/")
        if last in {SUMS, SIGNATURE}:
            prefix = f"{folder}/" if folder else ""
            known += [f"{prefix}{SUMS}", f"{prefix}{SIGNATURE}"]
        if last == VAULT_DOCUMENT:
            known += ["vault", SIGNATURE]
    assert any(name in verdict.text for name in known), (names, verdict)


def assert_caught(whole: Whole, store: MemoryStore, *names: str) -> None:
    """Both readers refuse, with the right status, and name the object."""
    ledger, stranger = judge(whole, store)
    in_archive = all(name.startswith("archives/") for name in names)
    own_words = {name.rpartition("/")[2] for name in names} & {SUMS, SIGNATURE}
    assert ledger.status in ({13} if in_archive else {10, 13, 14}), ledger
    loose = {10, 13, 14} if not in_archive else {13, 14} if own_words else {13}
    assert stranger.status in loose, stranger
    assert_named(ledger, *names)
    assert_named(stranger, *names)


def assert_not_restored(whole: Whole, store: MemoryStore, wanted: str) -> None:
    """A restore of that archive ends before it has written a byte."""
    sink = ListSink()
    vault = open_vault(store, whole.owned.base, SystemClock())
    with pytest.raises(StandfastError):
        restore_from(vault, wanted, whole.owned.owner, sink)
    assert [] == sink.parts
    assert "" == sink.ended


def test_nothing_altered_passes(whole: Whole) -> None:
    """The untouched vault verifies, for both readers, and comes back."""
    assert (Verdict(0, ""), Verdict(0, "")) == judge(whole, whole.copy())
    assert incompressible(150_000, seed=150_000) == whole.owned.restored("three")


def altered(data: bytes, draw: Callable[[st.SearchStrategy[Any]], Any]) -> bytes:
    """Draw one change of an object's contents."""
    kind = draw(st.sampled_from(["flip", "cut", "head", "grow", "swap", "empty"]))
    if kind == "flip":
        place = draw(st.integers(0, len(data) - 1))
        mask = draw(st.integers(1, 255))
        return data[:place] + bytes([data[place] ^ mask]) + data[place + 1 :]
    if kind == "cut":
        count: int = draw(st.integers(0, len(data) - 1))
        return data[:count]
    if kind == "head":
        start: int = draw(st.integers(1, len(data)))
        return data[start:]
    if kind == "grow":
        more: bytes = draw(st.binary(min_size=1, max_size=40))
        return data + more
    if kind == "empty":
        return b""
    first = draw(st.integers(0, len(data) - 2))
    second = draw(st.integers(first + 1, len(data) - 1))
    fresh = bytearray(data)
    fresh[first], fresh[second] = fresh[second], fresh[first]
    return bytes(fresh)


@given(data=st.data())
def test_contents(whole: Whole, data: st.DataObject) -> None:
    """Any change of any one object's bytes is caught, named, and not restored."""
    store = whole.copy()
    names = whole.names()
    name = names[data.draw(st.integers(0, len(names) - 1))]
    fresh = altered(whole.objects[name], data.draw)
    if fresh == whole.objects[name]:
        return
    store.objects[name] = fresh
    assert_caught(whole, store, name)
    for number, wanted in enumerate(NAMES):
        if name in whole.of(number):
            assert_not_restored(whole, store, whole.archives[number])
            assert_not_restored(whole, store, wanted)


def test_every_bit_of_the_small_files(whole: Whole) -> None:
    """Each bit of the vault's document, of sums and of signatures counts."""
    small = [VAULT_DOCUMENT, SUMS, SIGNATURE]
    folder = f"archives/{whole.archives[0]}"
    small += [f"{folder}/{SUMS}", f"{folder}/{SIGNATURE}"]
    for name in small:
        good = whole.objects[name]
        for place in range(len(good)):
            store = whole.copy()
            bit = 1 << (place % 8)
            store.objects[name] = (
                good[:place] + bytes([good[place] ^ bit]) + good[place + 1 :]
            )
            verdict = verified(store, whole.owned.base)
            assert verdict.status in {10, 13, 14}, (name, place)
            assert_named(verdict, name)


def test_cuts_on_the_chunk_boundary(whole: Whole) -> None:
    """An age file cut just where one chunk ends, or a byte beside, is caught."""
    name = f"archives/{whole.archives[0]}/00000000.zst.age"
    good = whole.objects[name]
    boundary = parse_header(good).length + 16 + CHUNK
    assert boundary < len(good)
    for cut in (boundary - 1, boundary, boundary + 1, boundary - CHUNK, 65_536, 65_552):
        store = whole.copy()
        store.objects[name] = good[:cut]
        assert_caught(whole, store, name)
        assert_not_restored(whole, store, "one")


def test_each_object_deleted(whole: Whole) -> None:
    """No object can be missing."""
    for name in whole.objects:
        store = whole.copy()
        del store.objects[name]
        assert_caught(whole, store, name)


def test_two_objects_swapped(whole: Whole) -> None:
    """Any two objects in each other's place are caught, in one archive or two."""
    for first, second in itertools.combinations(whole.names(), 2):
        store = whole.copy()
        store.objects[first] = whole.objects[second]
        store.objects[second] = whole.objects[first]
        for verdict in judge(whole, store):
            assert verdict.status in {10, 13, 14}
            assert_named(verdict, first, second)


def test_the_same_segment_of_another_archive(whole: Whole) -> None:
    """A good, signed segment in the wrong archive is an altered one."""
    for one, other in itertools.permutations(whole.archives, 2):
        store = whole.copy()
        name = f"archives/{one}/00000000.zst.age"
        store.objects[name] = whole.objects[f"archives/{other}/00000000.zst.age"]
        assert_caught(whole, store, name)


def test_each_object_renamed(whole: Whole) -> None:
    """An object under another name is missing there and foreign here."""
    for name in whole.objects:
        folder, slash, last = name.rpartition("/")
        for fresh in (f"{folder}{slash}{last}.old", f"{folder}{slash}99999999.zst.age"):
            store = whole.copy()
            store.objects[fresh] = store.objects.pop(name)
            assert_caught(whole, store, name)


def test_each_object_duplicated(whole: Whole) -> None:
    """A second copy of anything is foreign."""
    for name in whole.objects:
        folder, slash, _ = name.rpartition("/")
        for last in ("copy", "00000077.zst.age"):
            fresh = f"{folder}{slash}{last}"
            store = whole.copy()
            store.objects[fresh] = store.objects[name]
            assert_caught(whole, store, fresh)


@pytest.mark.parametrize("folder", ["", "archives/", "{archive}/", "{archive}/deeper/"])
@pytest.mark.parametrize("kind", ["file", "folder", "other"])
def test_foreign_things(whole: Whole, folder: str, kind: str) -> None:
    """Nothing that no signature covers may lie anywhere in the vault."""
    place = folder.format(archive=f"archives/{whole.archives[1]}")
    name = f"{place}something"
    store = whole.copy()
    if kind == "file":
        store.objects[name] = b"x"
    else:
        store.others[name] = kind
    assert_caught(whole, store, name)


def test_what_looks_like_an_interrupted_send(whole: Whole) -> None:
    """Additions that pass, and which exactly: a send's own leftovers, each named.

    Another machine's interrupted send leaves nothing else, so no reader can tell
    the two apart; none of it is ever listed as a backup.
    """
    fresh = f"archives/{'ab' * 16}"
    for name in (f"{fresh}/00000000.zst.age", f"{fresh}/anything", f"{fresh}/.part-x"):
        store = whole.copy()
        store.objects[name] = b"x"
        for verdict in judge(whole, store):
            assert 0 == verdict.status
            assert verdict.text.startswith(f"leftover: {fresh}")
    part = f"archives/{whole.archives[0]}/.part-0123456789abcdef"
    store = whole.copy()
    store.objects[part] = b"x"
    for verdict in judge(whole, store):
        assert 0 == verdict.status
        assert verdict.text.startswith(f"leftover: {part}")
    store = whole.copy()
    store.objects[f"{fresh}/{SUMS}"] = b""
    ledger, stranger = judge(whole, store)
    assert (0, 14) == (ledger.status, stranger.status)


def moved(whole: Whole, old: str, new: str) -> MemoryStore:
    store = whole.copy()
    for name in list(store.objects):
        if name.startswith(f"{old}/"):
            store.objects[new + name.removeprefix(old)] = store.objects.pop(name)
    return store


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize(
    "fresh", ["archives/" + "0" * 32, "archives/other", "other", "archives/A/B"]
)
def test_an_archive_renamed(whole: Whole, number: int, fresh: str) -> None:
    """An archive counts under its signed id only."""
    old = f"archives/{whole.archives[number]}"
    store = moved(whole, old, fresh)
    ledger, stranger = judge(whole, store)
    assert 13 == ledger.status == stranger.status
    assert_named(ledger, old)
    assert_named(stranger, fresh)
    assert_not_restored(whole, store, whole.archives[number])


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("fresh", ["archives/" + "0" * 32, "archives/copy", "copy"])
def test_an_archive_duplicated(whole: Whole, number: int, fresh: str) -> None:
    """A copy of an archive is no second archive, and does not spoil the first."""
    old = f"archives/{whole.archives[number]}"
    store = whole.copy()
    for name in whole.of(number):
        store.objects[fresh + name.removeprefix(old)] = whole.objects[name]
    ledger, stranger = judge(whole, store)
    assert 13 == ledger.status == stranger.status
    assert_named(ledger, fresh)
    assert_named(stranger, fresh)
    vault = open_vault(store, whole.owned.base, SystemClock())
    restore_from(vault, NAMES[number], whole.owned.owner, ListSink())


@pytest.mark.parametrize("gone", list(itertools.product([False, True], repeat=3)))
def test_whole_archives_removed(whole: Whole, gone: tuple[bool, ...]) -> None:
    """The ledger misses each; a signer's key alone misses all but the last ones.

    What cannot be seen with the signer's key alone is exactly this: that a chain
    ends sooner than it did. Any gap in it is seen.
    """
    store = whole.copy()
    for number, removed in enumerate(gone):
        for name in whole.of(number) if removed else []:
            del store.objects[name]
    ledger, stranger = judge(whole, store)
    assert (13 if any(gone) else 0) == ledger.status
    for number, removed in enumerate(gone):
        assert removed == (f"archives/{whole.archives[number]}:" in ledger.text)
    unseen = list(gone) == sorted(gone)
    assert (0 if unseen else 13) == stranger.status, stranger


def test_an_old_signature_on_new_sums(whole: Whole) -> None:
    """Sums and signature of different archives do not fit, whichever was moved."""
    for one, other in itertools.permutations(whole.archives, 2):
        for moved_names in ((SIGNATURE,), (SUMS,), (SIGNATURE, SUMS)):
            store = whole.copy()
            for last in moved_names:
                source = whole.objects[f"archives/{other}/{last}"]
                store.objects[f"archives/{one}/{last}"] = source
            ledger, stranger = judge(whole, store)
            assert 13 == ledger.status
            assert stranger.status in {13, 14}
            assert_named(ledger, f"archives/{one}/{SIGNATURE}")
            assert_not_restored(whole, store, one)


def test_the_roots_signature_on_an_archive(whole: Whole) -> None:
    """A signature made for the vault's own files says nothing of an archive."""
    folder = f"archives/{whole.archives[2]}"
    store = whole.copy()
    for last in (SUMS, SIGNATURE):
        store.objects[f"{folder}/{last}"] = whole.objects[last]
    for verdict in judge(whole, store):
        assert verdict.status in {13, 14}
        assert_named(verdict, f"{folder}/{SIGNATURE}")


def test_an_archive_of_another_vault(whole: Whole, tmp_path: Path) -> None:
    """A good archive by the same signer, but of another vault, is refused."""
    other = make_owned(MemoryStore("other"), tmp_path / "state")
    state = other.vault().state.folder
    key = whole.owned.vault().state.folder / "signer.key"
    shutil.copy(key, state / "signer.key")
    sent = other.send("x", b"data")
    assert other.signer() == whole.signer
    store = whole.copy()
    folder = f"archives/{sent.archive}"
    for name in (e.name for e in other.store.entries() if e.kind == "file"):
        if name.startswith(folder):
            store.objects[name] = other.store.get(name, 1 << 20)
    for verdict in judge(whole, store):
        assert 14 == verdict.status
        assert_named(verdict, folder)
    assert_not_restored(whole, store, sent.archive)


def test_too_large_to_be_read(whole: Whole, tmp_path: Path) -> None:
    """Sums or signatures grown beyond any limit are not passed over."""
    lay_out(whole, tmp_path / "vault")
    folder = f"archives/{whole.archives[0]}"
    for name in (SUMS, SIGNATURE, f"{folder}/{SUMS}", f"{folder}/{SIGNATURE}"):
        path = tmp_path / "vault" / name
        os.truncate(path, 65 << 20)
        store = DirectoryStore(str(tmp_path / "vault"), Unlimited())
        verdict = verified(store, whole.stranger, (whole.signer,))
        assert 13 == verdict.status, name
        assert_named(verdict, name)
        path.write_bytes(whole.objects[name])


def test_objects_that_cannot_be_read(whole: Whole) -> None:
    """An object that is listed, but that nobody can hash, is not proven."""

    class Unreadable(MemoryStore):
        near = False
        lost = ""

        def digests(self, names: Iterable[str]) -> Iterator[tuple[str, str]]:
            return super().digests([name for name in names if name != self.lost])

    hashed = [n for n in whole.names() if n.rpartition("/")[2] not in {SUMS, SIGNATURE}]
    for name in hashed:
        store = Unreadable("memory")
        store.create()
        store.objects = dict(whole.objects)
        store.lost = name
        assert_caught(whole, store, name)
        if name.startswith("archives/"):
            assert_not_restored(whole, store, name.split("/")[1])


def lay_out(whole: Whole, folder: Path) -> None:
    for name, data in whole.objects.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


@pytest.mark.parametrize("how", ["link", "pipe", "folder", "hard link", "empty"])
def test_replaced_in_a_directory(whole: Whole, tmp_path: Path, how: str) -> None:
    """An object that became a link to its own copy, or a pipe, is no object."""
    root = tmp_path / "vault"
    lay_out(whole, root)
    for number, name in enumerate(sorted(whole.objects)):
        path = root / name
        kept = tmp_path / f"kept-{number}"
        path.rename(kept)
        if how == "link":
            path.symlink_to(kept)
        elif how == "pipe":
            os.mkfifo(path)
        elif how == "folder":
            path.mkdir()
        elif how == "empty":
            path.touch()
        else:
            os.link(kept, path)
        store = DirectoryStore(str(root), Unlimited())
        verdict = verified(store, whole.stranger, (whole.signer,))
        if how == "hard link":
            assert 0 == verdict.status, name
        else:
            assert verdict.status in {10, 13, 14}, name
            assert_named(verdict, name)
        path.rmdir() if how == "folder" else path.unlink()
        kept.rename(path)


@pytest.mark.system
def test_by_the_command(standfast: Standfast, vault: Made) -> None:
    """The command itself names the object, ends with 13, and restores nothing."""
    data = incompressible(200_000)
    standfast("backup", "send", "--stdin", "x", vault.path, stdin=data)
    (archive,) = vault.archives()
    out = standfast.folder / "out"
    for last in ("00000001.zst.age", "manifest.json.age", SUMS, SIGNATURE):
        path = archive / last
        good = path.read_bytes()
        for bad in (good[:-1], good + b"\0", b"", bytes([good[0] ^ 1]) + good[1:]):
            path.write_bytes(bad)
            ran = standfast("backup", "verify", vault.path, ok=13)
            expected = SIGNATURE if last == SUMS else last
            assert f"archives/{archive.name}/{expected}" in ran.out
            words = ("backup", "restore", vault.path, "x", "-o", out, "-i", vault.key)
            assert standfast(*words, ok=None).code in {13, 14}
            assert not out.exists()
        path.write_bytes(good)
    standfast("backup", "verify", vault.path)

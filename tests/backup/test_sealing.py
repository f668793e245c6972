"""Out and back through the library, at every edge of chunks and segments."""

from __future__ import annotations

import itertools
import os
import sys
from typing import TYPE_CHECKING

import pytest
from conftest import incompressible, sample
from hypothesis import example, given, settings
from hypothesis import strategies as st
from vaults import SMALL, ListSink, Owned, in_memory, make_owned, restore_from

from standfast.backup.compress import PIECE, Compressor, decompress_into
from standfast.backup.model import segment_name
from standfast.backup.plan import SendPlan
from standfast.backup.sealing import fingerprint, sealed_bound
from standfast.backup.send import Guard
from standfast.backup.vault import open_vault
from standfast.clock import SystemClock
from standfast.errors import DamagedError, StandfastError, StreamError
from standfast.testing.store import MemoryStore
from standfast.zfs.records import looks_like_stream

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EDGES = sorted(
    {
        abs(count * SMALL + more) or 1
        for count in (0, 1, 2, 3)
        for more in (-313, -312, -17, -1, 0, 1, 2)
    }
)
NOISE = incompressible(512 * 1024, seed=7)


def compress(data: memoryview, level: int) -> Iterator[bytes]:
    return Compressor(level).compress(data)


def decompress(data: bytes, size: int, step: int = 1 << 16) -> bytes:
    """Unpack what comes in pieces of ``step`` bytes."""
    out = bytearray(size)
    pieces = [data[start : start + step] for start in range(0, len(data), step)]
    with memoryview(out) as room:
        decompress_into(pieces, room)
    return bytes(out)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Owned:
    """One vault's memory; each example sends into an empty copy of the vault."""
    base = tmp_path_factory.mktemp("sealing")
    return make_owned(MemoryStore("memory"), base)


def there_and_back(owned: Owned, data: bytes, level: int = 3) -> MemoryStore:
    """Send, restore, compare, and check what was stored."""
    assert isinstance(owned.store, MemoryStore)
    store = in_memory(owned.store.objects)
    copy = Owned(store, owned.base, owned.owner)
    outcome = copy.send("x", data, level)
    segments = -(-len(data) // SMALL)
    folder = f"archives/{outcome.archive}"
    names = {n for n in store.objects if n.startswith(folder)}
    expected = {f"{folder}/{segment_name(i)}" for i in range(segments)}
    assert expected == {n for n in names if n.endswith(".zst.age")}
    assert len(data) == outcome.manifest.size
    sink = ListSink()
    assert data == copy.restored(outcome.archive, sink)
    assert "finished" == sink.ended
    return store


@pytest.mark.parametrize("size", EDGES)
def test_edges(state: Owned, size: int) -> None:
    """Every size beside a chunk's or a segment's edge comes back."""
    there_and_back(state, NOISE[:size])


@given(size=st.integers(1, 4 * SMALL), start=st.integers(0, 1000))
@settings(max_examples=20)
def test_any_size(state: Owned, size: int, start: int) -> None:
    """So does any other."""
    there_and_back(state, NOISE[start : start + size])


def mixed(pieces: list[tuple[bool, int]]) -> bytes:
    return b"".join(
        (NOISE * 5)[:size] if dense else b"text " * (size // 5)
        for dense, size in pieces
    )


PIECES = st.lists(
    st.tuples(st.booleans(), st.integers(1, PIECE * 2)), min_size=1, max_size=4
)


@given(pieces=PIECES, level=st.sampled_from([1, 3, 9]))
@example(pieces=[(True, PIECE), (False, PIECE), (True, PIECE)], level=3)
@example(pieces=[(False, PIECE), (True, PIECE + 1)], level=3)
@settings(max_examples=15)
def test_frames(pieces: list[tuple[bool, int]], level: int) -> None:
    """Frames that change with the data give the data, and nothing over the bound."""
    data = mixed(pieces)
    packed = b"".join(compress(memoryview(data), level))
    assert data == decompress(packed, len(data))
    assert data == decompress(packed, len(data), 4999)
    assert len(packed) + 400 + 16 * (len(packed) // SMALL + 1) < sealed_bound(len(data))
    frames = 0
    rest = packed
    while rest:
        end = zstd.get_frame_size(rest)
        assert zstd.get_frame_info(rest[:end]).dictionary_id == 0
        assert rest[4] & 0b100, "every frame carries its checksum"
        rest = rest[end:]
        frames += 1
    assert frames >= 1


def test_frames_change_with_the_data() -> None:
    """Dense data goes through the fast setting, in a frame of its own."""
    data = mixed([(True, PIECE), (False, PIECE), (True, PIECE)])
    packed = b"".join(compress(memoryview(data), 3))
    frames = 0
    while packed:
        packed = packed[zstd.get_frame_size(packed) :]
        frames += 1
    assert 3 == frames


@pytest.mark.parametrize("size", [0, 1, 1000, PIECE])
def test_a_bomb(size: int) -> None:
    """A frame that grows past what the manifest says is refused, not unpacked."""
    bomb = b"".join(compress(memoryview(bytes(64 << 20)), 19))
    assert len(bomb) < 20_000
    with pytest.raises(DamagedError):
        decompress(bomb, size)
    with pytest.raises(DamagedError):
        decompress(b"".join(compress(memoryview(bytes(size + 1)), 3)), size)


def test_many_empty_frames() -> None:
    """Frames that give nothing change nothing, and end."""
    empty = b"".join(compress(memoryview(b""), 3))
    full = b"".join(compress(memoryview(b"data"), 3))
    assert b"data" == decompress(empty * 50 + full + empty * 50, 4)


PACKED = b"".join(compress(memoryview(b"some text " * 300), 3))


@given(cut=st.integers(0, len(PACKED) - 1), step=st.integers(1, 99))
def test_a_cut_frame(cut: int, step: int) -> None:
    """A frame without its end is refused."""
    with pytest.raises(DamagedError):
        decompress(PACKED[:cut], 3000, step)


@given(first=st.integers(1, 3000), step=st.integers(1, 99))
def test_frames_in_any_pieces(first: int, step: int) -> None:
    """Where a piece ends means nothing, in a frame or between two."""
    data = b"some text " * 300
    packed = b"".join(compress(memoryview(data[:first]), 3))
    packed += b"".join(compress(memoryview(data[first:]), 3))
    assert data == decompress(packed, len(data), step)


def test_a_compressor_serves_again() -> None:
    """One compressor makes segment after segment."""
    compressor = Compressor(3)
    for data in (NOISE, b"text" * 99_999, NOISE[:70_000] + bytes(PIECE)):
        packed = b"".join(compressor.compress(memoryview(data)))
        assert data == decompress(packed, len(data))


@given(more=st.binary(min_size=1, max_size=40))
@example(more=b"\0")
@example(more=PACKED[:10])
@example(more=PACKED)
def test_trailing_bytes(more: bytes) -> None:
    """Bytes behind the last frame are refused, unless they are nothing's frame."""
    try:
        assert b"some text " * 300 == decompress(PACKED + more, 3000)
    except DamagedError:
        return
    assert more[1:4] == b"\x2a\x4d\x18" or more[:4] == b"\x28\xb5\x2f\xfd"


@given(place=st.integers(0, len(PACKED) - 1), mask=st.integers(1, 255))
def test_an_altered_frame(place: int, mask: int) -> None:
    """A frame's checksum sees what decompression did not."""
    bad = PACKED[:place] + bytes([PACKED[place] ^ mask]) + PACKED[place + 1 :]
    try:
        assert b"some text " * 300 == decompress(bad, 3000)
    except DamagedError:
        return


def test_fingerprints() -> None:
    """The fingerprint hangs on key, index and every byte."""
    key = bytes(32)
    marks = {
        fingerprint(key, 0, b"data"),
        fingerprint(key, 1, b"data"),
        fingerprint(key, 0, b"Data"),
        fingerprint(b"\1" + key[1:], 0, b"data"),
        fingerprint(key, 0, b""),
    }
    assert 5 == len(marks)
    assert {32} == {len(mark) for mark in marks}


def test_nothing_is_no_backup(tmp_path: Path) -> None:
    """An empty stream is refused, and leaves nothing that counts."""
    owned = make_owned(MemoryStore(), tmp_path)
    with pytest.raises(StreamError, match="nothing came"):
        owned.send("x", b"")
    vault = owned.vault()
    judged, _ = vault.survey(vault.trust([]))
    assert [] == [a for a in judged.archives if a.standing == "committed"]


def cuts_of(data: bytes, cuts: list[int]) -> list[memoryview]:
    places = [0, *sorted(c % (len(data) + 1) for c in cuts), len(data)]
    view = memoryview(data)
    return [view[a:b] for a, b in itertools.pairwise(places)]


HEADS = (b"x", b"\0" * 400, os.urandom(311), b"\xac\xcb\xba\xf5\x02" + bytes(500))


@given(
    data=st.one_of(st.sampled_from(HEADS), st.binary(min_size=1, max_size=700)),
    cuts=st.lists(st.integers(0, 10_000), max_size=12),
)
def test_opaque_bytes_in_any_pieces(data: bytes, cuts: list[int]) -> None:
    """What the guard says of bytes does not hang on how they are cut."""
    assert judged([memoryview(data)]) == judged(cuts_of(data, cuts))


def judged(pieces: list[memoryview]) -> object:
    guard = Guard(None)
    try:
        for piece in pieces:
            guard.see(piece)
        return guard.finish()
    except StandfastError as error:
        return (type(error), error.message)


@given(cuts=st.lists(st.integers(0, 1 << 20), max_size=12), short=st.integers(0, 2))
@settings(max_examples=30)
def test_a_stream_in_any_pieces(cuts: list[int], short: int) -> None:
    """Nor what it says of a real send stream, whole or cut."""
    packed = sample("streams", "zfs-fuse", "full_s3.zs.zst").read_bytes()
    data = zstd.decompress(packed)
    assert looks_like_stream(data[:400])
    data = data[: len(data) - short]
    assert judged([memoryview(data)]) == judged(cuts_of(data, cuts))


def test_a_promised_stream_must_be_one() -> None:
    """Where zfs send was asked, other bytes are refused at their first segment."""
    guard = Guard(SendPlan("x", (), 1234, 0, ""))
    with pytest.raises(StreamError, match="no send stream"):
        guard.see(memoryview(b"x" * 500))


def test_a_segment_that_cannot_be_fetched(state: Owned) -> None:
    """A store that fails in mid-restore leaves a sink that was abandoned."""
    assert isinstance(state.store, MemoryStore)
    store = in_memory(state.store.objects)
    outcome = Owned(store, state.base, state.owner).send("x", NOISE[: 4 * SMALL])

    class Losing(MemoryStore):
        near = False

        def get(self, name: str, limit: int) -> bytes:
            if name.endswith("00000003.zst.age"):
                return super().get(name, limit)[:-1]
            return super().get(name, limit)

    losing = Losing("memory")
    losing.create()
    losing.objects = store.objects
    vault = open_vault(losing, state.base, SystemClock())
    sink = ListSink()
    with pytest.raises(DamagedError, match="00000003"):
        restore_from(vault, outcome.archive, state.owner, sink)
    assert "abandoned" == sink.ended
    assert NOISE.startswith(sink.data())

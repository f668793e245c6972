"""The rest of a stored stream is a stream that a receiver can go on with."""

from __future__ import annotations

import bz2
import zlib
from struct import pack, unpack_from

import pytest
from conftest import sample
from hypothesis import given
from hypothesis import strategies as st

from standfast.errors import StreamError
from standfast.zfs.nvlist import parse_nvlist
from standfast.zfs.records import StreamCheck
from standfast.zfs.resuming import ResumedStream, Resumption, parse_token

HEADER = 312
LONG = (1 << 64) - 1


def test_the_list_reads_back() -> None:
    """What BEGIN carries is a list as kernels write it."""
    assert {"resume_object": 7, "resume_offset": LONG} == parse_nvlist(
        Resumption(1, 7, LONG).payload()
    )


@given(guid=st.integers(1, LONG), number=st.integers(0, LONG), text=st.text())
def test_tokens(guid: int, number: int, text: str) -> None:
    """A token says where; anything else says nothing."""
    pairs = b"".join(
        pack("<ihhii", size, len(name) + 1, 0, 1, 8)
        + name.ljust(size - 24, b"\0")
        + pack("<Q", value)
        for name, size, value in (
            (b"object", 32, number),
            (b"offset", 32, 5),
            (b"toguid", 32, guid),
        )
    )
    packed = pack("<BBHiI", 0, 1, 0, 0, 1) + pairs + bytes(4)
    token = f"1-abc-{len(packed):x}-{zlib.compress(packed).hex()}"
    assert Resumption(guid, number, 5) == parse_token(token)
    assert parse_token(text) is None
    assert parse_token(f"1-abc-5-{text}") is None


def places(stream: bytes) -> list[tuple[int, int]]:
    """Return (object, offset) of every OBJECT and WRITE of a stream."""
    found: list[tuple[int, int]] = []

    class Listener:
        def begin(self, *_: object, **__: object) -> None:
            """Nothing is told of it here."""

        def records(
            self, view: memoryview, where: int, starts: list[int], until: int
        ) -> None:
            del where, until
            for at in starts:
                kind, number = unpack_from("<I4xQ", view, at)
                if kind in (1, 3):
                    offset = unpack_from("<Q", view, at + 24)[0] if kind == 3 else 0
                    found.append((number, offset))

    check = StreamCheck(Listener())  # type: ignore[arg-type]
    check.feed(stream)
    check.finish()
    return found


def resumed(stream: bytes, start: Resumption, step: int = 1 << 20) -> bytes:
    made = ResumedStream(start)
    view = memoryview(stream)
    pieces = [view[at : at + step] for at in range(0, len(view), step)]
    return b"".join(part for piece in pieces for part in made.feed(piece))


@pytest.mark.parametrize("name", ["tiny-full.zfs", "tiny-incremental.zfs"])
def test_from_every_place(name: str) -> None:
    """From each record on, the rest is a whole stream with right checksums."""
    stream = sample("streams", "explore", name).read_bytes()
    check = StreamCheck()
    check.feed(stream)
    facts = check.finish()
    wanted = places(stream)
    for index in range(0, len(wanted), max(1, len(wanted) // 25)):
        number, offset = wanted[index]
        first = wanted.index((number, offset))
        rest = resumed(stream, Resumption(facts.toguid, number, offset), 5_000)
        check = StreamCheck()
        check.feed(rest)
        found = check.finish()
        assert "RESUMING" in found.features
        assert (facts.toguid, facts.fromguid) == (found.toguid, found.fromguid)
        assert wanted[first:] == places(rest)
        list_at = memoryview(rest)[HEADER : HEADER + 96]
        assert {"resume_object": number, "resume_offset": offset} == parse_nvlist(
            bytes(list_at)
        )


def test_pieces_of_any_size() -> None:
    """How the stream is cut into pieces does not matter."""
    stream = sample("streams", "explore", "tiny-full.zfs").read_bytes()
    number, offset = places(stream)[-1]
    start = Resumption(1, number, offset)
    once = resumed(stream, start, len(stream))
    for step in (313, 1_000, 65_536):
        assert once == resumed(stream, start, step)


@pytest.mark.parametrize(
    "name", ["decompress-crypt", "big-endian-all-drr-types-base-XDR"]
)
def test_streams_that_are_left_alone(name: str) -> None:
    """Raw, byte-swapped and compound streams are refused at their BEGIN."""
    packed = sample("streams", "openzfs", f"{name}.zsend.bz2").read_bytes()
    with pytest.raises(StreamError):
        resumed(bz2.decompress(packed), Resumption(1, 1, 0))

"""The stream checker takes every whole stream and refuses every other.

The streams here are made by a slow, independent sender (Sender below), and, where
the sample streams lie beside the checkout, taken from real senders.
"""

from __future__ import annotations

import bz2
import struct
import tracemalloc
from functools import cache
from pathlib import Path

import pytest
from backports import zstd
from hypothesis import example, given, settings
from hypothesis import strategies as st

from standfast.errors import StreamError
from standfast.zfs.records import (
    RECOGNISE_BYTES,
    StreamCheck,
    StreamFacts,
    Substream,
    looks_like_stream,
)

STREAMS = Path(__file__).parents[3] / "shared" / "data" / "streams"

MAGIC = 0x2F5BACBAC
BEGIN, OBJECT, FREEOBJECTS, WRITE, FREE, END = range(6)
BYREF, SPILL, EMBEDDED, RANGE, REDACT = range(6, 11)
SUBSTREAM, COMPOUND = 1, 2
SA_SPILL = 1 << 4

# offset in the record -> (struct code, value)
Fields = dict[int, tuple[str, int]]


class Sender:
    """Writes streams record by record; sums them word by word.

    With recorded=False no record but END holds a checksum, as in old senders.
    """

    def __init__(self, order: str = "<", *, recorded: bool = True) -> None:
        self.order = order
        self.recorded = recorded
        self.out = bytearray()
        self.guid = 0
        self.sums = (0, 0, 0, 0)

    def absorb(self, data: bytes) -> None:
        a, b, c, d = self.sums
        for (word,) in struct.iter_unpack(self.order + "I", data):
            a = (a + word) % 2**64
            b = (b + a) % 2**64
            c = (c + b) % 2**64
            d = (d + c) % 2**64
        self.sums = (a, b, c, d)
        self.out += data

    def record(self, kind: int, fields: Fields, payload: bytes = b"") -> None:
        header = bytearray(312)
        struct.pack_into(self.order + "I", header, 0, kind)
        for offset, (code, value) in fields.items():
            struct.pack_into(self.order + code, header, offset, value)
        self.absorb(bytes(header[:280]))
        tail = struct.pack(self.order + "4Q", *self.sums)
        self.absorb(tail if self.recorded else bytes(32))
        self.absorb(payload)

    def begin(
        self,
        name: str,
        guid: int,
        *,
        base: int = 0,
        version: int = SUBSTREAM,
        payload: bytes = b"",
    ) -> None:
        self.sums = (0, 0, 0, 0)
        self.guid = guid
        header = bytearray(312)
        front = (BEGIN, len(payload), MAGIC, version, 1234, 2, 0, guid, base)
        struct.pack_into(self.order + "IIQQQIIQQ", header, 0, *front)
        header[56 : 56 + len(name)] = name.encode()
        self.absorb(bytes(header) + payload)

    def write(self, number: int, data: bytes, **changed: tuple[str, int]) -> None:
        fields: Fields = {
            8: ("Q", number),
            16: ("I", 19),
            32: ("Q", len(data)),
            40: ("Q", self.guid),
        }
        fields |= {int(offset[1:]): value for offset, value in changed.items()}
        self.record(WRITE, fields, data)

    def free(self, number: int) -> None:
        self.record(FREE, {8: ("Q", number), 32: ("Q", self.guid)})

    def end(self) -> None:
        recorded, self.recorded = self.recorded, self.recorded and self.guid != 0
        sums: Fields = {8 + 8 * i: ("Q", value) for i, value in enumerate(self.sums)}
        self.record(END, sums | {40: ("Q", self.guid)})
        self.recorded = recorded

    def last_end(self) -> None:
        self.out += struct.pack(self.order + "I", END) + bytes(308)

    def snapshot(self, name: str, guid: int, *, base: int = 0) -> None:
        """Send a whole substream with a little of everything."""
        self.begin(name, guid, base=base, version=SUBSTREAM | SA_SPILL)
        self.write(1, name.encode()[:4] * 6)
        self.free(2)
        self.end()


def single(order: str = "<", *, recorded: bool = True) -> bytes:
    """Return the smallest stream that has a payload and a checksum in each place."""
    sender = Sender(order, recorded=recorded)
    sender.begin("p/fs@s", 77, version=SUBSTREAM | SA_SPILL)
    sender.write(1, b"sixteen bytes..!")
    sender.free(2)
    sender.end()
    return bytes(sender.out)


def every_type(order: str = "<", *, recorded: bool = True) -> bytes:
    """Return a stream with every record type and every rule of payload length."""
    sender = Sender(order, recorded=recorded)
    guid = ("Q", 2**64 - 3)
    sender.begin("p/fs@every", guid[1], base=5, payload=bytes(12))
    sender.record(RANGE, {8: ("Q", 0), 16: ("Q", 32), 24: guid})
    one: Fields = {8: ("Q", 1), 24: ("I", 512), 40: guid}
    sender.record(OBJECT, one | {28: ("I", 13)}, b"bonus, padded!!!")
    sender.record(OBJECT, one | {28: ("I", 13), 36: ("I", 4), 34: ("B", 32)}, b"raw!")
    sender.record(OBJECT, one | {8: ("Q", 2**48 - 1)})
    sender.record(FREEOBJECTS, {8: ("Q", 5), 16: ("Q", 2**64 - 6), 24: guid})
    sender.write(3, bytes(512))
    sender.write(3, b"packed..", x32=("Q", 1024), x50=("B", 15), x96=("Q", 8))
    sender.write(4, b"longer than it says.", x32=("Q", 4), x50=("B", 2), x96=("Q", 20))
    sender.record(FREE, {8: ("Q", 3), 24: ("Q", 2**64 - 1), 32: guid})
    sender.record(BYREF, {8: ("Q", 3), 32: guid})
    sender.record(SPILL, {8: ("Q", 3), 16: ("Q", 8), 24: guid}, b"spilled!")
    spilled: Fields = {8: ("Q", 3), 16: ("Q", 512), 24: guid, 40: ("Q", 4)}
    sender.record(SPILL, spilled, b"four")
    inside: Fields = {8: ("Q", 3), 24: ("Q", 512), 32: guid, 48: ("I", 512)}
    sender.record(EMBEDDED, inside | {52: ("I", 9)}, b"embedded" + bytes(8))
    sender.record(REDACT, {8: ("Q", 3), 32: guid})
    sender.end()
    return bytes(sender.out)


def xdr_text(text: str) -> bytes:
    return struct.pack(">I", len(text)) + text.encode() + bytes(-len(text) % 4)


def xdr(tree: dict[str, object]) -> bytes:
    """Pack nested lists of numbers, texts and True, without the four-byte head."""
    out = struct.pack(">iI", 0, 1)
    for name, value in tree.items():
        kind, count, packed = 1, 0, b""
        if isinstance(value, dict):
            kind, count, packed = 19, 1, xdr(value)
        elif isinstance(value, str):
            kind, count, packed = 9, 1, xdr_text(value)
        elif value is not True:
            kind, count, packed = 8, 1, struct.pack(">Q", value)
        body = xdr_text(name) + struct.pack(">ii", kind, count) + packed
        out += struct.pack(">ii", len(body) + 8, 0) + body
    return out + bytes(8)


Snapshot = tuple[str, int, int]
CHAIN: list[Snapshot] = [("p/a@s1", 11, 0), ("p/a@s2", 12, 11)]
CHILD: list[Snapshot] = [("p/a/b@s1", 21, 0), ("p/a/b@s2", 22, 21)]
LISTED: dict[str, object] = {
    "tosnap": "s2",
    "fss": {
        "0x1": {"name": "p/a", "snaps": {"s1": 11, "s2": 12}},
        "0x2": {"name": "p/a/b", "snaps": {"s1": 21, "s2": 22}},
    },
}


def compound(
    streams: list[Snapshot], header: dict[str, object] | None = None, order: str = "<"
) -> bytes:
    sender = Sender(order)
    payload = b"" if header is None else b"\1\1\0\0" + xdr(header)
    sender.begin("p/a@s2", 0, version=COMPOUND, payload=payload)
    sender.end()
    for name, guid, base in streams:
        sender.snapshot(name, guid, base=base)
    sender.last_end()
    return bytes(sender.out)


def check(stream: bytes, sizes: list[int] | None = None) -> StreamFacts:
    """Feed a stream in pieces of the given sizes, over and over."""
    checker = StreamCheck()
    at = turn = 0
    while at < len(stream):
        size = sizes[turn % len(sizes)] if sizes else len(stream)
        checker.feed(memoryview(stream)[at : at + size])
        at, turn = at + size, turn + 1
    return checker.finish()


def outcome(stream: bytes, sizes: list[int] | None = None) -> StreamFacts | str:
    try:
        return check(stream, sizes)
    except StreamError as error:
        return error.message


GOOD = {
    "single": single(),
    "single, big-endian": single(">"),
    "single, old sender": single(recorded=False),
    "every type": every_type(),
    "every type, big-endian": every_type(">"),
    "every type, old sender": every_type(">", recorded=False),
    "compound": compound(CHAIN + CHILD, LISTED),
    "compound without a list": compound(CHAIN, None, ">"),
}
good = pytest.mark.parametrize("name", GOOD)


# What a stream says of itself


def test_facts_of_a_single_stream() -> None:
    stream = single(">")
    assert check(stream) == StreamFacts(
        bytes=len(stream),
        records=4,
        compound=False,
        big_endian=True,
        raw=False,
        features=("SA_SPILL",),
        streams=(Substream("p/fs@s", 77, 0, 1234, "filesystem", ("SA_SPILL",)),),
        toname="p/fs@s",
        toguid=77,
        fromguid=0,
    )


def test_facts_of_a_compound_stream_are_those_of_the_dataset_it_is_named_for() -> None:
    inner = [("p/a/b@s1", 21, 0), ("p/a@s1", 11, 9), ("p/a@s2", 12, 11)]
    facts = check(compound(inner))
    assert (facts.toname, facts.toguid, facts.fromguid) == ("p/a@s2", 12, 9)
    assert (facts.compound, facts.records) == (True, 2 + 3 * 4 + 1)
    assert [(s.toname, s.toguid, s.fromguid) for s in facts.streams] == inner


def test_features_are_named_and_unknown_ones_numbered() -> None:
    sender = Sender()
    bits = (20, 24, 25, 40)
    version = SUBSTREAM | sum(1 << (bit + 2) for bit in bits)
    sender.begin("p@s", 1, version=version)
    sender.end()
    facts = check(bytes(sender.out))
    assert facts.features == ("FEATURE_40", "RAW", "RESUMING", "ZSTD")
    assert facts.raw


def test_name_and_guid_are_known_once_the_first_record_is_there() -> None:
    checker = StreamCheck()
    checker.feed(single()[:311])
    assert (checker.name, checker.guid) == ("", 0)
    checker.feed(single()[311:312])
    assert (checker.name, checker.guid) == ("p/fs@s", 77)


def test_a_stream_is_recognised_by_its_first_record() -> None:
    for stream in GOOD.values():
        assert looks_like_stream(stream[:RECOGNISE_BYTES])
        assert looks_like_stream(memoryview(stream)[:16])
        assert not looks_like_stream(stream[:15])
        assert not looks_like_stream(b"\1" + stream[1:])
        assert not looks_like_stream(stream[:8] + b"\1" + stream[9:])
    assert not looks_like_stream(b"")


# Pieces


@settings(deadline=None)
@given(
    name=st.sampled_from(sorted(GOOD)),
    sizes=st.lists(st.integers(1, 700), min_size=1, max_size=5),
    damage=st.one_of(
        st.none(), st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 7))
    ),
    tail=st.sampled_from([b"", b"\0", b"more" * 99]),
)
@example(name="every type", sizes=[1], damage=None, tail=b"")
@example(name="compound", sizes=[1], damage=None, tail=b"")
@example(name="compound", sizes=[312], damage=None, tail=b"\0")
def test_the_outcome_does_not_depend_on_the_pieces(
    name: str, sizes: list[int], damage: tuple[float, int] | None, tail: bytes
) -> None:
    """Facts are the same, and so is the first error, to the byte."""
    stream = bytearray(GOOD[name] + tail)
    if damage is not None:
        stream[int(damage[0] * len(stream))] ^= 1 << damage[1]
    expected = outcome(bytes(stream))
    assert outcome(bytes(stream), sizes) == expected
    assert isinstance(expected, str) == (damage is not None or tail != b"")


def test_pieces_may_be_empty_and_of_any_type() -> None:
    checker = StreamCheck()
    stream = single()
    for piece in (b"", bytearray(stream[:400]), memoryview(stream)[400:], b""):
        checker.feed(piece)
    assert checker.finish() == check(stream)


def test_payload_is_not_copied() -> None:
    size = 16 << 20
    sender = Sender()
    sender.begin("p@s", 7)
    fields: Fields = {8: ("Q", 1), 32: ("Q", size), 40: ("Q", 7)}
    sender.record(WRITE, fields)
    checker = StreamCheck()
    checker.feed(sender.out)
    payload = memoryview(bytes(size))
    tracemalloc.start()
    try:
        checker.feed(payload[:-3])
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < size // 4


# Cut


@good
def test_every_beginning_of_a_stream_is_refused_as_cut(name: str) -> None:
    stream = GOOD[name]
    edges = range(0, len(stream), 1 if len(stream) < 1500 else 13)
    for cut in {*edges, *range(0, len(stream), 4)} - {len(stream)}:
        message = outcome(stream[:cut])
        assert isinstance(message, str)
        assert message.startswith("stream is cut: "), cut


@pytest.mark.parametrize(
    ("name", "cut", "why"),
    [
        ("single", 0, "it is empty"),
        ("single", 311, "it ends after 311 bytes, inside a record's header"),
        ("single", 626, "it ends after 626 bytes, inside a payload"),
        ("single", 640, "it ends after 640 bytes, before the END record of a"),
        ("compound", -312, "before the last END record of the compound stream"),
        ("compound", -624, "before the END record of a substream"),
        ("compound without a list", 312, "before the compound header's END record"),
    ],
)
def test_where_a_stream_is_cut_is_said(name: str, cut: int, why: str) -> None:
    with pytest.raises(StreamError, match=why):
        check(GOOD[name][:cut])


@good
@pytest.mark.parametrize("tail", [b"\0", bytes(312), single()])
def test_bytes_after_the_end_are_refused(name: str, tail: bytes) -> None:
    stream = GOOD[name]
    expected = f"stream is corrupt at byte {len(stream)}: data after the end of the "
    expected += "stream"
    assert outcome(stream + tail) == expected
    checker = StreamCheck()
    checker.feed(stream)
    with pytest.raises(StreamError, match="data after the end"):
        checker.feed(tail)


# Corrupt


@pytest.mark.parametrize("name", ["single", "single, big-endian", "single, old sender"])
def test_every_single_flipped_bit_is_refused(name: str) -> None:
    """All bits of all records, END's included, with and without checksums."""
    stream = bytearray(GOOD[name])
    accepted = []
    for bit in range(8 * len(stream)):
        stream[bit // 8] ^= 1 << bit % 8
        if not isinstance(outcome(bytes(stream)), str):
            accepted.append(bit)
        stream[bit // 8] ^= 1 << bit % 8
    assert accepted == []


@settings(deadline=None, max_examples=400)
@given(
    name=st.sampled_from(sorted(GOOD)),
    place=st.floats(0, 1, exclude_max=True),
    mask=st.integers(1, 255),
)
def test_a_changed_byte_anywhere_is_refused(name: str, place: float, mask: int) -> None:
    stream = bytearray(GOOD[name])
    stream[int(place * len(stream))] ^= mask
    with pytest.raises(StreamError):
        check(bytes(stream))


def test_a_recorded_checksum_reports_damage_at_the_next_record() -> None:
    stream = bytearray(single())
    stream[630] ^= 1
    checker = StreamCheck()
    with pytest.raises(StreamError, match=r"at byte 640: the checksum in this record"):
        checker.feed(stream[: 640 + 312])


def test_without_recorded_checksums_damage_is_found_at_the_end() -> None:
    stream = bytearray(single(recorded=False))
    stream[630] ^= 1
    checker = StreamCheck()
    checker.feed(stream[:-312])
    with pytest.raises(StreamError, match=r"at byte 952: the END record's checksum"):
        checker.feed(stream[-312:])


def test_after_an_error_nothing_is_accepted_any_more() -> None:
    checker = StreamCheck()
    with pytest.raises(StreamError, match="no send stream"):
        checker.feed(b"x" * 312)
    with pytest.raises(StreamError, match="no send stream"):
        checker.feed(single())
    with pytest.raises(StreamError, match="no send stream"):
        checker.finish()


def test_what_is_no_stream_is_said_to_be_none() -> None:
    assert outcome(b"#!/bin/sh\nexit 0\n" * 9) == (
        "stream is corrupt at byte 0: this is no send stream"
    )


GUID = ("Q", 7)
IMPOSSIBLE: list[tuple[str, int, Fields]] = [
    ("unknown record type 11", 11, {}),
    ("unknown record type 4294967295", 2**32 - 1, {}),
    ("impossible OBJECT", OBJECT, {8: ("Q", 0), 40: GUID}),
    ("impossible OBJECT", OBJECT, {8: ("Q", 2**48), 40: GUID}),
    ("impossible OBJECT", OBJECT, {8: ("Q", 1), 34: ("B", 33), 40: GUID}),
    ("impossible OBJECT", OBJECT, {8: ("Q", 1), 24: ("I", 2**24 + 1), 40: GUID}),
    ("impossible OBJECT", OBJECT, {8: ("Q", 1), 28: ("I", 2**32 - 1), 40: GUID}),
    ("impossible OBJECT", OBJECT, {8: ("Q", 1), 36: ("I", 2**31), 40: GUID}),
    ("impossible OBJECT", OBJECT, {8: ("Q", 1), 36: ("I", 30), 40: GUID}),
    ("impossible OBJECT_RANGE", RANGE, {8: ("Q", 2**48), 24: GUID}),
    ("impossible object number", FREE, {8: ("Q", 0), 32: GUID}),
    ("impossible object number", REDACT, {8: ("Q", 2**48), 32: GUID}),
    ("impossible object number", BYREF, {8: ("Q", 2**63), 32: GUID}),
    ("impossible WRITE", WRITE, {8: ("Q", 1), 32: ("Q", 0), 40: GUID}),
    ("impossible WRITE", WRITE, {8: ("Q", 1), 32: ("Q", 2**24 + 4), 40: GUID}),
    ("impossible WRITE", WRITE, {8: ("Q", 1), 32: ("Q", 2**63), 40: GUID}),
    ("impossible WRITE", WRITE, {8: ("Q", 1), 32: ("Q", 510), 40: GUID}),
    ("impossible WRITE", WRITE, {8: ("Q", 0), 32: ("Q", 512), 40: GUID}),
    (
        "impossible WRITE",
        WRITE,
        {8: ("Q", 1), 32: ("Q", 512), 40: GUID, 50: ("B", 2), 96: ("Q", 2**24 + 4)},
    ),
    ("impossible SPILL", SPILL, {8: ("Q", 1), 16: ("Q", 0), 24: GUID}),
    ("impossible SPILL", SPILL, {8: ("Q", 1), 16: ("Q", 2**25), 24: GUID}),
    ("impossible WRITE_EMBEDDED", EMBEDDED, {8: ("Q", 1), 32: GUID, 52: ("I", 113)}),
    ("a FREE of another snapshot", FREE, {8: ("Q", 1), 32: ("Q", 8)}),
    ("a WRITE of another", WRITE, {8: ("Q", 1), 32: ("Q", 512), 40: ("Q", 8)}),
    ("a BEGIN record instead of the END", BEGIN, {8: ("Q", MAGIC), 16: ("Q", 1)}),
]


@pytest.mark.parametrize(("why", "kind", "fields"), IMPOSSIBLE)
@pytest.mark.parametrize("order", ["<", ">"])
def test_what_no_sender_writes_is_refused_at_its_header(
    order: str, why: str, kind: int, fields: Fields
) -> None:
    """Its checksum is right; it is the value that cannot be."""
    sender = Sender(order)
    sender.begin("p@s", 7)
    sender.free(1)
    sender.record(kind, fields)
    with pytest.raises(StreamError, match=f"^stream is corrupt at byte 624: {why}"):
        StreamCheck().feed(sender.out)


@settings(deadline=None, max_examples=300)
@given(
    kind=st.integers(0, 11),
    body=st.binary(min_size=276, max_size=276),
    fields=st.dictionaries(
        st.sampled_from([8, 16, 24, 28, 32, 36, 40, 48, 52, 96]),
        st.tuples(st.just("I"), st.sampled_from([0, 1, 4, 7, 30, 2**14, 2**32 - 1])),
    ),
)
def test_any_record_is_taken_or_refused_never_stumbled_over(
    kind: int, body: bytes, fields: Fields
) -> None:
    sender = Sender(recorded=False)
    sender.begin("p@s", 7)
    header = bytearray(struct.pack("<I", kind) + body + bytes(32))
    for offset in (24, 32, 40):
        struct.pack_into("<Q", header, offset, 7)
    for offset, (code, value) in fields.items():
        struct.pack_into("<" + code, header, offset, value)
    with pytest.raises(StreamError):
        check(bytes(sender.out + header + bytes(1000)), [999])


@pytest.mark.parametrize(
    ("why", "version", "length"),
    [
        ("of type 0", 0, 0),
        ("of type 3", 3, 0),
        ("payload of 13 bytes", SUBSTREAM, 13),
        ("payload of 268435460 bytes", SUBSTREAM, (256 << 20) + 4),
        ("payload of 67108868 bytes", COMPOUND, (64 << 20) + 4),
    ],
)
def test_an_impossible_begin_is_refused(why: str, version: int, length: int) -> None:
    header = bytearray(312)
    struct.pack_into("<IIQQ", header, 0, BEGIN, length, MAGIC, version)
    with pytest.raises(StreamError, match=why):
        StreamCheck().feed(header)


def test_padding_of_end_must_be_zero_though_the_checksums_fit() -> None:
    sender = Sender(recorded=False)
    sender.begin("p@s", 7)
    sums: Fields = {8 + 8 * i: ("Q", value) for i, value in enumerate(sender.sums)}
    sender.record(END, sums | {40: ("Q", 7), 272: ("Q", 1)})
    with pytest.raises(StreamError, match="padding of an END"):
        check(bytes(sender.out))


def test_end_must_be_of_the_same_snapshot() -> None:
    sender = Sender()
    sender.begin("p@s", 7)
    sender.guid = 8
    sender.end()
    with pytest.raises(StreamError, match="an END of another snapshot: 0x8"):
        check(bytes(sender.out))


# Compound streams


def test_a_compound_stream_within_another_is_refused() -> None:
    stream = compound(CHAIN)
    with pytest.raises(StreamError, match="a BEGIN record of type 2"):
        check(stream[:-312] + stream)


def test_both_byte_orders_in_one_stream_are_refused() -> None:
    sender = Sender(">")
    sender.snapshot("p/a@s3", 13)
    with pytest.raises(StreamError, match="without its magic number"):
        check(compound(CHAIN)[:-312] + bytes(sender.out))


def test_records_other_than_end_in_the_compound_header_are_refused() -> None:
    sender = Sender()
    sender.begin("p@s", 0, version=COMPOUND)
    sender.free(1)
    with pytest.raises(StreamError, match="a FREE record instead of the compound"):
        StreamCheck().feed(sender.out)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("missing", range(4))
def test_a_removed_substream_is_missed_when_the_header_lists_it(
    order: str, missing: int
) -> None:
    inner = CHAIN + CHILD
    whole = check(compound(inner, LISTED, order))
    assert len(whole.streams) == 4
    left = inner[:missing] + inner[missing + 1 :]
    with pytest.raises(StreamError, match="stream is incomplete: it lacks"):
        check(compound(left, LISTED, order))


def test_without_a_list_the_chain_and_the_named_snapshot_are_all_there_is() -> None:
    """Old senders' -I: that the first is missing can only be known from elsewhere."""
    chain = [*CHAIN[:1], ("p/a@x", 15, 11), ("p/a@s2", 12, 15)]
    assert check(compound(chain)).fromguid == 0
    assert check(compound(chain[1:])).fromguid == 11
    with pytest.raises(StreamError, match="it lacks what p/a@s2 is incremental from"):
        check(compound([chain[0], chain[2]]))
    with pytest.raises(StreamError, match="it lacks p/a@s2"):
        check(compound(chain[:2]))
    with pytest.raises(StreamError, match="it lacks p/a@s2"):
        check(compound([]))


def listed(**more: object) -> dict[str, object]:
    """Return the list of one dataset, whose s1 is not in the stream."""
    entry: dict[str, object] = {"name": "p/a", "snaps": {"s1": 11, "s2": 12}}
    if "origin" in more:
        entry["origin"] = more.pop("origin")
    return {"tosnap": "s2", "fss": {"0x1": entry}, **more}


@pytest.mark.parametrize(
    ("header", "base"),
    [
        (listed(), 0),
        (listed(fromsnap="s1"), 11),
        (listed(origin=99), 99),
        (listed(not_recursive=True), 31),
    ],
)
def test_a_base_outside_the_stream_that_the_header_explains(
    header: dict[str, object], base: int
) -> None:
    """From fromsnap, a clone's origin, or one bookmark without recursion."""
    assert check(compound([("p/a@s2", 12, base)], header)).fromguid == base


@pytest.mark.parametrize(
    ("header", "base"),
    [
        (listed(), 11),
        (listed(fromsnap="s0"), 11),
        (listed(fromsnap="s1", not_recursive=True), 10),
        (listed(origin=99), 11),
    ],
)
def test_a_base_outside_the_stream_that_nothing_explains(
    header: dict[str, object], base: int
) -> None:
    with pytest.raises(StreamError, match="it lacks what p/a@s2 is incremental from"):
        check(compound([("p/a@s2", 12, base)], header))


@pytest.mark.parametrize(
    "header",
    [
        {"tosnap": "s2", "fss": "text"},
        {"tosnap": "s2", "fss": {"0x1": 3}},
        {"tosnap": "s2", "fss": {"0x1": {"name": "p/a"}}},
        {"fss": {"0x1": {"name": "p/a", "snaps": {"s2": 12}}}},
        {"tosnap": "s2", "fss": {"0x1": {"name": "p/a", "snaps": {"s2": "12"}}}},
    ],
)
def test_a_list_that_libzfs_does_not_make_is_refused(header: dict[str, object]) -> None:
    with pytest.raises(StreamError, match=r"^stream is (corrupt|incomplete): "):
        check(compound([("p/a@s2", 12, 0)], header))


def test_a_list_that_cannot_be_read_is_refused() -> None:
    sender = Sender()
    sender.begin("p/a@s2", 0, version=COMPOUND, payload=b"\1\1\0\0" * 2)
    sender.end()
    sender.snapshot("p/a@s2", 12)
    sender.last_end()
    with pytest.raises(StreamError, match="corrupt at byte 312: name-value list"):
        check(bytes(sender.out))


# Streams of real senders

OLD, NEW = (), ("SA_SPILL",)
PLAIN = ("COMPRESSED", "EMBED_DATA", "LZ4", "SA_SPILL", "ZSTD")
CRYPT = ("COMPRESSED", "LZ4", "RAW", "SA_SPILL")
DRR = ("COMPRESSED", "EMBED_DATA", "LZ4", "REDACTED", "SA_SPILL")
# file: toname, toguid, fromguid, records, substreams, features
SAMPLES: dict[str, tuple[str, int, int, int, int, tuple[str, ...]]] = {
    "explore/advanced-plain-full.zfs": (
        "labpool/zfse-plain-advanced@s1",
        0x60DA3BF9EBB416CF,
        0,
        52,
        1,
        PLAIN,
    ),
    "explore/advanced-plain-incremental.zfs": (
        "labpool/zfse-plain-advanced@s2",
        0x35CD5725F3517EFC,
        0x60DA3BF9EBB416CF,
        15,
        1,
        PLAIN,
    ),
    "explore/encrypted-raw-s1.zfs": (
        "labpool/zfse-encrypted-tiny@s1",
        0xC4AA85A9BF2590B7,
        0,
        38,
        1,
        CRYPT,
    ),
    "explore/tiny-full.zfs": (
        "labpool/zfs-send-tiny@base",
        0xFD55E3F3116CD177,
        0,
        41,
        1,
        NEW,
    ),
    "explore/tiny-incremental.zfs": (
        "labpool/zfs-send-tiny@incremental",
        0xF2C58E9E6A2DCDBB,
        0xFD55E3F3116CD177,
        29,
        1,
        NEW,
    ),
    "openzfs/big-endian-all-drr-types-base-NATIVE.zsend.bz2": (
        "test/source@baseline",
        0xA2AE713712D097D7,
        0,
        47,
        1,
        DRR,
    ),
    "openzfs/big-endian-all-drr-types-base-XDR.zsend.bz2": (
        "test/source@baseline",
        0xF8CD80220B548AA7,
        0,
        47,
        1,
        DRR,
    ),
    "openzfs/big-endian-long-payloads.zsend.bz2": (
        "test@long-payloads",
        0x8533D470F979C530,
        0,
        39,
        1,
        ("LARGE_BLOCKS", "SA_SPILL"),
    ),
    "openzfs/decompress-crypt.zsend.bz2": (
        "test/encrypted@decompression",
        0x450A5CF06223B0B6,
        0,
        39,
        1,
        CRYPT,
    ),
    "openzfs/decompress.zsend.bz2": (
        "test/unencrypted@decompression",
        0xD49D6D503880B9B2,
        0,
        39,
        1,
        PLAIN,
    ),
    "openzfs/dedup.zsend.bz2": (
        "test/fs@snap",
        0xDEB1337232F92A3E,
        0,
        152,
        2,
        ("DEDUP", "DEDUPPROPS", "SA_SPILL"),
    ),
    "openzfs/little-endian-all-drr-types-base-NATIVE.zsend.bz2": (
        "test/source@baseline",
        0x421D0579CC63E574,
        0,
        47,
        1,
        DRR,
    ),
    "openzfs/little-endian-all-drr-types-base-XDR.zsend.bz2": (
        "test/source@baseline",
        0xF3851FD58C3305C6,
        0,
        47,
        1,
        DRR,
    ),
    "openzfs/little-endian-all-drr-types-incr-NATIVE.zsend.bz2": (
        "test/redacted@clean",
        0x964950DE82B7D299,
        0x421D0579CC63E574,
        129,
        2,
        ("COMPRESSED", "EMBED_DATA", "LZ4", "RAW", "SA_SPILL"),
    ),
    "openzfs/little-endian-long-payloads.zsend.bz2": (
        "test@long-payloads",
        0x41657CFC6FA788D0,
        0,
        39,
        1,
        ("LARGE_BLOCKS", "SA_SPILL"),
    ),
    # Bad on purpose for a receiver, but whole: logical sizes below the packed ones.
    "openzfs/undersized-write-lsize.zsend.bz2": (
        "testpool/fs@snap0",
        0x0FB4BA0029287FB3,
        0,
        31,
        1,
        ("COMPRESSED", "LZ4", "SA_SPILL"),
    ),
    "zfs-fuse/D_s3.zs.zst": (
        "fmt/a@s3",
        0x3D4536EFF0D1DDE4,
        0,
        313,
        1,
        ("DEDUP", "DEDUPPROPS"),
    ),
    "zfs-fuse/I_s3.zs.zst": (
        "fmt/a@s3",
        0x3D4536EFF0D1DDE4,
        0xDED24EE0AEF00B78,
        1048,
        2,
        OLD,
    ),
    "zfs-fuse/full_s1x.zs.zst": (
        "fmt/a@s1x",
        0xDED24EE0AEF00B78,
        0,
        9190,
        1,
        OLD,
    ),
    "zfs-fuse/full_s3.zs.zst": ("fmt/a@s3", 0x3D4536EFF0D1DDE4, 0, 313, 1, OLD),
    "zfs-fuse/inc_s2.zs.zst": (
        "fmt/a@s2",
        0x6688CBC806E66068,
        0xDED24EE0AEF00B78,
        804,
        1,
        OLD,
    ),
    "zfs-fuse/inc_s3.zs.zst": (
        "fmt/a@s3",
        0x3D4536EFF0D1DDE4,
        0x6688CBC806E66068,
        241,
        1,
        OLD,
    ),
    "zfs-fuse/p_s3.zs.zst": ("fmt/a@s3", 0x3D4536EFF0D1DDE4, 0, 316, 1, OLD),
}
SMALL_SAMPLES = [
    "explore/encrypted-raw-s1.zfs",
    "explore/tiny-incremental.zfs",
    "openzfs/big-endian-all-drr-types-base-NATIVE.zsend.bz2",
    "openzfs/dedup.zsend.bz2",
    "openzfs/little-endian-all-drr-types-incr-NATIVE.zsend.bz2",
    "zfs-fuse/inc_s3.zs.zst",
]


@cache
def sample(name: str) -> bytes:
    path = STREAMS / name
    if not path.exists():
        pytest.skip("no sample streams beside the checkout")
    packed = path.read_bytes()
    if name.endswith(".bz2"):
        return bz2.decompress(packed)
    return zstd.decompress(packed) if name.endswith(".zst") else packed


@pytest.mark.parametrize("name", SAMPLES)
def test_streams_of_real_senders_are_accepted(name: str) -> None:
    stream = sample(name)
    facts = check(stream)
    toname, toguid, fromguid, records, substreams, features = SAMPLES[name]
    assert (facts.toname, facts.toguid, facts.fromguid) == (toname, toguid, fromguid)
    assert (facts.records, len(facts.streams)) == (records, substreams)
    assert facts.features == features
    assert facts.bytes == len(stream)
    assert facts.big_endian == ("big-endian" in name)
    assert facts.raw == ("RAW" in features)
    assert facts.compound == (stream[16 if not facts.big_endian else 23] & 3 == 2)
    assert check(stream, [100_003, 65536]) == facts


def test_two_streams_in_one_file_are_not_one_stream() -> None:
    """Each alone is whole; together there is data after the end of the first."""
    stream = sample("explore/multi-snapshot.zfs")
    with pytest.raises(StreamError, match="at byte 50448: data after the end"):
        check(stream)
    assert check(stream[:50448]).toname == "labpool/snapshot-select@s1"
    assert [s.toname for s in check(stream[50448:]).streams] == [
        "labpool/snapshot-select@s2",
        "labpool/snapshot-select@s3",
    ]


@settings(deadline=None, max_examples=150)
@given(
    name=st.sampled_from(SMALL_SAMPLES),
    place=st.floats(0, 1, exclude_max=True),
    bit=st.integers(0, 7),
)
def test_a_flipped_bit_in_a_real_stream_is_refused(
    name: str, place: float, bit: int
) -> None:
    stream = bytearray(sample(name))
    stream[int(place * len(stream))] ^= 1 << bit
    with pytest.raises(StreamError):
        check(bytes(stream))


@settings(deadline=None, max_examples=100)
@given(name=st.sampled_from(SMALL_SAMPLES), place=st.floats(0, 1, exclude_max=True))
def test_a_cut_real_stream_is_refused_as_cut(name: str, place: float) -> None:
    stream = sample(name)
    message = outcome(stream[: int(place * len(stream))])
    assert isinstance(message, str)
    assert message.startswith("stream is cut: ")


def test_a_real_compound_stream_without_its_last_dataset_is_refused() -> None:
    stream = sample("openzfs/dedup.zsend.bz2")
    second = stream.rindex(struct.pack("<Q", MAGIC)) - 8
    with pytest.raises(StreamError, match="it lacks test/fs/subfs@snap"):
        check(stream[:second] + stream[-312:])

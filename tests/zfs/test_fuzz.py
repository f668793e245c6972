"""Broken and hostile streams: an error in words, and nothing else, whatever they say.

Real streams are altered record by record and their checksums made good again, so that
what reads files meets what no checksum can stop. ``HYPOTHESIS_PROFILE=long`` tries
many more.
"""

from __future__ import annotations

import stat
import struct
import time
import tracemalloc
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING

import pytest
from conftest import sample
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from streammaker import simple_tree
from trees import objects_of, outline_of, read_sample

from standfast.backup.browse.files import walk
from standfast.errors import StandfastError
from standfast.zfs.filesystem import FileSystem, Volume
from standfast.zfs.fletcher import Fletcher4

if TYPE_CHECKING:
    from standfast.zfs.objects import Objects

SECRETS = (b"zfs-send-fixture-passphrase", b"password")
SAMPLES = (
    ("explore", "tiny-full.zfs"),
    ("explore", "encrypted-raw-s1.zfs"),
    ("openzfs", "decompress.zsend.bz2"),
    ("openzfs", "decompress-crypt.zsend.bz2"),
    ("openzfs", "little-endian-all-drr-types-base-NATIVE.zsend.bz2"),
    ("openzfs", "big-endian-all-drr-types-base-XDR.zsend.bz2"),
    ("zfs-fuse", "D_s3.zs.zst"),
)
BEGIN, END = 0, 5
# What breaks arithmetic: ends of integers, of blocks, of what a number may be.
EDGES: tuple[int, ...] = (
    0,
    1,
    2,
    7,
    511,
    512,
    1 << 17,
    1 << 24,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
)
EDGES += (1 << 32, 1 << 47, 1 << 48, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
READ_MOST, FILES_MOST = 1 << 20, 200
# Walking a sample of a few files takes 0.1 s; a loop takes for ever.
SECONDS, PEAK_BYTES = 30.0, 128 << 20


@dataclass(frozen=True)
class Stream:
    """A stream taken apart: (header, payload) of each record, and its byte order."""

    records: tuple[tuple[bytes, bytes], ...]
    order: str


@lru_cache(maxsize=16)
def taken_apart(data: bytes) -> Stream:
    order = "<" if struct.unpack_from("<Q", data, 8)[0] == 0x2F5BACBAC else ">"
    records, at = [], 0
    while at < len(data):
        head = data[at : at + 312]
        size = payload_size(order, head)
        records.append((head, data[at + 312 : at + 312 + size]))
        at += 312 + size
    return Stream(tuple(records), order)


def payload_size(order: str, head: bytes) -> int:
    """What follows a header; zfs_ioctl.h of OpenZFS, DRR_*_PAYLOAD_SIZE."""

    def field(layout: str, at: int) -> int:
        return int(struct.unpack_from(order + layout, head, at)[0])

    kind = field("I", 0)
    if kind == BEGIN:
        return field("I", 4)
    if kind == 1:
        return field("I", 36) or -(-field("I", 28) // 8) * 8
    if kind == 3:
        return field("Q", 96) if head[50] else field("Q", 32)
    if kind == 7:
        return field("Q", 40) or field("Q", 16)
    if kind == 8:
        return -(-field("I", 52) // 8) * 8
    return 0


def sealed_again(records: list[tuple[bytearray, bytes]], order: str) -> bytes:
    """Put records together with the checksums that they ought to have."""
    sums = Fletcher4(big_endian=order == ">")
    out = bytearray()
    for head, payload in records:
        (kind,) = struct.unpack_from(order + "I", head)
        if kind == BEGIN:
            sums.reset()
        elif kind == END and any(head[8:]):
            struct.pack_into(order + "4Q", head, 8, *sums.state)
        if kind != BEGIN:
            sums.update(bytes(head[:280]))
            if any(head[280:]):
                struct.pack_into(order + "4Q", head, 280, *sums.state)
            sums.update(bytes(head[280:]) + payload)
        else:
            sums.update(bytes(head) + payload)
        out += head + payload
    return bytes(out)


def altered(draw: st.DataObject, stream: Stream) -> bytes:
    records = [(bytearray(head), payload) for head, payload in stream.records]
    for _ in range(draw.draw(st.integers(1, 3))):
        index = draw.draw(st.integers(1, max(1, len(records) - 2)))
        head, payload = records[index]
        how = draw.draw(st.sampled_from(["field", "word", "payload", "twice", "gone"]))
        if how == "field":
            at = 8 * draw.draw(st.integers(1, 16))
            value = draw.draw(st.sampled_from(EDGES))
            struct.pack_into(stream.order + "Q", head, at, value)
        elif how == "word":
            at = draw.draw(st.integers(8, 143))
            head[at] = draw.draw(st.integers(0, 255))
        elif how == "payload" and payload:
            fresh = bytearray(payload)
            at = draw.draw(st.integers(0, len(fresh) - 1))
            if draw.draw(st.booleans()) and len(fresh) >= 8:
                at = min(at // 8 * 8, len(fresh) - 8)
                value = draw.draw(st.sampled_from(EDGES))
                struct.pack_into(stream.order + "Q", fresh, at, value)
            else:
                fresh[at] = draw.draw(st.integers(0, 255))
            records[index] = (head, bytes(fresh))
        elif how == "twice":
            there = draw.draw(st.integers(1, max(1, len(records) - 2)))
            records.insert(there, (bytearray(head), payload))
        elif how == "gone" and len(records) > 3:
            del records[index]
    return sealed_again(records, stream.order)


def look_everywhere(objects: Objects) -> int:
    """Do all that the commands do with a snapshot; return how much was readable."""
    try:
        volume = Volume(objects)
    except StandfastError:
        pass
    else:
        return sum(len(piece) for _, piece in islice(volume.contents(), 64))
    tree = FileSystem(objects)
    seen = 0
    for _path, entry in islice(walk(tree, tree.root, b""), FILES_MOST):
        try:
            attributes = tree.attributes(entry.number)
            tree.xattrs(attributes)
            if stat.S_ISLNK(attributes.mode):
                seen += len(tree.link(entry.number, attributes))
            if stat.S_ISREG(attributes.mode):
                for _, piece in islice(
                    tree.contents(entry.number, attributes.size), 64
                ):
                    seen += len(piece)
        except StandfastError:
            continue
    return seen


def attempt(data: bytes) -> None:
    """Look into a stream; only our own errors may come out, soon and cheaply."""
    begun = time.monotonic()
    tracemalloc.start()
    try:
        count = len(outline_of(data).substreams)
        for last in range(count):
            try:
                look_everywhere(objects_of(data, last=last, secrets=SECRETS))
            except StandfastError:
                continue
    except StandfastError:
        pass
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < PEAK_BYTES
    assert time.monotonic() - begun < SECONDS


@pytest.mark.parametrize("names", SAMPLES, ids=lambda names: names[1])
def test_the_samples_survive_being_taken_apart(names: tuple[str, str]) -> None:
    """What the alterations build on: unaltered, a stream is itself again."""
    data = read_sample(sample("streams", *names))
    stream = taken_apart(data)
    records = [(bytearray(head), payload) for head, payload in stream.records]
    assert data == sealed_again(records, stream.order)
    assert 0 < look_everywhere(objects_of(data, secrets=SECRETS))


@pytest.mark.parametrize("names", SAMPLES, ids=lambda names: names[1])
@settings(
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(draw=st.data())
def test_altered_streams_are_errors(
    names: tuple[str, str], draw: st.DataObject
) -> None:
    attempt(altered(draw, taken_apart(read_sample(sample("streams", *names)))))


@given(draw=st.data())
def test_altered_made_streams_are_errors(draw: st.DataObject) -> None:
    """The same where the samples are not at hand."""
    maker = simple_tree(
        [
            (b"file", 8, stat.S_IFREG),
            (b"deep", 9, stat.S_IFDIR),
            (b"link", 11, stat.S_IFLNK),
        ]
    )
    maker.file(8, b"hello" * 100)
    maker.folder(9, [(b"again", 8, stat.S_IFREG)])
    maker.file(11, b"target", mode=stat.S_IFLNK | 0o777)
    attempt(altered(draw, taken_apart(maker.done())))

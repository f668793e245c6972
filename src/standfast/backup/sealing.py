"""Plaintext segments become sealed objects, several at a time, in bounded memory.

One thread reads and checks the stream and fills a segment's buffer; workers
compress, encrypt, hash and store it. Buffers are made once and used again, since
giving fresh pages to the process costs more than the cipher does. The number of
workers bounds the memory: each holds one plaintext and one sealed segment.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import queue
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from standfast.backup.age import make_header
from standfast.backup.compress import Compressor
from standfast.backup.model import Segment, segment_name
from standfast.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from standfast.backup.age import ChunkSealer, Recipient
    from standfast.backup.stores import Store
    from standfast.backup.underway import Notes

CHUNK = 64 * 1024
# Two buffers a worker and one being filled; at 32 MiB a segment, four workers stay
# under the promised 400 MiB with the interpreter and its libraries.
BUFFER_BUDGET = 288 * MIB
MOST_WORKERS = 4
READ_BYTES = MIB


@dataclass(frozen=True)
class Recipe:
    """How segments are made.

    Attributes:
        recipient: whom they are sealed to.
        segment_size: plaintext bytes of each but the last.
        level: zstd level.
        fingerprint_key: 32 bytes, the archive's own.
    """

    recipient: Recipient
    segment_size: int
    level: int
    fingerprint_key: bytes


@dataclass(frozen=True)
class Past:
    """What an earlier run has stored of this archive, and where to note more.

    Attributes:
        notes: written to before an object is stored.
        segments: proven to lie in the store, by index.
        differs: told the index of a segment that the producer now gives otherwise.
    """

    notes: Notes
    segments: Mapping[int, Segment]
    differs: Callable[[int], None]


def fingerprint(key: bytes, index: int, data: bytes | bytearray | memoryview) -> str:
    """Return the AES-256-GMAC of a segment's plaintext, 32 hex digits.

    A keyed fingerprint: it runs at memory speed, which SHA-256 is far from, and
    whoever does not know the archive's key (it is in the
    sealed manifest) can aim no collision at it. NIST SP 800-38D; nonce: the index
    in 12 bytes, big-endian; the data is the associated data, the message is empty.
    ``openssl mac -cipher AES-256-GCM ... GMAC`` gives the same.
    """
    return AESGCM(key).encrypt(index.to_bytes(12, "big"), b"", data).hex()


class SealingLine:
    """Segments under way from a reader to a store."""

    def __init__(
        self,
        store: Store,
        folder: str,
        recipe: Recipe,
        progress: Callable[[int, int], None],
        past: Past | None = None,
        see: Callable[[str, memoryview], None] = lambda _name, _data: None,
    ) -> None:
        self._store = store
        self._folder = folder
        self._recipe = recipe
        self._progress = progress
        self._past = past
        self._see = see
        self._workers = worker_count(recipe.segment_size)
        self._plain: queue.SimpleQueue[mmap.mmap] = queue.SimpleQueue()
        self._places: queue.SimpleQueue[_Place] = queue.SimpleQueue()
        for _ in range(self._workers + 1):
            self._plain.put(make_buffer(recipe.segment_size))
        for _ in range(self._workers):
            out = make_buffer(sealed_bound(recipe.segment_size))
            self._places.put(_Place(out, Compressor(recipe.level)))

    def run(
        self,
        read: Callable[[memoryview], int],
        check: Callable[[memoryview], None],
        stop: Callable[[], None],
    ) -> list[Segment]:
        """Seal and store all that ``read`` gives, and return the segments in order.

        Args:
            read: fills (part of) a buffer and returns how much; 0 at the end.
            check: sees every byte once, in order, before it is sealed.
            stop: makes ``read`` return 0 though more may come; called from a worker
                that failed, since ``read`` may be waiting for a producer that pauses.

        Raises:
            Exception: whatever ``read``, ``check`` or the store raised; no more is
                read after that, and what was being stored has ended.
        """
        futures: list[Future[Segment]] = []
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="seal")
        try:
            while True:
                buffer = self._free_buffer(futures)
                count = self._fill(buffer, read, check)
                if count == 0:
                    break
                future = pool.submit(self._segment, len(futures), buffer, count)
                future.add_done_callback(lambda done: _stop_if_failed(done, stop))
                futures.append(future)
                if count < self._recipe.segment_size:
                    break
            return [future.result() for future in futures]
        except BaseException:
            # Workers may be waiting for a far end that never answers.
            self._store.close()
            raise
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _free_buffer(self, futures: list[Future[Segment]]) -> mmap.mmap:
        """Return a plaintext buffer; raise what a worker has raised meanwhile.

        A worker gives its buffer back whether it failed or not, so this wakes.
        """
        buffer = self._plain.get()
        for future in futures[-self._workers - 2 :]:
            if future.done():
                future.result()
        return buffer

    def _fill(
        self,
        buffer: mmap.mmap,
        read: Callable[[memoryview], int],
        check: Callable[[memoryview], None],
    ) -> int:
        size = self._recipe.segment_size
        filled = 0
        with memoryview(buffer) as view:
            while filled < size:
                with view[filled : min(size, filled + READ_BYTES)] as room:
                    count = read(room)
                    if count == 0:
                        break
                    with room[:count] as fresh:
                        check(fresh)
                filled += count
                self._progress(count, 0)
        return filled

    def _segment(self, index: int, buffer: mmap.mmap, count: int) -> Segment:
        place = self._places.get()
        try:
            try:
                with memoryview(buffer)[:count] as plain:
                    mark = fingerprint(self._recipe.fingerprint_key, index, plain)
                    known = self._stored(index, count, mark)
                    if known is not None:
                        return known
                    size = _seal(plain, place, self._recipe)
            finally:
                self._plain.put(buffer)
            with memoryview(place.out)[:size] as sealed:
                digest = hashlib.sha256(sealed).hexdigest()
                segment = Segment(
                    size=count, fingerprint=mark, object_size=size, sha256=digest
                )
                if self._past is not None:
                    self._past.notes.add(index, segment)
                self._see(segment_name(index), sealed)
                self._store.put(f"{self._folder}/{segment_name(index)}", sealed)
        finally:
            self._places.put(place)
        self._progress(0, size)
        return segment

    def _stored(self, index: int, count: int, mark: str) -> Segment | None:
        """Return the segment if an earlier run has stored this very plaintext.

        One that is not the same is removed: it is no part of this stream.
        """
        old = None if self._past is None else self._past.segments.get(index)
        if old is None or self._past is None:
            return None
        if (old.size, old.fingerprint) == (count, mark):
            return old
        self._past.differs(index)
        self._store.delete(f"{self._folder}/{segment_name(index)}")
        return None


def _stop_if_failed(future: Future[Segment], stop: Callable[[], None]) -> None:
    if not future.cancelled() and future.exception() is not None:
        stop()


@dataclass(frozen=True)
class _Place:
    """What one worker works with: room for a sealed object, and a compressor."""

    out: mmap.mmap
    compressor: Compressor


def _seal(plain: memoryview, place: _Place, recipe: Recipe) -> int:
    """Compress and encrypt a segment; return the object's size."""
    header, sealer = make_header([recipe.recipient])
    with memoryview(place.out) as out:
        out[: len(header)] = header
        end = len(header)
        carry = bytearray()
        for part in place.compressor.compress(plain):
            end, carry = _seal_part(part, carry, sealer, out, end)
        return end + sealer.seal_last_into(carry, out[end:])


def _seal_part(
    part: bytes, carry: bytearray, sealer: ChunkSealer, out: memoryview, place: int
) -> tuple[int, bytearray]:
    """Seal all whole chunks of carry + part, but keep at least one byte back.

    The last chunk of an age file is marked, so nothing may be sealed before it is
    known that more follows.
    """
    view = memoryview(part)
    start = 0
    if carry and len(carry) + len(view) > CHUNK:
        start = CHUNK - len(carry)
        carry += view[:start]
        place += sealer.seal_into(carry, out[place:])
        carry = bytearray()
    while len(view) - start > CHUNK:
        place += sealer.seal_into(view[start : start + CHUNK], out[place:])
        start += CHUNK
    carry += view[start:]
    return place, carry


def sealed_bound(size: int) -> int:
    """Return the largest object that a segment of ``size`` bytes can become.

    zstd adds at most 1/256 and a frame's head each time the kind of data changes;
    age adds 16 bytes to each 64 KiB and 200 at the head. 1/64 covers both.
    """
    return size + size // 64 + 64 * 1024


def worker_count(segment_size: int) -> int:
    """Return how many segments may be under way at once."""
    by_memory = BUFFER_BUDGET // (segment_size + sealed_bound(segment_size))
    # One more than processors, as one is mostly waiting for the store; each more
    # only adds buffers to be faulted in.
    return max(1, min(MOST_WORKERS, (os.cpu_count() or 1) + 1, by_memory))


def make_buffer(size: int) -> mmap.mmap:
    """Return memory that the process gets page by page as it is used."""
    buffer = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        # Fewer page faults where Linux lets shared memory have huge pages. Private
        # memory always may, but waiting for free ones cost more than they saved.
        buffer.madvise(mmap.MADV_HUGEPAGE)
    return buffer

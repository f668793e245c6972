"""Bytes from anywhere in archives' plaintext, segment by segment.

A segment is the least that can be proven: it is fetched, checked against the signed
digest, decrypted, decompressed and compared with its fingerprint as a whole. A few are
kept; what is known to be wanted next is opened ahead.
"""

from __future__ import annotations

from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.backup.model import LARGEST_SEGMENT
from standfast.backup.opening import Recognised, open_segment
from standfast.backup.sealing import make_buffer
from standfast.errors import DamagedError
from standfast.units import MIB

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterable

    from standfast.backup.model import Manifest
    from standfast.backup.proof import Archive
    from standfast.backup.recipients import X25519Identity
    from standfast.backup.vault import Vault

# Plaintext that is kept, and how many segments at most and at least.
KEPT_BYTES = 192 * MIB
MOST_KEPT, LEAST_KEPT = 64, 2
OPENERS = 2

# (archive id, segment)
Key = tuple[str, int]


@dataclass(frozen=True)
class Sealed:
    """An archive that was judged and whose manifest was opened."""

    archive: Archive
    manifest: Manifest


class Plaintext:
    """The plaintext of a vault's archives.

    Args:
        vault: where they lie.
        archives: by id.
        identity: the vault identity.

    Attributes:
        opened: how many segments were fetched so far, and their stored bytes.
    """

    def __init__(
        self, vault: Vault, archives: dict[str, Sealed], identity: X25519Identity
    ) -> None:
        self._vault = vault
        self._archives = archives
        self._identity = identity
        self._recognised = Recognised()
        self._size = max(
            (s.manifest.segment_size for s in archives.values()), default=1
        )
        if self._size > LARGEST_SEGMENT:
            raise DamagedError("a manifest names an impossible segment size")
        self._room = max(LEAST_KEPT, min(MOST_KEPT, KEPT_BYTES // self._size))
        self._held: OrderedDict[Key, Future[memoryview]] = OrderedDict()
        self._free: list[mmap.mmap] = []
        self._made = 0
        self._pool = ThreadPoolExecutor(OPENERS, thread_name_prefix="open")
        self.opened = (0, 0)

    def read(self, archive: str, offset: int, length: int) -> bytes:
        """Return bytes of an archive's plaintext.

        Raises:
            DamagedError: a segment is not what was sealed, or ends before.
            StoreError: it cannot be fetched.
        """
        parts: list[bytes] = []
        size = self._sealed(archive).manifest.segment_size
        while length > 0:
            index, skip = divmod(offset, size)
            plain = self._segment((archive, index))
            piece = bytes(plain[skip : skip + length])
            if not piece:
                raise DamagedError(f"archive {archive} ends before its byte {offset}")
            parts.append(piece)
            offset, length = offset + len(piece), length - len(piece)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def key(self, archive: str, offset: int) -> Key:
        """Return which segment holds a byte."""
        return archive, offset // self._sealed(archive).manifest.segment_size

    def expect(self, keys: Iterable[Key]) -> None:
        """Open segments ahead that will be wanted next, as far as there is room."""
        for key in keys:
            busy = sum(1 for future in self._held.values() if not future.done())
            if busy >= OPENERS or busy >= self._room - 1:
                return
            if key not in self._held:
                self._start(key)

    def close(self) -> None:
        """Let go of memory and threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._held.clear()

    def _sealed(self, archive: str) -> Sealed:
        if archive not in self._archives:
            raise DamagedError(f"archive {archive} is not there")
        return self._archives[archive]

    def _segment(self, key: Key) -> memoryview:
        if key not in self._held:
            self._start(key)
        self._held.move_to_end(key)
        try:
            return self._held[key].result()
        except KeyboardInterrupt:
            # A worker may be waiting for a far end that never answers.
            self._vault.store.close()
            raise

    def _start(self, key: Key) -> None:
        sealed = self._sealed(key[0])
        if not 0 <= key[1] < len(sealed.manifest.segments):
            raise DamagedError(f"archive {key[0]} has no segment {key[1]}")
        buffer = self._buffer()
        stored = sealed.manifest.segments[key[1]].object_size
        self.opened = (self.opened[0] + 1, self.opened[1] + stored)
        self._held[key] = self._pool.submit(self._open, sealed, key[1], buffer)

    def _buffer(self) -> mmap.mmap:
        """Return a free buffer: a new one, or that of what was used longest ago."""
        if self._made < self._room:
            self._made += 1
            return make_buffer(self._size)
        while not self._free:
            _, future = self._held.popitem(last=False)
            buffer = future.result().obj
            self._free.append(buffer)  # type: ignore[arg-type]
        return self._free.pop()

    def _open(self, sealed: Sealed, index: int, buffer: mmap.mmap) -> memoryview:
        size = sealed.manifest.segments[index].size
        if size > len(buffer):
            raise DamagedError("a segment is larger than its manifest allows")
        plain = memoryview(buffer)[:size]
        known = (self._vault, sealed.archive, sealed.manifest)
        open_segment(*known, index, self._identity, self._recognised, plain)
        return plain

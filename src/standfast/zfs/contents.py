"""What a full send stream holds, as one number that two pools agree in. Pure.

Streams of the same snapshot from two pools differ: in names, in which free ranges are
listed, in how blocks are checksummed and compressed on disk. What must be the same is
each object's head, bonus and spill, and each block that is not all zeros (a pool that
compresses keeps none of those). Those are hashed one by one under a key, and the hashes
added up, so that their order does not matter.
"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from standfast.zfs.records import Substream

KEY_BYTES = 32
_TAG_BYTES = 16
_HEADER = 312
_OBJECT, _WRITE, _SPILL = 1, 3, 7
# Of each record's header what does not depend on the pool: object, type, bonus type,
# block size and bonus length of an OBJECT; object, type, offset and size of a WRITE;
# object and size of a SPILL. Offsets as in dmu_replay_record (sys/zfs_ioctl.h).
_FIELDS = {_OBJECT: ((8, 32),), _WRITE: ((8, 20), (24, 40)), _SPILL: ((8, 24),)}


class ContentDigest:
    """Adds up what passes a StreamCheck; see ``records.Listener``.

    Args:
        key: 32 bytes, the same for streams that are to be compared.

    Attributes:
        total: the sum so far.
    """

    def __init__(self, key: bytes) -> None:
        self.total = 0
        self._key = key
        self._low = 0
        self._owed = 0
        self._record = self._new()
        self._counts = self._zero = self._skip = False

    def begin(
        self,
        substream: Substream,
        flags: int,  # noqa: ARG002 - the listener's form
        payload: int,
        *,
        big_endian: bool,
    ) -> None:
        """Start a substream; ``payload`` bytes of its BEGIN come first."""
        self._close()
        self._low = 3 if big_endian else 0
        self._record = self._new()
        self._record.update(f"{substream.kind} {substream.toguid}".encode())
        self._owed, self._counts, self._zero = payload, True, False
        # What a kernel puts into BEGIN tells of the sending, not of the snapshot.
        self._skip = True

    def records(
        self,
        view: memoryview,
        where: int,  # noqa: ARG002 - the listener's form
        starts: Sequence[int],
        until: int,
    ) -> None:
        """Take in the next bytes of a substream."""
        if self._owed:
            part = view[: min(self._owed, len(view))]
            self._owed -= len(part)
            self._payload(part)
        for start, end in pairwise([*starts, until]):
            self._close()
            self._open(view[start : start + _HEADER])
            self._payload(view[start + _HEADER : min(end, len(view))])
        self._owed = max(self._owed, until - len(view)) if starts else self._owed

    def finish(self) -> int:
        """Return the sum of all that came."""
        self._close()
        return self.total

    def _new(self) -> hashlib.blake2b:
        return hashlib.blake2b(key=self._key, digest_size=_TAG_BYTES)

    def _open(self, header: memoryview) -> None:
        kind = header[self._low]
        self._skip = False
        self._counts = kind in _FIELDS
        if not self._counts:
            return
        self._record = self._new()
        self._record.update(bytes([kind]))
        for first, last in _FIELDS[kind]:
            self._record.update(header[first:last])
        self._zero = kind == _WRITE

    def _payload(self, part: memoryview) -> None:
        if not self._counts or self._skip or not part:
            return
        self._record.update(part)
        if self._zero and bytes(part).strip(b"\0"):
            self._zero = False

    def _close(self) -> None:
        if self._counts and not self._zero:
            tag = int.from_bytes(self._record.digest(), "big")
            self.total = (self.total + tag) % (1 << (8 * _TAG_BYTES))
        self._counts = False

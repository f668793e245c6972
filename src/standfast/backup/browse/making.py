"""Making the sealed index of a stream while it passes.

What is written is ciphertext at once, into a file without a name, so that neither
memory grows with the stream nor does a crash leave names of files on a disk.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.backup.age import CHUNK_SIZE, SEALED_SIZE, make_header
from standfast.backup.model import Index
from standfast.zfs.outlining import OutlineWriter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from standfast.backup.age import Recipient
    from standfast.zfs.records import Substream


@dataclass(frozen=True)
class MadeIndex:
    """A whole index.

    Attributes:
        index: what the manifest says of it.
        data: the sealed object.
    """

    index: Index
    data: memoryview


class IndexMaker:
    """Listens to a stream's records and makes its index; see records.Listener.

    An index is a convenience, and no backup fails for the want of it: if there is no
    room for it, it is given up, and ``trouble`` says why.

    Attributes:
        trouble: why there is no index, or empty.
    """

    def __init__(self, recipient: Recipient) -> None:
        self.trouble = ""
        self._sealed: _SealedWriter | None = None
        self._writer: OutlineWriter | None = None
        try:
            self._sealed = _SealedWriter(recipient)
            self._writer = OutlineWriter(self._sealed.write)
        except OSError as error:
            self._give_up(error)

    def begin(
        self, substream: Substream, flags: int, payload: int, *, big_endian: bool
    ) -> None:
        """Note the start of a substream."""
        if self._writer is None:
            return
        try:
            self._writer.begin(substream, flags, payload, big_endian=big_endian)
        except OSError as error:
            self._give_up(error)

    def records(
        self, view: memoryview, where: int, starts: Sequence[int], until: int
    ) -> None:
        """Take in records."""
        if self._writer is None:
            return
        try:
            self._writer.records(view, where, starts, until)
        except OSError as error:
            self._give_up(error)

    def finish(self) -> MadeIndex | None:
        """Return the index, or None if it was given up."""
        if self._writer is None or self._sealed is None:
            return None
        try:
            root = self._writer.finish()
            data = self._sealed.finish()
        except OSError as error:
            self._give_up(error)
            return None
        index = Index(
            offset=root.offset,
            size=root.size,
            sha256=root.sha256,
            object_size=len(data),
            object_sha256=hashlib.sha256(data).hexdigest(),
        )
        return MadeIndex(index, data)

    def _give_up(self, error: OSError) -> None:
        self.trouble = f"there is no room for the index: {error.strerror}"
        self._writer = self._sealed = None


class _SealedWriter:
    """One age file, sealed chunk by chunk into a file without a name."""

    def __init__(self, recipient: Recipient) -> None:
        self._fd = nameless_file()
        header, self._sealer = make_header([recipient])
        self._carry = bytearray()
        self._out = memoryview(bytearray(SEALED_SIZE))
        self._put(memoryview(header))

    def __del__(self) -> None:
        os.close(self._fd)

    def write(self, data: bytes) -> None:
        """Seal whole chunks, but keep at least one byte: the last chunk is marked."""
        self._carry += data
        start = 0
        with memoryview(self._carry) as view:
            while len(view) - start > CHUNK_SIZE:
                with view[start : start + CHUNK_SIZE] as piece:
                    self._put(self._out[: self._sealer.seal_into(piece, self._out)])
                start += CHUNK_SIZE
        del self._carry[:start]

    def finish(self) -> memoryview:
        """Seal the last chunk, and return the file as memory."""
        size = self._sealer.seal_last_into(self._carry, self._out)
        self._put(self._out[:size])
        return memoryview(mmap.mmap(self._fd, 0, access=mmap.ACCESS_READ))

    def _put(self, data: memoryview) -> None:
        while data:
            data = data[os.write(self._fd, data) :]


def nameless_file() -> int:
    """Return the descriptor of a new file that nobody else can open.

    Raises:
        OSError: there is no place for it.
    """
    fd, name = tempfile.mkstemp(prefix="standfast-")
    try:
        os.unlink(name)  # noqa: PTH108 - it is a name, not a path of ours
    except OSError:
        os.close(fd)
        raise
    return fd

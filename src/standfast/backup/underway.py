"""The record of an archive under way, from which a later run goes on.

``sending/ARCHIVE`` in the vault's state folder, for this user alone. Its first line
says what is being sent and how, each later one which object is about to be stored:
the line is on the disk before the object is in the vault, so that no object can be
there without a line. The file is locked while its sender lives, is removed after
the commit, and is empty where nothing can be gone on with (bytes from standard
input come once).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from standfast.backup.folders import drop_cut_line, sync_folder
from standfast.backup.model import FORMAT, Segment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_LONGEST = 1 << 30


class Begun(msgspec.Struct, frozen=True, kw_only=True):
    """What is being sent, and how; a replay must agree in all of it.

    Attributes:
        format: 1.
        name: ``DATASET@SNAPSHOT``.
        dataset: the dataset's GUID, decimal text.
        guid: the snapshot's.
        base_guid: what the stream is incremental from; ``0`` for a full one.
        flags: zfs send's, in the order in which they were given.
        recipient: whom it is sealed to.
        segment_size: plaintext bytes of a segment.
        level: zstd level.
    """

    format: int = FORMAT
    name: str
    dataset: str
    guid: str
    base_guid: str
    flags: list[str]
    recipient: str
    segment_size: int
    level: int


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    begun: Begun
    key: str


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    index: int
    segment: Segment


@dataclass(frozen=True)
class Resumable:
    """An archive that its sender did not finish.

    Attributes:
        archive: its id.
        begun: what was being sent.
        key: the fingerprint key, 32 bytes.
        segments: what was stored, or was about to be, by index.
        alive: its sender is at work.
    """

    archive: str
    begun: Begun
    key: bytes
    segments: Mapping[int, Segment]
    alive: bool = False


class Notes:
    """An open record; its lock is held."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._lock = threading.Lock()

    def is_new(self) -> bool:
        """Return whether nothing has been written yet."""
        return os.fstat(self._fd).st_size == 0

    def begin(self, begun: Begun, key: bytes) -> None:
        """Write the first line; the file is empty."""
        self._write(_Head(begun=begun, key=key.hex()))

    def add(self, index: int, segment: Segment) -> None:
        """Note an object that is about to be stored; on the disk on return."""
        with self._lock:
            self._write(_Line(index=index, segment=segment))

    def _write(self, line: msgspec.Struct) -> None:
        data = msgspec.json.encode(line) + b"\n"
        while data:
            data = data[os.write(self._fd, data) :]
        os.fsync(self._fd)


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Notes]:
    """Hold an archive's record while it is being sent.

    It outlives a send that fails, as it does one that is killed; it goes when the
    block ends well.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        sync_folder(path.parent)
        drop_cut_line(fd)
        yield Notes(fd)
        path.unlink(missing_ok=True)
    finally:
        os.close(fd)


def read(path: Path) -> Resumable | None:
    """Return what a record says, or None where nothing can be gone on with.

    A line that was cut by a power failure is the last one; what it would have said
    had not been relied on.
    """
    try:
        with path.open("rb") as file:
            alive = _is_locked(file.fileno())
            lines = file.read(_LONGEST).split(b"\n")[:-1]
    except OSError:
        return None
    try:
        head = msgspec.json.decode(lines[0], type=_Head)
        found = [msgspec.json.decode(line, type=_Line) for line in lines[1:]]
        key = bytes.fromhex(head.key)
    except (IndexError, ValueError, msgspec.DecodeError):
        return None
    if head.begun.format != FORMAT:
        return None
    segments = {line.index: line.segment for line in found}
    return Resumable(path.name, head.begun, key, segments, alive)


def give_up(path: Path) -> None:
    """Keep the mark of a dead sender, but let nothing go on from it."""
    with contextlib.suppress(FileNotFoundError):
        os.truncate(path, 0)


def _is_locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    fcntl.flock(fd, fcntl.LOCK_UN)
    return False

"""A volume as a sparse file."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from standfast.errors import CommandError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from standfast.zfs.filesystem import Volume


def write_at(fd: int, data: bytes, offset: int) -> None:
    """Write all of some bytes at a place in a file.

    Raises:
        OSError: the disk refused.
    """
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def write_volume(
    volume: Volume, path: Path, progress: Callable[[int, int], None]
) -> int:
    """Write a volume to a new sparse file, there only when it is whole.

    Returns:
        Bytes written; the rest are holes.

    Raises:
        UsageError: the file exists, or cannot be made.
        StreamError: a block is damaged.
        CommandError: the disk refused.
    """
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path} exists already", hint="extract never overwrites")
    part = path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")
    try:
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise UsageError(f"cannot write {path}: {error.strerror}") from None
    try:
        done = 0
        os.ftruncate(fd, volume.size)
        for offset, data in volume.contents():
            write_at(fd, data, offset)
            done += len(data)
            progress(len(data), 0)
        os.fsync(fd)
        os.link(part, path)
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}") from None
    finally:
        os.close(fd)
        part.unlink(missing_ok=True)
    return done

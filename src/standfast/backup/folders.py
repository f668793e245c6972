"""Folders of this machine that survive a power cut.

A file that was flushed is lost all the same if the folder that names it was not;
and so for a folder and the one above it.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from standfast.errors import StandfastError

if TYPE_CHECKING:
    from collections.abc import Mapping


def make_folders(path: Path) -> None:
    """Make a folder and those above it, for this user alone, and flush their names.

    Raises:
        OSError: it cannot be made.
    """
    missing = [place for place in (path, *path.parents) if not place.exists()]
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for place in missing:
        sync_folder(place.parent)


def sync_folder(path: Path) -> None:
    """Flush a folder's entries to the disk.

    Raises:
        OSError: the disk failed.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        # One may make entries in a folder that one may not read.
        return
    try:
        os.fsync(fd)
    except OSError as error:
        # Some network file systems refuse to flush a directory; they have no
        # entries of their own to lose.
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:
            raise
    finally:
        os.close(fd)


def drop_cut_line(fd: int) -> None:
    """Cut what a power failure left behind a file's last line feed; go to the end."""
    size = os.lseek(fd, 0, os.SEEK_END)
    start = max(0, size - 64 * 1024)
    tail = os.pread(fd, size - start, start)
    keep = start + tail.rfind(b"\n") + 1
    if keep < size:
        os.ftruncate(fd, keep)
    os.lseek(fd, 0, os.SEEK_END)


def state_folder(environment: Mapping[str, str]) -> Path:
    """Return ``$XDG_STATE_HOME/standfast``, or its default below the home.

    Raises:
        StandfastError: there is neither XDG_STATE_HOME nor a home.
    """
    base = environment.get("XDG_STATE_HOME", "")
    if base.startswith("/"):
        return Path(base) / "standfast"
    try:
        return Path.home() / ".local" / "state" / "standfast"
    except RuntimeError:
        raise StandfastError(
            "no home folder to remember vaults in", hint="set XDG_STATE_HOME"
        ) from None

"""Indexes that were made here, for archives that came without one.

They lie in the user's cache folder, sealed to the vault's recipient as the others
are, so that they tell nothing without the owner's key. One is used only for the
archive whose signed sums it was made from.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from standfast.backup.folders import make_folders
from standfast.backup.model import Index, decode, encode
from standfast.errors import StandfastError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from standfast.backup.browse.making import MadeIndex
    from standfast.backup.proof import Archive

_DIGITS = 16


def cache_folder(environment: Mapping[str, str]) -> Path:
    """Return ``$XDG_CACHE_HOME/standfast``, or its default below the home."""
    base = environment.get("XDG_CACHE_HOME", "")
    if not base.startswith("/"):
        base = str(Path(environment.get("HOME", "/")) / ".cache")
    return Path(base) / "standfast"


class IndexCache:
    """A folder of indexes.

    Args:
        folder: made when it is first needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "index"

    def find(
        self, archive: Archive
    ) -> tuple[Index, Callable[[int, int], bytes]] | None:
        """Return an archive's index and how to read it, or None."""
        try:
            data = self._path(archive, "json").read_bytes()
            index = decode(data, Index, "a cached index")
            path = self._path(archive, "age")
            if path.stat().st_size != index.object_size:
                return None
        except (OSError, StandfastError):
            return None

        def read(offset: int, length: int) -> bytes:
            with path.open("rb") as file:
                file.seek(offset)
                return file.read(length)

        return index, read

    def keep(self, archive: Archive, made: MadeIndex) -> None:
        """Write an index, the part that makes it count last.

        Raises:
            OSError: there is no room.
        """
        make_folders(self._folder)
        self._write(self._path(archive, "age"), made.data)
        self._write(self._path(archive, "json"), memoryview(encode(made.index)))

    def _write(self, path: Path, data: memoryview) -> None:
        part = path.with_name(f".{path.name}.{os.urandom(4).hex()}.part")
        fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with open(fd, "wb") as file:  # noqa: PTH123 - of a descriptor
                file.write(data)
            part.replace(path)
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)

    def _path(self, archive: Archive, ending: str) -> Path:
        name = f"{archive.id}-{archive.sums_digest[:_DIGITS]}.{ending}"
        return self._folder / name

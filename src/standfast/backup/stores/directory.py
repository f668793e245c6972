"""A vault in a directory of this machine: a disk, a USB drive, an NFS mount.

Nothing in it is trusted: links are not followed and only regular files are read,
so that a planted link or pipe can neither lead us elsewhere nor make us wait.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from standfast.backup.folders import make_folders, sync_folder
from standfast.backup.model import PART_PREFIX
from standfast.backup.stores import Entry
from standfast.errors import AlreadyThereError, NotFoundError, StoreError, TooLargeError
from standfast.units import MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from standfast.backup.stores import Buffer
    from standfast.pace import Pace

WRITE_BYTES = MIB
HASH_BYTES = MIB
HASHERS = 4
# File systems without hard links (exFAT, some FUSE and SMB mounts) answer so.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
# A network mount's hiccups; all else will not get better by itself.
_TRANSIENT = {errno.EINTR, errno.EAGAIN, errno.ETIMEDOUT, errno.ESTALE}
# What a file system keeps in its own root.
NOT_OURS = {"lost+found"}


class DirectoryStore:
    """Objects as files below one directory; see Store."""

    near = True
    recorded = False

    def __init__(self, path: str, pace: Pace) -> None:
        self.address = path
        self._root = Path(path)
        self._pace = pace

    def create(self) -> None:
        """Make the directory, with its parents, readable by its owner alone."""
        try:
            make_folders(self._root)
            present = {entry.name for entry in os.scandir(self._root)} - NOT_OURS
        except FileExistsError:
            raise AlreadyThereError(f"{self.address} is not a directory") from None
        except OSError as error:
            raise _explain(error, self.address) from None
        if present:
            raise AlreadyThereError(f"{self.address} is not empty")

    def put(self, name: str, data: Buffer) -> None:
        """Write under a temporary name, flush to the disk, then link; see Store."""
        self._store(name, data, _publish)

    def replace(self, name: str, data: Buffer) -> None:
        """Write under a temporary name, flush to the disk, then rename; see Store."""
        self._store(name, data, os.replace)

    def _store(
        self, name: str, data: Buffer, publish: Callable[[Path, Path], None]
    ) -> None:
        final = self._root / name
        part = final.with_name(PART_PREFIX + os.urandom(8).hex())
        try:
            # Only folders below the vault are made: if the disk is not mounted, the
            # vault is gone, and writing beside it must not look like success.
            if not self._root.is_dir():
                raise StoreError(f"{self.address} is gone", transient=False)
            final.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            try:
                self._write(part, data)
                publish(part, final)
            finally:
                with contextlib.suppress(OSError):
                    part.unlink(missing_ok=True)
        except FileExistsError:
            raise AlreadyThereError(f"{name} is there already") from None
        except OSError as error:
            raise _explain(error, str(final)) from None

    def get(self, name: str, limit: int) -> bytes:
        """Read one regular file; see Store."""
        try:
            with _open_regular(self._root / name) as fd:
                size = os.fstat(fd).st_size
                if size > limit:
                    raise TooLargeError(
                        f"{name} is larger than it can be: {size} bytes"
                    )
                return _read_all(fd, size)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(f"{name} is missing") from None
        except OSError as error:
            raise _explain(error, name) from None

    def get_range(self, name: str, start: int, length: int) -> bytes:
        """Read a part of one regular file; see Store."""
        try:
            with _open_regular(self._root / name) as fd:
                parts: list[bytes] = []
                while length > 0 and (part := os.pread(fd, length, start)):
                    parts.append(part)
                    start, length = start + len(part), length - len(part)
                return b"".join(parts)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(f"{name} is missing") from None
        except OSError as error:
            raise _explain(error, name) from None

    def get_small(self, names: Sequence[str], limit: int) -> dict[str, bytes]:
        """Read many; what is absent or too large is left out; see Store."""
        found: dict[str, bytes] = {}
        for name in names:
            with contextlib.suppress(StoreError):
                found[name] = self.get(name, limit)
        return found

    def entries(self) -> list[Entry]:
        """Walk the directory without following links; see Store."""
        found: list[Entry] = []
        try:
            self._walk(self._root, "", found)
        except FileNotFoundError:
            raise NotFoundError(f"{self.address} does not exist") from None
        except OSError as error:
            raise _explain(error, self.address) from None
        return sorted(found, key=lambda entry: entry.name)

    def digests(self, names: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Hash files in a few threads; see Store."""
        wanted = list(names)
        with ThreadPoolExecutor(min(HASHERS, os.cpu_count() or 1)) as pool:
            for name, digest in zip(
                wanted, pool.map(self._digest, wanted), strict=True
            ):
                if digest:
                    yield name, digest

    def digests_after(
        self, asked: Sequence[tuple[str, str]]
    ) -> Iterator[tuple[str, str]]:
        """Hash nonce and file together; see Store."""
        for nonce, name in asked:
            if digest := self._digest(name, nonce.encode()):
                yield name, digest

    def make_stable(self, folder: str) -> None:
        """Flush the folders' own entries; files were flushed as they were put."""
        place = self._root / folder
        try:
            for path in (place, *place.parents):
                sync_folder(path)
                if path == self._root:
                    break
        except OSError as error:
            raise _explain(error, str(place)) from None

    def delete(self, name: str) -> None:
        """Unlink a file; see Store."""
        try:
            (self._root / name).unlink(missing_ok=True)
        except OSError as error:
            raise _explain(error, name) from None

    def delete_folder(self, name: str) -> None:
        """Remove a folder and what is in it; see Store."""
        try:
            shutil.rmtree(self._root / name)
        except FileNotFoundError:
            return
        except OSError as error:
            raise _explain(error, name) from None

    def close(self) -> None:
        """Nothing is held open."""

    def _write(self, path: Path, data: Buffer) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        fd = os.open(path, flags, 0o600)
        try:
            view = memoryview(data)
            while view:
                step = view[:WRITE_BYTES]
                self._pace.take(len(step))
                view = view[os.write(fd, step) :]
            os.fsync(fd)
        finally:
            os.close(fd)

    def _walk(self, folder: Path, prefix: str, found: list[Entry]) -> None:
        with os.scandir(folder) as scan:
            for item in scan:
                if not prefix and item.name in NOT_OURS:
                    continue
                name = prefix + item.name
                if item.is_dir(follow_symlinks=False):
                    found.append(Entry(name, 0, "folder"))
                    self._walk(Path(item.path), name + "/", found)
                elif item.is_file(follow_symlinks=False):
                    size = item.stat(follow_symlinks=False).st_size
                    found.append(Entry(name, size, "file"))
                else:
                    found.append(Entry(name, 0, "other"))

    def _digest(self, name: str, before: bytes = b"") -> str:
        digest = hashlib.sha256(before)
        buffer = bytearray(HASH_BYTES)
        view = memoryview(buffer)
        try:
            with _open_regular(self._root / name) as fd:
                while count := os.readv(fd, [buffer]):
                    digest.update(view[:count])
        except OSError:
            return ""
        return digest.hexdigest()


@contextlib.contextmanager
def _open_regular(path: Path) -> Iterator[int]:
    """Open a regular file; anything else counts as absent."""
    try:
        # O_NONBLOCK: opening a planted pipe must not wait for its writer.
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in {errno.ELOOP, errno.ENXIO, errno.EMLINK}:
            raise FileNotFoundError(errno.ENOENT, "not a file") from None
        raise
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise FileNotFoundError(errno.ENOENT, "not a file")
        yield fd
    finally:
        os.close(fd)


def _read_all(fd: int, size: int) -> bytes:
    """Read ``size`` bytes, or up to the end of a file that has shrunk.

    Asked for exactly what there is, malloc gives the same memory again and again;
    a larger request would be fresh pages from the system each time.
    """
    parts: list[bytes] = []
    while size > 0 and (part := os.read(fd, size)):
        parts.append(part)
        size -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _publish(part: Path, final: Path) -> None:
    """Give a finished file its name; never replace one.

    link(2) fails if the name is taken, which rename(2) does not.
    """
    try:
        os.link(part, final, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        if final.exists():
            raise FileExistsError(errno.EEXIST, "exists") from None
        part.rename(final)


def _explain(error: OSError, where: str) -> StoreError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    return StoreError(
        f"{where}: {reason[:1].lower()}{reason[1:]}",
        transient=error.errno in _TRANSIENT,
    )

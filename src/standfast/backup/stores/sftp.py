"""A vault on a machine that gives no shell, only sftp.

Each thread talks in a session of its own over one shared connection. An object is
written to a temporary name, flushed where the server can (OpenSSH's fsync
extension), and linked to its name, which fails if that is taken; a server without hard
links is asked to rename, which by the protocol does not replace either. Nothing hashes
there: what has to be hashed is read back.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from standfast.backup.model import PART_PREFIX
from standfast.backup.stores import Entry
from standfast.backup.stores.directory import NOT_OURS
from standfast.backup.stores.ssh import split_address
from standfast.errors import (
    AlreadyThereError,
    HostUnreachableError,
    NotFoundError,
    StoreError,
    TooLargeError,
)
from standfast.host.sftp import (
    BLOCK,
    FSYNC,
    HARD_LINK,
    OPEN_CREATE,
    OPEN_NEW,
    OPEN_READ,
    OPEN_WRITE,
    POSIX_RENAME,
    Code,
    Kind,
    SftpError,
    SftpHost,
    attributes,
    handle,
    string,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from standfast.backup.stores import Buffer
    from standfast.host.sftp import Attributes, Session
    from standfast.pace import Pace

READERS = 4
# Folders or files handled in one round of requests; each holds a handle there.
TOGETHER = 32
LARGEST_OBJECT = 1 << 30


def open_sftp_store(rest: str, pace: Pace) -> SftpStore:
    """Return the store for what follows ``sftp://``; see ``open_ssh_store``.

    Raises:
        UsageError: it is not ``[user@]host[:port]/path``.
    """
    target, path = split_address("sftp", rest)
    return SftpStore(SftpHost(target), path, f"sftp://{rest}", pace)


class SftpStore:
    """Objects as files on another machine, by sftp alone; see Store."""

    # Having an object hashed means fetching it.
    near = True
    recorded = False

    def __init__(self, host: SftpHost, root: str, address: str, pace: Pace) -> None:
        self.address = address
        self._host = host
        self._root = root.rstrip("/")
        self._pace = pace
        self._lock = threading.Lock()
        self._idle: list[Session] = []

    def create(self) -> None:
        """Make the directory there, with its parents; see Store."""
        with self._session() as session:
            parts = self._root.split("/")
            for count in range(1, len(parts) + 1):
                self._make_folder(session, "/".join(parts[:count]))
            if not session.lstat(self._root).is_folder:
                raise AlreadyThereError(f"{self.address} is not a directory")
            (found,) = session.list_folders([self._root]).values()
        if {name for name, _ in found} - NOT_OURS:
            raise AlreadyThereError(f"{self.address} is not empty")

    def put(self, name: str, data: Buffer) -> None:
        """Write under a temporary name, flush, link; see Store."""
        self._store(name, data, self._publish)

    def replace(self, name: str, data: Buffer) -> None:
        """Write under a temporary name, flush, rename over the old; see Store."""
        self._store(name, data, self._supplant)

    def _store(
        self, name: str, data: Buffer, publish: Callable[[Session, str, str], None]
    ) -> None:
        folder, _, _ = name.rpartition("/")
        part = self._path("/".join(filter(None, (folder, _part()))))
        with self._session() as session:
            if self._look(session, self._root) is None:
                raise StoreError(f"{self.address} is gone", transient=False)
            place = self._root
            for step in folder.split("/") if folder else []:
                place = f"{place}/{step}"
                self._make_folder(session, place)
            if publish == self._publish:
                self._expect_free(session, name)
            try:
                self._write(session, part, memoryview(data))
                publish(session, part, name)
            finally:
                with contextlib.suppress(SftpError, HostUnreachableError):
                    session.ask(Kind.REMOVE, string(part))

    def get(self, name: str, limit: int) -> bytes:
        """Fetch one object; see Store."""
        with self._session() as session:
            size = self._size(session, name)
            if size > limit:
                raise TooLargeError(
                    f"{name} is larger than it can be: over {limit} bytes"
                )
            data = self._read(session, name, 0, size)
        if len(data) < size:
            raise StoreError(f"{name} came back cut", transient=True)
        return data

    def get_range(self, name: str, start: int, length: int) -> bytes:
        """Fetch part of an object; see Store."""
        with self._session() as session:
            size = self._size(session, name)
            length = max(0, min(length, size - start))
            return self._read(session, name, start, length)

    def get_small(self, names: Sequence[str], limit: int) -> dict[str, bytes]:
        """Fetch many, a few dozen in each round of requests; see Store."""
        found: dict[str, bytes] = {}
        with self._session() as session:
            for start in range(0, len(names), TOGETHER):
                group = names[start : start + TOGETHER]
                found |= self._get_group(session, group, limit)
        return found

    def entries(self) -> list[Entry]:
        """List all that lies there; see Store."""
        found: list[Entry] = []
        with self._session() as session:
            if self._look(session, self._root) is None:
                raise NotFoundError(f"{self.address} does not exist")
            self._walk(session, "", found)
        return sorted(
            (e for e in found if e.name.partition("/")[0] not in NOT_OURS),
            key=lambda entry: entry.name,
        )

    def digests(self, names: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Fetch and hash here, a few at a time; see Store."""
        wanted = list(names)
        with ThreadPoolExecutor(READERS, thread_name_prefix="sftp") as pool:
            found = pool.map(lambda name: self._digest("", name), wanted)
            for name, digest in zip(wanted, found, strict=True):
                if digest:
                    yield name, digest

    def digests_after(
        self, asked: Sequence[tuple[str, str]]
    ) -> Iterator[tuple[str, str]]:
        """Fetch and hash here, since nothing hashes there; see Store."""
        for nonce, name in asked:
            if digest := self._digest(nonce, name):
                yield name, digest

    def make_stable(self, folder: str) -> None:
        """Flush the folders' own entries; files were flushed as they were put."""
        with self._session() as session:
            if FSYNC not in session.extensions:
                return
            parts = folder.split("/") if folder else []
            for count in range(len(parts), -1, -1):
                path = "/".join([self._root, *parts[:count]])
                # A server may refuse to open a folder; it has no better way.
                with contextlib.suppress(SftpError):
                    opened = session.open(path, OPEN_READ)
                    try:
                        session.extended(FSYNC, opened)
                    finally:
                        session.close_handle(opened)

    def delete(self, name: str) -> None:
        """Remove a file there; see Store."""
        with self._session() as session:
            try:
                session.ask(Kind.REMOVE, string(self._path(name)))
            except SftpError as error:
                if error.code != Code.NO_SUCH_FILE:
                    raise

    def delete_folder(self, name: str) -> None:
        """Remove a folder there and all that is in it; see Store."""
        with self._session() as session:
            if self._look(session, self._path(name)) is None:
                return
            found: list[Entry] = []
            self._walk(session, name, found)
            for entry in found:
                if entry.kind != "folder":
                    session.ask(Kind.REMOVE, string(self._path(entry.name)))
            folders = [e.name for e in found if e.kind == "folder"]
            for folder in [*sorted(folders, reverse=True), name]:
                session.ask(Kind.RMDIR, string(self._path(folder)))

    def close(self) -> None:
        """Hang up."""
        self._host.close()

    @contextlib.contextmanager
    def _session(self) -> Iterator[Session]:
        """Hold a session; it is used again unless it was left in mid-sentence."""
        session = self._taken()
        try:
            yield session
        except HostUnreachableError as error:
            # The others hang on the same connection.
            with self._lock:
                stale, self._idle = [session, *self._idle], []
            for each in stale:
                each.end()
            raise StoreError(error.message, transient=error.transient) from None
        except SftpError as error:
            self._give_back(session)
            raise self._explain(error) from None
        except StoreError:
            self._give_back(session)
            raise
        except BaseException:
            session.end()
            raise
        self._give_back(session)

    def _taken(self) -> Session:
        with self._lock:
            if self._idle:
                return self._idle.pop()
        try:
            return self._host.session()
        except HostUnreachableError as error:
            raise StoreError(
                error.message, hint=error.hint, transient=error.transient
            ) from None

    def _give_back(self, session: Session) -> None:
        with self._lock:
            self._idle.append(session)

    def _explain(self, error: SftpError) -> StoreError:
        if error.code == Code.NO_SUCH_FILE:
            return NotFoundError(f"{self.address}: no such file")
        said = error.message[:1].lower() + error.message[1:]
        return StoreError(f"{self.address}: {said}", transient=False)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _look(self, session: Session, path: str) -> Attributes | None:
        try:
            return session.lstat(path)
        except SftpError as error:
            if error.code == Code.NO_SUCH_FILE:
                return None
            raise

    def _size(self, session: Session, name: str) -> int:
        """Return a regular file's size; anything else counts as absent."""
        try:
            there = self._look(session, self._path(name))
        except SftpError as error:
            # What lies below a file is reported as a plain failure.
            if error.code != Code.FAILURE:
                raise
            there = None
        if there is None or not there.is_file:
            raise NotFoundError(f"{name} is missing")
        return there.size

    def _make_folder(self, session: Session, path: str) -> None:
        """Make a folder unless something is there."""
        if not path:
            return
        try:
            session.make_folder(path)
        except SftpError:
            if self._look(session, path) is None:
                raise

    def _write(self, session: Session, path: str, data: memoryview) -> None:
        opened = session.open(path, OPEN_WRITE | OPEN_CREATE | OPEN_NEW)
        try:
            session.write_all(opened, data, self._pace.take)
            if FSYNC in session.extensions:
                session.extended(FSYNC, opened)
        finally:
            with contextlib.suppress(SftpError, HostUnreachableError):
                session.close_handle(opened)

    def _expect_free(self, session: Session, name: str) -> None:
        if self._look(session, self._path(name)) is not None:
            raise AlreadyThereError(f"{name} is there already")

    def _supplant(self, session: Session, part: str, name: str) -> None:
        """Give a finished file a name that may be another's, in one step.

        The protocol's own rename replaces nothing; OpenSSH's does.
        """
        if POSIX_RENAME not in session.extensions:
            raise StoreError(
                f"{self.address} cannot replace a file in one step",
                hint="reach the vault another way to change its owners",
                transient=False,
            )
        session.extended(POSIX_RENAME, part, self._path(name))

    def _publish(self, session: Session, part: str, name: str) -> None:
        """Give a finished file its name; neither way replaces one."""
        final = self._path(name)
        if HARD_LINK in session.extensions:
            try:
                session.extended(HARD_LINK, part, final)
            except SftpError:
                if self._look(session, final) is not None:
                    raise AlreadyThereError(f"{name} is there already") from None
            else:
                return
        try:
            session.ask(Kind.RENAME, string(part) + string(final))
        except SftpError:
            if self._look(session, final) is not None:
                raise AlreadyThereError(f"{name} is there already") from None
            raise

    def _read(self, session: Session, name: str, start: int, length: int) -> bytes:
        opened = session.open(self._path(name), OPEN_READ)
        try:
            return session.read_at(opened, start, length)
        finally:
            with contextlib.suppress(SftpError, HostUnreachableError):
                session.close_handle(opened)

    def _get_group(
        self, session: Session, names: Sequence[str], limit: int
    ) -> dict[str, bytes]:
        looked = session.ask_all(
            [(Kind.LSTAT, string(self._path(name))) for name in names]
        )
        sizes: dict[str, int] = {}
        for name, answer in zip(names, looked, strict=True):
            if not isinstance(answer, SftpError):
                there = attributes(answer[1])
                if there.is_file and there.size <= limit:
                    sizes[name] = there.size
        found: dict[str, bytes] = {}
        small = [name for name, size in sizes.items() if size <= BLOCK]
        head = b"\0\0\0\1\0\0\0\0"  # for reading, no attributes
        opened = session.ask_all(
            [(Kind.OPEN, string(self._path(name)) + head) for name in small]
        )
        for name, answer in zip(small, opened, strict=True):
            if isinstance(answer, SftpError):
                del sizes[name]
        good = {n: handle(a[1]) for n, a in zip(small, opened, strict=True)
                if not isinstance(a, SftpError)}  # fmt: skip
        for name, each in good.items():
            found[name] = session.read_at(each, 0, sizes[name])
        session.ask_all([(Kind.CLOSE, string(each)) for each in good.values()])
        for name in sizes.keys() - found.keys():
            found[name] = self._read(session, name, 0, sizes[name])
        return found

    def _walk(self, session: Session, top: str, found: list[Entry]) -> None:
        """Collect all below a folder, a level at a time."""
        level = [top]
        while level:
            below: list[str] = []
            for start in range(0, len(level), TOGETHER):
                group = level[start : start + TOGETHER]
                paths = {self._path(name): name for name in group}
                for path, inside in session.list_folders(list(paths)).items():
                    for last, said in inside:
                        name = f"{paths[path]}/{last}" if paths[path] else last
                        found.append(_entry(name, said))
                        if said.is_folder and name not in NOT_OURS:
                            below.append(name)
            level = below

    def _digest(self, nonce: str, name: str) -> str:
        try:
            data = self.get(name, LARGEST_OBJECT)
        except (NotFoundError, TooLargeError):
            return ""
        digest = hashlib.sha256(nonce.encode())
        digest.update(data)
        return digest.hexdigest()


def _entry(name: str, said: Attributes) -> Entry:
    if said.is_file:
        return Entry(name, said.size, "file")
    return Entry(name, 0, "folder" if said.is_folder else "other")


def _part() -> str:
    return PART_PREFIX + os.urandom(8).hex()

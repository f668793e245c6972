"""Taking files out: trees, sparse files, links, attributes.

Contents are written in the order in which they lie in the archives, so that each
segment is opened once however the files are mixed in it. A file that turns out to be
damaged is removed again and named; the others are taken out all the same.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from standfast.backup.browse.files import File, file_at, shown, walk
from standfast.backup.browse.image import write_at
from standfast.backup.browse.place import Place, split_names
from standfast.errors import CommandError, DamagedError, StreamError, UsageError
from standfast.zfs.extents import IN_STREAM, SEALED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from standfast.backup.browse.browser import Browser
    from standfast.backup.browse.catalogue import Point
    from standfast.backup.browse.place import Names
    from standfast.backup.browse.plaintext import Key
    from standfast.zfs.extents import Span
    from standfast.zfs.filesystem import DirEntry, FileSystem
    from standfast.zfs.objects import ObjectState

# What is planned at once; some hundred bytes for each.
_BATCH_FILES, _BATCH_SPANS = 2048, 16_384
_OPEN_FILES = 128
# The place of a piece that no segment holds: the index does, or another piece.
NOWHERE = -1
_SEGMENTS_AHEAD = 2
# After these nothing more can be written, and to go on would hide it.
_HOPELESS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}


@dataclass(frozen=True)
class Wishes:
    """How to take files out.

    Attributes:
        devices: whether to make device nodes.
        owners: whether to give files their owners.
    """

    devices: bool
    owners: bool


@dataclass
class Extracted:
    """What came of it.

    Attributes:
        counts: of files, folders, links and others made.
        written: bytes of contents.
        left_out: paths that were not made, and why.
        damaged: how many of these for damage in the backup.
        missed: (path, what the system did not take).
    """

    counts: dict[str, int] = field(default_factory=dict)
    written: int = 0
    left_out: list[tuple[bytes, str]] = field(default_factory=list)
    damaged: int = 0
    missed: list[tuple[bytes, str]] = field(default_factory=list)

    def count(self, what: str) -> None:
        """Count one made."""
        self.counts[what] = self.counts.get(what, 0) + 1


@dataclass
class _Job:
    """A regular file that is being written.

    Attributes:
        left: spans that are still to be written.
        made: whether there is a file by now.
        failed: whether it was given up.
    """

    file: File
    names: Names
    state: ObjectState
    left: int = 0
    made: bool = False
    failed: bool = False


class _Piece(NamedTuple):
    """A span on its way: sorted by where it lies."""

    source: int
    place: int
    job: int
    span: Span


class Extraction:
    """Takes files of one snapshot out into a folder.

    Args:
        browser: reads the vault.
        point: the snapshot.
        place: the folder.
        wishes: how.
        progress: is told of (plaintext, stored) bytes.
    """

    def __init__(
        self,
        browser: Browser,
        point: Point,
        place: Place,
        wishes: Wishes,
        progress: Callable[[int, int], None],
    ) -> None:
        self._browser = browser
        self._tree: FileSystem = browser.tree(point)
        self._archives = [link.archive for link in browser.catalogue.chain(point)]
        self._place = place
        self._wishes = wishes
        self._progress = progress
        self._result = Extracted()
        self._folders: list[tuple[Names, File]] = []
        self._first_names: dict[int, Names] = {}
        self._whole: set[Names] = set()
        self._joins: list[tuple[Names, Names, bytes]] = []
        self._jobs: list[_Job] = []
        self._spans = 0

    def run(self, paths: Sequence[bytes]) -> Extracted:
        """Take out paths with all below them; none means everything.

        Raises:
            UsageError: a path is not in the snapshot, or lies in the folder already.
            CommandError: the disk is full, or refuses for another good reason.
            StoreError: the vault cannot be read.
        """
        wanted = [split_names(path) for path in paths] or [()]
        tops = [(names, file_at(self._tree, b"/".join(names))) for names in wanted]
        for names, _ in tops:
            if names and self._place.taken(names):
                raise UsageError(
                    f"{shown(b'/'.join(names))} is there already",
                    hint="extract never overwrites; name another folder with --to",
                )
        try:
            for names, file in tops:
                self._take_top(names, file)
            self._flush()
            self._finish_all()
        except BaseException:
            self._abandon()
            raise
        return self._result

    def _take_top(self, names: Names, file: File) -> None:
        for end in range(1, len(names)):
            above = names[:end]
            if not self._place.taken(above):
                self._take(above, file_at(self._tree, b"/".join(above)))
        if not names:
            self._folders.append(((), file))
        elif not self._take(names, file):
            return
        if not stat.S_ISDIR(file.attributes.mode):
            return
        path = b"/".join(names)
        for where, entry in walk(self._tree, file.number, path, self._damaged):
            try:
                self._take(tuple(where.split(b"/")), self._file(where, entry))
            except (StreamError, DamagedError) as error:
                self._damaged(where, error)

    def _file(self, path: bytes, entry: DirEntry) -> File:
        attributes = self._tree.attributes(entry.number)
        if stat.S_IFMT(attributes.mode) != entry.kind:
            raise StreamError("its folder says that it is something else")
        return File(path, entry.number, attributes)

    def _damaged(self, path: bytes, error: StreamError | DamagedError) -> None:
        self._leave_out(path, error.message, damaged=True)

    def _take(self, names: Names, file: File) -> bool:
        """Make one file, or plan it; return whether something will be there."""
        try:
            self._make(names, file)
        except FileExistsError:
            self._leave_out(file.path, "there is something of that name already")
            return False
        except OSError as error:
            self._judge(file.path, error)
            return False
        return True

    def _make(self, names: Names, file: File) -> None:
        mode = file.attributes.mode
        kind = stat.S_IFMT(mode)
        if kind == stat.S_IFDIR:
            self._place.make_folder(names)
            self._folders.append((names, file))
            self._result.count("folders")
        elif kind == stat.S_IFREG:
            self._plan(names, file)
        elif file.number in self._first_names:
            self._joins.append((self._first_names[file.number], names, file.path))
        elif kind == stat.S_IFLNK:
            self._place.make_link(names, self._tree.link(file.number, file.attributes))
            self._finish_name(names, file, "links")
        elif kind == stat.S_IFIFO:
            self._place.make_other(names, mode, 0)
            self._finish_name(names, file, "pipes")
        elif kind in {stat.S_IFCHR, stat.S_IFBLK} and self._wishes.devices:
            self._place.make_other(names, mode, file.attributes.rdev)
            self._finish_name(names, file, "devices")
        elif kind in {stat.S_IFCHR, stat.S_IFBLK}:
            self._leave_out(file.path, "a device; --devices makes it")
        else:
            self._leave_out(file.path, "a socket, or of a kind not known here")

    def _finish_name(self, names: Names, file: File, what: str) -> None:
        self._place.finish_name(names, file.attributes)
        if file.attributes.links > 1:
            self._first_names[file.number] = names
            self._whole.add(names)
        self._result.count(what)

    def _plan(self, names: Names, file: File) -> None:
        """Put a regular file on the list, or a further name of one."""
        if file.number in self._first_names:
            self._joins.append((self._first_names[file.number], names, file.path))
            return
        if file.attributes.links > 1:
            self._first_names[file.number] = names
        state = self._tree.objects.state(file.number)
        assert state is not None
        if len(state.extents) > _BATCH_SPANS:
            # So large a file is mostly in one place; it is written as it is read.
            self._flush()
        self._jobs.append(_Job(file, names, state))
        self._spans += len(state.extents)
        if self._spans >= _BATCH_SPANS or len(self._jobs) >= _BATCH_FILES:
            self._flush()

    def _flush(self) -> None:
        """Write all files on the list."""
        jobs = self._jobs
        open_files = _OpenFiles(self._place)
        try:
            for job in jobs:
                if not self._pieces_of(job):
                    self._end(job, open_files)
            if len(jobs) == 1:
                pieces = self._in_order(jobs[0])
            else:
                pieces = iter(
                    sorted(
                        (p for n, job in enumerate(jobs) for p in self._cut(n, job)),
                        key=itemgetter(0, 1, 2),
                    )
                )
            self._write(jobs, pieces, open_files)
        finally:
            open_files.close()
        self._jobs = []
        self._spans = 0

    def _pieces_of(self, job: _Job) -> int:
        size = job.file.attributes.size
        job.left = sum(1 for _ in job.state.extents.spans(0, size))
        return job.left

    def _cut(self, number: int, job: _Job) -> Iterator[_Piece]:
        for span in job.state.extents.spans(0, job.file.attributes.size):
            payload = span.payload
            how, place = payload.how, payload.place
            if how == SEALED:
                how, place, _ = job.state.sealed[place]
            where = place if how == IN_STREAM else NOWHERE
            yield _Piece(payload.source, where, number, span)

    def _in_order(self, job: _Job) -> Iterator[_Piece]:
        return self._cut(0, job)

    def _write(
        self, jobs: list[_Job], pieces: Iterator[_Piece], open_files: _OpenFiles
    ) -> None:
        for piece in self._with_ahead(pieces):
            job = jobs[piece.job]
            if job.failed:
                continue
            try:
                data = self._tree.objects.fill(job.state, piece.span)
            except (StreamError, DamagedError) as error:
                self._fail(job, open_files, error.message, damaged=True)
                continue
            try:
                write_at(open_files.get(job), data, piece.span.start)
            except OSError as error:
                self._fail(job, open_files, "", damaged=False)
                self._judge(job.file.path, error)
                continue
            self._result.written += len(data)
            self._progress(len(data), 0)
            job.left -= 1
            if not job.left:
                self._end(job, open_files)

    def _with_ahead(self, pieces: Iterator[_Piece]) -> Iterator[_Piece]:
        """Yield pieces, while the segments of those that follow are being opened."""
        window: OrderedDict[Key, int] = OrderedDict()
        waiting: deque[tuple[_Piece, Key]] = deque()
        for piece in pieces:
            key = self._key(piece)
            fresh = key not in window
            window[key] = window.get(key, 0) + 1
            waiting.append((piece, key))
            if fresh:
                self._browser.plaintext.expect(k for k in window if k[0])
            while len(window) > _SEGMENTS_AHEAD or len(waiting) > _BATCH_SPANS:
                yield self._next(waiting, window)
        while waiting:
            yield self._next(waiting, window)

    def _next(
        self, waiting: deque[tuple[_Piece, Key]], window: OrderedDict[Key, int]
    ) -> _Piece:
        piece, key = waiting.popleft()
        window[key] -= 1
        if not window[key]:
            del window[key]
            self._browser.plaintext.expect(k for k in window if k[0])
        return piece

    def _key(self, piece: _Piece) -> Key:
        """Return the segment of a piece; of one that lies elsewhere, none."""
        if piece.place == NOWHERE:
            return "", 0
        archive = self._archives[piece.source]
        return self._browser.plaintext.key(archive, piece.place)

    def _end(self, job: _Job, open_files: _OpenFiles) -> None:
        """Give a file its length and attributes."""
        attributes = job.file.attributes
        try:
            fd = open_files.get(job)
            os.ftruncate(fd, attributes.size)
            xattrs = self._tree.xattrs(attributes)
            missed = self._place.finish_fd(fd, attributes, xattrs)
        except (StreamError, DamagedError) as error:
            self._fail(job, open_files, error.message, damaged=True)
            return
        except FileExistsError:
            job.failed = True
            self._leave_out(job.file.path, "there is something of that name already")
            return
        except OSError as error:
            self._fail(job, open_files, "", damaged=False)
            self._judge(job.file.path, error)
            return
        open_files.drop(job)
        if attributes.links > 1:
            self._whole.add(job.names)
        self._result.count("files")
        self._result.missed += [(job.file.path, what) for what in missed]

    def _fail(
        self, job: _Job, open_files: _OpenFiles, why: str, *, damaged: bool
    ) -> None:
        job.failed = True
        open_files.drop(job)
        if job.made:
            self._place.remove(job.names)
        self._first_names.pop(job.file.number, None)
        if why:
            self._leave_out(job.file.path, why, damaged=damaged)

    def _finish_all(self) -> None:
        """Make further names, and give folders their attributes, the inner first."""
        for first, names, path in self._joins:
            if first not in self._whole:
                self._leave_out(path, f"{shown(b'/'.join(first))} was left out")
                continue
            try:
                self._place.join(first, names)
                self._result.count("further names")
            except OSError as error:
                self._judge(path, error)
        for names, file in reversed(self._folders):
            if not names:
                continue
            try:
                xattrs = self._tree.xattrs(file.attributes)
                missed = self._place.finish(names, file.attributes, xattrs)
                self._result.missed += [(file.path, what) for what in missed]
            except OSError as error:
                self._judge(file.path, error)
            except (StreamError, DamagedError) as error:
                self._leave_out(file.path, error.message, damaged=True)

    def _abandon(self) -> None:
        """Leave no file behind that looks whole and is not."""
        for job in self._jobs:
            if job.made and job.left:
                self._place.remove(job.names)

    def _judge(self, path: bytes, error: OSError) -> None:
        """Leave one path out, unless there is no sense in going on."""
        reason = (error.strerror or str(error)).lower()
        if error.errno in _HOPELESS:
            raise CommandError(f"cannot write {shown(path)}: {reason}")
        self._leave_out(path, reason)

    def _leave_out(self, path: bytes, why: str, *, damaged: bool = False) -> None:
        self._result.left_out.append((path, why))
        self._result.damaged += damaged


class _OpenFiles:
    """Descriptors of files that are being written; the least used are closed."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._fds: OrderedDict[Names, int] = OrderedDict()

    def get(self, job: _Job) -> int:
        if job.names in self._fds:
            self._fds.move_to_end(job.names)
            return self._fds[job.names]
        if job.made:
            fd = self._place.open_file(job.names)
        else:
            fd = self._place.make_file(job.names)
            job.made = True
        self._fds[job.names] = fd
        if len(self._fds) > _OPEN_FILES:
            _, old = self._fds.popitem(last=False)
            os.close(old)
        return fd

    def drop(self, job: _Job) -> None:
        fd = self._fds.pop(job.names, None)
        if fd is not None:
            os.close(fd)

    def close(self) -> None:
        for fd in self._fds.values():
            os.close(fd)
        self._fds.clear()

"""A folder of this machine that files are taken out into, and nothing beside it.

Every name is opened relative to its folder's descriptor and without following links,
so that neither a name in a backup nor a link that somebody puts there meanwhile leads
anywhere else. Nothing that exists is touched.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import OrderedDict
from typing import TYPE_CHECKING

from standfast.errors import UsageError
from standfast.zfs.filesystem import is_name

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from standfast.zfs.attributes import Attributes

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_AGAIN = os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_KEPT_FOLDERS = 64
# Owners' ids above this stand for entries of a table of domains.
_LARGEST_ID = (1 << 32) - 2
# Nanoseconds from 1970 either way: some 292 years.
_FARTHEST = (1 << 63) - 1

_NAMESPACES = {"user", "system", "security", "trusted"}

# A path below the target: names, none of them special.
Names = tuple[bytes, ...]


class Place:
    """A target folder.

    Args:
        path: of the folder; made with its parents if it is not there.
        owners: whether to give files their owners (as root only).

    Raises:
        UsageError: it is no folder, or cannot be made.
    """

    def __init__(self, path: Path, *, owners: bool) -> None:
        self.owners = owners
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise UsageError(f"cannot write into {path}: {error.strerror}") from None
        self._folders: OrderedDict[Names, int] = OrderedDict()

    def close(self) -> None:
        """Let go of all descriptors."""
        for fd in self._folders.values():
            os.close(fd)
        self._folders.clear()
        os.close(self._top)

    def taken(self, names: Names) -> bool:
        """Return whether something lies at a path.

        Raises:
            UsageError: what should be a folder on the way is none.
        """
        try:
            with self._above(names) as fd:
                os.stat(names[-1], dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError as error:
            shown = b"/".join(names).decode("utf-8", "backslashreplace")
            raise UsageError(
                f"cannot write {shown}: {(error.strerror or 'error').lower()}",
                hint="links are not followed; name another folder with --to",
            ) from None
        return True

    def make_folder(self, names: Names) -> None:
        """Make a folder, for its owner alone until it is finished.

        Raises:
            FileExistsError: something lies there.
            OSError: it cannot be made.
        """
        with self._above(names) as fd:
            os.mkdir(names[-1], 0o700, dir_fd=fd)

    def make_file(self, names: Names) -> int:
        """Make a file and return its descriptor.

        Raises:
            FileExistsError: something lies there.
            OSError: it cannot be made.
        """
        with self._above(names) as fd:
            return os.open(names[-1], _NEW, 0o600, dir_fd=fd)

    def open_file(self, names: Names) -> int:
        """Return a descriptor of a file that was made here.

        Raises:
            OSError: it is not there any more, or is something else.
        """
        with self._above(names) as fd:
            opened = os.open(names[-1], _AGAIN, dir_fd=fd)
        if not stat.S_ISREG(os.fstat(opened).st_mode):
            os.close(opened)
            raise OSError(errno.ELOOP, "it was replaced meanwhile")
        return opened

    def make_link(self, names: Names, target: bytes) -> None:
        """Make a symbolic link; where it leads is not looked at."""
        with self._above(names) as fd:
            os.symlink(target, names[-1], dir_fd=fd)

    def make_other(self, names: Names, mode: int, device: int) -> None:
        """Make a pipe or, as root, a device."""
        with self._above(names) as fd:
            os.mknod(names[-1], stat.S_IFMT(mode) | 0o600, device, dir_fd=fd)

    def join(self, first: Names, names: Names) -> None:
        """Give a file that was made here another name."""
        with self._above(first) as above:
            old = os.dup(above)
        try:
            with self._above(names) as new:
                os.link(
                    first[-1],
                    names[-1],
                    src_dir_fd=old,
                    dst_dir_fd=new,
                    follow_symlinks=False,
                )
        finally:
            os.close(old)

    def remove(self, names: Names) -> None:
        """Take away a file that did not become whole."""
        with contextlib.suppress(OSError), self._above(names) as fd:
            os.unlink(names[-1], dir_fd=fd)

    def finish(
        self, names: Names, attributes: Attributes, xattrs: Mapping[str, bytes]
    ) -> list[str]:
        """Give a file or folder its owner, mode, extended attributes and times.

        Returns:
            What the system did not take, in words.

        Raises:
            OSError: it is not there any more, or is something else.
        """
        if stat.S_ISREG(attributes.mode):
            fd = self.open_file(names)
        else:
            with self._above(names) as above:
                fd = os.open(names[-1], _FOLDER, dir_fd=above)
        try:
            return self.finish_fd(fd, attributes, xattrs)
        finally:
            os.close(fd)

    def finish_fd(
        self, fd: int, attributes: Attributes, xattrs: Mapping[str, bytes]
    ) -> list[str]:
        """As ``finish``, of an open file or folder."""
        missed = []
        if self.owners and not self._own(fd, attributes):
            missed.append("owner")
        missed += _set_xattrs(fd, xattrs)
        # A program that runs as somebody must not come to run as somebody else.
        bits = 0o7777 if self.owners else 0o1777
        os.fchmod(fd, stat.S_IMODE(attributes.mode) & bits)
        os.utime(fd, ns=_times(attributes))
        return missed

    def finish_name(self, names: Names, attributes: Attributes) -> None:
        """Give what cannot be opened (a link, a pipe) its owner, mode and times."""
        with self._above(names) as fd:
            name = names[-1]
            if self.owners and max(attributes.uid, attributes.gid) <= _LARGEST_ID:
                os.chown(
                    name,
                    attributes.uid,
                    attributes.gid,
                    dir_fd=fd,
                    follow_symlinks=False,
                )
            if not stat.S_ISLNK(attributes.mode):
                os.chmod(name, stat.S_IMODE(attributes.mode), dir_fd=fd)
            os.utime(name, ns=_times(attributes), dir_fd=fd, follow_symlinks=False)

    @staticmethod
    def _own(fd: int, attributes: Attributes) -> bool:
        if max(attributes.uid, attributes.gid) > _LARGEST_ID:
            return False
        os.fchown(fd, attributes.uid, attributes.gid)
        return True

    @contextlib.contextmanager
    def _above(self, names: Names) -> Iterator[int]:
        """Open the folder that holds a name."""
        if not names or not all(is_name(name) for name in names):
            raise OSError(errno.EINVAL, "not a name")
        yield self._folder(names[:-1])

    def _folder(self, names: Names) -> int:
        """Return the descriptor of a folder, good until the next is asked for."""
        if not names:
            return self._top
        known = len(names)
        while known and names[:known] not in self._folders:
            known -= 1
        fd = self._folders[names[:known]] if known else self._top
        for end in range(known + 1, len(names) + 1):
            fd = os.open(names[end - 1], _FOLDER, dir_fd=fd)
            self._folders[names[:end]] = fd
        self._folders.move_to_end(names)
        while len(self._folders) > _KEPT_FOLDERS:
            _, old = self._folders.popitem(last=False)
            os.close(old)
        return fd


def _times(attributes: Attributes) -> tuple[int, int]:
    """Return access and change in nanoseconds, cut to what any system can hold."""
    atime, mtime = (
        max(-_FARTHEST, min(_FARTHEST, when))
        for when in (attributes.atime, attributes.mtime)
    )
    return atime, mtime


def _set_xattrs(fd: int, xattrs: Mapping[str, bytes]) -> list[str]:
    """Set what the system takes; return the names of the others."""
    if not hasattr(os, "setxattr"):
        return [f"xattr {name}" for name in sorted(xattrs)]
    missed = []
    for name, value in sorted(xattrs.items()):
        try:
            os.setxattr(fd, os.fsencode(linux_xattr(name)), value)
        except OSError:
            missed.append(f"xattr {name}")
    return missed


def linux_xattr(name: str) -> str:
    """Return an extended attribute's name with its namespace, as Linux wants it.

    FreeBSD and illumos keep the users' own without one.
    """
    namespace = name.partition(".")[0]
    return name if namespace in _NAMESPACES else f"user.{name}"


def split_names(path: bytes) -> Names:
    """Return the names of a path from a snapshot.

    Raises:
        UsageError: one of them is no name.
    """
    names = tuple(name for name in path.split(b"/") if name)
    if not all(is_name(name) for name in names):
        raise UsageError(f"not a path inside a snapshot: {path!r}")
    return names

"""A view of a vault on a folder, by FUSE; libfuse through ``mfusepy``.

Read-only in every respect: the kernel is told so, and no operation that writes
exists. What cannot be read is an input/output error to the program that wants it, and
one sentence to the person who mounted. The kernel keeps what it has seen, since
nothing here ever changes.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Any

from standfast.errors import CommandError, NoIdentityError, StandfastError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from standfast.backup.browse.view import Node, View

# Nothing changes, so the kernel may believe what it was told for this long, seconds.
KEEP_SECONDS = 3600
# The kernel has 32 bits for an owner; what needs more is a name of another domain.
_NOBODY, _LARGEST_ID = 65534, (1 << 32) - 2
_BLOCK = 512


class Operations:
    """What libfuse asks, answered from a view.

    Args:
        view: the tree.
        tell: is told why something could not be read.
        ready: is called when the mount answers.
    """

    # Times are integers of nanoseconds, which lose nothing.
    use_ns = True

    def __init__(
        self, view: View, tell: Callable[[str], None], ready: Callable[[], None]
    ) -> None:
        self._ready = ready
        self._view = view
        self._tell = tell
        self._owner = (os.getuid(), os.getgid())
        self._told: set[str] = set()

    def init(self, _path: str) -> None:
        """Begin to answer."""
        self._ready()

    def getattr(self, path: str, _handle: object = None) -> dict[str, int]:
        """Tell what stat(2) asks for."""
        return self._row(self._ask(self._view.look, path))

    def readdir(self, path: str, _handle: object) -> Iterator[Any]:
        """List a folder, with the two names that each one has."""
        names = self._ask(lambda raw: list(self._view.names(raw)), path)
        yield from (".", "..")
        for name, inode, kind in names:
            row = {"st_mode": kind, "st_ino": inode}
            yield name.decode("utf-8", "surrogateescape"), row, 0

    def readlink(self, path: str) -> str:
        """Tell where a symbolic link leads."""
        target: bytes = self._ask(self._view.link, path)
        return target.decode("utf-8", "surrogateescape")

    def open(self, path: str, flags: int) -> int:
        """Allow reading only; it needs no handle."""
        if flags & (os.O_WRONLY | os.O_RDWR):
            raise OSError(errno.EROFS, "")
        self._ask(self._view.look, path)
        return 0

    def read(self, path: str, size: int, offset: int, _handle: object) -> bytes:
        """Give bytes of a file."""
        data: bytes = self._ask(lambda raw: self._view.read(raw, offset, size), path)
        return data

    def listxattr(self, path: str) -> list[str]:
        """Name the extended attributes."""
        return sorted(self._xattrs(path))

    def getxattr(self, path: str, name: str, _position: int = 0) -> bytes:
        """Give one extended attribute."""
        found = self._xattrs(path)
        if name not in found:
            raise OSError(errno.ENODATA, "")
        return found[name]

    def statfs(self, _path: str) -> dict[str, int]:
        """Tell of a full file system, for nothing can be written."""
        return {"f_bsize": _BLOCK, "f_frsize": _BLOCK, "f_namemax": 1023}

    def _xattrs(self, path: str) -> dict[str, bytes]:
        found = self._ask(self._view.xattrs, path)
        # Without a name space illumos and FreeBSD mean the user's.
        return {n if "." in n else f"user.{n}": data for n, data in found.items()}

    def _row(self, node: Node) -> dict[str, int]:
        access, modify, change = node.times
        uid, gid = (
            own if number < 0 else number if number <= _LARGEST_ID else _NOBODY
            for number, own in zip((node.uid, node.gid), self._owner, strict=True)
        )
        return {
            "st_ino": node.inode,
            "st_mode": node.mode,
            "st_nlink": node.links,
            "st_size": 0 if stat.S_ISDIR(node.mode) else node.size,
            "st_blocks": -(-node.size // _BLOCK),
            "st_uid": uid,
            "st_gid": gid,
            "st_rdev": node.rdev,
            "st_atime": access,
            "st_mtime": modify,
            "st_ctime": change,
        }

    def _ask(self, question: Callable[[bytes], Any], path: str) -> Any:  # noqa: ANN401
        try:
            return question(path.encode("utf-8", "surrogateescape"))
        except UsageError:
            raise OSError(errno.ENOENT, "") from None
        except NoIdentityError as error:
            self._tell_once(path, error)
            raise OSError(errno.EACCES, "") from None
        except StandfastError as error:
            self._tell_once(path, error)
            raise OSError(errno.EIO, "") from None

    def _tell_once(self, path: str, error: StandfastError) -> None:
        if error.message not in self._told:
            self._told.add(error.message)
            self._tell(f"{path}: {error.message}")


def check_mount_point(folder: str) -> None:
    """Refuse a folder that cannot be mounted on, before the vault is opened.

    Raises:
        UsageError: it is none, or something lies in it.
    """
    try:
        present = os.listdir(folder)  # noqa: PTH208 - bytes stay bytes
    except OSError as error:
        reason = (error.strerror or "error").lower()
        raise UsageError(
            f"cannot mount on {folder}: {reason}", hint="make an empty folder for it"
        ) from None
    if present:
        raise UsageError(f"{folder} is not empty", hint="make an empty folder for it")


def load_libfuse() -> Any:  # noqa: ANN401 - a module
    """Return the binding.

    Raises:
        CommandError: it, or libfuse, is not installed.
    """
    try:
        import mfusepy  # noqa: PLC0415 - an extra
    except ImportError:
        raise CommandError(
            "mounting needs mfusepy", hint="pip install 'standfast[mount]'"
        ) from None
    except OSError as error:
        raise CommandError(
            f"mounting needs libfuse: {error}",
            hint="apt install fuse3, or pkg install fusefs-libs3",
        ) from None
    return mfusepy


def mount(
    view: View, folder: str, tell: Callable[[str], None], ready: Callable[[], None]
) -> None:
    """Mount, and return when it was unmounted or a signal came.

    libfuse ends at SIGINT, SIGTERM and SIGHUP where their actions are the system's.

    Raises:
        CommandError: libfuse is missing, or refuses.
    """
    fuse = load_libfuse()
    options = {
        "foreground": True,
        # The view is for one reader at a time; the vault is the slow part anyway.
        "nothreads": True,
        "ro": True,
        "nosuid": True,
        "nodev": True,
        "fsname": "standfast",
        "use_ino": True,
        "attr_timeout": KEEP_SECONDS,
        "entry_timeout": KEEP_SECONDS,
        "kernel_cache": True,
    }
    try:
        fuse.FUSE(Operations(view, tell, ready), folder, **options)
    except RuntimeError:
        raise CommandError(
            f"cannot mount on {folder}",
            hint="is /dev/fuse there, and may you use it?",
        ) from None

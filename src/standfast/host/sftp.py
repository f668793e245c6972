"""A machine that gives no shell, through the system's own ssh and its sftp subsystem.

It is what ``sftp`` does by itself: ``ssh -s HOST sftp``, and the file transfer
protocol of version 3 (draft-ietf-secsh-filexfer-02) over the pipes, with OpenSSH's
extensions where they are offered. Spoken here, instead of through sftp's batch mode, it
gives exact errors, names of any bytes, transfers from memory, and several
requests under way at once.
"""

from __future__ import annotations

import contextlib
import stat
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from standfast.errors import HostUnreachableError, StandfastError
from standfast.host.process import start
from standfast.host.ssh import SshHost, last_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from standfast.host.process import Process

    Request = tuple[int, bytes]

# What every server must take (draft, section 3), and what OpenSSH takes at most.
LARGEST_PACKET = 34_000
MOST_BYTES = 256 * 1024
BLOCK = 32 * 1024
# Requests under way: at 32 KiB each, 2 MiB fill a link of 160 Mbit/s at 100 ms.
WINDOW = 64
FSYNC = "fsync@openssh.com"
HARD_LINK = "hardlink@openssh.com"
POSIX_RENAME = "posix-rename@openssh.com"


class Kind(IntEnum):
    """Packet types (draft, section 3)."""

    INIT = 1
    VERSION = 2
    OPEN = 3
    CLOSE = 4
    READ = 5
    WRITE = 6
    LSTAT = 7
    OPENDIR = 11
    READDIR = 12
    REMOVE = 13
    MKDIR = 14
    RMDIR = 15
    RENAME = 18
    STATUS = 101
    HANDLE = 102
    DATA = 103
    NAME = 104
    ATTRS = 105
    EXTENDED = 200


class Code(IntEnum):
    """Status codes (draft, section 7)."""

    OK = 0
    END = 1
    NO_SUCH_FILE = 2
    DENIED = 3
    FAILURE = 4
    UNSUPPORTED = 8


OPEN_READ, OPEN_WRITE, OPEN_CREATE, OPEN_NEW = 1, 2, 8, 32


class SftpError(StandfastError):
    """The server refused a request.

    Attributes:
        code: its status code.
    """

    def __init__(self, code: int, said: str) -> None:
        super().__init__(said or f"sftp status {code}")
        self.code = code


@dataclass(frozen=True)
class Attributes:
    """What a server says of a file."""

    size: int
    mode: int

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return stat.S_ISDIR(self.mode)


class SftpHost(SshHost):
    """Sessions of the sftp subsystem over one shared connection.

    The connection is held by a session of its own, whose far end ends with our pipe.
    """

    def session(self) -> Session:
        """Open another session.

        Raises:
            HostUnreachableError: the way there failed, or no sftp is there.
        """
        with self._lock:
            if self._closed:
                raise HostUnreachableError(f"the connection to {self.name} is closed")
            self._connect()
            process = start([*self._ssh(), *self._holding()], stdin=True)
            self._processes = [p for p in self._processes if p.alive()]
            self._processes.append(process)
        return Session(self.name, process)

    def _holding(self) -> list[str]:
        return ["-s", *self._target.flags(), "sftp"]

    def _is_up(self, master: Process) -> bool:
        try:
            Session(self.name, master)
        except HostUnreachableError:
            master.kill()
            return False
        return True


class Session:
    """One conversation with a server; for one thread at a time.

    Attributes:
        extensions: what the server offers beyond version 3.
    """

    def __init__(self, name: str, process: Process) -> None:
        self._name = name
        self._process = process
        self._buffer = bytearray()
        self._last = 0
        self._over: HostUnreachableError | None = None
        self._write(struct.pack(">IBI", 5, Kind.INIT, 3))
        kind, body = self._packet()
        if kind != Kind.VERSION or len(body) < 4:  # noqa: PLR2004 - one number
            raise self._lost("it does not speak sftp; does a login script print?")
        strings = list(_strings(body[4:]))
        self.extensions = {s.decode(errors="replace") for s in strings[::2]}

    def ask(self, kind: int, body: bytes) -> tuple[int, bytes]:
        """Make one request.

        Raises:
            SftpError: it was refused.
            HostUnreachableError: the connection broke.
        """
        (answer,) = self.ask_all([(kind, body)])
        if isinstance(answer, SftpError):
            raise answer
        return answer

    def ask_all(
        self, requests: Sequence[Request]
    ) -> list[tuple[int, bytes] | SftpError]:
        """Make requests, many under way at once; return the answers in their order.

        Raises:
            HostUnreachableError: the connection broke.
        """
        answers: dict[int, tuple[int, bytes] | SftpError] = {}
        ids: list[int] = []
        for kind, body in requests:
            if len(ids) - len(answers) >= WINDOW:
                self._collect(answers)
            ids.append(self._send(kind, body))
        while len(answers) < len(ids):
            self._collect(answers)
        return [answers[number] for number in ids]

    def lstat(self, path: str) -> Attributes:
        """Return what is at a path, links not followed."""
        return attributes(self.ask(Kind.LSTAT, string(path))[1])

    def open(self, path: str, flags: int) -> bytes:
        """Open a file, a new one for its owner alone; return the handle."""
        body = string(path) + struct.pack(">III", flags, 4, 0o600)
        return handle(self.ask(Kind.OPEN, body)[1])

    def close_handle(self, opened: bytes) -> None:
        """Close a file or folder."""
        self.ask(Kind.CLOSE, string(opened))

    def make_folder(self, path: str) -> None:
        """Make a folder for its owner alone."""
        self.ask(Kind.MKDIR, string(path) + struct.pack(">II", 4, 0o700))

    def extended(self, name: str, *words: str | bytes) -> None:
        """Use one of OpenSSH's extensions."""
        self.ask(Kind.EXTENDED, string(name) + b"".join(map(string, words)))

    def write_all(
        self, opened: bytes, data: memoryview, hold: Callable[[int], None]
    ) -> None:
        """Write a file from its beginning, many pieces under way.

        Args:
            opened: the handle.
            data: all of it.
            hold: is called with each piece's size before it goes out; what it raises
                ends the transfer, and the session can be used further.
        """
        answers: dict[int, tuple[int, bytes] | SftpError] = {}
        sent = 0
        try:
            for start_at in range(0, len(data), BLOCK):
                piece = data[start_at : start_at + BLOCK]
                hold(len(piece))
                if sent - len(answers) >= WINDOW:
                    self._collect(answers)
                head = string(opened) + struct.pack(">QI", start_at, len(piece))
                self._send(Kind.WRITE, head, piece)
                sent += 1
        finally:
            while len(answers) < sent:
                self._collect(answers)
        for answer in answers.values():
            if isinstance(answer, SftpError):
                raise answer

    def read_at(self, opened: bytes, start_at: int, length: int) -> bytes:
        """Return so many bytes of a file from a place on, fewer where it ends."""
        places = range(start_at, start_at + length, BLOCK)
        wanted = [min(BLOCK, start_at + length - place) for place in places]
        requests = [
            (Kind.READ, string(opened) + struct.pack(">QI", place, count))
            for place, count in zip(places, wanted, strict=True)
        ]
        parts: list[bytes] = []
        for place, count, answer in zip(
            places, wanted, self.ask_all(requests), strict=True
        ):
            if isinstance(answer, SftpError):
                if answer.code != Code.END:
                    raise answer
                break
            part = next(_strings(answer[1]))
            parts.append(part)
            if len(part) < count:
                # Fewer than asked for is allowed, not only at the end.
                rest = start_at + length - place - len(part)
                if part:
                    parts.append(self.read_at(opened, place + len(part), rest))
                break
        return b"".join(parts)

    def list_folders(
        self, paths: Sequence[str]
    ) -> dict[str, list[tuple[str, Attributes]]]:
        """Return what lies in each of some folders; ``.`` and ``..`` are left out.

        Raises:
            SftpError: one cannot be read.
        """
        opened = self._handles([(Kind.OPENDIR, string(path)) for path in paths])
        found: dict[str, list[tuple[str, Attributes]]] = {path: [] for path in paths}
        left = dict(zip(paths, opened, strict=True))
        while left:
            requests = [(Kind.READDIR, string(opened)) for opened in left.values()]
            for path, answer in zip(list(left), self.ask_all(requests), strict=True):
                if isinstance(answer, SftpError):
                    if answer.code != Code.END:
                        raise answer
                    del left[path]
                else:
                    found[path] += _names(answer[1])
        self.ask_all([(Kind.CLOSE, string(each)) for each in opened])
        return found

    def end(self) -> None:
        """Hang up."""
        self._process.destroy()

    def _handles(self, requests: Sequence[Request]) -> list[bytes]:
        answers = self.ask_all(requests)
        opened = [handle(a[1]) for a in answers if not isinstance(a, SftpError)]
        for answer in answers:
            if isinstance(answer, SftpError):
                self.ask_all([(Kind.CLOSE, string(each)) for each in opened])
                raise answer
        return opened

    def _send(self, kind: int, body: bytes, data: memoryview | None = None) -> int:
        self._last = (self._last + 1) & 0xFFFF_FFFF
        size = 5 + len(body) + (0 if data is None else len(data))
        self._write(struct.pack(">IBI", size, kind, self._last) + body)
        if data is not None:
            self._write(data)
        return self._last

    def _write(self, data: bytes | memoryview) -> None:
        if self._over is not None:
            raise self._over
        try:
            self._process.write(data)
        except OSError:
            raise self._lost("") from None

    def _collect(self, answers: dict[int, tuple[int, bytes] | SftpError]) -> None:
        kind, body = self._packet()
        if len(body) < 4:  # noqa: PLR2004 - one number
            raise self._lost("an answer makes no sense")
        (number,) = struct.unpack_from(">I", body)
        rest = body[4:]
        if kind != Kind.STATUS:
            answers[number] = (kind, rest)
            return
        code = int.from_bytes(rest[:4], "big")
        said = next(_strings(rest[4:]), b"").decode(errors="replace")
        answers[number] = (kind, b"") if code == Code.OK else SftpError(code, said)

    def _packet(self) -> tuple[int, bytes]:
        size = int.from_bytes(self._exactly(4), "big")
        if not 1 <= size <= MOST_BYTES:
            raise self._lost("it does not speak sftp; does a login script print?")
        packet = self._exactly(size)
        return packet[0], packet[1:]

    def _exactly(self, count: int) -> bytes:
        if self._over is not None:
            raise self._over
        while len(self._buffer) < count:
            part = self._process.read()
            if not part:
                raise self._lost("")
            self._buffer += part
        found = bytes(self._buffer[:count])
        del self._buffer[:count]
        return found

    def _lost(self, why: str) -> HostUnreachableError:
        """Return the error of a conversation that is over."""
        if not why:
            with contextlib.suppress(StandfastError):
                why = last_line(self._process.finish(timeout=5).stderr)
        self._over = HostUnreachableError(f"connection to {self._name} failed: {why}")
        return self._over


def string(text: str | bytes) -> bytes:
    """Return a string as it travels: its length, then its bytes."""
    data = text.encode(errors="surrogateescape") if isinstance(text, str) else text
    return struct.pack(">I", len(data)) + data


def handle(body: bytes) -> bytes:
    """Return the handle in an answer."""
    return next(_strings(body), b"")


def attributes(body: bytes) -> Attributes:
    """Return what an answer says of a file."""
    return _attributes(body, 0)[0]


def _strings(body: bytes) -> Iterator[bytes]:
    place = 0
    while place + 4 <= len(body):
        (size,) = struct.unpack_from(">I", body, place)
        yield body[place + 4 : place + 4 + size]
        place += 4 + size


def _names(body: bytes) -> Iterable[tuple[str, Attributes]]:
    """Return the names in an answer to READDIR, with what is said of each."""
    found: list[tuple[str, Attributes]] = []
    try:
        (count,) = struct.unpack_from(">I", body)
        place = 4
        for _ in range(count):
            (size,) = struct.unpack_from(">I", body, place)
            name = body[place + 4 : place + 4 + size]
            place += 4 + size
            (size,) = struct.unpack_from(">I", body, place)
            said, place = _attributes(body, place + 4 + size)
            if name not in {b".", b".."}:
                found.append((name.decode(errors="surrogateescape"), said))
    except struct.error:
        raise SftpError(Code.FAILURE, "a listing makes no sense") from None
    return found


def _attributes(body: bytes, place: int) -> tuple[Attributes, int]:
    """Return attributes (draft, section 5) and where they end."""
    size = mode = 0
    try:
        (flags,) = struct.unpack_from(">I", body, place)
        place += 4
        if flags & 1:
            (size,) = struct.unpack_from(">Q", body, place)
            place += 8
        place += 8 if flags & 2 else 0
        if flags & 4:
            (mode,) = struct.unpack_from(">I", body, place)
            place += 4
        place += 8 if flags & 8 else 0
        if flags & 0x8000_0000:
            (count,) = struct.unpack_from(">I", body, place)
            place += 4
            for _ in range(2 * count):
                (length,) = struct.unpack_from(">I", body, place)
                place += 4 + length
    except struct.error:
        raise SftpError(Code.FAILURE, "attributes make no sense") from None
    return Attributes(size, mode), place

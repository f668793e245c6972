"""A vault on another machine that has sshd, a POSIX sh and base tools, no more.

Each verb is one small sh script, sent as an argument to ``/bin/sh -c`` with the
names as its positional parameters, so that the login shell (which may be csh or
fish) only has to pass words on. Scripts announce themselves with a mark, because a
login script may print first. Exit statuses from 40 on are ours.

Only digests travel for a keyless check: the far end hashes with ``sha256sum``
(Linux, FreeBSD 14) or ``sha256 -r`` (older FreeBSD).
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from typing import TYPE_CHECKING

from standfast.backup.model import PART_PREFIX
from standfast.backup.stores import Entry
from standfast.backup.stores.ssh_scripts import SCRIPTS
from standfast.backup.stores.tar_stream import TarReader
from standfast.errors import (
    AlreadyThereError,
    HostUnreachableError,
    NotFoundError,
    StoreError,
    TooLargeError,
    UsageError,
)
from standfast.host.ssh import SshHost, SshTarget, last_line
from standfast.units import KIB

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from standfast.backup.stores import Buffer
    from standfast.host import Host, Result
    from standfast.host.process import Process
    from standfast.pace import Pace

MARK = b"standfast-data\n"
DONE = b"standfast-done\n"
WRITE_BYTES = 256 * KIB
# Noise from login scripts before the mark; more than this is no login script.
NOISE_BYTES = 64 * KIB
# How long a far end that has answered may still take what it was given.
FEED_SECONDS = 5.0

GONE, TAKEN, NOT_A_FILE, CUT, REFUSED = 40, 41, 42, 43, 44
# ssh reports a failed connection so; `cat` below a dead connection may also end by
# a signal, which sh reports as 128 + n.
_SIGNALLED = 128

_LISTED = re.compile(
    r"(\S)\S*\s+\d+\s+\d+\s+\d+\s+(\d+)(?:,\s*\d+)?\s+\S+\s+\S+\s+\S+ (.*)"
)
_DIGEST_LINE = re.compile(r"([0-9a-f]{64})[ ][ *]?(.+)")


def open_ssh_store(rest: str, pace: Pace) -> SshStore:
    """Return the store for what follows ``ssh://``.

    The path is taken as it is written (nothing is percent-decoded), absolute
    unless it starts with ``/~/``, which means the login's home.

    Raises:
        UsageError: it is not ``[user@]host[:port]/path``.
    """
    target, path = split_address("ssh", rest)
    return SshStore(SshHost(target), path, f"ssh://{rest}", pace)


def split_address(scheme: str, rest: str) -> tuple[SshTarget, str]:
    """Return where to and the path there, for what follows ``ssh://`` or ``sftp://``.

    Raises:
        UsageError: it is not ``[user@]host[:port]/path``.
    """
    match = re.fullmatch(
        r"(?:([^@/]+)@)?(\[[^\]/]+\]|[^:/\[\]]+)(?::(\d{1,5}))?(/.*)", rest
    )
    if match is None or match.group(4) == "/":
        raise UsageError(
            f"not an {scheme} address: {scheme}://{rest}",
            hint=f"write {scheme}://[user@]host[:port]/path",
        )
    user, host, port, path = match.groups()
    target = SshTarget(host.strip("[]"), user or "", int(port) if port else None)
    return target, path.removeprefix("/~/")


class SshStore:
    """Objects as files on another machine; see Store."""

    near = False
    recorded = False

    def __init__(self, host: Host, root: str, address: str, pace: Pace) -> None:
        self.address = address
        self._host = host
        self._root = root
        self._pace = pace

    def create(self) -> None:
        """Make the directory there; see Store."""
        result = self._call("create")
        if result.code == TAKEN:
            raise AlreadyThereError(f"{self.address} is not empty")
        self._expect_done(result)

    def put(self, name: str, data: Buffer) -> None:
        """Send bytes to a temporary name there, check their count, link; see Store."""
        result = self._send("put", name, data)
        if result.code == TAKEN:
            raise AlreadyThereError(f"{name} is there already")
        self._expect_done(result)

    def replace(self, name: str, data: Buffer) -> None:
        """Send bytes to a temporary name there, check their count, move; see Store."""
        self._expect_done(self._send("replace", name, data))

    def _send(self, verb: str, name: str, data: Buffer) -> Result:
        folder, _, last = name.rpartition("/")
        part = PART_PREFIX + os.urandom(8).hex()
        view = memoryview(data)
        with self._script(verb, folder, last, str(len(view)), part) as process:
            with contextlib.suppress(BrokenPipeError):
                for start in range(0, len(view), WRITE_BYTES):
                    step = view[start : start + WRITE_BYTES]
                    self._pace.take(len(step))
                    process.write(step)
            return self._finish(process)

    def get(self, name: str, limit: int) -> bytes:
        """Fetch one object; see Store."""
        with self._script("get", name) as process:
            data = _after_mark(process)
            while len(data) <= limit and (part := process.read()):
                data += part
            if len(data) > limit:
                raise TooLargeError(
                    f"{name} is larger than it can be: over {limit} bytes"
                )
            result = self._finish(process)
        return self._object(name, result, data)

    def get_range(self, name: str, start: int, length: int) -> bytes:
        """Fetch a part of one object; see Store."""
        words = (name, str(start + 1), str(length))
        with self._script("get_range", *words) as process:
            data = _after_mark(process)
            while len(data) <= length and (part := process.read()):
                data += part
            result = self._finish(process)
        return self._object(name, result, data[:length])

    def _object(self, name: str, result: Result, data: bytearray) -> bytes:
        """Return what a script sent, if it ended well."""
        if result.code == NOT_A_FILE:
            raise NotFoundError(f"{name} is missing")
        if result.code == GONE:
            raise NotFoundError(f"{self.address} does not exist")
        self._expect(result)
        return bytes(data)

    def get_small(self, names: Sequence[str], limit: int) -> dict[str, bytes]:
        """Fetch many objects as one tar stream; see Store."""
        if not names:
            return {}
        lines = "".join(f"{name}\n" for name in names)
        broken = ""
        found: dict[str, bytes] = {}
        end = b""
        with self._script("get_small") as process:
            with _fed(process, lines.encode()):
                tar = TarReader(process.read, bytes(_after_mark(process)))
                try:
                    found = dict(tar.members(set(names), limit))
                    end = tar.rest()
                except StoreError as error:
                    broken = f"{self.address}: {error.message}"
                    if not _ends(process):
                        raise StoreError(broken, transient=True) from None
            result = self._finish(process)
        if broken and result.code == 0:
            raise StoreError(broken, transient=True)
        if not end.endswith(DONE):
            raise self._failure(result)
        return found

    def entries(self) -> list[Entry]:
        """List all that lies there; see Store."""
        result = self._call("entries")
        if result.code == GONE:
            raise NotFoundError(f"{self.address} does not exist")
        lines = self._body(result).decode(errors="surrogateescape").splitlines()
        found = [_parse_entry(line) for line in lines]
        return sorted((e for e in found if e.name != "."), key=lambda e: e.name)

    def digests(self, names: Iterable[str]) -> Iterator[tuple[str, str]]:
        """Have the far end hash, and yield what it says; see Store."""
        wanted = set(names)
        lines = "".join(f"{name}\n" for name in sorted(wanted))
        yield from self._hashed("digests", lines, wanted)

    def digests_after(
        self, asked: Sequence[tuple[str, str]]
    ) -> Iterator[tuple[str, str]]:
        """Have the far end hash nonces and objects together; see Store."""
        lines = "".join(f"{nonce} {name}\n" for nonce, name in asked)
        yield from self._hashed("digests_after", lines, {name for _, name in asked})

    def _hashed(
        self, verb: str, given: str, wanted: set[str]
    ) -> Iterator[tuple[str, str]]:
        """Give lines to a script, and yield the sums of what is wanted."""
        if not wanted:
            return
        done = False
        with self._script(verb) as process:
            with _fed(process, given.encode()):
                part = bytes(_after_mark(process)) or process.read()
                rest = b""
                while part:
                    *lines, rest = (rest + part).split(b"\n")
                    # No sum is so long: whoever sends no line feed fills no memory.
                    rest = rest[-NOISE_BYTES:]
                    for line in lines:
                        done = done or line + b"\n" == DONE
                        match = _DIGEST_LINE.fullmatch(line.decode(errors="replace"))
                        if match is not None and match.group(2) in wanted:
                            yield match.group(2), match.group(1)
                    part = process.read()
            result = self._finish(process)
        if not done:
            raise self._failure(result)

    def make_stable(self, folder: str) -> None:
        """Have the far end flush to its disk; see Store."""
        self._expect_done(self._call("make_stable", folder))

    def delete(self, name: str) -> None:
        """Remove a file there; see Store."""
        self._expect_done(self._call("delete", name))

    def delete_folder(self, name: str) -> None:
        """Remove a folder there; see Store."""
        self._expect_done(self._call("delete_folder", name))

    def close(self) -> None:
        """Hang up."""
        self._host.close()

    @contextlib.contextmanager
    def _script(self, verb: str, *words: str) -> Iterator[Process]:
        # The first words are for a far end that runs no scripts (backup serve).
        script = f": standfast {verb} 1; {SCRIPTS[verb]}"
        argv = ["/bin/sh", "-c", script, "sh", self._root, *words]
        try:
            process = self._host.spawn(argv, stdin=True)
        except HostUnreachableError as error:
            raise StoreError(
                error.message, hint=error.hint, transient=error.transient
            ) from None
        try:
            yield process
        finally:
            if process.alive():
                process.destroy()
            process.release()

    def _call(self, verb: str, *words: str, stdin: str = "") -> Result:
        with self._script(verb, *words) as process:
            with contextlib.suppress(BrokenPipeError):
                process.write(stdin.encode())
            return self._finish(process)

    def _finish(self, process: Process) -> Result:
        try:
            return self._host.finish(process)
        except HostUnreachableError as error:
            raise StoreError(error.message, transient=True) from None

    def _body(self, result: Result) -> bytes:
        """Return what stands between the marks."""
        _, mark, body = result.stdout.partition(MARK)
        if not mark or not body.endswith(DONE):
            raise self._failure(result)
        return body.removesuffix(DONE)

    def _expect_done(self, result: Result) -> None:
        if result.code != 0 or not result.stdout.endswith(DONE):
            raise self._failure(result)

    def _expect(self, result: Result) -> None:
        if result.code != 0:
            raise self._failure(result)

    def _failure(self, result: Result) -> StoreError:
        """Return the error for a script that did not do its work."""
        if result.code == GONE:
            return StoreError(f"{self.address} is gone", transient=False)
        if result.code == CUT:
            return StoreError(
                f"{self.address}: the transfer was cut on the way", transient=True
            )
        cut_short = result.code == 0 or result.code < 0 or result.code > _SIGNALLED
        reason = last_line(result.stderr) if result.stderr else "it gave no reason"
        return StoreError(f"{self.address}: {reason}", transient=cut_short)


@contextlib.contextmanager
def _fed(process: Process, data: bytes) -> Iterator[None]:
    """Write to a process in a thread, so that it may answer before it has read all.

    Whoever reads the answer only after the last word was written waits for ever once
    all pipes on the way are full. When the block ends the answer has been read; what
    the process has not taken by then it never will.
    """

    def feed() -> None:
        # The process may end, or be killed, before it has read all.
        with contextlib.suppress(OSError):
            process.write(data)
            process.close_stdin()

    thread = threading.Thread(target=feed, daemon=True)
    thread.start()
    try:
        yield
    except BaseException:
        process.kill()
        raise
    finally:
        thread.join(FEED_SECONDS)
        if thread.is_alive():
            process.kill()
            thread.join()


def _ends(process: Process) -> bool:
    """Return whether a script whose output makes no sense comes to its end soon."""
    left = NOISE_BYTES
    while left > 0 and (part := process.read(left)):
        left -= len(part)
    return left > 0


def _after_mark(process: Process) -> bytearray:
    """Read up to the mark and return what came behind it."""
    seen = bytearray()
    while True:
        place = seen.find(MARK)
        if place >= 0:
            return seen[place + len(MARK) :]
        part = process.read()
        if not part or len(seen) > NOISE_BYTES:
            return bytearray()
        seen += part


def _parse_entry(line: str) -> Entry:
    """Return what one line of ``ls -lnd`` says.

    A line that is no such line (a name with a line feed makes one) is returned
    as something foreign, by its own text.
    """
    match = _LISTED.fullmatch(line)
    if match is None:
        return Entry(line, 0, "other")
    letter, size, name = match.groups()
    kind = {"-": "file", "d": "folder"}.get(letter, "other")
    name = name.removeprefix("./")
    if letter == "l":
        name = name.partition(" -> ")[0]
    return Entry(name, int(size) if kind == "file" else 0, kind)

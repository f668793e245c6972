"""One running child process and its pipes."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

from standfast.errors import CommandError, CommandNotFoundError
from standfast.host import Result

if TYPE_CHECKING:
    from collections.abc import Sequence

# The part of standard error that is kept; the end is where the reason stands.
STDERR_KEPT = 64 * 1024
# Linux gives pipes 64 KiB; 1 MiB is what an unprivileged process may ask for, and
# it cuts the number of switches between zfs and us by sixteen.
PIPE_BYTES = 1024 * 1024
READ_BYTES = 256 * 1024


class Process:
    """A child with its pipes; made by ``start``.

    The caller reads and writes; standard error is drained by a thread.
    """

    def __init__(self, argv: Sequence[str], popen: subprocess.Popen[bytes]) -> None:
        self.argv = tuple(argv)
        self._popen = popen
        self._stderr = bytearray()
        self._drain = threading.Thread(target=self._drain_stderr, daemon=True)
        self._drain.start()

    @property
    def pid(self) -> int:
        """The child's process number."""
        return self._popen.pid

    @property
    def stdout_fd(self) -> int:
        """The reading end of the child's standard output."""
        assert self._popen.stdout is not None
        return self._popen.stdout.fileno()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write all of ``data`` to the child.

        Raises:
            BrokenPipeError: the child reads no more; its Result tells why.
        """
        assert self._popen.stdin is not None
        view = memoryview(data)
        fd = self._popen.stdin.fileno()
        while view:
            view = view[os.write(fd, view) :]

    def close_stdin(self) -> None:
        """Let the child see the end of its input."""
        if self._popen.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._popen.stdin.close()

    def read(self, count: int = READ_BYTES) -> bytes:
        """Return up to ``count`` bytes of the child's output; empty at its end."""
        return os.read(self.stdout_fd, count)

    def alive(self) -> bool:
        """Return whether the child still runs."""
        return self._popen.poll() is None

    def kill(self) -> None:
        """End the child now; harmless when it has ended."""
        with contextlib.suppress(ProcessLookupError):
            self._popen.kill()

    def finish(self, timeout: float | None = None) -> Result:
        """Close the input, drain the output, wait, and say how it ended.

        Raises:
            CommandError: it did not end within ``timeout`` seconds; it was killed.
        """
        self.close_stdin()
        timer = None
        expired = threading.Event()
        if timeout is not None:
            timer = threading.Timer(timeout, self._expire, [expired])
            timer.start()
        try:
            stdout = self._read_rest()
            code = self._popen.wait()
        finally:
            if timer is not None:
                timer.cancel()
        self._drain.join()
        self.release()
        if expired.is_set():
            raise CommandError(f"{self.argv[0]} took longer than {timeout:g} s")
        return Result(self.argv, code, stdout, self.stderr_text())

    def release(self) -> None:
        """Close our ends of the pipes."""
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def destroy(self) -> None:
        """Kill, reap and release, without a question."""
        self.kill()
        self._popen.wait()
        self._drain.join(timeout=1)
        self.release()

    def stderr_text(self) -> str:
        """Return what the child has complained of so far."""
        return bytes(self._stderr).decode(errors="replace").strip()

    def _expire(self, expired: threading.Event) -> None:
        expired.set()
        self.kill()

    def _read_rest(self) -> bytes:
        parts: list[bytes] = []
        if self._popen.stdout is not None and not self._popen.stdout.closed:
            while part := self.read():
                parts.append(part)
        return b"".join(parts)

    def _drain_stderr(self) -> None:
        pipe = self._popen.stderr
        assert pipe is not None
        with pipe:
            while part := os.read(pipe.fileno(), 4096):
                self._stderr += part
                del self._stderr[:-STDERR_KEPT]


def start(
    argv: Sequence[str],
    *,
    stdin: bool = False,
    stdin_fd: int | None = None,
) -> Process:
    """Start a program with pipes; its messages are in English (LC_ALL=C).

    Raises:
        CommandNotFoundError: there is no such program, or we may not run it.
    """
    source: int = subprocess.DEVNULL
    if stdin_fd is not None:
        source = stdin_fd
    elif stdin:
        source = subprocess.PIPE
    try:
        popen = subprocess.Popen(
            list(argv),
            stdin=source,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=os.environ | {"LC_ALL": "C"},
        )
    except (FileNotFoundError, PermissionError) as error:
        raise CommandNotFoundError(
            f"cannot run {argv[0]}: {error.strerror}",
            hint=f"is {argv[0]} installed and in PATH?",
        ) from None
    assert popen.stdout is not None
    _widen(popen.stdout.fileno())
    return Process(argv, popen)


def _widen(fd: int) -> None:
    """Ask for a larger pipe where the system has such a thing (Linux)."""
    if sys.platform == "linux":
        import fcntl  # noqa: PLC0415 - POSIX only, and only needed here

        with contextlib.suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

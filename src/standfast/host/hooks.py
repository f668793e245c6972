"""Commands that an administrator gave us to run: with a deadline that holds.

A hook runs in a process group of its own, and its output goes to a file, not a pipe:
what it leaves running in the background can neither make us wait nor outlive the
deadline. It sees our environment and what we add to it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
from typing import TYPE_CHECKING

from standfast.errors import CommandError, CommandNotFoundError
from standfast.host import Result
from standfast.host.process import STDERR_KEPT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# What a hook may still do after it was asked to end.
GRACE_SECONDS = 5.0


def run_hook(
    argv: Sequence[str],
    *,
    environment: Mapping[str, str],
    timeout: float,
    stdin: bytes = b"",
) -> Result:
    """Run a command to its end; both its outputs are the result's ``stderr``.

    Args:
        argv: the command; no shell reads it unless it names one.
        environment: variables for it, besides our own.
        timeout: seconds after which its whole group is ended.
        stdin: what it may read.

    Raises:
        CommandNotFoundError: there is no such program.
        CommandError: it ended with another status than 0, or not in time.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as source:
        source.write(stdin)
        source.seek(0)
        try:
            popen = subprocess.Popen(
                list(argv),
                stdin=source,
                stdout=out,
                stderr=out,
                env=os.environ | dict(environment),
                process_group=0,
            )
        except (FileNotFoundError, PermissionError) as error:
            raise CommandNotFoundError(
                f"cannot run {argv[0]}: {error.strerror}",
                hint="write its whole path; a timer has a short PATH",
            ) from None
        late = _wait(popen, timeout)
        result = Result(tuple(argv), popen.returncode, b"", _tail(out.fileno()))
    if late:
        raise CommandError(f"{argv[0]} took longer than {timeout:g} s")
    if result.code != 0:
        raise CommandError(result.complaint())
    return result


def _wait(popen: subprocess.Popen[bytes], timeout: float) -> bool:
    """Wait for the end; return whether the group had to be ended."""
    try:
        popen.wait(timeout)
    except subprocess.TimeoutExpired:
        _end(popen)
        return True
    except BaseException:
        _end(popen)
        raise
    return False


def _end(popen: subprocess.Popen[bytes]) -> None:
    _signal(popen, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        popen.wait(GRACE_SECONDS)
    # Also what it started and did not wait for.
    _signal(popen, signal.SIGKILL)
    popen.wait()


def _signal(popen: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(popen.pid, number)


def _tail(fd: int) -> str:
    size = os.fstat(fd).st_size
    data = os.pread(fd, STDERR_KEPT, max(0, size - STDERR_KEPT))
    return data.decode(errors="replace").strip()

"""Running programs, here or on another machine: the seam to every operating system.

A command is always a list of arguments; no shell reads it unless the list names
one. The reading end of each pipe is drained while we wait, so that a chatty child
never blocks us. What a host cannot do it says by an error of standfast.errors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from standfast.host.process import Process


@dataclass(frozen=True)
class Result:
    """What a finished command left behind.

    Attributes:
        argv: the command as it was asked for.
        code: exit status; negative is the number of the signal that ended it.
        stdout: all of standard output (empty when it was streamed elsewhere).
        stderr: the last 64 KiB of standard error, decoded, stripped.
    """

    argv: tuple[str, ...]
    code: int
    stdout: bytes
    stderr: str

    def complaint(self) -> str:
        """Return one line that says how the command ended, with its own words."""
        if self.code < 0:
            ended = f"was killed by signal {-self.code}"
        else:
            ended = f"ended with status {self.code}"
        words = "; ".join(line for line in self.stderr.splitlines() if line.strip())
        return f"{self.argv[0]} {ended}" + (f": {words}" if words else "")


class Host(Protocol):
    """A machine on which commands run."""

    @property
    def name(self) -> str:
        """What to call this machine in messages."""
        ...

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        ok: Sequence[int] = (0,),
        timeout: float | None = None,
    ) -> Result:
        """Run a command to its end and return what it printed.

        Raises:
            CommandNotFoundError: there is no such program.
            CommandError: it ended with a status that is not in ``ok``, or it took
                longer than ``timeout`` seconds and was killed.
            HostUnreachableError: the way to the machine failed.
        """
        ...

    def spawn(
        self, argv: Sequence[str], *, stdin: bool = False, stdin_fd: int | None = None
    ) -> Process:
        """Start a command whose output (and, if asked, input) the caller moves.

        Args:
            argv: the command.
            stdin: whether the caller will write to the command's standard input;
                otherwise it is empty.
            stdin_fd: an open file descriptor to be the standard input instead.

        Raises:
            CommandNotFoundError: there is no such program.
            HostUnreachableError: the way to the machine failed.
        """
        ...

    def finish(self, process: Process, timeout: float | None = None) -> Result:
        """Wait for a spawned command.

        Raises:
            CommandError: it took longer than ``timeout`` seconds and was killed.
            HostUnreachableError: the way to the machine failed.
        """
        ...

    def close(self) -> None:
        """Kill what still runs and let go of the machine."""
        ...

"""Another machine, through the system's own ssh.

The user's configuration, keys, agent and jump hosts apply, since it is their ssh
that runs. One connection carries everything: a master process of ours holds it,
and each command is a session on it. The master's remote end is a ``cat`` that
lives as long as our pipe to it, so a killed standfast leaves no ssh behind.

Quoting lives here and nowhere else. The remote login shell may be sh, bash, zsh,
csh, tcsh or fish; ``quote`` uses only what all of them read the same way.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.errors import CommandError, HostUnreachableError, UsageError
from standfast.host.process import Process, start

if TYPE_CHECKING:
    from collections.abc import Sequence

    from standfast.host import Result

# ssh's own failures; the remote scripts of this package never end with it.
TRANSPORT_FAILED = 255
READY = b"standfast-ready"
# What ssh says when no further try can help.
_FOR_GOOD = ("Permission denied", "Host key verification failed", "Too many auth")
# A dead peer is noticed after 4 x 15 s; a user's configuration cannot undo it.
KEEPALIVE = ("-o", "ServerAliveInterval=15", "-o", "ServerAliveCountMax=4")


@dataclass(frozen=True)
class SshTarget:
    """Where to: ``[user@]host[:port]``."""

    host: str
    user: str = ""
    port: int | None = None

    def __post_init__(self) -> None:
        for part in (self.host, self.user):
            if part.startswith("-") or any(c.isspace() or c < "!" for c in part):
                raise UsageError(f"not a host or user name: {part}")

    def flags(self) -> list[str]:
        """Return ssh's arguments for this target, the host name last."""
        port = [] if self.port is None else ["-p", str(self.port)]
        user = ["-l", self.user] if self.user else []
        return [*port, *user, "--", self.host]


def quote(text: str) -> str:
    r"""Return ``text`` as one word for sh, csh, tcsh, zsh and fish alike.

    Single quotes keep everything but three characters: the quote itself, the
    backslash (fish reads ``\\`` and ``\'`` inside quotes) and ``!`` (csh expands
    history even there). Those three stand outside the quotes, behind a backslash,
    which all five shells read the same way.

    Raises:
        UsageError: a line feed or NUL, which csh cannot carry in a word.
    """
    if any(c in text for c in "\n\r\0"):
        raise UsageError(f"line breaks cannot be sent to a remote shell: {text!r}")
    parts: list[str] = []
    plain = ""
    for char in text:
        if char in "'\\!":
            parts += [f"'{plain}'"] if plain else []
            parts.append("\\" + char)
            plain = ""
        else:
            plain += char
    if plain or not parts:
        parts.append(f"'{plain}'")
    return "".join(parts)


# What stands in a word that ``quote`` made: a quoted run, or one escaped character.
_QUOTED = re.compile(r"'([^'\\!]*)'|\\(['\\!])")


def unquote(text: str) -> list[str]:
    """Return the words of a command that ``quote`` made, by its strict inverse.

    Raises:
        UsageError: it is anything else.
    """
    words: list[str] = []
    place = 0
    while True:
        parts: list[str] = []
        while match := _QUOTED.match(text, place):
            parts.append(match.group(1) or match.group(2) or "")
            place = match.end()
        if not parts:
            raise UsageError("not a command of ours")
        words.append("".join(parts))
        if place == len(text):
            return words
        if text[place] != " ":
            raise UsageError("not a command of ours")
        place += 1


class SshHost:
    """Commands on another machine over one shared connection."""

    def __init__(self, target: SshTarget) -> None:
        self.name = target.host
        self._target = target
        self._lock = threading.Lock()
        self._master: Process | None = None
        self._folder = ""
        self._processes: list[Process] = []
        self._closed = False

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        ok: Sequence[int] = (0,),
        timeout: float | None = None,
    ) -> Result:
        """Run a command there to its end; see Host."""
        process = self.spawn(argv, stdin=bool(stdin))
        if stdin:
            with contextlib.suppress(BrokenPipeError):
                process.write(stdin)
        result = self.finish(process, timeout)
        if result.code not in ok:
            raise CommandError(f"{self.name}: {result.complaint()}")
        return result

    def spawn(
        self, argv: Sequence[str], *, stdin: bool = False, stdin_fd: int | None = None
    ) -> Process:
        """Start a command there; see Host."""
        command = "exec " + " ".join(quote(word) for word in argv)
        with self._lock:
            if self._closed:
                raise HostUnreachableError(f"the connection to {self.name} is closed")
            self._connect()
            process = start(
                [*self._ssh(), *self._target.flags(), command],
                stdin=stdin,
                stdin_fd=stdin_fd,
            )
            self._processes = [p for p in self._processes if p.alive()]
            self._processes.append(process)
        process.argv = tuple(argv)
        return process

    def finish(self, process: Process, timeout: float | None = None) -> Result:
        """Wait for a spawned command.

        Raises:
            HostUnreachableError: the connection broke.
        """
        result = process.finish(timeout)
        if result.code == TRANSPORT_FAILED:
            raise HostUnreachableError(
                f"connection to {self.name} failed: {last_line(result.stderr)}"
            )
        return result

    def close(self) -> None:
        """Kill what still runs and hang up; nothing can be started after that."""
        self._closed = True
        # Another thread may hold the lock while it waits for a host that does not
        # answer; it ends with its ssh.
        master = self._master
        if master is not None:
            master.kill()
        with self._lock:
            for process in self._processes:
                if process.alive():
                    process.destroy()
            self._processes.clear()
            self._hang_up()

    def _ssh(self) -> list[str]:
        path = os.path.join(self._folder, "master")  # noqa: PTH118 - a string for ssh
        batch = (
            [] if sys.stdin is not None and sys.stdin.isatty() else ["-oBatchMode=yes"]
        )
        return [
            "ssh", "-T", *batch, *KEEPALIVE,
            "-o", "ControlMaster=no", "-o", f"ControlPath={path}",
        ]  # fmt: skip

    def _connect(self) -> None:
        """Start the master unless it lives; return when it carries sessions."""
        if self._master is not None and self._master.alive():
            return
        self._hang_up()
        self._folder = tempfile.mkdtemp(prefix="standfast-")
        argv = self._ssh()
        argv[argv.index("ControlMaster=no")] = "ControlMaster=yes"
        self._master = start([*argv, *self._holding()], stdin=True)
        if self._closed:
            self._master.kill()
        if not self._is_up(self._master):
            result = self._master.finish()
            self._hang_up()
            raise self._no_way(last_line(result.stderr))

    def _holding(self) -> list[str]:
        """Return ssh's last arguments for the session that holds the connection."""
        # The first words are for a far end that runs no scripts (backup serve).
        script = f": standfast hold 1; echo {READY.decode()}; exec cat >/dev/null"
        words = " ".join(map(quote, ["/bin/sh", "-c", script]))
        return [*self._target.flags(), f"exec {words}"]

    def _is_up(self, master: Process) -> bool:
        """Wait until the far end answers; return whether it did."""
        seen = b""
        while READY not in seen:
            part = master.read()
            if not part:
                return False
            # Login scripts may be chatty; the mark is all that counts.
            seen = seen[-len(READY) :] + part
        return True

    def _no_way(self, reason: str) -> HostUnreachableError:
        words = [word for word in self._target.flags() if word != "--"]
        return HostUnreachableError(
            f"cannot connect to {self.name}: {reason}",
            hint=f"does `ssh {' '.join(words)}` work by hand?",
            transient=not any(text in reason for text in _FOR_GOOD),
        )

    def _hang_up(self) -> None:
        if self._master is not None:
            self._master.destroy()
            self._master = None
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = ""


def last_line(text: str) -> str:
    """Return the last line of a complaint, where ssh puts the reason."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given"

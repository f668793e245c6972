"""This machine."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from standfast.errors import CommandError
from standfast.host.process import Process, start

if TYPE_CHECKING:
    from collections.abc import Sequence

    from standfast.host import Result


class LocalHost:
    """Runs programs here; kills on close what it started and nobody finished."""

    name = "this machine"

    def __init__(self) -> None:
        self._processes: list[Process] = []

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        ok: Sequence[int] = (0,),
        timeout: float | None = None,
    ) -> Result:
        """Run a command to its end; see Host."""
        process = self.spawn(argv, stdin=bool(stdin))
        if stdin:
            # A program may answer without reading all that it was given.
            with contextlib.suppress(BrokenPipeError):
                process.write(stdin)
        result = self.finish(process, timeout)
        if result.code not in ok:
            raise CommandError(result.complaint())
        return result

    def spawn(
        self, argv: Sequence[str], *, stdin: bool = False, stdin_fd: int | None = None
    ) -> Process:
        """Start a command; see Host."""
        process = start(argv, stdin=stdin, stdin_fd=stdin_fd)
        self._processes = [p for p in self._processes if p.alive()]
        self._processes.append(process)
        return process

    def finish(self, process: Process, timeout: float | None = None) -> Result:
        """Wait for a spawned command; see Host."""
        return process.finish(timeout)

    def close(self) -> None:
        """Kill what still runs."""
        for process in self._processes:
            process.destroy()
        self._processes.clear()

"""Running a program, as hfm does: dear, but anything can be asked; always bounded."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from standfast.director.health import Outcome, Verdict
from standfast.director.probes import failed, passed
from standfast.errors import CommandError, CommandNotFoundError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from standfast.host import Host


class CommandProbe:
    """Passes when the program ends with 0; killed at the deadline."""

    def __init__(self, argv: Sequence[str], host: Host, deadline: float) -> None:
        self._argv = list(argv)
        self._host = host
        self._deadline = deadline

    async def check(self) -> Outcome:
        """Run it once."""
        return await asyncio.to_thread(self._run)

    def _run(self) -> Outcome:
        try:
            self._host.run(self._argv, timeout=self._deadline)
        except CommandNotFoundError as error:
            # A program that is not there says nothing of the backend.
            return Outcome(Verdict.UNKNOWN, error.message)
        except CommandError as error:
            return failed(error.message)
        return passed()

"""A host that answers from a script, and from nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from standfast.errors import CommandError
from standfast.host import Result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from standfast.host.process import Process


@dataclass(frozen=True)
class Line:
    """One command that is expected, and how it ends."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str


class ScriptedHost:
    """Plays captured commands; refuses what it was not told.

    Implements ``run`` of standfast.host.Host; streaming commands need a real one.
    """

    name = "a script"

    def __init__(self, lines: Sequence[Line]) -> None:
        self._lines = {line.argv: line for line in lines}

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",  # noqa: ARG002 - scripts read nothing
        ok: Sequence[int] = (0,),
        timeout: float | None = None,  # noqa: ARG002 - scripts take no time
    ) -> Result:
        """Answer as captured.

        Raises:
            AssertionError: the command is not in the script.
            CommandError: it ends with a status that is not in ``ok``.
        """
        line = self._lines.get(tuple(argv))
        if line is None:
            raise AssertionError(f"not in the script: {argv}")
        result = Result(line.argv, line.code, line.stdout.encode(), line.stderr)
        if line.code not in ok:
            raise CommandError(result.complaint())
        return result

    def spawn(
        self, argv: Sequence[str], *, stdin: bool = False, stdin_fd: int | None = None
    ) -> NoReturn:
        """Refuse; a script has no pipes."""
        raise AssertionError(f"a script cannot stream: {argv}, {stdin}, {stdin_fd}")

    def finish(self, process: Process, timeout: float | None = None) -> NoReturn:
        """Refuse; nothing was ever started."""
        raise AssertionError(f"a script starts nothing: {process}, {timeout}")

    def close(self) -> None:
        """Nothing is open."""

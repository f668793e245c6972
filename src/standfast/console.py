"""What a person sees: results, notes, tables and one live line.

Results go to standard output, everything else to standard error. Meaning never
hangs on colour. rich is imported only when a terminal is there to draw on.
"""

from __future__ import annotations

import contextlib
import errno
import json
import sys
import threading
from typing import TYPE_CHECKING, Any, TextIO

from standfast.errors import StandfastError
from standfast.units import duration_text, size_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from standfast.clock import Clock

LIVE_SECONDS = 0.2
PLAIN_SECONDS = 10.0


class Console:
    """Where a command's words go.

    Args:
        form: ``text`` or ``json``; in JSON a command prints one document.
        loudness: -1 quiet, 0 normal, 1 and more verbose.
    """

    def __init__(self, form: str, loudness: int) -> None:
        self.form = form
        self.loudness = loudness

    def result(self, document: dict[str, Any], text: str) -> None:
        """Print a command's outcome in the form that was asked for.

        Raises:
            StandfastError: standard output took it not (a full disk); a reader that
                has seen enough, or a terminal that went away, is none of our matter.
        """
        if self.form == "json":
            text = json.dumps(document, indent=2, ensure_ascii=True)
        elif not text or self.loudness < 0:
            return
        try:
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
        except OSError as error:
            if error.errno not in {errno.EPIPE, errno.EIO}:
                raise StandfastError(f"cannot print: {error.strerror}") from None

    def result_line(self, text: str) -> None:
        """Print one line of a text result; a JSON document says it otherwise."""
        if self.form == "text":
            write(sys.stdout, text)

    def note(self, text: str) -> None:
        """Tell something on the side."""
        if self.loudness >= 0:
            write(sys.stderr, f"standfast: {text}")

    def complain(self, text: str) -> None:
        """Tell what failed, to the quiet as well."""
        write(sys.stderr, f"standfast: {text}")

    def detail(self, text: str) -> None:
        """Tell something that only the curious want."""
        if self.loudness > 0:
            write(sys.stderr, f"standfast: {text}")

    def progress(self, title: str, total: int, clock: Clock) -> Progress:
        """Return the display for one long piece of work.

        Args:
            title: what is being done.
            total: plaintext bytes expected; 0 when unknown.
            clock: for rates.
        """
        if self.loudness < 0 or self.form == "json":
            return Progress(title, total, clock)
        if sys.stderr.isatty():
            return LiveProgress(title, total, clock)
        return PlainProgress(title, total, clock)


class Progress:
    """Counts bytes; draws nothing.

    Attributes:
        plain: plaintext bytes done.
        stored: stored bytes done.
    """

    def __init__(self, title: str, total: int, clock: Clock) -> None:
        self.title = title
        self.total = total
        self.plain = 0
        self.stored = 0
        self._clock = clock
        self._start = clock.monotonic()
        self._lock = threading.Lock()

    def add(self, plain: int, stored: int) -> None:
        """Count bytes; any thread may call this."""
        with self._lock:
            self.plain += plain
            self.stored += stored

    def expect(self, total: int) -> None:
        """Correct the total, once it is known."""
        self.total = total

    @property
    def done(self) -> int:
        """Bytes that the total speaks of."""
        return self.plain or self.stored

    def seconds(self) -> float:
        """Return seconds since the start."""
        return self._clock.monotonic() - self._start

    def line(self) -> str:
        """Return bytes, rate, compression ratio and time left in one line."""
        seconds = max(self.seconds(), 1e-6)
        rate = self.done / seconds
        parts = [f"{self.title}: {size_text(self.done)}"]
        if self.total:
            parts[0] += f" of about {size_text(self.total)}"
        parts.append(f"{size_text(rate)}/s")
        if self.plain and self.stored:
            parts.append(f"stored {self.stored / self.plain:.0%}")
        if self.total > self.done and rate > 1:
            parts.append(f"{duration_text((self.total - self.done) / rate)} left")
        return ", ".join(parts)

    @contextlib.contextmanager
    def shown(self) -> Iterator[Callable[[int, int], None]]:
        """Show the work while the block runs; yields ``add``."""
        yield self.add


class PlainProgress(Progress):
    """A line now and then, for logs and pipes."""

    @contextlib.contextmanager
    def shown(self) -> Iterator[Callable[[int, int], None]]:
        """Show the work while the block runs; yields ``add``."""
        with _ticking(PLAIN_SECONDS, lambda: write(sys.stderr, self.line())):
            yield self.add


class LiveProgress(Progress):
    """One line that changes in place."""

    @contextlib.contextmanager
    def shown(self) -> Iterator[Callable[[int, int], None]]:
        """Show the work while the block runs; yields ``add``."""
        from rich.console import Console as RichConsole  # noqa: PLC0415 - only on a terminal
        from rich.live import Live  # noqa: PLC0415 - only on a terminal
        from rich.text import Text  # noqa: PLC0415 - only on a terminal

        live = Live(
            get_renderable=lambda: Text(self.line(), overflow="ellipsis", no_wrap=True),
            console=RichConsole(stderr=True),
            refresh_per_second=1 / LIVE_SECONDS,
            transient=True,
        )
        with live:
            yield self.add


@contextlib.contextmanager
def _ticking(seconds: float, tick: Callable[[], None]) -> Iterator[None]:
    ended = threading.Event()

    def run() -> None:
        while not ended.wait(seconds):
            tick()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return aligned columns, two spaces apart."""
    widths = [len(header) for header in headers]
    for row in rows:
        widths = [max(w, len(cell)) for w, cell in zip(widths, row, strict=True)]
    lines = [headers, *rows]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def write(stream: TextIO, text: str) -> None:
    """Print a line; a terminal that went away (logout) is no reason to stop."""
    with contextlib.suppress(OSError, ValueError):
        stream.write(text + "\n")
        stream.flush()

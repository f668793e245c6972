"""One backend's turn in an upgrade, and what is watched meanwhile."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from standfast.cli.director_ask import POLL
from standfast.clock import SystemClock
from standfast.director.control import ControlError, ask
from standfast.director.upgrading import (
    SEEN,
    Reading,
    Tally,
    difference,
    too_many,
    words,
)
from standfast.director.witness import Target, Witness, first_word, parse_url
from standfast.errors import StandfastError

if TYPE_CHECKING:
    import argparse


@dataclass(frozen=True)
class Turn:
    """What one backend's turn took, and what clients and HAProxy saw meanwhile.

    Attributes:
        backend: its name.
        seconds: from drain to the end of the watch after it serves again.
        left: connections it still had at the soft stop; None when not known.
        requests: answers that our own clients got.
        refused, cut, early, bad: what else befell them; see director.witness.
        counters: rises of HAProxy's own error counters, over all nodes.
    """

    backend: str
    seconds: float
    left: int | None
    requests: int = 0
    refused: int = 0
    cut: int = 0
    early: int = 0
    bad: int = 0
    counters: dict[str, int] = field(default_factory=dict)


class StoppedError(StandfastError):
    """The upgrade ends here."""


class TurnError(StoppedError):
    """A turn went wrong after it had begun."""

    def __init__(self, message: str, turn: Turn, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.turn = turn


class Watch:
    """What is looked at all the time: our clients, and HAProxy's counters."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._socket = arguments.socket
        self._allowed = arguments.errors
        self._clock = SystemClock()
        self.pages = {
            name: Target(**node["page"])
            for name, node in self._nodes().items()
            if node["page"] is not None
        }
        # Whom this host cannot ask before, it cannot judge by that afterwards.
        words = {name: _word(page) for name, page in self.pages.items()}
        self.pages = {n: page for n, page in self.pages.items() if words[n] == "ok"}
        self.url = parse_url(arguments.check_url) if arguments.check_url else None
        targets = {"": self.url} if self.url else self.pages
        self.witness = Witness(targets)
        self.tally = Tally()
        self.usual = 0.0

    def begin(self, seconds: float) -> None:
        """Learn what is usual before anything is touched."""
        self.witness.start()
        self.look()
        self._clock.sleep(seconds)
        self.look()
        self.usual = self.errors() / seconds if seconds else 0.0

    def look(self) -> None:
        """Read HAProxy's counters."""
        for name, node in self._nodes().items():
            row = node["counters"]
            self.tally = self.tally.add(name, Reading(**row) if row else None)

    def seen(self) -> dict[str, int]:
        """Return what our clients have seen."""
        return {name: self.witness.seen[name] for name in ("ok", *SEEN)}

    def counted(self) -> dict[str, int]:
        """Return HAProxy's counters over all nodes."""
        total: Counter[str] = Counter()
        for sums in self.tally.errors.values():
            total.update(sums)
        return dict(total)

    def errors(self) -> int:
        """Return all errors so far."""
        return self.tally.total() + sum(self.witness.seen[name] for name in SEEN)

    def risen(self, errors: int, seconds: float) -> bool:
        """Return whether so many errors in so long are more than usual."""
        return too_many(errors, seconds, self.usual, self._allowed)

    def first_page(self, name: str) -> str:
        """Ask one node itself for a page, before clients come to it."""
        page = self.pages.get(name)
        if page is None:
            return "ok"
        if self.url is not None and not self.url.tls and not page.tls:
            page = Target(page.ip, page.port, self.url.path, self.url.host)
        return _word(page)

    def _nodes(self) -> dict[str, Any]:
        try:
            nodes: dict[str, Any] = ask(self._socket, {"do": "counters"})["nodes"]
        except ControlError:
            return {}
        return nodes


def _word(page: Target) -> str:
    return asyncio.run(first_word(page))


class Course:
    """One backend's turn."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        row: dict[str, Any],
        watch: Watch,
        done: frozenset[str],
    ) -> None:
        self.arguments = arguments
        self.row = row
        self.name: str = row["name"]
        self.done = done
        self.watch = watch
        self.clock = SystemClock()
        self.start = self.clock.monotonic()
        self.left: int | None = None
        watch.look()
        self._seen = watch.seen()
        self._counted = watch.counted()
        self._errors = watch.errors()
        self._by_node = watch.tally.errors

    def turn(self) -> Turn:
        """Return what has come of it so far."""
        seen = difference(self.watch.seen(), self._seen, ("ok", *SEEN))
        counted = self.watch.counted()
        rises = difference(counted, self._counted, counted)
        return Turn(
            self.name,
            round(self.clock.monotonic() - self.start, 3),
            self.left,
            requests=seen.pop("ok"),
            counters={name: count for name, count in rises.items() if count},
            **seen,
        )

    def order(self, verb: str) -> str:
        """Give an order to the daemon."""
        request = {"do": verb, "backend": self.name}
        sentence: str = ask(self.arguments.socket, request)["sentence"]
        if verb == "undrain":
            self.watch.witness.wake(self.name)
        else:
            self.watch.witness.rest(self.name)
        return sentence

    def await_table(self, seconds: float) -> None:
        """Wait until the kernel sends nobody new there; until then nothing stops.

        Raises:
            TurnError: it does not come to that.
        """
        end = self.clock.monotonic() + seconds
        while True:
            seen = ask(self.arguments.socket, {"do": "status", "backends": []})
            if not seen["pending"] and not seen["trouble"]:
                return
            if self.clock.monotonic() > end:
                self.fail(f"the data plane does not follow: {seen['trouble']}")
            self.clock.sleep(POLL / 10)

    def check(self) -> None:
        """Stop when errors have risen.

        Raises:
            TurnError: they have.
        """
        self.watch.look()
        errors = self.watch.errors() - self._errors
        seconds = self.clock.monotonic() - self.start
        if self.watch.risen(errors, seconds):
            self.fail(f"errors rise: {self._blame()}")

    def _blame(self) -> str:
        """Return what has risen where, and take out whoever it rose at."""
        turn = self.turn()
        found = [words({name: getattr(turn, name) for name in SEEN})]
        for node, sums in self.watch.tally.errors.items():
            rises = difference(sums, self._by_node.get(node, {}), sums)
            if not any(count for name, count in rises.items() if name != "wretr"):
                continue
            found.append(f"{node} {words(rises)}")
            if node != self.name and node in self.done:
                # The last that serves is not taken out, whatever it answers.
                with suppress(ControlError):
                    ask(self.arguments.socket, {"do": "drain", "backend": node})
                    found[-1] += " (it is drained)"
        return "; ".join(word for word in found if word != words({}))

    def fail(self, why: str) -> None:
        """Keep the backend out, and stop.

        Raises:
            TurnError: always.
        """
        self.order("drain")
        raise TurnError(
            f"{self.name}: {why}; it stays drained",
            self.turn(),
            "mend it, then `standfast director undrain`",
        )

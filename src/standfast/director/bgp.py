"""Announcing virtual addresses by BGP, through ExaBGP's process API.

Past a pair of directors, routers choose: each director announces its addresses while
it is fit, with a MED that is lower the fitter it is. It leaves in three steps, so
that no packet meets an address that is gone: a worse MED and the graceful-shutdown
community (RFC 8326), so traffic moves while both ways still work; then withdrawal;
then, and only then, may the address be removed (Exa-Networks/exabgp#993).

ExaBGP is not our child and lives on without us (see bgp_relay). Commands are those of
ExaBGP 4 and 5 with ``encoder text``; each is answered by ``done`` or ``error``.
"""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from standfast.errors import StandfastError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from standfast.director.model import Address

# RFC 8326: routers that honour it set the lowest local preference.
GRACEFUL_SHUTDOWN = "65535:0"
MED_BEST = 100
# Worse than any rank's MED, which end at 354.
MED_LEAVING = 10_000
RANK_HIGHEST = 254
# Routers moved traffic within 4 ms in our measurements; this allows for a chain of
# them, and for the packets that are under way.
SHIFT_S = 1.0
ANSWER_S = 2.0


class BgpError(StandfastError):
    """ExaBGP refused a command, did not answer, or is not connected."""


class Stance(Enum):
    """How much we want the traffic."""

    SERVE = "serve"
    LEAVING = "leaving"
    GONE = "gone"


@dataclass(frozen=True)
class Announcement:
    """What routers shall know of one address.

    Attributes:
        prefix: the address as a host route.
        med: lower is preferred, among routes from one neighbouring AS.
        communities: as ``AS:NUMBER``.
    """

    prefix: str
    med: int
    communities: tuple[str, ...] = ()

    def command(self) -> str:
        """Return ExaBGP's command; announcing again replaces."""
        tail = (
            f" community [ {' '.join(self.communities)} ]" if self.communities else ""
        )
        return f"announce route {self.prefix} next-hop self med {self.med}{tail}"


def prefix_of(address: Address) -> str:
    """Return the host route of an address."""
    return f"{address.ip}/{128 if address.family == 6 else 32}"  # noqa: PLR2004


def med_of(rank: int) -> int:
    """Return the MED of a rank: 100 for the best, 354 for the least."""
    return MED_BEST + RANK_HIGHEST - max(0, min(rank, RANK_HIGHEST))


def wanted(
    virtuals: Sequence[Address],
    stance: Stance,
    rank: int,
    communities: tuple[str, ...] = (),
) -> dict[str, Announcement]:
    """Return what shall be announced, by prefix; several ports share an address."""
    if stance is Stance.GONE:
        return {}
    leaving = stance is Stance.LEAVING
    med = MED_LEAVING if leaving else med_of(rank)
    words = (*communities, GRACEFUL_SHUTDOWN) if leaving else communities
    prefixes = dict.fromkeys(prefix_of(address) for address in virtuals)
    return {prefix: Announcement(prefix, med, words) for prefix in prefixes}


def commands(
    told: dict[str, Announcement], wanted: dict[str, Announcement]
) -> list[str]:
    """Return the commands between two wishes; empty when nothing changes.

    New and better routes come before withdrawals, so that at no moment less is
    reachable than before and after.
    """
    fresh = [one.command() for p, one in wanted.items() if told.get(p) != one]
    return [*fresh, *(f"withdraw route {p}" for p in told if p not in wanted)]


class BgpSpeaker:
    """Tells ExaBGP what to announce.

    Attributes:
        connected: whether ExaBGP's relay is there.
        problem: what was last refused; empty when all was well.
    """

    def __init__(
        self,
        path: Path,
        virtuals: Sequence[Address],
        *,
        communities: tuple[str, ...] = (),
        shift: float = SHIFT_S,
        told: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Name the addresses.

        Args:
            path: of the socket that the relay connects to.
            virtuals: addresses to announce; ports do not count.
            communities: to send with every route, as ``AS:NUMBER``.
            shift: seconds between the worse route and its withdrawal.
            told: is given a sentence for each thing of note.
        """
        self._path = path
        self._virtuals = tuple(virtuals)
        self._communities = communities
        self._shift = shift
        self._told_by = told
        self._stance = Stance.GONE
        self._rank = 0
        self._told: dict[str, Announcement] = {}
        # What a former daemon has announced stays until this one has said something.
        self._first = True
        self._known = False
        self._server: asyncio.Server | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._answers: asyncio.Queue[str] = asyncio.Queue()
        self._lock = asyncio.Lock()
        self._greeted: asyncio.Task[None] | None = None
        self._handlers: set[asyncio.Task[None]] = set()
        self.connected = asyncio.Event()
        self.problem = ""

    async def start(self) -> None:
        """Listen for the relay; only our user may connect."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        self._server = await asyncio.start_unix_server(self._serve_relay, self._path)
        self._path.chmod(0o600)

    async def serve(self, rank: int) -> None:
        """Announce with the MED of a rank.

        Raises:
            BgpError: ExaBGP refused, or did not answer. While it is not connected
                nothing is wrong: it is told when it comes.
        """
        await self._become(Stance.SERVE, rank)

    async def leave(self) -> None:
        """Move traffic away, then withdraw; return when the address may go.

        Raises:
            BgpError: ExaBGP refused or did not answer, so routers may still send
                packets here: keep the address.
        """
        if self._stance is Stance.GONE and not self._first:
            return
        if self._stance is not Stance.GONE:
            await self._become(Stance.LEAVING, self._rank)
            await asyncio.sleep(self._shift)
        await self._become(Stance.GONE, self._rank)
        if self._writer is None:
            raise BgpError(
                "ExaBGP is not connected, so nothing was withdrawn",
                hint="is it running, with bgp_relay as its process?",
            )

    async def retarget(
        self, virtuals: Sequence[Address], communities: tuple[str, ...]
    ) -> None:
        """Announce other addresses, or with other communities, from now on.

        Raises:
            BgpError: ExaBGP refused, or did not answer.
        """
        async with self._lock:
            self._virtuals, self._communities = tuple(virtuals), communities
            if self._writer is not None:
                await self._tell()

    async def stop(self) -> None:
        """Stop talking; routes stay as they are."""
        if self._server is not None:
            self._server.close()
        if self._writer is not None:
            self._writer.close()
        for task in [*self._handlers, *filter(None, [self._greeted])]:
            with contextlib.suppress(OSError):
                await task
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()

    async def _become(self, stance: Stance, rank: int) -> None:
        async with self._lock:
            if (stance, rank) != (self._stance, self._rank):
                self._told_by(f"BGP: {stance.value} with rank {rank}")
            self._stance, self._rank, self._known = stance, rank, True
            if self._writer is not None:
                await self._tell()

    async def _tell(self) -> None:
        wish = wanted(self._virtuals, self._stance, self._rank, self._communities)
        told = self._told
        if self._first and self._stance is Stance.GONE:
            told = wanted(self._virtuals, Stance.LEAVING, self._rank)
        for command in commands(told, wish):
            await self._ask(command)
        self._told, self._first = wish, False
        self.problem = ""

    async def _ask(self, command: str) -> None:
        assert self._writer is not None
        while not self._answers.empty():
            self._answers.get_nowait()
        self._writer.write(f"{command}\n".encode())
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._writer.drain()
                answer = await self._answers.get()
        except (TimeoutError, OSError):
            answer = "no answer"
        if answer != "done":
            self.problem = f"ExaBGP: {answer} to `{command}`"
            raise BgpError(self.problem)

    async def _serve_relay(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        self._greet(writer)
        try:
            with contextlib.suppress(OSError, ValueError):
                await self._listen(reader)
        finally:
            self._forget(writer)
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            self._handlers.discard(task)

    def _greet(self, writer: asyncio.StreamWriter) -> None:
        """Take a relay in place of the one before, and tell it everything.

        A new relay may mean a new ExaBGP, which knows nothing; announcing what it
        knows already replaces a route by itself.
        """
        if self._writer is not None:
            self._writer.close()
        self._writer = writer
        self._told = {}
        self.connected.set()
        self._told_by("BGP: ExaBGP is connected")
        self._greeted = asyncio.create_task(self._catch_up())

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            word = line.decode(errors="replace").strip()
            if word.startswith(("done", "error")):
                self._answers.put_nowait(word)

    def _forget(self, writer: asyncio.StreamWriter) -> None:
        writer.close()
        if self._writer is writer:
            self._writer = None
            self.connected.clear()
            self._told_by("BGP: ExaBGP has gone")

    async def _catch_up(self) -> None:
        async with self._lock:
            with contextlib.suppress(BgpError):
                # Before we know how fit we are, routes stay as they are.
                if self._writer is not None and self._known:
                    await self._tell()

"""The wire between two directors: UDP, sealed, both ways, all the time.

Each side sends a status every ``interval``, and its set of pins again and again, part
by part: nothing is acknowledged, and what is lost comes once more. What a peer says
is handed on by callbacks; what is refused is counted by reason, and told at most once
a second. Losing the peer is told after three intervals without a word.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import stat
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from standfast.director import peer_wire
from standfast.director.orders import orders_bodies, read_orders
from standfast.director.peer_wire import (
    KEY_BYTES,
    NONCE_BYTES,
    Kind,
    Message,
    Refusal,
    Session,
)
from standfast.director.pins import Gathering, PartError, gather, parts, read_part
from standfast.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from standfast.clock import Clock
    from standfast.director.model import Address, Pin
    from standfast.director.plan import Told

# A peer is away after this many intervals without a word.
AWAY_INTERVALS = 3
# Reasons of refused datagrams reach the log no oftener than this.
TELL_S = 1.0
TEXT_MAX = 200
# Parts sent in one go: 64 of 1.2 KB fit any system's default receive buffer.
BURST = 64
# A set that was sent whole is sent again after this long, for a peer that lost some.
ROUND_S = 1.0
# An unchanged set is said anew after this long, so that its pins do not run out.
REFRESH_S = 60.0


@dataclass(frozen=True)
class PeerStatus:
    """What a peer says of itself.

    Attributes:
        rank: its rank in the election; 0 is not fit.
        role: ``init``, ``backup`` or ``master``.
        digest: of its services and tables; see model.digest.
        sentence: its last decision.
        configuration: digest of what its tables are computed from; empty when it
            does not say.
    """

    rank: int
    role: str
    digest: str
    sentence: str
    configuration: str = ""


class Listener(Protocol):
    """Who is told; called from the event loop, and not to block."""

    def peer_status(self, status: PeerStatus) -> None:
        """Take a believed status."""
        ...

    def peer_pins(self, pins: tuple[Pin, ...]) -> None:
        """Take a whole set of pins, which replaces the one before."""
        ...

    def peer_orders(self, orders: tuple[Told, ...]) -> None:
        """Take orders that the peer was given; some or all, in any order, repeated."""
        ...

    def peer_away(self) -> None:
        """Learn that the peer has not been heard for three intervals."""
        ...

    def peer_refused(self, sentence: str) -> None:
        """Learn of a datagram that was not acted upon."""
        ...


def read_key(path: Path) -> bytes:
    """Return a shared key: 32 bytes, or 64 hex digits.

    Raises:
        UsageError: it cannot be read, others than its owner may read it, or it is
            no such key.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(4096)
    except OSError as error:
        raise UsageError(f"cannot read the key {path}: {error.strerror}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise UsageError(f"others may read the key {path}", hint=f"chmod 600 {path}")
    if len(data) == KEY_BYTES:
        return data
    with contextlib.suppress(ValueError):
        key = bytes.fromhex(data.decode("ascii", "replace").strip())
        if len(key) == KEY_BYTES:
            return key
    raise UsageError(
        f"not a key of {KEY_BYTES} bytes: {path}",
        hint=f"make one: openssl rand -hex {KEY_BYTES} > {path}",
    )


def status_body(status: PeerStatus) -> bytes:
    """Return the body that says a status; its rank is in the head."""
    said = status.sentence[:TEXT_MAX]
    words = (status.role, status.digest, said, status.configuration)
    return json.dumps(words, separators=(",", ":")).encode()


def read_status(message: Message) -> PeerStatus:
    """Read a status.

    Raises:
        PartError: it is not one of ours.
    """
    try:
        words: Any = json.loads(message.body)
        role, digest, sentence, *more = words
    except (ValueError, TypeError, RecursionError) as error:
        raise PartError(f"not a status: {error}") from None
    if not all(isinstance(word, str) for word in (role, digest, sentence, *more)):
        raise PartError("not a status: it is not made of words")
    configuration = more[0] if more else ""
    return PeerStatus(message.rank, role, digest, sentence[:TEXT_MAX], configuration)


class PeerChannel(asyncio.DatagramProtocol):
    """One side of the wire.

    Attributes:
        refused: how many datagrams were not acted upon, by reason.
        believed: how many were.
        present: whether the peer has been heard lately.
    """

    def __init__(
        self,
        listener: Listener,
        clock: Clock,
        *,
        key: bytes,
        listen: Address,
        peer: Address,
        interval: float = 0.2,
    ) -> None:
        self._listener = listener
        self._clock = clock
        self._session = Session(key, os.urandom(NONCE_BYTES))
        self._listen = listen
        self._peer = peer
        self._interval = interval
        self._transport: asyncio.DatagramTransport | None = None
        self._status = PeerStatus(0, "init", "", "")
        self._generation = 0
        self._held: frozenset[tuple[Address, Address, str]] | None = None
        self._said_at = 0.0
        self._bodies: list[bytes] = []
        self._orders: tuple[Told, ...] = ()
        self._orders_at = 0.0
        self._next_part = 0
        self._round_at = 0.0
        self._gathering = Gathering()
        self._heard_at = 0.0
        self._told_at = -TELL_S
        self._beat: asyncio.Task[None] | None = None
        self.refused: Counter[str] = Counter()
        self.believed = 0
        self.present = False

    async def start(self) -> None:
        """Listen, and send from now on.

        Raises:
            OSError: the address cannot be had.
        """
        loop = asyncio.get_running_loop()
        self._transport, _ = await loop.create_datagram_endpoint(
            lambda: self, local_addr=(self._listen.ip, self._listen.port)
        )
        self._beat = asyncio.create_task(self._send_for_ever())

    async def stop(self) -> None:
        """Say nothing more."""
        if self._beat is not None:
            self._beat.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._beat
        if self._transport is not None:
            self._transport.close()

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        assert self._transport is not None
        name = self._transport.get_extra_info("sockname")
        return str(name[0]), int(name[1])

    def say(self, status: PeerStatus) -> None:
        """Set what is said of us, and say it now."""
        self._status = status
        self._send_status()

    def order(self, orders: tuple[Told, ...]) -> None:
        """Set the orders that the peer shall know; new ones are said now."""
        if orders != self._orders:
            self._orders = orders
            self._send_orders()

    def push(self, pins: Sequence[Pin]) -> None:
        """Set the pins that the peer shall have, and begin to send them."""
        held = frozenset((pin.client, pin.virtual, pin.backend) for pin in pins)
        now = self._clock.monotonic()
        if held == self._held and now - self._said_at < REFRESH_S:
            return
        self._held, self._said_at = held, now
        self._generation += 1
        self._bodies = parts(pins, self._generation, self._clock.now())
        self._next_part = 0
        self._send_parts()

    def datagram_received(self, data: bytes, addr: Any) -> None:  # noqa: ANN401, ARG002 - asyncio's own; who sent it is shown by the seal
        """Check a datagram, and act upon it if it is believed."""
        try:
            before = self._session.peer
            self._session, message = peer_wire.unseal(self._session, data)
            if before != self._session.peer:
                # Another life of the peer numbers its sets from the beginning.
                self._gathering = Gathering()
            if message is None:
                self._answer()
                return
            self._take(message)
        except Refusal as refusal:
            self._refuse(refusal.reason, refusal.message)
        except PartError as error:
            self._refuse("form", error.message)

    def error_received(self, exc: Exception) -> None:  # noqa: ARG002 - asyncio's own
        """Note that nobody listens there (ICMP); the beat goes on."""
        self.refused["unreachable"] += 1

    def _take(self, message: Message) -> None:
        self.believed += 1
        self.present = True
        self._heard_at = self._clock.monotonic()
        if message.kind is Kind.STATUS:
            self._listener.peer_status(read_status(message))
            return
        if message.kind is Kind.ORDERS:
            self._listener.peer_orders(read_orders(message.body))
            return
        part = read_part(message.body, self._clock.now())
        self._gathering, pins = gather(self._gathering, part)
        if pins is not None:
            self._listener.peer_pins(pins)

    def _refuse(self, reason: str, sentence: str) -> None:
        self.refused[reason] += 1
        now = self._clock.monotonic()
        if now - self._told_at >= TELL_S:
            self._told_at = now
            self._listener.peer_refused(f"{sentence} ({self.refused[reason]} so far)")

    def _answer(self) -> None:
        message = self._status_message()
        self._session, datagram = peer_wire.answer(self._session, message)
        self._send(datagram)

    def _status_message(self) -> Message:
        return Message(Kind.STATUS, self._status.rank, status_body(self._status))

    def _send_status(self) -> None:
        self._session, datagram = peer_wire.seal(self._session, self._status_message())
        self._send(datagram)

    def _send_orders(self) -> None:
        """Say all orders; they are few, and the peer may have missed or lost some."""
        self._orders_at = self._clock.monotonic()
        for body in orders_bodies(self._orders):
            message = Message(Kind.ORDERS, self._status.rank, body)
            self._session, datagram = peer_wire.seal(self._session, message)
            self._send(datagram)

    def _send_parts(self) -> None:
        """Send the next parts of the set, at most a burst."""
        now = self._clock.monotonic()
        if self._next_part == 0:
            if now - self._round_at < ROUND_S and self._round_at > self._said_at:
                return
            self._round_at = now
        last = self._next_part + BURST
        for body in self._bodies[self._next_part : last]:
            message = Message(Kind.PINS, self._status.rank, body)
            self._session, datagram = peer_wire.seal(self._session, message)
            self._send(datagram)
        self._next_part = last if last < len(self._bodies) else 0

    def _send(self, datagram: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(datagram, (self._peer.ip, self._peer.port))

    async def _send_for_ever(self) -> None:
        while True:
            self._send_status()
            self._send_parts()
            if self._clock.monotonic() - self._orders_at >= ROUND_S:
                self._send_orders()
            await asyncio.sleep(self._interval)
            silence = self._clock.monotonic() - self._heard_at
            if self.present and silence > AWAY_INTERVALS * self._interval:
                self.present = False
                self._listener.peer_away()

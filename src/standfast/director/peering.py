"""The other director: whether it agrees with us, and the flows only pins can place.

The holder looks once a second which flows the table alone would misplace, and tells
the peer; the peer loads them at once, so that they are there when it takes over. A
holder keeps the pins that it was given: an idle connection may speak an hour later.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from standfast.director.election.rank import Agreement
from standfast.director.model import parse_address
from standfast.director.peer_channel import PeerChannel, PeerStatus, read_key
from standfast.director.pins import PIN_MAX_S, misplaced
from standfast.errors import StandfastError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from standfast.clock import Clock
    from standfast.director.config import PeerSection
    from standfast.director.mastership import Say
    from standfast.director.model import Flow, Pin, Wanted
    from standfast.director.plan import Told

log = logging.getLogger("standfast.director")

LOOK_SECONDS = 1.0
# Listing very many flows takes long; it is followed by so many times that of rest.
LOOK_PAUSE = 4
# Tables of two directors differ for a moment whenever one sees a change first.
DIFFERENCE_SECONDS = 5.0
# A peer that lives is heard five times in so long.
SILENCE_SECONDS = 1.0
_AGREES = {Agreement.SAME: "same", Agreement.UNKNOWN: "unknown"}
_DIFFERS = {Agreement.TABLE: "table", Agreement.DIFFERENT: "configuration"}
_ALARMS = {
    Agreement.DIFFERENT: "the peer has another configuration: services, seeds or "
    "backends differ, so a failover would break connections",
    Agreement.TABLE: "the peer has another table: it sees other backends up, or has "
    "other orders",
}


class Peering:
    """Our side of the pair.

    Args:
        section: where the peer is, and the key.
        clock: wall time, for when pins end.
        look: lists the flows that are under way; it may block.
        say: takes a sentence.
        mark: called when the pins have changed.
        told: takes an order that the peer was given.
        holds: returns whether we hold the addresses now. A peer that has just lost
            them to us says that it wants no pins, and that must not empty ours.

    Attributes:
        status: what the peer said last; None while it is away.
        pins: what it wants us to keep, or we keep for ourselves.
        pushed: what we last told it to keep.
    """

    def __init__(
        self,
        section: PeerSection,
        *,
        clock: Clock,
        look: Callable[[Wanted], Sequence[Flow]],
        say: Say,
        mark: Callable[[], None],
        told: Callable[[Told], None],
        holds: Callable[[], bool],
    ) -> None:
        try:
            listen = parse_address(section.listen)
            peer = parse_address(section.address)
        except ValueError as error:
            raise UsageError(f"peer: {error}") from None
        key = read_key(Path(section.key_file))
        self._channel = PeerChannel(self, clock, key=key, listen=listen, peer=peer)
        self._clock = clock
        self._look = look
        self._say = say
        self._mark = mark
        self._told = told
        self._holds = holds
        self._settled = False
        self._began = clock.monotonic()
        self._ours = ("", "")
        self._agreed = Agreement.UNKNOWN
        self._differs_since: float | None = None
        self._pushed = -1
        self.status: PeerStatus | None = None
        self.pins: tuple[Pin, ...] = ()
        self.pushed: tuple[Pin, ...] = ()

    @property
    def refused(self) -> Mapping[str, int]:
        """How many datagrams were not believed, by reason."""
        return self._channel.refused

    def row(self) -> dict[str, Any]:
        """Return what there is to see; see docs/director.md for the fields."""
        status = self.status
        return {
            "here": status is not None,
            "role": status.role if status else "",
            "rank": status.rank if status else 0,
            "agrees": _AGREES.get(self._agreed, "different"),
            "differs": _DIFFERS.get(self._agreed, ""),
            "refused": sum(self.refused.values()),
            "refused_by": dict(self.refused),
            "pins": len(self.pins),
        }

    async def start(self) -> None:
        """Listen and speak.

        Raises:
            UsageError: our address cannot be had.
        """
        try:
            await self._channel.start()
        except OSError as error:
            raise UsageError(f"peer.listen: {error.strerror}") from None

    def inherit(self, pins: tuple[Pin, ...]) -> None:
        """Keep pins that a former daemon left in the kernel, until told otherwise."""
        expires = self._clock.now() + PIN_MAX_S
        self.pins = tuple(replace(pin, expires=expires) for pin in pins)

    async def stop(self) -> None:
        """Say nothing more."""
        await self._channel.stop()

    async def work(self, own: Callable[[], tuple[PeerStatus, Wanted]]) -> None:
        """Say how we are and which flows need a pin, for ever."""
        while True:
            status, wanted = own()
            self._channel.say(status)
            self._drop_old()
            self._ours = (status.configuration, status.digest)
            self._compare()
            began = self._clock.monotonic()
            if self._holds():
                await self._push(wanted)
            else:
                self.pushed = ()
                self._channel.push(())
            took = self._clock.monotonic() - began
            await asyncio.sleep(max(LOOK_SECONDS, LOOK_PAUSE * took))

    def order(self, orders: tuple[Told, ...]) -> None:
        """Let the peer know the orders that were given here."""
        self._channel.order(orders)

    def settled(self) -> bool:
        """Return whether the holder's pins are here, or there is no holder to ask.

        Who has just started must not take the addresses from a peer before: flows
        that only a pin can place would be lost. A peer that is not heard at once is
        not waited for.
        """
        if not self._settled:
            if self.status is not None:
                self._settled = self.status.role != "master"
            else:
                self._settled = self._clock.monotonic() - self._began > SILENCE_SECONDS
        return self._settled

    def agreement(self) -> Agreement:
        """Return whether the peer steers as we do, tables compared moments apart."""
        return self._agreed

    def peer_status(self, status: PeerStatus) -> None:
        """See peer_channel.Listener."""
        if self.status is None:
            self._say(f"the peer is here: {status.role}, rank {status.rank}")
        self.status = status
        self._compare()

    def peer_pins(self, pins: tuple[Pin, ...]) -> None:
        """See Listener; a holder keeps what it was given before it held."""
        if self._holds():
            return
        self._settled = True
        keys = {(pin.client, pin.virtual, pin.backend) for pin in pins}
        held = {(pin.client, pin.virtual, pin.backend) for pin in self.pins}
        self.pins = pins
        if keys != held:
            self._mark()

    def peer_orders(self, orders: tuple[Told, ...]) -> None:
        """See Listener."""
        for told in orders:
            self._told(told)

    def peer_away(self) -> None:
        """See Listener."""
        self.status = None
        self._compare()
        self._say("the peer is silent")

    def peer_refused(self, sentence: str) -> None:
        """See Listener."""
        log.warning("the peer channel: %s", sentence)

    def _compare(self) -> None:
        """Find out whether the peer agrees; tell when that has changed."""
        agreed = self._compared()
        if agreed is self._agreed:
            return
        before, self._agreed = self._agreed, agreed
        if agreed in _ALARMS:
            self._say(_ALARMS[agreed], logging.WARNING)
        elif before in _ALARMS and agreed is Agreement.SAME:
            self._say("the peer agrees with us again")

    def _compared(self) -> Agreement:
        configuration, table = self._ours
        if self.status is None or not table:
            self._differs_since = None
            return Agreement.UNKNOWN
        if self.status.configuration not in ("", configuration):
            return Agreement.DIFFERENT
        if not self.status.digest or self.status.digest == table:
            self._differs_since = None
            return Agreement.SAME
        now = self._clock.monotonic()
        if self._differs_since is None:
            self._differs_since = now
        lasting = now - self._differs_since > DIFFERENCE_SECONDS
        return Agreement.TABLE if lasting else Agreement.SAME

    def _drop_old(self) -> None:
        now = self._clock.now()
        kept = tuple(pin for pin in self.pins if pin.expires > now)
        if kept != self.pins:
            self.pins = kept
            self._mark()

    async def _push(self, wanted: Wanted) -> None:
        try:
            missed = await asyncio.to_thread(self._missed, wanted)
        except StandfastError as error:
            log.warning("cannot see the flows: %s", error.message)
            return
        pins = {(p.client, p.virtual): p for p in (*self.pins, *missed)}
        self.pushed = tuple(sorted(pins.values()))
        self._channel.push(self.pushed)
        if len(pins) != self._pushed:
            self._pushed = len(pins)
            log.info("%d flows need a pin on the peer", len(pins))

    def _missed(self, wanted: Wanted) -> list[Pin]:
        return misplaced(self._look(wanted), wanted, self._clock.now())

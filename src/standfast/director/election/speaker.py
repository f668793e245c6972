"""One node of an election that speaks for itself: CARP or VRRPv3.

Joins a pure state machine to a segment, a codec and hands. The machine decides; here
is only the loop that brings it events and carries its actions out. Every refused
packet is counted, and logged at most once in ten seconds for each kind.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from standfast.director.election.broadcast import Broadcast
from standfast.director.election.codec import Refusal, RefusedError
from standfast.director.election.model import (
    RANK_UNFIT,
    Abandon,
    Announce,
    Farewell,
    Heard,
    Leave,
    LinkDown,
    LinkUp,
    Ranked,
    Role,
    RoleChange,
    Send,
    Sent,
    Start,
    Stop,
    Take,
    Tick,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from standfast.clock import Clock
    from standfast.director.election.codec import Codec, Packet
    from standfast.director.election.hands import Hands
    from standfast.director.election.model import Action, Event
    from standfast.director.election.segment import Segment

log = logging.getLogger(__name__)

LOG_EVERY = 10.0  # seconds between two lines on refused packets of one kind
LINK_EVERY = 0.1  # seconds between two looks at the link
# A farewell waits so long for the address to be gone; then the peer must be told.
FAREWELL_WAITS = 0.5
# After a takeover that failed, so long without another try; the peer has its turn.
BARRED_SECONDS = 10.0

A = TypeVar("A")


class RoleState(Protocol):
    """What the loop reads of a machine's state."""

    @property
    def role(self) -> Role:
        """What the node is."""
        ...


S = TypeVar("S", bound=RoleState)


class Machine(Generic[S, A]):
    """A pure state machine and the state that it is in.

    Args:
        state: the first one.
        step: ``(state, event, now) -> (state, actions)``.
        next_tick: when a state wants a Tick, or None.
    """

    def __init__(
        self,
        state: S,
        *,
        step: Callable[[S, Event[A], float], tuple[S, tuple[Action[A], ...]]],
        next_tick: Callable[[S], float | None],
    ) -> None:
        self.state = state
        self._step = step
        self._next_tick = next_tick

    def step(self, event: Event[A], now: float) -> tuple[Action[A], ...]:
        """Go on to the next state and return what to do."""
        self.state, actions = self._step(self.state, event, now)
        return actions

    def next_tick(self) -> float | None:
        """Return when a Tick is due, or None."""
        return self._next_tick(self.state)


class Guardian(Protocol):
    """Removes the addresses when this process no longer can; see watchdog."""

    def start(self, anew: Callable[[], None]) -> None:
        """Begin; ``anew`` is called when it has removed them though we live."""
        ...

    def beat(self) -> None:
        """Say that this process lives and is master."""
        ...

    def rest(self) -> None:
        """Say that there is nothing to remove."""
        ...

    def close(self) -> None:
        """End it; it removes nothing more."""
        ...


class Speaker(Generic[S, A]):
    """An election over the network; see Election.

    Args:
        machine: decides.
        codec: makes and judges packets.
        segment: carries them.
        hands: hold the addresses or do not.
        clock: only its wall time is read.
        guardian: outlives this process.
        inherited: whether an address is already here, from before.
    """

    def __init__(
        self,
        *,
        machine: Machine[S, A],
        codec: Codec[A],
        segment: Segment,
        hands: Hands,
        clock: Clock,
        guardian: Guardian,
        inherited: bool = False,
    ) -> None:
        self._machine = machine
        self._codec = codec
        self._segment = segment
        self._hands = hands
        self._clock = clock
        self._guardian = guardian
        self._inherited = inherited
        self._timer: asyncio.TimerHandle | None = None
        self._link_timer: asyncio.TimerHandle | None = None
        self._link = True
        self._changes = Broadcast()
        self._asked = Ranked(RANK_UNFIT, "no rank is known yet")
        self._barred: asyncio.TimerHandle | None = None
        self._failed = ""
        self._refused: Counter[Refusal] = Counter()
        self._logged: dict[Refusal, float] = {}
        self._farewells: set[asyncio.Task[None]] = set()

    @property
    def role(self) -> Role:
        """What this node is; see Election."""
        return self._machine.state.role

    @property
    def refused(self) -> Mapping[str, int]:
        """How many adverts were not believed, by reason; see Election."""
        return {kind.name.lower(): self._refused[kind] for kind in Refusal}

    @property
    def problem(self) -> str:
        """Why it stays away from the addresses for a while; see Election."""
        return self._failed if self._barred is not None else ""

    async def start(self) -> None:
        """Take part; see Election."""
        self._segment.open(self._packet)
        self._guardian.start(self._removed)
        self._event(Start(inherited=self._inherited))
        self._watch_link()

    def set_rank(self, rank: int, reason: str) -> None:
        """Say how fit this node is; see Election."""
        self._asked = Ranked(rank, reason)
        if self._barred is None:
            self._event(self._asked)

    def events(self) -> AsyncIterator[RoleChange]:
        """Return changes of role; see Election."""
        return self._changes.listen()

    async def stop(self, *, handover: bool) -> None:
        """Take part no more; see Election."""
        self._event(Stop() if handover else Abandon())
        for timer in (self._timer, self._link_timer, self._barred):
            if timer is not None:
                timer.cancel()
        if self._farewells:
            await asyncio.wait(self._farewells)
        await self._hands.close()
        self._guardian.close()
        self._segment.close()
        self._changes.close()

    def takeover_failed(self, sentence: str) -> None:
        """Give up mastership that the hands could not make true, for a while."""
        self._failed = f"the takeover failed: {sentence}"
        self._event(Ranked(RANK_UNFIT, f"the takeover failed: {sentence}"))
        if self._barred is not None:
            self._barred.cancel()
        loop = asyncio.get_running_loop()
        self._barred = loop.call_later(BARRED_SECONDS, self._unbar)

    def _unbar(self) -> None:
        self._barred = None
        self._event(self._asked)

    def _removed(self) -> None:
        """Take back what the guardian removed while this process was asleep."""
        if self.role is Role.MASTER:
            self._hands.take()

    def _packet(self, packet: Packet) -> None:
        try:
            advert = self._codec.decode(packet, self._clock.now())
        except RefusedError as error:
            self._refuse(packet, error)
            return
        self._event(Heard(packet.source, advert))

    def _refuse(self, packet: Packet, error: RefusedError) -> None:
        self._refused[error.refusal] += 1
        if error.refusal is Refusal.FOREIGN:
            return
        now = self._now()
        if now - self._logged.get(error.refusal, float("-inf")) < LOG_EVERY:
            return
        self._logged[error.refusal] = now
        log.warning(
            "ignored an advert from %s: %s; %d of this kind (%s) so far",
            packet.source,
            error.message,
            self._refused[error.refusal],
            error.refusal.value,
        )

    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _event(self, event: Event[A]) -> None:
        before = self._machine.state.role
        actions = self._machine.step(event, self._now())
        for action in actions:
            self._act(action)
        if self._machine.state.role is not before:
            self._changed(before, actions)
        self._set_timer()

    def _act(self, action: Action[A]) -> None:
        match action:
            case Send(advert):
                self._send(advert)
            case Farewell(advert):
                task = asyncio.get_running_loop().create_task(self._bid(advert))
                self._farewells.add(task)
                task.add_done_callback(self._farewells.discard)
            case Take():
                self._hands.take()
            case Leave():
                self._hands.leave()
            case Announce(reason):
                log.info("telling the neighbours again: %s", reason)
                self._hands.announce()

    def _send(self, advert: A) -> None:
        well = self._segment.send(self._codec.encode(advert, self._clock.now()))
        self._machine.step(Sent(well), self._now())
        if self.role is Role.MASTER:
            self._guardian.beat()

    async def _bid(self, advert: A) -> None:
        left = asyncio.ensure_future(self._hands.left())
        await asyncio.wait([left], timeout=FAREWELL_WAITS)
        if not left.done():
            log.warning("the address is slow to go; the peer is told now")
        self._send(advert)

    def _changed(self, before: Role, actions: tuple[Action[A], ...]) -> None:
        reasons = [a.reason for a in actions if isinstance(a, Take | Leave)]
        sentence = reasons[0] if reasons else _sentence_of(self.role)
        if self.role is not Role.MASTER:
            self._guardian.rest()
        log.info("%s -> %s: %s", before.value, self.role.value, sentence)
        self._changes.tell(RoleChange(self.role, sentence, self._now()))

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        at = self._machine.next_tick()
        if at is not None:
            self._timer = asyncio.get_running_loop().call_at(at, self._due)

    def _due(self) -> None:
        self._event(Tick())

    def _watch_link(self) -> None:
        works = self._segment.works()
        if works is not self._link:
            self._link = works
            self._event(LinkUp() if works else LinkDown())
        loop = asyncio.get_running_loop()
        self._link_timer = loop.call_later(LINK_EVERY, self._watch_link)


def _sentence_of(role: Role) -> str:
    """Say what a change means that needed no action."""
    if role is Role.INIT:
        return "takes part in no election"
    return "listens to who is master"

"""What CARP's and VRRP's state machines do alike. Pure.

Waiting for a silent master, advertising as one, farewell, a lost link, two masters
that hear each other, an oversleep. What differs between the two protocols, how fast
a node advertises, what it says, and which of two masters is the better, is asked of
``Terms``; hearing an advert is each protocol's own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol, TypeVar

from standfast.director.election.model import (
    Abandon,
    Announce,
    Farewell,
    Heard,
    Leave,
    LinkDown,
    LinkUp,
    Ranked,
    Role,
    Send,
    Start,
    Stop,
    Take,
    Tick,
)

if TYPE_CHECKING:
    from standfast.director.election.model import Action, Event, IPAddress

# Neighbours are told again at most this often while two masters shout, in seconds.
ANNOUNCE_EVERY = 0.5
# A claim is answered at once when our last advert is older than this share of an
# interval.
ASSERT_SHARE = 4


@dataclass(frozen=True, kw_only=True)
class GroupState:
    """Where a node is.

    Attributes:
        role: INIT before Start, after Stop and without a link.
        running: between Start and Stop.
        deadline: when a Tick is due, or None.
        leftover: an address may be configured here though we are no master.
        announced: when neighbours were last told.
        settle: when to tell them once more, or None.
        master: who was last heard as master, or None.
    """

    role: Role = Role.INIT
    running: bool = False
    deadline: float | None = None
    leftover: bool = False
    announced: float = float("-inf")
    settle: float | None = None
    master: IPAddress | None = None


S = TypeVar("S", bound=GroupState)
A = TypeVar("A")


class Terms(Protocol[S, A]):
    """One protocol with its settings."""

    def interval(self, state: S) -> float:
        """Return the seconds between two adverts of ours."""
        ...

    def dead(self, state: S) -> float:
        """Return how many seconds without an advert mean that the master is gone."""
        ...

    def fit(self, state: S) -> bool:
        """Return whether we may be master at all."""
        ...

    def fresh(self, state: S) -> S:
        """Return the state without what it knows of a master before."""
        ...

    def ranked(self, state: S, rank: int) -> S:
        """Return the state with another worth of ours; itself when it is the same."""
        ...

    def advert(self, state: S) -> A:
        """Return what we say as master."""
        ...

    def farewell(self) -> A:
        """Return what we say when we leave."""
        ...

    def hears(
        self, state: S, source: IPAddress, advert: A, now: float
    ) -> tuple[S, tuple[Action[A], ...]]:
        """Return what an advert leads to, for a backup or a master."""
        ...

    def silence(self, state: S) -> str:
        """Return why a backup takes over that has waited long enough."""
        ...


def step(  # noqa: PLR0911 - one case for each event
    terms: Terms[S, A], state: S, event: Event[A], now: float
) -> tuple[S, tuple[Action[A], ...]]:
    """Return the next state and what to do, in order.

    Args:
        terms: the protocol.
        state: where the node is.
        event: what happened.
        now: seconds of a monotonic clock.
    """
    match event:
        case Start(inherited):
            return _listen(terms, replace(state, leftover=inherited), now), ()
        case Stop():
            return _stop(terms, state)
        case Abandon():
            return _idle(state, running=False), ()
        case Ranked(rank, reason):
            return _ranked(terms, state, terms.ranked(state, rank), reason, now)
        case LinkDown():
            left = (Leave("the link is down"),) if state.role is Role.MASTER else ()
            return _idle(state, running=state.running), left
        case LinkUp() if state.running and state.role is Role.INIT:
            return _listen(terms, state, now), ()
        case Heard(source, advert) if state.role is not Role.INIT:
            return terms.hears(state, source, advert, now)
        case Tick():
            return _tick(terms, state, now)
        case _:
            return state, ()


def next_tick(state: GroupState) -> float | None:
    """Return when the next Tick is due, or None."""
    times = [at for at in (state.deadline, state.settle) if at is not None]
    return min(times, default=None)


def follow(
    terms: Terms[S, A], state: S, source: IPAddress, now: float
) -> tuple[S, tuple[Action[A], ...]]:
    """As a backup, take somebody for the master, and wait for silence anew."""
    after = replace(
        state, deadline=dead_at(terms, state, now), leftover=False, master=source
    )
    if state.leftover:
        return after, (Leave(f"left over from before; {source} is master"),)
    return after, ()


def step_down(
    terms: Terms[S, A], state: S, source: IPAddress, now: float, reason: str
) -> tuple[S, tuple[Action[A], ...]]:
    """As a master, give way to a better one."""
    backup = replace(state, role=Role.BACKUP, settle=None, master=source)
    return replace(backup, deadline=dead_at(terms, backup, now)), (Leave(reason),)


def stand_by_claim(
    terms: Terms[S, A], state: S, source: IPAddress, settle: float, now: float
) -> tuple[S, tuple[Action[A], ...]]:
    """Answer a worse claim with ours, but never let two nodes shout without pause.

    ``settle`` is when the other has surely heard us; neighbours are told then once
    more, for the loser's last gratuitous ARP comes after our advert.
    """
    interval = terms.interval(state)
    master = replace(state, settle=settle)
    actions: tuple[Action[A], ...] = _awake(terms, state, now)
    assert state.deadline is not None
    if now - (state.deadline - interval) >= interval / ASSERT_SHARE:
        master = replace(master, deadline=now + interval)
        actions = (Send(terms.advert(state)), *actions)
    if now - state.announced < ANNOUNCE_EVERY:
        return master, actions
    told = Announce(f"{source} claimed the address too")
    return replace(master, announced=now), (*actions, told)


def take(
    terms: Terms[S, A], state: S, reason: str, now: float
) -> tuple[S, tuple[Action[A], ...]]:
    """Become master."""
    master = replace(
        state,
        role=Role.MASTER,
        deadline=now + terms.interval(state),
        leftover=False,
        announced=now,
        master=None,
    )
    return master, (Send(terms.advert(state)), Take(reason))


def dead_at(terms: Terms[S, A], state: S, now: float) -> float | None:
    """Return when a silent master counts as gone; an unfit node waits for nothing."""
    return now + terms.dead(state) if terms.fit(state) else None


def _listen(terms: Terms[S, A], state: S, now: float) -> S:
    backup = replace(terms.fresh(state), role=Role.BACKUP, running=True, settle=None)
    return replace(backup, deadline=dead_at(terms, backup, now))


def _idle(state: S, *, running: bool) -> S:
    return replace(state, role=Role.INIT, running=running, deadline=None, settle=None)


def _stop(terms: Terms[S, A], state: S) -> tuple[S, tuple[Action[A], ...]]:
    idle = _idle(state, running=False)
    if state.role is not Role.MASTER:
        return idle, ()
    return idle, (Leave("stopped in good order"), Farewell(terms.farewell()))


def _ranked(
    terms: Terms[S, A], before: S, state: S, reason: str, now: float
) -> tuple[S, tuple[Action[A], ...]]:
    fit = terms.fit(state)
    if state is before:
        return state, ()
    if state.role is Role.MASTER and not fit:
        down = replace(state, role=Role.BACKUP, deadline=None, settle=None)
        return down, (Leave(reason), Farewell(terms.farewell()))
    if state.role is Role.MASTER:
        # At once, so that a better backup preempts.
        after = replace(state, deadline=now + terms.interval(state))
        return after, (Send(terms.advert(state)),)
    if state.role is Role.BACKUP and fit is not terms.fit(before):
        return replace(state, deadline=dead_at(terms, state, now)), ()
    return state, ()


def _tick(terms: Terms[S, A], state: S, now: float) -> tuple[S, tuple[Action[A], ...]]:
    if state.role is Role.BACKUP and _due(state.deadline, now):
        return take(terms, state, terms.silence(state), now)
    if state.role is not Role.MASTER:
        return state, ()
    actions: tuple[Action[A], ...] = ()
    after = state
    if _due(state.deadline, now):
        after = replace(after, deadline=now + terms.interval(state))
        actions += (Send(terms.advert(state)), *_awake(terms, state, now))
    if _due(state.settle, now):
        after = replace(after, settle=None, announced=now)
        actions += (Announce("the other claimant has gone"),)
    return after, actions


def _awake(terms: Terms[S, A], state: S, now: float) -> tuple[Take, ...]:
    """Take anew after an oversleep: someone may have taken the address from us."""
    late = 0.0 if state.deadline is None else now - state.deadline
    if late < terms.dead(state):
        return ()
    return (Take(f"asleep for {late:.2f} s; taking the address anew"),)


def _due(deadline: float | None, now: float) -> bool:
    return deadline is not None and now >= deadline

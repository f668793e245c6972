"""VRRPv3's state machine (RFC 5798 section 6.4, with RFC 9568's changes). Pure.

The master multicasts an advert each ``interval`` centiseconds; a backup takes over
after three of the master's intervals and its own skew, (256 - priority)/256 of one.
Differences from the RFC, each of which another implementation cannot tell:

* Rank 0 is a node that must not serve: it says farewell, listens, never takes over.
* A backup lets a worse master be unless it is better by more than ``margin``.
* An asleep master that wakes after a whole dead time takes its addresses anew, for
  a watchdog or the peer may have removed them meanwhile.
* A master that hears a worse one asserts itself at once (RFC 9568) and tells the
  neighbours again where the address is, now and once the other has gone; otherwise
  the loser's last gratuitous ARP would stay in their caches.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from standfast.director.election.model import (
    RANK_HIGHEST,
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
    Send,
    Start,
    Stop,
    Take,
    Tick,
)
from standfast.director.election.vrrp_wire import PRIORITY_LEAVING, VrrpAdvert

if TYPE_CHECKING:
    from standfast.director.election.model import Action, Event, IPAddress

    Step = tuple["VrrpState", tuple[Action[VrrpAdvert], ...]]

DEAD_RATIO = 3  # intervals without an advert; fixed by the RFC
CENTISECOND = 0.01
# Neighbours are told again at most this often while two masters shout, in seconds.
ANNOUNCE_EVERY = 0.5
# A claim is answered at once when our last advert is older than this share of an
# interval.
ASSERT_SHARE = 4


@dataclass(frozen=True)
class VrrpConfig:
    """What does not change while an election runs.

    Attributes:
        vrid: the group, 1..255.
        interval: own centiseconds between adverts, 1..4095.
        source: own address on the segment; breaks ties, the higher one wins.
        addresses: the virtual addresses.
        margin: by how much a better backup must be better to preempt; 255 or more
            means that it never does.
    """

    vrid: int
    interval: int
    source: IPAddress
    addresses: tuple[IPAddress, ...]
    margin: int = 0


@dataclass(frozen=True)
class VrrpState:
    """Where a node is.

    Attributes:
        role: INIT before Start, after Stop and without a link.
        priority: own, 0 (unfit) to 254.
        running: between Start and Stop.
        interval: the master's centiseconds between adverts.
        deadline: when a Tick is due, or None.
        leftover: an address may be configured here though we are no master.
        announced: when neighbours were last told.
        settle: when to tell them once more, or None.
        master: who was last heard as master, or None.
    """

    role: Role
    priority: int
    running: bool
    interval: int
    deadline: float | None = None
    leftover: bool = False
    announced: float = float("-inf")
    settle: float | None = None
    master: IPAddress | None = None


def initial(config: VrrpConfig) -> VrrpState:
    """Return the state before Start: unfit until it is told a rank."""
    return VrrpState(Role.INIT, RANK_UNFIT, running=False, interval=config.interval)


def skew_seconds(priority: int, interval: int) -> float:
    """Return a backup's skew: (256 - priority)/256 of the master's interval."""
    return (256 - priority) / 256 * interval * CENTISECOND


def dead_seconds(priority: int, interval: int) -> float:
    """Return how long a backup waits for an advert before it takes over."""
    return DEAD_RATIO * interval * CENTISECOND + skew_seconds(priority, interval)


def step(  # noqa: PLR0911 - one case for each event
    config: VrrpConfig, state: VrrpState, event: Event[VrrpAdvert], now: float
) -> Step:
    """Return the next state and what to do, in order.

    Args:
        config: what does not change.
        state: where the node is.
        event: what happened.
        now: seconds of a monotonic clock.
    """
    match event:
        case Start(inherited):
            return _listen(config, replace(state, leftover=inherited), now)
        case Stop():
            return _stop(config, state)
        case Abandon():
            return _idle(state, running=False), ()
        case Ranked(rank, reason):
            return _ranked(config, state, min(rank, RANK_HIGHEST), reason, now)
        case LinkDown():
            return _link_down(state)
        case LinkUp() if state.running and state.role is Role.INIT:
            return _listen(config, state, now)
        case Heard(source, advert) if state.role is Role.BACKUP:
            return _backup_hears(config, state, source, advert, now)
        case Heard(source, advert) if state.role is Role.MASTER:
            return _master_hears(config, state, source, advert, now)
        case Tick():
            return _tick(config, state, now)
        case _:
            return state, ()


def _listen(config: VrrpConfig, state: VrrpState, now: float) -> Step:
    return replace(
        state,
        role=Role.BACKUP,
        running=True,
        interval=config.interval,
        deadline=_dead_at(state.priority, config.interval, now),
        settle=None,
    ), ()


def _dead_at(priority: int, interval: int, now: float) -> float | None:
    """An unfit node waits for nothing."""
    return None if priority == RANK_UNFIT else now + dead_seconds(priority, interval)


def _idle(state: VrrpState, *, running: bool) -> VrrpState:
    return replace(state, role=Role.INIT, running=running, deadline=None, settle=None)


def _stop(config: VrrpConfig, state: VrrpState) -> Step:
    idle = _idle(state, running=False)
    if state.role is not Role.MASTER:
        return idle, ()
    return idle, (Leave("stopped in good order"), _farewell(config))


def _farewell(config: VrrpConfig) -> Farewell[VrrpAdvert]:
    return Farewell(_advert(config, PRIORITY_LEAVING))


def _advert(config: VrrpConfig, priority: int) -> VrrpAdvert:
    return VrrpAdvert(config.vrid, priority, config.interval, config.addresses)


def _ranked(
    config: VrrpConfig, state: VrrpState, priority: int, reason: str, now: float
) -> Step:
    changed = replace(state, priority=priority)
    if priority == state.priority:
        return state, ()
    if state.role is Role.MASTER and priority == RANK_UNFIT:
        down = replace(changed, role=Role.BACKUP, deadline=None, settle=None)
        return down, (Leave(reason), _farewell(config))
    if state.role is Role.MASTER:
        later = now + config.interval * CENTISECOND
        return replace(changed, deadline=later), (Send(_advert(config, priority)),)
    if state.role is Role.BACKUP and RANK_UNFIT in (priority, state.priority):
        dead = _dead_at(priority, state.interval, now)
        return replace(changed, deadline=dead), ()
    return changed, ()


def _link_down(state: VrrpState) -> Step:
    actions = (Leave("the link is down"),) if state.role is Role.MASTER else ()
    return _idle(state, running=state.running), actions


def _backup_hears(
    config: VrrpConfig,
    state: VrrpState,
    source: IPAddress,
    advert: VrrpAdvert,
    now: float,
) -> Step:
    if advert.priority == PRIORITY_LEAVING:
        if state.priority == RANK_UNFIT or state.master not in (None, source):
            return state, ()  # another master is there, and goes on
        soon = now + skew_seconds(state.priority, state.interval)
        return replace(state, deadline=soon, master=None), ()
    if state.priority > advert.priority + config.margin:
        return state, ()  # its adverts do not stop our timer, so we preempt it
    followed = replace(
        state,
        interval=advert.interval,
        deadline=_dead_at(state.priority, advert.interval, now),
        leftover=False,
        master=source,
    )
    if state.leftover:
        return followed, (Leave(f"left over from before; {source} is master"),)
    return followed, ()


def _master_hears(
    config: VrrpConfig,
    state: VrrpState,
    source: IPAddress,
    advert: VrrpAdvert,
    now: float,
) -> Step:
    theirs, ours = (advert.priority, source), (state.priority, config.source)
    if advert.priority != PRIORITY_LEAVING and theirs > ours:
        backup = replace(
            state,
            role=Role.BACKUP,
            interval=advert.interval,
            deadline=_dead_at(state.priority, advert.interval, now),
            settle=None,
            master=source,
        )
        return backup, (Leave(f"{source} has priority {advert.priority}"),)
    return _assert(config, state, source, advert.interval, now)


def _assert(
    config: VrrpConfig, state: VrrpState, source: IPAddress, theirs: int, now: float
) -> Step:
    """Answer a worse claim with ours, but never let two nodes shout without pause."""
    interval = config.interval * CENTISECOND
    # Two intervals, for the loser's last gratuitous ARP comes after our advert.
    settle = now + 2 * max(config.interval, theirs) * CENTISECOND
    master = replace(state, settle=settle)
    actions: tuple[Action[VrrpAdvert], ...] = _awake(config, state, now)
    assert state.deadline is not None
    if now - (state.deadline - interval) >= interval / ASSERT_SHARE:
        master = replace(master, deadline=now + interval)
        actions = (Send(_advert(config, state.priority)), *actions)
    if now - state.announced < ANNOUNCE_EVERY:
        return master, actions
    told = Announce(f"{source} claimed the address too")
    return replace(master, announced=now), (*actions, told)


def _awake(config: VrrpConfig, state: VrrpState, now: float) -> tuple[Take, ...]:
    """Take anew after an oversleep: someone may have taken the address from us."""
    late = 0.0 if state.deadline is None else now - state.deadline
    if late < dead_seconds(state.priority, config.interval):
        return ()
    return (Take(f"asleep for {late:.2f} s; taking the address anew"),)


def _tick(config: VrrpConfig, state: VrrpState, now: float) -> Step:
    if state.role is Role.BACKUP and _due(state.deadline, now):
        return _take(config, state, now)
    if state.role is not Role.MASTER:
        return state, ()
    actions: tuple[Action[VrrpAdvert], ...] = ()
    after = state
    if state.deadline is not None and now >= state.deadline:
        after = replace(after, deadline=now + config.interval * CENTISECOND)
        actions += (
            Send(_advert(config, state.priority)),
            *_awake(config, state, now),
        )
    if _due(state.settle, now):
        after = replace(after, settle=None, announced=now)
        actions += (Announce("the other claimant has gone"),)
    return after, actions


def _due(deadline: float | None, now: float) -> bool:
    return deadline is not None and now >= deadline


def _take(config: VrrpConfig, state: VrrpState, now: float) -> Step:
    master = replace(
        state,
        role=Role.MASTER,
        deadline=now + config.interval * CENTISECOND,
        leftover=False,
        announced=now,
        master=None,
    )
    reason = "no master is heard"
    if state.master is not None:
        reason = f"master {state.master} was not heard in time, or is worse"
    return master, (Send(_advert(config, state.priority)), Take(reason))


def next_tick(state: VrrpState) -> float | None:
    """Return when the next Tick is due, or None."""
    times = [at for at in (state.deadline, state.settle) if at is not None]
    return min(times, default=None)

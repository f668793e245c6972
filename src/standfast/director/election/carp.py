"""CARP's state machine, as FreeBSD and ucarp run it. Pure.

The master multicasts an advert each advbase + advskew/256 seconds; a backup takes
over when it heard none for 3 advbase + advskew/256. The shorter interval is the
better node. Where the two known implementations differ, or ours does:

* Equal intervals: FreeBSD's master steps down, ucarp's compares addresses and the
  lower one stays; as does ours.
* A backup takes a master over at once when its own interval is shorter (by more
  than ``margin`` of advskew), or when the master's is longer than three of its own
  advbase. The latter makes 255/255 a farewell that FreeBSD and ucarp understand,
  though they send none themselves.
* FreeBSD's dead timer uses the plain advskew, so that a demoted backup still wins
  the race for a dead master; ours uses the demoted one.
* A demotion is added to advskew and capped at 240. Three adverts in a row that
  could not be sent demote by 240, three that could take that back (FreeBSD's
  senderr_demotion_factor).
* Rank 0 is a node that must not serve: it says farewell, listens, never takes over.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from standfast.director.election.carp_wire import MAX_SKEW, CarpAdvert
from standfast.director.election.model import (
    RANK_HIGHEST,
    RANK_LOWEST,
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
    Sent,
    Start,
    Stop,
    Take,
    Tick,
)

if TYPE_CHECKING:
    from standfast.director.election.model import Action, Event, IPAddress

    Step = tuple["CarpState", tuple[Action[CarpAdvert], ...]]

DEAD_RATIO = 3
SKEWS_PER_SECOND = 256
FAREWELL = 255  # as advbase and advskew, OpenBSD's way on interface down
SEND_ERRORS = 3
SEND_ERROR_DEMOTION = 240
# Neighbours are told again at most this often while two masters shout, in seconds.
ANNOUNCE_EVERY = 0.5
# A claim is answered at once when our last advert is older than this share of an
# interval.
ASSERT_SHARE = 4


@dataclass(frozen=True)
class CarpConfig:
    """What does not change while an election runs.

    Attributes:
        vhid: the group, 1..255.
        advbase: own seconds between adverts, 1..254.
        source: own address on the segment; breaks ties, the lower one wins.
        margin: by how much advskew a better backup must be better to preempt; 255
            or more means that it never does.
    """

    vhid: int
    advbase: int
    source: IPAddress
    margin: int = 0


@dataclass(frozen=True)
class CarpState:
    """Where a node is.

    Attributes:
        role: INIT before Start, after Stop and without a link.
        advskew: own, 0..240, without demotion; None is unfit.
        running: between Start and Stop.
        failures: sends that failed in a row; negative: that went well in a row
            while demoted.
        demoted: whether failed sends demote us.
        deadline: when a Tick is due, or None.
        leftover: an address may be configured here though we are no master.
        announced: when neighbours were last told.
        settle: when to tell them once more, or None.
        master: who was last heard as master, or None.
    """

    role: Role
    advskew: int | None
    running: bool
    failures: int = 0
    demoted: bool = False
    deadline: float | None = None
    leftover: bool = False
    announced: float = float("-inf")
    settle: float | None = None
    master: IPAddress | None = None

    @property
    def skew(self) -> int:
        """The demoted advskew that adverts carry; MAX_SKEW when unfit."""
        if self.advskew is None:
            return MAX_SKEW
        return min(MAX_SKEW, self.advskew + SEND_ERROR_DEMOTION * self.demoted)


def initial() -> CarpState:
    """Return the state before Start: unfit until it is told a rank."""
    return CarpState(Role.INIT, advskew=None, running=False)


def skew_of_rank(rank: int) -> int | None:
    """Return the advskew for a rank: 254 is 0, 1 is 240, 0 (unfit) is None."""
    if rank == RANK_UNFIT:
        return None
    worse = RANK_HIGHEST - min(rank, RANK_HIGHEST)
    return worse * MAX_SKEW // (RANK_HIGHEST - RANK_LOWEST)


def interval_seconds(advbase: int, advskew: int) -> float:
    """Return the seconds between two adverts."""
    return advbase + advskew / SKEWS_PER_SECOND


def dead_seconds(advbase: int, advskew: int) -> float:
    """Return how long a backup waits for an advert before it takes over."""
    return DEAD_RATIO * advbase + advskew / SKEWS_PER_SECOND


def step(  # noqa: C901, PLR0911 - one case for each event
    config: CarpConfig, state: CarpState, event: Event[CarpAdvert], now: float
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
            return _ranked(config, state, skew_of_rank(rank), reason, now)
        case LinkDown():
            return _link_down(state)
        case LinkUp() if state.running and state.role is Role.INIT:
            return _listen(config, state, now)
        case Heard(source, advert) if state.role is Role.BACKUP:
            return _backup_hears(config, state, source, advert, now)
        case Heard(source, advert) if state.role is Role.MASTER:
            return _master_hears(config, state, source, advert, now)
        case Sent(well) if state.role is Role.MASTER:
            return _count(state, well=well), ()
        case Tick():
            return _tick(config, state, now)
        case _:
            return state, ()


def _listen(config: CarpConfig, state: CarpState, now: float) -> Step:
    listening = replace(
        state,
        role=Role.BACKUP,
        running=True,
        deadline=_dead_at(config, state, now),
        settle=None,
    )
    return listening, ()


def _dead_at(config: CarpConfig, state: CarpState, now: float) -> float | None:
    """An unfit node waits for nothing."""
    if state.advskew is None:
        return None
    return now + dead_seconds(config.advbase, state.skew)


def _idle(state: CarpState, *, running: bool) -> CarpState:
    return replace(state, role=Role.INIT, running=running, deadline=None, settle=None)


def _stop(config: CarpConfig, state: CarpState) -> Step:
    idle = _idle(state, running=False)
    if state.role is not Role.MASTER:
        return idle, ()
    return idle, (Leave("stopped in good order"), _farewell(config))


def _farewell(config: CarpConfig) -> Farewell[CarpAdvert]:
    return Farewell(CarpAdvert(config.vhid, FAREWELL, FAREWELL))


def _advert(config: CarpConfig, state: CarpState) -> CarpAdvert:
    return CarpAdvert(config.vhid, state.skew, config.advbase)


def _next_send(config: CarpConfig, state: CarpState, now: float) -> float:
    return now + interval_seconds(config.advbase, state.skew)


def _ranked(
    config: CarpConfig, state: CarpState, advskew: int | None, reason: str, now: float
) -> Step:
    if advskew == state.advskew:
        return state, ()
    changed = replace(state, advskew=advskew)
    if state.role is Role.MASTER and advskew is None:
        down = replace(changed, role=Role.BACKUP, deadline=None, settle=None)
        return down, (Leave(reason), _farewell(config))
    if state.role is Role.MASTER:
        # At once, as FreeBSD does on a change of demotion: a better backup preempts.
        after = replace(changed, deadline=_next_send(config, changed, now))
        return after, (Send(_advert(config, changed)),)
    if state.role is Role.BACKUP and None in (advskew, state.advskew):
        return replace(changed, deadline=_dead_at(config, changed, now)), ()
    return changed, ()


def _link_down(state: CarpState) -> Step:
    actions = (Leave("the link is down"),) if state.role is Role.MASTER else ()
    return _idle(state, running=state.running), actions


def _backup_hears(
    config: CarpConfig,
    state: CarpState,
    source: IPAddress,
    advert: CarpAdvert,
    now: float,
) -> Step:
    ours = interval_seconds(config.advbase, state.skew)
    theirs = interval_seconds(advert.advbase, advert.advskew)
    if state.master not in (None, source) and theirs > ours:
        # Two masters after a partition: the one that we follow will see to the
        # other; preempting that one would add a third.
        return state, ()
    heard = replace(state, master=source)
    if state.advskew is not None:
        if theirs > DEAD_RATIO * config.advbase:
            return _take(config, heard, now, f"{source} leaves or will time out")
        if ours + config.margin / SKEWS_PER_SECOND < theirs:
            return _take(config, heard, now, f"{source} is slower than this node")
    followed = replace(heard, deadline=_dead_at(config, state, now), leftover=False)
    if state.leftover:
        return followed, (Leave(f"left over from before; {source} is master"),)
    return followed, ()


def _master_hears(
    config: CarpConfig,
    state: CarpState,
    source: IPAddress,
    advert: CarpAdvert,
    now: float,
) -> Step:
    theirs = (interval_seconds(advert.advbase, advert.advskew), source)
    ours = (interval_seconds(config.advbase, state.skew), config.source)
    if theirs < ours:
        backup = replace(
            state,
            role=Role.BACKUP,
            deadline=_dead_at(config, state, now),
            settle=None,
            master=source,
        )
        return backup, (Leave(f"{source} advertises more often"),)
    return _assert(config, state, source, now)


def _assert(
    config: CarpConfig, state: CarpState, source: IPAddress, now: float
) -> Step:
    """Answer a worse claim with ours, but never let two nodes shout without pause."""
    interval = interval_seconds(config.advbase, state.skew)
    # Later too, for the loser's last gratuitous ARP comes after our advert.
    master = replace(state, settle=now + 2 * config.advbase)
    actions: tuple[Action[CarpAdvert], ...] = _awake(config, state, now)
    assert state.deadline is not None
    if now - (state.deadline - interval) >= interval / ASSERT_SHARE:
        master = replace(master, deadline=now + interval)
        actions = (Send(_advert(config, state)), *actions)
    if now - state.announced < ANNOUNCE_EVERY:
        return master, actions
    told = Announce(f"{source} claimed the address too")
    return replace(master, announced=now), (*actions, told)


def _awake(config: CarpConfig, state: CarpState, now: float) -> tuple[Take, ...]:
    """Take anew after an oversleep: someone may have taken the address from us."""
    late = 0.0 if state.deadline is None else now - state.deadline
    if late < dead_seconds(config.advbase, state.skew):
        return ()
    return (Take(f"asleep for {late:.2f} s; taking the address anew"),)


def _count(state: CarpState, *, well: bool) -> CarpState:
    if well == state.demoted:
        run = state.failures + 1
        if run < SEND_ERRORS:
            return replace(state, failures=run)
        return replace(state, failures=0, demoted=not state.demoted)
    return replace(state, failures=0)


def _tick(config: CarpConfig, state: CarpState, now: float) -> Step:
    if state.role is Role.BACKUP and _due(state.deadline, now):
        reason = "no master is heard"
        if state.master is not None:
            reason = f"master {state.master} was not heard in time"
        return _take(config, state, now, reason)
    if state.role is not Role.MASTER:
        return state, ()
    actions: tuple[Action[CarpAdvert], ...] = ()
    after = state
    if state.deadline is not None and now >= state.deadline:
        after = replace(after, deadline=_next_send(config, state, now))
        actions += (Send(_advert(config, state)), *_awake(config, state, now))
    if _due(state.settle, now):
        after = replace(after, settle=None, announced=now)
        actions += (Announce("the other claimant has gone"),)
    return after, actions


def _due(deadline: float | None, now: float) -> bool:
    return deadline is not None and now >= deadline


def _take(config: CarpConfig, state: CarpState, now: float, reason: str) -> Step:
    master = replace(
        state,
        role=Role.MASTER,
        deadline=_next_send(config, state, now),
        leftover=False,
        announced=now,
        master=None,
    )
    return master, (Send(_advert(config, state)), Take(reason))


def next_tick(state: CarpState) -> float | None:
    """Return when the next Tick is due, or None."""
    times = [at for at in (state.deadline, state.settle) if at is not None]
    return min(times, default=None)

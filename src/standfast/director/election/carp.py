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

from standfast.director.election import holding
from standfast.director.election.carp_wire import MAX_SKEW, CarpAdvert
from standfast.director.election.holding import GroupState, next_tick
from standfast.director.election.model import (
    RANK_HIGHEST,
    RANK_LOWEST,
    RANK_UNFIT,
    Role,
    Sent,
)

if TYPE_CHECKING:
    from standfast.director.election.model import Action, Event, IPAddress

    Step = tuple["CarpState", tuple[Action[CarpAdvert], ...]]

__all__ = ["CarpConfig", "CarpState", "dead_seconds", "initial", "next_tick", "step"]

DEAD_RATIO = 3
SKEWS_PER_SECOND = 256
FAREWELL = 255  # as advbase and advskew, OpenBSD's way on interface down
SEND_ERRORS = 3
SEND_ERROR_DEMOTION = 240


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


@dataclass(frozen=True, kw_only=True)
class CarpState(GroupState):
    """Where a node is; see GroupState.

    Attributes:
        advskew: own, 0..240, without demotion; None is unfit.
        failures: sends that failed in a row; negative: that went well in a row
            while demoted.
        demoted: whether failed sends demote us.
    """

    advskew: int | None = None
    failures: int = 0
    demoted: bool = False

    @property
    def skew(self) -> int:
        """The demoted advskew that adverts carry; MAX_SKEW when unfit."""
        if self.advskew is None:
            return MAX_SKEW
        return min(MAX_SKEW, self.advskew + SEND_ERROR_DEMOTION * self.demoted)


def initial() -> CarpState:
    """Return the state before Start: unfit until it is told a rank."""
    return CarpState()


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


def step(
    config: CarpConfig, state: CarpState, event: Event[CarpAdvert], now: float
) -> Step:
    """Return the next state and what to do, in order; see holding.step."""
    if isinstance(event, Sent):
        return (
            _count(state, well=event.well) if state.role is Role.MASTER else state
        ), ()
    return holding.step(_Terms(config), state, event, now)


def _count(state: CarpState, *, well: bool) -> CarpState:
    if well == state.demoted:
        run = state.failures + 1
        if run < SEND_ERRORS:
            return replace(state, failures=run)
        return replace(state, failures=0, demoted=not state.demoted)
    return replace(state, failures=0)


@dataclass(frozen=True)
class _Terms:
    """See holding.Terms."""

    config: CarpConfig

    def interval(self, state: CarpState) -> float:
        return interval_seconds(self.config.advbase, state.skew)

    def dead(self, state: CarpState) -> float:
        return dead_seconds(self.config.advbase, state.skew)

    def fit(self, state: CarpState) -> bool:
        return state.advskew is not None

    def fresh(self, state: CarpState) -> CarpState:
        return state

    def ranked(self, state: CarpState, rank: int) -> CarpState:
        advskew = skew_of_rank(rank)
        return state if advskew == state.advskew else replace(state, advskew=advskew)

    def advert(self, state: CarpState) -> CarpAdvert:
        return CarpAdvert(self.config.vhid, state.skew, self.config.advbase)

    def farewell(self) -> CarpAdvert:
        return CarpAdvert(self.config.vhid, FAREWELL, FAREWELL)

    def silence(self, state: CarpState) -> str:
        if state.master is None:
            return "no master is heard"
        return f"master {state.master} was not heard in time"

    def hears(
        self, state: CarpState, source: IPAddress, advert: CarpAdvert, now: float
    ) -> Step:
        theirs = interval_seconds(advert.advbase, advert.advskew)
        if state.role is Role.BACKUP:
            return self._backup_hears(state, source, theirs, now)
        if (theirs, source) < (self.interval(state), self.config.source):
            why = f"{source} advertises more often"
            return holding.step_down(self, state, source, now, why)
        settle = now + 2 * self.config.advbase
        return holding.stand_by_claim(self, state, source, settle, now)

    def _backup_hears(
        self, state: CarpState, source: IPAddress, theirs: float, now: float
    ) -> Step:
        ours = self.interval(state)
        if state.master not in (None, source) and theirs > ours:
            # Two masters after a partition: the one that we follow will see to the
            # other; preempting that one would add a third.
            return state, ()
        heard = replace(state, master=source)
        if self.fit(state):
            if theirs > DEAD_RATIO * self.config.advbase:
                why = f"{source} leaves or will time out"
                return holding.take(self, heard, why, now)
            if ours + self.config.margin / SKEWS_PER_SECOND < theirs:
                why = f"{source} is slower than this node"
                return holding.take(self, heard, why, now)
        return holding.follow(self, heard, source, now)

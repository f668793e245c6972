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

from standfast.director.election import holding
from standfast.director.election.holding import GroupState, next_tick
from standfast.director.election.model import (
    RANK_HIGHEST,
    RANK_UNFIT,
    Role,
)
from standfast.director.election.vrrp_wire import PRIORITY_LEAVING, VrrpAdvert

if TYPE_CHECKING:
    from standfast.director.election.model import Action, Event, IPAddress

    Step = tuple["VrrpState", tuple[Action[VrrpAdvert], ...]]

__all__ = ["VrrpConfig", "VrrpState", "dead_seconds", "initial", "next_tick", "step"]

DEAD_RATIO = 3  # intervals without an advert; fixed by the RFC
CENTISECOND = 0.01


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


@dataclass(frozen=True, kw_only=True)
class VrrpState(GroupState):
    """Where a node is; see GroupState.

    Attributes:
        priority: own, 0 (unfit) to 254.
        interval: the master's centiseconds between adverts.
    """

    priority: int
    interval: int


def initial(config: VrrpConfig) -> VrrpState:
    """Return the state before Start: unfit until it is told a rank."""
    return VrrpState(priority=RANK_UNFIT, interval=config.interval)


def skew_seconds(priority: int, interval: int) -> float:
    """Return a backup's skew: (256 - priority)/256 of the master's interval."""
    return (256 - priority) / 256 * interval * CENTISECOND


def dead_seconds(priority: int, interval: int) -> float:
    """Return how long a backup waits for an advert before it takes over."""
    return DEAD_RATIO * interval * CENTISECOND + skew_seconds(priority, interval)


def step(
    config: VrrpConfig, state: VrrpState, event: Event[VrrpAdvert], now: float
) -> Step:
    """Return the next state and what to do, in order; see holding.step."""
    return holding.step(_Terms(config), state, event, now)


@dataclass(frozen=True)
class _Terms:
    """See holding.Terms."""

    config: VrrpConfig

    def interval(self, state: VrrpState) -> float:  # noqa: ARG002 - not of its rank
        return self.config.interval * CENTISECOND

    def dead(self, state: VrrpState) -> float:
        master = state.role is Role.MASTER
        return dead_seconds(
            state.priority, self.config.interval if master else state.interval
        )

    def fit(self, state: VrrpState) -> bool:
        return state.priority != RANK_UNFIT

    def fresh(self, state: VrrpState) -> VrrpState:
        return replace(state, interval=self.config.interval)

    def ranked(self, state: VrrpState, rank: int) -> VrrpState:
        priority = min(rank, RANK_HIGHEST)
        return (
            state if priority == state.priority else replace(state, priority=priority)
        )

    def advert(self, state: VrrpState) -> VrrpAdvert:
        return self._advert(state.priority)

    def farewell(self) -> VrrpAdvert:
        return self._advert(PRIORITY_LEAVING)

    def _advert(self, priority: int) -> VrrpAdvert:
        config = self.config
        return VrrpAdvert(config.vrid, priority, config.interval, config.addresses)

    def silence(self, state: VrrpState) -> str:
        if state.master is None:
            return "no master is heard"
        return f"master {state.master} was not heard in time, or is worse"

    def hears(
        self, state: VrrpState, source: IPAddress, advert: VrrpAdvert, now: float
    ) -> Step:
        if state.role is Role.BACKUP:
            return self._backup_hears(state, source, advert, now)
        theirs, ours = (advert.priority, source), (state.priority, self.config.source)
        if advert.priority != PRIORITY_LEAVING and theirs > ours:
            why = f"{source} has priority {advert.priority}"
            followed = replace(state, interval=advert.interval)
            return holding.step_down(self, followed, source, now, why)
        # Two intervals, for the loser's last gratuitous ARP comes after our advert.
        slower = max(self.config.interval, advert.interval)
        settle = now + 2 * slower * CENTISECOND
        return holding.stand_by_claim(self, state, source, settle, now)

    def _backup_hears(
        self, state: VrrpState, source: IPAddress, advert: VrrpAdvert, now: float
    ) -> Step:
        if advert.priority == PRIORITY_LEAVING:
            if state.priority == RANK_UNFIT or state.master not in (None, source):
                return state, ()  # another master is there, and goes on
            soon = now + skew_seconds(state.priority, state.interval)
            return replace(state, deadline=soon, master=None), ()
        if state.priority > advert.priority + self.config.margin:
            return state, ()  # its adverts do not stop our timer, so we preempt it
        followed = replace(state, interval=advert.interval)
        return holding.follow(self, followed, source, now)

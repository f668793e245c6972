"""How fit a node is to hold the addresses: a number with a reason. Pure.

The number grows with the share of backends that the node can reach, below the
preference that the operator gave it. It is 0 only where holding the addresses would
break connections that are alive: without rules the kernel answers clients with RST.
It falls at once and returns only when it has been deserved for a while, so that a
node that flaps does not move the addresses each time.

A difference between two directors harms connections only when addresses move, so it
never takes them from a node that holds them: it keeps the other from taking them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal

from standfast.director.election.model import RANK_HIGHEST, RANK_LOWEST, RANK_UNFIT

OnDifference = Literal["alarm", "yield", "refuse"]


class Agreement(Enum):
    """Whether the peer steers as this node does.

    TABLE: from one configuration it has made another table for some time, as when it
    sees other backends down. DIFFERENT: services, seeds or backends differ.
    """

    SAME = "same"
    TABLE = "table"
    DIFFERENT = "configuration"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Fitness:
    """What a node knows of itself.

    Attributes:
        healthy: backends that it can reach.
        total: backends that it should reach.
        loaded: whether the rules are in the data plane; None is "could not tell".
        agreement: what the peer's digest says.
        willing: False while an operator keeps the node from mastership.
        holder: whether it holds the addresses now.
        unproved: why no probe came back through the addresses when this node took
            them; empty when one did, or none was sent.
        pinned: whether it knows which flows the holder's hash misplaces.
    """

    healthy: int
    total: int
    loaded: bool | None
    agreement: Agreement = Agreement.UNKNOWN
    willing: bool = True
    holder: bool = False
    unproved: str = ""
    pinned: bool = True


@dataclass(frozen=True)
class RankPolicy:
    """How to weigh.

    Attributes:
        preference: rank of a node that lacks nothing, 10..254; give the preferred
            one more than the others.
        hold: seconds for which a better rank must be deserved before it is claimed.
        on_difference: what a difference does to a node that does not hold the
            addresses. ``alarm``: nothing. ``yield``: with another configuration it
            takes them only when nobody else holds them. ``refuse``: with another
            configuration or table it does not take them at all while the peer is
            heard, and while it is silent only when nobody else holds them.
        bare: rank without any backend that answers. 1 where one node must hold the
            addresses in any case; 0 where others serve beside it (BGP).
    """

    preference: int = 200
    hold: float = 10.0
    on_difference: OnDifference = "yield"
    bare: int = RANK_LOWEST


@dataclass(frozen=True)
class RankState:
    """What is claimed, and since when more is deserved.

    Attributes:
        rank: claimed now.
        reason: why.
        deserved: what the last facts say.
        since: when ``deserved`` last rose above ``rank`` or fell, in seconds.
    """

    rank: int = RANK_UNFIT
    reason: str = "nothing is known yet"
    deserved: int = RANK_UNFIT
    since: float = 0.0


def deserved_rank(policy: RankPolicy, fitness: Fitness) -> tuple[int, str]:
    """Return the rank that facts give, without memory, and the reason."""
    limit, why = _limit(policy, fitness)
    rank, reached = _reach(policy, fitness)
    return (limit, why) if limit < rank else (rank, reached)


def _limit(policy: RankPolicy, fitness: Fitness) -> tuple[int, str]:
    """Return the most that a node may claim, whatever it reaches, and why."""
    if not fitness.willing:
        return RANK_UNFIT, "an operator keeps this node from mastership"
    if not fitness.loaded:
        unsure = "could not tell whether the rules are loaded"
        words = "the rules are not loaded" if fitness.loaded is False else unsure
        return RANK_UNFIT, words
    limit = RANK_HIGHEST if fitness.holder else _difference(policy, fitness.agreement)
    if limit < RANK_HIGHEST:
        reasons = {
            Agreement.DIFFERENT: "the peer has another configuration",
            Agreement.TABLE: "the peer has another table",
        }
        silent = "the peer is silent, so its table is not known"
        return limit, reasons.get(fitness.agreement, silent)
    if not fitness.holder and not fitness.pinned:
        return RANK_LOWEST, "the holder's pins have not come yet"
    if fitness.unproved:
        return RANK_LOWEST, fitness.unproved
    return RANK_HIGHEST, ""


def _difference(policy: RankPolicy, agreement: Agreement) -> int:
    """Return the most that a node which holds nothing may claim beside its peer."""
    if policy.on_difference == "yield":
        return RANK_LOWEST if agreement is Agreement.DIFFERENT else RANK_HIGHEST
    if policy.on_difference == "alarm" or agreement is Agreement.SAME:
        return RANK_HIGHEST
    return RANK_LOWEST if agreement is Agreement.UNKNOWN else RANK_UNFIT


def _reach(policy: RankPolicy, fitness: Fitness) -> tuple[int, str]:
    best = min(policy.preference, RANK_HIGHEST)
    if fitness.total == 0:
        return RANK_LOWEST, "no backend is configured"
    reached = f"{fitness.healthy} of {fitness.total} backends healthy"
    if fitness.healthy == 0:
        return policy.bare, reached
    missing = fitness.total - fitness.healthy
    return max(RANK_LOWEST + 1, best - best * missing // fitness.total), reached


def step(
    policy: RankPolicy, state: RankState, fitness: Fitness, now: float
) -> RankState:
    """Return what to claim now.

    A fall, and the first rank above 0 as the lowest one, are claimed at once; a rise
    after it was deserved for ``policy.hold`` seconds without a fall in between.

    Args:
        policy: how to weigh.
        state: what was claimed.
        fitness: facts of now.
        now: seconds of a monotonic clock.
    """
    deserved, reason = deserved_rank(policy, fitness)
    if deserved <= state.rank:
        return RankState(deserved, reason, deserved, now)
    since = now if _restarts(state, deserved) else state.since
    if now - since >= policy.hold:
        return RankState(deserved, reason, deserved, now)
    # Fit to hold the address if nobody else does; a better claim has to be earned.
    rank = max(state.rank, RANK_LOWEST)
    waiting = f"{reason}; returns to {deserved} in {policy.hold - (now - since):.0f} s"
    return replace(state, rank=rank, reason=waiting, deserved=deserved, since=since)


def inherited(policy: RankPolicy, fitness: Fitness, now: float) -> RankState:
    """Return what a node claims that held the addresses before its daemon began.

    At once what it deserves: a restart is no reason to move an address.
    """
    deserved, reason = deserved_rank(policy, fitness)
    return RankState(deserved, reason, deserved, now)


def _restarts(state: RankState, deserved: int) -> bool:
    """A fall while waiting, or the first rise, starts the wait anew."""
    return state.deserved <= state.rank or deserved < state.deserved


def next_review(policy: RankPolicy, state: RankState) -> float | None:
    """Return when ``step`` should be asked again though no fact changed, or None."""
    return state.since + policy.hold if state.deserved > state.rank else None

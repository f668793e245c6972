"""How fit a node is to hold the addresses: a number with a reason. Pure.

The number grows with the share of backends that the node can reach, below the
preference that the operator gave it. It is 0 only where holding the addresses would
break connections that are alive: without rules the kernel answers clients with RST.
It falls at once and returns only when it has been deserved for a while, so that a
node that flaps does not move the addresses each time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from standfast.director.election.model import RANK_HIGHEST, RANK_LOWEST, RANK_UNFIT


class Agreement(Enum):
    """Whether the peer has the same table and seed."""

    SAME = "same"
    DIFFERENT = "different"
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
    """

    healthy: int
    total: int
    loaded: bool | None
    agreement: Agreement = Agreement.UNKNOWN
    willing: bool = True


@dataclass(frozen=True)
class RankPolicy:
    """How to weigh.

    Attributes:
        preference: rank of a node that lacks nothing, 10..254; give the preferred
            one more than the others.
        hold: seconds for which a better rank must be deserved before it is claimed.
        refuse_on_difference: whether a peer with another table makes this node
            unfit; otherwise it ranks lowest.
    """

    preference: int = 200
    hold: float = 10.0
    refuse_on_difference: bool = False


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


def deserved_rank(  # noqa: PLR0911 - one for each reason
    policy: RankPolicy, fitness: Fitness
) -> tuple[int, str]:
    """Return the rank that facts give, without memory, and the reason."""
    if not fitness.willing:
        return RANK_UNFIT, "an operator keeps this node from mastership"
    if fitness.loaded is None:
        return RANK_UNFIT, "could not tell whether the rules are loaded"
    if not fitness.loaded:
        return RANK_UNFIT, "the rules are not loaded"
    if fitness.agreement is Agreement.DIFFERENT:
        if policy.refuse_on_difference:
            return RANK_UNFIT, "the peer has another table"
        return RANK_LOWEST, "the peer has another table"
    best = min(policy.preference, RANK_HIGHEST)
    if fitness.total == 0:
        return RANK_LOWEST, "no backend is configured"
    reached = f"{fitness.healthy} of {fitness.total} backends healthy"
    if fitness.healthy == 0:
        return RANK_LOWEST, reached
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


def _restarts(state: RankState, deserved: int) -> bool:
    """A fall while waiting, or the first rise, starts the wait anew."""
    return state.deserved <= state.rank or deserved < state.deserved


def next_review(policy: RankPolicy, state: RankState) -> float | None:
    """Return when ``step`` should be asked again though no fact changed, or None."""
    return state.since + policy.hold if state.deserved > state.rank else None

"""The fold of probe results into up and down; pure, time is an argument.

``rise`` passes in a row make a backend up, ``fall`` failures in a row make it down,
counted from the first result on: nothing is believed at once. A probe that could
not tell changes nothing. A backend that keeps flapping is kept down until its
penalty has decayed (as route flap damping does, RFC 2439, one per fall).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from standfast.director.model import BackendState


class Verdict(Enum):
    """What one probe found."""

    PASS = "pass"  # noqa: S105 - a verdict
    FAIL = "fail"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Outcome:
    """One result of one probe.

    Attributes:
        verdict: pass, fail, or that it could not tell.
        text: a few words for the log.
        share: per cent of its weight that the backend asks for (agent-check).
        drain: whether the backend asks to get no new connections (agent-check).
    """

    verdict: Verdict
    text: str = ""
    share: int = 100
    drain: bool = False


@dataclass(frozen=True)
class Pace:
    """How results are weighed, and how often they are fetched; seconds.

    Attributes:
        rise: passes in a row that make a backend up.
        fall: failures in a row that make it down.
        interval: from start to start of a probe.
        fast: the same while a change is pending.
        damp_limit: falls, decayed, from which recovery is held back; 0 never.
        damp_half_life: in which the penalty halves.
    """

    rise: int = 2
    fall: int = 3
    interval: float = 0.2
    fast: float = 0.05
    damp_limit: float = 4.0
    damp_half_life: float = 30.0


@dataclass(frozen=True)
class Health:
    """What the results so far say.

    Attributes:
        state: UP, DOWN, or UNKNOWN before there were enough results.
        streak: results in a row that speak for a change; negative for failures.
        since: when the state was taken.
        text: words of the last result that could tell.
        penalty: falls so far, decayed up to ``penalty_at``.
        penalty_at: when it was counted.
        held: whether only damping keeps it down.
    """

    state: BackendState = BackendState.UNKNOWN
    streak: int = 0
    since: float = 0.0
    text: str = ""
    penalty: float = 0.0
    penalty_at: float = 0.0
    held: bool = False


def fold(health: Health, outcome: Outcome, at: float, pace: Pace) -> Health:
    """Return the health after one more result."""
    if outcome.verdict is Verdict.UNKNOWN or _nothing_new(health, outcome):
        return health
    health = replace(health, text=outcome.text, held=False)
    if outcome.verdict is Verdict.PASS:
        return _passed(health, at, pace)
    if health.state is BackendState.DOWN:
        return replace(health, streak=0)
    failures = min(health.streak, 0) - 1
    if -failures < pace.fall:
        return replace(health, streak=failures)
    return replace(
        health,
        state=BackendState.DOWN,
        streak=0,
        since=at,
        penalty=penalty_now(health, at, pace) + 1,
        penalty_at=at,
    )


def _nothing_new(health: Health, outcome: Outcome) -> bool:
    """Return whether a well backend is well again: nearly every result of all."""
    return (
        outcome.verdict is Verdict.PASS
        and health.state is BackendState.UP
        and not health.streak
        and health.text == outcome.text
        and not health.held
    )


def pending(health: Health) -> bool:
    """Return whether the next results may change the state."""
    return health.streak != 0 or health.state is BackendState.UNKNOWN


def next_interval(health: Health, pace: Pace) -> float:
    """Return seconds from the start of the last probe to that of the next."""
    return min(pace.fast, pace.interval) if pending(health) else pace.interval


def penalty_now(health: Health, at: float, pace: Pace) -> float:
    """Return the decayed penalty."""
    age = max(0.0, at - health.penalty_at)
    return float(health.penalty * 0.5 ** (age / pace.damp_half_life))


def _passed(health: Health, at: float, pace: Pace) -> Health:
    if health.state is BackendState.UP:
        return replace(health, streak=0)
    passes = max(health.streak, 0) + 1
    if passes < pace.rise:
        return replace(health, streak=passes)
    if 0 < pace.damp_limit <= penalty_now(health, at, pace):
        return replace(health, streak=0, held=True)
    return replace(health, state=BackendState.UP, streak=0, since=at)

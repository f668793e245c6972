"""Backoff: how often, how long, and that it ends."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from standfast.retry import FIRST_DELAY, LONGEST_DELAY, attempts


class FakeClock:
    """Time passes when somebody sleeps."""

    def __init__(self) -> None:
        self.slept: list[float] = []

    def now(self) -> float:
        return sum(self.slept)

    def monotonic(self) -> float:
        return sum(self.slept)

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


@given(seed=st.integers(), patience=st.floats(0, 10_000))
def test_delays(seed: int, patience: float) -> None:
    """Each delay is in [d/2, d], d doubles up to its limit, the sum is bounded."""
    clock = FakeClock()
    numbers = list(attempts(clock, random.Random(seed), patience))
    assert list(range(len(clock.slept) + 1)) == numbers
    for number, delay in enumerate(clock.slept):
        longest = min(LONGEST_DELAY, FIRST_DELAY * 2**number)
        assert longest / 2 <= delay <= longest
    assert sum(clock.slept) <= patience
    assert sum(clock.slept) > patience - LONGEST_DELAY


def test_the_first_attempt_is_free() -> None:
    """Without patience there is one attempt, at once."""
    clock = FakeClock()
    assert [0] == list(attempts(clock, random.Random(1), 0))
    assert [] == clock.slept


def test_jitter() -> None:
    """Two senders that failed together do not come back together."""
    slept = []
    for seed in (1, 2):
        clock = FakeClock()
        list(attempts(clock, random.Random(seed), 60))
        slept.append(clock.slept)
    assert slept[0] != slept[1]

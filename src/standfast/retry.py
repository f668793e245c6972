"""Backoff with jitter, as an iterator over a clock and a source of chance."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random  # noqa: TID251 - the type of an argument
    from collections.abc import Iterator

    from standfast.clock import Clock

FIRST_DELAY = 0.5
LONGEST_DELAY = 30.0


def attempts(clock: Clock, chance: random.Random, patience: float) -> Iterator[int]:
    """Yield attempt numbers from 0, sleeping between them, until patience is spent.

    The delay before attempt n is drawn from [d/2, d] with d = 0.5 s doubled n-1
    times, 30 s at most ("equal jitter": it keeps a lower bound, so that a far
    end that is just restarting is not hammered). The first attempt is free;
    ``patience`` is in seconds and bounds the sum of all delays.
    """
    spent = 0.0
    number = 0
    yield number
    while True:
        number += 1
        longest = min(LONGEST_DELAY, FIRST_DELAY * 2 ** min(number - 1, 16))
        delay = longest / 2 + chance.random() * longest / 2
        if spent + delay > patience:
            return
        clock.sleep(delay)
        spent += delay
        yield number

"""A bandwidth limit holds for all threads together."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from conftest import incompressible
from hypothesis import given
from hypothesis import strategies as st

from standfast.clock import SystemClock
from standfast.pace import BURST_SECONDS, Limited, Scheduled

if TYPE_CHECKING:
    from conftest import Made, Standfast


class FakeClock:
    """Time passes when somebody sleeps, or when told."""

    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.time += seconds


STEPS = st.lists(
    st.tuples(st.integers(0, 200_000), st.floats(0, 3)), min_size=1, max_size=40
)


@given(rate=st.integers(1, 1 << 20), steps=STEPS)
def test_the_rate_is_kept(rate: int, steps: list[tuple[int, float]]) -> None:
    """Over every stretch of time no more goes out than rate, burst and last step."""
    clock = FakeClock()
    pace = Limited(rate, clock)
    started: list[tuple[float, int]] = []
    for count, idle in steps:
        clock.time += idle
        pace.take(count)
        started.append((clock.time, count))
    for first, (begin, _) in enumerate(started):
        sent = 0
        for moment, count in started[first:]:
            # What started before this one has had the time to go out.
            bound = rate * (moment - begin + BURST_SECONDS)
            assert sent <= bound * (1 + 1e-9) + 1
            sent += count


@given(rate=st.integers(1000, 1 << 20), counts=st.lists(st.integers(1, 100_000)))
def test_no_time_is_wasted(rate: int, counts: list[int]) -> None:
    """A sender that is always ready waits no longer than the rate asks."""
    clock = FakeClock()
    pace = Limited(rate, clock)
    for count in counts:
        pace.take(count)
    before_last = sum(counts[:-1])
    assert clock.time <= before_last / rate + 1e-6


def test_threads_share_one_rate() -> None:
    """Four threads together are no faster than one."""
    rate, step, each = 1_000_000, 10_000, 10
    pace = Limited(rate, SystemClock())
    ready = threading.Barrier(4)

    def run(_: int) -> None:
        ready.wait()
        for _number in range(each):
            pace.take(step)

    begin = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, range(4)))
    expected = (4 * each - 1) * step / rate
    assert expected - BURST_SECONDS <= time.monotonic() - begin + 0.01


def test_bwlimit(standfast: Standfast, vault: Made) -> None:
    """A real send of 3 MB at 1 MiB/s takes its time, and arrives whole."""
    data = incompressible(3_000_000)
    begin = time.monotonic()
    words = ("backup", "send", "--stdin", "x", vault.path, "--bwlimit", "1M", "--json")
    sent = standfast(*words, stdin=data).json()
    assert time.monotonic() - begin >= 2.0
    assert sent["seconds"] >= 2.0
    standfast("backup", "verify", vault.path)


def test_a_limit_follows_the_timetable() -> None:
    """What is unlimited costs no time; the limit holds from the moment it begins."""
    clock = FakeClock()
    pace = Scheduled(lambda: 1000 if clock.time >= 100 else None, clock)
    for _ in range(50):
        pace.take(1 << 20)

    assert 0.0 == clock.time

    clock.time = 100.0
    for _ in range(10):
        pace.take(1000)

    assert 100 + 9 - BURST_SECONDS <= clock.time <= 100 + 10

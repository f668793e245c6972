"""Hours of mastership in virtual time: takeovers that are not proved, and orders."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from standfast.director.config import parse_config
from standfast.director.control import ControlError
from standfast.director.drivers import DriverError
from standfast.director.election.broadcast import Broadcast
from standfast.director.election.model import Role, RoleChange
from standfast.director.mastership import Mastership
from standfast.testing.loop import run_virtually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CONFIG = parse_config(
    """
front = "eth0"
[service.web]
virtual = ["192.0.2.1:80"]
[backend.h1]
address = "10.0.0.1"
[election]
kind = "vrrp"
priority = 200
hold = "2s"
"""
)
DEAD = 0.3


class Clock:
    def now(self) -> float:
        return 1_795_000_000.0 + self.monotonic()

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    def sleep(self, seconds: float) -> None:
        raise AssertionError(f"nothing may block: {seconds}")


class Segment:
    """An election against a peer of a fixed rank; 0 is no peer."""

    problem = ""

    def __init__(self, peer: int) -> None:
        self.refused: dict[str, int] = {}
        self.peer = peer
        self.role = Role.BACKUP
        self.spells: list[list[float]] = []
        self._changes = Broadcast()

    async def start(self) -> None:
        """Nothing to do."""

    def set_rank(self, rank: int, reason: str) -> None:
        role = Role.MASTER if rank > self.peer else Role.BACKUP
        if role is not self.role:
            loop = asyncio.get_running_loop()
            loop.call_later(DEAD, self._become, role, reason)

    def _become(self, role: Role, reason: str) -> None:
        if role is self.role:
            return
        now = asyncio.get_running_loop().time()
        self.role = role
        if role is Role.MASTER:
            self.spells.append([now, float("inf")])
        else:
            self.spells[-1][1] = now
        self._changes.tell(RoleChange(role, reason, now))

    def events(self) -> AsyncIterator[RoleChange]:
        return self._changes.listen()

    async def stop(self, *, handover: bool) -> None:
        """Nothing to do."""


class Way:
    """A data plane whose way works or not."""

    guard = True
    pending = False

    def __init__(self, *, works: bool) -> None:
        self.works = works
        self.unproved = ""
        self.proved = False

    def loaded(self) -> bool:
        return True

    async def load(self) -> None:
        """Nothing to do."""

    async def guard_on(self) -> None:
        """Nothing to do."""

    async def flush(self) -> None:
        """Nothing to do."""

    async def verify(self, addresses: tuple[Any, ...]) -> None:
        assert addresses == ()
        await asyncio.sleep(0.01 if self.works else 0.5)
        self.proved = self.works
        self.unproved = "" if self.works else "nobody answered"
        if not self.works:
            raise DriverError(self.unproved)


def begin(segment: Segment, way: Way) -> tuple[Mastership, list[asyncio.Task[None]]]:
    made = Mastership(
        lambda: CONFIG,
        way,
        backends=lambda: (3, 3),
        peering=None,
        clock=Clock(),
        say=lambda sentence, weight=0: None,  # noqa: ARG005 - as Say has it
    )
    made.election = segment
    tasks = [asyncio.create_task(made.work()), asyncio.create_task(made.follow())]
    made.begin()
    return made, tasks


async def end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@settings(max_examples=5)
@given(st.integers(2, 199))
def test_two_directors_do_not_trade_addresses_that_one_cannot_serve(peer: int) -> None:
    """In 3 hours it tries 8 times, a few seconds each: after 1, 2, 4... 60 minutes."""

    async def main() -> None:
        segment, way = Segment(peer), Way(works=False)
        made, tasks = begin(segment, way)
        await asyncio.sleep(3 * 3600)
        lengths = [stop - start for start, stop in segment.spells]
        assert 8 == len(lengths)
        assert max(lengths) < 4
        assert made.takeovers == len(lengths)
        way.works = True
        await asyncio.sleep(3700)
        assert segment.role is Role.MASTER
        assert (200, "") == (made.rank.rank, way.unproved)
        await end(tasks)

    run_virtually(main())


@settings(max_examples=20)
@given(st.floats(1, 600))
def test_alone_it_serves_unproved_and_recovers(broken_for: float) -> None:
    async def main() -> None:
        segment, way = Segment(0), Way(works=False)
        made, tasks = begin(segment, way)
        await asyncio.sleep(5 + broken_for)
        assert (segment.role, made.rank.rank) == (Role.MASTER, 1)
        way.works = True
        await asyncio.sleep(4)
        assert (segment.role, made.rank.rank) == (Role.MASTER, 200)
        assert 1 == made.takeovers
        await end(tasks)

    run_virtually(main())


def test_standby_needs_a_successor_or_force() -> None:
    async def main() -> None:
        segment, way = Segment(0), Way(works=True)
        made, tasks = begin(segment, way)
        await asyncio.sleep(5)
        with pytest.raises(ControlError, match="no other director is known"):
            made.order("standby", force=False)
        assert segment.role is Role.MASTER
        made.order("standby", force=True)
        await asyncio.sleep(1)
        assert (segment.role, made.rank.rank) == (Role.BACKUP, 0)
        made.order("resume", force=False)
        await asyncio.sleep(4)
        assert (segment.role, made.rank.rank) == (Role.MASTER, 200)
        await end(tasks)

    run_virtually(main())

"""Our part in the question who holds the addresses: rank told, role followed, proof.

The rank is reviewed twice a second and whenever something that it depends on has
changed. A role that the election reports moves the door and the inner addresses,
unless the election has hands of its own (carp, vrrp). A takeover counts when a
connection through the address was answered; one that was not lowers the rank, so
that a peer which can takes the addresses, and is tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Protocol

from standfast.director.control import ControlError
from standfast.director.election.model import RANK_LOWEST, RANK_UNFIT, Role
from standfast.director.election.rank import (
    Agreement,
    Fitness,
    RankPolicy,
    RankState,
    inherited,
    step,
)
from standfast.errors import StandfastError
from standfast.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from standfast.clock import Clock
    from standfast.director.config import Config
    from standfast.director.election import Election
    from standfast.director.election.model import IPAddress
    from standfast.director.peering import Peering

log = logging.getLogger("standfast.director")

RANK_EVERY = 0.5  # seconds between two reviews of our rank
# A node that lost the addresses unproved does not claim them back for so long; twice
# as long after each further time, up to the last.
BARRED_SECONDS = (60.0, 3600.0)
# So long after a takeover its proof is asked for once more, if there was none.
PROOF_AFTER = 1.5
MOVES_ITSELF = frozenset({"carp", "vrrp"})


class Say(Protocol):
    """Takes a decision for the log and the status."""

    def __call__(self, sentence: str, weight: int = logging.INFO) -> None:
        """Take a sentence; ``weight`` is one of logging's levels."""
        ...


class Hand(Protocol):
    """What is asked of the data plane; see plane.Plane.

    Attributes:
        unproved: why no connection through the addresses was answered.
        proved: whether one was.
    """

    unproved: str
    proved: bool

    @property
    def guard(self) -> bool:
        """Whether the door is closed."""
        ...

    @property
    def pending(self) -> bool:
        """Whether something that was decided is not carried out yet."""
        ...

    def loaded(self) -> bool | None:
        """Return whether the rules are in the kernel; None when nobody looked."""
        ...

    async def load(self) -> None:
        """Open the door, and add what moves along."""
        ...

    async def guard_on(self) -> None:
        """Close the door, and remove what moves along."""
        ...

    async def flush(self) -> None:
        """Forget the flows."""
        ...

    async def verify(self, addresses: tuple[IPAddress, ...]) -> None:
        """Prove that the addresses work here."""
        ...


class Mastership:
    """What this director wants of its election, and what came of it.

    Args:
        config: returns the configuration that is in force.
        plane: the data plane.
        backends: returns how many backends answer, and how many should.
        peering: the other director, if there is one.
        clock: for the status.
        say: takes a sentence.

    Attributes:
        election: who holds the addresses; None before the start.
        rank: what we claim.
        willing: False while an operator keeps this node from the addresses.
        takeovers: how often it became the holder.
        since: when its role last changed, seconds since the Unix epoch.
    """

    def __init__(
        self,
        config: Callable[[], Config],
        plane: Hand,
        *,
        backends: Callable[[], tuple[int, int]],
        peering: Peering | None,
        clock: Clock,
        say: Say,
    ) -> None:
        self._config = config
        self._plane = plane
        self._backends = backends
        self._peering = peering
        self._clock = clock
        self._say = say
        self._due = asyncio.Event()
        self._role = Role.INIT
        self._begun = False
        self._fresh = True
        self._pinned = False
        self._taken = 0.0
        self._barred_until = float("-inf")
        self._barred_for = BARRED_SECONDS[0]
        self.election: Election | None = None
        self.rank = RankState()
        self.willing = True
        self.takeovers = 0
        self.since = clock.now()

    @property
    def role(self) -> Role:
        """What this node is now."""
        return self.election.role if self.election else Role.INIT

    def begin(self) -> None:
        """Say that the election has begun."""
        self._begun = True
        self.review()

    def review(self) -> None:
        """Say that something has changed which the rank depends on."""
        self._due.set()

    def order(self, word: str, *, force: bool) -> str:
        """Keep this node from the addresses (``standby``), or no more (``resume``).

        Raises:
            ControlError: nobody would hold them then.
        """
        if word == "standby":
            if not force:
                self._check_successor()
            self.willing = False
            sentence = "standby: this director gives the addresses up, by order"
        else:
            self.willing = True
            sentence = "this director may hold the addresses again"
        self._say(sentence)
        self.review()
        return sentence

    async def work(self) -> None:
        """Keep the election's idea of our rank true, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            self._due.clear()
            if not self._begun or self._plane.loaded() is None:
                # Nothing is known yet, and what a former daemon has set stands.
                await self._pause()
                continue
            if self._must_prove(loop.time()):
                await self._prove()
            rank = self._reviewed(loop.time())
            if rank.rank != self.rank.rank:
                self._say(f"rank {self.rank.rank} -> {rank.rank}: {rank.reason}")
            changed, self.rank = rank != self.rank, rank
            if changed and self.election is not None:
                self.election.set_rank(rank.rank, rank.reason)
            await self._pause()

    def _must_prove(self, now: float) -> bool:
        """Return whether a takeover that is over was not proved yet."""
        if self._role is not Role.MASTER or self._plane.proved:
            return False
        kind = self._config().file.election.kind
        # What carries a takeover out proves it too; give it its time.
        return kind != "none" and now - self._taken > PROOF_AFTER

    def _reviewed(self, now: float) -> RankState:
        policy, fitness = self._policy(), self._fitness()
        # The door was open when we came, so a former daemon held the addresses. An
        # election of our own has to be won all the same: the peer may have it now.
        kind = self._config().file.election.kind
        fresh, self._fresh = self._fresh, False
        if fresh and not self._plane.guard and kind not in MOVES_ITSELF:
            return inherited(policy, fitness, now)
        return step(policy, self.rank, fitness, now)

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RANK_EVERY):
                await self._due.wait()

    async def follow(self) -> None:
        """Do what each change of role asks for, until the election ends."""
        assert self.election is not None
        async for change in self.election.events():
            self._say(f"{change.role.value}: {change.sentence}")
            before, self._role = self._role, change.role
            self.since = self._clock.now()
            if change.role is Role.MASTER:
                self.takeovers += 1
                self._taken = asyncio.get_running_loop().time()
                self._plane.proved = False
            elif before is Role.MASTER:
                self._lost()
            if self._config().file.election.kind not in {*MOVES_ITSELF, "none"}:
                await self._move(change.role)
            self.review()

    def row(self) -> dict[str, Any]:
        """Return what there is to see; see docs/director.md for the fields."""
        election = self.election
        return {
            "kind": self._config().file.election.kind,
            "role": self.role.value,
            "since": self.since,
            "takeovers": self.takeovers,
            "willing": self.willing,
            "unproved": self._plane.unproved,
            "problem": election.problem if election else "",
            "refused": dict(election.refused) if election else {},
        }

    async def _move(self, role: Role) -> None:
        """Open or close the door, for an election that has no hands of its own."""
        try:
            if role is Role.MASTER:
                await self._plane.load()
                await self._prove()
            elif not self._plane.guard:
                await self._plane.guard_on()
                await self._plane.flush()
        except StandfastError as error:
            # The rank shows it, and the worker of the plane tries again.
            self._say(f"the data plane does not follow: {error.message}", logging.ERROR)

    async def _prove(self) -> None:
        try:
            await self._plane.verify(())
        except StandfastError as error:
            log.warning("%s", error.message)

    def _lost(self) -> None:
        """A takeover that was never proved is not tried again at once."""
        if not self._plane.unproved:
            self._barred_for = BARRED_SECONDS[0]
            return
        self._barred_until = self._clock.monotonic() + self._barred_for
        self._barred_for = min(2 * self._barred_for, BARRED_SECONDS[1])
        self._plane.unproved = ""

    def _check_successor(self) -> None:
        kind = self._config().file.election.kind
        if kind in ("bgp", "freebsd-carp", "external"):
            return  # there others are known to the routers, the kernel, keepalived
        peer = self._peering.status if self._peering else None
        if kind == "none" or peer is None or peer.rank == RANK_UNFIT:
            raise ControlError(
                "no other director is known to be fit for the addresses",
                hint="--force gives them up all the same",
            )

    def _policy(self) -> RankPolicy:
        file = self._config().file
        return RankPolicy(
            file.election.priority,
            parse_duration(file.election.hold),
            file.peer.on_difference if file.peer.address else "alarm",
            RANK_UNFIT if file.election.kind == "bgp" else RANK_LOWEST,
        )

    def _fitness(self) -> Fitness:
        healthy, total = self._backends()
        unproved = self._plane.unproved
        if self.role is not Role.MASTER:
            barred = self._clock.monotonic() < self._barred_until
            unproved = "the last takeover was not proved" if barred else ""
        return Fitness(
            healthy,
            total,
            self._plane.loaded(),
            self._peering.agreement() if self._peering else Agreement.UNKNOWN,
            willing=self.willing,
            holder=self.role is Role.MASTER,
            # Without a backend nobody could have answered.
            unproved=unproved if healthy else "",
            pinned=self._has_pins(),
        )

    def _has_pins(self) -> bool:
        """Return whether the holder's pins have come at our start, and are loaded."""
        if not self._pinned:
            told = self._peering is None or self._peering.settled()
            self._pinned = told and not self._plane.pending
        return self._pinned

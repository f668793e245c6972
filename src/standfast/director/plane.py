"""The one hand on the data plane: what is wanted, made true, tick by tick.

Whatever wants a change marks it and goes on; a single worker observes, plans and
applies, so that changes of one tick are one transaction and none overtakes another.
It also is what an election asks of the rules when addresses change hands.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from standfast.director.drivers import DriverError
from standfast.director.proving import UnprovableError
from standfast.errors import StandfastError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from standfast.director.drivers import Driver
    from standfast.director.election.hands import IpAddresses
    from standfast.director.election.model import IPAddress
    from standfast.director.model import Address, Observed, Service, Wanted

log = logging.getLogger("standfast.director")

# For so long a node that gives its addresses up forwards what still comes.
LINGER_SECONDS = 0.15


# Of its own length a look is followed by so much rest: a fifth of the time at most.
LOOK_PAUSE = 4


class Plane:
    """Makes the kernel hold what is wanted.

    Args:
        driver: the data plane.
        wanted: what is wanted now, apart from the guard.
        guard: whether to start guarded.
        inner: addresses towards the backends that move along, with their cards.
        tell: announces an inner address to its neighbours.
        prove: sends connections through virtual addresses; returns those that were
            answered. None sends none.

    Attributes:
        observed: what the kernel held last; None before the first look.
        trouble: why the last try failed; empty when it did not.
        unproved: why no connection through the addresses was answered when they were
            last taken; empty when one was, or none could be sent.
        proved: whether that was asked and answered, or cannot be asked here.
        answering: tells whether a service has a backend that should answer.
        applied: transactions so far.
    """

    def __init__(
        self,
        driver: Driver,
        wanted: Callable[[], Wanted],
        *,
        guard: bool,
        inner: tuple[tuple[IpAddresses, IPAddress], ...] = (),
        tell: Callable[[IPAddress], None] = lambda _: None,
        prove: Callable[[Sequence[Address]], Awaitable[frozenset[Address]]]
        | None = None,
    ) -> None:
        self._driver = driver
        self._wanted = wanted
        self._guard = guard
        self._inner = inner
        self._tell = tell
        self._lock = asyncio.Lock()
        self._dirty = asyncio.Event()
        self._closing: asyncio.Task[None] | None = None
        self._loaded: bool | None = None
        self._prove = prove
        self.observed: Observed | None = None
        self.trouble = ""
        self.unproved = ""
        self.proved = False
        self.answering: Callable[[Service], bool] = lambda _: True
        self.applied = 0

    @property
    def guard(self) -> bool:
        """Whether the virtual addresses are guarded."""
        return self._guard

    def wanted(self) -> Wanted:
        """Return all that is wanted, the guard included."""
        return replace(self._wanted(), guard=self._guard)

    def adopt(self, observed: Observed) -> None:
        """Keep the guard as the kernel has it: a restart must not touch traffic."""
        self.observed = observed
        if self._guard and observed.present and observed.guard is False:
            self._guard = False

    def loaded(self) -> bool | None:
        """Return whether the rules are in the kernel; None before the first look."""
        return False if self.trouble else self._loaded

    @property
    def pending(self) -> bool:
        """Whether something that was decided is not carried out yet."""
        return self._dirty.is_set() or self._lock.locked()

    def mark(self) -> None:
        """Say that something may have to change."""
        self._dirty.set()

    async def work(self, every: float) -> None:
        """Make true what is wanted, at each mark and every few seconds, for ever.

        Where a look takes long, as with very many learned flows, they come less often.
        """
        loop, pause = asyncio.get_running_loop(), every
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._dirty.wait()
            began = loop.time()
            try:
                if self._dirty.is_set():
                    await self._at_once()
                else:
                    await self.settle()
            except StandfastError as error:
                if error.message != self.trouble:
                    log.error(  # noqa: TRY400 - a sentence, no trace
                        "the data plane refuses: %s", error.message
                    )
                self.trouble = error.message
                self._dirty.clear()
                await asyncio.sleep(min(every, 1.0))
            pause = max(every, LOOK_PAUSE * (loop.time() - began))

    async def settle(self) -> None:
        """Make true what is wanted, now.

        Raises:
            StandfastError: the data plane refused; its old state stands.
        """
        async with self._lock:
            self._dirty.clear()
            wanted = self.wanted()
            observed = await asyncio.to_thread(self._driver.observe, wanted)
            changes = self._driver.plan(observed, wanted)
            if changes:
                await asyncio.to_thread(self._driver.apply, changes)
                observed = await asyncio.to_thread(self._driver.observe, wanted)
                self.applied += 1
                log.info("applied: %s", "; ".join(change.why for change in changes))
            if self.trouble:
                log.info("the data plane takes our changes again")
            self.trouble = ""
            self.observed = observed
            self._loaded = observed.present

    async def _at_once(self) -> None:
        """Carry out a decision from what was seen last; look first if that fails."""
        self._dirty.clear()
        try:
            await self._hasten()
        except StandfastError as error:
            log.info("looks again: %s", error.message)
            await self.settle()

    async def _hasten(self) -> None:
        """Make true what is wanted, from what was seen last: a takeover counts ms.

        A look comes right after; what it finds otherwise is mended then.
        """
        async with self._lock:
            wanted, seen = self.wanted(), self.observed
            if seen is not None and not self.trouble:
                changes = self._driver.plan(seen, wanted)
                if not changes:
                    return
                self.observed = None
                await asyncio.to_thread(self._driver.apply, changes)
                self.applied += 1
                log.info("applied: %s", "; ".join(change.why for change in changes))
                self._dirty.set()
                return
        await self.settle()

    async def load(self) -> None:
        """See standfast.director.election.hands.DataPlane.

        The door is opened here already: our rules never let the kernel answer for a
        virtual address, so nothing is lost by translating before packets come.
        """
        await self.guard_off()
        for card, address in self._inner:
            await card.add([address])
            self._tell(address)

    async def guard_on(self) -> None:
        """See DataPlane: the door closes a little later.

        Neighbours send to us until the new holder has told them. What comes until
        then is forwarded, to where the new holder would send it too.
        """
        if self._guard:
            return
        if self._closing is None:
            self._closing = asyncio.create_task(self._close())
        for card, address in self._inner:
            await card.remove([address])

    async def guard_off(self) -> None:
        """See DataPlane."""
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        self._guard = False
        await self._hasten()

    async def finish(self) -> None:
        """Wait until a door that is closing is closed."""
        if self._closing is not None:
            await self._closing

    async def _close(self) -> None:
        await asyncio.sleep(LINGER_SECONDS)
        self._guard = True
        try:
            await self._hasten()
            await self._forget()
        except StandfastError as error:
            log.warning("the door does not close: %s", error.message)
        self._closing = None

    async def verify(self, addresses: tuple[IPAddress, ...]) -> None:  # noqa: ARG002
        """See DataPlane: rules as they should be, and an answer through each family.

        A family counts when one virtual address of it was answered: a service whose
        backends have all failed says nothing of the way.
        """
        found = [
            (service, virtual)
            for service in self.wanted().services
            if service.mode != "dsr"
            for virtual in service.virtual
            if virtual.proto == "tcp"
        ]
        asked = [virtual for service, virtual in found if self.answering(service)]
        if found and not asked and self._prove is not None:
            return  # nobody would answer; asked again when a backend is up
        await self.settle()
        self.unproved = await self._silence(asked)
        self.proved = not self.unproved
        if self.unproved:
            raise DriverError(self.unproved)

    async def _silence(self, asked: Sequence[Address]) -> str:
        """Return what is wrong with the way through the addresses, if anything."""
        if self._prove is None or not asked:
            return ""
        try:
            answered = await self._prove(asked)
        except UnprovableError as error:
            log.warning("a takeover cannot be proved: %s", error.message)
            return ""
        silent = {v.family for v in asked} - {v.family for v in answered}
        if not silent:
            log.info("a connection through the virtual addresses was answered")
            return ""
        families = " and ".join(f"IPv{family}" for family in sorted(silent))
        return f"no connection through the virtual addresses was answered ({families})"

    async def flush(self) -> None:
        """See DataPlane; a closing door does it when it is closed."""
        if self._closing is None:
            await self._forget()

    async def _forget(self) -> None:
        flush = getattr(self._driver, "flush", None)
        if flush is not None:
            count = await asyncio.to_thread(flush, self.wanted())
            log.info("forgot %d flows: another node has the addresses", count)

"""Carrying out a takeover plan: addresses by ``ip``, neighbours by frames.

One worker at a time, and the latest wish wins: a wish that changes while a plan runs
is noticed between two steps. What the data plane has to do is asked of a DataPlane,
which the director supplies. Only Linux's ``ip`` is spoken here.
"""

from __future__ import annotations

import asyncio
import json
import logging
from ipaddress import ip_address
from typing import TYPE_CHECKING, Protocol

from standfast.director.election.model import ElectionError, IPAddress
from standfast.director.election.neighbours import announcements
from standfast.director.election.takeover import Doing, HandStep, leaving, taking
from standfast.errors import CommandError, StandfastError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from standfast.host import Host

log = logging.getLogger(__name__)

COMMAND_SECONDS = 5.0
# Neighbours may miss a frame, and a switch may just be learning: tell them again.
RETELL_SECONDS = (0.1, 1.0)


class DataPlane(Protocol):
    """What a change of hands asks of the rules."""

    async def load(self) -> None:
        """Make sure that the rules are in the kernel.

        Raises:
            StandfastError: they are not.
        """
        ...

    async def guard_on(self) -> None:
        """Drop what clients and backends send for the addresses."""
        ...

    async def guard_off(self) -> None:
        """Let them through."""
        ...

    async def verify(self, addresses: tuple[IPAddress, ...]) -> None:
        """Probe through the addresses.

        Raises:
            StandfastError: no answer came back.
        """
        ...

    async def flush(self) -> None:
        """Forget the flows that came through the addresses."""
        ...


class NoDataPlane:
    """No rules to care for."""

    async def load(self) -> None:
        """Nothing to load."""

    async def guard_on(self) -> None:
        """No guard."""

    async def guard_off(self) -> None:
        """No guard."""

    async def verify(self, addresses: tuple[IPAddress, ...]) -> None:
        """Believe it."""

    async def flush(self) -> None:
        """No flows."""


class Addresses(Protocol):
    """The addresses of a card."""

    async def present(self) -> frozenset[IPAddress]:
        """Return what is configured now.

        Raises:
            StandfastError: that could not be told.
        """
        ...

    async def add(self, addresses: Sequence[IPAddress]) -> None:
        """Configure them; those already there are no error."""
        ...

    async def remove(self, addresses: Sequence[IPAddress]) -> None:
        """Take them away; those already gone are no error."""
        ...


class IpAddresses:
    """Addresses by Linux's ``ip``, as single-address prefixes.

    Args:
        host: where ``ip`` runs.
        interface: the card.
    """

    def __init__(self, host: Host, interface: str) -> None:
        self._host = host
        self._interface = interface

    async def present(self) -> frozenset[IPAddress]:
        """Return what is configured; see Addresses."""
        return await asyncio.to_thread(self.present_now)

    def present_now(self) -> frozenset[IPAddress]:
        """Return what is configured, and wait for it.

        Raises:
            ElectionError: there is no such interface, or ``ip`` did not say.
        """
        argv = ["ip", "-j", "address", "show", "dev", self._interface]
        try:
            text = self._host.run(argv, timeout=COMMAND_SECONDS).stdout
            return read_addresses(text)
        except CommandError as error:
            raise ElectionError(
                f"cannot read the addresses of {self._interface}: {error.message}"
            ) from None

    async def add(self, addresses: Sequence[IPAddress]) -> None:
        """Configure them; see Addresses."""
        await asyncio.to_thread(self._batch, [self._add_line(a) for a in addresses])

    async def remove(self, addresses: Sequence[IPAddress]) -> None:
        """Take them away; see Addresses."""
        await asyncio.to_thread(self.remove_now, addresses)

    def remove_now(self, addresses: Sequence[IPAddress]) -> None:
        """Take them away and wait for it.

        Raises:
            ElectionError: one is still there.
        """
        here = self.present_now()
        lines = [self._remove_line(a) for a in addresses if a in here]
        if lines:
            self._batch(lines)

    def _add_line(self, address: IPAddress) -> str:
        # nodad: detection would hold an IPv6 address back for a second or more.
        # preferred_lft 0: our own connections must not start from a floating address.
        v6 = " nodad preferred_lft 0" if address.version == 6 else ""  # noqa: PLR2004
        return f"address replace {_prefix(address)} dev {self._interface}{v6}"

    def _remove_line(self, address: IPAddress) -> str:
        return f"address del {_prefix(address)} dev {self._interface}"

    def _batch(self, lines: list[str]) -> None:
        text = "".join(f"{line}\n" for line in lines).encode()
        try:
            self._host.run(
                ["ip", "-force", "-batch", "-"], stdin=text, timeout=COMMAND_SECONDS
            )
        except CommandError as error:
            raise ElectionError(
                f"cannot change the addresses of {self._interface}: {error.message}"
            ) from None


def _prefix(address: IPAddress) -> str:
    return f"{address}/{address.max_prefixlen}"


def read_addresses(text: bytes) -> frozenset[IPAddress]:
    """Return the addresses in what ``ip -j address show dev X`` prints.

    Raises:
        ElectionError: it is not what ``ip`` prints.
    """
    try:
        cards = json.loads(text or b"[]")
        return frozenset(
            ip_address(entry["local"])
            for card in cards
            for entry in card.get("addr_info", [])
            if "local" in entry
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        raise ElectionError("cannot read what `ip -j address` prints") from None


class Hands:
    """Makes a wish true: to hold a group's addresses, or not.

    Attributes:
        failed: told the sentence when a takeover could not be completed.

    Args:
        addresses: the group's.
        card: where they are configured.
        plane: the data plane.
        tell: sends Ethernet frames; they are lost in silence.
        mac: returns the card's link-layer address.
    """

    def __init__(
        self,
        addresses: tuple[IPAddress, ...],
        *,
        card: Addresses,
        plane: DataPlane,
        tell: Callable[[Sequence[bytes]], None],
        mac: Callable[[], bytes],
    ) -> None:
        self._addresses = addresses
        self._card = card
        self._plane = plane
        self._tell = tell
        self._mac = mac
        self.failed: Callable[[str], None] = lambda _sentence: None
        self._wish = 0
        self._worker: asyncio.Task[None] | None = None
        self._retelling: asyncio.Task[None] | None = None
        self._holds: bool | None = None

    @property
    def holds(self) -> bool | None:
        """Whether the last plan ended as holder; None when it failed or none ran."""
        return self._holds

    def take(self) -> None:
        """Wish to hold the addresses."""
        self._start(self._take)

    def leave(self) -> None:
        """Wish not to hold them."""
        self._start(self._leave)

    async def left(self) -> bool:
        """Return whether the addresses are gone, after the running plan has ended."""
        if self._worker is not None:
            await asyncio.wait([self._worker])
        return self._holds is False

    def announce(self) -> None:
        """Tell the neighbours where the addresses are, now and twice again."""
        self._tell_all()
        if self._retelling is not None:
            self._retelling.cancel()
        self._retelling = asyncio.get_running_loop().create_task(self._retell())

    async def close(self) -> None:
        """Let the running plan end, and tell nobody any more."""
        if self._worker is not None:
            await asyncio.wait([self._worker])
        self._stop_telling()

    def _start(self, work: Callable[[int], Awaitable[None]]) -> None:
        self._wish += 1
        before = self._worker
        self._worker = asyncio.get_running_loop().create_task(
            self._run(work, self._wish, before)
        )

    async def _run(
        self,
        work: Callable[[int], Awaitable[None]],
        wish: int,
        before: asyncio.Task[None] | None,
    ) -> None:
        if before is not None:
            await asyncio.wait([before])
        if wish != self._wish:
            return
        await work(wish)

    async def _take(self, wish: int) -> None:
        self._holds = None
        try:
            present = await self._card.present()
            done = await self._walk(taking(self._addresses, present), wish)
        except StandfastError as error:
            log.error("takeover failed: %s", error.message)  # noqa: TRY400 - one line
            self.failed(error.message)
            return
        if done:
            self._holds = True

    async def _leave(self, wish: int) -> None:
        self._stop_telling()
        self._holds = None
        try:
            present = await self._card.present()
        except StandfastError as error:
            log.warning("%s; removing all", error.message)
            present = frozenset(self._addresses)
        try:
            if await self._walk(leaving(self._addresses, present), wish):
                self._holds = False
        except StandfastError as error:
            log.error("an address may still be here: %s", error.message)  # noqa: TRY400

    async def _walk(self, steps: Sequence[HandStep], wish: int) -> bool:
        for each in steps:
            if wish != self._wish:
                return False
            try:
                await self._do(each)
            except StandfastError as error:
                if each.vital:
                    raise
                log.warning("could not %s: %s", each.doing.value, error.message)
        return True

    async def _do(self, step: HandStep) -> None:
        match step.doing:
            case Doing.LOAD_RULES:
                await self._plane.load()
            case Doing.ADD_ADDRESS:
                await self._card.add(step.addresses)
            case Doing.REMOVE_ADDRESS:
                await self._card.remove(step.addresses)
            case Doing.TELL_NEIGHBOURS:
                self.announce()
            case Doing.GUARD_ON:
                await self._plane.guard_on()
            case Doing.GUARD_OFF:
                await self._plane.guard_off()
            case Doing.VERIFY:
                await self._plane.verify(step.addresses)
            case Doing.FLUSH_FLOWS:
                await self._plane.flush()

    def _tell_all(self) -> None:
        frames = [f for a in self._addresses for f in announcements(a, self._mac())]
        self._tell(frames)

    async def _retell(self) -> None:
        for seconds in RETELL_SECONDS:
            await asyncio.sleep(seconds)
            self._tell_all()

    def _stop_telling(self) -> None:
        if self._retelling is not None:
            self._retelling.cancel()
            self._retelling = None

"""Directors in virtual time, on a network that loses, delays and breaks.

The speakers, codecs and hands are the real ones; only the card, the wire and the time
are made up.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv4Address
from typing import TYPE_CHECKING, Any

from standfast.director.election import carp, vrrp
from standfast.director.election.codec import (
    Packet,
    SealedCarpCodec,
    SignedVrrpCodec,
    VrrpCodec,
)
from standfast.director.election.hands import Hands, NoDataPlane
from standfast.director.election.model import Role
from standfast.director.election.speaker import Machine, Speaker
from standfast.director.election.vrrp_wire import GROUP_V4
from standfast.director.election.watchdog import NoGuardian

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from standfast.director.election.model import IPAddress

VIP = IPv4Address("10.50.0.100")
WALL = 1_795_000_000.0
HAND_SECONDS = 0.02  # adding or removing an address; `ip` takes 3 to 10 ms
INTERVAL = 10  # centiseconds, for VRRP


def now() -> float:
    return asyncio.get_running_loop().time()


class VirtualClock:
    """Wall time that goes with the loop's."""

    def now(self) -> float:
        return WALL + now()

    def monotonic(self) -> float:
        return now()

    def sleep(self, seconds: float) -> None:
        raise AssertionError(f"nothing may block: {seconds}")


@dataclass
class Weather:
    """How the wire behaves.

    Attributes:
        loss: probability that an advert is lost on its way to one receiver.
        burst: at most so many adverts in a row are lost between two nodes.
        delay: the longest time an advert is under way, in seconds.
    """

    loss: float = 0.0
    burst: int = 2
    delay: float = 0.0


@dataclass
class Card:
    """A card's addresses, with the spells for which the address was held."""

    spells: list[list[float]] = field(default_factory=list)
    held: bool = False
    powered: bool = True

    async def present(self) -> frozenset[IPAddress]:
        return frozenset({VIP} if self.held else ())

    async def add(self, addresses: Sequence[IPAddress]) -> None:
        assert (VIP,) == tuple(addresses)
        await asyncio.sleep(HAND_SECONDS)
        if self.powered and not self.held:
            self.held = True
            self.spells.append([now(), float("inf")])

    async def remove(self, addresses: Sequence[IPAddress]) -> None:
        assert (VIP,) == tuple(addresses)
        await asyncio.sleep(HAND_SECONDS)
        self.gone()

    def gone(self) -> None:
        if self.held:
            self.held = False
            self.spells[-1][1] = now()


@dataclass
class Wire:
    """One node's end of the network."""

    net: Cluster
    number: int
    source: IPv4Address
    mac: bytes = b"\2\0\0\0\0\1"
    heard: Callable[[Packet], None] | None = None
    dead: bool = False

    def open(self, heard: Callable[[Packet], None]) -> None:
        self.heard = heard

    def send(self, data: bytes) -> bool:
        if not self.dead:
            self.net.carry(self, data)
        return True

    def tell(self, frames: Sequence[bytes]) -> None:
        assert frames

    def works(self) -> bool:
        return True

    def close(self) -> None:
        self.heard = None


@dataclass
class Node:
    number: int
    wire: Wire
    card: Card
    speaker: Speaker[Any, Any]
    roles: list[tuple[float, Role]] = field(default_factory=list)
    listener: asyncio.Task[None] | None = None
    alive: bool = True


class Cluster:
    """Some nodes, their network, and what may be done to them.

    Args:
        protocol: ``carp``, ``vrrp`` or ``vrrp-signed``.
        ranks: of the nodes, in order of their addresses.
        weather: of the network.
        seed: of its losses and delays.
    """

    def __init__(
        self, protocol: str, ranks: Sequence[int], weather: Weather, seed: int = 0
    ) -> None:
        self.protocol = protocol
        self.ranks = list(ranks)
        self.weather = weather
        self.nodes: list[Node] = []
        self.cards: dict[int, list[Card]] = {n: [] for n in range(len(ranks))}
        self.cuts: dict[tuple[int, int], list[list[float]]] = {}
        self._random = random.Random(seed)
        self._lost: dict[tuple[int, int], int] = {}

    async def start(self) -> None:
        for number in range(len(self.ranks)):
            self.nodes.append(self._make(number))
            await self._begin(self.nodes[number])

    def _make(self, number: int) -> Node:
        source = IPv4Address("10.50.0.1") + number
        card, wire = Card(), Wire(self, number, source)
        self.cards[number].append(card)
        hands = Hands(
            (VIP,), card=card, plane=NoDataPlane(), tell=wire.tell,
            mac=lambda: wire.mac,
        )  # fmt: skip
        machine: Machine[Any, Any]
        codec: Any
        if self.protocol == "carp":
            config = carp.CarpConfig(7, 1, source)
            machine = Machine(
                carp.initial(),
                step=partial(carp.step, config),
                next_tick=carp.next_tick,
            )
            codec = SealedCarpCodec(7, b"secret", (VIP,), source=source)
        else:
            settings = vrrp.VrrpConfig(7, INTERVAL, source, (VIP,))
            machine = Machine(
                vrrp.initial(settings),
                step=partial(vrrp.step, settings),
                next_tick=vrrp.next_tick,
            )
            codec = VrrpCodec(7, source=source)
            if self.protocol == "vrrp-signed":
                codec = SignedVrrpCodec(7, source=source, key=b"key")
        speaker: Speaker[Any, Any] = Speaker(
            machine=machine, codec=codec, segment=wire, hands=hands,
            clock=VirtualClock(), guardian=NoGuardian(),
        )  # fmt: skip
        hands.failed = speaker.takeover_failed
        return Node(number, wire, card, speaker)

    async def _begin(self, node: Node) -> None:
        changes = node.speaker.events()

        async def note() -> None:
            async for change in changes:
                node.roles.append((change.at, change.role))

        node.listener = asyncio.create_task(note())
        await node.speaker.start()
        node.speaker.set_rank(self.ranks[node.number], "as configured")

    def carry(self, wire: Wire, data: bytes) -> None:
        for node in self.nodes:
            pair = (wire.number, node.number)
            sender = self.nodes[wire.number]
            if node.number == wire.number or sender.wire is not wire:
                continue
            if self._falls(pair):
                continue
            delay = self._random.random() * self.weather.delay
            packet = Packet(data, wire.source, GROUP_V4, 255)
            loop = asyncio.get_running_loop()
            loop.call_later(delay, self._arrive, node.wire, packet)

    def _arrive(self, wire: Wire, packet: Packet) -> None:
        if wire.heard is not None:
            wire.heard(packet)

    def _falls(self, pair: tuple[int, int]) -> bool:
        if self.is_cut(*pair):
            return True
        lost = self._lost.get(pair, 0)
        falls = lost < self.weather.burst and self._random.random() < self.weather.loss
        self._lost[pair] = lost + 1 if falls else 0
        return falls

    def is_cut(self, one: int, other: int) -> bool:
        spells = self.cuts.get(_pair(one, other), [])
        return bool(spells) and spells[-1][1] == float("inf")

    def cut(self, one: int, other: int) -> None:
        if not self.is_cut(one, other):
            spells = self.cuts.setdefault(_pair(one, other), [])
            spells.append([now(), float("inf")])

    def heal(self, one: int, other: int) -> None:
        if self.is_cut(one, other):
            self.cuts[_pair(one, other)][-1][1] = now()

    def power_off(self, number: int) -> None:
        """No word, and no address that lingers."""
        node = self.nodes[number]
        node.alive = False
        node.card.powered = False
        node.card.gone()
        node.wire.heard = None
        node.wire.dead = True

    async def power_on(self, number: int) -> None:
        if not self.nodes[number].alive:
            await self._end(self.nodes[number])
            self.nodes[number] = self._make(number)
            await self._begin(self.nodes[number])

    async def stop(self, number: int) -> None:
        node = self.nodes[number]
        if node.alive:
            await node.speaker.stop(handover=True)
            node.alive = False

    async def _end(self, node: Node) -> None:
        await node.speaker.stop(handover=False)
        assert node.listener is not None
        await node.listener

    async def close(self) -> None:
        for node in self.nodes:
            await self._end(node)

    def holders(self) -> list[int]:
        return [n.number for n in self.nodes if n.card.held]

    def masters(self) -> list[int]:
        return [
            n.number for n in self.nodes if n.alive and n.speaker.role is Role.MASTER
        ]

    def changes_since(self, at: float) -> int:
        return sum(1 for n in self.nodes for when, _ in n.roles if when > at)

    def longest_double(self) -> float:
        """The longest time for which two connected nodes held the address."""
        longest = 0.0
        end = now()
        for one, other in itertools.combinations(self.cards, 2):
            cuts = self.cuts.get(_pair(one, other), [])
            for mine, yours in itertools.product(
                self._spells(one), self._spells(other)
            ):
                both = (max(mine[0], yours[0]), min(mine[1], yours[1], end))
                longest = max([longest, *_without(both, cuts)])
        return longest

    def _spells(self, number: int) -> Iterable[list[float]]:
        return [spell for card in self.cards[number] for spell in card.spells]


def _pair(one: int, other: int) -> tuple[int, int]:
    return min(one, other), max(one, other)


def _without(
    spell: tuple[float, float], cuts: Sequence[Sequence[float]]
) -> Iterable[float]:
    """The lengths of what is left of a spell between cuts."""
    start, end = spell
    for cut_start, cut_end in sorted(map(tuple, cuts)):
        if cut_end <= start or cut_start >= end:
            continue
        yield cut_start - start
        start = max(start, cut_end)
    yield end - start

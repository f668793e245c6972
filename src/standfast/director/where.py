"""Where a client's connection goes, here and after a failover; pure.

The slot follows from the client's address and port alone; a pin outweighs it, and the
flow that the kernel tracks outweighs both while this director holds the addresses. On
the peer the same slot holds the same backend if the two tables agree, and what would
differ there was pushed as a pin.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.director.maglev import slot_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from standfast.director.model import Address, Backend, Flow, Pin, Service, Table


@dataclass(frozen=True)
class Place:
    """What is known of one client at one virtual address.

    Attributes:
        service: its name.
        virtual: the virtual address.
        slot: of the hash.
        backend: that the slot names; empty when nobody serves.
        pinned: whether a pin is held here.
        pin: its backend; empty without one.
        connected: IP that the kernel's flow leads to; empty without one.
        holder: the backend at that IP; empty for one that has left the configuration.
        age: seconds since the flow's first packet; None where that is not known.
        state: of the flow, in the kernel's words.
        peer: backend that the peer would choose; empty where that is not known.
    """

    service: str
    virtual: str
    slot: int
    backend: str
    pinned: bool
    pin: str
    connected: str
    holder: str
    age: int | None
    state: str
    peer: str


@dataclass(frozen=True)
class Scene:
    """What decides; see Place.

    Attributes:
        services: all of them.
        backends: by name.
        table: slots of each service.
        pins: held here.
        peer_pins: that the peer was given.
        peer_agrees: whether the peer is known to have the same table.
    """

    services: Sequence[Service]
    backends: Mapping[str, Backend]
    table: Table
    pins: Sequence[Pin]
    peer_pins: Sequence[Pin]
    peer_agrees: bool

    def virtuals(self, client: Address) -> Iterator[tuple[Service, Address]]:
        """Yield the virtual addresses that a client of its family can reach."""
        for service in self.services:
            for virtual in service.virtual:
                if virtual.family == client.family:
                    yield service, virtual

    def place(
        self, client: Address, service: Service, virtual: Address, flows: Iterable[Flow]
    ) -> Place:
        """Return where a client's packets to a virtual address go."""
        slot = slot_of(client, service.slots, service.seed)
        slots = self.table[service.name]
        backend = slots[slot] if slots else ""
        there = self._pinned(self.peer_pins, client, virtual) or backend
        pin = self._pinned(self.pins, client, virtual)
        flow = next((f for f in flows if _same(f.client, client)), None)
        return Place(
            service=service.name,
            virtual=str(virtual),
            slot=slot,
            backend=backend,
            pinned=bool(pin),
            pin=pin,
            connected=flow.backend.ip if flow else "",
            holder=self._name(service, flow) if flow else "",
            age=flow.age if flow else None,
            state=flow.state if flow else "",
            peer=there if self.peer_agrees else "",
        )

    def _pinned(self, pins: Sequence[Pin], client: Address, virtual: Address) -> str:
        for pin in pins:
            if _same(pin.client, client) and _same(pin.virtual, virtual):
                return pin.backend
        return ""

    def _name(self, service: Service, flow: Flow) -> str:
        for name in self.backends:
            at = self.backends[name].at(service.name, flow.virtual)
            if at is not None and at.ip == flow.backend.ip:
                return name
        return ""


def _same(one: Address, other: Address) -> bool:
    return (one.ip, one.port) == (other.ip, other.port)

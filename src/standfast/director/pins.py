"""Which flows the hash would misplace, and how a peer is told of them; pure.

A peer that takes over computes the same table, so nearly every flow goes where it
went. Those that do not are few: flows of a drained backend, or opened before the
table last changed. Only these are pinned and sent. A set of pins travels in parts
that each fit a datagram; a set counts when it is whole, and replaces the one before.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from standfast.director.conntrack import OVER
from standfast.director.maglev import slot_of
from standfast.director.model import Address, Pin, parse_address
from standfast.errors import StandfastError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from standfast.director.model import Flow, Service, Wanted

# The kernel keeps an idle connection for five days, but a pin is sent again as long
# as it is needed, so an hour without word of it is enough.
PIN_MAX_S = 3600
# A part's body must leave room for seal and headers in 1280 bytes, which IPv6
# carries everywhere.
PART_MAX_BYTES = 1100


class PartError(StandfastError):
    """A message whose seal is good says something that we do not understand."""


def misplaced(flows: Iterable[Flow], wanted: Wanted, now: float) -> list[Pin]:
    """Return a pin for every flow that the table alone would send elsewhere.

    Args:
        flows: what is under way here.
        wanted: services, backends and slots; existing pins do not count, since the
            peer's table knows nothing of them.
        now: seconds since the Unix epoch.
    """
    services = {
        virtual: service for service in wanted.services for virtual in service.virtual
    }
    names = _names(wanted)
    pins = []
    for flow in flows:
        service = services.get(flow.virtual)
        name = names.get((flow.virtual, flow.backend))
        if service is None or name is None or flow.state in OVER:
            continue
        if hashed(flow.client, service, wanted) != name:
            expires = now + min(flow.seconds, PIN_MAX_S)
            pins.append(Pin(flow.client, flow.virtual, name, expires))
    return sorted(pins)


def hashed(client: Address, service: Service, wanted: Wanted) -> str:
    """Return the backend that the table alone gives a client, or an empty string."""
    slots = wanted.table.get(service.name, ())
    return slots[slot_of(client, len(slots), service.seed)] if slots else ""


def _names(wanted: Wanted) -> dict[tuple[Address, Address], str]:
    """Return the backend's name for each (virtual, where it goes)."""
    return {
        (virtual, address): name
        for service in wanted.services
        for virtual in service.virtual
        for name in service.backends
        if (address := wanted.backends[name].at(service.name, virtual)) is not None
    }


@dataclass(frozen=True)
class Part:
    """Some pins of one set.

    Attributes:
        generation: of the set; a later one is higher.
        index: of this part, from 0.
        total: how many parts the set has; at least 1, so an empty set can be said.
        pins: with expiry as seconds from now on, clocks being two.
    """

    generation: int
    index: int
    total: int
    pins: tuple[Pin, ...]


def parts(pins: Sequence[Pin], generation: int, now: float) -> list[bytes]:
    """Return the bodies that carry a set."""
    rows = [_row(pin, now) for pin in pins]
    groups: list[list[list[Any]]] = [[]]
    size = 0
    for row in rows:
        length = len(_dump(row)) + 1
        if size + length > PART_MAX_BYTES and groups[-1]:
            groups.append([])
            size = 0
        groups[-1].append(row)
        size += length
    return [
        _dump([generation, index, len(groups), group])
        for index, group in enumerate(groups)
    ]


def _dump(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _row(pin: Pin, now: float) -> list[Any]:
    return [
        str(pin.client),
        str(pin.virtual),
        pin.virtual.proto,
        pin.backend,
        max(0, round(pin.expires - now)),
    ]


def read_part(body: bytes, now: float) -> Part:
    """Read one body.

    Raises:
        PartError: it is not one of ours.
    """
    try:
        generation, index, total, rows = json.loads(body)
        pins = tuple(_read_row(row, now) for row in rows)
    except (ValueError, TypeError, RecursionError) as error:
        raise PartError(f"not a part of a set of pins: {error}") from None
    numbers = (generation, index, total)
    if not all(type(number) is int for number in numbers) or not 0 <= index < total:
        raise PartError("the parts of a set of pins do not count")
    return Part(generation, index, total, pins)


def _read_row(row: Any, now: float) -> Pin:  # noqa: ANN401 - as JSON has it
    client, virtual, proto, backend, seconds = row
    if proto not in ("tcp", "udp") or type(backend) is not str:
        raise ValueError(f"not a pin: {row}")
    if type(seconds) is not int or not 0 <= seconds <= PIN_MAX_S:
        raise ValueError(f"not a pin's life: {row}")
    return Pin(
        parse_address(client, proto),
        parse_address(virtual, proto),
        backend,
        now + seconds,
    )


@dataclass(frozen=True)
class Gathering:
    """Parts of the latest set that has begun to arrive.

    Attributes:
        generation: of that set; -1 before the first.
        total: how many parts it has.
        held: parts that are here, by index.
    """

    generation: int = -1
    total: int = 0
    held: tuple[tuple[int, tuple[Pin, ...]], ...] = ()


def gather(state: Gathering, part: Part) -> tuple[Gathering, tuple[Pin, ...] | None]:
    """Add a part; return the pins when the set has just become whole.

    Older sets and repeated parts change nothing.
    """
    if part.generation < state.generation:
        return state, None
    if part.generation > state.generation:
        state = Gathering(part.generation, part.total)
    held = dict(state.held)
    if part.index in held or part.total != state.total:
        return state, None
    held[part.index] = part.pins
    state = Gathering(state.generation, state.total, tuple(sorted(held.items())))
    if len(held) < state.total:
        return state, None
    return state, tuple(_all(state))


def _all(state: Gathering) -> Iterator[Pin]:
    for _, pins in state.held:
        yield from pins

"""The values that every part of the director speaks in.

Plain frozen values, no behaviour beyond what follows from their fields, no machine.
A *service* is what clients connect to, a *backend* one HAProxy, a *table* says for
each service which backend every hash slot belongs to, a *pin* is a flow that the
table would misplace. Times are seconds of the clock that the caller uses.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

Mode = Literal["nat", "stateless", "dsr"]
Proto = Literal["tcp", "udp"]
Family = Literal[4, 6]


@dataclass(frozen=True, order=True)
class Address:
    """An IP address and a port.

    Attributes:
        ip: IPv4 or IPv6, in its canonical text form.
        port: 1 to 65535; 0 in a backend means the port that the client asked for.
        proto: ``tcp`` or ``udp``.
    """

    ip: str
    port: int = 0
    proto: Proto = "tcp"

    @property
    def family(self) -> Family:
        """4 or 6."""
        return 6 if ":" in self.ip else 4

    def __str__(self) -> str:
        host = f"[{self.ip}]" if self.family == 6 and self.port else self.ip  # noqa: PLR2004
        return f"{host}:{self.port}" if self.port else host


def parse_address(text: str, proto: Proto = "tcp") -> Address:
    """Read ``192.0.2.1``, ``192.0.2.1:80``, ``2001:db8::1`` or ``[2001:db8::1]:80``.

    Raises:
        ValueError: it is none of these.
    """
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise ValueError(f"not an address: {text}")
        port = rest[1:]
    elif text.count(":") == 1:
        host, _, port = text.partition(":")
    else:
        host, port = text, ""
    number = int(port) if port.isascii() and port.isdigit() else 0
    if (port and not 1 <= number <= 65535) or (text.endswith(":") and "]" in text):  # noqa: PLR2004
        raise ValueError(f"not a port: {port or text}")
    return Address(str(ipaddress.ip_address(host)), number, proto)


class BackendState(Enum):
    """What is held of a backend; only UP ones, and inherited UNKNOWN ones, serve."""

    UP = "up"
    DOWN = "down"
    UNKNOWN = "unknown"
    DRAINING = "draining"
    DISABLED = "disabled"


@dataclass(frozen=True)
class Backend:
    """One HAProxy.

    Attributes:
        name: unique among all backends.
        address: where it takes connections; port 0 keeps the virtual port.
        weight: share of the slots, relative to the others; at least 1.
        address6: its IPv6 address, for services that have an IPv6 virtual address.
        per_service: addresses that replace ``address`` in one service, as
            (service name, address); one address per frontend per host.
        mac: its link-layer address, for mode ``dsr``; empty when not needed.
    """

    name: str
    address: Address
    weight: int = 1
    address6: Address | None = None
    per_service: tuple[tuple[str, Address], ...] = ()
    mac: str = ""

    def at(self, service: str, virtual: Address) -> Address | None:
        """Return where a connection to ``virtual`` goes, with its port; or None."""
        own = [
            address
            for name, address in self.per_service
            if name == service and address.family == virtual.family
        ]
        choices = [*own, self.address]
        if self.address6 is not None:
            choices.append(self.address6)
        for choice in choices:
            if choice.family == virtual.family:
                return Address(choice.ip, choice.port or virtual.port, virtual.proto)
        return None


@dataclass(frozen=True)
class Service:
    """What clients connect to.

    Attributes:
        name: unique among all services.
        virtual: addresses with ports.
        backends: names of the backends that may serve it.
        mode: how packets are steered.
        seed: of the hash and of the table, the same on every director; 32 bits.
        slots: size of the table, a prime.
    """

    name: str
    virtual: tuple[Address, ...]
    backends: tuple[str, ...]
    mode: Mode = "nat"
    seed: int = 0
    slots: int = 1021


@dataclass(frozen=True)
class Flow:
    """A connection through a virtual address, as the kernel tracks it.

    Attributes:
        client: who opened it.
        virtual: where to.
        backend: who really has it.
        state: of TCP, in the kernel's own words; empty for UDP.
        seconds: until the kernel forgets it, if nothing more is heard.
        age: seconds since its first packet; None where the kernel does not say.
    """

    client: Address
    virtual: Address
    backend: Address
    state: str
    seconds: int
    age: int | None = None


# For each service the backend name of every slot; no slots at all when nothing
# serves it.
Table = dict[str, tuple[str, ...]]


@dataclass(frozen=True, order=True)
class Pin:
    """A flow that must go to a backend other than the one its hash names.

    Attributes:
        client: address and port of the client.
        virtual: address and port it connects to.
        backend: name of the backend that has the connection.
        expires: when the pin may go, in seconds since the Unix epoch.
    """

    client: Address
    virtual: Address
    backend: str
    expires: float


@dataclass(frozen=True)
class Wanted:
    """All that a data plane has to make true.

    Attributes:
        services: in the order of the configuration.
        backends: every backend that is known, by name; those that serve nothing
            now keep their way back, so that their flows live on.
        table: the slots of every service.
        guard: whether the virtual addresses must not be answered for (we are not
            the holder, or not yet).
        pins: flows to keep where they are.
        front: the interface on the clients' side; empty for any.
        back: the interface on the backends' side; mode ``dsr`` needs both.
        former: names of backends that are no longer configured; their connections
            go on, and no digest counts them.
    """

    services: tuple[Service, ...]
    backends: Mapping[str, Backend]
    table: Mapping[str, tuple[str, ...]]
    guard: bool
    pins: tuple[Pin, ...] = ()
    front: str = ""
    back: str = ""
    former: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Observed:
    """What a data plane holds now.

    Attributes:
        present: whether our rules are loaded at all.
        fingerprint: of the rules, as we stamped them; empty when unknown.
        guard: whether the guard is on; None when it could not be told.
        table: for each service the backend of every slot, by name; a slot that
            leads to no known backend has an empty name.
        pins: flows that are pinned.
        problems: sentences on what is not as it should be.
    """

    present: bool
    fingerprint: str = ""
    guard: bool | None = None
    table: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    pins: tuple[Pin, ...] = ()
    problems: tuple[str, ...] = ()


@dataclass(frozen=True)
class Change:
    """One thing to do to a data plane.

    Attributes:
        command: in the data plane's own language (nft statements; a pfctl command
            line and, after a newline, its standard input).
        why: a sentence.
    """

    command: str
    why: str


@dataclass(frozen=True)
class Capabilities:
    """What a data plane can do on this machine.

    Attributes:
        driver: its name.
        version: of the tool, as it says itself; empty when it is missing.
        modes: those that work here.
        notes: sentences for ``director check``.
        missing: sentences on what stands in the way; empty when all is well.
    """

    driver: str
    version: str
    modes: tuple[Mode, ...]
    notes: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


def digest(wanted: Wanted) -> str:
    """Return what two directors compare: 16 hex digits over services, seeds, slots.

    Guard, pins and interface names differ rightly between directors and are not in.
    """
    slots = [list(wanted.table.get(service.name, ())) for service in wanted.services]
    return _hex([_configured(service, wanted) for service in wanted.services], slots)


def configuration_digest(wanted: Wanted) -> str:
    """Return what two directors compare first: what their tables are computed from.

    Who serves at the moment is not in, as two directors may rightly see that
    otherwise; 16 hex digits over services, seeds, backends and weights.
    """
    weights = {name: backend.weight for name, backend in wanted.backends.items()}
    rows = [
        [
            *_configured(service, wanted),
            service.slots,
            [weights[name] for name in _members(service, wanted)],
        ]
        for service in wanted.services
    ]
    return _hex(rows)


def _configured(service: Service, wanted: Wanted) -> list[Any]:
    return [
        service.name,
        [str(address) for address in service.virtual],
        service.mode,
        service.seed,
        [
            [name, *_ways(service, wanted.backends[name])]
            for name in _members(service, wanted)
        ],
    ]


def _members(service: Service, wanted: Wanted) -> list[str]:
    return [name for name in service.backends if name not in wanted.former]


def _ways(service: Service, backend: Backend) -> list[str]:
    return [str(backend.at(service.name, virtual)) for virtual in service.virtual]


def _hex(*rows: Any) -> str:  # noqa: ANN401 - any JSON
    text = json.dumps(rows, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]

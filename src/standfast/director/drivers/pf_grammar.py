"""The rules that the pf driver loads: text, made purely from what is wanted.

Everything lives in one anchor, so that one ``pfctl -f -`` is one transaction. The
rdr and nat lines are the grammar of FreeBSD up to 14, which 15 keeps; only the pool
differs between releases (see ``Pool``). pf has no slots: a service's table holds the
backends that serve, and the ``_all`` table every one that may still have flows. What
is not here: states and source nodes, which are commands, not rules.

Read from pf.conf(5), pfctl(8) and sbin/pfctl/parse.y of FreeBSD 10.4 and main; the
rules for flows met in the middle were never run on a FreeBSD machine.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from standfast.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from standfast.director.model import Address, Pin, Service, Wanted

# PF_TABLE_NAME_SIZE is 32 with its NUL.
TABLE_NAME_MAX = 31
# Each pin is a rule, and pf reads rules in turn for each new connection.
PINS_MAX = 500
# Lines that a main pf.conf needs; translation comes before filtering.
ANCHOR_LINES = ('nat-anchor "{0}"', 'rdr-anchor "{0}"', 'anchor "{0}"')


class Pool(Enum):
    """How a table becomes one address.

    HASH: by the client's address and an explicit key, so two directors agree and a
        reload moves nobody. FreeBSD 15; older parsers refuse it for a table.
    STICKY: in turn, and remembered per client in source nodes. Works everywhere;
        two directors agree only on what pfsync carried over.
    """

    HASH = "source-hash"
    STICKY = "round-robin sticky-address"


@dataclass(frozen=True)
class Ruleset:
    """What goes into the anchor.

    Attributes:
        tables: members by table name.
        translation: nat and rdr lines, pins first.
        filters: pass and block lines, without the stamp.
        notes: sentences on what pf cannot do here.
    """

    tables: Mapping[str, tuple[str, ...]]
    translation: tuple[str, ...]
    filters: tuple[str, ...]
    notes: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        """16 hex digits over rules and table names; members do not count."""
        text = "\n".join([*self.tables, *self.translation, *self.filters])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def table_lines(self) -> str:
        """Return the tables alone, for ``pfctl -T load``."""
        return "".join(
            f"table <{name}> persist {{ {' '.join(members)} }}\n"
            if members
            else f"table <{name}> persist\n"
            for name, members in self.tables.items()
        )

    def text(self) -> str:
        """Return all of it, as ``pfctl -f -`` reads it."""
        lines = [*self.translation, *self.filters, stamp(self.fingerprint)]
        return self.table_lines() + "".join(f"{line}\n" for line in lines)


def stamp(fingerprint: str) -> str:
    """Return the rule that does nothing but carry the fingerprint in its label.

    It matches only packets from and to the unspecified address, which pf's own
    normalisation and every stack drop.
    """
    return (
        "block drop in quick inet from 0.0.0.0 to 0.0.0.0 "
        f'label "director {fingerprint}"'
    )


def key(service: Service) -> str:
    """Return the hash key of a service, the same on every director.

    Without a key pfctl draws one at random for each load, and every client moves.
    """
    body = f"standfast director {service.name} {service.seed}"
    return "0x" + hashlib.sha256(body.encode()).hexdigest()[:32]


def table_name(service: str, family: int, port: int) -> str:
    """Return a table's name, within pf's 31 characters; ``_all`` may be added."""
    name = re.sub(r"[^A-Za-z0-9]", "_", service)
    tail = f"_{family}_{port}"
    if name != service or len(name) + len(tail) > TABLE_NAME_MAX - 4:
        digest = hashlib.sha256(service.encode()).hexdigest()[:6]
        name = f"{name[: TABLE_NAME_MAX - 4 - len(tail) - 7]}_{digest}"
    return name + tail


def ruleset(
    wanted: Wanted, pool: Pool, netblocks: Mapping[str, str] | None = None
) -> Ruleset:
    """Return the anchor's content for what is wanted.

    Args:
        wanted: services, backends and slots; ``guard`` changes nothing here, since
            a CARP backup's kernel answers for no address, and since the daemon may
            be dead when the kernel takes over.
        pool: what this pfctl accepts for a table.
        netblocks: for a service a netblock whose every host address is a backend;
            while all of them serve, it is hashed with a key on any release.

    Raises:
        UsageError: a service's backends listen on different ports, or a netblock
            is not exactly its backends.
    """
    tables: dict[str, tuple[str, ...]] = {}
    translation: list[str] = []
    filters: dict[str, None] = {}
    notes: list[str] = []
    claimed: set[tuple[str, int]] = set()
    for service in wanted.services:
        for virtual in service.virtual:
            part = _Part(service, virtual, wanted)
            tables[part.table] = part.serving
            tables[f"{part.table}_all"] = part.known
            block = (netblocks or {}).get(service.name)
            ways = {(ip, part.port) for ip in part.known}
            if claimed & ways:
                notes.append(part.taken_note())
            else:
                translation += part.way_back()
            claimed |= ways
            translation.append(part.way_in(pool, block))
            filters |= dict.fromkeys(part.filters())
            notes += part.notes()
    pins, pin_notes = _pin_lines(wanted)
    return Ruleset(tables, (*pins, *translation), tuple(filters), (*notes, *pin_notes))


class _Part:
    """One virtual address of one service."""

    def __init__(self, service: Service, virtual: Address, wanted: Wanted) -> None:
        self.service = service
        self.virtual = virtual
        self.family = "inet6" if virtual.family == 6 else "inet"  # noqa: PLR2004
        self.on = f"on {wanted.front} " if wanted.front else ""
        self.table = table_name(service.name, virtual.family, virtual.port)
        serving = set(wanted.table.get(service.name, ()))
        at = {
            name: address
            for name in service.backends
            if (address := wanted.backends[name].at(service.name, virtual))
        }
        self.known = tuple(address.ip for address in at.values())
        self.serving = tuple(a.ip for name, a in at.items() if name in serving)
        ports = {address.port for address in at.values()}
        if len(ports) > 1:
            raise UsageError(
                f"the backends of {service.name} listen on different ports",
                hint="pf translates a whole table to one port; make two services",
            )
        self.port = ports.pop() if ports else virtual.port

    def _target(self, pool: Pool, block: str | None) -> str:
        hashed = f"source-hash {key(self.service)}"
        if block and ipaddress.ip_network(block).version == self.virtual.family:
            hosts = {str(host) for host in ipaddress.ip_network(block)}
            if hosts != set(self.known):
                raise UsageError(
                    f"{block} is not exactly the backends of {self.service.name}",
                    hint="every address of the netblock must be one of them",
                )
            if set(self.serving) == hosts:
                return f"{block} port {self.port} {hashed}"
        way = hashed if pool is Pool.HASH else pool.value
        return f"<{self.table}> port {self.port} {way}"

    @property
    def _proto(self) -> str:
        return f"{self.family} proto {self.virtual.proto}"

    def way_back(self) -> Iterator[str]:
        """Yield the rule for flows that the backend resumes, where there can be one."""
        if self.port == self.virtual.port:
            yield (
                f"nat {self.on}{self._proto} from <{self.table}_all> "
                f"port {self.port} to any -> {self.virtual.ip} static-port"
            )

    def way_in(self, pool: Pool, block: str | None) -> str:
        """Return the rule for new flows."""
        return (
            f"rdr {self.on}{self._proto} from any to {self.virtual.ip} "
            f"port {self.virtual.port} -> {self._target(pool, block)}"
        )

    def taken_note(self) -> str:
        """Return the sentence for a way back that another address has."""
        return (
            f"{self.service.name} at {self.virtual}: its backends serve another "
            "virtual address on the same address and port, so a flow that the "
            "backend resumes after a failover is lost; give backends one address "
            "per virtual address"
        )

    def filters(self) -> Iterator[str]:
        """Yield what lets the service through, then the guard.

        ``flags any`` and sloppy states take up a flow in its middle, as after a
        failover. What reaches the guard was not translated: without it this host
        would answer such a packet with a reset, and the connection would be lost.
        """
        virtual = self.virtual
        flags = "flags any " if virtual.proto == "tcp" else ""
        state = f"{flags}keep state (sloppy)"
        proto = f"{self.family} proto {virtual.proto}"
        every = f"<{self.table}_all> port {self.port}"
        yield f"pass in quick {self.on}{proto} from any to {every} {state}"
        yield f"pass out quick {proto} from any to {every} {state}"
        yield f"pass in quick {proto} from {every} to any {state}"
        yield (
            f"pass out quick {self.on}{proto} from {virtual.ip} "
            f"port {virtual.port} to any {state}"
        )
        yield (
            f"block drop in quick {self.on}{proto} from any to {virtual.ip} "
            f"port {virtual.port}"
        )

    def notes(self) -> Iterator[str]:
        """Yield what cannot be had."""
        where = f"{self.service.name} at {self.virtual}"
        if self.port != self.virtual.port:
            yield (
                f"{where}: backends listen on port {self.port}, so a flow that the "
                "backend resumes after a failover is lost"
            )
        if self.service.mode != "nat":
            yield f"{where}: pf has no mode {self.service.mode}; nat is used"


def _pin_lines(wanted: Wanted) -> tuple[list[str], list[str]]:
    """Return a rule for each pin, and what was left out."""
    parts = {
        virtual: service for service in wanted.services for virtual in service.virtual
    }
    lines = [
        _pin_line(pin, parts[pin.virtual], wanted)
        for pin in wanted.pins[:PINS_MAX]
        if pin.virtual in parts and pin.backend in wanted.backends
    ]
    left = len(wanted.pins) - PINS_MAX
    notes = [f"{left} pins are left out: pf reads each as a rule"] if left > 0 else []
    return [line for line in lines if line], notes


def _pin_line(pin: Pin, service: Service, wanted: Wanted) -> str:
    address = wanted.backends[pin.backend].at(service.name, pin.virtual)
    if address is None:
        return ""
    family = "inet6" if pin.virtual.family == 6 else "inet"  # noqa: PLR2004
    on = f"on {wanted.front} " if wanted.front else ""
    return (
        f"rdr {on}{family} proto {pin.virtual.proto} from {pin.client.ip} "
        f"port {pin.client.port} to {pin.virtual.ip} port {pin.virtual.port} "
        f"-> {address.ip} port {address.port}"
    )

"""The rule set of the nftables data plane, as text; pure.

One table per family, named ``director``. Mode ``nat`` leaves flows to conntrack: a
new one is looked up in the pins, then hashed to a slot, the slot to a backend; a
packet that a backend sends first (after a failover nobody knows its flow) gets the
virtual address as its source: that entry is complete, and needs no hash.

Modes ``stateless`` and ``dsr`` keep no connections. There a slot leads to a chain of
its backend, and each backend has a set of the flows that it has (``l_``, for an hour
after their last packet) and one of those that are closing (``k_``, a minute). A
packet goes to who has its flow, then to who is pinned, then to its slot, and is learned
there; so a change of slots, as a drain, moves no flow. An opening packet forgets what
was known of its flow: ports are used again. A set for each backend, not one map from
flow to address: nft 1.0.6 cannot put a value of its own beside an IPv6 key (it gives
both the same registers, and dies of `Assertion dreg < ctx->reg_low`, or with the port
first loads a rule that overwrites the end of the key).

Guards: the machine never answers for a virtual address itself, and nothing leaves
untranslated. ``guarded`` holds the addresses while we are not their holder.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from standfast.director.model import Address, Backend, Service, Wanted

TABLE = "director"
FAMILIES = {4: "ip", 6: "ip6"}
# (family of nft, name of a map or set) -> key -> value, all as nft writes them.
Maps = dict[tuple[str, str], dict[str, str]]
FLOW_SECONDS = 3600
UDP_SECONDS = 120
FLOWS_MAX = 262144
# Sets that the rules themselves fill.
LEARNED = ("l_", "k_")
PIN_MAPS = {
    "ip": ("pin_nat", "pin_raw"),
    "ip6": ("pin_nat", "pin_raw"),
    "netdev": ("pin_raw4", "pin_raw6"),
}


def families(wanted: Wanted) -> list[str]:
    """Return the nft families that the services need, ip and ip6 before netdev."""
    found = {
        FAMILIES[virtual.family]
        for service in wanted.services
        for virtual in service.virtual
    }
    if any(service.mode == "dsr" for service in wanted.services):
        found.add("netdev")
    return sorted(found)


def fingerprint(wanted: Wanted) -> str:
    """Return 16 hex digits over the rules that we mean, their elements apart."""
    text = "".join(_table(kind, wanted, {}, "") for kind in families(wanted))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def load_script(
    wanted: Wanted, held: Maps | None = None, tables: frozenset[str] = frozenset()
) -> str:
    """Return the transaction that replaces everything of ours.

    Args:
        wanted: what shall be.
        held: what is; flows that its sets have learned are kept.
        tables: families in which a table of ours exists.
    """
    mark = fingerprint(wanted)
    maps = wanted_maps(wanted)
    for (kind, name), elements in (held or {}).items():
        if name.startswith(LEARNED):
            maps[kind, name] = elements
    stale = tables - set(families(wanted))
    parts = [f"delete table {kind} {TABLE}\n" for kind in sorted(stale)]
    for kind in families(wanted):
        parts.append(f"add table {kind} {TABLE}\ndelete table {kind} {TABLE}\n")
        parts.append(_table(kind, wanted, maps, mark))
    return "".join(parts)


def wanted_maps(wanted: Wanted) -> Maps:
    """Return the elements that every map of ours shall hold."""
    maps: Maps = {}
    for service in wanted.services:
        for number, virtual in enumerate(service.virtual):
            kind = table_kind(service, virtual)
            maps[kind, f"m_{service.name}_{number}"] = _slots(wanted, service, number)
            doors = [(FAMILIES[virtual.family], "guarded")]
            if service.mode == "dsr":
                doors.append(("netdev", f"guarded{virtual.family}"))
            for door in doors:
                elements = maps.setdefault(door, {})
                if wanted.guard:
                    elements[f"{virtual.ip} . {virtual.port}"] = ""
    _add_pins(maps, wanted)
    return maps


def _add_pins(maps: Maps, wanted: Wanted) -> None:
    for kind in families(wanted):
        for name in PIN_MAPS[kind]:
            maps.setdefault((kind, name), {})
    for pin in wanted.pins:
        for service in wanted.services:
            known = pin.backend in service.backends
            if known and pin.virtual in service.virtual:
                number = service.virtual.index(pin.virtual)
                value = pin_data(service, number, wanted.backends[pin.backend])
                key = f"{pin.client.ip} . {pin.client.port} . {pin.virtual.ip}"
                where = pin_map(service, pin.virtual)
                maps[where][f"{key} . {pin.virtual.port}"] = value


def table_kind(service: Service, virtual: Address) -> str:
    """Return the family of nft in which a virtual address is steered."""
    return "netdev" if service.mode == "dsr" else FAMILIES[virtual.family]


def pin_map(service: Service, virtual: Address) -> tuple[str, str]:
    """Return the family and name of the map that holds pins of a virtual address."""
    if service.mode == "dsr":
        return "netdev", f"pin_raw{virtual.family}"
    name = "pin_nat" if service.mode == "nat" else "pin_raw"
    return FAMILIES[virtual.family], name


def pin_data(service: Service, number: int, backend: Backend) -> str:
    """Return the value of a pin to the backend."""
    if service.mode == "nat":
        return slot_data(service, number, backend)
    return f"goto g_{place(service, number, backend.name)}"


def slot_data(service: Service, number: int, backend: Backend) -> str:
    """Return the value of a slot that belongs to the backend."""
    if service.mode != "nat":
        return f"goto s_{place(service, number, backend.name)}"
    there = backend.at(service.name, service.virtual[number])
    assert there is not None
    return f"{there.ip} . {there.port}"


def place(service: Service, number: int, backend: str) -> str:
    """Return what names of sets and chains of a backend end with.

    No name of ours has a full stop, so none can be read in two ways.
    """
    return f"{service.name}.{number}.{backend}"


def _slots(wanted: Wanted, service: Service, number: int) -> dict[str, str]:
    data = {
        name: slot_data(service, number, wanted.backends[name])
        for name in service.backends
    }
    slots = wanted.table.get(service.name, ())
    return {str(slot): data[name] for slot, name in enumerate(slots)}


def element_text(elements: Mapping[str, str]) -> str:
    """Return elements as nft reads them."""
    return ", ".join(f"{k} : {v}" if v else k for k, v in elements.items())


def _table(kind: str, wanted: Wanted, maps: Maps, mark: str) -> str:
    body = _netdev(wanted, maps) if kind == "netdev" else _inet(kind, wanted, maps)
    lines = "\n".join(f"  {line}" for line in [*body, f"chain is_{mark} {{", "}"])
    return f"table {kind} {TABLE} {{\n{lines}\n}}\n"


def _block(kind: str, head: str, body: Sequence[str]) -> list[str]:
    return [f"{kind} {head} {{", *(f"  {line}" for line in body), "}"]


def _hash(three: str, service: Service, virtual: Address) -> str:
    return (
        f"jhash {three} saddr . {virtual.proto} sport mod {service.slots} "
        f"seed {service.seed:#x}"
    )


def _held(
    what: str, name: str, kind: str, elements: Mapping[str, str] | None
) -> list[str]:
    """Return a map or set with its elements."""
    body = [kind]
    if elements:
        body.append(f"elements = {{ {element_text(elements)} }}")
    return _block(what, name, body)


def _key(service: Service) -> str:
    """Return the type of a slot's number.

    The same 32-bit number as jhash's; but `nft list ruleset` of nft 1.0.6 dies of a
    map that is declared by jhash itself.
    """
    return f"typeof numgen inc mod {service.slots}"


def _mine(wanted: Wanted, kind: str) -> Iterator[tuple[Service, int, Address]]:
    for service in wanted.services:
        for number, virtual in enumerate(service.virtual):
            if table_kind(service, virtual) == kind:
                yield service, number, virtual


def _both(three: str) -> str:
    return f"{'ipv4_addr' if three == 'ip' else 'ipv6_addr'} . inet_service"


def _pins(
    name: str, three: str, to: str, elements: Mapping[str, str] | None
) -> list[str]:
    types = f"type {_both(three)} . {_both(three)} : {to}"
    return _held("map", name, f"{types}; flags timeout; timeout 1h", elements)


def _inet(kind: str, wanted: Wanted, maps: Maps) -> list[str]:
    """Return the body of table ip or ip6."""
    both = _both(kind)
    lines = [
        *_pins("pin_nat", kind, both, maps.get((kind, "pin_nat"))),
        *_pins("pin_raw", kind, "verdict", maps.get((kind, "pin_raw"))),
        *_held("set", "guarded", f"type {both}", maps.get((kind, "guarded"))),
    ]
    chains = _Chains(kind, f'oifname "{wanted.front}" ' if wanted.front else "")
    for service, number, virtual in _mine(wanted, kind):
        ways = [wanted.backends[n].at(service.name, virtual) for n in service.backends]
        back = {f"{way.ip} . {way.port}": "" for way in ways if way is not None}
        name = f"{service.name}_{number}"
        lines += _held("set", f"b_{name}", f"type {both}", back)
        elements = maps.get((kind, f"m_{name}"), {})
        key = f"{_key(service)} : "
        if service.mode == "nat":
            key += f"{kind} daddr . {virtual.proto} dport; size {service.slots}"
            lines += _held("map", f"m_{name}", key, elements)
            chains.nat(service, number, virtual)
        else:
            farm = _Farm(kind, wanted, service, number)
            lines += farm.sets(maps)
            chains.stateless(farm)
    for service in wanted.services:
        for virtual in service.virtual:
            if FAMILIES[virtual.family] == kind:
                chains.guard(virtual)
    return lines + chains.lines()


class _Farm:
    """One virtual address without conntrack: sets and chains of each backend."""

    def __init__(
        self, kind: str, wanted: Wanted, service: Service, number: int
    ) -> None:
        self.kind = kind
        self.wanted = wanted
        self.service = service
        self.number = number
        self.virtual = service.virtual[number]
        self.three = FAMILIES[self.virtual.family]
        self.tcp = self.virtual.proto == "tcp"
        self.name = f"{service.name}_{number}"
        self.flow = f"{self.three} saddr . {self.virtual.proto} sport"
        self.answer = f"{self.three} daddr . {self.virtual.proto} dport"

    def sets(self, maps: Maps) -> list[str]:
        """Return the slot map and the learned sets."""
        slots = maps.get((self.kind, f"m_{self.name}"), {})
        key = f"{_key(self.service)} : verdict; size {self.service.slots}"
        lines = [*_held("map", f"m_{self.name}", key, slots)]
        types = f"type {_both(self.three)}; flags timeout, dynamic; size {FLOWS_MAX}"
        for at in self._places():
            for name, seconds in ((f"l_{at}", self._life()), (f"k_{at}", "1m")):
                held = maps.get((self.kind, name))
                lines += _held("set", name, f"{types}; timeout {seconds}", held)
        return lines

    def chains(self) -> list[str]:
        """Return all chains, called ones before their callers."""
        places = self._places()
        sets = [f"{letter}_{at}" for at in places for letter in "lk"]
        lines = _block(
            "chain", f"f_{self.name}", [self._delete(s, self.flow) for s in sets]
        )
        lines += _block(
            "chain", f"r_{self.name}", [self._delete(s, self.answer) for s in sets]
        )
        for name in self.service.backends:
            lines += self._goes(name)
        pin_key = f"{self.flow} . {self.answer}"
        others = [
            *(f"{self.flow} @k_{at} goto h_{at}" for at in places),
            *(f"{self.flow} @l_{at} goto g_{at}" for at in places),
            f"{pin_key} vmap @{pin_map(self.service, self.virtual)[1]}",
        ]
        lines += _block("chain", f"o_{self.name}", others)
        opening = "tcp flags & (syn | ack) == syn"
        for at in places:
            body = [
                f"{self.flow} @l_{at} goto g_{at}",
                f"jump o_{self.name}",
                f"goto g_{at}",
            ]
            if self.tcp:
                new = [f"jump f_{self.name}", f"goto g_{at}"]
                lines += _block("chain", f"n_{at}", new)
                body.insert(0, f"{opening} goto n_{at}")
            lines += _block("chain", f"s_{at}", body)
        return lines

    def steer(self) -> str:
        """Return the rule that sends packets into the chains."""
        to = f"{self.three} daddr {self.virtual.ip} {self.virtual.proto} dport "
        slot = _hash(self.three, self.service, self.virtual)
        return f"{to}{self.virtual.port} {slot} vmap @m_{self.name}"

    def _goes(self, name: str) -> list[str]:
        """Return the chains that learn a flow for a backend, and send it there."""
        at = place(self.service, self.number, name)
        act = self._act(self.wanted.backends[name])
        learn = f"update @l_{at} {{ {self.flow} timeout {self._life()} }} {act}"
        close = f"update @k_{at} {{ {self.flow} timeout 1m }} {act}"
        ends = f"tcp flags & (fin | rst) != 0 {self._delete(f'l_{at}', self.flow)}"
        body = [f"{ends} {close}", learn] if self.tcp else [learn]
        return _block("chain", f"g_{at}", body) + _block("chain", f"h_{at}", [close])

    def _act(self, backend: Backend) -> str:
        if self.service.mode == "dsr":
            to = f'fwd to "{self.wanted.back}"'
            return f"ether daddr set {backend.mac.lower()} {to}"
        there = backend.at(self.service.name, self.virtual)
        assert there is not None
        return f"{self.three} daddr set {there.ip} accept"

    def _life(self) -> str:
        return f"{FLOW_SECONDS if self.tcp else UDP_SECONDS}s"

    def _places(self) -> list[str]:
        return [
            place(self.service, self.number, name) for name in self.service.backends
        ]

    @staticmethod
    def _delete(name: str, key: str) -> str:
        return f"delete @{name} {{ {key} }}"


class _Chains:
    """The chains of table ip or ip6, filled service by service."""

    def __init__(self, kind: str, out: str) -> None:
        self.kind = kind
        self.out = out
        self.guards: list[str] = []
        self.raw: list[str] = []
        self.nat_in: list[str] = []
        self.nat_out: list[str] = []
        self.raw_out: list[str] = []
        self.last: list[str] = []
        self.more: list[str] = []

    def nat(self, service: Service, number: int, virtual: Address) -> None:
        """Add conntrack NAT: pins, hash, the way back, the egress guard."""
        kind, proto = self.kind, virtual.proto
        to = f"{self._to(virtual)} dnat {kind} addr . port to"
        pin = f"{kind} saddr . {proto} sport . {kind} daddr . {proto} dport"
        self.nat_in.append(f"{to} {pin} map @pin_nat")
        slot = _hash(kind, service, virtual)
        self.nat_in.append(f"{to} {slot} map @m_{service.name}_{number}")
        back = f"{self.out}{self._back(service, number, proto)}"
        self.nat_out.append(f"{back} snat to {virtual}")
        self.last.append(f"{back} drop")

    def stateless(self, farm: _Farm) -> None:
        """Add NAT without conntrack: the backends' chains, and the way back."""
        self.more += farm.chains()
        virtual = farm.virtual
        self.raw.append(f"{self._to(virtual)} notrack")
        self.raw.append(farm.steer())
        back = self._back(farm.service, farm.number, virtual.proto)
        if farm.tcp:
            self.raw.append(f"{back} tcp flags & rst == rst jump r_{farm.name}")
        self.raw.append(f"{back} notrack")
        put = f"{self.kind} saddr set {virtual.ip} accept"
        self.raw_out.append(f"{self.out}{back} {put}")

    def guard(self, virtual: Address) -> None:
        """Never answer for a virtual address; drop at the door while guarded."""
        self.guards.append(f"{self._to(virtual)} drop")

    def lines(self) -> list[str]:
        """Return all chains; called chains stand before their callers."""
        protos = "meta l4proto { tcp, udp } "
        door = f"{protos}{self.kind} daddr . th dport @guarded drop"
        found = list(self.more)
        for name, hook, body in (
            ("raw", "filter hook prerouting priority raw", [door, *self.raw]),
            ("prer", "nat hook prerouting priority dstnat", self.nat_in),
            ("postr", "nat hook postrouting priority srcnat", self.nat_out),
            ("inp", "filter hook input priority filter", self.guards),
            ("rawout", "filter hook postrouting priority srcnat + 10", self.raw_out),
            ("eg", "filter hook postrouting priority srcnat + 50", self.last),
        ):
            found += _block("chain", name, [f"type {hook}; policy accept;", *body])
        return found

    def _to(self, virtual: Address) -> str:
        return f"{self.kind} daddr {virtual.ip} {virtual.proto} dport {virtual.port}"

    def _back(self, service: Service, number: int, proto: str) -> str:
        return f"{self.kind} saddr . {proto} sport @b_{service.name}_{number}"


def _netdev(wanted: Wanted, maps: Maps) -> list[str]:
    """Return the body of table netdev: mode dsr, by link-layer address."""
    lines: list[str] = []
    for family, three in FAMILIES.items():
        name = f"pin_raw{family}"
        lines += _pins(name, three, "verdict", maps.get(("netdev", name)))
    rules = [
        f'type filter hook ingress device "{wanted.front}" priority 0;',
        # What a switch floods to us is another machine's.
        "meta pkttype != host accept",
    ]
    for family, three in FAMILIES.items():
        name = f"guarded{family}"
        held = maps.get(("netdev", name))
        lines += _held("set", name, f"type {_both(three)}", held)
        rules.append(
            f"meta l4proto {{ tcp, udp }} {three} daddr . th dport @{name} drop"
        )
    farms = [_Farm("netdev", wanted, s, n) for s, n, _ in _mine(wanted, "netdev")]
    for farm in farms:
        lines += farm.sets(maps)
    for farm in farms:
        lines += farm.chains()
        rules.append(farm.steer())
    return lines + _block("chain", "ingress", rules)

"""The nftables data plane: seeded jhash into a slot map, pins, the way back, guards.

One table per family, named ``director``, and one transaction per change. The rule
set, and why each rule is there:

- a new flow is looked up in the pins, then hashed to a slot, the slot to a backend;
- a packet that a backend sends first (after a failover nobody knows its flow) gets
  the virtual address as its source: that entry is complete, and needs no hash;
- guards: the machine never answers for a virtual address itself, and nothing leaves
  untranslated. ``guarded`` holds the addresses while we are not their holder.

Chain ``is_X`` is named after what we meant to load, ``seal_X`` after what the kernel
listed right afterwards: a hand that edits the rules breaks the seal. Elements of
slot maps are compared one by one. Learned pins of mode ``stateless`` live 10 minutes.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from standfast.director import conntrack
from standfast.director.drivers import DriverError
from standfast.director.model import Address, Capabilities, Change, Observed, Pin
from standfast.errors import CommandError, CommandNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from standfast.director.model import Backend, Flow, Mode, Service, Wanted
    from standfast.host import Host

TABLE = "director"
TIMEOUT = 10.0
FAMILIES = {4: "ip", 6: "ip6"}
# Loose: an unknown flow in its middle makes an entry. Liberal: an entry from before
# a failover, its windows long out of date, still translates.
SYSCTLS = {
    "net.ipv4.ip_forward": "1",
    "net.netfilter.nf_conntrack_tcp_loose": "1",
    "net.netfilter.nf_conntrack_tcp_be_liberal": "1",
    # So that `director where` can say how old a flow is; 16 bytes a flow.
    "net.netfilter.nf_conntrack_timestamp": "1",
}
SYSCTLS6 = {"net.ipv6.conf.all.forwarding": "1"}

# (family of nft, name of a map) -> key -> value, all as nft writes them.
Maps = dict[tuple[str, str], dict[str, str]]


@dataclass(frozen=True)
class NftObserved(Observed):
    """What nft lists.

    Attributes:
        maps: elements of every map and set that we change in place.
        sealed: whether the rules are those we loaded.
        tables: nft families in which our table exists.
    """

    maps: Maps = field(default_factory=dict)
    sealed: bool = False
    tables: frozenset[str] = frozenset()


class NftablesDriver:
    """Drives nft through the host; see Driver."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def detect(self) -> Capabilities:
        """Return what works here; see Driver."""
        try:
            version = self._run(["nft", "--version"]).strip()
        except (CommandNotFoundError, DriverError) as error:
            return Capabilities("nftables", "", (), missing=(error.message,))
        works = tuple(mode for mode in _TRIALS if self._accepts(_TRIALS[mode]))
        missing = [] if works else ["nft takes none of our rules (are we root?)"]
        return Capabilities(
            "nftables", version, works, tuple(self._notes()), tuple(missing)
        )

    def prepare(self, wanted: Wanted) -> None:
        """Set the kernel switches that failover needs.

        Raises:
            DriverError: the kernel refused one.
        """
        switches = dict(SYSCTLS)
        if any(v.family == 6 for s in wanted.services for v in s.virtual):  # noqa: PLR2004
            switches |= SYSCTLS6
        self._run(["sysctl", "-qw", *(f"{k}={v}" for k, v in switches.items())])

    def observe(self, wanted: Wanted) -> NftObserved:
        """Return what the kernel holds; see Driver."""
        listings = {}
        for kind in ("ip", "ip6", "netdev"):
            listed = self._list(kind)
            if listed:
                listings[kind] = listed
        return read_listings(listings, wanted)

    def plan(self, observed: Observed, wanted: Wanted) -> list[Change]:
        """Return what to do; see Driver."""
        assert isinstance(observed, NftObserved)
        kinds = set(families(wanted))
        if not kinds <= observed.tables or observed.fingerprint != fingerprint(wanted):
            return [Change(load_script(wanted, observed), "the rules are not loaded")]
        if not observed.sealed:
            why = "the rules were altered by somebody else"
            return [Change(load_script(wanted, observed), why)]
        return list(_deltas(observed.maps, wanted_maps(wanted)))

    def apply(self, changes: Sequence[Change]) -> None:
        """Do it all in one transaction; see Driver."""
        if not changes:
            return
        self._nft("\n".join(change.command for change in changes) + "\n")
        if any("chain is_" in change.command for change in changes):
            self._seal()

    def connections(self, backend: Backend) -> int | None:
        """Return how many flows conntrack has of it; None without conntrack."""
        mine = {address.ip for address in _addresses(backend)}
        total = 0
        for entry in self._entries():
            # Whoever spoke first, as after a failover: one end is the backend's.
            ends = {entry.answer[0].ip, entry.first[0].ip}
            total += bool(mine & ends) and entry.state == "ESTABLISHED"
        return total

    def kill(self, backend: Backend) -> int:
        """Forget its flows; see Driver."""
        return sum(
            self._forget(["-f", _l3(address.ip), end, address.ip])
            for address in _addresses(backend)
            for end in ("--reply-src", "--orig-src")
        )

    def flush(self, wanted: Wanted) -> int:
        """Forget all flows of the virtual addresses, as a director that lost them.

        What is forgotten is taken up again, from either side, when they come back;
        what is kept has windows that are long out of date by then.
        """
        return sum(
            self._forget(["-f", _l3(v.ip), "-d", v.ip, "--dport", str(v.port)])
            for service in wanted.services
            for v in service.virtual
            if v.proto == "tcp"
        )

    def flows(self, virtual: Address) -> list[Flow]:
        """Return every flow that is under way; see Driver."""
        found = conntrack.flows(self._entries(), {virtual})
        return [flow for flow in found if flow.state == "ESTABLISHED"]

    def remove(self) -> None:
        """Take every rule of ours away; see Driver."""
        kinds = ("ip", "ip6", "netdev")
        lines = [f"add table {k} {TABLE}\ndelete table {k} {TABLE}\n" for k in kinds]
        self._nft("".join(lines))

    def _entries(self) -> list[conntrack.Entry]:
        listing = self._run(list(conntrack.ARGV), ok=(0, 1))
        return list(conntrack.entries(listing))

    def _forget(self, filters: list[str]) -> int:
        argv = ["conntrack", "-D", "-p", "tcp", *filters]
        try:
            listed = self._run(argv, ok=(0, 1))
        except CommandNotFoundError:
            return 0
        return len(listed.splitlines())

    def _list(self, kind: str) -> list[dict[str, Any]]:
        argv = ["nft", "-j", "list", "table", kind, TABLE]
        result = self._host.run(argv, ok=(0, 1), timeout=TIMEOUT)
        if result.code:
            if "No such file" in result.stderr:
                return []
            raise DriverError(result.complaint(), hint="nft needs root")
        rows: list[dict[str, Any]] = json.loads(result.stdout)["nftables"]
        return rows

    def _seal(self) -> None:
        lines = []
        for kind in ("ip", "ip6", "netdev"):
            listed = self._list(kind)
            if listed:
                lines.append(f"add chain {kind} {TABLE} seal_{seal(listed)}")
        self._nft("\n".join(lines) + "\n")

    def _nft(self, script: str) -> None:
        self._run(["nft", "-f", "-"], stdin=script.encode())

    def _accepts(self, script: str) -> bool:
        argv = ["nft", "-c", "-f", "-"]
        result = self._host.run(argv, stdin=script.encode(), ok=(0, 1), timeout=TIMEOUT)
        return result.code == 0

    def _notes(self) -> Iterator[str]:
        for name, value in SYSCTLS.items():
            try:
                held = self._run(["sysctl", "-n", name]).strip()
            except (DriverError, CommandNotFoundError):
                yield f"{name} cannot be read; it should be {value}"
                continue
            if held != value:
                yield f"{name} is {held}, and will be set to {value}"

    def _run(
        self, argv: list[str], *, stdin: bytes = b"", ok: tuple[int, ...] = (0,)
    ) -> str:
        try:
            result = self._host.run(argv, stdin=stdin, ok=ok, timeout=TIMEOUT)
        except CommandNotFoundError as error:
            raise CommandNotFoundError(error.message, hint=error.hint) from None
        except CommandError as error:
            raise DriverError(error.message, hint="the old rules stand") from None
        return result.stdout.decode(errors="replace")


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


def load_script(wanted: Wanted, observed: NftObserved | None = None) -> str:
    """Return the transaction that replaces everything of ours.

    Args:
        wanted: what shall be.
        observed: what is; flows that its maps have learned are kept.
    """
    mark = fingerprint(wanted)
    maps = wanted_maps(wanted)
    kept = {} if observed is None else observed.maps
    for (kind, name), elements in kept.items():
        if name.startswith("learn_") and kind in families(wanted):
            maps[kind, name] = elements
    stale = set() if observed is None else observed.tables - set(families(wanted))
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
            kind = _kind(service, virtual)
            maps[kind, f"m_{service.name}_{number}"] = _slots(wanted, service, virtual)
            guard = (FAMILIES[virtual.family], "guarded")
            elements = maps.setdefault(guard, {})
            if wanted.guard:
                elements[f"{virtual.ip} . {virtual.port}"] = ""
    for kind in families(wanted):
        if kind != "netdev":
            for name in ("pin_nat", "pin_raw"):
                maps.setdefault((kind, name), {})
    for pin in wanted.pins:
        _add_pin(maps, wanted, pin)
    return maps


def read_listings(
    listings: Mapping[str, list[dict[str, Any]]], wanted: Wanted
) -> NftObserved:
    """Turn ``nft -j list table`` of each family into what is observed."""
    maps: Maps = {}
    marks, sealed = set(), bool(listings)
    for kind, rows in listings.items():
        names = [row["chain"]["name"] for row in rows if "chain" in row]
        marks |= {name[3:] for name in names if name.startswith("is_")}
        sealed = sealed and f"seal_{seal(rows)}" in names
        for row in rows:
            body = row.get("map") or row.get("set")
            if body is not None and not body["name"].startswith("b_"):
                maps[kind, body["name"]] = dict(_elements(body.get("elem", [])))
    guarded = [v for (_, name), v in maps.items() if name == "guarded"]
    return NftObserved(
        present=bool(listings),
        fingerprint=marks.pop() if len(marks) == 1 else "",
        guard=any(guarded) if guarded else None,
        table={s.name: _named(maps, wanted, s) for s in wanted.services},
        pins=tuple(_named_pins(maps, wanted)),
        problems=() if sealed or not listings else ("the rules were altered",),
        maps=maps,
        sealed=sealed,
        tables=frozenset(listings),
    )


def seal(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return 16 hex digits over rules, chains and fixed sets as nft lists them."""
    kept = []
    for row in rows:
        for what, body in row.items():
            if what not in {"rule", "chain", "map", "set"}:
                continue
            fixed = {k: v for k, v in body.items() if k != "handle"}
            if not str(body.get("name", "")).startswith("b_"):
                fixed.pop("elem", None)
            if not str(body.get("name", "")).startswith("seal_"):
                kept.append(json.dumps([what, fixed], sort_keys=True))
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()[:16]


def _kind(service: Service, virtual: Address) -> str:
    return "netdev" if service.mode == "dsr" else FAMILIES[virtual.family]


def _l3(ip: str) -> str:
    return "ipv6" if ":" in ip else "ipv4"


def _addresses(backend: Backend) -> set[Address]:
    found = [backend.address, *(address for _, address in backend.per_service)]
    if backend.address6 is not None:
        found.append(backend.address6)
    return {Address(address.ip) for address in found}


def _data(service: Service, backend: Backend, virtual: Address) -> str:
    """Return the value of a slot that belongs to the backend."""
    if service.mode == "dsr":
        return backend.mac.lower()
    there = backend.at(service.name, virtual)
    assert there is not None
    return f"{there.ip} . {there.port}" if service.mode == "nat" else there.ip


def _slots(wanted: Wanted, service: Service, virtual: Address) -> dict[str, str]:
    data = {
        name: _data(service, wanted.backends[name], virtual)
        for name in service.backends
    }
    slots = wanted.table.get(service.name, ())
    return {str(slot): data[name] for slot, name in enumerate(slots)}


def _add_pin(maps: Maps, wanted: Wanted, pin: Pin) -> None:
    backend = wanted.backends.get(pin.backend)
    for service in wanted.services:
        if pin.virtual not in service.virtual or backend is None:
            continue
        if service.mode == "dsr":
            continue
        kind = FAMILIES[pin.virtual.family]
        name = "pin_nat" if service.mode == "nat" else "pin_raw"
        key = f"{pin.client.ip} . {pin.client.port} . {pin.virtual.ip} . "
        value = _data(service, backend, pin.virtual)
        maps[kind, name][f"{key}{pin.virtual.port}"] = value


def _deltas(held: Maps, wanted: Maps) -> Iterator[Change]:
    for (kind, name), elements in wanted.items():
        old = held.get((kind, name), {})
        where = f"element {kind} {TABLE} {name}"
        gone = [key for key, value in old.items() if elements.get(key) != value]
        new = {k: v for k, v in elements.items() if old.get(k) != v}
        commands = []
        if gone:
            commands.append(f"delete {where} {{ {', '.join(gone)} }}")
        if new:
            commands.append(f"add {where} {{ {_text(new)} }}")
        if commands:
            why = f"{name}: {len(new)} set, {len(set(gone) - set(new))} removed"
            yield Change("\n".join(commands), why)


def _text(elements: Mapping[str, str]) -> str:
    return ", ".join(f"{k} : {v}" if v else k for k, v in elements.items())


def _elements(listed: Sequence[Any]) -> Iterator[tuple[str, str]]:
    for item in listed:
        if isinstance(item, list):
            yield _word(item[0]), _word(item[1])
        else:
            yield _word(item), ""


def _word(value: Any) -> str:  # noqa: ANN401 - as JSON has it
    if isinstance(value, dict) and "elem" in value:
        return _word(value["elem"]["val"])
    if isinstance(value, dict) and "concat" in value:
        return " . ".join(str(part) for part in value["concat"])
    return str(value)


def _named(maps: Maps, wanted: Wanted, service: Service) -> tuple[str, ...]:
    """Return who the kernel sends each slot to; the first virtual address speaks."""
    virtual = service.virtual[0]
    held = maps.get((_kind(service, virtual), f"m_{service.name}_0"), {})
    names = {
        _data(service, wanted.backends[name], virtual): name
        for name in service.backends
    }
    if not held:
        return ()
    slots = range(service.slots)
    return tuple(names.get(held.get(str(slot), ""), "") for slot in slots)


def _named_pins(maps: Maps, wanted: Wanted) -> Iterator[Pin]:
    for service in wanted.services:
        name = "pin_nat" if service.mode == "nat" else "pin_raw"
        for virtual in service.virtual:
            there = {
                _data(service, wanted.backends[b], virtual): b for b in service.backends
            }
            for key, value in maps.get((FAMILIES[virtual.family], name), {}).items():
                ip, port, vip, vport = key.split(" . ")
                client = Address(ip, int(port), virtual.proto)
                if (vip, int(vport)) == (virtual.ip, virtual.port) and value in there:
                    yield Pin(client, virtual, there[value], 0.0)


def _table(kind: str, wanted: Wanted, maps: Maps, mark: str) -> str:
    body = _netdev(wanted, maps) if kind == "netdev" else _inet(kind, wanted, maps)
    lines = "\n".join(f"  {line}" for line in [*body, f"chain is_{mark} {{", "}"])
    return f"table {kind} {TABLE} {{\n{lines}\n}}\n"


def _block(kind: str, head: str, body: Sequence[str]) -> list[str]:
    return [f"{kind} {head} {{", *(f"  {line}" for line in body), "}"]


def _hash(three: str, proto: str, service: Service, number: int) -> str:
    return (
        f"jhash {three} saddr . {proto} sport mod {service.slots} "
        f"seed {service.seed:#x} map @m_{service.name}_{number}"
    )


def _map(name: str, kind: str, elements: Mapping[str, str]) -> list[str]:
    body = [kind]
    if elements:
        body.append(f"elements = {{ {_text(elements)} }}")
    return _block("map", name, body)


def _mine(wanted: Wanted, kind: str) -> Iterator[tuple[Service, int, Address]]:
    for service in wanted.services:
        for number, virtual in enumerate(service.virtual):
            if _kind(service, virtual) == kind:
                yield service, number, virtual


def _inet(kind: str, wanted: Wanted, maps: Maps) -> list[str]:
    """Return the body of table ip or ip6."""
    address = "ipv4_addr" if kind == "ip" else "ipv6_addr"
    both = f"{address} . inet_service"
    lines = [
        *_pins("pin_nat", f"{both} . {both} : {both}", maps.get((kind, "pin_nat"))),
        *_pins("pin_raw", f"{both} . {both} : {address}", maps.get((kind, "pin_raw"))),
    ]
    held = maps.get((kind, "guarded"), {})
    body = [f"type {both}"] + ([f"elements = {{ {_text(held)} }}"] if held else [])
    lines += _block("set", "guarded", body)
    chains = _Chains(kind, f'oifname "{wanted.front}" ' if wanted.front else "")
    for service, number, virtual in _mine(wanted, kind):
        ways = [wanted.backends[n].at(service.name, virtual) for n in service.backends]
        back = ", ".join(f"{way.ip} . {way.port}" for way in ways if way is not None)
        name = f"{service.name}_{number}"
        elements = maps.get((kind, f"m_{name}"), {})
        lines += _block(
            "set", f"b_{name}", [f"type {both}", f"elements = {{ {back} }}"]
        )
        # The same 32-bit number as jhash's; but `nft list ruleset` of nft 1.0.6 dies
        # of a map that is declared by jhash itself.
        key = f"typeof numgen inc mod {service.slots} : "
        if service.mode == "nat":
            key += f"{kind} daddr . {virtual.proto} dport; size {service.slots}"
            chains.nat(service, number, virtual)
        else:
            key += f"{kind} daddr; size {service.slots}"
            learned = maps.get((kind, f"learn_{name}"), {})
            flags = f"type {both} : {address}; flags timeout, dynamic; timeout 10m; "
            lines += _map(f"learn_{name}", f"{flags}size 262144", learned)
            chains.stateless(service, number, virtual)
        lines += _map(f"m_{name}", key, elements)
    for service in wanted.services:
        for virtual in service.virtual:
            if FAMILIES[virtual.family] == kind:
                chains.guard(virtual)
    return lines + chains.lines()


def _pins(name: str, types: str, elements: Mapping[str, str] | None) -> list[str]:
    return _map(name, f"type {types}; flags timeout; timeout 1h", elements or {})


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
        self.nat_in.append(f"{to} {_hash(kind, proto, service, number)}")
        back = f"{self.out}{self._back(service, number, proto)}"
        self.nat_out.append(f"{back} snat to {virtual}")
        self.last.append(f"{back} drop")

    def stateless(self, service: Service, number: int, virtual: Address) -> None:
        """Add NAT without conntrack: pins, learned flows, hash, the way back."""
        kind, proto = self.kind, virtual.proto
        name = f"{service.name}_{number}"
        flow = f"{kind} saddr . {proto} sport"
        pin = f"{flow} . {kind} daddr . {proto} dport"
        put = f"{kind} daddr set"
        learn = f"update @learn_{name} {{ {flow} timeout 10m : {kind} daddr }}"
        hashed = f"{put} {_hash(kind, proto, service, number)}"
        body = ["notrack", f"{put} {pin} map @pin_raw accept"]
        # Only the opening of a flow may choose; all later packets follow it. nft
        # 1.0.6 aborts on learning 16-byte addresses: IPv6 follows hash and pins.
        if proto == "tcp" and kind == "ip":
            body.append(f"tcp flags & (syn | ack) == syn {hashed} {learn} accept")
            body.append(f"{put} {flow} map @learn_{name} accept")
        body.append(f"{hashed} accept")
        self.more += _block("chain", f"s_{name}", body)
        self.raw.append(f"{self._to(virtual)} goto s_{name}")
        back = self._back(service, number, proto)
        self.raw.append(f"{back} notrack")
        self.raw_out.append(f"{self.out}{back} {kind} saddr set {virtual.ip} accept")

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
    rules = [f'type filter hook ingress device "{wanted.front}" priority 0;']
    for service, number, virtual in _mine(wanted, "netdev"):
        kind = FAMILIES[virtual.family]
        key = f"typeof numgen inc mod {service.slots} : ether daddr"
        name = f"m_{service.name}_{number}"
        lines += _map(
            name, f"{key}; size {service.slots}", maps.get(("netdev", name), {})
        )
        to = f"{kind} daddr {virtual.ip} {virtual.proto} dport {virtual.port}"
        steer = f"ether daddr set {_hash(kind, virtual.proto, service, number)}"
        rules.append(f'{to} {steer} fwd to "{wanted.back}"')
    return lines + _block("chain", "ingress", rules)


def _trial(mode: Mode) -> str:
    from standfast.director import model  # noqa: PLC0415 - values for the trial only

    service = model.Service("t", (Address("192.0.2.1", 80),), ("b",), mode, 1, 11)
    backend = model.Backend("b", Address("192.0.2.2"), mac="02:00:00:00:00:01")
    wanted = model.Wanted(
        (service,), {"b": backend}, {"t": ("b",) * 11}, False, (), "lo", "lo"
    )
    return load_script(wanted)


_TRIALS: dict[Mode, str] = {
    "nat": _trial("nat"),
    "stateless": _trial("stateless"),
    "dsr": _trial("dsr"),
}

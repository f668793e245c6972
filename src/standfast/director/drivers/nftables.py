"""The nftables data plane: nft through the host, one transaction for each change.

Rules are written by nft_rules, listings read by nft_listing; here they meet the
kernel. Chain ``is_X`` is named after what we meant to load, ``seal_X`` after what the
kernel listed right afterwards: a hand that edits the rules breaks the seal. Elements
of slot maps are compared one by one.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

from standfast.director import conntrack
from standfast.director.drivers import DriverError
from standfast.director.drivers.nft_listing import (
    NftObserved,
    learned,
    places,
    read_listings,
    seal,
)
from standfast.director.drivers.nft_rules import (
    TABLE,
    element_text,
    families,
    fingerprint,
    load_script,
    wanted_maps,
)
from standfast.director.model import Address, Capabilities, Change, Flow
from standfast.errors import CommandError, CommandNotFoundError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from standfast.director.drivers.nft_listing import Rows
    from standfast.director.drivers.nft_rules import Maps
    from standfast.director.model import Backend, Mode, Observed, Wanted
    from standfast.host import Host

TIMEOUT = 10.0
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

KINDS = ("ip", "ip6", "netdev")


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
        return read_listings(self._listings(), wanted)

    def plan(self, observed: Observed, wanted: Wanted) -> list[Change]:
        """Return what to do; see Driver."""
        assert isinstance(observed, NftObserved)
        kinds = set(families(wanted))
        if not kinds <= observed.tables or observed.fingerprint != fingerprint(wanted):
            why = "the rules are not loaded"
        elif not observed.sealed:
            why = "the rules were altered by somebody else"
        else:
            return list(_deltas(observed.maps, wanted_maps(wanted)))
        return [Change(load_script(wanted, observed.maps, observed.tables), why)]

    def apply(self, changes: Sequence[Change]) -> None:
        """Do it all in one transaction; see Driver."""
        if not changes:
            return
        self._nft("\n".join(change.command for change in changes) + "\n")
        if any("chain is_" in change.command for change in changes):
            self._seal()

    def connections(self, backend: Backend, wanted: Wanted) -> int | None:
        """Return how many flows it has, tracked or learned; see Driver."""
        mine = {address.ip for address in _addresses(backend)}
        modes = {s.mode for s in wanted.services if backend.name in s.backends}
        total = 0
        for entry in self._entries() if "nat" in modes else ():
            # Whoever spoke first, as after a failover: one end is the backend's.
            ends = {entry.answer[0].ip, entry.first[0].ip}
            total += bool(mine & ends) and entry.state == "ESTABLISHED"
        if modes - {"nat"}:
            total += sum(
                flow.place.endswith(f".{backend.name}")
                for kind, rows in self._listings().items()
                for flow in learned(kind, rows)
            )
        return total

    def kill(self, backend: Backend, wanted: Wanted) -> int:
        """Forget its flows; see Driver."""
        count = sum(
            self._forget(["-f", _l3(address.ip), end, address.ip])
            for address in _addresses(backend)
            for end in ("--reply-src", "--orig-src")
        )
        mine = [at for at in places(wanted) if at[1].endswith(f".{backend.name}")]
        if mine:
            count += self.connections(backend, _stateless(wanted)) or 0
            self._nft(_emptied(mine))
        return count

    def flush(self, wanted: Wanted) -> int:
        """Forget all flows of the virtual addresses, as a director that lost them.

        What is forgotten is taken up again, from either side, when they come back;
        what is kept has windows that are long out of date by then, or belongs to
        another connection of the same port.
        """
        count = sum(
            self._forget(["-f", _l3(v.ip), "-d", v.ip, "--dport", str(v.port)])
            for service in wanted.services
            for v in service.virtual
            if v.proto == "tcp" and service.mode == "nat"
        )
        sets = places(wanted)
        if sets:
            count += len(self._learned(wanted))
            self._nft(_emptied(sets))
        return count

    def flows(self, wanted: Wanted) -> list[Flow]:
        """Return every flow that is under way through the virtual addresses.

        Raises:
            DriverError: they could not be listed.
        """
        virtuals = {
            virtual
            for service in wanted.services
            for virtual in service.virtual
            if service.mode == "nat"
        }
        found: list[Flow] = []
        if virtuals:
            found += conntrack.flows(self._entries(), virtuals)
        if any(service.mode != "nat" for service in wanted.services):
            found += self._learned(wanted)
        return found

    def remove(self) -> None:
        """Take every rule of ours away; see Driver."""
        lines = [f"add table {k} {TABLE}\ndelete table {k} {TABLE}\n" for k in KINDS]
        self._nft("".join(lines))

    def _learned(self, wanted: Wanted) -> list[Flow]:
        where = places(wanted)
        found = []
        for kind, rows in self._listings().items():
            for flow in learned(kind, rows):
                place = where.get((kind, flow.place))
                if place is None:
                    continue
                virtual, backend = place
                client = Address(flow.client.ip, flow.client.port, virtual.proto)
                found.append(
                    Flow(client, virtual, backend, "ESTABLISHED", flow.seconds)
                )
        return found

    def _listings(self) -> dict[str, Rows]:
        found = {kind: self._list(kind) for kind in KINDS}
        return {kind: rows for kind, rows in found.items() if rows}

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

    def _list(self, kind: str) -> Rows:
        argv = ["nft", "-j", "list", "table", kind, TABLE]
        result = self._host.run(argv, ok=(0, 1), timeout=TIMEOUT)
        if result.code:
            if "No such file" in result.stderr:
                return []
            raise DriverError(result.complaint(), hint="nft needs root")
        rows: Rows = json.loads(result.stdout)["nftables"]
        return rows

    def _seal(self) -> None:
        lines = []
        for kind, rows in self._listings().items():
            lines.append(f"add chain {kind} {TABLE} seal_{seal(rows)}")
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


def _l3(ip: str) -> str:
    return "ipv6" if ":" in ip else "ipv4"


def _addresses(backend: Backend) -> set[Address]:
    found = [backend.address, *(address for _, address in backend.per_service)]
    if backend.address6 is not None:
        found.append(backend.address6)
    return {Address(address.ip) for address in found}


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
            commands.append(f"add {where} {{ {element_text(new)} }}")
        if commands:
            why = f"{name}: {len(new)} set, {len(set(gone) - set(new))} removed"
            yield Change("\n".join(commands), why)


def _emptied(sets: Iterable[tuple[str, str]]) -> str:
    """Return what forgets the flows of learned sets."""
    return "".join(
        f"flush set {kind} {TABLE} {letter}_{place}\n"
        for kind, place in sets
        for letter in "lk"
    )


def _stateless(wanted: Wanted) -> Wanted:
    services = tuple(s for s in wanted.services if s.mode != "nat")
    return replace(wanted, services=services)


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

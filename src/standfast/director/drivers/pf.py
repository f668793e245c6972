"""The data plane of FreeBSD: pf, through pfctl and one anchor.

A change of membership is one transaction: the tables alone where clients are
remembered per rule (``-T load``), tables and rules together otherwise. States carry
their translation, so flows outlive both; ``kill`` ends them. The daemon may die at
any time: what is loaded goes on working.

pf has no hash slots, so weights are not honoured and a client's port does not count.
Nothing here ran on a FreeBSD machine; see docs/director-freebsd.md for what stands on
captured output and what on reading source.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from standfast.director.drivers import DriverError, pf_output
from standfast.director.drivers.pf_grammar import (
    ANCHOR_LINES,
    Pool,
    Ruleset,
    key,
    ruleset,
    table_name,
)
from standfast.director.model import (
    Capabilities,
    Change,
    Observed,
    Service,
)
from standfast.errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from standfast.director.model import Address, Backend, Flow, Wanted
    from standfast.host import Host, Result

# pfctl answers in a few milliseconds; with a million states listing takes seconds.
TIMEOUT_S = 10.0
NO_TABLE = "Table does not exist"
ANY = {4: "0.0.0.0/0", 6: "::/0"}


@dataclass(frozen=True)
class PfObserved(Observed):
    """What the anchor holds.

    Attributes:
        members: addresses by table name; a table that is missing is not in it.
        rules: how many rules there are, translation and filter together.
    """

    members: Mapping[str, frozenset[str]] = field(default_factory=dict)
    rules: int = 0


class PfDriver:
    """Steers with pf; see Driver.

    Attributes:
        anchor: the anchor that belongs to us, all of it.
        netblocks: for a service the netblock that is exactly its backends.
    """

    def __init__(
        self,
        host: Host,
        *,
        anchor: str = "director",
        netblocks: Mapping[str, str] | None = None,
    ) -> None:
        self._host = host
        self.anchor = anchor
        self.netblocks = dict(netblocks or {})
        self._pool: Pool | None = None

    def pool(self) -> Pool:
        """Return what this pfctl takes for a table; asked once, changes nothing."""
        if self._pool is None:
            result = self._run("pfctl", "-nf", "-", stdin=probe_text(), ok=range(256))
            self._pool = Pool.HASH if result.code == 0 else Pool.STICKY
        return self._pool

    def detect(self) -> Capabilities:
        """Return what works here; see Driver."""
        try:
            release = self._run("uname", "-r").stdout.decode().strip()
            info = self._pfctl("-s", "info", anchor=False)
        except DriverError as error:
            return Capabilities("pf", "", (), missing=(error.message,))
        missing = []
        if pf_output.enabled(info) is not True:
            missing.append("pf is not enabled: `service pf start`")
        missing += self._missing_anchors()
        return Capabilities(
            "pf", release, ("nat",), tuple(_notes(self.pool())), tuple(missing)
        )

    def _missing_anchors(self) -> list[str]:
        nat = self._pfctl("-s", "nat", anchor=False)
        rules = self._pfctl("-s", "rules", anchor=False)
        kinds = (("nat-anchor", nat), ("rdr-anchor", nat), ("anchor", rules))
        return [
            f"pf.conf does not call our anchor: add the line `{line}`"
            for (kind, text), line in zip(
                kinds, (a.format(self.anchor) for a in ANCHOR_LINES), strict=True
            )
            if not pf_output.has_anchor(text, kind, self.anchor)
        ]

    def rules(self, wanted: Wanted) -> Ruleset:
        """Return what would be loaded, for ``director check``."""
        return ruleset(wanted, self.pool(), self.netblocks)

    def observe(self, wanted: Wanted) -> PfObserved:
        """Return what the anchor holds; see Driver."""
        should = self.rules(wanted)
        rules = self._pfctl("-s", "rules")
        nat = self._pfctl("-s", "nat")
        held = {}
        for name in should.tables:
            addresses = self._members(name)
            if addresses is not None:
                held[name] = addresses
        stamp = pf_output.fingerprint(rules)
        return PfObserved(
            present=bool(stamp),
            fingerprint=stamp,
            table={
                service.name: _serving(service, wanted, held)
                for service in wanted.services
            },
            members=held,
            rules=pf_output.count_rules(rules) + pf_output.count_rules(nat),
            problems=() if stamp else (f"anchor {self.anchor} has no rules of ours",),
        )

    def _members(self, table: str) -> frozenset[str] | None:
        result = self._run(
            "pfctl", "-a", self.anchor, "-t", table, "-T", "show", ok=(0, 1, 255)
        )
        if result.code == 0:
            return pf_output.members(result.stdout.decode())
        if NO_TABLE in result.stderr:
            return None
        raise DriverError(result.complaint())

    def plan(self, observed: Observed, wanted: Wanted) -> list[Change]:
        """Return what to do; pure once the pool is known; see Driver."""
        if not isinstance(observed, PfObserved):
            raise TypeError("pf plans from what pf observed")
        should = self.rules(wanted)
        # The optimizer merges and drops rules; then ours could not be counted.
        loaded = f"pfctl -a {shlex.quote(self.anchor)} -o none"
        why = _why_reload(observed, should)
        if why:
            changes = [Change(f"{loaded} -f -\n{should.text()}", why)]
        else:
            why = _why_tables(observed, should)
            if not why:
                return []
            # Sticky clients are remembered by rule: a new rule forgets them all.
            sticky = self.pool() is Pool.STICKY
            command = (
                f"{loaded} -T load -f -\n{should.table_lines()}"
                if sticky
                else f"{loaded} -f -\n{should.text()}"
            )
            changes = [Change(command, why)]
        return [*changes, *self._forget(observed, should)]

    def _forget(self, observed: PfObserved, should: Ruleset) -> list[Change]:
        """Return the kills of source nodes that still lead to who left a table."""
        if self.pool() is Pool.HASH:
            return []
        gone = {
            address
            for name, before in observed.members.items()
            if not name.endswith("_all")
            for address in before - set(should.tables.get(name, ()))
        }
        return [
            Change(
                f"pfctl -K {ANY[_family(address)]} -K {address}",
                f"clients that were sent to {address} choose anew",
            )
            for address in sorted(gone)
        ]

    def apply(self, changes: Sequence[Change]) -> None:
        """Run each change; the first is the transaction; see Driver."""
        for change in changes:
            command, _, stdin = change.command.partition("\n")
            self._run(*shlex.split(command), stdin=stdin)

    def connections(self, backend: Backend, wanted: Wanted) -> int | None:  # noqa: ARG002
        """Return how many clients have an open flow with a backend; see Driver."""
        try:
            listing = pf_output.states(self._pfctl("-s", "states", anchor=False))
        except DriverError:
            return None
        return sum(len(pf_output.flows_of(listing, a)) for a in _addresses(backend))

    def flows(self, wanted: Wanted) -> list[Flow]:
        """Return the flows through the virtual addresses; see Driver."""
        listing = pf_output.states(self._pfctl("-ss", "-v", anchor=False))
        virtuals = [v for service in wanted.services for v in service.virtual]
        return [f for v in virtuals for f in pf_output.through(listing, v)]

    def kill(self, backend: Backend, wanted: Wanted) -> int:  # noqa: ARG002
        """End every flow of a backend; see Driver.

        ``-k ANY -k BACKEND`` compares addresses as they are on the wire, and on the
        clients' side that is the virtual address, so it takes only the state
        towards the backend (pf_killstates_row in pf_ioctl.c; ``-M`` looks for the
        other one by a key that a redirected flow does not have). The other state
        is named by its id.
        """
        listing = pf_output.states(self._pfctl("-ss", "-vv", anchor=False))
        count = 0
        for address in _addresses(backend):
            count += len(pf_output.flows_of(listing, address))
            for state in pf_output.touching(listing, address):
                if state.id:
                    name = f"{state.id}/{state.creator}"
                    self._run("pfctl", "-k", "id", "-k", name)
            any_client = ANY[address.family]
            self._run("pfctl", "-K", any_client, "-K", address.ip)
        return count

    def remove(self) -> None:
        """Empty the anchor; see Driver. ``-F all`` would reach beyond it."""
        self._pfctl("-f", "-")
        self._pfctl("-F", "Tables")

    def _pfctl(self, *words: str, anchor: bool = True) -> str:
        inside = ("-a", self.anchor) if anchor else ()
        return self._run("pfctl", *inside, *words).stdout.decode(errors="replace")

    def _run(self, *argv: str, stdin: str = "", ok: Sequence[int] = (0,)) -> Result:
        try:
            return self._host.run(argv, stdin=stdin.encode(), ok=ok, timeout=TIMEOUT_S)
        except CommandError as error:
            raise DriverError(error.message, hint=error.hint) from error


def probe_text() -> str:
    """Return the two lines that only a newer pfctl accepts."""
    service = Service("probe", (), ())
    return (
        "table <director_probe> persist\n"
        "rdr inet proto tcp from any to 192.0.2.1 port 80 "
        f"-> <director_probe> port 80 source-hash {key(service)}\n"
    )


def _notes(pool: Pool) -> list[str]:
    notes = ["weights are not honoured: pf takes the members of a table alike"]
    if pool is Pool.HASH:
        notes.append("tables are hashed with our key, so two directors agree")
    else:
        notes.append(
            "this pfctl hashes no tables: clients are dealt out in turn and "
            "remembered; give the service a netblock, or run pfsync, so that their "
            "flows survive a failover in which the client speaks first"
        )
    return notes


def _why_reload(observed: PfObserved, should: Ruleset) -> str:
    if not observed.present:
        return "no rules of ours are loaded"
    if observed.fingerprint != should.fingerprint:
        return f"rules {observed.fingerprint} become {should.fingerprint}"
    # The stamp is a rule as well.
    expected = len(should.translation) + len(should.filters) + 1
    if observed.rules != expected:
        return f"somebody changed our rules: {observed.rules}, not {expected}"
    return ""


def _why_tables(observed: PfObserved, should: Ruleset) -> str:
    parts = []
    for name, members in should.tables.items():
        before, after = observed.members.get(name), frozenset(members)
        if before is None:
            parts.append(f"table {name} is missing")
        elif before != after:
            signs = [f"-{a}" for a in sorted(before - after)]
            signs += [f"+{a}" for a in sorted(after - before)]
            parts.append(f"table {name}: {' '.join(signs)}")
    return "; ".join(parts)


def _serving(
    service: Service, wanted: Wanted, held: Mapping[str, frozenset[str]]
) -> tuple[str, ...]:
    """Return the names of those in any table of a service, in its own order."""
    names = []
    for name in service.backends:
        for virtual in service.virtual:
            address = wanted.backends[name].at(service.name, virtual)
            table = table_name(service.name, virtual.family, virtual.port)
            if address is not None and address.ip in held.get(table, ()):
                names.append(name)
                break
    return tuple(names)


def _addresses(backend: Backend) -> list[Address]:
    every = [backend.address, *(a for _, a in backend.per_service)]
    if backend.address6 is not None:
        every.append(backend.address6)
    return list(dict.fromkeys(every))


def _family(address: str) -> int:
    return 6 if ":" in address else 4

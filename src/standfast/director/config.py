"""The configuration file: TOML in, frozen values out, errors with path and hint.

An unknown key is refused with its path and the nearest name that exists; so is a
reference to a backend or probe that does not. Everything has a default but the
services, the backends and their addresses. Durations are written like ``200ms``.
"""

from __future__ import annotations

import re
from functools import partial
from ipaddress import ip_address
from typing import Literal

import msgspec

from standfast.config import Section, at, between, near, read_toml
from standfast.director.election.rank import OnDifference  # noqa: TC001 - read
from standfast.director.health import Pace
from standfast.director.model import Address, Backend, Mode, Service, parse_address
from standfast.director.plan import Policy
from standfast.errors import UsageError
from standfast.units import parse_duration

ProbeKind = Literal["tcp", "http", "https", "haproxy", "agent", "command"]
ElectionKind = Literal["none", "external", "carp", "vrrp", "freebsd-carp", "bgp"]


class ProbeSection(Section, frozen=True):
    """``[probe.NAME]``: how a backend is asked whether it is well.

    Attributes:
        type: tcp connects; http and https ask for ``path``; haproxy asks the runtime
            socket (``socket``, a path or address:port) or, without one, the
            statistics page (``path``, as CSV); agent reads a word; command runs one.
        port: 0 is the port of the first service of the backend.
        deadline: by default the interval, at most 2 s.
        status: answers that pass.
        body: text that the answer must hold.
        host: the Host header, and the name checked under TLS.
        ca: file of certificates that are trusted; empty does not verify.
        proxy: version of a PROXY header to open with; 0 is none.
        rows: names of haproxy backends that count; default: all.
    """

    type: ProbeKind = "tcp"
    port: int = 0
    interval: str = "200ms"
    fast: str = "50ms"
    deadline: str = ""
    rise: int = 2
    fall: int = 3
    path: str = "/"
    status: tuple[int, ...] = (200, 204, 301, 302, 304)
    body: str = ""
    host: str = ""
    ca: str = ""
    proxy: Literal[0, 1, 2] = 0
    socket: str = ""
    rows: tuple[str, ...] = ()
    command: tuple[str, ...] = ()

    def pace(self, damping: DampingSection) -> Pace:
        """Return what weighs its results."""
        return Pace(
            self.rise,
            self.fall,
            parse_duration(self.interval),
            parse_duration(self.fast),
            damping.falls,
            parse_duration(damping.half_life),
        )

    def deadline_seconds(self) -> float:
        """Return the seconds after which a probe has failed."""
        if self.deadline:
            return parse_duration(self.deadline)
        return min(2.0, parse_duration(self.interval))


class BackendSection(Section, frozen=True):
    """``[backend.NAME]``; see standfast.director.model.Backend."""

    address: str
    address6: str = ""
    weight: int = 1
    probe: str = ""
    mac: str = ""
    addresses: dict[str, str] = msgspec.field(default_factory=dict)
    socket: str = ""


class ServiceSection(Section, frozen=True):
    """``[service.NAME]``; ``backends`` default to all.

    Attributes:
        max_out: for this service alone; see PolicySection.
        fail_open: the same.
    """

    virtual: tuple[str, ...]
    backends: tuple[str, ...] = ()
    mode: Mode = "nat"
    slots: int = 1021
    proto: Literal["tcp", "udp"] = "tcp"
    max_out: float | None = None
    fail_open: bool | None = None


class DampingSection(Section, frozen=True):
    """``[policy.damping]``: falls, decayed, that hold a recovery back; 0 is never."""

    falls: float = 4.0
    half_life: str = "30s"


class PolicySection(Section, frozen=True):
    """``[policy]``: see standfast.director.plan.Policy.

    Attributes:
        leave: how long a backend that has left the file is kept for its connections.
    """

    max_out: float = 0.7
    fail_open: bool = True
    leave: str = "1h"
    damping: DampingSection = DampingSection()


class ElectionSection(Section, frozen=True):
    """``[election]``: who holds the addresses.

    Attributes:
        kind: none holds always; external follows whoever has the address; bgp lets
            routers choose; freebsd-carp steers the kernel of FreeBSD.
        interface: where adverts go; default ``front``.
        id: vhid or vrid.
        passphrase_file: for carp; and for vrrp the key of our own extension.
        sealed: for carp, that all directors are standfast: priorities are sealed
            too, and what other implementations say is refused.
        interval: of adverts, for vrrp at least 10 ms.
        priority: of this director while all is well, 1 to 254; higher wins.
        addresses: further ones that move along, as 10.60.0.1/24@eth1; the virtual
            addresses always do.
        hold: seconds of health before a better rank is announced again.
        relay: for bgp, the socket that ExaBGP's bgp_relay connects to.
        communities: for bgp, sent with every route, as 65001:100.
        rank_file: for external, where to write the rank for keepalived's
            ``vrrp_track_file``.
        verify: after a takeover, ``probe`` sends a connection through the virtual
            addresses and waits for the answer (Linux), ``rules`` only asks the
            kernel for its rules.
        verify_from: where these connections say they come from; addresses that
            backends answer by way of this director.
    """

    kind: ElectionKind = "none"
    interface: str = ""
    id: int = 51
    passphrase_file: str = ""
    sealed: bool = False
    interval: str = "100ms"
    priority: int = 100
    addresses: tuple[str, ...] = ()
    hold: str = "2s"
    relay: str = "/run/standfast-bgp.sock"
    communities: tuple[str, ...] = ()
    rank_file: str = ""
    verify: Literal["probe", "rules"] = "probe"
    # Kept for tests of networks (RFC 2544, RFC 5180), so nobody else's.
    verify_from: tuple[str, ...] = ("198.18.0.2", "2001:2::2")


class PeerSection(Section, frozen=True):
    """``[peer]``: the other director, for pins and the digest.

    Attributes:
        address: where it listens, with a port; empty is none.
        listen: where we listen.
        key_file: 32 random bytes that both share; only their owner may read it.
        on_difference: what another configuration or table over there does to a
            director that does not hold the addresses; see election.rank.RankPolicy.
    """

    address: str = ""
    listen: str = ""
    key_file: str = ""
    on_difference: OnDifference = "yield"


class StatusSection(Section, frozen=True):
    """``[status]``: metrics and the page; an empty ``listen`` is neither."""

    listen: str = ""


class File(Section, frozen=True):
    """The whole file."""

    service: dict[str, ServiceSection]
    backend: dict[str, BackendSection]
    name: str = ""
    driver: Literal["nftables", "pf"] = "nftables"
    front: str = ""
    back: str = ""
    seed: int = 0
    socket: str = "/run/standfast-director.sock"
    state: str = "/var/lib/standfast/director.json"
    sysctl: bool = True
    reconcile: str = "2s"
    probe: dict[str, ProbeSection] = msgspec.field(default_factory=dict)
    policy: PolicySection = PolicySection()
    election: ElectionSection = ElectionSection()
    peer: PeerSection = PeerSection()
    status: StatusSection = StatusSection()


class Config(msgspec.Struct, frozen=True):
    """A checked configuration.

    Attributes:
        file: as it was written.
        services: in the order of the file.
        backends: by name.
        paces: by backend.
        policy: what bounds decisions.
    """

    file: File
    services: tuple[Service, ...]
    backends: dict[str, Backend]
    paces: dict[str, Pace]
    policy: Policy

    def probe(self, backend: str) -> ProbeSection:
        """Return how a backend is probed."""
        name = self.file.backend[backend].probe
        if not name and len(self.file.probe) == 1:
            return next(iter(self.file.probe.values()))
        return self.file.probe[name] if name else ProbeSection()


def parse_config(text: str, source: str = "the configuration") -> Config:
    """Read and check a configuration.

    Raises:
        UsageError: it is no TOML, or something in it is wrong; the message starts
            with the path of what is.
    """
    return _checked(read_toml(text, File, source))


def _checked(file: File) -> Config:
    damping = file.policy.damping
    if not file.service:
        raise UsageError("service: there is none", hint="add a [service.NAME] table")
    at("policy.max_out", lambda: between(file.policy.max_out, 0, 1))
    at("policy.damping.half_life", lambda: parse_duration(damping.half_life))
    at("reconcile", lambda: parse_duration(file.reconcile))
    at("election.interval", lambda: parse_duration(file.election.interval))
    at("election.hold", lambda: parse_duration(file.election.hold))
    at("election.priority", lambda: between(file.election.priority, 1, 254))
    at("election.id", lambda: between(file.election.id, 1, 255))
    at("election.verify_from", lambda: [*map(ip_address, file.election.verify_from)])
    at("seed", lambda: between(file.seed, 0, 0xFFFFFFFF))
    for name, probe in file.probe.items():
        _check_probe(f"probe.{name}", probe)
    backends = {n: _backend(file, n, b) for n, b in file.backend.items()}
    services = tuple(_service(file, n, s, backends) for n, s in file.service.items())
    _check_ways_back(services, backends)
    _check_election(file)
    config = Config(
        file,
        services,
        backends,
        {},
        _policy(file),
    )
    paces = {name: config.probe(name).pace(damping) for name in backends}
    return msgspec.structs.replace(config, paces=paces)


def _policy(file: File) -> Policy:
    common = Policy(file.policy.max_out, file.policy.fail_open)
    own = {}
    for name, section in file.service.items():
        limit, is_open = section.max_out, section.fail_open
        if limit is not None:
            at(f"service.{name}.max_out", partial(between, limit, 0, 1))
        own[name] = Policy(
            common.max_out if limit is None else limit,
            common.fail_open if is_open is None else is_open,
        )
    return Policy(common.max_out, common.fail_open, own)


def _check_probe(path: str, probe: ProbeSection) -> None:
    for key in ("interval", "fast"):
        value = getattr(probe, key)
        seconds = at(f"{path}.{key}", partial(parse_duration, value))
        at(f"{path}.{key}", partial(between, seconds, 0.02, 3600))
    if probe.deadline:
        at(f"{path}.deadline", lambda: parse_duration(probe.deadline))
    at(f"{path}.rise", lambda: between(probe.rise, 1, 1000))
    at(f"{path}.fall", lambda: between(probe.fall, 1, 1000))
    if probe.type == "command" and not probe.command:
        raise UsageError(f"{path}.command: is missing")


def _backend(file: File, name: str, section: BackendSection) -> Backend:
    path = f"backend.{name}"
    _check_name(path, name)
    at(f"{path}.weight", lambda: between(section.weight, 1, 1000))
    if section.probe and section.probe not in file.probe:
        raise UsageError(
            f"{path}.probe: there is no probe {section.probe}",
            hint=near(section.probe, file.probe),
        )
    if not section.probe and len(file.probe) > 1:
        raise UsageError(f"{path}.probe: say which of {', '.join(file.probe)}")
    six = section.address6
    for service in section.addresses:
        if service not in file.service:
            raise UsageError(
                f"{path}.addresses.{service}: there is no such service",
                hint=near(service, file.service),
            )
    return Backend(
        name,
        at(f"{path}.address", lambda: parse_address(section.address)),
        section.weight,
        at(f"{path}.address6", lambda: parse_address(six)) if six else None,
        tuple(
            (s, at(f"{path}.addresses.{s}", partial(parse_address, text)))
            for s, text in section.addresses.items()
        ),
        section.mac,
    )


def _service(
    file: File, name: str, section: ServiceSection, backends: dict[str, Backend]
) -> Service:
    path = f"service.{name}"
    _check_name(path, name)
    names = section.backends or tuple(file.backend)
    for backend in names:
        if backend not in backends:
            raise UsageError(
                f"{path}.backends: there is no backend {backend}",
                hint=near(backend, backends),
            )
    if not section.virtual or not names:
        missing = "backends" if section.virtual else "virtual"
        raise UsageError(f"{path}.{missing}: there is none")
    virtual = tuple(
        at(f"{path}.virtual", partial(parse_address, text, section.proto))
        for text in section.virtual
    )
    service = Service(
        name, virtual, tuple(names), section.mode, file.seed, section.slots
    )
    _check_service(path, service, file, backends)
    return service


def _check_service(
    path: str, service: Service, file: File, backends: dict[str, Backend]
) -> None:
    if any(not address.port for address in service.virtual):
        raise UsageError(
            f"{path}.virtual: a port is missing", hint="as in 192.0.2.1:80"
        )
    if not _is_prime(service.slots) or service.slots < 10 * len(service.backends):
        raise UsageError(
            f"{path}.slots: {service.slots} is not a prime of at least ten times the "
            "number of backends",
            hint="1021, 4093 and 65537 are usual",
        )
    if service.mode == "dsr" and not (file.front and file.back):
        raise UsageError(f"{path}.mode: dsr needs front and back, the interfaces")
    for virtual in service.virtual:
        for name in service.backends:
            there = backends[name].at(service.name, virtual)
            if there is None:
                raise UsageError(
                    f"{path}: {name} has no IPv{virtual.family} address for {virtual}"
                )
            if service.mode != "nat" and there.port != virtual.port:
                raise UsageError(
                    f"{path}: {name} must listen on port {virtual.port}: mode "
                    f"{service.mode} changes no port"
                )
            if service.mode == "dsr" and not backends[name].mac:
                raise UsageError(f"backend.{name}.mac: is missing, mode dsr needs it")


def _check_ways_back(
    services: tuple[Service, ...], backends: dict[str, Backend]
) -> None:
    """Refuse one backend address and port behind two virtual addresses.

    A packet that a backend sends first, after a failover, names only itself: from
    that its virtual address must follow.
    """
    seen: dict[Address, tuple[str, Address]] = {}
    for service in services:
        if service.mode == "dsr":
            continue
        for virtual in service.virtual:
            for name in service.backends:
                there = backends[name].at(service.name, virtual)
                assert there is not None
                first = seen.setdefault(there, (service.name, virtual))
                if first != (service.name, virtual):
                    raise UsageError(
                        f"service.{service.name}: {name} takes connections of both "
                        f"{first[1]} and {virtual} at {there}",
                        hint="give it an address or a port for each: "
                        f'[backend.{name}.addresses] {service.name} = "..."',
                    )


def _check_election(file: File) -> None:
    election = file.election
    if election.kind == "carp" and not election.passphrase_file:
        raise UsageError("election.passphrase_file: is missing, CARP needs one")
    if election.kind == "bgp" and election.addresses:
        raise UsageError(
            "election.addresses: with bgp no address moves",
            hint="give each director an inner address of its own",
        )
    if election.kind == "freebsd-carp" and file.driver != "pf":
        raise UsageError('election.kind: freebsd-carp needs driver = "pf"')
    if election.rank_file and election.kind != "external":
        raise UsageError('election.rank_file: is for kind = "external"')
    if election.kind in ("carp", "vrrp") and not (election.interface or file.front):
        raise UsageError("election.interface: is missing")


def _check_name(path: str, name: str) -> None:
    # Names become names of nftables maps and pf tables (31 characters there).
    if not re.fullmatch(r"[a-z][a-z0-9_-]{0,19}", name):
        raise UsageError(
            f"{path}: a name is up to 20 of a-z, 0-9, - and _, a letter first"
        )


def _is_prime(number: int) -> bool:
    return 1 < number < 2**24 and all(
        number % i for i in range(2, int(number**0.5) + 1)
    )

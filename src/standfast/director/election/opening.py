"""From settings to an election that is ready to start.

Where the seams of the election get their real ends: raw sockets, ``ip``, the system
clock, a watchdog process. The settings are plain; a configuration file is read
elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING, Any, Literal

from standfast.clock import SystemClock
from standfast.director.election import carp, vrrp
from standfast.director.election.hands import Hands, IpAddresses, NoDataPlane
from standfast.director.election.segment import RawSegment
from standfast.director.election.speaker import Machine, Speaker
from standfast.director.election.watchdog import PipeGuardian, Watched
from standfast.errors import UsageError

if TYPE_CHECKING:
    from standfast.clock import Clock
    from standfast.director.election.hands import DataPlane
    from standfast.director.election.model import IPAddress
    from standfast.host import Host

# The daemon counts as gone after this many intervals without a beat and a little;
# always later than its own idea of having overslept (4 intervals and a skew).
SILENT_INTERVALS = 5
SILENT_EXTRA = 0.05

Protocol = Literal["vrrp", "carp"]


@dataclass(frozen=True)
class GroupSettings:
    """What CARP and VRRP need alike.

    Attributes:
        interface: the clients' side.
        group: vhid or vrid, 1..255; unique on the segment over both protocols.
        addresses: the virtual addresses. Adverts are spoken in the family of
            ``source`` (IPv4 unless all are of IPv6); VRRP adverts name those of that
            family, and the others move along, as with keepalived's
            virtual_ipaddress_excluded.
        source: our own address on the interface; found out unless given.
        peers: whose adverts are heard; everybody's if empty.
        key: CARP's passphrase, or the key of signed VRRP adverts.
        margin: how much better than the master a backup must be to preempt.
        ours_only: every node is one of ours; adverts must be sealed (CARP) or signed
            (VRRP), which other implementations do not do.
        flush: commands that the watchdog runs after it removed the addresses.
    """

    interface: str
    group: int
    addresses: tuple[IPAddress, ...]
    source: IPAddress | None = None
    peers: tuple[IPAddress, ...] = ()
    key: bytes = b""
    margin: int = 0
    ours_only: bool = False
    flush: tuple[tuple[str, ...], ...] = ()


def open_group(
    protocol: Protocol,
    settings: GroupSettings,
    pace: int,
    *,
    host: Host,
    plane: DataPlane | None = None,
    clock: Clock | None = None,
) -> Speaker[Any, Any]:
    """Return an election that speaks for itself.

    Args:
        protocol: ``vrrp`` (version 3) or ``carp``.
        settings: of the group.
        pace: between adverts: for vrrp centiseconds, 1..4095; for carp advbase in
            seconds, 1..254.
        host: where ``ip`` runs.
        plane: the rules; none unless given.
        clock: wall time; the system's unless given.

    Raises:
        UsageError: the settings contradict each other.
        ElectionError: the interface has no address of the family.
    """
    prepared, watched = _prepare(protocol, settings, pace, host)
    source = ip_address(watched.source)
    segment = RawSegment(settings.interface, source)
    card = IpAddresses(host, settings.interface)
    hands = Hands(
        settings.addresses,
        card=card,
        plane=plane or NoDataPlane(),
        tell=segment.tell,
        mac=lambda: segment.mac,
    )
    speaker: Speaker[Any, Any] = Speaker(
        machine=prepared.machine,
        codec=watched.codec(),
        segment=segment,
        hands=hands,
        clock=clock or SystemClock(),
        guardian=PipeGuardian(host, watched),
        inherited=bool(card.present_now() & set(settings.addresses)),
    )
    hands.failed = speaker.takeover_failed
    return speaker


def watched_group(
    protocol: Protocol, settings: GroupSettings, pace: int, *, host: Host
) -> Watched:
    """Return what a watchdog of such a group has to know; see open_group."""
    return _prepare(protocol, settings, pace, host)[1]


def _prepare(
    protocol: Protocol, settings: GroupSettings, pace: int, host: Host
) -> tuple[_Prepared, Watched]:
    source = _source(settings, host)
    prepared = (_vrrp if protocol == "vrrp" else _carp)(settings, pace, source)
    watched = Watched(
        kind=prepared.kind,
        interface=settings.interface,
        group=settings.group,
        source=str(source),
        addresses=tuple(map(str, settings.addresses)),
        peers=tuple(map(str, settings.peers)),
        key=settings.key.hex(),
        silence=SILENT_INTERVALS * prepared.seconds + SILENT_EXTRA,
        commands=settings.flush,
    )
    return prepared, watched


@dataclass(frozen=True)
class _Prepared:
    """A protocol's part: how its packets are judged, what decides, how slow it is."""

    kind: str
    machine: Machine[Any, Any]
    seconds: float


def _vrrp(settings: GroupSettings, pace: int, source: IPAddress) -> _Prepared:
    if settings.ours_only != bool(settings.key):
        raise UsageError(
            "a VRRP key is for groups of directors of ours only, and they need one"
        )
    named = tuple(a for a in settings.addresses if a.version == source.version)
    if not named:
        raise UsageError(f"no virtual address is of the family of {source}")
    config = vrrp.VrrpConfig(settings.group, pace, source, named, settings.margin)
    return _Prepared(
        "vrrp-signed" if settings.ours_only else "vrrp",
        Machine(
            vrrp.initial(config),
            step=partial(vrrp.step, config),
            next_tick=vrrp.next_tick,
        ),
        pace * vrrp.CENTISECOND,
    )


def _carp(settings: GroupSettings, pace: int, source: IPAddress) -> _Prepared:
    if not settings.key:
        raise UsageError("CARP needs a passphrase")
    config = carp.CarpConfig(settings.group, pace, source, settings.margin)
    return _Prepared(
        "carp-sealed" if settings.ours_only else "carp",
        Machine(
            carp.initial(), step=partial(carp.step, config), next_tick=carp.next_tick
        ),
        pace + 1.0,
    )


def _source(settings: GroupSettings, host: Host) -> IPAddress:
    """Return our own address: as given, or the interface's lowest fitting one.

    IPv6 adverts come from a link-local address (RFC 5798 section 5.1.2.1).
    """
    if settings.source is not None:
        return settings.source
    if not settings.addresses:
        raise UsageError("an election needs a virtual address")
    version = min(a.version for a in settings.addresses)
    here = IpAddresses(host, settings.interface).present_now()
    own = sorted(
        (a for a in here - set(settings.addresses) if a.version == version),
        key=int,
    )
    fitting = [a for a in own if isinstance(a, IPv4Address) or a.is_link_local]
    if not fitting:
        raise UsageError(
            f"{settings.interface} has no own IPv{version} address to speak from",
            hint="give it one beside the virtual address",
        )
    return ip_address(fitting[0])

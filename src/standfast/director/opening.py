"""From a configuration to the election and the inner addresses that it names."""

from __future__ import annotations

import logging
import os
import socket
import stat
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from standfast.clock import SystemClock
from standfast.director.election.hands import IpAddresses
from standfast.director.election.neighbours import announcements
from standfast.director.election.none import NoElection
from standfast.errors import UsageError
from standfast.units import parse_duration

if TYPE_CHECKING:
    from collections.abc import Iterable

    from standfast.director.config import Config
    from standfast.director.election import Election
    from standfast.director.election.model import IPAddress
    from standfast.director.election.opening import GroupSettings
    from standfast.director.election.watchdog import Watched
    from standfast.director.model import Address
    from standfast.director.plane import Plane
    from standfast.host import Host


def virtual_addresses(config: Config) -> tuple[IPAddress, ...]:
    """Return every virtual IP once, in the order of the file."""
    found = (v.ip for service in config.services for v in service.virtual)
    return tuple(ip_address(ip) for ip in dict.fromkeys(found))


def inner_addresses(config: Config) -> list[tuple[str, IPAddress]]:
    """Return (interface, address) of ``election.addresses``.

    Raises:
        UsageError: one is not written as ``10.60.0.1@eth1``.
    """
    found = []
    for text in config.file.election.addresses:
        address, _, card = text.partition("@")
        card = card or config.file.back
        try:
            found.append((card, ip_address(address.partition("/")[0])))
        except ValueError as error:
            raise UsageError(f"election.addresses: {error}") from None
        if not card:
            raise UsageError(f"election.addresses: {text} names no interface")
    return found


def open_election(config: Config, plane: Plane, host: Host) -> Election:
    """Return the election that the configuration asks for.

    Raises:
        UsageError: its settings make no sense here.
    """
    section = config.file.election
    addresses = virtual_addresses(config)
    if section.kind == "none":
        return NoElection()
    if section.kind == "external":
        from standfast.director.election import external  # noqa: PLC0415

        told = Path(section.rank_file) if section.rank_file else None
        return external.ExternalElection(addresses, rank_file=told)
    if section.kind == "freebsd-carp":
        from standfast.director.election import freebsd  # noqa: PLC0415

        # Cleared by a reboot, as the kernel's demotion is.
        notes = freebsd.NoteFile(Path(config.file.socket).with_suffix(".demotion"))
        return freebsd.FreebsdCarp(host, kernel_group(config), notes, SystemClock())
    if section.kind == "bgp":
        return _open_bgp(config, plane)
    from standfast.director.election import opening  # noqa: PLC0415 - Linux only

    settings, pace = _group(config)
    return opening.open_group(section.kind, settings, pace, host=host, plane=plane)


def watched_group(config: Config, host: Host) -> Watched | None:
    """Return the group that a dead daemon may have left addresses of.

    None where the election does not put addresses on interfaces by itself.

    Raises:
        UsageError: its settings make no sense here.
        ElectionError: the interface has no address to listen from.
    """
    if config.file.election.kind not in ("carp", "vrrp"):
        return None
    from standfast.director.election import opening  # noqa: PLC0415 - Linux only

    settings, pace = _group(config)
    kind = config.file.election.kind
    return opening.watched_group(kind, settings, pace, host=host)


def _group(config: Config) -> tuple[GroupSettings, int]:
    """Return the settings of a group that speaks CARP or VRRP, and its pace."""
    from standfast.director.election import opening  # noqa: PLC0415 - Linux only

    section = config.file.election
    key = _key(section.passphrase_file)
    vrrp = section.kind == "vrrp"
    settings = opening.GroupSettings(
        section.interface or config.file.front,
        section.id,
        virtual_addresses(config),
        key=key,
        ours_only=bool(key) if vrrp else section.sealed,
        flush=_flush(config),
    )
    seconds = parse_duration(section.interval)
    return settings, max(1, round(seconds * 100 if vrrp else seconds))


def _open_bgp(config: Config, plane: Plane) -> Election:
    from standfast.director.bgp import BgpSpeaker  # noqa: PLC0415
    from standfast.director.election.bgp import BgpElection  # noqa: PLC0415

    section = config.file.election
    path, communities = Path(section.relay), section.communities
    told = logging.getLogger("standfast.director").info
    speaker = BgpSpeaker(path, _announced(config), communities=communities, told=told)
    return BgpElection(speaker, plane)


def _announced(config: Config) -> list[Address]:
    return [virtual for service in config.services for virtual in service.virtual]


# What of [election] is read anew while the daemon runs.
LIVE = ("priority", "hold", "communities")


def renew(election: Election | None, old: Config, new: Config) -> tuple[str, ...]:
    """Give a running election what a reload has changed; return what has to wait."""
    from standfast.director.election.bgp import BgpElection  # noqa: PLC0415

    if isinstance(election, BgpElection):
        election.retarget(_announced(new), new.file.election.communities)
        moved = False
    else:
        moved = virtual_addresses(new) != virtual_addresses(old)
    fields = new.file.election.__struct_fields__
    before, after = old.file.election, new.file.election
    changed = [
        f"election.{name}"
        for name in fields
        if name not in LIVE and getattr(before, name) != getattr(after, name)
    ]
    changed += ["the virtual addresses that move"] if moved else []
    if old.file.peer != new.file.peer:
        changed.append("peer")
    return tuple(f"{name}: counts from the next start" for name in changed)


def kernel_group(config: Config) -> tuple[tuple[str, int], ...]:
    """Return (interface, vhid) of FreeBSD's own CARP: one id on every interface.

    Raises:
        UsageError: no interface is named.
    """
    section = config.file.election
    card = section.interface or config.file.front
    if not card:
        raise UsageError("election.interface: is missing")
    cards = dict.fromkeys([card, *(inner for inner, _ in inner_addresses(config))])
    return tuple((name, section.id) for name in cards)


def inner_cards(
    config: Config, host: Host
) -> tuple[tuple[IpAddresses, IPAddress], ...]:
    """Return what moves the inner addresses, with each address.

    FreeBSD's kernel moves them by itself, as addresses of a vhid.
    """
    if config.file.election.kind == "freebsd-carp":
        return ()
    return tuple((IpAddresses(host, c), a) for c, a in inner_addresses(config))


class Teller:
    """Announces inner addresses to their neighbours."""

    def __init__(self, cards: Iterable[tuple[str, IPAddress]]) -> None:
        self._cards = {address: card for card, address in cards}

    def __call__(self, address: IPAddress) -> None:
        """Send gratuitous ARP, or an unsolicited neighbour advertisement."""
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind((self._cards[address], 0))
            for frame in announcements(address, raw.getsockname()[4]):
                raw.send(frame)


def _flush(config: Config) -> tuple[tuple[str, ...], ...]:
    """Return what the watchdog does when this process is gone but the host is not."""
    commands: list[tuple[str, ...]] = [
        ("ip", "address", "del", f"{a}/{a.max_prefixlen}", "dev", card)
        for card, a in inner_addresses(config)
    ]
    for address in virtual_addresses(config):
        family = "ipv6" if address.version == 6 else "ipv4"  # noqa: PLR2004
        argv = ("conntrack", "-D", "-p", "tcp", "-f", family, "-d", str(address))
        commands.append(argv)
    return tuple(commands)


def _key(path: str) -> bytes:
    if not path:
        return b""
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - its mode, not its name's
            mode = os.fstat(file.fileno()).st_mode
            key = file.read(4096).strip()
    except OSError as error:
        raise UsageError(f"election.passphrase_file: {error.strerror}") from None
    if stat.S_IMODE(mode) & 0o077:
        raise UsageError(
            f"election.passphrase_file: others may read {path}",
            hint=f"chmod 600 {path}",
        )
    if not key:
        raise UsageError(f"election.passphrase_file: {path} is empty")
    return key

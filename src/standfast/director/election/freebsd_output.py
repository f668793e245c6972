"""What FreeBSD says about its CARP: ifconfig and sysctl, read.

Pure functions over text. Formats from carp_status() in sbin/ifconfig/carp.c: up to 13
one line a vhid, from 14 a second one with the peers, from 15 a ``vrrp:`` line for a
vhid that runs VRRPv3. What else ifconfig prints is passed over.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from standfast.director.election.model import Role

ROLES = {"INIT": Role.INIT, "BACKUP": Role.BACKUP, "MASTER": Role.MASTER}
# Where adverts go unless a peer was named; ifconfig's own defaults.
MULTICAST = ("224.0.0.18", "ff02::12")

_INTERFACE = re.compile(r"^(?P<name>\S+): flags=")
_CARP = re.compile(
    r"^\s+carp: (?P<state>\w+) vhid (?P<vhid>\d+) advbase (?P<advbase>\d+) "
    r"advskew (?P<advskew>\d+)"
)
_VRRP = re.compile(
    r"^\s+vrrp: (?P<state>\w+) vrid (?P<vhid>\d+) prio (?P<prio>\d+) "
    r"interval (?P<interval>\d+)"
)
_PEER = re.compile(r"^\s+peer (?P<peer>\S+) peer6 (?P<peer6>\S+)")
_ADDRESS = re.compile(r"^\s+inet6? (?P<ip>[^\s%]+)\S* .*\bvhid (?P<vhid>\d+)")
_SYSCTL = re.compile(r"^net\.inet\.carp\.(?P<name>\w+)(?:: |=)(?P<value>-?\d+)$")


@dataclass(frozen=True)
class Vhid:
    """One virtual host of the kernel.

    Attributes:
        interface: its name.
        vhid: 1 to 255.
        kind: ``carp`` or, from FreeBSD 15, ``vrrp``.
        role: what it is now.
        advbase: seconds between adverts (carp).
        advskew: 1/256 s added to that (carp).
        prio: VRRP priority.
        interval: centiseconds between adverts (vrrp).
        peer: where IPv4 adverts go; empty where the release does not say.
        peer6: the same for IPv6.
        addresses: addresses that it holds, in ifconfig's order.
    """

    interface: str
    vhid: int
    kind: Literal["carp", "vrrp"]
    role: Role
    advbase: int = 0
    advskew: int = 0
    prio: int = 0
    interval: int = 0
    peer: str = ""
    peer6: str = ""
    addresses: tuple[str, ...] = ()


def vhids(text: str) -> list[Vhid]:
    """Read ``ifconfig`` or ``ifconfig IF``.

    A vhid in a state that this module does not know is left out, so that it is
    missing rather than wrongly placed.
    """
    found: list[Vhid] = []
    addresses: dict[tuple[str, int], list[str]] = {}
    interface = ""
    for line in text.splitlines():
        if match := _INTERFACE.match(line):
            interface = match["name"]
        elif match := _ADDRESS.match(line):
            held = addresses.setdefault((interface, int(match["vhid"])), [])
            held.append(match["ip"])
        elif (match := _CARP.match(line)) and match["state"] in ROLES:
            found.append(_carp(interface, match))
        elif (match := _VRRP.match(line)) and match["state"] in ROLES:
            found.append(_vrrp(interface, match))
        elif (match := _PEER.match(line)) and found:
            found[-1] = replace(found[-1], peer=match["peer"], peer6=match["peer6"])
    return [
        replace(one, addresses=tuple(addresses.get((one.interface, one.vhid), ())))
        for one in found
    ]


def _carp(interface: str, match: re.Match[str]) -> Vhid:
    return Vhid(
        interface,
        int(match["vhid"]),
        "carp",
        ROLES[match["state"]],
        advbase=int(match["advbase"]),
        advskew=int(match["advskew"]),
    )


def _vrrp(interface: str, match: re.Match[str]) -> Vhid:
    return Vhid(
        interface,
        int(match["vhid"]),
        "vrrp",
        ROLES[match["state"]],
        prio=int(match["prio"]),
        interval=int(match["interval"]),
    )


def sysctls(text: str) -> dict[str, int]:
    """Read ``sysctl net.inet.carp``: values by the last part of their name."""
    return {
        match["name"]: int(match["value"])
        for line in text.splitlines()
        if (match := _SYSCTL.match(line))
    }

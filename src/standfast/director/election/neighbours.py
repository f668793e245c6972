"""Frames that tell neighbours where an address is. Pure.

For IPv4 a gratuitous ARP (RFC 5227 section 3): once as a request and once as a reply,
for some stacks update an entry on only one of them. For IPv6 an unsolicited neighbour
advertisement (RFC 4861 section 7.2.6) to all nodes with the override flag.
"""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from standfast.director.election.checksum import internet_checksum

if TYPE_CHECKING:
    from standfast.director.election.model import IPAddress

BROADCAST = b"\xff" * 6
ETHERTYPE_ARP = 0x0806
ETHERTYPE_IPV6 = 0x86DD
ARP_REQUEST = 1
ARP_REPLY = 2
ALL_NODES = IPv6Address("ff02::1")
ALL_NODES_MAC = bytes.fromhex("333300000001")
ICMPV6 = 58
NEIGHBOUR_ADVERTISEMENT = 136
ROUTER_AND_OVERRIDE = 0xA0000000
TARGET_LINK_LAYER_ADDRESS = 2


def announcements(address: IPAddress, mac: bytes) -> tuple[bytes, ...]:
    """Return the Ethernet frames that move an address to the card ``mac``."""
    if isinstance(address, IPv4Address):
        kinds = (ARP_REQUEST, ARP_REPLY)
        return tuple(gratuitous_arp(address, mac, kind) for kind in kinds)
    return (unsolicited_advertisement(address, mac),)


def gratuitous_arp(address: IPv4Address, mac: bytes, operation: int) -> bytes:
    """Return one ARP frame in which sender and target are both the address."""
    target = BROADCAST if operation == ARP_REPLY else b"\0" * 6
    head = struct.pack(">HHBBH", 1, 0x0800, 6, 4, operation)
    body = mac + address.packed + target + address.packed
    return _ethernet(BROADCAST, mac, ETHERTYPE_ARP) + head + body


def unsolicited_advertisement(address: IPv6Address, mac: bytes) -> bytes:
    """Return one neighbour advertisement: router, override, not solicited."""
    option = struct.pack(">BB", TARGET_LINK_LAYER_ADDRESS, 1) + mac
    flags = struct.pack(">I", ROUTER_AND_OVERRIDE)
    body = flags + address.packed + option
    length = len(body) + 4
    ends = address.packed + ALL_NODES.packed
    kind = struct.pack(">BB", NEIGHBOUR_ADVERTISEMENT, 0)
    pseudo = ends + struct.pack(">II", length, ICMPV6)
    checksum = internet_checksum(pseudo + kind + b"\0\0" + body)
    message = kind + checksum.to_bytes(2, "big") + body
    ip = struct.pack(">IHBB", 6 << 28, length, ICMPV6, 255) + ends
    return _ethernet(ALL_NODES_MAC, mac, ETHERTYPE_IPV6) + ip + message


def _ethernet(target: bytes, source: bytes, ethertype: int) -> bytes:
    return target + source + ethertype.to_bytes(2, "big")

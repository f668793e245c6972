"""IP packets with one TCP segment: what a connection's opening is made of. Pure.

IPv4 (RFC 791), IPv6 (RFC 8200) and TCP (RFC 9293), without options and data.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntFlag
from ipaddress import ip_address

from standfast.director.election.checksum import internet_checksum
from standfast.director.model import Address

PROTOCOL_TCP = 6
HOP_LIMIT = 64
WINDOW = 1024
IPV4_HEADER, IPV6_HEADER, TCP_HEADER = 20, 40, 20
_PORTS = struct.Struct("!HHIIBBHHH")


class Flag(IntFlag):
    """What a segment is for."""

    SYN = 2
    RST = 4
    ACK = 16


@dataclass(frozen=True)
class Segment:
    """One TCP segment without data.

    Attributes:
        source: address and port of the sender.
        target: address and port of the receiver.
        flags: what it is for.
        sequence: its number.
        acknowledged: the next number that is expected of the other side.
    """

    source: Address
    target: Address
    flags: Flag
    sequence: int
    acknowledged: int = 0


def encode(segment: Segment) -> bytes:
    """Return the packet, checksums and all."""
    source = ip_address(segment.source.ip).packed
    target = ip_address(segment.target.ip).packed
    v6 = segment.source.family == 6  # noqa: PLR2004 - IPv6
    pseudo = source + target + struct.pack("!II", TCP_HEADER, PROTOCOL_TCP)
    bare = _tcp(segment, 0)
    tcp = _tcp(segment, internet_checksum(pseudo + bare))
    if v6:
        head = struct.pack("!IHBB", 6 << 28, TCP_HEADER, PROTOCOL_TCP, HOP_LIMIT)
        return head + source + target + tcp
    length = IPV4_HEADER + TCP_HEADER
    # 0x4000: not to be fragmented.
    fields = (0x45, 0, length, 0, 0x4000, HOP_LIMIT, PROTOCOL_TCP)
    checksum = internet_checksum(struct.pack("!BBHHHBBH", *fields, 0) + source + target)
    return struct.pack("!BBHHHBBH", *fields, checksum) + source + target + tcp


def _tcp(segment: Segment, checksum: int) -> bytes:
    return _PORTS.pack(
        segment.source.port,
        segment.target.port,
        segment.sequence,
        segment.acknowledged,
        TCP_HEADER // 4 << 4,
        segment.flags,
        WINDOW,
        checksum,
        0,
    )


def decode(packet: bytes) -> Segment | None:
    """Return the segment in a packet; None when it holds no whole TCP header.

    Checksums are not looked at: the kernel that hands a packet over may have left
    them for a network card to fill in.
    """
    version = packet[0] >> 4 if packet else 0
    if version == 4 and len(packet) >= IPV4_HEADER:  # noqa: PLR2004 - IPv4
        start, protocol = (packet[0] & 15) * 4, packet[9]
        ends = packet[12:16], packet[16:20]
    elif version == 6 and len(packet) >= IPV6_HEADER:  # noqa: PLR2004 - IPv6
        start, protocol = IPV6_HEADER, packet[6]
        ends = packet[8:24], packet[24:40]
    else:
        return None
    if protocol != PROTOCOL_TCP or len(packet) < start + TCP_HEADER:
        return None
    from_port, to_port, sequence, acknowledged, _, flags, *_ = _PORTS.unpack_from(
        packet, start
    )
    source, target = (str(ip_address(end)) for end in ends)
    return Segment(
        Address(source, from_port),
        Address(target, to_port),
        Flag(flags & (Flag.SYN | Flag.RST | Flag.ACK)),
        sequence,
        acknowledged,
    )

"""A stranger on the segment: hears an advert, then sends altered and old ones.

Prints how many of which kind it sent. It knows no key. It can lie about its address
(it sends whole IP packets) and its checksums are right.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
from ipaddress import IPv4Address

from standfast.director.election import carp_wire, vrrp_wire
from standfast.director.election.carp_wire import CarpAdvert
from standfast.director.election.checksum import internet_checksum
from standfast.director.election.vrrp_wire import VrrpAdvert

GROUP = "224.0.0.18"


def hear() -> bytes:
    """Return a whole IP packet with an advert."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, 112) as ear:
        index = socket.if_nametoindex("eth0")
        member = struct.pack("=4s4si", IPv4Address(GROUP).packed, b"\0" * 4, index)
        ear.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        ear.settimeout(5)
        return ear.recv(2048)


def wrap(message: bytes, source: bytes) -> bytes:
    head = struct.pack(">BBHHHBBH", 0x45, 0xC0, 20 + len(message), 1, 0, 255, 112, 0)
    return head + source + IPv4Address(GROUP).packed + message


def repaired(protocol: str, message: bytes, source: bytes) -> bytes:
    bare = message[:6] + b"\0\0" + message[8:]
    pseudo = b""
    if protocol == "vrrp":
        pseudo = source + IPv4Address(GROUP).packed
        pseudo += struct.pack(">BBH", 0, 112, len(message))
    checksum = internet_checksum(pseudo + bare)
    return bare[:6] + checksum.to_bytes(2, "big") + bare[8:]


def forgeries(
    protocol: str, vip: IPv4Address, message: bytes, source: bytes
) -> list[bytes]:
    """The best and the leaving priority: altered, and made up."""
    made = []
    for priority in (254, 0):
        altered = bytearray(message)
        altered[2] = priority if protocol == "vrrp" else 254 - priority
        made.append(repaired(protocol, bytes(altered), source))
        if protocol == "vrrp":
            advert = VrrpAdvert(7, priority, 10, (vip,))
            made.append(vrrp_wire.encode(advert, IPv4Address(source)))
            made.append(
                vrrp_wire.encode_signed(
                    advert,
                    IPv4Address(source),
                    key=b"guess",
                    number=int(time.time() * 1e6),
                )
            )
        else:
            carp = CarpAdvert(7, 254 - priority, 1 if priority else 255, 12345)
            made.append(carp_wire.encode(carp, b"guess", [vip]))
    return made


def main(protocol: str, vip: str) -> None:
    packet = hear()
    message, source = packet[20:], packet[12:16]
    other = IPv4Address("10.50.0.77").packed
    forged = [
        wrap(m, s)
        for s in (source, other)
        for m in forgeries(protocol, IPv4Address(vip), message, s)
    ]
    time.sleep(0.3)  # the heard one is no longer the newest
    replayed = [wrap(message, source)] * 5
    malformed = [
        wrap(message[:-1], other),
        wrap(message[:6] + b"\0\1" + message[8:], other),
    ]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as mouth:
        member = struct.pack(
            "=4s4si", b"\0" * 4, b"\0" * 4, socket.if_nametoindex("eth0")
        )
        mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, member)
        for each in forged + replayed + malformed:
            mouth.sendto(each, (GROUP, 0))
            time.sleep(0.01)
    counts = {"forged": 6, "replayed": 5, "malformed": 2}
    if protocol == "carp":
        counts["forged"] = 4
    print(json.dumps(counts))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

"""A stranger on the wire: hears what directors say, and sends it altered and again.

``python -m standfast.director.lab.forger JOB`` with a job in JSON, which prints how
many messages of each kind it sent. It knows no key, but it can lie about its address
and its checksums are right.

* ``{"job": "adverts", "protocol": "vrrp", "interface": "front", "group": 51,
  "address": "10.50.0.100"}``, on a segment of the directors';
* ``{"job": "control", "interface": "b-back", "port": 7777}``, where the switch has its
  end of a director's cable: so it sees unicast, and what it sends reaches the director.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from standfast.clock import SystemClock
from standfast.director.election import carp_wire, vrrp_wire
from standfast.director.election.carp_wire import CarpAdvert
from standfast.director.election.checksum import internet_checksum
from standfast.director.election.vrrp_wire import VrrpAdvert

GROUP = "224.0.0.18"
MULTICAST = IPv4Address(GROUP).packed
ADVERT = 112  # the protocol number of CARP and VRRP
STRANGER = "10.50.0.77"
GUESS = b"guess"
PATIENCE = 5.0
ETHERNET = 14
CLOCK = SystemClock()


@dataclass(frozen=True)
class Group:
    """Whose adverts are forged."""

    protocol: str
    interface: str
    number: int
    address: IPv4Address


def hear(interface: str) -> bytes:
    """Return a whole IP packet with an advert."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, ADVERT) as ear:
        index = socket.if_nametoindex(interface)
        member = struct.pack("=4s4si", MULTICAST, b"\0" * 4, index)
        ear.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        ear.settimeout(PATIENCE)
        return ear.recv(2048)


def wrap(message: bytes, source: bytes) -> bytes:
    """Return the IP packet in which a message seems to come from ``source``."""
    head = struct.pack(">BBHHHBBH", 0x45, 0xC0, 20 + len(message), 1, 0, 255, ADVERT, 0)
    return head + source + MULTICAST + message


def repaired(protocol: str, message: bytes, source: bytes) -> bytes:
    """Return a message with the checksum that it should have."""
    bare = message[:6] + b"\0\0" + message[8:]
    pseudo = b""
    if protocol == "vrrp":
        pseudo = source + MULTICAST + struct.pack(">BBH", 0, ADVERT, len(message))
    checksum = internet_checksum(pseudo + bare)
    return bare[:6] + checksum.to_bytes(2, "big") + bare[8:]


def forgeries(group: Group, message: bytes, source: bytes) -> list[bytes]:
    """Return the best and the leaving priority: altered, and made up."""
    made = []
    for priority in (254, 0):
        altered = bytearray(message)
        vrrp = group.protocol == "vrrp"
        altered[2] = priority if vrrp else 254 - priority
        made.append(repaired(group.protocol, bytes(altered), source))
        if vrrp:
            advert = VrrpAdvert(group.number, priority, 10, (group.address,))
            made.append(vrrp_wire.encode(advert, IPv4Address(source)))
            number = int(CLOCK.now() * 1e6)
            signed = vrrp_wire.encode_signed(
                advert, IPv4Address(source), key=GUESS, number=number
            )
            made.append(signed)
        else:
            base = 1 if priority else 255
            carp = CarpAdvert(group.number, 254 - priority, base, 12345)
            made.append(carp_wire.encode(carp, GUESS, [group.address]))
    return made


def adverts(job: dict[str, Any]) -> dict[str, int]:
    """Send what a stranger can; return how many that each node must refuse."""
    group = Group(
        job["protocol"], job["interface"], job["group"], IPv4Address(job["address"])
    )
    packet = hear(group.interface)
    message, source = packet[20:], packet[12:16]
    other = IPv4Address(STRANGER).packed
    forged = [wrap(m, s) for s in (source, other) for m in forgeries(group, message, s)]
    CLOCK.sleep(0.3)  # the heard one is no longer the newest
    replayed = [wrap(message, source)] * 5
    malformed = [
        wrap(message[:-1], other),
        wrap(message[:6] + b"\0\1" + message[8:], other),
    ]
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as mouth:
        index = socket.if_nametoindex(group.interface)
        member = struct.pack("=4s4si", b"\0" * 4, b"\0" * 4, index)
        mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, member)
        for each in forged + replayed + malformed:
            mouth.sendto(each, (GROUP, 0))
            CLOCK.sleep(0.01)
    # What claims to be a node's own its kernel drops before it could be counted: so
    # half of the forged ones are sure.
    return {"forged": len(forged) // 2, "replayed": 5, "malformed": 2}


def control(job: dict[str, Any]) -> dict[str, int]:
    """Record datagrams between directors; send them again, and altered."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003)) as wire:
        wire.bind((job["interface"], 0))
        wire.settimeout(PATIENCE)
        recorded: list[bytes] = []
        while len(recorded) < 5:  # noqa: PLR2004 - some second's worth
            frame, where = wire.recvfrom(4096)
            # Only what goes to the director: the rest it has said itself.
            if where[2] == socket.PACKET_OUTGOING and _is_control(frame, job["port"]):
                recorded.append(frame)
        CLOCK.sleep(0.5)  # none of them is the newest any more
        again = [_unsummed(frame) for frame in recorded]
        altered = [_altered(frame, at) for frame in again for at in (5, 20, 60)]
        for frame in [*again, *altered]:
            wire.send(frame)
            CLOCK.sleep(0.005)
    return {"repeat": len(again), "seal": len(altered)}


def _is_control(frame: bytes, port: int) -> bool:
    if len(frame) < ETHERNET + 28 or frame[12:14] != b"\x08\0":
        return False
    return frame[23] == socket.IPPROTO_UDP and frame[36:38] == port.to_bytes(2, "big")


def _unsummed(frame: bytes) -> bytes:
    """Take the UDP checksum away, as IPv4 allows; a card would have filled it in."""
    at = ETHERNET + 20 + 6
    return frame[:at] + b"\0\0" + frame[at + 2 :]


def _altered(frame: bytes, at: int) -> bytes:
    """Flip a bit of the datagram."""
    body = bytearray(frame)
    body[ETHERNET + 28 + at] ^= 1
    return bytes(body)


JOBS = {"adverts": adverts, "control": control}


def main(text: str) -> None:
    """Do the job that ``text`` describes in JSON."""
    job = json.loads(text)
    sys.stdout.write(json.dumps(JOBS[job["job"]](job)))


if __name__ == "__main__":
    main(sys.argv[1])

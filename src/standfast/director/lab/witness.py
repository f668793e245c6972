"""Who has the address, as a client sees it: asks the segment, and counts answers.

``python -m standfast.director.lab.witness INTERFACE OWN ADDRESS SECONDS`` asks by ARP
every 20 ms, and prints JSON: for each question the time (monotonic) and the
link-layer addresses that answered before the next one.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
from ipaddress import IPv4Address

from standfast.clock import SystemClock

PERIOD = 0.02
ETHERTYPE_ARP = 0x0806
REQUEST, REPLY = 1, 2


def question(mac: bytes, own: IPv4Address, address: IPv4Address) -> bytes:
    """Return the frame that asks who has an address."""
    head = struct.pack(">HHBBH", 1, 0x0800, 6, 4, REQUEST)
    ethernet = b"\xff" * 6 + mac + ETHERTYPE_ARP.to_bytes(2, "big")
    return ethernet + head + mac + own.packed + bytes(6) + address.packed


def answered(frame: bytes, address: IPv4Address) -> str:
    """Return who says that it has the address; empty if nobody does here."""
    is_reply = frame[20:22] == REPLY.to_bytes(2, "big")
    return frame[22:28].hex(":") if is_reply and frame[28:32] == address.packed else ""


def main(interface: str, own: str, address: str, seconds: float) -> None:
    """Ask, and print what was answered."""
    clock = SystemClock()
    rows: list[tuple[float, list[str]]] = []
    wanted = IPv4Address(address)
    kind = socket.htons(ETHERTYPE_ARP)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, kind) as wire:
        wire.bind((interface, ETHERTYPE_ARP))
        frame = question(wire.getsockname()[4], IPv4Address(own), wanted)
        end = clock.monotonic() + seconds
        while (asked := clock.monotonic()) < end:
            wire.send(frame)
            heard: set[str] = set()
            while (left := asked + PERIOD - clock.monotonic()) > 0:
                wire.settimeout(left)
                try:
                    heard.add(answered(wire.recv(64), wanted))
                except TimeoutError:
                    break
            rows.append((asked, sorted(heard - {""})))
    sys.stdout.write(json.dumps(rows))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]))

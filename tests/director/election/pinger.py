"""Pings an address every 20 ms; prints the monotonic time of each answer."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import time

EVERY = 0.02
ECHO_V4, ECHO_V6 = 8, 128


def checksum(data: bytes) -> int:
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF


def main(address: str, seconds: float) -> None:
    v6 = ":" in address
    family = socket.AF_INET6 if v6 else socket.AF_INET
    proto = socket.getprotobyname("ipv6-icmp" if v6 else "icmp")
    kind, answer_kind = (ECHO_V6, ECHO_V6 + 1) if v6 else (ECHO_V4, 0)
    with socket.socket(family, socket.SOCK_RAW, proto) as pinger:
        head = struct.pack(">BBHHH", kind, 0, 0, 77, 0)
        if not v6:
            head = struct.pack(">BBHHH", kind, 0, checksum(head), 77, 0)
        start = time.monotonic()
        for n in range(int(seconds / EVERY)):
            with contextlib.suppress(OSError):  # the neighbour is not known now
                pinger.sendto(head, (address, 0))
            until = start + (n + 1) * EVERY
            while (left := until - time.monotonic()) > 0:
                pinger.settimeout(left)
                try:
                    data = pinger.recv(200)
                except OSError:
                    continue
                if data[0 if v6 else 20] == answer_kind:
                    print(time.monotonic(), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))

"""The Internet checksum (RFC 1071). Pure."""

from __future__ import annotations

import struct


def internet_checksum(data: bytes) -> int:
    """Return the 16-bit one's complement of the one's complement sum of ``data``.

    Over data that holds a correct checksum the result is 0. A last odd byte is
    padded with a zero, as RFC 1071 has it.
    """
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

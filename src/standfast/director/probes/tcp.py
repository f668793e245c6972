"""Connecting, and the PROXY header; the cheapest question.

Sockets are used bare: at thousands of probes a second asyncio's streams would cost
more than everything else. They close by reset, so that no port lingers.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING

from standfast.director.probes import passed

if TYPE_CHECKING:
    from standfast.director.health import Outcome

Where = tuple[str, int]
LINGER = struct.pack("ii", 1, 0)
# The PROXY protocol, 2.1 and 2.2: a connection that the proxy makes for itself.
PROXY = {
    0: b"",
    1: b"PROXY UNKNOWN\r\n",
    2: b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
}


class TcpProbe:
    """Passes when a connection is accepted."""

    def __init__(self, where: Where, proxy: int) -> None:
        self._where = where
        self._opening = PROXY[proxy]

    async def check(self) -> Outcome:
        """Connect, and hang up."""
        with await connect(self._where) as sock:
            if self._opening:
                await asyncio.get_running_loop().sock_sendall(sock, self._opening)
        return passed()


async def connect(where: Where | str) -> socket.socket:
    """Return a connected socket to (IP, port), or to a path.

    Raises:
        OSError: it failed.
    """
    if isinstance(where, str):
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    else:
        family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
    sock.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock


async def read_to_end(sock: socket.socket, limit: int = 1 << 20) -> bytes:
    """Return all that comes, at most ``limit`` bytes."""
    loop = asyncio.get_running_loop()
    parts: list[bytes] = []
    held = 0
    while held < limit:
        part = await loop.sock_recv(sock, 65536)
        if not part:
            break
        parts.append(part)
        held += len(part)
    return b"".join(parts)

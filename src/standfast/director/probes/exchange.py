"""A question that is a plain exchange of bytes: connect, say, read, judge.

Sockets are used bare: at thousands of probes a second asyncio's streams would cost
more than everything else. They close by reset, so that no port lingers, and each
question has a connection of its own: one that is kept would not notice an HAProxy
that accepts nobody any more.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from standfast.director.health import Outcome

Where = tuple[str, int]
LIMIT = 1 << 20
LINGER = struct.pack("ii", 1, 0)
# The PROXY protocol, 2.1 and 2.2: a connection that the proxy makes for itself.
PROXY = {
    0: b"",
    1: b"PROXY UNKNOWN\r\n",
    2: b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
}
# Linux: the last packet of the handshake travels with the question, or with the
# reset, which saves each end one packet a probe (HAProxy's checks do the same).
QUICKACK: int | None = getattr(socket, "TCP_QUICKACK", None)


class Exchange:
    """What is asked of whom.

    Args:
        where: (IP, port), or the path of a socket.
        opening: what to say first; short.
        answers: whether anything is read; if not, connecting is all.
    """

    def __init__(
        self, where: Where | str, opening: bytes = b"", *, answers: bool = True
    ) -> None:
        self.where = where
        self.opening = opening
        self.answers = answers

    def enough(self, held: bytes) -> bool:
        """Return whether what was read suffices; the end always does."""
        return len(held) >= LIMIT

    def judge(self, answer: bytes) -> Outcome:
        """Return what an answer means.

        Raises:
            ValueError: it cannot be understood.
        """
        raise NotImplementedError

    async def check(self) -> Outcome:
        """Ask once; see Probe."""
        loop = asyncio.get_running_loop()
        with open_socket(self.where) as sock:
            await loop.sock_connect(sock, self.where)
            if self.opening:
                await loop.sock_sendall(sock, self.opening)
            held = b""
            while self.answers:
                part = await loop.sock_recv(sock, 65536)
                held += part
                if not part or self.enough(held):
                    break
        return self.judge(held)


def open_socket(where: Where | str) -> socket.socket:
    """Return a socket that does not block and can be connected to ``where``.

    Raises:
        OSError: there is none left.
    """
    kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK
    if isinstance(where, str):
        return socket.socket(socket.AF_UNIX, kind)
    family = socket.AF_INET6 if ":" in where[0] else socket.AF_INET
    sock = socket.socket(family, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER)
    if QUICKACK is not None:
        sock.setsockopt(socket.IPPROTO_TCP, QUICKACK, 0)
    return sock

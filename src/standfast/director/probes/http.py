"""Asking for a page, in clear or under TLS."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

from standfast.director.probes import failed, passed
from standfast.director.probes.tcp import PROXY, Where, connect, read_to_end

if TYPE_CHECKING:
    from standfast.director.config import ProbeSection
    from standfast.director.health import Outcome

BODY_LIMIT = 1 << 18


class HttpProbe:
    """Passes on an expected status, and body if one is asked for."""

    def __init__(self, where: Where, section: ProbeSection) -> None:
        self._where = where
        self._section = section
        self._tls = _context(section) if section.type == "https" else None
        host = section.host or (f"[{where[0]}]" if ":" in where[0] else where[0])
        self._request = (
            f"GET {section.path} HTTP/1.1\r\nHost: {host}\r\n"
            "User-Agent: standfast\r\nConnection: close\r\n\r\n"
        ).encode()

    async def check(self) -> Outcome:
        """Ask once."""
        return self.judge(await self.fetch())

    async def fetch(self) -> bytes:
        """Return the answer, whole if its body matters.

        Raises:
            OSError: the connection failed.
        """
        if self._tls is not None:
            return await self._fetch_tls()
        loop = asyncio.get_running_loop()
        with await connect(self._where) as sock:
            opening = PROXY[self._section.proxy]
            await loop.sock_sendall(sock, opening + self._request)
            answer = await loop.sock_recv(sock, 65536)
            if self._section.body or self._section.type == "haproxy":
                answer += await read_to_end(sock, BODY_LIMIT)
        return answer

    def judge(self, answer: bytes) -> Outcome:
        """Return what an answer means."""
        words = answer.split(b"\r\n", 1)[0].split(b" ", 2)
        if not words[0].startswith(b"HTTP/") or len(words) < 2:  # noqa: PLR2004
            return failed("answered no HTTP" if answer else "closed without an answer")
        status = int(words[1]) if words[1].isdigit() else 0
        if status not in self._section.status:
            return failed(f"answered {status}")
        if self._section.body and self._section.body.encode() not in answer:
            return failed("its page lacks the text that was asked for")
        return passed(f"answered {status}")

    async def _fetch_tls(self) -> bytes:
        name = self._section.host or self._where[0]
        sock = await connect(self._where)
        try:
            opening = PROXY[self._section.proxy]
            await asyncio.get_running_loop().sock_sendall(sock, opening)
            reader, writer = await asyncio.open_connection(
                sock=sock, ssl=self._tls, server_hostname=name
            )
        except BaseException:
            sock.close()
            raise
        try:
            writer.write(self._request)
            return await reader.read(BODY_LIMIT)
        finally:
            writer.transport.abort()


def _context(section: ProbeSection) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=section.ca or None)
    if not section.ca:
        # A farm's inner certificates seldom name inner addresses; health is asked
        # for here, not identity. With `ca` both are checked.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context

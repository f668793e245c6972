"""Asking for a page, in clear or under TLS."""

from __future__ import annotations

import asyncio
import ssl
from typing import TYPE_CHECKING

from standfast.director.probes import failed, passed
from standfast.director.probes.exchange import PROXY, Exchange, Where, open_socket

if TYPE_CHECKING:
    from standfast.director.config import ProbeSection
    from standfast.director.health import Outcome

BODY_LIMIT = 1 << 18


class HttpProbe(Exchange):
    """Passes on an expected status, and body if one is asked for."""

    def __init__(self, where: Where, section: ProbeSection) -> None:
        host = section.host or (f"[{where[0]}]" if ":" in where[0] else where[0])
        request = (
            f"GET {section.path} HTTP/1.1\r\nHost: {host}\r\n"
            "User-Agent: standfast\r\nConnection: close\r\n\r\n"
        ).encode()
        super().__init__(where, PROXY[section.proxy] + request)
        self.request = request
        self._status = frozenset(section.status)
        self._body = section.body.encode()
        self._whole = bool(self._body) or section.type == "haproxy"

    def enough(self, held: bytes) -> bool:
        """See Exchange: the first line suffices, unless the body matters."""
        return len(held) >= BODY_LIMIT or (not self._whole and b"\n" in held)

    def judge(self, answer: bytes) -> Outcome:
        """See Exchange."""
        words = answer.split(b"\r\n", 1)[0].split(b" ", 2)
        if not words[0].startswith(b"HTTP/") or len(words) < 2:  # noqa: PLR2004
            return failed("answered no HTTP" if answer else "closed without an answer")
        status = int(words[1]) if words[1].isdigit() else 0
        if status not in self._status:
            return failed(f"answered {status}")
        if self._body and self._body not in answer:
            return failed("its page lacks the text that was asked for")
        return passed(f"answered {status}")


class TlsProbe:
    """The same under TLS; no plain exchange, for TLS speaks between."""

    def __init__(self, where: Where, section: ProbeSection) -> None:
        self.where = where
        self._page = HttpProbe(where, section)
        self._opening = PROXY[section.proxy]
        self._name = section.host or where[0]
        self._tls = _context(section)

    async def check(self) -> Outcome:
        """Ask once."""
        loop = asyncio.get_running_loop()
        sock = open_socket(self.where)
        try:
            await loop.sock_connect(sock, self.where)
            await loop.sock_sendall(sock, self._opening)
            reader, writer = await asyncio.open_connection(
                sock=sock, ssl=self._tls, server_hostname=self._name
            )
        except BaseException:
            sock.close()
            raise
        try:
            writer.write(self._page.request)
            return self._page.judge(await reader.read(BODY_LIMIT))
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

"""Clients of our own that see what an upgrade does to others.

Each keeps an HTTP/1.1 connection open and asks again and again, as browsers and API
clients do. A server may end a connection by saying so with its last answer (that is
counted as nothing); a connection that ends otherwise is ``early`` (before an answer)
or ``cut`` (within one). All of it runs in a thread of its own, so that waiting for a
command does not stop the watching.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections import Counter
from dataclasses import dataclass
from urllib.parse import urlsplit

from standfast.errors import UsageError

PATIENCE = 5.0
PAUSE = 0.05
CLIENTS = 4
# Every other client begins anew after so many requests, as most clients of a site do:
# who keeps a connection never meets a backend that has just come back.
ANEW = 5
BAD = 500


@dataclass(frozen=True)
class Target:
    """What a client asks for.

    Attributes:
        ip: where it connects.
        port: there.
        path: of the page.
        host: named in the request.
        tls: whether it speaks TLS; the certificate is not checked.
    """

    ip: str
    port: int
    path: str = "/"
    host: str = ""
    tls: bool = False


def parse_url(url: str) -> Target:
    """Read ``http://HOST[:PORT]/PATH``.

    Raises:
        UsageError: it is no such URL.
    """
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme not in {"http", "https"} or not parts.hostname or port == -1:
        raise UsageError(f"not a URL: {url}", hint="as in http://203.0.113.10/health")
    tls = parts.scheme == "https"
    path = parts.path or "/"
    if parts.query:
        path += f"?{parts.query}"
    return Target(parts.hostname, port or (443 if tls else 80), path, parts.netloc, tls)


class Witness:
    """Asks targets until it is stopped.

    Args:
        targets: by the name of a node, or of the farm as a whole.

    Attributes:
        seen: counts of ok, refused, cut, early and bad answers.
    """

    def __init__(self, targets: dict[str, Target]) -> None:
        self.seen: Counter[str] = Counter()
        self._targets = targets
        self._resting: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        if self._targets:
            self._thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._over.set()
        if self._thread.is_alive():
            self._thread.join(PATIENCE + 1)

    def rest(self, name: str) -> None:
        """Open no new connection to a node: the table sends nobody there."""
        self._resting.add(name)

    def wake(self, name: str) -> None:
        """Open new connections to a node again."""
        self._resting.discard(name)

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            asyncio.run(self._ask_all())

    async def _ask_all(self) -> None:
        async with asyncio.TaskGroup() as group:
            for name, target in self._targets.items():
                for number in range(CLIENTS):
                    anew = ANEW if number % 2 else 0
                    group.create_task(self._client(name, target, anew))

    async def _client(self, name: str, target: Target, anew: int) -> None:
        link: _Link | None = None
        asked = 0
        while not self._over.is_set():
            await asyncio.sleep(PAUSE)
            if link is None:
                if name in self._resting:
                    continue
                link = await self._open(target)
                if link is None:
                    continue
            word, keeps = await link.ask(target)
            self.seen[word] += 1
            asked += 1
            if not keeps or (anew and asked % anew == 0):
                link.close()
                link = None
        if link is not None:
            link.close()

    async def _open(self, target: Target) -> _Link | None:
        try:
            return await _open(target)
        except (OSError, TimeoutError):
            self.seen["refused"] += 1
            return None


async def first_word(target: Target) -> str:
    """Ask once on a new connection: ok, refused, cut, early or bad."""
    try:
        link = await _open(target)
    except (OSError, TimeoutError):
        return "refused"
    try:
        word, _ = await link.ask(target)
        return word
    finally:
        link.close()


@dataclass
class _Link:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, target: Target) -> tuple[str, bool]:
        """Ask once; return what came of it, and whether the connection lives on."""
        host = target.host or target.ip
        line = f"GET {target.path} HTTP/1.1\r\nHost: {host}\r\n"
        try:
            async with asyncio.timeout(PATIENCE):
                agent = "User-Agent: standfast-upgrade\r\n\r\n"
                self.writer.write(f"{line}{agent}".encode())
                status, keeps = await self._answer()
        except asyncio.IncompleteReadError as error:
            return ("cut" if error.partial else "early"), False
        except _CutError:
            return "cut", False
        except (OSError, TimeoutError, ValueError, asyncio.LimitOverrunError):
            return "early", False
        return ("bad" if status >= BAD else "ok"), keeps

    def close(self) -> None:
        """Let go of it."""
        self.writer.close()

    async def _answer(self) -> tuple[int, bool]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        lines = head.split("\r\n")
        fields = dict(line.split(": ", 1) for line in lines[1:] if ": " in line)
        try:
            if fields.get("transfer-encoding", "") == "chunked":
                await self._chunks()
            else:
                await self.reader.readexactly(int(fields.get("content-length", 0)))
        except asyncio.IncompleteReadError:
            raise _CutError from None
        return int(lines[0].split(" ")[1]), fields.get("connection") != "close"

    async def _chunks(self) -> None:
        while size := int((await self.reader.readuntil(b"\r\n")).split(b";")[0], 16):
            await self.reader.readexactly(size + 2)
        await self.reader.readuntil(b"\r\n")


class _CutError(Exception):
    """An answer ended in its middle."""


async def _open(target: Target) -> _Link:
    context = None
    if target.tls:
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    async with asyncio.timeout(PATIENCE):
        link = await asyncio.open_connection(target.ip, target.port, ssl=context)
    return _Link(*link)

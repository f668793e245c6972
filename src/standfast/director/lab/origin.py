"""What the lab's HAProxy forward to: small answers, paced ones, and a raw line server.

``python -m standfast.director.lab.origin IP``; HTTP/1.1 on 8000, lines on 8001.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress

CHUNK = b"x" * 1024
TICK = 0.05


async def web(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer ``GET /`` with 2 bytes, ``GET /paced/N`` with N KiB, one each 50 ms."""
    with suppress(OSError, EOFError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ", 2)[1].decode()
            count = int(path.rpartition("/")[2] or 0) if "/paced/" in path else 0
            size = count * len(CHUNK) or 2
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
            for _ in range(count):
                writer.write(CHUNK)
                await writer.drain()
                await asyncio.sleep(TICK)
            if not count:
                writer.write(b"ok")
            await writer.drain()
    writer.close()


async def lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer ``now`` at once, and ``later S`` after S seconds."""
    with suppress(OSError, EOFError):
        while line := await reader.readline():
            word, _, seconds = line.decode().strip().partition(" ")
            if word == "later":
                await asyncio.sleep(float(seconds))
            writer.write(b"here\n")
            await writer.drain()
    writer.close()


async def main(address: str) -> None:
    """Serve for ever."""
    first = await asyncio.start_server(web, address, 8000, backlog=1024)
    await asyncio.start_server(lines, address, 8001, backlog=1024)
    await first.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))

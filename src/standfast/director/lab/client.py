"""The lab's client: one job in, one JSON document of what it saw out.

``python -m standfast.director.lab.client JOB`` with a job like
``{"job": "load", "to": "10.50.0.100", "rate": 300, "seconds": 4}``. Times are of the
machine's monotonic clock, which all namespaces share.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from typing import Any

PATIENCE = 4.0
TICK = 0.05
# Before that, all of a job's connections open at once and wait for one another;
# nothing is harmed so early.
SETTLED = 0.7


async def answer(reader: asyncio.StreamReader) -> tuple[str, bytes, bool]:
    """Return (node, status, whether the server closes) of one answer."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    fields = dict(
        line.split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line
    )
    await reader.readexactly(int(fields.get("content-length", 0)))
    closes = fields.get("connection") == "close"
    return fields.get("x-node", ""), head.split(" ", 2)[1].encode(), closes


async def once(to: str, port: int | None = None) -> tuple[str, str]:
    """Open a connection, ask once, and close; return (node, error)."""
    writer = None
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection(
                to,
                80,
                local_addr=("::" if ":" in to else "0.0.0.0", port)  # noqa: S104
                if port
                else None,
            )
            head = "GET / HTTP/1.1\r\nHost: lab\r\n"
            writer.write(f"{head}Connection: close\r\n\r\n".encode())
            node, status, _ = await answer(reader)
        return node, "" if status == b"200" else f"status {status.decode()}"
    except (OSError, EOFError, TimeoutError) as error:
        return "", type(error).__name__
    finally:
        if writer is not None:
            writer.close()


async def load(job: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """Open new connections at a rate; rows of [start, node, error].

    With ``port`` they come from that port and the ones after it, so that the split
    is the same in every run.
    """
    loop = asyncio.get_running_loop()
    rows: list[list[Any]] = []
    start = loop.time()

    async def one(number: int) -> None:
        await asyncio.sleep(start + number / job["rate"] - loop.time())
        began = loop.time()
        port = job["port"] + number if "port" in job else None
        rows.append([began, *await once(job["to"], port)])

    count = int(job["rate"] * job["seconds"])
    async with asyncio.TaskGroup() as group:
        for number in range(count):
            group.create_task(one(number))
    return rows


async def requests(job: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """Keep connections alive and ask again and again; count what went wrong."""
    loop = asyncio.get_running_loop()
    seen: Counter[str] = Counter()
    end = loop.time() + job["seconds"]

    async def one() -> None:
        reader: asyncio.StreamReader | None = None
        writer: asyncio.StreamWriter | None = None
        while loop.time() < end:
            await asyncio.sleep(job["pause"])
            if reader is None or writer is None or reader.at_eof():
                try:
                    async with asyncio.timeout(PATIENCE):
                        reader, writer = await asyncio.open_connection(job["to"], 80)
                except (OSError, TimeoutError):
                    seen["refused"] += 1
                    continue
            word, keep = await _ask(reader, writer)
            seen[word] += 1
            if not keep:
                writer.close()
                reader = writer = None
        if writer is not None:
            writer.close()

    async with asyncio.TaskGroup() as group:
        for _ in range(job["clients"]):
            group.create_task(one())
    return dict(seen)


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> tuple[str, bool]:
    try:
        async with asyncio.timeout(PATIENCE):
            writer.write(b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n")
            _, status, closes = await answer(reader)
    except asyncio.IncompleteReadError as error:
        return ("cut" if error.partial else "early"), False
    except (OSError, TimeoutError):
        return "early", False
    return ("ok" if status == b"200" else "bad"), not closes


async def long(job: dict[str, Any]) -> Any:  # noqa: ANN401 - JSON
    """Hold downloads and idle connections open; count those that live to the end."""
    seconds = job["seconds"]
    alive: Counter[str] = Counter()
    gaps: list[float] = [0.0]

    async def guarded(kind: str, work: Any) -> None:  # noqa: ANN401 - a coroutine
        try:
            async with asyncio.timeout(seconds + 8):
                await work
        except (OSError, EOFError, TimeoutError) as error:
            alive[f"{kind}: {type(error).__name__}"] += 1
        else:
            alive[kind] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(job.get("downloads", 0)):
            group.create_task(guarded("downloads", _download(job["to"], seconds, gaps)))
        for _ in range(job.get("client_first", 0)):
            group.create_task(guarded("client_first", _idle(job["to"], seconds, "now")))
        for _ in range(job.get("server_first", 0)):
            group.create_task(
                guarded("server_first", _idle(job["to"], seconds, f"later {seconds}"))
            )
    return {"alive": dict(alive), "stall": max(gaps)}


async def _download(to: str, seconds: float, gaps: list[float]) -> None:
    loop = asyncio.get_running_loop()
    reader, writer = await asyncio.open_connection(to, 80)
    path = f"/paced/{int(seconds / TICK)}"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: lab\r\n\r\n".encode())
    left = int(seconds / TICK) * 1024
    await reader.readuntil(b"\r\n\r\n")
    began = before = loop.time()
    while left:
        part = await reader.read(65536)
        if not part:
            raise EOFError
        if loop.time() - began > SETTLED:
            gaps.append(loop.time() - before)
        before = loop.time()
        left -= len(part)
    writer.close()


async def _idle(to: str, seconds: float, ask: str) -> None:
    reader, writer = await asyncio.open_connection(to, 81)
    # Who speaks first at the end: the server by itself, or the client.
    for pause in (seconds, 0) if ask == "now" else (0,):
        writer.write(f"{ask}\n".encode())
        if not await reader.readline():
            raise EOFError
        await asyncio.sleep(pause)
    writer.close()


JOBS = {"load": load, "requests": requests, "long": long}


def main(text: str) -> None:
    """Do the job that ``text`` describes in JSON."""
    job = json.loads(text)
    sys.stdout.write(json.dumps(asyncio.run(JOBS[job["job"]](job))))


if __name__ == "__main__":
    main(sys.argv[1])

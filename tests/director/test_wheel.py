"""The wheel: starts, deadlines and outcomes, with real sockets on loopback."""

from __future__ import annotations

import asyncio
import resource
import socket
import threading
import time
from collections import defaultdict
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from standfast.director.config import ProbeSection
from standfast.director.health import Outcome, Verdict
from standfast.director.probes import passed
from standfast.director.probes.http import HttpProbe
from standfast.director.probes.tcp import TcpProbe
from standfast.director.probes.wheel import EdgePoller, LevelPoller, Poller, Wheel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BOTH = pytest.mark.parametrize("poller", [EdgePoller, LevelPoller])


async def well(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readline()
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    writer.close()


async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send a byte each 20 ms, and never a whole line."""
    await reader.readline()
    try:
        while True:
            writer.write(b"H")
            await writer.drain()
            await asyncio.sleep(0.02)
    except OSError:
        writer.close()


class Notes:
    """What came, and when."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        self.came: dict[str, list[Outcome]] = defaultdict(list)
        self.at: dict[str, list[float]] = defaultdict(list)
        self.late: list[float] = []

    def done(self, name: str, outcome: Outcome) -> float:
        self.came[name].append(outcome)
        self.at[name].append(asyncio.get_running_loop().time())
        return self.interval


async def served(talk: object) -> AsyncIterator[int]:
    server = await asyncio.start_server(talk, "127.0.0.1", 0)  # type: ignore[arg-type]
    async with server:
        yield server.sockets[0].getsockname()[1]


async def spin(
    notes: Notes, seconds: float, poller: Poller, *rows: tuple[str, object, float]
) -> None:
    wheel = Wheel(notes.done, notes.late.append, poller)
    for name, probe, deadline in rows:
        wheel.start(name, probe, deadline, 0)  # type: ignore[arg-type]
    await asyncio.sleep(seconds)
    await wheel.close()


def page(port: int) -> HttpProbe:
    return HttpProbe(("127.0.0.1", port), ProbeSection(type="http"))


def closed_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


@BOTH
def test_many_are_asked_at_their_times(poller: type[Poller]) -> None:
    """30 well ones, so that the poller is looked at by ticks, and one refused."""
    notes = Notes(0.1)

    async def main() -> None:
        async for port in served(well):
            rows: list[tuple[str, object, float]] = [
                (f"h{i}", page(port), 4.0) for i in range(30)
            ]
            rows.append(("t", TcpProbe(("127.0.0.1", port), 0), 4.0))
            rows.append(("r", TcpProbe(("127.0.0.1", closed_port()), 0), 4.0))
            await spin(notes, 1.0, poller(), *rows)

    asyncio.run(main())
    assert {passed("answered 200")} == {
        o for i in range(30) for o in notes.came[f"h{i}"]
    }
    assert {passed()} == set(notes.came["t"])
    assert {Outcome(Verdict.FAIL, "connection refused")} == set(notes.came["r"])
    for came in notes.came.values():
        assert 5 <= len(came) <= 11
    assert all(late >= 0 for late in notes.late)


@BOTH
def test_a_deadline_is_hard(poller: type[Poller]) -> None:
    """Neither bytes that trickle in nor a listener that says nothing move it."""
    notes = Notes(0.05)

    async def main() -> None:
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            async for port in served(trickle):
                await spin(
                    notes,
                    1.1,
                    poller(),
                    ("trickle", page(port), 0.2),
                    ("silent", page(silent.getsockname()[1]), 0.2),
                )

    asyncio.run(main())
    for name in ("trickle", "silent"):
        assert {Outcome(Verdict.FAIL, "no answer within 200 ms")} == set(
            notes.came[name]
        )
        assert 2 <= len(notes.came[name]) <= 6
        assert all(0.19 < b - a < 0.6 for a, b in pairwise(notes.at[name]))


def test_a_stall_of_our_own_is_no_failure_of_a_backend() -> None:
    """The loop stands still for twice the deadline, right after a start."""
    notes = Notes(0.2)

    async def main(port: int) -> None:
        wheel = Wheel(notes.done)
        wheel.start("h", page(port), 0.1, 0)
        await asyncio.sleep(0)
        time.sleep(0.25)  # noqa: ASYNC251 - the stall
        await asyncio.sleep(0.1)
        await wheel.close()

    def serve(listener: socket.socket) -> None:
        sock, _ = listener.accept()
        with sock:
            sock.recv(4096)
            time.sleep(0.02)
            sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=[listener])
        thread.start()
        asyncio.run(main(listener.getsockname()[1]))
        thread.join()
    assert passed("answered 200") == notes.came["h"][0]


def test_a_probe_that_is_no_exchange_is_a_task() -> None:
    class Slow:
        async def check(self) -> Outcome:
            await asyncio.sleep(9)
            return passed()

    class Quick:
        async def check(self) -> Outcome:
            await asyncio.sleep(0)
            return passed("quick")

    notes = Notes(0.05)
    asyncio.run(
        spin(notes, 0.6, EdgePoller(), ("slow", Slow(), 0.1), ("quick", Quick(), 0.1))
    )
    assert {Outcome(Verdict.FAIL, "no answer within 100 ms")} == set(notes.came["slow"])
    assert {passed("quick")} == set(notes.came["quick"])


def test_who_is_ended_is_asked_no_more_and_can_be_ended_by_its_own_outcome() -> None:
    came: list[str] = []

    async def main() -> None:
        def done(name: str, outcome: Outcome) -> float:  # noqa: ARG001 - see Wheel
            came.append(name)
            wheel.end(name)
            return 0.01

        wheel = Wheel(done)
        async for port in served(well):
            for name in ("a", "b"):
                wheel.start(name, page(port), 0.5, 0)
            wheel.end("b")
            await asyncio.sleep(0.2)
            await wheel.close()

    asyncio.run(main())
    assert ["a"] == came


def test_our_own_want_of_descriptors_is_unknown() -> None:
    notes = Notes(0.02)

    async def main() -> None:
        async for port in served(well):
            old = resource.getrlimit(resource.RLIMIT_NOFILE)
            wheel = Wheel(notes.done)
            with socket.socket() as last:
                resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno(), old[1]))
                wheel.start("h", page(port), 0.5, 0)
                await asyncio.sleep(0.1)
                resource.setrlimit(resource.RLIMIT_NOFILE, old)
            await asyncio.sleep(0.2)
            await wheel.close()

    asyncio.run(main())
    verdicts = [outcome.verdict for outcome in notes.came["h"]]
    assert Verdict.UNKNOWN is verdicts[0]
    assert Verdict.PASS is verdicts[-1]
    assert Verdict.FAIL not in verdicts

"""When probes start, when they end, and many of them at once for little.

One heap of times and one poller of its own serve all probes that are a plain
exchange of bytes: a task, a timer and a future for each would cost more than the
kernel's whole part of a connection. While many are under way the poller is looked at
each tick instead of at each event, so that one wake-up serves a dozen of them.
Probes that are none (TLS, programs) run as tasks.

A start is late by a tick at most, as long as the loop is free; a deadline is a time
of the heap, and nothing that a backend sends or withholds moves it. Only time in which
we did not run ourselves is given back, once: a stall of the director must not look
like a farm that has died.
"""

from __future__ import annotations

import asyncio
import errno
import heapq
import itertools
import select
import selectors
import socket
from typing import TYPE_CHECKING, Protocol

from standfast.director.probes import ask, complaint, expired
from standfast.director.probes.exchange import Exchange, open_socket

if TYPE_CHECKING:
    from collections.abc import Callable

    from standfast.director.health import Outcome
    from standfast.director.probes import Probe

TICK = 0.004  # seconds; a fifth of the shortest interval
BUSY = 8  # from so many exchanges on the poller is looked at each tick
UNDER_WAY = (0, errno.EINPROGRESS)
START = -1
# A deadline that we see so much too late is our own fault, and given once more.
OURS_SECONDS = 0.005


class Poller(Protocol):
    """Tells which sockets to look at."""

    def fileno(self) -> int:
        """Return a descriptor that is readable while there is something to tell."""
        ...

    def watch(self, fd: int) -> None:
        """Tell when it is connected or has failed."""
        ...

    def read(self, fd: int) -> None:
        """Tell from now on when there is something to read."""
        ...

    def forget(self, fd: int) -> None:
        """Tell nothing more of it; it is closed next."""
        ...

    def ready(self) -> list[int]:
        """Return the descriptors to look at, without waiting."""
        ...

    def close(self) -> None:
        """Forget all."""
        ...


class EdgePoller:
    """Linux' epoll, by edges: one system call for the whole life of a socket."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._events = select.EPOLLIN | select.EPOLLOUT | select.EPOLLET

    def fileno(self) -> int:
        """See Poller."""
        return self._poll.fileno()

    def watch(self, fd: int) -> None:
        """See Poller."""
        self._poll.register(fd, self._events)

    def read(self, fd: int) -> None:
        """See Poller; the edge comes by itself."""

    def forget(self, fd: int) -> None:
        """See Poller; closing does it."""

    def ready(self) -> list[int]:
        """See Poller."""
        return [fd for fd, _ in self._poll.poll(0)]

    def close(self) -> None:
        """See Poller."""
        self._poll.close()


class LevelPoller:
    """Whatever the system has (kqueue on FreeBSD), by levels."""

    def __init__(self) -> None:
        self._poll = selectors.DefaultSelector()

    def fileno(self) -> int:
        """See Poller."""
        number: int = self._poll.fileno()
        return number

    def watch(self, fd: int) -> None:
        """See Poller."""
        self._poll.register(fd, selectors.EVENT_WRITE)

    def read(self, fd: int) -> None:
        """See Poller."""
        self._poll.modify(fd, selectors.EVENT_READ)

    def forget(self, fd: int) -> None:
        """See Poller."""
        self._poll.unregister(fd)

    def ready(self) -> list[int]:
        """See Poller."""
        return [key.fd for key, _ in self._poll.select(0)]

    def close(self) -> None:
        """See Poller."""
        self._poll.close()


def open_poller() -> Poller:
    """Return the cheapest that this system has."""
    return EdgePoller() if hasattr(select, "epoll") else LevelPoller()


class _Asking:
    """One backend's probe: at rest, or under way for the ``round``-th time."""

    __slots__ = (
        "deadline", "due", "given", "held", "name", "probe", "round", "sent", "sock",
        "started", "task",
    )  # fmt: skip

    def __init__(self, name: str, probe: Probe | Exchange, deadline: float) -> None:
        self.name = name
        self.probe = probe
        self.deadline = deadline
        self.due = 0.0
        self.started = 0.0
        self.round = 0
        self.sock: socket.socket | None = None
        self.task: asyncio.Task[Outcome] | None = None
        self.sent = False
        self.given = False
        self.held = b""


class Wheel:
    """Asks every backend again and again.

    Args:
        done: takes a backend's name and an outcome, and returns the seconds from the
            start of that probe to the start of the next.
        late: takes by how many seconds each probe started late.
        poller: tells which sockets to look at.
    """

    def __init__(
        self,
        done: Callable[[str, Outcome], float],
        late: Callable[[float], None] = lambda _: None,
        poller: Poller | None = None,
    ) -> None:
        self._done = done
        self._late = late
        self._loop = asyncio.get_running_loop()
        self._poller = poller or open_poller()
        self._times: list[tuple[float, int, _Asking, int]] = []
        self._order = itertools.count()
        self._flying: dict[int, _Asking] = {}
        self._askings: dict[str, _Asking] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._woken = False
        self._closed = False

    def start(
        self, name: str, probe: Probe | Exchange, deadline: float, first: float
    ) -> None:
        """Ask a backend from ``first`` seconds from now on."""
        self.end(name)
        asking = _Asking(name, probe, deadline)
        self._askings[name] = asking
        self._plan(asking, self._loop.time() + first)
        self._arm()

    def end(self, name: str) -> None:
        """Ask a backend no more."""
        asking = self._askings.pop(name, None)
        if asking is not None:
            self._land(asking)

    async def close(self) -> None:
        """Ask nobody any more."""
        self._closed = True
        tasks = [a.task for a in self._askings.values() if a.task is not None]
        for name in list(self._askings):
            self.end(name)
        if self._timer is not None:
            self._timer.cancel()
        if self._woken:
            self._loop.remove_reader(self._poller.fileno())
        self._poller.close()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _plan(self, asking: _Asking, due: float) -> None:
        asking.due = due
        heapq.heappush(self._times, (due, next(self._order), asking, START))

    def _arm(self) -> None:
        """See to it that we wake at the next time, tick or event."""
        if self._closed:
            return
        busy = len(self._flying) > BUSY
        if busy is self._woken:
            self._woken = not busy
            if busy:
                self._loop.remove_reader(self._poller.fileno())
            else:
                self._loop.add_reader(self._poller.fileno(), self._turn)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        when = self._times[0][0] if self._times else None
        if busy:
            when = self._loop.time() + TICK
        if when is not None:
            self._timer = self._loop.call_at(when, self._turn)

    def _turn(self) -> None:
        """Take what has come, then start and end what is due."""
        flying = self._flying
        for fd in self._poller.ready():
            asking = flying.get(fd)
            if asking is not None:
                self._go_on(asking)
        now = self._loop.time()
        times = self._times
        while times and times[0][0] <= now:
            when, _, asking, number = heapq.heappop(times)
            if self._askings.get(asking.name) is not asking:
                continue
            if number == START:
                self._begin(asking, now)
            elif number == asking.round and asking.sock is not None:
                self._expire(asking, now - when)
        self._arm()

    def _expire(self, asking: _Asking, late: float) -> None:
        if late < OURS_SECONDS or asking.given:
            self._finish(asking, expired(asking.deadline))
            return
        # We did not run, so the backend may wait for our own next word.
        asking.given = True
        self._limit(asking, self._loop.time() + min(late, asking.deadline))

    def _limit(self, asking: _Asking, when: float) -> None:
        heapq.heappush(self._times, (when, next(self._order), asking, asking.round))

    def _begin(self, asking: _Asking, now: float) -> None:
        self._late(now - asking.due)
        asking.started = now
        asking.round += 1
        probe = asking.probe
        if not isinstance(probe, Exchange):
            asking.task = self._loop.create_task(ask(probe, asking.deadline))
            asking.task.add_done_callback(lambda task: self._told(asking, task))
            return
        try:
            sock = asking.sock = open_socket(probe.where)
            code = sock.connect_ex(probe.where)
            if code not in UNDER_WAY:
                raise OSError(code, "")  # noqa: TRY301 - one place for both
        except OSError as error:
            self._finish(asking, complaint(error))
            return
        asking.sent = asking.given = False
        asking.held = b""
        fd = sock.fileno()
        self._flying[fd] = asking
        self._poller.watch(fd)
        self._limit(asking, now + asking.deadline)

    def _go_on(self, asking: _Asking) -> None:
        sock = asking.sock
        assert sock is not None
        try:
            if not asking.sent and not self._opened(asking, sock):
                return
            outcome = _read(asking, sock)
        except BlockingIOError:
            return
        except (OSError, ValueError, EOFError) as error:
            outcome = complaint(error)
        if outcome is not None:
            self._finish(asking, outcome)

    def _opened(self, asking: _Asking, sock: socket.socket) -> bool:
        """Say what is to be said; return whether there is anything to read."""
        probe = asking.probe
        assert isinstance(probe, Exchange)
        if probe.opening:
            # Short enough for any empty buffer; it also tells whether we connected.
            sock.send(probe.opening)
        else:
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, "")
        asking.sent = True
        if not probe.answers:
            self._finish(asking, probe.judge(b""))
            return False
        self._poller.read(sock.fileno())
        return True

    def _told(self, asking: _Asking, task: asyncio.Task[Outcome]) -> None:
        if not task.cancelled() and self._askings.get(asking.name) is asking:
            self._finish(asking, task.result())
            self._arm()

    def _finish(self, asking: _Asking, outcome: Outcome) -> None:
        self._land(asking)
        interval = self._done(asking.name, outcome)
        # Its end may have been the end of all asking, by way of ``done``.
        if self._askings.get(asking.name) is asking:
            # From when it should have started, so that being late does not add up;
            # but two starts never come closer than half an interval.
            due = max(asking.due + interval, asking.started + interval / 2)
            self._plan(asking, max(due, self._loop.time()))

    def _land(self, asking: _Asking) -> None:
        sock, asking.sock = asking.sock, None
        if sock is not None:
            if self._flying.pop(sock.fileno(), None) is not None:
                self._poller.forget(sock.fileno())
            sock.close()
        if asking.task is not None:
            asking.task.cancel()
            asking.task = None


def _read(asking: _Asking, sock: socket.socket) -> Outcome | None:
    """Return the outcome as soon as enough was read for one."""
    probe = asking.probe
    assert isinstance(probe, Exchange)
    while True:
        part = sock.recv(65536)
        asking.held = asking.held + part if asking.held else part
        if not part or probe.enough(asking.held):
            return probe.judge(asking.held)

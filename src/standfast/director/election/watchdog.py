"""Removes zombie addresses: those that stay in the kernel when the daemon is gone.

A second, small process on the same node, fed by a pipe. The daemon writes ``beat``
with every advert it sends as master, and ``rest`` when it is master no more. When the
beats stop, by kill -9, a hang or SIGSTOP, the process waits until it *hears another
master*, and only then removes the addresses: with no peer alive the traffic flows on,
as it must when a daemon dies. It speaks nothing itself.

One watchdog per group and node: a new one asks the old one to retire.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import struct
import sys
from dataclasses import asdict, dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING

from standfast.clock import SystemClock
from standfast.director.election.carp import FAREWELL
from standfast.director.election.carp_wire import CarpAdvert
from standfast.director.election.codec import (
    CarpCodec,
    RefusedError,
    SealedCarpCodec,
    SignedVrrpCodec,
    VrrpCodec,
)
from standfast.director.election.hands import IpAddresses
from standfast.director.election.segment import RawSegment
from standfast.errors import StandfastError
from standfast.host.local import LocalHost

if TYPE_CHECKING:
    from collections.abc import Callable

    from standfast.director.election.codec import Codec, Packet
    from standfast.director.election.vrrp_wire import VrrpAdvert
    from standfast.host import Host
    from standfast.host.process import Process

log = logging.getLogger(__name__)

BEAT = b"b"
REST = b"r"
REMOVED = b"removed\n"
COMMAND_SECONDS = 5.0


@dataclass(frozen=True)
class Watched:
    """One group on one card, as text and numbers only, for it crosses a pipe.

    Attributes:
        kind: ``carp``, ``carp-sealed``, ``vrrp`` or ``vrrp-signed``.
        interface: the card.
        group: vhid or vrid.
        source: our own address.
        addresses: the virtual addresses.
        peers: who may speak; everybody if empty.
        key: passphrase or key, as hex digits.
        silence: seconds without a beat after which the daemon counts as gone.
        commands: run after the removal, such as forgetting the flows.
    """

    kind: str
    interface: str
    group: int
    source: str
    addresses: tuple[str, ...]
    peers: tuple[str, ...]
    key: str
    silence: float
    commands: tuple[tuple[str, ...], ...] = ()

    @classmethod
    def read(cls, text: bytes) -> Watched:
        """Read what ``text`` wrote."""
        fields = json.loads(text)
        for name in ("addresses", "peers"):
            fields[name] = tuple(fields[name])
        fields["commands"] = tuple(tuple(argv) for argv in fields["commands"])
        return cls(**fields)

    def text(self) -> bytes:
        """Return one line of JSON."""
        return json.dumps(asdict(self)).encode() + b"\n"

    def codec(self) -> Codec[CarpAdvert] | Codec[VrrpAdvert]:
        """Return the codec that judges this group's packets."""
        source = ip_address(self.source)
        peers = frozenset(ip_address(p) for p in self.peers)
        key = bytes.fromhex(self.key)
        if self.kind in ("carp", "carp-sealed"):
            made = CarpCodec if self.kind == "carp" else SealedCarpCodec
            addresses = tuple(ip_address(a) for a in self.addresses)
            return made(self.group, key, addresses, source=source, peers=peers)
        if self.kind == "vrrp":
            return VrrpCodec(self.group, source=source, peers=peers)
        return SignedVrrpCodec(self.group, source=source, key=key, peers=peers)


@dataclass(frozen=True)
class Watch:
    """What the watchdog remembers. Times are monotonic seconds.

    Attributes:
        armed: whether the daemon was master when last heard of.
        beat: when it was last heard of.
        gone: whether its end of the pipe is closed.
    """

    armed: bool = False
    beat: float = 0.0
    gone: bool = False


def must_remove(watch: Watch, silence: float, now: float) -> bool:
    """Return whether the addresses must go, now that another master was heard."""
    return watch.armed and (watch.gone or now - watch.beat > silence)


def is_claim(advert: CarpAdvert | VrrpAdvert) -> bool:
    """Return whether an advert says "I am master", and not "I am leaving"."""
    if isinstance(advert, CarpAdvert):
        return advert.advbase != FAREWELL
    return advert.priority != 0


class PipeGuardian:
    """The daemon's end: starts the watchdog and feeds it; see speaker.Guardian.

    Args:
        host: this machine.
        watched: what to watch.
    """

    def __init__(self, host: Host, watched: Watched) -> None:
        self._host = host
        self._watched = watched
        self._process: Process | None = None
        self._feed = -1

    def start(self, anew: Callable[[], None]) -> None:
        """Start the process; see Guardian."""
        reading, self._feed = os.pipe()
        os.write(self._feed, self._watched.text())
        os.set_blocking(self._feed, False)
        argv = [sys.executable, "-m", __name__]
        self._process = self._host.spawn(argv, stdin_fd=reading)
        os.close(reading)
        os.set_blocking(self._process.stdout_fd, False)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._process.stdout_fd, self._told, anew)

    def beat(self) -> None:
        """Say that we live and are master; see Guardian."""
        self._write(BEAT)

    def rest(self) -> None:
        """Say that there is nothing to remove; see Guardian."""
        self._write(REST)

    def close(self) -> None:
        """End it; see Guardian."""
        self._write(REST)
        if self._process is None:
            return
        asyncio.get_running_loop().remove_reader(self._process.stdout_fd)
        os.close(self._feed)
        self._feed = -1
        os.set_blocking(self._process.stdout_fd, True)
        with contextlib.suppress(StandfastError):
            self._host.finish(self._process, timeout=COMMAND_SECONDS)
        self._process = None

    def _write(self, word: bytes) -> None:
        # A watchdog that is dead or does not read must not stop the daemon.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            if self._feed >= 0:
                os.write(self._feed, word)

    def _told(self, anew: Callable[[], None]) -> None:
        assert self._process is not None
        with contextlib.suppress(BlockingIOError):
            words = self._process.read()
            if not words:
                loop = asyncio.get_running_loop()
                loop.remove_reader(self._process.stdout_fd)
                log.warning("the watchdog has died: %s", self._process.stderr_text())
            elif REMOVED in words:
                log.warning("the watchdog removed the addresses while we slept")
                anew()


class NoGuardian:
    """Nobody watches."""

    def start(self, anew: Callable[[], None]) -> None:
        """Nothing starts."""

    def beat(self) -> None:
        """Nobody hears."""

    def rest(self) -> None:
        """Nobody hears."""

    def close(self) -> None:
        """Nothing ends."""


class Watchdog:
    """The process itself.

    Args:
        watched: what to watch.
        host: where commands run.
    """

    def __init__(self, watched: Watched, host: Host) -> None:
        self._watched = watched
        self._host = host
        self._codec = watched.codec()
        self._watch = Watch()
        self._clock = SystemClock()
        self._over = asyncio.Event()

    async def run(self, feed: int, out: int) -> None:
        """Watch until the daemon closed in order, or the addresses are removed."""
        self._out = out
        loop = asyncio.get_running_loop()
        os.set_blocking(feed, False)
        retired = await self._replace_older()
        segment = RawSegment(self._watched.interface, ip_address(self._watched.source))
        segment.open(self._packet)
        loop.add_reader(feed, self._fed, feed)
        try:
            await self._over.wait()
        finally:
            loop.remove_reader(feed)
            segment.close()
            retired.close()

    async def _replace_older(self) -> asyncio.Server:
        """Ask an older watchdog of this group to retire, and stand in its place."""
        # Abstract: no file to leave behind, and one name in each network namespace.
        name = f"\0standfast-watchdog-{self._watched.interface}-{self._watched.group}"
        for _ in range(50):
            try:
                return await asyncio.start_unix_server(self._asked, path=name)
            except OSError:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_unix_connection(name)
                    writer.close()
                await asyncio.sleep(0.02)
        raise StandfastError("an older watchdog does not retire")

    def _asked(
        self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Retire, when asked by one of our own user or root."""
        peer = writer.get_extra_info("socket")
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
        _pid, uid, _gid = struct.unpack("3i", credentials)
        writer.close()
        if uid in (0, os.geteuid()):
            self._over.set()

    def _fed(self, feed: int) -> None:
        words = os.read(feed, 4096)
        now = self._clock.monotonic()
        if words:
            self._watch = Watch(armed=words[-1:] == BEAT, beat=now)
        elif not self._watch.armed:
            self._over.set()
        else:
            self._watch = Watch(armed=True, beat=self._watch.beat, gone=True)
            asyncio.get_running_loop().remove_reader(feed)

    def _packet(self, packet: Packet) -> None:
        try:
            advert = self._codec.decode(packet, self._clock.now())
        except RefusedError:
            return
        now = self._clock.monotonic()
        silent = must_remove(self._watch, self._watched.silence, now)
        if silent and is_claim(advert):
            self._remove()

    def _remove(self) -> None:
        remove(self._watched, self._host)
        if self._watch.gone:
            self._over.set()
            return
        self._watch = Watch()
        os.write(self._out, REMOVED)


def main() -> None:
    """Watch what standard input names, until there is nothing more to watch."""
    # The terminal's and the supervisor's signals are for the daemon. What must go
    # with it goes when the daemon closes the pipe.
    for ignored in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(ignored, signal.SIG_IGN)
    text = bytearray()
    while not text.endswith(b"\n"):
        part = os.read(0, 1)
        if not part:
            return
        text += part
    host = LocalHost()
    try:
        asyncio.run(Watchdog(Watched.read(bytes(text)), host).run(0, 1))
    finally:
        host.close()


async def release(watched: Watched, host: Host, seconds: float) -> tuple[str, bool]:
    """Remove what a dead daemon and its watchdog have left, if another node serves.

    Args:
        watched: the group.
        host: where commands run.
        seconds: how long to listen for another master.

    Returns:
        Who is master, empty when nobody was heard; and whether addresses were here.
        They are removed when both are so: with no other master traffic flows on.

    Raises:
        ElectionError: an address is still there, or a socket was refused.
    """
    card = IpAddresses(host, watched.interface)
    mine = {ip_address(a) for a in watched.addresses}
    if not mine & await card.present():
        return "", False
    heard: asyncio.Queue[str] = asyncio.Queue()
    codec = watched.codec()
    clock = SystemClock()

    def listen(packet: Packet) -> None:
        with contextlib.suppress(RefusedError):
            if is_claim(codec.decode(packet, clock.now())):
                heard.put_nowait(str(packet.source))

    segment = RawSegment(watched.interface, ip_address(watched.source))
    segment.open(listen)
    try:
        async with asyncio.timeout(seconds):
            master = await heard.get()
    except TimeoutError:
        return "", True
    finally:
        segment.close()
    await asyncio.to_thread(remove, watched, host)
    return master, True


def remove(watched: Watched, host: Host) -> None:
    """Take the addresses away, and do what belongs to it.

    Raises:
        ElectionError: one is still there.
    """
    card = IpAddresses(host, watched.interface)
    card.remove_now([ip_address(a) for a in watched.addresses])
    for argv in watched.commands:
        with contextlib.suppress(StandfastError):
            host.run(argv, timeout=COMMAND_SECONDS)


if __name__ == "__main__":
    main()

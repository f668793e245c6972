"""Proof that a virtual address works here: connections through it, from inside.

A tunnel interface of our own stands for the clients' side. A SYN that is written to
it enters the kernel as if it came over the wire, and goes the whole way of a client's
packet: door, table, routing, the backend, its route back by way of us, translation.
The answer comes out of the tunnel; a reset ends what was opened, before HAProxy has
accepted it. Nobody outside is needed, so it works in the moment of a takeover, when
the other director is dead. What it does not prove: that the clients' neighbours have
learned where the address is.

Linux. The interface goes with the file that holds it, so none is left behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import os
import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING, Self

from standfast.director.model import Address
from standfast.director.tcp_packet import Flag, Segment, decode, encode
from standfast.errors import StandfastError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from ipaddress import IPv4Address, IPv6Address

    from standfast.host import Host

DEVICE = "/dev/net/tun"
NAME = "sfproof%d"
# linux/if_tun.h: TUNSETIFF; a tunnel of IP packets, without a header before them.
TUNSETIFF = 0x400454CA
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
COMMAND_SECONDS = 5.0
# Sent so often, this far apart: backends may have to learn where the inner address is.
TRIES, TRY_SECONDS = 5, 0.1
# From so many ports at once, so that one dead backend does not stand for all; other
# ports each time, for an earlier connection from one may not be forgotten yet.
PORTS_AT_ONCE = 8
PORTS = range(40000, 48000, PORTS_AT_ONCE)
MTU = 1500


_ByPort = dict[tuple[int, int], Address]


class UnprovableError(StandfastError):
    """No connection could be sent; that says nothing of the way."""


class TunnelProver:
    """Sends connections through virtual addresses.

    Args:
        host: where ``ip`` runs.
        sources: where they say they come from; the first of a family counts.
    """

    def __init__(self, host: Host, sources: Sequence[str]) -> None:
        self._host = host
        self._sources: dict[int, IPv4Address | IPv6Address] = {}
        for text in sources:
            address = ip_address(text)
            self._sources.setdefault(address.version, address)
        self._ports = itertools.cycle(PORTS)
        self._own = range(0)

    async def __call__(self, virtuals: Sequence[Address]) -> frozenset[Address]:
        """Return those of the virtual addresses that were answered.

        Raises:
            UnprovableError: no tunnel can be had here.
        """
        asked = [v for v in virtuals if v.family in self._sources]
        first = next(self._ports)
        self._own = range(first, first + PORTS_AT_ONCE)
        with contextlib.ExitStack() as stack:
            tunnel = stack.enter_context(_Tunnel())
            await asyncio.to_thread(self._route, tunnel.name)
            answered: set[Address] = set()
            for _ in range(TRIES):
                tunnel.write(self._openings(asked, answered))
                await self._listen(tunnel, asked, answered)
                if len(answered) == len(asked):
                    break
        return frozenset(answered)

    def _route(self, name: str) -> None:
        lines = [f"link set dev {name} up"]
        lines += [
            f"route replace {address}/{address.max_prefixlen} dev {name}"
            for address in self._sources.values()
        ]
        text = "".join(f"{line}\n" for line in lines).encode()
        argv = ["ip", "-force", "-batch", "-"]
        try:
            # IPv6 may be switched off: then its route is refused, and no matter.
            self._host.run(argv, stdin=text, ok=(0, 1, 2), timeout=COMMAND_SECONDS)
        except StandfastError as error:
            raise UnprovableError(error.message) from None

    def _openings(
        self, asked: Sequence[Address], answered: set[Address]
    ) -> Iterable[Segment]:
        for virtual in asked:
            for port in self._own:
                if virtual not in answered:
                    source = Address(str(self._sources[virtual.family]), port)
                    yield Segment(source, virtual, Flag.SYN, port)

    async def _listen(
        self, tunnel: _Tunnel, asked: Sequence[Address], answered: set[Address]
    ) -> None:
        by_port: _ByPort = {(v.family, v.port): v for v in asked}
        loop = asyncio.get_running_loop()
        end = loop.time() + TRY_SECONDS
        while len(answered) < len(asked) and loop.time() < end:
            for heard in tunnel.read():
                answer = heard.flags & (Flag.SYN | Flag.ACK) == Flag.SYN | Flag.ACK
                if not answer or heard.target.port not in self._own:
                    continue
                tunnel.write([_reset(heard, asked, by_port)])
                named = Address(heard.source.ip, heard.source.port)
                # Without connection tracking the answer is translated on its way out
                # of the clients' interface alone: here it names its backend.
                virtual = named if named in asked else _of(heard, by_port)
                if virtual is not None:
                    answered.add(virtual)
            await asyncio.sleep(0.002)


def _of(heard: Segment, by_port: _ByPort) -> Address | None:
    return by_port.get((heard.source.family, heard.source.port))


def _reset(
    heard: Segment,
    asked: Sequence[Address],
    by_port: _ByPort,
) -> Segment:
    named = Address(heard.source.ip, heard.source.port)
    target = named if named in asked else _of(heard, by_port) or named
    return Segment(heard.target, target, Flag.RST, heard.acknowledged)


class _Tunnel:
    """An interface that lives as long as the file is open."""

    def __init__(self) -> None:
        self._fd = -1
        self.name = ""

    def __enter__(self) -> Self:
        try:
            self._fd = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            wish = struct.pack("16sH22x", NAME.encode(), IFF_TUN | IFF_NO_PI)
            made = fcntl.ioctl(self._fd, TUNSETIFF, wish)
        except OSError as error:
            self.__exit__()
            raise UnprovableError(
                f"cannot open a tunnel by {DEVICE}: {error.strerror}"
            ) from None
        self.name = made[:16].rstrip(b"\0").decode()
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def write(self, segments: Iterable[Segment]) -> None:
        """Let packets come in; a full queue loses them, as a wire does."""
        for segment in segments:
            with contextlib.suppress(OSError):
                os.write(self._fd, encode(segment))

    def read(self) -> Iterable[Segment]:
        """Return the TCP segments that went out."""
        while True:
            try:
                segment = decode(os.read(self._fd, MTU))
            except OSError:
                return
            if segment is not None:
                yield segment

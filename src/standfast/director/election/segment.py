"""Sockets on one network segment: adverts of protocol 112, and raw frames.

Linux. Two sockets for adverts: one that receives (joined to the group, bound to the
card) and one that sends (bound to the card's own address, so that no floating address
becomes the source), and one packet socket for frames to neighbours. What comes in is
handed on as it is; belief is the codec's part.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from ipaddress import IPv6Address, ip_address
from typing import TYPE_CHECKING, Protocol

from standfast.director.election.carp_wire import HOP_LIMIT, PROTOCOL
from standfast.director.election.codec import Packet
from standfast.director.election.model import ElectionError
from standfast.director.election.vrrp_wire import group_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from standfast.director.election.model import IPAddress

RECEIVE_BYTES = 2048
BATCH = 64  # packets read at once, so that a flood cannot starve the timers
TRAFFIC_CLASS = 0xC0  # CS6, network control; what keepalived sends with
# Not in Python's socket module: asm-generic numbers of Linux.
IP_MTU_DISCOVER, IP_PMTUDISC_DO = 10, 2
IPV6_RECVPKTINFO, IPV6_PKTINFO = 49, 50


class Segment(Protocol):
    """A way to the other nodes of a group, and to the neighbours."""

    @property
    def source(self) -> IPAddress:
        """Our own address there."""
        ...

    @property
    def mac(self) -> bytes:
        """The card's link-layer address."""
        ...

    def open(self, heard: Callable[[Packet], None]) -> None:
        """Begin to listen; ``heard`` is called in the event loop.

        Raises:
            ElectionError: a socket was refused.
        """
        ...

    def send(self, data: bytes) -> bool:
        """Multicast an advert; return whether the network took it."""
        ...

    def tell(self, frames: Sequence[bytes]) -> None:
        """Send Ethernet frames."""
        ...

    def works(self) -> bool:
        """Return whether the link is up."""
        ...

    def close(self) -> None:
        """Let go."""
        ...


class RawSegment:
    """A segment by raw sockets.

    Args:
        interface: the card.
        source: our own address on it; its family is that of the adverts. A
            link-local one for IPv6.
    """

    def __init__(self, interface: str, source: IPAddress) -> None:
        self._interface = interface
        self._source = source
        self._stack = contextlib.ExitStack()
        self._receiver: socket.socket | None = None
        self._sender: socket.socket | None = None
        self._framer: socket.socket | None = None
        self._heard: Callable[[Packet], None] | None = None
        self._mac = b"\0" * 6
        self._index = 0

    @property
    def source(self) -> IPAddress:
        """Our own address; see Segment."""
        return self._source

    @property
    def mac(self) -> bytes:
        """The card's link-layer address, once open; see Segment."""
        return self._mac

    def open(self, heard: Callable[[Packet], None]) -> None:
        """Begin to listen; see Segment."""
        self._heard = heard
        try:
            self._open()
        except PermissionError as error:
            self.close()
            raise ElectionError(
                f"may not speak CARP or VRRP on {self._interface}: {error.strerror}",
                hint="run as root, or with CAP_NET_RAW and CAP_NET_ADMIN",
            ) from None
        except OSError as error:
            self.close()
            raise ElectionError(
                f"cannot speak CARP or VRRP on {self._interface}: {error.strerror}",
                hint=f"does {self._interface} exist, and is {self._source} on it?",
            ) from None

    def _open(self) -> None:
        self._index = socket.if_nametoindex(self._interface)
        self._framer = self._socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        self._framer.bind((self._interface, 0))
        self._mac = self._framer.getsockname()[4]
        v6 = isinstance(self._source, IPv6Address)
        opened = self._open_v6 if v6 else self._open_v4
        self._receiver, self._sender = opened(self._index)
        loop = asyncio.get_running_loop()
        loop.add_reader(self._receiver.fileno(), self._readable)
        self._stack.callback(loop.remove_reader, self._receiver.fileno())

    def _socket(self, family: int, kind: int, protocol: int) -> socket.socket:
        made = self._stack.enter_context(socket.socket(family, kind, protocol))
        made.setblocking(False)
        if family != socket.AF_PACKET:
            made.setsockopt(
                socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self._interface.encode()
            )
        return made

    def _open_v4(self, index: int) -> tuple[socket.socket, socket.socket]:
        receiver = self._socket(socket.AF_INET, socket.SOCK_RAW, PROTOCOL)
        group = group_of(self._source).packed
        membership = struct.pack("=4s4si", group, b"\0" * 4, index)
        receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
        sender = self._socket(socket.AF_INET, socket.SOCK_RAW, PROTOCOL)
        ours = struct.pack("=4s4si", b"\0" * 4, self._source.packed, index)
        for option, value in (
            (socket.IP_MULTICAST_IF, ours),
            (socket.IP_MULTICAST_TTL, HOP_LIMIT),
            (socket.IP_MULTICAST_LOOP, 0),
            (socket.IP_TTL, HOP_LIMIT),
            (socket.IP_TOS, TRAFFIC_CLASS),
            (IP_MTU_DISCOVER, IP_PMTUDISC_DO),
        ):
            sender.setsockopt(socket.IPPROTO_IP, option, value)
        sender.bind((str(self._source), 0))
        return receiver, sender

    def _open_v6(self, index: int) -> tuple[socket.socket, socket.socket]:
        receiver = self._socket(socket.AF_INET6, socket.SOCK_RAW, PROTOCOL)
        membership = group_of(self._source).packed + struct.pack("=I", index)
        receiver.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, membership)
        for option in (socket.IPV6_RECVHOPLIMIT, IPV6_RECVPKTINFO):
            receiver.setsockopt(socket.IPPROTO_IPV6, option, 1)
        sender = self._socket(socket.AF_INET6, socket.SOCK_RAW, PROTOCOL)
        for option, value in (
            (socket.IPV6_MULTICAST_IF, index),
            (socket.IPV6_MULTICAST_HOPS, HOP_LIMIT),
            (socket.IPV6_MULTICAST_LOOP, 0),
            (socket.IPV6_UNICAST_HOPS, HOP_LIMIT),
            (socket.IPV6_TCLASS, TRAFFIC_CLASS),
        ):
            sender.setsockopt(socket.IPPROTO_IPV6, option, value)
        sender.bind((str(self._source), 0, 0, index))
        return receiver, sender

    def send(self, data: bytes) -> bool:
        """Send an advert; see Segment."""
        assert self._sender is not None
        try:
            self._sender.sendto(data, self._target())
        except OSError:
            return False
        return True

    def _target(self) -> tuple[str, int] | tuple[str, int, int, int]:
        group = str(group_of(self._source))
        if isinstance(self._source, IPv6Address):
            return group, 0, 0, self._index
        return group, 0

    def tell(self, frames: Sequence[bytes]) -> None:
        """Send frames; see Segment."""
        assert self._framer is not None
        for frame in frames:
            with contextlib.suppress(OSError):
                self._framer.send(frame)

    def works(self) -> bool:
        """Return whether the interface is up and has a carrier; see Segment.

        A card that never says (``unknown``, as tunnels do) counts as working.
        """
        place = f"/sys/class/net/{self._interface}/operstate"
        try:
            with open(place, encoding="ascii") as file:  # noqa: PTH123 - one read
                return file.read().strip() in ("up", "unknown")
        except OSError:
            return False

    def close(self) -> None:
        """Let go; see Segment."""
        self._stack.close()

    def _readable(self) -> None:
        assert self._receiver is not None
        for _ in range(BATCH):
            try:
                data, ancillary, _flags, sender = self._receiver.recvmsg(
                    RECEIVE_BYTES, socket.CMSG_SPACE(64)
                )
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                return  # the link went down; works() tells
            packet = self._packet(data, ancillary, sender[0])
            if packet is not None and self._heard is not None:
                self._heard(packet)
            if self._receiver.fileno() < 0:
                return  # closed by what was heard

    def _packet(
        self, data: bytes, ancillary: list[tuple[int, int, bytes]], sender: str
    ) -> Packet | None:
        if not isinstance(self._source, IPv6Address):
            return unwrap_ipv4(data)
        hops, destination = -1, None
        for _level, kind, value in ancillary:
            if kind == socket.IPV6_HOPLIMIT:
                hops = struct.unpack("=i", value[:4])[0]
            elif kind == IPV6_PKTINFO:
                destination = IPv6Address(value[:16])
        if destination is None:
            return None
        return Packet(data, ip_address(sender.partition("%")[0]), destination, hops)


def unwrap_ipv4(data: bytes) -> Packet | None:
    """Return the packet inside an IPv4 header, or None if there is no header."""
    if len(data) < 20 or data[0] >> 4 != 4:  # noqa: PLR2004 - IPv4, header of 20 bytes
        return None
    header = (data[0] & 15) * 4
    source, destination = ip_address(data[12:16]), ip_address(data[16:20])
    return Packet(data[header:], source, destination, hops=data[8])

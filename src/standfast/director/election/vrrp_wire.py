"""VRRP version 3 on the wire (RFC 5798, kept by RFC 9568), for IPv4 and IPv6.

    offset  bytes
    0       1     version (3) << 4 | type (1, advertisement) = 0x31
    1       1     vrid, 1..255
    2       1     priority: 0 "I am leaving", 1..254, 255 owner of the address
    3       1     how many addresses follow
    4       2     4 bits zero, 12 bits interval between adverts in centiseconds
    6       2     Internet checksum over pseudo-header and message
    8       4 or 16 each   the addresses; with IPv6 the first is link-local
                  by the RFC, though keepalived does not insist

keepalived 2.2 computes the IPv4 checksum with the pseudo-header too (seen on the
wire); a message without it is refused.

The RFC has no authentication. Between directors of ours a *trailer* may follow:

    0       4     "SFv1"
    4       8     number, big-endian: microseconds since 1970, always greater than
                  in the sender's last advert
    12      16    HMAC-SHA256(key, "standfast vrrp trailer 1", source, message with
                  a zero checksum, number), cut to 16 bytes

The checksum covers the trailer. It authenticates all of the message, the priority
included. Other implementations refuse such a message for its length, so a group
with a foreign member has no key. Pure: no clock, no socket.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from standfast.director.election.checksum import internet_checksum
from standfast.director.election.model import AdvertError, IPAddress

PROTOCOL = 112
GROUP_V4 = IPv4Address("224.0.0.18")
GROUP_V6 = IPv6Address("ff02::12")
HOP_LIMIT = 255
VERSION_TYPE = 0x31
PRIORITY_LEAVING = 0
MAX_INTERVAL = 0xFFF  # 12 bits of centiseconds

_HEAD = struct.Struct(">BBBBHH")
_CHECKSUM_AT = 6
_TRAILER = struct.Struct(">4sQ16s")
_MAGIC = b"SFv1"
_LABEL = b"standfast vrrp trailer 1"


@dataclass(frozen=True)
class VrrpAdvert:
    """What an advert says.

    Attributes:
        vrid: the group, 1..255.
        priority: 0..255; more is better.
        interval: centiseconds between adverts, 1..4095.
        addresses: the virtual addresses, in the order sent.
    """

    vrid: int
    priority: int
    interval: int
    addresses: tuple[IPAddress, ...]


@dataclass(frozen=True)
class Trailer:
    """The authenticated end of an advert of ours, as received.

    Attributes:
        number: microseconds since 1970.
        mac: 16 bytes.
        covered: what the mac must be over, without source and label.
    """

    number: int
    mac: bytes
    covered: bytes

    def authentic(self, key: bytes, source: IPAddress) -> bool:
        """Return whether the message was made with this key for this source."""
        return hmac.compare_digest(self.mac, _mac(self.covered, key, source))


def encode(
    advert: VrrpAdvert, source: IPAddress, destination: IPAddress | None = None
) -> bytes:
    """Return the message of an advert.

    Args:
        advert: what to say.
        source: the address it will be sent from, part of the checksum.
        destination: where to; the group of the family unless given.
    """
    return _with_checksum(_body(advert), source, destination or group_of(source))


def encode_signed(
    advert: VrrpAdvert,
    source: IPAddress,
    destination: IPAddress | None = None,
    *,
    key: bytes,
    number: int,
) -> bytes:
    """Return the message of an advert with an authenticated trailer; see the top."""
    body = _body(advert)
    mac = _mac(body + number.to_bytes(8, "big"), key, source)
    whole = body + _TRAILER.pack(_MAGIC, number, mac)
    return _with_checksum(whole, source, destination or group_of(source))


def _body(advert: VrrpAdvert) -> bytes:
    count = len(advert.addresses)
    head = _HEAD.pack(
        VERSION_TYPE, advert.vrid, advert.priority, count, advert.interval, 0
    )
    return head + b"".join(address.packed for address in advert.addresses)


def _mac(covered: bytes, key: bytes, source: IPAddress) -> bytes:
    return hmac.digest(key, _LABEL + source.packed + covered, "sha256")[:16]


def decode(
    data: bytes, source: IPAddress, destination: IPAddress
) -> tuple[VrrpAdvert, Trailer | None]:
    """Return what a message says and its trailer, whose mac is not yet checked.

    Raises:
        AdvertError: it is no VRRPv3 advert, or the checksum is wrong.
    """
    if len(data) < _HEAD.size:
        raise AdvertError(f"an advert of {len(data)} bytes")
    kind, vrid, priority, count, timing, _ = _HEAD.unpack_from(data)
    if kind != VERSION_TYPE:
        raise AdvertError(f"version and type {kind:#04x}, not {VERSION_TYPE:#04x}")
    each = len(source.packed)
    end = _HEAD.size + count * each
    if len(data) not in (end, end + _TRAILER.size) or count == 0:
        raise AdvertError(f"{count} addresses in {len(data)} bytes")
    if internet_checksum(_pseudo_header(data, source, destination) + data) != 0:
        raise AdvertError("the checksum is wrong")
    interval = timing & MAX_INTERVAL
    if interval == 0:
        raise AdvertError("an interval of 0 centiseconds")
    addresses = _addresses(data[_HEAD.size : end], each)
    trailer = _trailer(data, end) if len(data) > end else None
    return VrrpAdvert(vrid, priority, interval, addresses), trailer


def _addresses(packed: bytes, each: int) -> tuple[IPAddress, ...]:
    kind = IPv4Address if each == 4 else IPv6Address  # noqa: PLR2004 - bytes of IPv4
    return tuple(kind(packed[at : at + each]) for at in range(0, len(packed), each))


def _trailer(data: bytes, at: int) -> Trailer:
    magic, number, mac = _TRAILER.unpack_from(data, at)
    if magic != _MAGIC:
        raise AdvertError("something unknown follows the addresses")
    body = data[:_CHECKSUM_AT] + b"\0\0" + data[_CHECKSUM_AT + 2 : at]
    return Trailer(number, mac, body + number.to_bytes(8, "big"))


def _with_checksum(message: bytes, source: IPAddress, destination: IPAddress) -> bytes:
    header = _pseudo_header(message, source, destination)
    checksum = internet_checksum(header + message)
    at = _CHECKSUM_AT
    return message[:at] + checksum.to_bytes(2, "big") + message[at + 2 :]


def _pseudo_header(message: bytes, source: IPAddress, destination: IPAddress) -> bytes:
    """RFC 793's for IPv4, RFC 8200's for IPv6."""
    ends = source.packed + destination.packed
    if isinstance(source, IPv4Address):
        return ends + struct.pack(">BBH", 0, PROTOCOL, len(message))
    return ends + struct.pack(">IHBB", len(message), 0, 0, PROTOCOL)


def group_of(address: IPAddress) -> IPAddress:
    """Return the multicast group for adverts of an address's family."""
    return GROUP_V4 if isinstance(address, IPv4Address) else GROUP_V6

"""CARP version 2 on the wire: 36 bytes, SHA1-HMAC, and what their counter can carry.

Layout as FreeBSD's ip_carp.c, OpenBSD's and ucarp's carp.c have it; multi-byte
fields are big-endian.

    offset  bytes
    0       1     version (2) << 4 | type (1, advertisement) = 0x21
    1       1     vhid, 1..255
    2       1     advskew, in 1/256 s
    3       1     authlen = 7: 32-bit words of counter and digest
    4       1     FreeBSD and ucarp: 0; OpenBSD: demote count
    5       1     advbase, in s
    6       2     Internet checksum over these 36 bytes, without a pseudo-header
    8       8     counter
    16      20    HMAC-SHA1

The digest's key is the raw passphrase padded with NUL to 20 bytes. Its message is
0x21 with type and version swapped into two octets (version 2, type 1), the vhid, all
IPv4 addresses of the vhid in ascending order, all IPv6 addresses in ascending order
(embedded scope zeroed), and the counter. ucarp hashes the one address it knows, so
with a single IPv4 address all three implementations agree.

**The digest does not cover advskew, advbase and demote**, so whoever can send on the
segment can alter the priority of a captured advert. The counter is covered, and its
value is free: FreeBSD and ucarp draw a random one for every advert until they have
heard another node's, then count on from that by one, and none of them refuses an old
one. We use that freedom for a *seal*:

    counter = 36 bits: time in 1/16 s since 1970, always greater than the last
              28 bits: HMAC-SHA256(passphrase, "standfast carp seal 1", source,
                       vhid, advskew, advbase, demote, the 36 bits), cut

Other implementations see one more random counter. Between directors of ours the seal
makes an altered priority, another sender and an old advert detectable.
Pure: no clock, no socket.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from standfast.director.election.checksum import internet_checksum
from standfast.director.election.model import AdvertError
from standfast.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from standfast.director.election.model import IPAddress

PROTOCOL = 112  # IANA: VRRP; CARP uses it too
GROUP_V4 = "224.0.0.18"
GROUP_V6 = "ff02::12"
HOP_LIMIT = 255  # an advert that passed a router has less
VERSION = 2
ADVERTISEMENT = 1
VERSION_TYPE = VERSION << 4 | ADVERTISEMENT
AUTH_WORDS = 7
SIZE = 36
KEY_BYTES = 20
MAX_SKEW = 240  # CARP_MAXSKEW: what FreeBSD caps a demoted skew at

_HEAD = struct.Struct(">BBBBBBHQ")
_SEAL_LABEL = b"standfast carp seal 1"
SEAL_TAG_BITS = 28
SEAL_TICKS_PER_SECOND = 16
SEAL_TIME_BITS = 36


@dataclass(frozen=True)
class CarpAdvert:
    """What an advert says.

    Attributes:
        vhid: the group, 1..255.
        advskew: 1/256 s that are added to advbase; less is better.
        advbase: seconds between adverts.
        counter: 64 bits that the digest covers.
        demote: OpenBSD's demote count; 0 with all others.
    """

    vhid: int
    advskew: int
    advbase: int
    counter: int = 0
    demote: int = 0


def encode(advert: CarpAdvert, key: bytes, addresses: Iterable[IPAddress]) -> bytes:
    """Return the 36 bytes of an advert.

    Args:
        advert: what to say.
        key: the passphrase, at most 20 bytes (FreeBSD keeps 19 of them).
        addresses: the virtual addresses of the vhid, in any order.

    Raises:
        UsageError: the key is longer than 20 bytes.
    """
    head = _head(advert, 0)
    whole = head + digest(advert, key, addresses)
    return _head(advert, internet_checksum(whole)) + whole[_HEAD.size :]


def _head(advert: CarpAdvert, checksum: int) -> bytes:
    return _HEAD.pack(
        VERSION_TYPE,
        advert.vhid,
        advert.advskew,
        AUTH_WORDS,
        advert.demote,
        advert.advbase,
        checksum,
        advert.counter,
    )


def decode(data: bytes) -> CarpAdvert:
    """Return what 36 bytes say; whether they are authentic is for ``authentic``.

    Raises:
        AdvertError: they are no CARP advert, or the checksum is wrong.
    """
    if len(data) != SIZE:
        raise AdvertError(f"an advert of {len(data)} bytes, not {SIZE}")
    kind, vhid, advskew, words, demote, advbase, _, counter = _HEAD.unpack_from(data)
    if kind != VERSION_TYPE:
        raise AdvertError(f"version and type {kind:#04x}, not {VERSION_TYPE:#04x}")
    if words != AUTH_WORDS:
        raise AdvertError(f"authentication of {words} words, not {AUTH_WORDS}")
    if internet_checksum(data) != 0:
        raise AdvertError("the checksum is wrong")
    return CarpAdvert(vhid, advskew, advbase, counter, demote)


def authentic(data: bytes, key: bytes, addresses: Iterable[IPAddress]) -> bool:
    """Return whether a decodable advert was made with this key and these addresses."""
    expected = digest(decode(data), key, addresses)
    return hmac.compare_digest(expected, data[_HEAD.size :])


def digest(advert: CarpAdvert, key: bytes, addresses: Iterable[IPAddress]) -> bytes:
    """Return the 20 bytes of HMAC-SHA1; see the module's text.

    Raises:
        UsageError: the key is longer than 20 bytes.
    """
    message = (
        bytes((VERSION, ADVERTISEMENT, advert.vhid))
        + b"".join(_in_hash_order(addresses))
        + advert.counter.to_bytes(8, "big")
    )
    return hmac.digest(padded_key(key), message, "sha1")


def padded_key(key: bytes) -> bytes:
    """Return the passphrase as all implementations keep it.

    Raises:
        UsageError: it is longer than the 20 bytes that CARP has for it.
    """
    if len(key) > KEY_BYTES:
        raise UsageError(
            f"the CARP passphrase has {len(key)} bytes, more than {KEY_BYTES}",
            hint="FreeBSD's ifconfig keeps 19 bytes; use a shorter one on all nodes",
        )
    return key.ljust(KEY_BYTES, b"\0")


def _in_hash_order(addresses: Iterable[IPAddress]) -> list[bytes]:
    """Return packed addresses, IPv4 first, each family ascending, scope zeroed."""
    family_then_value = sorted((a.version, a.packed) for a in set(addresses))
    return [
        packed if version == 4 else _without_scope(packed)  # noqa: PLR2004 - IPv4
        for version, packed in family_then_value
    ]


def _without_scope(packed: bytes) -> bytes:
    """Zero the bytes in which KAME stacks keep a link-local address's interface."""
    if packed[0] == 0xFE and packed[1] & 0xC0 == 0x80:  # noqa: PLR2004 - fe80::/10
        return packed[:2] + b"\0\0" + packed[4:]
    return packed


def seal(
    advert: CarpAdvert, key: bytes, source: IPAddress, *, ticks: int
) -> CarpAdvert:
    """Return the advert with a counter that covers its priority, sender and time.

    Args:
        advert: its counter is replaced.
        key: the passphrase.
        source: the address the advert will be sent from.
        ticks: 1/16 s since 1970, greater than in the last advert of this sender.
    """
    tag = _seal_tag(advert, key, source, ticks)
    return CarpAdvert(
        advert.vhid,
        advert.advskew,
        advert.advbase,
        ticks << SEAL_TAG_BITS | tag,
        advert.demote,
    )


def sealed_ticks(advert: CarpAdvert, key: bytes, source: IPAddress) -> int | None:
    """Return the time inside an advert's seal (1/16 s), or None if it is not sealed.

    An unsealed advert passes for sealed once in 2**28.
    """
    ticks, tag = divmod(advert.counter, 1 << SEAL_TAG_BITS)
    return ticks if tag == _seal_tag(advert, key, source, ticks) else None


def _seal_tag(advert: CarpAdvert, key: bytes, source: IPAddress, ticks: int) -> int:
    fields = (advert.vhid, advert.advskew, advert.advbase, advert.demote)
    message = _SEAL_LABEL + source.packed + bytes(fields) + ticks.to_bytes(8, "big")
    mac = hmac.digest(padded_key(key), message, "sha256")
    return int.from_bytes(mac[:4], "big") >> 32 - SEAL_TAG_BITS


def virtual_mac(vhid: int) -> bytes:
    """Return the group's Ethernet address on FreeBSD and OpenBSD.

    ucarp sends from 00:00:5e:00:00:VHID instead, and we from the card's own address,
    which all of them accept.
    """
    return bytes((0x00, 0x00, 0x5E, 0x00, 0x01, vhid))


def group_of(address: IPAddress) -> str:
    """Return the multicast group for adverts of an address's family."""
    return GROUP_V4 if isinstance(address, IPv4Address) else GROUP_V6

"""Adverts to the byte: captured ones, laws, and everything that must be refused."""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from standfast.director.election import carp_wire, neighbours, vrrp_wire
from standfast.director.election.carp_wire import CarpAdvert
from standfast.director.election.checksum import internet_checksum
from standfast.director.election.codec import (
    CarpCodec,
    Packet,
    Refusal,
    RefusedError,
    SealedCarpCodec,
    SignedVrrpCodec,
    VrrpCodec,
)
from standfast.director.election.model import AdvertError, IPAddress
from standfast.director.election.segment import unwrap_ipv4
from standfast.director.election.vrrp_wire import VrrpAdvert
from standfast.errors import UsageError

# tcpdump -x of ucarp 1.5.2 (-v 7 -p secret -a 10.50.0.100 -b 1 -k 20), whole packets.
UCARP = [
    (
        "451000384dbb4000ff7043440a320002e0000012210714070001"
        "42c1ce8912f4f8e46f936b627ad0f617530fc084072afce8ce2142183a0d"
    ),
    (
        "45100038877e4000ff7009810a320002e0000012210714070001"
        "be50055088982a29c9520711109393d60b7ab81ab2324775327f97a35861"
    ),
    (
        "45100038344b4000ff705cb40a320002e0000012210714070001"
        "d30125707ee493889c40bed125c40267610a0c3f045441a7a12b731e7545"
    ),
]
# tcpdump -x of keepalived 2.2.7, vrrp_version 3, advert_int 1.
KEEPALIVED = "45c0002000010000ff70d0670a320001e00000123107c8010064113b0a320064"
VIP = IPv4Address("10.50.0.100")
OURS, THEIRS = IPv4Address("10.50.0.1"), IPv4Address("10.50.0.2")
WALL = 1_795_000_000.0

addresses_v4 = st.lists(st.ip_addresses(v=4), min_size=1, max_size=5).map(tuple)
addresses_v6 = st.lists(st.ip_addresses(v=6), min_size=1, max_size=5).map(tuple)
octets = st.integers(0, 255)
carp_adverts = st.builds(
    CarpAdvert,
    vhid=st.integers(1, 255),
    advskew=octets,
    advbase=octets,
    counter=st.integers(0, 2**64 - 1),
    demote=octets,
)
keys = st.binary(min_size=1, max_size=20)


@pytest.mark.parametrize("text", UCARP)
def test_ucarps_adverts_are_read_verified_and_made_again(text: str) -> None:
    packet = unwrap_ipv4(bytes.fromhex(text))
    assert packet is not None
    assert (THEIRS, 255) == (packet.source, packet.hops)
    advert = carp_wire.decode(packet.data)
    assert (7, 20, 1, 0) == (
        advert.vhid,
        advert.advskew,
        advert.advbase,
        advert.demote,
    )
    assert carp_wire.authentic(packet.data, b"secret", [VIP])
    assert not carp_wire.authentic(packet.data, b"Secret", [VIP])
    assert not carp_wire.authentic(packet.data, b"secret", [VIP + 1])
    assert packet.data == carp_wire.encode(advert, b"secret", [VIP])


def test_keepaliveds_advert_is_read_and_made_again() -> None:
    packet = unwrap_ipv4(bytes.fromhex(KEEPALIVED))
    assert packet is not None
    advert, trailer = vrrp_wire.decode(packet.data, packet.source, packet.destination)
    assert VrrpAdvert(7, 200, 100, (VIP,)) == advert
    assert trailer is None
    assert packet.data == vrrp_wire.encode(advert, packet.source)


def sha1_hmac_by_hand(key: bytes, message: bytes) -> bytes:
    """RFC 2104 from its definition, as carp_hmac_prepare() builds it."""
    block = key.ljust(64, b"\0")
    inner = hashlib.sha1(bytes(b ^ 0x36 for b in block) + message).digest()
    return hashlib.sha1(bytes(b ^ 0x5C for b in block) + inner).digest()


def test_freebsds_digest_covers_all_addresses_in_its_order() -> None:
    """IPv4 ascending by number, then IPv6 by bytes, link-local without its scope."""
    given_order = ["192.0.2.20", "2001:db8::1", "10.0.0.9", "fe80::7", "192.0.2.3"]
    advert = CarpAdvert(vhid=3, advskew=100, advbase=1, counter=0x0102030405060708)
    message = (
        b"\x02\x01\x03"
        + IPv4Address("10.0.0.9").packed
        + IPv4Address("192.0.2.3").packed
        + IPv4Address("192.0.2.20").packed
        + IPv6Address("2001:db8::1").packed
        + IPv6Address("fe80::7").packed
        + bytes(range(1, 9))
    )
    addresses = [ip_address(a) for a in given_order]
    scoped = [*addresses[:3], IPv6Address("fe80:4::7"), addresses[4]]
    expected = sha1_hmac_by_hand(b"pass".ljust(20, b"\0"), message)
    assert expected == carp_wire.digest(advert, b"pass", addresses)
    assert expected == carp_wire.digest(advert, b"pass", scoped)


def test_a_passphrase_that_others_would_cut_is_refused() -> None:
    with pytest.raises(UsageError, match="21 bytes"):
        carp_wire.padded_key(b"x" * 21)


@given(carp_adverts, keys, addresses_v4, st.randoms())
def test_carp_round_trip_whatever_the_order_of_addresses(
    advert: CarpAdvert, key: bytes, addresses: tuple[IPv4Address, ...], random: object
) -> None:
    data = carp_wire.encode(advert, key, addresses)
    assert 36 == len(data)
    assert 0 == internet_checksum(data)
    assert advert == carp_wire.decode(data)
    shuffled = list(addresses)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert carp_wire.authentic(data, key, shuffled)


@given(carp_adverts, keys, st.integers(0, 36 * 8 - 1))
def test_any_flipped_bit_makes_carp_unbelievable(
    advert: CarpAdvert, key: bytes, bit: int
) -> None:
    """By the checksum: a bit that is set in one place only always changes it."""
    data = bytearray(carp_wire.encode(advert, key, [VIP]))
    data[bit // 8] ^= 1 << bit % 8
    with pytest.raises(AdvertError):
        carp_wire.decode(bytes(data))


@given(
    st.integers(1, 255),
    octets,
    st.integers(1, 4095),
    st.one_of(addresses_v4, addresses_v6),
    st.booleans(),
)
def test_vrrp_round_trip(
    vrid: int,
    priority: int,
    interval: int,
    addresses: tuple[IPAddress, ...],
    signed: bool,  # noqa: FBT001 - drawn
) -> None:
    advert = VrrpAdvert(vrid, priority, interval, addresses)
    source = addresses[0]
    destination = vrrp_wire.group_of(source)
    if signed:
        data = vrrp_wire.encode_signed(advert, source, key=b"k", number=7)
    else:
        data = vrrp_wire.encode(advert, source)
    read, trailer = vrrp_wire.decode(data, source, destination)
    assert advert == read
    assert signed == (trailer is not None)
    if trailer is not None:
        assert trailer.authentic(b"k", source)
        assert not trailer.authentic(b"l", source)
        other = type(source)(int(source) ^ 1)
        assert not trailer.authentic(b"k", other)


@given(st.binary(max_size=80))
def test_noise_is_refused_and_nothing_worse(data: bytes) -> None:
    for decode in (
        lambda: carp_wire.decode(data),
        lambda: vrrp_wire.decode(data, OURS, vrrp_wire.GROUP_V4),
        lambda: unwrap_ipv4(data),
    ):
        try:
            decode()
        except AdvertError:
            continue


def packet(data: bytes, source: IPv4Address = THEIRS, hops: int = 255) -> Packet:
    return Packet(data, source, vrrp_wire.GROUP_V4, hops)


def refusal(codec: object, received: Packet, wall: float = WALL) -> Refusal:
    with pytest.raises(RefusedError) as caught:
        codec.decode(received, wall)  # type: ignore[attr-defined]
    return caught.value.refusal


def repaired(data: bytes) -> bytes:
    """A forger's checksum is right."""
    bare = data[:6] + b"\0\0" + data[8:]
    return bare[:6] + internet_checksum(bare).to_bytes(2, "big") + bare[8:]


def carp_codec(
    kind: type[CarpCodec], source: IPv4Address, **words: object
) -> CarpCodec:
    return kind(7, b"secret", (VIP,), source=source, **words)  # type: ignore[arg-type]


def test_an_altered_priority_is_refused_between_ours() -> None:
    """The hole in CARP's digest: ucarp's layout alone would believe it."""
    sender = carp_codec(SealedCarpCodec, THEIRS)
    data = sender.encode(CarpAdvert(7, 100, 1), WALL)
    altered = repaired(data[:2] + b"\x00" + data[3:])
    assert carp_wire.authentic(altered, b"secret", [VIP])
    receiver = carp_codec(SealedCarpCodec, OURS)
    assert Refusal.FORGED is refusal(receiver, packet(altered))
    assert 100 == receiver.decode(packet(data), WALL).advskew
    assert Refusal.REPLAYED is refusal(receiver, packet(data))


def test_a_sealed_advert_is_its_senders_alone() -> None:
    data = carp_codec(SealedCarpCodec, THEIRS).encode(CarpAdvert(7, 0, 1), WALL)
    receiver = carp_codec(SealedCarpCodec, OURS)
    assert Refusal.FORGED is refusal(receiver, packet(data, source=THEIRS + 1))


def test_a_recording_is_refused_even_after_a_restart() -> None:
    data = carp_codec(SealedCarpCodec, THEIRS).encode(CarpAdvert(7, 0, 1), WALL)
    fresh = carp_codec(SealedCarpCodec, OURS)
    assert Refusal.REPLAYED is refusal(fresh, packet(data), WALL + 3600)


def test_ucarps_repeats_and_copies_are_refused() -> None:
    """With others only an exact counter can be told, so an altered copy too."""
    receiver = carp_codec(CarpCodec, OURS)
    first, second = (unwrap_ipv4(bytes.fromhex(text)) for text in UCARP[:2])
    assert first is not None
    assert second is not None
    assert 20 == receiver.decode(first, WALL).advskew
    assert 20 == receiver.decode(second, WALL).advskew
    assert Refusal.REPLAYED is refusal(receiver, first)
    altered = repaired(second.data[:2] + b"\xf0" + second.data[3:])
    assert Refusal.REPLAYED is refusal(receiver, packet(altered))


def test_our_own_adverts_do_not_come_back() -> None:
    codec = carp_codec(CarpCodec, OURS)
    data = codec.encode(CarpAdvert(7, 0, 1), WALL)
    assert Refusal.REFLECTED is refusal(codec, packet(data, source=OURS))
    assert Refusal.REPLAYED is refusal(codec, packet(data, source=THEIRS))


def test_carps_other_refusals() -> None:
    data = carp_codec(CarpCodec, THEIRS).encode(CarpAdvert(7, 0, 1), WALL)
    receiver = carp_codec(CarpCodec, OURS, peers=frozenset({THEIRS}))
    stranger = packet(data, source=THEIRS + 1)
    assert Refusal.FAR is refusal(receiver, packet(data, hops=254))
    assert Refusal.STRANGER is refusal(receiver, stranger)
    assert Refusal.MALFORMED is refusal(receiver, packet(data[:-1]))
    assert Refusal.FORGED is refusal(
        CarpCodec(7, b"other", (VIP,), source=OURS), packet(data)
    )
    assert Refusal.FOREIGN is refusal(
        CarpCodec(8, b"secret", (VIP,), source=OURS), packet(data)
    )


def test_signed_vrrp_refuses_unsigned_altered_and_old() -> None:
    advert = VrrpAdvert(7, 100, 10, (VIP,))
    sender = SignedVrrpCodec(7, source=THEIRS, key=b"key")
    receiver = SignedVrrpCodec(7, source=OURS, key=b"key")
    first, second = sender.encode(advert, WALL), sender.encode(advert, WALL)
    assert advert == receiver.decode(packet(second), WALL)
    assert Refusal.REPLAYED is refusal(receiver, packet(second))
    assert Refusal.REPLAYED is refusal(receiver, packet(first))
    third = sender.encode(advert, WALL)
    for at in (2, 4, 5, 8, 12, 20, len(third) - 1):
        altered = bytearray(third)
        altered[at] ^= 1
        pseudo = THEIRS.packed + vrrp_wire.GROUP_V4.packed
        pseudo += bytes((0, 112)) + len(altered).to_bytes(2, "big")
        altered[6:8] = b"\0\0"
        altered[6:8] = internet_checksum(pseudo + bytes(altered)).to_bytes(2, "big")
        found = refusal(receiver, packet(bytes(altered)))
        assert found in (Refusal.FORGED, Refusal.MALFORMED)
    plain = VrrpCodec(7, source=THEIRS).encode(advert, WALL)
    assert Refusal.FORGED is refusal(receiver, packet(plain))
    assert advert == receiver.decode(packet(third), WALL)


def test_plain_vrrp_refuses_a_message_with_a_trailer_it_does_not_know() -> None:
    """keepalived's length check does the same to our signed adverts."""
    data = vrrp_wire.encode(VrrpAdvert(7, 100, 10, (VIP,)), THEIRS) + b"\0" * 28
    codec = VrrpCodec(7, source=OURS)
    assert Refusal.MALFORMED is refusal(codec, packet(data))


def test_gratuitous_arp_to_the_byte() -> None:
    mac = bytes.fromhex("020304050607")
    request, reply = neighbours.announcements(VIP, mac)
    common = "ffffffffffff020304050607080600010800060400"
    body = "0203040506070a320064"
    assert f"{common}01{body}0000000000000a320064" == request.hex()
    assert f"{common}02{body}ffffffffffff0a320064" == reply.hex()


def test_unsolicited_neighbour_advertisement() -> None:
    """All nodes, hop limit 255, router and override, and a checksum that sums to 0."""
    address = IPv6Address("fd50::100")
    (frame,) = neighbours.announcements(address, bytes.fromhex("020304050607"))
    assert "33330000000102030405060786dd" == frame[:14].hex()
    header, message = frame[14:54], frame[54:]
    assert "60000000" + "0020" + "3a" + "ff" == header[:8].hex()
    assert address.packed + IPv6Address("ff02::1").packed == header[8:]
    assert b"\x88\x00" == message[:2]
    assert bytes.fromhex("a0000000") + address.packed == message[4:24]
    assert bytes.fromhex("0201020304050607") == message[24:]
    pseudo = header[8:] + (32).to_bytes(4, "big") + (58).to_bytes(4, "big")
    assert 0 == internet_checksum(pseudo + message)

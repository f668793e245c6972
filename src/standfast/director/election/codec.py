"""From packets to adverts that may be believed, and back. Pure but for its memory.

A packet is refused with a Refusal, which is counted by kind; only what passes every
check reaches a state machine. Checks, in order: hop limit 255 (so it comes from this
segment), not our own, whole, of our group, from a known peer where peers are named,
authentic, fresh.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from standfast.director.election import carp_wire, vrrp_wire
from standfast.director.election.freshness import GrowingNumbers, SeenCounters
from standfast.director.election.model import AdvertError, IPAddress

if TYPE_CHECKING:
    from standfast.director.election.carp_wire import CarpAdvert
    from standfast.director.election.vrrp_wire import VrrpAdvert

MICROSECONDS = 1_000_000


class Refusal(Enum):
    """Why a packet was not believed."""

    FOREIGN = "of another group"
    FAR = "from beyond this segment"
    REFLECTED = "our own, come back"
    MALFORMED = "malformed"
    STRANGER = "from an unknown sender"
    FORGED = "not authentic"
    REPLAYED = "replayed"


class RefusedError(AdvertError):
    """A packet was not believed.

    Attributes:
        refusal: the kind, for counting.
    """

    def __init__(self, refusal: Refusal, message: str) -> None:
        super().__init__(message)
        self.refusal = refusal


@dataclass(frozen=True)
class Packet:
    """What arrived.

    Attributes:
        data: behind the IP header.
        source: who sent it, as the IP header has it.
        destination: whom to.
        hops: TTL or hop limit on arrival.
    """

    data: bytes
    source: IPAddress
    destination: IPAddress
    hops: int


A = TypeVar("A")


class Codec(Protocol, Generic[A]):
    """The packets of one group."""

    def encode(self, advert: A, wall: float) -> bytes:
        """Return the bytes to send at ``wall``, seconds since 1970."""
        ...

    def decode(self, packet: Packet, wall: float) -> A:
        """Return what a packet says.

        Raises:
            RefusedError: it may not be believed.
        """
        ...


def _check_way(packet: Packet, source: IPAddress, peers: frozenset[IPAddress]) -> None:
    if packet.source == source:
        raise RefusedError(Refusal.REFLECTED, "it carries our own address")
    if packet.hops != carp_wire.HOP_LIMIT:
        raise RefusedError(Refusal.FAR, f"its hop limit is {packet.hops}, not 255")
    if peers and packet.source not in peers:
        raise RefusedError(Refusal.STRANGER, f"{packet.source} is no peer")


class CarpCodec:
    """CARP adverts of one vhid.

    Args:
        vhid: the group.
        key: the passphrase.
        addresses: the virtual addresses.
        source: where our adverts come from.
        peers: who may speak; everybody if empty.
    """

    def __init__(
        self,
        vhid: int,
        key: bytes,
        addresses: tuple[IPAddress, ...],
        *,
        source: IPAddress,
        peers: frozenset[IPAddress] = frozenset(),
    ) -> None:
        self._vhid = vhid
        self._key = carp_wire.padded_key(key).rstrip(b"\0")
        self._addresses = addresses
        self._source = source
        self._peers = peers
        self._numbers = GrowingNumbers(carp_wire.SEAL_TICKS_PER_SECOND)
        self._seen = SeenCounters()

    def encode(self, advert: CarpAdvert, wall: float) -> bytes:
        """Return a sealed advert; see Codec."""
        ticks = self._numbers.own(wall)
        sealed = carp_wire.seal(advert, self._key, self._source, ticks=ticks)
        self._seen.add(sealed.counter)
        return carp_wire.encode(sealed, self._key, self._addresses)

    def decode(self, packet: Packet, wall: float) -> CarpAdvert:
        """Return what a packet says; see Codec."""
        _check_way(packet, self._source, self._peers)
        try:
            advert = carp_wire.decode(packet.data)
        except AdvertError as error:
            raise RefusedError(Refusal.MALFORMED, error.message) from None
        if advert.vhid != self._vhid:
            raise RefusedError(Refusal.FOREIGN, f"it is of vhid {advert.vhid}")
        if not carp_wire.authentic(packet.data, self._key, self._addresses):
            raise RefusedError(
                Refusal.FORGED, "another passphrase or other addresses made its digest"
            )
        self._check_fresh(advert, packet.source, wall)
        return advert

    def _check_fresh(
        self,
        advert: CarpAdvert,
        source: IPAddress,  # noqa: ARG002 - the seal needs it
        wall: float,  # noqa: ARG002 - the seal needs it
    ) -> None:
        if not self._seen.add(advert.counter):
            raise RefusedError(Refusal.REPLAYED, "its counter was heard before")


class SealedCarpCodec(CarpCodec):
    """CARP adverts of a vhid that has directors of ours only: the seal is a must."""

    def _check_fresh(self, advert: CarpAdvert, source: IPAddress, wall: float) -> None:
        ticks = carp_wire.sealed_ticks(advert, self._key, source)
        if ticks is None:
            raise RefusedError(
                Refusal.FORGED, "its priority or sender is not what was sealed"
            )
        complaint = self._numbers.complaint(source, ticks, wall)
        if complaint:
            raise RefusedError(Refusal.REPLAYED, complaint)
        self._numbers.accept(source, ticks)


class VrrpCodec:
    """VRRPv3 adverts of one vrid, as everybody speaks it: nothing is authentic.

    Args:
        vrid: the group.
        source: where our adverts come from.
        destination: where to; the multicast group unless given.
        peers: who may speak; everybody if empty.
    """

    def __init__(
        self,
        vrid: int,
        *,
        source: IPAddress,
        destination: IPAddress | None = None,
        peers: frozenset[IPAddress] = frozenset(),
    ) -> None:
        self._vrid = vrid
        self._source = source
        self._destination = destination or vrrp_wire.group_of(source)
        self._peers = peers

    def encode(self, advert: VrrpAdvert, wall: float) -> bytes:  # noqa: ARG002
        """Return an advert; see Codec."""
        return vrrp_wire.encode(advert, self._source, self._destination)

    def decode(self, packet: Packet, wall: float) -> VrrpAdvert:
        """Return what a packet says; see Codec."""
        _check_way(packet, self._source, self._peers)
        try:
            advert, trailer = vrrp_wire.decode(
                packet.data, packet.source, packet.destination
            )
        except AdvertError as error:
            raise RefusedError(Refusal.MALFORMED, error.message) from None
        if advert.vrid != self._vrid:
            raise RefusedError(Refusal.FOREIGN, f"it is of vrid {advert.vrid}")
        self._check_trailer(trailer, packet.source, wall)
        return advert

    def _check_trailer(
        self, trailer: vrrp_wire.Trailer | None, source: IPAddress, wall: float
    ) -> None:
        """Nothing to check: a trailer without a key says nothing."""


class SignedVrrpCodec(VrrpCodec):
    """VRRPv3 adverts of a vrid that has directors of ours only, with a shared key."""

    def __init__(
        self,
        vrid: int,
        *,
        source: IPAddress,
        key: bytes,
        destination: IPAddress | None = None,
        peers: frozenset[IPAddress] = frozenset(),
    ) -> None:
        super().__init__(vrid, source=source, destination=destination, peers=peers)
        self._key = key
        self._numbers = GrowingNumbers(MICROSECONDS)

    def encode(self, advert: VrrpAdvert, wall: float) -> bytes:
        """Return an advert with its trailer; see Codec."""
        return vrrp_wire.encode_signed(
            advert,
            self._source,
            self._destination,
            key=self._key,
            number=self._numbers.own(wall),
        )

    def _check_trailer(
        self, trailer: vrrp_wire.Trailer | None, source: IPAddress, wall: float
    ) -> None:
        if trailer is None or not trailer.authentic(self._key, source):
            raise RefusedError(Refusal.FORGED, "no trailer that our key has made")
        complaint = self._numbers.complaint(source, trailer.number, wall)
        if complaint:
            raise RefusedError(Refusal.REPLAYED, complaint)
        self._numbers.accept(source, trailer.number)

"""The words that every election shares: roles, what may happen, what to do about it.

A protocol's state machine is ``step(state, event, now) -> (state, actions)``. It
reads no clock and holds no timer: ``state.deadline`` says when to come back with a
Tick. Seconds are of a monotonic clock that the caller owns. Nothing here touches a
machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import Generic, TypeVar

from standfast.errors import StandfastError

IPAddress = IPv4Address | IPv6Address

# What a rank may be. 0 is "not fit": such a node never holds an address.
RANK_UNFIT = 0
RANK_LOWEST = 1
RANK_HIGHEST = 254


class ElectionError(StandfastError):
    """Taking part is impossible: an interface, a socket or a command refused."""


class AdvertError(StandfastError):
    """What arrived is no advert that may be believed."""


class Role(Enum):
    """What a node is for one group of addresses."""

    INIT = "init"
    BACKUP = "backup"
    MASTER = "master"


@dataclass(frozen=True)
class RoleChange:
    """A change of role with the sentence that explains it.

    Attributes:
        role: what the node is from now on.
        sentence: why, for logs and status.
        at: when, in seconds of the election's monotonic clock.
    """

    role: Role
    sentence: str
    at: float


# What may happen.


@dataclass(frozen=True)
class Start:
    """The election begins.

    Attributes:
        inherited: whether an address of the group is already configured here, left
            by a daemon that died or was restarted.
    """

    inherited: bool = False


@dataclass(frozen=True)
class Stop:
    """The daemon ends in good order and hands over."""


@dataclass(frozen=True)
class Abandon:
    """The daemon ends and leaves addresses where they are, for its successor."""


@dataclass(frozen=True)
class Ranked:
    """The node's own worth changed (RANK_UNFIT..RANK_HIGHEST)."""

    rank: int
    reason: str


@dataclass(frozen=True)
class LinkDown:
    """The interface lost its carrier: nobody hears us, we hear nobody."""


@dataclass(frozen=True)
class LinkUp:
    """The interface works again."""


@dataclass(frozen=True)
class Sent:
    """An advert was handed to the network, or could not be."""

    well: bool


@dataclass(frozen=True)
class Tick:
    """Time passed; the deadline may have been reached."""


A = TypeVar("A")


@dataclass(frozen=True)
class Heard(Generic[A]):
    """An advert arrived that is whole and, where there is a key, authentic."""

    source: IPAddress
    advert: A


Event = Start | Stop | Abandon | Ranked | LinkDown | LinkUp | Sent | Tick | Heard[A]

# What to do.


@dataclass(frozen=True)
class Send(Generic[A]):
    """Multicast this advert now."""

    advert: A


@dataclass(frozen=True)
class Farewell(Generic[A]):
    """Multicast this advert once the address is gone from here."""

    advert: A


@dataclass(frozen=True)
class Take:
    """Become the holder of the addresses (again, if it holds them already)."""

    reason: str


@dataclass(frozen=True)
class Leave:
    """Stop holding the addresses."""

    reason: str


@dataclass(frozen=True)
class Announce:
    """Tell neighbours again where the addresses are."""

    reason: str


Action = Send[A] | Farewell[A] | Take | Leave | Announce

"""In which order an address changes hands: steps that carry their why. Pure.

Taking: rules, address, neighbours, guard off, proof. The guard drops what clients and
backends send until the whole way stands; without it the kernel answers an established
connection with RST (measured: 0 of 15 connections survive, with it all). Leaving:
guard on, address away, own flows away: stale connection tracking entries would break
these connections when they come back (measured: 0 of 8 survive a failback, with the
flush all).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from standfast.director.election.model import IPAddress


class Doing(Enum):
    """What a step does."""

    LOAD_RULES = "load the rules"
    ADD_ADDRESS = "add the address"
    REMOVE_ADDRESS = "remove the address"
    TELL_NEIGHBOURS = "tell the neighbours"
    GUARD_ON = "put the guard on"
    GUARD_OFF = "take the guard off"
    VERIFY = "probe through the address"
    FLUSH_FLOWS = "forget the flows"


@dataclass(frozen=True)
class HandStep:
    """One step.

    Attributes:
        doing: what to do.
        addresses: to which; empty where it concerns the whole data plane.
        why: a sentence.
        vital: whether a failure ends the takeover; the rest is logged and goes on.
    """

    doing: Doing
    addresses: tuple[IPAddress, ...]
    why: str
    vital: bool = False


def taking(
    addresses: tuple[IPAddress, ...], present: frozenset[IPAddress]
) -> tuple[HandStep, ...]:
    """Return the steps to become the holder.

    Args:
        addresses: the group's.
        present: those already configured here; they are added again all the same
            when missing, and told to the neighbours either way.
    """
    missing = tuple(a for a in addresses if a not in present)
    add = HandStep(Doing.ADD_ADDRESS, missing, "clients' packets come here", vital=True)
    return (
        HandStep(Doing.LOAD_RULES, (), "no packet may find no rule", vital=True),
        *((add,) if missing else ()),
        HandStep(Doing.TELL_NEIGHBOURS, addresses, "their caches name the old holder"),
        HandStep(Doing.GUARD_OFF, (), "the whole way stands", vital=True),
        HandStep(Doing.VERIFY, addresses, "believe it only when it was seen to work"),
    )


def leaving(
    addresses: tuple[IPAddress, ...], present: frozenset[IPAddress]
) -> tuple[HandStep, ...]:
    """Return the steps to hold the addresses no more.

    A failing guard does not keep an address here: two holders are worse than a gap.
    """
    here = tuple(a for a in addresses if a in present)
    if not here:
        return (HandStep(Doing.GUARD_ON, (), "this node is no holder"),)
    return (
        HandStep(Doing.GUARD_ON, (), "late packets must not be answered by us"),
        HandStep(Doing.REMOVE_ADDRESS, here, "another node holds it", vital=True),
        HandStep(Doing.FLUSH_FLOWS, (), "stale entries would break them on return"),
    )

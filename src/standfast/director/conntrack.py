"""The flows that Linux tracks, read from ``conntrack -L -o extended``; pure.

An entry has two halves: how the first packet looked, and how the answer will. A
client's first packet gives (client, virtual) and (backend, client). When a backend
spoke first, as after a failover, the halves are the other way round: (backend,
client) and (client, virtual). Both say the same flow. Entries that are no such pair,
or of an unknown form, are left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.director.model import Address, Flow

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

    from standfast.director.model import Proto

ARGV = ("conntrack", "-L", "-o", "extended")
# Nothing of the client's is under way any more; the rest may still carry data.
OVER = frozenset({"TIME_WAIT", "CLOSE"})

_HEAD = re.compile(
    r"^ipv[46]\s+\d+\s+(?P<proto>tcp|udp)\s+\d+\s+(?P<seconds>\d+)\s+"
    r"(?P<state>[A-Z_0-9]+)?\s*src="
)
_AGE = re.compile(r" delta-time=(\d+)")
_HALF = re.compile(r"src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+)")


@dataclass(frozen=True)
class Entry:
    """One line: (source, destination) of the first packet and of the answer.

    Attributes:
        first: as the first packet came in.
        answer: as the answer to it comes in.
        state: of TCP, empty for UDP.
        seconds: until the kernel forgets it, if nothing more is heard.
        age: seconds since its first packet; None unless the kernel notes times
            (net.netfilter.nf_conntrack_timestamp).
    """

    first: tuple[Address, Address]
    answer: tuple[Address, Address]
    state: str
    seconds: int
    age: int | None = None


def entries(listing: str) -> Iterator[Entry]:
    """Yield what each readable line says."""
    for line in listing.splitlines():
        head = _HEAD.match(line)
        halves = _HALF.findall(line)
        if head is None or len(halves) != 2:  # noqa: PLR2004 - see Entry
            continue
        proto: Proto = "udp" if head["proto"] == "udp" else "tcp"
        first, answer = (_half(half, proto) for half in halves)
        age = _AGE.search(line)
        yield Entry(
            first,
            answer,
            head["state"] or "",
            int(head["seconds"]),
            int(age[1]) if age else None,
        )


def _half(words: tuple[str, str, str, str], proto: Proto) -> tuple[Address, Address]:
    source, destination, sport, dport = words
    return Address(source, int(sport), proto), Address(destination, int(dport), proto)


def flows(found: Iterable[Entry], virtuals: Container[Address]) -> Iterator[Flow]:
    """Yield the flows through any of the virtual addresses."""
    for entry in found:
        (source, target), (answerer, answered) = entry.first, entry.answer
        if target in virtuals and answered == source:
            client, virtual, backend = source, target, answerer
        elif answered in virtuals and answerer == target:
            client, virtual, backend = target, answered, source
        else:
            continue
        yield Flow(client, virtual, backend, entry.state, entry.seconds, entry.age)

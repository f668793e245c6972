"""Which backend each hash slot belongs to, and which slot a client hashes to; pure.

The table over all configured backends is a Maglev table (Eisenbud et al., NSDI
2016): even to within a slot of the weights. Slots of backends that are out are
dealt to the others by weighted rendezvous hashing, slot by slot. So taking one out
moves only its own slots, in whatever order others went before, and bringing it back
restores them: a plain Maglev fill moves about a quarter more. The slot of a client
is Linux' jhash as nftables evaluates it.
"""

from __future__ import annotations

import ipaddress
import math
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from standfast.director.model import Address

Weights = tuple[tuple[str, int], ...]
_MASK = 0xFFFFFFFF


@lru_cache(maxsize=64)
def full_table(weights: Weights, slots: int, seed: int) -> tuple[str, ...]:
    """Return the Maglev table over all backends.

    Args:
        weights: (name, weight) of each; the order does not matter.
        slots: a prime, well above the number of backends.
        seed: the same on every director.
    """
    members = sorted(member for member in weights if member[1] > 0)
    if not members:
        return ()
    top = max(weight for _, weight in members)
    walks = [_walk(name, slots, seed) for name, _ in members]
    credit = [0] * len(members)
    table: list[str] = [""] * slots
    filled = 0
    while filled < slots:
        for index, (name, weight) in enumerate(members):
            credit[index] += weight
            if credit[index] < top:
                continue
            credit[index] -= top
            _take(table, name, walks[index])
            filled += 1
            if filled == slots:
                break
    return tuple(table)


@lru_cache(maxsize=256)
def table_for(
    weights: Weights, present: frozenset[str], slots: int, seed: int
) -> tuple[str, ...]:
    """Return the table when only some of the backends take new connections.

    Args:
        weights: (name, weight) of every configured backend.
        present: names of those that take connections; empty gives no slots.
        slots: a prime.
        seed: the same on every director.
    """
    alive = sorted((n, w) for n, w in weights if n in present and w > 0)
    if not alive:
        return ()
    if len(alive) == 1:
        return (alive[0][0],) * slots
    return tuple(
        name if name in present else _rendezvous(slot, alive, seed)
        for slot, name in enumerate(full_table(weights, slots, seed))
    )


def slot_of(client: Address, slots: int, seed: int) -> int:
    """Return the slot of a client's address and port, as the kernel computes it.

    ``jhash ip saddr . tcp sport mod N seed S``: Jenkins' lookup3 over the address
    and the port, padded to 4 bytes, scaled (not reduced modulo) to N.
    """
    key = ipaddress.ip_address(client.ip).packed + client.port.to_bytes(2, "big")
    return (jhash(key + b"\0\0", seed) * slots) >> 32


def jhash(key: bytes, initval: int) -> int:
    """Return Linux' jhash (include/linux/jhash.h) of whole 32-bit words."""
    a = b = c = (0xDEADBEEF + len(key) + initval) & _MASK
    words = [int.from_bytes(key[i : i + 4], "little") for i in range(0, len(key), 4)]
    while len(words) > 3:  # noqa: PLR2004
        a, b, c = a + words[0], b + words[1], c + words[2]
        a, b, c = _mix(a & _MASK, b & _MASK, c & _MASK)
        words = words[3:]
    words += [0] * (3 - len(words))
    a, b, c = ((x + w) & _MASK for x, w in zip((a, b, c), words, strict=True))
    return _final(a, b, c)


def moved(before: Iterable[str], after: Iterable[str]) -> int:
    """Return how many slots changed hands."""
    return sum(one != other for one, other in zip(before, after, strict=True))


def _walk(name: str, slots: int, seed: int) -> list[int]:
    """Return [next slot to try, skip, slots] of one backend."""
    drawn = blake2b(f"{seed}|{name}".encode(), digest_size=16).digest()
    offset = int.from_bytes(drawn[:8], "big") % slots
    skip = int.from_bytes(drawn[8:], "big") % max(1, slots - 1) + 1
    return [offset, skip, slots]


def _take(table: list[str], name: str, walk: list[int]) -> None:
    slot, skip, slots = walk
    while table[slot]:
        slot = (slot + skip) % slots
    table[slot] = name
    walk[0] = (slot + skip) % slots


def _rendezvous(slot: int, alive: list[tuple[str, int]], seed: int) -> str:
    """Return the backend of the highest weighted score (Schindelhauer, Schomaker)."""

    def score(member: tuple[str, int]) -> tuple[float, str]:
        name, weight = member
        text = f"{seed}|{name}|{slot}".encode()
        drawn = int.from_bytes(blake2b(text, digest_size=6).digest(), "big")
        return (-weight / math.log((drawn + 0.5) / 2**48), name)

    return max(alive, key=score)[0]


def _rol(word: int, bits: int) -> int:
    return ((word << bits) | (word >> (32 - bits))) & _MASK


def _mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    a = ((a - c) & _MASK) ^ _rol(c, 4)
    c = (c + b) & _MASK
    b = ((b - a) & _MASK) ^ _rol(a, 6)
    a = (a + c) & _MASK
    c = ((c - b) & _MASK) ^ _rol(b, 8)
    b = (b + a) & _MASK
    a = ((a - c) & _MASK) ^ _rol(c, 16)
    c = (c + b) & _MASK
    b = ((b - a) & _MASK) ^ _rol(a, 19)
    a = (a + c) & _MASK
    c = ((c - b) & _MASK) ^ _rol(b, 4)
    b = (b + a) & _MASK
    return a, b, c


def _final(a: int, b: int, c: int) -> int:
    c = ((c ^ b) - _rol(b, 14)) & _MASK
    a = ((a ^ c) - _rol(c, 11)) & _MASK
    b = ((b ^ a) - _rol(a, 25)) & _MASK
    c = ((c ^ b) - _rol(b, 16)) & _MASK
    a = ((a ^ c) - _rol(c, 4)) & _MASK
    b = ((b ^ a) - _rol(a, 14)) & _MASK
    return ((c ^ b) - _rol(b, 24)) & _MASK

"""Orders on the way to the peer, so that a drain holds on both directors; pure.

A body is JSON, ``[["h1", "draining", 1795552810.44], ...]``: backend, what is ordered,
when. Each body stands for itself; an order that arrives twice, late or beside others
changes nothing, since the later one counts (``plan.Told``).
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from standfast.director.model import BackendState
from standfast.director.pins import PartError
from standfast.director.plan import Told

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# With head and seal it fits a datagram that is not cut on the way (1,280 bytes, the
# least that IPv6 carries).
BODY_MAX = 1100
BY_PEER = "so the peer was told"


def orders_bodies(orders: Sequence[Told]) -> Iterator[bytes]:
    """Yield bodies that together say all orders; none for none."""
    rows: list[bytes] = []
    size = 2
    for told in orders:
        row = json.dumps(
            [told.backend, told.admin.value, told.at], separators=(",", ":")
        ).encode()
        if rows and size + len(row) + 1 > BODY_MAX:
            yield b"[" + b",".join(rows) + b"]"
            rows, size = [], 2
        rows.append(row)
        size += len(row) + 1
    if rows:
        yield b"[" + b",".join(rows) + b"]"


def read_orders(body: bytes) -> tuple[Told, ...]:
    """Read a body.

    Raises:
        PartError: it is not one of ours.
    """
    try:
        rows: Any = json.loads(body)
        found = tuple(
            Told(str(name), BackendState(word), float(at), BY_PEER)
            for name, word, at in rows
        )
    except (ValueError, TypeError, RecursionError) as error:
        raise PartError(f"not orders: {error}") from None
    if not all(math.isfinite(told.at) for told in found):
        raise PartError("not orders: one was given at no time")
    return found

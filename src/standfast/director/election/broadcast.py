"""Changes of role, told to whoever listens. In one event loop; keeps no history."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from standfast.director.election.model import RoleChange


class Broadcast:
    """Hands every change to every listener, in order."""

    def __init__(self) -> None:
        self._queues: list[asyncio.Queue[RoleChange | None]] = []

    def listen(self) -> AsyncIterator[RoleChange]:
        """Return every change from now on, until ``close``."""
        queue: asyncio.Queue[RoleChange | None] = asyncio.Queue()
        self._queues.append(queue)
        return self._drain(queue)

    async def _drain(
        self, queue: asyncio.Queue[RoleChange | None]
    ) -> AsyncIterator[RoleChange]:
        try:
            while (change := await queue.get()) is not None:
                yield change
        finally:
            self._queues.remove(queue)

    def tell(self, change: RoleChange) -> None:
        """Hand a change to all."""
        for queue in self._queues:
            queue.put_nowait(change)

    def close(self) -> None:
        """End every listener's loop."""
        for queue in self._queues:
            queue.put_nowait(None)

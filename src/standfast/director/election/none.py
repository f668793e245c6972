"""No election: one director, whose addresses nobody else may have.

The node is master while its rank is not 0. Addresses are the operator's own.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from standfast.director.election.broadcast import Broadcast
from standfast.director.election.model import RANK_UNFIT, Role, RoleChange

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping


class NoElection:
    """Always master when fit; see Election."""

    def __init__(self) -> None:
        self._role = Role.INIT
        self._changes = Broadcast()
        self._running = False
        self.refused: Mapping[str, int] = {}
        self.problem = ""

    @property
    def role(self) -> Role:
        """What this node is; see Election."""
        return self._role

    async def start(self) -> None:
        """Begin; see Election."""
        self._running = True
        self._become(Role.BACKUP, "no rank is known yet")

    def set_rank(self, rank: int, reason: str) -> None:
        """Say how fit this node is; see Election."""
        if self._running:
            self._become(Role.BACKUP if rank == RANK_UNFIT else Role.MASTER, reason)

    def events(self) -> AsyncIterator[RoleChange]:
        """Return changes of role; see Election."""
        return self._changes.listen()

    async def stop(self, *, handover: bool) -> None:  # noqa: ARG002 - to nobody
        """End; see Election."""
        self._running = False
        self._become(Role.INIT, "the election ended")
        self._changes.close()

    def _become(self, role: Role, sentence: str) -> None:
        if role is self._role:
            return
        self._role = role
        now = asyncio.get_running_loop().time()
        self._changes.tell(RoleChange(role, sentence, now))

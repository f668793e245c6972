"""No holder at all: routers choose, and each fit director announces (ECMP, anycast).

The rank becomes the MED. A director that is not fit any more first announces a worse
route, then none (see standfast.director.bgp); so does a clean stop. The addresses are
the operator's, on the loopback: nothing here adds or removes one. With several
directors at once a service needs mode ``stateless`` or ``dsr``, since the answers of
a flow may pass another director than its questions.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Protocol

from standfast.director.bgp import BgpError
from standfast.director.election.broadcast import Broadcast
from standfast.director.election.model import RANK_UNFIT, Role, RoleChange

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from standfast.director.bgp import BgpSpeaker
    from standfast.director.model import Address

log = logging.getLogger(__name__)


class Guarded(Protocol):
    """A data plane whose guard comes off before anything is announced."""

    async def guard_off(self) -> None:
        """Load the rules and let the addresses be answered for."""
        ...


class BgpElection:
    """Announces while fit; see Election. Master means: announced."""

    def __init__(self, speaker: BgpSpeaker, plane: Guarded) -> None:
        self._speaker = speaker
        self._plane = plane
        self._role = Role.INIT
        self._rank: int = RANK_UNFIT
        self._reason = "no rank is known yet"
        self._due = asyncio.Event()
        self._stopping = False
        self._changes = Broadcast()
        self._task: asyncio.Task[None] | None = None
        self._targets: tuple[tuple[Address, ...], tuple[str, ...]] | None = None

    @property
    def role(self) -> Role:
        """What this node is; see Election."""
        return self._role

    @property
    def refused(self) -> Mapping[str, int]:
        """Nothing is read from the wire here; see Election."""
        return {}

    @property
    def problem(self) -> str:
        """What ExaBGP refused, or that it is away; see Election."""
        if not self._speaker.connected.is_set():
            return "ExaBGP is not connected"
        return self._speaker.problem

    def retarget(
        self, virtuals: Sequence[Address], communities: tuple[str, ...]
    ) -> None:
        """Announce other addresses or communities from now on, their rules first."""
        self._targets = (tuple(virtuals), communities)
        self._due.set()

    async def start(self) -> None:
        """Listen for ExaBGP; see Election."""
        await self._speaker.start()
        self._become(Role.BACKUP, self._reason)
        self._task = asyncio.create_task(self._follow())

    def set_rank(self, rank: int, reason: str) -> None:
        """Say how fit this node is; see Election."""
        self._rank, self._reason = rank, reason
        self._due.set()

    def events(self) -> AsyncIterator[RoleChange]:
        """Return changes of role; see Election."""
        return self._changes.listen()

    async def stop(self, *, handover: bool) -> None:
        """End; with ``handover`` traffic is moved away first; see Election."""
        self._stopping = True
        self._due.set()
        if self._task is not None:
            await self._task
        if handover:
            with contextlib.suppress(BgpError):
                await self._leave("this director stops")
        await self._speaker.stop()
        self._changes.close()

    async def _follow(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            if self._stopping:
                return
            try:
                await self._apply(self._rank, self._reason)
            except BgpError as error:
                log.warning("%s", error.message)

    async def _apply(self, rank: int, reason: str) -> None:
        if rank == RANK_UNFIT:
            await self._leave(reason)
            return
        if self._role is not Role.MASTER or self._targets is not None:
            await self._plane.guard_off()
        if self._targets is not None:
            targets, self._targets = self._targets, None
            await self._speaker.retarget(*targets)
        await self._speaker.serve(rank)
        self._become(Role.MASTER, f"announced by BGP: {reason}")

    async def _leave(self, reason: str) -> None:
        await self._speaker.leave()
        self._become(Role.BACKUP, f"withdrawn from BGP: {reason}")

    def _become(self, role: Role, sentence: str) -> None:
        if role is self._role:
            return
        self._role = role
        now = asyncio.get_running_loop().time()
        self._changes.tell(RoleChange(role, sentence, now))

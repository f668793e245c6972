"""Another program elects (keepalived); we follow, and tell it our rank.

Followed is the kernel: who has the first address is master. That stays true when the
other program crashes, is reloaded or lies in its notification. The rank goes into a
file that keepalived reads by ``vrrp_track_file`` and adds to its priority.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
from typing import TYPE_CHECKING

from standfast.director.election.broadcast import Broadcast
from standfast.director.election.model import RANK_UNFIT, Role, RoleChange

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from standfast.director.election.model import IPAddress

log = logging.getLogger(__name__)

LOOK_EVERY = 0.02  # seconds; one bind() each, measured at about 10 microseconds
# keepalived adds the file's number to its priority; this takes any priority below 1.
WEIGHT_UNFIT = -254


def is_local(address: IPAddress) -> bool | None:
    """Return whether the kernel has an address; None when that could not be told.

    Asks by bind(), which the kernel grants for its own addresses only, unless
    ``ip_nonlocal_bind`` is set, which makes this method useless.
    """
    v6 = address.version == 6  # noqa: PLR2004 - IPv6
    family = socket.AF_INET6 if v6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError as error:
            return False if error.errno == errno.EADDRNOTAVAIL else None
    return True


class ExternalElection:
    """Follows where the first address is; see Election.

    Args:
        addresses: the group's.
        rank_file: where to write the rank for the other program, or None.
        has: tells whether this node has an address.
    """

    def __init__(
        self,
        addresses: tuple[IPAddress, ...],
        *,
        rank_file: Path | None = None,
        has: Callable[[IPAddress], bool | None] = is_local,
    ) -> None:
        self._addresses = addresses
        self._rank_file = rank_file
        self._has = has
        self._role = Role.INIT
        self._changes = Broadcast()
        self._follower: asyncio.Task[None] | None = None
        self.refused: Mapping[str, int] = {}
        self.problem = ""

    @property
    def role(self) -> Role:
        """What this node is; see Election."""
        return self._role

    async def start(self) -> None:
        """Begin to follow; see Election."""
        self._look()
        self._follower = asyncio.get_running_loop().create_task(self._follow())

    def set_rank(self, rank: int, reason: str) -> None:
        """Tell the other program; see Election."""
        if self._rank_file is None:
            return
        weight = WEIGHT_UNFIT if rank == RANK_UNFIT else rank - 254
        try:
            # In one write: keepalived reads the file whenever it changes.
            self._rank_file.write_text(f"{weight}\n")
            self.problem = ""
        except OSError as error:
            self.problem = f"cannot write {self._rank_file}: {error.strerror}"
            log.warning("rank %d (%s) is not told: %s", rank, reason, self.problem)

    def events(self) -> AsyncIterator[RoleChange]:
        """Return changes of role; see Election."""
        return self._changes.listen()

    async def stop(self, *, handover: bool) -> None:
        """Follow no more; a handover is asked of the other program by rank 0."""
        if handover:
            self.set_rank(RANK_UNFIT, "stopped in good order")
        if self._follower is not None:
            self._follower.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._follower
        self._role = Role.INIT
        self._changes.close()

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            self._look()

    def _look(self) -> None:
        here = self._has(self._addresses[0])
        if here is None:
            return  # could not tell: nothing changes
        role = Role.MASTER if here else Role.BACKUP
        if role is self._role:
            return
        self._role = role
        where = "is on this node" if here else "is not on this node"
        now = asyncio.get_running_loop().time()
        sentence = f"{self._addresses[0]} {where}"
        self._changes.tell(RoleChange(role, sentence, now))

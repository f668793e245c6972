"""Who holds the addresses: one protocol with several kinds behind it.

``carp`` and ``vrrp`` speak on the wire themselves, ``freebsd-carp`` steers the
kernel's CARP, ``external`` follows another program (keepalived), ``none`` has
nobody to agree with. All are told a rank, and tell back a role.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from standfast.director.election.model import Role, RoleChange

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

__all__ = ["Election", "Role", "RoleChange"]


class Election(Protocol):
    """One group of addresses and the question who holds it."""

    @property
    def role(self) -> Role:
        """What this node is now."""
        ...

    @property
    def refused(self) -> Mapping[str, int]:
        """How many adverts were not believed, by reason; empty where none are read."""
        ...

    @property
    def problem(self) -> str:
        """What keeps it from doing what it was told; empty when nothing does."""
        ...

    async def start(self) -> None:
        """Take part from now on.

        Raises:
            ElectionError: the interface or a socket cannot be had.
        """
        ...

    def set_rank(self, rank: int, reason: str) -> None:
        """Say how fit this node is.

        Args:
            rank: 0 (must not hold the addresses) to 254 (best).
            reason: one sentence for the log and the peer's operator.
        """
        ...

    def events(self) -> AsyncIterator[RoleChange]:
        """Return every change of role from now on, until the election stops."""
        ...

    async def stop(self, *, handover: bool) -> None:
        """Take part no more.

        Args:
            handover: whether to give the addresses up and tell the peer at once;
                otherwise they stay, for a successor of this process to inherit.
        """
        ...

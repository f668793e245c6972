"""Data planes: what moves the packets, behind one protocol.

A driver observes what its kernel holds, computes purely what would have to change,
and applies that in one transaction. It keeps no wishes of its own, so that a
restart, a second daemon or a hand that edited the rules are all the same to it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol

from standfast.errors import StandfastError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from standfast.director.model import (
        Backend,
        Capabilities,
        Change,
        Flow,
        Observed,
        Wanted,
    )
    from standfast.host import Host

DRIVERS = {
    "nftables": "standfast.director.drivers.nftables:NftablesDriver",
    "pf": "standfast.director.drivers.pf:PfDriver",
}


class DriverError(StandfastError):
    """A data plane refused a change, or could not be read."""


class Driver(Protocol):
    """A data plane."""

    def detect(self) -> Capabilities:
        """Return what works on this machine; changes nothing."""
        ...

    def observe(self, wanted: Wanted) -> Observed:
        """Return what the kernel holds now, in the words of ``wanted``.

        Args:
            wanted: only names the services and backends; their addresses turn the
                kernel's addresses into names.

        Raises:
            DriverError: it could not be read.
        """
        ...

    def plan(self, observed: Observed, wanted: Wanted) -> list[Change]:
        """Return what to do; pure, and empty when nothing is to do."""
        ...

    def apply(self, changes: Sequence[Change]) -> None:
        """Do it all or nothing, in one transaction.

        Raises:
            DriverError: it was refused; the old state stands.
        """
        ...

    def connections(self, backend: Backend, wanted: Wanted) -> int | None:
        """Return how many connections the backend has; None when unknowable.

        Args:
            backend: whose.
            wanted: only names the services and how they are steered.
        """
        ...

    def flows(self, wanted: Wanted) -> list[Flow]:
        """Return the flows through the virtual addresses that the kernel knows.

        Raises:
            DriverError: it could not be asked.
        """
        ...

    def kill(self, backend: Backend, wanted: Wanted) -> int:
        """Forget every connection of the backend; return how many there were."""
        ...

    def remove(self) -> None:
        """Take every rule of ours away."""
        ...


def open_driver(name: str, host: Host) -> Driver:
    """Return the driver of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in DRIVERS:
        raise UsageError(
            f"there is no driver {name!r}", hint=f"one of: {', '.join(DRIVERS)}"
        )
    module, _, kind = DRIVERS[name].partition(":")
    driver: Driver = getattr(import_module(module), kind)(host)
    return driver

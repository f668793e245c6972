"""Connecting: the cheapest question."""

from __future__ import annotations

from typing import TYPE_CHECKING

from standfast.director.probes import passed
from standfast.director.probes.exchange import PROXY, Exchange, Where

if TYPE_CHECKING:
    from standfast.director.health import Outcome


class TcpProbe(Exchange):
    """Passes when a connection is accepted."""

    def __init__(self, where: Where, proxy: int) -> None:
        super().__init__(where, PROXY[proxy], answers=False)

    def judge(self, answer: bytes) -> Outcome:  # noqa: ARG002 - there is none
        """See Exchange."""
        return passed()

"""Telling systemd how we are: readiness, a watchdog's beat, a line of status.

Protocol: sd_notify(3), datagrams to the socket named in NOTIFY_SOCKET. Silent where
there is none; a supervisor that has gone is no reason to stop.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping


class Notifier:
    """Speaks to the supervisor that the environment names, if any.

    Attributes:
        interval: seconds between two beats, half of what the supervisor allows;
            None when it keeps no watchdog.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # A leading @ is an abstract socket, which the kernel spells with NUL.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        allowed = environment.get("WATCHDOG_USEC", "")
        self.interval = int(allowed) / 2e6 if allowed.isdigit() else None

    def tell(self, *lines: str) -> None:
        """Send ``READY=1``, ``WATCHDOG=1``, ``STATUS=...``."""
        if not self._address:
            return
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,
        ):
            sock.sendto("\n".join(lines).encode(), self._address)

"""Backends that have left the configuration, but not yet their connections; pure.

A backend that is taken out of the file gets nothing new at once. Its connections go
on: its way back, its learned flows and the pins to it stay in the rules until the last
has gone, or a bound has passed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from standfast.director.model import Backend, Pin, Service

# A holder tells its peer of pins each second; so long nobody is forgotten.
GRACE_SECONDS = 10.0


@dataclass(frozen=True)
class Former:
    """A backend that is no longer configured.

    Attributes:
        backend: as it was.
        services: names of those that it served.
        since: when it left, in seconds since the Unix epoch.
    """

    backend: Backend
    services: frozenset[str]
    since: float


def left(
    services: Iterable[Service],
    backends: Mapping[str, Backend],
    kept: Mapping[str, Backend],
    at: float,
) -> dict[str, Former]:
    """Return who is in ``backends`` but not in ``kept``.

    One whose address has changed is another backend of the same name; its old address
    is kept under a name that no file can give.
    """
    found = {}
    for name, backend in backends.items():
        new = kept.get(name)
        if new is not None and _places(new) == _places(backend):
            continue
        served = frozenset(s.name for s in services if name in s.backends)
        if new is not None:
            backend = replace(backend, name=f"{name}/old")  # noqa: PLW2901
        found[backend.name] = Former(backend, served, at)
    return found


def with_former(
    services: Iterable[Service], leaving: Mapping[str, Former]
) -> tuple[Service, ...]:
    """Return the services with those that leave them as further backends."""
    return tuple(
        replace(
            service,
            backends=(
                *service.backends,
                *(n for n, f in leaving.items() if service.name in f.services),
            ),
        )
        for service in services
    )


def is_over(
    former: Former,
    now: float,
    *,
    bound: float,
    connections: int | None,
    pins: Iterable[Pin],
) -> bool:
    """Return whether nothing is kept for it any more.

    Args:
        former: who has left.
        now: seconds since the Unix epoch.
        bound: seconds after which it is forgotten whatever it has.
        connections: that it has; None when that cannot be told.
        pins: that are held here. A director that waits beside the holder sees no
            connections, but it is told of them.
    """
    age = now - former.since
    if age > bound:
        return True
    if age < GRACE_SECONDS or connections != 0:
        return False
    return all(pin.backend != former.backend.name for pin in pins)


def _places(backend: Backend) -> object:
    return (backend.address, backend.address6, backend.per_service, backend.mac)

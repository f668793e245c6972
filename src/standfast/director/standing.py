"""How well a director is, from what it says of itself. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from standfast.director.model import BackendState
from standfast.grade import Grade

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# Orders of an operator are no trouble.
_TROUBLED = {BackendState.DOWN.value, BackendState.UNKNOWN.value}


def remarks(seen: Mapping[str, Any]) -> Iterator[tuple[Grade, str]]:
    """Yield what is not as it should be.

    Args:
        seen: the answer to ``status`` on the control socket.
    """
    if seen["trouble"]:
        yield Grade.CRITICAL, f"the data plane refuses: {seen['trouble']}"
    for row in seen["services"]:
        if row["open"]:
            yield Grade.CRITICAL, f"{row['name']}: all its backends have failed"
        elif not any(row["slots"].values()):
            yield Grade.CRITICAL, f"{row['name']}: nobody serves it"
    for row in seen["backends"]:
        if row["state"] in _TROUBLED:
            yield Grade.WARNING, f"{row['name']} is {row['state']}: {row['words']}"
    if seen["peer"] is not None and not seen["peer"]["here"]:
        yield Grade.WARNING, "the other director is silent"


def headline(seen: Mapping[str, Any]) -> str:
    """Return who it is, and what it does."""
    up = sum(row["state"] == BackendState.UP.value for row in seen["backends"])
    return (
        f"{seen['name'] or 'director'}: {seen['role']}, rank {seen['rank']}, "
        f"{up} of {len(seen['backends'])} backends up"
    )

"""Rows of the status: what is to be seen of a service and of a backend. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from standfast.director import plan
from standfast.director.model import BackendState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from standfast.director.model import Service, Wanted
    from standfast.director.plan import State


def service_row(state: State, service: Service, wanted: Wanted) -> dict[str, Any]:
    """Return a service's row; see docs/director.md for the fields."""
    slots = wanted.table[service.name]
    return {
        "name": service.name,
        "virtual": [str(v) for v in service.virtual],
        "mode": service.mode,
        "serving": sorted(plan.serving(state, service)),
        "open": plan.is_open(state, service),
        "slots": {name: slots.count(name) for name in sorted(set(slots))},
    }


def backend_row(
    state: State, name: str, left: Mapping[str, int | None]
) -> dict[str, Any]:
    """Return a backend's row.

    Args:
        state: of all decisions.
        name: of one that is configured, or is leaving.
        left: connections when they were last counted.
    """
    former = state.leaving.get(name)
    if former is not None:
        return {
            "name": name,
            "address": str(former.backend.address),
            "state": "leaving",
            "probed": "unknown",
            "since": former.since,
            "words": "it is no longer configured",
            "weight": 0,
            "share": 0,
            "connections": left.get(name),
        }
    entry = state.entries[name]
    ordered = entry.admin is not BackendState.UP
    return {
        "name": name,
        "address": str(state.backends[name].address),
        "state": plan.backend_state(state, name).value,
        "probed": entry.health.state.value,
        "since": entry.since if ordered else entry.health.since,
        "words": entry.health.text,
        "weight": state.backends[name].weight,
        "share": entry.share,
        "connections": left.get(name),
    }

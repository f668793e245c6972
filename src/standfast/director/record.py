"""What must outlive the daemon: orders and pins, in one small file.

Health does not: it is asked for anew, and the kernel keeps the table meanwhile.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from standfast.director.control import ControlError
from standfast.director.leaving import Former
from standfast.director.model import Backend, BackendState, parse_address
from standfast.director.plan import Told, orders

if TYPE_CHECKING:
    from standfast.director.plan import State


def save(path: str, state: State, *, standby: bool = False) -> None:
    """Write the last order of each backend, durably, old or new but never half.

    Also one that lets it serve again: it outweighs an older one that the peer holds.

    Args:
        path: of the file.
        state: has the orders about backends.
        standby: whether this director shall not hold the addresses.

    Raises:
        ControlError: it cannot be written.
    """
    held = {
        told.backend: {"state": told.admin.value, "since": told.at}
        for told in orders(state)
    }
    place = Path(path)
    fresh = place.with_name(place.name + ".new")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with fresh.open("w", encoding="ascii") as file:
            json.dump(
                {
                    "version": 1,
                    "orders": held,
                    "standby": standby,
                    "leaving": {n: _row(f) for n, f in state.leaving.items()},
                },
                file,
            )
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(place)
    except OSError as error:
        raise ControlError(
            f"cannot keep the order in {path}: {error.strerror}",
            hint="it is in force, but would be forgotten at the next start",
        ) from None


def load(path: str) -> tuple[list[Told], bool]:
    """Return the orders that were in force, and whether one was standby.

    Without such a file there were none.

    Raises:
        ControlError: the file is there but cannot be understood.
    """
    try:
        document: dict[str, Any] = json.loads(Path(path).read_text(encoding="ascii"))
        told = [
            Told(
                name, BackendState(held["state"]), float(held["since"]), "since before"
            )
            for name, held in document["orders"].items()
        ]
        return told, bool(document.get("standby", False))
    except FileNotFoundError:
        return [], False
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ControlError(
            f"cannot read {path}: {error}", hint="mend it, or take it away"
        ) from None


def load_leaving(path: str) -> dict[str, Former]:
    """Return the backends that were no longer configured, but had connections.

    Without such a file there were none. ``load`` says what is wrong with a file.

    Raises:
        ControlError: the file is there but cannot be understood.
    """
    try:
        document: dict[str, Any] = json.loads(Path(path).read_text(encoding="ascii"))
        rows = document.get("leaving", {})
        return {name: _former(name, row) for name, row in rows.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ControlError(
            f"cannot read {path}: {error}", hint="mend it, or take it away"
        ) from None


def _row(former: Former) -> dict[str, Any]:
    backend = former.backend
    return {
        "address": str(backend.address),
        "address6": str(backend.address6 or ""),
        "per_service": {name: str(place) for name, place in backend.per_service},
        "mac": backend.mac,
        "services": sorted(former.services),
        "since": former.since,
    }


def _former(name: str, row: dict[str, Any]) -> Former:
    six = row["address6"]
    return Former(
        Backend(
            name,
            parse_address(row["address"]),
            address6=parse_address(six) if six else None,
            per_service=tuple(
                (service, parse_address(place))
                for service, place in row["per_service"].items()
            ),
            mac=row["mac"],
        ),
        frozenset(row["services"]),
        float(row["since"]),
    )

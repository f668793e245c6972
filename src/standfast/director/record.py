"""What must outlive the daemon: orders and pins, in one small file.

Health does not: it is asked for anew, and the kernel keeps the table meanwhile.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from standfast.director.control import ControlError
from standfast.director.model import BackendState
from standfast.director.plan import Told, orders

if TYPE_CHECKING:
    from standfast.director.plan import State


def save(path: str, state: State) -> None:
    """Write the last order of each backend, durably, old or new but never half.

    Also one that lets it serve again: it outweighs an older one that the peer holds.

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
            json.dump({"version": 1, "orders": held}, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(place)
    except OSError as error:
        raise ControlError(
            f"cannot keep the order in {path}: {error.strerror}",
            hint="it is in force, but would be forgotten at the next start",
        ) from None


def load(path: str) -> list[Told]:
    """Return the orders that were in force; none if there is no such file.

    Raises:
        ControlError: the file is there but cannot be understood.
    """
    try:
        document: dict[str, Any] = json.loads(Path(path).read_text(encoding="ascii"))
        return [
            Told(
                name, BackendState(held["state"]), float(held["since"]), "since before"
            )
            for name, held in document["orders"].items()
        ]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ControlError(
            f"cannot read {path}: {error}", hint="mend it, or take it away"
        ) from None

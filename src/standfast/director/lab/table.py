"""The lab's table: every scenario by its name, and how one is played."""

from __future__ import annotations

from typing import TYPE_CHECKING

from standfast.director.lab import elections, faults, planes, scenarios
from standfast.director.lab.rig import Rig

if TYPE_CHECKING:
    from collections.abc import Callable

    from standfast.clock import Clock
    from standfast.director.lab.scenarios import Finding
    from standfast.host import Host

SCENARIOS: dict[str, Callable[[Rig], Finding]] = {
    **scenarios.SCENARIOS,
    **planes.SCENARIOS,
    **faults.SCENARIOS,
    **elections.SCENARIOS,
}
# Their bars are in seconds, and they do little: another scenario may run beside them.
PATIENT = frozenset(
    {"edited-by-hand", "nft-missing", "peer-ucarp", "under-carp", "wrong-file"}
)


def play(name: str, host: Host, clock: Clock) -> Finding:
    """Build a rig, run one scenario, and take the rig down whatever happens."""
    rig = Rig(host, clock, **planes.RIGS.get(name, {}))
    try:
        rig.build()
        return SCENARIOS[name](rig)
    finally:
        rig.close()

"""The facts behind ``status``: what runs have left, and what the vaults show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from standfast.backup.proven import read_proven
from standfast.backup.runs import JobRecord, Runs
from standfast.backup.state import VaultState
from standfast.backup.status import Look
from standfast.errors import StandfastError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from standfast.backup.config import Config, Place
    from standfast.backup.vault import Vault
    from standfast.clock import Clock


def read_records(config: Config, base: Path) -> dict[str, JobRecord]:
    """Return what runs have left, by job.

    Raises:
        StandfastError: a record cannot be read.
    """
    return {name: Runs(base, name).read() for name in config.jobs}


def look_at(
    config: Config,
    records: Mapping[str, JobRecord],
    base: Path,
    clock: Clock,
    open_place: Callable[[Place], Vault] | None,
) -> dict[str, Look]:
    """Return what is known of each vault, by its name in the configuration.

    Args:
        config: which vaults there are.
        records: what runs have left; they know the ids of vaults that are away.
        base: the state folder.
        clock: for locks.
        open_place: opens a vault; None asks no vault, and goes by memory alone.
    """
    looks: dict[str, Look] = {}
    for place in config.places.values():
        vault = _known_id(place, records)
        remembered = _remembered(base, vault, clock) if vault else Look(looked=False)
        looks[place.name] = remembered
        if open_place is not None:
            looks[place.name] = _look(place, open_place, remembered)
    return looks


def _look(place: Place, open_place: Callable[[Place], Vault], remembered: Look) -> Look:
    try:
        vault = open_place(place)
        survey, _ = vault.survey(vault.trust([]))
        sent, proven = vault.state.ledger().sent, read_proven(vault.state)
    except StandfastError as error:
        return Look(
            vault=remembered.vault,
            error=error.message,
            sent=remembered.sent,
            proven=remembered.proven,
        )
    findings = [*survey.findings]
    findings += [f for a in survey.archives for f in a.findings]
    return Look(
        vault=vault.info.vault,
        archives={archive.id: archive for archive in survey.archives},
        findings=findings,
        sent=sent,
        proven=proven,
    )


def _remembered(base: Path, vault: str, clock: Clock) -> Look:
    state = VaultState(base, vault, clock)
    return Look(
        vault=vault, sent=state.ledger().sent, proven=read_proven(state), looked=False
    )


def _known_id(place: Place, records: Mapping[str, JobRecord]) -> str:
    for record in records.values():
        held = record.places.get(place.name)
        if held is not None and held.vault:
            return held.vault
    return ""

"""Clearing what interrupted sends and prunes left.

An archive that was ever signed goes only if a trusted pruner has stated its removal.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from standfast.backup.model import (
    PART_PREFIX,
    REMOVAL_FOLDER,
    SIGNATURE,
    archive_folder,
)
from standfast.backup.proof import GONE, LEFTOVER, UNFINISHED

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from standfast.backup.proof import Survey
    from standfast.backup.vault import Vault

REMOVE = "remove"
KEEP = "keep"


@dataclass(frozen=True)
class Step:
    """What to do with one leftover, and why."""

    object: str
    action: str
    why: str
    size: int


def plan_clean(
    survey: Survey,
    started: Mapping[str, bool],
    whose: Iterable[str],
    resumable: Mapping[str, str] | None = None,
) -> list[Step]:
    """Decide about each leftover. Pure.

    Args:
        survey: the judged vault.
        started: archives begun on this machine -> whether their sender lives.
        whose: ``ours``, ``others``: whose leftovers may go. Another machine's may be
            a send that runs right now. ``resumable``: also what can be gone on with.
        resumable: archives that a repeated send would go on with -> what to send.
    """
    allowed = set(whose)
    steps: list[Step] = []
    for archive in survey.archives:
        if archive.standing == UNFINISHED:
            action, why = _fate(archive.id, started, allowed, resumable or {})
            name = archive_folder(archive.id)
            steps.append(Step(name, action, why, archive.stored))
        elif archive.standing == GONE:
            name = archive_folder(archive.id)
            steps.append(Step(name, REMOVE, "a removal names it", archive.stored))
    for folder in survey.removals.unsigned if survey.removals is not None else []:
        why = "a removal that was never signed; its prune may be at work"
        action = REMOVE if "others" in allowed else KEEP
        steps.append(Step(folder, action, why, 0))
    going = tuple(f"{step.object}/" for step in steps)
    for finding in survey.all_findings():
        part = finding.object.rpartition("/")[2].startswith(PART_PREFIX)
        if finding.grade == LEFTOVER and part and not finding.object.startswith(going):
            steps.append(Step(finding.object, REMOVE, "a transfer that was cut", 0))
    return steps


def clean(vault: Vault, steps: Iterable[Step]) -> None:
    """Do what was planned.

    Raises:
        StoreError: the store failed.
    """
    for step in steps:
        if step.action != REMOVE:
            continue
        archive = step.object.rpartition("/")[2]
        if step.object == archive_folder(archive):
            vault.store.delete(f"{step.object}/{SIGNATURE}")
            vault.store.delete_folder(step.object)
            vault.state.forget_started(archive)
        elif REMOVAL_FOLDER.fullmatch(step.object):
            vault.store.delete_folder(step.object)
        else:
            vault.store.delete(step.object)


def _fate(
    archive: str,
    started: Mapping[str, bool],
    allowed: set[str],
    going: Mapping[str, str],
) -> tuple[str, str]:
    if started.get(archive):
        return KEEP, "its sender is at work"
    if archive in going and "resumable" not in allowed:
        return KEEP, (
            f"sending {going[archive]} again goes on with it (--resumable removes it)"
        )
    if archive in started:
        return REMOVE, "its sender, on this machine, is dead"
    if "others" in allowed:
        return REMOVE, "begun elsewhere, and you say that nobody is sending"
    return KEEP, "begun elsewhere; it may be under way (--others removes it)"
